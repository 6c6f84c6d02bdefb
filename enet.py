"""ENet (Paszke, Chaurasia, Kim, Culurciello 2016, arXiv:1606.02147), as pure functions that build a TensorFlow graph.

`ENet()` reads from top to bottom as table 1 of the paper, stage by stage. Variables have the names of the public
checkpoints of 2018, so that their weights load. Optimisations that do not change the result are in the last section.
"""
import contextlib
import contextvars
import functools
import typing
import zlib

import numpy as np
import tensorflow.compat.v1 as tf

EPSILON = 0.001  # of every batch norm, as in the code that trained the public checkpoints
WEIGHT_DECAY = 2e-4  # on the weights of every convolution (section 4.2)


class Architecture(typing.NamedTuple):
    """The numbers of table 1. The decoder's stages, 4 and 5, have as many channels as the encoder at the same size."""
    initial_depth: int = 13       # of the initial block's convolution; the channels of its input are added to them
    stage1_depth: int = 64
    stage1_dropout: float = 0.01
    stage1_repeat: int = 4        # bottlenecks after the downsampling one
    stage2_depth: int = 128
    # The bottlenecks of stage 2, and of 3: the dilation of the 3x3 convolution, or 'asymmetric' for 5x1 and 1x5.
    stage2_kinds: tuple = (1, 2, 'asymmetric', 4, 1, 8, 'asymmetric', 16)
    stage4_repeat: int = 2        # bottlenecks after the upsampling one
    stage5_repeat: int = 1
    dropout: float = 0.1          # from stage 2 on


PAPER = Architecture()


# ---- Network ---------------------------------------------------------------------------------------------------------

def ENet(inputs, num_classes, reuse=None, is_training=False, batch_statistics=None, decay=0.9, noise=None,
         return_features=False, architecture=PAPER):
    """Table 1 of the paper.

    inputs: float32 [b, h, w, 3], h and w multiples of 8.
    batch_statistics: whether batch norms use the batch's own statistics; by default when training.
    decay: of batch norm's moving averages; the paper's Torch code calls 1 - 0.9 its momentum.
    noise: what dropout draws from, see `Mode`; by default fresh noise in each training step, no dropout otherwise.
    return_features: whether to return what other heads read, too.
    -> (logits, probabilities), both float32 [b, h, w, num_classes]; with `return_features` (logits, probabilities,
    features), the last float32 [b, h/2, w/2, 16].
    """
    if is_training and noise is None:
        noise = noise_of_step(tf.random_uniform([2], maxval=2 ** 31 - 1, dtype=tf.int32))
    mode = Mode(is_training if batch_statistics is None else batch_statistics, decay if is_training else None, noise)
    with tf.variable_scope('ENet', reuse=reuse):
        net = half = initial_block(inputs, architecture.initial_depth, mode, 'initial_block_1')

        depth, dropout = architecture.stage1_depth, architecture.stage1_dropout
        net, indices_half = downsampling_bottleneck(net, depth, mode, 'bottleneck1_0', dropout)
        for i in range(1, architecture.stage1_repeat + 1):
            net = bottleneck(net, depth, mode, f'bottleneck1_{i}', dropout)

        depth, dropout = architecture.stage2_depth, architecture.dropout
        net, indices_quarter = downsampling_bottleneck(net, depth, mode, 'bottleneck2_0', dropout)
        for stage in 2, 3:
            for i, kind in enumerate(architecture.stage2_kinds, 1):
                net = bottleneck(net, depth, mode, f'bottleneck{stage}_{i}', dropout, kind)

        depth = architecture.stage1_depth
        net = upsampling_bottleneck(net, depth, indices_quarter, mode, 'bottleneck4_0', dropout)
        for i in range(1, architecture.stage4_repeat + 1):
            net = bottleneck(net, depth, mode, f'bottleneck4_{i}', dropout, decoder=True)

        depth = half.shape[-1]
        net = upsampling_bottleneck(net, depth, indices_half, mode, 'bottleneck5_0', dropout)
        for i in range(1, architecture.stage5_repeat + 1):
            net = bottleneck(net, depth, mode, f'bottleneck5_{i}', dropout, decoder=True)

        with tf.variable_scope('fullconv'):
            logits = head(net, num_classes)
        probabilities = tf.nn.softmax(logits, name='logits_to_softmax')
        return (logits, probabilities, net) if return_features else (logits, probabilities)


# ---- Blocks ----------------------------------------------------------------------------------------------------------

