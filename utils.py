"""From settings to a network with weights, and back to files: building, restoring, saving, exporting; rates.

A folder with a model holds a TensorFlow checkpoint and conventions.json, see data/common/settings.py. A folder without
that record is assumed to be one of 2018.
"""
import contextlib
import dataclasses
import errno
import glob
import math
import os
import re
import tempfile

import numpy as np
import tensorflow.compat.v1 as tf

import enet
from data.common import files, settings
from data.common.command_line import InputError
from data.common.settings import Settings

NUM_CLASSES = 12  # of ENet's own last layer, `fullconv`; the heads do not use it, the public checkpoints have it
HEAD = 'transfer_layer/conv2d_transpose'  # scope of a head's transposed convolution, below Instance/ or Semantic/
# What TensorFlow raises, by one reader or another, for a file that is damaged or not a checkpoint.
CHECKPOINT_ERRORS = (tf.errors.OpError, ValueError, RuntimeError, LookupError)
MOVING_AVERAGE = re.compile(r'ENet/.*/moving_(mean|variance)$')


# ---- Conventions -----------------------------------------------------------------------------------------------------

def read_conventions(checkpoint_dir):
    """-> the Settings of the model in a folder. Raises InputError if it has no checkpoint or a damaged record."""
    checkpoint = find_checkpoint(checkpoint_dir)
    return settings.read(checkpoint_dir) or _conventions_of_2018(checkpoint)


def _conventions_of_2018(checkpoint):
    """-> the Settings of a checkpoint without a record, as far as its variables reveal them"""
    reader, shapes = _open_checkpoint(checkpoint)
    with _errors_of(checkpoint):
        updated = any((reader.get_tensor(name) != (0. if name.endswith('mean') else 1.)).any()
                      for name in shapes if MOVING_AVERAGE.match(name))
    heads = [name for name in ('Semantic', 'Instance') if f'{name}/{HEAD}/biases' in shapes] or ['Instance']
    if len(heads) > 1:
        raise InputError(f'{checkpoint}: has a foreground head, so it is no model of 2018, and the '
                         f'{settings.CONVENTIONS_FILE} that was written next to it is missing')
    depth = (shapes.get(f'{heads[0]}/{HEAD}/biases') or [Settings.feature_dim])[0]
    return dataclasses.replace(settings.OF_2018, head=heads[0], feature_dim=depth, batch_statistics=not updated)


# ---- Graph -----------------------------------------------------------------------------------------------------------

def normalise(image, normalisation):
    """image: raw RGB 0..255 [b, h, w, 3] of any type -> float32 of that shape, as the network reads it."""
    image = tf.cast(image, tf.float32)
    return image / 127.5 - 1. if normalisation == 'signed' else image


def build_model(input_image, conventions, is_training=False, noise=None, decay=0.9, reuse=None, architecture=None):
    """The network with all its heads.

    input_image: raw RGB [b, h, w, 3]; noise, decay: of dropout and of batch norm's moving averages, see `enet.ENet`
    architecture: an enet.Architecture, by default the paper's
    -> float32 [b, h, w, channels]: an embedding, or the scores of (background, foreground). With a foreground head next
    to the embedding, the last channel is the log odds that a pixel is foreground; with classes, the last channels are
    the scores of the background and of each class, the logarithms of their probabilities up to a constant.
    """
    last_prelu = build_enet(input_image, conventions, is_training, noise, decay, reuse, architecture)
    output, *scores = [build_head(last_prelu, depth, scope, conventions.head_activation, reuse,
                                  conventions.reach(scope)) for scope, depth in conventions.heads.items()]
    if scores and not conventions.classes:
        scores = [scores[0][..., 1:] - scores[0][..., :1]]
    return tf.concat([output, *scores], axis=-1) if scores else output


def build_enet(input_image, conventions, is_training=False, noise=None, decay=0.9, reuse=None, architecture=None):
    """`build_model` without its heads. -> last_prelu, the features that heads read, float32 [b, h/2, w/2, 16]."""
    if not is_training and conventions.dropout_at_inference:
        noise = enet.noise_of_2018
    images = normalise(input_image, conventions.normalisation)
    return enet.ENet(images, NUM_CLASSES, reuse=reuse, is_training=is_training,
                     batch_statistics=is_training or conventions.batch_statistics, decay=decay, noise=noise,
                     return_features=True, architecture=architecture or enet.PAPER)[-1]


