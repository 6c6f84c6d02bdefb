"""ENet (Paszke, Chaurasia, Kim, Culurciello 2016, arXiv:1606.02147), as pure functions that build a TensorFlow graph.

Read `ENet()` from top to bottom beside table 1 of the paper: one line a block. Every variable carries the name that
the public checkpoints of 2018 use, so that weights from then load.

Where there is more than one exact way to compute a thing, the way with the fewest passes over memory is taken:
* a convolution and its batch norm are one: in training the biases cancel out, at inference the norm is folded in;
* two PReLUs in a row, with a spatial dropout between, are one PReLU (`compose_slopes`);
* what lies between convolutions can be compiled to one loop each (`loops`);
* where a custom getter puts NumPy arrays in the place of the variables (`utils.constant_weights`), what depends on them
  alone is computed once, while the graph is built, and a PReLU whose slopes are at most 1 is a maximum;
* pooling keeps which of its four pixels won, as 0..3, and unpooling compares with that instead of scattering.
"""
import collections
import contextlib
import contextvars
import functools
import zlib

import numpy as np
import tensorflow.compat.v1 as tf

EPSILON = 0.001  # of every batch norm, as in the public checkpoints
WEIGHT_DECAY = 2e-4  # on the weights of every convolution (section 4.2)


# ---- Loops ----------------------------------------------------------------------------------------------------------

_LOOPS = contextvars.ContextVar('loops', default=False)


@contextlib.contextmanager
def loops():
    """In its block, each function marked `one_loop` becomes one operation, a loop that XLA compiles when it first runs.

    For inference on this machine: outside of it a graph has plain operations alone, which can be exported, and whose
    gradients are computed sooner than by XLA.
    """
    token = _LOOPS.set(True)
    try:
        yield
    finally:
        _LOOPS.reset(token)


def one_loop(function):
    """Marks a function of tensors, without convolutions, that one pass over memory could compute, see `loops`."""
    compiled = tf.function(function, jit_compile=True, autograph=False)

    @functools.wraps(function)
    def call(*arguments):
        return (compiled if _LOOPS.get() else function)(*arguments)
    return call


# ---- Layers ---------------------------------------------------------------------------------------------------------

class Mode(collections.namedtuple('Mode', ['batch_statistics', 'decay', 'noise'])):
    """How the blocks treat a batch.

    batch_statistics: normalise by the batch's own mean and variance (True) or by the moving averages (False).
    decay: of the moving averages, a float or scalar tensor; None where they are not updated.
    noise: where dropout draws from, such as `noise_of_step(seed)`, or None for no dropout.
    """


def weights_variable(name, shape):
    """Convolution weights, float32 `shape`, with their L2 penalty in REGULARIZATION_LOSSES."""
    return tf.get_variable(name, shape, initializer=tf.glorot_uniform_initializer(),
                           regularizer=lambda w: WEIGHT_DECAY * tf.nn.l2_loss(w))


def bias_variable(depth):
    return tf.get_variable('biases', [depth], initializer=tf.zeros_initializer())


def conv(x, depth, kernel, scope):
    """SAME convolution with biases. x: float32 [b, h, w, c] -> float32 [b, h, w, depth]."""
    with tf.variable_scope(scope):
        weights = weights_variable('weights', [*kernel, x.shape[-1], depth])
        return tf.nn.bias_add(tf.nn.conv2d(x, weights, strides=1, padding='SAME'), bias_variable(depth))


def conv_norm(x, depth, kernel, mode, scope, norm_scope, stride=1, rate=1):
    """SAME convolution with biases, then batch norm. float32 [b, h, w, c] -> [b, h / stride, w / stride, depth]."""
    with tf.variable_scope(scope):
        weights = weights_variable('weights', [*kernel, x.shape[-1], depth])
        biases = bias_variable(depth)
    return batch_norm(lambda w: tf.nn.conv2d(x, w, strides=stride, padding='SAME', dilations=rate),
                      weights, biases, mode, norm_scope)


def conv_transpose(x, filters):
    """SAME transposed convolution, stride 2. x: float32 [b, h, w, c], filters: [k, k, d, c] -> [b, 2h, 2w, d]."""
    batch, height, width, _ = dynamic_shape(x)
    shape = [batch, 2 * height, 2 * width, filters.shape[2]]
    return tf.nn.conv2d_transpose(x, filters, shape, strides=2, padding='SAME')


