"""data/common/pictures.py and video.py: formats, orientations, labels, videos and rejected files."""
import os
import struct
import zlib

import cv2
import numpy as np
import PIL.Image
import pytest

from data.common import pictures, video
from data.common.command_line import InputError

SUFFIXES = ('.bmp', '.gif', '.jpg', '.png', '.tif', '.webp')
PNG = b'\x89PNG\r\n\x1a\n'


def photo(height=36, width=64):
    """A smooth image, which JPEG changes little."""
    coarse = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def save(path, array, orientation=None, **options):
    """Writes an array by Pillow, with an EXIF orientation. -> str"""
    exif = PIL.Image.Exif()
    if orientation is not None:
        exif[0x112] = orientation
    PIL.Image.fromarray(array).save(path, **options, **({'exif': exif} if orientation is not None else {}))
    return str(path)


def write(path, data):
    path.write_bytes(data)
    return str(path)


# ---- Images ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('suffix, tolerance', list(zip(SUFFIXES, (0, 12, 4, 0, 0, 8))))
def test_every_format_is_read_as_rgb(tmp_path, suffix, tolerance):
    read = pictures.read_image(save(tmp_path / f'a{suffix}', photo()))
    assert read.dtype == np.uint8 and read.shape == (36, 64, 3) and read.flags.writeable
    assert np.abs(read.astype(int) - photo()).mean() <= tolerance


@pytest.mark.parametrize('stored', [
    np.full((4, 6), 77, np.uint8), np.full((4, 6), 77 * 257, np.uint16), np.full((4, 6, 3), 77 * 257, np.uint16),
    np.full((4, 6, 4), 77, np.uint8), np.full((1, 1, 3), 77, np.uint8)],
    ids=['grey', 'grey16', 'rgb16', 'rgba', '1x1'])
def test_unusual_pixels_become_rgb(tmp_path, stored):
    path = write(tmp_path / 'a.png', cv2.imencode('.png', stored)[1].tobytes())
    assert pictures.read_image(path).tolist() == np.full((*stored.shape[:2], 3), 77).tolist()


@pytest.mark.parametrize('suffix', ['.jpg', '.png', '.tif', '.webp'])
def test_images_are_turned_upright(tmp_path, suffix):
    """Compared with Pillow's exif_transpose. 0 and 9 are not orientations."""
    for orientation in range(10):
        path = save(tmp_path / f'a{suffix}', photo(), orientation)
        with PIL.Image.open(path) as image:
            expected = np.asarray(PIL.ImageOps.exif_transpose(image))
        assert expected.shape == ((64, 36, 3) if orientation in (5, 6, 7, 8) else (36, 64, 3))
        read = pictures.read_image(path)
        assert read.shape == expected.shape and (read == expected).all(), orientation


# ---- What is rejected ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('suffix, options', [*((suffix, {}) for suffix in SUFFIXES), ('.jpg', {'progressive': True})])
def test_truncated_images_are_rejected(tmp_path, suffix, options):
    data = (tmp_path / save(tmp_path / f'a{suffix}', photo(96, 128), **options)).read_bytes()
    for left in (0.02, 0.3, 0.5, 0.9, 0.99):
        path = write(tmp_path / f'cut{suffix}', data[:int(len(data) * left)])
        with pytest.raises(InputError, match=f'cut{suffix}: is (damaged or cut off|not an image)'):
            pictures.read_image(path)
        with pytest.raises(InputError):
            pictures.read_label(path)


def chunk(kind, data):
    return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))


@pytest.mark.parametrize('read', [pictures.read_image, pictures.read_label])
@pytest.mark.parametrize('data, reason', [
    (b'', 'is empty'), (b'%!PS-Adobe-3.0 EPSF', 'is not an image'), (b'\xff\xd8\xff', 'is '),
    (PNG + chunk(b'IEND', b''), 'is '), (b'BM' + bytes(60), 'is ')])
