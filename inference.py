"""Colours the instances of photos, each its own colour: the lanes of the road, or what else a model was trained on.

    python inference.py                                        the shipped model on the shipped photos
    python inference.py --indir photos --outdir results        a folder of your own
    python inference.py --indir drive.mp4 --outdir results     a video, which becomes results/drive.mp4
    python inference.py --indir test_tasks_0627.json --json predictions.json --no-pictures
    python inference.py --modeldir leaves_model --indir plants --outdir results --masks
                                               a model of another kind of picture, see training.py --kind
    python inference.py --export lanes/1                       the network alone, for TensorFlow Serving and others

Each photo becomes cluster_NNNN.png, the photo at its own size with every instance coloured and the largest
cluster (the background) left as it is. NNNN counts from 0000 through the inputs as sorted by name, as listed
in the JSON by lines that can be used, or frame by frame. A photo that cannot be used is named and its number left
out, the others are done, and the exit status is 1.

A video becomes one video of the same size and frame rate, without sound, with its lanes coloured and their lines
drawn. A lane keeps its number and its colour from frame to frame, through gaps of half a second; a line that is seen
for less than a fifth of a second is left out. A run that is stopped leaves the frames that were done.

A model that was trained with --kind any finds instances, not lanes: they are outlined as well as coloured, the largest
has the first colour, and in a video each frame has colours of its own.
"""
from data.common import command_line

if __name__ == '__main__':
    command_line.exit_on_interrupt()   # the imports below take half a second

import concurrent.futures
import contextlib
import dataclasses
import functools
import itertools
import os
import re
import time

import numpy as np
import tqdm

import clustering
import visualization
from data.common import files, pictures, prefetch, quiet, video
from data.lanes import lines, tusimple
from data.common.command_line import InputError

# TensorFlow takes seconds to import. What needs it, enet.py and utils.py included, is imported in the functions below
# that build the network, so that --help and a wrong flag or photo need not wait.

HERE = os.path.dirname(os.path.abspath(__file__))
NUM_READERS = 2   # threads that decode photos
NUM_CALLERS = 2   # threads that run the network: while one is between operations, the other uses the cores
OUTPUT_NAME = re.compile(r'(cluster|mask|scatter|embedding)_\d{4,}\.png')


@dataclasses.dataclass
class Photo:
    """A photo on its way from file to pictures. Times in ms."""
    number: int                    # NNNN of its outputs
    raw_file: str                  # its name in the JSON
    path: str                      # where it is read from, and its name in messages
    h_samples: list = None         # y in px of lane points; None: TuSimple's, scaled to the photo's height
    image: np.ndarray = None       # uint8 [h, w, 3] RGB
    given: np.ndarray = None       # uint8 [h, w], 1 in the foreground that --foreground names
    embedding: np.ndarray = None   # float32 [h', w', feature_dim], at the size of the network
    foreground: np.ndarray = None  # float32 [h', w'], probability of being foreground, of a model that tells it
    # int [h', w']: 0 is background; lanes 1, 2, ... from left to right or by track, other instances by size
    ids: np.ndarray = None
    num_found: int = None          # lanes, or other instances
    lanes: list = None             # [num_lanes][len(h_samples)] x in px
    confidences: list = None       # [num_lanes] 0 to 1
    lane_ids: list = None          # [num_lanes] int, from 1: the instance that is the lane; of a video its track
    frame: np.ndarray = None       # uint8 [h, w, 3] RGB, what becomes of a frame in the video that is written
    scattered: bool = False        # see clustering.is_scattered
    network_ms: float = None
    clustering_ms: float = None
    lanes_ms: float = 0.
    error: InputError = None       # why the photo could not be read; the fields above then keep their defaults

    @property
    def run_time(self):
        """ms from pixels to lanes."""
        return self.network_ms + self.clustering_ms + self.lanes_ms


# ---- Flags -----------------------------------------------------------------------------------------------------------

