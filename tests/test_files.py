"""data/common/files.py: pictures read and refused, files written whole or not at all, folders made and listed."""
import os
import re
import stat
import struct
import zlib

import cv2
import numpy as np
import PIL.Image
import pytest

from data.common import files, pictures
from data.common.command_line import InputError

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


def encoded(extension, array, parameters=()):
    return cv2.imencode(extension, array, parameters)[1].tobytes()


# ---- Reading ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('extension, tolerance', [('.png', 0), ('.bmp', 0), ('.jpg', 8), ('.jpeg', 8)])
def test_read_image_is_rgb(tmp_path, extension, tolerance):
    image = photo()
    path = save(tmp_path / f'a{extension}', encoded(extension, image[..., ::-1]))
    read = pictures.read_image(path)
    assert read.dtype == np.uint8 and read.shape == image.shape
    assert np.abs(read.astype(int) - image).mean() <= tolerance


@pytest.mark.parametrize('stored, expected', [
    (np.full((4, 6), 77, np.uint8), 77),
    (np.full((4, 6), 77 * 257, np.uint16), 77),
    (np.full((4, 6, 3), 77 * 257, np.uint16), 77),
    (np.full((4, 6, 4), 77, np.uint8), 77),
    (np.full((1, 1, 3), 77, np.uint8), 77)], ids=['grey', 'grey16', 'rgb16', 'rgba', '1x1'])
def test_unusual_pixel_formats_work(tmp_path, stored, expected):
    read = pictures.read_image(save(tmp_path / 'a.png', encoded('.png', stored)))
    assert read.dtype == np.uint8 and read.shape == stored.shape[:2] + (3,) and (read == expected).all()


def test_palette_image_works(tmp_path):
    header = struct.pack('>IIBBBBB', 2, 1, 8, 3, 0, 0, 0)
    data = (PNG_SIGNATURE + png_chunk(b'IHDR', header) + png_chunk(b'PLTE', bytes([1, 2, 3, 40, 50, 60]))
            + png_chunk(b'IDAT', zlib.compress(bytes([0, 1, 0]))) + png_chunk(b'IEND', b''))
    assert pictures.read_image(save(tmp_path / 'a.png', data)).tolist() == [[[40, 50, 60], [1, 2, 3]]]


def test_exif_turns_a_photo_upright(tmp_path):
    data = encoded('.jpg', photo(32, 64))
    exif = b'Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0'
    data = data[:2] + b'\xff\xe1' + struct.pack('>H', len(exif) + 2) + exif + data[2:]
    assert pictures.read_image(save(tmp_path / 'a.jpg', data)).shape == (64, 32, 3)


@pytest.mark.parametrize('extension', ['.png', '.jpg', '.bmp'])
@pytest.mark.parametrize('left', [0.02, 0.5, 0.9, 0.999])
def test_cut_off_files_are_refused(tmp_path, extension, left):
    data = encoded(extension, photo(128, 128))
    path = save(tmp_path / f'cut{extension}', data[:int(len(data) * left)])
    with pytest.raises(InputError, match='cut'):
        pictures.read_image(path)


def test_cut_off_jpeg_with_a_thumbnail_is_refused(tmp_path):
    """The thumbnail inside the EXIF has an end marker of its own."""
    thumbnail = encoded('.jpg', photo(8, 8))
    data = encoded('.jpg', photo(128, 128))
    data = data[:2] + b'\xff\xe1' + struct.pack('>H', len(thumbnail) + 2) + thumbnail + data[2:]
    assert pictures.read_image(save(tmp_path / 'whole.jpg', data)).shape == (128, 128, 3)
    with pytest.raises(InputError, match='cut off'):
        pictures.read_image(save(tmp_path / 'cut.jpg', data[:-40]))


JPEGS = {'of one scan': [], 'of many scans': [cv2.IMWRITE_JPEG_PROGRESSIVE, 1],
         'with restarts': [cv2.IMWRITE_JPEG_RST_INTERVAL, 3], 'with codes of its own': [cv2.IMWRITE_JPEG_OPTIMIZE, 1]}