def test_other_files_are_rejected_in_one_line(tmp_path, read, data, reason):
    path = write(tmp_path / 'a.jpg', data)
    with pytest.raises(InputError) as error:
        read(path)
    assert str(error.value).startswith(f'{path}: {reason}') and '\n' not in str(error.value)


# ---- Labels ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('suffix', ['.png', '.tif'])
@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
def test_grey_values_of_a_label_are_kept(tmp_path, dtype, suffix):
    label = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (9, 7)).astype(dtype)
    read = pictures.read_label(save(tmp_path / f'a{suffix}', label))
    assert read.dtype == dtype and (read == label).all()
    assert pictures.read_label(save(tmp_path / 'rgb.png', np.stack([np.uint8(label)] * 3, -1))).tolist() == np.uint8(
        label).tolist()


@pytest.mark.parametrize('value', [np.int32(-1), np.int32(70000), np.float32(0.5)])
def test_values_beyond_16_bits_are_rejected(tmp_path, value):
    with pytest.raises(InputError, match='a.tif: has pixels that are not whole numbers'):
        pictures.read_label(save(tmp_path / 'a.tif', np.full((4, 6), value)))


@pytest.mark.parametrize('suffix, bits', [('.png', 1), ('.png', 4), ('.png', 8), ('.bmp', 8), ('.gif', 8)])
def test_palette_indices_of_a_label_are_kept(tmp_path, suffix, bits):
    """Even if two of them have the same colour."""
    label = np.random.default_rng(0).integers(0, 2 ** bits, (9, 13), np.uint8)
    picture = PIL.Image.fromarray(label)
    picture.putpalette(([0, 0, 0, 255, 0, 0, 255, 0, 0] * 256)[:3 * 2 ** bits])
    picture.save(tmp_path / f'a{suffix}', **({'bits': bits} if suffix == '.png' else {}), optimize=False)
    assert (pictures.read_label(tmp_path / f'a{suffix}') == label).all()


def test_each_colour_except_black_is_an_instance(tmp_path):
    colours = np.uint8([[0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 0, 1], [7, 7, 7]])
    label = np.random.default_rng(0).integers(0, 6, (20, 30))
    read = pictures.read_label(save(tmp_path / 'a.png', colours[label]))
    pairs = set(zip(label.ravel().tolist(), read.ravel().tolist()))
    assert len(pairs) == 6 and (0, 0) in pairs and {number for _, number in pairs} == set(range(6))
    no_black = pictures.read_label(save(tmp_path / 'a.png', np.uint8([[[70, 0, 0], [70, 0, 0], [0, 0, 70]]])))
    assert no_black.tolist() in ([[1, 1, 2]], [[2, 2, 1]])


def test_photo_as_label_is_rejected(tmp_path):
    with pytest.raises(InputError, match=r'a.png: has 2,\d\d\d colours, as a photo does'):
        pictures.read_label(save(tmp_path / 'a.png', photo(48, 64)))


def corner(height=4, width=6):
    """An image and its label in which no turn or reflection goes unnoticed."""
    label = np.zeros((height, width), np.uint8)
    label[0, :2] = 9
    return np.stack([label * 20] * 3, -1), label


@pytest.mark.parametrize('size', [(4, 6), (4, 4)], ids=['rectangle', 'square'])
@pytest.mark.parametrize('orientation', range(1, 9))
def test_label_in_stored_orientation_is_turned_with_its_image(tmp_path, size, orientation):
    image, label = corner(*size)
    paths = save(tmp_path / 'a.png', image, orientation), save(tmp_path / 'l.png', label)
    image, label = pictures.read_pair(*paths)
    assert label.shape == image.shape[:2] and (image[..., 0] == label * 20).all()


