"""Network + head + conventions = model: how one is built, restored, trained, exported, saved and summarised.

A folder with a model holds a TensorFlow checkpoint and, beside it, `conventions.json`: what a reader of the weights has
to know and cannot see in them. A folder without that record is taken for one of 2018, whose conventions are the
defaults of `Conventions` with `batch_statistics` and `feature_dim` read off the weights.
"""
import collections
import contextlib
import dataclasses
import errno
import functools
import glob
import json
import math
import os
import queue
import re
import socket
import tempfile
import threading
import time
import types

import numpy as np
import tensorflow.compat.v1 as tf

import datagenerator
import enet
import loss
from data import files
from data.command_line import MAX_BANDWIDTH, MIN_BANDWIDTH, InputError

tf.disable_v2_behavior()

CONVENTIONS_FILE = 'conventions.json'
MAX_CONVENTIONS_BYTES = 2 ** 16
NUM_CLASSES = 12  # of ENet's own last layer, `fullconv`; the heads do not use it, the public checkpoints have it
HEAD = 'transfer_layer/conv2d_transpose'  # of a model, below its scope: Instance/ or Semantic/
# What TensorFlow raises, by one reader or another, about a file that is no checkpoint or a damaged one.
CHECKPOINT_ERRORS = (tf.errors.OpError, ValueError, RuntimeError, LookupError)
MOVING_AVERAGE = re.compile(r'ENet/.*/moving_(mean|variance)$')


# ---- Conventions ----------------------------------------------------------------------------------------------------

@dataclasses.dataclass(frozen=True)
class Conventions:
    """What a model takes for granted. The defaults are those of 2018."""
    image_size: tuple = (512, 512)    # (width, height) in px that photos are resized to
    normalisation: str = 'none'       # of RGB 0..255: 'none' or 'signed', to -1..1
    head: str = 'Instance'            # 'Instance', an embedding, or 'Semantic', the scores of (background, lane)
    feature_dim: int = 3              # channels of the head
    head_activation: str = 'relu'     # 'relu' or 'none'
    batch_statistics: bool = True     # at inference: True where the moving averages were never updated
    dropout_at_inference: bool = True  # as the graph of 2018 did, by mistake
    delta_v: float = 0.5              # the margins of the loss, in units of the embedding
    delta_d: float = 1.5
    bandwidth: float = 1.0            # of mean shift at inference, in units of the embedding
    version: int = 1                  # of this record

    def check(self, source):
        """Raises InputError, naming `source`, if a value is none that this version can follow."""
        def need(truth, name, meaning):
            if not truth:
                raise InputError(f'{source}: "{name}" is {getattr(self, name)!r}, not {meaning}')
        need(type(self.version) is int and self.version == 1, 'version', 'the version 1 that this program reads')
        need(isinstance(self.image_size, tuple) and len(self.image_size) == 2 and
             all(type(side) is int and 0 < side <= datagenerator.MAX_SIDE and side % 8 == 0
                 for side in self.image_size), 'image_size', '[width, height], multiples of 8')
        need(self.normalisation in ('none', 'signed'), 'normalisation', '"none" or "signed"')
        need(self.head in ('Instance', 'Semantic'), 'head', '"Instance" or "Semantic"')
        need(self.image_size[0] * self.image_size[1] <= datagenerator.MAX_MODEL_PIXELS, 'image_size',
             f'of {datagenerator.MAX_MODEL_PIXELS:,} pixels or less')
        need(type(self.feature_dim) is int and 0 < self.feature_dim <= datagenerator.MAX_FEATURE_DIM, 'feature_dim',
             f'a whole number from 1 to {datagenerator.MAX_FEATURE_DIM}')
        need(self.head_activation in ('none', 'relu'), 'head_activation', '"none" or "relu"')
        for name in ('batch_statistics', 'dropout_at_inference'):
            need(type(getattr(self, name)) is bool, name, 'true or false')
        for name in ('delta_v', 'delta_d', 'bandwidth'):
            value = getattr(self, name)
            need(type(value) in (int, float) and 0 < value < math.inf, name, 'a number above 0')
        need(MIN_BANDWIDTH <= self.bandwidth <= MAX_BANDWIDTH, 'bandwidth',
             f'from {MIN_BANDWIDTH:g} to {MAX_BANDWIDTH:g}')
        need(self.delta_v < self.delta_d, 'delta_v', f'below "delta_d", {self.delta_d!r}')


def read_conventions(checkpoint_dir):
    """The Conventions of the model in a folder. Raises InputError if it has no checkpoint or the record is damaged."""
    checkpoint = find_checkpoint(checkpoint_dir)
    path = os.path.join(checkpoint_dir, CONVENTIONS_FILE)
    if not os.path.exists(path):
        return _conventions_of_2018(checkpoint)
    try:
        with open(path, 'rb') as file:
            text = file.read(MAX_CONVENTIONS_BYTES + 1)
        if len(text) > MAX_CONVENTIONS_BYTES:
            raise ValueError(f'it has more than {MAX_CONVENTIONS_BYTES:,} bytes')
        record = json.loads(text.decode('utf-8'))
        record['image_size'] = tuple(record['image_size'])
        # By name: a record that lacks one is not completed from 2018, and one of a later version says so below.
        conventions = Conventions(**{field.name: record[field.name] for field in dataclasses.fields(Conventions)})
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise InputError(f'{path}: is no record of conventions ({type(error).__name__}: {error}); take the file '
                         f'that training wrote beside the checkpoint')
    conventions.check(path)
    return conventions


def _conventions_of_2018(checkpoint):
    """Those of a checkpoint without a record, as far as its variables tell."""
    reader, shapes = _open_checkpoint(checkpoint)
    try:
        updated = any((reader.get_tensor(name) != (0. if name.endswith('mean') else 1.)).any()
                      for name in shapes if MOVING_AVERAGE.match(name))
    except CHECKPOINT_ERRORS as error:
        raise InputError(f'{checkpoint}: is damaged ({_first_line(error)})')
    head = 'Semantic' if f'Semantic/{HEAD}/biases' in shapes else 'Instance'
    depth = (shapes.get(f'{head}/{HEAD}/biases') or [Conventions.feature_dim])[0]
    return Conventions(head=head, feature_dim=depth, batch_statistics=not updated)


