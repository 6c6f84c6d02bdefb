"""From an embedding to instances: mean shift clustering and the numbering of its clusters. NumPy alone.

    num_clusters, labels, cluster_centers = cluster(points, bandwidth)   # [N, feature_dim] -> [N]
    ids = instance_ids(embedding, bandwidth, margins)                    # [h, w, feature_dim] -> [h, w]

Mean shift: Comaniciu and Meer, Mean Shift: A Robust Approach Toward Feature Space Analysis, PAMI 2002, section 2;
De Brabandere et al., Semantic Instance Segmentation with a Discriminative Loss Function, 2017, cluster with it.
"""

import functools
import math
import typing

import numpy as np

# The points are sorted by Morton key into a linear 2**d-tree, whose root is a grid of bins:
#
#     level 0   |          bin            |      bin       | ..   as wide as the bandwidth; the centers are the seeds
#     level 1   |  cell  |  cell  | cell  |  cell  | cell  | ..   a bin has up to 4 cells along every axis
#     level 2   | | | |  |  |  |  |  leaf |  | | | | leaf  | ..   so has a cell, if it holds many points
#     points    ........ ........ ....... ........ ....... ..     those of any node are contiguous
#
# A node keeps the count and the sum of its points, and a bounding sphere. A mean is found by descending from the bins.
# The distances of a block of 16 neighbouring seeds s from the centers c of all nodes of a level that are still in
# question, the frontier, are one matrix product, since |s - c|^2 = [-2 s, |s|^2, 1] . [c, 1, |c|^2]. A node whose
# sphere is inside the balls of some seeds and outside the others' counts as a whole, by another matrix product. A node
# that the surface of any ball cuts is opened: its children are the next frontier. Points that are cut are candidates,
# held one by one against the exact ball of each seed. So the means are those of the points themselves, never of bins.
# The candidates are found with a margin, as in a Verlet list, and stay valid until a seed has moved farther than that.

# As in scikit-learn.
_MAX_ITERATIONS = 300
_TOLERANCE = 1e-3  # bandwidths: a seed that moves no farther has converged

# For speed alone; no result depends on them.
_LEVELS, _LEVEL_BITS = 2, 2  # levels of cells below the bins; each splits an axis into 2**_LEVEL_BITS
_MIN_SPLIT = 512  # points of a cell that is split in the last level
_BLOCK = 16  # seeds
_CHUNK = 1 << 13  # nodes or points at a time: a block's distances fit into a core's cache
# A block whose last step was below _SMALL_STEP bandwidths gets a margin of _MARGIN_STEPS such steps, as long as all
# blocks together have no more candidates than _MAX_CANDIDATES.
_SMALL_STEP, _MARGIN_STEPS, _MAX_CANDIDATES = 0.05, 1.5, 1 << 20
_MAX_ERROR = 1e-3  # bandwidths: distances with a larger rounding error in float32 are computed in float64
_MAX_BANDWIDTH = 1e30  # so that coordinates stay finite in float32
_MAX_EXTENT = 1e4  # bandwidths: points that extend farther have the gaps between them closed


# ---- Mean shift ------------------------------------------------------------------------------------------------------

