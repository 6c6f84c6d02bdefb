"""enet.py: its variables are those of the public checkpoints, its numbers those of reference.plain_enet."""

import collections
import hashlib

import numpy as np
import pytest

from data.common import quiet

quiet.import_tensorflow()
import tensorflow.compat.v1 as tf

import enet
import reference

RATE_OF_NOISE = 0.3
SMALL = reference.small_enet()
EACH_KIND = SMALL._replace(stage1_repeat=1, stage2_kinds=(2, 'asymmetric'), stage4_repeat=1)
WITHOUT_NOISE = enet.Mode(batch_statistics=True, decay=0.5, noise=None)


def assert_close(actual, expected, tolerance=1e-4):
    """Equal to `tolerance` of the largest value."""
    assert actual.shape == expected.shape and np.isfinite(expected).all() and np.abs(expected).max() > 1e-3
    assert np.abs(actual - expected).max() <= tolerance * np.abs(expected).max()


def evaluate(fetches, feed=None):
    """Runs fetches of the default graph in a new session with initialised variables."""
    with tf.Session() as sess:
        sess.run(tf.global_variables_initializer())
        return sess.run(fetches, feed)


@pytest.fixture
def graph():
    with tf.Graph().as_default() as graph, tf.variable_scope('', use_resource=False):
        yield graph


# ---- The whole network -----------------------------------------------------------------------------------------------

class Network:
    """Our network and the plain one, on the same random variables: at inference and in training."""

    def __init__(self):
        self.image = tf.placeholder(tf.float32, [None, None, None, 3])
        self.seed = tf.placeholder(tf.int32, [2])
        noise = enet.noise_of_step(self.seed)
        self.ours = enet.ENet(self.image, 12, return_features=True, architecture=EACH_KIND)
        self.variables = {v.op.name: v for v in tf.global_variables()}
        last_prelu, logits = reference.plain_enet(self.image, architecture=EACH_KIND)
        self.plain = logits, tf.nn.softmax(self.ours[0]), last_prelu   # a softmax magnifies rounding

        self.ours_training, _ = enet.ENet(self.image, 12, reuse=True, is_training=True, noise=noise,
                                          architecture=EACH_KIND)
        self.updates = tf.get_collection(tf.GraphKeys.UPDATE_OPS)
        _, self.plain_training = reference.plain_enet(self.image, batch_statistics=True, noise=noise,
                                                      architecture=EACH_KIND)
        trained = tf.trainable_variables()
        # A loss that no symmetry of the network cancels.
        self.ours_gradients, self.plain_gradients = (
            dict(zip([v.op.name for v in trained],
                     tf.gradients(tf.reduce_mean(tf.square(logits - tf.range(12.) / 4)), trained)))
            for logits in (self.ours_training, self.plain_training))
        self.sess = tf.Session()
        values = reference.random_weights(1, {n: v.shape.as_list() for n, v in self.variables.items()})
        self.sess.run([v.initializer for v in self.variables.values()],   # one call: each plans the whole graph
                      {v.initializer.inputs[1]: values[name] for name, v in self.variables.items()})

    def run(self, fetches, images, seed=(0, 0)):
        return self.sess.run(fetches, {self.image: images, self.seed: seed})


@pytest.fixture(scope='module')
def network():
    with tf.Graph().as_default(), tf.variable_scope('', use_resource=False):
        network = Network()
        yield network
        network.sess.close()