def parse_flags(argv):
    def beside_script(path):   # the defaults work from any folder
        return os.path.relpath(os.path.join(HERE, path))

    parser = command_line.Parser(description=__doc__)
    group = parser.add_argument_group('model and files')
    group.add_argument('-m', '--modeldir', default=beside_script('trained_model'),
                       help='Folder of the checkpoint to use.')
    group.add_argument('-i', '--indir', default=beside_script('inference_test/images'),
                       help='Folder of photos (jpg, jpeg, png, bmp), one photo, a video (mp4, avi, mov), or '
                            'a TuSimple JSON whose raw_file are relative to its own folder.')
    group.add_argument('-o', '--outdir', default=beside_script('inference_test/results'),
                       help='Folder for the pictures or the video; created if it does not exist.')
    group = parser.add_argument_group('clustering')
    group.add_argument('--bandwidth', type=command_line.bandwidth,
                       help='Bandwidth of mean shift, a distance in embedding space (default: that of the model).')
    group.add_argument('--max-lanes', type=command_line.positive_int, default=5, metavar='N',
                       help='Number of lanes that are kept per photo: those of the highest confidence.')
    group.add_argument('--foreground', metavar='DIR',
                       help='Folder of masks with the names of the photos, PNG or BMP of any size, where '
                            'everything above 0 is foreground, such as id masks: all of it is divided into instances, '
                            'and nothing else. A model without a background of its own needs it.')
    group.add_argument('--min-confidence', type=command_line.share, default=0.,
                       help='Lanes of less confidence, from 0 to 1, are left out.')
    group = parser.add_argument_group('outputs')
    group.add_argument('--draw-lanes', action='store_true',
                       help='Draw the lane lines into cluster_NNNN.png; a video has them without being asked.')
    group.add_argument('--frames', action='store_true',
                       help='Write cluster_NNNN.png per frame of a video instead of a video.')
    group.add_argument('--no-smoothing', action='store_true',
                       help='Draw and write the lane lines of each frame of a video as they were found, not smoothed '
                            'over time. Lanes keep their ids all the same.')
    group.add_argument('--codec', choices=video.CODECS,
                       help='Codec of the video: avc1 (H.264) and vp09 (VP9) play in browsers; mp4v (MPEG-4) and MJPG '
                            '(Motion JPEG) do not, but are written up to 50 times faster than vp09. The default is '
                            'avc1, or mp4v where this OpenCV has no encoder for it.')
    group.add_argument('--no-pictures', action='store_true', help='Write neither cluster_NNNN.png nor a video.')
    group.add_argument('--masks', action='store_true',
                       help='Write mask_NNNN.png, the instance ids at the size of the photo: 0 is background, '
                            'lanes count 1, 2, ... from left to right (in a video they have their lasting ids), other '
                            'instances from the largest to the smallest; 8 bits per pixel, 16 for more than 255 '
                            'instances.')
    group.add_argument('--scatter', action='store_true',
                       help='Write the embedding: scatter_NNNN.png, its pixels as points coloured by '
                            'instance, and embedding_NNNN.png, its first three dimensions as colours.')
    group.add_argument('--json', metavar='FILE',
                       help='Write the lanes in the format of the TuSimple benchmark, one line per photo: '
                            'raw_file, lanes and h_samples in pixels, run_time in ms (network, clustering and lanes), '
                            'confidence per lane from 0 to 1; for a video also ids, a number per lane that it keeps '
                            'from frame to frame.')
    group = parser.add_argument_group('export')
    group.add_argument('--export', metavar='DIR',
                       help='Write the network as a SavedModel into a new folder, for TensorFlow Serving, '
                            'tf.saved_model.load and converters, and do nothing else: no photo is read. Its '
                            'signature serving_default maps `image`, float32 [b, h, w, 3], RGB 0..255, any multiples '
                            'of 8 in size, to `embedding`, float32 [b, h, w, feature_dim], and, of a model with a '
                            'foreground head, to `foreground`, float32 [b, h, w], its probability. The folder holds '
                            'conventions.json as well.')
    group = parser.add_argument_group('speed')
    group.add_argument('--workers', type=functools.partial(command_line.workers, least=0),
                       help='Number of threads that cluster and write while the network runs on the next photos, at '
                            'most 4 per core. With 0 each photo is finished before the next begins, so that the times '
                            'are those of an undisturbed machine: the default with --json, which records them. '
                            'Otherwise the default is the number of cores, at most 8.')
    flags = parser.parse_args(argv)
    if flags.workers is None:
        flags.workers = 0 if flags.json else min(os.cpu_count() or 1, 8)
    if flags.export:
        for name in ('json', 'bandwidth', 'max_lanes', 'min_confidence', 'foreground', 'draw_lanes', 'frames',
                     'no_smoothing', 'codec', 'masks', 'scatter', 'no_pictures'):
            if getattr(flags, name) != parser.get_default(name):
                parser.error(f'argument --{name.replace("_", "-")}: is about photos, and --export reads none')
    if flags.no_pictures and not (flags.json or flags.masks or flags.scatter):
        parser.error('--no-pictures leaves nothing to do: ask for --json, --masks or --scatter')
    for name in ('draw_lanes', 'frames', 'codec'):
        if flags.no_pictures and getattr(flags, name):
            parser.error(f'--{name.replace("_", "-")} is about what --no-pictures leaves out: give one of them')
    flags.about_lanes = [name for name in ('json', 'draw_lanes', 'max_lanes', 'min_confidence', 'no_smoothing')
                         if getattr(flags, name) != parser.get_default(name)]
    flags.writes_pictures = not flags.no_pictures or flags.masks or flags.scatter
    return flags


