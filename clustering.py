"""From an embedding to instances, and from instances to lanes. NumPy alone.

    num_clusters, labels, cluster_centers = cluster(points, bandwidth)   # [N, feature_dim] -> [N]
    ids = instance_ids(embedding, bandwidth)                             # [h, w, feature_dim] -> [h, w]
    lines = lanes(ids, image_shape, h_samples)                           # [h, w] -> x of each lane in a row
"""

import math
import os
import typing

import numpy as np

# Mean shift as scikit-learn does it.
_MAX_ITERATIONS = 300
_STOP = 1e-3  # of the bandwidth: a seed that moves less has arrived

# How it is made fast; none of these changes a result.
# Levels of cells below the bins, each 2**_DIGIT times finer: to a 16th of the bandwidth.
_LEVELS, _DIGIT = 2, 2
_CROWD = 512  # points in a cell from which on it has parts of its own in the last level
_BLOCK = 16  # seeds that are held against cells and points at a time
_MAX_ITEMS = 1 << 13  # cells or points at a time: a block's distances fit a core's cache
# Around seeds whose last steps were below _SLOW bandwidths, room is left for _ROOM such steps, as long as the points
# that may come within a ball by them are not more than _MAX_NEAR.
_SLOW, _ROOM, _MAX_NEAR = 0.05, 1.5, 1 << 20
_MOST_SLACK = 1e-3  # bandwidths that distances may be wrong by in float32; where they would be more wrong, in float64
_LARGEST = 1e30  # bandwidth: as places in float32 go
_WIDE = 1e4  # bandwidths: of points spread wider, the empty space between is left out
# glibc hands freed memory back to the system, and fetches it again page by page, until it has once seen a block as
# large as this freed. It is never touched, so it costs nothing; without it 512x512 points take a quarter longer.
np.empty(31 << 20, np.uint8)

# ---- Mean shift --------------------------------------------------------------------------------------------

def cluster(prediction, bandwidth):
    """Mean shift with a flat kernel: what scikit-learn's MeanShift(bandwidth, bin_seeding=True) gives, soon.

    Every bin of a grid as coarse as the bandwidth that holds a point starts a seed at its middle. A seed
    moves to the mean of the points within the bandwidth of it until it moves by less than a thousandth of the
    bandwidth. Of seeds that end within a bandwidth of each other the one with the most points stays, as a
    cluster center; a point belongs to its nearest center. (Comaniciu and Meer, Mean Shift, PAMI 2002; De
    Brabandere et al. cluster so.)

    The points are kept in cells within cells, each with its number of points, their sum and a sphere around
    them. A block of neighbouring seeds is held against cells by a matrix product. Only those cells that the
    surface of a ball cuts are opened, down to single points; the others count as a whole. Slow seeds are then
    held against the points near the surface alone. So the means are exact, not binned; where the distance of a
    point is the bandwidth itself, rounding decides, as it does there.

    prediction: float [N, feature_dim]; float16 is worked on as float32, integers as float64
    bandwidth: radius of the ball, in units of the embedding
    Returns (num_clusters, labels, cluster_centers): int; int64 [N], the cluster of each point, 0 the one
    whose center had the most points within the bandwidth; float [num_clusters, feature_dim]. Without points:
    0 clusters.
    Raises ValueError for another shape, points that are not finite, a bandwidth that is not a number above 0,
    or absurdly large.
    Extra memory stays below 60 bytes a coordinate and 30 MB.
    """
    points = np.asarray(prediction)
    if points.ndim != 2 or points.shape[1] == 0:
        raise ValueError(f'prediction must be of shape [N, feature_dim], not {list(points.shape)}')
    bandwidth = float(bandwidth)
    if not 0 < bandwidth <= _LARGEST:
        raise ValueError(f'bandwidth must be a number above 0, up to {_LARGEST:g}, not {bandwidth}')
    if points.dtype != np.float32:
        points = points.astype(np.float32 if points.dtype == np.float16 else np.float64, copy=False)
    if len(points) == 0:
        return 0, np.zeros([0], np.int64), np.zeros([0, points.shape[1]], points.dtype)

    columns = np.ascontiguousarray(points.T)
    low, high = columns.min(), columns.max()
    if not np.isfinite(low) or not np.isfinite(high):  # min and max hand a NaN on
        bad = np.flatnonzero(~np.isfinite(columns).all(0))
        raise ValueError(f'prediction holds NaN or infinity in {len(bad)} of {len(points)} rows, '
                         f'the first is row {bad[0]}')
    largest = max(abs(float(low)), abs(float(high)))
    if not points.dtype.type(bandwidth) or not largest / bandwidth < float(np.finfo(points.dtype).max) / 4:
        raise ValueError(f'bandwidth {bandwidth} is too small for points as large as {largest:.3g}')

    tree = _build_tree(columns, bandwidth)
    with np.errstate(invalid='ignore'):  # matrix products were seen to raise that flag, on numbers that are all finite
        centers = _find_centers(tree, _seeds(tree, bandwidth), bandwidth)
    return centers.shape[1], _nearest(tree, centers), np.ascontiguousarray(centers.T, points.dtype)


