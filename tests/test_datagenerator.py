"""datagenerator.py: samples in pairs, splits, batches, and the queue's order, errors and end."""
import contextlib
import functools
import os
import threading

import numpy as np
import PIL.Image
import pytest
from sklearn.model_selection import train_test_split

from data.common import augmentation, files, pictures, quiet, survey
from data.common.command_line import InputError
from data.lanes import road_augmentation

quiet.import_tensorflow()
import tensorflow.compat.v1 as tf

import datagenerator as dg

SHAPE = (32, 16)


@pytest.fixture
def samples(tmp_path):
    """Seven images and labels in which every pixel identifies its sample."""
    for name in ('images', 'labels'):
        (tmp_path / name).mkdir()
    for i in range(7):
        pictures.write_image(str(tmp_path / 'images' / f'{i:04d}.png'), np.full((36, 64, 3), 10 * i + 5, np.uint8))
        pictures.write_image(str(tmp_path / 'labels' / f'{i:04d}.png'), np.full((36, 64), i + 1, np.uint8))
    return dg.find_samples(str(tmp_path))


# ---- Samples ---------------------------------------------------------------------------------------------------------

def test_find_samples_pairs_by_name(samples):
    images, labels = samples
    assert [os.path.basename(path) for path in images] == [f'{i:04d}.png' for i in range(7)]
    assert [path.replace('images', 'labels') for path in images] == labels


@pytest.mark.parametrize('spoil, reason', [
    (lambda root: os.remove(root / 'labels' / '0003.png'), r'0003.png: has no label .*7 images and 6 labels'),
    (lambda root: os.remove(root / 'images' / '0003.png'), r'0003.png: has no image .*6 images and 7 labels'),
    (lambda root: os.rename(root / 'labels/0003.png', root / 'labels/x.png'), '0003.png: has no label'),
    (lambda root: (root / 'images' / '0003.jpg').touch(), '0003.png: has the same name as'),
    (lambda root: os.rename(root / 'labels', root / 'truth'), 'labels: no such folder; see data/README'),
    (lambda root: [os.remove(path) for path in (root / 'images').iterdir()], 'images: holds no images'),
    (lambda root: os.rename(root / 'labels/0003.png', root / 'labels/0003.jpg'), '0003.jpg: a JPEG does not keep'),
    (lambda root: (root / files.HALF_WRITTEN).touch(), 'is half-written; rerun the script that made it')],
    ids=['no label', 'no image', 'other name', 'twice', 'no folder', 'empty', 'JPEG', 'half-written'])
def test_find_samples_names_the_file_that_does_not_fit(tmp_path, samples, spoil, reason):
    spoil(tmp_path)
    with pytest.raises(InputError, match=reason):
        dg.find_samples(str(tmp_path))


@pytest.mark.parametrize('count', [2, 3, 10, 11, 151])
def test_split_is_that_of_2018(count):
    images, labels = [f'i{i}' for i in range(count)], [f'l{i}' for i in range(count)]
    (train_i, train_l), (valid_i, valid_l) = dg.split(images, labels)
    expected = train_test_split(images, labels, test_size=0.1, random_state=42)
    assert [train_i, valid_i, train_l, valid_l] == expected


def test_split_holds_out_at_most_so_many_and_trains_on_the_others():
    images = [f'i{i}' for i in range(151)]
    whole, (train, valid) = dg.split(images, images)[1][0], dg.split(images, images, most=5)
    assert valid[0] == whole[:5] and sorted(train[0] + valid[0]) == sorted(images)


@pytest.mark.parametrize('count', [0, 1])
def test_split_needs_two(count):
    with pytest.raises(InputError, match='at least two samples'):
        dg.split(['a.png'][:count], ['b.png'][:count])


