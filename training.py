"""Trains the network to embed the pixels of each lane together, and different lanes apart.

    python training.py                                        on data/, from scratch or from pretrained_semantic_model/
    python training.py --semantic --outdir pretrained_semantic_model && python training.py
                                                              in the two stages of 2018: lane or not, then which lane
    python training.py --batch-size 4 --image-size 512 256 --schedule cosine --learning-rate 3e-3
                                                              the settings of the shipped model
    python training.py --modeldir trained_model --outdir fine_tuned
                                                              from the shipped model
    tensorboard --logdir log                                  shows how it goes

--outdir receives the weights of the best epoch, with the conventions that inference needs, and in its folder resume/ all
that a training needs to go on: the same command again continues where it was stopped.
"""
import json
import os
import sys
import time

import numpy as np
import tqdm

import clustering
import datagenerator
import visualization
from data import command_line, quiet, tusimple, tusimple_evaluation
from data.command_line import InputError

RESUME = 'resume'             # folder of training states within --outdir
FLAGS_FILE = 'flags.json'     # in it: the flags that the states were trained with
FREE_FLAGS = {'outdir', 'logdir', 'modeldir', 'epochs', 'workers', 'cache', 'keep', 'save_minutes', 'summary_steps',
              'pictures', 'fresh'}  # may differ when a training goes on
SHIPPED_SCHEDULES = ('2018', 'cosine')
WARM_UP = 0.05                # of a cosine schedule: this part of all steps rises to the learning rate
NORM_DECAY = 0.99             # of batch norm's moving averages in the long run; lower in the first steps


def parse_flags(argv=None):
    parser = command_line.Parser(description=__doc__)
    folders = parser.add_argument_group('folders')
    folders.add_argument('-s', '--srcdir', default='data',
                         help='Folder with images/ and labels/, as data/tusimple_dataset_processing.py writes them.')
    folders.add_argument('-m', '--modeldir', default='pretrained_semantic_model',
                         help='Folder of the checkpoint to start from, of this network with any head. The default need '
                              'not exist; without it the weights start at random.')
    folders.add_argument('-o', '--outdir', default='saved_model', help='Folder for the trained model.')
    folders.add_argument('-l', '--logdir', default='log', help='Folder for TensorBoard, scatter plots and pictures.')
    folders.add_argument('--fresh', action='store_true',
                         help='Start over in an --outdir that holds a training, whose files are then replaced.')

    loss_flags = parser.add_argument_group('loss')
    number, positive = command_line.non_negative_float, command_line.positive_float
    loss_flags.add_argument('--var', type=number, default=1.0, help='Weight of the variance term, alpha in the paper.')
    loss_flags.add_argument('--dist', type=number, default=1.0, help='Weight of the distance term, beta.')
    loss_flags.add_argument('--reg', type=number, default=1.0, help='Weight of the regularisation term, gamma.')
    loss_flags.add_argument('--dvar', type=positive, default=0.5,
                            help='Margin of the variance term, delta_v, in units of the embedding.')
    loss_flags.add_argument('--ddist', type=positive, default=1.5,
                            help='Margin of the distance term, delta_d, in units of the embedding.')
    loss_flags.add_argument('--semantic', action='store_true',
                            help='Train the stage before instead: each pixel lane or not, weighted cross entropy.')

    network = parser.add_argument_group('network')
    network.add_argument('--image-size', type=command_line.positive_int, nargs=2, default=[512, 512],
                         metavar=('W', 'H'), help='Width and height in px that photos are resized to, multiples of 8.')
    network.add_argument('--feature-dim', type=command_line.positive_int, default=3,
                         help='Dimensions of the embedding.')
    network.add_argument('--bandwidth', type=positive, default=0.7,
                         help='Bandwidth of mean shift in validation, in units of the embedding. It is written beside the '
                              'weights, for inference to use.')

    course = parser.add_argument_group('course of the training')
    course.add_argument('--epochs', type=command_line.positive_int, default=50, help='Passes over the training photos.')
    course.add_argument('--batch-size', type=command_line.positive_int, default=1, help='Photos a step.')
    course.add_argument('--learning-rate', type=positive, default=1e-4, help='Highest learning rate of Adam.')
    course.add_argument('--schedule', choices=SHIPPED_SCHEDULES, default='2018',
                        help='Of the learning rate. 2018: times 0.96 every 5,000 steps. cosine: rises over the first '
                             'twentieth of all steps, then falls to 0 along a cosine.')
    course.add_argument('--clip', type=positive, default=5.0,
                        help='Gradients are scaled down to this L2 norm over all weights where they exceed it.')
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
    flags.modeldir_given = flags.modeldir != parser.get_default('modeldir')
    return flags


