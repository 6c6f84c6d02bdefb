"""Trains the network to embed the pixels of one instance, such as a lane, close together and instances far apart.

    python training.py                                        on data/, from scratch or from pretrained_semantic_model/
    python training.py --semantic --outdir pretrained_semantic_model && python training.py
                                                              in the two stages of 2018: lane or not, then which lane
    python training.py --recipe fast                          a preset for lanes that converges several times faster
    python training.py --recipe fast --modeldir trained_model --outdir fine_tuned
                                                              from the shipped model, with its settings
    python training.py --recipe any --srcdir leaves --outdir leaves_model --logdir leaves_log
                                                              instances of any kind, here leaves
    tensorboard --logdir log                                  loss, score, images and embeddings over time

--outdir receives the model of the best epoch with its conventions, and in resume/ the states: however a run was
stopped, the same command resumes it, with the same result.

With TF_CONFIG set, see the README, this is one process of a cluster. n processes with --batch-size b are equivalent to
one with n b, except for batch norm, which sees the images of one process; a run can change between the two. The chief
validates, saves and logs; workers only read --srcdir and take their settings from the chief.
"""
import argparse
import concurrent.futures
import contextlib
import os
import signal
import sys
import threading
import time
import typing

import numpy as np
import tqdm

import datagenerator
import visualization
from data.common import augmentation, command_line, files, pictures, pipeline, quiet, settings, survey, validation
from data.common.command_line import InputError
from data.common.run import (DEFAULT_MODELDIR, RESUME, StopSignal, fingerprint, has_checkpoint, lane_records,
                             lock_folder, read_tf_config, resolve_settings)
from data.lanes import road_augmentation

CLIP = 5.                     # gradients are scaled down to this L2 norm over all weights
CACHE = 2 * 2 ** 30           # bytes of decoded images that are kept in memory
KEEP, SAVE_SECONDS = 3, 600.  # states that resume/ keeps, and seconds between two
SUMMARY_STEPS = 10            # between two points of the TensorBoard curves
PICTURE_EPOCHS = 5            # between two sets of pictures and scatter plots in --logdir
AUGMENTATION = {'road': road_augmentation.augment, 'any': augmentation.augment}


class Data(typing.NamedTuple):
    """What a run is trained on."""
    train: tuple     # (image paths, label paths)
    valid: tuple     # likewise
    records: list    # a tusimple.Record for each image of valid, or None
    fingerprint: tuple   # see run.fingerprint
    folders: list    # of the images
    groups: list     # (number of images to train on, share of the batches) of each folder


def parse_flags(argv=None):
    parser = command_line.Parser(description=__doc__)
    recipes = '; '.join(f'{name}: {settings.as_flags(values)}' for name, values in settings.RECIPES.items() if values)
    parser.add_argument('--recipe', choices=settings.RECIPES, default=argparse.SUPPRESS,
                        help=f'Preset for the flags below. {recipes}. (default: 2018, as below)')
    folders = parser.add_argument_group('folders')
    folders.add_argument('-s', '--srcdir', nargs='+', default=['data'], metavar='FOLDER[:SHARE]',
                         help='Folders with images/ and labels/, each with its share of the batches, by default its '
                              'number of images; with a lanes.json, validation has the official score.')
    folders.add_argument('--classes', dest='classes_file', metavar='FILE',
                         help='Names of the classes 1, 2, ..., one a line; labels have class * 1000 + n. (default: '
                              'classes.txt in --srcdir if it is there, otherwise those of --modeldir)')
    folders.add_argument('-m', '--modeldir', default=argparse.SUPPRESS,
                         help='Folder of the checkpoint to start from, with any head; its settings are inherited '
                              f'unless overridden. (default: {DEFAULT_MODELDIR} if it holds one; otherwise at random)')
    folders.add_argument('-o', '--outdir', default='saved_model', help='Folder for the trained model.')
    folders.add_argument('-l', '--logdir', default='log',
                         help='Folder for TensorBoard and pictures; with --semantic, its subfolder semantic.')
    folders.add_argument('--fresh', action='store_true', help='Replace the run or model that --outdir holds.')
    settings.add_flags(parser)
    parser.add_argument('--workers', type=command_line.workers, default=2,
                        help='Threads of this process that load images.')
    return parser.parse_args(argv)


