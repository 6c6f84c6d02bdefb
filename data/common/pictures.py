"""Pictures from and to disk: checked before they are decoded, written whole or not at all.

Pictures are uint8 RGB [h, w, 3], labels uint8 or uint16 [h, w]; image_shape is (width, height), as in OpenCV. Whatever
is wrong with a file is an InputError of one line that names it.
"""
import itertools
import io
import os
import re
import zlib

import cv2
import numpy as np

from data.common.command_line import InputError
from data.common.files import list_folder, read_file, write_file

IMAGE_EXTENSIONS = ('.bmp', '.jpeg', '.jpg', '.png')
MAX_PIXELS = 2 ** 26          # 8192 x 8192: more is refused by the header alone, before any memory is taken
MAX_SIDE = 10 ** 6            # pixels; libpng refuses more, in its own words
MAX_FILE_BYTES = 2 ** 29      # no picture within MAX_PIXELS comes near this
MAX_LABEL_COLOURS = 1000      # a coloured label with more is a photo, or has smoothed edges
PNG_BITS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}   # allowed per type of colour
JPEG_RESTART = re.compile(rb'\xff+[\xd0-\xd7]')
JPEG_MARKER = re.compile(rb'\xff[^\x00\xd0-\xd7\xff]')   # not what follows 0xff within a scan: 0, restarts, fill bytes
FILLER = bytes(range(254, 0, -2))   # put where a scan ends, what has to change nothing; unlike the zeros of libjpeg
# On road photos half the time of OpenCV's level 1 to write (32 ms at 1280 x 720), and a third less to read
# (20 ms), for files 8 % larger.
PNG_PARAMETERS = (cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE,
                  cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP)

# Every failure below becomes an InputError; OpenCV's own log lines would only garble a progress bar.
(cv2.setLogLevel if hasattr(cv2, 'setLogLevel') else cv2.utils.logging.setLogLevel)(0)   # OpenCV 4, OpenCV 5


# ---- Reading pictures ------------------------------------------------------------------------------------------------

