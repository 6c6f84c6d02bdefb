"""Measures speed and memory against the plain way of doing the same.

    python tests/benchmark.py                       all rows, half an hour on two cores
    python tests/benchmark.py --quick               fewer runs of each, two minutes
    python tests/benchmark.py --only network frame  some sections

The plain ways are those of tests/reference.py: ENet layer by layer with `max_pool_with_argmax` and `scatter_nd`,
scikit-learn's MeanShift, one image after the other. Both run in turn (A B A B ...). A row has the median of each, their
ratio (above 1: ours is better) and, for the network and its training step, a floor: the convolutions alone. Other
runtimes run in processes of their own, as two of them in one process get in each other's way. Results: tests/README.md.
"""
import concurrent.futures
import glob
import importlib.util
import os
import platform
import subprocess
import sys
import tempfile
import time

import cv2
import numpy as np

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [ROOT, os.path.join(ROOT, 'tests')]

import benchmark_clustering
import inference
import reference
import training as train_script
import visualization
from benchmark_clustering import in_turn
from data.common import command_line, pictures, quiet, settings, video

SIDE, BATCH = 512, 4      # of the photos and batches in the rows that name no others
LANES, THICKNESS = 5, 4   # of the labels


def row(name, ours, plain=None, floor=None, unit='ms'):
    """Prints a row. ours, plain, floor: in seconds where the unit is ms, else in the unit."""
    scale = 1000 if unit == 'ms' else 1

    def cell(value):
        return '-' if value is None else f'{value * scale:,.1f} {unit}'
    ratio = None if plain is None else plain / ours if unit in ('ms', 'MB') else ours / plain
    print(f'{name:<58}{cell(ours):>14}{cell(plain):>16}{"-" if ratio is None else f"{ratio:.1f}":>8}{cell(floor):>14}',
          flush=True)


# ---- Inputs ----------------------------------------------------------------------------------------------------------

def make_images(batch, side):
    """-> uint8 [batch, side, side, 3]"""
    return np.random.default_rng(0).integers(0, 256, [batch, side, side, 3], np.uint8)


