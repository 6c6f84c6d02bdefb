"""Colours the instances in photos: the lanes of a road, or whatever else a model was trained on.

    python inference.py                                        the shipped model on the shipped photos
    python inference.py --indir photos --outdir results        a folder of photos
    python inference.py --indir drive.mp4 --outdir results     a video, which becomes results/drive.mp4
    python inference.py --indir photos more/*.jpg --recursive  several, with their subfolders
    python inference.py --indir 0                              a camera, or rtsp://..., http://..., until Ctrl-C
    python inference.py --indir test_tasks_0627.json --json predictions.json --no-pictures
    python inference.py --export lanes/1                       only the network, for TensorFlow Serving and others

Each photo becomes cluster_NNNN.png, with every instance coloured and the background unchanged.
NNNN counts from 0000 in the order of the inputs and of their names; photos.csv lists them. Results of subfolders go to
subfolders of the same names. A photo that cannot be read is reported and skipped, and the exit status is 1.

A video becomes an MP4 of the same size and frame rate, without sound, with lanes coloured and their lines drawn. A lane
keeps its id and colour through gaps of half a second; one seen for less than a fifth of a second is left out. Of a
stream, only the newest frame is processed. Instances of other kinds are outlined and coloured by size.
"""
import collections
import contextlib
import functools
import os
import pathlib
import time

import numpy as np
import tqdm
from scipy import ndimage

import clustering
import visualization
from data.common import command_line, files, inputs, pictures, pipeline, quiet, results, segmentations, stream, video
from data.common.command_line import InputError
from data.common.pipeline import Stage
from data.lanes import lines, tracking, tusimple

# TensorFlow takes seconds to import: enet.py and utils.py, which need it, are imported where the network is built.
HERE = os.path.dirname(os.path.abspath(__file__))
NUM_READERS = 2   # threads that decode photos
NUM_CALLERS = 2   # threads that run the network: while one is between operations, the other uses the cores


# ---- Flags -----------------------------------------------------------------------------------------------------------

def parse_flags(argv):
    parser = command_line.Parser(description=__doc__)
    add = parser.add_argument_group('model and files').add_argument
    add('-m', '--modeldir', default=os.path.join(HERE, 'trained_model'), help='Folder of the checkpoint.')
    add('-i', '--indir', nargs='+', default=[os.path.join(HERE, 'inference_test', 'images')], metavar='PATH',
        help='Folders, photos, videos, or TuSimple JSONs next to their photos; or one stream.')
    add('--recursive', action='store_true', help='Search the subfolders of --indir, too.')
    add('-o', '--outdir', default=os.path.join(HERE, 'inference_test', 'results'), help='Folder for the results.')
    add = parser.add_argument_group('instances').add_argument
    add('--bandwidth', type=command_line.bandwidth,
        help='Bandwidth of mean shift, a distance in embedding space (default: the model\'s).')
    add('--foreground', metavar='DIR', help='Folder of masks with the names of the photos, any size, not JPEG: all '
                                            'pixels above 0, and no others, are divided into instances.')
    add('--max-lanes', type=command_line.positive_int, default=5, metavar='N',
        help='Maximum number of lanes per photo; the most confident are kept.')
    add('--min-confidence', type=command_line.share,
        help='Minimum confidence of a lane, 0 to 1 (default: the model\'s).')
    add = parser.add_argument_group('outputs').add_argument
    add('--draw-lanes', action='store_true', help='Draw lane lines into cluster_NNNN.png; videos always have them.')
    add('--frames', action='store_true', help='Write cluster_NNNN.png per frame instead of a video.')
    add('--no-smoothing', action='store_true', help='Do not smooth the lane lines of a video over time.')
    add('--no-pictures', action='store_true', help='Write neither cluster_NNNN.png nor a video.')
    add('--masks', action='store_true', help='Write mask_NNNN.png: ids, or class * 1000 + n, at the size of the photo.')
    add('--json', metavar='FILE',
        help='Write the lanes in TuSimple\'s format, with confidence, ids in videos, and run_time: ms for resizing, '
             'network, clustering and lanes, without reading and writing. From a model of --kind any, the instances '
             'as COCO results, for pycocotools.')
    add('--culane', metavar='DIR', help='Write the lanes in CULane\'s format, NAME.lines.txt in the subfolders of DIR.')
    add('--export', metavar='DIR', help='Only write the network as a SavedModel into a new folder: `image`, float32 '
                                        '[b, h, w, 3], RGB 0..255, to `embedding` and what else it predicts.')
    add('--workers', type=functools.partial(command_line.workers, least=0),
        help='Threads that cluster and write; 0 processes photos one by one, for exact times (default: 0 with --json, '
             'otherwise one per core, at most 8).')
    flags = parser.parse_args(argv)
    given = {name for name, value in vars(flags).items() if value != parser.get_default(name)}
    if flags.export and given - {'export', 'modeldir', 'indir', 'outdir'}:   # the last two have no effect
        parser.error('--export: takes no other flag than --modeldir')
    if flags.no_pictures and not (flags.json or flags.culane or flags.masks):
        parser.error('--no-pictures leaves nothing to do; add --json, --culane or --masks')
    flags.about_lanes = sorted(given & {'culane', 'draw_lanes', 'max_lanes', 'min_confidence', 'no_smoothing'})
    if flags.workers is None:
        flags.workers = 0 if flags.json else min(os.cpu_count() or 1, 8)
    return flags


