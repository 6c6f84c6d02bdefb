"""Random variations of a road image and its label: camera, worn markings, light and sensor.

data/common/augmentation.py has the steps that are not specific to roads, and describes images and labels.
"""
import cv2
import numpy as np

from data.common.augmentation import apply_steps, blur, colour_temperature, jpeg, noise, ratio, saturation, tone


def camera_change(size, rng):
    """Another camera: roll and pitch up to 3, yaw up to 5 degrees, zoom x0.8 to x1.45, stretch up to x1.12, flip.

    It moves sideways by up to 0.3 of its height above the road, which shears a flat road about the horizon.
    size: (width, height) of the image in px -> float64 [3, 3], from points of the image to those of the other camera
    """
    width, height = size
    focal, horizon = width, 0.38 * height   # of a typical road camera
    roll, pitch, yaw = (np.radians(rng.triangular(-limit, 0, limit)) for limit in (3, 3, 5))
    (cr, sr), (cp, sp), (cy, sy) = ((np.cos(angle), np.sin(angle)) for angle in (roll, pitch, yaw))
    rotation = (np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]]) @ [[1, 0, 0], [0, cp, -sp], [0, sp, cp]]
                @ [[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    zoom, stretch, sway = ratio(rng, 0.8, 1.45), ratio(rng, 1 / 1.12, 1.12), rng.triangular(-0.3, 0, 0.3)
    old = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    new = old * [[zoom * stretch, 1, 1], [1, zoom / stretch, 1], [1, 1, 1]]
    shear = np.array([[1, sway, -sway * horizon], [0, 1, 0], [0, 0, 1]])
    flip = np.array([[-1, 0, width], [0, 1, 0], [0, 0, 1]]) if rng.random() < 0.5 else np.eye(3)
    return flip @ new @ rotation @ np.linalg.inv(old) @ shear


def warp(image, label, matrix, image_shape, outside=0):
    """Applies camera_change's matrix and resizes to image_shape in one resampling: image bilinear, label nearest.

    The identity matches resize_image and resize_label. Outside the source, the image has its mean colour and the label
    is `outside`. -> (image, label), dtypes unchanged
    """
    height, width = label.shape
    to_pixel, from_pixel = np.eye(3), np.eye(3)
    to_pixel[:2, 2], from_pixel[:2, 2] = -0.5, 0.5   # a pixel's centre lies half a pixel from its corner
    resize = np.diag([image_shape[0] / width, image_shape[1] / height, 1])
    matrix = to_pixel @ resize @ matrix @ from_pixel
    return (cv2.warpPerspective(image, matrix, tuple(image_shape), flags=cv2.INTER_LINEAR,
                                borderMode=cv2.BORDER_CONSTANT, borderValue=cv2.mean(image)[:3]),
            cv2.warpPerspective(label, matrix, tuple(image_shape), flags=cv2.INTER_NEAREST,
                                borderMode=cv2.BORDER_CONSTANT, borderValue=outside))


def wear(image, label, rng):
    """Fades one or all lane markings into the road over part of their length; the label is unchanged."""
    lanes = np.unique(label[label > 0])
    if not len(lanes):
        return image
    lane = rng.choice(lanes)
    mask = (label == lane) if rng.random() < 0.6 else (label > 0)
    top, bottom = np.sort(rng.integers(0, len(label) + 1, 2))
    mask[:top] = mask[bottom:] = False
    # Near the camera, markings are wider than their label.
    mask = cv2.dilate(mask.astype(np.uint8), np.ones((1, 5), np.uint8)) > 0
    paint, road = image[mask], cv2.blur(image, (max(3, label.shape[1] // 12), 1))[mask]
    worn = image.copy()
    # np.minimum keeps road at the edge of a marking from being brightened.
    worn[mask] = paint - (paint - np.minimum(paint, road)) * rng.uniform(0.3, 0.95)
    return worn


def _cut_out(image, rng):
    """Hides the road, but not its label, behind 1 to 3 boxes, plain or cut from the image."""
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
    """1 to 3 bluish shadows on the lower part, which leave 25 to 70 % of the light, uniform; a quarter are inverted."""
    height, width = image.shape[:2]
    top = int(height * rng.uniform(0.3, 0.55))
    shade = np.zeros((height, width), np.uint8)
    for _ in range(rng.integers(1, 4)):
        kinds = _shadow_along, _shadow_across, _shadow_of_tree, _shadow_of_leaves
        kinds[rng.integers(4)](shade, top, rng)
    if rng.random() < 0.25:
        shade = 255 - shade
    shade = cv2.GaussianBlur(shade, (0, 0), rng.uniform(0.4, 2))
    dark = rng.uniform(0.3, 0.75)
    light = 255 - np.arange(256)[:, None] * dark * [1, 0.97, 0.9]
    return cv2.multiply(image, cv2.LUT(cv2.merge([shade] * 3), light.astype(np.uint8)[None]), scale=1 / 255)


def _shadow_along(shade, top, rng):
    height, width = shade.shape
    x, half = rng.uniform(0, width, 2), width * rng.uniform(0.01, 0.3, 2) * (0.3, 1)
    points = [(x[0] - half[0], top), (x[0] + half[0], top), (x[1] + half[1], height), (x[1] - half[1], height)]
    cv2.fillConvexPoly(shade, np.int32(points), 255)


def _shadow_across(shade, top, rng):
    height, width = shade.shape
    y, depth = rng.uniform(top, height, 2), height * rng.uniform(0.02, 0.3, 2)
    points = [(0, y[0]), (width, y[1]), (width, y[1] + depth[1]), (0, y[0] + depth[0])]
    cv2.fillConvexPoly(shade, np.int32(points), 255)


def _shadow_of_tree(shade, top, rng):
    height, width = shade.shape
    ends = np.stack([rng.uniform(0, width, 2), rng.uniform(top, height, 2)], axis=1)
    ends[1] = ends[0] + (ends[1] - ends[0]) * rng.uniform(1, 3)
    cv2.line(shade, *np.int32(ends).tolist(), 255, int(rng.integers(1, max(3, width // 70))), cv2.LINE_AA)
    for _ in range(rng.integers(0, 8)):   # twigs; without any, it is a pole
        start = ends[0] + (ends[1] - ends[0]) * rng.random()
        twig = np.stack([start, start + rng.normal(0, width / 12, 2)])
        cv2.line(shade, *np.int32(twig).tolist(), 255, 1, cv2.LINE_AA)


def _shadow_of_leaves(shade, top, rng):
    height, width = shade.shape
    spots = rng.random((rng.integers(8, 40), rng.integers(8, 40)), np.float32)
    spots = cv2.resize(spots, (width, height), interpolation=cv2.INTER_CUBIC)
    shade[(spots > rng.uniform(0.4, 0.7)) & (np.arange(height) > top)[:, None]] = 255


def _haze(image, rng):
    """Fog or dust: 15 to 75 % at the horizon, uniform, and thinner towards the camera."""
    nearness = np.maximum(np.linspace(0, 1, len(image)) - rng.uniform(0.25, 0.45), 0)
    density = rng.uniform(0.15, 0.75) * np.exp(-nearness / rng.uniform(0.1, 0.6))[:, None, None]
    colour = rng.uniform(140, 240) + rng.uniform(-12, 12, 3)
    fog, seen = (np.full(image.shape, share, np.uint8) for share in (colour * density, 255 * (1 - density)))
    return cv2.add(cv2.multiply(image, seen, scale=1 / 255), fog)


def _sun_glare(image, rng):
    """A low sun: a glow of 60 to 250 grey levels, uniform, and half of the time a streak on the road below it."""
    height, width = image.shape[:2]
    x, y = rng.uniform(0, width), rng.uniform(-0.1, 0.45) * height
    size = rng.uniform(0.05, 0.35)
    light = rng.uniform(60, 250) * _glow((width, height), (x, y), (size, size))
    if rng.random() < 0.5:
        light += rng.uniform(40, 160) * _glow((width, height), (x, 0.8 * height), (rng.uniform(0.02, 0.1), 0.25))
    tints = 255 * np.linspace(0, 1, 256)[:, None] * [1, 0.97, 0.88]
    light = cv2.merge([np.minimum(light, 255).astype(np.uint8)] * 3)
    return cv2.add(image, cv2.LUT(light, tints.astype(np.uint8)[None]))


def _glow(size, centre, radii):
    """A Gaussian spot. size, centre: (x, y) in px; radii: relative to the width. -> float32 [height, width]"""
    across, along = (np.exp(-((np.arange(count, dtype=np.float32) - middle) / (radius * size[0])) ** 2)
                     for count, middle, radius in zip(size, centre, radii))
    return np.outer(along, across).astype(np.float32)


def _shuffle_channels(image, rng):
    """Permutes red, green and blue: markings must be recognised in any colour."""
    return cv2.transform(image, np.eye(3)[rng.permutation(3)])


# (probability, step) in the order in which light meets them: road, air, lens, sensor, file.
_PHOTOMETRIC = ((0.25, _cut_out), (0.3, _hard_shadows), (0.12, _haze), (0.12, _sun_glare), (0.2, blur),
                (0.6, colour_temperature), (0.8, tone), (0.4, saturation), (0.05, _shuffle_channels),
                (0.4, noise), (0.2, jpeg))


def augment(image, label, rng, image_shape=None, outside=0):
    """One random variation of a sample; arguments and results as for data.common.augmentation.augment."""
    size = label.shape[::-1]
    image, label = warp(image, label, camera_change(size, rng), image_shape or size, outside)
    if rng.random() < 0.2:
        image = wear(image, label, rng)
    return apply_steps(_PHOTOMETRIC, image, rng), label
