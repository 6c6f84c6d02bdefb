"""The discriminative loss (De Brabandere, Neven, Van Gool 2017, arXiv:1708.02551, section 3.1) over a whole batch.

With C instances in an image, N_c pixels x_i in instance c, their mean mu_c, and [a]+ = max(a, 0):

    L_var  = 1/C       sum_c 1/N_c sum_i  [|mu_c - x_i| - delta_v]+ ^2       (1)  pixels to within delta_v of their mean
    L_dist = 1/C(C-1)  sum_cA sum_cB!=cA  [2 delta_d - |mu_cA - mu_cB|]+ ^2  (2)  means to 2 delta_d of each other
    L_reg  = 1/C       sum_c  |mu_c|                                         (3)  means to the origin
    L      = alpha L_var + beta L_dist + gamma L_reg                         (4)  and the mean of that over the images

An absent term is 0: all three without an instance, L_dist with one. All values and gradients are finite, for embeddings
up to 1e18: the norm of the zero vector has gradient 0, so two equal means add the whole (2 delta_d)^2 to L_dist and are
pushed apart as soon as they differ at all. Pixels with a negative label are ignored: they count in no term. Every
operation has a GPU kernel and compiles with XLA, which needs a bound on the number of instances.
"""
import functools

import numpy as np
import tensorflow.compat.v1 as tf

_MAX_LABEL = (1 << 16) - 1
_BOUNDS = 32, 256, 1024  # instances of an image, ignored pixels and background included; the smallest that does


@tf.autograph.experimental.do_not_convert
def discriminative_loss(prediction, correct_label, feature_dim, image_shape, delta_v, delta_d,
                        param_var, param_dist, param_reg, ignore_background=False, background_weight=1.):
    """Equation 4 over a batch.

    prediction: float32 [b, h, w, feature_dim] or [b, h * w, feature_dim]. image_shape: (width, height).
    correct_label: whole numbers [b, h, w], at most 65,535; the pixels of an instance share a value.
    delta_v, delta_d: the margins, in units of the embedding. param_var, param_dist, param_reg: alpha, beta, gamma.
    ignore_background: False treats label 0 as one more instance, True leaves it out as in the paper.
    background_weight: factor of the background's part of L_var. At 1, a background pixel weighs 1/200 of a lane pixel,
        and lanes come out several times too wide.
    -> (loss, l_var, l_dist, l_reg), float32 scalars, the terms already weighted; loss is their sum. NaN if a label is
    above 65,535 or an image has more than 1,022 instances. ValueError if the prediction has another shape.
    """
    width, height = image_shape
    shapes = [None, height, width, feature_dim], [None, height * width, feature_dim]
    if not any(tf.TensorShape(shape).is_compatible_with(prediction.shape) for shape in shapes):
        raise ValueError(f'The prediction has the shape {tuple(prediction.shape)}; for image_shape (width, height) = '
                         f'{tuple(image_shape)} it must be [b, {height}, {width}, {feature_dim}]')
    x = tf.reshape(tf.cast(prediction, tf.float32), [-1, height, width, feature_dim])
    segment, numbers, counts = _number_values(tf.reshape(tf.cast(correct_label, tf.float32), [-1, height, width]))

    def terms(bound):
        """The three terms with n = bound instances per image: the ignored pixels, the background, the others."""
        count = tf.stop_gradient(tf.raw_ops.DenseBincount(input=numbers, size=bound, weights=counts))  # pixels, [b, n]
        present = tf.cast(count > 0., tf.float32) * np.float32([0., not ignore_background] + [1.] * (bound - 2))
        count = tf.maximum(count, 1.)
        means = _sum_over_pixels(x, segment, count) / count[..., None]  # mu_c
        weights = np.float32([0., background_weight] + [1.] * (bound - 2))
        variance = weights * _hinged_variance(x, means, segment, count, delta_v)
        return tf.stack([_mean_over_images(variance, present), _hinged_distance(means, present, delta_d),
                         _mean_over_images(_safe_norm(means), present)])
    highest = tf.reduce_max(numbers)
    smallest = tf.reduce_sum(tf.cast(highest >= np.int64(_BOUNDS[:-1]), tf.int32))
    unweighted = tf.switch_case(smallest, [functools.partial(terms, bound) for bound in _BOUNDS])
    valid = tf.logical_and(highest < _BOUNDS[-1], tf.reduce_max(counts[:, -1]) < 1.)
    l_var, l_dist, l_reg = tf.unstack(tf.where_v2(valid, unweighted * [param_var, param_dist, param_reg], np.nan))
    return l_var + l_dist + l_reg, l_var, l_dist, l_reg


def foreground_loss(scores, labels):
    """Cross entropy of foreground or background, each class weighted by 1 / ln(1.02 + its share of the batch).

    The weights are those of ENet (arXiv:1606.02147, section 5.2), the terms are divided by their sum.
    scores: float32 [b, h, w, 2], of (background, foreground). labels: whole numbers [b, h, w], 0 is background.
    -> float32 scalar, 0 if every pixel is ignored.
    """
    known, truth = (tf.cast(tf.cast(labels, tf.float32) > lowest, tf.float32) for lowest in (-1., 0.))
    share = tf.math.divide_no_nan(tf.reduce_sum(truth), tf.reduce_sum(known))
    weights = known / tf.log(1.02 + tf.where_v2(truth > 0., share, 1. - share))
    entropy = tf.nn.softmax_cross_entropy_with_logits_v2(tf.stack([1. - truth, truth], axis=-1), scores)
    return tf.math.divide_no_nan(tf.reduce_sum(weights * entropy), tf.reduce_sum(weights))


