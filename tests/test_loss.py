"""loss.py: the numbers and gradients of the paper's formula, whatever the labels and the embeddings."""

import functools
import itertools

import numpy as np
import pytest

from data.common import quiet

quiet.import_tensorflow()
import tensorflow.compat.v1 as tf

import loss

tf.disable_v2_behavior()

DELTA_V, DELTA_D = 0.5, 1.5
WEIGHTS = 1.0, 0.7, 0.01  # of the three terms
H, W, D = 4, 6, 3


def formula(prediction, labels, ignore_background=False, background_weight=1.):
    """Equations 1 to 4 as they are printed, in float64, by loops: (loss, l_var, l_dist, l_reg)."""
    terms = np.zeros([len(labels), 3])
    for image, (x, label) in enumerate(zip(np.float64(prediction), labels)):
        values = [value for value in np.unique(label) if value or not ignore_background]
        instances = [x[label == value] for value in values]
        means = [pixels.mean(axis=0) for pixels in instances]
        c = len(instances)
        for value, pixels, mean in zip(values, instances, means):
            hinge = np.maximum(np.linalg.norm(mean - pixels, axis=1) - DELTA_V, 0)
            terms[image, 0] += np.sum(hinge ** 2) / len(pixels) / c * (1 if value else background_weight)
            terms[image, 2] += np.linalg.norm(mean) / c
        for a, b in itertools.permutations(means, 2):
            terms[image, 1] += max(2 * DELTA_D - np.linalg.norm(a - b), 0) ** 2 / (c * (c - 1))
    terms = terms.mean(axis=0) * WEIGHTS
    return np.array([terms.sum(), *terms])


@functools.cache
def build(label_dtype, shape, ignore_background, background_weight=1.):
    """A graph with the loss and its gradient, and a session for it."""
    with tf.Graph().as_default() as graph:
        prediction = tf.placeholder(tf.float32, [None, *shape, D])
        labels = tf.placeholder(label_dtype, [None, *shape])
        terms = loss.discriminative_loss(prediction, labels, D, shape[::-1], DELTA_V, DELTA_D, *WEIGHTS,
                                         ignore_background, background_weight)
        gradient = tf.gradients(terms[0], prediction)[0]
        return tf.Session(graph=graph), prediction, labels, terms, gradient


def evaluate(prediction, labels, ignore_background=False, background_weight=1.):
    """-> ((loss, l_var, l_dist, l_reg), the gradient of the loss)."""
    sess, prediction_in, labels_in, terms, gradient = build(labels.dtype, labels.shape[1:], ignore_background,
                                                               background_weight)
    terms, gradient = sess.run([terms, gradient], {prediction_in: prediction, labels_in: labels})
    assert np.isfinite(terms).all() and np.isfinite(gradient).all()
    return np.array(terms), gradient