def photos(seed, *shape):
    """Noise, a quarter of each image black: all values of a pooling window tie there."""
    images = np.random.default_rng(seed).uniform(0, 255, [*shape, 3]).astype(np.float32)
    images[:, :shape[1] // 2, :shape[2] // 2] = 0
    return images


def test_variables_are_those_of_the_public_checkpoints(graph):
    enet.ENet(tf.zeros([1, 8, 8, 3]), 12)
    shapes = {variable.op.name: tuple(variable.shape.as_list()) for variable in tf.global_variables()}
    assert shapes == reference.checkpoint_variables()
    lines = sorted(f'{name} {",".join(map(str, shape))}\n' for name, shape in shapes.items())
    assert len(lines) == 537  # and their digest, taken from the lists of the checkpoints themselves
    assert hashlib.sha256(''.join(lines).encode()).hexdigest() == \
        '0691500e6f011569dfd1f600dc4a527ca8b31fbfde1c198bb1b3a2069706a0dd'


@pytest.mark.parametrize('shape', [(2, 32, 48), (1, 8, 8)], ids=str)
def test_inference_equals_the_plain_graph_at_any_batch_and_size(network, shape):
    images = photos(2, *shape)
    for actual, expected in zip(network.run(network.ours, images), network.run(network.plain, images)):
        assert_close(actual, expected)


def test_training_equals_the_plain_graph_with_the_same_dropout(network):
    images = photos(3, 2, 32, 48)
    assert_close(*network.run([network.ours_training, network.plain_training], images, [7, 8]))


def test_gradients_equal_those_of_the_plain_graph(network):
    images = photos(5, 2, 32, 48)
    used = {name: gradient for name, gradient in network.ours_gradients.items() if gradient is not None}
    ours, plain = network.run([used, {name: network.plain_gradients[name] for name in used}], images, [7, 8])
    errors = {name: np.linalg.norm(ours[name] - plain[name]) / (np.linalg.norm(plain[name]) + 1e-6)
              for name in used}
    # Rounding moves a value or two across a kink.
    assert max(errors.values()) < 0.05, max(errors, key=errors.get)
    assert np.median(list(errors.values())) < 1e-3


def test_only_biases_before_a_batch_norm_have_no_gradient(network):
    without = {name for name, gradient in network.ours_gradients.items() if gradient is None}
    biases = {name for name in network.ours_gradients if name.endswith('/biases')}
    assert without == {name for name in biases if 'conv2a' not in name and 'fullconv' not in name}


def test_seed_and_step_decide_what_is_dropped(network):
    images = photos(7, 1, 32, 32)
    first, again, other_step, other_seed = (network.run(network.ours_training, images, seed)
                                            for seed in ([3, 4], [3, 4], [3, 5], [4, 4]))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other_step).max() > 1e-2 and np.abs(first - other_seed).max() > 1e-2


def test_every_moving_average_has_one_update(network):
    averages = sorted(name for name in network.variables if 'moving_' in name)
    assert sorted(update.op.inputs[0].op.name for update in network.updates) == averages


def test_architecture_decides_how_many_channels_there_are(graph):
    small = SMALL._replace(initial_depth=5, stage1_depth=12, stage2_depth=20)
    *_, features = enet.ENet(tf.zeros([1, 16, 24, 3]), 2, return_features=True, architecture=small)
    shapes = {v.op.name: v.shape.as_list() for v in tf.trainable_variables()}
    assert shapes['ENet/bottleneck1_0_conv3/weights'] == [1, 1, 2, 12]
    assert shapes['ENet/bottleneck2_0_conv3/weights'] == [1, 1, 3, 20]
    assert features.name == 'ENet/bottleneck5_1_last_prelu:0'   # which heads of 2018 read
    assert features.shape == [1, 8, 12, 8] and shapes['ENet/fullconv/weights'] == [2, 2, 2, 8]


def test_training_drops_other_channels_each_time_if_no_noise_is_given(graph):
    logits, _ = enet.ENet(tf.constant(photos(9, 1, 32, 32)), 2, is_training=True, architecture=SMALL)
    with tf.Session() as sess:
        sess.run(tf.global_variables_initializer())
        assert np.abs(sess.run(logits) - sess.run(logits)).max() > 0


# ---- Dropout ---------------------------------------------------------------------------------------------------------

def test_dropout_takes_whole_channels_of_an_image_and_keeps_the_mean(graph):
    noise = enet.noise_of_step(tf.constant([1, 2]))
    kept = evaluate(enet.kept_channels(tf.ones([20, 3, 4, 200]), RATE_OF_NOISE, noise, 'scope'))
    assert kept.shape == (20, 1, 1, 200)
    assert set(np.unique(kept)) == {np.float32(0), np.float32(1 / (1 - RATE_OF_NOISE))}
    assert (kept == 0).mean() == pytest.approx(RATE_OF_NOISE, abs=0.03)
    assert (kept[0] != kept[1]).any()
    first, second = evaluate([noise([1, 1, 1, 50], scope) for scope in ('bottleneck1_1', 'bottleneck1_2')])
    assert (first != second).all()


def test_noise_of_2018_is_the_first_draw_of_dropout_with_seed_0(graph):
    x = tf.ones([2, 3, 4, 64])
    then = tf.nn.dropout(x, rate=RATE_OF_NOISE, noise_shape=[2, 1, 1, 64], seed=0)
    now = x * enet.kept_channels(x, RATE_OF_NOISE, enet.noise_of_2018, 'any scope')
    with tf.Session() as sess:
        first = sess.run(then)
        assert 0 < (first == 0).mean() < 1
        np.testing.assert_allclose(sess.run(now), first, rtol=1e-6)
        np.testing.assert_allclose(sess.run(now), first, rtol=1e-6)  # the first draw each time


