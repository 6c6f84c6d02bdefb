"""From the instances of a photo to lane lines as TuSimple's labels have them. NumPy alone.

    lines = lanes(ids, image_shape, h_samples)   # [h, w] -> x of each lane at the rows h_samples
"""
import typing

import numpy as np

# All lengths are in pixels of a 1280x720 photo, TuSimple's; lanes of other photos are scaled to it and back.
_PHOTO = 1280, 720
_KNOT = 10  # between the knots of a line, as between the rows of the labels
_LINE_WIDTH = 7  # of the lines in the labels

_BRIDGE = 12  # rows that may be missing within a piece of a lane: a ragged edge, a dash
_SPECK = 24  # a piece less tall is none; a speck of another lane's colour would bend the line towards it
_CANDIDATES = 20  # instances looked at, the tallest ones: untrained noise has hundreds

# Px a line may bend at a knot: near; more at the far end; how soon it fades.
_STIFF, _LOOSE, _DECAY = 0.1, 6.0, 25.0
_SKY = 0.02  # of all cuts may lie above the far end: specks
_HUBER = 4.0  # from the line: pixels farther out pull less and less
_OUTLIER = 24.0  # from the line: pixels farther out are no part of the lane; the metric's own tolerance is 20
_BROAD = 5  # times _LINE_WIDTH: a wider cut through an instance is no line but, say, the car beside it
_TURNS = 6  # of the reweighted fit

_JOIN_GAP = 250  # rows that a vehicle may hide
# How well two lines must continue each other: px, and px more a row of the gap.
_JOIN_OFF, _JOIN_DRIFT = 10.0, 0.1
_OVERLAP = 5  # rows that two parts of one lane may share: a ragged end
_JOIN_TALL = 20  # rows: the direction of a shorter line says nothing

_MIN_TALL = 50  # rows: of 13,795 lanes in the labels 0.2 % span less
_MIN_ROWS = 35  # rows that really hold pixels of the lane
_MIN_COVER = 0.3  # of the rows it spans
_MIN_PURE = 0.4  # of the cuts through an instance that belong to its line; less is a blob
# Rows beyond the pixels' upper and lower end that still count as lane: ends are rounded to the rows of a coarser grid.
_ABOVE, _BELOW = 1, 4
# Lanes begin at much the same row, shortly before the horizon: each beginning goes the first, a share, of the way to
# their median, if it is within the second, rows. In the labels 4 of 5 lanes begin within 10 px of their photo's first.
_TOGETHER, _WITHIN = 0.8, 80
_EDGE = 8  # from the sides of the photo to where lanes end; labels end at 5 or so
# Rows short of the border: labels end within the first; up to the second, pixels are missing.
_NEAR, _REACH = 30, 200
_BONNET = 15  # rows that lanes may differ by which end at one thing before the lower border: our own car


