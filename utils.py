"""Network + head + conventions = model: how one is built, restored, exported and saved; the folder of a training; and
training on more than one machine.

A folder with a model holds a TensorFlow checkpoint and, beside it, `conventions.json`: what a reader of the weights has
to know and cannot see in them. A folder without that record is taken for one of 2018, whose conventions are the
defaults of `Conventions` with `batch_statistics` and `feature_dim` read off the weights.
"""
import collections
import contextlib
import dataclasses
import errno
import glob
import json
import math
import os
import re
import signal
import socket
import tempfile
import threading
import time
import zlib

try:
    import fcntl
except ImportError:   # Windows, where nothing guards an --outdir against a second training
    fcntl = None

import numpy as np
import tensorflow.compat.v1 as tf

import enet
from data.common import command_line, files, quiet
from data.common.command_line import InputError

tf.disable_v2_behavior()

CONVENTIONS_FILE = 'conventions.json'
FLAGS_FILE = 'flags.json'   # beside the states of a training: what it was given
# What may differ when a training goes on. What the photos are is compared by names and sizes, wherever they are now.
FREE_FLAGS = {'recipe', 'srcdir', 'outdir', 'logdir', 'epochs', 'workers', 'cache', 'keep', 'save_minutes',
              'summary_steps', 'pictures', 'fresh'}
UNFINISHED = ('*.tempstate*', 'checkpoint.tmp*', files.UNFINISHED + '*')   # of a process that was killed in a save
MAX_JSON_BYTES = 2 ** 20    # of conventions and flags, which have 1 kB
NUM_CLASSES = 12  # of ENet's own last layer, `fullconv`; the heads do not use it, the public checkpoints have it
HEAD = 'transfer_layer/conv2d_transpose'  # of a model, below its scope: Instance/ or Semantic/
# What TensorFlow raises, by one reader or another, about a file that is damaged or not a checkpoint.
CHECKPOINT_ERRORS = (tf.errors.OpError, ValueError, RuntimeError, LookupError)
SINCE_VERSION_2 = ('kind', 'var', 'dist', 'reg', 'background_weight', 'foreground_weight', 'foreground_threshold',
                   'coordinates')
SPAN = 8.   # of a picture's longer side in the embedding where the coordinates' weights start, in units of 2 delta_d
MOVING_AVERAGE = re.compile(r'ENet/.*/moving_(mean|variance)$')


# ---- Conventions -----------------------------------------------------------------------------------------------------

@dataclasses.dataclass(frozen=True)
class Conventions:
    """What a reader of the weights has to know. The defaults are those of 2018."""
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
    # Since version 2 of this record:
    kind: str = 'road'                # of picture: 'road' or 'any'
    var: float = 1.0                  # weights of the loss: alpha, beta and gamma of the paper
    dist: float = 1.0
    reg: float = 1.0
    background_weight: float = 1.0    # of the background in L_var; at 0 it is no instance of the embedding at all
    foreground_weight: float = 0.0    # of the foreground head's loss; at 0 there is no such head
    foreground_threshold: float = 0.5   # probability from which on a pixel is foreground
    coordinates: bool = False         # whether a pixel's place is part of its embedding
    version: int = 2

    @property
    def heads(self):
        """The scopes of the heads -> {scope: channels}."""
        return {self.head: self.feature_dim, **({'Semantic': 2} if self.foreground_weight else {})}

    def reach(self, scope):
        """The `reach` of a head, see `build_head`. -> float, 0 for a head without coordinates"""
        return SPAN * self.delta_d if self.coordinates and scope == 'Instance' else 0.

    def check(self, source):
        """Raises InputError, naming `source`, if this version does not know what a value means."""
        def need(truth, name, meaning):
            if not truth:
                raise InputError(f'{source}: "{name}" is {getattr(self, name)!r}, not {meaning}')
        need(type(self.version) is int and self.version in (1, 2), 'version', '1 or 2, which this program reads')
        need(isinstance(self.image_size, tuple) and len(self.image_size) == 2 and
             all(type(side) is int and 0 < side <= command_line.MAX_SIDE and side % 8 == 0
                 for side in self.image_size), 'image_size', '[width, height], multiples of 8')
        need(self.normalisation in ('none', 'signed'), 'normalisation', '"none" or "signed"')
        need(self.head in ('Instance', 'Semantic'), 'head', '"Instance" or "Semantic"')
        need(self.image_size[0] * self.image_size[1] <= command_line.MAX_MODEL_PIXELS, 'image_size',
             f'of {command_line.MAX_MODEL_PIXELS:,} pixels or less')
        need(type(self.feature_dim) is int and 0 < self.feature_dim <= command_line.MAX_FEATURE_DIM, 'feature_dim',
             f'a whole number from 1 to {command_line.MAX_FEATURE_DIM}')
        need(self.head_activation in ('none', 'relu'), 'head_activation', '"none" or "relu"')
        for name in ('batch_statistics', 'dropout_at_inference', 'coordinates'):
            need(type(getattr(self, name)) is bool, name, 'true or false')
        for name in ('delta_v', 'delta_d', 'bandwidth'):
            value = getattr(self, name)
            need(type(value) in (int, float) and 0 < value < math.inf, name, 'a number above 0')
        need(command_line.MIN_BANDWIDTH <= self.bandwidth <= command_line.MAX_BANDWIDTH, 'bandwidth',
             f'from {command_line.MIN_BANDWIDTH:g} to {command_line.MAX_BANDWIDTH:g}')
        need(self.delta_v < self.delta_d, 'delta_v', f'below "delta_d", {self.delta_d!r}')
        need(self.kind in ('road', 'any'), 'kind', '"road" or "any"')
        for name in ('var', 'dist', 'reg', 'background_weight', 'foreground_weight'):
            value = getattr(self, name)
            need(type(value) in (int, float) and 0 <= value < math.inf, name, 'a number of 0 or above')
        need(type(self.foreground_threshold) in (int, float) and 0 <= self.foreground_threshold <= 1,
             'foreground_threshold', 'a number from 0 to 1')
        need(self.head == 'Instance' or not self.foreground_weight, 'foreground_weight', '0, as of a semantic model')
        need(self.head == 'Instance' or not self.coordinates, 'coordinates', 'false, as of a semantic model')


