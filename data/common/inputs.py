"""From --indir to images: folders, images, videos, streams and TuSimple JSONs, grouped by the folder of the results."""
import collections
import dataclasses
import os
import pathlib
import typing

import numpy as np

from data.common import command_line, pictures, stream, video
from data.common.command_line import InputError
from data.lanes import tusimple


@dataclasses.dataclass
class Photo:
    """An input image, from its file to its results."""
    number: int                    # NNNN of its outputs
    raw_file: str                  # its name in the JSON
    path: str
    h_samples: list = None         # y of lane points, px; None: TuSimple's rows, scaled to the image's height
    image: np.ndarray = None       # uint8 [h, w, 3] RGB
    given_foreground: np.ndarray = None   # uint8 [h, w], 1 where --foreground marks foreground
    embedding: np.ndarray = None   # float32 [h', w', feature_dim], at the network's size
    probability: np.ndarray = None  # float32 [h', w'], of the foreground, from models with a foreground head
    scores: np.ndarray = None      # float32 [h', w', 1 + classes], see utils.build_model, from models with classes
    ids: np.ndarray = None         # int [h', w'], the clusters: 0 background, instances 1, 2, ...
    # int [number of instances + 1]: the id under which each is shown, by position, size or track; 0: not shown
    shown: np.ndarray = None
    classes: np.ndarray = None     # int [ids shown + 1], the class of each shown id, from models with classes
    lanes: list = None             # [num_lanes][len(h_samples)] x in px, negative where absent
    confidences: list = None       # 0 to 1, one per lane or instance found
    found_classes: list = None     # str, their classes
    track_ids: list = None         # int from 1, their track ids, in videos of lanes
    results: list = None           # of dict, instances in COCO's results format, see segmentations.results
    scattered: bool = False        # see clustering.is_scattered
    picture: np.ndarray = None     # uint8 [h, w, 3] RGB, the frame of the output video
    error: InputError = None       # why the image could not be read; the fields above then keep their defaults
    times: dict = dataclasses.field(default_factory=collections.Counter)   # {'network', 'clustering', 'lanes': ms}

    @property
    def numbers(self):
        """The ids under which the lanes or instances are shown, in the order of the confidences."""
        return range(1, len(self.confidences) + 1) if self.track_ids is None else self.track_ids


class Job(typing.NamedTuple):
    """Images, or the frames of a video, whose results are numbered in one folder."""
    folder: str
    photos: list           # of Photo; for a video, its first frame
    video: str = None      # path of the video, or a stream
    result: str = None     # path of the output MP4


# ---- Finding ---------------------------------------------------------------------------------------------------------

def find_jobs(paths, outdir, recursive):
    """Finds the inputs of --indir. -> (list of Job, lines about unusable ones)

    Results go to outdir, those of subfolders to its subfolders of the same names. Raises InputError if there is no
    image, if two videos would have the same result, or if a stream is not the only input.
    """
    for source in filter(stream.is_stream, paths):
        name, file_name = stream.names(source)
        if len(paths) > 1:
            raise InputError(f'{name}: a stream has no end; give no other input')
        return [Job(outdir, [frame(name, name, 0)], source, os.path.join(outdir, file_name + '.mp4'))], []
    groups, videos, problems = collections.defaultdict(list), {}, []
    for path in paths:
        for file, subfolder in _walk(path, outdir, recursive):
            folder = os.path.normpath(os.path.join(outdir, subfolder))
            name = file if len(paths) > 1 else os.path.normpath(os.path.join(subfolder, os.path.basename(file)))
            name = name.replace(os.sep, '/')
            if file.lower().endswith(video.EXTENSIONS):
                result = os.path.join(folder, pathlib.Path(file).stem + '.mp4')
                if result in videos:
                    raise InputError(f'{file} and {videos[result].video} would both become {result}')
                videos[result] = Job(folder, [frame(name, file, 0)], file, result)
            elif file.lower().endswith('.json'):
                problems += _read_task(file, groups[folder])
            else:
                groups[folder].append(Photo(len(groups[folder]), name, file))
    for result, job in list(videos.items()):
        try:
            video.read_video(job.video)
        except InputError as error:
            problems.append(str(error))
            del videos[result]
    jobs = [Job(folder, photos) for folder, photos in groups.items() if photos]
    if not jobs and not videos:
        raise InputError(problems[0] if problems else f'{paths[0]}: lists no images')
    if jobs or len(videos) > 1:   # every video numbers its own frames
        videos = {result: job._replace(folder=result.removesuffix('.mp4')) for result, job in videos.items()}
    return jobs + list(videos.values()), problems


def _walk(path, outdir, recursive):
    """Yields (path of an image or video, folder relative to `path`). Raises InputError if a folder has none."""
    if not os.path.isdir(path):
        if not os.path.lexists(path):
            raise InputError(f'{path}: no such file or folder')
        yield path, ''
        return
    found, skipped = False, []
    os.listdir(path)   # fails where os.walk ignores errors
    for folder, subfolders, names in os.walk(path):
        for name in sorted(names):
            if name.lower().endswith((*pictures.IMAGE_EXTENSIONS, *video.EXTENSIONS)):
                found = True
                yield os.path.join(folder, name), os.path.relpath(folder, path)
            elif not name.startswith('.'):
                skipped.append(name)
        if not recursive:
            skipped += [name + os.sep for name in sorted(subfolders) if not name.startswith('.')]
            break
        subfolders[:] = sorted(name for name in subfolders if not name.startswith('.') and
                               os.path.realpath(os.path.join(folder, name)) != os.path.realpath(outdir))
    if not found:
        raise InputError(f'{path}: holds no images or videos')
    if skipped:
        command_line.warn(f'{path}: skipped {len(skipped)} files and folders, neither images nor videos '
                          f'({", ".join(skipped[:3])}{", ..." * (len(skipped) > 3)})')


def _read_task(json_path, photos):
    """Appends the images that a TuSimple JSON lists. -> lines about unusable entries"""
    records, problems = tusimple.read_records(json_path, need_lanes=False)
    for record in records:
        try:
            path = tusimple.photo_path(os.path.dirname(json_path), record)
            photos.append(Photo(len(photos), record.raw_file, path, record.h_samples))
        except InputError as error:
            problems.append(str(error))
    return problems


# ---- Reading ---------------------------------------------------------------------------------------------------------

def frame(name, path, number, **kwargs):
    """-> Photo of a video frame. name: of the video, in the JSON"""
    return Photo(number, f'{name}/{number:04d}', f'{path}/{number:04d}', **kwargs)


def read_frames(job, clip):
    """-> iterator of Photo, one per frame; if the video cannot be read to its end, the last one has an error"""
    name, path = (os.path.dirname(each) for each in (job.photos[0].raw_file, job.photos[0].path))
    number = -1
    try:
        for number, image in enumerate(clip.frames):
            yield frame(name, path, number, image=image)
    except InputError as error:
        yield frame(name, path, number + 1, error=error)


def read_photo(photo, masks=None):
    """Sets photo.image and photo.given_foreground, or photo.error if unreadable. masks: {stem of a name: path}"""
    try:
        if photo.image is None:   # frames are decoded already
            photo.image = pictures.read_image(photo.path)
        if masks is not None:
            if pathlib.Path(photo.path).stem not in masks:
                raise InputError(f'{photo.path}: --foreground has no mask of that name')
            label = pictures.read_label(masks[pathlib.Path(photo.path).stem])
            photo.given_foreground = pictures.resize_label((label > 0).astype(np.uint8), photo.image.shape[1::-1])
    except InputError as error:
        photo.error = error