def write_conventions(model_dir, conventions):
    """Writes the record beside a checkpoint, whole or not at all."""
    text = json.dumps(dataclasses.asdict(conventions), indent=1) + '\n'
    files.write_file(os.path.join(model_dir, CONVENTIONS_FILE), text.encode())


# ---- Graph ----------------------------------------------------------------------------------------------------------

def normalise(image, normalisation):
    """Raw RGB 0..255 [b, h, w, 3] of any type -> float32, what the network reads. The one place."""
    image = tf.cast(image, tf.float32)
    return image / 127.5 - 1. if normalisation == 'signed' else image


def build_model(input_image, conventions, is_training=False, noise=None, decay=0.9, reuse=None):
    """From raw RGB [b, h, w, 3] to the head, float32 [b, h, w, feature_dim]: an embedding or, if semantic, scores.

    noise, decay: of dropout and of batch norm's moving averages, see `enet.ENet`.
    """
    last_prelu = build_enet(input_image, conventions, is_training, noise, decay, reuse)
    return build_head(last_prelu, conventions.feature_dim, conventions.head, conventions.head_activation, reuse)


def build_enet(input_image, conventions, is_training=False, noise=None, decay=0.9, reuse=None):
    """`build_model` without its head. -> last_prelu, float32 [b, h/2, w/2, 16]."""
    if not is_training and conventions.dropout_at_inference:
        noise = enet.noise_of_2018
    enet.ENet(normalise(input_image, conventions.normalisation), NUM_CLASSES, None, skip_connections=False, reuse=reuse,
              is_training=is_training, batch_statistics=is_training or conventions.batch_statistics,
              decay=decay, noise=noise)
    # The last of its name: a second network in the same graph has a suffix in its name scope.
    return [op for op in tf.get_default_graph().get_operations()
            if re.match(r'ENet(_\d+)?/bottleneck5_1_last_prelu$', op.name)][-1].outputs[0]


def build_head(last_prelu, depth, scope='Instance', activation='none', reuse=None):
    """The transfer layer. last_prelu: float32 [b, h/2, w/2, 16] -> float32 [b, h, w, depth]."""
    with tf.variable_scope(f'{scope}/{HEAD}', reuse=reuse):
        output = enet.head(last_prelu, depth)
        return tf.nn.relu(output) if activation == 'relu' else output


def load_enet(sess, checkpoint_dir, input_image, batch_size, is_training=True):
    """Builds ENet with the weights of a checkpoint of any head, for a new head to be put on it.

    input_image: [b, h, w, 3], raw RGB 0..255. batch_size: any; not used. -> last_prelu, float32 [b, h/2, w/2, 16].
    The checkpoint's conventions hold, the normalisation of the image among them. Raises InputError, see `restore`.
    """
    conventions = read_conventions(checkpoint_dir)
    with sess.graph.as_default():
        last_prelu = build_enet(input_image, conventions, is_training)
        restore(sess, find_checkpoint(checkpoint_dir), tf.global_variables(scope='ENet/'))
        return last_prelu


def add_transfer_layers_and_initialize(sess, last_prelu, feature_dim):
    """Puts a fresh embedding head on ENet and initialises it. -> embedding, float32 [b, h, w, feature_dim]."""
    with sess.graph.as_default():
        embedding = build_head(last_prelu, feature_dim, reuse=tf.AUTO_REUSE)
        sess.run(tf.variables_initializer(tf.global_variables(scope='Instance/')))
        return embedding


def get_trainable_variables_and_initialize(sess, debug=False):
    """Initialises what has no value yet. -> the variables to train, see `to_train`."""
    with sess.graph.as_default():
        uninitialised = set(sess.run(tf.report_uninitialized_variables()))
        fresh = [v for v in tf.global_variables() if v.op.name.encode() in uninitialised]
        sess.run(tf.variables_initializer(fresh))
        trained = to_train()
    if debug:
        for variable in trained:
            print(f'{variable.op.name}\t{variable.shape}')
    return trained


def to_train():
    """The default graph's trainable variables but those of ENet's own last layer, which no head uses."""
    return [v for v in tf.trainable_variables() if not v.op.name.startswith('ENet/fullconv/')]


def weight_decay(variables):
    """The L2 penalty of those of `variables` that have one, a scalar."""
    names = {v.op.name for v in variables}
    penalties = [p for p in tf.get_collection(tf.GraphKeys.REGULARIZATION_LOSSES)
                 if p.op.name.split('/Regularizer')[0] in names]
    return tf.add_n(penalties)


def semantic_loss(scores, labels):
    """Cross entropy of lane or not, each class weighted by 1 / ln(1.02 + its share of the batch) (ENet, section 5.2).

    scores: float32 [b, h, w, 2]; labels: integers [b, h, w], 0 is background. -> a scalar.
    """
    classes = tf.cast(tf.not_equal(labels, 0), tf.int32)
    lane = tf.reduce_mean(tf.cast(classes, tf.float32))
    weights = tf.gather(1. / tf.log(1.02 + tf.stack([1. - lane, lane])), classes)
    entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=classes, logits=scores)
    return tf.reduce_sum(weights * entropy) / tf.reduce_sum(weights)


def count_parameters():
    """How many numbers the default graph's trainable variables hold."""
    return sum(v.shape.num_elements() for v in tf.trainable_variables())


def collect_summaries(disc_loss, l_var, l_dist, l_reg, input_image, prediction, correct_label):
    """-> (summary of a training step, summary of a validation step): serialised tf.Summary, scalar string tensors.

    Both hold the loss and its weighted terms, but for those that are None; the second also the photos [b, h, w, 3], the
    labels [b, h, w] as grey and the embedding's first three dimensions [b, h, w, d] as colours, and histograms of the
    embedding.
    """
    scalars = [tf.summary.scalar(name, value) for name, value in
               (('loss/total', disc_loss), ('loss/var', l_var), ('loss/dist', l_dist), ('loss/reg', l_reg))
               if value is not None]
    colours = tf.concat([prediction, tf.zeros_like(prediction), tf.zeros_like(prediction)], -1)[..., :3]
    pictures = [tf.summary.image('photo', tf.cast(input_image, tf.uint8), 2),
                tf.summary.image('label', tf.cast(correct_label, tf.float32)[..., None], 2),
                tf.summary.image('embedding', colours, 2),
                tf.summary.histogram('embedding', prediction)]
    return tf.summary.merge(scalars), tf.summary.merge(scalars + pictures)