def test_find_sources_reads_folders_and_shares(tmp_path, samples):
    folder = str(tmp_path)
    plain, shared = dg.find_sources([folder, f'{folder}:2.5'])
    assert (plain.folder, plain.share) == (folder, 6) and (shared.folder, shared.share) == (folder, 2.5)
    assert (plain.train, plain.valid) == dg.split(*samples)
    with pytest.raises(InputError, match=':0: the share has to be above 0'):
        dg.find_sources([f'{folder}:0'])
    with pytest.raises(InputError, match='a:b/images: no such folder'):
        dg.find_sources(['a:b'])


# ---- One epoch in order ----------------------------------------------------------------------------------------------

def test_get_batches_fn_is_one_epoch_in_order(samples):
    pictures.write_image(samples[0][1], np.full((20, 40, 3), 15, np.uint8))
    pictures.write_image(samples[1][1], np.full((20, 40), 2, np.uint8))
    batches = list(dg.get_batches_fn(3, SHAPE, *samples, with_sizes=True))
    images, labels = (np.concatenate(parts) for parts in list(zip(*batches))[:2])
    assert [len(sizes) for _, _, sizes in batches] == [3, 3, 1] and batches[0][2] == [(64, 36), (40, 20), (64, 36)]
    assert images.shape == (7, 16, 32, 3) and images.dtype == np.uint8
    assert labels.shape == (7, 16, 32) and labels.dtype == np.int32
    assert (labels == np.arange(1, 8)[:, None, None]).all() and (images[..., 0] == 10 * labels - 5).all()


def test_label_of_another_size_is_named(samples):
    pictures.write_image(samples[1][2], np.zeros((36, 60), np.uint8))
    with pytest.raises(InputError, match='labels/0002.png: is 60 x 36, but its image .*0002.png is 64 x 36'):
        next(dg.get_batches_fn(9, SHAPE, *samples))


@pytest.mark.parametrize('is_square', [True, False])
@pytest.mark.parametrize('orientation, turns', [(3, 2), (6, -1), (8, 1)])
def test_images_turned_by_exif_train_upright_with_their_labels(tmp_path, is_square, orientation, turns):
    upright = np.zeros((32, 32) if is_square else (16, 32), np.uint8)   # halved or kept in size: edges stay sharp
    upright[2:8, 4:9] = 200
    stored = np.rot90(upright, -turns)
    exif = PIL.Image.Exif()
    exif[0x112] = orientation
    for folder, picture in (('images', np.dstack([stored] * 3)), ('labels', stored)):
        (tmp_path / folder).mkdir()
        for i in range(2):
            PIL.Image.fromarray(picture).save(tmp_path / folder / f'{i}.png', exif=exif if folder == 'images' else b'')
    paths = dg.find_samples(str(tmp_path))
    batch, = take(paths, 1, 2, augment=None)
    for images, labels in (next(dg.get_batches_fn(9, SHAPE, *paths)), (batch.images, batch.labels)):
        assert (images[..., 0] == labels).all()
        assert (labels == pictures.resize_label(upright, SHAPE)).all()


def test_ignored_pixels_are_negative_in_every_batch(samples):
    """Through resizing, cache and augmentation; in the graph's labels and in those for validation."""
    label = np.full((36, 64), 200, np.uint8)
    label[:, :32] = 255
    for path in samples[1]:
        pictures.write_image(path, label)
    assert set(np.unique(next(dg.get_batches_fn(9, SHAPE, *samples))[1])) == {200, 255}
    labels = next(dg.get_batches_fn(9, SHAPE, *samples, ignore=255))[1]
    assert (labels[..., :16] == -1).all() and (labels[..., 16:] == 200).all()
    for augment in (road_augmentation.augment, augmentation.augment):
        for batch in take(samples, 7, ignore=255, augment=functools.partial(augment, outside=-1)):
            assert {*np.unique(batch.labels)} - {0} == {-1, 200}   # 0: a hood
        assert any((batch.labels == 0).any() for batch in take(samples, 7, ignore=255, augment=augment))


# ---- The queue -------------------------------------------------------------------------------------------------------

