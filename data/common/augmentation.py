"""Random variations of a picture of any kind and its label: flipped, turned, scaled, moved, bent, in other light.

For pictures that have no up and down of their own, such as plants or cells from above; for road photos there is
data/lanes/road_augmentation.py. Pictures are uint8 RGB [h, w, 3], labels uint8 or uint16 [h, w]; image_shape is (width,
height), as in OpenCV.
"""
import cv2
import numpy as np

from data.lanes.road_augmentation import blur, colour_temperature, jpeg, noise, saturation, tone

_FLIP = 0.5            # probability, for each direction
_SCALE = (0.7, 1.4)    # as a ratio; log-uniform
_SHIFT = 0.1           # of the width and the height, either way, beyond what leaves the whole picture or frame in view
_BEND = 0.015          # standard deviation of the displacement, as a ratio to the shorter side
_BEND_CELLS = (3, 8)   # along a side, between which displacements are smooth: few bend the whole, many each instance
# (probability, step) in the order in which light passes them: lamp, lens, sensor, file. Nothing that hides parts of the
# picture, as the label of an instance holds only what is seen of it.
_PHOTOMETRIC = ((0.2, blur), (0.5, colour_temperature), (0.8, tone), (0.4, saturation), (0.4, noise), (0.1, jpeg))


def placement(size, rng):
    """Flips, any rotation, scale and shift, about the centre. size: (width, height) of the picture in px

    -> float64 [3, 3], which maps points of the picture to where they are to be
    """
    width, height = size
    scale, angle = np.exp(rng.uniform(*np.log(_SCALE))), rng.uniform(0, 2 * np.pi)
    flips = np.where(rng.random(2) < _FLIP, -1, 1)
    room = np.abs(scale - 1) / 2 + _SHIFT   # an enlarged picture is a crop, which lies anywhere in it
    shift = rng.uniform(-room, room, 2) * size
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    to_centre = np.array([[1, 0, -width / 2], [0, 1, -height / 2], [0, 0, 1]])
    turned = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]) @ np.diag([*flips, 1])
    back = np.array([[1, 0, width / 2 + shift[0]], [0, 1, height / 2 + shift[1]], [0, 0, 1]])
    return back @ turned @ to_centre


def bend(image_shape, rng):
    """A smooth random displacement. -> float32 [height, width, 2] of image_shape (x, y), in shorter sides"""
    cells = rng.integers(_BEND_CELLS[0], _BEND_CELLS[1] + 1)
    coarse = rng.normal(0, _BEND, (cells, cells, 2)).astype(np.float32)
    return cv2.resize(coarse, tuple(image_shape), interpolation=cv2.INTER_CUBIC)


def warp(image, label, matrix, displacement, image_shape):
    """Moves, bends and resizes to image_shape in one resampling: image bilinear, label nearest neighbour.

    What lies outside the picture is filled with the mean colour of the background and labelled background. Reflected,
    an instance would come a second time, apart from the first and with the same id, which the loss would pull together;
    and an instance at the border would grow into a shape that none has.
    matrix: see `placement`; displacement: float32 [height, width, 2] or None, see `bend`
    -> (image, label) of the dtypes given
    """
    height, width = label.shape
    to_picture = np.linalg.inv(matrix) @ np.diag([width / image_shape[0], height / image_shape[1], 1])
    # Centres of pixels lie half a pixel from their corners.
    x, y = (np.arange(count, dtype=np.float32) + 0.5 for count in image_shape)
    maps = [np.float32(row[0]) * x + (np.float32(row[1]) * y + np.float32(row[2] - 0.5))[:, None]
            for row in to_picture[:2]]
    if displacement is not None:
        maps = [values + min(width, height) * displacement[..., i] for i, values in enumerate(maps)]
    background = (label == 0).astype(np.uint8)
    colour = cv2.mean(image, background if background.any() else None)[:3]
    return (cv2.remap(image, *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=colour),
            cv2.remap(label, *maps, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=0))


def augment(image, label, rng, image_shape=None):
    """One random variation of a sample at image_shape (None: the picture's own size), decided by rng's state alone.

    image: uint8 [h, w, 3] RGB; label: uint8 or uint16 [h, w]; of any size, best at the camera's own, since all changes
    of shape are one resampling
    -> (image, label) of the same dtypes, [height, width] of image_shape
    """
    height, width = label.shape
    image_shape = image_shape or (width, height)
    matrix = placement((width, height), rng)
    image, label = warp(image, label, matrix, bend(image_shape, rng), image_shape)
    for probability, step in _PHOTOMETRIC:
        if rng.random() < probability:
            image = step(image, rng)
    return image, label
