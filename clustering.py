"""From an embedding to instances: mean shift on grid cells, numbered clusters. NumPy only.

Mean shift: Comaniciu and Meer, Mean Shift: A Robust Approach Toward Feature Space Analysis, PAMI 2002, section 2;
used for clustering by De Brabandere et al., Semantic Instance Segmentation with a Discriminative Loss Function, 2017.
"""
import numpy as np

# Shares of all pixels below which a cluster is a speck. The median labelled lane covers over seven times the first; a
# given foreground has fewer specks and smaller instances, such as the youngest leaves of a plant.
_MIN_SHARE, _MIN_SHARE_IN_FOREGROUND = 8e-4, 5e-4
_SAMPLE_SIZE, _MAX_CUBES = 4096, 1024  # a sample of points that occupies more unit cubes is scattered
_CELLS_PER_BANDWIDTH, _MAX_CELLS = (8, 4, 2), 8192  # along each axis, the first with few enough occupied cells
_MAX_PRODUCTS = 1 << 18  # per matrix product; larger ones start BLAS threads, which takes 8 ms


# ---- Instances -------------------------------------------------------------------------------------------------------

def instance_ids(embedding, bandwidth, margins=None, foreground=None):
    """Clusters the pixels of an embedding and numbers the clusters.

    embedding: float [h, w, feature_dim]; bandwidth: of mean shift, see cluster
    margins: (delta_v, delta_d) of the training loss, which pulls the pixels of a lane to within delta_v of its mean,
        2 delta_d from the background's. Lane edges lie in between, where mean shift finds spurious modes. With margins,
        pixels within max(delta_v, 2 (delta_d - delta_v)) of the background's mode are background, as are specks and
        every pixel of a scattered embedding (see is_scattered).
    foreground: bool [h, w]; if given, exactly these pixels are clustered, and specks join the nearest instance
    -> int32 [h, w]: 0 for the background (the largest cluster if neither margins nor foreground is given), 1..K for the
    others from left to right, ordered by where straight lines fitted to them meet the lower border. Raises ValueError.
    """
    embedding = np.asarray(embedding)
    if embedding.ndim != 3:
        raise ValueError(f'embedding must have the shape [h, w, feature_dim], not {list(embedding.shape)}')
    height, width, feature_dim = embedding.shape
    columns = _scale(embedding.reshape(height * width, feature_dim), bandwidth)
    if foreground is not None:
        pixels, labels = _cluster_foreground(columns, np.flatnonzero(foreground))
    elif margins is not None:
        pixels, labels = _cluster_far_points(columns, *np.divide(margins, bandwidth))
    else:
        labels, _ = _mean_shift(columns)
        pixels = np.flatnonzero(labels != np.bincount(labels, minlength=1).argmax())
        labels = labels[pixels]
    ids = np.zeros(height * width, np.int32)
    y, x = np.divmod(pixels, width)
    ids[pixels] = _number_from_left(labels, x, y - (height - 1))[labels]
    return ids.reshape(height, width)


def _cluster_foreground(columns, pixels):
    """Clusters these pixels; specks join the nearest cluster. -> (pixels, labels), empty for a scattered embedding"""
    points = columns[:, pixels]
    labels, centers = _mean_shift(points if _background_mode(points) is not None else points[:, :0])
    large = np.bincount(labels, minlength=centers.shape[1]) >= _MIN_SHARE_IN_FOREGROUND * columns.shape[1]
    return (pixels, _nearest(points, centers[:, large])) if large.any() else (pixels[:0], pixels[:0])


def _cluster_far_points(columns, delta_v, delta_d):
    """Clusters all but the background and specks. Lengths in bandwidths. -> (pixels, labels), empty if scattered"""
    mode, least = _background_mode(columns), max(delta_v, 2 * (delta_d - delta_v))
    pixels = np.flatnonzero(_square(columns - mode) >= least ** 2) if mode is not None else np.zeros(0, np.intp)
    labels, _ = _mean_shift(columns[:, pixels])
    large = (np.bincount(labels) >= _MIN_SHARE * columns.shape[1])[labels]
    return pixels[large], labels[large]


def _background_mode(columns):
    """The mode of the fullest unit cube of a sample. -> float64 [feature_dim, 1]; None if scattered, or no points"""
    if columns.shape[1] > _SAMPLE_SIZE:  # at random: regular steps would take the same few columns of every row
        columns = columns[:, np.random.default_rng(0).integers(0, columns.shape[1], _SAMPLE_SIZE)]
    if not columns.shape[1]:
        return None
    seeds, points_of_cubes = _find_seeds(*_find_cells(columns, _CELLS_PER_BANDWIDTH[0]))
    if len(points_of_cubes) > _MAX_CUBES:
        return None
    return _seek_modes(seeds[:, [points_of_cubes.argmax()]], columns, np.ones(columns.shape[1]), rim=1e-4)[0]


