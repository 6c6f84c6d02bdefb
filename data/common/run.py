"""What a training run starts from: its processes, its images, its settings, its folders. Does not import TensorFlow."""
import contextlib
import dataclasses
import glob
import json
import os
import signal
import threading
import zlib

from data.common import classes, command_line, settings
from data.common.command_line import InputError
from data.lanes import tusimple

try:
    import fcntl
except ImportError:   # Windows, where nothing guards an --outdir against a second run
    fcntl = None

DEFAULT_MODELDIR = 'pretrained_semantic_model'
RESUME = 'resume'   # folder of training states in --outdir


def read_tf_config(text):
    """-> (['host:port'] of chief and workers, index of this process in it), or ([], 0) without a cluster

    text: value of the environment variable TF_CONFIG. Raises InputError.
    """
    if not text:
        return [], 0
    try:
        config = json.loads(text)
        jobs, job, index = config['cluster'], config['task']['type'], config['task']['index']
        chiefs, workers = jobs['chief'], jobs.get('worker', [])
        sound = len(chiefs) == 1 and {'chief', 'worker'} >= jobs.keys() and 0 <= index < len(jobs[job]) and all(
            isinstance(address, str) and ':' in address for address in [*chiefs, *workers])
    except (ValueError, TypeError, LookupError, AttributeError):
        sound = False
    if not sound:
        raise InputError('TF_CONFIG: is not {"cluster": {"chief": ["host:port"], "worker": ["host:port", ...]}, '
                         '"task": {"type": "chief" or "worker", "index": ...}}; there is no ps: the chief holds the '
                         'variables')
    return [*chiefs, *workers], index + (job == 'worker')


def lane_records(folder, image_paths):
    """The lanes of images from folder/lanes.json. -> list of tusimple.Record, or None if any is missing

    Their raw_file is the path of the image, which is unique across folders.
    """
    path = os.path.join(folder, tusimple.PREPARED_LABELS)
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
    return [dataclasses.replace(record, raw_file=image_path) for record, image_path in zip(chosen, image_paths)]


def fingerprint(sources, has_records):
    """Identifies the images of a run, wherever their folders are. sources: list of datagenerator.Source.

    -> (number of training images, number of validation images, checksum of their names and sizes and of the shares,
    whether there is an official score)
    """
    paths = [path for source in sources for path in [*source.train[0], *source.valid[0]]]
    lines = [f'{os.path.basename(path)} {os.path.getsize(path)}' for path in paths]
    if len(sources) > 1:
        lines += [f'{source.share:g}' for source in sources]
    count = sum(len(source.train[0]) for source in sources)
    return count, len(paths) - count, zlib.crc32(os.fsencode('\n'.join(lines))), has_records


def resolve_settings(flags, folders, photos, replicas):
    """The Settings of the run that the flags request: a new run, or the one in --outdir.

    folders: of the images. photos: from `fingerprint`.
    -> (Settings, with the batch size of all `replicas` processes together; folder of the checkpoint to start from, or
    None; whether to resume from it). Raises InputError.
    """
    chosen = {**settings.given(flags), 'photos': photos}
    if 'batch_size' in chosen:
        chosen['batch_size'] *= replicas
    if chosen.get('head') != 'Semantic':
        chosen.update(find_classes(flags.classes_file, folders))
    elif flags.classes_file:
        raise InputError('--classes: cannot be combined with --semantic, which trains no instances')
    states = os.path.join(flags.outdir, RESUME)
    if has_checkpoint(states) and not flags.fresh:
        before = settings.read(states)
        if not before:
            raise InputError(f'{states}: has no {settings.CONVENTIONS_FILE}, so the run cannot resume; --fresh starts '
                             'over')
        run = settings.resume({'head': 'Instance', **chosen}, before, flags.outdir)
        if run.batch_size % replicas:
            raise InputError(f'{flags.outdir}: {run.batch_size} images per step are not divisible by {replicas} '
                             'processes')
        return run, states, True
    source = find_source(flags.outdir, chosen.get('modeldir'), flags.fresh)
    recipe = settings.RECIPES[chosen.setdefault('recipe', '2018')]
    with_lanes = all(os.path.exists(os.path.join(folder, tusimple.PREPARED_LABELS)) for folder in folders)
    chosen.setdefault('kind', recipe.get('kind', 'road' if with_lanes else 'any'))
    run, inherited = settings.start(chosen, source and (settings.read(source) or settings.OF_2018))
    if 'batch_size' not in chosen:
        run = dataclasses.replace(run, batch_size=run.batch_size * replicas)
    if inherited:
        print(f'inherited from {source}: {settings.as_flags(inherited)}', flush=True)
    return run, source, False


def find_classes(class_file, folders):
    """-> {'classes': the names in class_file, by default in the folders' classes.FILE} or {}. Raises InputError."""
    paths = [os.path.join(folder, classes.FILE) for folder in folders]
    paths = [class_file] if class_file else list(filter(os.path.exists, paths))
    names = {classes.read(path) for path in paths}
    if len(names) > 1:
        raise InputError(f'{paths[0]}: differs from {", ".join(paths[1:])}; give --classes')
    return {'classes': names.pop()} if names else {}


def find_source(outdir, modeldir, fresh):
    """-> folder of the checkpoint that a new run starts from, or None to start from scratch. Raises InputError."""
    if has_checkpoint(outdir) and not fresh:
        raise InputError(f'{outdir}: holds a model but no run to resume; choose another --outdir, or --fresh to '
                         'replace it')
    source = modeldir or DEFAULT_MODELDIR
    is_outdir = os.path.realpath(source) == os.path.realpath(outdir)
    if modeldir and is_outdir:
        raise InputError(f'{outdir}: is both --modeldir and --outdir; choose another --outdir')
    if modeldir and not has_checkpoint(modeldir):
        raise InputError(f'{modeldir}: holds no checkpoint; give --modeldir one that does')
    return source if has_checkpoint(source) and not is_outdir else None


def has_checkpoint(folder):
    return bool(glob.glob(os.path.join(glob.escape(folder), '*.index')))


@contextlib.contextmanager
def lock_folder(folder):
    """While active, no other run can use the folder; the system unlocks it when the process ends. Raises InputError."""
    descriptor = os.open(folder, os.O_RDONLY) if fcntl else None
    try:
        if fcntl:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise InputError(f'{folder}: is in use by another run; wait for it to finish or choose another --outdir')
    finally:
        if fcntl:
            os.close(descriptor)


class StopSignal(threading.Event):
    """While active, the first SIGTERM or Ctrl-C only sets this event; the next one ends the process at once."""

    def __enter__(self):
        self._handlers = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def _note(self, number, frame):
        self.number = number
        self.set()
        for each in self._handlers:
            signal.signal(each, signal.SIG_DFL)

    def __exit__(self, *_):
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