def read_image(path):
    """Reads a photo. -> uint8 [h, w, 3] RGB, upright if a JPEG's EXIF says how the camera was held

    Grey, palette, 16-bit and RGBA pictures work (16 bits are cut to 8, alpha is dropped).
    Raises InputError if it is not a whole PNG, JPEG or BMP of at most MAX_PIXELS.
    """
    return cv2.cvtColor(_decode(path, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def read_label(path):
    """Reads a label. -> uint8 or uint16 [h, w], a number per instance, 0 for the background

    Grey pictures, also those stored as RGB, have the numbers as stored, and PNGs with a palette (VOC, DAVIS, CVPPP)
    their indices. In coloured pictures, each colour but black is an instance. Alpha is dropped.
    Raises InputError as read_image does, and if a label has more than MAX_LABEL_COLOURS colours.
    """
    label = _decode(path, cv2.IMREAD_UNCHANGED)
    if label.ndim == 3:
        indices = _palette_indices(path)
        if indices is not None:
            return indices
        if (label[..., :1] != label[..., 1:3]).any():
            return _number_colours(path, label)
        label = np.ascontiguousarray(label[..., 0])
    return label


def _palette_indices(path):
    """-> uint8 [h, w], None if a sound picture is not a PNG with a palette, which OpenCV replaces by its colours"""
    import PIL.Image   # takes a moment, and few labels need it
    data = read_file(path, MAX_FILE_BYTES)
    if not data.startswith(b'\x89PNG') or data[25:26] != b'\x03':   # the type of colour
        return None
    try:
        return np.array(PIL.Image.open(io.BytesIO(_check_png(data))))
    except (IndexError, OSError, SyntaxError, ValueError):
        raise InputError(f'{path}: is damaged and cannot be decoded')


def _number_colours(path, label):
    """label: uint8 or uint16 [h, w, 3 or more] -> uint16 [h, w]: 0 where it is black, 1, 2, ... in its other colours"""
    colours = sum(label[..., i].ravel().astype(np.int64) << 16 * i for i in range(3))
    starts = np.flatnonzero(np.diff(colours, prepend=-1))   # of runs of one colour, as sorting all pixels is slow
    values, index = np.unique(colours[starts], return_inverse=True)
    if len(values) > MAX_LABEL_COLOURS:
        raise InputError(f'{path}: has {len(values):,} colours, as a photo does; a label has one grey value, palette '
                         f'index or colour per instance, up to {MAX_LABEL_COLOURS:,} colours, and no smoothed edges')
    numbers = (index + bool(values[0])).astype(np.uint16)
    return np.repeat(numbers, np.diff(starts, append=colours.size)).reshape(label.shape[:2])


def _decode(path, flags):
    """The picture in a file, once its header and its end have been found sound. flags: of cv2.imread, and -> as it"""
    data = read_file(path, MAX_FILE_BYTES)
    if not data:
        raise InputError(f'{path}: is empty')
    try:
        data, filled, orientation = _check_picture(data)
        if filled:
            return _decode_silently(data, filled, orientation if flags == cv2.IMREAD_COLOR else 1, flags)
        array = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except IndexError:   # of a byte beyond the end
        raise InputError(f'{path}: is cut off before its end')
    except ValueError as error:
        raise InputError(f'{path}: {error}')
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise MemoryError from None
        array = None
    if array is None:
        raise InputError(f'{path}: is damaged and cannot be decoded')
    return array


def _decode_silently(data, filled, orientation, flags):
    """A JPEG of several scans or with restarts, as cv2.imdecode decodes it. Raises ValueError if it is damaged.

    By Pillow, whose libjpeg prints nothing. Where a scan was cut, libjpeg reads on with zeros, or in `filled` with what
    is there instead: if the picture is not the same, data are missing. It takes 2.5 times as long as cv2.imdecode.
    """
    import PIL.Image   # takes a moment, and few photos need it
    try:
        with PIL.Image.open(io.BytesIO(data)) as image, PIL.Image.open(io.BytesIO(filled)) as other:
            array = np.asarray(image)
            is_whole = (array == np.asarray(other)).all()
    except (OSError, ValueError):
        raise ValueError('is damaged and cannot be decoded')
    if not is_whole:
        raise ValueError('is cut off before its end')
    if array.ndim == 3 and array.shape[2] == 4:   # CMYK, which Pillow inverts
        array, black = np.int32(255) - array[..., :3], np.int32(255) - array[..., 3:]
        array = np.uint8(black - ((255 - array) * black >> 8))
    if orientation >= 5:
        array = array.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if array.ndim == 2:
        return cv2.cvtColor(array, cv2.COLOR_GRAY2BGR) if flags == cv2.IMREAD_COLOR else array.copy()
    return np.ascontiguousarray(array[..., ::-1])


def _check_picture(data):
    """Checks the bytes of a picture file. -> (what to decode of them, `filled` and orientation as _check_jpeg has them)

    Raises ValueError, with the reason, or IndexError if they cannot be a whole picture.

    Decoders differ in what they make of a damaged file, some return the missing part as grey without a word, and they
    write to stderr, without the name of the file. So what can be found without decoding is found before. A flipped bit
    within a JPEG's scan cannot; where it makes a code that the tables do not have, libjpeg still prints a line of its
    own, if there is one scan without restarts (4 of 750 damaged ones).
    """
    if data.startswith(b'\x89PNG\r\n\x1a\n'):
        return _check_png(data), None, 1
    if data.startswith(b'\xff\xd8\xff'):
        return _check_jpeg(data)
    if data.startswith(b'BM') and len(data) >= 26:
        if len(data) < int.from_bytes(data[2:6], 'little'):
            raise ValueError('is cut off before its end')
        if int.from_bytes(data[14:18], 'little') == 12:   # the header of OS/2 has 16-bit sizes
            _check_size(int.from_bytes(data[18:20], 'little'), int.from_bytes(data[20:22], 'little'))
        else:   # a negative height says that the rows run from the top
            _check_size(abs(int.from_bytes(data[18:22], 'little', signed=True)),
                        abs(int.from_bytes(data[22:26], 'little', signed=True)))
        return data, None, 1
    raise ValueError('is not a PNG, JPEG or BMP picture')


def _check_size(width, height):
    if not width * height:
        raise ValueError('is damaged: its header gives no size')
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        raise ValueError(f'is {width} x {height} by its header; up to {MAX_PIXELS:,} pixels, and {MAX_SIDE:,} per '
                         'side, are read')


def _check_png(data):
    """Checks the chunks of a PNG. -> the signature and the chunks that hold the picture

    The others (text, profiles, time) would only make libpng print warnings.
    """
    kept, position, kind = [data[:8]], 8, None
    while kind != b'IEND':
        length, kind = int.from_bytes(data[position:position + 4], 'big'), data[position + 4:position + 8]
        end = position + 12 + length
        if end > len(data):
            raise ValueError('is cut off before its end')
        if kind[:1].isupper():
            if zlib.crc32(memoryview(data)[position + 4:end - 4]) != int.from_bytes(data[end - 4:end], 'big'):
                raise ValueError('is damaged: the checksum of a part of it is wrong')
            kept.append(data[position:end])
        if position == 8 and (kind != b'IHDR' or length != 13):
            raise ValueError('is damaged: its header is missing')
        position = end
    _check_size(int.from_bytes(data[16:20], 'big'), int.from_bytes(data[20:24], 'big'))
    bits, colour, compression, filtering, interlace = data[24:29]
    if bits not in PNG_BITS.get(colour, ()) or compression or filtering or interlace > 1:
        raise ValueError('is damaged: its header makes no sense')
    return b''.join(kept)


def _check_jpeg(data):
    """Walks through the segments of a JPEG, and the scans if it is not an ordinary one. -> (bytes, filled, orientation)

    An ordinary JPEG, a single scan without restarts, loses its end marker: a decoder that then runs out of data fails,
    while at a marker it would fill up what is missing with grey. Filled is then None.

    Of other JPEGs, the bytes are without what is not needed to decode them, and `filled` is the same with FILLER
    wherever a scan ends or restarts, see _decode_silently. In several scans, every coefficient has to be there to its
    last bit. orientation: 1..8 as in EXIF.
    """
    position, missing, restarts, orientation, kept, filled = 2, None, False, 1, [data[:2]], [data[:2]]
    while True:
        if data[position] != 0xff:
            raise ValueError('is damaged: its header is broken')
        marker = data[position + 1]
        if marker == 0xff:   # a fill byte
            position += 1
            continue
        if marker == 0xd9:   # end of the image
            if missing is None or missing:
                raise ValueError('is cut off before its end')
            return b''.join((*kept, b'\xff\xd9')), b''.join((*filled, b'\xff\xd9')), orientation
        end = position + 2 + int.from_bytes(data[position + 2:position + 4], 'big')
        segment = data[position:end]
        if 0xc0 <= marker <= 0xcf and marker not in (0xc4, 0xc8, 0xcc):   # a start of frame
            _check_size(int.from_bytes(segment[7:9], 'big'), int.from_bytes(segment[5:7], 'big'))
            is_sequential, components = marker in (0xc0, 0xc1, 0xc9), segment[9]
            missing = set(itertools.product(segment[10:10 + 3 * components:3], range(64)))
        if marker == 0xdd:
            restarts = any(segment[4:])
        if marker == 0xe1 and segment[4:10] == b'Exif\0\0':
            orientation = _orientation(segment[10:])
        if not 0xe1 <= marker <= 0xed and marker not in (0xef, 0xfe):   # what programs have to say
            kept.append(segment)
            filled.append(segment)
        if marker == 0xda:   # start of a scan
            if missing is None:
                raise ValueError('is damaged: its header is missing')
            in_scan = segment[4]
            next_marker = JPEG_MARKER.search(data, end)
            if not next_marker:
                raise ValueError('is cut off before its end')
            is_single = is_sequential and in_scan == components
            if is_single and not restarts:
                # Decoders look some bytes ahead; zeros are a valid code in every table.
                return b''.join((memoryview(data)[:next_marker.start()], bytes(8))), None, orientation
            first, last, bits_left = (0, 63, 0) if is_sequential else (segment[-3], segment[-2], segment[-1] & 15)
            if not bits_left:
                missing.difference_update(itertools.product(segment[5:5 + 2 * in_scan:2], range(first, last + 1)))
            scan = data[end:next_marker.start()].rstrip(b'\xff')   # fill bytes
            kept.append(scan)
            filled += [JPEG_RESTART.sub(lambda restart: FILLER + restart[0], scan), FILLER]
            if is_single:
                return b''.join((*kept, bytes(8))), b''.join((*filled, bytes(8))), orientation
            end = next_marker.start()
        position = end


def _orientation(tiff):
    """How the camera was held, by the EXIF of a photo. -> 1..8, 1 being upright"""
    def number(start, length):
        return int.from_bytes(tiff[start:start + length], 'little' if tiff[:2] == b'II' else 'big')
    first = number(4, 4) + 2
    entries = range(first, first + 12 * number(first - 2, 2), 12)
    orientation = next((number(entry + 8, 2) for entry in entries if number(entry, 2) == 0x112), 1)
    return orientation if orientation <= 8 else 1


def resize_image(image, image_shape):
    """Bilinear. -> uint8 [height, width, 3] of image_shape"""
    return cv2.resize(image, tuple(image_shape), interpolation=cv2.INTER_LINEAR)


def resize_label(label, image_shape):
    """Nearest neighbour, pixel centres as in resize_image. -> [height, width] of image_shape, of the label's dtype"""
    return cv2.resize(label, tuple(image_shape), interpolation=cv2.INTER_NEAREST_EXACT)


# ---- Writing pictures -----------------------------------------------------------------------------------------------

def encode(image, extension='.png'):
    """-> the bytes of a picture file, the same for the same array. image: as for write_image"""
    if image.ndim == 3:
        image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    return cv2.imencode(extension, image, PNG_PARAMETERS)[1].tobytes()


def write_image(path, image):
    """Writes a uint8 RGB [h, w, 3] or a uint8 or uint16 grey [h, w] array in the format of the path's extension."""
    write_file(path, encode(image, os.path.splitext(path)[1].lower()))


def list_images(folder, advice=''):
    """-> sorted paths of the pictures in a folder, but for hidden ones. Raises InputError if there are none."""
    paths = [os.path.join(folder, name) for name in list_folder(folder, advice)
             if name.lower().endswith(IMAGE_EXTENSIONS) and not name.startswith('.')]
    paths = [path for path in paths if not os.path.isdir(path)]
    if not paths:
        raise InputError(f'{folder}: holds no pictures ({", ".join(IMAGE_EXTENSIONS)})')
    return paths