def _number_from_left(labels, x, y):
    """Numbers clusters 1..K by where the lines x = slope y + b through their pixels are at y = 0. -> int32 [K]"""
    size, sum_x, sum_y, sum_xy, sum_yy = (np.bincount(labels, weights) for weights in (None, x, y, x * y, y * y))
    count = np.maximum(size, 1)  # labels without pixels come last
    slope = (sum_xy - sum_x * sum_y / count) / (sum_yy - sum_y ** 2 / count + count)  # 0 for a single row
    foot = np.where(size > 0, (sum_x - slope * sum_y) / count, np.inf)
    return np.argsort(np.argsort(foot, kind='stable')).astype(np.int32) + 1


def is_scattered(embedding, bandwidth):
    """Whether an embedding, [..., feature_dim], is too scattered for instances: untrained, or a tiny bandwidth."""
    return _background_mode(_scale(np.reshape(embedding, [-1, np.shape(embedding)[-1]]), bandwidth)) is None


def split_output(output, feature_dim):
    """Splits a network's output, [..., feature_dim or more channels], see utils.build_model.

    -> (embedding [..., feature_dim], foreground probability [...], or None if there are no more channels)
    """
    embedding, scores = output[..., :feature_dim], output[..., feature_dim:]
    if not scores.shape[-1]:
        return output, None
    log_odds = scores[..., 0]
    if scores.shape[-1] > 1:  # of the background and each class
        log_odds = np.logaddexp.reduce(scores[..., 1:], axis=-1) - log_odds
    return embedding, 0.5 + 0.5 * np.tanh(0.5 * log_odds)  # does not overflow


def instance_classes(scores, ids):
    """The class that most pixels of each instance have, weighted by its probability.

    scores: float [h, w, 1 + number of classes], the background's first, see utils.build_model; ids: int [h, w]
    -> int [largest id + 1]: the classes, from 1; 0 for the background and ids without pixels
    """
    pixels = np.flatnonzero(ids)
    own, scores = ids.ravel()[pixels], scores.reshape(-1, scores.shape[-1])[pixels].astype(np.float64)
    odds = np.exp(scores - scores.max(axis=1, keepdims=True))
    probability = odds[:, 1:] / odds.sum(axis=1, keepdims=True)
    size = ids.max(initial=0) + 1, probability.shape[1]
    votes = np.bincount(own * size[1] + probability.argmax(axis=1), probability.max(axis=1), np.prod(size))
    present = np.bincount(own, minlength=size[0]) > 0
    return np.where(present, 1 + votes.reshape(size).argmax(axis=1), 0)


