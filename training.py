"""Trains the network to embed the pixels of each lane, or other instance, together, and different ones apart.

    python training.py                                        on data/, from scratch or from pretrained_semantic_model/
    python training.py --semantic --outdir pretrained_semantic_model && python training.py
                                                              in the two stages of 2018: lane or not, then which lane
    python training.py --recipe fast                          as the shipped model: several times as fast
    python training.py --recipe fast --modeldir trained_model --outdir fine_tuned
                                                              from the shipped model, with its settings
    python training.py --recipe any --srcdir leaves --outdir leaves_model --logdir leaves_log
                                                              instances of any kind, here leaves
    tensorboard --logdir log                                  loss, score, photos and embeddings as they develop

On more than one machine, or as here in three processes of one: a parameter server, a chief and a worker.

    task() { TF_CONFIG='{"cluster": {"ps": ["127.0.0.1:4000"], "chief": ["127.0.0.1:4001"],
                                     "worker": ["127.0.0.1:4002"]},
                         "task": {"type": "'$1'", "index": 0}}' python training.py --batch-size 2; }
    task ps & task worker & task chief

All run the same command; TF_CONFIG tells each which task it is. The chief and the workers each run --batch-size photos
per step, so n of them do what one process does with n times the --batch-size, but for batch norm, which sees the photos
of one task; one process can go on with what a cluster began, and vice versa. The chief validates, saves and writes to
--logdir; the others only read --srcdir. Any task can be killed and started again; the others wait, and say for which
one. One more worker: stop all tasks, append its address to "worker" in every TF_CONFIG, and start all again, the new
one with the next "index" (a fourth worker has 3). The training resumes if the photos per step, of all tasks together,
stay what they were (lower --batch-size); otherwise it needs a new --outdir or --fresh.

--outdir receives the model of the best epoch, with the conventions that inference needs, and in its folder resume/ what
a training needs to go on: however it was stopped, the same command, without --fresh, resumes it, and the result is the
same.
"""
from data.common import command_line

if __name__ == '__main__':
    command_line.exit_on_interrupt()   # the imports below take half a second

import argparse
import collections
import concurrent.futures
import contextlib
import glob
import math
import os
import sys
import time

import cv2
import numpy as np
import tqdm

import clustering
import datagenerator
import visualization
from data import tusimple_evaluation
from data.common import augmentation, files, instance_metrics, pictures, prefetch, quiet
from data.lanes import lines, road_augmentation, tusimple
from data.common.command_line import InputError

DEFAULT_MODELDIR = 'pretrained_semantic_model'
RESUME = 'resume'             # folder of training states within --outdir
VALIDATION = 'validation'     # folder within --logdir of what belongs to epochs, where the rest belongs to steps
# Mean nothing with --semantic.
EMBEDDING_FLAGS = ('var', 'dist', 'reg', 'background_weight', 'foreground_weight', 'dvar', 'ddist', 'feature_dim',
                   'foreground_threshold', 'coordinates', 'bandwidth')
# What --recipe stands for, in the place of the defaults.
RECIPES = {
    '2018': {},
    'fast': {'batch_size': 4, 'image_size': (512, 256), 'schedule': 'cosine', 'learning_rate': 3e-3, 'reg': 0.001,
             'background_weight': 6.0, 'bandwidth': 0.75},
    'any': {'kind': 'any', 'batch_size': 4, 'image_size': (256, 256), 'feature_dim': 4, 'coordinates': True,
            'schedule': 'cosine', 'learning_rate': 3e-3, 'reg': 0.001, 'background_weight': 0.0,
            'foreground_weight': 2.0, 'bandwidth': 1.0},
}
# What a training that starts from a model takes over from it: flags, and what its conventions call them.
TAKEN_OVER = {'dvar': 'delta_v', 'ddist': 'delta_d', **{name: name for name in (
    'image_size', 'feature_dim', 'bandwidth', 'var', 'dist', 'reg', 'background_weight', 'foreground_weight',
    'foreground_threshold', 'coordinates')}}
AUGMENTATION = {'road': road_augmentation.augment, 'any': augmentation.augment}
TERMS = ('var', 'dist', 'reg', 'foreground')   # of the loss, of those that there are
MAX_SKIPPED = 3               # steps in a row whose loss or gradient is not finite

Data = collections.namedtuple('Data', ['train', 'valid', 'records'])
Data.__doc__ = """train, valid: (image paths, label paths); records: a tusimple.Record for each of valid, or None."""


