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

`foreground_loss` is that of a head that tells foreground from background.
"""
import typing

import tensorflow.compat.v1 as tf

_MAX_TABLE = 1 << 16  # values that labels of a batch can take for them to be counted in a table, not hashed


def discriminative_loss(prediction, correct_label, feature_dim, image_shape, delta_v, delta_d,
                        param_var, param_dist, param_reg, ignore_background=False, background_weight=1.):
    """Equation 4 over a batch.

    prediction: float32 [b, h, w, feature_dim] (or anything that reshapes to [b, h * w, feature_dim]).
    correct_label: whole numbers [b, h, w] of any integer or float type; the pixels of an instance share a value.
    image_shape: (width, height). delta_v, delta_d: the margins, in units of the embedding.
    param_var, param_dist, param_reg: alpha, beta, gamma of equation 4.
    ignore_background: False takes label 0 as one more instance, True leaves it out as the paper does.
    background_weight: factor of the background's own part of L_var; 1 is equation 1 with the background an instance.
        There every instance counts the same, so one of 130,000 background pixels counts 1/200 of one of 600 lane
        pixels, and a pixel that is lane with a probability of 1/200 is best embedded as lane: lanes come out several
        times too wide.
    -> (loss, l_var, l_dist, l_reg), float32 scalars, the terms already weighted; loss is their sum.
    """
    pixels = image_shape[0] * image_shape[1]
    labels = tf.reshape(correct_label, [-1, pixels])
    x = tf.reshape(tf.cast(prediction, tf.float32), [-1, pixels, feature_dim])
    instances = _find_instances(labels, ignore_background)
    means = _mean_over_pixels(x, instances)  # mu_c
    weight = tf.where_v2(instances.background, float(background_weight), 1.)
    l_var = param_var * _mean_over_images(weight * _hinged_variance(x, means, instances, delta_v), instances)
    l_dist = param_dist * _hinged_distance(means, instances, delta_d)
    l_reg = param_reg * _mean_over_images(_safe_norm(means), instances)
    return l_var + l_dist + l_reg, l_var, l_dist, l_reg


def foreground_loss(scores, labels):
    """Cross entropy of foreground or background, each class weighted by 1 / ln(1.02 + its share of the batch).

    The weights are those of ENet (arXiv:1606.02147, section 5.2), the terms are divided by their sum.
    scores: float32 [b, h, w, 2], of (background, foreground). labels: any integers [b, h, w], 0 is background.
    -> float32 scalar.
    """
    classes = tf.cast(tf.not_equal(labels, 0), tf.int32)
    foreground = tf.reduce_mean(tf.cast(classes, tf.float32))
    weights = tf.gather(1. / tf.log(1.02 + tf.stack([1. - foreground, foreground])), classes)
    entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=classes, logits=scores)
    return tf.reduce_sum(weights * entropy) / tf.reduce_sum(weights)


def foreground_log_loss(log_odds, labels):
    """Cross entropy of foreground or background, unweighted, so that the odds are those of the training pictures.

    log_odds: float32 [b, h, w], of being foreground. labels: any integers [b, h, w], 0 is background.
    -> float32 scalar.
    """
    truth = tf.cast(tf.not_equal(labels, 0), tf.float32)
    return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(labels=truth, logits=log_odds))


class _Instances(typing.NamedTuple):
    """The n instances of a batch, all images in one list."""
    segment: tf.Tensor     # int32 [b, h * w], the index in the list of each pixel's instance
    count: tf.Tensor       # float32 [n], pixels per instance
    image: tf.Tensor       # int64 [n], the index of the instance's image
    background: tf.Tensor  # bool [n], whether it is label 0
    present: tf.Tensor     # float32 [n], 1 for an instance that counts, 0 for one that is ignored
    images: tf.Tensor      # int64 scalar, the number of images


def _find_instances(labels, ignore_background):
    """labels: [b, pixels] of whole numbers -> _Instances. A value in two images is two instances."""
    labels = tf.cast(labels, tf.int64)
    images = tf.shape(labels, out_type=tf.int64)[0]
    lowest = tf.reduce_min(labels)
    span = tf.reduce_max(labels) - lowest + 1
    key = tf.reshape(labels + (span * tf.range(images)[:, None] - lowest), [-1])
    keys, segment, count = tf.cond(span * images <= _MAX_TABLE, lambda: _unique_by_table(key, span * images),
                                   lambda: tuple(tf.unique_with_counts(key)))
    background = tf.equal(keys % span + lowest, 0)
    present = tf.logical_not(background) if ignore_background else tf.ones_like(background)
    segment = tf.reshape(segment, tf.shape(labels))
    count, present = tf.cast(count, tf.float32), tf.cast(present, tf.float32)
    return _Instances(segment, count, keys // span, background, present, images)


def _unique_by_table(key, size):
    """tf.unique_with_counts of key, int64 [pixels] in [0, size), but faster and in the order of the values."""
    counts = tf.math.bincount(key, minlength=size, maxlength=size)
    keys = tf.where_v2(counts > 0)[:, 0]
    place = tf.cumsum(tf.cast(counts > 0, tf.int32)) - 1
    return keys, tf.gather(place, key), tf.gather(counts, keys)


def _hinged_variance(x, means, instances, delta_v):
    """The inner sum of equation 1 per instance, 1/N_c sum_i [|mu_c - x_i| - delta_v]+ ^2. -> float32 [n]."""
    distance = _safe_norm(_gather_to_pixels(means, instances.segment) - x)
    return _mean_over_pixels(tf.square(tf.nn.relu(distance - delta_v))[..., None], instances)[:, 0]


def _mean_over_pixels(values, instances):
    """The mean over the pixels of each instance. values: float32 [b, pixels, d] -> float32 [n, d]."""
    return _sum_over_pixels(values, instances.segment, tf.size(instances.count)) / instances.count[:, None]


@tf.custom_gradient
def _sum_over_pixels(values, segment, num):
    """The sum over the pixels of each of `num` instances. -> float32 [num, d].

    values: float32 [b, pixels, d]. segment: int32 [b, pixels], the instance of each pixel.
    Summed in float64: over the 250,000 pixels of a background, float32 loses the fourth digit. One weighted histogram
    per column takes half the time of `unsorted_segment_sum`; one per photo, so that the order of summation is fixed.
    """
    def total(column):
        return tf.raw_ops.DenseBincount(input=segment, size=num, weights=tf.cast(column, tf.float64))
    sums = tf.stack([tf.reduce_sum(total(column), axis=0) for column in tf.unstack(values, axis=-1)], axis=-1)
    return tf.cast(sums, tf.float32), lambda dy: (tf.gather(dy, segment), None, None)


@tf.custom_gradient
def _gather_to_pixels(values, segment):
    """Each pixel's instance's value. values: float32 [n, d], segment: int32 [b, pixels] -> float32 [b, pixels, d]."""
    return tf.gather(values, segment), lambda dy: (_sum_over_pixels(dy, segment, tf.shape(values)[0]), None)


def _hinged_distance(means, instances, delta_d):
    """Equation 2 per image, then the mean over the images. means: float32 [n, d] -> scalar.

    Images with fewer than two instances add 0.
    """
    others = tf.logical_and(tf.equal(instances.image[:, None], instances.image[None, :]),
                            tf.logical_not(tf.eye(tf.size(instances.count), dtype=tf.bool)))
    weight = tf.cast(others, tf.float32) * instances.present[:, None] * instances.present[None, :]
    hinge = tf.square(tf.nn.relu(2. * delta_d - _safe_norm(means[:, None] - means[None, :])))
    pairs = _sum_per_image(tf.reduce_sum(weight, axis=1), instances)
    total = _sum_per_image(tf.reduce_sum(weight * hinge, axis=1), instances)
    return tf.reduce_mean(total / tf.maximum(pairs, 1.))


def _mean_over_images(values, instances):
    """1/C sum_c per image, then the mean over the images. values: float32 [n] -> scalar."""
    total = _sum_per_image(values * instances.present, instances)
    return tf.reduce_mean(total / tf.maximum(_sum_per_image(instances.present, instances), 1.))


def _sum_per_image(values, instances):
    """The sum over the instances of each image. values: float32 [n] -> float32 [b]."""
    return tf.unsorted_segment_sum(values, instances.image, instances.images)


@tf.custom_gradient
def _safe_norm(x):
    """L2 norm over the last axis, with gradient 0 instead of NaN at the zero vector. float32 [..., d] -> [...]."""
    norm = tf.sqrt(tf.reduce_sum(tf.square(x), axis=-1))
    return norm, lambda dy: tf.math.divide_no_nan(dy, norm)[..., None] * x