def build_head(last_prelu, depth, scope='Instance', activation='none', reuse=None, reach=0.):
    """The transfer layer. last_prelu: float32 [b, h/2, w/2, 16] -> float32 [b, h, w, depth].

    reach: if not 0, pixel coordinates, times a trained matrix, are added to the embedding; at first, half the longer
    side of an image is `reach` along the first two dimensions. Convolutions are the same everywhere and cannot separate
    instances that look alike; with coordinates they only have to predict the offset to the instance's centre (Neven et
    al., Instance Segmentation by Jointly Optimizing Spatial Embeddings and Clustering Bandwidth, 2019, section 3.1).
    """
    with tf.variable_scope(f'{scope}/{HEAD}', reuse=reuse):
        output = enet.head(last_prelu, depth)
        if activation == 'relu':
            output = tf.nn.relu(output)
    if reach:
        with tf.variable_scope(f'{scope}/coordinates', reuse=reuse):
            weights = tf.get_variable('weights', [2, depth],
                                      initializer=tf.constant_initializer(reach * np.eye(2, depth, dtype=np.float32)))
        height, width = (tf.cast(side, tf.float32) for side in enet.dynamic_shape(output)[1:3])
        # From the centre, in half longer sides.
        x, y = ((2. * tf.range(side) + 1. - side) / tf.maximum(height, width) for side in (width, height))
        output += x[:, None] * weights[0] + y[:, None, None] * weights[1]
    return output


def load_enet(sess, checkpoint_dir, input_image, architecture=None):
    """Builds ENet for training with the weights of a checkpoint of any head, for a new head on top of it.

    input_image: raw RGB [b, h, w, 3] -> last_prelu, float32 [b, h/2, w/2, 16]. Raises InputError as `restore` does.
    """
    with sess.graph.as_default():
        last_prelu = build_enet(input_image, read_conventions(checkpoint_dir), True, architecture=architecture)
        restore(sess, find_checkpoint(checkpoint_dir), tf.global_variables(scope='ENet/'), least=1)
        return last_prelu


def add_transfer_layers_and_initialize(sess, last_prelu, feature_dim):
    """Puts a fresh embedding head on ENet. last_prelu: float32 [b, h/2, w/2, 16] -> float32 [b, h, w, feature_dim]"""
    with sess.graph.as_default():
        output = build_head(last_prelu, feature_dim)
        sess.run(tf.variables_initializer(tf.global_variables(scope='Instance/')))
        return output


def to_train():
    """-> the default graph's trainable variables but those of ENet's own last layer, which no head uses"""
    return [v for v in tf.trainable_variables() if not v.op.name.startswith('ENet/fullconv/')]


def weight_decay(variables):
    """The sum of the L2 penalties of those of `variables` that have one. -> float32 scalar"""
    names = {v.op.name for v in variables}
    penalties = tf.get_collection(tf.GraphKeys.REGULARIZATION_LOSSES)
    return tf.add_n([penalty for penalty in penalties if penalty.op.name.split('/Regularizer')[0] in names])


def count_parameters():
    """-> the number of weights in the default graph's trainable variables, int"""
    return sum(v.shape.num_elements() for v in tf.trainable_variables())


def collect_summaries(disc_loss, l_var, l_dist, l_reg, input_image, prediction, correct_label, l_foreground=None):
    """-> (summary of a training step, pictures of validation images): serialised tf.Summary, scalar string tensors.

    The first holds the loss and its weighted terms, but for those that are None; the second two images [b, h, w, 3],
    their labels [b, h, w] as grey, the embedding's first three dimensions [b, h, w, d] as colours and its histogram.
    """
    terms = {'total': disc_loss, 'var': l_var, 'dist': l_dist, 'reg': l_reg, 'foreground': l_foreground}
    scalars = [tf.summary.scalar(f'loss/{name}', value) for name, value in terms.items() if value is not None]
    colours = tf.pad(prediction, [(0, 0), (0, 0), (0, 0), (0, 2)])[..., :3]
    with tf.name_scope('sample'):
        pictures = [tf.summary.image('photo', tf.cast(input_image, tf.uint8), 2),
                    tf.summary.image('label', tf.cast(correct_label, tf.float32)[..., None], 2),
                    tf.summary.image('embedding', colours, 2), tf.summary.histogram('embedding', prediction)]
    return tf.summary.merge(scalars), tf.summary.merge(pictures)


# ---- Checkpoints -----------------------------------------------------------------------------------------------------

def find_checkpoint(checkpoint_dir):
    """-> the path prefix of a folder's newest checkpoint, see `checkpoints`. Raises InputError if there is none."""
    files.list_folder(checkpoint_dir, '; give one with a checkpoint')
    found = checkpoints(checkpoint_dir)
    if not found:
        raise InputError(f'{checkpoint_dir}: holds no checkpoint (*.index and *.data-00000-of-00001)')
    files.check_checkpoint_folder(checkpoint_dir)
    return found[0]