# ---- Checkpoints ----------------------------------------------------------------------------------------------------

def find_checkpoint(checkpoint_dir):
    """The path prefix of a folder's newest checkpoint, see `checkpoints`. Raises InputError if there is none."""
    files.list_folder(checkpoint_dir, '; give one with a checkpoint')
    found = checkpoints(checkpoint_dir)
    if not found:
        raise InputError(f'{checkpoint_dir}: holds no checkpoint (*.index and *.data-00000-of-00001)')
    datagenerator.check_checkpoint_folder(checkpoint_dir)
    return found[0]


def checkpoints(checkpoint_dir):
    """Path prefixes of a folder's checkpoints that have all their files: the one it calls its newest, then by age.

    Whether the files are sound shows when they are read, see `restore`.
    """
    try:
        state = tf.train.get_checkpoint_state(checkpoint_dir)
    except (ValueError, tf.errors.OpError):  # the file `checkpoint` is damaged: the weights need not be
        state = None
    # By name, not by the path in the file: folders get moved.
    named = [os.path.join(checkpoint_dir, os.path.basename(state.model_checkpoint_path))] if state else []
    others = sorted(glob.glob(os.path.join(glob.escape(checkpoint_dir), '*.index')), key=os.path.getmtime, reverse=True)
    prefixes = dict.fromkeys(named + [path[:-len('.index')] for path in others])
    return [prefix for prefix in prefixes
            if os.path.exists(prefix + '.index') and glob.glob(glob.escape(prefix) + '.data-*-of-*')]


def restore(sess, checkpoint, variables, partial=False, log=lambda line: None):
    """Restores variables from a checkpoint. -> the names of those that came from it.

    checkpoint: path prefix. log: called with a line for each variable: from the file, or not and why; and for each in
    the file that has no use here. With `partial`, variables that the file lacks or has in another shape keep their
    values. Raises InputError that names the file and the first few such variables otherwise, or if it cannot be read.
    """
    _, shapes = _open_checkpoint(checkpoint)
    found, problems = [], []
    for variable in variables:
        name = variable.op.name
        problem = _misfit(name, variable.shape.as_list(), shapes)
        if problem:
            problems.append(problem)
            log(f'{name}: not from the checkpoint; {problem}')
        else:
            found.append(variable)
            log(f'{name}: from {checkpoint}')
    for name in sorted(shapes.keys() - {v.op.name for v in variables}):
        log(f'{name}: in {checkpoint}, not used here')
    if not found or not partial:
        _check_fit(checkpoint, problems, len(variables))
    try:
        with sess.graph.as_default():
            tf.train.Saver(found).restore(sess, checkpoint)
    except CHECKPOINT_ERRORS as error:
        raise InputError(f'{checkpoint}: is damaged ({_first_line(error)})')
    return [v.op.name for v in found]


@contextlib.contextmanager
def constant_weights(checkpoint):
    """In its block, get_variable gives the arrays of a checkpoint, and no variable is made.

    The network for inference is built so: in a fraction of the time, and what depends on weights alone is computed at
    once, see `enet`. checkpoint: path prefix. Raises InputError like `restore`.
    """
    reader, shapes = _open_checkpoint(checkpoint)
    names, problems = [], []

    def read(getter, name, shape, **kwargs):
        shape = tf.TensorShape(shape).as_list()
        names.append(name)
        problem = _misfit(name, shape, shapes)
        if problem:
            problems.append(problem)
            return np.zeros(shape, np.float32)
        try:
            return reader.get_tensor(name).astype(np.float32, copy=False)
        except CHECKPOINT_ERRORS as error:
            raise InputError(f'{checkpoint}: is damaged ({_first_line(error)})')

    with tf.variable_scope(tf.get_variable_scope(), custom_getter=read):
        yield
    _check_fit(checkpoint, problems, len(names))


def _misfit(name, shape, shapes):
    """Why a variable cannot come from a checkpoint with these shapes, or None."""
    if name not in shapes:
        return f'{name} {shape} is missing'
    return None if shapes[name] == shape else f'{name} is {shapes[name]} instead of {shape}'


def _check_fit(checkpoint, problems, count):
    if problems:
        raise InputError(f'{checkpoint}: is no checkpoint of this network, {len(problems)} of {count} variables '
                         f'do not fit: {"; ".join(problems[:3])}{"; ..." if len(problems) > 3 else ""}')


def _open_checkpoint(checkpoint):
    try:
        reader = tf.train.load_checkpoint(checkpoint)
        return reader, reader.get_variable_to_shape_map()
    except CHECKPOINT_ERRORS as error:
        raise InputError(f'{checkpoint}: cannot be read as a checkpoint ({_first_line(error)})')


def _first_line(error):
    return (getattr(error, 'message', None) or str(error)).strip().split('\n')[0]


# ---- Export ----------------------------------------------------------------------------------------------------------