def import_tensorflow():
    """Takes seconds: called once nothing is left that could be found wrong without it."""
    global tf, enet, loss, utils, Replica
    quiet.import_tensorflow()
    import tensorflow.compat.v1 as tf
    import enet
    import loss
    import utils
    from data.common.replica import Replica
    tf.disable_v2_behavior()


def find_data(srcdir):
    """srcdir: list of FOLDER or FOLDER:SHARE. -> Data"""
    sources = datagenerator.find_sources(srcdir)
    train, valid = (tuple(sum(paths, []) for paths in zip(*parts)) for parts in (
        [source.train for source in sources], [source.valid for source in sources]))
    records = [lane_records(source.folder, source.valid[0]) for source in sources]
    records = None if None in records else sum(records, [])
    return Data(train, valid, records, fingerprint(sources, records is not None),
                [source.folder for source in sources], [(len(source.train[0]), source.share) for source in sources])


# ---- The graph -------------------------------------------------------------------------------------------------------

class Graph(typing.NamedTuple):
    """What a run uses of its graph."""
    queue: datagenerator.BatchQueue
    fetches: dict      # what a step reports: paths, terms (of the loss), norm (of the gradient), rate, summary
    train_op: object   # the chief's update
    step: object       # variable: steps taken
    epochs: object     # variable: epochs validated
    best: object       # variable: score of the best of them
    images: object     # placeholder, uint8 [b, h, w, 3]
    labels: object     # placeholder, int32 [b, h, w]
    output: object     # for images, as at inference, float32 [b, h, w, channels]
    terms: dict        # {name: loss term} of output
    pictures: object   # serialised tf.Summary of them
    model: list        # variables of the network and its heads


def build_graph(run, flags, data, replica, architecture):
    """Queue, network, loss, gradient, update, and the same network on images to validate. -> Graph

    run: Settings. replica: data.common.replica.Replica. architecture: an enet.Architecture, None for the paper's.
    """
    seed = (run.seed + replica.index) % 2 ** 31
    tf.set_random_seed(seed)
    queue = datagenerator.BatchQueue(
        *data.train, run.batch_size // replica.count, run.image_size, seed=run.seed, workers=flags.workers,
        augment=AUGMENTATION[run.kind] if run.augment else None, shard=(replica.index, replica.count),
        cache_bytes=CACHE, ignore=run.ignore, groups=data.groups, num_classes=len(run.classes))
    batch = queue.dequeue()
    step = tf.train.create_global_step()
    step_32 = tf.cast(step, tf.int32)
    output = utils.build_model(batch.images, run, is_training=True, decay=utils.norm_decay(step_32),
                               noise=enet.noise_of_step(tf.stack([seed, step_32])), architecture=architecture)
    model = [v for v in tf.global_variables() if v is not step]
    rate = utils.learning_rate(run.schedule, run.learning_rate, step_32, run.epochs * queue.steps_per_epoch)
    terms, norm, train_op = build_step(loss_terms(run, output, batch.labels), rate, step, replica)

    images = tf.placeholder(tf.uint8, [None, *run.image_size[::-1], 3], name='images')
    labels = tf.placeholder(tf.int32, [None, *run.image_size[::-1]], name='labels')
    valid_output = utils.build_model(images, run, reuse=True, architecture=architecture)
    scalars, samples = utils.collect_summaries(
        *(terms.get(name) for name in ('total', 'var', 'dist', 'reg')), images, valid_output[..., :run.feature_dim],
        labels, terms.get('foreground'))
    samples = tf.summary.merge([samples, *(tf.summary.histogram(v.op.name, v) for v in utils.to_train())])
    summary = tf.summary.merge([scalars, tf.summary.scalar('learning_rate', rate),
                                tf.summary.scalar('gradient_norm', norm)])
    return Graph(
        queue, {'paths': batch.paths, 'terms': terms, 'norm': norm, 'rate': rate, 'summary': summary}, train_op, step,
        tf.get_variable('epochs_validated', [], tf.int64, tf.zeros_initializer(), trainable=False),
        tf.get_variable('best_score', [], tf.float64, tf.constant_initializer(-np.inf), trainable=False),
        images, labels, valid_output, loss_terms(run, valid_output, labels), samples, model)