def pixel_confidence(embedding, ids, delta_v, probability=None):
    """Confidence that a pixel belongs to its instance: 1 within delta_v of the instance's mean, decaying beyond.

    embedding: float [h, w, feature_dim]; ids: int [h, w]; probability: float [h, w], of the foreground, a factor
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


def get_instance_masks(prediction, bandwidth, margins=None, foreground=None):
    """Draws the instances of each embedding of a batch, see instance_ids, on black. -> list of uint8 [h, w, 3], RGB"""
    import visualization  # here: it needs OpenCV
    masks = [None] * len(prediction) if foreground is None else foreground
    return [visualization.colour_instances(instance_ids(embedding, bandwidth, margins, mask))
            for embedding, mask in zip(prediction, masks)]


# ---- Mean shift ------------------------------------------------------------------------------------------------------

def cluster(prediction, bandwidth):
    """Mean shift with a flat kernel, on the means of cells an eighth of a bandwidth wide, or wider for diffuse points.

    A seed in every occupied cube of the bandwidth's size moves to the mean of the points in the ball around it until
    convergence. Of modes within a bandwidth of each other, the one with the most points is kept as a cluster center;
    points belong to the nearest center. Matches scikit-learn's MeanShift(bandwidth, bin_seeding=True), except for modes
    of a few points between others.

    prediction: float [N, feature_dim]; bandwidth: radius of the ball, in units of the embedding
    -> (num_clusters int, labels int64 [N], cluster_centers float [num_clusters, feature_dim]), by decreasing number of
    points within the bandwidth. Raises ValueError for another shape, NaN, infinity and a bandwidth not above 0.
    """
    prediction = np.asarray(prediction)
    labels, centers = _mean_shift(_scale(prediction, bandwidth))
    return centers.shape[1], labels, (centers.T * bandwidth).astype(np.result_type(prediction, np.float32))


def _scale(points, bandwidth):
    """Checks points, [N, feature_dim], and divides them by the bandwidth. -> float64 [feature_dim, N], -1e7 to 1e7"""
    if points.ndim != 2 or not points.shape[1]:
        raise ValueError(f'prediction must have the shape [N, feature_dim], not {list(points.shape)}')
    if not 0 < bandwidth < np.inf:
        raise ValueError(f'bandwidth must be positive and finite, not {bandwidth}')
    if not np.isfinite(points).all():
        bad = np.flatnonzero(~np.isfinite(points).all(1))
        raise ValueError(f'NaN or infinity in {len(bad)} of {len(points)} embeddings, first in row {bad[0]}')
    with np.errstate(over='ignore'):
        columns = np.divide(points.T, bandwidth, order='C', dtype=np.float64)
    return np.clip(columns, -1e7, 1e7, out=columns)


def _mean_shift(columns):
    """Mean shift with a bandwidth of 1, see cluster. -> (labels int64 [N], centers float64 [feature_dim, K])"""
    if not columns.shape[1]:
        return np.zeros(0, np.int64), columns
    for cells_per_bandwidth in _CELLS_PER_BANDWIDTH:
        cells, counts = _find_cells(columns, cells_per_bandwidth)
        if len(counts) <= _MAX_CELLS:
            break
    seeds, _ = _find_seeds(cells, counts)
    modes, weights = _seek_modes(seeds, cells, counts, rim=1 / cells_per_bandwidth)
    modes = modes[:, np.argsort(-weights, kind='stable')]
    centers = modes[:, :0]
    while modes.shape[1]:
        centers = np.append(centers, modes[:, :1], axis=1)
        modes = modes[:, _square(modes - modes[:, :1]) > 1]
    return _nearest(columns, centers), centers


def _find_cells(columns, cells_per_bandwidth):
    """The occupied cells of a grid. -> (means of their points [feature_dim, cells], numbers of points int [cells])"""
    number = _number_cells(np.rint(cells_per_bandwidth * columns))
    counts = np.bincount(number)
    occupied, sums = np.flatnonzero(counts), np.stack([np.bincount(number, row) for row in columns])
    return sums[:, occupied] / counts[occupied], counts[occupied]


def _number_cells(cells):
    """-> int [N], equal for equal cells only. cells: integers as float64 [feature_dim, N]"""
    number, size = np.zeros(cells.shape[1]), 1
    for row in cells:
        low = row.min()
        span = row.max() - low + 1
        number, size = number * span + (row - low), size * span
        if size > 1 << 20:  # number only the occupied ones
            number = np.unique(number, return_inverse=True)[1]
            size = number.max() + 1
    return number.astype(np.intp)


def _find_seeds(cells, counts):
    """The fullest cell of each occupied unit cube. -> (seeds [feature_dim, S], numbers of the cubes' points [S])"""
    cube = np.unique(_number_cells(np.rint(cells)), return_inverse=True)[1]
    fullest_first = np.argsort(-counts, kind='stable')
    first = np.unique(cube[fullest_first], return_index=True)[1]
    return cells[:, fullest_first[first]], np.bincount(cube, counts)


def _seek_modes(seeds, cells, counts, rim):
    """Shifts seeds to the mean of the cells in the unit ball around them until convergence, as in scikit-learn.

    Across a rim of that width, a cell's weight falls from 1 to 0: with a sharp edge, seeds would stop between modes. A
    ball is never empty, as a mean is close to some point. -> (modes, points in their balls [S])
    """
    modes, weights = seeds.copy(), np.zeros(seeds.shape[1])
    slope = 0.5 / rim
    # The weights, 1/2 + slope (1 - |cell - mode|^2), are a product of two matrices.
    lifted = np.stack([*cells, np.ones(cells.shape[1]), -slope * _square(cells)])
    moments = (counts * lifted[:-1]).T.copy()
    part_size = max(1, _MAX_PRODUCTS // lifted.size)
    for start in range(0, len(weights), part_size):
        moving = np.arange(len(weights))[start:start + part_size]
        for _ in range(300):
            before = modes[:, moving]
            queries = np.stack([*2 * slope * before, 0.5 + slope * (1 - _square(before)), np.ones(len(moving))], axis=1)
            sums = np.clip(queries @ lifted, 0, 1) @ moments
            modes[:, moving], weights[moving] = (sums[:, :-1] / sums[:, -1:]).T, sums[:, -1]
            moving = moving[_square(modes[:, moving] - before) > 1e-3 ** 2]
            if not len(moving):
                break
    return modes, weights


def _nearest(columns, centers):
    """The nearest of centers, [feature_dim, K], for each of columns, [feature_dim, N]. -> int64 [N]"""
    labels = np.zeros(columns.shape[1], np.int64)
    part_size = max(1, _MAX_PRODUCTS // centers.size)
    for start in range(0, len(labels), part_size):
        best, *scores = centers.T @ columns[:, start:start + part_size] - _square(centers)[:, None] / 2
        for number, score in enumerate(scores, 1):  # faster than argmax along the first axis
            labels[start:start + part_size][score > best] = number
            best = np.maximum(best, score)
    return labels


def _square(columns):
    """Squared lengths of columns, [feature_dim, N]. -> [N]"""
    return np.square(columns).sum(0)