def read_conventions(checkpoint_dir):
    """-> the Conventions of the model in a folder. Raises InputError if it has no checkpoint or a damaged record."""
    checkpoint = find_checkpoint(checkpoint_dir)
    path = os.path.join(checkpoint_dir, CONVENTIONS_FILE)
    if not has_record(checkpoint_dir):
        return _conventions_of_2018(checkpoint)
    try:
        record = json.loads(files.read_file(path, MAX_JSON_BYTES).decode('utf-8'))
        record['image_size'] = tuple(record['image_size'])
        # By name: a record that lacks one is not completed from 2018, and one of a later version says so below.
        names = [field.name for field in dataclasses.fields(Conventions)]
        if record['version'] == 1:
            names = [name for name in names if name not in SINCE_VERSION_2]
        elif 'coordinates' not in record:   # of a training that was begun before these were there
            names.remove('coordinates')
        conventions = Conventions(**{name: record[name] for name in names})
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise InputError(f'{path}: is not a record of conventions ({type(error).__name__}: {error}); take the file '
                         f'that training wrote beside the checkpoint')
    conventions.check(path)
    return conventions


def has_record(checkpoint_dir):
    """-> whether a folder has a record of conventions, without which those of 2018 are read"""
    return os.path.exists(os.path.join(checkpoint_dir, CONVENTIONS_FILE))


def _conventions_of_2018(checkpoint):
    """-> the Conventions of a checkpoint without a record, as far as its variables tell"""
    reader, shapes = _open_checkpoint(checkpoint)
    try:
        updated = any((reader.get_tensor(name) != (0. if name.endswith('mean') else 1.)).any()
                      for name in shapes if MOVING_AVERAGE.match(name))
    except CHECKPOINT_ERRORS as error:
        raise InputError(f'{checkpoint}: is damaged ({_first_line(error)})')
    heads = [name for name in ('Semantic', 'Instance') if f'{name}/{HEAD}/biases' in shapes] or ['Instance']
    if len(heads) > 1:
        raise InputError(f'{checkpoint}: has a foreground head, so it is no model of 2018, and the {CONVENTIONS_FILE} '
                         f'that was written beside it is missing')
    head = heads[0]
    depth = (shapes.get(f'{head}/{HEAD}/biases') or [Conventions.feature_dim])[0]
    return Conventions(head=head, feature_dim=depth, batch_statistics=not updated)


def write_conventions(model_dir, conventions):
    """Writes the record beside a checkpoint, whole or not at all."""
    text = json.dumps(dataclasses.asdict(conventions), indent=1) + '\n'
    files.write_file(os.path.join(model_dir, CONVENTIONS_FILE), text.encode())


# ---- Graph -----------------------------------------------------------------------------------------------------------

def normalise(image, normalisation):
    """image: raw RGB 0..255 [b, h, w, 3] of any type -> float32 of that shape, as the network reads it."""
    image = tf.cast(image, tf.float32)
    return image / 127.5 - 1. if normalisation == 'signed' else image


def build_model(input_image, conventions, is_training=False, noise=None, decay=0.9, reuse=None, architecture=None):
    """input_image: raw RGB [b, h, w, 3] -> float32 [b, h, w, channels], see `join_heads`.

    noise, decay: of dropout and of batch norm's moving averages, see `enet.ENet`. architecture: an enet.Architecture,
    by default the paper's.
    """
    last_prelu = build_enet(input_image, conventions, is_training, noise, decay, reuse, architecture)
    return join_heads([build_head(last_prelu, depth, scope, conventions.head_activation, reuse,
                                  conventions.reach(scope))
                       for scope, depth in conventions.heads.items()])


def build_enet(input_image, conventions, is_training=False, noise=None, decay=0.9, reuse=None, architecture=None):
    """`build_model` without its head. -> last_prelu, the features that heads read, float32 [b, h/2, w/2, 16]."""
    if not is_training and conventions.dropout_at_inference:
        noise = enet.noise_of_2018
    images = normalise(input_image, conventions.normalisation)
    return enet.ENet(images, NUM_CLASSES, reuse=reuse, is_training=is_training,
                     batch_statistics=is_training or conventions.batch_statistics, decay=decay, noise=noise,
                     return_features=True, architecture=architecture or enet.PAPER)[-1]


def build_head(last_prelu, depth, scope='Instance', activation='none', reuse=None, reach=0.):
    """The transfer layer. last_prelu: float32 [b, h/2, w/2, 16] -> float32 [b, h, w, depth].

    reach: if not 0, each pixel's place is part of its embedding: its coordinates times a trained matrix, which starts
    such that half the longer side of a picture is `reach` along the first two dimensions. Convolutions do the same
    everywhere, so that of instances that look alike the features alone cannot tell one from the other; with the place
    added, what they have to tell is the way to the instance's centre, the same everywhere (Neven et al., Instance
    Segmentation by Jointly Optimizing Spatial Embeddings and Clustering Bandwidth, 2019, section 3.1).
    """
    with tf.variable_scope(f'{scope}/{HEAD}', reuse=reuse):
        output = enet.head(last_prelu, depth)
        if activation == 'relu':
            output = tf.nn.relu(output)
    if reach:
        with tf.variable_scope(f'{scope}/coordinates', reuse=reuse):
            weights = tf.get_variable('weights', [2, depth],
                                      initializer=tf.constant_initializer(reach * np.eye(2, depth, dtype=np.float32)))
        x, y = pixel_coordinates(output)
        output += x[:, None] * weights[0] + y[:, None, None] * weights[1]
    return output


def pixel_coordinates(x):
    """Where the pixels of a picture are, 0 in its middle. x: [b, h, w, c] -> (x float32 [w], y float32 [h])

    The longer side goes from -1 to 1, the other as far as it is long, so that both have one unit.
    """
    _, height, width, _ = enet.dynamic_shape(x)
    longer = tf.cast(tf.maximum(height, width), tf.float32)
    return [(2. * tf.range(tf.cast(side, tf.float32)) + 1. - tf.cast(side, tf.float32)) / longer
            for side in (width, height)]


def join_heads(outputs):
    """The output of a model from those of its heads, float32 [b, h, w, depth] each. -> float32 [b, h, w, channels]

    With one head its own: an embedding, or the scores of (background, foreground). With a foreground head beside the
    embedding, the last channel is the logarithm of the odds that a pixel is foreground.
    """
    output, *scores = outputs
    return tf.concat([output, scores[0][..., 1:] - scores[0][..., :1]], axis=-1) if scores else output