@pytest.mark.parametrize('grey', [False, True], ids=['colour', 'grey'])
@pytest.mark.parametrize('parameters', JPEGS.values(), ids=JPEGS.keys())
def test_jpegs_are_read_as_opencv_reads_them(tmp_path, parameters, grey, capfd):
    for seed, size in enumerate([(1, 1), (7, 9), (64, 33), (100, 100)]):
        image = photo(*size, seed)
        data = cv2.imencode('.jpg', image[..., 0] if grey else image, parameters)[1].tobytes()
        expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        assert (pictures.read_image(save(tmp_path / 'a.jpg', data)) == expected[..., ::-1]).all()
    assert capfd.readouterr() == ('', '')


@pytest.mark.parametrize('grey', [False, True], ids=['colour', 'grey'])
@pytest.mark.parametrize('left', [0.3, 0.5, 0.7])
@pytest.mark.parametrize('parameters', JPEGS.values(), ids=JPEGS.keys())
def test_cut_off_jpeg_with_an_end_marker_is_refused_silently(tmp_path, parameters, left, grey, capfd):
    image = photo(200, 200) // 2 + np.random.default_rng(0).integers(0, 128, (200, 200, 3), np.uint8)
    data = cv2.imencode('.jpg', image[..., 0] if grey else image, parameters)[1].tobytes()
    data = data[:int(left * len(data))].rstrip(b'\xff') + b'\xff\xd9'
    with pytest.raises(InputError, match='a.jpg: is (cut off|damaged)'):
        pictures.read_image(save(tmp_path / 'a.jpg', data))
    assert capfd.readouterr() == ('', '')


def noisy_photo(seed=0):
    return photo(200, 200) // 2 + np.random.default_rng(seed).integers(0, 128, (200, 200, 3), np.uint8)