def lanes(ids, image_shape, h_samples, max_lanes=5):
    """From the instances of one photo to lane lines.

    A line is the x of an instance's middle as a smooth function of y, by penalised least squares: it may bend
    freely at the far end, where perspective bends lanes, and hardly near the camera; where a vehicle hides
    the lane, and beyond its ends, it goes straight on. Huber weights keep it off ragged edges and attached
    blobs. Two instances that continue each other (a lane cut in two by a vehicle) are one lane. A line exists
    from the first to the last row with its pixels, and on to the border of the photo, or to our own car's
    bonnet, if it stops shortly before; lanes begin at much the same row.

    ids: int [h, w] of any size, 0 background, as instance_ids gives them
    image_shape: (width, height) of the photo
    h_samples: rows of the photo, px
    max_lanes: lanes at most; the ones that the most rows speak for
    Returns a list of float64 [len(h_samples)], in the order of the ids: x in px of the photo, -2 where it
    ends.
    """
    ids, rows = np.asarray(ids), np.asarray(h_samples, np.float64)
    scale_x, scale_y = image_shape[0] / _PHOTO[0], image_shape[1] / _PHOTO[1]
    if not ids.size:
        return []
    cuts = _pieces(_cuts(ids), _PHOTO[1] / ids.shape[0])
    if not len(cuts.lane):
        return []
    curves, weight = _fit(cuts)
    joined = _join(cuts, curves, weight)
    if (np.diff(joined) != 1).any():
        cuts = cuts._replace(lane=_renumber(joined[cuts.lane]))
        curves, weight = _fit(cuts)

    part = weight > 0
    top, bottom = _extent(cuts, part)
    rows_with = np.unique([cuts.lane[part], cuts.y[part]], axis=1)[0].astype(np.intp)
    filled = np.bincount(rows_with, minlength=len(curves)) * (_PHOTO[1] / ids.shape[0])
    pure = np.bincount(cuts.lane, part) / np.bincount(cuts.lane)
    good = ((bottom - top >= _MIN_TALL) & (filled >= np.maximum(_MIN_ROWS, _MIN_COVER * (bottom - top)))
            & (pure >= _MIN_PURE))
    best = np.argsort(np.where(good, -filled, np.inf), kind='stable')[:max_lanes]

    chosen = np.sort(best[good[best]])
    if not len(chosen):
        return []

    away = np.median(top[chosen]) - top
    top += _TOGETHER * np.where(np.abs(away) <= _WITHIN, away, 0)
    lowest = np.sort(bottom[chosen])[-2:]
    behind_bonnet = len(lowest) > 1 and lowest[1] - lowest[0] < _BONNET and lowest[1] < _PHOTO[1] - _NEAR
    floor = lowest[1] if behind_bonnet else _PHOTO[1]
    knots = np.arange(curves.shape[1]) * _KNOT
    result = []
    for i in chosen:
        outside = (knots > bottom[i]) & ((curves[i] < 0) | (curves[i] > _PHOTO[0] - 1))
        border = min(knots[outside.argmax()] if outside.any() else _PHOTO[1], floor)
        end = border if _NEAR < border - bottom[i] <= _REACH else bottom[i]
        y = (rows + 0.5) / scale_y - 0.5
        x = (np.interp(y, knots, curves[i]) + 0.5) * scale_x - 0.5
        edge = _EDGE * scale_x
        exists = ((y >= top[i] - _ABOVE) & (y <= end + _BELOW) & (rows >= 0) & (rows <= image_shape[1] - 1)
                  & (x >= edge) & (x <= image_shape[0] - 1 - edge))
        if np.count_nonzero(exists) >= min(2, len(rows)):
            result.append(np.where(exists, x, -2.0))
    return result


class _Cuts(typing.NamedTuple):
    """Instances cut row by row into runs of neighbouring pixels of one instance; [cuts] each, of _PHOTO."""
    lane: np.ndarray  # number of the instance
    x: np.ndarray  # middle
    y: np.ndarray
    width: np.ndarray


def _cuts(ids):
    height, width = ids.shape
    padded = np.zeros([height, width + 2], ids.dtype)  # background at both ends of a row ends its runs
    padded[:, 1:-1] = ids
    flat = padded.ravel()
    change = np.append(np.flatnonzero(flat[1:] != flat[:-1]) + 1, flat.size)
    lane = flat[change[:-1]]
    runs = np.flatnonzero(lane > 0)
    start, end, lane = change[runs], change[runs + 1], lane[runs].astype(np.intp)
    row = start // (width + 2)
    scale_x, scale_y = _PHOTO[0] / width, _PHOTO[1] / height
    x = (start + end) / 2 - row * (width + 2) - 1
    return _Cuts(lane, x * scale_x - 0.5, (row + 0.5) * scale_y - 0.5, (end - start) * scale_x)


def _pieces(cuts, row_height):
    """Leaves out the pieces that are but specks, and all but the tallest instances; numbers those 0..K-1."""
    order = np.argsort(cuts.lane, kind='stable')
    cuts = _Cuts(*[values[order] for values in cuts])
    if not len(order):
        return cuts
    bridge = max(_BRIDGE, 1.5 * row_height)
    first = np.flatnonzero(np.append(True, (np.diff(cuts.lane) > 0) | (np.diff(cuts.y) > bridge)))
    last = np.append(first[1:], len(order)) - 1
    tall = cuts.y[last] - cuts.y[first] + row_height
    tall[tall < _SPECK] = 0
    height = np.bincount(cuts.lane[first], tall)
    candidate = np.zeros(len(height), bool)
    candidate[np.argsort(-height, kind='stable')[:_CANDIDATES]] = True
    keep = np.flatnonzero(np.repeat((tall > 0) & candidate[cuts.lane[first]], last - first + 1))
    cuts = _Cuts(*[values[keep] for values in cuts])
    return cuts._replace(lane=_renumber(cuts.lane))


def _renumber(numbers):
    return np.unique(numbers, return_inverse=True)[1]