def load_enet(sess, checkpoint_dir, input_image, batch_size, is_training=True, conventions=None, decay=0.9, noise=None,
              least=None, log=lambda line: None, architecture=None):
    """Builds ENet with the weights of a checkpoint of any head, for a new head to be put on it.

    input_image: [b, h, w, 3], raw RGB 0..255. batch_size: any; not used. -> last_prelu, float32 [b, h/2, w/2, 16]
    The normalisation of the image and all else is as in `conventions`, by default those of the checkpoint. least, log:
    see `restore`. architecture: see `build_model`. With checkpoint_dir None the weights have no values yet. Raises
    InputError as `restore` does.
    """
    conventions = conventions or read_conventions(checkpoint_dir)
    with sess.graph.as_default():
        last_prelu = build_enet(input_image, conventions, is_training, noise, decay, architecture=architecture)
        if checkpoint_dir:
            restore(sess, find_checkpoint(checkpoint_dir), tf.global_variables(scope='ENet/'), least, log)
        return last_prelu


def add_transfer_layers_and_initialize(sess, last_prelu, feature_dim, scope='Instance', checkpoint_dir=None,
                                       log=lambda line: None, reach=0.):
    """Puts a head on ENet: fresh, or as in a checkpoint that has one like it. -> float32 [b, h, w, feature_dim]

    last_prelu: float32 [b, h/2, w/2, 16]. scope: 'Instance', an embedding, or 'Semantic', scores. log: see `restore`.
    reach: see `build_head`.
    """
    with sess.graph.as_default():
        output = build_head(last_prelu, feature_dim, scope, reuse=tf.AUTO_REUSE, reach=reach)
        variables = tf.global_variables(scope=f'{scope}/')
        _initialize(sess, variables)
        if checkpoint_dir:
            restore(sess, find_checkpoint(checkpoint_dir), variables, 0, log)
        return output


def get_trainable_variables_and_initialize(sess, debug=False, initialised=None):
    """Initialises what has no value yet. -> the variables to train, see `to_train`

    initialised: names of the variables that have a value; by default the session is asked, which takes a second.
    """
    with sess.graph.as_default():
        if initialised is None:
            _initialize(sess, tf.global_variables())
        else:
            sess.run(tf.variables_initializer([v for v in tf.global_variables() if v.op.name not in initialised]))
        trained = to_train()
    if debug:
        for variable in trained:
            print(f'{variable.op.name}\t{variable.shape}')
    return trained


def _initialize(sess, variables):
    """Gives the variables that have no value yet their first one."""
    uninitialised = set(sess.run(tf.report_uninitialized_variables(variables)))
    sess.run(tf.variables_initializer([v for v in variables if v.op.name.encode() in uninitialised]))


def to_train():
    """-> the default graph's trainable variables but those of ENet's own last layer, which no head uses"""
    return [v for v in tf.trainable_variables() if not v.op.name.startswith('ENet/fullconv/')]


def weight_decay(variables):
    """The sum of the L2 penalties of those of `variables` that have one. -> float32 scalar"""
    names = {v.op.name for v in variables}
    penalties = [p for p in tf.get_collection(tf.GraphKeys.REGULARIZATION_LOSSES)
                 if p.op.name.split('/Regularizer')[0] in names]
    return tf.add_n(penalties)


def count_parameters():
    """-> the number of weights in the default graph's trainable variables, int"""
    return sum(v.shape.num_elements() for v in tf.trainable_variables())


def collect_summaries(disc_loss, l_var, l_dist, l_reg, input_image, prediction, correct_label, l_foreground=None):
    """-> (summary of a training step, summary of a validation step): serialised tf.Summary, scalar string tensors.

    Both hold the loss and its weighted terms, but for those that are None; the second also the photos [b, h, w, 3], the
    labels [b, h, w] as grey and the embedding's first three dimensions [b, h, w, d] as colours, and histograms of the
    embedding.
    """
    scalars = [tf.summary.scalar(name, value) for name, value in
               (('loss/total', disc_loss), ('loss/var', l_var), ('loss/dist', l_dist), ('loss/reg', l_reg),
                ('loss/foreground', l_foreground))
               if value is not None]
    colours = tf.concat([prediction, tf.zeros_like(prediction), tf.zeros_like(prediction)], -1)[..., :3]
    pictures = [tf.summary.image('photo', tf.cast(input_image, tf.uint8), 2),
                tf.summary.image('label', tf.cast(correct_label, tf.float32)[..., None], 2),
                tf.summary.image('embedding', colours, 2),
                tf.summary.histogram('embedding', prediction)]
    return tf.summary.merge(scalars), tf.summary.merge(scalars + pictures)


# ---- Checkpoints -----------------------------------------------------------------------------------------------------

def find_checkpoint(checkpoint_dir):
    """-> the path prefix of a folder's newest checkpoint, see `checkpoints`. Raises InputError if there is none."""
    files.list_folder(checkpoint_dir, '; give one with a checkpoint')
    found = checkpoints(checkpoint_dir)
    if not found:
        raise InputError(f'{checkpoint_dir}: holds no checkpoint (*.index and *.data-00000-of-00001)')
    quiet.check_checkpoint_folder(checkpoint_dir)
    return found[0]


def checkpoints(checkpoint_dir):
    """-> path prefixes of a folder's checkpoints that have all their files: the one it names as the newest, then by age

    Whether the files are sound shows when they are read, see `restore`.
    """
    try:
        files.read_file(os.path.join(checkpoint_dir, 'checkpoint'), MAX_JSON_BYTES)   # a pipe would be waited for
        state = tf.train.get_checkpoint_state(checkpoint_dir)
    except (InputError, ValueError, tf.errors.OpError):   # missing or damaged: the weights need not be
        state = None
    # By name, not by the path in the file: folders get moved.
    named = [os.path.join(checkpoint_dir, os.path.basename(state.model_checkpoint_path))] if state else []
    others = [path for path in glob.glob(os.path.join(glob.escape(checkpoint_dir), '*.index')) if os.path.isfile(path)]
    others.sort(key=os.path.getmtime, reverse=True)
    prefixes = dict.fromkeys(named + [path[:-len('.index')] for path in others])
    return [prefix for prefix in prefixes
            if os.path.isfile(prefix + '.index')
            and any(os.path.isfile(path) for path in glob.glob(glob.escape(prefix) + '.data-*-of-*'))]