def foreground_log_loss(log_odds, labels):
    """Cross entropy of foreground or background, unweighted, so that the odds are those of the training images.

    log_odds: float32 [b, h, w], of being foreground. labels: whole numbers [b, h, w], 0 is background.
    -> float32 scalar, 0 if every pixel is ignored.
    """
    known, truth = (tf.cast(tf.cast(labels, tf.float32) > lowest, tf.float32) for lowest in (-1., 0.))
    entropy = tf.nn.sigmoid_cross_entropy_with_logits(labels=truth, logits=log_odds)
    return tf.math.divide_no_nan(tf.reduce_sum(known * entropy), tf.reduce_sum(known))


def _number_values(labels):
    """Numbers the values of each image in order: 0 is ignored, 1 the background, whether or not there are any.

    labels: float32 [b, h, w]. The values are -1 (ignored), 0 to _MAX_LABEL, _MAX_LABEL + 1 (too large).
    -> (number of each pixel's value, [b, h, w]; of each value, [b, values]; pixels per value, float32 [b, values]).
    Numbers are int64: many operations on int32 run on the CPU even with a GPU.
    """
    size = _MAX_LABEL + 3
    values = tf.cast(tf.clip_by_value(labels, -1., _MAX_LABEL + 1.) + 1., tf.int64)
    rows = tf.reshape(values, [-1, labels.shape[1] * labels.shape[2]])
    counts = tf.raw_ops.DenseBincount(input=rows, size=size, weights=tf.zeros([0]))
    occupied = tf.maximum(tf.cast(counts > 0., tf.float32), np.float32([1., 1.] + [0.] * (size - 2)))
    numbers = tf.cast(tf.cumsum(occupied, axis=1), tf.int64) - 1
    return tf.gather(tf.minimum(numbers, _BOUNDS[-1] - 1), values, batch_dims=1), numbers, counts


def _hinged_variance(x, means, segment, count, delta_v):
    """The inner sum of equation 1 per instance, 1/N_c sum_i [|mu_c - x_i| - delta_v]+ ^2. -> float32 [b, n]."""
    distance = _safe_norm(_gather_to_pixels(means, segment) - x)
    return _sum_over_pixels(tf.square(tf.nn.relu(distance - delta_v))[..., None], segment, count)[..., 0] / count


def _hinged_distance(means, present, delta_d):
    """Equation 2 per image, then the mean over the images. means: float32 [b, n, d] -> scalar."""
    others = 1. - np.eye(means.shape[1], dtype=np.float32)
    weight = others * present[:, :, None] * present[:, None, :]
    hinge = tf.square(tf.nn.relu(2. * delta_d - _safe_norm(means[:, :, None] - means[:, None, :])))
    total = tf.reduce_sum(weight * hinge, axis=[1, 2])
    return tf.reduce_mean(total / tf.maximum(tf.reduce_sum(weight, axis=[1, 2]), 1.))


def _mean_over_images(values, present):
    """1/C sum_c per image, then the mean over the images. values: float32 [b, n] -> scalar."""
    total = tf.reduce_sum(values * present, axis=1)
    return tf.reduce_mean(total / tf.maximum(tf.reduce_sum(present, axis=1), 1.))


@tf.custom_gradient
def _sum_over_pixels(values, segment, like):
    """The sum over the pixels of each instance. [b, h, w, d], int64 [b, h, w], [b, n, ...] -> float32 [b, n, d].

    Only rows are summed in float32: over 250,000 pixels it loses the fourth digit.
    """
    (_, height, width, depth), n = values.shape, int(like.shape[1])
    rows = tf.reshape(segment, [-1, width])
    sums = [tf.raw_ops.DenseBincount(input=rows, size=n, weights=tf.reshape(column, [-1, width]))
            for column in tf.unstack(values, axis=-1)]
    sums = tf.cast(tf.reshape(tf.stack(sums, axis=-1), [-1, height, n, depth]), tf.float64)
    return tf.cast(tf.reduce_sum(sums, axis=1), tf.float32), lambda dy: (
        tf.gather(dy, segment, batch_dims=1), None, None)


@tf.custom_gradient
def _gather_to_pixels(values, segment):
    """Each pixel's instance's value. float32 [b, n, d], int64 [b, h, w] -> float32 [b, h, w, d]."""
    return tf.gather(values, segment, batch_dims=1), lambda dy: (_sum_over_pixels(dy, segment, values), None)


@tf.custom_gradient
def _safe_norm(x):
    """L2 norm over the last axis, with gradient 0 instead of NaN at the zero vector. float32 [..., d] -> [...]."""
    norm = tf.sqrt(tf.reduce_sum(tf.square(x), axis=-1))
    return norm, lambda dy: tf.math.divide_no_nan(dy, norm)[..., None] * x