def conv_transpose_norm(x, depth, kernel, mode, name, norm_scope):
    """Transposed convolution with stride 2, no biases, then batch norm. float32 [b, h, w, c] -> [b, 2h, 2w, depth]."""
    filters = weights_variable(name, [*kernel, depth, x.shape[-1]])
    return batch_norm(lambda w: conv_transpose(x, w), filters, 0., mode, norm_scope, depth_axis=2)


def batch_norm(convolve, weights, biases, mode, scope, depth_axis=3):
    """Batch norm, without a scale, of convolve(weights) + biases. -> float32 [b, h, w, depth].

    With the batch's own statistics the biases cancel out; they enter the moving averages only, whose updates go into
    UPDATE_OPS. With the moving averages it is a constant factor and offset a channel, which the weights and biases of
    the convolution take in; an image's output then does not depend on the others in its batch.
    """
    depth = weights.shape[depth_axis]
    with tf.variable_scope(scope):
        beta = tf.get_variable('beta', [depth], initializer=tf.zeros_initializer())
        moving_mean = tf.get_variable('moving_mean', [depth], initializer=tf.zeros_initializer(), trainable=False)
        moving_variance = tf.get_variable('moving_variance', [depth], initializer=tf.ones_initializer(),
                                          trainable=False)
    if not mode.batch_statistics:
        scale = (moving_variance + EPSILON) ** -0.5
        scale_of_weights = scale if depth_axis == 3 else scale[:, None]
        return tf.nn.bias_add(convolve(weights * scale_of_weights), beta + (biases - moving_mean) * scale)
    # Of the initial block's 13 channels oneDNN takes the gradient ten times as slowly as of 16: channels of zeros help.
    more = -int(depth) % 4
    if more:
        weights = tf.pad(weights, [[0, more if axis == depth_axis else 0] for axis in range(4)])
        beta = tf.pad(beta, [[0, more]])
    parts = tf.nn.fused_batch_norm(convolve(weights), tf.ones([depth + more]), beta, epsilon=EPSILON)
    y, mean, variance = [part[..., :depth] for part in parts] if more else parts
    for average, value in ((moving_mean, mean + biases), (moving_variance, variance)) if mode.decay is not None else ():
        tf.add_to_collection(tf.GraphKeys.UPDATE_OPS,
                             tf.assign_sub(average, (1. - mode.decay) * (average - value)))
    return y


def prelu(x, scope):
    """x where x > 0, slope * x elsewhere, with learned slopes. x: float32 [b, h, w, c] -> the same shape."""
    slope = slope_variable(scope, x.shape[-1])
    if not _LOOPS.get():
        return tf.identity(prelu_of_slope(x, slope), name=scope)
    # XLA's innermost loop goes over the last axis: a row of pixels is sooner done than many pixels of few channels.
    _, height, width, depth = dynamic_shape(x)
    rows = prelu_of_slope(tf.reshape(x, [-1, width * depth]), tf.tile(slope, [width]))
    return tf.reshape(rows, [-1, height, width, depth], name=scope)


@one_loop
def prelu_of_slope(x, slope):
    """The PReLU of x, float32 [..., c], with these slopes [c] -> the same shape."""
    if isinstance(slope, np.ndarray) and slope.max() <= 1.:
        # By way of rank 5: max(x, slope * x) is what tf2onnx takes for a leaky ReLU with one slope for all channels.
        return tf.maximum(x, tf.squeeze(slope * tf.expand_dims(x, 0), 0))
    if _LOOPS.get():
        return tf.where_v2(x > 0., x, slope * x)
    return prelu_with_gradient(x, slope)


@tf.custom_gradient
def prelu_with_gradient(x, slope):
    """PReLU and its gradient, written out: half the passes over memory that differentiating it would take."""
    def gradient(dy):
        above = tf.raw_ops.ReluGrad(gradients=dy, features=x)
        below = dy - above
        return above + slope * below, tf.reduce_sum(below * x, axis=[0, 1, 2])
    return x + (slope - 1.) * tf.minimum(x, 0.), gradient


def slope_variable(scope, depth):
    """The learned slope of a PReLU, float32 [depth]."""
    return tf.get_variable(scope + 'alpha', [depth], initializer=tf.constant_initializer(0.25))


def relu(x, scope):
    """ReLU in the place, and with the name, of a PReLU."""
    return tf.nn.relu(x, name=scope)


def compose_slopes(first, second):
    """The slope of the PReLU that equals `second` after `first`. Both float32 [c] -> float32 [c].

    A first slope >= 0 keeps the sign of x, so the slopes multiply; a negative one turns negative x positive, where the
    second PReLU does nothing. A positive factor between the two (dropout's) passes through both.
    """
    where = np.where if isinstance(first, np.ndarray) else tf.where
    return where(first >= 0., first * second, first)