def restore(sess, checkpoint, variables, least=None, log=lambda line: None):
    """Restores variables from a checkpoint. -> the names of those that came from it

    checkpoint: path prefix. least: how many of them the checkpoint must have, by default all; the others keep their
    values. log: called with a line per variable: from the checkpoint, or not and why; and for those of the checkpoint
    that have no use here. Raises InputError that names the file and the first few variables that do not fit, or says
    that it cannot be read.
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
    names = {v.op.name for v in variables}
    of_enet = {name.startswith('ENet/') for name in names}   # of the network, of the head, or of both
    for name in sorted(shapes.keys() - names):
        if name.startswith('ENet/') in of_enet:
            log(f'{name}: in {checkpoint}, not used here')
    if len(found) < (len(variables) if least is None else least):
        _check_fit(checkpoint, problems, len(variables))
    if found:
        try:
            with sess.graph.as_default():
                tf.train.Saver(found).restore(sess, checkpoint)
        except CHECKPOINT_ERRORS as error:
            raise InputError(f'{checkpoint}: is damaged ({_first_line(error)})')
    return [v.op.name for v in found]


@contextlib.contextmanager
def constant_weights(checkpoint):
    """Within, get_variable returns the arrays of a checkpoint, and no variable is made.

    So the network for inference is built in a fraction of the time, and what depends on weights alone is computed while
    it is built, see `enet`. checkpoint: path prefix. Raises InputError like `restore`.
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
    """-> why a variable cannot come from a checkpoint with these shapes, or None"""
    if name not in shapes:
        return f'{name} {shape} is missing'
    return None if shapes[name] == shape else f'{name} is {shapes[name]} instead of {shape}'


def _check_fit(checkpoint, problems, count):
    if problems:
        raise InputError(f'{checkpoint}: is not a checkpoint of this network, {len(problems)} of {count} variables '
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

    Another runtime rounds otherwise, and may so find another pixel of a pooling window to be the largest: in TFLite one
    or two of 262,144 on 6 of 20 photos, with a deviation of 1e-2 of the largest value around them, 2e-6 elsewhere.
    """
    conventions = read_conventions(checkpoint_dir)
    folder = os.path.realpath(export_dir)
    try:
        with (tempfile.TemporaryDirectory(prefix='.export-', dir=os.path.dirname(folder)) as private,
              tf.Session(graph=tf.Graph()) as sess):
            aside = os.path.join(private, 'model')   # below, since the temporary folder is closed to other users
            # A graph needs one type: that of tf.image.resize, to which NumPy's bytes are converted.
            image = tf.placeholder(tf.float32, [None, None, None, 3], name='image')
            output = rebuild_graph(sess, checkpoint_dir, image, None, conventions.feature_dim)
            outputs = {'embedding': tf.identity(output[..., :conventions.feature_dim], name='embedding')}
            if conventions.foreground_weight:
                outputs['foreground'] = tf.sigmoid(output[..., conventions.feature_dim], name='foreground')
            _save_for_serving(sess, {'image': image}, outputs, aside)
            write_conventions(aside, conventions)
            os.replace(aside, folder)   # in the place of an empty folder, too
    except (tf.errors.OpError, OSError) as error:
        raise InputError(f'--export {export_dir}: cannot be written: {_reason(error)}')
    print(f'{export_dir}: SavedModel of {checkpoint_dir}, signature serving_default')
    for name, tensor in {'image': image, **outputs}.items():
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


# ---- The step of a training ------------------------------------------------------------------------------------------

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
    """Of the default graph's batch norms. -> [(variable, float32 tensor of its shape that is subtracted from it)]

    Built by `enet.batch_norm`; given apart from their operations, since an operation from outside a branch of tf.cond
    runs whichever branch is taken.
    """
    return [tuple(update.op.inputs) for update in tf.get_collection(tf.GraphKeys.UPDATE_OPS)]


def apply_if(finite, optimizer, gradients, moves, step):
    """One step of an optimizer, or none. -> operation

    finite: bool scalar; where it is False, neither variables nor the optimizer's slots nor moving averages change.
    gradients: [(gradient, variable)]. moves: see `moving_average_updates`. step: variable, counts up either way.
    """
    def take():
        moved = [tf.assign_sub(variable, move) for variable, move in moves]
        return tf.group(optimizer.apply_gradients(gradients), *moved)

    # The learning rate is read from the step, which must not count up before.
    with tf.control_dependencies([tf.cond(finite, take, tf.no_op)]):
        return tf.group(tf.assign_add(step, 1))


def training_memory(batch_size, image_size, feature_dim):
    """-> bytes that a training takes at its peak, of which 0.9 GiB for TensorFlow and all that does not depend on sizes

    A fit to measured peaks, 64x32 to 512x512 px in 3 to 1024 dimensions, good to a third.
    """
    return 0.9 * 2 ** 30 + batch_size * image_size[0] * image_size[1] * (2000 + 50 * feature_dim)


def check_memory(batch_size, image_size, feature_dim):
    """Raises InputError if a training could not fit this machine's memory, by far."""
    need = training_memory(batch_size, image_size, feature_dim)
    have = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') if hasattr(os, 'sysconf') else math.inf
    if need > have:
        raise InputError(f'--batch-size {batch_size} of {image_size[0]}x{image_size[1]} px: a training takes about '
                         f'{need / 2 ** 30:,.0f} GiB of memory, this machine has {have / 2 ** 30:,.0f}; give a smaller '
                         f'--batch-size or --image-size')


# ---- The folder of a training ----------------------------------------------------------------------------------------

class StopSignal(threading.Event):
    """Within, the first SIGTERM or Ctrl-C only sets this event; the next ends the process at once."""

    def __enter__(self):
        self._number, self._handlers = None, {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
        for number in self._handlers:
            signal.signal(number, self._note)
        return self

    def _note(self, number, frame):
        self._number = number
        self.set()
        for number in self._handlers:
            signal.signal(number, signal.SIG_DFL)

    def __exit__(self, *_):
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def status(self):
        """The exit status of a process that the signal has ended."""
        return 128 + self._number


@contextlib.contextmanager
def lock_folder(outdir, folder):
    """Within, no other training writes into outdir: a file in `folder` is locked. Raises InputError if one does."""
    path = os.path.join(folder, 'lock')
    try:
        file = open(os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, 'O_NOFOLLOW', 0), 0o666), 'r+')
    except OSError as error:
        raise InputError(f'{path}: cannot be written: {error.strerror or error}')
    with file:
        if fcntl:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(f'{outdir}: another training (process {file.read(20).strip()}) is writing there; wait '
                                 f'for its end or choose another --outdir')
        file.truncate(0)
        file.write(f'{os.getpid()}\n')
        file.flush()
        yield   # the system unlocks a file that is closed, also by a kill