def parse_flags(argv=None):
    parser = command_line.Parser(description=__doc__)
    parser.add_argument('--recipe', choices=RECIPES, default='2018',
                        help='What the flags below are by default. 2018: as they say. fast: '
                             + ' '.join(flag_text(*item) for item in RECIPES['fast'].items())
                             + ', as the shipped model was trained, which learns several times as fast. any: '
                             + ' '.join(flag_text(*item) for item in RECIPES['any'].items())
                             + ', for other pictures than roads.')
    folders = parser.add_argument_group('folders')
    folders.add_argument('-s', '--srcdir', default='data',
                         help='Folder with images/ and labels/, as data/tusimple_dataset_processing.py writes them; '
                              'with its lanes.json, validation has the official score.')
    folders.add_argument('-m', '--modeldir',
                         help='Folder of the checkpoint to start from, of this network with any head. (default: '
                              f'{DEFAULT_MODELDIR} if it holds one; otherwise the weights start at random)')
    folders.add_argument('-o', '--outdir', default='saved_model', help='Folder for the trained model.')
    folders.add_argument('-l', '--logdir', default='log',
                         help='Folder for TensorBoard, scatter plots and pictures; with --semantic, its subfolder '
                              'semantic. A new training starts its curves anew, so each --outdir needs its own.')
    folders.add_argument('--fresh', action='store_true',
                         help='Start over in an --outdir that holds a training or a model, which are then removed.')

    loss = parser.add_argument_group('loss')
    number, positive = command_line.non_negative_float, command_line.positive_float
    loss.add_argument('--var', type=number, default=1.0, help='Weight of the variance term, alpha in the paper.')
    loss.add_argument('--dist', type=number, default=1.0, help='Weight of the distance term, beta in the paper.')
    loss.add_argument('--reg', type=number, default=1.0, help='Weight of the regularisation term, gamma in the paper.')
    loss.add_argument('--dvar', type=positive, default=0.5,
                      help='Margin of the variance term, delta_v, a distance in the embedding: pixels closer than this '
                           'to the mean of their instance cost nothing. It has to be below --ddist.')
    loss.add_argument('--ddist', type=positive, default=1.5,
                      help='Margin of the distance term, delta_d, a distance in the embedding: means farther apart '
                           'than twice this cost nothing.')
    loss.add_argument('--background-weight', type=number, default=1.0,
                      help='Weight of the background in the variance term, where every lane has 1. At 1 the many '
                           'pixels of the background count as much as the few of one lane, and lanes come out several '
                           'times too wide; 6 is better, and 30 lost most lanes. At 0 the background is no '
                           'instance of the embedding at all, as in the paper, and something else has to tell it.')
    loss.add_argument('--foreground-weight', type=number, default=0.0,
                      help='Weight of the cross entropy of a second head, which tells foreground from background; '
                           'inference then clusters the foreground alone. At 0 there is no such head.')
    loss.add_argument('--semantic', action='store_true',
                      help='Train the first stage of 2018 instead: whether a pixel is lane, by weighted cross entropy.')

    network = parser.add_argument_group('network')
    network.add_argument('--image-size', type=command_line.positive_int, nargs=2, default=[512, 512],
                         metavar=('W', 'H'), help='Width and height that photos are resized to, in px; multiples of 8.')
    network.add_argument('--feature-dim', type=command_line.positive_int, default=3,
                         help='Number of dimensions of the embedding.')
    network.add_argument('--coordinates', action=argparse.BooleanOptionalAction, default=False,
                         help='Make the place of a pixel part of its embedding, so that instances that look alike, as '
                              'the leaves of a plant do, come apart. Then give --background-weight 0, as a background '
                              'that is everywhere cannot be one instance.')
    network.add_argument('--foreground-threshold', type=command_line.share, default=0.5,
                         help='Probability from which on validation and inference take a pixel for foreground; it is '
                              'recorded like the bandwidth. The pixels of thin or worn lines are rarely surer than '
                              '0.5.')
    network.add_argument('--bandwidth', type=command_line.bandwidth, default=0.7,
                         help='Bandwidth of mean shift in validation, a distance in the embedding. It is recorded '
                              'beside the weights, and inference uses it.')

    course = parser.add_argument_group('course of the training')
    course.add_argument('--epochs', type=command_line.positive_int, default=50,
                        help='Number of passes over the training photos.')
    course.add_argument('--batch-size', type=command_line.positive_int, default=1,
                        help='Number of photos per step; in a cluster, of each replica.')
    course.add_argument('--learning-rate', type=positive, default=1e-4, help='The highest learning rate of Adam.')
    course.add_argument('--schedule', choices=['2018', 'cosine'], default='2018',
                        help='How the learning rate develops. 2018: it is multiplied by 0.96 every 5,000 steps. '
                             'cosine: it rises over the first twentieth of all steps, then falls to 0 along a cosine.')
    course.add_argument('--clip', type=positive, default=5.0,
                        help='Gradients are scaled down to this L2 norm over all weights where they exceed it.')
    course.add_argument('--validation-photos', type=command_line.positive_int, default=200,
                        help='Each epoch is validated on at most this many photos of the tenth that is held out.')
    course.add_argument('--kind', choices=['road', 'any'],
                        help='Kind of picture, which decides on augmentation and score. road: as other cameras would '
                             'see the road in other light, and the official score of lanes where --srcdir has '
                             'lanes.json. any: flipped, turned, scaled and bent, and symmetric best Dice. (default: '
                             'road if --srcdir has lanes.json, otherwise any)')
    course.add_argument('--no-augment', action='store_true', help='Train on the photos as they are.')
    course.add_argument('--seed', type=command_line.non_negative_int, default=42,
                        help='Seed of the first weights, the order of the photos, augmentation and dropout; the split '
                             'into training and validation photos is always that of seed 42.')

    running = parser.add_argument_group('running')
    running.add_argument('--workers', type=command_line.workers, default=2,
                         help='Number of threads that load photos, at most 4 per core.')
    running.add_argument('--cache', type=number, default=2.0,
                         help='Memory for decoded photos, in GiB; with 0 photos are decoded anew in each epoch.')
    running.add_argument('--keep', type=command_line.positive_int, default=3,
                         help='Number of training states that are kept in resume/.')
    running.add_argument('--save-minutes', type=positive, default=10.,
                         help='Time between two saved states, in minutes.')
    running.add_argument('--summary-steps', type=command_line.positive_int, default=10,
                         help='Number of steps between two points of the TensorBoard curves.')
    running.add_argument('--pictures', type=command_line.positive_int, default=5,
                         help='Number of epochs between two sets of pictures and scatter plots in --logdir.')
    flags = parser.parse_args(argv)
    defaults = dict(vars(flags))
    parser.set_defaults(**dict.fromkeys(defaults))
    given = {name for name, value in vars(parser.parse_args(argv)).items() if value is not None}
    for name, value in RECIPES[flags.recipe].items():
        if name not in given:
            setattr(flags, name, value)
    flags.given = given   # these are taken over from no model
    if any(side % 8 for side in flags.image_size):
        parser.error('argument --image-size: {} {} are not both multiples of 8'.format(*flags.image_size))
    flags.image_size = tuple(flags.image_size)
    if max(flags.image_size) > command_line.MAX_SIDE or math.prod(flags.image_size) > command_line.MAX_MODEL_PIXELS:
        parser.error('argument --image-size: {} x {} has a side of over {:,} px or is of over {:,} pixels'.format(
            *flags.image_size, command_line.MAX_SIDE, command_line.MAX_MODEL_PIXELS))
    if flags.feature_dim > command_line.MAX_FEATURE_DIM:
        parser.error(f'argument --feature-dim: {flags.feature_dim} is more than {command_line.MAX_FEATURE_DIM:,}')
    if flags.var == flags.dist == flags.reg == 0:
        parser.error('arguments --var, --dist, --reg: all are 0, which leaves nothing to learn')
    if flags.dvar >= flags.ddist:
        parser.error(f'argument --dvar: {flags.dvar} is not below the {flags.ddist} of --ddist, which leaves no room '
                     f'between lanes')
    if flags.semantic:
        for name in EMBEDDING_FLAGS:
            if name in given:
                parser.error(f'argument --{name.replace("_", "-")}: is about an embedding, and --semantic trains none')
            setattr(flags, name, defaults[name])   # whatever the recipe says
        flags.logdir = os.path.join(flags.logdir, 'semantic')
    return flags