def export_model(rebuild_graph, checkpoint_dir, export_dir):
    """Writes the network of a checkpoint and its conventions as a SavedModel, and prints its signature.

    rebuild_graph: the function of inference.py; export_dir: new or empty; it appears whole or not at all. Raises
    InputError if the checkpoint cannot be used or the folder cannot be written.
    """
    conventions = read_conventions(checkpoint_dir)
    folder = os.path.realpath(export_dir)
    try:
        with (tempfile.TemporaryDirectory(prefix='.export-', dir=os.path.dirname(folder)) as private,
              tf.Session(graph=tf.Graph()) as sess):
            aside = os.path.join(private, 'model')   # below, since the temporary folder is closed to other users
            # A graph needs one type: that of tf.image.resize, to which NumPy's bytes are converted.
            image = tf.placeholder(tf.float32, [None, None, None, 3], name='image')
            embedding = rebuild_graph(sess, checkpoint_dir, image, None, conventions.feature_dim)
            embedding = tf.identity(embedding, name='embedding')
            _save_for_serving(sess, {'image': image}, {'embedding': embedding}, aside)
            write_conventions(aside, conventions)
            os.replace(aside, folder)   # in the place of an empty folder, too
    except (tf.errors.OpError, OSError) as error:
        raise InputError(f'--export {export_dir}: cannot be written: {_reason(error)}')
    print(f'{export_dir}: SavedModel of {checkpoint_dir}, signature serving_default')
    for name, tensor in (('image', image), ('embedding', embedding)):
        print(f'  {name:<10} {tensor.dtype.name} [{", ".join(str(side or "?") for side in tensor.shape.as_list())}]')
    if conventions.batch_statistics or conventions.dropout_at_inference:
        print('as models of 2018 do, it normalises by the batch\'s own statistics, or drops channels: the result of a '
              'photo depends on the others in its batch')
    width, height = conventions.image_size
    print(f'image is RGB 0..255, of any multiples of 8 in size; the model was trained at {width}x{height}')


def _save_for_serving(sess, inputs, outputs, folder):
    """Writes sess.graph as a SavedModel into a new folder. inputs, outputs: {name: tensor} of serving_default."""
    signature = tf.saved_model.signature_def_utils.predict_signature_def(inputs, outputs)
    builder = tf.saved_model.Builder(folder)
    builder.add_meta_graph_and_variables(
        sess, [tf.saved_model.tag_constants.SERVING], strip_default_attrs=True,
        signature_def_map={tf.saved_model.signature_constants.DEFAULT_SERVING_SIGNATURE_DEF_KEY: signature})
    builder.save()


# ---- Training -------------------------------------------------------------------------------------------------------

WARM_UP = 0.05      # of a cosine schedule: in this part of all steps the learning rate rises
NORM_DECAY = 0.99   # of batch norm's moving averages in the long run

Step = collections.namedtuple('Step', ['terms', 'rate', 'norm', 'taken', 'summary', 'elsewhere'], defaults=[False])
Step.__doc__ = """What is known of one step of a training.

terms: float32 (loss, l_var, l_dist, l_reg), the terms weighted; of a semantic model the loss and zeros.
rate: the learning rate. norm: L2 norm of all gradients, before clipping.
taken: False if loss or gradient was not finite, so that the step changed nothing. summary: serialised tf.Summary.
elsewhere: True if not for the photos of this process but for those of another replica.
"""


def learning_rate(schedule, highest, step, num_steps):
    """Of a step, counted from 0. -> float32 scalar.

    schedule: '2018', times 0.96 every 5,000 steps; or 'cosine', a straight rise to `highest` over WARM_UP of num_steps,
    then half a cosine down to 0. step: integer scalar tensor.
    """
    step = tf.cast(step, tf.float32)
    if schedule == '2018':
        return highest * 0.96 ** tf.floor(step / 5000.)
    warm_up = max(1., WARM_UP * num_steps)
    progress = tf.maximum(step - warm_up, 0.) / max(1., num_steps - warm_up)
    return highest * tf.minimum((step + 1.) / warm_up, 0.5 + 0.5 * tf.cos(math.pi * progress))


def norm_decay(step):
    """Of batch norm's moving averages: NORM_DECAY, less in the first steps, whose averages are of few batches."""
    step = tf.cast(step, tf.float32)
    return tf.minimum(NORM_DECAY, (1. + step) / (10. + step))


def train_op(loss, variables, updates, rate, clip, step):
    """One step of Adam. -> (operation, norm, taken).

    loss: scalar. updates: tensors of tf.assign_sub, for batch norm's moving averages. rate: the learning rate. clip:
    all gradients together are scaled down to this L2 norm; the returned `norm` is from before. step: variable, counts
    up. Where loss or gradients are not finite, `taken` is False, and neither variables nor Adam's slots nor moving
    averages change.
    """
    # Built once more: an operation from outside a branch of tf.cond runs whichever branch is taken.
    return apply_if_finite(loss, gradients_of(loss, variables), [update.op.inputs for update in updates], rate, clip,
                           step)


def gradients_of(loss, variables):
    """-> [(gradient, variable)], without the variables that have none: a bias before a batch norm."""
    return [(g, v) for g, v in zip(tf.gradients(loss, variables), variables) if g is not None]


def apply_if_finite(loss, gradients, moves, rate, clip, step):
    """`train_op` from its gradients on. gradients: [(gradient, variable)]. moves: [(variable, what is subtracted)]."""
    gradients, variables = zip(*gradients)
    gradients, norm = tf.clip_by_global_norm(gradients, clip)
    finite = tf.logical_and(tf.is_finite(loss), tf.is_finite(norm))
    optimizer = tf.train.AdamOptimizer(rate)

    def take():
        moved = [tf.assign_sub(variable, move) for variable, move in moves]
        return tf.group(optimizer.apply_gradients(zip(gradients, variables)), *moved)

    # The rate is read from the step, which must not count up before.
    with tf.control_dependencies([tf.cond(finite, take, tf.no_op), rate]):
        return tf.group(tf.assign_add(step, 1)), norm, finite


