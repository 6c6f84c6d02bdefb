"""The photos that a path stands for: a folder, a photo, a video's frames or the lines of a TuSimple JSON."""
import collections
import dataclasses
import itertools
import os

import numpy as np

from data.common import pictures, video
from data.common.command_line import InputError
from data.lanes import tusimple


@dataclasses.dataclass
class Photo:
    """A photo on its way from file to pictures."""
    number: int                    # NNNN of its outputs
    raw_file: str                  # its name in the JSON
    path: str
    h_samples: list = None         # y of lane points, px; None: TuSimple's rows, scaled to the photo's height
    image: np.ndarray = None       # uint8 [h, w, 3] RGB
    given: np.ndarray = None       # bool [h, w], the foreground of --foreground
    embedding: np.ndarray = None   # float32 [h', w', feature_dim], at the size of the network
    foreground: np.ndarray = None  # float32 [h', w'], foreground probability, from models with a foreground head
    scores: np.ndarray = None      # float32 [h', w', 1 + classes], see utils.join_heads, from models with classes
    ids: np.ndarray = None         # int [h', w']: 0 background, instances from left to right, by size or by track
    lanes: list = None             # [num_lanes][len(h_samples)] x in px, negative where absent
    confidences: list = None       # [num_lanes] 0 to 1
    lane_ids: list = None          # [num_lanes] int, from 1: the instance under the lane; in a video its track
    classes: np.ndarray = None     # int [numbers + 1], the class of each of ids, from models with classes
    found_classes: list = None     # [num_found] str, the classes of what was found
    num_found: int = 0             # lanes, or other instances
    scattered: bool = False        # see clustering.is_scattered
    picture: np.ndarray = None     # uint8 [h, w, 3] RGB, the frame of the output video
    error: InputError = None       # why the photo could not be read; the fields above then keep their defaults
    times: dict = dataclasses.field(default_factory=collections.Counter)   # {'network', 'clustering', 'lanes': ms}


def find_photos(indir):
    """-> (list of Photo, or iterator of those of a video; a line for each unusable entry of a JSON; video.Clip or None)

    Raises InputError if there is no photo.
    """
    if not os.path.lexists(indir):
        raise InputError(f'{indir}: no such file or folder')
    if indir.lower().endswith('.json'):
        return *_read_task(indir), None
    if indir.lower().endswith(video.EXTENSIONS):
        clip = video.read_video(indir)
        return _read_frames(clip, indir), [], clip
    paths = pictures.list_images(indir) if os.path.isdir(indir) else [indir]
    return [Photo(number, os.path.basename(path), path) for number, path in enumerate(paths)], [], None


def _read_frames(clip, path):
    """-> iterator of Photo, one per frame; if the video cannot be read to its end, the last one has an error"""
    frames = iter(clip.frames)
    for number in itertools.count():
        name = f'{os.path.basename(path)}/{number:04d}'
        try:
            yield Photo(number, name, name, image=next(frames))
        except StopIteration:
            return
        except InputError as error:
            yield Photo(number, name, name, error=error)


def _read_task(json_path):
    """The photos that a TuSimple JSON lists. -> (list of Photo, lines about unusable entries)"""
    records, problems = tusimple.read_records(json_path, need_lanes=False)
    photos = []
    for record in records:
        try:
            path = tusimple.photo_path(os.path.dirname(json_path), record)
            photos.append(Photo(len(photos), record.raw_file, path, record.h_samples))
        except InputError as error:
            problems.append(str(error))
    if not photos:
        raise InputError(problems[0] if problems else f'{json_path}: lists no photos')
    return photos, problems


def stem(path):
    """-> the name of a file without folder and extension"""
    return os.path.splitext(os.path.basename(path))[0]


def read_photo(photo, masks=None):
    """Sets photo.image and photo.given; or photo.error if they cannot be read. masks: {name without extension: path}"""
    try:
        if photo.image is None:   # frames have theirs
            photo.image = pictures.read_image(photo.path)
        if masks is not None:
            if stem(photo.path) not in masks:
                raise InputError(f'{photo.path}: --foreground has no mask of that name')
            label = pictures.read_label(masks[stem(photo.path)])
            photo.given = pictures.resize_label((label > 0).astype(np.uint8), photo.image.shape[1::-1])
    except InputError as error:
        photo.error = error