def settings(flags, data, replicas=1):
    """-> all that a training was given, a dict for JSON; its batch_size is photos per step, of all replicas together"""
    # By name and size: prepared folders all have the same names.
    names = '\n'.join(f'{os.path.basename(path)} {os.path.getsize(path)}' for path in data.train[0] + data.valid[0])
    kept = {**vars(flags), 'batch_size': flags.batch_size * replicas}
    del kept['given']
    kept['photos'] = len(data.train[0]), len(data.valid[0]), zlib.crc32(os.fsencode(names)), data.records is not None
    return json.loads(json.dumps(kept))


def read_settings(resume):
    """-> the `settings` of the training in a folder of states. Raises InputError if its records cannot be read."""
    path = os.path.join(resume, FLAGS_FILE)
    try:
        before = json.loads(files.read_file(path, MAX_JSON_BYTES).decode('utf-8'))
        if not isinstance(before, dict):
            raise ValueError
    except (InputError, ValueError, RecursionError):
        raise InputError(f'{path}: cannot be read, so that the training cannot go on; start over with --fresh')
    if not has_record(resume):
        raise InputError(f'{os.path.join(resume, CONVENTIONS_FILE)}: is missing, so that the training cannot go on; '
                         f'start over with --fresh')
    # Of a training that was begun before these flags were there.
    return {'kind': 'road', 'foreground_weight': 0.0, 'foreground_threshold': 0.5, 'coordinates': False, **before}


def differences(before, now, free=FREE_FLAGS):
    """-> how two `settings` differ, in words, but for the flags that are free to; '' if they do not"""
    if now['schedule'] == 'cosine':
        free = free - {'epochs'}   # the learning rate of every step depends on the number of all
    names = sorted((before.keys() | now.keys()) - free - {'photos'})
    different = [f'--{name.replace("_", "-")} was {before.get(name)}, is {now.get(name)}'
                 for name in names if before.get(name) != now.get(name)]
    return '; '.join(different + ['other photos in --srcdir'] * (before.get('photos') != now.get('photos')))


class RunFolder:
    """The --outdir of a training: the model of the best epoch and, in `resume`, the states that it goes on from.

    All that a training has to remember is a variable, so that a state is one checkpoint: besides weights, moving
    averages and Adam's slots, the global step, how many epochs were validated, and the score of the best of them.
    Made once all other variables of the default graph are.
    """

    def __init__(self, sess, outdir, resume, model_variables, conventions, given, keep):
        """model_variables: ENet and its head. given: see `settings`. keep: how many states stay."""
        self._sess, self.outdir, self.resume = sess, outdir, resume
        self._conventions, self._given = conventions, given
        self._epochs = tf.get_variable('epochs_validated', [], tf.int64, tf.zeros_initializer(), trainable=False)
        self._best = tf.get_variable('best_score', [], tf.float64, tf.constant_initializer(-math.inf), trainable=False)
        self._new_best = tf.placeholder(tf.float64, [])
        self._finish_epoch = tf.group(tf.assign(self._best, self._new_best), tf.assign_add(self._epochs, 1))
        self._variables = tf.global_variables()
        self._states = tf.train.Saver(self._variables, max_to_keep=keep, save_relative_paths=True)
        self._models = tf.train.Saver(model_variables, max_to_keep=1, save_relative_paths=True)

    def counters(self):
        """-> (steps taken, epochs validated, score of the best of them or -inf)"""
        step, epochs, best = self._sess.run([tf.train.get_global_step(self._sess.graph), self._epochs, self._best])
        return int(step), int(epochs), float(best)

    def finish_epoch(self, best):
        """Counts an epoch as validated. best: the score of the model that is kept."""
        self._sess.run(self._finish_epoch, {self._new_best: best})

    def holds_model(self):
        return bool(glob.glob(os.path.join(glob.escape(self.outdir), '*.index')))

    def begin(self, fresh):
        """Removes what an earlier training left if `fresh`, and saves the state before the first step."""
        for folder in (self.outdir, self.resume):
            if checkpoints(folder):
                print(f'{folder}: what was there is replaced')
            if fresh:   # otherwise there is no model, and what else is there may be someone's
                _remove(folder, 'checkpoint', '*.index', '*.data-*-of-*', '*.meta', CONVENTIONS_FILE)
            _remove(folder, *UNFINISHED)
        self._write_settings()
        self.save_state()

    def save_model(self):
        """Puts the model and its conventions into the folder, in the place of the one there.

        Raises InputError if it cannot be saved; the one there is then still whole, as it is at any time.
        """
        files.make_output_folder(self.outdir)   # may have vanished since
        write_conventions(self.outdir, self._conventions)
        self._save(self._models, os.path.join(self.outdir, f'model.ckpt-{self.counters()[0]}'))

    def save_state(self):
        """Saves all that the training needs to go on. Raises InputError if that fails; older states are still whole."""
        if not os.path.exists(os.path.join(self.resume, FLAGS_FILE)):
            self._write_settings()
        step, epochs, _ = self.counters()
        # What has the same name has the same content: writing it once more does no harm at any time.
        self._save(self._states, os.path.join(self.resume, f'state.ckpt-{step}-{epochs}'))

    def restore_state(self):
        """Goes on from the newest state that is whole, with a warning for those that are not. -> its path

        Raises InputError if there is none.
        """
        _remove(self.resume, *UNFINISHED)
        problems = []
        for checkpoint in checkpoints(self.resume):
            try:
                restore(self._sess, checkpoint, self._variables)
            except InputError as error:
                problems.append(str(error))
                continue
            for problem in problems:
                command_line.warn(f'{problem}; the training goes on from the state before it')
            return checkpoint
        raise InputError(problems[0] if problems else f'{self.resume}: holds no state of a training')

    def _write_settings(self):
        """Records in `resume` what the states to come belong to."""
        files.make_output_folder(self.resume)
        write_conventions(self.resume, self._conventions)
        files.write_file(os.path.join(self.resume, FLAGS_FILE), json.dumps(self._given, indent=1).encode())

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
            saver.save(self._sess, prefix, write_meta_graph=False)
        except (tf.errors.OpError, ValueError, OSError) as error:
            _remove(folder, *UNFINISHED)
            if not os.path.exists(prefix + '.index'):
                _remove(folder, glob.escape(os.path.basename(prefix)) + '.data-*-of-*')
            raise InputError(f'{prefix}: cannot be saved: {_reason(error)}')


