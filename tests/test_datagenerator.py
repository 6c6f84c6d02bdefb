"""datagenerator.py: samples in pairs, splits, batches, and the queue's order, errors and end."""
import contextlib
import os
import threading

import numpy as np
import pytest
from sklearn.model_selection import train_test_split

from data.common import files, pictures, quiet
from data.lanes import road_augmentation
from data.common.command_line import InputError

quiet.import_tensorflow()
import tensorflow.compat.v1 as tf

import datagenerator as dg

SHAPE = (32, 16)


def save(path, data):
    path.write_bytes(data)
    return str(path)


@pytest.fixture
def samples(tmp_path):
    """Seven photos whose every pixel tells which one it is, with labels that do too."""
    return make_samples(tmp_path, 7)


def make_samples(folder, count):
    for name in ('images', 'labels'):
        (folder / name).mkdir()
    for i in range(count):
        pictures.write_image(str(folder / 'images' / f'{i:04d}.png'), np.full((36, 64, 3), 10 * i + 5, np.uint8))
        pictures.write_image(str(folder / 'labels' / f'{i:04d}.png'), np.full((36, 64), i + 1, np.uint8))
    return dg.find_samples(str(folder))


# ---- Samples ---------------------------------------------------------------------------------------------------------

def test_find_samples_pairs_by_name(samples):
    images, labels = samples
    assert [os.path.basename(path) for path in images] == [f'{i:04d}.png' for i in range(7)]
    assert [path.replace('images', 'labels') for path in images] == labels


@pytest.mark.parametrize('spoil, reason', [
    (lambda root: os.remove(root / 'labels' / '0003.png'), r'0003.png: has no label .*7 images and 6 labels'),
    (lambda root: os.remove(root / 'images' / '0003.png'), r'0003.png: has no image .*6 images and 7 labels'),
    (lambda root: os.rename(root / 'labels/0003.png', root / 'labels/x.png'), '0003.png: has no label'),
    (lambda root: save(root / 'images' / '0003.jpg', b''), '0003.png: has the same name as'),
    (lambda root: os.rename(root / 'labels', root / 'truth'), 'labels: no such folder; .* data/tusimple'),
    (lambda root: [os.remove(path) for path in (root / 'images').iterdir()], 'images: holds no pictures'),
    (lambda root: os.rename(root / 'labels/0003.png', root / 'labels/0003.jpg'), '0003.jpg: a JPEG does not keep'),
    (lambda root: save(root / files.HALF_WRITTEN, b''), 'is half-written; run the script that makes it again')],
    ids=['no label', 'no image', 'other name', 'twice', 'no folder', 'empty', 'JPEG', 'half-written'])
def test_find_samples_names_what_does_not_fit(tmp_path, samples, spoil, reason):
    spoil(tmp_path)
    with pytest.raises(InputError, match=reason):
        dg.find_samples(str(tmp_path))


@pytest.mark.parametrize('name, reason', [
    ('gone', 'no such folder'), ('file', 'is not a folder'), ('x' * 300, 'cannot be read: File name too long')])
def test_find_samples_says_why_there_is_no_folder(tmp_path, name, reason):
    save(tmp_path / 'file', b'')
    with pytest.raises(InputError, match=f'{name}/images: {reason}'):
        dg.find_samples(str(tmp_path / name))


@pytest.mark.parametrize('count', [2, 3, 10, 11, 151, 3626])
def test_split_is_that_of_2018(count):
    images, labels = [f'i{i}' for i in range(count)], [f'l{i}' for i in range(count)]
    (train_i, train_l), (valid_i, valid_l) = dg.split(images, labels)
    expected = train_test_split(images, labels, test_size=0.1, random_state=42)
    assert [train_i, valid_i, train_l, valid_l] == expected


@pytest.mark.parametrize('count', [0, 1])
def test_split_needs_two(count):
    with pytest.raises(InputError, match='at least two samples'):
        dg.split(['a.png'][:count], ['b.png'][:count])


