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
import math

import numpy as np
import tensorflow.compat.v1 as tf

_MAX_LABEL = (1 << 16) - 1
_BOUND = 1024  # instances of an image, ignored pixels and background included
_BLOCK = 4096  # pixels


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
    x = tf.reshape(tf.cast(prediction, tf.float32), [-1, height * width, feature_dim])
    segment, count, valid = _find_instances(tf.reshape(tf.cast(correct_label, tf.float32), [-1, height * width]))
    present = tf.cast(count > 0., tf.float32) * np.float32([0., not ignore_background] + [1.] * (_BOUND - 2))
    count = tf.maximum(count, 1.)
    means = _sum_over_pixels(x, segment) / count[..., None]  # mu_c
    weights = np.float32([0., background_weight] + [1.] * (_BOUND - 2))
    variance = weights * _hinged_variance(x, means, segment, count, delta_v)
    unweighted = tf.stack([_mean_over_images(variance, present), _hinged_distance(means, present, delta_d),
                           _mean_over_images(_safe_norm(means), present)])
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


def class_log_loss(scores, labels):
    """`foreground_log_loss`, plus the cross entropy of the classes, averaged over foreground pixels only.

    scores: float32 [b, h, w, 1 + number of classes], the background's first. labels: whole numbers [b, h, w], 0 is
    background, class * 1000 + n an instance of class 1, 2, ...; negative ones are ignored.
    -> float32 scalar, 0 if every pixel is ignored.
    """
    classes = scores[..., 1:]
    foreground = foreground_log_loss(tf.reduce_logsumexp(classes, axis=-1) - scores[..., 0], labels)
    truth = tf.cast(labels, tf.int64) // 1000 - 1
    entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=tf.maximum(truth, 0), logits=classes)
    known = tf.cast(truth >= 0, tf.float32)
    return foreground + tf.math.divide_no_nan(tf.reduce_sum(known * entropy), tf.reduce_sum(known))


def _find_instances(labels):
    """Numbers the label values of each image in order. 0 is for ignored pixels, 1 for the background, present or not.

    labels: float32 [b, pixels]. -> (the number of each pixel, int64 [b, pixels]; pixels per number, float32
    [b, _BOUND]; whether all labels and numbers are within bounds, bool scalar)
    """
    size = _MAX_LABEL + 1 + 256  # of the table of values: -1 (ignored) to _MAX_LABEL, then those that are too large
    values = tf.cast(tf.clip_by_value(labels, -1., _MAX_LABEL + 1.) + 1., tf.int64)
    counts = tf.raw_ops.DenseBincount(input=values, size=size, weights=tf.zeros([0]))
    occupied = tf.maximum(tf.cast(counts > 0., tf.float32), np.float32([1., 1.] + [0.] * (size - 2)))
    blocks = tf.reshape(occupied, [-1, size // 256, 256])  # under XLA, cumsum takes the square of the length
    before = tf.cumsum(tf.reduce_sum(blocks, axis=2, keepdims=True), axis=1, exclusive=True)
    numbers = tf.cast(tf.reshape(tf.cumsum(blocks, axis=2) + before, [-1, size]), tf.int64) - 1
    valid = tf.logical_and(tf.reduce_max(numbers) < _BOUND, tf.reduce_max(counts[:, _MAX_LABEL + 2]) < 1.)
    segment = tf.gather(tf.minimum(numbers, _BOUND - 1), values, batch_dims=1)
    count = tf.raw_ops.DenseBincount(input=segment, size=_BOUND, weights=tf.zeros([0]))
    return segment, tf.stop_gradient(count), valid


def _hinged_variance(x, means, segment, count, delta_v):
    """The inner sum of equation 1 per instance, 1/N_c sum_i [|mu_c - x_i| - delta_v]+ ^2. -> float32 [b, n]."""
    distance = _safe_norm(_gather_to_pixels(means, segment) - x)
    return _sum_over_pixels(tf.square(tf.nn.relu(distance - delta_v))[..., None], segment)[..., 0] / count


@tf.custom_gradient
def _hinged_distance(means, present, delta_d):
    """Equation 2 per image, then the mean over the images. means: float32 [b, n, d]; present: [b, n] -> scalar.

    Pairs are computed for the smallest bound that covers all instances, the gradient along with them: change both.
    """
    def pairs(n):
        apart = means[:, :n, None] - means[:, None, :n]
        weight = (1. - np.eye(n, dtype=np.float32)) * present[:, :n, None] * present[:, None, :n]
        weight /= tf.maximum(tf.reduce_sum(weight, axis=[1, 2], keepdims=True), 1.)
        norm = tf.sqrt(tf.reduce_sum(tf.square(apart), axis=-1))
        hinge = tf.nn.relu(2. * delta_d - norm)
        gradient = tf.reduce_sum(tf.math.divide_no_nan(-4. * weight * hinge, norm)[..., None] * apart, axis=2)
        images = tf.cast(tf.shape(means)[0], tf.float32)
        return (tf.reduce_sum(weight * tf.square(hinge)) / images,
                tf.pad(gradient / images, [[0, 0], [0, _BOUND - n], [0, 0]]))
    bounds = 32, 256, _BOUND
    highest = tf.reduce_max(present * np.arange(_BOUND, dtype=np.float32))
    smallest = tf.reduce_sum(tf.cast(highest >= np.float32(bounds[:-1]), tf.int32))
    value, gradient = tf.switch_case(smallest, [functools.partial(pairs, n) for n in bounds])
    return value, lambda dy: (dy * gradient, None, None)


def _mean_over_images(values, present):
    """1/C sum_c per image, then the mean over the images. values: float32 [b, n] -> scalar."""
    total = tf.reduce_sum(values * present, axis=1)
    return tf.reduce_mean(total / tf.maximum(tf.reduce_sum(present, axis=1), 1.))


@tf.custom_gradient
def _sum_over_pixels(values, segment):
    """The sum over the pixels of each instance. float32 [b, pixels, d], int64 [b, pixels] -> float32 [b, _BOUND, d].

    Only blocks are summed in float32: over 250,000 pixels it loses the fourth digit.
    """
    pixels, depth = values.shape[1:]
    block = math.gcd(pixels, _BLOCK)
    blocks = tf.reshape(segment, [-1, block])
    sums = [tf.raw_ops.DenseBincount(input=blocks, size=_BOUND, weights=tf.reshape(column, [-1, block]))
            for column in tf.unstack(values, axis=-1)]
    sums = tf.cast(tf.reshape(tf.stack(sums, axis=-1), [-1, pixels // block, _BOUND, depth]), tf.float64)
    return tf.cast(tf.reduce_sum(sums, axis=1), tf.float32), lambda dy: (tf.gather(dy, segment, batch_dims=1), None)


@tf.custom_gradient
def _gather_to_pixels(values, segment):
    """Each pixel's instance's value. float32 [b, n, d], int64 [b, pixels] -> float32 [b, pixels, d]."""
    return tf.gather(values, segment, batch_dims=1), lambda dy: (_sum_over_pixels(dy, segment), None)


@tf.custom_gradient
def _safe_norm(x):
    """L2 norm over the last axis, with gradient 0 instead of NaN at the zero vector. float32 [..., d] -> [...]."""
    norm = tf.sqrt(tf.reduce_sum(tf.square(x), axis=-1))
    return norm, lambda dy: tf.math.divide_no_nan(dy, norm)[..., None] * x