def cluster(prediction, bandwidth):
    """Mean shift with a flat kernel and bin seeding: scikit-learn's MeanShift(bandwidth, bin_seeding=True), but faster.

    The center of every occupied bin of a grid is a seed. A seed moves to the mean of the points in the ball around it,
    until it has converged on a mode. Of modes within a bandwidth of each other the one with the most points remains,
    as a cluster center; a point belongs to the nearest center. Means are exact; whether a point at a distance of
    just the bandwidth is inside a ball is decided by rounding, as in scikit-learn.

    prediction: float [N, feature_dim]; float16 is computed in float32, integers in float64
    bandwidth: radius of the ball, in units of the embedding
    -> (num_clusters int, labels int64 [N], cluster_centers float [num_clusters, feature_dim]), the clusters in
    decreasing order of the points within the bandwidth of their centers; no clusters without points.
    Raises ValueError for another shape, points that are not finite, and a bandwidth that is not above 0 and at most
    1e30, or too small for the precision of the points.
    Memory: below 60 bytes per coordinate and 30 MB.
    """
    points = np.asarray(prediction)
    if points.ndim != 2 or points.shape[1] == 0:
        raise ValueError(f'prediction must be of shape [N, feature_dim], not {list(points.shape)}')
    bandwidth = float(bandwidth)
    if not 0 < bandwidth <= _MAX_BANDWIDTH:
        raise ValueError(f'bandwidth must be a number above 0, up to {_MAX_BANDWIDTH:g}, not {bandwidth}')
    if points.dtype != np.float32:
        points = points.astype(np.float32 if points.dtype == np.float16 else np.float64, copy=False)
    if len(points) == 0:
        return 0, np.zeros([0], np.int64), np.zeros([0, points.shape[1]], points.dtype)

    _keep_freed_memory()
    columns = np.ascontiguousarray(points.T)
    low, high = columns.min(), columns.max()
    if not np.isfinite(low) or not np.isfinite(high):  # min and max propagate NaN
        bad = np.flatnonzero(~np.isfinite(columns).all(0))
        raise ValueError(f'prediction holds NaN or infinity in {len(bad)} of {len(points)} rows, '
                         f'the first is row {bad[0]}')
    largest = max(abs(float(low)), abs(float(high)))
    if not points.dtype.type(bandwidth) or not largest / bandwidth < float(np.finfo(points.dtype).max) / 4:
        raise ValueError(f'bandwidth {bandwidth} is too small for points as large as {largest:.3g}')

    tree = _build_tree(columns, bandwidth)
    with np.errstate(invalid='ignore'):  # matrix products were seen to raise that flag on finite numbers
        centers = _find_centers(tree, _bin_seeds(tree, bandwidth), bandwidth)
    return centers.shape[1], _assign(tree, centers), np.ascontiguousarray(centers.T, points.dtype)


@functools.cache
def _keep_freed_memory():
    """Makes glibc keep freed arrays, which it otherwise returns to the system and fetches again page by page.

    It does so once it has seen a block as large as this one freed; the block itself is never touched. Without it
    512x512 points take a quarter longer.
    """
    np.empty(31 << 20, np.uint8)


def _find_centers(tree, seeds, bandwidth):
    """The modes that seeds lead to, without those near a larger one. -> float64 [feature_dim, clusters]"""
    modes, counts = _seek_modes(tree, seeds, bandwidth)
    if not counts.any():
        # In many dimensions a bin's center may have no point within the bandwidth. A point has: itself.
        return _find_centers(tree, tree.columns[:, _first_of_bins(tree)], bandwidth)
    modes = modes[:, counts > 0]
    # Most points first, then by coordinates.
    modes = modes[:, np.lexsort([*modes[::-1], counts[counts > 0]])[::-1]]
    centers = []
    while modes.shape[1]:
        centers.append(modes[:, 0].copy())  # a view would keep all modes of this turn in memory
        modes = modes[:, _square(modes - modes[:, :1]) > bandwidth ** 2]
    return np.stack(centers, 1)


def _bin_seeds(tree, bandwidth):
    """Centers of the occupied bins; the points themselves if each has a bin of its own. -> float [feature_dim, S]"""
    first = _first_of_bins(tree)
    if len(first) == tree.columns.shape[1]:
        return tree.columns
    return np.rint(tree.columns[:, first] / bandwidth).astype(np.float32) * bandwidth


def _first_of_bins(tree):
    """-> the index of a point of each bin, int [bins]"""
    counts = tree.levels[0].count
    return np.cumsum(counts) - counts


