"""Plain implementations to compare ours with, each as short and readable as possible."""
import functools
import os
import types
import warnings

import numpy as np
from sklearn.cluster import MeanShift

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def plain_cluster(prediction, bandwidth):
    """clustering.cluster by scikit-learn: (num_clusters, labels, cluster_centers)."""
    with warnings.catch_warnings():  # one bin per point: the points themselves are its seeds
        warnings.simplefilter('ignore', UserWarning)
        mean_shift = MeanShift(bandwidth=bandwidth, bin_seeding=True, cluster_all=True).fit(prediction)
    return len(mean_shift.cluster_centers_), mean_shift.labels_, mean_shift.cluster_centers_


def equal_labels(ours, plain):
    """The share of the points that two results of cluster put into the same cluster; 0 if the clusters differ."""
    # Both number clusters by decreasing size: ties aside, the numbers agree.
    match = np.linalg.norm(ours[2][:, None].astype(float) - plain[2], axis=2).argmin(1)
    return np.mean(match[ours[1]] == plain[1]) if sorted(match) == list(range(plain[0])) else 0.


# ---- Kernels ---------------------------------------------------------------------------------------------------------

def not_on_gpu(graph, pixels):
    """The types of operations, in a graph and its functions, that do not run on a GPU. -> set of str.

    They have no GPU kernel, or one that reads an input of at least `pixels` values from the CPU's memory.
    """
    operations = list(graph.get_operations())
    for function in graph._functions.values():
        operations += function.graph.get_operations()
    return {operation.type for operation in operations if not _on_gpu(operation, pixels)}


def _on_gpu(operation, pixels):
    def allows(constraint):
        types = operation.get_attr(constraint.name)
        types = types if isinstance(types, list) else [types]
        return all(kind.as_datatype_enum in constraint.allowed_values.list.type for kind in types)

    names = [arg.name for arg in operation.op_def.input_arg   # a list of N tensors is one of them
             for _ in range(operation.get_attr(arg.number_attr) if arg.number_attr else 1)]
    large = {name for name, tensor in zip(names, operation.inputs)
             if (tensor.shape.num_elements() or 0) >= pixels}
    return any(kernel.device_type in ('GPU', 'DEFAULT') and all(map(allows, kernel.constraint))
               and not large.intersection(kernel.host_memory_arg) for kernel in _kernels(operation.type))


@functools.cache
def _kernels(kind):
    from tensorflow.python.framework import kernels
    return kernels.get_registered_kernels_for_op(kind).kernel


# ---- ENet ------------------------------------------------------------------------------------------------------------

def small_enet():
    """The enet.Architecture with the fewest bottlenecks possible, which is built quickly."""
    import enet
    return enet.PAPER._replace(stage1_repeat=0, stage2_kinds=(), stage4_repeat=0)


def plain_enet(images, batch_statistics=False, noise=None, architecture=None):
    """enet.ENet layer by layer, on the variables of the ENet that the default graph already holds.

    images: float32 [b, h, w, 3]. batch_statistics, noise: as in enet.Mode. architecture: an enet.Architecture, by
    default the paper's.
    -> (last_prelu [b, h/2, w/2, 16], logits [b, h, w, num_classes]), both float32.
    """
    import tensorflow.compat.v1 as tf  # here: plain_cluster does not need it

    def var(name):
        return tf.get_variable(name)

    def conv(x, name, stride=1, rate=1):
        y = tf.nn.conv2d(x, var(name + '/weights'), strides=stride, padding='SAME', dilations=rate)
        return y + var(name + '/biases')

    def conv_transpose(x, name):
        filters = var(name)
        b, h, w, _ = tf.unstack(tf.shape(x))
        return tf.nn.conv2d_transpose(x, filters, [b, 2 * h, 2 * w, filters.shape[2]], 2, 'SAME')

    def norm(x, name):
        averages = () if batch_statistics else (var(name + '/moving_mean'), var(name + '/moving_variance'))
        return tf.nn.fused_batch_norm(x, tf.ones(x.shape[3]), var(name + '/beta'), *averages, epsilon=0.001,
                                      is_training=batch_statistics)[0]

    def prelu(x, name):
        return tf.nn.relu(x) + var(name + 'alpha') * (x - tf.abs(x)) * 0.5

    def dropout(x, rate, name):
        if noise is None:
            return x
        return tf.where_v2(noise([tf.shape(x)[0], 1, 1, x.shape[3]], name) >= rate, x / (1 - rate), 0.)

    def widen(x, like):
        return tf.pad(x, [[0, 0], [0, 0], [0, 0], [0, like.shape[3] - x.shape[3]]])

    operations = types.SimpleNamespace(
        conv=conv, conv_transpose=conv_transpose, norm=norm, relu=tf.nn.relu, prelu=prelu, dropout=dropout, widen=widen,
        pool=lambda x: tf.nn.max_pool2d(x, 2, 2, 'SAME'), max_pool=plain_max_pool, unpool=plain_unpool,
        concat=lambda one, other: tf.concat([one, other], axis=3))
    with tf.variable_scope('ENet', reuse=True, auxiliary_name_scope=False):
        last_prelu = layers(images, operations, architecture)
        return last_prelu, conv_transpose(last_prelu, 'fullconv/weights') + var('fullconv/biases')