# ---- What the graph needs -------------------------------------------------------------------------------------------

def learning_rate(flags, step, num_steps):
    """The learning rate at a step, by --schedule; step and num_steps are numbers or tensors. -> the same."""
    import tensorflow.compat.v1 as tf
    step = tf.cast(step, tf.float32)
    if flags.schedule == '2018':
        return flags.learning_rate * 0.96 ** tf.floor(step / 5000.)
    warm_up = max(1., WARM_UP * num_steps)
    rising = (step + 1.) / warm_up
    falling = 0.5 * (1. + tf.cos(np.pi * (step - warm_up) / max(1., num_steps - warm_up)))
    return flags.learning_rate * tf.minimum(tf.minimum(rising, 1.), tf.where_v2(step < warm_up, 1., falling))


class Trainer:
    """The graph of a training: what it reads, what a step does, what a validation asks for."""

    def __init__(self, flags, conventions, num_steps):
        import tensorflow.compat.v1 as tf
        import enet
        import loss
        import utils
        width, height = flags.image_size
        tf.set_random_seed(flags.seed)
        self.images = tf.placeholder(tf.uint8, [None, height, width, 3], name='images')
        self.labels = tf.placeholder(tf.int32, [None, height, width], name='labels')
        self.step = tf.train.get_or_create_global_step()
        self.best = tf.get_variable('best_score', [], initializer=tf.constant_initializer(-np.inf), trainable=False)
        self.best_input = tf.placeholder(tf.float32, [])
        self.set_best = self.best.assign(self.best_input)
        step = tf.cast(self.step, tf.int32)

        def terms(output):
            if flags.semantic:
                entropy = utils.semantic_loss(output, self.labels)
                return entropy, tf.zeros([]), tf.zeros([]), tf.zeros([])
            return loss.discriminative_loss(output, self.labels, flags.feature_dim, flags.image_size,
                                            flags.dvar, flags.ddist, flags.var, flags.dist, flags.reg)

        # The averages of the first steps are of few batches: the decay rises to NORM_DECAY, as in
        # tf.train.ExponentialMovingAverage.
        decay = tf.minimum(NORM_DECAY, tf.cast(1 + step, tf.float32) / tf.cast(10 + step, tf.float32))
        output = utils.build_model(self.images, conventions, is_training=True, decay=decay,
                                   noise=enet.noise_of_step(tf.stack([flags.seed % 2 ** 31, step])))
        self.terms = terms(output)
        self.variables = [v for v in tf.global_variables()
                          if v.op.name.startswith(('ENet/', conventions.head + '/'))]
        trained = [v for v in tf.trainable_variables() if not v.op.name.startswith('ENet/fullconv/')]
        self.rate = learning_rate(flags, self.step, num_steps)
        gradients = tf.gradients(self.terms[0] + utils.weight_decay(trained), trained)
        # A bias before a batch norm has none.
        trained, gradients = zip(*[(v, g) for v, g in zip(trained, gradients) if g is not None])
        gradients, self.norm = tf.clip_by_global_norm(gradients, flags.clip)
        updates = tf.get_collection(tf.GraphKeys.UPDATE_OPS)
        with tf.control_dependencies(updates):
            self.train = tf.train.AdamOptimizer(self.rate).apply_gradients(zip(gradients, trained), self.step)

        self.valid_output = utils.build_model(self.images, conventions, is_training=False, reuse=True)
        self.valid_terms = terms(self.valid_output)
        summaries = utils.collect_summaries(*self.terms, self.images, output, self.labels)
        valid_summaries = utils.collect_summaries(*self.valid_terms, self.images, self.valid_output, self.labels)
        self.summary = tf.summary.merge([summaries[0], tf.summary.scalar('learning_rate', self.rate),
                                         tf.summary.scalar('gradient_norm', self.norm)])
        self.picture_summary = valid_summaries[1]
        self.weights_summary = tf.summary.merge([tf.summary.histogram(v.op.name, v) for v in trained])
        self.weights_saver = tf.train.Saver(self.variables, max_to_keep=1)
        self.state_saver = tf.train.Saver(tf.global_variables(), max_to_keep=flags.keep)