# ---- Photos ----------------------------------------------------------------------------------------------------------

def find_photos(indir):
    """What --indir stands for. -> (photos, problems, clip)

    photos: a list of Photo without their images; of a video, an iterator of Photo with theirs. problems: a line for
    each entry of a TuSimple JSON that cannot be used. clip: the video.Clip, or None. Raises InputError if there is no
    photo at all.
    """
    name, extension = os.path.basename(indir), os.path.splitext(indir)[1].lower()
    if os.path.isdir(indir):
        paths = pictures.list_images(indir)
        return [Photo(number, os.path.basename(path), path) for number, path in enumerate(paths)], [], None
    try:
        os.stat(indir)
    except FileNotFoundError:
        raise InputError(f'{indir}: no such file or folder')
    if extension == '.json':
        return *read_task(indir), None
    if extension in video.EXTENSIONS:
        clip = video.read_video(indir)
        return frames_as_photos(clip, indir), [], clip
    return [Photo(0, name, indir)], [], None


def frames_as_photos(clip, path):
    """The frames of a video. -> iterator of Photo; the last one has an error if the video cannot be read to its end"""
    frames = iter(clip.frames)
    for number in itertools.count():
        photo = Photo(number, f'{os.path.basename(path)}/{number:04d}', path)
        try:
            photo.image = next(frames)
        except StopIteration:
            return
        except InputError as error:
            photo.error = error
        yield photo


def read_task(json_path):
    """The photos that a TuSimple JSON lists. -> (list of Photo, problems), as for find_photos."""
    records, problems = tusimple.read_records(json_path, need_lanes=False)
    photos = []
    for record in records:
        try:
            path = tusimple.photo_path(os.path.dirname(json_path), record)
        except InputError as error:
            problems.append(str(error))
        else:
            photos.append(Photo(len(photos), record.raw_file, path, record.h_samples))
    if not photos:
        raise InputError(problems[0] if problems else f'{json_path}: lists no photos')
    return photos, problems


def base_name(path):
    """-> the name of a file without folder and extension, by which masks belong to photos"""
    return os.path.splitext(os.path.basename(path))[0]


def list_masks(folder, photos):
    """The pictures in --foreground. -> {base_name: [path]}

    Raises InputError if there are none, or if two of the photos have the same name.
    """
    names = {}
    for photo in photos:
        other = names.setdefault(base_name(photo.path), photo)
        if other is not photo:
            raise InputError(f'{photo.path}: has the same name as {other.path}, and --foreground goes by the names')
    masks = {}
    for path in pictures.list_images(folder):
        masks.setdefault(base_name(path), []).append(path)
    return masks


def read_photo(photo, masks=None):
    """Sets photo.image, and photo.given if there are masks; or photo.error if they cannot be read. -> photo

    masks: of list_masks
    """
    if photo.image is None and photo.error is None:   # frames of a video have one or the other
        try:
            photo.image = pictures.read_image(photo.path)
            if masks is not None:
                photo.given = read_mask(photo, masks)
        except InputError as error:
            photo.error = error
    return photo


