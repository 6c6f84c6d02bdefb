"""Files to arrays: pictures read and refused, pairs and splits, augmentation, the queue's order and end."""

import contextlib
import os
import stat
import struct
import threading
import zlib

import cv2
import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from sklearn.model_selection import train_test_split

import datagenerator as dg
from data import augmentation, files
from data.command_line import InputError

SHAPE = (32, 16)
PNG_SIGNATURE = b'\x89PNG\r\n\x1a\n'


def photo(height=36, width=64, seed=0):
    """A smooth picture, so that JPEG changes it little."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def png_chunk(kind, data):
    return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))


def save(path, data):
    path.write_bytes(data)
    return str(path)


def encoded(extension, array):
    return cv2.imencode(extension, array)[1].tobytes()


@pytest.fixture
def samples(tmp_path):
    """Seven photos whose every pixel tells which one it is, with labels that do too."""
    return make_samples(tmp_path, 7)


def make_samples(folder, count):
    for name in ('images', 'labels'):
        (folder / name).mkdir()
    for i in range(count):
        files.write_image(str(folder / 'images' / f'{i:04d}.png'), np.full((36, 64, 3), 10 * i + 5, np.uint8))
        files.write_image(str(folder / 'labels' / f'{i:04d}.png'), np.full((36, 64), i + 1, np.uint8))
    return dg.find_samples(str(folder))


# ---- Reading -----------------------------------------------------------------------------------------------

@pytest.mark.parametrize('extension, tolerance', [('.png', 0), ('.bmp', 0), ('.jpg', 8), ('.jpeg', 8)])
def test_read_image_is_rgb(tmp_path, extension, tolerance):
    image = photo()
    path = save(tmp_path / f'a{extension}', encoded(extension, image[..., ::-1]))
    read = files.read_image(path)
    assert read.dtype == np.uint8 and read.shape == image.shape
    assert np.abs(read.astype(int) - image).mean() <= tolerance


@pytest.mark.parametrize('stored, expected', [
    (np.full((4, 6), 77, np.uint8), 77),
    (np.full((4, 6), 77 * 257, np.uint16), 77),
    (np.full((4, 6, 3), 77 * 257, np.uint16), 77),
    (np.full((4, 6, 4), 77, np.uint8), 77),
    (np.full((1, 1, 3), 77, np.uint8), 77)], ids=['grey', 'grey16', 'rgb16', 'rgba', '1x1'])
def test_unusual_pixel_formats_work(tmp_path, stored, expected):
    read = files.read_image(save(tmp_path / 'a.png', encoded('.png', stored)))
    assert read.dtype == np.uint8 and read.shape == stored.shape[:2] + (3,) and (read == expected).all()


def test_palette_image_works(tmp_path):
    header = struct.pack('>IIBBBBB', 2, 1, 8, 3, 0, 0, 0)
    data = (PNG_SIGNATURE + png_chunk(b'IHDR', header) + png_chunk(b'PLTE', bytes([1, 2, 3, 40, 50, 60]))
            + png_chunk(b'IDAT', zlib.compress(bytes([0, 1, 0]))) + png_chunk(b'IEND', b''))
    assert files.read_image(save(tmp_path / 'a.png', data)).tolist() == [[[40, 50, 60], [1, 2, 3]]]


def test_exif_turns_a_photo_upright(tmp_path):
    data = encoded('.jpg', photo(32, 64))
    exif = b'Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0'
    data = data[:2] + b'\xff\xe1' + struct.pack('>H', len(exif) + 2) + exif + data[2:]
    assert files.read_image(save(tmp_path / 'a.jpg', data)).shape == (64, 32, 3)


@pytest.mark.parametrize('extension', ['.png', '.jpg', '.bmp'])
@pytest.mark.parametrize('left', [0.02, 0.5, 0.9, 0.999])
def test_cut_off_files_are_refused(tmp_path, extension, left):
    data = encoded(extension, photo(128, 128))
    path = save(tmp_path / f'cut{extension}', data[:int(len(data) * left)])
    with pytest.raises(InputError, match='cut'):
        files.read_image(path)


def test_cut_off_jpeg_with_a_thumbnail_is_refused(tmp_path):
    """The thumbnail inside the EXIF has an end marker of its own."""
    thumbnail = encoded('.jpg', photo(8, 8))
    data = encoded('.jpg', photo(128, 128))
    data = data[:2] + b'\xff\xe1' + struct.pack('>H', len(thumbnail) + 2) + thumbnail + data[2:]
    assert files.read_image(save(tmp_path / 'whole.jpg', data)).shape == (128, 128, 3)
    with pytest.raises(InputError, match='cut off'):
        files.read_image(save(tmp_path / 'cut.jpg', data[:-40]))


@pytest.mark.parametrize('extension', ['.png', '.jpg', '.bmp'])
def test_trailing_bytes_are_passed_over(tmp_path, extension):
    data = encoded(extension, photo())
    assert files.read_image(save(tmp_path / f'a{extension}', data + b'more')).shape == (36, 64, 3)


def test_png_with_a_flipped_bit_is_refused_silently(tmp_path, capfd):
    data = bytearray(encoded('.png', photo(128, 128)))
    data[len(data) // 2] ^= 1
    with pytest.raises(InputError, match='flipped.png: is damaged'):
        files.read_image(save(tmp_path / 'flipped.png', bytes(data)))
    data = encoded('.bmp', photo())
    with pytest.raises(InputError, match='odd.bmp'):
        files.read_image(save(tmp_path / 'odd.bmp', data[:28] + b'\x63' + data[29:]))
    assert capfd.readouterr() == ('', '')


def bomb_png():
    header = struct.pack('>IIBBBBB', 30000, 30000, 8, 2, 0, 0, 0)
    return (PNG_SIGNATURE + png_chunk(b'IHDR', header) + png_chunk(b'IDAT', zlib.compress(bytes(1000)))
            + png_chunk(b'IEND', b''))


def bomb_jpeg():
    data = encoded('.jpg', photo())
    frame = data.index(b'\xff\xc0')
    return data[:frame + 5] + struct.pack('>HH', 60000, 60000) + data[frame + 9:]


def bomb_bmp():
    data = encoded('.bmp', photo())
    return data[:18] + struct.pack('<ii', 100000, -100000) + data[26:]


@pytest.mark.parametrize('make', [bomb_png, bomb_jpeg, bomb_bmp])
def test_bomb_is_refused_by_its_header(tmp_path, make, monkeypatch):
    monkeypatch.setattr(cv2, 'imdecode', lambda *_: pytest.fail('was decoded'))
    with pytest.raises(InputError, match='bomb.png: is .* by its header'):
        files.read_image(save(tmp_path / 'bomb.png', make()))


@pytest.mark.parametrize('data, reason', [
    (b'', 'is empty'), (b'hello\n', 'is not a PNG'), (b'GIF89a' + bytes(99), 'is not a PNG'),
    (b'\xff\xd8\xff', 'cut off'), (b'\xff\xd8\xff\xe0\0\0' + bytes(60), 'broken'), (PNG_SIGNATURE, 'cut off'),
    (b'\xff\xd8\xff\xda\0\2\xff\xd9', 'header is missing'), (b'BM', 'is not a PNG'),
    (b'BM' + bytes(60), 'gives no size'), (PNG_SIGNATURE + png_chunk(b'IEND', b''), 'header is missing')])
@pytest.mark.parametrize('read', [files.read_image, files.read_label])
def test_what_is_no_picture_is_refused(tmp_path, read, data, reason):
    path = save(tmp_path / 'a.jpg', data)
    with pytest.raises(InputError) as error:
        read(path)
    assert str(error.value).startswith(f'{path}: ') and reason in str(error.value)
    assert '\n' not in str(error.value)


def test_missing_file_and_folder_are_refused(tmp_path):
    with pytest.raises(InputError, match='gone.png: no such file'):
        files.read_image(str(tmp_path / 'gone.png'))
    with pytest.raises(InputError, match='is a folder'):
        files.read_image(str(tmp_path))


@pytest.mark.parametrize('make, reason', [
    (os.mkfifo, 'is not a file'), (lambda path: os.symlink('/dev/zero', path), 'is not a file'),
    (os.mkdir, 'is a folder'), (lambda path: None, 'no such file'),
    (lambda path: os.symlink('/proc/self/mem', path), 'cannot be read: '),
    (lambda path: os.symlink('/proc/self/maps', path), r'too large \(more than 20 bytes\)'),
    (lambda path: open(path, 'wb').write(bytes(21)), r'too large \(21 bytes')],
    ids=['pipe', 'device', 'folder', 'missing', 'unreadable', 'of unknown size', 'too large'])
def test_read_file_takes_regular_files_within_the_limit(tmp_path, make, reason):
    """And refuses what would make it wait for ever."""
    make(str(tmp_path / 'a.png'))
    with pytest.raises(InputError, match=f'a.png: .*{reason}'):
        files.read_file(str(tmp_path / 'a.png'), 20)
    assert files.read_file(save(tmp_path / 'whole', bytes(20)), 20) == bytes(20)


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
def test_read_label_keeps_values(tmp_path, dtype):
    label = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (9, 7)).astype(dtype)
    files.write_image(str(tmp_path / 'a.png'), label)
    read = files.read_label(str(tmp_path / 'a.png'))
    assert read.dtype == dtype and (read == label).all()


def test_read_label_takes_grey_stored_as_rgb_but_no_colours(tmp_path):
    files.write_image(str(tmp_path / 'grey.png'), np.full((3, 4, 3), 70, np.uint8))
    assert files.read_label(str(tmp_path / 'grey.png')).tolist() == [[70] * 4] * 3
    files.write_image(str(tmp_path / 'red.png'), np.full((3, 4, 3), (70, 0, 0), np.uint8))
    with pytest.raises(InputError, match='red.png: is coloured'):
        files.read_label(str(tmp_path / 'red.png'))


def test_resized_label_stays_on_its_line():
    """Lines two pixels wide at the small size: photo and label must meet within half a pixel."""
    image, label = np.zeros((90, 160, 3), np.uint8), np.zeros((90, 160), np.uint8)
    image[:, 61:71], label[:, 61:71] = 255, 9
    small, small_label = files.resize_image(image, SHAPE), files.resize_label(label, SHAPE)
    assert small.shape == (16, 32, 3) and set(np.unique(small_label)) == {0, 9}
    assert ((small[..., 0] > 127) == (small_label == 9)).all()


# ---- Writing -----------------------------------------------------------------------------------------------

def test_write_image_round_trip(tmp_path):
    for array in (photo(), photo()[..., 0], photo()[..., 0].astype(np.uint16) * 257):
        files.write_image(str(tmp_path / 'a.png'), array)
        assert (cv2.imread(str(tmp_path / 'a.png'), cv2.IMREAD_UNCHANGED) ==
                (array[..., ::-1] if array.ndim == 3 else array)).all()
    assert os.listdir(tmp_path) == ['a.png']


def test_failed_write_keeps_the_old_file_and_leaves_nothing(tmp_path, monkeypatch):
    path = save(tmp_path / 'a.bin', b'old')

    def no_space(*_):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(os, 'replace', no_space)
    with pytest.raises(InputError, match='a.bin: cannot be written: No space left on device'):
        files.write_file(path, b'new')
    monkeypatch.undo()
    assert os.listdir(tmp_path) == ['a.bin'] and (tmp_path / 'a.bin').read_bytes() == b'old'
    with pytest.raises(InputError, match='cannot be written'):
        files.write_file(str(tmp_path / 'none' / 'a.bin'), b'new')


def test_what_a_link_points_to_is_written_and_the_link_stays(tmp_path):
    (tmp_path / 'far').mkdir()
    target = save(tmp_path / 'far' / 'a.bin', b'old')
    os.symlink(target, tmp_path / 'link')
    files.check_output_file('--json', str(tmp_path / 'link'))
    files.write_file(str(tmp_path / 'link'), b'new')
    assert os.path.islink(tmp_path / 'link') and (tmp_path / 'far/a.bin').read_bytes() == b'new'
    assert sorted(os.listdir(tmp_path)) == ['far', 'link'] and os.listdir(tmp_path / 'far') == ['a.bin']


def test_a_pipe_is_written_to_and_stays_one(tmp_path):
    path = str(tmp_path / 'pipe')
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)   # open at this end, so that the other does not wait
    files.check_output_file('--json', path)
    files.write_file(path, b'data')
    assert os.read(reader, 9) == b'data' and stat.S_ISFIFO(os.stat(path).st_mode) and os.listdir(tmp_path) == ['pipe']
    os.close(reader)


def test_a_file_called_probe_survives_the_proof_that_its_folder_is_writable(tmp_path):
    save(tmp_path / '.probe', b'mine')
    files.make_output_folder(str(tmp_path))
    assert (tmp_path / '.probe').read_bytes() == b'mine'


def test_make_output_folder(tmp_path):
    files.make_output_folder(str(tmp_path / 'a' / 'b'))
    files.make_output_folder(str(tmp_path / 'a' / 'b'))
    assert os.listdir(tmp_path / 'a') == ['b'] and not os.listdir(tmp_path / 'a' / 'b')
    save(tmp_path / 'file', b'')
    for path in (tmp_path / 'file', tmp_path / 'file' / 'sub'):
        with pytest.raises(InputError, match='in the way'):
            files.make_output_folder(str(path))


def test_make_output_folder_finds_an_unwritable_one(tmp_path):
    with pytest.raises(InputError, match='^/proc'):
        files.make_output_folder('/proc/self')


def test_list_images(tmp_path):
    for name in ('b.JPG', 'a.png', 'c.Bmp', 'd.jpeg', '.e.png', 'f.txt'):
        save(tmp_path / name, b'x')
    (tmp_path / 'g.png').mkdir()
    names = [os.path.basename(path) for path in files.list_images(str(tmp_path))]
    assert names == ['a.png', 'b.JPG', 'c.Bmp', 'd.jpeg']
    for path, reason in ((tmp_path / 'g.png', 'holds no pictures'), (tmp_path / 'no', 'no such folder'),
                         (tmp_path / 'f.txt', 'is not a folder')):
        with pytest.raises(InputError, match=f'{path.name}: {reason}'):
            files.list_images(str(path))


# ---- Data sets ---------------------------------------------------------------------------------------------

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
    (lambda root: save(root / files.HALF_WRITTEN, b''), 'is half-written; run tusimple_dataset_processing.py again')],
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


def test_get_batches_fn_is_one_shuffled_epoch(samples):
    batches = list(dg.get_batches_fn(3, SHAPE, *samples, seed=1))
    assert [images.shape for images, _ in batches] == [(3, 16, 32, 3), (3, 16, 32, 3), (1, 16, 32, 3)]
    assert batches[0][0].dtype == np.uint8 and batches[0][1].shape == (3, 16, 32)
    order = [int(label[0, 0]) for _, labels in batches for label in labels]
    assert sorted(order) == list(range(1, 8)) and order != sorted(order)
    for images, labels in batches:
        assert (images[..., 0] == 10 * (labels - 1) + 5).all()


def test_get_validation_batch_is_the_held_out_tenth(tmp_path, samples):
    images, labels = dg.get_validation_batch(str(tmp_path), SHAPE)
    held_out = int(os.path.basename(dg.split(*samples)[1][0][0])[:4])
    assert images.shape == (1, 16, 32, 3)
    assert (images == 10 * held_out + 5).all() and (labels == held_out + 1).all()


def test_label_of_another_size_is_named(samples):
    files.write_image(samples[1][2], np.zeros((36, 60), np.uint8))
    with pytest.raises(InputError, match='labels/0002.png: is 60 x 36, but its photo .*0002.png is 64 x 36'):
        dg.load_batch(*samples, SHAPE)


# ---- Augmentation ------------------------------------------------------------------------------------------

def lane_photo():
    """Grey road with two white lines on it, and the label of the lines."""
    image, label = np.full((144, 256, 3), 90, np.uint8), np.zeros((144, 256), np.uint8)
    for value, bottom in ((20, 60), (70, 190)):
        cv2.line(label, (128, 50), (bottom, 143), value, 5)
    image[label > 0] = 250
    return image, label


def test_warp_without_a_change_is_a_resize():
    image, label = photo(90, 160), lane_photo()[1][:90, :160].copy()
    warped, warped_label = augmentation.warp(image, label, np.eye(3), (64, 32))
    assert np.abs(warped.astype(int) - files.resize_image(image, (64, 32))).max() <= 1
    assert (warped_label == files.resize_label(label, (64, 32))).all()


@pytest.mark.parametrize('seed', range(5))
def test_warped_label_stays_on_its_line(seed):
    image, label = lane_photo()
    matrix = augmentation.camera_change((256, 144), np.random.default_rng(seed))
    warped, warped_label = augmentation.warp(image, label, matrix, (128, 72))
    white, lane = warped.min(axis=-1) > 200, warped_label > 0
    assert set(np.unique(warped_label)) <= {0, 20, 70} and lane.sum() > 50
    assert (white & ~lane).sum() + (lane & (warped.min(axis=-1) < 100)).sum() < 0.05 * lane.sum()


def test_a_sideways_move_of_the_camera_leaves_the_horizon(monkeypatch):
    monkeypatch.setattr(augmentation, 'FLIP', 0)
    monkeypatch.setattr(augmentation, '_around', lambda rng, low, high, mode=0: high if high == augmentation.SWAY else 0)
    matrix = augmentation.camera_change((200, 100), np.random.default_rng(0))
    np.testing.assert_allclose(matrix @ [50, 38, 1], [50, 38, 1], atol=1e-9)
    np.testing.assert_allclose(matrix @ [50, 88, 1], [50 + 50 * augmentation.SWAY, 88, 1], atol=1e-9)


def test_camera_change_mirrors_half_of_the_time():
    mirrored = [np.linalg.det(augmentation.camera_change((64, 36), np.random.default_rng(i))) < 0 for i in range(200)]
    assert 70 < sum(mirrored) < 130


@pytest.mark.parametrize('step', [step for _, step in augmentation.PHOTOMETRIC])
def test_photometric_step_is_pure(step):
    image = photo(72, 128)
    before = image.copy()
    results = [step(image, np.random.default_rng(seed)) for seed in (1, 1, 2, 3, 4, 5)]
    assert (image == before).all()
    assert all(result.shape == image.shape and result.dtype == np.uint8 for result in results)
    assert (results[0] == results[1]).all()
    assert any((result != image).any() for result in results)
    assert any((result != results[0]).any() for result in results)


def test_wear_fades_paint_and_nothing_else():
    image, label = lane_photo()
    worn = [augmentation.wear(image, label, np.random.default_rng(seed)) for seed in range(10)]
    near = cv2.dilate(label, np.ones((1, 5), np.uint8)) > 0
    for result in worn:
        assert (result[~near] == image[~near]).all() and (result <= image).all()
    assert any((result[label > 0] < 150).any() for result in worn)
    assert augmentation.wear(image, np.zeros_like(label), np.random.default_rng(0)) is image


@pytest.mark.parametrize('size', [(256, 144), (1, 1), (8, 8)])
def test_augment_of_any_size_repeats_with_its_rng(size):
    image, label = (cv2.resize(array, size, interpolation=cv2.INTER_NEAREST) for array in lane_photo())
    label = label.astype(np.uint16)
    for seed in range(30):
        result, result_label = augmentation.augment(image, label, np.random.default_rng(seed), (64, 32))
        again, again_label = augmentation.augment(image, label, np.random.default_rng(seed), (64, 32))
        assert result.shape == (32, 64, 3) and result.dtype == np.uint8
        assert result_label.shape == (32, 64) and set(np.unique(result_label)) <= {0, 20, 70}
        assert (result == again).all() and (result_label == again_label).all()


# ---- The queue ------------------------------------------------------------------------------------------------------

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
                image, label = augmentation.augment(
                    files.resize_image(image, kept), files.resize_label(label, kept),
                    np.random.default_rng([seed, epoch, position]), SHAPE)
            else:
                image, label = files.resize_image(image, SHAPE), files.resize_label(label, SHAPE)
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
    given = {'seed': seed, 'start_step': start_step, 'shard': shard, 'augment': augment}
    assert_same(take(samples, 9, batch_size, workers=workers, **given),
                expected_batches(samples, 9, batch_size, **given))


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
    batches = take(samples, 12, augment=False)
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
