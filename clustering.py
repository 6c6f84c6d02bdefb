"""From an embedding to instances: mean shift on cells and the numbering of its clusters. NumPy alone.

    ids = instance_ids(embedding, bandwidth, margins)                    # [h, w, feature_dim] -> [h, w]
    num_clusters, labels, cluster_centers = cluster(points, bandwidth)   # [N, feature_dim] -> [N]

Mean shift: Comaniciu and Meer, Mean Shift: A Robust Approach Toward Feature Space Analysis, PAMI 2002, section 2;
used for clustering by De Brabandere et al., Semantic Instance Segmentation with a Discriminative Loss Function, 2017.
"""

import numpy as np

# Shares of all pixels below which a cluster is a speck. Half of all labelled lanes cover more than seven times the
# first. A given foreground has fewer specks, and smaller instances, such as the youngest leaves of a plant.
_MIN_SHARE, _MIN_SHARE_OF_FOREGROUND = 8e-4, 5e-4
_SAMPLE_SIZE = 4096  # points
_MAX_CUBES = 2048  # that the sample of an embedding with clusters occupies; in more, it is scattered

_CELLS_PER_BANDWIDTH = 8, 4, 2  # along each axis; the first with no more than _MAX_CELLS occupied cells
_MAX_CELLS = 8192
_NARROW_RIM = 1e-4  # bandwidths: practically none, where the points themselves are the cells
_MAX_ITERATIONS, _TOLERANCE = 300, 1e-3  # as in scikit-learn; the tolerance in bandwidths
_MAX_COORDINATE = 1e7  # bandwidths; points beyond are moved there
_MAX_NUMBERS = 1 << 20  # of a grid whose cells are numbered without a search for the occupied ones
_MAX_PRODUCTS = 1 << 18  # multiplications in a matrix product; larger ones wake BLAS threads, at a cost of 8 ms


# ---- Instances -------------------------------------------------------------------------------------------------------

def instance_ids(embedding, bandwidth, margins=None, foreground=None):
    """Clusters the pixels of an embedding and numbers the clusters.

    embedding: float [h, w, feature_dim]
    bandwidth: radius of mean shift's ball, in units of the embedding
    margins: (delta_v, delta_d) of the loss that the network was trained with. Along the edges of a lane, embeddings lie
        between the background's and the lane's, where mean shift finds spurious modes. The loss pulls the pixels of a
        lane to within delta_v of a mean that is 2 delta_d away from the background's. With margins, pixels closer than
        2 (delta_d - delta_v) to the mode of the background, or closer than delta_v, are background, and only the
        others are clustered. Specks are background, too, as is all of a scattered embedding (see is_scattered).
    foreground: bool [h, w]; if given, exactly these pixels are clustered, and those of specks join the nearest instance
    -> int32 [h, w]: 0 for the largest cluster, the background, and 1..K for the others from left to right, by where the
    straight lines through them meet the lower border of the image: lanes meet at the horizon but lie side by side near
    the camera.
    Raises ValueError for a wrong shape, values that are not finite and a bandwidth that is not positive.
    """
    embedding = np.asarray(embedding)
    if embedding.ndim != 3:
        raise ValueError(f'embedding must have the shape [h, w, feature_dim], not {list(embedding.shape)}')
    height, width, feature_dim = embedding.shape
    columns = _scale(embedding.reshape(height * width, feature_dim), bandwidth)
    if foreground is not None:
        pixels, labels = _cluster_foreground(columns, foreground)
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


def _cluster_foreground(columns, foreground):
    """Clusters the foreground, without specks. -> indices of its points, or of none if it is scattered; labels"""
    pixels = np.flatnonzero(foreground)
    points = columns[:, pixels]
    labels, centers = _mean_shift(points) if _background_mode(points) is not None else (pixels[:0], points[:, :0])
    large = np.bincount(labels, minlength=centers.shape[1]) >= _MIN_SHARE_OF_FOREGROUND * columns.shape[1]
    if not large.any():
        return pixels[:0], pixels[:0]
    small = np.flatnonzero(~large[labels])
    labels = (np.cumsum(large) - 1)[labels]
    labels[small] = _nearest(points[:, small], centers[:, large])
    return pixels, labels


def _cluster_far_points(columns, delta_v, delta_d):
    """Clusters what is not background, without specks. Lengths in bandwidths. -> indices of points, their labels"""
    mode = _background_mode(columns)
    if mode is None:
        return np.zeros([2, 0], np.intp)
    pixels = np.flatnonzero(_square(columns - mode) >= max(delta_v, 2 * (delta_d - delta_v)) ** 2)
    labels, _ = _mean_shift(columns[:, pixels])
    large = (np.bincount(labels) >= _MIN_SHARE * columns.shape[1])[labels]
    return pixels[large], labels[large]