def flag_text(name, value):
    """A flag as on the command line. -> str"""
    if isinstance(value, bool):
        return f'--{name}' if value else f'--no-{name}'
    values = value if isinstance(value, (tuple, list)) else [value]
    return ' '.join([f'--{name.replace("_", "-")}', *(f'{each:g}' if isinstance(each, float) else str(each)
                                                     for each in values)])


# ---- Before the first step -------------------------------------------------------------------------------------------

def find_data(srcdir, most):
    """The photos to train on and to validate on, of the latter at most `most`. -> Data"""
    train_paths, valid_paths = datagenerator.split(*datagenerator.find_samples(srcdir))
    valid_paths = tuple(paths[:most] for paths in valid_paths)   # in random order already
    return Data(train_paths, valid_paths, lane_records(srcdir, valid_paths[0]))


def lane_records(srcdir, image_paths):
    """The lanes of photos from srcdir/lanes.json. -> list of tusimple.Record, or None if it does not have them all"""
    path = os.path.join(srcdir, tusimple.PREPARED_LABELS)
    if not os.path.exists(path):
        return None
    records, problems = tusimple.read_records(path)
    if problems:
        command_line.warn(problems[0])
    records = {os.path.basename(record.raw_file): record for record in records}
    chosen = [records.get(os.path.basename(image_path)) for image_path in image_paths]
    if None in chosen:
        command_line.warn(f'{path}: does not have {image_paths[chosen.index(None)]}; there is no official score')
        return None
    return chosen


def check_folders(flags):
    """Makes --outdir and --logdir. -> whether --outdir holds a training to resume

    Raises InputError if a folder that a flag names cannot be used.
    """
    has_state, has_model = (bool(glob.glob(os.path.join(glob.escape(flags.outdir), *name)))
                            for name in ((RESUME, '*.index'), ('*.index',)))
    resuming = has_state and not flags.fresh
    for folder in (flags.outdir, flags.modeldir or ''):
        quiet.check_checkpoint_folder(folder)
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


# ---- The training ----------------------------------------------------------------------------------------------------