class Trainer:
    """The graph and the session of a training: takes steps, looks at photos, saves and goes on.

    images are uint8 [b, h, w, 3], labels int32 [b, h, w], both of the conventions' image_size.
    """

    def __init__(self, conventions, num_steps, highest_rate=1e-4, schedule='2018', clip=5., weights=(1., 1., 1.),
                 seed=0, keep=3, background_weight=1.):
        """weights: of the three terms of the loss. background_weight: see `loss.discriminative_loss`.

        keep: how many states `save_state` leaves.
        """
        self.conventions, self._weights, self._background_weight = conventions, weights, background_weight
        width, height = conventions.image_size
        self._graph = tf.Graph()
        with self._graph.as_default(), self._placed():
            seed %= 2 ** 31
            tf.set_random_seed(seed)
            self._images = tf.placeholder(tf.uint8, [None, height, width, 3], name='images')
            self._labels = tf.placeholder(tf.int32, [None, height, width], name='labels')
            self._step = tf.train.create_global_step()
            # All that a training has to remember is a variable, so that a state is one checkpoint.
            self._epochs = tf.get_variable('epochs_validated', [], tf.int64, tf.zeros_initializer(), trainable=False)
            self._best = tf.get_variable('best_score', [], tf.float64, tf.constant_initializer(-math.inf),
                                         trainable=False)
            self._new_best = tf.placeholder(tf.float64, [])
            self._finish_epoch = tf.group(tf.assign(self._best, self._new_best), tf.assign_add(self._epochs, 1))
            self._build_training(num_steps, highest_rate, schedule, clip, seed)
            self._build_validation()
            self._all_variables = tf.global_variables()
            self._states = tf.train.Saver(self._all_variables, max_to_keep=keep, save_relative_paths=True)
            self._models = tf.train.Saver(self.variables, max_to_keep=1, save_relative_paths=True)
            self._session = self._open_session()

    def _placed(self):
        """A context that says where the parts of the graph live."""
        return contextlib.nullcontext()

    def _open_session(self):
        session = tf.Session()
        session.run(tf.global_variables_initializer())
        return session

    def _build_training(self, num_steps, highest_rate, schedule, clip, seed):
        step = tf.cast(self._step, tf.int32)
        output = build_model(self._images, self.conventions, is_training=True, decay=norm_decay(step),
                             noise=enet.noise_of_step(tf.stack([seed, step])))
        terms = self._loss(output)
        #: The model: ENet and its head, with the moving averages.
        self.variables = [v for v in tf.global_variables()
                          if v.op.name.startswith(('ENet/', self.conventions.head + '/'))]
        trained = to_train()
        penalty = weight_decay(trained)
        rate = learning_rate(schedule, highest_rate, step, num_steps)
        self._train, report = self._build_step(terms, penalty, trained, rate, clip)
        self._terms, penalty, self._rate, self._norm, self._taken = report
        self._summary = tf.summary.merge([
            collect_summaries(*self._shown(self._terms), self._images, output, self._labels)[0],
            tf.summary.scalar('loss/weight_decay', penalty), tf.summary.scalar('learning_rate', self._rate),
            tf.summary.scalar('gradient_norm', self._norm)])
        self._histograms = tf.summary.merge([tf.summary.histogram(v.op.name, v) for v in trained])

    def _build_step(self, terms, penalty, trained, rate, clip):
        """-> (the operation that takes a step, what is known of it: (terms, penalty, rate, norm, taken))."""
        operation, norm, taken = train_op(terms[0] + penalty, trained, tf.get_collection(tf.GraphKeys.UPDATE_OPS), rate,
                                          clip, self._step)
        return operation, (terms, penalty, rate, norm, taken)

    def _build_validation(self):
        self._output = build_model(self._images, self.conventions, is_training=False, reuse=True)
        with tf.name_scope('sample'):   # in TensorBoard
            self._valid_terms = self._loss(self._output)
            self._pictures = collect_summaries(*self._shown(self._valid_terms), self._images, self._output,
                                               self._labels)[1]

    def _shown(self, terms):
        """The terms of the loss that have curves: of a semantic model the loss alone."""
        return [terms[0], None, None, None] if self.conventions.head == 'Semantic' else terms

    def _loss(self, output):
        if self.conventions.head == 'Semantic':
            return semantic_loss(output, self._labels), tf.zeros([]), tf.zeros([]), tf.zeros([])
        return loss.discriminative_loss(output, self._labels, self.conventions.feature_dim, self.conventions.image_size,
                                        self.conventions.delta_v, self.conventions.delta_d, *self._weights,
                                        background_weight=self._background_weight)

    def step(self):
        """How many steps were taken."""
        return int(self._session.run(self._step))

    def epochs(self):
        """How many epochs were validated."""
        return int(self._session.run(self._epochs))

    def best(self):
        """The score of the best of them, -inf before the first."""
        return float(self._session.run(self._best))

    def train(self, images, labels):
        """Takes a step. -> Step."""
        # The summary each time: it costs nothing, and TensorFlow takes seconds to plan for other fetches.
        fetches = [self._terms, self._rate, self._norm, self._taken, self._summary, self._train]
        return Step(*self._session.run(fetches, {self._images: images, self._labels: labels})[:-1])

    def predict(self, images, labels):
        """-> (output of the head as at inference, float32 [b, h, w, feature_dim]; terms of the loss as in Step)."""
        return self._session.run([self._output, self._valid_terms], {self._images: images, self._labels: labels})

    def summarise(self, images, labels):
        """Pictures of these photos and histograms of the weights. -> list of serialised tf.Summary."""
        return self._session.run([self._pictures, self._histograms], {self._images: images, self._labels: labels})

    def finish_epoch(self, best):
        """Counts an epoch as validated. best: the score of the model that is kept."""
        self._session.run(self._finish_epoch, {self._new_best: best})

    def save_model(self, folder):
        """Puts the model and its conventions into a folder, in the place of the one there.

        Raises InputError if it cannot be saved; the one there is then still whole, as it is at any time.
        """
        files.make_output_folder(folder)   # may have vanished since
        write_conventions(folder, self.conventions)
        self._save(self._models, os.path.join(folder, f'model.ckpt-{self.step()}'))

    def save_state(self, folder):
        """Saves all that the training needs to go on. Raises InputError if that fails; older states are still whole."""
        # What has the same name has the same content: writing it once more does no harm at any time.
        self._save(self._states, os.path.join(folder, f'state.ckpt-{self.step()}-{self.epochs()}'))

    def _save(self, saver, prefix):
        """Writes a checkpoint and then removes what the saver does not keep."""
        folder = os.path.dirname(prefix)
        try:
            os.makedirs(folder, exist_ok=True)
            if not saver.last_checkpoints:   # those of an earlier process are for this one to remove
                found, keep = checkpoints(folder), saver.saver_def.max_to_keep
                for path in [path for old in found[keep:] for path in glob.glob(glob.escape(old) + '.*')]:
                    os.remove(path)   # more were kept before; the saver removes but one at a time
                saver.recover_last_checkpoints(found[:keep][::-1])
            saver.save(self._session, prefix, write_meta_graph=False)
        except (tf.errors.OpError, ValueError, OSError) as error:
            remove_unfinished(folder)
            raise InputError(f'{prefix}: cannot be saved: {_reason(error)}')

    def restore_state(self, folder, warn=lambda line: None):
        """Goes on from the newest state in a folder that is whole; `warn` hears of those that are not. -> its path.

        Raises InputError if there is none.
        """
        remove_unfinished(folder)
        problems = []
        for checkpoint in checkpoints(folder):
            try:
                restore(self._session, checkpoint, self._all_variables)
            except InputError as error:
                problems.append(str(error))
                continue
            for problem in problems:
                warn(f'{problem}; the training goes on from the state before it')
            return checkpoint
        raise InputError(problems[0] if problems else f'{folder}: holds no state of a training')

    def restore_model(self, checkpoint, log=lambda line: None):
        """Takes over what a checkpoint of this network has, whatever its head, see `restore`. -> names."""
        return restore(self._session, checkpoint, self.variables, partial=True, log=log)

    def close(self):
        self._session.close()