def initial_block(x, depth, mode, scope):
    """Figure 2a: 3x3 convolution with stride 2, and max-pooling. float32 [b, h, w, c] -> [b, h/2, w/2, depth + c]."""
    net = conv_norm(x, depth, [3, 3], mode, scope + '_conv', scope + '_batchnorm', stride=2)
    return _concat_prelu(net, slope_variable(scope + '_prelu', depth), tf.nn.max_pool2d(x, 2, 2, 'SAME'))


def bottleneck(x, depth, mode, scope, dropout, kind=1, decoder=False):
    """Figure 2b, same size: x + 1x1, 3x3 and 1x1 convolutions of x. float32 [b, h, w, depth] -> the same shape.

    kind: the dilation of the 3x3 convolution, or 'asymmetric' for 5x1 and 1x5 in its place.
    decoder: whether it has ReLU in place of PReLU, as all blocks of the decoder have.
    """
    reduced = depth // 4
    activation, end = (tf.nn.relu, sum_relu) if decoder else (prelu, sum_prelu)
    net = conv_norm(x, reduced, [1, 1], mode, scope + '_conv1', scope + '_batch_norm1')
    net = activation(net, scope + '_prelu1')
    if kind == 'asymmetric':
        net = conv(net, reduced, [5, 1], scope + '_asymmetric_conv2a')
        net = conv_norm(net, reduced, [1, 5], mode, scope + '_asymmetric_conv2b', scope + '_batch_norm2')
    else:
        name = scope + ('_dilated_conv2' if kind > 1 else '_conv2')
        net = conv_norm(net, reduced, [3, 3], mode, name, scope + '_batch_norm2', rate=kind)
    net = activation(net, scope + '_prelu2')
    net = conv_norm(net, depth, [1, 1], mode, scope + '_conv3', scope + '_batch_norm3')
    return end(x, net, dropout, mode, scope)


def downsampling_bottleneck(x, depth, mode, scope, dropout):
    """Figure 2b, half the size: max-pooled x + 2x2 (with stride 2), 3x3 and 1x1 convolutions of x.

    x: float32 [b, h, w, c] -> (float32 [b, h/2, w/2, depth], the indices of `max_pool`).
    """
    reduced = x.shape[-1] // 4
    pooled, indices = max_pool(x)
    net = conv_norm(x, reduced, [2, 2], mode, scope + '_conv1', scope + '_batch_norm1', stride=2)
    net = prelu(net, scope + '_prelu1')
    net = conv_norm(net, reduced, [3, 3], mode, scope + '_conv2', scope + '_batch_norm2')
    net = prelu(net, scope + '_prelu2')
    net = conv_norm(net, depth, [1, 1], mode, scope + '_conv3', scope + '_batch_norm3')
    return sum_prelu(pooled, net, dropout, mode, scope, prelu4=False), indices


def upsampling_bottleneck(x, depth, indices, mode, scope, dropout):
    """Figure 2b, twice the size: unpooled 1x1 convolution of x + 1x1, transposed 3x3 (stride 2) and 1x1 of x.

    x: float32 [b, h, w, c]. indices: those that `max_pool` returned, [b, h, w, depth] -> float32 [b, 2h, 2w, depth].
    """
    reduced = x.shape[-1] // 4
    main = conv_norm(x, depth, [1, 1], mode, scope + '_main_conv1', scope + 'batch_norm1')   # names of 2018
    net = conv_norm(x, reduced, [1, 1], mode, scope + '_conv1', scope + '_batch_norm2')
    net = tf.nn.relu(net, scope + '_prelu1')
    net = conv_transpose_norm(net, reduced, [3, 3], mode, scope + '_transposed_conv2_filters', scope + '_batch_norm3')
    net = tf.nn.relu(net, scope + '_prelu2')
    net = conv_norm(net, depth, [1, 1], mode, scope + '_conv3', scope + '_batch_norm4')
    return sum_relu(main, net, dropout, mode, scope, unpool_indices=indices)


# ---- Layers ----------------------------------------------------------------------------------------------------------

class Mode(typing.NamedTuple):
    """How the blocks treat a batch."""
    batch_statistics: bool  # normalise by the batch's own mean and variance, not by the moving averages
    decay: float            # of the moving averages, a float or scalar tensor; None where they are not updated
    noise: typing.Callable  # where dropout draws from, such as `noise_of_step(seed)`; None for no dropout


def weights_variable(name, shape):
    """Convolution weights, with their L2 penalty in REGULARIZATION_LOSSES. -> float32 variable of that shape."""
    return tf.get_variable(name, shape, initializer=tf.glorot_uniform_initializer(),
                           regularizer=lambda w: WEIGHT_DECAY * tf.nn.l2_loss(w))


