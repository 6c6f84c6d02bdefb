"""From files to arrays: where photos and labels are read, checked, resized, augmented and batched.

image_shape is (width, height) as in OpenCV. Images are RGB uint8 [h, w, 3], raw 0..255: the graph normalises
them. Labels are [h, w] with one number an instance, 0 for the background; the numbers themselves mean
nothing. Whatever is wrong with a file is an InputError of one line that names it.
"""

import collections
import functools
import os
import statistics
import tempfile
import threading
import zlib

import cv2
import numpy as np

from data.command_line import InputError

HALF_WRITTEN = '.unfinished'  # a file beside images/ and labels/: what is in them does not belong together yet
# Of what a model reads and gives; more, by a slip or in a stranger's file, would take all memory.
MAX_SIDE, MAX_MODEL_PIXELS, MAX_FEATURE_DIM = 2 ** 15, 2 ** 24, 2 ** 10
IMAGE_EXTENSIONS = ('.bmp', '.jpeg', '.jpg', '.png')
MAX_PIXELS = 2 ** 26          # 8192 x 8192: more is refused by the header alone, before any memory is taken
MAX_FILE_BYTES = 2 ** 29      # no picture within MAX_PIXELS comes near this
# On road photos half the time of OpenCV's level 1 to write (32 ms at 1280 x 720), and a third less to read
# (20 ms), for files 8 % larger.
PNG_PARAMETERS = (cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE,
                  cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP)

# Every failure below becomes an InputError; OpenCV's own log lines would only garble a progress bar.
(cv2.setLogLevel if hasattr(cv2, 'setLogLevel') else cv2.utils.logging.setLogLevel)(0)   # OpenCV 4, OpenCV 5


# ---- Reading pictures --------------------------------------------------------------------------------------

