"""Random variations of an image and its label, for images of any orientation: plants, cells, aerial views.

Images are uint8 RGB [h, w, 3], labels [h, w] of any integer type that OpenCV resamples (uint8, uint16, int32);
image_shape is (width, height). A photometric step is a pure function of an image and a np.random.Generator. Unless
stated as uniform, its parameters are triangular with the mode at no change, so most images stay realistic.
"""
import cv2
import numpy as np
from scipy import special

from data.common.pictures import resize_image


def placement(size, rng):
    """Flips, rotation by any angle, scale x0.7 to x1.4, and a shift that leaves at most a tenth cut off or empty.

    size: (width, height) in px -> float64 [3, 3] from source to destination
    """
    width, height = size
    scale, angle = np.exp(rng.uniform(*np.log((0.7, 1.4)))), rng.uniform(0, 2 * np.pi)
    flips = np.where(rng.random(2) < 0.5, -1, 1)
    room = np.abs(scale - 1) / 2 + 0.1   # an enlarged image is cropped at any position
    shift = rng.uniform(-room, room, 2) * size
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    to_centre = np.array([[1, 0, -width / 2], [0, 1, -height / 2], [0, 0, 1]])
    turned = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]) @ np.diag([*flips, 1])
    back = np.array([[1, 0, width / 2 + shift[0]], [0, 1, height / 2 + shift[1]], [0, 0, 1]])
    return back @ turned @ to_centre


def bend(image_shape, rng):
    """A smooth random displacement. -> float32 [height, width, 2] (x, y), relative to the shorter side"""
    cells = rng.integers(3, 9)   # few cells bend the whole image, many bend each instance
    coarse = rng.normal(0, 0.015, (cells, cells, 2)).astype(np.float32)
    return cv2.resize(coarse, tuple(image_shape), interpolation=cv2.INTER_CUBIC)


def warp(image, label, matrix, displacement, image_shape, outside=0):
    """Moves, bends and resizes to image_shape in one resampling: image bilinear, label nearest neighbour.

    matrix: see `placement`. displacement: see `bend`, or None. Outside the source, the image has the background's mean
    colour and the label is `outside`, as reflection would duplicate instances. -> (image, label), dtypes unchanged
    """
    height, width = label.shape
    to_source = np.linalg.inv(matrix) @ np.diag([width / image_shape[0], height / image_shape[1], 1])
    x, y = (np.arange(count, dtype=np.float32) + 0.5 for count in image_shape)   # pixel centres
    maps = [np.float32(row[0]) * x + (np.float32(row[1]) * y + np.float32(row[2] - 0.5))[:, None]
            for row in to_source[:2]]
    if displacement is not None:
        maps = [values + min(width, height) * displacement[..., i] for i, values in enumerate(maps)]
    background = (label == 0).astype(np.uint8)
    colour = cv2.mean(image, background if background.any() else None)[:3]
    return (cv2.remap(image, *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=colour),
            cv2.remap(label, *maps, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=outside))


# ---- Photometric steps -----------------------------------------------------------------------------------------------

def ratio(rng, low, high):
    """-> a random factor from low to high, with mode 1"""
    return np.exp(rng.triangular(np.log(low), 0, np.log(high)))


def blur(image, rng):
    """Defocus (sigma 0.3 to 1.4 px), motion blur (3 to 9 px) or low resolution (x0.5 to x0.85), all uniform."""
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
    factor = rng.uniform(0.5, 0.85)
    small = (max(1, round(width * factor)), max(1, round(height * factor)))
    return resize_image(resize_image(image, small), (width, height))


def colour_temperature(image, rng):
    """White balance: red x1/1.35 to x1.35, blue by the inverse, green x1/1.1 to x1.1."""
    warm, tint = ratio(rng, 1 / 1.35, 1.35), ratio(rng, 1 / 1.1, 1.1)
    curve = np.arange(256)[:, None] * np.array([warm, tint, 1 / warm])
    return cv2.LUT(image, np.minimum(curve, 255).astype(np.uint8)[None])


def tone(image, rng):
    """Gamma 1/2.2 to 1.6, contrast x0.5 to x1.4, brightness -35 to 50 grey levels: dusk to overexposure."""
    curve = 255 * np.linspace(0, 1, 256) ** ratio(rng, 1 / 2.2, 1.6)
    curve = 127.5 + (curve - 127.5) * ratio(rng, 0.5, 1.4) + rng.triangular(-35, 0, 50)
    return cv2.LUT(image, np.clip(curve, 0, 255).astype(np.uint8))


def saturation(image, rng):
    """Saturation x0 to x1.8; one image in ten is grey."""
    factor = 0 if rng.random() < 0.1 else rng.triangular(0, 1, 1.8)
    grey = np.tile([0.299, 0.587, 0.114], (3, 1))
    return cv2.transform(image, grey + factor * (np.eye(3) - grey))


def noise(image, rng):
    """Gaussian sensor noise; its standard deviation is uniform from 1 to 12 grey levels."""
    # Looking random bytes up in a table is ten times as fast as drawing normal floats.
    quantiles = special.ndtri((np.arange(256) + 0.5) / 256)
    table = np.rint(quantiles * rng.uniform(1, 12)).astype(np.int16)
    dice = np.frombuffer(rng.bytes(image.size), np.uint8).reshape(image.shape)
    return cv2.add(image, cv2.LUT(dice, table), dtype=cv2.CV_8U)


def jpeg(image, rng):
    """JPEG compression at a uniform quality from 20 to 90."""
    _, data = cv2.imencode('.jpg', image, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(20, 91))])
    return cv2.imdecode(data, cv2.IMREAD_COLOR)


def apply_steps(steps, image, rng):
    """Applies each step with its probability, in order. steps: [(probability, step)]. -> image"""
    for probability, step in steps:
        if rng.random() < probability:
            image = step(image, rng)
    return image


# In physical order: light, lens, sensor, file. No step hides anything: labels show visible pixels.
_PHOTOMETRIC = ((0.2, blur), (0.5, colour_temperature), (0.8, tone), (0.4, saturation), (0.4, noise), (0.1, jpeg))


def augment(image, label, rng, image_shape=None, outside=0):
    """A random variation of a sample that depends only on the state of rng.

    image, label: preferably at the camera's resolution, since they are resampled only once
    image_shape: of the result, by default unchanged; outside: label beyond the border, 0 (background) or -1 (ignored)
    -> (image, label), dtypes unchanged, [height, width] of image_shape
    """
    size = label.shape[::-1]
    image_shape = image_shape or size
    image, label = warp(image, label, placement(size, rng), bend(image_shape, rng), image_shape, outside)
    return apply_steps(_PHOTOMETRIC, image, rng), label