def random_batch(seed, values, images=3, scale=1.5, dtype=np.int32):
    """Embeddings and labels of a batch: no image has all the values."""
    random = np.random.default_rng(seed)
    labels = np.stack([random.choice(random.permutation(values)[:1 + len(values) // 2 + i % 2], [H, W])
                       for i in range(images)]).astype(dtype)
    return random.normal(0, scale, [images, H, W, D]).astype(np.float32), labels


# ---- The formula -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('ignore_background', [False, True])
@pytest.mark.parametrize('values, dtype', [
    ([0, 1, 2, 3], np.uint8), ([0, 20, 70, 120, 170, 220], np.uint8), ([0, 255], np.uint8),
    ([0, -1, -2 ** 31, 2 ** 31 - 1], np.int32), ([0, 10 ** 12, -10 ** 12, 7], np.int64),
    ([0, 1, -5, 300], np.float32), ([3, 5, 9], np.int32)], ids=str)
def test_loss_equals_the_formula_in_float64_for_any_labels(values, dtype, ignore_background):
    for seed in range(3):
        prediction, labels = random_batch(seed, values, dtype=dtype)
        terms, _ = evaluate(prediction, labels, ignore_background)
        np.testing.assert_allclose(terms, formula(prediction, labels, ignore_background), rtol=1e-4)


@pytest.mark.parametrize('ignore_background', [False, True])
def test_background_weight_weighs_the_variance_of_label_0_alone(ignore_background):
    prediction, labels = random_batch(3, [0, -4, 7, 300])
    terms, _ = evaluate(prediction, labels, ignore_background, 30.)
    np.testing.assert_allclose(terms, formula(prediction, labels, ignore_background, 30.), rtol=1e-4)


@pytest.mark.parametrize('ignore_background', [False, True])
def test_gradient_equals_finite_differences_of_the_formula(ignore_background):
    prediction, labels = random_batch(1, [0, 1, 2, 3], images=2)
    _, gradient = evaluate(prediction, labels, ignore_background)
    differences, h = np.zeros(prediction.shape), 1e-6
    for index in np.ndindex(*prediction.shape):
        step = np.zeros(prediction.shape)
        step[index] = h
        differences[index] = (formula(prediction + step, labels, ignore_background)[0] -
                              formula(prediction - step, labels, ignore_background)[0]) / (2 * h)
    assert np.abs(differences).max() > 1e-2
    np.testing.assert_allclose(gradient, differences, atol=1e-4 * np.abs(differences).max())


@pytest.mark.parametrize('scatter', [0.5, 0.])
def test_means_of_many_pixels_are_as_good_as_in_float64(scatter):
    random = np.random.default_rng(2)
    labels = (random.uniform(size=[1, 512, 512]) < 0.05).astype(np.int32)
    prediction = 2.2 * labels[..., None] + [10.1, 0.1, -5.3] + random.normal(0, scatter, [1, 512, 512, D])
    prediction = prediction.astype(np.float32)
    np.testing.assert_allclose(evaluate(prediction, labels)[0], formula(prediction, labels), 1e-5, 1e-7)


def test_terms_are_weighted_and_the_loss_is_their_sum():
    prediction, labels = random_batch(3, [0, 1, 2])
    with tf.Graph().as_default(), tf.Session() as sess:
        terms = [sess.run(loss.discriminative_loss(tf.constant(prediction), tf.constant(labels), D, (W, H),
                                                   DELTA_V, DELTA_D, *weights))
                 for weights in ((1., 1., 1.), (2., 3., 5.))]
    np.testing.assert_allclose(terms[1][1:], np.multiply(terms[0][1:], [2, 3, 5]), rtol=1e-5)
    np.testing.assert_allclose(terms[1][0], np.sum(terms[1][1:]), rtol=1e-5)


def test_batch_is_the_mean_of_its_images_alone():
    prediction, labels = random_batch(4, [0, 1, 2, 3, 4], images=4)
    labels[1] = 7  # one instance: its l_dist of 0 counts as an image's
    together, gradient = evaluate(prediction, labels)
    alone = [evaluate(prediction[i:i + 1], labels[i:i + 1]) for i in range(4)]
    np.testing.assert_allclose(together, np.mean([terms for terms, _ in alone], axis=0), rtol=1e-5)
    np.testing.assert_allclose(gradient, np.concatenate([g for _, g in alone]) / 4, atol=1e-6)


def test_only_which_pixels_share_a_value_matters():
    prediction, labels = random_batch(6, [0, 1, 2, 3, 4])
    renamed = np.array([9, -3, 0, 10 ** 6, 4], np.int32)[labels]
    for actual, expected in zip(evaluate(prediction, renamed), evaluate(prediction, labels)):
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-7)


def test_images_are_taken_together_without_a_loop():
    operations = {op.type for op in build(np.dtype(np.int32), (H, W), False)[0].graph.get_operations()}
    assert not operations & {'While', 'StatelessWhile', 'Enter', 'NextIteration', 'MapDefun', 'PyFunc',
                             'EagerPyFunc'}


# ---- Where implementations fail --------------------------------------------------------------------------------------

def background_only():
    return np.zeros([H, W], np.int32)


def halves():
    return np.repeat([[0, 5]], H, axis=0).repeat(W // 2, axis=1).astype(np.int32)


def every_pixel_its_own():
    return np.arange(H * W, dtype=np.int32).reshape(H, W)


def one_pixel():
    labels = background_only()
    labels[1, 2] = 4
    return labels


def noise(seed=0):
    return np.random.default_rng(seed).normal(0, 1, [H, W, D])


def symmetric():
    """Instances of +x and -x: every mean is the origin, every pixel off it."""
    x = noise()
    x[H // 2:] = -x[:H // 2]
    return x


TRAPS = {
    'background only': (background_only(), noise()),
    'one instance': (background_only() + 9, noise()),
    'one-pixel instances': (every_pixel_its_own(), noise()),
    'one pixel beside the background': (one_pixel(), noise()),
    'pixels on their mean': (halves(), np.stack([halves(), 0 * halves(), 1 + halves()], -1)),
    'means at the origin': (halves(), symmetric()),
    'all embeddings zero': (halves(), np.zeros([H, W, D])),
    'all embeddings equal': (halves(), np.full([H, W, D], 0.7)),
    'far apart': (halves(), 1000 * np.stack([halves()] * 3, -1)),
    'more than 8 instances': (every_pixel_its_own() // 2, noise()),
}


@pytest.mark.parametrize('ignore_background', [False, True])
@pytest.mark.parametrize('name', TRAPS)
def test_loss_and_gradient_are_finite_and_right(name, ignore_background):
    labels, prediction = (array[None] for array in TRAPS[name])
    terms, _ = evaluate(prediction, labels, ignore_background)  # finite, or evaluate fails
    np.testing.assert_allclose(terms, formula(np.float32(prediction), labels, ignore_background),
                               rtol=1e-4, atol=1e-6)
    # A neighbour in the batch neither changes it nor is changed by it.
    other, other_labels = random_batch(7, [0, 1, 2], images=1)
    both = np.float32(np.concatenate([prediction, other])), np.concatenate([labels, other_labels])
    np.testing.assert_allclose(evaluate(*both, ignore_background)[0], formula(*both, ignore_background),
                               rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('labels', [background_only(), background_only() + 3], ids=['background', 'a lane'])
def test_one_instance_has_no_others_to_be_pushed_from(labels):
    assert evaluate(noise()[None], labels[None])[0][2] == 0


def test_background_only_is_nothing_where_the_background_is_ignored():
    terms, gradient = evaluate(noise()[None], background_only()[None], ignore_background=True)
    assert (terms == 0).all() and (gradient == 0).all()


def test_background_has_no_gradient_where_it_is_ignored():
    _, gradient = evaluate(noise()[None], halves()[None], ignore_background=True)
    assert (gradient[0, :, :W // 2] == 0).all() and (gradient[0, :, W // 2:] != 0).any()


def test_equal_means_count_in_full():
    terms, _ = evaluate(np.full([1, H, W, D], 0.7, np.float32), halves()[None])
    assert terms[2] == pytest.approx(WEIGHTS[1] * (2 * DELTA_D) ** 2, rel=1e-6)


def test_one_equal_pair_counts_among_others():
    labels = np.repeat([[0, 1, 2]], H, axis=0).repeat(W // 3, axis=1).astype(np.int32)
    prediction = np.array([[0, 0, 0], [0, 0, 0], [100, 0, 0]], np.float32)[labels]
    assert evaluate(prediction[None], labels[None])[0][2] == pytest.approx(
        WEIGHTS[1] * (2 * DELTA_D) ** 2 / 3, rel=1e-6)


@pytest.mark.parametrize('difference', [1e-3, 1e-6])
def test_nearly_equal_means_are_pushed_apart_with_full_force(difference):
    labels = halves()
    prediction = np.zeros([1, H, W, D], np.float32)
    prediction[0, labels == 5, 1] = difference
    with tf.Graph().as_default(), tf.Session() as sess:
        x = tf.constant(prediction)
        _, _, l_dist, _ = loss.discriminative_loss(x, tf.constant(labels[None]), D, (W, H), DELTA_V, DELTA_D,
                                                   1., 1., 1.)
        gradient = sess.run(tf.gradients(l_dist, x)[0])[0]
    upper, lower = gradient[labels == 5].sum(axis=0), gradient[labels == 0].sum(axis=0)
    # d/du of (2 delta_d - u)^2 at u = 0, shared by the pixels of each instance.
    np.testing.assert_allclose(upper, [0, -4 * DELTA_D, 0], rtol=1e-2)
    np.testing.assert_allclose(lower, -upper, rtol=1e-4)


def test_pixels_within_the_margin_are_not_pulled():
    prediction = np.zeros([1, H, W, D], np.float32)
    prediction[0, :, ::2, 0] = 2 * DELTA_V - 0.02  # the mean lies in the middle
    labels = np.ones([1, H, W], np.int32)
    assert evaluate(prediction, labels)[0][1] == 0
    prediction[0, :, ::2, 0] = 2 * DELTA_V + 0.02
    assert evaluate(prediction, labels)[0][1] == pytest.approx(WEIGHTS[0] * 0.01 ** 2, rel=1e-3)


def test_a_hundred_instances():
    random = np.random.default_rng(8)
    labels = random.permutation(np.arange(400) % 100).reshape(1, 20, 20).astype(np.int32)
    prediction = random.normal(0, 2, [1, 20, 20, D]).astype(np.float32)
    np.testing.assert_allclose(evaluate(prediction, labels)[0], formula(prediction, labels), rtol=1e-4)


# ---- Foreground ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('share', [0.3, 0., 1.], ids=['both', 'no foreground', 'no background'])
def test_foreground_loss_is_cross_entropy_weighted_by_class(share):
    random = np.random.default_rng(4)
    scores = random.normal(size=[2, 5, 6, 2])
    labels = np.where(random.uniform(size=[2, 5, 6]) < share, random.choice([20, 70], [2, 5, 6]), 0)
    foreground = (labels != 0).astype(int)
    shares = np.array([1 - foreground.mean(), foreground.mean()])
    weights = (1 / np.log(1.02 + shares))[foreground]
    log_p = scores - np.log(np.exp(scores).sum(-1, keepdims=True))
    entropy = -np.take_along_axis(log_p, foreground[..., None], -1)[..., 0]
    with tf.Graph().as_default(), tf.Session() as sess:
        x = tf.constant(scores, tf.float32)
        value = loss.foreground_loss(x, tf.constant(labels))
        value, gradient = sess.run([value, tf.gradients(value, x)[0]])
    assert value == pytest.approx(np.sum(weights * entropy) / np.sum(weights), rel=1e-5)
    assert np.isfinite(gradient).all()


def test_foreground_log_loss_is_the_mean_cross_entropy_of_the_odds():
    random = np.random.default_rng(4)
    log_odds, labels = random.normal(size=[2, 5, 6]), random.choice([0, 20, 70], [2, 5, 6])
    p = 1 / (1 + np.exp(-log_odds))
    with tf.Graph().as_default(), tf.Session() as sess:
        value = sess.run(loss.foreground_log_loss(tf.constant(log_odds, tf.float32), tf.constant(labels)))
    assert value == pytest.approx(-np.mean(np.log(np.where(labels > 0, p, 1 - p))), rel=1e-5)