class _Level(typing.NamedTuple):
    """The cells of one size."""
    count: np.ndarray  # points in each cell
    middle: np.ndarray  # of the box around them, [feature_dim, cells]
    radius: np.ndarray  # of the sphere around that box
    # Where the cell's parts begin among the cells of the next level, in the last one the points.
    first: np.ndarray
    parts: np.ndarray  # how many there are
    rows: np.ndarray  # of the middle, see _rows
    weight: np.ndarray  # sum of the cell's points, scaled, and their number: float64 [feature_dim + 1, cells]


class _Tree(typing.NamedTuple):
    """Points in the order of their cells: bins of the bandwidth, then up to 2 levels of ever smaller cells."""
    columns: np.ndarray  # the points, [feature_dim, N]
    order: np.ndarray  # int [N], their places in the prediction
    levels: list  # of _Level, coarsest (bins) first
    scale: '_Scale'
    rows: np.ndarray  # of the points, see _rows


class _Scale(typing.NamedTuple):
    """How places are scaled for matrix products: in bandwidths, from the middle of all points, empty space left out."""
    bandwidth: float
    origin: np.ndarray  # float64 [feature_dim, 1]
    axes: list  # for every axis the bins that hold points, and where they are moved to; empty if nothing is left out
    dtype: type
    slack: float  # bandwidths that a distance may be wrong by rounding

    def __call__(self, columns):
        if not self.axes:
            return (columns - self.origin.astype(columns.dtype)) / self.bandwidth
        result = columns / np.float64(self.bandwidth)
        for row, column, (bins, moved) in zip(result, columns, self.axes):
            own = np.rint(column / self.bandwidth)
            # The nearest of the bins that hold points: rounding takes a far seed out of the bin that it stands for.
            number = np.searchsorted((bins[1:] + bins[:-1]) / 2, own)
            row -= bins[number]  # first: of a far place only its part within the bin can be kept
            np.clip(row, -2, 2, out=row)
            row += moved[number]
        return result


def _make_scale(columns, bandwidth):
    """Finds the _Scale for points, [feature_dim, N]."""
    low, high = columns.min(1).astype(np.float64), columns.max(1).astype(np.float64)
    half, axes = (high - low) / 2 / bandwidth, []
    if half.max() > _WIDE:
        for column in columns:
            bins = np.unique(np.rint(column / bandwidth)).astype(np.float64)
            moved = np.cumsum(np.minimum(np.diff(bins, prepend=bins[0]), 4))  # balls reach over no more
            axes.append((bins, moved - moved[-1] / 2))
        half = np.array([moved[-1] + 1 for _, moved in axes])
    for dtype in (np.float32, np.float64):
        slack = (len(columns) + 4) * float(np.finfo(dtype).eps) * (np.linalg.norm(half) + 2) ** 2
        if slack < _MOST_SLACK:
            break
    origin = (low + (high - low) / 2).astype(columns.dtype).astype(np.float64)  # the same in all precisions
    return _Scale(bandwidth, origin[:, None], axes, dtype, slack)


def _rows(scale, columns):
    """Scaled columns, ones, and the squared lengths: [feature_dim + 2, n]. With _factors they make distances."""
    rows = np.empty([len(columns) + 2, columns.shape[1]], scale.dtype)
    for part in _slices(columns.shape[1]):
        own = rows[:, part]
        own[:-2] = scale(columns[:, part].astype(np.promote_types(columns.dtype, scale.dtype), copy=False))
        own[-2] = 1
        np.einsum('ij,ij->j', own[:-2], own[:-2], out=own[-1])
    return rows