def test_label_that_is_upright_or_has_its_own_orientation_is_not_turned_with_its_image(tmp_path):
    for label, own in ((np.rot90(corner(4, 6)[1], -1), None), (corner(4, 4)[1], 1)):
        image = corner(4, label.shape[0])[0]
        paths = save(tmp_path / 'a.png', image, 6), save(tmp_path / 'l.png', label, own)
        assert (pictures.read_pair(*paths)[1] == label).all()


@pytest.mark.parametrize('orientation, words', [(None, '6 x 4$'), (6, '4 x 6, turned by its EXIF orientation 6$')])
def test_label_of_another_size_is_rejected(tmp_path, orientation, words):
    paths = save(tmp_path / 'a.png', corner()[0], orientation), save(tmp_path / 'l.png', np.zeros((5, 6), np.uint8))
    with pytest.raises(InputError, match=f'l.png: is 6 x 5, but its image .*a.png is {words}'):
        pictures.read_pair(*paths)


# ---- Resizing, writing, listing --------------------------------------------------------------------------------------

def test_resized_label_stays_on_its_line():
    """Lines two pixels wide at the small size: image and label must agree within half a pixel."""
    image, label = np.zeros((90, 160, 3), np.uint8), np.zeros((90, 160), np.uint8)
    image[:, 61:71], label[:, 61:71] = 255, 9
    small, small_label = pictures.resize_image(image, (32, 16)), pictures.resize_label(label, (32, 16))
    assert small.shape == (16, 32, 3) and ((small[..., 0] > 127) == (small_label == 9)).all()


def test_images_of_a_folder_are_listed(tmp_path):
    for name in ('b.JPG', 'a.png', 'c.WebP', 'd.tiff', '.e.png', 'f.txt', 'z.mp4'):
        write(tmp_path / name, b'x')
    (tmp_path / 'g.png').mkdir()
    names = [os.path.basename(path) for path in pictures.list_images(str(tmp_path))]
    assert names == ['a.png', 'b.JPG', 'c.WebP', 'd.tiff']
    for path, reason in (('g.png', 'holds no images'), ('no', 'no such folder'), ('f.txt', 'is not a folder')):
        with pytest.raises(InputError, match=f'{path}: {reason}'):
            pictures.list_images(str(tmp_path / path))


# ---- Videos ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('name, codec', [
    ('a.mkv', 'mp4v'), ('a.M4V', 'mp4v'), ('a.ts', 'mp4v'), ('a.webm', 'VP80'), ('a.mpg', 'mpg2'), ('a.mov', 'mp4v'),
    ('10:30.avi', 'MJPG'), ('a%03d [1].mp4', 'mp4v')])
def test_video_containers_and_odd_names_are_read(tmp_path, name, codec, monkeypatch):
    writer = cv2.VideoWriter(str(tmp_path / name), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*codec), 25, (320, 176))
    for i in range(4):
        writer.write(np.full((176, 320, 3), 60 * i, np.uint8))
    writer.release()
    monkeypatch.chdir(tmp_path)
    clip = video.read_video(name)
    means = [frame.mean() for frame in clip.frames]
    assert name.lower().endswith(video.EXTENSIONS) and clip.fps == 25 and clip.size == (320, 176)
    assert np.abs(np.subtract(means, [0, 60, 120, 180])).max() < 9


def test_video_appears_when_it_is_closed(tmp_path):
    path = str(tmp_path / 'a%02d.mp4')
    writer = video.Writer(path, (64, 32), 10)
    writer.write(np.full((32, 64, 3), (200, 0, 0), np.uint8))
    assert not os.path.exists(path)
    assert writer.close() == 1 and os.listdir(tmp_path) == ['a%02d.mp4']
    frame, = video.read_video(path).frames
    assert np.abs(frame.mean((0, 1)) - (200, 0, 0)).max() < 9
    assert video.Writer(str(tmp_path / 'none.mp4'), (64, 32), 10).close() == 0
    assert os.listdir(tmp_path) == ['a%02d.mp4']