def train(flags, data, resuming, stop, replica, architecture=None):
    """The training: queue, network, loss, train op, session loop. -> exit status

    flags: of parse_flags. data: of find_data. resuming: go on from the newest state in --outdir. stop:
    utils.StopSignal. replica: utils.SingleProcess or utils.Replica, for what differs on more than one machine.
    architecture: an enet.Architecture, by default the paper's.
    """
    import tensorflow.compat.v1 as tf   # here and not above: seconds that --help and a wrong flag need not wait for
    import enet
    import loss
    import utils

    settled = settle(flags, data, resuming, replica)
    if settled is None:
        return stop.status()
    source, settings, conventions = settled

    def loss_terms(output, labels):
        """-> {name: float32 scalar}: the loss, and its weighted terms"""
        if flags.semantic:
            return {'total': loss.foreground_loss(output, labels)}
        terms = dict(zip(('total', 'var', 'dist', 'reg'), loss.discriminative_loss(
            output[..., :flags.feature_dim], labels, flags.feature_dim, flags.image_size, flags.dvar, flags.ddist,
            flags.var, flags.dist, flags.reg, ignore_background=not flags.background_weight,
            background_weight=flags.background_weight)))
        if flags.foreground_weight:
            foreground = loss.foreground_log_loss(output[..., flags.feature_dim], labels)
            terms['foreground'] = flags.foreground_weight * foreground
            terms['total'] += terms['foreground']
        return terms

    with contextlib.ExitStack() as stack:
        stack.enter_context(tf.Graph().as_default())
        stack.enter_context(replica.placement())
        sess = stack.enter_context(replica.session())
        seed = (flags.seed + replica.shard[0]) % 2 ** 31
        tf.set_random_seed(seed)

        # The photos: loader threads fill a tf.FIFOQueue, from which each step takes a batch.
        augment = None if flags.no_augment else AUGMENTATION[flags.kind]
        queue = datagenerator.BatchQueue(*data.train, flags.batch_size, flags.image_size, seed=flags.seed,
                                         workers=flags.workers, augment=augment, shard=replica.shard,
                                         cache_bytes=flags.cache * 2 ** 30)
        batch = queue.dequeue()
        num_steps = flags.epochs * queue.steps_per_epoch

        # The network, on the weights of --modeldir where there are some, and the loss.
        global_step = tf.train.create_global_step()
        step_32 = tf.cast(global_step, tf.int32)
        start_from, log = None if resuming else source, []
        features = utils.load_enet(
            sess, start_from, batch.images, flags.batch_size, conventions=conventions,
            decay=utils.norm_decay(step_32), noise=enet.noise_of_step(tf.stack([seed, step_32])), least=1,
            log=log.append, architecture=architecture)
        output = utils.join_heads([
            utils.add_transfer_layers_and_initialize(sess, features, depth, scope, start_from, log.append,
                                                     conventions.reach(scope))
            for scope, depth in conventions.heads.items()])
        body, *heads = (tf.global_variables(scope=f'{scope}/') for scope in ('ENet', *conventions.heads))
        head = sum(heads, [])
        model, restored = [v.op.name for v in body + head], {line.split(':')[0] for line in log if ': from ' in line}
        variables = utils.to_train()
        terms = loss_terms(output, batch.labels)
        penalty = utils.weight_decay(variables)

        # A step of Adam by the gradients of all replicas, clipped; none where they are not finite.
        gradients, variables = zip(*[   # a bias before a batch norm has no gradient
            (g, v) for g, v in zip(tf.gradients(terms['total'] + penalty, variables), variables) if g is not None])
        averages, moves = zip(*utils.moving_average_updates())
        # As far as this replica's photos go.
        sound = tf.is_finite(terms['total'] + penalty + tf.global_norm(gradients))
        terms, penalty, gradients, moves = replica.mean((terms, penalty, gradients, moves))
        gradients, norm = tf.clip_by_global_norm(gradients, flags.clip)
        finite = replica.publish(tf.logical_and(tf.is_finite(terms['total'] + penalty), tf.is_finite(norm)))
        rate = utils.learning_rate(flags.schedule, flags.learning_rate, step_32, num_steps)
        with tf.control_dependencies([rate]):
            train_op = utils.apply_if(finite, tf.train.AdamOptimizer(rate), zip(gradients, variables),
                                      zip(averages, moves), global_step)

        # What TensorBoard shows, and the same network on photos to validate.
        images = tf.placeholder(tf.uint8, [None, *flags.image_size[::-1], 3], name='images')
        labels = tf.placeholder(tf.int32, [None, *flags.image_size[::-1]], name='labels')
        valid_output = utils.build_model(images, conventions, is_training=False, reuse=True, architecture=architecture)
        valid_terms = loss_terms(valid_output, labels)

        def summaries(terms, *pictures):
            return utils.collect_summaries(*(terms.get(name) for name in ('total', 'var', 'dist', 'reg')), *pictures,
                                           terms.get('foreground'))

        summary = tf.summary.merge([
            summaries(terms, batch.images, output, batch.labels)[0],
            tf.summary.scalar('loss/weight_decay', penalty), tf.summary.scalar('learning_rate', rate),
            tf.summary.scalar('gradient_norm', norm)])
        with tf.name_scope('sample'):
            pictures = summaries(valid_terms, images, valid_output[..., :conventions.feature_dim], labels)[1]
        histograms = tf.summary.merge([tf.summary.histogram(v.op.name, v) for v in utils.to_train()])

        def predict(photos, instances, fetches=(valid_output, valid_terms)):
            return sess.run(fetches, {images: photos, labels: instances})

        # Where it begins: at the state of a training that was stopped, or at the weights from above.
        run = utils.RunFolder(sess, flags.outdir, os.path.join(flags.outdir, RESUME), body + head, conventions,
                              settings, flags.keep)
        if replica.is_chief and not resuming:
            # What --modeldir does not have, and Adam's slots.
            utils.get_trainable_variables_and_initialize(sess, initialised=restored | {v.op.name for v in head})
        if replica.is_chief:
            print(f'{utils.count_parameters() / 1e6:.2f} million weights')
            begin(run, flags, source and utils.find_checkpoint(source), resuming, model, restored, log)
        replica.announce(sess)
        step, epoch, best = run.counters()
        events = [utils.EventFile(folder, at, command_line.warn) for folder, at in (
            # Two, since an epoch's last step may be in a state without its validation, which is then done again.
            (flags.logdir, step), (os.path.join(flags.logdir, VALIDATION), epoch * queue.steps_per_epoch)
        )] if replica.is_chief else [None, None]
        report = stack.enter_context(Report(flags, run, *events, step, num_steps, replica.shard[1],
                                           len(data.valid[0])))

        coord = tf.train.Coordinator()
        threads = queue.start(sess, coord, step)
        skipped = 0   # steps in a row that were not taken
        try:
            while not stop.is_set():
                if step == (epoch + 1) * queue.steps_per_epoch:
                    if replica.is_chief:
                        with report.saving_first():
                            result = validate(predict, flags, data, stop)
                        if result is None:   # stopped: the epoch is validated when the training goes on
                            break
                        best, line = report.finish_epoch(epoch + 1, result, best)
                        if (epoch + 1) % flags.pictures == 0 or step == num_steps:
                            report.draw(write_pictures, predict, [pictures, histograms], flags, data, events[1],
                                        epoch + 1, step)
                        report.save(report.save_state)
                        report.say(line)
                    epoch += 1
                if step == num_steps:
                    break
                outcome = replica.run_step(sess, [batch.paths, sound], finite, [terms, rate, norm, summary, train_op])
                if outcome is None:   # a signal came while it waited for other machines
                    break
                step += 1
                skipped = 0 if outcome[1] else skipped + 1
                report.step(step, *outcome)
                if skipped == MAX_SKIPPED:
                    raise InputError(f'{report.problem}; it is the {MAX_SKIPPED}rd in a row; try '
                                     f'{advice_on_rate(flags)}')
        except tf.errors.OutOfRangeError:   # the queue is closed: a loader has failed, whose error join() raises
            if replica.is_chief:
                report.save(report.save_state)
        except tf.errors.ResourceExhaustedError:
            raise InputError('there is not enough memory for a step; try a smaller --batch-size or --image-size')
        finally:
            coord.request_stop()
            coord.join(threads)

        if stop.is_set():
            if not replica.is_chief:
                print(f'training.py: {replica.name} has stopped; the same command joins again', file=sys.stderr)
                return stop.status()
            report.save_state()
            print(f'training.py: stopped after step {step:,} of {num_steps:,}, which is saved; the same command'
                  f'{" without --fresh" if flags.fresh else ""} goes on from there', file=sys.stderr)
            return stop.status()
        if not replica.is_chief:
            print(f'{replica.name}: all steps are done')
            return 0
    if report.failure:
        raise report.failure
    if best == -np.inf:
        raise InputError(f'{flags.outdir}: holds no model, because no epoch had a finite validation loss; try '
                         f'{advice_on_rate(flags)}')
    print(f'all {flags.epochs} epochs are done; the model of the best is in {flags.outdir}')
    return 0


