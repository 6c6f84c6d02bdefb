"""Colours the lanes of road photos, each lane its own colour.

    python inference.py                                        the shipped model on the shipped photos
    python inference.py --indir photos --outdir results        a folder of your own
    python inference.py --indir drive.mp4 --draw-lanes         every frame of a video
    python inference.py --indir test_tasks_0627.json --json predictions.json --no-pictures
    python inference.py --export lanes/1                       the network alone, for TensorFlow Serving and others

Each photo becomes cluster_NNNN.png, the photo at its own size with every instance coloured and the largest
cluster (the background) left as it is. NNNN counts from 0000 through the inputs as sorted by name, as listed
in the JSON by lines that can be used, or frame by frame. A photo that cannot be used is named and its number left
out, the others are done, and the exit status is 1.
"""

import concurrent.futures
import contextlib
import dataclasses
import itertools
import os
import re
import shutil
import time

# Before OpenCV is imported: a broken video is for our error line to tell, not for FFmpeg's.
os.environ.setdefault('OPENCV_FFMPEG_LOGLEVEL', '-8')

from data import command_line

if __name__ == '__main__':
    command_line.exit_on_interrupt()   # the imports below take half a second

import cv2
import numpy as np
import tqdm

import clustering
import visualization
from data import files, prefetch, quiet, tusimple, tusimple_lanes
from data.command_line import InputError

HERE = os.path.dirname(os.path.abspath(__file__))
VIDEO_EXTENSIONS = ('.avi', '.mov', '.mp4')
CALLERS = 2   # of the network at a time: what one leaves of the cores between its operations, the other takes
OUTPUT_NAME = re.compile(r'(cluster|mask|scatter|embedding)_\d{4,}\.png')


@dataclasses.dataclass
class Photo:
    """What is known of one photo on its way from file to pictures. Times in ms."""
    number: int                    # NNNN of its outputs
    raw_file: str                  # its name in the JSON
    path: str                      # its name in messages, and where it is read from
    h_samples: list = None         # y in px of lane points; None: tusimple's, scaled to the photo's height
    image: np.ndarray = None       # uint8 [h, w, 3]; None when done
    embedding: np.ndarray = None   # float32 [h', w', feature_dim]; None when done
    scattered: bool = False        # see clustering.is_scattered
    lanes: list = None             # [num_lanes][len(h_samples)] x in px
    network_ms: float = None
    clustering_ms: float = None
    lanes_ms: float = None
    error: InputError = None       # why the photo could not be used; then nothing else is set


def parse_flags(argv):
    def beside_script(path):   # the defaults work from any folder
        return os.path.relpath(os.path.join(HERE, path))

    parser = command_line.Parser(description=__doc__)
    files = parser.add_argument_group('files')
    files.add_argument('-m', '--modeldir', default=beside_script('trained_model'),
                       help='Folder of the checkpoint to use.')
    files.add_argument('-i', '--indir', default=beside_script('inference_test/images'),
                       help='Folder of photos (jpg, jpeg, png, bmp), one photo, a video (mp4, avi, mov), or '
                            'a TuSimple JSON whose raw_file are relative to its own folder.')
    files.add_argument('-o', '--outdir', default=beside_script('inference_test/results'),
                       help='Folder for the pictures; created if it does not exist.')
    files.add_argument('--json', metavar='FILE',
                       help='Write the lanes in the format of the TuSimple benchmark, one line a photo: '
                            'raw_file, lanes, h_samples, and run_time in ms (network + clustering + lanes).')
    files.add_argument('--export', metavar='DIR',
                       help='Write the network as a SavedModel into a new folder, for TensorFlow Serving, '
                            'tf.saved_model.load and converters, and do nothing else: no photo is looked at. Its '
                            'signature serving_default takes `image`, float32 [b, h, w, 3], RGB 0..255, any multiples '
                            'of 8 in size, and gives `embedding`, float32 [b, h, w, feature_dim]. The folder holds '
                            'conventions.json as well.')
    clusters = parser.add_argument_group('clustering')
    clusters.add_argument('--bandwidth', type=command_line.bandwidth,
                          help='Bandwidth of mean shift in embedding space (default: that of the model).')
    pictures = parser.add_argument_group('pictures')
    pictures.add_argument('--draw-lanes', action='store_true',
                          help='Draw the lane lines into cluster_NNNN.png.')
    pictures.add_argument('--masks', action='store_true',
                          help='Write mask_NNNN.png, the instance ids at the size of the photo: 0 '
                               'background, 1, 2, ... from left to right; 8 bits, 16 for over 255 instances.')
    pictures.add_argument('--scatter', action='store_true',
                          help='Write the embedding: scatter_NNNN.png, its pixels as points coloured by '
                               'instance, and embedding_NNNN.png, its first three dimensions as colours.')
    pictures.add_argument('--no-pictures', action='store_true', help='Do not write cluster_NNNN.png.')
    speed = parser.add_argument_group('speed')
    speed.add_argument('--workers', type=command_line.non_negative_int,
                       help='Threads that cluster and write while the network is at the next two photos; 0 does '
                            'one thing after the other, so that the times are of an undisturbed machine, and is the '
                            'default with --json, which records them; otherwise as many as there are cores, up to 8.')
    flags = parser.parse_args(argv)
    if flags.workers is None:
        flags.workers = 0 if flags.json else min(os.cpu_count() or 1, 8)
    for name in ('json', 'export'):
        if getattr(flags, name) == '':
            parser.error(f'argument --{name}: is empty; give a name')
    if flags.export:
        for name in ('json', 'bandwidth', 'draw_lanes', 'masks', 'scatter', 'no_pictures'):
            if getattr(flags, name) != parser.get_default(name):
                parser.error(f'argument --{name.replace("_", "-")}: is about photos, and --export looks at none')
    if flags.no_pictures and not (flags.json or flags.masks or flags.scatter):
        parser.error('--no-pictures leaves nothing to do: ask for --json, --masks or --scatter')
    if flags.no_pictures and flags.draw_lanes:
        parser.error('--draw-lanes draws into the pictures that --no-pictures leaves out: give one of them')
    return flags


