"""From the instances of an image to lane lines as in TuSimple's labels. NumPy and SciPy.

    lines = lanes(ids, image_shape, h_samples)   # [h, w] -> x of each lane in the rows h_samples

    runs       every row of an instance is cut into runs of pixels; pieces a few rows tall are dropped
    fit        a smoothing spline x(y) through the middles of the runs of each instance, flexible at the far end, as
               perspective requires, stiff near the camera, robust against ragged edges and attached blobs
    join       instances that continue each other, above and below a vehicle, become one lane, which is fitted again
    select     the most confident lanes that consist of a line rather than a blob
    ends       from the first certain row to the last, or to the border of the image or the car's own hood if a lane
               stops shortly before it
"""
import typing

import numpy as np
from scipy import ndimage

# All lengths are in pixels of a 1280x720 image, as in TuSimple, to which lanes are scaled.
_PHOTO = 1280, 720
_KNOT_SPACING = 10  # rows, as in the labels
_KNOTS = np.arange(0, _PHOTO[1] + 1, _KNOT_SPACING)
_LINE_WIDTH = 7  # of the lines in the labels
# Runs
_MAX_BREAK = 12  # rows without pixels within one piece of a lane: a ragged edge, a dash
_MIN_PIECE = 24  # rows; smaller specks would bend the line
_MAX_INSTANCES = 20  # the tallest ones; an untrained network finds hundreds
# Fit
_STIFF, _LOOSE, _DECAY = 0.1, 6.0, 25.0  # allowed bend, px per knot: near; extra at the far end; its decay in rows
_SKY = 0.02  # share of the runs above the far end, which are specks
# px from the line: beyond the first a run's weight falls below 1, beyond the second it is no part (the metric has 20).
_HUBER, _OUTLIER = 4.0, 24.0
_BROAD = 5  # times _LINE_WIDTH; broader runs may be a car next to the line
_ITERATIONS = 6  # of the reweighted fit
# Join
_JOIN_GAP = 250  # rows that a vehicle may hide
_JOIN_OFFSET, _JOIN_DRIFT = 10.0, 0.1  # px between two lines that continue each other, plus px per row of the gap
_JOIN_OVERLAP = 5  # rows that two parts of one lane may share: a ragged end
_JOIN_HEIGHT = 20  # rows; the direction of a shorter line is meaningless
# Select
_MIN_HEIGHT = 50  # rows; of 13,795 lanes in the labels 0.2 % are shorter
_MIN_COVER = 0.3  # share of a lane's rows in which it has pixels
_MIN_PURE = 0.4  # share of an instance's runs that are part of its line; less is a blob
_LONG = 150.0  # rows with pixels at which a lane has two thirds of its confidence
# Ends
_ABOVE, _BELOW = 1, 4  # rows beyond a lane's outermost pixels that still belong to it, as ids are coarser
# Lanes begin at similar rows below the horizon: each moves by this share towards the median, if within this many rows.
_ALIGN_SHARE, _ALIGN_WITHIN = 0.8, 80
_EDGE = 8  # from the sides of the image to the ends of lanes; labels end at about 5
_MIN_EXTENSION, _MAX_EXTENSION = 30, 200  # rows to the border of the image over which a lane is extended
_HOOD = 15  # rows between the ends of two lanes that end at the car's own hood
_SURE = 0.6  # certainty of the run at which a lane begins; far ahead, predictions extend beyond what is visible


def lanes(ids, image_shape, h_samples, max_lanes=5):
    """Like lanes_and_confidences, but without the confidences."""
    return lanes_and_confidences(ids, image_shape, h_samples, max_lanes)[0]