# ---- Layers ----------------------------------------------------------------------------------------------------------

def test_moving_averages_converge_to_the_statistics_of_the_batch(graph):
    x = tf.constant(np.random.default_rng(1).normal(2, 3, [4, 16, 16, 6]).astype(np.float32))
    enet.conv_norm(x, 5, [3, 3], WITHOUT_NOISE, 'conv', 'norm', stride=2)
    variables = {v.op.name: v for v in tf.global_variables()}
    convolved = tf.nn.conv2d(x, variables['conv/weights'], 2, 'SAME') + variables['conv/biases']
    with tf.Session() as sess:
        sess.run(tf.global_variables_initializer())
        variables['conv/biases'].load(np.float32([0, 1, -2, 30, 4]), sess)
        variables['norm/moving_mean'].load(np.full(5, 100, np.float32), sess)
        values = sess.run(convolved).reshape(-1, 5)
        sess.run(tf.get_collection(tf.GraphKeys.UPDATE_OPS))   # WITHOUT_NOISE: with a decay of 1/2
        np.testing.assert_allclose(sess.run(variables['norm/moving_mean']), 50 + values.mean(0) / 2, rtol=1e-4)
        for _ in range(25):
            sess.run(tf.get_collection(tf.GraphKeys.UPDATE_OPS))
        np.testing.assert_allclose(sess.run(variables['norm/moving_mean']), values.mean(0), atol=1e-4)
        np.testing.assert_allclose(sess.run(variables['norm/moving_variance']), values.var(0), rtol=5e-3)


def test_dilated_convolutions_are_the_same_where_tensorflow_has_no_gradient_for_them(graph, monkeypatch):
    x = tf.constant(np.random.default_rng(0).normal(size=[2, 20, 12, 8]).astype(np.float32))
    weights = tf.constant(np.random.default_rng(1).normal(size=[3, 3, 8, 4]).astype(np.float32))
    expected = tf.nn.conv2d(x, weights, strides=1, padding='SAME', dilations=4)
    monkeypatch.setattr(enet, 'has_dilated_gradient', lambda: False)
    ours = enet.dilated_conv(x, weights, 1, 4, WITHOUT_NOISE)
    both = [[y, *tf.gradients(tf.sin(y), [x, weights])] for y in (ours, expected)]
    monkeypatch.undo()
    if not enet.has_dilated_gradient():
        pytest.skip('this TensorFlow cannot compute the gradient to compare with')
    for actual, expected in zip(*evaluate(both)):
        assert_close(actual, expected)


def test_prelu_and_its_gradient_equal_finite_differences(graph):
    random = np.random.default_rng(3)
    x = random.choice([-1, 1], [2, 3, 4, 5]) * random.uniform(0.1, 2, [2, 3, 4, 5])
    slope, dy = np.array([-2, -0.5, 0, 0.25, 3]), random.normal(size=x.shape)

    def prelu(x, slope):
        return np.where(x > 0, x, slope * x)

    tensors = [tf.constant(a, tf.float32) for a in (x, slope)]
    y = enet.prelu_of_slope(*tensors)
    actual_y, dx, dslope = evaluate([y, *tf.gradients(y, tensors, tf.constant(dy, tf.float32))])
    np.testing.assert_allclose(actual_y, prelu(x, slope), rtol=1e-6)
    h = 1e-3
    np.testing.assert_allclose(dx, dy * (prelu(x + h, slope) - prelu(x - h, slope)) / (2 * h), atol=1e-5)
    change = dy * (prelu(x, slope + h) - prelu(x, slope - h)) / (2 * h)
    np.testing.assert_allclose(dslope, change.sum((0, 1, 2)), atol=1e-5)


