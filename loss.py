"""The discriminative loss (De Brabandere, Neven, Van Gool 2017, arXiv:1708.02551, section 3.1) over a whole batch.

With C instances in an image, N_c pixels x_i in instance c, their mean mu_c, and [a]+ = max(a, 0):

    L_var  = 1/C       sum_c 1/N_c sum_i  [|mu_c - x_i| - delta_v]+ ^2       (1)  pixels to within delta_v of their mean
    L_dist = 1/C(C-1)  sum_cA sum_cB!=cA  [2 delta_d - |mu_cA - mu_cB|]+ ^2  (2)  means to 2 delta_d of each other
    L_reg  = 1/C       sum_c  |mu_c|                                         (3)  means to the origin
    L      = alpha L_var + beta L_dist + gamma L_reg                         (4)  and the mean of that over the images

Limits: an absent term is 0. No instance in an image (only with `ignore_background`): all three. One instance: L_dist.
Everything is finite and has finite gradients, for values up to 1e18, whose squares float32 holds: the norm of the zero
vector has gradient 0, so two equal means add the whole (2 delta_d)^2 to L_dist and are pushed apart as soon as they
differ at all.

Ignored pixels, those with a negative label, count in no term. The foreground losses belong to a head that separates
foreground from background.

All operations have GPU kernels and compile with XLA, so the number of instances in an image has a fixed bound.
"""
import functools
import typing

import numpy as np
import tensorflow.compat.v1 as tf

_MAX_LABEL = (1 << 16) - 1
_BOUNDS = 32, 256, 1024  # on the instances of an image, ignored pixels and background included; the smallest is used


@tf.autograph.experimental.do_not_convert
def discriminative_loss(prediction, correct_label, feature_dim, image_shape, delta_v, delta_d,
                        param_var, param_dist, param_reg, ignore_background=False, background_weight=1.):
    """Equation 4 over a batch.

    prediction: float32 [b, h, w, feature_dim] or [b, h * w, feature_dim].
    correct_label: whole numbers [b, h, w] of any integer or float type; the pixels of an instance share a value of at
        most 65,535, negative values are ignored.
    image_shape: (width, height). delta_v, delta_d: the margins, in units of the embedding.
    param_var, param_dist, param_reg: alpha, beta, gamma of equation 4.
    ignore_background: False treats label 0 as one more instance, True leaves it out as in the paper.
    background_weight: factor of the background's part of L_var; 1 is equation 1 with the background an instance.
        There every instance counts the same, so one of 130,000 background pixels counts 1/200 of one of 600 lane
        pixels, and a pixel that is lane with a probability of 1/200 is best embedded as lane: lanes come out several
        times too wide.
    -> (loss, l_var, l_dist, l_reg), float32 scalars, the terms already weighted; loss is their sum. All are NaN if a
    label is above 65,535 or an image has more than 1,022 instances.
    Raises ValueError if the prediction has another shape than image_shape and feature_dim.
    """
    width, height = image_shape
    shapes = [None, height, width, feature_dim], [None, height * width, feature_dim]
    if not any(tf.TensorShape(shape).is_compatible_with(prediction.shape) for shape in shapes):
        raise ValueError(f'The prediction has the shape {tuple(prediction.shape)}; for image_shape (width, height) = '
                         f'{tuple(image_shape)} it must be [b, {height}, {width}, {feature_dim}]')
    x = tf.reshape(tf.cast(prediction, tf.float32), [-1, height, width, feature_dim])
    segment, numbers, counts = _number_values(tf.reshape(tf.cast(correct_label, tf.float32), [-1, height * width]))
    segment = tf.reshape(segment, [-1, height, width])

    def terms(bound):
        """The weighted terms, with room for `bound` instances per image. -> float32 [3]."""
        count = tf.stop_gradient(_histogram(numbers, bound, counts))
        present = tf.cast(count > 0., tf.float32) * np.float32([0., not ignore_background] + [1.] * (bound - 2))
        instances = _Instances(segment, count, present)
        means = _mean_over_pixels(x, instances)  # mu_c
        weights = np.float32([0., background_weight] + [1.] * (bound - 2))
        return tf.stack([
            param_var * _mean_over_images(weights * _hinged_variance(x, means, instances, delta_v), instances),
            param_dist * _hinged_distance(means, instances, delta_d),
            param_reg * _mean_over_images(_safe_norm(means), instances)])
    most = tf.reduce_max(numbers) + 1
    smallest = tf.reduce_sum(tf.cast(most > np.int64(_BOUNDS[:-1]), tf.int32))
    weighted = tf.switch_case(smallest, [functools.partial(terms, bound) for bound in _BOUNDS])
    valid = tf.logical_and(most <= _BOUNDS[-1], tf.reduce_max(counts[:, -1]) < 1.)
    l_var, l_dist, l_reg = tf.unstack(tf.where_v2(valid, weighted, np.nan))
    return l_var + l_dist + l_reg, l_var, l_dist, l_reg