def checkpoints(checkpoint_dir):
    """-> path prefixes of the checkpoints in a folder that have all files: the one it names as newest, then by age"""
    found = glob.glob(os.path.join(glob.escape(checkpoint_dir), '*.index'))
    found = [path.removesuffix('.index') for path in sorted(found, key=os.path.getmtime, reverse=True)
             if glob.glob(glob.escape(path.removesuffix('.index')) + '.data-*-of-*')]
    with contextlib.suppress(*CHECKPOINT_ERRORS):   # a damaged `checkpoint` file does not spoil the weights
        state = tf.train.get_checkpoint_state(checkpoint_dir)
        newest = os.path.basename(state.model_checkpoint_path) if state else ''   # not its path: folders get moved
        found.sort(key=lambda prefix: os.path.basename(prefix) != newest)
    return found


def restore(sess, checkpoint, variables, least=None):
    """Restores variables from a checkpoint. -> the names of those that came from it

    checkpoint: path prefix. least: how many of them the checkpoint must have, by default all; the others keep their
    values. Raises InputError that names the file and the first few variables that do not fit.
    """
    _, shapes = _open_checkpoint(checkpoint)
    problems = {v: _misfit(v.op.name, v.shape.as_list(), shapes) for v in variables}
    found = [v for v in variables if not problems[v]]
    if len(found) < (len(variables) if least is None else least):
        _check_fit(checkpoint, problems)
    if found:
        with _errors_of(checkpoint), sess.graph.as_default():
            tf.train.Saver(found).restore(sess, checkpoint)
    return [v.op.name for v in found]


@contextlib.contextmanager
def constant_weights(checkpoint):
    """While active, get_variable returns the arrays of a checkpoint: a graph of constants, built in less time.
    checkpoint: path prefix. Raises InputError like `restore`."""
    reader, shapes = _open_checkpoint(checkpoint)
    problems = {}

    def read(getter, name, shape, **kwargs):
        shape = tf.TensorShape(shape).as_list()
        problems[name] = _misfit(name, shape, shapes)
        with _errors_of(checkpoint):
            return np.zeros(shape, np.float32) if problems[name] else reader.get_tensor(name).astype(np.float32)

    with tf.variable_scope(tf.get_variable_scope(), custom_getter=read):
        yield
    _check_fit(checkpoint, problems)


def _misfit(name, shape, shapes):
    """-> why a variable cannot come from a checkpoint with these shapes, or None"""
    if name not in shapes:
        return f'{name} {shape} is missing'
    return None if shapes[name] == shape else f'{name} is {shapes[name]} instead of {shape}'


def _check_fit(checkpoint, problems):
    """problems: {variable: its misfit or None}"""
    found = list(filter(None, problems.values()))
    if found:
        raise InputError(f'{checkpoint}: is not a checkpoint of this network, {len(found)} of {len(problems)} '
                         f'variables do not fit: {"; ".join(found[:3])}{"; ..." if len(found) > 3 else ""}')


def _open_checkpoint(checkpoint):
    """-> (tf.train.CheckpointReader, {name: shape})"""
    with _errors_of(checkpoint):
        reader = tf.train.load_checkpoint(checkpoint)
        return reader, reader.get_variable_to_shape_map()


@contextlib.contextmanager
def _errors_of(checkpoint):
    """While active, an error of TensorFlow becomes an InputError that names the checkpoint."""
    try:
        yield
    except CHECKPOINT_ERRORS as error:
        raise InputError(f'{checkpoint}: is damaged or not a checkpoint ({reason(error)})')


def save(saver, sess, prefix, curves=()):
    """Writes a checkpoint and removes those that the saver no longer keeps. prefix: a new name for new content.

    curves: tf.summary.FileWriters that are flushed first, so that no state is ahead of them. Raises InputError if it
    cannot be written; earlier checkpoints stay whole.
    """
    folder = os.path.dirname(prefix)
    try:
        for writer in curves:
            writer.flush()
        if not saver.last_checkpoints:   # an earlier process's checkpoints count towards max_to_keep
            saver.recover_last_checkpoints(checkpoints(folder)[::-1])
        saver.save(sess, prefix, write_meta_graph=False)
    except (tf.errors.OpError, ValueError, OSError) as error:
        remove_unfinished(folder)
        raise InputError(f'{prefix}: cannot be saved: {reason(error)}')


def remove_unfinished(folder):
    """Removes files left by a process that was killed while saving; best effort."""
    for pattern in ('*.tempstate*', 'checkpoint.tmp*', 'model.ckpt-*.data-*', 'state.ckpt-*.data-*'):
        for path in glob.glob(os.path.join(glob.escape(folder), pattern)):
            if '.tempstate' in path or not os.path.exists(path.rpartition('.data-')[0] + '.index'):
                with contextlib.suppress(OSError):
                    os.remove(path)


