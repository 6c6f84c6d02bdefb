"""Random variations of a road photo and its label: another camera, worn paint, other light, another sensor.

Pictures are uint8 RGB [h, w, 3], labels uint8 or uint16 [h, w]; image_shape is (width, height), as in OpenCV.
"""
import statistics

import cv2
import numpy as np

from data.common.pictures import resize_image

# Each step is a pure function of a uint8 RGB image and a np.random.Generator. Ranges that are not called uniform are
# triangular, with the mode where nothing changes: most pictures stay close to those of a camera.

_FLIP = 0.5                     # probability; instance numbers carry no order, so a mirrored label keeps them
_ROLL, _PITCH, _YAW = 3, 3, 5   # of the camera, degrees either way
_ZOOM = (0.8, 1.45)             # focal length, as a ratio
_STRETCH = 1.12                 # of width, and as much less of height, as a ratio either way
_SWAY = 0.3                     # of the camera to the side, as a ratio to its height above the road
_FOCAL_LENGTH, _HORIZON = 1.0, 0.38   # of a typical road camera, in widths and heights of the picture


def _around(rng, low, high, mode=0):
    """-> a triangular random number from low to high, with this mode"""
    return rng.triangular(low, mode, high)


def _ratio(rng, low, high):
    """-> a random factor from low to high, 1 most often"""
    return np.exp(_around(rng, np.log(low), np.log(high)))


def camera_change(size, rng):
    """Another camera: turned by roll, pitch and yaw, zoomed and stretched about the centre, moved sideways, mirrored.

    A sideways move above a flat road shears the road about the horizon.
    size: (width, height) of the photo in px
    -> float64 [3, 3], which maps points of the photo to where the other camera sees them
    """
    width, height = size
    focal = _FOCAL_LENGTH * width
    roll, pitch, yaw = (np.radians(_around(rng, -limit, limit)) for limit in (_ROLL, _PITCH, _YAW))
    (cr, sr), (cp, sp), (cy, sy) = ((np.cos(angle), np.sin(angle)) for angle in (roll, pitch, yaw))
    rotation = (np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]]) @ [[1, 0, 0], [0, cp, -sp], [0, sp, cp]]
                @ [[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    zoom, stretch, sway = _ratio(rng, *_ZOOM), _ratio(rng, 1 / _STRETCH, _STRETCH), _around(rng, -_SWAY, _SWAY)
    old = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    new = old * [[zoom * stretch, 1, 1], [1, zoom / stretch, 1], [1, 1, 1]]
    shear = np.array([[1, sway, -sway * _HORIZON * height], [0, 1, 0], [0, 0, 1]])
    flip = np.diag([-1.0, 1, 1]) if rng.random() < _FLIP else np.eye(3)
    flip[0, 2] = width if flip[0, 0] < 0 else 0
    return flip @ new @ rotation @ np.linalg.inv(old) @ shear


def warp(image, label, matrix, image_shape):
    """Applies camera_change's matrix and resizes to image_shape in one resampling: image bilinear, label nearest.

    With the identity this is resize_image and resize_label. What the old camera did not see is filled with the photo's
    mean colour and labelled background: mirrored or smeared borders would show lanes that the label does not have.
    -> (image, label) of the dtypes given
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
    """Fades the paint of one lane or of all into the road, over part of its length; the label stays."""
    height, width = label.shape
    counts = np.bincount(label.ravel())
    lanes = np.flatnonzero(counts[1:]) + 1
    if not len(lanes):
        return image
    lane = rng.choice(lanes)
    mask = (label == lane) if rng.random() < 0.6 else (label > 0)
    top, bottom = np.sort(rng.integers(0, height + 1, 2))
    mask[:top] = mask[bottom:] = False
    # Near the camera, paint is wider than its label.
    mask = cv2.dilate(mask.astype(np.uint8), np.ones((1, 5), np.uint8)) > 0
    paint, beside = image[mask], cv2.blur(image, (max(3, width // 12), 1))[mask]
    worn = image.copy()
    # np.minimum: road at the edge of the paint is not brightened.
    worn[mask] = paint - (paint - np.minimum(paint, beside)) * rng.uniform(0.3, 0.95)
    return worn


def _cut_out(image, rng):
    """Hides parts of the road behind 1 to 3 boxes, plain or pieces of the same photo.

    The label continues beneath, as TuSimple's does beneath vehicles.
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


def _hard_shadows(image, rng):
    """1 to 3 shadows on the lower part: along the road, across it, of poles and twigs, of leaves.

    Uniform 25 to 70 % of the light remain, bluish. In a quarter of the cases light and shadow are swapped.
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


def _haze(image, rng):
    """Fog or dust of uniform 15 to 75 % at the horizon, thinning towards the camera."""
    height = image.shape[0]
    rows = np.linspace(0, 1, height)
    nearness = np.maximum(rows - rng.uniform(0.25, 0.45), 0)
    density = rng.uniform(0.15, 0.75) * np.exp(-nearness / rng.uniform(0.1, 0.6))[:, None, None]
    colour = rng.uniform(140, 240) + rng.uniform(-12, 12, 3)
    fog = np.broadcast_to((colour * density).astype(np.uint8), image.shape)
    seen = np.broadcast_to((255 * (1 - density)).astype(np.uint8), image.shape)
    return cv2.add(cv2.multiply(image, np.ascontiguousarray(seen), scale=1 / 255), np.ascontiguousarray(fog))


def _sun_glare(image, rng):
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


def _shuffle_channels(image, rng):
    """Red, green and blue in another order: paint must not depend on being yellow."""
    return cv2.transform(image, np.eye(3)[rng.permutation(3)])


_NORMAL_QUANTILES = np.array([statistics.NormalDist().inv_cdf((i + 0.5) / 256) for i in range(256)])


def noise(image, rng):
    """Gaussian sensor noise with a standard deviation of uniform 1 to 12 grey levels."""
    # A table lookup of random bytes takes a tenth of the time of drawing normal floats.
    table = np.rint(_NORMAL_QUANTILES * rng.uniform(1, 12)).astype(np.int16)
    dice = np.frombuffer(rng.bytes(image.size), np.uint8).reshape(image.shape)
    return cv2.add(image, cv2.LUT(dice, table), dtype=cv2.CV_8U)


def jpeg(image, rng):
    """Compression at quality 20 to 90."""
    _, data = cv2.imencode('.jpg', image, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(20, 91))])
    return cv2.imdecode(data, cv2.IMREAD_COLOR)


_WEAR = 0.2   # probability
# (probability, step) in the order in which light passes them: road, air, lens, sensor, file.
_PHOTOMETRIC = ((0.25, _cut_out), (0.3, _hard_shadows), (0.12, _haze), (0.12, _sun_glare), (0.2, blur),
                (0.6, colour_temperature), (0.8, tone), (0.4, saturation), (0.05, _shuffle_channels),
                (0.4, noise), (0.2, jpeg))


def augment(image, label, rng, image_shape=None):
    """One random variation of a sample at image_shape (None: the photo's own size), decided by the state of rng alone.

    image: uint8 [h, w, 3] RGB; label: uint8 or uint16 [h, w]; of any size, best at the camera's own, since all changes
    of shape are one resampling
    -> (image, label) of the same dtypes, [height, width] of image_shape
    """
    height, width = label.shape
    matrix = camera_change((width, height), rng)
    image, label = warp(image, label, matrix, image_shape or (width, height))
    if rng.random() < _WEAR:
        image = wear(image, label, rng)
    for probability, step in _PHOTOMETRIC:
        if rng.random() < probability:
            image = step(image, rng)
    return image, label