def _background_mode(columns):
    """The mode that mean shift finds from the fullest unit cube of a sample of the points.

    -> float64 [feature_dim, 1]; None if the points are scattered, or if there are none
    """
    if columns.shape[1] > _SAMPLE_SIZE:  # at random: regular steps would take the same few columns of every row
        columns = columns[:, np.random.default_rng(0).integers(0, columns.shape[1], _SAMPLE_SIZE)]
    if not columns.shape[1]:
        return None
    cells, counts = _find_cells(columns, _CELLS_PER_BANDWIDTH[0])
    seeds, points_of_cubes = _find_seeds(cells, counts)
    if len(points_of_cubes) > _MAX_CUBES:
        return None
    return _seek_modes(seeds[:, [points_of_cubes.argmax()]], columns, np.ones(columns.shape[1]), _NARROW_RIM)[0]


def _number_from_left(labels, x, y):
    """Numbers clusters 1..K by where the lines x = slope y + b through their pixels are at y = 0. -> int32 [K]"""
    size, sum_x, sum_y, sum_xy, sum_yy = (np.bincount(labels, weights) for weights in (None, x, y, x * y, y * y))
    count = np.maximum(size, 1)  # a label may be that of no pixel; it comes last
    slope = (sum_xy - sum_x * sum_y / count) / (sum_yy - sum_y ** 2 / count + count)  # 0 for a single row
    foot = np.where(size > 0, (sum_x - slope * sum_y) / count, np.inf)
    number = np.empty(len(size), np.int32)
    number[np.argsort(foot, kind='stable')] = np.arange(1, len(size) + 1)
    return number


def number_by_size(ids):
    """Renumbers instances 1, 2, ... from the largest to the smallest. ids: int [h, w], 0 is background -> int32"""
    size = np.bincount(ids.ravel(), minlength=1)
    size[0] = 0
    largest_first = np.argsort(-size, kind='stable')[:np.count_nonzero(size)]
    number = np.zeros(len(size), np.int32)
    number[largest_first] = np.arange(1, len(largest_first) + 1)
    return number[ids]


def is_scattered(embedding, bandwidth):
    """Whether an embedding, float [..., feature_dim], is so scattered that instance_ids finds no instances in it.

    The network has hardly begun to learn, or the bandwidth is far too small. -> bool
    """
    return _background_mode(_scale(np.reshape(embedding, [-1, np.shape(embedding)[-1]]), bandwidth)) is None


def split_output(output, feature_dim):
    """Splits a network's output, float32 [..., feature_dim] or [..., feature_dim + 1].

    -> (embedding [..., feature_dim]; foreground probability, float32 [...], or None without that head)
    """
    if output.shape[-1] == feature_dim:
        return output, None
    return output[..., :feature_dim], 0.5 + 0.5 * np.tanh(0.5 * output[..., feature_dim])  # does not overflow