def settle(flags, data, resuming, replica):
    """Completes the flags: by what the model to start from was trained with, and those of a worker by the chief's.

    -> (folder of the checkpoint to start from or None, utils.settings, utils.Conventions of the model to be), or None
    if a signal came while a worker waited for the chief. The arguments: see `train`. Raises InputError if the flags
    contradict each other, those of the training to resume, or the chief's.
    """
    import utils
    source, normalisation = find_source(flags, resuming) if replica.is_chief else None, 'signed'
    before = utils.read_settings(source) if resuming else None
    if source:
        recorded = utils.read_conventions(source)
        normalisation = recorded.normalisation   # weights that are taken over need photos as in their own training
        # The settings for lanes are none for other pictures.
        if utils.has_record(source) and (resuming or recorded.kind == flags.kind):
            values = {flag: getattr(recorded, name) for flag, name in TAKEN_OVER.items()
                      if recorded.version > 1 or name not in utils.SINCE_VERSION_2}
            if resuming:
                values['kind'] = recorded.kind
            changed = take_over(flags, values, recorded.head == 'Semantic')
            if changed:
                print(f'as in {source}: {changed}', flush=True)
    utils.check_memory(flags.batch_size, flags.image_size, flags.feature_dim)
    settings = utils.settings(flags, data, replica.shard[1])
    if resuming:
        different = utils.differences(before, settings)
        if different:
            raise InputError(f'{flags.outdir}: holds a training with other flags ({different}); give the same flags, '
                             f'another --outdir, or --fresh to start over')
    of_chief = replica.join({'settings': settings, 'normalisation': normalisation})
    if of_chief is None:
        return None
    if not replica.is_chief:
        take_over(flags, {flag: of_chief['settings'][flag] for flag in TAKEN_OVER}, flags.semantic)
        settings = utils.settings(flags, data, replica.shard[1])
        different = utils.differences(of_chief['settings'], settings, utils.FREE_FLAGS - {'epochs'})
        if different:
            raise InputError(f'{replica.name}: its flags are not those of the chief ({different}); give all tasks '
                             f'the same')
    conventions = utils.Conventions(
        image_size=flags.image_size, head='Semantic' if flags.semantic else 'Instance',
        normalisation=of_chief['normalisation'], feature_dim=2 if flags.semantic else flags.feature_dim,
        head_activation='none', batch_statistics=False, dropout_at_inference=False, delta_v=flags.dvar,
        delta_d=flags.ddist, bandwidth=flags.bandwidth, kind=flags.kind, var=flags.var, dist=flags.dist, reg=flags.reg,
        background_weight=flags.background_weight, foreground_weight=flags.foreground_weight,
        foreground_threshold=flags.foreground_threshold, coordinates=flags.coordinates)
    conventions.check('the flags')
    if flags.coordinates and flags.background_weight:
        raise InputError('--coordinates: with them the background, which is everywhere, cannot be one instance; give '
                         '--background-weight 0')
    if not (flags.semantic or flags.background_weight or flags.foreground_weight or flags.kind == 'any'):
        raise InputError('--background-weight: at 0 nothing tells the background; give a --foreground-weight')
    if replica.is_chief:
        names = dict.fromkeys(('kind', 'batch_size', 'schedule', 'learning_rate', 'image_size',
                               *(() if flags.semantic else TAKEN_OVER)))
        print(f'recipe {flags.recipe}: {" ".join(flag_text(name, getattr(flags, name)) for name in names)}', flush=True)
    return source, settings, conventions