def _seek_modes(tree, seeds, bandwidth):
    """Shifts seeds, float [feature_dim, S], until all have converged.

    -> (modes float64 [feature_dim, S], counts [S] of the points that each is the mean of, 0 for a seed without any).
    """
    means, counts = seeds.astype(np.float64), np.zeros(seeds.shape[1])
    step, moving = np.full(len(counts), np.inf), np.ones(len(counts), bool)  # steps in bandwidths
    blocks, stale = [], np.arange(len(counts))
    for _ in range(_MAX_ITERATIONS + 1):
        budget = _MAX_CANDIDATES - sum(len(block.candidates) for block in blocks)
        for group in _bisect(means, stale):
            # A seed that takes large steps leaves any margin at once.
            largest = step[group].max()
            margin = _MARGIN_STEPS * largest if largest < _SMALL_STEP and budget > 0 else 0
            blocks.append(_descend(tree, group, tree.scale(means[:, group]), margin))
            budget -= len(blocks[-1].candidates)
        valid, stale = [], [np.zeros(0, np.intp)]
        for block in blocks:
            active = np.flatnonzero(moving[block.seeds])
            group = block.seeds[active]
            before = means[:, group]
            scaled = tree.scale(before)
            moments = block.moments[active] + _sum_candidates(tree, block.candidates, before, scaled)
            count = moments[:, -1]
            # Divided last, as in a mean of the points themselves, so that round numbers agree to the last digit.
            after = (bandwidth * moments[:, :-1].T + count * (before - bandwidth * scaled)) / np.maximum(count, 1)
            # The precision in which scikit-learn keeps means.
            after = np.where(count > 0, after.astype(tree.columns.dtype), before)
            means[:, group], counts[group] = after, count
            step[group] = np.sqrt(_square((after - before) / bandwidth))
            moving[group] = (step[group] > _TOLERANCE) & (count > 0)
            remaining = moving[group]
            moved = _square(tree.scale(after) - block.origins[:, active])[remaining]
            if (moved < block.margin ** 2).all():
                valid.append(block)
            else:
                stale.append(group[remaining])
        blocks, stale = [block for block in valid if moving[block.seeds].any()], np.concatenate(stale)
        if not moving.any():
            break
    return means, counts


def _bisect(means, seeds):
    """Splits seeds, int [S], at the median of their longest axis into blocks of neighbours. -> list of int [S']"""
    if len(seeds) <= _BLOCK:
        return [seeds] if len(seeds) else []
    positions = means[:, seeds]
    seeds = seeds[np.argsort(positions[np.ptp(positions, axis=1).argmax()], kind='stable')]
    half = len(seeds) // 2
    return _bisect(means, seeds[:half]) + _bisect(means, seeds[half:])


def _assign(tree, centers):
    """The nearest of centers, float64 [feature_dim, K], for each point. -> int64 [N], in the prediction's order"""
    n, num = tree.columns.shape[1], centers.shape[1]
    if num == 1:
        return np.zeros(n, np.int64)
    # A leaf is assigned as a whole if its sphere does not reach the plane halfway to the second nearest center.
    leaves = tree.levels[-1]
    nearest, sure = np.zeros(len(leaves.count), np.int32), np.zeros(len(leaves.count), bool)
    for part in _chunks(len(leaves.count), num):
        distance = np.sqrt(_square_distances(leaves.center[:, part], centers))
        nearest[part] = distance.argmin(1)
        first, second = np.partition(distance, 1, axis=1)[:, :2].T
        sure[part] = second - first > (2 + 1e-6) * leaves.radius[part] + 1e-9 * second
    labels = np.repeat(nearest, leaves.count)
    rest = np.flatnonzero(np.repeat(~sure, leaves.count))
    for part in _chunks(len(rest), num):
        points = tree.columns.take(rest[part], axis=1)
        labels[rest[part]] = _square_distances(points, centers).argmin(1)
    result = np.empty(n, np.int32)
    result[tree.order] = labels
    return result.astype(np.int64)


def _square_distances(columns, centers):
    """-> float64 [points, centers]"""
    return sum(np.square(np.subtract.outer(column, center)) for column, center in zip(columns, centers))


def _square(vectors):
    """Squared lengths of columns, [d, n]. -> [n]"""
    return np.square(vectors).sum(0)