def pixel_confidence(embedding, ids, delta_v, probability=None):
    """Confidence that a pixel belongs to its instance: 1 within delta_v of the instance's mean, decaying beyond.

    embedding: float [h, w, feature_dim]; ids: int [h, w], see instance_ids; delta_v: the margin of the loss's variance
    term; probability: of the foreground, float [h, w], a factor of the confidence, or None
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
    """Draws the instances of a batch of embeddings in colours, the background black.

    prediction: float [b, h, w, feature_dim]
    bandwidth, margins: see instance_ids; foreground: None, or a mask as described there for each embedding
    -> list of b uint8 [h, w, 3], RGB
    """
    import visualization  # here: it needs OpenCV
    masks = [None] * len(prediction) if foreground is None else foreground
    return [visualization.colour_instances(instance_ids(embedding, bandwidth, margins, mask))
            for embedding, mask in zip(prediction, masks)]


# ---- Mean shift ------------------------------------------------------------------------------------------------------

def cluster(prediction, bandwidth):
    """Mean shift with a flat kernel, on the means of cells an eighth of a bandwidth wide.

    A seed per occupied cube of the bandwidth's width moves to the mean of the points in the ball around it until
    convergence on a mode. Of modes within a bandwidth of each other, the one with the most points remains as a cluster
    center. A point belongs to the nearest center. Close to scikit-learn's MeanShift(bandwidth, bin_seeding=True): the
    same clusters, except for those of a few points between others.

    prediction: float [N, feature_dim]; bandwidth: radius of the ball, in units of the embedding
    -> (num_clusters int, labels int64 [N], cluster_centers [num_clusters, feature_dim], float64, or float32 for float32
    and float16), in decreasing order of the points within the bandwidth of the centers. No points have no clusters.
    Raises ValueError for a wrong shape, values that are not finite and a bandwidth that is not positive.
    """
    prediction = np.asarray(prediction)
    labels, centers = _mean_shift(_scale(prediction, bandwidth))
    dtype = np.float32 if prediction.dtype in (np.float16, np.float32) else np.float64
    return centers.shape[1], labels, (centers.T * bandwidth).astype(dtype)


def _scale(points, bandwidth):
    """Checks points, float [N, feature_dim], and divides them by the bandwidth. -> float64 [feature_dim, N]"""
    if points.ndim != 2 or not points.shape[1]:
        raise ValueError(f'embeddings must have the shape [N, feature_dim], not {list(points.shape)}')
    if not 0 < bandwidth < np.inf:
        raise ValueError(f'bandwidth must be a positive number, not {bandwidth}')
    finite = np.isfinite(points)
    if not finite.all():
        bad = np.flatnonzero(~finite.all(1))
        raise ValueError(f'NaN or infinity in {len(bad)} of {len(points)} embeddings, first in row {bad[0]}')
    with np.errstate(over='ignore'):
        columns = np.divide(points.T, bandwidth, order='C', dtype=np.float64)
    return np.clip(columns, -_MAX_COORDINATE, _MAX_COORDINATE, out=columns)


def _mean_shift(columns):
    """Clusters points, float64 [feature_dim, N], with a bandwidth of 1. -> labels int64 [N], centers [feature_dim, K]"""
    if not columns.shape[1]:
        return np.zeros(0, np.int64), columns
    for cells_per_bandwidth in _CELLS_PER_BANDWIDTH:
        cells, counts = _find_cells(columns, cells_per_bandwidth)
        if len(counts) <= _MAX_CELLS:
            break
    seeds, _ = _find_seeds(cells, counts)
    modes, weights = _seek_modes(seeds, cells, counts, 1 / cells_per_bandwidth)
    modes = modes[:, np.argsort(-weights, kind='stable')]
    centers = []
    while modes.shape[1]:
        centers.append(modes[:, 0].copy())  # a view would keep all modes in memory
        modes = modes[:, _square(modes - modes[:, :1]) > 1]
    centers = np.stack(centers, 1)
    return _nearest(columns, centers), centers


def _find_cells(columns, cells_per_bandwidth):
    """The occupied cells of a grid. -> means of their points, [feature_dim, cells]; numbers of points, int [cells]"""
    number = _number_cells(np.rint(cells_per_bandwidth * columns))
    counts = np.bincount(number)
    occupied = np.flatnonzero(counts)
    sums = np.stack([np.bincount(number, column)[occupied] for column in columns])
    return sums / counts[occupied], counts[occupied]


def _number_cells(cells):
    """Numbers cells, integers as float64 [feature_dim, N]: equal ones, and no others, equally. -> int [N]"""
    number, size = np.zeros(cells.shape[1]), 1
    for column in cells:
        low = column.min()
        span = column.max() - low + 1
        number, size = number * span + (column - low), size * span
        if size > _MAX_NUMBERS:
            number = np.unique(number, return_inverse=True)[1]
            size = number.max() + 1
    return number.astype(np.intp)


def _find_seeds(cells, counts):
    """The fullest cell of each occupied unit cube. -> seeds [feature_dim, S]; numbers of points in the cubes, [S]"""
    cube = np.unique(_number_cells(np.rint(cells)), return_inverse=True)[1]
    fullest_first = np.argsort(-counts, kind='stable')
    fullest = fullest_first[np.unique(cube[fullest_first], return_index=True)[1]]
    return cells[:, fullest], np.bincount(cube, counts)


def _seek_modes(seeds, cells, counts, rim):
    """Shifts seeds, [feature_dim, S], to the means of the cells in the unit balls around them, until convergence.

    A cell is a share, 0 to 1, of its points inside a ball. The share declines over about the width of a cell: if it
    were 0 or 1, seeds would come to a stop between modes.
    -> modes [feature_dim, S]; their balls' points, float [S], never 0, since a mean is near some of its points
    """
    modes, weights, moving = seeds.copy(), np.zeros(seeds.shape[1]), np.arange(seeds.shape[1])
    slope, ones = 0.5 / rim, np.ones([1, cells.shape[1]])
    # 1/2 + slope (1 - |cell - mode|^2) as a product of two matrices.
    lifted = np.concatenate([cells, ones, -slope * _square(cells)[None]])
    moments = (counts * lifted[:-1]).T.copy()
    part_size = max(1, _MAX_PRODUCTS // lifted.size)
    for _ in range(_MAX_ITERATIONS):
        still_moving = []
        for start in range(0, len(moving), part_size):
            part = moving[start:start + part_size]
            before = modes[:, part]
            offset = 0.5 + slope * (1 - _square(before))
            shares = np.concatenate([2 * slope * before, offset[None], np.ones([1, len(part)])]).T @ lifted
            sums = np.clip(shares, 0, 1, out=shares) @ moments
            weights[part] = sums[:, -1]
            modes[:, part] = (sums[:, :-1] / sums[:, -1:]).T
            still_moving.append(part[_square(modes[:, part] - before) > _TOLERANCE ** 2])
        moving = np.concatenate(still_moving)
        if not len(moving):
            break
    return modes, weights


def _nearest(columns, centers):
    """The nearest of centers, [feature_dim, K], for each of columns, [feature_dim, N]. -> int64 [N]"""
    labels = np.empty(columns.shape[1], np.int64)
    part_size = max(1, _MAX_PRODUCTS // centers.size)
    for start in range(0, len(labels), part_size):
        part = slice(start, start + part_size)
        labels[part] = (centers.T @ columns[:, part] - _square(centers)[:, None] / 2).argmax(0)
    return labels


def _square(columns):
    """Squared lengths of columns, [feature_dim, N]. -> [N]"""
    return np.square(columns).sum(0)