def find_source(flags, resuming):
    """-> the folder of the checkpoint to start from, or None to start from scratch"""
    if resuming:
        return os.path.join(flags.outdir, RESUME)
    if flags.modeldir:
        return flags.modeldir
    own = os.path.realpath(DEFAULT_MODELDIR) == os.path.realpath(flags.outdir)
    return DEFAULT_MODELDIR if not own and glob.glob(os.path.join(DEFAULT_MODELDIR, '*.index')) else None


def take_over(flags, values, semantic):
    """Sets flags that were not given on the command line to those of the model to start from.

    values: {flag: value}. semantic: whether that one has no embedding. -> what this changed, as flags
    """
    changed = []
    for name, value in values.items():
        value = tuple(value) if name == 'image_size' else value
        if name not in flags.given and getattr(flags, name) != value and (
                name in ('image_size', 'kind') or not (semantic or flags.semantic)):
            setattr(flags, name, value)
            changed.append(flag_text(name, value))
    return ' '.join(changed)


def begin(run, flags, checkpoint, resuming, names, restored, log):
    """Goes on from the last state; or prints where the weights came from, and saves the first state.

    run: utils.RunFolder. checkpoint: that of --modeldir, or None. names: the model's variables. restored: those of them
    that came from the checkpoint. log: a line per variable, for variables.txt.
    """
    if resuming:
        checkpoint = run.restore_state()
        print(f'goes on after step {run.counters()[0]:,}, from {checkpoint}')
        return
    fresh = [name for name in names if name not in restored]
    if checkpoint:
        print(f'{len(restored)} of {len(names)} variables start as in {checkpoint}'
              + (f'; at random: {", ".join(fresh[:4])}{", ..." if len(fresh) > 4 else ""}' if fresh else ''))
    else:
        print(f'starts from scratch: no --modeldir, and no checkpoint in {DEFAULT_MODELDIR}')
        log = [f'{name}: at random' for name in fresh]
    files.write_file(os.path.join(flags.logdir, 'variables.txt'), '\n'.join([*log, '']).encode())
    run.begin(flags.fresh)


class Report:
    """What a training prints, shows in TensorBoard and saves on its way.

    events, epoch_events: utils.EventFile of the steps and of the epochs, None for a worker.
    """

    def __init__(self, flags, run, events, epoch_events, step, num_steps, replicas, num_valid):
        self.num_valid = num_valid
        self.flags, self.run, self.events, self.epoch_events = flags, run, events, epoch_events
        self.at_step, self.num_steps, self.photos_per_step = step, num_steps, flags.batch_size * replicas
        self.losses = []           # of the steps of this epoch
        self.problem = None        # why the last skipped step was skipped
        self.failure = None        # InputError of a save after the last step
        self.saved_at = time.monotonic()
        self.bar = tqdm.tqdm(total=num_steps, initial=step, unit='step', disable=None)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.bar.close()
        for events in (self.events, self.epoch_events):
            if events:
                events.close()

    def step(self, step, local, taken, update):
        """Counts a step: warns of one that was skipped, shows and saves what is due after another.

        local: (paths of the photos as bytes, whether their own loss and gradient are finite). taken: whether the update
        was made. update: (terms, rate, norm, summary, ...), None for a worker.
        """
        self.at_step = step
        if not taken:
            paths, sound = local
            photos = 'photos of another replica' if sound else ', '.join(os.fsdecode(path) for path in paths)
            values = f' {self.text(update[0])} or its gradient (norm {update[2]:g})' if update else ' or gradient'
            self.problem = f'step {step}: loss{values} is not finite for {photos}'
            self.warn(f'{self.problem}; the step is skipped')
        elif update:
            terms, rate, _, summary, *_ = update
            self.losses.append(terms['total'])
            if step % self.flags.summary_steps == 0:
                self.events.add(summary, step)
            speed = self.photos_per_step * (self.bar.format_dict['rate'] or 0)
            self.bar.set_postfix_str(f'loss {self.text(terms)}, lr {rate:.1e}, {speed:.1f} images/s', refresh=False)
            if time.monotonic() - self.saved_at > 60 * self.flags.save_minutes:
                self.save(self.save_state)
        self.bar.update()

    def finish_epoch(self, epoch, result, best):
        """Keeps the model if it is the best, and counts the epoch. -> (the best score now, a line about it)"""
        if best > -np.inf and not self.run.holds_model():
            self.warn(f'{self.flags.outdir}: the model that was there has vanished; the best from now on is kept')
            best = -np.inf
        is_best = result['score'] > best
        saved = is_best and self.save(self.run.save_model)
        if saved or not (is_best and self.at_step == self.num_steps):   # the last is validated again by the next run
            best = result['score'] if saved else best
            self.run.finish_epoch(best)
        self.epoch_events.add_scalars({f'validation/{name}': result[name] for name in result}, self.at_step)
        figures = ''.join(f', {name} {result[name]:.3f}' for name in result
                          if name in ('accuracy', 'fp', 'fn', 'iou', 'sbd', 'abs_dic'))
        if result.get('unclustered'):
            figures += f', {result["unclustered"]} of {self.num_valid} photos cannot be clustered yet'
        seen = f'training loss {np.mean(self.losses):.4f}, ' if self.losses else ''
        self.losses.clear()
        return best, (f'epoch {epoch} of {self.flags.epochs}: {seen}validation loss {self.text(result)}'
                      f'{figures}{" (best)" if saved else ""}')

    def save_state(self):
        self.saved_at = time.monotonic()   # also if it fails: the next attempt is due as late
        for events in (self.events, self.epoch_events):
            events.flush()                 # first: no state is ahead of the curves
        self.run.save_state()

    def save(self, act):
        """act(), with a warning if it fails; after the last step the failure is kept for the end. -> success"""
        try:
            act()
            return True
        except InputError as error:
            if self.at_step == self.num_steps:
                self.failure = self.failure or error
            else:
                self.warn(f'{error}; the training goes on')
            return False

    def draw(self, act, *args):
        try:
            act(*args)
        except InputError as error:
            self.warn(f'{error}; the training goes on without these pictures')

    @contextlib.contextmanager
    def saving_first(self):
        """Within, an error saves the state before it ends the training."""
        try:
            yield
        except Exception:
            self.save(self.save_state)
            raise

    def text(self, terms):
        parts = ' + '.join(f'{name} {terms[name]:.4f}' for name in TERMS if name in terms)
        return f'{terms["total"]:.4f}' + (f' = {parts}' if parts else '')

    def say(self, line):
        with self.bar.external_write_mode():
            print(line, flush=True)

    def warn(self, line):
        with self.bar.external_write_mode():
            command_line.warn(line)