def kept_channels(x, rate, noise, scope):
    """What spatial dropout (Tompson et al. 2015) multiplies x, float32 [b, h, w, c], with, or None without noise.

    -> float32 [b, 1, 1, c]: 0 drops a channel of an image, the others are 1 / (1 - rate).
    noise(shape, scope) gives uniform float32 in [0, 1), see `noise_of_step`.
    """
    if noise is None:
        return None
    kept = noise([tf.shape(x)[0], 1, 1, x.shape[-1]], scope) >= rate
    return tf.cast(kept, tf.float32) / (1. - rate)


@one_loop
def add_prelu(x, y, kept, slope, last_slope):
    """How an encoder's block ends: PReLU, dropout, sum, PReLU. -> float32 [b, h, w, c].

    x: float32 [b, h, w, at most c], what the block began with, padded by channels of zeros. y: float32 [b, h, w, c].
    kept: see `kept_channels`. slope, last_slope: float32 [c].
    """
    y = prelu_of_slope(y, slope)
    if x.shape[-1] < y.shape[-1]:
        x = tf.pad(x, [[0, 0], [0, 0], [0, 0], [0, y.shape[-1] - x.shape[-1]]])
    return prelu_of_slope(x + (y if kept is None else y * kept), last_slope)


@one_loop
def add_relu(x, y, kept):
    """How a decoder's block ends: ReLU, dropout, sum, ReLU. x, y: float32 [b, h, w, c] -> the same shape."""
    y = tf.nn.relu(y)
    return tf.nn.relu(x + (y if kept is None else y * kept))


@one_loop
def unpool_add_relu(x, indices, y, kept):
    """`add_relu` of what `unpool` makes of x and indices."""
    return add_relu(unpool(x, indices), y, kept)


def noise_of_step(seed):
    """The source of dropout's noise for one step. seed: int32 [2], such as (run's seed, step) -> noise(shape, scope).

    Seed and scope decide what is dropped and nothing else does, so a step that is run again drops the same.
    """
    def noise(shape, scope):
        return tf.random.stateless_uniform(shape, seed + [zlib.crc32(scope.encode()) & 0x7fffffff, 0])
    return noise


def noise_of_2018(shape, scope):
    """What dropout drew in the first run of a session of 2018: the operation's seed was 0, whatever the scope.

    The graph of then dropped channels at inference too, by mistake; this repeats it. TensorFlow's stateful generator
    with (graph seed 87654321, operation seed 0) is Philox with that key and a counter of 0.
    """
    del scope
    return tf.raw_ops.StatelessRandomUniformV2(shape=shape, key=tf.constant([87654321], tf.uint64),
                                               counter=tf.constant([0, 0], tf.uint64), alg=1, dtype=tf.float32)


@one_loop
def max_pool(x):
    """2x2 max-pooling. x: float32 [b, h, w, c], even h and w -> (float32 [b, h/2, w/2, c], indices).

    indices: uint8 [b, h/2, w/2, c], which of a window's pixels is the first largest: 0 1 above, 2 3 below.
    """
    a, b, c, d = tf.split(tf.nn.space_to_depth(x, 2), 4, axis=-1)
    pooled = tf.maximum(tf.maximum(a, b), tf.maximum(c, d))
    not_a, not_b, not_c = (tf.cast(other < pooled, tf.uint8) for other in (a, b, c))
    return pooled, not_a * (1 + not_b * (1 + not_c))


@one_loop
def unpool(x, indices):
    """Puts each value where `max_pool` found its largest, zeros elsewhere. float32 [b, h, w, c] -> [b, 2h, 2w, c]."""
    batch, height, width, depth = dynamic_shape(x)
    corners = tf.constant([[0], [1], [2], [3]], tf.uint8)
    quads = tf.where_v2(tf.equal(indices[:, :, :, None], corners), x[:, :, :, None], 0.)
    return tf.nn.depth_to_space(tf.reshape(quads, [batch, height, width, 4 * depth]), 2)


def dynamic_shape(x):
    """The shape of x as a list: numbers where the graph knows them, scalar tensors elsewhere."""
    return [known if known is not None else tf.shape(x)[axis] for axis, known in enumerate(x.shape.as_list())]


# ---- Blocks ---------------------------------------------------------------------------------------------------------

