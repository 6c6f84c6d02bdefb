"""Trains the network to embed the pixels of each lane together, and different lanes apart.

    python training.py                                        on data/, from scratch or from pretrained_semantic_model/
    python training.py --semantic --outdir pretrained_semantic_model && python training.py
                                                              in the two stages of 2018: lane or not, then which lane
    python training.py --batch-size 4 --image-size 512 256 --schedule cosine --learning-rate 3e-3 --reg 0.001 \\
        --background-weight 6 --bandwidth 0.75
                                                              as the shipped model, its last parts at 2e-3 and 1e-3
    python training.py --modeldir trained_model --outdir fine_tuned
                                                              from the shipped model
    tensorboard --logdir log                                  shows how it goes

On more than one machine, or as here in three processes of one: a parameter server, a chief and a worker.

    member() { TF_CONFIG='{"cluster": {"ps": ["127.0.0.1:4000"], "chief": ["127.0.0.1:4001"],
                                       "worker": ["127.0.0.1:4002"]},
                           "task": {"type": "'$1'", "index": 0}}' python training.py --batch-size 2; }
    member ps & member worker & member chief

The same command everywhere, with TF_CONFIG for who is who: chief and workers take --batch-size photos each to a step,
so that n of them do what one process does with n times the --batch-size, but for batch norm, which sees --batch-size
photos at a time. The chief validates, saves and shows; the others need --srcdir alone. Any of them can be killed and
started again.

--outdir receives the model of the best epoch, with the conventions that inference needs, and in its folder resume/ all
that a training needs to go on: however it was stopped, the same command again, without --fresh, continues as if it had
not been.
"""
import collections
import contextlib
import functools
import glob
import json
import math
import os
import re
import signal
import sys
import time
import zlib

try:
    import fcntl
except ImportError:   # Windows, where nothing guards an --outdir against a second training
    fcntl = None

from data import command_line

if __name__ == '__main__':
    command_line.exit_on_interrupt()   # the imports below take half a second

import cv2
import numpy as np
import tqdm

import clustering
import datagenerator
import visualization
from data import files, quiet, tusimple, tusimple_evaluation, tusimple_lanes
from data.command_line import InputError

DEFAULT_MODELDIR = 'pretrained_semantic_model'
RESUME = 'resume'             # folder of training states within --outdir
FLAGS_FILE = 'flags.json'     # in it: what the training began with
VALIDATION = 'validation'     # folder within --logdir of what belongs to epochs, where the rest belongs to steps
# May differ when a training goes on. What the photos are is compared by names and sizes, wherever they are now.
FREE_FLAGS = {'srcdir', 'outdir', 'logdir', 'epochs', 'workers', 'cache', 'keep', 'save_minutes', 'summary_steps',
              'pictures', 'fresh'}
# Mean nothing with --semantic.
EMBEDDING_FLAGS = ('var', 'dist', 'reg', 'background_weight', 'dvar', 'ddist', 'feature_dim', 'bandwidth')
MAX_SKIPPED = 3               # steps in a row whose loss or gradient is not finite

Member = collections.namedtuple('Member', ['jobs', 'job', 'index'])
Member.__doc__ = """Of a cluster. jobs: {'ps', 'chief' or 'worker': ['host:port']}; job, index: which of them it is."""

Data = collections.namedtuple('Data', ['train', 'valid', 'records'])
Data.__doc__ = """train, valid: (image paths, label paths); records: a tusimple.Record for each of valid, or None."""