def loss_terms(run, output, labels):
    """-> {name: float32 scalar}: the loss, and its weighted terms. output: [b, h, w, channels]; labels: [b, h, w]"""
    if run.head == 'Semantic':
        return {'total': loss.foreground_loss(output, labels)}
    terms = dict(zip(('total', 'var', 'dist', 'reg'), loss.discriminative_loss(
        output[..., :run.feature_dim], labels, run.feature_dim, run.image_size, run.delta_v, run.delta_d,
        run.var, run.dist, run.reg, ignore_background=not run.background_weight,
        background_weight=run.background_weight)))
    if run.foreground_weight:
        scores = output[..., run.feature_dim:]
        entropy = (loss.class_log_loss(scores, labels) if run.classes else
                   loss.foreground_log_loss(scores[..., 0], labels))
        terms['foreground'] = run.foreground_weight * entropy
        terms['total'] += terms['foreground']
    return terms


def build_step(terms, rate, step, replica):
    """A step of Adam by the clipped mean of the gradients of all processes. -> (terms, norm of the gradient, train op)

    terms: of `loss_terms`, whose 'total' is minimised together with the weight decay. On a worker, what is returned is
    about its own images, and there is no train op.
    """
    variables = utils.to_train()
    gradients = tf.gradients(terms['total'] + utils.weight_decay(variables), variables)
    # A bias before a batch norm has no gradient.
    gradients, variables = zip(*[(g, v) for g, v in zip(gradients, variables) if g is not None])
    averages, moves = zip(*utils.moving_average_updates())
    means = replica.mean([*terms.values(), *gradients, *moves], step)
    if not replica.is_chief:
        return terms, tf.global_norm(gradients), None
    terms = dict(zip(terms, means))
    gradients, moves = means[len(terms):-len(moves)], means[-len(moves):]
    gradients, norm = tf.clip_by_global_norm(gradients, CLIP)
    moved = [tf.assign_sub(average, move) for average, move in zip(averages, moves)]
    with tf.control_dependencies([rate, *moved]):   # the rate is read from the step, which must not count up before
        train_op = tf.train.AdamOptimizer(rate).apply_gradients(zip(gradients, variables), step)
    return terms, norm, train_op


# ---- The run ---------------------------------------------------------------------------------------------------------