@contextlib.contextmanager
def running(samples, batch_size=2, start_step=0, coord=None, **kwargs):
    """A running queue in its own session. -> function that runs dequeue() and returns a Batch of arrays"""
    coord = coord or tf.train.Coordinator()
    with tf.Graph().as_default(), tf.Session() as sess:
        queue = dg.BatchQueue(*samples, batch_size, SHAPE, **kwargs)
        batch = queue.dequeue()
        threads = queue.start(sess, coord, start_step)
        try:
            yield lambda: sess.run(batch)
        finally:
            coord.request_stop()
            coord.join(threads, stop_grace_period_secs=20)
            assert not queue_threads()


def queue_threads():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(('loader', 'queue'))]


def take(samples, count, batch_size=2, **kwargs):
    with running(samples, batch_size, **kwargs) as dequeue:
        return [dequeue() for _ in range(count)]


def names(batch):
    return [os.fsdecode(path) for path in batch.paths]


def assert_same(batches, others):
    assert len(batches) == len(others)
    for batch, other in zip(batches, others):
        assert names(batch) == names(other)
        assert (batch.images == other.images).all() and (batch.labels == other.labels).all()


def test_step_depends_on_seed_and_number_alone(samples):
    """Not on the number of workers, the cache or the step at which the queue starts, even in mid-epoch."""
    whole = take(samples, 9, seed=3, workers=1)
    for start_step in (0, 4, 6):
        parts = take(samples, 9 - start_step, seed=3, workers=4, start_step=start_step, cache_bytes=0)
        assert_same(parts, whole[start_step:])
    assert [names(batch) for batch in take(samples, 9, seed=4)] != [names(batch) for batch in whole]


def test_augmentation_is_drawn_anew_for_each_epoch_and_seed(samples):
    shown = [batch.images.tobytes() for seed in (1, 2) for batch in take(samples, 14, 1, seed=seed)
             if names(batch) == [samples[0][0]]]
    assert len(shown) == len(set(shown)) == 4


def test_augment_gets_the_image_at_the_aspect_ratio_of_the_camera(samples):
    batch, = take(samples, 1, 1, seed=5)
    i = samples[0].index(names(batch)[0])
    image, label = pictures.read_pair(samples[0][i], samples[1][i])
    image, label = pictures.resize_image(image, (48, 27)), pictures.resize_label(label, (48, 27))
    image, label = road_augmentation.augment(image, label, np.random.default_rng([5, 0, 0]), SHAPE)
    assert (batch.images[0] == image).all() and (batch.labels[0] == label).all()


@pytest.mark.parametrize('shards, batch_size', [(2, 1), (3, 1), (2, 5)])
def test_shards_together_are_one_queue(samples, shards, batch_size):
    whole = take(samples, 5, batch_size * shards)
    parts = [take(samples, 5, batch_size, shard=(i, shards)) for i in range(shards)]
    for batch, together in zip(whole, zip(*parts)):
        assert (batch.images == np.concatenate([part.images for part in together])).all()
        assert names(batch) == sum((names(part) for part in together), [])


def test_each_epoch_shows_samples_once_and_leaves_another_remainder(samples):
    batches = take(samples, 12, augment=None)
    epochs = [sum((names(batch) for batch in batches[i:i + 3]), []) for i in range(0, 12, 3)]
    assert all(len(set(paths)) == 6 for paths in epochs)
    assert set(sum(epochs, [])) == set(samples[0])
    for batch in batches:
        numbers = np.array([samples[0].index(path) for path in names(batch)])
        assert batch.labels.dtype == np.int32 and (batch.labels == numbers[:, None, None] + 1).all()
        assert (batch.images == (10 * numbers + 5)[:, None, None, None]).all()


@pytest.mark.parametrize('workers', [1, 3])
def test_an_epoch_reads_the_images_that_are_counted(tmp_path, samples, workers):
    (tmp_path / 'images' / '.hidden.png').touch()
    (tmp_path / 'images' / 'notes.txt').touch()
    source, = dg.find_sources([str(tmp_path)])
    assert survey.survey(source.train[1], None)[0].startswith(f'{len(source.train[0])} images to train on')
    read = [name for batch in take(source.train, len(source.train[0]), 1, workers=workers) for name in names(batch)]
    assert sorted(read) == sorted(source.train[0]) and sorted(read + source.valid[0]) == samples[0]