# ---- Inputs ------------------------------------------------------------------------------------------------

def find_photos(indir):
    """The photos that --indir stands for: (photos, how many or None, problems).

    photos is an iterable of Photo, without their images; for a video it has no end. problems: a line each for
    what in a TuSimple JSON cannot be used. Raises InputError where there is nothing at all.
    """
    extension = os.path.splitext(indir)[1].lower()
    if os.path.isdir(indir):
        paths = files.list_images(indir)
        photos = [Photo(number, os.path.basename(path), path) for number, path in enumerate(paths)]
        return photos, len(photos), []
    try:
        os.stat(indir)
    except FileNotFoundError:
        raise InputError(f'{indir}: no such file or folder')
    if extension == '.json':
        photos, problems = _listed_photos(indir)
        return photos, len(photos), problems
    name = os.path.basename(indir)
    if extension in VIDEO_EXTENSIONS:
        return (Photo(number, f'{name}/{number:04d}', indir) for number in itertools.count()), None, []
    return [Photo(0, name, indir)], 1, []


def _listed_photos(json_path):
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


def open_video(path):
    """(a function from Photo to Photo that reads frame after frame, the number of frames or None).

    After the last frame the function returns None. Raises InputError if not even one frame can be read.
    """
    capture = cv2.VideoCapture(path)
    found, first = capture.read()
    if not found:
        raise InputError(f'{path}: is no video, or a damaged one: no frame of it can be decoded')
    count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    frames = itertools.chain([(found, first)], iter(capture.read, None))

    def read(photo):
        found, frame = next(frames)
        if not found:
            return None
        photo.image = cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        return photo

    return read, count if count > 0 else None


def read_photo(photo):
    """Reads a photo's image, or notes why it cannot be."""
    try:
        photo.image = files.read_image(photo.path)
    except InputError as error:
        photo.error = error
    return photo


def check_outputs(flags, photos, count):
    """Makes the output folders, proves them writable, and sees that no output would replace an input."""
    if flags.json:
        files.check_output_file('--json', flags.json)
        if os.path.exists(flags.json) and os.path.samefile(flags.json, flags.indir):
            raise InputError(f'--json {flags.json}: is the input itself; give another name')
        written = os.path.realpath(flags.json)
        for photo in photos if count is not None else ():
            if os.path.realpath(photo.path) == written:
                raise InputError(f'--json {flags.json}: is one of the photos; give another name')
    if flags.no_pictures and not flags.masks and not flags.scatter:
        return
    files.make_output_folder(flags.outdir)
    for photo in photos if count is not None else ():
        folder, name = os.path.split(photo.path)
        if OUTPUT_NAME.fullmatch(name) and os.path.realpath(folder) == os.path.realpath(flags.outdir):
            raise InputError(f'{photo.path}: is an input that results would replace; give another --outdir')


# ---- The network -------------------------------------------------------------------------------------------