# ---- Batches ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('seed', [None, 1])
def test_get_batches_fn_is_one_epoch_in_order_or_shuffled_by_a_seed(samples, seed):
    batches = list(dg.get_batches_fn(3, SHAPE, *samples, seed))
    assert [images.shape for images, _ in batches] == [(3, 16, 32, 3), (3, 16, 32, 3), (1, 16, 32, 3)]
    assert batches[0][0].dtype == np.uint8 and batches[0][1].shape == (3, 16, 32) and batches[0][1].dtype == np.int32
    order = [int(label[0, 0]) for _, labels in batches for label in labels]
    assert sorted(order) == list(range(1, 8)) and (order == sorted(order)) == (seed is None)
    for images, labels in batches:
        assert (images[..., 0] == 10 * (labels - 1) + 5).all()


def test_get_batches_fn_tells_the_sizes_of_the_photos(samples):
    for path in (samples[0][1], samples[1][1]):
        pictures.write_image(path, np.zeros((20, 40), np.uint8))
    sizes = [sizes for _, _, sizes in dg.get_batches_fn(3, SHAPE, *samples, with_sizes=True)]
    assert sizes == [[(64, 36), (40, 20), (64, 36)], [(64, 36)] * 3, [(64, 36)]]


def test_get_validation_batch_is_the_held_out_tenth(tmp_path, samples):
    images, labels = dg.get_validation_batch(str(tmp_path), SHAPE)
    held_out = int(os.path.basename(dg.split(*samples)[1][0][0])[:4])
    assert images.shape == (1, 16, 32, 3)
    assert (images == 10 * held_out + 5).all() and (labels == held_out + 1).all()


def test_get_validation_batch_takes_the_first_of_them(tmp_path):
    samples = make_samples(tmp_path, 21)
    images, labels = dg.load_batch(*(paths[:2] for paths in dg.split(*samples)[1]), SHAPE)
    most = dg.get_validation_batch(str(tmp_path), SHAPE, 2)
    assert len(images) == 2 and (most[0] == images).all() and (most[1] == labels).all()


def test_label_of_another_size_is_named(samples):
    pictures.write_image(samples[1][2], np.zeros((36, 60), np.uint8))
    with pytest.raises(InputError, match='labels/0002.png: is 60 x 36, but its photo .*0002.png is 64 x 36'):
        dg.load_batch(*samples, SHAPE)


# ---- The queue -------------------------------------------------------------------------------------------------------

@contextlib.contextmanager
def running(samples, batch_size=2, start_step=0, coord=None, **kwargs):
    """A queue at work in a session of its own. -> function that runs dequeue() and returns a Batch of arrays"""
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
            assert not loaders()


def loaders():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(('loader', 'enqueue', 'close'))]


def take(samples, count, batch_size=2, **kwargs):
    with running(samples, batch_size, **kwargs) as dequeue:
        return [dequeue() for _ in range(count)]


def names(batch):
    return [os.fsdecode(path) for path in batch.paths]


def assert_same(batches, others):
    assert len(batches) == len(others)
    for batch, other in zip(batches, others):
        assert (batch.paths == other.paths).all()
        assert (batch.images == other.images).all() and (batch.labels == other.labels).all()


