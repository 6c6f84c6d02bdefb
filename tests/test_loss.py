"""loss.py: the numbers and gradients of the paper's formula, whatever the labels and the embeddings."""
import re

import numpy as np
import pytest

from data.common import quiet

quiet.import_tensorflow()
import tensorflow.compat.v1 as tf
from tensorflow.python.eager import context

import loss
import reference

DELTA_V, DELTA_D = 0.5, 1.5
WEIGHTS = 1.0, 0.7, 0.01  # of the three terms
H, W, D = 4, 6, 3


@pytest.fixture(autouse=True)
def eager():
    """Even after a test of training, which switches it off in this process."""
    with context.eager_mode():
        yield


def formula(prediction, labels, ignore_background=False, background_weight=1.):
    """Equations 1 to 4 as printed, in float64, image by image: (loss, l_var, l_dist, l_reg)."""
    terms = np.zeros([len(labels), 3])
    for image, (x, label) in enumerate(zip(np.float64(prediction), labels)):
        values = [value for value in np.unique(label) if value > 0 or value == 0 and not ignore_background]
        means = np.array([x[label == value].mean(axis=0) for value in values])
        for value, mean in zip(values, means):
            hinge = np.maximum(np.linalg.norm(mean - x[label == value], axis=1) - DELTA_V, 0)
            terms[image, 0] += np.mean(hinge ** 2) / len(values) * (1 if value else background_weight)
            terms[image, 2] += np.linalg.norm(mean) / len(values)
        if len(values) > 1:
            pairs = np.linalg.norm(means[:, None] - means, axis=2)[~np.eye(len(values), dtype=bool)]
            terms[image, 1] = np.mean(np.maximum(2 * DELTA_D - pairs, 0) ** 2)
    terms = terms.mean(axis=0) * WEIGHTS
    return np.array([terms.sum(), *terms])


def terms_and_gradient(x, labels, *settings):
    """-> ((loss, l_var, l_dist, l_reg), the gradient of the loss), tensors. settings: ignore_background, ..."""
    with tf.GradientTape() as tape:
        tape.watch(x)
        terms = loss.discriminative_loss(x, labels, D, labels.shape[:0:-1], DELTA_V, DELTA_D, *WEIGHTS, *settings)
    return terms, tape.gradient(terms[0], x)


def evaluate(prediction, labels, *settings):
    """`terms_and_gradient` of arrays, as finite arrays."""
    terms, gradient = terms_and_gradient(tf.constant(prediction, tf.float32), labels, *settings)
    assert np.isfinite(terms).all() and np.isfinite(gradient).all()
    return np.array(terms), gradient.numpy()