def foreground_loss(scores, labels):
    """Cross entropy of foreground or background, each class weighted by 1 / ln(1.02 + its share of the batch).

    The weights are those of ENet (arXiv:1606.02147, section 5.2), the terms are divided by their sum.
    scores: float32 [b, h, w, 2], of (background, foreground). labels: whole numbers [b, h, w], 0 is background,
    negative ones are ignored.
    -> float32 scalar, 0 if every pixel is ignored.
    """
    known, foreground = _known_and_foreground(labels)
    share = tf.math.divide_no_nan(tf.reduce_sum(foreground), tf.reduce_sum(known))
    weights = known / tf.log(1.02 + tf.where_v2(foreground > 0., share, 1. - share))
    entropy = tf.nn.softmax_cross_entropy_with_logits_v2(tf.stack([1. - foreground, foreground], axis=-1), scores)
    return tf.math.divide_no_nan(tf.reduce_sum(weights * entropy), tf.reduce_sum(weights))


def class_log_loss(scores, labels):
    """Cross entropy of the background and the classes, `foreground_log_loss` for several kinds of foreground.

    scores: float32 [b, h, w, 1 + number of classes], the background's first. labels: whole numbers [b, h, w], 0 is
    background, class * 1000 + n an instance of class 1, 2, ...; negative ones are ignored.
    -> float32 scalar, 0 if every pixel is ignored.
    """
    labels = tf.cast(labels, tf.int64)
    known, classes = tf.cast(labels >= 0, tf.float32), tf.maximum(labels // 1000, 0)
    entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=classes, logits=scores)
    return tf.math.divide_no_nan(tf.reduce_sum(known * entropy), tf.reduce_sum(known))


def foreground_log_loss(log_odds, labels):
    """Cross entropy of foreground or background, unweighted, so that the odds are those of the training images.

    log_odds: float32 [b, h, w], of being foreground. labels: whole numbers [b, h, w], 0 is background, negative ones
    are ignored.
    -> float32 scalar, 0 if every pixel is ignored.
    """
    known, foreground = _known_and_foreground(labels)
    entropy = tf.nn.sigmoid_cross_entropy_with_logits(labels=foreground, logits=log_odds)
    return tf.math.divide_no_nan(tf.reduce_sum(known * entropy), tf.reduce_sum(known))


def _known_and_foreground(labels):
    """-> (1 where a pixel is not ignored, 1 where it is foreground), both float32 of the labels' shape."""
    labels = tf.cast(labels, tf.float32)
    return tf.cast(labels >= 0., tf.float32), tf.cast(labels > 0., tf.float32)


# ---- Instances -------------------------------------------------------------------------------------------------------

class _Instances(typing.NamedTuple):
    """The instances of a batch, n per image: 0 is the ignored pixels, 1 the background, whether there are any or not.

    Integers are int64: many operations on int32 run on the CPU even where there is a GPU.
    """
    segment: tf.Tensor  # int64 [b, h, w], each pixel's instance
    count: tf.Tensor    # float32 [b, n], pixels per instance
    present: tf.Tensor  # float32 [b, n], 1 for an instance that counts, 0 for one that is ignored or has no pixels