def parse_flags(argv=None):
    parser = command_line.Parser(description=__doc__)
    folders = parser.add_argument_group('folders')
    folders.add_argument('-s', '--srcdir', default='data',
                         help='Folder with images/ and labels/, as data/tusimple_dataset_processing.py writes them; '
                              'with its lanes.json, validation has the official score.')
    folders.add_argument('-m', '--modeldir',
                         help='Folder of the checkpoint to start from, of this network with any head. (default: '
                              f'{DEFAULT_MODELDIR} if it holds one; otherwise the weights start at random)')
    folders.add_argument('-o', '--outdir', default='saved_model', help='Folder for the trained model.')
    folders.add_argument('-l', '--logdir', default='log',
                         help='Folder for TensorBoard, scatter plots and pictures, where a new training starts its '
                              'curves anew: one for each --outdir; with --semantic, its folder semantic.')
    folders.add_argument('--fresh', action='store_true',
                         help='Start over in an --outdir that holds a training or a model, which are then removed.')

    loss = parser.add_argument_group('loss')
    number, positive = command_line.non_negative_float, command_line.positive_float
    loss.add_argument('--var', type=number, default=1.0, help='Weight of the variance term, alpha in the paper.')
    loss.add_argument('--dist', type=number, default=1.0, help='Weight of the distance term, beta.')
    loss.add_argument('--reg', type=number, default=1.0, help='Weight of the regularisation term, gamma.')
    loss.add_argument('--dvar', type=positive, default=0.5,
                      help='Margin of the variance term, delta_v, in units of the embedding; below --ddist.')
    loss.add_argument('--ddist', type=positive, default=1.5,
                      help='Margin of the distance term, delta_d, in units of the embedding.')
    loss.add_argument('--background-weight', type=positive, default=1.0,
                      help='Weight of the background within the variance term, where every lane has 1. At 1 all '
                           'count the same, few pixels of a lane as much as many of the background, and lanes come out '
                           'several times too wide; the shipped model has 6, and 30 lost most lanes.')
    loss.add_argument('--semantic', action='store_true',
                      help='Train the stage before instead: each pixel lane or not, weighted cross entropy.')

    network = parser.add_argument_group('network')
    network.add_argument('--image-size', type=command_line.positive_int, nargs=2, default=[512, 512],
                         metavar=('W', 'H'), help='Width and height in px that photos are resized to, multiples of 8.')
    network.add_argument('--feature-dim', type=command_line.positive_int, default=3,
                         help='Dimensions of the embedding.')
    network.add_argument('--bandwidth', type=command_line.bandwidth, default=0.7,
                         help='Bandwidth of mean shift in validation, in units of the embedding. It is written beside '
                              'the weights, for inference to use.')

    course = parser.add_argument_group('course of the training')
    course.add_argument('--epochs', type=command_line.positive_int, default=50, help='Passes over the training photos.')
    course.add_argument('--batch-size', type=command_line.positive_int, default=1,
                        help='Photos a step; in a cluster, of each replica.')
    course.add_argument('--learning-rate', type=positive, default=1e-4, help='Highest learning rate of Adam.')
    course.add_argument('--schedule', choices=['2018', 'cosine'], default='2018',
                        help='Of the learning rate. 2018: times 0.96 every 5,000 steps. cosine: rises over the first '
                             'twentieth of all steps, then falls to 0 along a cosine.')
    course.add_argument('--clip', type=positive, default=5.0,
                        help='Gradients are scaled down to this L2 norm over all weights where they exceed it.')
    course.add_argument('--validation-photos', type=command_line.positive_int, default=200,
                        help='Photos that each epoch is validated on at most, of the tenth that is held out.')
    course.add_argument('--no-augment', action='store_true', help='Show the photos as they are.')
    course.add_argument('--seed', type=command_line.non_negative_int, default=42,
                        help='Decides the first weights, the order of the photos, augmentation and dropout; the split '
                             'into training and validation photos is always that of seed 42.')

    running = parser.add_argument_group('running')
    running.add_argument('--workers', type=command_line.positive_int, default=2, help='Threads that load photos.')
    running.add_argument('--cache', type=number, default=2.0,
                         help='Memory for photos kept decoded, in GiB; 0 decodes them anew in each epoch.')
    running.add_argument('--keep', type=command_line.positive_int, default=3,
                         help='How many training states stay in resume/.')
    running.add_argument('--save-minutes', type=positive, default=10., help='Minutes from one saved state to the next.')
    running.add_argument('--summary-steps', type=command_line.positive_int, default=10,
                         help='Steps from one point of the TensorBoard curves to the next.')
    running.add_argument('--pictures', type=command_line.positive_int, default=5,
                         help='Epochs from one set of pictures and scatter plots in --logdir to the next.')
    flags = parser.parse_args(argv)
    if any(side % 8 for side in flags.image_size):
        parser.error('argument --image-size: {} {} are not both multiples of 8'.format(*flags.image_size))
    flags.image_size = tuple(flags.image_size)
    if max(flags.image_size) > datagenerator.MAX_SIDE or math.prod(flags.image_size) > datagenerator.MAX_MODEL_PIXELS:
        parser.error('argument --image-size: {} x {} has a side of over {:,} px or is of over {:,} pixels'.format(
            *flags.image_size, datagenerator.MAX_SIDE, datagenerator.MAX_MODEL_PIXELS))
    if flags.feature_dim > datagenerator.MAX_FEATURE_DIM:
        parser.error(f'argument --feature-dim: {flags.feature_dim} is more than {datagenerator.MAX_FEATURE_DIM:,}')
    if flags.var == flags.dist == flags.reg == 0:
        parser.error('arguments --var, --dist, --reg: all are 0, which leaves nothing to learn')
    if flags.dvar >= flags.ddist:
        parser.error(f'argument --dvar: {flags.dvar} is not below the {flags.ddist} of --ddist, which leaves no room '
                     f'between lanes')
    if flags.semantic:
        for name in EMBEDDING_FLAGS:
            if getattr(flags, name) != parser.get_default(name):
                parser.error(f'argument --{name.replace("_", "-")}: is about an embedding, and --semantic trains none')
        flags.logdir = os.path.join(flags.logdir, 'semantic')
    return flags