# ---- Network ---------------------------------------------------------------------------------------------------------

def rebuild_graph(sess, checkpoint_dir, input_image, feature_dim, architecture=None):
    """Builds the network for inference in sess.graph, with the weights of a checkpoint as constants.

    input_image: [b, h, w, 3] of any type, raw RGB 0..255; h and w multiples of 8
    feature_dim: embedding dimensions of the checkpoint
    architecture: enet.Architecture, by default the paper's
    Raises InputError if the checkpoint cannot be used.
    -> embedding, float32 [b, h, w, feature_dim]; more channels with a foreground head, see utils.build_model
    """
    import utils
    conventions = utils.read_conventions(checkpoint_dir)
    if feature_dim != conventions.feature_dim:
        raise InputError(f'{checkpoint_dir}: its embedding has {conventions.feature_dim} dimensions, '
                         f'not {feature_dim}')
    if conventions.head != 'Instance':
        raise InputError(f'{checkpoint_dir}: is a semantic model, which does not separate instances; fine-tune it')
    with sess.graph.as_default(), utils.constant_weights(utils.find_checkpoint(checkpoint_dir)):
        return utils.build_model(input_image, conventions, architecture=architecture)


def load_network(modeldir, architecture=None):
    """The network of a checkpoint in a graph and session of its own. Raises as rebuild_graph. -> (embed, conventions)

    embed: a function of uint8 [b, h, w, 3], RGB at conventions.image_size, see rebuild_graph
    """
    import tensorflow.compat.v1 as tf

    import enet
    import utils
    conventions = utils.read_conventions(modeldir)
    width, height = conventions.image_size
    # On a GPU, XLA may need software that is not installed.
    fused = contextlib.nullcontext() if tf.config.list_physical_devices('GPU') else enet.fused_kernels()
    with tf.Graph().as_default(), fused:
        sess = tf.Session()
        image = tf.placeholder(tf.uint8, [None, height, width, 3], name='image')
        embedding = rebuild_graph(sess, modeldir, image, conventions.feature_dim, architecture)
    return sess.make_callable(embedding, [image]), conventions


def check_model(flags, conventions):
    """Raises InputError if a model with these conventions cannot do what the flags ask for."""
    if conventions.kind == 'any' and flags.about_lanes:
        flag = flags.about_lanes[0].replace('_', '-')
        raise InputError(f'--{flag}: is about lanes, and {flags.modeldir} finds instances of any kind')
    if not (conventions.background_weight or conventions.foreground_weight or flags.foreground):
        raise InputError(f'{flags.modeldir}: has no background of its own; give the foreground by --foreground')


def embed_photo(photo, embed, conventions):
    """Sets photo.embedding and photo.probability. Raises InputError if they are not finite."""
    output = embed(pictures.resize_image(photo.image, conventions.image_size)[np.newaxis])[0]
    if not np.isfinite(output).all():
        raise InputError(f'{photo.path}: the model returns NaN or infinity; its training has diverged')
    photo.embedding, photo.probability = clustering.split_output(output, conventions.feature_dim)
    if conventions.classes:
        photo.scores = output[..., conventions.feature_dim:]
        photo.probability = photo.probability if conventions.clusters_foreground else None


# ---- Instances and lanes ---------------------------------------------------------------------------------------------