def torch_enet(weights):
    """plain_enet at inference in PyTorch, for its speed: a function of images, uint8 [b, h, w, 3], to last_prelu.

    weights: {name: float32 array}, as checkpoint_variables names them
    """
    import torch
    tensors = {name.removeprefix('ENet/'): torch.from_numpy(np.array(value)) for name, value in weights.items()}
    for name, tensor in tensors.items():
        if tensor.ndim == 4:   # [h, w, in, out], of transposed convolutions [h, w, out, in]
            tensors[name] = tensor.permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last)
    operations = torch_operations(tensors)

    @torch.inference_mode()
    def run(photos):   # channels last is the images' order in memory, and is faster
        images = torch.from_numpy(photos).permute(0, 3, 1, 2).float() / 127.5 - 1
        return layers(images, operations).permute(0, 2, 3, 1).numpy()
    return run


def torch_operations(tensors):
    """-> the operations of `layers`, at inference"""
    import torch
    from torch.nn import functional

    def conv(x, name, stride=1, rate=1):
        w, b = tensors[name + '/weights'], tensors[name + '/biases']
        if stride == 2:   # as TensorFlow pads: odd pixels go below and to the right
            return functional.conv2d(functional.pad(x, [0, w.shape[3] - 2, 0, w.shape[2] - 2]), w, b, 2)
        return functional.conv2d(x, w, b, 1, [rate * (w.shape[2] // 2), rate * (w.shape[3] // 2)], rate)

    def norm(x, name):
        mean, variance, beta = (tensors[f'{name}/{part}'] for part in ('moving_mean', 'moving_variance', 'beta'))
        return functional.batch_norm(x, mean, variance, None, beta, eps=0.001)

    return types.SimpleNamespace(
        conv=conv, norm=norm, relu=functional.relu, dropout=lambda x, rate, name: x,
        conv_transpose=lambda x, name: functional.conv_transpose2d(x, tensors[name], stride=2)[:, :, :-1, :-1],
        prelu=lambda x, name: functional.prelu(x, tensors[name + 'alpha']),
        widen=lambda x, like: functional.pad(x, [0, 0, 0, 0, 0, like.shape[1] - x.shape[1]]),
        pool=lambda x: functional.max_pool2d(x, 2), max_pool=lambda x: functional.max_pool2d(x, 2, return_indices=True),
        unpool=lambda x, argmax: functional.max_unpool2d(x, argmax, 2), concat=lambda *x: torch.cat(x, 1))


def layers(images, do, architecture=None):
    """ENet from its images to last_prelu, by the operations `do` of TensorFlow or PyTorch, each on its own."""
    import enet
    architecture = architecture or enet.PAPER

    def initial(x, name):
        net = do.prelu(do.norm(do.conv(x, name + '_conv', stride=2), name + '_batchnorm'), name + '_prelu')
        return do.concat(net, do.pool(x))

    def bottleneck(x, name, kind=1, decoder=False, dropout_rate=0.1):
        act = (lambda y, _: do.relu(y)) if decoder else do.prelu
        net = act(do.norm(do.conv(x, name + '_conv1'), name + '_batch_norm1'), name + '_prelu1')
        if kind == 'asymmetric':
            net = do.conv(do.conv(net, name + '_asymmetric_conv2a'), name + '_asymmetric_conv2b')
        else:
            net = do.conv(net, name + ('_dilated_conv2' if kind > 1 else '_conv2'), rate=kind)
        net = act(do.norm(net, name + '_batch_norm2'), name + '_prelu2')
        net = act(do.norm(do.conv(net, name + '_conv3'), name + '_batch_norm3'), name + '_prelu3')
        net = act(do.dropout(net, dropout_rate, name), name + '_prelu4')
        return act(x + net, name + '_last_prelu')

    def down(x, name, dropout_rate):
        net = do.prelu(do.norm(do.conv(x, name + '_conv1', stride=2), name + '_batch_norm1'), name + '_prelu1')
        net = do.prelu(do.norm(do.conv(net, name + '_conv2'), name + '_batch_norm2'), name + '_prelu2')
        net = do.prelu(do.norm(do.conv(net, name + '_conv3'), name + '_batch_norm3'), name + '_prelu3')
        net = do.dropout(net, dropout_rate, name)
        main, argmax = do.max_pool(x)
        return do.prelu(do.widen(main, net) + net, name + '_last_prelu'), argmax

    def up(x, argmax, name):
        main = do.unpool(do.norm(do.conv(x, name + '_main_conv1'), name + 'batch_norm1'), argmax)
        net = do.relu(do.norm(do.conv(x, name + '_conv1'), name + '_batch_norm2'))
        net = do.relu(do.norm(do.conv_transpose(net, name + '_transposed_conv2_filters'), name + '_batch_norm3'))
        net = do.relu(do.norm(do.conv(net, name + '_conv3'), name + '_batch_norm4'))
        return do.relu(main + do.dropout(net, 0.1, name))

    net = initial(images, 'initial_block_1')
    net, argmax_half = down(net, 'bottleneck1_0', 0.01)
    for i in range(1, architecture.stage1_repeat + 1):
        net = bottleneck(net, f'bottleneck1_{i}', dropout_rate=0.01)
    net, argmax_quarter = down(net, 'bottleneck2_0', 0.1)
    for stage in '23':
        for i, kind in enumerate(architecture.stage2_kinds, 1):
            net = bottleneck(net, f'bottleneck{stage}_{i}', kind)
    net = up(net, argmax_quarter, 'bottleneck4_0')
    for i in range(1, architecture.stage4_repeat + 1):
        net = bottleneck(net, f'bottleneck4_{i}', decoder=True)
    net = up(net, argmax_half, 'bottleneck5_0')
    return bottleneck(net, 'bottleneck5_1', decoder=True)


def plain_max_pool(x):
    """2x2 max-pooling: [b, h, w, c] -> (pooled, argmax), both [b, h/2, w/2, c]; argmax counts through x."""
    import tensorflow.compat.v1 as tf
    window = [1, 2, 2, 1]
    return tf.nn.max_pool_with_argmax(x, window, window, 'SAME', include_batch_in_index=True)


def plain_unpool(x, argmax):
    """Scatters x to where plain_max_pool found it, into zeros: [b, h, w, c] -> [b, 2h, 2w, c]."""
    import tensorflow.compat.v1 as tf
    b, h, w, c = tf.unstack(tf.shape(x, out_type=tf.int64))
    flat = tf.scatter_nd(tf.reshape(argmax, [-1, 1]), tf.reshape(x, [-1]), [b * h * w * c * 4])
    return tf.reshape(flat, [b, 2 * h, 2 * w, x.shape[3]])


def checkpoint_variables():
    """{name: shape} of everything below `ENet/` in the shipped model, as in the public checkpoints of 2018."""
    import tensorflow.compat.v1 as tf
    shapes = tf.train.load_checkpoint(os.path.join(ROOT, 'trained_model')).get_variable_to_shape_map()
    return {name: tuple(shape) for name, shape in shapes.items() if name.startswith('ENet/')}


def random_weights(seed, shapes):
    """{name: float32 array} for {name: shape}: as lively as trained weights, slopes of any sign included."""
    random = np.random.default_rng(seed)
    values = {}
    for name, shape in sorted(shapes.items()):
        if name.endswith(('weights', 'filters')):
            value = random.normal(0, (2 / np.prod(shape[:3])) ** 0.5, shape)
        elif name.endswith('alpha'):
            value = random.uniform(-1.2, 1.5, shape)
        elif name.endswith('moving_variance'):
            value = random.uniform(0.3, 3, shape)
        else:
            value = random.normal(0, 0.5, shape)
        values[name] = value.astype(np.float32)
    return values