# ---- Where a training starts ----------------------------------------------------------------------------------------

def check_folders(flags):
    """Makes --outdir and --logdir, or finds what is wrong with them. -> whether an earlier training goes on."""
    resume_dir = os.path.join(flags.outdir, RESUME)
    has_state = os.path.exists(os.path.join(resume_dir, 'checkpoint'))
    if not has_state and not flags.fresh and os.path.exists(os.path.join(flags.outdir, 'checkpoint')):
        raise InputError(f'{flags.outdir}: holds a model but no training that could go on; choose another --outdir, or '
                         f'--fresh to replace it')
    for folder in (flags.outdir, resume_dir, flags.logdir):
        datagenerator.make_output_folder(folder)
    return has_state and not flags.fresh


def check_flags(flags):
    """Raises InputError if the training to go on was one with other flags."""
    path = os.path.join(flags.outdir, RESUME, FLAGS_FILE)
    try:
        with open(path, encoding='utf-8') as file:
            before = json.load(file)
        items = before.items()
    except (OSError, ValueError, AttributeError):
        raise InputError(f'{path}: cannot be read; the training cannot go on, start another with --fresh')
    now = json.loads(json.dumps(vars(flags)))
    other = [f'--{name.replace("_", "-")} was {value}' for name, value in items
             if name in now and name not in FREE_FLAGS and now[name] != value]
    if other:
        raise InputError(f'{flags.outdir}: holds a training with other flags: {", ".join(other)}; give the same, '
                         f'another --outdir, or --fresh to start over')


def start(sess, flags, trainer, resuming):
    """Gives all variables their values and says where they came from. The full list goes to --logdir/variables.txt."""
    import tensorflow.compat.v1 as tf
    import utils
    sess.run(tf.global_variables_initializer())
    lines = []
    if resuming:
        checkpoint = utils.find_checkpoint(os.path.join(flags.outdir, RESUME))
        utils.restore(sess, checkpoint, tf.global_variables(), log=lines.append)
        print(f'goes on at step {sess.run(trainer.step)} with {checkpoint}')
    elif os.path.isdir(flags.modeldir) or flags.modeldir_given:
        checkpoint = utils.find_checkpoint(flags.modeldir)
        names = utils.restore(sess, checkpoint, trainer.variables, partial=True, log=lines.append)
        fresh = [v.op.name for v in trainer.variables if v.op.name not in names]
        print(f'{len(names)} of {len(trainer.variables)} variables start as in {checkpoint}'
              + (f'; at random: {", ".join(fresh[:4])}{", ..." if len(fresh) > 4 else ""}' if fresh else ''))
    else:
        print(f'starts from scratch: there is no {flags.modeldir}')
        lines = [f'{v.op.name}: at random' for v in trainer.variables]
    datagenerator.write_file(os.path.join(flags.logdir, 'variables.txt'), '\n'.join(lines + ['']).encode())


# ---- Validation -----------------------------------------------------------------------------------------------------

def lane_records(srcdir, image_paths):
    """The lanes of validation photos from srcdir/lanes.json, a tusimple.Record each, or None if not all are there."""
    path = os.path.join(srcdir, tusimple.PREPARED_LABELS)
    if not os.path.exists(path):
        return None
    records = {os.path.basename(record.raw_file): record for record in tusimple.read_records(path)[0]}
    chosen = [records.get(os.path.basename(image_path)) for image_path in image_paths]
    return None if None in chosen else chosen


def validate(sess, trainer, flags, paths, records):
    """Means over the validation photos: a dict of scalars, of which 'score' decides what the best epoch is."""
    terms, predictions, right, union = [], [], 0, 0
    for image_path, label_path in zip(*paths):
        image, label = datagenerator.read_sample(image_path, label_path)
        labels = datagenerator.resize_label(label, flags.image_size)[None]
        output, values = sess.run([trainer.valid_output, trainer.valid_terms],
                                  {trainer.images: datagenerator.resize_image(image, flags.image_size)[None],
                                   trainer.labels: labels})
        terms.append(values)
        if flags.semantic:
            is_lane, truth = output[..., 1] > output[..., 0], labels > 0
            right += np.sum(is_lane & truth)
            union += np.sum(is_lane | truth)
        elif records is not None:
            record = records[len(predictions)]
            ids = clustering.instance_ids(output[0], flags.bandwidth)
            lanes = [np.asarray(lane).tolist() for lane in clustering.lanes(ids, image.shape[1::-1], record.h_samples)]
            predictions.append(tusimple.Record(record.raw_file, lanes, record.h_samples))
    result = dict(zip(('total', 'var', 'dist', 'reg'), np.mean(terms, axis=0).tolist()))
    result['score'] = -result['total']
    if flags.semantic:
        result['iou'] = result['score'] = right / max(union, 1)
    elif records is not None:
        (accuracy, fp, fn), _ = tusimple_evaluation.score(predictions, records, ignore_run_time=True)
        result.update(accuracy=accuracy, fp=fp, fn=fn, score=accuracy)
    return result