def rebuild_graph(sess, checkpoint_dir, input_image, batch_size, feature_dim):
    """Builds the network for inference in sess.graph and restores its weights.

    input_image: placeholder [b, h, w, 3], raw RGB 0..255; h and w multiples of 8
    batch_size: not used, any batch does; feature_dim: of the checkpoint
    Returns the embedding, float32 [b, h, w, feature_dim]. Raises InputError if the checkpoint cannot be used.
    """
    import tensorflow.compat.v1 as tf   # not at the top: seconds that --help need not wait for
    import utils
    conventions = utils.read_conventions(checkpoint_dir)
    if feature_dim != conventions.feature_dim:
        raise InputError(f'{checkpoint_dir}: its embedding has {conventions.feature_dim} dimensions, '
                         f'not {feature_dim}')
    check_head(checkpoint_dir, conventions)
    with sess.graph.as_default():
        embedding = utils.build_model(input_image, conventions)
        variables = [v for scope in ('ENet/', f'{conventions.head}/') for v in tf.global_variables(scope=scope)]
        utils.restore(sess, utils.find_checkpoint(checkpoint_dir), variables)
    return embedding


def check_head(checkpoint_dir, conventions):
    """Raises InputError unless the model gives an embedding."""
    if conventions.head != 'Instance':
        raise InputError(f'{checkpoint_dir}: is a semantic model, which tells lane from road but not lane from '
                         'lane; train on from it')


def build_network(checkpoint_dir, input_image):
    """`rebuild_graph` in the default graph, with the weights as constants: what inference and export run."""
    import utils
    conventions = utils.read_conventions(checkpoint_dir)
    check_head(checkpoint_dir, conventions)
    with utils.constant_weights(utils.find_checkpoint(checkpoint_dir)):
        return utils.build_model(input_image, conventions)


class Network:
    """The default graph from image to embedding as a function of arrays, until it is closed."""

    def __init__(self, image, embedding):
        import tensorflow.compat.v1 as tf
        self._image, self._embedding = image, embedding
        self._sess = tf.Session()

    def __call__(self, images):
        return self._sess.run(self._embedding, {self._image: images})

    def close(self):
        self._sess.close()


def load_network(checkpoint_dir):
    """(network, conventions): a function from uint8 [b, h, w, 3] to float32 [b, h, w, feature_dim]."""
    import tensorflow.compat.v1 as tf
    import enet
    import utils
    conventions = utils.read_conventions(checkpoint_dir)
    width, height = conventions.image_size
    # On a GPU, XLA may need what is not installed.
    loops = contextlib.nullcontext() if tf.config.list_physical_devices('GPU') else enet.loops()
    with tf.Graph().as_default(), loops:
        image = tf.placeholder(tf.uint8, [None, height, width, 3], name='image')
        return Network(image, build_network(checkpoint_dir, image)), conventions


# ---- The exported model ------------------------------------------------------------------------------------

def check_export(export_dir):
    """Raises InputError unless export_dir is new or empty; makes its parents, and proves that files can go there."""
    folder = os.path.realpath(export_dir)
    if os.path.lexists(folder) and not (os.path.isdir(folder) and not os.listdir(folder)):
        raise InputError(f'--export {export_dir}: is there already; give the name of a new folder')
    files.make_output_folder(os.path.dirname(folder))


def export_model(checkpoint_dir, export_dir):
    """Writes the network of checkpoint_dir and its conventions as a SavedModel; export_dir appears whole or not at all.

    Returns (its signature, lines for people; the conventions). Raises InputError where either folder cannot be used.
    """
    import tensorflow.compat.v1 as tf
    import utils
    conventions = utils.read_conventions(checkpoint_dir)
    folder = os.path.realpath(export_dir)
    aside = os.path.join(os.path.dirname(folder), f'.{os.path.basename(folder)}.tmp')
    shutil.rmtree(aside, ignore_errors=True)   # of a run that was killed
    try:
        with tf.Graph().as_default(), tf.Session() as sess:
            # One type, as a graph has to have: what tf.image.resize gives, and NumPy's bytes are converted to it.
            image = tf.placeholder(tf.float32, [None, None, None, 3], name='image')
            signature = utils.save_for_serving(sess, image, build_network(checkpoint_dir, image), aside)
        utils.write_conventions(aside, conventions)
        try:
            os.replace(aside, folder)   # in the place of an empty folder, too
        except OSError as error:
            raise InputError(f'--export {export_dir}: cannot be written: {error.strerror}')
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return signature, conventions


# ---- The frame ---------------------------------------------------------------------------------------------