def advice_on_rate(flags):
    """The flags of a new training with a lower rate, since this one cannot go on with another. -> str"""
    start = '--fresh'
    if glob.glob(os.path.join(glob.escape(flags.outdir), '*.index')):
        start = f'--modeldir {flags.outdir} --outdir {os.path.normpath(flags.outdir)}_2'
    return f'{start} --learning-rate {flags.learning_rate / 3:.1g}'


# ---- Validation ------------------------------------------------------------------------------------------------------

def validate(predict, flags, data, stop):
    """Means over the validation photos: a dict of scalars, whose 'score' says which epoch is best. None if stopped.

    predict: function of images uint8 [b, h, w, 3] and labels int32 [b, h, w] -> (output of the model as at inference,
    float32 [b, h, w, channels]; the loss and its terms).

    What the embedding cannot be clustered for yet, see `can_be_clustered`, counts as if nothing was found there, and
    where that is most photos there is no such score: the loss decides.
    """
    terms, scores, predictions, unclustered, right, union = [], [], [], 0, 0, 0
    batches = datagenerator.get_batches_fn(1, flags.image_size, *data.valid, with_sizes=True)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:   # the network runs on the next photo meanwhile
        for (_, labels, (size,)), (output, values) in prefetch.in_order(
                pool, lambda batch: (batch, predict(*batch[:2])), batches, 2):
            if stop.is_set():
                return None
            terms.append(values)
            output, label = output[0], labels[0]
            if flags.semantic:
                is_lane, truth = output[..., 1] > output[..., 0], label > 0
                right += np.sum(is_lane & truth)
                union += np.sum(is_lane | truth)
            elif flags.kind == 'any' or data.records:
                if can_be_clustered(output, label, flags):
                    ids = find_instances(output, flags, label)
                else:
                    unclustered, ids = unclustered + 1, np.zeros_like(label)
                if flags.kind == 'any':
                    scores.append(instance_metrics.score_image(ids, label))
                else:
                    record = data.records[len(terms) - 1]
                    lanes = [lane.tolist() for lane in lines.lanes(ids, size, record.h_samples)]
                    predictions.append(tusimple.Record(record.raw_file, lanes, record.h_samples))
    result = {name: float(np.mean([values[name] for values in terms])) for name in terms[0]}
    result['score'] = -result['total']
    if flags.semantic:
        result['iou'] = result['score'] = right / max(union, 1)
    elif unclustered > len(terms) / 2:
        result['unclustered'] = unclustered
    elif scores:
        means = instance_metrics.summarise(scores)
        result.update(sbd=means['sbd'], abs_dic=means['abs_dic'], score=means['sbd'], unclustered=unclustered)
    elif predictions:
        (accuracy, fp, fn), _ = tusimple_evaluation.score(predictions, data.records, ignore_run_time=True)
        result.update(accuracy=accuracy, fp=fp, fn=fn, score=accuracy, unclustered=unclustered)
    return result


def can_be_clustered(output, label, flags):
    """Whether an embedding has begun to separate the instances of a photo, so that clustering it tells something.

    Mean shift on one that has not takes seconds and finds nothing. The label tells before: of the background's pixels
    and of the instances', as far as they are clustered, more than half each have to lie nearest to their own mean.
    output: float32 [h, w, channels]; label: int32 [h, w] -> bool
    """
    if not np.isfinite(output).all():
        return False
    embedding, probability = clustering.split_output(output, flags.feature_dim)
    label = label.ravel()
    _, own, counts = np.unique(np.append(label, 0), return_inverse=True, return_counts=True)
    own, background = own[:-1], own[-1]
    points = embedding.reshape(-1, flags.feature_dim)
    means = np.stack([np.bincount(own, column, len(counts)) / counts for column in points.T], axis=1)
    is_background, foreground = label == 0, find_foreground(probability, label, flags)
    clustered = ~is_background
    nearest, least = np.zeros(len(points), int), np.full(len(points), np.inf, np.float32)
    for number, mean in enumerate(means.astype(np.float32)):
        distance = np.square(points - mean).sum(1)
        if number == background and foreground is not None:
            distance = np.where(foreground, np.inf, -1)
        nearest, least = np.where(distance < least, number, nearest), np.minimum(distance, least)
    if foreground is not None:   # what else it misses costs no time, and its instances are missed in the score
        clustered &= foreground
    right = nearest == own
    return all(not part.any() or right[part].mean() > 0.5 for part in (is_background, clustered))