def make_labels(batch, side):
    """-> int32 [batch, side, side], lanes that fan out from the top centre"""
    label = np.zeros([side, side], np.uint8)
    for lane in range(LANES):
        cv2.line(label, (side // 2, side // 3), (lane * side // (LANES - 1), side), lane + 1, THICKNESS)
    return np.repeat(np.int32(label)[None], batch, axis=0)


# ---- The network -----------------------------------------------------------------------------------------------------

def read_weights():
    """-> {name: float32 array}, those of ENet in trained_model"""
    import tensorflow.compat.v1 as tf
    reader = tf.train.load_checkpoint(os.path.join(ROOT, 'trained_model'))
    return {name: reader.get_tensor(name) for name in reference.checkpoint_variables()}


def networks():
    """-> (ours, plain, floor), functions of images, uint8 [1, SIDE, SIDE, 3].

    Ours runs as in inference.py, plain layer by layer, the floor has the convolutions alone.
    """
    import tensorflow.compat.v1 as tf
    import enet
    import utils
    weights = read_weights()

    def constant(getter, name, *args, **kwargs):
        return weights[name]
    with tf.Graph().as_default() as graph:
        images = tf.placeholder(tf.uint8, [None, SIDE, SIDE, 3])
        with enet.fused_kernels(), tf.variable_scope('', custom_getter=constant):
            *_, features = enet.ENet(utils.normalise(images, 'signed'), utils.NUM_CLASSES, return_features=True)
        ours = tf.Session().make_callable(features, [images])
        floor = bare_convolutions(graph, {images: make_images(1, SIDE)})
    with tf.Graph().as_default():
        plain_images = tf.placeholder(tf.uint8, [None, SIDE, SIDE, 3])
        enet.ENet(utils.normalise(plain_images, 'signed'), utils.NUM_CLASSES)   # makes the variables
        plain = reference.plain_enet(utils.normalise(plain_images, 'signed'))[0]
        plain_sess = tf.Session()
        # In one call: TensorFlow prunes and optimizes the graph again for each new set of fetches.
        plain_sess.run([v.initializer for v in tf.global_variables()],
                       {v.initializer.inputs[1]: weights[v.op.name] for v in tf.global_variables()})
    return ours, lambda batch: plain_sess.run(plain, {plain_images: batch}), floor


def bare_convolutions(graph, feed):
    """-> a function that runs the convolutions of a graph and of their gradients one by one, on inputs of their sizes.

    feed: what the graph reads, for the sizes.
    """
    import tensorflow.compat.v1 as tf
    operations = [op for op in graph.get_operations() if op.type.startswith('Conv2D')]
    with graph.as_default(), tf.Session() as sess:
        sess.run(tf.global_variables_initializer())
        # Sizes that a gradient takes as an input are values already.
        inputs = sess.run([[tf.shape(x) if x.dtype == tf.float32 else x for x in op.inputs] for op in operations], feed)
    with tf.Graph().as_default() as bare:
        def tensor(like, size):
            if like.dtype != tf.float32:
                return tf.constant(size)
            if like.op.type == 'Const':
                return tf.constant(np.full(size, 0.1, np.float32))
            with tf.variable_scope('', reuse=tf.AUTO_REUSE):
                return tf.get_variable('x'.join(map(str, ['input', *size])), size).value()
        last = tf.no_op()
        for op, sizes in zip(operations, inputs):
            arguments = [tensor(*pair) for pair in zip(op.inputs, sizes)]
            with tf.control_dependencies([last]):
                last = bare.create_op(op.type, arguments, [tf.float32], attrs=dict(op.node_def.attr))
        config = tf.ConfigProto()
        config.graph_options.rewrite_options.disable_meta_optimizer = True   # it removes what nobody reads
        sess = tf.Session(config=config)
        sess.run(tf.global_variables_initializer())
    return sess.make_callable(last)


def network(quick):
    ours, plain, floor = networks()
    images = make_images(1, SIDE)
    runs = 5 if quick else 30
    row(f'network, {SIDE}x{SIDE}', *in_turn([lambda: ours(images), lambda: plain(images), floor], runs))
    with tempfile.TemporaryDirectory() as folder:
        folder = os.path.join(folder, 'model')
        if has('openvino') or has('onnxruntime', 'tf2onnx'):
            run_script('inference.py', '--export', folder)
        for name in ENGINES:
            report_engine(name, runs, folder)


# ---- Other runtimes --------------------------------------------------------------------------------------------------

def has(*modules):
    return all(importlib.util.find_spec(module) for module in modules)


def torch_network(folder):
    network, images = reference.torch_enet(read_weights()), make_images(1, SIDE)
    return lambda: network(images)


def openvino_network(folder):
    import openvino
    compiled = openvino.compile_model(openvino.convert_model(folder), 'CPU', {'INFERENCE_PRECISION_HINT': 'f32'})
    return lambda: compiled(np.float32(make_images(1, SIDE)))


def onnx_network(folder):
    import onnxruntime
    subprocess.run([sys.executable, '-m', 'tf2onnx.convert', '--saved-model', folder, '--output', folder + '.onnx',
                    '--opset', '17', '--inputs', f'image:0[1,{SIDE},{SIDE},3]'], check=True, capture_output=True)
    session = onnxruntime.InferenceSession(folder + '.onnx')
    return lambda: session.run(None, {'image:0': np.float32(make_images(1, SIDE))})


# The modules that each needs, and a function of the exported model's folder to what is timed.
ENGINES = {'PyTorch': (('torch',), torch_network), 'OpenVINO': (('openvino',), openvino_network),
           'ONNX Runtime': (('onnxruntime', 'tf2onnx'), onnx_network)}


def report_engine(engine, runs, folder):
    """Prints the row of an engine, timed in a process of its own, or that it is not installed."""
    modules, _ = ENGINES[engine]
    if not has(*modules):
        print(f'  the same by {engine}: skipped, {" and ".join(modules)} not installed')
        return
    done = subprocess.run([sys.executable, __file__, '--engine', engine, folder, str(runs)], check=True,
                          capture_output=True, text=True)
    row(f'  the same by {engine}', float(done.stdout.split()[-1]))


# ---- Training --------------------------------------------------------------------------------------------------------

def build_step(images, labels, run):
    """training.py's step in the default graph. images: uint8 [b, h, w, 3], labels: int32 [b, h, w] -> what to run"""
    import tensorflow.compat.v1 as tf
    import enet
    import utils
    from data.common.replica import Replica
    step = tf.train.create_global_step()
    step_32 = tf.cast(step, tf.int32)
    output = utils.build_model(images, run, is_training=True, decay=utils.norm_decay(step_32),
                               noise=enet.noise_of_step(tf.stack([0, step_32])))
    rate = utils.learning_rate(run.schedule, run.learning_rate, step_32, 1000)
    return train_script.build_step(train_script.loss_terms(run, output, labels), rate, step, Replica())


def our_steps(side, images, labels):
    """-> (a function that takes a step of training.py, one that runs its convolutions and their gradients alone)"""
    import tensorflow.compat.v1 as tf
    with tf.Graph().as_default() as graph:
        inputs = tf.placeholder(tf.uint8, [None, side, side, 3]), tf.placeholder(tf.int32, [None, side, side])
        fetches = build_step(*inputs, settings.Settings(image_size=(side, side)))
        feed = dict(zip(inputs, (images, labels)))
        floor = bare_convolutions(graph, feed)
        sess = tf.Session()
        sess.run(tf.global_variables_initializer())
    return lambda: sess.run(fetches, feed), floor


def plain_step(side, images, labels):
    """-> a function that takes a step of Adam on the plain graph, with the same loss"""
    import tensorflow.compat.v1 as tf
    import enet
    import loss
    import utils
    conventions = settings.Settings(image_size=(side, side))
    with tf.Graph().as_default():
        image_input = tf.placeholder(tf.uint8, [None, side, side, 3])
        label_input = tf.placeholder(tf.int32, [None, side, side])
        photos = utils.normalise(image_input, conventions.normalisation)
        enet.ENet(photos, utils.NUM_CLASSES)   # makes the variables
        noise = enet.noise_of_step(tf.random_uniform([2], maxval=2 ** 31 - 1, dtype=tf.int32))
        embedding = utils.build_head(reference.plain_enet(photos, True, noise)[0], conventions.feature_dim)
        total = loss.discriminative_loss(embedding, label_input, conventions.feature_dim, (side, side),
                                         conventions.delta_v, conventions.delta_d, 1., 1., 1.)[0]
        trained = utils.to_train()
        optimizer = tf.train.AdamOptimizer(conventions.learning_rate)
        train = optimizer.minimize(total + utils.weight_decay(trained), var_list=trained)
        sess = tf.Session()
        sess.run(tf.global_variables_initializer())
    return lambda: sess.run([total, train], {image_input: images, label_input: labels})


def loss_alone(side, labels):
    """-> a function that computes the loss and its gradient on a given embedding"""
    import tensorflow.compat.v1 as tf
    import loss
    with tf.Graph().as_default():
        embedding = tf.get_variable('embedding', [len(labels), side, side, 3])
        label_input = tf.placeholder(tf.int32, [None, side, side])
        terms = loss.discriminative_loss(embedding, label_input, 3, (side, side), 0.5, 1.5, 1., 1., 1.)
        gradient = tf.gradients(terms[0], embedding)[0]
        sess = tf.Session()
        sess.run(tf.global_variables_initializer())
    return lambda: sess.run([terms[0], gradient.op], {label_input: labels})


STEPS = {'ours': lambda *arguments: our_steps(*arguments)[0], 'plain': plain_step}


def training(quick):
    images, labels = make_images(BATCH, SIDE), make_labels(BATCH, SIDE)
    ours, floor = our_steps(SIDE, images, labels)
    seconds, plain, floor, of_loss = in_turn([ours, plain_step(SIDE, images, labels), floor, loss_alone(SIDE, labels)],
                                             2 if quick else 12)
    row(f'training step, {BATCH} photos of {SIDE}x{SIDE}', seconds, plain, floor)
    row('  photos per second', BATCH / seconds, BATCH / plain, unit='/s')
    row('  the loss and its gradient, of that step', 100 * of_loss / seconds, unit='%')
    if not quick:
        peaks = [peak_memory(__file__, '--steps', way, 5) for way in STEPS]
        row('  peak memory of a process that trains', *peaks, unit='MB')


# ---- Photos from file to file ----------------------------------------------------------------------------------------

def run_script(*arguments):
    """Runs one of our scripts. -> its seconds"""
    start = time.perf_counter()
    subprocess.run([sys.executable, *map(str, arguments)], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def peak_memory(*arguments):
    """Runs one of our scripts. -> its peak memory in MB"""
    # In a small process between: a child's peak includes the memory of the process that it was forked from.
    code = ('import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL); '
            'print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)')
    output = subprocess.run([sys.executable, '-c', code, sys.executable, *map(str, arguments)], cwd=ROOT, check=True,
                            capture_output=True, text=True).stdout
    return int(output) / 1024


def plain_frames(photos):
    """-> a function that takes these photos one by one from file to picture, by the plain graph and scikit-learn"""
    import tensorflow.compat.v1 as tf
    import utils
    model = os.path.join(ROOT, 'trained_model')
    conventions = utils.read_conventions(model)
    width, height = conventions.image_size
    with tf.Graph().as_default():
        image = tf.placeholder(tf.uint8, [None, height, width, 3])
        utils.build_model(image, conventions)
        embedding = utils.build_head(reference.plain_enet(utils.normalise(image, conventions.normalisation))[0],
                                     conventions.feature_dim, reuse=True)
        sess = tf.Session()
        utils.restore(sess, utils.find_checkpoint(model), tf.global_variables())

    def run():
        with tempfile.TemporaryDirectory() as folder:
            for i, path in enumerate(photos):
                photo = cv2.imread(path)
                points = sess.run(embedding, {image: cv2.resize(photo[..., ::-1], (width, height))[None]})[0]
                ids = reference.plain_cluster(points.reshape(-1, conventions.feature_dim), conventions.bandwidth)[1]
                picture = visualization.draw_instances(photo, ids.reshape(height, width))
                cv2.imwrite(os.path.join(folder, f'{i}.png'), picture)
    return run


def frame(quick):
    """Reading, network, clustering, lanes and writing, without start-up: the difference of two runs of inference.py."""
    paths = sorted(glob.glob(os.path.join(ROOT, 'inference_test', 'images', '*')))
    many, few = (56, 8) if quick else (204, 4)
    with tempfile.TemporaryDirectory() as folder:
        for count in (many, few):
            os.mkdir(os.path.join(folder, str(count)))
            for i in range(count):
                path = paths[i % len(paths)]
                os.symlink(path, os.path.join(folder, str(count), f'{i:04d}{os.path.splitext(path)[1]}'))

        def infer(count):
            return lambda: run_script('inference.py', '--indir', os.path.join(folder, str(count)),
                                      '--outdir', os.path.join(folder, f'results{count}'))
        plain = plain_frames(paths[:2 if quick else 8])
        infer(few)()   # the first start reads its libraries from the disk
        long, short, of_plain = in_turn([infer(many), infer(few), plain], 1 if quick else 3, warm_up=0)
        ours, of_plain = (many - few) / (long - short), (2 if quick else 8) / of_plain
        row('photos per second through inference.py', ours, of_plain, unit='/s')
        row('  from start to end, for 1 photo (start-up)', short - (few - 1) / ours)
        if not quick:
            row(f'  peak memory, {many} photos', unit='MB', ours=peak_memory(
                'inference.py', '--indir', os.path.join(folder, str(many)),
                '--outdir', os.path.join(folder, 'results')))


# ---- Videos ----------------------------------------------------------------------------------------------------------

def make_clip(path, frames, count):
    """Writes a video that repeats the frames until it has `count`."""
    writer = video.Writer(path, frames[0].shape[1::-1], 20, ['mp4v'])
    for i in range(count):
        writer.write(frames[i % len(frames)])
    writer.close()


def network_alone(frames):
    """-> a function that calls the network of inference.py on these frames, from as many threads as that does"""
    embed, conventions = inference.load_network(os.path.join(ROOT, 'trained_model'))
    batches = [pictures.resize_image(frame, conventions.image_size)[None] for frame in frames]
    embed(batches[0])   # plans the graph

    def run():
        with concurrent.futures.ThreadPoolExecutor(inference.NUM_CALLERS) as pool:
            list(pool.map(embed, batches))
    return run


def drive(quick):
    """A rendered drive of 1280x720 from video to video; the floor is the network alone."""
    many, few = (240, 40) if quick else (840, 40)
    with tempfile.TemporaryDirectory() as folder:
        run_script('data/synthetic_dataset.py', os.path.join(folder, 'drive'), '--drive', 2, '--seed', 1)
        frames = [pictures.read_image(path) for path in
                  sorted(glob.glob(os.path.join(folder, 'drive', 'clips', '**', '*.*'), recursive=True))]
        for count in many, few:
            make_clip(os.path.join(folder, f'{count}.mp4'), frames, count)

        def infer(count):
            return lambda: run_script('inference.py', '--indir', os.path.join(folder, f'{count}.mp4'),
                                      '--outdir', os.path.join(folder, 'results'))
        infer(few)()   # the first start reads its libraries from the disk
        long, short, alone = in_turn([infer(many), infer(few), network_alone(frames)], 1 if quick else 3, warm_up=0)
        row('frames per second of a video through inference.py', (many - few) / (long - short),
            floor=len(frames) / alone, unit='/s')
        if not quick:
            row(f'  peak memory, {many} frames', unit='MB', ours=peak_memory(
                'inference.py', '--indir', os.path.join(folder, f'{many}.mp4'),
                '--outdir', os.path.join(folder, 'results')))


# ---- The script ------------------------------------------------------------------------------------------------------

def clusters(quick):
    for name, seconds, plain, floor in benchmark_clustering.rows(quick):
        row(name, seconds, plain, floor)


SECTIONS = {section.__name__: section for section in (network, clusters, frame, drive, training)}


def main(argv=None):
    parser = command_line.Parser(description=__doc__)
    parser.add_argument('--quick', action='store_true', help='Fewer runs of each row, two minutes.')
    parser.add_argument('--only', nargs='+', choices=SECTIONS, default=list(SECTIONS), help='Sections to run.')
    parser.add_argument('--steps', nargs=2, metavar=('WAY', 'STEPS'),
                        help='Only take training steps, "ours" or "plain".')
    parser.add_argument('--engine', nargs=3, metavar=('NAME', 'FOLDER', 'RUNS'),
                        help='Only time another runtime on the model exported to FOLDER.')
    flags = parser.parse_args(argv)
    quiet.import_tensorflow()
    import tensorflow.compat.v1 as tf
    tf.disable_v2_behavior()   # as training.py does
    if flags.engine:
        name, folder, runs = flags.engine
        print(*in_turn([ENGINES[name][1](folder)], int(runs), warm_up=3))
        return
    if flags.steps:
        step = STEPS[flags.steps[0]](SIDE, make_images(BATCH, SIDE), make_labels(BATCH, SIDE))
        for _ in range(int(flags.steps[1])):
            step()
        return
    print(f'{platform.processor() or platform.machine()}, {os.cpu_count()} cores, TensorFlow {tf.__version__}, '
          f'NumPy {np.__version__}, load {os.getloadavg()[0]:.1f} at the start')
    print(f'{"":<58}{"ours":>14}{"the plain way":>16}{"ratio":>8}{"floor":>14}')
    for name in flags.only:
        SECTIONS[name](flags.quick)


if __name__ == '__main__':
    command_line.run(main)