def test_jpeg_that_is_cut_within_one_of_its_scans_is_refused_silently(tmp_path, capfd):
    data = encoded('.jpg', noisy_photo(), JPEGS['of many scans'])
    scans = [found.end() for found in re.finditer(rb'\xff\xda', data)] + [data.index(b'\xff\xd9')]
    cuts = [first + (end - first) * part // 10 for first, end in zip(scans, scans[1:]) for part in (5, 7, 9)]
    for cut in cuts + list(range(len(data) - 20, len(data) - 3)):
        path = save(tmp_path / 'a.jpg', data[:cut].rstrip(b'\xff') + b'\xff\xd9')
        with pytest.raises(InputError, match='a.jpg: is (cut off|damaged)'):
            pictures.read_image(path)
    with pytest.raises(InputError, match='a.jpg: is cut off'):   # within the second scan, which others follow
        pictures.read_image(save(tmp_path / 'a.jpg', data[:scans[1] + 50] + data[data.index(b'\xff\xc4', scans[1]):]))
    assert capfd.readouterr() == ('', '')


@pytest.mark.parametrize('kind', ['of many scans', 'with restarts'])
def test_damaged_jpeg_prints_nothing(tmp_path, kind, capfd):
    rng = np.random.default_rng(0)
    sound = encoded('.jpg', noisy_photo(), JPEGS[kind])
    for _ in range(30):
        data = bytearray(sound)
        place = rng.integers(sound.index(b'\xff\xda') + 14, len(sound) - 20)
        data[place:place + 16] = bytes(16)
        try:
            assert pictures.read_image(save(tmp_path / 'a.jpg', bytes(data))).shape == (200, 200, 3)
        except InputError as error:
            assert 'a.jpg: is ' in str(error)
    assert capfd.readouterr() == ('', '')


@pytest.mark.parametrize('kind', JPEGS)
@pytest.mark.parametrize('order', '<>', ids=['little', 'big'])
def test_jpegs_are_turned_as_opencv_turns_them(tmp_path, kind, order):
    data = encoded('.jpg', photo(32, 64), JPEGS[kind])
    for orientation in range(10):
        exif = b'Exif\0\0' + {'<': b'II*\0', '>': b'MM\0*'}[order] + struct.pack(
            f'{order}IHHHIHHI', 8, 1, 0x112, 3, 1, orientation, 0, 0)
        turned = data[:2] + b'\xff\xe1' + struct.pack('>H', len(exif) + 2) + exif + data[2:]
        expected = cv2.imdecode(np.frombuffer(turned, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
        read = pictures.read_image(save(tmp_path / 'a.jpg', turned))
        assert read.shape == expected.shape and (read == expected).all(), orientation


@pytest.mark.parametrize('kind', [{}, {'progressive': True}, {'restart_marker_blocks': 3}], ids=str)
def test_jpegs_of_printing_inks_are_read_as_opencv_reads_them(tmp_path, kind):
    inks = np.random.default_rng(0).integers(0, 256, (40, 50, 4), np.uint8)
    PIL.Image.fromarray(inks, 'CMYK').save(tmp_path / 'a.jpg', **kind)
    expected = cv2.imread(str(tmp_path / 'a.jpg'))
    assert (pictures.read_image(str(tmp_path / 'a.jpg')) == expected[..., ::-1]).all()


@pytest.mark.parametrize('header, reason', [
    ((2_000_000, 1, 8, 2, 0, 0, 0), 'is 2000000 x 1 by its header; .* 1,000,000 per side'),
    ((2, 2, 3, 0, 0, 0, 0), 'header makes no sense'), ((2, 2, 16, 3, 0, 0, 0), 'header makes no sense'),
    ((2, 2, 8, 5, 0, 0, 0), 'header makes no sense'), ((2, 2, 8, 2, 1, 0, 0), 'header makes no sense'),
    ((2, 2, 8, 2, 0, 0, 2), 'header makes no sense')])
def test_png_that_libpng_would_complain_of_is_refused_silently(tmp_path, header, reason, capfd):
    data = (PNG_SIGNATURE + png_chunk(b'IHDR', struct.pack('>IIBBBBB', *header))
            + png_chunk(b'IDAT', zlib.compress(bytes(99))) + png_chunk(b'IEND', b''))
    with pytest.raises(InputError, match=f'a.png: .*{reason}'):
        pictures.read_image(save(tmp_path / 'a.png', data))
    assert capfd.readouterr() == ('', '')


@pytest.mark.parametrize('extension', ['.png', '.jpg', '.bmp'])
def test_trailing_bytes_are_passed_over(tmp_path, extension):
    data = encoded(extension, photo())
    assert pictures.read_image(save(tmp_path / f'a{extension}', data + b'more')).shape == (36, 64, 3)


def test_png_with_a_flipped_bit_is_refused_silently(tmp_path, capfd):
    data = bytearray(encoded('.png', photo(128, 128)))
    data[len(data) // 2] ^= 1
    with pytest.raises(InputError, match='flipped.png: is damaged'):
        pictures.read_image(save(tmp_path / 'flipped.png', bytes(data)))
    data = encoded('.bmp', photo())
    with pytest.raises(InputError, match='odd.bmp'):
        pictures.read_image(save(tmp_path / 'odd.bmp', data[:28] + b'\x63' + data[29:]))
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
        pictures.read_image(save(tmp_path / 'bomb.png', make()))


@pytest.mark.parametrize('data, reason', [
    (b'', 'is empty'), (b'hello\n', 'is not a PNG'), (b'GIF89a' + bytes(99), 'is not a PNG'),
    (b'\xff\xd8\xff', 'cut off'), (b'\xff\xd8\xff\xe0\0\0' + bytes(60), 'broken'), (PNG_SIGNATURE, 'cut off'),
    (b'\xff\xd8\xff\xda\0\2\xff\xd9', 'header is missing'), (b'BM', 'is not a PNG'),
    (b'BM' + bytes(60), 'gives no size'), (PNG_SIGNATURE + png_chunk(b'IEND', b''), 'header is missing')])
@pytest.mark.parametrize('read', [pictures.read_image, pictures.read_label])
def test_what_is_no_picture_is_refused(tmp_path, read, data, reason):
    path = save(tmp_path / 'a.jpg', data)
    with pytest.raises(InputError) as error:
        read(path)
    assert str(error.value).startswith(f'{path}: ') and reason in str(error.value)
    assert '\n' not in str(error.value)


def test_missing_file_and_folder_are_refused(tmp_path):
    with pytest.raises(InputError, match='gone.png: no such file'):
        pictures.read_image(str(tmp_path / 'gone.png'))
    with pytest.raises(InputError, match='is a folder'):
        pictures.read_image(str(tmp_path))


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
    pictures.write_image(str(tmp_path / 'a.png'), label)
    read = pictures.read_label(str(tmp_path / 'a.png'))
    assert read.dtype == dtype and (read == label).all()


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
@pytest.mark.parametrize('channels', [3, 4])
def test_read_label_takes_grey_stored_as_colours(tmp_path, dtype, channels):
    label = np.full((3, 4, channels), np.iinfo(dtype).max - 5, dtype)
    path = save(tmp_path / 'grey.png', encoded('.png', label))
    assert pictures.read_label(path).tolist() == label[..., 0].tolist()


@pytest.mark.parametrize('most', [1, 3, 15, 255])   # of an index: 1, 2, 4, 8 bits per pixel
@pytest.mark.parametrize('colours', [[0, 0, 0, 255, 0, 0, 255, 0, 0], [9, 9, 9]], ids=['two of one colour', 'grey'])
def test_read_label_takes_the_indices_of_a_palette(tmp_path, most, colours):
    label = np.random.default_rng(0).integers(0, most + 1, (9, 13), np.uint8)
    picture = PIL.Image.fromarray(label)
    picture.putpalette((colours * 256)[:3 * most + 3])
    picture.save(tmp_path / 'a.png', bits=most.bit_length(), transparency=1)
    assert (tmp_path / 'a.png').read_bytes()[24:26] == bytes([most.bit_length(), 3])
    read = pictures.read_label(str(tmp_path / 'a.png'))
    assert read.dtype == np.uint8 and (read == label).all()


def test_damaged_palette_labels_are_refused(tmp_path):
    header = png_chunk(b'IHDR', struct.pack('>IIBBBBB', 40, 30, 8, 3, 0, 0, 0)) + png_chunk(b'PLTE', bytes(6))
    for pixels in (zlib.compress(bytes(30 * 41))[:-9], zlib.compress(bytes(41 * 5)), b'no zlib', b''):
        data = PNG_SIGNATURE + header + png_chunk(b'IDAT', pixels) + png_chunk(b'IEND', b'')
        with pytest.raises(InputError, match='a.png: is damaged'):
            pictures.read_label(save(tmp_path / 'a.png', data))
    with pytest.raises(InputError, match='a.png: is cut off'):
        pictures.read_label(save(tmp_path / 'a.png', data[:-14]))


@pytest.mark.parametrize('extension, dtype', [('.png', np.uint8), ('.png', np.uint16), ('.bmp', np.uint8)])
def test_each_colour_but_black_is_an_instance(tmp_path, extension, dtype):
    top = np.iinfo(dtype).max
    colours = np.array([[0, 0, 0], [top, 0, 0], [0, top, 0], [0, 0, top], [top, 0, 1], [7, 7, 7]], dtype)
    label = np.random.default_rng(0).integers(0, 6, (20, 30))
    read = pictures.read_label(save(tmp_path / f'a{extension}', encoded(extension, colours[label])))
    pairs = set(zip(label.ravel().tolist(), read.ravel().tolist()))
    assert read.shape == (20, 30) and len(pairs) == 6 and {number for _, number in pairs} == set(range(6))
    assert (0, 0) in pairs


def test_a_coloured_label_without_black_has_no_background(tmp_path):
    pictures.write_image(str(tmp_path / 'a.png'), np.array([[[70, 0, 0], [70, 0, 0], [0, 0, 70]]], np.uint8))
    assert pictures.read_label(str(tmp_path / 'a.png')).tolist() in ([[1, 1, 2]], [[2, 2, 1]])


def test_a_photo_as_label_is_refused(tmp_path):
    with pytest.raises(InputError, match=r'a.png: has 2,\d\d\d colours, as a photo does'):
        pictures.read_label(save(tmp_path / 'a.png', encoded('.png', photo(48, 64))))


def test_resized_label_stays_on_its_line():
    """Lines two pixels wide at the small size: photo and label must meet within half a pixel."""
    image, label = np.zeros((90, 160, 3), np.uint8), np.zeros((90, 160), np.uint8)
    image[:, 61:71], label[:, 61:71] = 255, 9
    small, small_label = pictures.resize_image(image, SHAPE), pictures.resize_label(label, SHAPE)
    assert small.shape == (16, 32, 3) and set(np.unique(small_label)) == {0, 9}
    assert ((small[..., 0] > 127) == (small_label == 9)).all()


# ---- Writing ---------------------------------------------------------------------------------------------------------

def test_write_image_round_trip(tmp_path):
    for array in (photo(), photo()[..., 0], photo()[..., 0].astype(np.uint16) * 257):
        pictures.write_image(str(tmp_path / 'a.png'), array)
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
    files.write_file(str(tmp_path / 'link'), b'new', follow_links=True)
    assert os.path.islink(tmp_path / 'link') and (tmp_path / 'far/a.bin').read_bytes() == b'new'
    assert sorted(os.listdir(tmp_path)) == ['far', 'link'] and os.listdir(tmp_path / 'far') == ['a.bin']


@pytest.mark.parametrize('make', [
    os.mkfifo, lambda path: os.symlink('victim', path), lambda path: os.symlink('/dev/full', path),
    lambda path: os.symlink('nowhere', path)], ids=['pipe', 'link', 'link to a device', 'dangling link'])
def test_what_is_in_the_place_of_a_file_is_replaced(tmp_path, make):
    (tmp_path / 'victim').write_bytes(b'mine')
    make(tmp_path / 'a.bin')
    files.write_file(str(tmp_path / 'a.bin'), b'new')
    assert stat.S_ISREG(os.lstat(tmp_path / 'a.bin').st_mode) and (tmp_path / 'a.bin').read_bytes() == b'new'
    assert (tmp_path / 'victim').read_bytes() == b'mine' and sorted(os.listdir(tmp_path)) == ['a.bin', 'victim']


@pytest.mark.parametrize('name', ['.a.bin.tmp', f'{files.UNFINISHED}{"00" * 8}'])
def test_no_link_beside_a_file_is_followed(tmp_path, name, monkeypatch):
    """Not even one whose name is guessed right."""
    monkeypatch.setattr('secrets.token_hex', lambda count: '00' * count)
    victim = save(tmp_path / 'victim', b'mine')
    os.symlink(victim, tmp_path / name)
    try:
        files.write_file(str(tmp_path / 'a.bin'), b'new')
    except InputError as error:
        assert 'a.bin: cannot be written: File exists' in str(error)
    assert (tmp_path / 'victim').read_bytes() == b'mine' and os.path.islink(tmp_path / name)


def test_written_files_have_the_permissions_of_the_umask(tmp_path):
    mask = os.umask(0o027)
    try:
        files.write_file(str(tmp_path / 'a.bin'), b'new')
    finally:
        os.umask(mask)
    assert stat.S_IMODE(os.stat(tmp_path / 'a.bin').st_mode) == 0o640


def test_a_pipe_is_written_to_and_stays_one(tmp_path):
    path = str(tmp_path / 'pipe')
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)   # open at this end, so that the other does not wait
    files.check_output_file('--json', path)
    files.write_file(path, b'data', follow_links=True)
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
    names = [os.path.basename(path) for path in pictures.list_images(str(tmp_path))]
    assert names == ['a.png', 'b.JPG', 'c.Bmp', 'd.jpeg']
    for path, reason in ((tmp_path / 'g.png', 'holds no pictures'), (tmp_path / 'no', 'no such folder'),
                         (tmp_path / 'f.txt', 'is not a folder')):
        with pytest.raises(InputError, match=f'{path.name}: {reason}'):
            pictures.list_images(str(path))