def find_foreground(probability, label, flags):
    """The pixels that are to be clustered: those of the foreground head or else of the label. -> bool, label's shape

    probability: as of clustering.split_output. None if the background is an instance of the embedding and no head
    tells it apart.
    """
    if probability is not None:
        return probability.reshape(label.shape) >= flags.foreground_threshold
    return None if flags.background_weight else label > 0


def find_instances(output, flags, label):
    """The instances of one photo as inference finds them. output: float32 [h, w, channels] -> int32 [h, w]

    label: [h, w], whose foreground is taken where nothing in the output tells it.
    """
    embedding, probability = clustering.split_output(output, flags.feature_dim)
    foreground = find_foreground(probability, label, flags)
    return clustering.instance_ids(embedding, flags.bandwidth, (flags.dvar, flags.ddist), foreground)


def write_pictures(predict, summaries, flags, data, events, epoch, step):
    """TensorBoard's pictures and histograms; in --logdir two validation photos, the first also as a scatter plot."""
    image_paths, label_paths = (paths[:2] for paths in data.valid)
    images, labels = datagenerator.load_batch(image_paths, label_paths, flags.image_size)
    output, _ = predict(images, labels)
    for path, embedding in zip(image_paths, output):
        if not np.isfinite(embedding).all():
            raise InputError(f'{path}: the output of the network is not finite')
    for summary in predict(images, labels, summaries):
        events.add(summary, step)
    if flags.semantic:
        masks = visualization.colour_instances(np.int32(output[..., 1] > output[..., 0]))
    else:
        useful = [can_be_clustered(*sample, flags) for sample in zip(output, labels)]
        output, probabilities = clustering.split_output(output, flags.feature_dim)
        foregrounds = [find_foreground(probabilities if probabilities is None else probabilities[i], label, flags)
                       if useful[i] else np.zeros(label.shape, bool) for i, label in enumerate(labels)]
        masks = clustering.get_instance_masks(output, flags.bandwidth, (flags.dvar, flags.ddist), foregrounds)
    overviews = []
    for i, sample in enumerate(zip(images, labels, output, masks)):
        overview = visualization.overview(*sample)
        pictures.write_image(os.path.join(flags.logdir, f'clusters_epoch{epoch:04d}_{i}.png'), overview)
        overviews.append(cv2.imencode('.png', overview[..., ::-1])[1].tobytes())
    events.add_pictures('clusters', overviews, step)
    if not flags.semantic:
        params = f'var{flags.var:g}_dist{flags.dist:g}_reg{flags.reg:g}_dvar{flags.dvar:g}_ddist{flags.ddist:g}'
        visualization.evaluate_scatter_plot(flags.logdir, output[:1], labels[:1], flags.feature_dim, params, step)


# ---- The script ------------------------------------------------------------------------------------------------------

def run_replica(flags, data, resuming, task, stop, architecture):
    """Runs the chief or a worker of a cluster to the end; it joins again when the chief or a server is restarted.

    task: utils.Task. The others: see `train`. -> exit status
    """
    import utils
    status = 1
    replica = utils.Replica(task)
    try:
        while True:
            try:
                status = train(flags, data, resuming, stop, replica, architecture)
                return status
            except (utils.Restarted, *utils.GONE) as error:
                reason = error if isinstance(error, utils.Restarted) else 'the connection to the others was lost'
                command_line.warn(f'{task.name}: {reason}; it joins again')
                resuming = replica.is_chief and bool(utils.checkpoints(os.path.join(flags.outdir, RESUME)))
    finally:
        task.leave('stopped' if status else 'done')


def main(argv=None, architecture=None):
    """The script. architecture: of the network, an enet.Architecture, by default the paper's. -> exit status"""
    flags = parse_flags(argv)
    config = None
    if os.environ.get('TF_CONFIG'):
        quiet.import_tensorflow()
        import utils
        config = utils.read_tf_config(os.environ['TF_CONFIG'])
    job = config.job if config else 'chief'
    data = find_data(flags.srcdir, flags.validation_photos) if job != 'ps' else None
    resuming = check_folders(flags) if job == 'chief' else False
    if data and not flags.kind:
        flags.kind = 'road' if os.path.exists(os.path.join(flags.srcdir, tusimple.PREPARED_LABELS)) else 'any'
    if job == 'chief':
        print(f'{len(data.train[0]):,} photos to train on, {len(data.valid[0]):,} to validate on'
              + (' with the official score' if data.records and not flags.semantic and flags.kind == 'road' else ''),
              flush=True)
    quiet.import_tensorflow()   # seconds: only now that nothing is left that could be found wrong without it
    import utils
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(utils.StopSignal())
        if job == 'chief':
            stack.enter_context(utils.lock_folder(flags.outdir, os.path.join(flags.outdir, RESUME)))
        if not config:
            return train(flags, data, resuming, stop, utils.SingleProcess(), architecture)
        task = utils.Task(*config, stop, lambda line: print(f'training.py: {line}', file=sys.stderr, flush=True))
        if job == 'ps':
            return task.serve()
        return run_replica(flags, data, resuming, task, stop, architecture)


if __name__ == '__main__':
    command_line.run(main)