def _factors(scale, places):
    """What times _rows makes squared distances from scaled places, float64 [feature_dim, S]."""
    return np.concatenate([-2 * places, _squared(places)[None], np.ones([1, places.shape[1]])]).T.astype(scale.dtype)


def _build_tree(columns, bandwidth):
    """Sorts points into cells. columns: float [feature_dim, N]."""
    feature_dim, n = columns.shape
    # A point's key holds, from its highest bits down, the number of its bin, its place within the bin at each
    # level, and its index. Sorted, the keys of every cell of every level lie side by side; a sort is faster
    # than an argsort.
    index_bits = (n - 1).bit_length()
    low, high = np.rint(columns.min(1) / bandwidth), np.rint(columns.max(1) / bandwidth)
    spans, bin_bits = _spans(low, high)
    most_bits, numbers = 63 - index_bits - _LEVELS * _DIGIT * feature_dim, None
    if bin_bits > most_bits:
        numbers, bin_bits = _number_bins(np.rint(columns / bandwidth), most_bits)
    free = 63 - index_bits - bin_bits
    digit = min(_DIGIT, free // feature_dim)
    levels = min(_LEVELS, free // (digit * feature_dim)) if digit else 0
    side = 1 << digit * levels  # of a bin in finest cells
    # Spread: the digits of a place along an axis move to where the key wants them.
    place = np.arange(side)
    spreads = [sum((place >> digit * level & (1 << digit) - 1) << digit * (feature_dim * level + j)
                   for level in range(levels)) if levels else np.zeros(1, np.int64) for j in range(feature_dim)]
    key = np.empty(n, np.int64)
    for part in _slices(n):  # so that what lies between fits a core's cache
        # In the points' own precision, as scikit-learn does it: on a border of bins a point falls into the same
        # one.
        offset = columns[:, part] / bandwidth
        bins = np.rint(offset)
        offset -= bins  # within the bin, -0.5 to 0.5
        own = _number_in(bins, low, spans, bin_bits) if numbers is None else numbers[part]
        own <<= digit * levels * feature_dim
        for cell, spread in zip(offset, spreads):
            cell += 0.5
            cell *= side
            np.minimum(cell, side - 1, out=cell)
            own += spread.take(cell.astype(np.intp))
        key[part] = own
    key <<= index_bits
    key += np.arange(n)
    key.sort()
    order = key & ((1 << index_bits) - 1)
    key >>= index_bits
    ordered = np.empty_like(columns)
    for j in range(feature_dim):
        np.take(columns[j], order, out=ordered[j], mode='clip')

    scale = _make_scale(columns, bandwidth)
    first = _first_of_equals(key)
    key = key[first]
    if levels > 1:
        # The finest cells pay only where points are crowded; elsewhere the next larger cells hold points
        # directly.
        larger = _first_of_equals(key >> digit * feature_dim)
        keep = np.repeat(np.diff(first[larger], append=n) >= _CROWD, np.diff(larger, append=len(first)))
        keep[larger] = True
        first, key = first[keep], key[keep]
    parts = np.diff(first, append=n)
    count = parts
    sums = np.stack([np.add.reduceat(column.astype(np.float64), first) for column in ordered])
    low = np.minimum.reduceat(ordered, first, axis=1).astype(np.float64)
    high = np.maximum.reduceat(ordered, first, axis=1).astype(np.float64)
    result = [_level(scale, count, sums, low, high, first, parts)]
    for _ in range(levels):
        key = key >> digit * feature_dim
        first = _first_of_equals(key)
        parts = np.diff(first, append=len(key))
        key = key[first]
        count, sums = np.add.reduceat(count, first), np.add.reduceat(sums, first, axis=1)
        low, high = np.minimum.reduceat(low, first, axis=1), np.maximum.reduceat(high, first, axis=1)
        result.insert(0, _level(scale, count, sums, low, high, first, parts))
    return _Tree(ordered, order, result, scale, _rows(scale, ordered))


def _level(scale, count, sums, low, high, first, parts):
    middle = low + (high - low) / 2
    radius = np.sqrt(_squared(high - middle))
    weight = np.concatenate([scale(sums / count) * count, count[None]])
    return _Level(count, middle, radius, first, parts, _rows(scale, middle), weight)


def _spans(low, high):
    """Bins from low to high, [feature_dim] each: (how many along each axis, bits that numbers for all of them need)."""
    spans = [int(span) for span in high.astype(np.float64) - low + 1]
    return spans, math.prod(spans).bit_length()


def _number_in(bins, low, spans, bits):
    """Numbers columns of bins, [feature_dim, N], as all conceivable bins from low on are numbered: int64 [N]."""
    whole = bits <= np.finfo(bins.dtype).nmant  # numbers that the floats hold exactly: fewer bytes to pass over
    number = np.zeros(bins.shape[1], bins.dtype if whole else np.int64)
    for column, least, span in zip(bins, low, spans):
        number *= span
        number += (column - least if whole else column.astype(np.float64) - float(least)).astype(number.dtype)
    return number.astype(np.int64)


def _number_bins(bins, most_bits):
    """Gives equal columns of bins, [feature_dim, N], equal numbers: (int64 [N], bits that they need)."""
    low = bins.min(1)
    spans, bits = _spans(low, bins.max(1))
    if bits <= most_bits:
        return _number_in(bins, low, spans, bits), bits
    # Too many conceivable bins (far-spread points, many dimensions): number those that hold points.
    number, count = np.zeros(bins.shape[1], np.int64), 1
    for column, least, span in zip(bins, low, spans):
        if span > len(number):
            _, own = np.unique(column, return_inverse=True)
            span = int(own.max()) + 1
        else:
            own = (column.astype(np.float64) - float(least)).astype(np.int64)
        if count * span >= 1 << 63:
            number = np.unique(number, return_inverse=True)[1]
            count = int(number.max()) + 1
        number = number * span + own
        count *= span
    number = np.unique(number, return_inverse=True)[1]
    return number, int(number.max()).bit_length()


def _first_of_equals(values):
    """Where in sorted values a new one begins."""
    new = np.empty(len(values), bool)
    new[0] = True
    np.not_equal(values[1:], values[:-1], out=new[1:])
    return np.flatnonzero(new)


def _seeds(tree, bandwidth):
    """Middles of the bins, float [feature_dim, S]; the points themselves if each has a bin of its own."""
    first = _first_points(tree)
    if len(first) == tree.columns.shape[1]:
        return tree.columns
    return np.rint(tree.columns[:, first] / bandwidth).astype(np.float32) * bandwidth


def _first_points(tree):
    """A point of each bin."""
    counts = tree.levels[0].count
    return np.cumsum(counts) - counts


def _find_centers(tree, seeds, bandwidth):
    """Shifts all seeds and merges where they end: float64 [feature_dim, clusters]."""
    means, counts = _shift(tree, seeds, bandwidth)
    if not counts.any():
        # In many dimensions the middle of a bin may have no point within the bandwidth. A point has: itself.
        return _find_centers(tree, tree.columns[:, _first_points(tree)], bandwidth)
    means = means[:, counts > 0]
    # Most points first, then by coordinates.
    means = means[:, np.lexsort([*means[::-1], counts[counts > 0]])[::-1]]
    centers = []
    while means.shape[1]:  # a turn for each cluster
        centers.append(means[:, 0].copy())  # a view would keep all of this turn
        means = means[:, _squared(means - means[:, :1]) > bandwidth ** 2]
    return np.stack(centers, 1)


def _shift(tree, seeds, bandwidth):
    """Moves seeds, float [feature_dim, S], to their ends.

    Returns (means float64 [feature_dim, S], counts [S]): the ends, and how many points each is the mean of, 0
    for a seed that has none around it.
    """
    means, counts = seeds.astype(np.float64), np.zeros(seeds.shape[1])
    step, moving = np.full(len(counts), np.inf), np.ones(len(counts), bool)  # steps in bandwidths
    blocks, stale = [], np.arange(len(counts))
    for _ in range(_MAX_ITERATIONS + 1):
        room = _MAX_NEAR - sum(len(block.near) for block in blocks)
        for seeds in _split(means, stale):
            # A seed in full flight will be far away after one step; slow ones are given room for several.
            pace = step[seeds].max()
            margin = _ROOM * pace if pace < _SLOW and room > 0 else 0
            blocks.append(_look(tree, seeds, tree.scale(means[:, seeds]), margin))
            room -= len(blocks[-1].near)
        valid, stale = [], [np.zeros(0, np.intp)]
        for block in blocks:
            active = np.flatnonzero(moving[block.seeds])
            seeds = block.seeds[active]
            before = means[:, seeds]
            places = tree.scale(before)
            total = block.total[active] + _sum_near(tree, block.near, before, places)
            count = total[:, -1]
            # Divided last, as a mean of the points themselves is: equal to the last digit where numbers are round.
            after = (bandwidth * total[:, :-1].T + count * (before - bandwidth * places)) / np.maximum(count, 1)
            # The precision in which scikit-learn keeps means.
            after = np.where(count > 0, after.astype(tree.columns.dtype), before)
            means[:, seeds], counts[seeds] = after, count
            step[seeds] = np.sqrt(_squared((after - before) / bandwidth))
            moving[seeds] = (step[seeds] > _STOP) & (count > 0)
            going = moving[seeds]
            away = _squared(tree.scale(after) - block.places[:, active])[going]
            if (away < block.margin ** 2).all():
                valid.append(block)
            else:
                stale.append(seeds[going])
        blocks, stale = [block for block in valid if moving[block.seeds].any()], np.concatenate(stale)
        if not moving.any():
            break
    return means, counts


def _split(means, seeds):
    """Cuts seeds into blocks of neighbours: a list of int [S]."""
    if len(seeds) <= _BLOCK:
        return [seeds] if len(seeds) else []
    at = means[:, seeds]
    seeds = seeds[np.argsort(at[np.ptp(at, axis=1).argmax()], kind='stable')]
    half = len(seeds) // 2
    return _split(means, seeds[:half]) + _split(means, seeds[half:])


class _Block(typing.NamedTuple):
    """Neighbouring seeds and what is around them, which holds while each is nearer to its place than margin."""
    seeds: np.ndarray  # int [S]
    places: np.ndarray  # where they were, scaled, float64 [feature_dim, S]
    margin: float  # bandwidths
    total: np.ndarray  # sum, scaled, and number of the points surely within, float64 [S, feature_dim + 1]
    near: np.ndarray  # int, all other points that may be within the ball around any of them


def _look(tree, seeds, places, margin):
    """Looks for the points around a block of seeds, from the coarsest cells down: a _Block.

    places: where the seeds are, scaled, float64 [feature_dim, S]
    margin: how many bandwidths from there they may go
    """
    total = np.zeros([len(seeds), len(places) + 1])
    factors, least = _factors(tree.scale, places), margin + tree.scale.slack
    index = np.arange(len(tree.levels[0].count))
    for level in tree.levels:
        opened = [np.zeros(0, np.intp)]
        for part in _slices(len(index)):
            cells = index[part]
            reach = level.radius.take(cells) / tree.scale.bandwidth + least
            within, cut = _compare(factors, level.rows.take(cells, axis=1), reach)
            opened.append(cells[cut])
            total += within @ level.weight.take(cells, axis=1).T
        index = np.concatenate(opened)
        index = _expand(level.first.take(index), level.parts.take(index))
    near = [np.zeros(0, np.intp)]
    for part in _slices(len(index)):
        rows = tree.rows.take(index[part], axis=1)
        within, cut = _compare(factors, rows, least)
        near.append(index[part][cut])
        total += within @ rows[:-1].T
    return _Block(seeds, places, margin, total, np.concatenate(near))


def _compare(factors, rows, reach):
    """Holds items against the balls around places. factors, rows: of them; reach: of the items, [items] or a number.

    Returns (within, cut): float [S, items], 1 for items within the ball for sure; and the indices of those items for
    which that cannot be said of every ball, 0 in within.
    """
    distance = factors @ rows  # squared
    inner, outer = np.square([np.maximum(1 - reach, 0), 1 + reach]).astype(rows.dtype)
    within = distance < inner
    cut = np.flatnonzero((within != (distance <= outer)).any(0))
    within = within.astype(rows.dtype)
    within[:, cut] = 0
    return within, cut


def _sum_near(tree, near, means, places):
    """Sum and number of those of the near points that are within the balls around means, as in a block's total."""
    total = np.zeros([means.shape[1], len(means) + 1])
    factors, slack = _factors(tree.scale, places), tree.scale.slack
    for part in _slices(len(near)):
        rows = tree.rows.take(near[part], axis=1)
        distance = factors @ rows
        within = distance <= 1
        # The only place where a point is held against the ball itself, in float64 as scikit-learn's trees do.
        place, point = np.nonzero(np.abs(distance - 1) <= 3 * slack)
        exact = tree.columns[:, near[part][point]].astype(np.float64) - means[:, place]
        within[place, point] = _squared(exact) <= tree.scale.bandwidth ** 2
        total += within.astype(rows.dtype) @ rows[:-1].T
    return total


def _expand(first, parts):
    """The parts of cells: first[i], first[i] + 1, ..., parts[i] of them, for each i."""
    ends = np.cumsum(parts)
    index = np.repeat(first - ends + parts, parts)
    index += np.arange(len(index))
    return index


def _squared(vectors):
    return np.square(vectors).sum(0)


def _nearest(tree, centers):
    """The nearest of centers, float64 [feature_dim, K], for each point in the prediction's order."""
    n, num = tree.columns.shape[1], centers.shape[1]
    if num == 1:
        return np.zeros(n, np.int64)
    # A cell goes as a whole where its sphere cannot reach the plane halfway to the next center.
    level = tree.levels[-1]
    nearest, sure = np.zeros(len(level.count), np.int32), np.zeros(len(level.count), bool)
    for part in _slices(len(level.count), num):
        distance = np.sqrt(_distances(level.middle[:, part], centers))
        nearest[part] = distance.argmin(1)
        first, second = np.partition(distance, 1, axis=1)[:, :2].T
        sure[part] = second - first > (2 + 1e-6) * level.radius[part] + 1e-9 * second
    labels = np.repeat(nearest, level.count)
    rest = np.flatnonzero(np.repeat(~sure, level.count))
    for part in _slices(len(rest), num):
        points = tree.columns.take(rest[part], axis=1)
        labels[rest[part]] = _distances(points, centers).argmin(1)
    result = np.empty(n, np.int32)
    result[tree.order] = labels
    return result.astype(np.int64)


def _distances(columns, centers):
    """Squared distances, float64 [points, centers]."""
    return sum(np.square(np.subtract.outer(column, center)) for column, center in zip(columns, centers))


def _slices(length, width=_BLOCK):
    """Cuts range(length) into slices for which a row of width each keeps within _BLOCK * _MAX_ITEMS numbers."""
    size = max(1, _BLOCK * _MAX_ITEMS // width)
    return [slice(start, start + size) for start in range(0, length, size)]


# ---- Instances ---------------------------------------------------------------------------------------------

_SAMPLE, _SCATTERED = 4096, 2048  # points; bins that they lie in
_SPECKS = 8e-4  # of all pixels: smaller clusters are none; half of all label lanes have over 7 times as many


def instance_ids(embedding, bandwidth, margins=None):
    """Clusters the pixels of an embedding and numbers the clusters.

    embedding: float [h, w, feature_dim]
    bandwidth: of mean shift, see cluster
    margins: (delta_v, delta_d) of the loss that the network was trained with. Beside a lane, and where the network is
        in doubt, an embedding passes from the background's to the lane's: a bridge on which mean shift walks from one
        to the other, or finds centers of its own. The loss wants the pixels of a lane within delta_v of a mean that is
        2 delta_d away from the background's. So with margins, pixels less than 2 (delta_d - delta_v) away from the
        background's center, and never less than delta_v, are background, and mean shift has the others alone, which is
        also soon done.
        An embedding that is scattered all over, as that of a network that has hardly begun to learn, has no clusters
        and is all background: mean shift would spend a minute on thousands of them. Specks are background as well.
    Returns int32 [h, w]: 0 for the largest cluster, which is the background, and 1..K for the others from left to
    right, by where the straight lines through them meet the lower border of the photo: lanes meet at the horizon but
    lie side by side near us.
    """
    embedding = np.asarray(embedding)
    if embedding.ndim != 3:
        raise ValueError(f'embedding must be of shape [h, w, feature_dim], not {list(embedding.shape)}')
    height, width, feature_dim = embedding.shape
    points = embedding.reshape(height * width, feature_dim)
    if margins is None or not len(points):
        num, labels, _ = cluster(points, bandwidth)
        pixels = np.flatnonzero(labels != np.bincount(labels, minlength=1).argmax())
        labels = labels[pixels]
    else:
        delta_v, delta_d = margins
        if not np.isfinite(points).all():
            raise ValueError('embedding holds NaN or infinity')
        points = points.astype(np.result_type(points, np.float32), copy=False)
        center = _background_center(points, bandwidth)
        if center is None:  # see is_scattered
            return np.zeros([height, width], np.int32)
        away = points - center.astype(points.dtype)
        pixels = np.flatnonzero(np.einsum('ij,ij->i', away, away) >= max(delta_v, 2 * (delta_d - delta_v)) ** 2)
        num, labels, _ = cluster(points[pixels], bandwidth)
        large = (np.bincount(labels, minlength=num) >= _SPECKS * len(points))[labels]
        pixels, labels = pixels[large], labels[large]

    # Where the straight line through a cluster's pixels, x as a function of y, meets the lower border.
    y, x = np.divmod(pixels, width)
    y -= height - 1
    size, sum_x, sum_y, sum_xy, sum_yy = (np.bincount(labels, weights, num) for weights in (None, x, y, x * y, y * y))
    count = np.maximum(size, 1)  # a center may be the nearest of no pixel at all; such a cluster comes last
    slope = (sum_xy - sum_x * sum_y / count) / (sum_yy - sum_y ** 2 / count + count)  # of what is one row tall, 0
    x = np.where(size > 0, (sum_x - slope * sum_y) / count, np.inf)
    number = np.empty(num, np.int32)
    number[np.argsort(x, kind='stable')] = np.arange(1, num + 1)
    ids = np.zeros(height * width, np.int32)
    ids[pixels] = number[labels]
    return ids.reshape(height, width)


def is_scattered(embedding, bandwidth):
    """Whether instance_ids with margins takes all of an embedding [h, w, feature_dim] for background, since it lies in
    thousands of bins: the network has hardly begun to learn, or the bandwidth is far too small for it."""
    return _background_center(np.reshape(embedding, [-1, np.shape(embedding)[-1]]), bandwidth) is None


def _background_center(points, bandwidth):
    """Where most points are: the densest bin, from which mean shift goes on until it rests. -> [feature_dim].

    By a sample of the points, which is enough for a mean of most of them. None if it is scattered: if it lies in more
    than _SCATTERED bins.
    """
    sample = points
    if len(points) > _SAMPLE:  # at random: regular steps would be the same few columns in every row
        sample = points[np.random.default_rng(0).integers(0, len(points), _SAMPLE)]
    bins, _ = _number_bins(np.rint(np.ascontiguousarray(sample.T, np.float64) / bandwidth), 63)
    _, number, counts = np.unique(bins, return_inverse=True, return_counts=True)
    if len(counts) > _SCATTERED:
        return None
    center = sample[number == counts.argmax()].mean(0, dtype=np.float64)
    for _ in range(_MAX_ITERATIONS):
        near = _squared((sample - center).T) <= bandwidth ** 2
        if not near.any():  # in many dimensions the middle of a bin may be far from its points
            break
        before, center = center, sample[near].mean(0, dtype=np.float64)
        if np.square(center - before).sum() <= (_STOP * bandwidth) ** 2:
            break
    return center


def get_instance_masks(prediction, bandwidth):
    """Colours the clusters of every embedding in a batch, however many there are; the background is black.

    prediction: float [b, h, w, feature_dim]
    Returns a list of b uint8 [h, w, 3], RGB.
    """
    import visualization  # here, since visualization is no part of clustering, nor of its start-up time
    return [visualization.colour_instances(instance_ids(embedding, bandwidth)) for embedding in prediction]


def save_instance_masks(prediction, output_dir, bandwidth, count):
    """Writes every cluster of an embedding as a picture of its own: 255 where a pixel belongs to it, else 0.

    prediction: float [b, h, w, feature_dim]
    output_dir: an existing folder
    count: number of the first photo; the others of the batch follow
    The files are called cluster_CCCC_K.png: CCCC the number of the photo, K = 0, 1, ... that of instance_ids.
    """
    from data import files
    for number, embedding in enumerate(prediction, count):
        ids = instance_ids(embedding, bandwidth)
        for k in range(ids.max(initial=-1) + 1):
            path = os.path.join(output_dir, f'cluster_{number:04d}_{k}.png')
            files.write_image(path, np.where(ids == k, np.uint8(255), np.uint8(0)))