def initial_block(x, mode, scope='initial_block_1'):
    """Figure 2a: 13 channels of 3x3 convolution beside 3 of max-pooling. float32 [b, h, w, 3] -> [b, h/2, w/2, 16]."""
    net = conv_norm(x, 13, [3, 3], mode, scope + '_conv', scope + '_batchnorm', stride=2)
    return prelu_beside(net, slope_variable(scope + '_prelu', 13), tf.nn.max_pool2d(x, 2, 2, 'SAME'))


@one_loop
def prelu_beside(x, slope, y):
    """The channels of y, float32 [b, h, w, d], after those of the PReLU of x, float32 [b, h, w, c]."""
    return tf.concat([prelu_of_slope(x, slope), y], axis=-1)


def bottleneck(x, depth, mode, scope, dropout=0.1, rate=1, asymmetric=False, decoder=False):
    """Figure 2b, same size: 1x1, then 3x3 (dilated by `rate`, or 5x1 and 1x5), then 1x1, added to x.

    x: float32 [b, h, w, depth] -> the same shape. The decoder's blocks have ReLU in place of PReLU.
    """
    reduced = depth // 4
    activation = relu if decoder else prelu
    net = conv_norm(x, reduced, [1, 1], mode, scope + '_conv1', scope + '_batch_norm1')
    net = activation(net, scope + '_prelu1')
    if asymmetric:
        net = conv(net, reduced, [5, 1], scope + '_asymmetric_conv2a')
        net = conv_norm(net, reduced, [1, 5], mode, scope + '_asymmetric_conv2b', scope + '_batch_norm2')
    else:
        name = scope + ('_dilated_conv2' if rate > 1 else '_conv2')
        net = conv_norm(net, reduced, [3, 3], mode, name, scope + '_batch_norm2', rate=rate)
    net = activation(net, scope + '_prelu2')
    net = conv_norm(net, depth, [1, 1], mode, scope + '_conv3', scope + '_batch_norm3')
    kept = kept_channels(net, dropout, mode.noise, scope)
    if decoder:
        return tf.identity(add_relu(x, net, kept), name=scope + '_last_prelu')
    slope = compose_slopes(slope_variable(scope + '_prelu3', depth), slope_variable(scope + '_prelu4', depth))
    last_slope = slope_variable(scope + '_last_prelu', depth)
    return tf.identity(add_prelu(x, net, kept, slope, last_slope), name=scope + '_last_prelu')


def downsampling_bottleneck(x, depth, mode, scope, dropout):
    """Figure 2b, half the size: 2x2 with stride 2, 3x3, 1x1, added to max-pooled x with zeros for the new channels.

    x: float32 [b, h, w, c] -> (float32 [b, h/2, w/2, depth], the indices of `max_pool`).
    """
    reduced = x.shape[-1] // 4
    pooled, indices = max_pool(x)
    net = conv_norm(x, reduced, [2, 2], mode, scope + '_conv1', scope + '_batch_norm1', stride=2)
    net = prelu(net, scope + '_prelu1')
    net = conv_norm(net, reduced, [3, 3], mode, scope + '_conv2', scope + '_batch_norm2')
    net = prelu(net, scope + '_prelu2')
    net = conv_norm(net, depth, [1, 1], mode, scope + '_conv3', scope + '_batch_norm3')
    kept = kept_channels(net, dropout, mode.noise, scope)
    slope = slope_variable(scope + '_prelu3', depth)
    last_slope = slope_variable(scope + '_last_prelu', depth)
    return tf.identity(add_prelu(pooled, net, kept, slope, last_slope), name=scope + '_last_prelu'), indices


def upsampling_bottleneck(x, depth, indices, mode, scope, dropout=0.1):
    """Figure 2b, twice the size: 1x1, transposed 3x3 with stride 2, 1x1, added to 1x1 and unpooling of x.

    x: float32 [b, h, w, c], indices: as `max_pool` gave them -> float32 [b, 2h, 2w, depth].
    """
    reduced = x.shape[-1] // 4
    main = conv_norm(x, depth, [1, 1], mode, scope + '_main_conv1', scope + 'batch_norm1')
    net = relu(conv_norm(x, reduced, [1, 1], mode, scope + '_conv1', scope + '_batch_norm2'), scope + '_prelu1')
    net = conv_transpose_norm(net, reduced, [3, 3], mode, scope + '_transposed_conv2_filters', scope + '_batch_norm3')
    net = conv_norm(relu(net, scope + '_prelu2'), depth, [1, 1], mode, scope + '_conv3', scope + '_batch_norm4')
    kept = kept_channels(net, dropout, mode.noise, scope)
    return tf.identity(unpool_add_relu(main, indices, net, kept), name=scope + '_last_prelu')