# ---- More than one machine ------------------------------------------------------------------------------------------
#
# The parameter servers (ps) hold the variables. Each replica, the chief and the workers, takes its own photos through
# the network; SyncReplicasOptimizer collects the gradients of all on the parameter servers and takes the step with
# their mean.
#
# A chief that starts, the first time or again, gives the variables a name of their own on the parameter servers (a
# TensorFlow container, here called a generation) and puts it on a notice board there, once they have their values. So
# nothing that an earlier chief or the workers of its time left there gets in the way: who finds another generation on
# the board joins that one.

POLL = 1.         # seconds from one look at the notice board to the next, while a replica waits
PATIENCE = 10.    # seconds before it says whom it waits for,
REMINDER = 60.    # and then says it again
LINGER = 20.      # seconds that a parameter server stays, at the most, when the others should be leaving
GONE = (tf.errors.AbortedError, tf.errors.CancelledError, tf.errors.DeadlineExceededError,
        tf.errors.FailedPreconditionError, tf.errors.OutOfRangeError, tf.errors.UnavailableError)


class Changed(Exception):
    """A parameter server or the chief has gone or started anew, and with it the variables of this generation."""


class Cluster:
    """This process as a member of a cluster.

    jobs: {'ps' or 'chief' or 'worker': ['host:port']}; job, index: which of them this process is. stop: a list that
    holds a signal once one has come. log: is called with a line about whom is waited for. Raises InputError if the
    server cannot start.
    """

    def __init__(self, jobs, job, index, stop, log):
        self.stop, self._log = stop, log
        self.name, self.is_chief = _name(job, index), job == 'chief'
        self.shard = (0 if self.is_chief else index + 1), 1 + len(jobs.get('worker', []))
        self.device = f'/job:{job}/task:{index}'
        self.spec = tf.train.ClusterSpec(jobs)
        self._addresses = {_name(job, i): address for job in jobs for i, address in enumerate(jobs[job])}
        self.servers = [name for name in self._addresses if name.startswith('ps')]
        # A parameter server leaves the GPU to the replicas.
        config = tf.ConfigProto(device_count={'GPU': 0}) if job == 'ps' else None
        try:
            self._server = tf.train.Server(self.spec, job, index, config=config)
        except tf.errors.OpError:
            raise InputError(f'TF_CONFIG: {self.name} cannot listen at {self._addresses[self.name]}; is that an '
                             f'address of this machine, and no other process there?')
        self.target = self._server.target
        with tf.Graph().as_default() as self._board:
            with tf.device('/job:ps/task:0'):
                self._notice = tf.get_variable('notice', [], tf.string, use_resource=False)
            self._text = tf.placeholder(tf.string, [])
            self._put_up = tf.assign(self._notice, self._text)
            self._tell = [tf.assign(words[self.name], self._text)
                          for words in map(self._said, self.servers) if self.name in words]

    def _said(self, server):
        """What each replica has last said, of which each parameter server has a copy. -> {name: variable}"""
        index = self.servers.index(server)
        with tf.device(f'/job:ps/task:{index}'):
            return {name: tf.get_variable(f'said_{index}/{name.replace(" ", "_")}', [], tf.string, use_resource=False)
                    for name in self._addresses if name not in self.servers}

    def config(self, **kwargs):
        """Of a session. It knows the parameter servers and itself alone: it lives on where another replica dies."""
        return tf.ConfigProto(device_filters=['/job:ps', self.device], **kwargs)

    def _run(self, operation, text=''):
        """One operation in a session of its own, which a parameter server that starts anew cannot spoil."""
        with tf.Session(self.target, graph=self._board, config=self.config(operation_timeout_in_ms=5000)) as session:
            return session.run(operation, {self._text: text})

    def silent(self, names):
        """Which of these members do not answer, with their addresses."""
        found = []
        for name in names:
            host, port = self._addresses[name].rsplit(':', 1)
            try:
                socket.create_connection((host.strip('[]'), int(port)), timeout=POLL).close()
            except (OSError, UnicodeError):   # the latter for what can be no host
                found.append(f'{name} at {self._addresses[name]}')
        return found

    def put_up(self, notice):
        """Puts a dict on the notice board. Raises Changed if the parameter servers do not answer."""
        try:
            self._run(self._put_up, json.dumps(notice))
        except GONE:
            raise Changed('the connection to a parameter server was lost')

    def notice(self):
        """The dict on the notice board, {} if there is none, None if a parameter server does not answer."""
        try:
            return None if self.silent(self.servers) else json.loads(self._run(self._notice))
        except tf.errors.FailedPreconditionError:
            return {}
        except GONE:
            return None

    def tell(self, word):
        """Lets the parameter servers know how this process is: begins, done or stopped. If they are there."""
        for _ in range(3):
            try:
                return None if self.silent(self.servers) else self._run(self._tell, word)
            except GONE:
                pass

    def wait(self, ready, purpose, names=None):
        """ready() as soon as it is true, None if a signal comes before. Says for which of the members it waits."""
        patience = PATIENCE
        began = time.monotonic()
        while not self.stop:
            value = ready()
            if value:
                return value
            waited = time.monotonic() - began
            silent = waited > patience and self.silent([name for name in names or self._addresses if name != self.name])
            if silent or waited > max(patience, REMINDER):   # a step and a validation can take long
                patience = waited + REMINDER
                self._log(f'{self.name}: {purpose}: ' + (f'waits for {" and ".join(silent)}, which does not answer'
                                                         if silent else f'takes long, though all members answer'))
        return None

    def serve(self):
        """The part of a parameter server: it is there until the others do not need it any more. -> exit status"""
        since = None
        with tf.Graph().as_default(), tf.device(self.device):   # the other servers need not be there
            heard = {name: tf.cond(tf.is_variable_initialized(word), word.read_value, lambda: '')
                     for name, word in self._said(self.name).items()}
            session = tf.Session(self.target, config=tf.ConfigProto(device_filters=[self.device]))
        with session:
            while True:
                time.sleep(POLL)
                said = {name: word.decode() for name, word in session.run(heard).items()}
                if all(word == 'done' for word in said.values()):
                    return 0
                if said['chief'] == 'done' or self.stop:
                    since = since or time.monotonic()
                    if time.monotonic() - since > LINGER or self.stop and said['chief'] != 'begins':
                        return 128 + self.stop[0] if self.stop else 0
                else:
                    since = None