def read_tf_config(text):
    """What the environment variable TF_CONFIG says. -> Member, or None if there is no cluster. Raises InputError."""
    if not text:
        return None
    try:
        config = json.loads(text)
        jobs, job, index = config['cluster'], config['task']['type'], int(config['task']['index'])
        addresses = [address for job in jobs.values() for address in job]
        sound = all(isinstance(job, list) for job in jobs.values()) and all(
            isinstance(address, str) and re.fullmatch(r'(\[[0-9a-fA-F:.]+\]|[^\s:/\[\]]+):[0-9]{1,5}', address)
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
    if len(set(addresses)) < len(addresses):
        raise InputError('TF_CONFIG: has an address twice')
    return Member(jobs, job, index)


# ---- Before the first step ------------------------------------------------------------------------------------------

def find_data(srcdir, most):
    """The photos to train on and to validate on, of the latter `most` at most. -> Data"""
    train_paths, valid_paths = datagenerator.split(*datagenerator.find_samples(srcdir))
    valid_paths = tuple(paths[:most] for paths in valid_paths)   # in random order already
    return Data(train_paths, valid_paths, lane_records(srcdir, valid_paths[0]))


def lane_records(srcdir, image_paths):
    """The lanes of photos from srcdir/lanes.json, a tusimple.Record each, or None if it does not have them all."""
    path = os.path.join(srcdir, tusimple.PREPARED_LABELS)
    if not os.path.exists(path):
        return None
    records, problems = tusimple.read_records(path)
    if problems:
        command_line.warn(problems[0])
    records = {os.path.basename(record.raw_file): record for record in records}
    chosen = [records.get(os.path.basename(image_path)) for image_path in image_paths]
    return None if None in chosen else chosen


def check_folders(flags):
    """Finds what is wrong with the folders that flags name, makes --outdir and --logdir, and tries to write there.

    -> whether there is a training in --outdir that goes on.
    """
    has_state, has_model = (bool(glob.glob(os.path.join(glob.escape(flags.outdir), *name)))
                            for name in ((RESUME, '*.index'), ('*.index',)))
    resuming = has_state and not flags.fresh
    for folder in (flags.outdir, flags.modeldir or ''):
        datagenerator.check_checkpoint_folder(folder)
    for folder in (flags.outdir, flags.logdir, flags.modeldir or ''):
        try:
            folder.encode()
        except UnicodeEncodeError:
            raise InputError(f'{folder}: is not UTF-8, as TensorFlow needs it; rename the folder')
    if has_model and not has_state and not flags.fresh:
        raise InputError(f'{flags.outdir}: holds a model but no training that could go on; choose another --outdir, or '
                         f'--fresh to replace it')
    if flags.modeldir and not resuming:
        files.list_folder(flags.modeldir, '; give --modeldir one with a checkpoint')
        if os.path.realpath(flags.modeldir) == os.path.realpath(flags.outdir):
            raise InputError(f'{flags.outdir}: is --modeldir and --outdir at once; choose another --outdir')
    for folder in (flags.outdir, os.path.join(flags.outdir, RESUME), flags.logdir,
                   os.path.join(flags.logdir, VALIDATION)):
        files.make_output_folder(folder)
    return resuming


@contextlib.contextmanager
def alone(outdir):
    """Within, no other training writes into outdir. Raises InputError if one does."""
    path = os.path.join(outdir, RESUME, 'lock')
    with open(path, 'a+') as file:
        if fcntl:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                raise InputError(f'{outdir}: another training (process {file.read().strip()}) is writing there; wait '
                                 f'for its end or choose another --outdir')
        file.truncate(0)
        file.write(f'{os.getpid()}\n')
        file.flush()
        yield   # the system unlocks a file that is closed, also by a kill


def settings(flags, data, replicas=1):
    """All that a training was given, as JSON has it. Its batch_size is of a step, of all replicas together."""
    # By name and size: prepared folders all have the same names.
    names = '\n'.join(f'{os.path.basename(path)} {os.path.getsize(path)}' for path in data.train[0] + data.valid[0])
    kept = {**vars(flags), 'batch_size': flags.batch_size * replicas}
    kept['photos'] = len(data.train[0]), len(data.valid[0]), zlib.crc32(os.fsencode(names)), data.records is not None
    return json.loads(json.dumps(kept))


def check_flags(outdir, given):
    """Raises InputError if the training to go on was one with other flags or photos. given: `settings`."""
    path = os.path.join(outdir, RESUME, FLAGS_FILE)
    try:
        with open(path, encoding='utf-8') as file:
            before = dict(json.load(file))
    except (OSError, ValueError, TypeError, RecursionError):
        raise InputError(f'{path}: cannot be read, so that the training cannot go on; start over with --fresh')
    different = differences(before, given)
    if different:
        raise InputError(f'{outdir}: holds a training with other flags ({different}); give the same flags, '
                         f'another --outdir, or --fresh to start over')


def differences(before, now, free=FREE_FLAGS):
    """Between two `settings`, in words, but for the flags that are free to differ."""
    if now['schedule'] == 'cosine':
        free = free - {'epochs'}   # the rate of every step hangs on the number of all
    names = sorted((before.keys() | now.keys()) - free - {'photos'})
    different = [f'--{name.replace("_", "-")} was {before.get(name)}, is {now.get(name)}'
                 for name in names if before.get(name) != now.get(name)]
    return '; '.join(different + ['other photos in --srcdir'] * (before.get('photos') != now.get('photos')))


# ---- Signals --------------------------------------------------------------------------------------------------------

@contextlib.contextmanager
def noted_signals():
    """Within, the first SIGTERM or Ctrl-C is only noted in the yielded list; the next ends the process at once."""
    noted = []

    def note(number, frame):
        noted.append(number)
        for number in handlers:
            signal.signal(number, signal.SIG_DFL)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number in handlers:
        signal.signal(number, note)
    try:
        yield noted
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


# ---- Validation -----------------------------------------------------------------------------------------------------

def validate(trainer, flags, data, stop):
    """Means over the validation photos: a dict of scalars, whose 'score' says which epoch is best. None if stopped."""
    terms, predictions, right, union = [], [], 0, 0
    for image_path, label_path in zip(*data.valid):
        if stop:
            return None
        photo, label = datagenerator.read_sample(image_path, label_path)
        labels = files.resize_label(label, flags.image_size)[None]
        output, values = trainer.predict(files.resize_image(photo, flags.image_size)[None], labels)
        terms.append(values)
        if flags.semantic:
            is_lane, truth = output[..., 1] > output[..., 0], labels > 0
            right += np.sum(is_lane & truth)
            union += np.sum(is_lane | truth)
        elif data.records and np.isfinite(output).all():
            record = data.records[len(terms) - 1]
            ids = clustering.instance_ids(output[0], flags.bandwidth, (flags.dvar, flags.ddist))
            lanes = [np.asarray(lane).tolist() for lane in tusimple_lanes.lanes(ids, photo.shape[1::-1], record.h_samples)]
            predictions.append(tusimple.Record(record.raw_file, lanes, record.h_samples))
    result = dict(zip(('total', 'var', 'dist', 'reg'), np.mean(terms, axis=0).tolist()))
    result['score'] = -result['total']
    if flags.semantic:
        result['iou'] = result['score'] = right / max(union, 1)
    elif len(predictions) == len(terms):
        (accuracy, fp, fn), _ = tusimple_evaluation.score(predictions, data.records, ignore_run_time=True)
        result.update(accuracy=accuracy, fp=fp, fn=fn, score=accuracy)
    return result


def write_pictures(trainer, flags, data, events, epoch, step):
    """TensorBoard's pictures and histograms; in --logdir two validation photos, the first also as a scatter plot."""
    images, labels = datagenerator.load_batch(data.valid[0][:2], data.valid[1][:2], flags.image_size)
    output, _ = trainer.predict(images, labels)
    if not np.isfinite(output).all():
        raise InputError(f'{data.valid[0][0]}: the output of the network is not finite')
    for summary in trainer.summarise(images, labels):
        events.add(summary, step)
    overviews = []
    for i in range(len(images)):
        ids = (output[i, ..., 1] > output[i, ..., 0]).astype(np.int32) if flags.semantic else \
            clustering.instance_ids(output[i], flags.bandwidth, (flags.dvar, flags.ddist))
        overview = visualization.overview(images[i], labels[i], output[i], ids)
        files.write_image(os.path.join(flags.logdir, f'clusters_epoch{epoch:04d}_{i}.png'), overview)
        overviews.append(cv2.imencode('.png', overview[..., ::-1])[1].tobytes())
    events.add_pictures('clusters', overviews, step)
    if not flags.semantic:
        params = f'var{flags.var:g}_dist{flags.dist:g}_reg{flags.reg:g}_dvar{flags.dvar:g}_ddist{flags.ddist:g}'
        visualization.evaluate_scatter_plot(flags.logdir, output[:1], labels[:1], flags.feature_dim, params, step)


# ---- The training ---------------------------------------------------------------------------------------------------

class Training:
    """Steps and epochs, and what is said, shown and saved of them."""

    def __init__(self, trainer, flags, data, queue, events, stop, given):
        self.trainer, self.flags, self.data, self.given = trainer, flags, data, given
        self.queue, self.stop = queue, stop
        self.events, self.epoch_events = events or (None, None)
        self.resume_dir = os.path.join(flags.outdir, RESUME)
        self.epoch_steps = queue.steps_per_epoch
        self.num_steps = flags.epochs * self.epoch_steps
        self.step, self.epoch = trainer.step(), trainer.epochs()
        self.skipped = 0                    # steps in a row that were not taken
        self.losses = []                    # of the steps of this epoch
        self.saved_at = time.monotonic()
        self.bar = tqdm.tqdm(total=self.num_steps, initial=self.step, unit='step', disable=None)

    def run(self):
        """To the last step, or until `stop` holds a signal; either way all is then saved."""
        with self.bar:
            while not self.stop:
                if self.step == (self.epoch + 1) * self.epoch_steps:
                    self.finish_epoch()
                elif self.step < self.num_steps:
                    self.take_step()
                else:
                    break
            if self.stop:
                self.save_state()

    def take_step(self):
        batch = self.or_save(self.queue.get)
        result = self.trainer.train(batch.images, batch.labels)
        if result is None:   # stopped while it waited for other machines
            return
        self.step += 1
        if not result.taken:
            self.skip(result, ['photos of another replica'] if result.elsewhere else batch.paths)
            return
        self.skipped = 0
        self.losses.append(result.terms[0])
        if self.events and self.step % self.flags.summary_steps == 0:
            self.events.add(result.summary, self.step)
        self.bar.update()
        speed = self.given['batch_size'] * (self.bar.format_dict['rate'] or 0)
        self.bar.set_postfix_str(f'loss {self.text(result.terms)}, lr {result.rate:.1e}, {speed:.1f} images/s',
                                 refresh=False)
        if time.monotonic() - self.saved_at > 60 * self.flags.save_minutes:
            self.attempt(self.save_state)

    def skip(self, result, paths):
        """Says which step was not taken, and gives up after the third in a row: then it is not the photos."""
        self.skipped += 1
        problem = (f'step {self.step}: loss {self.text(result.terms)} or its gradient (norm {result.norm:g}) is not '
                   f'finite for {", ".join(paths)}')
        if self.skipped == MAX_SKIPPED:
            raise InputError(f'{problem}; it is the {MAX_SKIPPED}rd in a row; try {lower_rate(self.flags)}')
        self.warn(f'{problem}; the step is skipped')
        self.bar.update()

    def finish_epoch(self):
        """Validates, keeps the model if it is the best, and saves."""
        result = self.or_save(validate, self.trainer, self.flags, self.data, self.stop)
        if result is None:   # stopped: the epoch is validated when the training goes on
            return
        self.epoch += 1
        best = self.trainer.best()
        if best > -np.inf and not glob.glob(os.path.join(glob.escape(self.flags.outdir), '*.index')):
            self.warn(f'{self.flags.outdir}: the model that was there has vanished; the best from now on is kept')
            best = -np.inf
        is_best = result['score'] > best and self.or_save(self.attempt, self.trainer.save_model, self.flags.outdir)
        self.trainer.finish_epoch(result['score'] if is_best else best)

        shown = [name for name in result if not (self.flags.semantic and name in ('var', 'dist', 'reg'))]
        self.epoch_events.add_scalars({f'validation/{name}': result[name] for name in shown}, self.step)
        if self.epoch % self.flags.pictures == 0 or self.step == self.num_steps:
            try:
                write_pictures(self.trainer, self.flags, self.data, self.epoch_events, self.epoch, self.step)
            except InputError as error:
                self.warn(f'{error}; the training goes on without these pictures')
        self.attempt(self.save_state)

        figures = ''.join(f', {name} {result[name]:.3f}' for name in ('accuracy', 'fp', 'fn', 'iou') if name in result)
        seen = f'training loss {np.mean(self.losses):.4f}, ' if self.losses else ''
        self.say(f'epoch {self.epoch} of {self.flags.epochs}: {seen}validation loss {self.text(result.values())}'
                 f'{figures}{" (best)" if is_best else ""}')
        self.losses.clear()

    def save_state(self):
        self.saved_at = time.monotonic()   # also of a failure: the next attempt is due no sooner
        for events in (self.events, self.epoch_events):
            events.flush()                 # first: no state is ahead of the curves
        if not os.path.exists(os.path.join(self.resume_dir, FLAGS_FILE)):
            write_settings(self.flags.outdir, self.given, self.trainer.conventions)
        self.trainer.save_state(self.resume_dir)

    def attempt(self, save, *args):
        """Saves, or warns if that fails, unless nothing comes after in which it could succeed. -> whether it did."""
        try:
            save(*args)
            return True
        except InputError as error:
            if self.step == self.num_steps:
                raise
            self.warn(f'{error}; the training goes on')
            return False

    def or_save(self, act, *args):
        """Does what can fail by way of a file or thread, and if it does, saves the state before the training ends."""
        try:
            return act(*args)
        except Exception:
            try:
                self.save_state()
            except InputError as error:
                self.warn(error)
            raise

    def text(self, terms):
        total, var, dist, reg, *_ = terms
        return f'{total:.4f}' + ('' if self.flags.semantic else f' = var {var:.4f} + dist {dist:.4f} + reg {reg:.4f}')

    def say(self, line):
        with self.bar.external_write_mode(), contextlib.suppress(OSError):   # a full disk below it is no end
            print(line, flush=True)

    def warn(self, line):
        with self.bar.external_write_mode(), contextlib.suppress(OSError):
            command_line.warn(line)


def lower_rate(flags):
    """The flags of a training in place of this one, which cannot go on with another learning rate."""
    start = '--fresh'
    if glob.glob(os.path.join(glob.escape(flags.outdir), '*.index')):
        start = f'--modeldir {flags.outdir} --outdir {os.path.normpath(flags.outdir)}_2'
    return f'{start} --learning-rate {flags.learning_rate / 3:.1g}'


class Helper(Training):
    """What a worker does of a Training that is its chief's: the steps alone."""

    def finish_epoch(self):
        self.epoch += 1

    def save_state(self):
        pass


def write_settings(outdir, given, conventions):
    """Notes in resume/ what the states to come belong to."""
    import utils
    folder = os.path.join(outdir, RESUME)
    files.make_output_folder(folder)
    utils.write_conventions(folder, conventions)
    files.write_file(os.path.join(folder, FLAGS_FILE), json.dumps(given, indent=1).encode())


def find_source(flags, resuming):
    """The folder of the checkpoint to start from, or None to start from scratch."""
    if resuming:
        return os.path.join(flags.outdir, RESUME)
    if flags.modeldir:
        return flags.modeldir
    own = os.path.realpath(DEFAULT_MODELDIR) == os.path.realpath(flags.outdir)
    return DEFAULT_MODELDIR if not own and glob.glob(os.path.join(DEFAULT_MODELDIR, '*.index')) else None


def start(trainer, flags, given, source, resuming):
    """Gives the variables their values, says where they came from, and makes sure that a state can be saved.

    The full list of variables goes to --logdir/variables.txt.
    """
    import utils
    if resuming:
        checkpoint = trainer.restore_state(source, command_line.warn)
        print(f'goes on after step {trainer.step():,}, from {checkpoint}')
        return
    lines = []
    if source:
        checkpoint = utils.find_checkpoint(source)
        names = set(trainer.restore_model(checkpoint, lines.append))
        fresh = [v.op.name for v in trainer.variables if v.op.name not in names]
        print(f'{len(names)} of {len(trainer.variables)} variables start as in {checkpoint}'
              + (f'; at random: {", ".join(fresh[:4])}{", ..." if len(fresh) > 4 else ""}' if fresh else ''))
    else:
        print(f'starts from scratch: no --modeldir, and no checkpoint in {DEFAULT_MODELDIR}')
        lines = [f'{v.op.name}: at random' for v in trainer.variables]
    files.write_file(os.path.join(flags.logdir, 'variables.txt'), '\n'.join(lines + ['']).encode())
    for folder in (flags.outdir, os.path.join(flags.outdir, RESUME)):
        if utils.checkpoints(folder):
            print(f'{folder}: what was there is replaced')
        if flags.fresh:   # otherwise there is no model, and what else is there may be someone's
            utils.remove_model(folder)
        utils.remove_unfinished(folder)
    write_settings(flags.outdir, given, trainer.conventions)
    trainer.save_state(os.path.join(flags.outdir, RESUME))


def train(flags, data, resuming, stop, cluster=None):
    """All that needs TensorFlow, as the chief or a worker if there is a cluster. -> the exit status"""
    import tensorflow.compat.v1 as tf
    import utils
    is_chief = cluster is None or cluster.is_chief
    shard = cluster.shard if cluster else (0, 1)
    source = find_source(flags, resuming) if is_chief else None
    if resuming and is_chief and not os.path.exists(os.path.join(source, utils.CONVENTIONS_FILE)):
        raise InputError(f'{os.path.join(source, utils.CONVENTIONS_FILE)}: is missing, so that the training cannot go '
                         f'on; start over with --fresh')
    # Weights that are taken over mean the same only with the photos as they knew them.
    normalisation = utils.read_conventions(source).normalisation if source else 'signed'
    given = settings(flags, data, shard[1])
    if cluster:
        terms = {'settings': given, 'normalisation': normalisation}
        generation, normalisation = meet(cluster, terms, flags)
        if stop:
            return left(cluster)
    conventions = utils.Conventions(
        image_size=flags.image_size, head='Semantic' if flags.semantic else 'Instance', normalisation=normalisation,
        feature_dim=2 if flags.semantic else flags.feature_dim, head_activation='none', batch_statistics=False,
        dropout_at_inference=False, delta_v=flags.dvar, delta_d=flags.ddist, bandwidth=flags.bandwidth)
    conventions.check('the flags')
    coord = tf.train.Coordinator()
    with contextlib.ExitStack() as stack:
        epoch_steps = datagenerator.steps_per_epoch(len(data.train[0]), given['batch_size'])
        build = functools.partial(utils.ReplicaTrainer, cluster, generation) if cluster else utils.Trainer
        trainer = build(conventions, flags.epochs * epoch_steps, flags.learning_rate, flags.schedule, flags.clip,
                        (flags.var, flags.dist, flags.reg), flags.seed + shard[0], flags.keep, flags.background_weight)
        stack.callback(trainer.close)
        if is_chief:
            start(trainer, flags, given, source, resuming)
        if cluster:
            trainer.join()
            if is_chief:
                cluster.put_up({'generation': generation, **terms})
        queue = stack.enter_context(datagenerator.BatchQueue(
            *data.train, flags.batch_size, flags.image_size, coord, seed=flags.seed, workers=flags.workers,
            augment=not flags.no_augment, start_step=trainer.step(), shard=shard,
            cache_bytes=flags.cache * 2 ** 30))
        if is_chief:
            # Two, since an epoch's last step can be in a state when its validation is not, and is then done again.
            events = [utils.EventFile(folder, step, command_line.warn) for folder, step in (
                (flags.logdir, trainer.step()),
                (os.path.join(flags.logdir, VALIDATION), trainer.epochs() * epoch_steps))]
            for file in events:
                stack.callback(file.close)
        training = (Training if is_chief else Helper)(
            trainer, flags, data, queue, events if is_chief else None, stop, given)
        try:
            training.run()
        except tf.errors.ResourceExhaustedError:
            raise InputError('there is not enough memory for a step; try a smaller --batch-size or --image-size')
        if not is_chief:
            return left(cluster)
        if stop:
            print(f'training.py: stopped after step {training.step:,} of {training.num_steps:,}, which is saved; the '
                  f'same command{" without --fresh" if flags.fresh else ""} goes on from there', file=sys.stderr)
            return 128 + stop[0]
        if trainer.best() == -np.inf:
            raise InputError(f'{flags.outdir}: holds no model, because no epoch gave a finite validation loss; try '
                             f'{lower_rate(flags)}')
    print(f'all {flags.epochs} epochs are done; the model of the best is in {flags.outdir}')
    return 0


# ---- More than one machine, see utils.py ----------------------------------------------------------------------------

def take_part(flags, data, resuming, member):
    """A member of a cluster, to the end of the training. -> the exit status"""
    import utils
    with noted_signals() as stop:
        cluster = utils.Cluster(*member, stop, lambda line: print(f'training.py: {line}', file=sys.stderr, flush=True))
        if member.job == 'ps':
            return cluster.serve()
        status = 1
        try:
            while True:
                try:
                    status = train(flags, data, resuming, stop, cluster)
                    return status
                except (utils.Changed, *utils.GONE) as change:
                    reason = change if isinstance(change, utils.Changed) else 'the connection to the others was lost'
                    command_line.warn(f'{cluster.name}: {reason}; it joins again')
                    resuming = bool(cluster.is_chief and utils.checkpoints(os.path.join(flags.outdir, RESUME)))
        finally:
            cluster.tell('stopped' if status else 'done')


def meet(cluster, terms, flags):
    """Waits until the cluster is ready for this replica, or for a signal. -> (generation, normalisation)."""
    if cluster.is_chief:
        if cluster.wait(lambda: cluster.notice() is not None or time.sleep(0.2), 'starts', cluster.servers):
            cluster.put_up({})   # nobody shall join what was there before
            cluster.tell('begins')
        return f'generation-{time.time_ns()}', terms['normalisation']
    notice = cluster.wait(lambda: cluster.notice() or time.sleep(0.2), 'joins')
    if notice:
        different = differences(notice['settings'], terms['settings'], FREE_FLAGS - {'epochs'})
        if different:
            raise InputError(f'{cluster.name}: its flags are not those of the chief ({different}); give all members '
                             f'the same')
        return notice['generation'], notice['normalisation']
    return None, None


def left(cluster):
    """-> the exit status of a worker, or of a chief that has not begun."""
    if not cluster.stop:
        print(f'{cluster.name}: all steps are done')
        return 0
    print(f'training.py: {cluster.name} has stopped; the same command joins again', file=sys.stderr)
    return 128 + cluster.stop[0]


def main(argv=None):
    flags = parse_flags(argv)
    member = read_tf_config(os.environ.get('TF_CONFIG'))
    if member and member.job == 'ps':
        quiet.import_tensorflow()
        return take_part(flags, None, False, member)
    data = find_data(flags.srcdir, flags.validation_photos)
    if member and member.job == 'worker':
        quiet.import_tensorflow()
        return take_part(flags, data, False, member)
    resuming = check_folders(flags)
    with alone(flags.outdir):
        if resuming:
            replicas = 1 + len(member.jobs.get('worker', [])) if member else 1
            check_flags(flags.outdir, settings(flags, data, replicas))
        print(f'{len(data.train[0]):,} photos to train on, {len(data.valid[0]):,} to validate on'
              + (' with the official score' if data.records and not flags.semantic else ''), flush=True)
        quiet.import_tensorflow()   # seconds: only now that nothing is left that could be found wrong without it
        if member:
            return take_part(flags, data, resuming, member)
        with noted_signals() as stop:
            return train(flags, data, resuming, stop)


if __name__ == '__main__':
    command_line.run(main)