def bias_variable(depth):
    """The biases of a convolution. -> float32 variable [depth]."""
    return tf.get_variable('biases', [depth], initializer=tf.zeros_initializer())


def slope_variable(scope, depth):
    """The learned slopes of a PReLU. -> float32 variable [depth]."""
    return tf.get_variable(scope + 'alpha', [depth], initializer=tf.constant_initializer(0.25))


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
    return batch_norm(lambda w: dilated_conv(x, w, stride, rate, mode), weights, biases, mode, norm_scope)


def conv_transpose_norm(x, depth, kernel, mode, name, norm_scope):
    """Transposed convolution with stride 2, no biases, then batch norm. float32 [b, h, w, c] -> [b, 2h, 2w, depth]."""
    filters = weights_variable(name, [*kernel, depth, x.shape[-1]])
    batch, height, width, _ = dynamic_shape(x)
    shape = [batch, 2 * height, 2 * width, depth]
    return batch_norm(lambda w: tf.nn.conv2d_transpose(x, w, shape, strides=2, padding='SAME'), filters, 0., mode,
                      norm_scope, depth_axis=2)


def head(x, depth):
    """Transposed 2x2 convolution with stride 2 and biases. x: float32 [b, h, w, c] -> float32 [b, 2h, 2w, depth].

    Kernel and stride are equal, so outputs do not overlap: a 1x1 convolution to 4 depth channels, then depth_to_space.
    """
    filters, biases = weights_variable('weights', [2, 2, depth, x.shape[-1]]), bias_variable(depth)
    filters = tf.reshape(tf.transpose(filters, [3, 0, 1, 2]), [1, 1, x.shape[-1], 4 * depth])
    quads = tf.nn.conv2d(x, filters, strides=1, padding='SAME')
    return tf.nn.depth_to_space(tf.nn.bias_add(quads, tf.tile(biases, [4])), 2)


def batch_norm(convolve, weights, biases, mode, scope, depth_axis=3):
    """Batch norm, without a scale, of convolve(weights) + biases. -> float32 [b, h, w, depth].

    With the batch's own statistics the biases cancel out; they enter the moving averages only, whose updates go into
    UPDATE_OPS. With the moving averages, an image's output does not depend on the others in its batch.
    depth_axis: of the weights.
    """
    depth = weights.shape[depth_axis]
    with tf.variable_scope(scope):
        beta = tf.get_variable('beta', [depth], initializer=tf.zeros_initializer())
        moving_mean = tf.get_variable('moving_mean', [depth], initializer=tf.zeros_initializer(), trainable=False)
        moving_variance = tf.get_variable('moving_variance', [depth], initializer=tf.ones_initializer(),
                                          trainable=False)
    if not mode.batch_statistics:
        scale = (moving_variance + EPSILON) ** -0.5
        scaled = weights * (scale if depth_axis == 3 else scale[:, None])   # folded into the convolution
        return tf.nn.bias_add(convolve(scaled), beta + (biases - moving_mean) * scale)
    y, mean, variance = normalised_convolution(convolve, weights, beta, depth_axis)
    for average, value in ((moving_mean, mean + biases), (moving_variance, variance)) if mode.decay is not None else ():
        tf.add_to_collection(tf.GraphKeys.UPDATE_OPS, tf.assign_sub(average, (1. - mode.decay) * (average - value)))
    return y


def prelu(x, scope):
    """x where x > 0, slope * x elsewhere, with learned slopes. x: float32 [b, h, w, c] -> the same shape."""
    return tf.identity(prelu_of_slope(x, slope_variable(scope, x.shape[-1])), name=scope)


def kept_channels(x, rate, noise, scope):
    """What spatial dropout (Tompson et al. 2015) multiplies x, float32 [b, h, w, c], with; None where noise is None.

    noise(shape, scope): draws uniform float32 in [0, 1), see `noise_of_step`.
    -> float32 [b, 1, 1, c]: 0 drops a channel of an image, the others are 1 / (1 - rate).
    """
    if noise is None:
        return None
    kept = noise([tf.shape(x)[0], 1, 1, x.shape[-1]], scope) >= rate
    return tf.cast(kept, tf.float32) / (1. - rate)


def noise_of_step(seed):
    """Dropout's noise for one step, determined by seed and scope. seed: int32 [2], such as (run's seed, step).

    -> noise(shape, scope), float32 of that shape, uniform in [0, 1).
    """
    def noise(shape, scope):
        return tf.random.stateless_uniform(shape, seed + [zlib.crc32(scope.encode()) & 0x7fffffff, 0])
    return noise


