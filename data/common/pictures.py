"""Image files: read by Pillow, resized by OpenCV, written atomically.

Images are uint8 RGB [h, w, 3], labels uint8 or uint16 [h, w]; image_shape is (width, height), as in OpenCV. Every
problem with a file raises an InputError, whose one line names the file.
"""
import io
import os
import warnings

import cv2
import numpy as np
import PIL.Image

from data.common.command_line import InputError
from data.common.files import list_folder, read_file, write_file

IMAGE_EXTENSIONS = ('.bmp', '.gif', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp')
MAX_PIXELS = 2 ** 26       # 8192 x 8192; larger images are rejected by their header, before decoding
MAX_FILE_BYTES = 2 ** 29   # more than any image of MAX_PIXELS
MAX_LABEL_COLOURS = 1000   # a label with more is a photo or has smoothed edges
_FORMATS = ('BMP', 'GIF', 'JPEG', 'PNG', 'TIFF', 'WEBP')
_ORIENTATION = 0x112       # the EXIF tag
# On road images, half the write time of OpenCV's default and two thirds of the read time, for files 8 % larger.
PNG_PARAMETERS = (cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE,
                  cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP)

warnings.filterwarnings('ignore', module=r'PIL\.')   # about odd metadata


# ---- Reading ---------------------------------------------------------------------------------------------------------

def read_image(path):
    """Reads an image: first page or frame, 16 bits reduced to 8, without alpha. -> uint8 [h, w, 3] RGB, EXIF upright

    Raises InputError if it is damaged or truncated, not in one of _FORMATS, or has more than MAX_PIXELS.
    """
    return _read(path, is_label=False)[0]


def read_label(path):
    """Reads a label. -> uint8 or uint16 [h, w], a number per instance, 0 for the background, EXIF upright

    Grey values and the indices of a palette are kept; in a colour image, each colour except black is an instance.
    Raises InputError like read_image, and for more than MAX_LABEL_COLOURS colours.
    """
    return _read(path, is_label=True)[0]


def read_pair(image_path, label_path):
    """Reads an image and its label. -> (image as from read_image, label as from read_label), of equal size

    A label without an EXIF orientation that has the stored size of its image is turned with the image, even if it
    would fit either way (a square, or 180 degrees). Raises InputError if the sizes differ.
    """
    image, orientation = _read(image_path, is_label=False)
    label, own_orientation = _read(label_path, is_label=True)
    shape = image.shape[:2]
    if not own_orientation and label.shape == (shape[::-1] if orientation >= 5 else shape):
        label = _turn(label, orientation)
    if label.shape != shape:
        turned = f', turned by its EXIF orientation {orientation}' if orientation > 1 else ''
        raise InputError(f'{label_path}: is {label.shape[1]} x {label.shape[0]}, '
                         f'but its image {image_path} is {shape[1]} x {shape[0]}{turned}')
    return image, label


def _read(path, is_label):
    """-> (the array of read_image or read_label, its EXIF orientation: 1 to 8, or 0 for none)"""
    data = read_file(path, MAX_FILE_BYTES)
    try:
        with PIL.Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise PIL.Image.DecompressionBombError
            orientation = image.getexif().get(_ORIENTATION)
            array = _pixels(image, is_label)
            array = _turn(array, image.getexif().get(_ORIENTATION))   # again: Pillow turns a TIFF when loading it
    except PIL.UnidentifiedImageError:
        raise InputError(f'{path}: {"is not an image" if data else "is empty"}')
    except PIL.Image.DecompressionBombError:
        raise InputError(f'{path}: has more than {MAX_PIXELS:,} pixels by its header')
    except InputError as error:
        raise InputError(f'{path}: {error}')
    except MemoryError:
        raise
    except Exception as error:   # decoders raise OSError, SyntaxError, struct.error and others
        raise InputError(f'{path}: is damaged or cut off ({error})')
    return array, orientation if orientation in range(1, 9) else 0


def _turn(array, orientation):
    """-> the array [h, w, ...] of an image stored with this EXIF orientation, upright"""
    if orientation in (5, 6, 7, 8):
        array = array.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    return np.ascontiguousarray(array)


def _pixels(image, is_label):
    """image: PIL.Image. -> the array of read_image or read_label, not turned"""
    if image.mode[0] in 'IF':   # one channel of 16 or 32 bits
        grey = np.array(image)
        if image.mode == 'F' or grey.min() < 0 or grey.max() > 65535:
            raise InputError('has pixels that are not whole numbers from 0 to 65,535')
        return grey.astype(np.uint16) if is_label else np.repeat(np.uint8(grey >> 8)[..., None], 3, axis=2)
    if is_label and image.mode == 'P':
        return np.array(image)
    colours = np.array(image.convert('RGB'))
    return _number_colours(colours) if is_label else colours


def _number_colours(label):
    """label: uint8 [h, w, 3] -> uint8 [h, w] if it is grey, else uint16 [h, w]: 0 where black, 1, 2, ... elsewhere"""
    if (label == label[..., :1]).all():
        return label[..., 0]
    colours = (label @ np.array([2 ** 16, 2 ** 8, 1])).ravel()
    starts = np.flatnonzero(np.diff(colours, prepend=-1))   # of runs of one colour: sorting all pixels is slow
    values, index = np.unique(colours[starts], return_inverse=True)
    if len(values) > MAX_LABEL_COLOURS:
        raise InputError(f'has {len(values):,} colours, as a photo does; a label has one grey value, palette index or '
                         f'colour per instance, up to {MAX_LABEL_COLOURS:,} colours, and no smoothed edges')
    numbers = (index + bool(values[0])).astype(np.uint16)
    return np.repeat(numbers, np.diff(starts, append=colours.size)).reshape(label.shape[:2])


def list_images(folder, advice=''):
    """-> sorted paths of the images in a folder, without hidden files. Raises InputError if there are none."""
    paths = [os.path.join(folder, name) for name in list_folder(folder, advice) if is_picture(folder, name)]
    if not paths:
        raise InputError(f'{folder}: holds no images ({", ".join(IMAGE_EXTENSIONS)})')
    return paths


def is_picture(folder, name):
    return (name.lower().endswith(IMAGE_EXTENSIONS) and not name.startswith('.')
            and not os.path.isdir(os.path.join(folder, name)))


# ---- Resizing and writing --------------------------------------------------------------------------------------------

def resize_image(image, image_shape):
    """Resizes bilinearly. -> uint8 [height, width, 3] of image_shape"""
    return cv2.resize(image, tuple(image_shape), interpolation=cv2.INTER_LINEAR)


def resize_label(label, image_shape):
    """Resizes by nearest neighbour, pixel centres as in resize_image. -> [height, width] of image_shape, same dtype"""
    return cv2.resize(label, tuple(image_shape), interpolation=cv2.INTER_NEAREST_EXACT)


def encode(image, extension='.png'):
    """-> bytes of an image file. image: as in write_image"""
    if image.ndim == 3:
        image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    return cv2.imencode(extension, image, PNG_PARAMETERS)[1].tobytes()


def write_image(path, image):
    """Writes a uint8 RGB [h, w, 3] or a uint8 or uint16 grey [h, w] array in the format of the path's extension."""
    write_file(path, encode(image, os.path.splitext(path)[1].lower()))