class Chief:
    """The part of a run that only the chief, or the only process, has: it prints, shows, validates and saves."""

    def __init__(self, sess, graph, run, flags, data, stop, source, resuming):
        """Gives the variables their values and opens the curves. source: folder of a checkpoint, None for scratch."""
        self._sess, self._graph, self._run, self._flags, self._data, self._stop = sess, graph, run, flags, data, stop
        self._states = tf.train.Saver(tf.global_variables(), max_to_keep=KEEP, save_relative_paths=True)
        self._model = tf.train.Saver(graph.model, max_to_keep=1, save_relative_paths=True)
        self._resume = os.path.join(flags.outdir, RESUME)
        self._logdir = os.path.join(flags.logdir, 'semantic') if run.head == 'Semantic' else flags.logdir
        self._losses, self._saved_at = [], time.monotonic()
        for folder in (flags.outdir, self._resume):
            utils.remove_unfinished(folder)
        checkpoint = source and utils.find_checkpoint(source)
        print(f'{utils.count_parameters() / 1e6:.2f} million weights')
        if resuming:
            utils.restore(sess, checkpoint, tf.global_variables())
            print(f'resumes after step {sess.run(graph.step):,}, from {checkpoint}', flush=True)
        else:
            sess.run(tf.global_variables_initializer())
            restored = utils.restore(sess, checkpoint, graph.model, 1) if checkpoint else []
            fresh = [v.op.name for v in graph.model if v.op.name not in restored]
            print(f'{len(restored)} of {len(graph.model)} variables are from {checkpoint or "a checkpoint"}'
                  + (f'; at random: {", ".join(fresh[:4])}{", ..." if len(fresh) > 4 else ""}' if fresh else ''),
                  flush=True)
            for folder in (flags.outdir, self._resume) if flags.fresh else ():
                utils.remove_checkpoints(folder)
            settings.write(self._resume, run, everything=True)
        step, epochs, self._best = sess.run([graph.step, graph.epochs, graph.best])
        # Two writers: a state may have an epoch's last step but not its validation, which is then repeated.
        per_epoch = graph.queue.steps_per_epoch
        self._curves, self._epoch_curves = (tf.summary.FileWriter(os.path.join(self._logdir, folder))
                                            for folder in ('', 'validation'))   # of steps, of epochs
        for curves, at in ((self._curves, step), (self._epoch_curves, epochs * per_epoch)):
            # Makes TensorBoard drop the points of later steps, from before the run was stopped.
            curves.add_session_log(tf.SessionLog(status=tf.SessionLog.START), at + 1)
        self._bar = tqdm.tqdm(total=run.epochs * per_epoch, initial=step, unit='step', disable=None)
        if not resuming:
            self.save_state()

    def count(self, step, values):
        """Counts a step that was taken; shows and saves what is due. values: of Graph.fetches."""
        self._losses.append(values['terms']['total'])
        if step % SUMMARY_STEPS == 0:
            self._curves.add_summary(values['summary'], step)
        self._bar.set_postfix_str(f'{as_text(values["terms"])}, rate {values["rate"]:.1e}', refresh=False)
        self._bar.update()
        if time.monotonic() - self._saved_at > SAVE_SECONDS:
            self.save_state()

    def finish_epoch(self, step):
        """Validates, keeps the model if it is the best, and saves the state. -> False if a signal came before that"""
        epoch = step // self._graph.queue.steps_per_epoch
        result = validate(self._sess, self._graph, self._run, self._data, self._stop)
        if result is None:   # the epoch is validated when the run resumes
            return False
        is_best = result['score'] > self._best
        if is_best:
            self._best = result['score']
            settings.write(self._flags.outdir, self._run)
            utils.save(self._model, self._sess, os.path.join(self._flags.outdir, f'model.ckpt-{step}'))
        self._graph.best.load(self._best, self._sess)
        self._graph.epochs.load(epoch, self._sess)
        self._epoch_curves.add_summary(tf.Summary(value=[
            tf.Summary.Value(tag=f'validation/{name}', simple_value=value) for name, value in result.items()]), step)
        if (epoch % PICTURE_EPOCHS == 0 or epoch == self._run.epochs) and np.isfinite(result['total']):
            write_pictures(self._sess, self._graph, self._run, self._data, self._logdir, self._epoch_curves, epoch,
                           step)
        self.save_state()
        seen = f'training loss {np.mean(self._losses):.4f}, ' if self._losses else ''
        with self._bar.external_write_mode():
            print(f'epoch {epoch} of {self._run.epochs}: {seen}validation {as_text(result)}'
                  f'{" (best)" if is_best else ""}', flush=True)
        self._losses.clear()
        return True

    def save_state(self):
        """Saves all that the run needs to resume. Raises InputError if that fails; older states are still whole."""
        self._saved_at = time.monotonic()
        step, epochs = self._sess.run([self._graph.step, self._graph.epochs])
        # A name has step and epoch, so rewriting it writes the same content: a kill in between is harmless.
        utils.save(self._states, self._sess, os.path.join(self._resume, f'state.ckpt-{step}-{epochs}'),
                   (self._curves, self._epoch_curves))

    def close(self):
        self._bar.close()
        for curves in (self._curves, self._epoch_curves):
            curves.close()