def read_mask(photo, masks):
    """The foreground of a photo, at the photo's size. -> uint8 [h, w], 0 or 1. Raises InputError."""
    name = base_name(photo.path)
    found = masks.get(name, [])
    if not found:
        raise InputError(f'{photo.path}: --foreground holds no mask of that name, such as {name}.png')
    if found[0].lower().endswith(('.jpg', '.jpeg')):
        raise InputError(f'{found[0]}: a JPEG is not 0 where the mask was; make it a PNG')
    if len(found) > 1:
        raise InputError(f'{photo.path}: --foreground holds two masks of that name, {found[0]} and {found[1]}')
    return pictures.resize_label((pictures.read_label(found[0]) > 0).astype(np.uint8), photo.image.shape[1::-1])


# ---- From photos to embeddings ---------------------------------------------------------------------------------------

def rebuild_graph(sess, checkpoint_dir, input_image, batch_size, feature_dim, architecture=None):
    """Builds the network for inference in sess.graph, with the weights of a checkpoint as constants.

    input_image: [b, h, w, 3] of any type, raw RGB 0..255; h and w multiples of 8
    batch_size: not used, any batch does; feature_dim: that of the checkpoint
    architecture: of the network, an enet.Architecture, by default the paper's
    Raises InputError if the checkpoint cannot be used.
    -> embedding, float32 [b, h, w, feature_dim]; of a model with a foreground head one channel more, see
    `utils.join_heads`
    """
    import utils
    conventions = utils.read_conventions(checkpoint_dir)
    if feature_dim != conventions.feature_dim:
        raise InputError(f'{checkpoint_dir}: its embedding has {conventions.feature_dim} dimensions, '
                         f'not {feature_dim}')
    if conventions.head != 'Instance':
        raise InputError(f'{checkpoint_dir}: is a semantic model, which tells lane from road but not lane from '
                         'lane; train on from it')
    with sess.graph.as_default(), utils.constant_weights(utils.find_checkpoint(checkpoint_dir)):
        return utils.build_model(input_image, conventions, architecture=architecture)


def check_model(flags, conventions):
    """Raises InputError if what the flags ask for is not what a model with these conventions can do."""
    if conventions.kind == 'any' and flags.about_lanes:
        raise InputError(f'--{flags.about_lanes[0].replace("_", "-")}: is about lanes, and {flags.modeldir} is a model '
                         f'of another kind of picture; leave it out')
    if not (conventions.background_weight or conventions.foreground_weight or flags.foreground):
        raise InputError(f'{flags.modeldir}: tells instances apart but not from the background; give the foreground of '
                         f'each photo by --foreground')


def load_network(checkpoint_dir, architecture=None, check=lambda conventions: None):
    """The network of a checkpoint as a function. -> (embed, conventions)

    check: called with the conventions before the network is built

    embed: from uint8 [b, h, w, 3], RGB at the size of the conventions, to float32 [b, h, w, channels], see
    `rebuild_graph`.
    architecture and the InputError that is raised: see `rebuild_graph`.
    """
    import tensorflow.compat.v1 as tf

    import enet
    import utils
    conventions = utils.read_conventions(checkpoint_dir)
    check(conventions)
    width, height = conventions.image_size
    # On a GPU, XLA may need what is not installed.
    fused = contextlib.nullcontext() if tf.config.list_physical_devices('GPU') else enet.fused_kernels()
    with tf.Graph().as_default(), fused:
        sess = tf.Session()
        image = tf.placeholder(tf.uint8, [None, height, width, 3], name='image')
        embedding = rebuild_graph(sess, checkpoint_dir, image, None, conventions.feature_dim, architecture)
    return sess.make_callable(embedding, [image]), conventions


def embed_photo(photo, embed, conventions, modeldir):
    """Sets photo.embedding and photo.foreground. Raises InputError, naming the model, if it is not finite. -> photo"""
    if photo.error is None:
        batch = pictures.resize_image(photo.image, conventions.image_size)[np.newaxis]
        start = time.perf_counter()
        output = embed(batch)[0]
        photo.network_ms = 1000 * (time.perf_counter() - start)
        if not np.isfinite(output).all():
            raise InputError(f'{modeldir}: the model gives NaN or infinity on {photo.path}; its training has diverged')
        photo.embedding, photo.foreground = clustering.split_output(output, conventions.feature_dim)
    return photo