def _remove(folder, *patterns):
    """Removes what matches in a folder. What cannot be removed stays: it does no harm, and the next run tries again."""
    for pattern in patterns:
        for path in glob.glob(os.path.join(glob.escape(folder), pattern)):
            with contextlib.suppress(OSError):
                os.remove(path)   # a folder, which is not ours, stays


class EventFile:
    """A file for TensorBoard. Where it cannot be written, `warn` is called once with a line, and that is all.

    step: that the training goes on from; what an earlier run wrote of later steps, TensorBoard then forgets.
    """

    def __init__(self, logdir, step, warn):
        self._warn, self._writer = warn, None
        # TensorBoard reads the files of a folder by name, and points by time: a clock that was set back since the last
        # run must not put this file before that run's, which was begun at the time in its name and written to last.
        paths = glob.glob(os.path.join(glob.escape(logdir), 'events.out.tfevents.*'))
        named = [re.search(r'\.tfevents\.(\d+\.?\d*)', path) for path in paths]
        times = [float(found[1]) + 1. for found in named if found] + [
            os.path.getmtime(path) for path in paths if os.path.isfile(path)]
        self._late = max([0., *[known - time.time() for known in times]])
        self._path = os.path.join(logdir, f'events.out.tfevents.{time.time() + self._late:.6f}.{os.getpid()}')
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
        event = tf.Event(wall_time=time.time() + self._late, **event).SerializeToString()
        self._try(lambda writer: writer.write(event))

    def _try(self, act):
        if self._writer is not None:
            try:
                act(self._writer)
            except (tf.errors.OpError, OSError) as error:
                self._fail(error)

    def _fail(self, error):
        self._writer = None
        self._warn(f'{self._path}: cannot be written: {_reason(error)}; the training goes on without TensorBoard')


def _reason(error):
    """-> the system's words for what went wrong, which TensorFlow's errors hold among much else"""
    reasons = (os.strerror(number) for number in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EACCES, errno.EROFS,
                                                  errno.EIO, errno.ENOENT))
    return next((reason for reason in reasons if reason in str(error)), _first_line(error))


# ---- More than one machine -------------------------------------------------------------------------------------------
#
# Parameter servers (ps) hold the variables. Each replica, the chief and the workers, takes its own photos through the
# network and hands its gradients in to tf.ConditionalAccumulators on the parameter servers; once all replicas have, the
# chief takes their means and makes the update. SyncReplicasOptimizer, which is built of the same accumulators, updates
# in a thread of its own, maybe while the chief saves, and admits replicas to the next step by tokens, which a killed
# worker takes with it; MonitoredTrainingSession waits without saying for whom. So neither is used, and in their place
# stand three promises: no state is saved in the middle of an update, because the chief makes both; a worker that is
# killed holds nothing that the others need; and whoever waits can say for whom.

POLL = 0.01        # seconds between two looks at whether the others are ready
PATIENCE = 10.     # seconds of waiting before a task says for which it waits,
REMINDER = 60.     # and then says it again
LINGER = 20.       # seconds that a parameter server stays at most when the others should be leaving
ANSWER = 3.        # seconds in which a server answers a new connection
HTTP2_SETTINGS = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])   # the frame with which both ends of a connection begin
GONE = (tf.errors.AbortedError, tf.errors.CancelledError, tf.errors.DeadlineExceededError,
        tf.errors.FailedPreconditionError, tf.errors.NotFoundError, tf.errors.UnavailableError)


ClusterConfig = collections.namedtuple('ClusterConfig', ['jobs', 'job', 'index'])
ClusterConfig.__doc__ = """jobs: {'ps', 'chief' or 'worker': ['host:port']}; job, index: this process's own."""


class Restarted(Exception):
    """The chief or a parameter server has been started again, and the variables of this training went with it."""


def read_tf_config(text):
    """What the environment variable TF_CONFIG says. -> ClusterConfig, None without a cluster. Raises InputError."""
    if not text:
        return None
    try:
        config = json.loads(text)
        jobs, job, index = config['cluster'], config['task']['type'], int(config['task']['index'])
        addresses = [address for job in jobs.values() for address in job]
        sound = all(isinstance(job, list) for job in jobs.values()) and all(
            isinstance(address, str) and re.fullmatch(r'(\[[0-9a-fA-F:.]+\]|[\w.-]+):[0-9]{1,5}', address, re.ASCII)
            and int(address.rpartition(':')[2]) < 65536 for address in addresses)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        sound = False
    if not sound:
        raise InputError('TF_CONFIG: is not {"cluster": {"ps": ["host:port"], "chief": ["host:port"], "worker": '
                         '["host:port", ...]}, "task": {"type": ..., "index": ...}} in JSON')
    if jobs.keys() - {'ps', 'chief', 'worker'}:
        raise InputError(f'TF_CONFIG: has the job "{min(jobs.keys() - {"ps", "chief", "worker"})}"; there are ps, '
                         f'chief and worker')
    if len(jobs.get('chief', [])) != 1:
        raise InputError(f'TF_CONFIG: has {len(jobs.get("chief", []))} chiefs; a cluster has one')
    if not isinstance(job, str) or not 0 <= index < len(jobs.get(job, [])):
        raise InputError(f'TF_CONFIG: the task is {job} {index}, which the cluster does not have')
    if len(addresses) == 1:
        return None
    if not jobs.get('ps'):
        raise InputError('TF_CONFIG: has no ps; a cluster needs one to hold the variables')
    parts = [address.lower().rpartition(':') for address in addresses]
    if len({(host, int(port)) for host, _, port in parts}) < len(parts):
        raise InputError('TF_CONFIG: has an address twice')
    return ClusterConfig(jobs, job, index)