def write_pictures(sess, trainer, flags, paths, writer, epoch, step):
    """TensorBoard's pictures and histograms, and in --logdir: overviews and a scatter plot of two validation photos."""
    images, labels = datagenerator.load_batch(paths[0][:2], paths[1][:2], flags.image_size)
    output, summary, weights = sess.run([trainer.valid_output, trainer.picture_summary, trainer.weights_summary],
                                        {trainer.images: images, trainer.labels: labels})
    writer.add_summary(summary, step)
    writer.add_summary(weights, step)
    overviews = []
    for i, (image, label) in enumerate(zip(images, labels)):
        ids = (output[i, ..., 1] > output[i, ..., 0]).astype(np.int32) if flags.semantic else \
            clustering.instance_ids(output[i], flags.bandwidth)
        overviews.append(visualization.overview(image, label, output[i], ids))
        path = os.path.join(flags.logdir, f'clusters_epoch{epoch:04d}_{i}.png')
        datagenerator.write_image(path, overviews[-1])
    writer.add_summary(picture_summary('clusters', overviews), step)
    if not flags.semantic:
        settings = f'var{flags.var:g}_dist{flags.dist:g}_reg{flags.reg:g}_dvar{flags.dvar:g}_ddist{flags.ddist:g}'
        visualization.evaluate_scatter_plot(flags.logdir, output[:1], labels[:1], flags.feature_dim, settings, step)


def picture_summary(tag, pictures):
    """A tf.Summary of pictures that were made outside the graph, uint8 [h, w, 3] each."""
    import cv2
    import tensorflow.compat.v1 as tf
    values = [tf.Summary.Value(tag=f'{tag}/{i}', image=tf.Summary.Image(
        height=picture.shape[0], width=picture.shape[1],
        encoded_image_string=cv2.imencode('.png', picture[..., ::-1])[1].tobytes())) for i, picture in enumerate(pictures)]
    return tf.Summary(value=values)


# ---- The script -----------------------------------------------------------------------------------------------------