def find_instances(photo, conventions, bandwidth=None):
    """Sets photo.ids and photo.shown. conventions: of the model; bandwidth: of mean shift, by default the model's"""
    bandwidth, foreground = bandwidth or conventions.bandwidth, None
    if photo.given_foreground is not None:
        size = photo.embedding.shape[1::-1]
        foreground, photo.probability = pictures.resize_label(photo.given_foreground, size) > 0, None
    elif photo.probability is not None:
        foreground = photo.probability >= conventions.foreground_threshold
    margins = conventions.delta_v, conventions.delta_d
    photo.ids = clustering.instance_ids(photo.embedding, bandwidth, margins, foreground)
    if not photo.ids.any():
        points = photo.embedding if foreground is None else photo.embedding[foreground]
        photo.scattered = bool(points.size and clustering.is_scattered(points, bandwidth))
        if photo.given_foreground is not None and not photo.scattered:   # too small for a cluster, but it is foreground
            photo.ids[foreground] = 1
    sizes = np.bincount(photo.ids.ravel(), minlength=1)
    photo.shown = np.arange(len(sizes))
    if conventions.kind == 'any':   # the first colours, which differ most, for the largest
        photo.shown[1 + np.argsort(-sizes[1:], kind='stable')] = photo.shown[1:].copy()


def find_lanes(photo, conventions, max_lanes=5, min_confidence=0.):
    """Sets photo.lanes from photo.ids; instances that are no lane, or left out by the limits, are not shown."""
    size = photo.image.shape[1::-1]
    photo.h_samples = photo.h_samples or tusimple.scaled_rows(size[1])
    certainty = clustering.pixel_confidence(photo.embedding, photo.ids, conventions.delta_v, photo.probability)
    photo.lanes, photo.confidences = lines.lanes_and_confidences(
        photo.ids, size, photo.h_samples, max_lanes, min_confidence, certainty)
    photo.shown = 1 + visualization.lane_of_instance(photo.lanes, photo.h_samples, photo.ids, size)


def measure_instances(photo, delta_v):
    """Sets photo.confidences of instances of any kind, the means of their pixels'. delta_v: of the model"""
    certainty = clustering.pixel_confidence(photo.embedding, photo.ids, delta_v, photo.probability)
    photo.confidences = ndimage.mean(certainty, photo.shown[photo.ids], range(1, len(photo.shown))).tolist()


def track_lanes(photo, tracker):
    """Replaces the lanes of the next frame by those of a tracking.LaneTracker; lanes without an id are left out."""
    ids, tracked = tracker.update(photo.lanes)
    photo.track_ids, photo.lanes = ids[ids > 0].tolist(), list(tracked[ids > 0])
    photo.confidences = [sure for sure, number in zip(photo.confidences, ids) if number]
    photo.shown = np.append(0, ids)[photo.shown]


def find_classes(photo, conventions, votes):
    """Sets photo.classes and photo.found_classes, those of the lanes or instances; '' for a lane without pixels.

    votes: {track id: Counter of its classes in the frames so far}; a tracked lane has the most frequent one
    """
    classes = clustering.instance_classes(photo.scores, photo.shown[photo.ids])
    photo.classes = np.pad(classes, (0, max(0, max(photo.numbers, default=0) + 1 - len(classes))))
    for number in photo.track_ids or ():
        votes[number][photo.classes[number]] += photo.classes[number] > 0
        photo.classes[number] = votes[number].most_common(1)[0][0]
    photo.found_classes = [('', *conventions.classes)[photo.classes[number]] for number in photo.numbers]


def label_values(classes):
    """The value of each instance in a label: class * 1000 + n, with n = 0, 1, ... within the class, at most 999."""
    values = [1000 * each + min(np.count_nonzero(classes[:i] == each), 999) for i, each in enumerate(classes)]
    return np.where(classes > 0, values, 0).astype(np.uint16)


# ---- Outputs ---------------------------------------------------------------------------------------------------------

def is_numbered(job, flags):
    """-> whether the results of a job include numbered pictures"""
    return flags.masks or not flags.no_pictures and (job.video is None or flags.frames)