class SingleProcess:
    """Where a training runs: in this process. Its methods are those of `Replica`."""
    is_chief, shard = True, (0, 1)

    def join(self, record):
        return record

    def placement(self):
        return contextlib.nullcontext()

    def session(self):
        return tf.Session()

    def mean(self, values):
        return values

    def publish(self, taken):
        return taken

    def announce(self, sess):
        pass

    def run_step(self, sess, local, taken, shared):
        return sess.run([local, taken, shared])


class Task:
    """This process in a cluster: tf.train.Server, and what all tasks know of each other.

    jobs: {'ps' or 'chief' or 'worker': ['host:port']}; job, index: which of them this process is. stop: set when a
    signal has come. log: is called with a line about whom is waited for. Raises InputError if the server cannot start.
    """

    def __init__(self, jobs, job, index, stop, log):
        self.stop, self._log = stop, log
        self.name, self.device = _name(job, index), f'/job:{job}/task:{index}'
        self.spec = tf.train.ClusterSpec(jobs)
        self.addresses = {_name(job, i): address for job in jobs for i, address in enumerate(jobs[job])}
        self.servers = [name for name in self.addresses if name.startswith('ps')]
        self.replicas = ['chief', *(_name('worker', i) for i in range(len(jobs.get('worker', []))))]
        self._identified = set()
        # A parameter server leaves the GPU to the replicas.
        config = tf.ConfigProto(device_count={'GPU': 0}) if job == 'ps' else None
        try:
            self.target = tf.train.Server(self.spec, job, index, config=config).target
        except tf.errors.OpError:
            raise InputError(f'TF_CONFIG: {self.name} cannot listen at {self.addresses[self.name]}; is that an '
                             f'address of this machine, and no other process there?')
        if self.silent([self.name]):   # TensorFlow listens at the port alone, whatever the host
            raise InputError(f'TF_CONFIG: {self.name} cannot be reached at {self.addresses[self.name]}; is that an '
                             f'address of this machine?')

    def wait(self, ready, purpose, names, poll=POLL):
        """-> ready() once it is true, None if a signal comes first. Logs for which of `names()` it waits."""
        patience, began = PATIENCE, time.monotonic()
        while not self.stop.is_set():
            value = ready()
            if value:
                return value
            waited = time.monotonic() - began
            if waited > patience:
                patience = waited + REMINDER
                self._log(f'{self.name}: {purpose}: waits for '
                          + ' and '.join(f'{name} at {self.addresses[name]}' for name in names()))
            time.sleep(poll)
        return None

    def silent(self, names):
        """-> which of these tasks cannot be reached. Raises InputError if another one answers in its place."""
        found = []
        for name in names:
            host, port = self.addresses[name].rsplit(':', 1)
            try:
                with socket.create_connection((host.strip('[]'), int(port)), timeout=1.) as connection:
                    reached = name in self._identified or _answers(connection) and self._identify(name)
            except (OSError, UnicodeError):   # the latter for what can be no host
                reached = False
            if not reached:
                found.append(name)
                self._identified.discard(name)
        return found

    def _identify(self, name):
        """-> whether a TensorFlow server answers at a task's address.

        Raises InputError if it is another task's: with different TF_CONFIGs they would wait for each other.
        """
        address = self.addresses[name]
        config = tf.ConfigProto(device_filters=['/job:nobody'], operation_timeout_in_ms=5000)
        try:
            with tf.Session(f'grpc://{address}', graph=tf.Graph(), config=config) as session:
                device = session.list_devices()[0].name
        except tf.errors.OpError:
            return False
        found = _name(*re.match(r'/job:(\w+)/replica:\d+/task:(\d+)', device).groups())
        if found != name:
            raise InputError(f'TF_CONFIG: at {address} is {found}, not {name}; give all tasks the same "cluster"')
        self._identified.add(name)
        return True

    def run(self, build, feed=None):
        """Runs build() in a graph and a short session of its own, which a parameter server that starts again cannot
        spoil. -> its value, None if a parameter server does not answer."""
        if self.silent(self.servers):
            return None
        config = tf.ConfigProto(device_filters=['/job:ps', self.device], operation_timeout_in_ms=5000)
        try:
            with tf.Graph().as_default(), tf.Session(self.target, config=config) as session:
                return session.run(build(), feed)
        except GONE:
            return None

    def serve(self):
        """Runs a parameter server until the replicas are done. -> exit status

        After a signal it stays until the chief has saved its last state, for LINGER seconds at most.
        """
        reported, leaving_since = {}, None   # reported: by replica, what `leave` told last
        with tf.Graph().as_default(), tf.device(self.device):
            queue = _departures(self.servers.index(self.name))
            size, next_one = queue.size(), queue.dequeue()
            session = tf.Session(self.target, config=tf.ConfigProto(device_filters=[self.device]))

        def read_reports():   # -> the replicas that have told nothing so far
            for _ in range(session.run(size)):
                name, _, how = session.run(next_one).decode().rpartition(' ')
                reported[name] = how
            return [name for name in self.replicas if name not in reported]
        with session:
            self.wait(lambda: not read_reports() or reported.get('chief') == 'done', 'starts', read_reports, poll=0.2)
            while True:
                read_reports()
                if all(reported.get(name) == 'done' for name in self.replicas):
                    return 0
                if reported.get('chief') == 'done' or self.stop.is_set():
                    leaving_since = leaving_since or time.monotonic()
                    saved = self.stop.is_set() and reported.get('chief') != 'back'
                    if saved or time.monotonic() - leaving_since > LINGER:
                        return self.stop.status() if self.stop.is_set() else 0
                time.sleep(0.2)

    def leave(self, how):
        """Tells the parameter servers that this replica is 'done', 'stopped', or here again ('back')."""
        for index, server in enumerate(self.servers):
            if not self.silent([server]):
                self.run(lambda index=index: _departures(index).enqueue(f'{self.name} {how}'))