# ---- Network --------------------------------------------------------------------------------------------------------

def ENet(inputs, num_classes, batch_size, num_initial_blocks=1, stage_two_repeat=2, skip_connections=True, reuse=None,
         is_training=True, scope='ENet', batch_statistics=None, decay=0.9, noise=None):
    """Table 1 of the paper.

    inputs: float32 [b, h, w, 3], h and w multiples of 8. -> (logits, probabilities), both float32
    [b, h, w, num_classes]. What the embedding head reads is the tensor `ENet/bottleneck5_1_last_prelu:0`,
    float32 [b, h/2, w/2, 16].

    num_initial_blocks: each further one halves all sizes once more.
    stage_two_repeat: how often stage 2 is gone through, at most twice, since the decoder's names go on from there.
    batch_size: is taken from `inputs` and not from here; the argument remains for those who call it by position.
    skip_connections: adds the encoder's features of a size to the decoder's (off in every public checkpoint).
    batch_statistics: whether batch norms use the batch's own statistics; by default when training.
    decay: of batch norm's moving averages; the paper's Torch code calls 1 - 0.9 its momentum.
    noise: what dropout draws from, see `Mode`; by default other noise each run when training, no dropout otherwise.
    """
    if stage_two_repeat > 2:
        raise ValueError(f'stage_two_repeat is {stage_two_repeat}: '
                         f'a third stage would have the names of the decoder\'s blocks')
    if is_training and noise is None:
        noise = noise_of_step(tf.random_uniform([2], maxval=2 ** 31 - 1, dtype=tf.int32))
    mode = Mode(is_training if batch_statistics is None else batch_statistics, decay if is_training else None, noise)
    with tf.variable_scope(scope, reuse=reuse):
        net = initial_block(inputs, mode, 'initial_block_1')
        for i in range(2, max(num_initial_blocks, 1) + 1):
            net = initial_block(net, mode, 'initial_block_%d' % i)
        half = net

        net, indices_half = downsampling_bottleneck(net, 64, mode, 'bottleneck1_0', dropout=0.01)
        for i in range(1, 5):
            net = bottleneck(net, 64, mode, 'bottleneck1_%d' % i, dropout=0.01)
        quarter = net

        net, indices_quarter = downsampling_bottleneck(net, 128, mode, 'bottleneck2_0', dropout=0.1)
        for stage in range(2, stage_two_repeat + 2):
            name = 'bottleneck%d_' % stage
            net = bottleneck(net, 128, mode, name + '1')
            net = bottleneck(net, 128, mode, name + '2', rate=2)
            net = bottleneck(net, 128, mode, name + '3', asymmetric=True)
            net = bottleneck(net, 128, mode, name + '4', rate=4)
            net = bottleneck(net, 128, mode, name + '5')
            net = bottleneck(net, 128, mode, name + '6', rate=8)
            net = bottleneck(net, 128, mode, name + '7', asymmetric=True)
            net = bottleneck(net, 128, mode, name + '8', rate=16)

        net = upsampling_bottleneck(net, 64, indices_quarter, mode, 'bottleneck4_0')
        if skip_connections:
            net = net + quarter
        net = bottleneck(net, 64, mode, 'bottleneck4_1', decoder=True)
        net = bottleneck(net, 64, mode, 'bottleneck4_2', decoder=True)

        net = upsampling_bottleneck(net, 16, indices_half, mode, 'bottleneck5_0')
        if skip_connections:
            net = net + half
        net = bottleneck(net, 16, mode, 'bottleneck5_1', decoder=True)

        with tf.variable_scope('fullconv'):
            logits = head(net, num_classes)
        return logits, tf.nn.softmax(logits, name='logits_to_softmax')


def head(x, depth):
    """Transposed 2x2 convolution with stride 2 and bias. x: float32 [b, h, w, c] -> float32 [b, 2h, 2w, depth].

    What it makes of two pixels does not overlap, so it is a 1x1 convolution to four times the channels, in four places.
    """
    filters = tf.transpose(weights_variable('weights', [2, 2, depth, x.shape[-1]]), [3, 0, 1, 2])
    quads = tf.nn.conv2d(x, tf.reshape(filters, [1, 1, x.shape[-1], 4 * depth]), strides=1, padding='SAME')
    return tf.nn.depth_to_space(tf.nn.bias_add(quads, tf.tile(bias_variable(depth), [4])), 2)