# ---- From embeddings to instances and lanes --------------------------------------------------------------------------

def find_instances(photo, conventions, bandwidth=None):
    """Sets photo.ids, the instances. conventions: of the model; bandwidth: of mean shift, by default theirs -> photo"""
    if photo.error is None:
        bandwidth, margins = bandwidth or conventions.bandwidth, (conventions.delta_v, conventions.delta_d)
        start = time.perf_counter()
        foreground = None
        if photo.given is not None:
            foreground, photo.foreground = shrink_mask(photo.given, photo.embedding.shape[1::-1]), None
        elif photo.foreground is not None:
            foreground = photo.foreground >= conventions.foreground_threshold
        photo.ids = clustering.instance_ids(photo.embedding, bandwidth, margins, foreground)
        if not photo.ids.any():
            points = photo.embedding if foreground is None else photo.embedding[foreground]
            photo.scattered = bool(points.size and clustering.is_scattered(points, bandwidth))
            if photo.given is not None and not photo.scattered:   # too small for a cluster, but it is foreground
                photo.ids[foreground] = 1
        if conventions.kind == 'any':   # the first colours, which differ most, for the largest
            photo.ids = clustering.number_by_size(photo.ids)
        photo.num_found = int(photo.ids.max(initial=0))
        photo.clustering_ms = 1000 * (time.perf_counter() - start)
    return photo