def _number_values(labels):
    """Numbers the values of each image's labels in their order: 0 is ignored, 1 the background, whether present or not.

    labels: float32 [b, pixels] of whole numbers.
    -> (int64 [b, pixels], the number of each pixel's value; int64 [b, values], the number of each value; float32
    [b, values], the pixels of each value). Values are -1 (all that are ignored) to _MAX_LABEL + 1 (all above).
    """
    size = _MAX_LABEL + 3
    values = tf.cast(tf.clip_by_value(labels, -1., _MAX_LABEL + 1.) + 1., tf.int64)
    counts = _histogram(values, size, tf.zeros([0]))
    occupied = tf.maximum(tf.cast(counts > 0., tf.float32), np.float32([1., 1.] + [0.] * (size - 2)))
    numbers = tf.cast(tf.cumsum(occupied, axis=1), tf.int64) - 1
    segment = tf.gather(tf.minimum(numbers, _BOUNDS[-1] - 1), values, batch_dims=1)
    return segment, numbers, counts


def _histogram(values, size, weights):
    """The sum of the weights (if empty, the number) of each value in a row. int64 [r, m] -> float32 [r, size]."""
    return tf.raw_ops.DenseBincount(input=values, size=size, weights=weights)


# ---- Terms -----------------------------------------------------------------------------------------------------------

def _hinged_variance(x, means, instances, delta_v):
    """The inner sum of equation 1 per instance, 1/N_c sum_i [|mu_c - x_i| - delta_v]+ ^2. -> float32 [b, n]."""
    distance = _safe_norm(_gather_to_pixels(means, instances.segment) - x)
    return _mean_over_pixels(tf.square(tf.nn.relu(distance - delta_v))[..., None], instances)[..., 0]


def _hinged_distance(means, instances, delta_d):
    """Equation 2 per image, 0 for fewer than two instances, then the mean over the images.

    means: float32 [b, n, d] -> scalar.
    """
    others = 1. - np.eye(means.shape[1], dtype=np.float32)
    weight = others * instances.present[:, :, None] * instances.present[:, None, :]
    hinge = tf.square(tf.nn.relu(2. * delta_d - _safe_norm(means[:, :, None] - means[:, None, :])))
    total = tf.reduce_sum(weight * hinge, axis=[1, 2])
    return tf.reduce_mean(total / tf.maximum(tf.reduce_sum(weight, axis=[1, 2]), 1.))


def _mean_over_images(values, instances):
    """1/C sum_c per image, then the mean over the images. values: float32 [b, n] -> scalar."""
    total = tf.reduce_sum(values * instances.present, axis=1)
    return tf.reduce_mean(total / tf.maximum(tf.reduce_sum(instances.present, axis=1), 1.))


def _mean_over_pixels(values, instances):
    """The mean over the pixels of each instance. values: float32 [b, h, w, d] -> float32 [b, n, d]."""
    total = _sum_over_pixels(values, instances.segment, instances.count.shape[1])
    return total / tf.maximum(instances.count, 1.)[..., None]


def _sum_over_pixels(values, segment, bound):
    """The sum over the pixels of each instance. float32 [b, h, w, d], int64 [b, h, w] -> float32 [b, bound, d].

    Rows are summed in float32, their sums in float64: over the 250,000 pixels of a background, float32 loses the fourth
    digit.
    """
    @tf.custom_gradient
    def total(values):
        height, width, depth = values.shape[1:]
        rows = tf.reshape(segment, [-1, width])
        sums = [_histogram(rows, bound, tf.reshape(column, [-1, width])) for column in tf.unstack(values, axis=-1)]
        sums = tf.cast(tf.reshape(tf.stack(sums, axis=-1), [-1, height, bound, depth]), tf.float64)
        return tf.cast(tf.reduce_sum(sums, axis=1), tf.float32), lambda dy: tf.gather(dy, segment, batch_dims=1)
    return total(values)


def _gather_to_pixels(values, segment):
    """Each pixel's instance's value. float32 [b, n, d], int64 [b, h, w] -> float32 [b, h, w, d]."""
    @tf.custom_gradient
    def gather(values):
        return tf.gather(values, segment, batch_dims=1), lambda dy: _sum_over_pixels(dy, segment, values.shape[1])
    return gather(values)


@tf.custom_gradient
def _safe_norm(x):
    """L2 norm over the last axis, with gradient 0 instead of NaN at the zero vector. float32 [..., d] -> [...]."""
    norm = tf.sqrt(tf.reduce_sum(tf.square(x), axis=-1))
    return norm, lambda dy: tf.math.divide_no_nan(dy, norm)[..., None] * x