def lanes_and_confidences(ids, image_shape, h_samples, max_lanes=5, min_confidence=0., certainty=None):
    """Lane lines of the instances of one image.

    ids: int [h, w] of any size, 0 the background, see clustering.instance_ids
    image_shape: (width, height) of the image; h_samples: rows of the image, px
    max_lanes, min_confidence: the most confident lanes are kept, none below min_confidence
    certainty: float [h, w], of each pixel's instance, see clustering.pixel_confidence; by default 1
    -> (list of float64 [len(h_samples)], in the order of the ids: x in px of the image, -2 where the lane is absent;
    their confidences, list of float from 0 to 1)
    """
    row_height = _PHOTO[1] / max(len(ids), 1)
    runs = _drop_specks(_find_runs(ids, certainty), row_height)
    if not len(runs.lane):
        return [], []
    curves, weight = _fit(runs)
    joined = _join(runs, curves, weight)
    if (np.diff(joined) != 1).any():
        runs = runs._replace(lane=np.unique(joined[runs.lane], return_inverse=True)[1])
        curves, weight = _fit(runs)
    selected, confidence = _select(runs, weight, row_height, max_lanes, min_confidence)
    if not len(selected):
        return [], []

    (width, height), rows = image_shape, np.asarray(h_samples, np.float64)
    scale_x, scale_y = np.divide(image_shape, _PHOTO)
    y = (rows + 0.5) / scale_y - 0.5
    found, confidences = [], []
    for curve, sure, top, bottom in zip(curves[selected], confidence, *_find_ends(runs, curves, weight, selected)):
        x = (np.interp(y, _KNOTS, curve) + 0.5) * scale_x - 0.5
        exists = ((y >= top - _ABOVE) & (y <= bottom + _BELOW) & (rows >= 0) & (rows <= height - 1)
                  & (x >= _EDGE * scale_x) & (x <= width - 1 - _EDGE * scale_x))
        if np.count_nonzero(exists) >= min(2, len(rows)):
            found.append(np.where(exists, x, -2.0))
            confidences.append(float(sure))
    return found, confidences


# ---- Runs ------------------------------------------------------------------------------------------------------------

class _Runs(typing.NamedTuple):
    """Adjacent pixels of one instance in a row. All fields are [runs], positions in pixels of _PHOTO."""
    lane: np.ndarray  # number of the instance
    x: np.ndarray  # middle
    y: np.ndarray
    width: np.ndarray
    certainty: np.ndarray  # mean over its pixels, 0 to 1


def _find_runs(ids, certainty):
    """ids: int [h, w]; certainty: float [h, w] or None -> _Runs of all instances, row by row"""
    height, width = ids.shape
    flat = np.pad(ids, ((0, 0), (1, 1))).ravel()  # background at both ends of a row ends its runs
    change = np.append(np.flatnonzero(flat[1:] != flat[:-1]) + 1, flat.size)
    lane = flat[change[:-1]]
    runs = np.flatnonzero(lane > 0)
    start, end, lane = change[runs], change[runs + 1], lane[runs].astype(np.intp)
    row = start // (width + 2)
    scale_x, scale_y = np.divide(_PHOTO, np.maximum((width, height), 1))
    x = (start + end) / 2 - row * (width + 2) - 1
    certainty = np.ones(ids.shape) if certainty is None else certainty
    total = np.append(0, np.cumsum(np.pad(certainty, ((0, 0), (1, 1))), dtype=np.float64))
    sure = (total[end] - total[start]) / (end - start)
    return _Runs(lane, x * scale_x - 0.5, (row + 0.5) * scale_y - 0.5, (end - start) * scale_x, sure)