def remove_checkpoints(folder):
    """Removes a folder's checkpoints and their record."""
    for pattern in ('checkpoint', '*.index', '*.data-*-of-*', '*.meta', settings.CONVENTIONS_FILE):
        for path in glob.glob(os.path.join(glob.escape(folder), pattern)):
            os.remove(path)


def reason(error):
    """The system's error text if TensorFlow's message contains it, otherwise its first line. -> str"""
    text = getattr(error, 'message', None) or str(error)
    system = [os.strerror(number) for number in (errno.ENOSPC, errno.EFBIG, errno.EACCES, errno.EROFS, errno.ENOENT)]
    return next((words for words in system if words in text), text.strip().split('\n')[0])


# ---- Export ----------------------------------------------------------------------------------------------------------

def export_model(rebuild_graph, checkpoint_dir, export_dir):
    """Writes the network of a checkpoint and its conventions as a SavedModel, and prints its signature.

    rebuild_graph: of inference.py. export_dir: new or empty; it appears whole or not at all. Raises InputError if the
    checkpoint cannot be used or the folder cannot be written.
    """
    conventions = read_conventions(checkpoint_dir)
    folder = os.path.realpath(export_dir)
    try:
        with (tempfile.TemporaryDirectory(prefix='.export-', dir=os.path.dirname(folder)) as private,
              tf.Session(graph=tf.Graph()) as sess):
            aside = os.path.join(private, 'model')   # a subfolder, since the temporary folder is closed to other users
            # A graph needs one type: that of tf.image.resize, to which NumPy's bytes are converted.
            image = tf.placeholder(tf.float32, [None, None, None, 3], name='image')
            output = rebuild_graph(sess, checkpoint_dir, image, conventions.feature_dim)
            outputs = {'embedding': tf.identity(output[..., :conventions.feature_dim], name='embedding')}
            if conventions.classes:
                outputs['classes'] = tf.nn.softmax(output[..., conventions.feature_dim:], name='classes')
                outputs['foreground'] = tf.subtract(1., outputs['classes'][..., 0], name='foreground')
            elif conventions.foreground_weight:
                outputs['foreground'] = tf.sigmoid(output[..., conventions.feature_dim], name='foreground')
            tf.saved_model.simple_save(sess, aside, {'image': image}, outputs)
            settings.write(aside, conventions)
            os.replace(aside, folder)   # in the place of an empty folder, too
    except (tf.errors.OpError, OSError) as error:
        raise InputError(f'--export {export_dir}: cannot be written: {reason(error)}')
    print(f'{export_dir}: SavedModel of {checkpoint_dir}, signature serving_default')
    for name, tensor in {'image': image, **outputs}.items():
        print(f'  {name:<10} {tensor.dtype.name} [{", ".join(str(side or "?") for side in tensor.shape.as_list())}]')
    if conventions.batch_statistics or conventions.dropout_at_inference:
        print('as models of 2018 do, it normalises by the batch\'s own statistics, or drops channels: the result for '
              'an image depends on the others in its batch')
    width, height = conventions.image_size
    print(f'image is RGB 0..255, of any multiples of 8 in size; the model was trained at {width}x{height}')


# ---- The step of a run -----------------------------------------------------------------------------------------------

WARM_UP = 0.05      # of a cosine schedule: in this part of all steps the learning rate rises
NORM_DECAY = 0.99   # of batch norm's moving averages in the long run


def learning_rate(schedule, highest, step, num_steps):
    """The learning rate of a step, counted from 0. step: integer scalar tensor -> float32 scalar.

    schedule: '2018', times 0.96 every 5,000 steps; or 'cosine', a straight rise to `highest` over WARM_UP of num_steps,
    then half a cosine down to 0.
    """
    step = tf.cast(step, tf.float32)
    if schedule == '2018':
        return highest * 0.96 ** tf.floor(step / 5000.)
    warm_up = max(1., WARM_UP * num_steps)
    progress = tf.maximum(step - warm_up, 0.) / max(1., num_steps - warm_up)
    return highest * tf.minimum((step + 1.) / warm_up, 0.5 + 0.5 * tf.cos(math.pi * progress))


def norm_decay(step):
    """The decay of batch norm's moving averages: NORM_DECAY, and less in the first steps, which average few batches.

    step: integer scalar tensor, counted from 0 -> float32 scalar.
    """
    step = tf.cast(step, tf.float32)
    return tf.minimum(NORM_DECAY, (1. + step) / (10. + step))


def moving_average_updates():
    """Of the default graph's batch norms. -> [(variable, float32 tensor of its shape that is subtracted from it)]"""
    return [tuple(update.op.inputs) for update in tf.get_collection(tf.GraphKeys.UPDATE_OPS)]