def shrink_mask(mask, size):
    """A mask at the size of the network, nearest neighbour. mask: uint8 [h, w], 0 or 1 -> bool [h', w'] of size

    If all of it lies between the pixels that are taken, those around it.
    """
    small = pictures.resize_label(mask, size) > 0
    if not small.any():
        y, x = np.nonzero(mask)
        small[y * size[1] // mask.shape[0], x * size[0] // mask.shape[1]] = True
    return small


def find_lanes(photo, conventions, bandwidth=None, max_lanes=5, min_confidence=0.):
    """find_instances, and sets photo.lanes, a line through each of the instances that are lanes. -> photo

    max_lanes, min_confidence: which lanes are kept, see lines.lanes_and_confidences
    """
    find_instances(photo, conventions, bandwidth)
    if photo.error is None:
        height, width = photo.image.shape[:2]
        if photo.h_samples is None:
            photo.h_samples = default_rows(height)
        start = time.perf_counter()
        certainty = clustering.pixel_confidence(photo.embedding, photo.ids, conventions.delta_v, photo.foreground)
        photo.lanes, photo.confidences = lines.lanes_and_confidences(
            photo.ids, (width, height), photo.h_samples, max_lanes, min_confidence, certainty)
        photo.num_found = len(photo.lanes)
        photo.lanes_ms = 1000 * (time.perf_counter() - start)
        photo.lane_ids = visualization.instances_under(photo.lanes, photo.h_samples, photo.ids, (width, height))
    return photo


def default_rows(height):
    """The rows of lane points where no TuSimple JSON names them: the benchmark's, scaled. -> list of int, px"""
    return np.unique(np.multiply(tusimple.H_SAMPLES, height) // 720).tolist()


def track_lanes(photo, tracker):
    """Gives the lanes of the next frame of a video their ids, and smooths them. -> photo

    tracker: tracking.LaneTracker, whose lines without an id are left out. In photo.ids, instances have the id of
    their lane, and none if they are no lane.
    """
    if photo.error is None:
        start = time.perf_counter()
        over = visualization.lanes_over(photo.lanes, photo.h_samples, photo.ids, photo.image.shape[1::-1])
        over[photo.lane_ids] = range(len(photo.lanes))
        ids, lines = tracker.update(photo.lanes)
        kept = np.flatnonzero(ids)
        photo.lane_ids, photo.lanes = ids[kept].tolist(), list(lines[kept])
        photo.confidences = [photo.confidences[i] for i in kept]
        photo.num_found = len(kept)
        photo.ids = np.append(ids, 0).astype(np.int32)[over][photo.ids]
        photo.lanes_ms += 1000 * (time.perf_counter() - start)
    return photo


# ---- Outputs ---------------------------------------------------------------------------------------------------------

def check_outputs(flags, inputs, video_path):
    """Makes the output folders. inputs: list of paths; video_path: of the video to write, or None.

    Raises InputError if a folder cannot be written to, or if an output would replace an input.
    """
    if flags.json:
        files.check_output_file('--json', flags.json)
        target = os.path.realpath(flags.json)
        if target == os.path.realpath(flags.indir):
            raise InputError(f'--json {flags.json}: is the input itself; give another name')
        if any(os.path.realpath(path) == target for path in inputs):
            raise InputError(f'--json {flags.json}: is one of the photos; give another name')
    if flags.writes_pictures:
        files.make_output_folder(flags.outdir)
        for path in inputs:
            folder, name = os.path.split(path)
            if OUTPUT_NAME.fullmatch(name) and os.path.realpath(folder) == os.path.realpath(flags.outdir):
                raise InputError(f'{path}: is an input that results would replace; give another --outdir')
    if video_path:
        if os.path.realpath(flags.outdir) == os.path.realpath(os.path.dirname(flags.indir)) \
                or os.path.realpath(video_path) == os.path.realpath(flags.indir):
            raise InputError(f'{flags.indir}: lies in --outdir, where the result has its name; give another --outdir')
        if os.path.isdir(video_path):
            raise InputError(f'{video_path}: is a folder, where the video would go; give another --outdir')


def check_export(export_dir):
    """Makes the parents of a new folder. Raises InputError unless export_dir is new or empty, and can be written."""
    folder = os.path.realpath(export_dir)
    try:
        folder.encode()
    except UnicodeEncodeError:
        raise InputError(f'--export {export_dir}: the path is not UTF-8, which TensorFlow requires; give another')
    if os.path.lexists(folder) and not (os.path.isdir(folder) and not os.listdir(folder)):
        raise InputError(f'--export {export_dir}: is there already; give the name of a new folder')
    files.make_output_folder(os.path.dirname(folder))


def write_pictures(photo, flags, to_video, is_road=True):
    """Writes the pictures of a photo that the flags ask for, and releases its arrays. -> photo

    to_video: sets photo.frame instead of writing cluster_NNNN.png; is_road: whether the instances are lanes
    """
    def write(kind, picture):
        pictures.write_image(os.path.join(flags.outdir, f'{kind}_{photo.number:04d}.png'), picture)

    if photo.error is None:
        ids = photo.ids
        if photo.given is not None and (not flags.no_pictures or flags.masks):
            ids = visualization.fit_to_foreground(ids, photo.given)
        if not flags.no_pictures:
            picture = visualization.draw_instances(photo.image, ids, outlined=not is_road)
            if is_road and (flags.draw_lanes or to_video):
                picture = visualization.draw_lanes(picture, photo.lanes, photo.h_samples, photo.lane_ids)
            if to_video:
                photo.frame = picture
            else:
                write('cluster', picture)
        if flags.masks:
            dtype = np.uint8 if ids.max(initial=0) <= 255 else np.uint16
            write('mask', pictures.resize_label(ids.astype(dtype), photo.image.shape[1::-1]))
        if flags.scatter:
            name = command_line.printable(photo.raw_file).replace('$', r'\$')   # matplotlib takes $ for mathematics
            write('scatter', visualization.scatter_plot(photo.embedding, photo.ids, f'{name}: {ids.max()} instances'))
            write('embedding', visualization.embedding_as_colours(photo.embedding))
        photo.image = photo.given = photo.embedding = photo.foreground = photo.ids = None
    return photo


def to_records(photos, with_ids):
    """The lanes of photos, x to a hundredth of a pixel. with_ids: for frames of a video -> list of tusimple.Record"""
    return [tusimple.Record(photo.raw_file, np.round(photo.lanes, 2).tolist(), photo.h_samples,
                            run_time=round(photo.run_time, 3), ids=photo.lane_ids if with_ids else None,
                            confidence=np.round(photo.confidences, 4).tolist())
            for photo in photos]


def write_part(json_path, records):
    """Writes the lanes of a run that was stopped beside json_path, where an earlier run's may be complete."""
    part = f'{json_path}.part'
    try:
        tusimple.write_records(part, records)
        command_line.warn(f'{part}: holds the lanes of the {len(records)} pictures that were done')
    except InputError as error:
        command_line.warn(error)


def print_results(photos, seconds, flags, output, is_road=True):
    """Prints a line per photo, where they are few, the table of times, and where the results are."""
    times = {'network': [photo.network_ms for photo in photos],
             'clustering': [photo.clustering_ms for photo in photos],
             **({'lanes': [photo.lanes_ms for photo in photos]} if is_road else {}),
             'total': [photo.run_time for photo in photos]}
    found, what = [photo.num_found for photo in photos], 'lanes' if is_road else 'instances'
    if not output and (flags.masks or not flags.no_pictures):
        kind = 'mask' if flags.no_pictures else 'cluster'
        for photo in photos if len(photos) <= 20 else ():
            print(f'{kind}_{photo.number:04d}.png  {photo.num_found} {what}  {command_line.printable(photo.raw_file)}')
    print(f'{"ms per picture":<14}{"median":>8}{"mean":>8}')
    for name, values in times.items():
        print(f'{name:<14}{np.median(values):8.1f}{np.mean(values):8.1f}')
    mean = '' if is_road else f' ({np.mean(found):.1f} per picture)'
    print(f'{len(photos):,} pictures, {sum(found):,} {what} found{mean}, '
          f'{len(photos) / seconds:.1f} frames per second with reading and writing')
    if output:
        print(f'video: {output.path} ({output.codec})')
    if not flags.no_pictures and not output or flags.masks or flags.scatter:
        print(f'pictures 0000 to {photos[-1].number:04d}: {flags.outdir}')
    if flags.json:
        print(f'lanes: {flags.json}')


def warn_of_other_results(photos, outdir):
    """Warns of pictures in outdir that are not of these photos."""
    numbers = {photo.number for photo in photos}
    command_line.warn_of_others(outdir, [name for name in os.listdir(outdir) if OUTPUT_NAME.fullmatch(name)
                                         and int(re.search(r'\d+', name).group()) not in numbers])


# ---- The run ---------------------------------------------------------------------------------------------------------

def run_pipeline(photos, stages, num_workers):
    """Takes each photo through the stages. -> iterator of the last one's results, in order

    stages: list of (function of what the stage before it returned, number of threads). Each stage has its own threads
    and works a few photos ahead of the next, so a bounded number of photos is in memory; with one thread it takes the
    photos in order. An exception in a stage is raised where the result of that photo would have been. With num_workers
    0 everything runs in the calling thread, one photo after the other.
    """
    if num_workers == 0:
        for function, _ in stages:
            photos = map(function, photos)
        yield from photos
        return
    with contextlib.ExitStack() as stack:
        for function, num_threads in stages:
            pool = stack.enter_context(concurrent.futures.ThreadPoolExecutor(num_threads))
            photos = prefetch.in_order(pool, function, photos, num_threads + 1)
        yield from photos


def make_stages(flags, masks, clip, embed, conventions, to_video):
    """What each photo goes through, from its file to its pictures. -> stages of `run_pipeline`

    masks: of list_masks, or None. clip: the video, or None. embed, conventions: of load_network. to_video: see
    write_pictures.
    """
    is_road = conventions.kind == 'road'

    def find(photo):
        if not is_road:
            return find_instances(photo, conventions, flags.bandwidth)
        return find_lanes(photo, conventions, flags.bandwidth, flags.max_lanes, flags.min_confidence)

    def write(photo):
        return write_pictures(photo, flags, to_video, is_road)

    stages = [(lambda photo: read_photo(photo, masks), NUM_READERS),
              (lambda photo: embed_photo(photo, embed, conventions, flags.modeldir), NUM_CALLERS)]
    if clip and is_road:
        from data.lanes import tracking  # SciPy takes most of a second to import
        tracker = tracking.LaneTracker(default_rows(clip.size[1]), clip.fps, not flags.no_smoothing)
        return stages + [(find, flags.workers), (lambda photo: track_lanes(photo, tracker), 1), (write, flags.workers)]
    return stages + [(lambda photo: write(find(photo)), flags.workers)]


def collect(results, count, flags, clip, output, problems):
    """Takes the photos as they come out of the pipeline, and frames into the video. -> list of those that are done

    results: of run_pipeline. count: how many there will be, or None. clip: the video that is read, output: the
    video.Writer, or None. problems: gets a line for each photo that cannot be read.
    When it is interrupted, what is done goes into the JSON and the video.
    """
    done = []
    try:
        with tqdm.tqdm(total=count, unit='photo', disable=None, leave=False) as bar:
            for photo in results:
                if photo.error is None:
                    if output:
                        output.write(photo.frame)
                    photo.frame = None
                    if not flags.json:
                        # A long video has a million of them.
                        photo.lanes = photo.confidences = photo.lane_ids = photo.h_samples = None
                    done.append(photo)
                else:
                    with bar.external_write_mode():
                        command_line.warn(photo.error)
                    problems.append(photo.error)
                bar.update()
    except BaseException:   # Ctrl-C as well
        if flags.json and done and (os.path.isfile(flags.json) or not os.path.exists(flags.json)):
            write_part(flags.json, to_records(done, bool(clip)))
        if output and output.close():
            command_line.warn(f'{output.path}: holds the {len(done)} frames that were done')
        raise
    if output:
        output.close()
    return done


def main(argv=None, architecture=None):
    """The script. architecture: of the network, an enet.Architecture, by default the paper's. -> exit status"""
    flags = parse_flags(argv)
    if flags.export:
        check_export(flags.export)
        quiet.import_tensorflow()
        import utils
        build = functools.partial(rebuild_graph, architecture=architecture)
        utils.export_model(build, flags.modeldir, flags.export)
        return 0

    photos, problems, clip = find_photos(flags.indir)
    for name in ('frames', 'codec', 'no_smoothing'):
        if getattr(flags, name) and not clip:
            raise InputError(f'--{name.replace("_", "-")}: is about a video, and {flags.indir} is none; leave it out')
    if clip and flags.foreground:
        raise InputError(f'--foreground {flags.foreground}: goes by the names of photos, and {flags.indir} is a video')
    masks = list_masks(flags.foreground, photos) if flags.foreground else None
    video_path = None
    if clip and not flags.no_pictures and not flags.frames:
        video_path = os.path.join(flags.outdir, os.path.splitext(os.path.basename(flags.indir))[0] + '.mp4')
    inputs = [flags.indir] if clip else [photo.path for photo in photos]
    check_outputs(flags, inputs + sum((masks or {}).values(), []), video_path)
    for problem in problems:
        command_line.warn(problem)

    quiet.import_tensorflow()
    embed, conventions = load_network(flags.modeldir, architecture, functools.partial(check_model, flags))
    width, height = conventions.image_size
    embed(np.zeros([1, height, width, 3], np.uint8))   # the first call plans the graph; the next are timed

    start = time.perf_counter()
    output = None
    if video_path:
        output = video.Writer(video_path, clip.size, clip.fps, [flags.codec] if flags.codec else video.CODECS)
    stages = make_stages(flags, masks, clip, embed, conventions, bool(output))
    results = run_pipeline(photos, stages, flags.workers)
    done = collect(results, clip.count if clip else len(photos), flags, clip, output, problems)
    seconds = time.perf_counter() - start

    if clip and clip.count and len(done) < clip.count and not problems:
        missing = f'{flags.indir}: only {len(done)} of its {clip.count} frames can be decoded'
        command_line.warn(missing)
        if len(done) < 0.95 * clip.count - 1:   # headers are a few frames wrong now and then
            problems.append(missing)
    scattered = sum(photo.scattered for photo in done)
    if scattered:
        command_line.warn(f'the embedding of {scattered} of {len(done)} pictures is scattered, which is taken for '
                          f'background alone: train {flags.modeldir} for longer, or give a --bandwidth above '
                          f'{flags.bandwidth or conventions.bandwidth:g}')
    if done:
        if flags.json:
            tusimple.write_records(flags.json, to_records(done, bool(clip)), follow_links=True)
        print_results(done, seconds, flags, output, conventions.kind == 'road')
        if flags.writes_pictures:
            warn_of_other_results(done, flags.outdir)
    return 1 if problems else 0


if __name__ == '__main__':
    command_line.run(main)