def train(run, flags, data, replica, stop, source=None, resuming=False, architecture=None):
    """Takes the steps of a run, to the end or until a signal. -> whether it is at the end

    flags: of `parse_flags`. stop: threading.Event, set by a signal. source, resuming: of `resolve_settings`, for the
    chief. The others: see `build_graph`.
    """
    with tf.Graph().as_default(), replica.placement():
        graph = build_graph(run, flags, data, replica, architecture)
        with replica.session() as sess, contextlib.ExitStack() as stack:
            chief = None
            if replica.is_chief:
                chief = stack.enter_context(contextlib.closing(
                    Chief(sess, graph, run, flags, data, stop, source, resuming)))
                replica.announce(settings.to_json(run, everything=True))
            step, coord = int(sess.run(graph.step)), tf.train.Coordinator()
            threads = graph.queue.start(sess, coord, step)
            try:
                return take_steps(sess, graph, step, run, flags, replica, chief, stop)
            except tf.errors.OutOfRangeError:   # the queue is closed: a loader has failed, whose error join() raises
                if chief:
                    chief.save_state()
            finally:
                coord.request_stop()
                coord.join(threads, ignore_live_threads=True)


def take_steps(sess, graph, step, run, flags, replica, chief, stop):
    """The loop of steps and epochs. step: steps taken so far. chief: None on a worker. -> as `train`"""
    per_epoch = graph.queue.steps_per_epoch
    fetches = graph.fetches if chief else {name: graph.fetches[name] for name in ('paths', 'terms', 'norm')}
    validated = sess.run(graph.epochs)
    while not stop.is_set():
        if chief and step == (validated + 1) * per_epoch:
            if not chief.finish_epoch(step):
                break
            validated += 1
        if step >= run.epochs * per_epoch:   # more, if --epochs is lower than before
            return True
        values = replica.take_step(sess, step, fetches, graph.train_op)
        step += 1
        if not np.isfinite([values['terms']['total'], values['norm']]).all():
            raise InputError(
                f'step {step}: the loss ({as_text(values["terms"])}) or its gradient (norm {values["norm"]:g}) is not '
                f'finite for {", ".join(os.path.basename(os.fsdecode(path)) for path in values["paths"])}'
                f'{" or images of workers" * (replica.count > 1)}; to start again from the last state: --modeldir '
                f'{os.path.join(flags.outdir, RESUME)} --outdir NEW --learning-rate {run.learning_rate / 3:.1g}')
        if chief:
            chief.count(step, values)
    if chief:
        chief.save_state()
        print(f'training.py: stopped after step {step:,} of {run.epochs * per_epoch:,}, which is saved; the same '
              f'command{" without --fresh" * flags.fresh} resumes', file=sys.stderr)
    return False


def run_worker(flags, data, replica, architecture):
    """Takes part in the run of the chief until its end, in a new graph whenever the chief was restarted."""
    while True:
        print(f'{replica.name}: waiting for the chief', flush=True)
        run = settings.from_json(replica.join(), 'the chief')
        if run.photos != data.fingerprint:
            raise InputError(f'{" ".join(flags.srcdir)}: has other images, shares or lanes.json than the chief')
        with contextlib.suppress(*replica.gone):
            print(f'{replica.name}: joining', flush=True)
            train(run, flags, data, replica, threading.Event(), architecture=architecture)
            replica.leave()
            return


# ---- Validation ------------------------------------------------------------------------------------------------------

def validate(sess, graph, run, data, stop):
    """Means over the validation images: a dict of scalars, whose 'score' selects the best epoch. None if stopped."""
    losses, found, classes = [], [], []
    batches = datagenerator.get_batches_fn(1, run.image_size, *data.valid, with_sizes=True, ignore=run.ignore,
                                           num_classes=len(run.classes))
    with concurrent.futures.ThreadPoolExecutor(1) as pool:   # the network runs on the next image meanwhile
        for (_, (label,), (size,)), ((output,), terms) in pipeline.in_order(pool, lambda batch: (
                batch, sess.run((graph.output, graph.terms), {graph.images: batch[0], graph.labels: batch[1]})),
                batches, 2):
            if stop.is_set():
                return None
            record = data.records and data.records[len(found)]
            found.append(validation.score_image(output, terms, label, size, run, record))
            losses.append(terms)
            if run.classes:
                classes.append(validation.count_classes(output, label, run))
    means = {name: float(np.mean([terms[name] for terms in losses])) for name in losses[0]}
    if run.classes:
        right, count = np.sum(classes, axis=0)
        means['class_accuracy'] = right / max(count, 1)
    return {**means, 'score': -means['total'], **validation.summarise(found, run, data.records)}