def check_outputs(flags, jobs, masks):
    """Makes the output folders, and warns of results that will be replaced. masks: paths of those of --foreground

    Raises InputError if a folder cannot be written to, or if an output would replace an input.
    """
    if flags.json:
        files.check_output_file('--json', flags.json)
    photos = [photo for job in jobs for photo in job.photos]
    for photo in photos if flags.culane else ():
        results.culane_path(photo, flags.culane)
    results_of_videos = [job.result for job in jobs if not (flags.no_pictures or flags.frames)]
    outputs = {os.path.realpath(path) for path in [flags.json, *results_of_videos] if path}
    folders = {os.path.realpath(job.folder) for job in jobs if is_numbered(job, flags)}
    for path in [*flags.indir, *masks, *filter(None, (job.video for job in jobs)), *(photo.path for photo in photos)]:
        folder, name = os.path.split(path)
        if os.path.realpath(path) in outputs or (results.PICTURE.fullmatch(name)
                                                 and os.path.realpath(folder) in folders):
            raise InputError(f'{path}: is an input that a result would replace; give the result another name or folder')
    for job in jobs:
        if job.video and not flags.no_pictures:
            files.make_output_folder(os.path.dirname(job.result))
        if is_numbered(job, flags):
            files.make_output_folder(job.folder)
            results.warn_of_others(job.folder, job.photos)


def write_pictures(photo, flags, folder, to_video, is_road):
    """Writes what the flags ask for, sets photo.results, or photo.picture if `to_video`, and releases its arrays."""
    path = os.path.join(folder, f'%s_{photo.number:04d}.png')
    ids, foreground = photo.ids, photo.given_foreground
    ids = photo.shown[ids if foreground is None else visualization.fit_to_foreground(ids, foreground)]
    if not flags.no_pictures:
        picture = visualization.draw_instances(photo.image, ids, outlined=not is_road, classes=photo.classes)
        if is_road and (flags.draw_lanes or to_video):
            picture = visualization.draw_lanes(picture, photo.lanes, photo.h_samples, photo.numbers, photo.classes)
        if to_video:
            photo.picture = picture
        else:
            pictures.write_image(path % 'cluster', picture)
    if flags.masks or flags.json and not is_road:
        mask = pictures.resize_label(ids.astype(np.min_scalar_type(ids.max(initial=0))), photo.image.shape[1::-1])
    if flags.masks:
        pictures.write_image(path % 'mask', mask if photo.classes is None else label_values(photo.classes)[mask])
    if flags.json and not is_road:
        photo.results = segmentations.results(mask, photo.confidences, photo.classes)
    if flags.culane:
        results.write_culane(photo, flags.culane)
    photo.image = photo.given_foreground = photo.embedding = photo.probability = photo.ids = None
    photo.scores = photo.classes = None


def print_results(photos, seconds, flags, what):
    """Prints the table of times and where the results are. what: the plural of what was found"""
    print(f'{"ms per picture":<14}{"median":>8}{"mean":>8}')
    times = {name: [photo.times[name] for photo in photos] for name in photos[0].times}
    for name, values in [*times.items(), ('total', np.sum([*times.values()], axis=0))]:
        print(f'{name:<14}{np.median(values):8.1f}{np.mean(values):8.1f}')
    found = sum(len(photo.confidences) for photo in photos)
    print(f'{len(photos):,} pictures, {found:,} {what} found ({found / len(photos):.1f} per picture), '
          f'{len(photos) / seconds:.1f} frames per second with reading and writing')
    if photos[0].found_classes is not None:
        counts = collections.Counter(name for photo in photos for name in photo.found_classes if name)
        print(f'classes: {", ".join(f"{name} {count:,}" for name, count in counts.most_common())}')
    if not flags.no_pictures or flags.masks:
        print(f'results: {flags.outdir}')
    for path in filter(None, (flags.json, flags.culane)):
        print(f'{what}: {path}')


# ---- The run ---------------------------------------------------------------------------------------------------------

def make_stages(job, clip, flags, masks, embed, conventions):
    """-> what happens to each photo, from its file to its pictures, list of Stage. clip: the video, or None"""
    is_road = conventions.kind == 'road'
    stages = [Stage('', NUM_READERS, inputs.read_photo, (masks,)),
              Stage('network', NUM_CALLERS, embed_photo, (embed, conventions)),
              Stage('clustering', flags.workers, find_instances, (conventions, flags.bandwidth))]
    least = conventions.min_confidence if flags.min_confidence is None else flags.min_confidence
    stages.append(Stage('lanes', flags.workers, find_lanes, (conventions, flags.max_lanes, least)) if is_road else
                  Stage('', flags.workers, measure_instances, (conventions.delta_v,)))
    if is_road and clip:
        tracker = tracking.LaneTracker(tusimple.scaled_rows(clip.size[1]), clip.fps, not flags.no_smoothing)
        stages.append(Stage('lanes', 1, track_lanes, (tracker,)))
    if conventions.classes:   # in one thread: the votes are of frames in their order
        votes = collections.defaultdict(collections.Counter)
        stages.append(Stage('', 1, find_classes, (conventions, votes)))
    to_video = clip is not None and not flags.frames
    return [*stages, Stage('', flags.workers, write_pictures, (flags, job.folder, to_video, is_road))]