def _extent(cuts, part):
    """Rows of the uppermost and the lowest cut of each lane, float64 [K] each, of those in part."""
    num = cuts.lane.max() + 1
    top, bottom = np.full(num, np.inf), np.full(num, -np.inf)
    np.minimum.at(top, cuts.lane[part], cuts.y[part])
    np.maximum.at(bottom, cuts.lane[part], cuts.y[part])
    return top, bottom


def _fit(cuts):
    """Fits a line to each lane, all at once.

    A line is its x at knots every _KNOT rows, linear between them, that minimises the weighted squares of its
    distances from the cuts plus those of its second differences, each over the bend allowed there: a
    smoothing spline.
    Returns (curves float64 [K, knots], weight [cuts]); weight 0 says that a cut is no part of its lane.
    """
    lane, x, y, width = cuts
    num, size = lane.max() + 1, _PHOTO[1] // _KNOT + 1
    position = np.clip(y / _KNOT, 0, size - 1 - 1e-9)
    knot = position.astype(np.intp)
    right = position - knot
    left = 1 - right

    far_end = np.quantile(y, _SKY)  # of all lanes: close to the horizon
    bend = _STIFF + _LOOSE * np.exp(-np.maximum(np.arange(1, size - 1) * _KNOT - far_end, 0) / _DECAY)
    second = np.diff(np.eye(size), 2, axis=0) * (_HUBER / bend)[:, None]
    penalty = second.T @ second + 1e-9 * np.eye(size)

    # The normal equations of all lanes, each cut adding to the four products of its two knots.
    corner = lane * size * size + knot * (size + 1)
    products = np.concatenate([corner, corner + 1, corner + size, corner + size + 1])
    ends = np.concatenate([lane * size + knot, lane * size + knot + 1])
    usual = np.array([np.median(width[lane == k]) for k in range(num)])[lane]
    weight = np.minimum(1, 1.5 * usual / width) ** 2
    for _ in range(_TURNS):
        cross = weight * left * right
        values = np.concatenate([weight * left ** 2, cross, cross, weight * right ** 2])
        matrix = np.bincount(products, values, num * size * size).reshape(num, size, size)
        vector = np.bincount(ends, np.concatenate([weight * x * left, weight * x * right]), num * size)
        curves = np.linalg.solve(matrix + penalty, vector.reshape(num, size, 1))[:, :, 0]
        upper, lower = curves[lane, knot], curves[lane, knot + 1]
        # A level cut through a slanted line is wider than the line.
        stretch = np.hypot(1, (lower - upper) / _KNOT)
        off = np.abs(x - upper * left - lower * right) / stretch
        weight = np.minimum(1, 2 * _LINE_WIDTH * stretch / width) ** 2
        weight *= np.minimum(1, _HUBER / np.maximum(off, 1e-9))
    return curves, np.where((off < _OUTLIER) & (width < _BROAD * _LINE_WIDTH * stretch), weight, 0)


def _join(cuts, curves, weight):
    """Finds lanes that continue each other: int [K], the lowest number among the lanes that each is one with.

    Lanes in the same rows never are, nor lanes joined with those, so lanes that run together at the horizon and lanes
    that fork stay apart. What fits best is joined first.
    """
    top, bottom = _extent(cuts, weight > 0)
    knots = np.arange(curves.shape[1]) * _KNOT
    gap = top[None, :] - bottom[:, None]  # [upper, lower]
    tall = bottom - top >= _JOIN_TALL
    pairs = []  # few: of lanes, not of pixels
    for upper, lower in np.argwhere((gap > -_OVERLAP) & (gap < _JOIN_GAP) & tall & tall[:, None]):
        ends = [bottom[upper], top[lower]]
        above, below = np.interp(ends, knots, curves[upper]), np.interp(ends, knots, curves[lower])
        distance = max(gap[upper, lower], 0)
        stretch = np.hypot(1, (below[1] - below[0]) / max(distance, 1))
        off = np.abs(above - below).max() / ((_JOIN_OFF + _JOIN_DRIFT * distance) * stretch)
        if off < 1:
            pairs.append((off, upper, lower))
    joined = np.arange(len(curves))
    shared = np.minimum(bottom[:, None], bottom) - np.maximum(top[:, None], top)  # rows
    for _, upper, lower in sorted(pairs):
        one, other = sorted([joined[upper], joined[lower]])
        if (shared[np.ix_(joined == one, joined == other)] < _OVERLAP).all():
            joined[joined == other] = one
    return joined