def read_image(path):
    """Read a photo: uint8 [h, w, 3] RGB, turned upright where a JPEG's EXIF says so.

    Grey, palette, 16-bit and RGBA pictures work (16 bits are cut to 8, alpha is dropped).
    Raises InputError for what is not a whole PNG, JPEG or BMP, or has more than MAX_PIXELS.
    """
    return cv2.cvtColor(_decode(path, _read_checked(path), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def read_label(path):
    """Read a label: uint8 or uint16 [h, w], the numbers as stored. Raises InputError as read_image does."""
    label = _decode(path, _read_checked(path), cv2.IMREAD_UNCHANGED)
    if label.ndim == 3:
        if (label[..., :1] != label[..., 1:3]).any():
            raise InputError(f'{path}: is coloured; a label has one channel, a grey value an instance')
        label = np.ascontiguousarray(label[..., 0])
    return label


def _decode(path, data, flags):
    try:
        array = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except (cv2.error, MemoryError):
        array = None
    if array is None:
        raise InputError(f'{path}: is damaged and cannot be decoded')
    return array


def _read_checked(path):
    """The bytes of a picture file, once its header and its end have been found sound."""
    try:
        if os.path.isdir(path):
            raise InputError(f'{path}: is a folder, not a picture')
        if not os.path.isfile(path):
            raise InputError(f'{path}: is no file' if os.path.exists(path) else f'{path}: no such file')
        if os.path.getsize(path) > MAX_FILE_BYTES:
            raise InputError(f'{path}: is too large for a picture ({os.path.getsize(path):,} bytes)')
        with open(path, 'rb') as file:
            data = file.read()
    except FileNotFoundError:   # removed just now
        raise InputError(f'{path}: no such file')
    except OSError as error:
        raise InputError(f'{path}: cannot be read: {error.strerror}')
    if not data:
        raise InputError(f'{path}: is empty')
    try:
        width, height, data = _header(data)
    except (ValueError, IndexError) as error:
        raise InputError(f'{path}: {error}')
    if not width * height:
        raise InputError(f'{path}: is damaged: its header gives no size')
    if width * height > MAX_PIXELS:
        raise InputError(f'{path}: is {width} x {height} by its header; up to {MAX_PIXELS:,} pixels are read')
    return data


def _header(data):
    """(width, height, data to decode) of a picture file's bytes; ValueError says why it is none.

    Decoders differ in what they make of a file that was cut off: some return the missing part as grey without
    a word.
    """
    if data.startswith(b'\x89PNG\r\n\x1a\n'):
        return _png_header(data)
    if data.startswith(b'\xff\xd8\xff'):
        return _jpeg_header(data)
    if data.startswith(b'BM') and len(data) >= 26:
        if len(data) < int.from_bytes(data[2:6], 'little'):
            raise ValueError('is cut off before its end')
        if int.from_bytes(data[14:18], 'little') == 12:   # the header of OS/2 has 16-bit sizes
            return int.from_bytes(data[18:20], 'little'), int.from_bytes(data[20:22], 'little'), data
        # A negative height says that the rows run from the top.
        return (abs(int.from_bytes(data[18:22], 'little', signed=True)),
                abs(int.from_bytes(data[22:26], 'little', signed=True)), data)
    raise ValueError('is not a PNG, JPEG or BMP picture')


def _png_header(data):
    """The chunks of a PNG, each checked; only those that hold the picture are handed on to be decoded."""
    kept, position, kind = [data[:8]], 8, None
    while kind != b'IEND':
        length, kind = int.from_bytes(data[position:position + 4], 'big'), data[position + 4:position + 8]
        end = position + 12 + length
        if end > len(data):
            raise ValueError('is cut off before its end')
        if kind[:1].isupper():   # the others (text, profiles, time) would only make libpng print warnings
            if zlib.crc32(memoryview(data)[position + 4:end - 4]) != int.from_bytes(data[end - 4:end], 'big'):
                raise ValueError('is damaged: the checksum of a part of it is wrong')
            kept.append(data[position:end])
        if position == 8 and (kind != b'IHDR' or length != 13):
            raise ValueError('is damaged: its header is missing')
        position = end
    return int.from_bytes(data[16:20], 'big'), int.from_bytes(data[20:24], 'big'), b''.join(kept)


def _jpeg_header(data):
    """The segments of a JPEG up to its first scan, then the end marker, which scans cannot contain."""
    position, size = 2, None
    while position + 4 <= len(data):
        if data[position] != 0xff:
            raise ValueError('is damaged: its header is broken')
        marker = data[position + 1]
        if marker == 0xff:   # a fill byte
            position += 1
            continue
        if 0xc0 <= marker <= 0xcf and marker not in (0xc4, 0xc8, 0xcc):   # a start of frame
            size = (int.from_bytes(data[position + 7:position + 9], 'big'),
                    int.from_bytes(data[position + 5:position + 7], 'big'))
        if marker == 0xda:   # start of scan
            if size is None:
                raise ValueError('is damaged: its header is missing')
            if data.find(b'\xff\xd9', position) < 0:
                raise ValueError('is cut off before its end')
            return size + (data,)
        position += 2 + int.from_bytes(data[position + 2:position + 4], 'big')
    raise ValueError('is cut off before its end')


def resize_image(image, image_shape):
    """Bilinear, to image_shape (width, height)."""
    return cv2.resize(image, tuple(image_shape), interpolation=cv2.INTER_LINEAR)


def resize_label(label, image_shape):
    """Nearest neighbour, to image_shape (width, height); pixel centres lie as in resize_image."""
    return cv2.resize(label, tuple(image_shape), interpolation=cv2.INTER_NEAREST_EXACT)


# ---- Writing files -----------------------------------------------------------------------------------------

def write_file(path, data):
    """Write bytes so that path is, at any instant, either what it was or whole. Raises InputError.

    Where path is a link, what it points to is written; a device or a pipe, such as /dev/null, is written to.
    """
    target = os.path.realpath(path)
    folder, name = os.path.split(target)
    # One name for each target: what a killed run leaves behind, the next run writes over.
    aside = os.path.join(folder, f'.{name}.tmp')
    try:
        if _is_special(path):
            with open(path, 'wb') as file:
                file.write(data)
            return
        try:
            with open(aside, 'wb') as file:
                file.write(data)
            os.replace(aside, target)
        except BaseException:   # also Ctrl-C
            if os.path.exists(aside):
                os.remove(aside)
            raise
    except OSError as error:
        raise InputError(f'{path}: cannot be written: {error.strerror}')


def _is_special(path):
    return os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)


def check_output_file(flag, path):
    """See that the file named by a flag can be written, and make its folder. Raises InputError."""
    if os.path.isdir(path):
        raise InputError(f'{flag} {path}: is a folder; give the name of a file')
    if not _is_special(path):
        make_output_folder(os.path.dirname(os.path.realpath(path)))


def encode(image, extension='.png'):
    """The bytes of a picture file, the same for the same array. image: as for write_image."""
    if image.ndim == 3:
        image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    return cv2.imencode(extension, image, PNG_PARAMETERS)[1].tobytes()


def write_image(path, image):
    """Write a uint8 RGB [h, w, 3] or a uint8 or uint16 grey [h, w] array, as the extension says."""
    write_file(path, encode(image, os.path.splitext(path)[1].lower()))


def make_output_folder(path):
    """Create a folder, with its parents, and prove that files can be written there. Raises InputError."""
    try:
        os.makedirs(path, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise InputError(f'{path}: cannot be made a folder: a file of that name is in the way')
    except OSError as error:
        raise InputError(f'{path}: cannot be created: {error.strerror}')
    try:
        with tempfile.TemporaryFile(dir=path) as file:
            file.write(b'probe')
    except OSError as error:
        raise InputError(f'{path}: cannot be written: {error.strerror}')


def check_checkpoint_folder(path):
    """Raises InputError for a folder from which TensorFlow could not read a checkpoint that it had written there."""
    path = os.fspath(path)
    if '[' in path or '\\' in path and os.sep == '/':
        raise InputError(f'{path}: TensorFlow reads no checkpoint from a path with [ or \\ in it; rename the folder')


def list_folder(folder, advice=''):
    """Sorted names of what is in a folder of the user's. InputError, with the advice, where it cannot be listed."""
    try:
        return sorted(os.listdir(folder))
    except FileNotFoundError:
        problem = 'no such folder'
    except NotADirectoryError:
        problem = 'is not a folder'
    except OSError as error:
        problem = f'cannot be read: {error.strerror}'
    raise InputError(f'{folder}: {problem}{advice}')


def list_images(folder, advice=''):
    """Paths of the pictures in a folder, by name; hidden files are passed over. Raises InputError if none."""
    paths = [os.path.join(folder, name) for name in list_folder(folder, advice)
             if name.lower().endswith(IMAGE_EXTENSIONS) and not name.startswith('.')]
    paths = [path for path in paths if not os.path.isdir(path)]
    if not paths:
        raise InputError(f'{folder}: holds no pictures ({", ".join(IMAGE_EXTENSIONS)})')
    return paths


# ---- Data sets ---------------------------------------------------------------------------------------------

def find_samples(srcdir):
    """Pair srcdir/images/NAME.* with srcdir/labels/NAME.*: sorted (image_paths, label_paths).

    Raises InputError where a folder is missing, empty or half-written, or a picture has no partner.
    """
    if os.path.lexists(os.path.join(srcdir, HALF_WRITTEN)):
        raise InputError(f'{srcdir}: is half-written; run tusimple_dataset_processing.py again')
    by_name = []
    for folder in ('images', 'labels'):
        folder = os.path.join(srcdir, folder)
        paths = collections.defaultdict(list)
        for path in list_images(folder, '; make images and labels with python data/tusimple_dataset_processing.py DIR'):
            if folder.endswith('labels') and path.lower().endswith(('.jpg', '.jpeg')):
                raise InputError(f'{path}: a JPEG does not keep the grey values of a label; make it a PNG')
            paths[os.path.splitext(os.path.basename(path))[0]].append(path)
        for same in paths.values():
            if len(same) > 1:
                raise InputError(f'{same[1]}: has the same name as {same[0]}; which of the two is meant?')
        by_name.append({name: same[0] for name, same in paths.items()})
    images, labels = by_name
    alone = sorted(images.keys() ^ labels.keys())
    if alone:
        path = images.get(alone[0]) or labels[alone[0]]
        partner = 'label' if alone[0] in images else 'image'
        raise InputError(f'{path}: has no {partner} of the same name ({len(images)} images and '
                         f'{len(labels)} labels in {srcdir}, {len(alone)} without a partner)')
    return [images[name] for name in sorted(images)], [labels[name] for name in sorted(images)]


def split(image_paths, label_paths, seed=42):
    """Hold a tenth out, rounded up: ((train images, train labels), (validation images, validation labels)).

    As scikit-learn's train_test_split(test_size=0.1, random_state=seed) did in 2018. Of 2 to 10 samples one
    is held out. Raises InputError for fewer than two.
    """
    count = len(image_paths)
    if count < 2:
        raise InputError(f'{image_paths[0] if count else "no samples"}: at least two samples are needed, '
                         'one to train on and one to validate on')
    order = np.random.RandomState(seed).permutation(count)
    held_out = -(-count // 10)
    return tuple(([image_paths[i] for i in part], [label_paths[i] for i in part])
                 for part in (order[held_out:], order[:held_out]))


def read_sample(image_path, label_path):
    """read_image and read_label of one sample; InputError also where their sizes differ."""
    image, label = read_image(image_path), read_label(label_path)
    if image.shape[:2] != label.shape:
        raise InputError(f'{label_path}: is {label.shape[1]} x {label.shape[0]}, '
                         f'but its photo {image_path} is {image.shape[1]} x {image.shape[0]}')
    return image, label


def load_batch(image_paths, label_paths, image_shape):
    """Samples as they are, resized: images uint8 [b, h, w, 3] RGB and labels int32 [b, h, w]."""
    images, labels = [], []
    for paths in zip(image_paths, label_paths):
        image, label = read_sample(*paths)
        images.append(resize_image(image, image_shape))
        labels.append(resize_label(label, image_shape))
    return np.stack(images), np.stack(labels).astype(np.int32)


def get_batches_fn(batch_size, image_shape, image_paths, label_paths, seed=None):
    """Yield (images uint8 [b, h, w, 3], labels int32 [b, h, w]) for one epoch in a random order.

    image_shape is (width, height); the last batch may be smaller. Reads in the caller's thread; BatchQueue
    reads ahead.
    """
    order = np.random.default_rng(seed).permutation(len(image_paths))
    for start in range(0, len(order), batch_size):
        picked = order[start:start + batch_size]
        yield load_batch([image_paths[i] for i in picked], [label_paths[i] for i in picked], image_shape)


def get_validation_batch(data_dir, image_shape):
    """The held-out tenth of data_dir/images and data_dir/labels as one batch, as load_batch gives it."""
    _, validation = split(*find_samples(data_dir))
    return load_batch(*validation, image_shape)


# ---- Augmentation ------------------------------------------------------------------------------------------
# Each step is a pure function of a uint8 RGB image and a np.random.Generator. Ranges that are not said to be
# uniform are triangular, with the mode where nothing changes: most pictures stay close to what a camera
# gives.

FLIP = 0.5                 # probability; instance numbers carry no order, so a mirrored label keeps them
ROLL, PITCH, YAW = 3, 3, 5   # of the camera, degrees either way
ZOOM = (0.8, 1.45)          # focal length, as a ratio
STRETCH = 1.12             # of width, and as much less of height, as a ratio either way
SWAY = 0.3                 # of the camera to the side, as a ratio to its height above the road
FOCAL_LENGTH, HORIZON = 1.0, 0.38   # of a typical road camera, in widths and heights of the picture


def _around(rng, low, high, mode=0):
    return rng.triangular(low, mode, high)


def _ratio(rng, low, high):
    return np.exp(_around(rng, np.log(low), np.log(high)))


def camera_change(size, rng):
    """A 3x3 matrix that takes points of a photo of size (width, height) to where another camera sees them.

    Turned by roll, pitch and yaw, zoomed and stretched about the centre, maybe mirrored. Moving the camera
    sideways over a flat road shears the road about the horizon.
    """
    width, height = size
    focal = FOCAL_LENGTH * width
    roll, pitch, yaw = (np.radians(_around(rng, -limit, limit)) for limit in (ROLL, PITCH, YAW))
    (cr, sr), (cp, sp), (cy, sy) = ((np.cos(angle), np.sin(angle)) for angle in (roll, pitch, yaw))
    rotation = (np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]]) @ [[1, 0, 0], [0, cp, -sp], [0, sp, cp]]
                @ [[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    zoom, stretch, sway = _ratio(rng, *ZOOM), _ratio(rng, 1 / STRETCH, STRETCH), _around(rng, -SWAY, SWAY)
    old = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    new = old * [[zoom * stretch, 1, 1], [1, zoom / stretch, 1], [1, 1, 1]]
    shear = np.array([[1, sway, -sway * HORIZON * height], [0, 1, 0], [0, 0, 1]])
    flip = np.diag([-1.0, 1, 1]) if rng.random() < FLIP else np.eye(3)
    flip[0, 2] = width if flip[0, 0] < 0 else 0
    return flip @ new @ rotation @ np.linalg.inv(old) @ shear


def warp(image, label, matrix, image_shape):
    """Apply camera_change's matrix and resize, in one resampling: photo bilinear, label nearest.

    With the identity this is resize_image and resize_label. What the old camera did not see is filled with
    the photo's mean colour and labelled background: mirrored or smeared borders would show lanes that the
    label does not have.
    """
    height, width = label.shape
    to_pixel, from_pixel = np.eye(3), np.eye(3)
    to_pixel[:2, 2], from_pixel[:2, 2] = -0.5, 0.5   # a pixel's centre lies half a pixel from its corner
    resize = np.diag([image_shape[0] / width, image_shape[1] / height, 1])
    matrix = to_pixel @ resize @ matrix @ from_pixel
    return (cv2.warpPerspective(image, matrix, tuple(image_shape), flags=cv2.INTER_LINEAR,
                                borderMode=cv2.BORDER_CONSTANT, borderValue=cv2.mean(image)[:3]),
            cv2.warpPerspective(label, matrix, tuple(image_shape), flags=cv2.INTER_NEAREST))


def wear(image, label, rng):
    """Fade the paint of one lane or of all, over part of its length, into the road; the label stays."""
    height, width = label.shape
    counts = np.bincount(label.ravel())
    lanes = np.flatnonzero(counts[1:]) + 1
    if not len(lanes):
        return image
    lane = rng.choice(lanes)
    mask = (label == lane) if rng.random() < 0.6 else (label > 0)
    top, bottom = np.sort(rng.integers(0, height + 1, 2))
    mask[:top] = mask[bottom:] = False
    # Close by, paint is wider than its label.
    mask = cv2.dilate(mask.astype(np.uint8), np.ones((1, 5), np.uint8)) > 0
    paint, beside = image[mask], cv2.blur(image, (max(3, width // 12), 1))[mask]
    worn = image.copy()
    # The road at the paint's edge is not brightened.
    worn[mask] = paint - (paint - np.minimum(paint, beside)) * rng.uniform(0.3, 0.95)
    return worn


def cut_out(image, rng):
    """Hide parts of the road behind 1 to 3 boxes, flat ones or pieces of the same photo.

    The label goes on beneath, as TuSimple's does beneath vehicles.
    """
    height, width = image.shape[:2]
    image = image.copy()
    for _ in range(rng.integers(1, 4)):
        w = int(width * rng.uniform(0.03, 0.2)) + 1
        h = min(int(w * rng.uniform(0.4, 1.2)) + 1, height)
        x, y = rng.integers(0, width - w + 1), int(rng.uniform(0.3, 1) * (height - h))
        if rng.random() < 0.5:
            from_x, from_y = rng.integers(0, width - w + 1), rng.integers(0, height - h + 1)
            image[y:y + h, x:x + w] = image[from_y:from_y + h, from_x:from_x + w].copy()
        else:
            image[y:y + h, x:x + w] = rng.integers(10, 245) + rng.integers(-10, 11, 3)
    return image


def hard_shadows(image, rng):
    """1 to 3 shadows on the lower part: along the road, across it, of poles and twigs, of leaves.

    Uniform 25 to 70 % of the light is left, bluish. In a quarter of the cases light and shadow are exchanged.
    """
    height, width = image.shape[:2]
    top = int(height * rng.uniform(0.3, 0.55))
    shade = np.zeros((height, width), np.uint8)
    for _ in range(rng.integers(1, 4)):
        kind = rng.integers(4)
        if kind == 0:     # along
            x, half = rng.uniform(0, width, 2), width * rng.uniform(0.01, 0.3, 2) * (0.3, 1)
            points = [(x[0] - half[0], top), (x[0] + half[0], top),
                      (x[1] + half[1], height), (x[1] - half[1], height)]
            cv2.fillConvexPoly(shade, np.int32(points), 255)
        elif kind == 1:   # across
            y, depth = rng.uniform(top, height, 2), height * rng.uniform(0.02, 0.3, 2)
            points = [(0, y[0]), (width, y[1]), (width, y[1] + depth[1]), (0, y[0] + depth[0])]
            cv2.fillConvexPoly(shade, np.int32(points), 255)
        elif kind == 2:   # a pole or a bare tree
            ends = np.stack([rng.uniform(0, width, 2), rng.uniform(top, height, 2)], axis=1)
            ends[1] = ends[0] + (ends[1] - ends[0]) * rng.uniform(1, 3)
            thickness = int(rng.integers(1, max(3, width // 70)))
            cv2.line(shade, *np.int32(ends).tolist(), 255, thickness, cv2.LINE_AA)
            for _ in range(rng.integers(0, 8)):
                start = ends[0] + (ends[1] - ends[0]) * rng.random()
                twig = np.stack([start, start + rng.normal(0, width / 12, 2)])
                cv2.line(shade, *np.int32(twig).tolist(), 255, 1, cv2.LINE_AA)
        else:             # leaves
            spots = rng.random((rng.integers(8, 40), rng.integers(8, 40)), np.float32)
            spots = cv2.resize(spots, (width, height), interpolation=cv2.INTER_CUBIC)
            shade[(spots > rng.uniform(0.4, 0.7)) & (np.arange(height) > top)[:, None]] = 255
    if rng.random() < 0.25:
        shade = 255 - shade
    shade = cv2.GaussianBlur(shade, (0, 0), rng.uniform(0.4, 2))
    dark = rng.uniform(0.3, 0.75)
    light = 255 - np.arange(256)[:, None] * dark * [1, 0.97, 0.9]
    return cv2.multiply(image, cv2.LUT(cv2.merge([shade] * 3), light.astype(np.uint8)[None]), scale=1 / 255)


def haze(image, rng):
    """Fog or dust of uniform 15 to 75 % at the horizon, thinning towards the camera."""
    height = image.shape[0]
    rows = np.linspace(0, 1, height)
    nearness = np.maximum(rows - rng.uniform(0.25, 0.45), 0)
    density = rng.uniform(0.15, 0.75) * np.exp(-nearness / rng.uniform(0.1, 0.6))[:, None, None]
    colour = rng.uniform(140, 240) + rng.uniform(-12, 12, 3)
    fog = np.broadcast_to((colour * density).astype(np.uint8), image.shape)
    seen = np.broadcast_to((255 * (1 - density)).astype(np.uint8), image.shape)
    return cv2.add(cv2.multiply(image, np.ascontiguousarray(seen), scale=1 / 255), np.ascontiguousarray(fog))


def sun_glare(image, rng):
    """A low sun: a glow of uniform 60 to 250 grey levels, and below it maybe a streak on the road."""
    height, width = image.shape[:2]
    x, y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)
    sun_x, sun_y = rng.uniform(0, width), rng.uniform(-0.1, 0.45) * height

    def glow(radius_x, radius_y, centre_y):
        across = np.exp(-((x - sun_x) / (radius_x * width)) ** 2)
        along = np.exp(-((y - centre_y) / (radius_y * width)) ** 2)
        return np.outer(along, across).astype(np.float32)

    size = rng.uniform(0.05, 0.35)
    light = rng.uniform(60, 250) * glow(size, size, sun_y)
    if rng.random() < 0.5:
        light += rng.uniform(40, 160) * glow(rng.uniform(0.02, 0.1), 0.25, 0.8 * height)
    tints = 255 * np.linspace(0, 1, 256)[:, None] * [1, 0.97, 0.88]
    light = cv2.merge([np.minimum(light, 255).astype(np.uint8)] * 3)
    return cv2.add(image, cv2.LUT(light, tints.astype(np.uint8)[None]))


def blur(image, rng):
    """Out of focus (sigma 0.3 to 1.4 px), shaken (a line of 3 to 9 px) or coarse (x0.5 to x0.85), uniform."""
    kind = rng.integers(3)
    if kind == 0:
        return cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 1.4))
    if kind == 1:
        length, angle = rng.uniform(3, 9) / 2, rng.uniform(0, np.pi)
        kernel = np.zeros((11, 11), np.float32)
        step = length * np.array([np.cos(angle), np.sin(angle)])
        cv2.line(kernel, *np.int32(np.rint([5 - step, 5 + step])).tolist(), 1, 1, cv2.LINE_AA)
        return cv2.filter2D(image, -1, kernel / kernel.sum())
    height, width = image.shape[:2]
    ratio = rng.uniform(0.5, 0.85)
    small = (max(1, round(width * ratio)), max(1, round(height * ratio)))
    return resize_image(resize_image(image, small), (width, height))


def colour_temperature(image, rng):
    """White balance: blue against red up to x1.35, green against both up to x1.1."""
    warm, tint = _ratio(rng, 1 / 1.35, 1.35), _ratio(rng, 1 / 1.1, 1.1)
    curve = np.arange(256)[:, None] * np.array([warm, tint, 1 / warm])
    return cv2.LUT(image, np.minimum(curve, 255).astype(np.uint8)[None])


def tone(image, rng):
    """Gamma 1/2.2 to 1.6, contrast x0.5 to x1.4, brightness -35 to 50 grey levels: dusk to overexposed."""
    curve = 255 * np.linspace(0, 1, 256) ** _ratio(rng, 1 / 2.2, 1.6)
    curve = 127.5 + (curve - 127.5) * _ratio(rng, 0.5, 1.4) + _around(rng, -35, 50)
    return cv2.LUT(image, np.clip(curve, 0, 255).astype(np.uint8))


def saturation(image, rng):
    """Colours x0 to x1.8; one picture in ten is grey altogether."""
    factor = 0 if rng.random() < 0.1 else _around(rng, 0, 1.8, 1)
    grey = np.tile([0.299, 0.587, 0.114], (3, 1))
    return cv2.transform(image, grey + factor * (np.eye(3) - grey))


def shuffle_channels(image, rng):
    """Red, green and blue in another order: what is paint must not hang on what is yellow."""
    return cv2.transform(image, np.eye(3)[rng.permutation(3)])


NORMAL_QUANTILES = np.array([statistics.NormalDist().inv_cdf((i + 0.5) / 256) for i in range(256)])


def noise(image, rng):
    """Gaussian sensor noise with a standard deviation of uniform 1 to 12 grey levels."""
    # A table on random bytes: a tenth of the time of drawing normal floats.
    table = np.rint(NORMAL_QUANTILES * rng.uniform(1, 12)).astype(np.int16)
    dice = np.frombuffer(rng.bytes(image.size), np.uint8).reshape(image.shape)
    return cv2.add(image, cv2.LUT(dice, table), dtype=cv2.CV_8U)


def jpeg(image, rng):
    """Compression at quality 20 to 90."""
    _, data = cv2.imencode('.jpg', image, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(20, 91))])
    return cv2.imdecode(data, cv2.IMREAD_COLOR)


WEAR = 0.2   # probability
# (probability, step) in the order in which light meets them: road, air, lens, sensor, file.
PHOTOMETRIC = ((0.25, cut_out), (0.3, hard_shadows), (0.12, haze), (0.12, sun_glare), (0.2, blur),
               (0.6, colour_temperature), (0.8, tone), (0.4, saturation), (0.05, shuffle_channels),
               (0.4, noise), (0.2, jpeg))


def augment(image, label, rng, image_shape=None):
    """One random variation of a sample at image_shape (width, height; None: the photo's own size).

    image uint8 [h, w, 3] RGB and label uint8 or uint16 [h, w] of any size, best that of the camera, as
    everything is done in one resampling. The same rng state gives the same result.
    """
    height, width = label.shape
    matrix = camera_change((width, height), rng)
    image, label = warp(image, label, matrix, image_shape or (width, height))
    if rng.random() < WEAR:
        image = wear(image, label, rng)
    for probability, step in PHOTOMETRIC:
        if rng.random() < probability:
            image = step(image, rng)
    return image, label


# ---- The queue ---------------------------------------------------------------------------------------------

Batch = collections.namedtuple('Batch', 'images labels paths')
Batch.__doc__ = """One step's images uint8 [b, h, w, 3] RGB, labels int32 [b, h, w] and paths of the photos."""


class QueueEnd(Exception):
    """BatchQueue has no more to give: the coordinator or close() has stopped it."""


def steps_per_epoch(num_samples, batch_size):
    """batch_size: photos of a step, of all shards together."""
    return max(1, num_samples // batch_size)


class BatchQueue:
    """Batches read, decoded, augmented and resized ahead by threads, in an order that only the seed decides.

        with BatchQueue(images, labels, batch_size, image_shape, coord, seed=1) as queue:
            batch = queue.get()

    Epoch e visits the samples in a permutation drawn from (seed, e), without the remainder that fills no
    batch (another remainder each epoch); a data set smaller than a batch is gone through again to fill it.
    What happens to a sample is drawn from (seed, epoch, position). So step s is the same whatever the number
    of workers and wherever start_step began, and with shard (i, n) the n queues of batch b together give at
    each step what one queue of batch n b gives.

    coord is a tf.train.Coordinator (or has its should_stop, request_stop, raise_requested_exception,
    register_thread). An exception in a worker stops it, and get() raises that exception. At most capacity
    batches wait; decoded samples are kept in memory up to cache_bytes.
    """

    POLL_SECONDS = 0.1   # a coordinator that is stopped from outside cannot wake us
    OVERSAMPLING = 1.5   # photos are kept at this many times image_shape, so that warps stay sharp

    def __init__(self, image_paths, label_paths, batch_size, image_shape, coord, seed=0, workers=2,
                 capacity=8, augment=True, start_step=0, shard=(0, 1), cache_bytes=2 ** 30):
        if not len(image_paths) or len(image_paths) != len(label_paths):
            raise ValueError(f'{len(image_paths)} images and {len(label_paths)} labels make no data set')
        cv2.setNumThreads(1)   # the queue's threads use the cores; OpenCV's would get in TensorFlow's way
        self._paths = list(zip(image_paths, label_paths))
        self._batch_size, self._image_shape, self._capacity = batch_size, tuple(image_shape), capacity
        self._coord, self._seed, self._augment, self._shard = coord, seed, augment, shard
        self.steps_per_epoch = steps_per_epoch(len(self._paths), batch_size * shard[1])
        # The workers can be an epoch ahead of get().
        self._order = functools.lru_cache(2)(
            lambda epoch: np.random.default_rng([seed, epoch]).permutation(len(self._paths)))
        self._cache, self._cache_left = {}, cache_bytes
        # Samples are numbered through all steps; the condition guards everything that changes below.
        self._condition = threading.Condition()
        self._step = start_step                      # of the next get()
        self._next_sample = start_step * batch_size  # the next one for a worker to take
        self._ready = {}                             # number -> (image, label)
        self._closed = False
        self._threads = [threading.Thread(target=self._work, name=f'loader-{i}', daemon=True)
                         for i in range(workers)]
        for thread in self._threads:
            coord.register_thread(thread)
            thread.start()

    def get(self):
        """The next step's Batch. Never waits in vain: raises a worker's exception, or QueueEnd."""
        with self._condition:
            first = self._step * self._batch_size
            numbers = range(first, first + self._batch_size)
            while True:
                if self._closed:
                    raise QueueEnd('the queue is closed')
                if self._coord.should_stop():
                    self._coord.raise_requested_exception()
                    raise QueueEnd('the coordinator has stopped the queue')
                if all(number in self._ready for number in numbers):
                    break
                if not any(thread.is_alive() for thread in self._threads):
                    raise RuntimeError('all loader threads are dead')
                self._condition.wait(self.POLL_SECONDS)
            samples = [self._ready.pop(number) for number in numbers]
            self._step += 1
            self._condition.notify_all()
        return Batch(images=np.stack([image for image, _ in samples]),
                     labels=np.stack([label for _, label in samples]).astype(np.int32),
                     paths=tuple(self._paths[self._locate(number)[2]][0] for number in numbers))

    def close(self):
        """Stop the workers and wait until they are gone; the coordinator runs on. Can be called again."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()
        for thread in self._threads:
            thread.join()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _work(self):
        try:
            while not self._coord.should_stop():
                number = self._take()
                if number is None:
                    return
                sample = self._load(number)
                with self._condition:
                    self._ready[number] = sample
                    self._condition.notify_all()
        except BaseException as error:   # whatever it is, nobody may wait for this thread's samples
            if not isinstance(error, Exception):
                error = RuntimeError(f'a loader thread died: {error!r}')
            self._coord.request_stop((type(error), error, error.__traceback__))
            with self._condition:
                self._condition.notify_all()

    def _take(self):
        """The number of the next sample to make, once there is room for it; None at the end."""
        with self._condition:
            while not (self._closed or self._coord.should_stop()):
                if self._next_sample < (self._step + self._capacity) * self._batch_size:
                    self._next_sample += 1
                    return self._next_sample - 1
                self._condition.wait(self.POLL_SECONDS)
            return None

    def _locate(self, number):
        """(epoch, position in the epoch, index of the sample) of this shard's sample of that number."""
        step, within = divmod(number, self._batch_size)
        epoch, step = divmod(step, self.steps_per_epoch)
        shard, shards = self._shard
        position = (step * shards + shard) * self._batch_size + within
        return epoch, position, self._order(epoch)[position % len(self._paths)]

    def _load(self, number):
        epoch, position, index = self._locate(number)
        image, label = self._read(index)
        if self._augment:
            rng = np.random.default_rng([self._seed, epoch, position])
            return augment(image, label, rng, self._image_shape)
        return image, label

    def _read(self, index):
        """A sample at the size that is kept. Kept or read anew, it is the same."""
        sample = self._cache.get(index)
        if sample is None:
            image, label = read_sample(*self._paths[index])
            size = self._image_shape
            if self._augment:   # the camera's aspect ratio is kept, as rotations need it
                height, width = label.shape
                ratio = min(1, self.OVERSAMPLING * max(size[0] / width, size[1] / height))
                size = round(width * ratio), round(height * ratio)
            sample = resize_image(image, size), resize_label(label, size)
            cost = sum(array.nbytes for array in sample)
            with self._condition:
                if cost <= self._cache_left and index not in self._cache:
                    self._cache[index] = sample
                    self._cache_left -= cost
        return sample