def write_pictures(sess, graph, run, data, logdir, curves, epoch, step):
    """Writes TensorBoard's pictures and, in logdir, the instances found in two validation images and a scatter plot."""
    (images, labels), = datagenerator.get_batches_fn(2, run.image_size, *(paths[:2] for paths in data.valid),
                                                     ignore=run.ignore)
    labels = np.maximum(labels, 0)   # ignored pixels are drawn as background
    feed = {graph.images: images, graph.labels: labels}
    output, summary = sess.run((graph.output, graph.pictures), feed)
    curves.add_summary(summary, step)
    ids = [np.int32(each[..., 1] > each[..., 0]) if run.head == 'Semantic' else
           validation.find_instances(each, label, run) for each, label in zip(output, labels)]
    for i, (image, found) in enumerate(zip(images, ids)):
        pictures.write_image(os.path.join(logdir, f'clusters_epoch{epoch:04d}_{i}.png'),
                             visualization.draw_instances(image, found))
    if run.head != 'Semantic':
        params = f'var{run.var:g}_dist{run.dist:g}_reg{run.reg:g}_dvar{run.delta_v:g}_ddist{run.delta_d:g}'
        visualization.evaluate_scatter_plot(logdir, output[:1, ..., :run.feature_dim], labels[:1], run.feature_dim,
                                            params, step)


def as_text(values):
    """{name: number}, such as the loss and its terms, in words. -> str"""
    return ', '.join(f'{name} {value:.4g}' for name, value in values.items())


# ---- The script ------------------------------------------------------------------------------------------------------

def run_chief(flags, data, addresses, architecture):
    """The run as the chief or the only process. -> exit status"""
    count, states = max(1, len(addresses)), os.path.join(flags.outdir, RESUME)
    run, source, resuming = resolve_settings(flags, data.folders, data.fingerprint, count)
    files.check_checkpoint_folder(flags.outdir)
    for folder in (flags.outdir, states, flags.logdir):
        files.make_output_folder(folder)
    if run.classes:
        print(f'classes 1 to {len(run.classes)}: {", ".join(run.classes)}', flush=True)
    print(f'recipe {run.recipe}: {settings.as_flags({**vars(run), "batch_size": run.batch_size // count})}')
    score = ' with the official score' if data.records and run.head == 'Instance' and run.kind == 'road' else ''
    summary, warnings = survey.survey(data.train[1], run.ignore)
    for line in warnings if run.head == 'Instance' else ():
        command_line.warn(line)
    print(f'{summary}; {len(data.valid[0]):,} to validate on{score}', flush=True)
    with lock_folder(states):
        import_tensorflow()
        replica = Replica(addresses)
        with StopSignal() as stop, concurrent.futures.ThreadPoolExecutor(1) as pool:
            # In a thread: a step that waits for a worker blocks signals, so the second one ends the process even then.
            done = pool.submit(train, run, flags, data, replica, stop, source, resuming, architecture).result()
        if not done:
            return 128 + stop.number
        replica.leave()
    if not has_checkpoint(flags.outdir):
        raise InputError(f'{flags.outdir}: no epoch had a finite validation loss; try a lower --learning-rate')
    print(f'all {run.epochs} epochs are done; the model of the best is in {flags.outdir}')
    return 0


def main(argv=None, architecture=None):
    """The script. architecture: of the network, an enet.Architecture, by default the paper's. -> exit status"""
    flags = parse_flags(argv)
    addresses, index = read_tf_config(os.environ.get('TF_CONFIG'))
    data = find_data(flags.srcdir)
    if index == 0:
        return run_chief(flags, data, addresses, architecture)
    for number in (signal.SIGTERM, signal.SIGINT):   # at once: a worker holds nothing that is lost with it
        signal.signal(number, signal.SIG_DFL)
    import_tensorflow()
    run_worker(flags, data, Replica(addresses, index), architecture)
    return 0


if __name__ == '__main__':
    command_line.run(main)