def _chunks(length, width=_BLOCK):
    """Slices of range(length) for which a matrix [slice, width] has at most _BLOCK * _CHUNK elements. -> list"""
    size = max(1, _BLOCK * _CHUNK // width)
    return [slice(start, start + size) for start in range(0, length, size)]


# ---- Balls against the tree ------------------------------------------------------------------------------------------

class _Block(typing.NamedTuple):
    """Neighbouring seeds and the points around them, valid while each seed is within the margin of its origin."""
    seeds: np.ndarray  # int [S]
    origins: np.ndarray  # where they were at the descent, scaled, float64 [feature_dim, S]
    margin: float  # bandwidths
    moments: np.ndarray  # scaled sum and count of the points that are certainly inside, float64 [S, feature_dim + 1]
    candidates: np.ndarray  # int, all other points that may be inside the ball of any of them


def _descend(tree, seeds, origins, margin):
    """Finds the points around a block of seeds, level by level. -> _Block

    origins: where the seeds are, scaled, float64 [feature_dim, S]
    margin: how many bandwidths they may move from there
    """
    moments = np.zeros([len(seeds), len(origins) + 1])
    queries, tolerance = _lift_queries(tree.scale, origins), margin + tree.scale.error
    frontier = np.arange(len(tree.levels[0].count))
    for level in tree.levels:
        opened = [np.zeros(0, np.intp)]
        for part in _chunks(len(frontier)):
            nodes = frontier[part]
            reach = level.radius.take(nodes) / tree.scale.bandwidth + tolerance
            inside, cut = _classify(queries, level.lifted.take(nodes, axis=1), reach)
            opened.append(nodes[cut])
            moments += inside @ level.moments.take(nodes, axis=1).T
        frontier = np.concatenate(opened)
        frontier = _children(level.first_child.take(frontier), level.num_children.take(frontier))
    candidates = [np.zeros(0, np.intp)]
    for part in _chunks(len(frontier)):
        lifted = tree.lifted.take(frontier[part], axis=1)
        inside, cut = _classify(queries, lifted, tolerance)
        candidates.append(frontier[part][cut])
        moments += inside @ lifted[:-1].T
    return _Block(seeds, origins, margin, moments, np.concatenate(candidates))


def _classify(queries, lifted, reach):
    """Holds spheres of radius reach, [items] or one number, against balls of radius 1; see _lift and _lift_queries.

    -> (inside float [S, items], 1 for a sphere inside the ball of seed S; indices of the items that the surface of any
    ball cuts, whose columns are 0).
    """
    square_distance = queries @ lifted
    inner, outer = np.square([np.maximum(1 - reach, 0), 1 + reach]).astype(lifted.dtype)
    inside = square_distance < inner
    cut = np.flatnonzero((inside != (square_distance <= outer)).any(0))
    inside = inside.astype(lifted.dtype)
    inside[:, cut] = 0
    return inside, cut


def _sum_candidates(tree, candidates, means, scaled):
    """Moments of the candidates inside the balls around means, [feature_dim, S]. -> float64 [S, feature_dim + 1]"""
    moments = np.zeros([means.shape[1], len(means) + 1])
    queries, error = _lift_queries(tree.scale, scaled), tree.scale.error
    for part in _chunks(len(candidates)):
        lifted = tree.lifted.take(candidates[part], axis=1)
        square_distance = queries @ lifted
        inside = square_distance <= 1
        # The only place where a point is held against the ball itself, in float64 as in scikit-learn's trees.
        seed, point = np.nonzero(np.abs(square_distance - 1) <= 3 * error)
        exact = tree.columns[:, candidates[part][point]].astype(np.float64) - means[:, seed]
        inside[seed, point] = _square(exact) <= tree.scale.bandwidth ** 2
        moments += inside.astype(lifted.dtype) @ lifted[:-1].T
    return moments


def _children(first, num):
    """Indices of the children of nodes: first[i], first[i] + 1, ..., num[i] of them, for each i. -> int [sum of num]"""
    ends = np.cumsum(num)
    index = np.repeat(first - ends + num, num)
    index += np.arange(len(index))
    return index


def _lift(scale, columns):
    """Lifts columns x to [scaled x, 1, |scaled x|^2]. -> [feature_dim + 2, n]"""
    lifted = np.empty([len(columns) + 2, columns.shape[1]], scale.dtype)
    for part in _chunks(columns.shape[1]):
        own = lifted[:, part]
        own[:-2] = scale(columns[:, part].astype(np.promote_types(columns.dtype, scale.dtype), copy=False))
        own[-2] = 1
        np.einsum('ij,ij->j', own[:-2], own[:-2], out=own[-1])
    return lifted


def _lift_queries(scale, scaled):
    """The rows [-2 s, |s|^2, 1] of scaled s, [feature_dim, S]; by _lift, squared distances. -> [S, feature_dim + 2]"""
    return np.concatenate([-2 * scaled, _square(scaled)[None], np.ones([1, scaled.shape[1]])]).T.astype(scale.dtype)


class _Scale(typing.NamedTuple):
    """Scales points for matrix products: to bandwidths from the middle of all points, wide gaps closed."""
    bandwidth: float
    origin: np.ndarray  # float64 [feature_dim, 1]
    axes: list  # per axis the occupied bins, and where they are moved to; empty if no gaps are closed
    dtype: type
    error: float  # bound of a distance's rounding error, bandwidths

    def __call__(self, columns):
        if not self.axes:
            return (columns - self.origin.astype(columns.dtype)) / self.bandwidth
        result = columns / np.float64(self.bandwidth)
        for row, column, (bins, moved) in zip(result, columns, self.axes):
            own = np.rint(column / self.bandwidth)
            # The nearest occupied bin, since rounding may move a far seed out of its own.
            number = np.searchsorted((bins[1:] + bins[:-1]) / 2, own)
            row -= bins[number]  # first: of a far coordinate only its part within the bin is precise
            np.clip(row, -2, 2, out=row)
            row += moved[number]
        return result


def _make_scale(columns, bandwidth):
    """columns: points [feature_dim, N] -> their _Scale"""
    low, high = columns.min(1).astype(np.float64), columns.max(1).astype(np.float64)
    half, axes = (high - low) / 2 / bandwidth, []
    if half.max() > _MAX_EXTENT:
        for column in columns:
            bins = np.unique(np.rint(column / bandwidth)).astype(np.float64)
            moved = np.cumsum(np.minimum(np.diff(bins, prepend=bins[0]), 4))  # no ball reaches across more
            axes.append((bins, moved - moved[-1] / 2))
        half = np.array([moved[-1] + 1 for _, moved in axes])
    for dtype in (np.float32, np.float64):
        error = (len(columns) + 4) * float(np.finfo(dtype).eps) * (np.linalg.norm(half) + 2) ** 2
        if error < _MAX_ERROR:
            break
    origin = (low + (high - low) / 2).astype(columns.dtype).astype(np.float64)  # the same in all precisions
    return _Scale(bandwidth, origin[:, None], axes, dtype, error)


# ---- The tree --------------------------------------------------------------------------------------------------------

class _Level(typing.NamedTuple):
    """The nodes of one level."""
    count: np.ndarray  # points in each
    center: np.ndarray  # of the bounding sphere, [feature_dim, nodes]
    radius: np.ndarray  # of it
    first_child: np.ndarray  # in the next level; for leaves, among the points
    num_children: np.ndarray
    lifted: np.ndarray  # the centers, see _lift
    moments: np.ndarray  # scaled sum and count of the points, float64 [feature_dim + 1, nodes]


class _Tree(typing.NamedTuple):
    """The points in the order of their keys, and the levels of nodes above them."""
    columns: np.ndarray  # the points, [feature_dim, N]
    order: np.ndarray  # int [N], their rows in the prediction
    levels: list  # of _Level, bins first
    scale: _Scale
    lifted: np.ndarray  # the points, see _lift


def _build_tree(columns, bandwidth):
    """Sorts points, float [feature_dim, N]. -> _Tree"""
    feature_dim, n = columns.shape
    # The key of a point, 63 bits: number of the bin, then level by level the bits of its cell along each axis, then the
    # index of the point. Sorting such keys is faster than an argsort.
    index_bits = (n - 1).bit_length()
    low, high = np.rint(columns.min(1) / bandwidth), np.rint(columns.max(1) / bandwidth)
    shape, bin_bits = _grid_shape(low, high)
    max_bits, numbers = 63 - index_bits - _LEVELS * _LEVEL_BITS * feature_dim, None
    if bin_bits > max_bits:
        numbers, bin_bits = _number_bins(np.rint(columns / bandwidth), max_bits)
    free = 63 - index_bits - bin_bits
    bits = min(_LEVEL_BITS, free // feature_dim)
    levels = min(_LEVELS, free // (bits * feature_dim)) if bits else 0
    side = 1 << bits * levels  # finest cells along a bin
    # Where the bits of a finest cell's coordinate along each axis go in the key.
    cell = np.arange(side)
    spreads = [sum((cell >> bits * level & (1 << bits) - 1) << bits * (feature_dim * level + axis)
                   for level in range(levels)) if levels else np.zeros(1, np.int64) for axis in range(feature_dim)]
    key = np.empty(n, np.int64)
    for part in _chunks(n):
        # In the points' own precision, as in scikit-learn: on the border of bins points fall into the same one.
        offset = columns[:, part] / bandwidth
        bins = np.rint(offset)
        offset -= bins  # within the bin, -0.5 to 0.5
        own = _ravel_bins(bins, low, shape, bin_bits) if numbers is None else numbers[part]
        own <<= bits * levels * feature_dim
        for coordinate, spread in zip(offset, spreads):
            coordinate += 0.5
            coordinate *= side
            np.minimum(coordinate, side - 1, out=coordinate)
            own += spread.take(coordinate.astype(np.intp))
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
    first = _run_starts(key)
    key = key[first]
    if levels > 1:
        # Cells of few points are not worth splitting: they become leaves of the last level.
        parent = _run_starts(key >> bits * feature_dim)
        keep = np.repeat(np.diff(first[parent], append=n) >= _MIN_SPLIT, np.diff(parent, append=len(first)))
        keep[parent] = True
        first, key = first[keep], key[keep]
    num_children = np.diff(first, append=n)
    count = num_children
    sums = np.stack([np.add.reduceat(column.astype(np.float64), first) for column in ordered])
    low = np.minimum.reduceat(ordered, first, axis=1).astype(np.float64)
    high = np.maximum.reduceat(ordered, first, axis=1).astype(np.float64)
    result = [_make_level(scale, count, sums, low, high, first, num_children)]
    for _ in range(levels):
        key = key >> bits * feature_dim
        first = _run_starts(key)
        num_children = np.diff(first, append=len(key))
        key = key[first]
        count, sums = np.add.reduceat(count, first), np.add.reduceat(sums, first, axis=1)
        low, high = np.minimum.reduceat(low, first, axis=1), np.maximum.reduceat(high, first, axis=1)
        result.insert(0, _make_level(scale, count, sums, low, high, first, num_children))
    return _Tree(ordered, order, result, scale, _lift(scale, ordered))


def _make_level(scale, count, sums, low, high, first_child, num_children):
    """Nodes with these bounding boxes, low to high; their spheres are those around the boxes. -> _Level"""
    center = low + (high - low) / 2
    radius = np.sqrt(_square(high - center))
    moments = np.concatenate([scale(sums / count) * count, count[None]])
    return _Level(count, center, radius, first_child, num_children, _lift(scale, center), moments)


def _grid_shape(low, high):
    """The grid of bins low to high, [feature_dim] each. -> (bins along each axis, bits to number all of them)"""
    shape = [int(length) for length in high.astype(np.float64) - low + 1]
    return shape, math.prod(shape).bit_length()


def _ravel_bins(bins, low, shape, bits):
    """Flat indices of bins, [feature_dim, N], in the grid of that shape that begins at low. -> int64 [N]"""
    exact = bits <= np.finfo(bins.dtype).nmant  # the floats hold the indices exactly: half the bytes of integers
    number = np.zeros(bins.shape[1], bins.dtype if exact else np.int64)
    for column, least, length in zip(bins, low, shape):
        number *= length
        number += (column - least if exact else column.astype(np.float64) - float(least)).astype(number.dtype)
    return number.astype(np.int64)


def _number_bins(bins, max_bits):
    """Numbers bins, [feature_dim, N], equal ones equally. -> (int64 [N], bits that the numbers need)"""
    low = bins.min(1)
    shape, bits = _grid_shape(low, bins.max(1))
    if bits <= max_bits:
        return _ravel_bins(bins, low, shape, bits), bits
    # The grid is too large (distant points, many dimensions): number the occupied bins alone.
    number, count = np.zeros(bins.shape[1], np.int64), 1
    for column, least, length in zip(bins, low, shape):
        if length > len(number):
            _, own = np.unique(column, return_inverse=True)
            length = int(own.max()) + 1
        else:
            own = (column.astype(np.float64) - float(least)).astype(np.int64)
        if count * length >= 1 << 63:
            number = np.unique(number, return_inverse=True)[1]
            count = int(number.max()) + 1
        number = number * length + own
        count *= length
    number = np.unique(number, return_inverse=True)[1]
    return number, int(number.max()).bit_length()


def _run_starts(values):
    """-> the indices where runs of equal values begin"""
    new = np.empty(len(values), bool)
    new[0] = True
    np.not_equal(values[1:], values[:-1], out=new[1:])
    return np.flatnonzero(new)


# ---- Instances -------------------------------------------------------------------------------------------------------

_SAMPLE_SIZE = 4096  # points
_MAX_BINS = 2048  # occupied by the sample of an embedding that has clusters
# Of all pixels: smaller clusters are specks. Half of all label lanes have over 7 times as many. Where the foreground is
# known there are fewer specks, and instances such as the youngest leaves of a plant may be smaller.
_MIN_SHARE, _MIN_SHARE_OF_FOREGROUND = 8e-4, 5e-4


def instance_ids(embedding, bandwidth, margins=None, foreground=None):
    """Clusters the pixels of an embedding and numbers the clusters.

    embedding: float [h, w, feature_dim]
    bandwidth: of mean shift, see cluster
    margins: (delta_v, delta_d) of the loss that the network was trained with. Beside a lane, and where the network is
        uncertain, embeddings lie between the background's and the lane's, a bridge on which mean shift moves from one
        to the other, or finds modes of its own. The loss pulls the pixels of a lane to within delta_v of a mean that is
        2 delta_d away from the background's. So with margins, pixels closer than 2 (delta_d - delta_v) to the mode of
        the background, and in any case closer than delta_v, are background, and only the others are clustered, which
        is faster, too. So are specks, and all of a scattered embedding (see is_scattered), on whose thousands of
        clusters mean shift would spend a minute.
    foreground: bool [h, w]; if given, its pixels and no others are clustered, wherever they lie, and the pixels of
        specks join the instance nearest to them.
    -> int32 [h, w]: 0 for the largest cluster, the background, and 1..K for the others from left to right, by where the
    straight lines through them meet the lower border of the image: lanes meet at the horizon but lie side by side near
    the camera.
    Raises ValueError for another shape, and for what cluster raises it.
    """
    embedding = np.asarray(embedding)
    if embedding.ndim != 3:
        raise ValueError(f'embedding must be of shape [h, w, feature_dim], not {list(embedding.shape)}')
    height, width, feature_dim = embedding.shape
    points = embedding.reshape(height * width, feature_dim)
    ids = np.zeros(height * width, np.int32)
    if foreground is not None:
        pixels = np.flatnonzero(foreground)
        num, labels = _cluster_foreground(points[pixels], bandwidth, _MIN_SHARE_OF_FOREGROUND * len(points))
    elif margins is None or not len(points):
        num, labels, _ = cluster(points, bandwidth)
        pixels = np.flatnonzero(labels != np.bincount(labels, minlength=1).argmax())
        labels = labels[pixels]
    else:
        delta_v, delta_d = margins
        if not np.isfinite(points).all():
            raise ValueError('embedding holds NaN or infinity')
        points = points.astype(np.result_type(points, np.float32), copy=False)
        mode = _background_mode(points, bandwidth)
        if mode is None:
            return ids.reshape(height, width)
        offset = points - mode.astype(points.dtype)
        pixels = np.flatnonzero(np.einsum('ij,ij->i', offset, offset) >= max(delta_v, 2 * (delta_d - delta_v)) ** 2)
        num, labels, _ = cluster(points[pixels], bandwidth)
        large = (np.bincount(labels, minlength=num) >= _MIN_SHARE * len(points))[labels]
        pixels, labels = pixels[large], labels[large]
    if not num:
        return ids.reshape(height, width)
    y, x = np.divmod(pixels, width)
    ids[pixels] = _number_from_left(labels, num, x, y - (height - 1))[labels]
    return ids.reshape(height, width)


def _cluster_foreground(points, bandwidth, least):
    """Clusters points, float [N, feature_dim], into clusters of at least `least` points. -> (num, int [N])

    Points of smaller ones belong to the nearest center of the others. Without any, or for a scattered embedding, num
    is 0, and so are all labels.
    """
    if not np.isfinite(points).all():
        raise ValueError('embedding holds NaN or infinity')
    nothing = 0, np.zeros(len(points), int)
    if not len(points) or _background_mode(points, bandwidth) is None:
        return nothing
    points = points.astype(np.result_type(points, np.float32), copy=False)
    num, labels, centers = cluster(points, bandwidth)
    large = np.bincount(labels, minlength=num) >= least
    if not large.any():
        return nothing
    small = np.flatnonzero(~large[labels])
    number = np.cumsum(large) - 1
    labels = number[labels]
    labels[small] = _square_distances(points[small].T, centers[large].T).argmin(1)
    return int(large.sum()), labels


def split_output(output, feature_dim):
    """The parts of a network's output, float32 [..., feature_dim] or [..., feature_dim + 1].

    -> (embedding [..., feature_dim]; the probability of being foreground, float32 [...], or None without that head)
    """
    if output.shape[-1] == feature_dim:
        return output, None
    return output[..., :feature_dim], 0.5 + 0.5 * np.tanh(0.5 * output[..., feature_dim])   # does not overflow


def pixel_confidence(embedding, ids, delta_v, probability=None):
    """How sure it is that each pixel belongs to its instance: 1 where it lies on the mean of the instance.

    embedding: float [h, w, feature_dim]; ids: int [h, w], see instance_ids; delta_v: of the loss, the distance from the
    mean at which an embedding has cost nothing yet; probability: float [h, w], of being foreground, or None
    -> float32 [h, w], 0 to 1, 0 in the background
    """
    pixels = np.flatnonzero(ids)
    labels, points = ids.ravel()[pixels], embedding.reshape(-1, embedding.shape[-1])[pixels]
    count = np.maximum(np.bincount(labels, minlength=1), 1)
    means = np.stack([np.bincount(labels, column, len(count)) / count for column in points.T], axis=-1)
    excess = np.maximum(np.sqrt(_square((points - means[labels]).T)) / delta_v - 1, 0)
    result = np.zeros(ids.size, np.float32)
    result[pixels] = np.exp(-excess) * (1 if probability is None else probability.ravel()[pixels])
    return result.reshape(ids.shape)


def _number_from_left(labels, num, x, y):
    """Numbers clusters 1..num by where the lines x = slope y + b through their pixels are at y = 0. -> int32 [num]"""
    size, sum_x, sum_y, sum_xy, sum_yy = (np.bincount(labels, weights, num) for weights in (None, x, y, x * y, y * y))
    count = np.maximum(size, 1)  # a center may be the nearest of no pixel at all; such a cluster comes last
    slope = (sum_xy - sum_x * sum_y / count) / (sum_yy - sum_y ** 2 / count + count)  # 0 for a single row
    foot = np.where(size > 0, (sum_x - slope * sum_y) / count, np.inf)
    number = np.empty(num, np.int32)
    number[np.argsort(foot, kind='stable')] = np.arange(1, num + 1)
    return number


def number_by_size(ids):
    """Numbers instances anew, 1, 2, ... from the largest to the smallest. ids: int [h, w], 0 is background -> int32"""
    size = np.bincount(ids.ravel(), minlength=1)
    size[0] = 0
    largest_first = np.argsort(-size, kind='stable')[:np.count_nonzero(size)]
    number = np.zeros(len(size), np.int32)
    number[largest_first] = np.arange(1, len(largest_first) + 1)
    return number[ids]


def is_scattered(embedding, bandwidth):
    """Whether an embedding, [h, w, feature_dim], occupies so many bins that instance_ids with margins takes all of it
    for background: the network has hardly begun to learn, or the bandwidth is far too small. -> bool"""
    return _background_mode(np.reshape(embedding, [-1, np.shape(embedding)[-1]]), bandwidth) is None


def _background_mode(points, bandwidth):
    """The mode that mean shift finds from the densest bin of a sample. -> float64 [feature_dim], None if scattered

    points: float [N, feature_dim], most of which are background, so that a sample is enough
    """
    sample = points
    if len(points) > _SAMPLE_SIZE:  # at random: regular steps would take the same few columns of every row
        sample = points[np.random.default_rng(0).integers(0, len(points), _SAMPLE_SIZE)]
    bins, _ = _number_bins(np.rint(np.ascontiguousarray(sample.T, np.float64) / bandwidth), 63)
    _, number, counts = np.unique(bins, return_inverse=True, return_counts=True)
    if len(counts) > _MAX_BINS:
        return None
    mode = sample[number == counts.argmax()].mean(0, dtype=np.float64)
    for _ in range(_MAX_ITERATIONS):
        inside = _square((sample - mode).T) <= bandwidth ** 2
        if not inside.any():  # in many dimensions the mean of a bin may be far from its points
            break
        before, mode = mode, sample[inside].mean(0, dtype=np.float64)
        if np.square(mode - before).sum() <= (_TOLERANCE * bandwidth) ** 2:
            break
    return mode


def get_instance_masks(prediction, bandwidth, margins=None, foreground=None):
    """The instances of every embedding of a batch in colours, the background black.

    prediction: float [b, h, w, feature_dim]
    bandwidth, margins: see instance_ids; foreground: None, or for each of the batch what is described there
    -> list of b uint8 [h, w, 3], RGB
    """
    import visualization  # not above: that one needs OpenCV
    masks = [None] * len(prediction) if foreground is None else foreground
    return [visualization.colour_instances(instance_ids(embedding, bandwidth, margins, mask))
            for embedding, mask in zip(prediction, masks)]