def _name(job, index):
    return job if job == 'chief' else f'{job} {index}'


class _Background:
    """act() in a thread. Nothing else can wait for TensorFlow and still hear a signal."""

    def __init__(self, act):
        self._act, self._result = act, queue.SimpleQueue()
        threading.Thread(target=self._work, daemon=True).start()

    def _work(self):
        try:
            value = self._act()
            self._result.put(lambda: value)
        except BaseException as error:
            self._result.put(functools.partial(_throw, error))

    def ready(self):
        """What gives the value, or raises what act() raised; None after POLL seconds without either."""
        try:
            return self._result.get(timeout=POLL)
        except queue.Empty:
            return None


def _throw(error):
    raise error


class ReplicaTrainer(Trainer):
    """The Trainer of a replica: takes each step together with all the others.

    A step is that of one process with the photos of all: the loss, the gradient before it is clipped and the movement
    of batch norm's moving averages are the means over the replicas, and a step that is finite for all but one is taken
    by none. Only batch norm sees the difference: a replica normalises by the statistics of its own photos.
    """

    def __init__(self, cluster, generation, *args, **kwargs):
        self._cluster, self.generation = cluster, generation
        self._monitored = None
        super().__init__(*args, **kwargs)

    @contextlib.contextmanager
    def _placed(self):
        setter = tf.train.replica_device_setter(cluster=self._cluster.spec, worker_device=self._cluster.device)
        with tf.container(self.generation), tf.device(setter):
            yield

    def _open_session(self):
        session = tf.Session(self._cluster.target, config=self._cluster.config())
        if self._cluster.is_chief:
            session.run([tf.global_variables_initializer(), self._report.initializer])
        return session

    def _build_step(self, terms, penalty, trained, rate, clip):
        loss = terms[0] + penalty
        gradients = gradients_of(loss, trained)
        moves = [update.op.inputs for update in tf.get_collection(tf.GraphKeys.UPDATE_OPS)]
        self._finite = tf.is_finite(loss + tf.global_norm([gradient for gradient, _ in gradients]))
        # Is handed in like a gradient, and then tells all replicas of the step: four terms, penalty, rate, norm, taken.
        self._report = tf.get_variable('report', [8], initializer=tf.zeros_initializer(), trainable=False,
                                       collections=['report'])
        report = tf.stack([*terms, penalty, 0., 0., 0.])
        with tf.device(self._cluster.device):
            permits = tf.FIFOQueue(1, tf.bool, [()], name='permits', shared_name='permits')

        def apply_means(means, step):
            means = list(means)
            with tf.control_dependencies([mean for mean, _ in means]):
                permit = permits.dequeue()
            with tf.control_dependencies([permit]):
                (report, _), *means = [(tf.identity(mean), variable) for mean, variable in means]
            operation, norm, taken = apply_if_finite(
                report[0] + report[4], means[:len(gradients)],
                [(variable, mean) for mean, variable in means[len(gradients):]], rate, clip, step)
            return tf.group(operation, tf.assign(self._report, tf.stack([*tf.unstack(report[:5]), rate, norm,
                                                                         tf.cast(taken, tf.float32)])))

        self._sync = tf.train.SyncReplicasOptimizer(types.SimpleNamespace(apply_gradients=apply_means),
                                                    self._cluster.shard[1])
        operation = self._sync.apply_gradients(
            [(report, self._report), *gradients, *[(move, variable) for variable, move in moves]], self._step)
        with tf.device(self._step.device):
            tokens = tf.FIFOQueue(-1, tf.int64, [()], shared_name='sync_token_q')   # that of SyncReplicasOptimizer
        self._token, self._new_token = tokens.dequeue(), tokens.enqueue(self._step)
        self._permit, self._withdraw = permits.enqueue(True), permits.dequeue()
        *terms, penalty, rate, norm, taken = tf.unstack(self._report)
        return operation, (terms, penalty, rate, norm, tf.greater(taken, 0.))

    def join(self):
        """From here on this replica takes part."""
        with self._graph.as_default():
            # The variables have their values.
            scaffold = tf.train.Scaffold(init_op=tf.no_op(), saver=self._states, summary_op=tf.no_op())
            self._monitored = tf.train.MonitoredTrainingSession(
                self._cluster.target, self._cluster.is_chief, scaffold=scaffold,
                hooks=[_Synchronised(self._sync, self._cluster.is_chief)], config=self._cluster.config(),
                stop_grace_period_secs=1, max_wait_secs=60)
        self._next = self.step()

    def train(self, images, labels):
        """Takes a step together with the others. -> Step, or None if a signal came while this one waited for them.

        Raises Changed.
        """
        late = []

        def look():
            notice = self._cluster.notice()
            if notice is not None and notice.get('generation') != self.generation:
                raise Changed('the chief or a parameter server has started anew')
            if notice is not None and self.step() > self._next:
                late.append(notice)
                if len(late) > 2:   # the token of this replica went to one that had died
                    self._session.run(self._new_token)

        feed = {self._images: images, self._labels: labels}
        try:
            if self._cluster.is_chief:
                self._session.run(self._permit)
            token, finite = self._patiently(lambda: self._monitored.run([self._train, self._finite], feed), look)
            while token <= self._next:   # left by a worker that died
                token = self._patiently(lambda: self._session.run(self._token), look)
                self._session.run(self._sync.local_step_init_op)
            self._next = int(token)
            fetches = [self._terms, self._rate, self._norm, self._taken, self._summary]
            step = Step(*self._session.run(fetches))
        except _Stopped:
            return None
        except (*GONE, RuntimeError):   # the last is MonitoredTrainingSession's
            raise Changed('the connection to the others was lost')
        return step._replace(elsewhere=bool(finite) and not step.taken)

    def _patiently(self, act, look):
        """The value of act(), which other replicas can hold up. Raises _Stopped if a signal comes first."""
        background = _Background(act)

        def ready():
            result = background.ready()
            if result is None:
                look()
            return result
        result = self._cluster.wait(ready, f'step {self._next + 1}')
        if result is None and not self._cluster.is_chief:
            raise _Stopped
        # The chief takes its permit back, unless the update has begun: no state may be saved while it is under way.
        withdrawal = None
        while result is None:
            withdrawal = withdrawal or _Background(lambda: self._session.run(self._withdraw))
            withdrawn = withdrawal.ready()
            if withdrawn:
                withdrawn()
                raise _Stopped
            result = background.ready()
        return result()

    def close(self):
        for session in (self._monitored, self._session):
            try:
                session and session.close()
            except (*GONE, RuntimeError):
                pass   # what it is connected with has gone before it