def _drop_specks(runs, row_height):
    """Keeps the pieces of the tallest instances that are more than specks; renumbers the instances 0..K-1. -> _Runs"""
    order = np.argsort(runs.lane, kind='stable')
    runs = _Runs(*[values[order] for values in runs])
    if not len(order):
        return runs
    max_break = max(_MAX_BREAK, 1.5 * row_height)
    first = np.flatnonzero(np.append(True, (np.diff(runs.lane) > 0) | (np.diff(runs.y) > max_break)))
    last = np.append(first[1:], len(order)) - 1
    piece = runs.y[last] - runs.y[first] + row_height
    piece[piece < _MIN_PIECE] = 0
    height = np.bincount(runs.lane[first], piece)
    tallest = np.argsort(-height, kind='stable')[:_MAX_INSTANCES]
    keep = np.repeat((piece > 0) & np.isin(runs.lane[first], tallest), last - first + 1)
    runs = _Runs(*[values[keep] for values in runs])
    return runs._replace(lane=np.unique(runs.lane, return_inverse=True)[1])


def _extent(runs, part):
    """First and last row of each lane's runs in `part`, a mask [runs]. -> (float64 [K], float64 [K])"""
    lanes_of_runs = runs.lane, np.arange(runs.lane.max() + 1)
    return (ndimage.minimum(np.where(part, runs.y, np.inf), *lanes_of_runs),
            ndimage.maximum(np.where(part, runs.y, -np.inf), *lanes_of_runs))


def _certainty(runs, part):
    """Mean certainty of each lane's runs in `part`, a mask [runs]. -> float64 [K]"""
    return np.bincount(runs.lane, part * runs.certainty) / np.maximum(np.bincount(runs.lane, part), 1)


# ---- Fit and join ----------------------------------------------------------------------------------------------------

def _fit(runs):
    """Fits a smoothing spline to each lane, all at once, by iteratively reweighted least squares.

    A line is its x at _KNOTS, linear between them. It minimises the weighted squares of its distances from the runs
    and of its second differences relative to `bend`. -> (curves float64 [K, knots], weight [runs], 0: not on its line)
    """
    lane, x, y, width, _ = runs
    num, size = lane.max() + 1, len(_KNOTS)
    position = np.clip(y / _KNOT_SPACING, 0, size - 1 - 1e-9)
    knot = position.astype(np.intp)
    left, right = 1 - (position - knot), position - knot
    far_end = np.quantile(y, _SKY)  # of all lanes: close to the horizon
    bend = _STIFF + _LOOSE * np.exp(-np.maximum(_KNOTS[1:-1] - far_end, 0) / _DECAY)
    second = np.diff(np.eye(size), 2, axis=0) * (_HUBER / bend)[:, None]
    penalty = second.T @ second + 1e-9 * np.eye(size)

    # The normal equations of all lanes: each run adds to the four products of its two knots.
    corner = lane * size * size + knot * (size + 1)
    products = np.concatenate([corner, corner + 1, corner + size, corner + size + 1])
    ends = np.concatenate([lane * size + knot, lane * size + knot + 1])
    weight = np.minimum(1, 1.5 * ndimage.median(width, lane, np.arange(num))[lane] / width) ** 2
    for _ in range(_ITERATIONS):
        cross = weight * left * right
        values = np.concatenate([weight * left ** 2, cross, cross, weight * right ** 2])
        matrix = np.bincount(products, values, num * size * size).reshape(num, size, size)
        vector = np.bincount(ends, np.concatenate([weight * x * left, weight * x * right]), num * size)
        curves = np.linalg.solve(matrix + penalty, vector.reshape(num, size, 1))[:, :, 0]
        upper, lower = curves[lane, knot], curves[lane, knot + 1]
        slant = np.hypot(1, (lower - upper) / _KNOT_SPACING)  # a run through a slanted line is wider than the line
        distance = np.abs(x - upper * left - lower * right) / slant
        weight = np.minimum(1, 2 * _LINE_WIDTH * slant / width) ** 2
        weight *= np.minimum(1, _HUBER / np.maximum(distance, 1e-9))
    return curves, np.where((distance < _OUTLIER) & (width < _BROAD * _LINE_WIDTH * slant), weight, 0)


