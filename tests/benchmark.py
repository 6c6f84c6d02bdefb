"""Compares our speed with that of plain implementations.

    python tests/benchmark.py                       all rows, half an hour on two cores
    python tests/benchmark.py --quick               fewer runs of each, two minutes
    python tests/benchmark.py --only network frame  some sections

The plain implementations are in tests/reference.py: ENet layer by layer with `max_pool_with_argmax` and `scatter_nd`,
scikit-learn's MeanShift, one image after the other. Both run in turn (A B A B ...). A row has the median of each, their
ratio (above 1: ours is better) and, for the network and its training step, a floor: the convolutions alone. Other
runtimes run in separate processes, as two of them in one process interfere. Results: tests/README.md.
"""
import functools
import glob
import importlib.util
import itertools
import os
import pickle
import platform
import subprocess
import sys
import tempfile
import types

import cv2
import numpy as np

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [ROOT, os.path.join(ROOT, 'tests')]

from data.common import command_line, quiet, settings

quiet.import_tensorflow()
import tensorflow.compat.v1 as tf

import benchmark_clustering
import benchmark_engines
import enet
import reference
import training as train_script
import utils
import visualization
from benchmark_clustering import in_turn
from data.common.replica import Replica

MODEL = os.path.join(ROOT, 'trained_model')
SIDE, BATCH = 512, 4   # of images and batches, unless a row says otherwise
RUN = settings.Settings(image_size=(SIDE, SIDE))
IMAGES = np.random.default_rng(0).integers(0, 256, [BATCH, SIDE, SIDE, 3], np.uint8)
LABELS = np.zeros([BATCH, SIDE, SIDE], np.int32)   # five lanes that fan out from the top centre
for lane in range(5):
    cv2.line(LABELS[0], (SIDE // 2, SIDE // 3), (lane * SIDE // 4, SIDE), lane + 1, 4)
LABELS[1:] = LABELS[0]


def row(name, ours, plain=None, floor=None, unit='ms'):
    """Prints a row. ours, plain, floor: in ms, or in another unit"""
    cells = ['-' if value is None else f'{value:,.1f} {unit}' for value in (ours, plain, floor)]
    ratio = '-' if plain is None else f'{ours / plain if unit == "/s" else plain / ours:.1f}'
    print(f'{name:<58}{cells[0]:>14}{cells[1]:>16}{ratio:>8}{cells[2]:>14}', flush=True)


def run_script(*arguments):
    """Runs one of our scripts, from the root of the repository."""
    subprocess.run([sys.executable, *map(str, arguments)], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def read_weights():
    """-> {name: float32 array}, the variables of ENet in trained_model"""
    reader = tf.train.load_checkpoint(MODEL)
    return {name: reader.get_tensor(name) for name in reference.checkpoint_variables()}


# ---- The network -----------------------------------------------------------------------------------------------------

def make_network(build):
    """-> (a function that runs the network on the first image, one that runs its convolutions alone)

    build: function of images, float32 [1, h, w, 3], that returns the last features
    """
    weights = read_weights()

    def constant(getter, name, *args, **kwargs):
        return weights[name]
    with tf.Graph().as_default() as graph, tf.variable_scope('', custom_getter=constant):
        images = tf.placeholder(tf.uint8, [None, SIDE, SIDE, 3])
        run = tf.Session().make_callable(build(utils.normalise(images, 'signed')), [images])
    return lambda: run(IMAGES[:1]), bare_convolutions(graph, {images: IMAGES[:1]})


def bare_convolutions(graph, feed):
    """-> a function that runs the convolutions of a graph and of their gradients one by one, on inputs of their sizes.

    feed: inputs of the graph, which determine the sizes.
    """
    operations = [op for op in graph.get_operations() if op.type.startswith('Conv2D')]
    with graph.as_default(), tf.Session() as sess:
        sess.run(tf.global_variables_initializer())
        # Sizes that are inputs of a gradient have been evaluated already.
        inputs = sess.run([[tf.shape(x) if x.dtype == tf.float32 else x for x in op.inputs] for op in operations], feed)

    def tensor(like, size):
        if like.dtype != tf.float32:
            return tf.constant(size)
        if like.op.type == 'Const':
            return tf.constant(np.full(size, 0.1, np.float32))
        with tf.variable_scope('', reuse=tf.AUTO_REUSE):
            return tf.get_variable('x'.join(map(str, ['input', *size])), size).value()
    with tf.Graph().as_default() as bare:
        last = tf.no_op()
        for op, sizes in zip(operations, inputs):
            arguments = list(map(tensor, op.inputs, sizes))
            with tf.control_dependencies([last]):
                last = bare.create_op(op.type, arguments, [tf.float32], attrs=dict(op.node_def.attr))
        config = tf.ConfigProto()
        config.graph_options.rewrite_options.disable_meta_optimizer = True   # it removes unused operations
        sess = tf.Session(config=config)
        sess.run(tf.global_variables_initializer())
    return sess.make_callable(last)


def engine_row(engine, runs):
    """Prints the row of another runtime, if it is installed."""
    modules, _ = benchmark_engines.ENGINES[engine]
    if not all(map(importlib.util.find_spec, modules)):
        print(f'  the same by {engine}: skipped, {" and ".join(modules)} not installed')
        return
    inputs = types.SimpleNamespace(images=IMAGES, labels=LABELS, weights=read_weights(),
                                   architecture=types.SimpleNamespace(**enet.PAPER._asdict()))
    with tempfile.TemporaryDirectory() as folder:
        with open(os.path.join(folder, 'inputs'), 'wb') as file:
            pickle.dump(inputs, file)
        run_script('inference.py', '--export', os.path.join(folder, 'model'))
        done = subprocess.run([sys.executable, benchmark_engines.__file__, engine, folder, str(runs)], check=True,
                              stdout=subprocess.PIPE)
    row(f'  the same by {engine}', float(done.stdout))


def network(quick):
    runs = 5 if quick else 30
    with enet.fused_kernels():   # as in inference.py
        ours, floor = make_network(lambda images: enet.ENet(images, utils.NUM_CLASSES, return_features=True)[-1])
    plain, _ = make_network(lambda images: reference.plain_enet(images)[0])
    row(f'network, {SIDE}x{SIDE}', *in_turn([ours, plain, floor], runs))
    for engine in 'PyTorch', 'OpenVINO', 'ONNX Runtime':
        engine_row(engine, runs)


# ---- Training --------------------------------------------------------------------------------------------------------

def our_step(images, labels):
    """training.py's step in the default graph. images: uint8 [b, h, w, 3], labels: int32 [b, h, w] -> what to run"""
    step = tf.train.create_global_step()
    step_32 = tf.cast(step, tf.int32)
    output = utils.build_model(images, RUN, is_training=True, decay=utils.norm_decay(step_32),
                               noise=enet.noise_of_step(tf.stack([0, step_32])))
    rate = utils.learning_rate(RUN.schedule, RUN.learning_rate, step_32, 1000)
    return train_script.build_step(train_script.loss_terms(RUN, output, labels), rate, step, Replica())


def plain_step(images, labels):
    """A step of Adam on the plain graph, with the same loss. -> what to run"""
    images = utils.normalise(images, RUN.normalisation)
    enet.ENet(images, utils.NUM_CLASSES)   # creates the variables
    noise = enet.noise_of_step(tf.random_uniform([2], maxval=2 ** 31 - 1, dtype=tf.int32))
    embedding = utils.build_head(reference.plain_enet(images, True, noise)[0], RUN.feature_dim)
    total, trained = train_script.loss_terms(RUN, embedding, labels)['total'], utils.to_train()
    train = tf.train.AdamOptimizer(RUN.learning_rate).minimize(total + utils.weight_decay(trained), var_list=trained)
    return [total, train]


def loss_alone(images, labels):
    """The loss and its gradient on a given embedding. -> what to run"""
    embedding = tf.get_variable('embedding', [BATCH, SIDE, SIDE, RUN.feature_dim])
    total = train_script.loss_terms(RUN, embedding, labels)['total']
    return [total, tf.gradients(total, embedding)[0].op]


def make_step(build):
    """-> (a function that runs what build(images, labels) returns, a function that runs its convolutions alone)"""
    with tf.Graph().as_default() as graph:
        inputs = tf.placeholder(tf.uint8, [None, SIDE, SIDE, 3]), tf.placeholder(tf.int32, [None, SIDE, SIDE])
        fetches, feed = build(*inputs), dict(zip(inputs, (IMAGES, LABELS)))
        floor = bare_convolutions(graph, feed)
        sess = tf.Session()
        sess.run(tf.global_variables_initializer())
    return lambda: sess.run(fetches, feed), floor


def training(quick):
    (ours, floor), (plain, _), (of_loss, _) = map(make_step, (our_step, plain_step, loss_alone))
    runs = 2 if quick else 12
    ours, plain, floor, of_loss = in_turn([ours, plain, floor, of_loss], runs)
    row(f'training step, {BATCH} images of {SIDE}x{SIDE}', ours, plain, floor)
    row('  the loss and its gradient, of that step', 100 * of_loss / ours, unit='%')
    engine_row('PyTorch, a step', runs)


# ---- From file to file -----------------------------------------------------------------------------------------------

def plain_frames(paths):
    """-> a function that takes these images one by one from file to picture, by the plain graph and scikit-learn"""
    conventions = utils.read_conventions(MODEL)
    width, height = conventions.image_size
    with tf.Graph().as_default():
        image = tf.placeholder(tf.uint8, [None, height, width, 3])
        utils.build_model(image, conventions)
        embedding = utils.build_head(reference.plain_enet(utils.normalise(image, conventions.normalisation))[0],
                                     conventions.feature_dim, reuse=True)
        sess = tf.Session()
        utils.restore(sess, utils.find_checkpoint(MODEL), tf.global_variables())

    def run():
        with tempfile.TemporaryDirectory() as folder:
            for i, path in enumerate(paths):
                photo = cv2.imread(path)
                points = sess.run(embedding, {image: cv2.resize(photo[..., ::-1], (width, height))[None]})[0]
                ids = reference.plain_cluster(points.reshape(-1, conventions.feature_dim), conventions.bandwidth)[1]
                picture = visualization.draw_instances(photo, ids.reshape(height, width))
                cv2.imwrite(os.path.join(folder, f'{i}.png'), picture)
    return run


def time_inference(many, few, runs, others=()):
    """Times inference.py on two inputs, and other functions, in turn. many, few: (paths, number of images)

    -> (images per second without the start, ms of the start, ms of each other function)
    """
    with tempfile.TemporaryDirectory() as outdir:
        ways = [functools.partial(run_script, 'inference.py', '--indir', *paths, '--outdir',
                                  os.path.join(outdir, str(count)))
                for paths, count in (many, few)]
        ways[1]()   # the first start loads its libraries from disk
        long, short, *others = in_turn([*ways, *others], runs, warm_up=0)
    each = (long - short) / (many[1] - few[1])
    return 1000 / each, short - few[1] * each, *others


def frame(quick):
    """Reading, network, clustering, lanes and writing."""
    paths = sorted(glob.glob(os.path.join(ROOT, 'inference_test', 'images', '*')))
    counts, num_plain, runs = ((56, 8), 2, 1) if quick else ((204, 4), 8, 3)
    inputs = [(list(itertools.islice(itertools.cycle(paths), count)), count) for count in counts]
    speed, start, plain = time_inference(*inputs, runs, [plain_frames(paths[:num_plain])])
    row('images per second through inference.py', speed, 1000 * num_plain / plain, unit='/s')
    row('  its start', start)


def clusters(quick):
    for name, ours, plain in benchmark_clustering.rows(quick):
        row(name, ours, plain)


# ---- The script ------------------------------------------------------------------------------------------------------

SECTIONS = {section.__name__: section for section in (network, clusters, frame, training)}


def main(argv=None):
    parser = command_line.Parser(description=__doc__)
    parser.add_argument('--quick', action='store_true', help='Fewer runs of each row, two minutes.')
    parser.add_argument('--only', nargs='+', choices=SECTIONS, default=list(SECTIONS), help='Sections to run.')
    flags = parser.parse_args(argv)
    train_script.import_tensorflow()
    print(f'{platform.processor() or platform.machine()}, {os.cpu_count()} cores, TensorFlow {tf.__version__}, '
          f'NumPy {np.__version__}, load {os.getloadavg()[0]:.1f} at the start')
    print(f'{"":<58}{"ours":>14}{"the plain way":>16}{"ratio":>8}{"floor":>14}')
    for name in flags.only:
        SECTIONS[name](flags.quick)


if __name__ == '__main__':
    command_line.run(main)