def run_job(job, flags, masks, embed, conventions, json_file, done):
    """Takes the photos of a job through the stages into json_file, if not None, and done. -> number of unreadable ones

    json_file: results.JsonFile. done: list to which the photos are appended, without their arrays
    """
    clip = stream.read_clip(job.video) if job.video else None
    photos, output = inputs.read_frames(job, clip) if clip else job.photos, None
    if clip and not flags.no_pictures and not flags.frames:
        output = video.Writer(job.result, clip.size, clip.fps, live=clip.live)
    done_photos = pipeline.run(photos, make_stages(job, clip, flags, masks, embed, conventions), flags.workers)
    total, start, bad = clip.count if clip else len(photos), len(done), 0
    try:
        for photo in tqdm.tqdm(done_photos, total=total, unit='photo', disable=None, leave=False):
            if photo.error is not None:
                tqdm.tqdm.write('', end='')   # clears the bar
                command_line.warn(photo.error)
                bad += 1
                continue
            if output:
                output.write(photo.picture)
            if json_file:
                json_file.add(photo)
            photo.picture = photo.shown = photo.lanes = photo.h_samples = photo.results = None   # or they fill memory
            done.append(photo)
    except KeyboardInterrupt:
        if not (clip and clip.live):   # a stream has no other end
            raise
    finally:   # after Ctrl-C as well, the finished part stays
        if clip:
            clip.frames.close()
        num_frames = output.close() if output else 0
        if num_frames:
            print(f'video: {job.result} ({output.codec}), {num_frames} frames')
        if is_numbered(job, flags) and len(done) > start:
            results.write_table(job.folder, done[start:])
    if clip and total and not bad and len(done) - start < 0.95 * total - 1:   # headers may be off by a few
        command_line.warn(f'{job.video}: only {len(done) - start} of its {total} frames can be decoded')
        bad += 1
    return bad


def main(argv=None, architecture=None):
    """The script. architecture: of the network, an enet.Architecture, by default the paper's. -> exit status"""
    flags = parse_flags(argv)
    if flags.export:
        files.make_output_folder(os.path.dirname(os.path.realpath(flags.export)))
        quiet.import_tensorflow()
        import utils
        utils.export_model(functools.partial(rebuild_graph, architecture=architecture), flags.modeldir, flags.export)
        return 0

    jobs, problems = inputs.find_jobs(flags.indir, flags.outdir, flags.recursive)
    masks = None
    if flags.foreground:
        masks = {pathlib.Path(path).stem: path for path in pictures.list_images(flags.foreground)
                 if not path.lower().endswith(('.jpg', '.jpeg'))}   # compression blurs their zeros
    check_outputs(flags, jobs, (masks or {}).values())
    for problem in problems:
        command_line.warn(problem)

    quiet.import_tensorflow()
    embed, conventions = load_network(flags.modeldir, architecture)
    check_model(flags, conventions)
    width, height = conventions.image_size
    embed(np.zeros([1, height, width, 3], np.uint8))   # the first call plans the graph; the next are timed

    start, done, what = time.perf_counter(), [], 'lanes' if conventions.kind == 'road' else 'instances'
    json_file = results.JsonFile(flags.json, jobs) if flags.json else None
    try:
        bad = sum(run_job(job, flags, masks, embed, conventions, json_file, done) for job in jobs)
    except BaseException:   # Ctrl-C as well
        if json_file and done:
            json_file.close(flags.json + '.part')
            command_line.warn(f'{flags.json}.part: holds the {what} of the {len(done)} pictures that were done')
        raise
    if done:
        if json_file:
            json_file.close(flags.json)
        print_results(done, time.perf_counter() - start, flags, what)
        scattered = sum(photo.scattered for photo in done)
        if scattered:
            command_line.warn(f'the embedding of {scattered} of {len(done)} pictures is scattered and was treated as '
                              f'background: train {flags.modeldir} for longer, or give a larger --bandwidth')
    return 1 if problems or bad else 0


if __name__ == '__main__':
    command_line.run(main)