def run_pipeline(photos, read, embed, finish, num_readers, num_workers):
    """Takes each photo through read, embed and finish, and yields it, in order.

    Each stage has threads of its own and is a few photos ahead of the next. At any time a bounded number of
    photos is under way. An exception of any stage is raised here, when that photo's turn has come. photos ends
    where read returns None. With num_workers 0 all runs in the calling thread, one after the other.
    """
    def until_none(items):
        return itertools.takewhile(lambda item: item is not None, items)

    if num_workers == 0:
        yield from map(finish, map(embed, until_none(map(read, photos))))
        return
    with (concurrent.futures.ThreadPoolExecutor(num_readers) as readers,
          concurrent.futures.ThreadPoolExecutor(CALLERS) as callers,
          concurrent.futures.ThreadPoolExecutor(num_workers) as workers):
        ready = until_none(prefetch.in_order(readers, read, photos, num_readers + 1))
        embedded = prefetch.in_order(callers, embed, ready, CALLERS + 1)
        yield from prefetch.in_order(workers, finish, embedded, num_workers + 1)


def embed_photo(photo, network, image_size):
    """Runs the network on a photo."""
    if photo.error is None:
        batch = files.resize_image(photo.image, image_size)[np.newaxis]
        start = time.perf_counter()
        photo.embedding = network(batch)[0]
        photo.network_ms = 1000 * (time.perf_counter() - start)
    return photo