def test_data_set_smaller_than_a_batch_is_repeated(samples):
    batch, = take(samples, 1, batch_size=16)
    assert set(names(batch)) == set(samples[0])
    assert (batch.images[0] != batch.images[7]).any()


def test_groups_are_drawn_by_their_shares_and_used_up_in_turn(samples):
    whole = take(samples, 60, 5, groups=[(2, 3), (5, 1)])
    numbers = np.array([[samples[0].index(path) for path in names(batch)] for batch in whole])
    assert 0.68 < (numbers < 2).mean() < 0.82
    counts = np.bincount(numbers.ravel())   # an epoch is one step: 3 or 4 of 5 places for 2 samples
    assert len(counts) == 7 and counts[:2].min() > 3 * counts[2:].max()
    for row in numbers:
        own, others = np.bincount(row[row < 2], minlength=2), row[row >= 2]
        assert abs(own[0] - own[1]) <= 1 and len(set(others)) == len(others)


def test_groups_resume_at_any_step_and_in_shards(samples):
    groups = [(3, 1), (4, 2.5)]
    whole = take(samples, 8, groups=groups)
    assert_same(take(samples, 3, groups=groups, start_step=5), whole[5:])
    parts = [take(samples, 8, 1, groups=groups, shard=(i, 2)) for i in range(2)]
    assert [names(batch) for batch in whole] == [names(one) + names(other) for one, other in zip(*parts)]


@pytest.mark.parametrize('kind', ['images', 'labels'])
def test_unreadable_file_stops_training_with_its_name(samples, kind):
    os.remove(samples[kind == 'labels'][3])
    coord = tf.train.Coordinator()
    with pytest.raises(InputError, match=f'{kind}/0003.png: no such file'):
        with running(samples, coord=coord) as dequeue:
            for _ in range(2):   # the waiting dequeue, and a later one
                with pytest.raises(tf.errors.OutOfRangeError):
                    for _ in range(8):
                        dequeue()
                assert coord.should_stop()


def test_full_queue_ends_when_a_stop_is_requested(samples, monkeypatch):
    """While an enqueue waits for room; `running` asserts the end of the threads."""
    run, calls = tf.Session.run, threading.Semaphore(0)

    def noting(*args, **kwargs):
        calls.release()
        return run(*args, **kwargs)

    monkeypatch.setattr(tf.Session, 'run', noting)
    with running(samples, workers=3, capacity=1):
        for _ in range(2):   # one fills the queue, one more waits
            assert calls.acquire(timeout=20)


def test_empty_queue_ends_when_a_stop_is_requested(samples, monkeypatch):
    """While a dequeue waits for a worker."""
    coord, release = tf.train.Coordinator(), threading.Event()

    def stuck(*_):
        coord.request_stop()
        release.wait(20)
        raise InputError('after the stop')

    monkeypatch.setattr(pictures, 'read_pair', stuck)
    with running(samples, coord=coord) as dequeue:
        with pytest.raises(tf.errors.OutOfRangeError):
            dequeue()
        release.set()


def test_queues_of_one_server_are_not_shared(samples):
    """Queues of two graphs with the same node names, and sessions of one server."""
    server = tf.train.Server.create_local_server()
    coord, seen = tf.train.Coordinator(), []
    with contextlib.ExitStack() as stack:
        for part in ([paths[:2] for paths in samples], [paths[2:4] for paths in samples]):
            with tf.Graph().as_default():
                queue = dg.BatchQueue(*part, 2, SHAPE, capacity=1)
                batch = queue.dequeue()
                sess = stack.enter_context(tf.Session(server.target))
            queue.start(sess, coord)
            seen.append((sess, batch, set(part[0])))
        for _ in range(4):
            for sess, batch, paths in seen:
                assert set(names(sess.run(batch))) == paths
        coord.request_stop()
        coord.join(stop_grace_period_secs=20)