def train(sess, flags, conventions, trainer, queue, epoch_steps, valid_paths, records):
    """The training itself, from the step that the session's variables are at to the last."""
    import tensorflow.compat.v1 as tf
    import utils
    num_steps = flags.epochs * epoch_steps
    step = int(sess.run(trainer.step))
    writer = tf.summary.FileWriter(flags.logdir, sess.graph if step == 0 else None, filename_suffix='.train')
    if step:
        # Points of steps that a stopped run wrote after its last saved state would appear twice.
        writer.add_session_log(tf.SessionLog(status=tf.SessionLog.START), step)
    resume_prefix = os.path.join(flags.outdir, RESUME, 'state.ckpt')
    saved_at = time.monotonic()

    def save_state():
        trainer.state_saver.save(sess, resume_prefix, step, write_meta_graph=False)

    bar = tqdm.tqdm(total=num_steps, initial=step, unit='step', disable=None)
    validation = ''
    try:
        while step < num_steps:
            batch = queue.get()
            fetches = [trainer.train, trainer.terms, trainer.rate, trainer.norm]
            if (step + 1) % flags.summary_steps == 0:
                fetches.append(trainer.summary)
            _, terms, rate, norm, *summary = sess.run(
                fetches, {trainer.images: batch.images, trainer.labels: batch.labels})
            if not np.isfinite([*terms, norm]).all():
                raise InputError(f'step {step + 1}: the loss is not finite (total {terms[0]}, var {terms[1]}, dist '
                                 f'{terms[2]}, reg {terms[3]}, gradient {norm}) on {", ".join(batch.paths)}; the last '
                                 f'saved state is untouched, try a lower --learning-rate')
            step += 1
            for s in summary:
                writer.add_summary(s, step)
            bar.update()
            speed = flags.batch_size * (bar.format_dict['rate'] or 0)
            bar.set_postfix_str(f'loss {terms[0]:.3f} = var {terms[1]:.3f} + dist {terms[2]:.3f} + reg {terms[3]:.3f}, '
                                f'lr {rate:.1e}, {speed:.1f} images/s{validation}')
            if step % epoch_steps == 0:
                epoch = step // epoch_steps
                result = validate(sess, trainer, flags, valid_paths, records)
                writer.add_summary(tf.Summary(value=[tf.Summary.Value(tag=f'validation/{name}', simple_value=value)
                                                     for name, value in result.items()]), step)
                shown = {name: result[name] for name in ('accuracy', 'fp', 'fn', 'iou') if name in result}
                validation = ''.join(f', {name} {value:.3f}' for name, value in shown.items())
                with bar.external_write_mode():
                    print(f'epoch {epoch}: validation loss {result["total"]:.4f} = var {result["var"]:.4f} + dist '
                          f'{result["dist"]:.4f} + reg {result["reg"]:.4f}{validation}', flush=True)
                if epoch % flags.pictures == 0 or step == num_steps:
                    write_pictures(sess, trainer, flags, valid_paths, writer, epoch, step)
                if result['score'] > sess.run(trainer.best):
                    sess.run(trainer.set_best, {trainer.best_input: result['score']})
                    trainer.weights_saver.save(sess, os.path.join(flags.outdir, 'model.ckpt'), step,
                                               write_meta_graph=False)
                    utils.write_conventions(flags.outdir, conventions)
            if step % epoch_steps == 0 or time.monotonic() - saved_at > 60 * flags.save_minutes:
                save_state()
                writer.flush()
                saved_at = time.monotonic()
    except (KeyboardInterrupt, SystemExit):
        save_state()
        print(f'stopped after step {step} of {num_steps} and saved; the same command goes on from there', file=sys.stderr)
        raise
    finally:
        bar.close()
        writer.close()


def main():
    flags = parse_flags()
    image_paths, label_paths = datagenerator.find_samples(flags.srcdir)
    train_paths, valid_paths = datagenerator.split(image_paths, label_paths)
    records = lane_records(flags.srcdir, valid_paths[0])
    if flags.modeldir_given and not os.path.isdir(flags.modeldir):
        raise InputError(f'--modeldir {flags.modeldir}: no such folder')
    resuming = check_folders(flags)
    if resuming:
        check_flags(flags)
    print(f'{len(train_paths[0])} training photos, {len(valid_paths[0])} validation photos')

    quiet.import_tensorflow()
    import tensorflow.compat.v1 as tf
    import utils
    conventions = utils.Conventions(
        image_size=flags.image_size, normalisation='signed', head='Semantic' if flags.semantic else 'Instance',
        feature_dim=2 if flags.semantic else flags.feature_dim, head_activation='none', batch_statistics=False,
        dropout_at_inference=False, delta_v=flags.dvar, delta_d=flags.ddist, bandwidth=flags.bandwidth)
    epoch_steps = max(1, len(train_paths[0]) // flags.batch_size)
    num_steps = flags.epochs * epoch_steps
    coord = tf.train.Coordinator()
    with tf.Graph().as_default(), tf.Session() as sess:
        trainer = Trainer(flags, conventions, num_steps)
        start(sess, flags, trainer, resuming)
        if not resuming:
            datagenerator.write_file(os.path.join(flags.outdir, RESUME, FLAGS_FILE),
                                     json.dumps(vars(flags), indent=1).encode())
        step = int(sess.run(trainer.step))
        queue = datagenerator.BatchQueue(*train_paths, flags.batch_size, flags.image_size, coord, seed=flags.seed,
                                         workers=flags.workers, augment=not flags.no_augment, start_step=step,
                                         cache_bytes=int(flags.cache * 2 ** 30))
        try:
            train(sess, flags, conventions, trainer, queue, epoch_steps, valid_paths, records)
        finally:
            coord.request_stop()
            queue.close()
    print(f'the best epoch is in {flags.outdir}: python inference.py --modeldir {flags.outdir}')


if __name__ == '__main__':
    command_line.run(main)