def finish_photo(photo, bandwidth, margins, flags):
    """From a photo's embedding to its instances, lanes and pictures; then lets go of its arrays."""
    if photo.error is not None:
        return photo
    if not np.isfinite(photo.embedding).all():
        raise InputError(f'{flags.modeldir}: the model gives NaN or infinity on {photo.path}; '
                         'its training has diverged')
    height, width = photo.image.shape[:2]
    if photo.h_samples is None:
        photo.h_samples = np.unique(np.multiply(tusimple.H_SAMPLES, height) // 720).tolist()

    start = time.perf_counter()
    ids = clustering.instance_ids(photo.embedding, bandwidth, margins)
    clustered = time.perf_counter()
    photo.lanes = tusimple_lanes.lanes(ids, (width, height), photo.h_samples)
    done = time.perf_counter()
    photo.scattered = not ids.any() and clustering.is_scattered(photo.embedding, bandwidth)
    photo.clustering_ms, photo.lanes_ms = 1000 * (clustered - start), 1000 * (done - clustered)

    write_pictures(photo, ids, flags)
    photo.image = photo.embedding = None
    return photo


def write_pictures(photo, ids, flags):
    """Writes what the flags ask for, of one photo."""
    def write(kind, picture):
        files.write_image(os.path.join(flags.outdir, f'{kind}_{photo.number:04d}.png'), picture)

    if not flags.no_pictures:
        picture = visualization.draw_instances(photo.image, ids)
        if flags.draw_lanes:
            picture = visualization.draw_lanes(picture, photo.lanes, photo.h_samples, ids)
        write('cluster', picture)
    if flags.masks:
        ids_type = np.uint8 if ids.max(initial=0) <= 255 else np.uint16
        write('mask', files.resize_label(ids.astype(ids_type), photo.image.shape[1::-1]))
    if flags.scatter:
        name = command_line.printable(photo.raw_file).replace('$', r'\$')   # not matplotlib's mathematics
        title = f'{name}: {ids.max()} instances'
        write('scatter', visualization.scatter_plot(photo.embedding, ids, title))
        write('embedding', visualization.embedding_as_colours(photo.embedding))


def save_image_with_features_as_color(pred, output_dir='.'):
    """Writes embedding_NNNN.png into output_dir: the first three dimensions of each embedding as colours.

    pred: float [b, h, w, feature_dim]; each dimension of each embedding is scaled to 0..255 by itself
    Returns the list of pictures, uint8 [h, w, 3].
    """
    pictures = [visualization.embedding_as_colours(embedding) for embedding in pred]
    for number, picture in enumerate(pictures):
        files.write_image(os.path.join(output_dir, f'embedding_{number:04d}.png'), picture)
    return pictures


def write_lanes(path, photos):
    """Writes what --json asks for."""
    tusimple.write_records(path, [tusimple.Record(photo.raw_file, np.round(photo.lanes, 2).tolist(), photo.h_samples,
                                                  run_time=round(run_time(photo), 3)) for photo in photos])


# ---- The script --------------------------------------------------------------------------------------------

def print_results(photos, seconds, flags):
    """What became of each photo, where they are few, the closing table, and where the results lie."""
    times = {'network': [photo.network_ms for photo in photos],
             'clustering': [photo.clustering_ms for photo in photos],
             'lanes': [photo.lanes_ms for photo in photos],
             'total': [run_time(photo) for photo in photos]}
    num_lanes = sum(len(photo.lanes) for photo in photos)
    if not flags.no_pictures:
        for photo in photos if len(photos) <= 20 else ():
            print(f'cluster_{photo.number:04d}.png  {len(photo.lanes)} lanes  {command_line.printable(photo.raw_file)}')
    print(f'{"ms a picture":<14}{"median":>8}{"mean":>8}')
    for name, values in times.items():
        print(f'{name:<14}{np.median(values):8.1f}{np.mean(values):8.1f}')
    print(f'{len(photos):,} pictures, {num_lanes:,} lanes found, '
          f'{len(photos) / seconds:.1f} frames per second with reading and writing')
    if not flags.no_pictures or flags.masks or flags.scatter:
        print(f'pictures 0000 to {photos[-1].number:04d}: {flags.outdir}')
    if flags.json:
        print(f'lanes: {flags.json}')


def warn_of_other_results(photos, flags):
    """Says which pictures in --outdir are not of these photos."""
    if flags.no_pictures and not flags.masks and not flags.scatter:
        return
    numbers = {photo.number for photo in photos}
    command_line.warn_of_others(flags.outdir, [name for name in os.listdir(flags.outdir) if OUTPUT_NAME.fullmatch(name)
                                               and int(re.search(r'\d+', name).group()) not in numbers])


def run_time(photo):
    """ms from pixels to lanes."""
    return photo.network_ms + photo.clustering_ms + photo.lanes_ms


def export(flags):
    """All that --export asks for."""
    check_export(flags.export)
    quiet.import_tensorflow()
    signature, conventions = export_model(flags.modeldir, flags.export)
    print(f'{flags.export}: SavedModel of {flags.modeldir}, signature serving_default')
    for line in signature:
        print(f'  {line}')
    if conventions.batch_statistics or conventions.dropout_at_inference:
        print('as models of 2018 do, it normalises by the batch\'s own statistics, or drops channels: the result of a '
              'photo depends on the others in its batch')
    print('image is RGB 0..255, of any multiples of 8 in size; the model was trained at {}x{}'.format(
        *conventions.image_size))
    return 0


def main(argv=None):
    flags = parse_flags(argv)
    if flags.export:
        return export(flags)
    photos, count, problems = find_photos(flags.indir)
    is_video = count is None
    read, count = open_video(flags.indir) if is_video else (read_photo, count)
    check_outputs(flags, photos, None if is_video else count)
    for problem in problems:
        command_line.warn(problem)

    quiet.import_tensorflow()   # seconds: only now that flags and photos were found right
    network, conventions = load_network(flags.modeldir)
    width, height = conventions.image_size
    bandwidth = flags.bandwidth or conventions.bandwidth
    margins = conventions.delta_v, conventions.delta_d
    network(np.zeros([1, height, width, 3], np.uint8))   # the first call plans the graph; the next are timed

    start = time.perf_counter()
    done = []
    # A video has to be decoded frame after frame, by one thread.
    results = run_pipeline(photos, read, lambda photo: embed_photo(photo, network, (width, height)),
                           lambda photo: finish_photo(photo, bandwidth, margins, flags),
                           1 if is_video else 2, flags.workers)
    try:
        with tqdm.tqdm(total=count, unit='photo', disable=None, leave=False) as bar:
            for photo in results:
                if photo.error is None:
                    done.append(photo)
                else:
                    with bar.external_write_mode():
                        command_line.warn(photo.error)
                    problems.append(photo.error)
                bar.update()
    except BaseException:   # Ctrl-C as well
        if flags.json and done and (os.path.isfile(flags.json) or not os.path.exists(flags.json)):
            part = f'{flags.json}.part'   # an earlier run's lanes, all of them, may be in the file itself
            try:
                write_lanes(part, done)
                command_line.warn(f'{part}: holds the lanes of the {len(done)} pictures that were done')
            except InputError as error:
                command_line.warn(error)
        raise
    seconds = time.perf_counter() - start
    network.close()

    if is_video and count and len(done) < count:
        missing = f'{flags.indir}: only {len(done)} of its {count} frames can be decoded'
        command_line.warn(missing)
        if len(done) < 0.95 * count - 1:   # headers are a few frames wrong now and then
            problems.append(missing)
    scattered = sum(photo.scattered for photo in done)
    if scattered:
        command_line.warn(f'the embedding of {scattered} of {len(done)} pictures is scattered, which is taken for '
                          f'background alone: train {flags.modeldir} for longer, or give a --bandwidth above '
                          f'{bandwidth:g}')
    if done:
        if flags.json:
            write_lanes(flags.json, done)
        print_results(done, seconds, flags)
        warn_of_other_results(done, flags)
    return 1 if problems else 0


if __name__ == '__main__':
    command_line.run(main)