def expected_batches(samples, count, batch_size, seed, start_step, shard, augment):
    """The batches as the definition of the order says: sample by sample, by seed, epoch and position."""
    size, batches = len(samples[0]), []
    whole = batch_size * shard[1]                       # of a step, all shards together
    steps = max(1, size // whole)                       # of an epoch
    for step in range(start_step, start_step + count):
        epoch = step // steps
        order = np.random.default_rng([seed, epoch]).permutation(size)
        images, labels, paths = [], [], []
        for i in range(batch_size):
            position = step % steps * whole + shard[0] * batch_size + i
            number = order[position % size]
            image, label = dg.read_sample(samples[0][number], samples[1][number])
            if augment:
                ratio = min(1, 1.5 * max(SHAPE[0] / 64, SHAPE[1] / 36))
                kept = round(64 * ratio), round(36 * ratio)
                image, label = road_augmentation.augment(
                    pictures.resize_image(image, kept), pictures.resize_label(label, kept),
                    np.random.default_rng([seed, epoch, position]), SHAPE)
            else:
                image, label = pictures.resize_image(image, SHAPE), pictures.resize_label(label, SHAPE)
            images.append(image)
            labels.append(label)
            paths.append(os.fsencode(samples[0][number]))
        batches.append(dg.Batch(np.stack(images), np.stack(labels).astype(np.int32), np.array(paths)))
    return batches


@pytest.mark.parametrize('seed, start_step, shard, batch_size, workers, augment', [
    (0, 0, (0, 1), 2, 1, True), (3, 0, (0, 1), 2, 5, True), (3, 0, (0, 1), 2, 2, False), (7, 4, (0, 1), 3, 2, True),
    (1, 11, (1, 2), 1, 3, True), (1, 2, (2, 3), 1, 2, True), (5, 1, (0, 2), 5, 2, True), (2, 0, (0, 1), 16, 2, True)])
def test_batches_are_decided_by_seed_step_and_shard(samples, seed, start_step, shard, batch_size, workers, augment):
    """Whatever the number of workers; with a start in mid-epoch, and with a data set smaller than a batch."""
    given = {'seed': seed, 'start_step': start_step, 'shard': shard}
    batches = take(samples, 9, batch_size, workers=workers, **given, **({} if augment else {'augment': None}))
    assert_same(batches, expected_batches(samples, 9, batch_size, **given, augment=augment))


def test_cache_changes_nothing(samples):
    assert_same(take(samples, 9), take(samples, 9, cache_bytes=0))


def test_seed_changes_order_and_augmentation(samples):
    ones, others = take(samples, 3, seed=1), take(samples, 3, seed=2)
    assert [names(batch) for batch in ones] != [names(batch) for batch in others]


def test_a_photo_is_augmented_otherwise_in_each_epoch_and_with_each_seed(samples):
    shown = [batch.images.tobytes() for seed in (1, 2) for batch in take(samples, 14, 1, seed=seed)
             if names(batch) == [samples[0][0]]]
    assert len(shown) == len(set(shown)) == 4


@pytest.mark.parametrize('shards, batch_size', [(2, 1), (3, 1), (2, 2), (2, 5)])
def test_shards_together_are_one_queue(samples, shards, batch_size):
    whole = take(samples, 6, batch_size * shards)
    parts = [take(samples, 6, batch_size, shard=(i, shards)) for i in range(shards)]
    for batch, together in zip(whole, zip(*parts)):
        assert (batch.images == np.concatenate([part.images for part in together])).all()
        assert names(batch) == sum((names(part) for part in together), [])


def test_epochs(samples):
    batches = take(samples, 12, augment=None)
    epochs = [sum((names(batch) for batch in batches[i:i + 3]), []) for i in range(0, 12, 3)]
    assert all(len(set(paths)) == 6 for paths in epochs)
    assert set(sum(epochs, [])) == set(samples[0])
    for batch in batches:
        numbers = np.array([samples[0].index(path) for path in names(batch)])
        assert batch.labels.dtype == np.int32 and (batch.labels == numbers[:, None, None] + 1).all()
        assert (batch.images == (10 * numbers + 5)[:, None, None, None]).all()


def test_data_set_smaller_than_a_batch_fills_it(samples):
    batch, = take(samples, 1, batch_size=16)
    assert dg.steps_per_epoch(7, 16) == 1 and set(names(batch)) == set(samples[0])
    assert (batch.images[0] != batch.images[7]).any() and batch.paths[0] == batch.paths[7]


def test_waiting_batches_are_bounded(samples, monkeypatch):
    """Two batches in the queue, one that is enqueued, and ahead of it a batch and as many samples as workers."""
    loaded, most, enough = [], (2 + 1 + 1) * 2 + 4, threading.Event()

    def counting(*paths):
        loaded.append(paths)
        if len(loaded) >= most - 1:
            enough.set()
        return read(*paths)

    read = dg.read_sample
    monkeypatch.setattr(dg, 'read_sample', counting)
    with running(samples, capacity=2, workers=4, cache_bytes=0) as dequeue:
        assert enough.wait(20) and len(loaded) <= most
        for taken in range(1, 21):
            dequeue()
            assert len(loaded) <= most + 2 * taken


def test_a_path_that_is_not_utf8_comes_back(tmp_path):
    samples = make_samples(tmp_path, 2)
    path = os.path.join(os.fsencode(tmp_path), b'images', b'\xff.png')
    os.rename(samples[0][0], path)
    batch, = take([[os.fsdecode(path)], samples[1][:1]], 1, 1)
    assert batch.paths.tolist() == [path]


@pytest.mark.parametrize('kind', ['images', 'labels'])
@pytest.mark.parametrize('damage, reason', [
    (lambda path: os.truncate(path, 60), 'is cut off'), (os.remove, 'no such file')], ids=['cut off', 'deleted'])
def test_unreadable_file_stops_training_with_its_name(samples, kind, damage, reason):
    damage(samples[kind == 'labels'][3])
    coord = tf.train.Coordinator()
    with pytest.raises(InputError, match=f'{kind}/0003.png: {reason}'):
        with running(samples, coord=coord) as dequeue:
            for _ in range(2):   # the waiting dequeue, and a later one
                with pytest.raises(tf.errors.OutOfRangeError):
                    for _ in range(8):
                        dequeue()
                assert coord.should_stop()


def test_workers_that_cannot_be_started_stop_training(samples, monkeypatch):
    start = threading.Thread.start

    def no_loader(thread):
        if thread.name.startswith('loader'):
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, 'start', no_loader)
    with pytest.raises(InputError, match="--workers: can't start new thread; give fewer"), running(samples) as dequeue:
        with pytest.raises(tf.errors.OutOfRangeError):
            dequeue()