class _Stopped(Exception):
    """A signal came."""


class _Synchronised(tf.train.SessionRunHook):
    """What SyncReplicasOptimizer.make_session_run_hook() does, but quiet at the end and for one session only.

    MonitoredTrainingSession makes another where it lost the connection; who knows what the first one had done by then.
    """

    def __init__(self, sync, is_chief):
        self._start = sync.chief_init_op if is_chief else sync.local_step_init_op
        sync.ready_for_local_init_op.mark_used()
        self._runner, self._started = None, False
        if is_chief:
            runner = sync.get_chief_queue_runner()
            self._runner = tf.train.QueueRunner(
                runner.queue, runner.enqueue_ops,
                queue_closed_exception_types=(tf.errors.OutOfRangeError, tf.errors.CancelledError))

    def after_create_session(self, session, coord):
        if self._started:
            raise Changed('the connection to a parameter server was lost')
        self._started = True
        session.run(self._start)
        if self._runner:
            self._runner.create_threads(session, coord, daemon=True, start=True)


# ---- What a training leaves behind ----------------------------------------------------------------------------------

class EventFile:
    """What TensorBoard shows of a training. Where it cannot be written, `warn` hears of it once, and that is all.

    step: that the training goes on from. What a run before wrote of later steps, TensorBoard then forgets.
    """

    def __init__(self, logdir, step, warn):
        self._warn, self._writer = warn, None
        self._path = os.path.join(logdir, f'events.out.tfevents.{time.time():.6f}.{os.getpid()}')
        try:
            # Not tf.summary.FileWriter, whose thread fails with a traceback.
            self._writer = tf.python_io.TFRecordWriter(self._path)
        except (tf.errors.OpError, OSError) as error:
            self._fail(error)
        self._write(file_version='brain.Event:2')
        self._write(session_log=tf.SessionLog(status=tf.SessionLog.START), step=step + 1)
        self.flush()

    def add(self, summary, step):
        """summary: serialised tf.Summary."""
        self._write(summary=tf.Summary.FromString(summary), step=step)

    def add_scalars(self, values, step):
        """values: {tag: number}."""
        self._write(summary=tf.Summary(value=[tf.Summary.Value(tag=tag, simple_value=value)
                                              for tag, value in values.items()]), step=step)

    def add_pictures(self, tag, pictures, step):
        """pictures: PNG files as bytes."""
        self._write(summary=tf.Summary(value=[
            tf.Summary.Value(tag=f'{tag}/{i}', image=tf.Summary.Image(encoded_image_string=picture))
            for i, picture in enumerate(pictures)]), step=step)

    def flush(self):
        self._try(lambda writer: writer.flush())
        if self._writer is not None and not os.path.exists(self._path):
            self._fail(FileNotFoundError('it was removed'))

    def close(self):
        self._try(lambda writer: writer.close())
        self._writer = None

    def _write(self, **event):
        self._try(lambda writer: writer.write(tf.Event(wall_time=time.time(), **event).SerializeToString()))

    def _try(self, act):
        if self._writer is not None:
            try:
                act(self._writer)
            except (tf.errors.OpError, OSError) as error:
                self._fail(error)

    def _fail(self, error):
        self._writer = None
        self._warn(f'{self._path}: cannot be written: {_reason(error)}; the training goes on without TensorBoard')


def remove_unfinished(folder):
    """Removes what a process that was killed while it saved has left in a folder of checkpoints."""
    for pattern in ('*.tempstate*', 'checkpoint.tmp*', '.*.json.tmp'):
        for path in glob.glob(os.path.join(glob.escape(folder), pattern)):
            os.remove(path)


def remove_model(folder):
    """Removes the checkpoints of a folder and its conventions, if there are any."""
    remove_unfinished(folder)
    for pattern in ('checkpoint', '*.index', '*.data-*-of-*', '*.meta', CONVENTIONS_FILE):
        for path in glob.glob(os.path.join(glob.escape(folder), pattern)):
            os.remove(path)


def _reason(error):
    """The system's word for what went wrong, which TensorFlow's errors hold among much else."""
    reasons = (os.strerror(number) for number in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EACCES, errno.EROFS,
                                                  errno.EIO, errno.ENOENT))
    return next((reason for reason in reasons if reason in str(error)), _first_line(error))