def _join(runs, curves, weight):
    """Finds lanes that continue each other, the best match first. -> int [K], the lowest number of each joined lane

    Lanes that share rows are never joined, nor are those joined with them: lanes that meet at the horizon and lanes
    that fork stay apart.
    """
    top, bottom = _extent(runs, weight > 0)
    gap = top[None, :] - bottom[:, None]  # [upper, lower]
    tall = bottom - top >= _JOIN_HEIGHT
    pairs = []
    for upper, lower in np.argwhere((gap > -_JOIN_OVERLAP) & (gap < _JOIN_GAP) & tall & tall[:, None]):
        above, below = (np.interp([bottom[upper], top[lower]], _KNOTS, curve) for curve in curves[[upper, lower]])
        height = max(gap[upper, lower], 0)
        slant = np.hypot(1, (below[1] - below[0]) / max(height, 1))
        offset = np.abs(above - below).max() / ((_JOIN_OFFSET + _JOIN_DRIFT * height) * slant)
        if offset < 1:
            pairs.append((offset, upper, lower))
    joined = np.arange(len(curves))
    shared = np.minimum(bottom[:, None], bottom) - np.maximum(top[:, None], top)  # rows
    for _, upper, lower in sorted(pairs):
        one, other = sorted([joined[upper], joined[lower]])
        if (shared[np.ix_(joined == one, joined == other)] < _JOIN_OVERLAP).all():
            joined[joined == other] = one
    return joined


# ---- Selection and ends ----------------------------------------------------------------------------------------------

def _select(runs, weight, row_height, max_lanes, min_confidence):
    """The lanes that are lines rather than specks and blobs. -> (their numbers, sorted; their confidences)

    A lane's confidence is the mean certainty of its runs, times the root of the mean weight of its instance's runs in
    the fit, times the share of its rows that have pixels, times 1 - exp(-rows / _LONG): most false lanes are short.
    """
    part, count = weight > 0, np.bincount(runs.lane)
    top, bottom = _extent(runs, part)
    lane_of_row = np.unique([runs.lane[part], runs.y[part]], axis=1)[0].astype(np.intp)
    filled = np.bincount(lane_of_row, minlength=len(top)) * row_height
    good = ((bottom - top >= _MIN_HEIGHT) & (filled >= _MIN_COVER * (bottom - top))
            & (np.bincount(runs.lane, part) >= _MIN_PURE * count))
    fit = np.sqrt(np.bincount(runs.lane, weight) / count)
    cover = np.clip(filled / np.maximum(bottom - top + row_height, 1), 0, 1)
    confidence = _certainty(runs, part) * fit * cover * (1 - np.exp(-filled / _LONG))
    candidates = np.flatnonzero(good & (confidence >= min_confidence))
    best = np.sort(candidates[np.argsort(-confidence[candidates], kind='stable')[:max_lanes]])
    return best, confidence[best]


def _find_ends(runs, curves, weight, selected):
    """First and last row of the selected lanes. -> (top float64 [selected], bottom float64 [selected])"""
    part = weight > 0
    sure = part & (runs.certainty >= np.minimum(_certainty(runs, part), _SURE)[runs.lane])
    top, bottom = _extent(runs, sure)[0][selected], _extent(runs, part)[1][selected]
    to_median = np.median(top) - top
    top += _ALIGN_SHARE * to_median * (np.abs(to_median) <= _ALIGN_WITHIN)
    lowest = np.sort(bottom)[-2:]
    at_hood = len(lowest) > 1 and np.ptp(lowest) < _HOOD and lowest[1] < _PHOTO[1] - _MIN_EXTENSION
    floor = lowest[1] if at_hood else _PHOTO[1]
    for i, curve in enumerate(curves[selected]):
        outside = (_KNOTS > bottom[i]) & ((curve < 0) | (curve > _PHOTO[0] - 1))
        border = min(_KNOTS[outside.argmax()] if outside.any() else _PHOTO[1], floor)
        if _MIN_EXTENSION < border - bottom[i] <= _MAX_EXTENSION:
            bottom[i] = border
    return top, bottom