def _answers(connection):
    """-> whether a server of HTTP/2, as TensorFlow's is, answers a new connection; a session would wait far longer"""
    connection.settimeout(ANSWER)
    connection.sendall(b'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n' + HTTP2_SETTINGS)
    return connection.recv(9)[3:4] == HTTP2_SETTINGS[3:4]


def _name(job, index):
    return job if job == 'chief' else f'{job} {index}'


def _departures(index):
    with tf.device(f'/job:ps/task:{index}'):
        return tf.FIFOQueue(-1, tf.string, [()], shared_name=f'departures_{index}')


class Replica:
    """The chief or a worker: takes each step together with all the others.

    A step is that of one process with the photos of all: the loss, the gradient before it is clipped and the changes
    of batch norm's moving averages are the means over the replicas, and a step that is not finite for one is taken
    by none. Only batch norm sees the difference: a replica normalises by the statistics of its own photos.

    A chief that starts, the first time or again, makes all variables anew in a tf.container of its own on the
    parameter servers, and announces its name there once they have their values. What an earlier chief and its workers
    left there is out of the way; a worker that finds another container announced joins that one.
    """

    def __init__(self, task):
        self.task, self.name, self.is_chief = task, task.name, task.name == 'chief'
        self._index, self._count = task.replicas.index(task.name), len(task.replicas)
        self.shard = self._index, self._count
        self._container = None

    def join(self, record):
        """The chief withdraws what is announced; a worker waits for an announcement. -> its record, None if stopped.

        record: of its settings, a dict for JSON, which a worker compares with its own.
        """
        task = self.task
        if self.is_chief:
            task.leave('back')
            self._container, self._record = f'training-{time.time_ns()}', record
            done = task.wait(lambda: task.run(lambda: _announcement('{}')) is not None, 'starts',
                             lambda: task.silent(task.servers) or task.servers, poll=0.2)
            return record if done else None

        def announced():
            text = task.run(_announcement)
            return text and json.loads(text)
        found = task.wait(announced, 'joins', lambda: task.silent(task.servers) or ['chief'], poll=0.2)
        if not found:
            return None
        task.leave('back')
        self._container, self._record = found['container'], found['record']
        return self._record

    def announce(self, sess):
        """The chief calls it once the variables have their values, for workers to join."""
        if self.is_chief:
            sess.run(self._start)
            text = json.dumps({'container': self._container, 'record': self._record})
            if self.task.run(lambda: _announcement(text)) is None:
                raise Restarted('a parameter server does not answer')

    def placement(self):
        """A context for building the graph: variables on the parameter servers, in this training's container."""
        stack = contextlib.ExitStack()
        stack.enter_context(tf.container(self._container))
        stack.enter_context(tf.device(tf.train.replica_device_setter(
            cluster=self.task.spec, worker_device=self.task.device)))
        return stack

    def session(self):
        """-> tf.Session that sees the parameter servers and itself alone, and so outlives other replicas"""
        return tf.Session(self.task.target, config=tf.ConfigProto(device_filters=['/job:ps', self.task.device]))

    def mean(self, values):
        """A structure of float32 tensors of each replica -> their means over all, which only the chief runs."""
        self._step = tf.train.get_global_step()
        means, pushes = [], []
        for i, tensor in enumerate(tf.nest.flatten(values)):
            with tf.device(f'/job:ps/task:{i % len(self.task.servers)}'):
                accumulator = tf.ConditionalAccumulator(tensor.dtype, tensor.shape, shared_name=f'mean_{i}')
            pushes.append(accumulator.apply_grad(tensor, self._step))
            means.append(tf.identity(accumulator.take_grad(self._count)))
        # The step that each replica has handed in its part of, counted from 1.
        handed_in = [_shared(f'handed_in_{i}', tf.int64) for i in range(self._count)]
        with tf.control_dependencies(pushes):
            self._hand_in = tf.assign(handed_in[self._index], self._step + 1)
        self._handed_in = tf.stack(handed_in)
        self._taken = _shared('taken', tf.bool)
        self._start = tf.variables_initializer([*handed_in, self._taken])
        with tf.container(''):
            announced = _announcement()
        now = tf.identity(self._step)
        with tf.control_dependencies([now]):   # an update publishes whether it is taken before it counts the step
            self._state = now, announced, tf.identity(self._taken)
        return tf.nest.pack_sequence_as(values, means)

    def publish(self, taken):
        """taken: bool scalar of an update -> the same, for workers to see."""
        return tf.assign(self._taken, taken)

    def run_step(self, sess, local, taken, shared):
        """Takes a step together with the others. -> (values of local, value of taken, values of shared)

        local: tensors that depend on this replica's photos. taken: see `publish`. shared: tensors and operations of the
        update, all that depends on `mean`; a worker has None of their values. -> None if a signal comes while this
        replica waits. Raises Restarted.
        """
        task = self.task

        def missing():
            return [name for name, at in zip(task.replicas, sess.run(self._handed_in)) if at <= step]

        def updated():
            now, announced, *result = sess.run(self._state)
            if json.loads(announced).get('container') != self._container:
                raise Restarted('the chief has started again')
            return now > step and result
        try:
            step, handed_in = sess.run([self._step, self._handed_in])
            # A worker that is started again may have handed in before it was killed.
            values = sess.run([local, self._hand_in] if handed_in[self._index] <= step else [local])[0]
            purpose = f'step {step + 1}'
            if self.is_chief:
                ready = task.wait(lambda: not missing(), purpose, missing)
                return (values, *sess.run([taken, shared])) if ready else None
            result = task.wait(updated, purpose, lambda: missing() or ['chief'])
            return (values, *result, None) if result else None
        except GONE:
            raise Restarted('the connection to a parameter server was lost')


def _shared(name, dtype):
    """-> a scalar variable on the parameter servers that does not belong to checkpoints"""
    return tf.get_variable(name, [], dtype, tf.zeros_initializer(), trainable=False, collections=['cluster'])


def _announcement(text=None):
    """What the chief announces on the first parameter server, in JSON: read, or written if text is given. -> tensor"""
    with tf.device('/job:ps/task:0'):
        variable = tf.get_variable('announcement', [], tf.string, trainable=False, use_resource=False,
                                   collections=['cluster'])
        return variable.read_value() if text is None else tf.assign(variable, text)