def noise_of_2018(shape, scope):
    """The noise of the graph of 2018, which by mistake dropped channels at inference too. -> float32 in [0, 1).

    The first draw of TensorFlow's stateful generator with its default seed and operation seed 0, for any scope.
    """
    return tf.raw_ops.StatelessRandomUniformV2(shape=shape, key=tf.constant([87654321], tf.uint64),
                                               counter=tf.constant([0, 0], tf.uint64), alg=1, dtype=tf.float32)


def dynamic_shape(x):
    """The shape of x. -> list of ints where the graph knows them, of int32 scalar tensors elsewhere."""
    return [known if known is not None else tf.shape(x)[axis] for axis, known in enumerate(x.shape.as_list())]


# ---- Fast paths ------------------------------------------------------------------------------------------------------

# Each function equals the formula in its docstring with fewer passes over memory. Where a custom getter replaces
# variables by NumPy arrays (`utils.constant_weights`), what depends only on weights is computed once, at build time.

_FUSED = contextvars.ContextVar('fused', default=False)


@contextlib.contextmanager
def fused_kernels():
    """While active, each function marked `fused` becomes one operation, a loop that XLA compiles when it first runs.

    For inference on this machine: outside of it a graph has only plain operations, which can be exported, and whose
    gradients are computed faster than by XLA.
    """
    token = _FUSED.set(True)
    try:
        yield
    finally:
        _FUSED.reset(token)


def fused(function):
    """Marks a function of tensors, without convolutions, that one pass over memory can compute, see `fused_kernels`."""
    compiled = tf.function(function, jit_compile=True, autograph=False)

    @functools.wraps(function)
    def call(*arguments):
        return (compiled if _FUSED.get() else function)(*arguments)
    return call


def normalised_convolution(convolve, weights, beta, depth_axis):
    """convolve(weights), normalised by its own mean and variance, + beta. -> (float32 [b, h, w, depth], mean, variance)

    Padded with zero channels to a multiple of 4: for the initial block's 13, oneDNN's gradient is ten times slower.
    """
    depth = int(weights.shape[depth_axis])
    more = -depth % 4
    if more:
        weights = tf.pad(weights, [[0, more if axis == depth_axis else 0] for axis in range(4)])
        beta = tf.pad(beta, [[0, more]])
    parts = tf.nn.fused_batch_norm(convolve(weights), tf.ones([depth + more]), beta, epsilon=EPSILON)
    return [part[..., :depth] for part in parts] if more else parts


def dilated_conv(x, weights, stride, rate, mode):
    """SAME convolution of x, float32 [b, h, w, c]; stride or rate is 1. -> float32 [b, h / stride, w / stride, depth].

    Where TensorFlow has no gradient of a dilated one, training convolves every rate-th pixel, `rate` x `rate` times.
    """
    if rate > 1 and mode.decay is not None and not has_dilated_gradient():
        return tf.nn.convolution(x, weights, padding='SAME', dilations=rate)
    return tf.nn.conv2d(x, weights, strides=stride, padding='SAME', dilations=rate)


@functools.cache
def has_dilated_gradient():
    """Whether this machine can train dilated convolutions: with oneDNN, which not every TensorFlow has, or a GPU."""
    with tf.Graph().as_default(), tf.Session() as sess:
        x, weights = tf.ones([1, 8, 8, 1]), tf.ones([3, 3, 1, 1])
        try:
            sess.run(tf.gradients(tf.nn.conv2d(x, weights, strides=1, padding='SAME', dilations=2), [x, weights]))
        except tf.errors.OpError:
            return False
    return True


@fused
def _concat_prelu(x, slope, other):
    return tf.concat([_prelu(x, slope), other], axis=-1)


def sum_prelu(x, net, rate, mode, scope, prelu4=True):
    """The end of the encoder's blocks: prelu(x + prelu4(dropout(prelu3(net)))). -> float32 [b, h, w, c].

    x: float32 [b, h, w, at most c]; missing channels are zeros. net: float32 [b, h, w, c]. rate: of dropout.
    """
    depth = net.shape[-1]
    kept = kept_channels(net, rate, mode.noise, scope)
    slope = slope_variable(scope + '_prelu3', depth)
    if prelu4:
        slope = compose_slopes(slope, slope_variable(scope + '_prelu4', depth))
    last_slope = slope_variable(scope + '_last_prelu', depth)
    return tf.identity(_sum_prelu(x, net, kept, slope, last_slope), name=scope + '_last_prelu')


