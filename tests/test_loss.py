"""loss.py: the numbers and gradients of the paper's formula, whatever the labels and the embeddings."""

import itertools
import re

import numpy as np
import pytest

from data.common import quiet

quiet.import_tensorflow()
import tensorflow.compat.v1 as tf

import loss
import reference

DELTA_V, DELTA_D = 0.5, 1.5
WEIGHTS = 1.0, 0.7, 0.01  # of the three terms
H, W, D = 4, 6, 3


def formula(prediction, labels, ignore_background=False, background_weight=1.):
    """Equations 1 to 4 as they are printed, in float64, by loops: (loss, l_var, l_dist, l_reg)."""
    terms = np.zeros([len(labels), 3])
    for image, (x, label) in enumerate(zip(np.float64(prediction), labels)):
        values = [value for value in np.unique(label) if value > 0 or value == 0 and not ignore_background]
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


def evaluate(prediction, labels, ignore_background=False, background_weight=1.):
    """-> ((loss, l_var, l_dist, l_reg), the gradient of the loss)."""
    with tf.GradientTape() as tape:
        x = tf.constant(prediction, tf.float32)
        tape.watch(x)
        terms = loss.discriminative_loss(x, labels, D, labels.shape[:0:-1], DELTA_V, DELTA_D, *WEIGHTS,
                                         ignore_background, background_weight)
    gradient = tape.gradient(terms[0], x).numpy()
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
    ([0, 20, 70, 120, 170, 220], np.uint8), ([0, 255], np.uint8), ([0, 1, 65535, 24017], np.uint16),
    ([0, 26001, 26002, 7], np.int64), ([0, 1, -1, 300], np.float32), ([3, 5, -2 ** 31, 9], np.int32),
    ([-1, -7], np.int32)], ids=str)
def test_loss_equals_the_formula_in_float64_for_any_labels(values, dtype, ignore_background):
    for seed in range(3):
        prediction, labels = random_batch(seed, values, dtype=dtype)
        terms, _ = evaluate(prediction, labels, ignore_background)
        np.testing.assert_allclose(terms, formula(prediction, labels, ignore_background), rtol=1e-4)


@pytest.mark.parametrize('ignore_background', [False, True])
def test_background_weight_weighs_the_variance_of_label_0_alone(ignore_background):
    prediction, labels = random_batch(3, [0, 4, 7, 300])
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


def test_batch_is_the_mean_of_its_images_alone():
    prediction, labels = random_batch(4, [0, 1, 2, 3, 4], images=4)
    labels[1] = 7  # one instance: its l_dist of 0 counts as an image's
    together, gradient = evaluate(prediction, labels)
    alone = [evaluate(prediction[i:i + 1], labels[i:i + 1]) for i in range(4)]
    np.testing.assert_allclose(together, np.mean([terms for terms, _ in alone], axis=0), rtol=1e-5)
    np.testing.assert_allclose(gradient, np.concatenate([g for _, g in alone]) / 4, atol=1e-6)


def test_only_which_pixels_share_a_value_matters():
    prediction, labels = random_batch(6, [0, 1, 2, 3, 4])
    renamed = np.array([9, 3, 0, 10 ** 4, 4], np.int32)[labels]
    for actual, expected in zip(evaluate(prediction, renamed), evaluate(prediction, labels)):
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-7)


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