def random_batch(seed, values, images=3, dtype=np.int32):
    """Embeddings and labels of a batch: no image has all the values."""
    random = np.random.default_rng(seed)
    labels = np.stack([random.choice(random.permutation(values)[:1 + len(values) // 2 + i % 2], [H, W])
                       for i in range(images)]).astype(dtype)
    return random.normal(0, 1.5, [images, H, W, D]).astype(np.float32), labels


# ---- The formula -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('settings', [(False, 30.), (True,)], ids=['weighted background', 'no background'])
@pytest.mark.parametrize('values, dtype', [
    ([0, 20, 70, 255], np.uint8), ([0, 1, 65535, 24017], np.uint16), ([0, 2 ** 15, -1, 300], np.float32),
    ([3, 5, -2 ** 31, 9], np.int32), ([-1, -7], np.int64)], ids=str)
def test_loss_equals_the_formula_in_float64_for_any_labels(values, dtype, settings):
    prediction, labels = random_batch(1, values, dtype=dtype)
    terms, gradient = evaluate(prediction, labels, *settings)
    np.testing.assert_allclose(terms, formula(prediction, labels, *settings), rtol=1e-4)
    assert not gradient[labels < settings[0]].any()


def test_gradient_equals_finite_differences_of_the_formula():
    prediction, labels = random_batch(1, [0, 1, 2, -1], images=2)
    _, gradient = evaluate(prediction, labels)
    differences, h = np.zeros(prediction.shape), 1e-6
    for index in np.ndindex(*prediction.shape):
        step = np.zeros(prediction.shape)
        step[index] = h
        differences[index] = (formula(prediction + step, labels)[0] - formula(prediction - step, labels)[0]) / (2 * h)
    assert np.abs(differences).max() > 1e-2
    np.testing.assert_allclose(gradient, differences, atol=1e-4 * np.abs(differences).max())


def test_means_of_many_pixels_are_as_good_as_in_float64():
    labels = (np.random.default_rng(2).uniform(size=[1, 512, 512]) < 0.05).astype(np.int32)
    prediction = np.float32(2.2 * labels[..., None] + [10.1, 0.1, -5.3])
    np.testing.assert_allclose(evaluate(prediction, labels)[0], formula(prediction, labels), 1e-5, 1e-7)


# ---- Where implementations fail --------------------------------------------------------------------------------------

BACKGROUND, HALVES = np.zeros([H, W], np.int32), np.int32([[0, 0, 0, 5, 5, 5]] * H)
EACH = np.arange(H * W, dtype=np.int32).reshape(H, W)
NOISE = np.random.default_rng(0).normal(0, 1, [H, W, D])
TRAPS = {
    'background only': (BACKGROUND, NOISE),
    'one-pixel instances': (EACH, NOISE),
    'one pixel in the background': (np.int32(EACH == 8), NOISE),
    'pixels on their mean': (HALVES, np.stack([HALVES, 0 * HALVES, 1 + HALVES], -1)),
    'means at the origin': (HALVES, np.concatenate([NOISE[:H // 2], -NOISE[:H // 2]])),
    'all embeddings zero': (HALVES, np.zeros([H, W, D])),
    'far apart': (HALVES, 1000 * np.stack([HALVES] * 3, -1)),
}


@pytest.mark.parametrize('name', TRAPS)
def test_loss_and_gradient_are_finite_and_right_next_to_another_image(name):
    other, other_labels = random_batch(7, [0, 1, 2], images=1)
    labels, prediction = (np.stack(pair) for pair in zip(TRAPS[name], (other_labels[0], other[0])))
    for ignore_background in False, True:
        terms, _ = evaluate(prediction, labels, ignore_background)   # finite, or evaluate fails
        np.testing.assert_allclose(terms, formula(np.float32(prediction), labels, ignore_background), 1e-4, 1e-6)


@pytest.mark.parametrize('difference', [1e-3, 1e-6])
def test_nearly_equal_means_are_pushed_apart_with_full_force(difference):
    _, gradient = evaluate(np.where(HALVES[None, ..., None] == 5, [0, difference, 0], 0), HALVES[None])
    force = 4 * DELTA_D * WEIGHTS[1]   # d/du of (2 delta_d - u)^2 at u = 0, over the pixels of an instance
    np.testing.assert_allclose(gradient[0][HALVES == 5].sum(axis=0), [0, -force, 0], rtol=1e-2)
    np.testing.assert_allclose(gradient[0][HALVES == 0].sum(axis=0), [0, force, 0], rtol=1e-2)


@pytest.mark.parametrize('instances', [60, 260])
def test_many_instances(instances):
    prediction = np.random.default_rng(8).normal(0, 2, [1, 20, 30, D]).astype(np.float32)
    labels = (np.arange(600) % instances).reshape(1, 20, 30)
    np.testing.assert_allclose(evaluate(prediction, labels)[0], formula(prediction, labels), rtol=1e-4)


@pytest.mark.parametrize('labels, fits', [
    ([[65535, 1]], True), ([[65536, 1]], False), (np.arange(1023).reshape(33, 31), True),
    (1 + np.arange(1023).reshape(33, 31), False)], ids=['label', 'too large', 'instances', 'too many'])
def test_loss_beyond_its_limits_is_nan(labels, fits):
    labels = np.array(labels)[None]
    terms = loss.discriminative_loss(np.ones([*labels.shape, D], np.float32), labels, D, labels.shape[:0:-1],
                                     DELTA_V, DELTA_D, *WEIGHTS, True)
    assert np.isfinite(terms).all() if fits else np.isnan(terms).all()


@pytest.mark.parametrize('shape, image_shape', [
    ((2, H, W, D), (H, W)), ((2, H * W, D), (W, H + 1)), ((2, H, W, D + 1), (W, H))], ids=str)
def test_prediction_of_another_shape_is_refused(shape, image_shape):
    with pytest.raises(ValueError, match=re.escape(f'{shape}') + '.*' + re.escape(f'{image_shape}')):
        loss.discriminative_loss(np.zeros(shape, np.float32), np.zeros([2, H, W]), D, image_shape, DELTA_V, DELTA_D,
                                 *WEIGHTS)


# ---- XLA and GPUs ----------------------------------------------------------------------------------------------------

def test_loss_and_gradient_that_xla_compiles_are_the_same():
    prediction, labels = random_batch(1, [0, 1, 2, 3, -1], images=1)
    terms, gradient = tf.function(lambda x: terms_and_gradient(x, labels), jit_compile=True)(tf.constant(prediction))
    np.testing.assert_allclose(terms, formula(prediction, labels), rtol=1e-4)
    np.testing.assert_allclose(gradient, evaluate(prediction, labels)[1], rtol=1e-4, atol=1e-6)


def test_every_operation_runs_on_a_gpu_without_copies_of_pixels():
    with tf.Graph().as_default() as graph:
        prediction, labels = tf.zeros([2, 64, 64, D]), tf.placeholder(tf.int32, [2, 64, 64])
        total = loss.discriminative_loss(prediction, labels, D, (64, 64), DELTA_V, DELTA_D, *WEIGHTS)[0]
        total += loss.foreground_loss(prediction[..., :2], labels)
        total += loss.foreground_log_loss(prediction[..., 0], labels)
        assert tf.gradients(total, prediction)[0].shape == prediction.shape
    assert reference.not_on_gpu(graph, 64 * 64) == set()


# ---- Foreground ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('share', [0.3, 0., 1.], ids=['both', 'no foreground', 'no background'])
def test_foreground_losses_are_cross_entropies_of_pixels_that_are_not_ignored(share):
    random = np.random.default_rng(4)
    scores = random.normal(size=[2, H, W, 2])
    labels = np.where(random.uniform(size=[2, H, W]) < share, random.choice([20, 70], [2, H, W]), 0)
    foreground, known = (labels != 0).astype(int), random.uniform(size=[2, H, W]) < 0.7
    labels = np.where(known, labels, -random.integers(1, 3, [2, H, W]))
    log_p = scores - np.log(np.exp(scores).sum(-1, keepdims=True))
    entropy = -np.take_along_axis(log_p, foreground[..., None], -1)[..., 0][known]
    of_foreground = foreground[known].mean()
    weights = (1 / np.log(1.02 + np.array([1 - of_foreground, of_foreground])))[foreground[known]]
    x = tf.constant(scores, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = loss.foreground_loss(x, labels)
    assert float(value) == pytest.approx(np.average(entropy, weights=weights), rel=1e-5)
    assert np.isfinite(tape.gradient(value, x)).all()
    assert float(loss.foreground_log_loss(x[..., 1] - x[..., 0], labels)) == pytest.approx(entropy.mean(), rel=1e-5)


def test_foreground_losses_are_0_where_every_pixel_is_ignored():
    for function, shape in ((loss.foreground_loss, [2, H, W, 2]), (loss.foreground_log_loss, [2, H, W])):
        assert float(function(tf.ones(shape), np.full([2, H, W], -1))) == 0