@pytest.mark.parametrize('taken', [0, 3])
def test_full_queue_ends_when_a_stop_is_requested(samples, monkeypatch, taken):
    """While an enqueue waits for room."""
    run, blocked = tf.Session.run, threading.Semaphore(0)

    def noting(*args, **kwargs):
        blocked.release()
        return run(*args, **kwargs)

    monkeypatch.setattr(tf.Session, 'run', noting)
    with running(samples, workers=3, capacity=1) as dequeue:
        for _ in range(taken):
            dequeue()
        for _ in range(2 * taken + 2):   # one fills the queue, one more waits
            assert blocked.acquire(timeout=20)


def test_empty_queue_ends_when_a_stop_is_requested(samples, monkeypatch):
    """While a dequeue waits for a worker: the dequeue ends at once, the threads when the worker is done."""
    started, release = threading.Event(), threading.Event()

    def stuck(*_):
        started.set()
        release.wait(20)
        raise InputError('after the stop')

    monkeypatch.setattr(dg, 'read_sample', stuck)
    coord = tf.train.Coordinator()
    with running(samples, coord=coord) as dequeue:
        assert started.wait(20)
        stopper = threading.Timer(0.05, coord.request_stop)
        stopper.start()
        with pytest.raises(tf.errors.OutOfRangeError):
            dequeue()
        release.set()
        stopper.join()


def test_interrupt_in_the_loop_leaves_no_thread(samples):
    with pytest.raises(KeyboardInterrupt):
        with running(samples) as dequeue:
            dequeue()
            raise KeyboardInterrupt


def test_session_that_ends_first_ends_the_threads(samples):
    coord = tf.train.Coordinator()
    with tf.Graph().as_default():
        queue = dg.BatchQueue(*samples, 2, SHAPE, capacity=1)
        batch = queue.dequeue()
        with tf.Session() as sess:
            threads = queue.start(sess, coord)
            sess.run(batch)
    with pytest.raises((tf.errors.CancelledError, RuntimeError)):
        coord.join(threads, stop_grace_period_secs=20)
    assert not loaders()


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


def test_queue_and_what_fills_it_are_on_the_device_of_the_scope(samples):
    with tf.Graph().as_default() as graph:
        with tf.device('/job:worker/task:1'):
            dg.BatchQueue(*samples, 2, SHAPE)
        assert all(op.device.startswith('/job:worker/task:1') for op in graph.get_operations())


def test_empty_data_set_is_refused():
    with pytest.raises(ValueError, match='0 images'):
        dg.BatchQueue([], [], 1, SHAPE)