def test_composed_slopes_equal_two_prelus_with_dropout_between(graph):
    first, second = (a.ravel() for a in np.meshgrid(*[np.float32([-2, -0.5, 0, 0.5, 1, 3])] * 2))
    x = np.random.default_rng(4).normal(0, 2, [2, 5, 5, len(first)]).astype(np.float32)
    first, second, x = map(tf.constant, (first, second, x))
    kept = enet.kept_channels(x, 0.5, enet.noise_of_step(tf.constant([1, 2])), 'a')
    ours = kept * enet.prelu_of_slope(x, enet.compose_slopes(first, second))
    plain = enet.prelu_of_slope(kept * enet.prelu_of_slope(x, first), second)
    dy = tf.random.stateless_normal([2, 5, 5, 36], [1, 2])
    keep = tf.not_equal(first, 0.)  # else the second slope's gradient, at its kink, is arbitrary
    (ours, *our_gradients), (plain, *plain_gradients) = evaluate(
        [[y] + [tf.boolean_mask(g, keep, axis=a)
                for g, a in zip(tf.gradients(y, [x, first, second], dy), (3, 0, 0))] for y in (ours, plain)])
    np.testing.assert_allclose(ours, plain, rtol=1e-6)
    for actual, expected in zip(our_gradients, plain_gradients):
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


# ---- Fused kernels ---------------------------------------------------------------------------------------------------

def test_fused_kernels_change_no_result_and_leave_no_arithmetic_between_convolutions(graph):
    """Constant weights, with slopes below 0 and above 1, as in inference; two batch sizes."""
    image = tf.placeholder(tf.float32, [None, 32, 48, 3])
    random = np.random.default_rng(6)
    weights = {}

    def constant(getter, name, shape, **kwargs):
        low, high = (-0.3, 1.2) if name.endswith('alpha') else (0.9, 1.1) if name.endswith('variance') else (-0.1, 0.1)
        if name.endswith(('weights', 'filters')):
            low, high = np.float32([-2, 2]) * tf.TensorShape(shape)[:-1].num_elements() ** -0.5
        return weights.setdefault(name, random.uniform(low, high, shape).astype(np.float32))

    def build():
        before = len(graph.get_operations())
        with tf.variable_scope('', custom_getter=constant):
            logits = enet.ENet(image, 12, architecture=EACH_KIND)[0]
        return logits, collections.Counter(op.type for op in graph.get_operations()[before:])

    plain, types = build()
    assert not any('Call' in kind for kind in types)   # converters do not know such operations
    with enet.fused_kernels():
        ours, types = build()
    assert not types.keys() & {'Maximum', 'SelectV2', 'AddV2', 'Mul', 'SpaceToDepth', 'Greater'}
    assert types['DepthToSpace'] == 1   # the head's
    for batch in (1, 3):
        assert_close(*evaluate([ours, plain], {image: random.uniform(-1, 1, [batch, 32, 48, 3])}), 1e-5)


def test_every_operation_of_training_and_inference_runs_on_a_gpu(graph):
    images = tf.zeros([2, 32, 32, 3])
    logits = enet.ENet(images, 2, is_training=True, noise=enet.noise_of_step(tf.constant([1, 2])),
                       architecture=EACH_KIND)[0]
    assert any(gradient is not None for gradient in tf.gradients(logits, tf.trainable_variables()))
    with enet.fused_kernels():
        enet.ENet(images, 2, reuse=True, architecture=EACH_KIND)
    assert reference.not_on_gpu(graph, 16 * 16) == set()


# ---- Pooling ---------------------------------------------------------------------------------------------------------

Pooling = collections.namedtuple('Pooling', ['pooled', 'unpooled', 'gradient'])


@pytest.mark.parametrize('values', [
    lambda random, shape: random.integers(-1, 2, shape),  # nearly every window has a tie
    lambda random, shape: random.normal(size=shape)], ids=['ties', 'random'])
def test_pooling_and_unpooling_equal_argmax_and_scatter(graph, values):
    random = np.random.default_rng(5)
    x = tf.constant(values(random, [3, 6, 8, 5]), tf.float32)
    weights = tf.constant(random.normal(size=[3, 6, 8, 5]), tf.float32)

    def both(pooled, unpool):
        unpooled = unpool(3. * pooled + 1.)
        loss = tf.reduce_sum(weights * unpooled) + tf.reduce_sum(pooled * pooled)
        return Pooling(pooled, unpooled, tf.gradients(loss, x)[0])

    pooled, indices = enet.max_pool(x)
    argmaxed, argmax = reference.plain_max_pool(x)
    ours, plain = evaluate([both(pooled, lambda y: enet.unpool(y, indices)),
                            both(argmaxed, lambda y: reference.plain_unpool(y, argmax))])
    for name in Pooling._fields:
        np.testing.assert_allclose(getattr(ours, name), getattr(plain, name), rtol=1e-6, err_msg=name)