def test_background_has_no_gradient_where_it_is_ignored():
    _, gradient = evaluate(noise()[None], halves()[None], ignore_background=True)
    assert (gradient[0, :, :W // 2] == 0).all() and (gradient[0, :, W // 2:] != 0).any()


@pytest.mark.parametrize('difference', [1e-3, 1e-6])
def test_nearly_equal_means_are_pushed_apart_with_full_force(difference):
    labels = halves()
    prediction = np.zeros([1, H, W, D], np.float32)
    prediction[0, labels == 5, 1] = difference
    x = tf.constant(prediction)
    with tf.GradientTape() as tape:
        tape.watch(x)
        _, _, l_dist, _ = loss.discriminative_loss(x, labels[None], D, (W, H), DELTA_V, DELTA_D, 1., 1., 1.)
    gradient = tape.gradient(l_dist, x).numpy()[0]
    upper, lower = gradient[labels == 5].sum(axis=0), gradient[labels == 0].sum(axis=0)
    # d/du of (2 delta_d - u)^2 at u = 0, shared by the pixels of each instance.
    np.testing.assert_allclose(upper, [0, -4 * DELTA_D, 0], rtol=1e-2)
    np.testing.assert_allclose(lower, -upper, rtol=1e-4)


@pytest.mark.parametrize('instances', [100, 300])
def test_many_instances(instances):
    random = np.random.default_rng(8)
    labels = random.permutation(np.arange(600) % instances).reshape(1, 20, 30).astype(np.int32)
    prediction = random.normal(0, 2, [1, 20, 30, D]).astype(np.float32)
    np.testing.assert_allclose(evaluate(prediction, labels)[0], formula(prediction, labels), rtol=1e-4)


@pytest.mark.parametrize('labels', [[[[65536, 1]]], [np.arange(1024).reshape(32, 32)]], ids=['label', 'instances'])
def test_loss_beyond_its_limits_is_nan(labels):
    terms = loss.discriminative_loss(np.ones([*np.shape(labels), D], np.float32), np.array(labels), D,
                                     np.shape(labels)[:0:-1], DELTA_V, DELTA_D, *WEIGHTS)
    assert np.isnan(terms).all()


@pytest.mark.parametrize('shape, image_shape', [((2, H, W, D), (H, W)), ((2, H, W, D), (W // 2, H)), (
    (2, H * W, D), (W, H + 1)), ((2, H, W, D + 1), (W, H))], ids=str)
def test_prediction_of_another_shape_is_refused(shape, image_shape):
    with pytest.raises(ValueError, match=re.escape(f'{shape}') + '.*' + re.escape(f'{image_shape}')):
        loss.discriminative_loss(np.zeros(shape, np.float32), np.zeros([2, H, W]), D, image_shape, DELTA_V, DELTA_D,
                                 *WEIGHTS)


# ---- Ignored pixels --------------------------------------------------------------------------------------------------

def test_ignored_pixels_change_no_term_and_have_no_gradient():
    prediction, labels = random_batch(9, [0, 1, 2, 3])
    labels[:, :, ::2] = -np.arange(1, H + 1)[:, None]
    terms, gradient = evaluate(prediction, labels)
    np.testing.assert_allclose(terms, formula(prediction, labels), rtol=1e-4)
    assert (gradient[labels < 0] == 0).all() and (gradient[labels >= 0] != 0).any()


def test_foreground_losses_leave_ignored_pixels_out():
    random = np.random.default_rng(4)
    scores, labels = tf.constant(random.normal(size=[2, H, W, 2]), tf.float32), random.integers(-2, 3, [2, H, W])
    known = labels >= 0
    for function, values in ((loss.foreground_loss, scores), (loss.foreground_log_loss, scores[..., 0])):
        of_known = function(tf.boolean_mask(values, known)[None, None], labels[known][None, None])
        assert float(function(values, labels)) == pytest.approx(float(of_known), rel=1e-5)
        assert float(function(values, 0 * labels - 1)) == 0


# ---- Devices ---------------------------------------------------------------------------------------------------------

def test_loss_and_gradient_are_those_of_the_formula_when_keras_compiles_them_with_xla():
    keras = tf.keras

    class Offsets(keras.layers.Layer):
        def build(self, shape):
            self.offsets = self.add_weight(shape=shape[1:], initializer='zeros')

        def call(self, x):
            return x + self.offsets

    prediction, labels = random_batch(1, [0, 1, 2, 3, -1], images=1)
    model = keras.Sequential([keras.Input((H, W, D)), Offsets()])
    model.compile(keras.optimizers.SGD(1.), jit_compile=True, loss=lambda truth, output: loss.discriminative_loss(
        output, truth, D, (W, H), DELTA_V, DELTA_D, *WEIGHTS)[0])
    terms, gradient = evaluate(prediction, labels)
    assert model.train_on_batch(prediction, labels) == pytest.approx(terms[0], rel=1e-5)
    np.testing.assert_allclose(-model.get_weights()[0], gradient[0], atol=1e-5)


def test_every_operation_runs_on_a_gpu_without_copies_of_pixels():
    with tf.Graph().as_default() as graph:
        prediction, labels = tf.zeros([2, 64, 64, D]), tf.placeholder(tf.int32, [2, 64, 64])
        total = loss.discriminative_loss(prediction, labels, D, (64, 64), DELTA_V, DELTA_D, *WEIGHTS)[0]
        total += loss.foreground_loss(prediction[..., :2], labels)
        total += loss.foreground_log_loss(prediction[..., 0], labels)
        gradient = tf.gradients(total, prediction)[0]
        with tf.Session() as sess:
            assert np.isfinite(sess.run(gradient, {labels: np.ones([2, 64, 64])})).all()
    assert reference.not_on_gpu(graph, 64 * 64) == set()


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
    x = tf.constant(scores, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = loss.foreground_loss(x, labels)
    gradient = tape.gradient(value, x)
    value = float(value)
    assert value == pytest.approx(np.sum(weights * entropy) / np.sum(weights), rel=1e-5)
    assert np.isfinite(gradient).all()


def test_foreground_log_loss_is_the_mean_cross_entropy_of_the_odds():
    random = np.random.default_rng(4)
    log_odds, labels = random.normal(size=[2, 5, 6]), random.choice([0, 20, 70], [2, 5, 6])
    p = 1 / (1 + np.exp(-log_odds))
    value = float(loss.foreground_log_loss(tf.constant(log_odds, tf.float32), labels))
    assert value == pytest.approx(-np.mean(np.log(np.where(labels > 0, p, 1 - p))), rel=1e-5)