@fused
def _sum_prelu(x, net, kept, slope, last_slope):
    net = _prelu(net, slope)
    if x.shape[-1] < net.shape[-1]:
        x = tf.pad(x, [[0, 0], [0, 0], [0, 0], [0, net.shape[-1] - x.shape[-1]]])
    return _prelu(x + (net if kept is None else net * kept), last_slope)


def sum_relu(x, net, rate, mode, scope, unpool_indices=None):
    """The end of the decoder's blocks: relu(x + dropout(relu(net))). x, net: float32 [b, h, w, c] -> the same shape.

    rate: of dropout. unpool_indices: if given, x is [b, h/2, w/2, c] and unpooled first, see `unpool`.
    """
    kept = kept_channels(net, rate, mode.noise, scope)
    return tf.identity(_sum_relu(x, unpool_indices, net, kept), name=scope + '_last_prelu')


@fused
def _sum_relu(x, indices, net, kept):
    x, net = x if indices is None else unpool(x, indices), tf.nn.relu(net)
    return tf.nn.relu(x + (net if kept is None else net * kept))


def compose_slopes(first, second):
    """The slope of the PReLU that equals `second` after `first`. Both float32 [c] -> float32 [c].

    A first slope >= 0 keeps the sign of x, so the slopes multiply; a negative one turns negative x positive, where the
    second PReLU does nothing. A positive factor between the two (dropout's) passes through both.
    """
    where = np.where if isinstance(first, np.ndarray) else tf.where
    return where(first >= 0., first * second, first)


def prelu_of_slope(x, slope):
    """The PReLU of x, float32 [b, h, w, c], with these slopes, [c] -> the same shape."""
    if not _FUSED.get():
        return _prelu(x, slope)
    # XLA's innermost loop goes over the last axis: a row of pixels is faster than many pixels of few channels.
    _, height, width, depth = dynamic_shape(x)
    rows = _prelu(tf.reshape(x, [-1, width * depth]), tf.tile(slope, [width]))
    return tf.reshape(rows, [-1, height, width, depth])


@fused
def _prelu(x, slope):
    if isinstance(slope, np.ndarray) and slope.max() <= 1.:
        # By way of rank 5: max(x, slope * x) is what tf2onnx takes for a leaky ReLU with one slope for all channels.
        return tf.maximum(x, tf.squeeze(slope * tf.expand_dims(x, 0), 0))
    if _FUSED.get():
        return tf.where_v2(x > 0., x, slope * x)
    return _prelu_with_gradient(x, slope)


@tf.custom_gradient
def _prelu_with_gradient(x, slope):
    """PReLU and its gradient, written out: half the passes over memory that differentiating it would take."""
    def gradient(dy):
        above = tf.raw_ops.ReluGrad(gradients=dy, features=x)
        below = dy - above
        return above + slope * below, tf.reduce_sum(below * x, axis=[0, 1, 2])
    return x + (slope - 1.) * tf.minimum(x, 0.), gradient


@fused
def max_pool(x):
    """2x2 max-pooling. x: float32 [b, h, w, c], even h and w -> (float32 [b, h/2, w/2, c], indices).

    indices: [b, h/2, w/2, c], which of a window's pixels is the first largest: 0 1 above, 2 3 below. They are bytes
    between fused kernels, for a quarter of the memory, and float32 elsewhere, since TFLite cannot add bytes.
    """
    a, b, c, d = tf.split(tf.nn.space_to_depth(x, 2), 4, axis=-1)
    pooled = tf.maximum(tf.maximum(a, b), tf.maximum(c, d))
    not_a, not_b, not_c = (tf.cast(other < pooled, tf.uint8 if _FUSED.get() else tf.float32) for other in (a, b, c))
    return pooled, not_a * (1 + not_b * (1 + not_c))


@fused
def unpool(x, indices):
    """Puts each value where `max_pool` found its largest, zeros elsewhere. float32 [b, h, w, c] -> [b, 2h, 2w, c].

    Compares with the indices, which is faster than scattering.
    """
    batch, height, width, depth = dynamic_shape(x)
    corners = tf.constant([[0], [1], [2], [3]], indices.dtype)
    quads = tf.where_v2(tf.equal(indices[:, :, :, None], corners), x[:, :, :, None], 0.)
    return tf.nn.depth_to_space(tf.reshape(quads, [batch, height, width, 4 * depth]), 2)
