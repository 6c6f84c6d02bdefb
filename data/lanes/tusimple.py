"""The TuSimple layout (github.com/TuSimple/tusimple-benchmark): reads and writes its JSON, and draws its labels.

A folder holds `label_data_*.json`, one JSON object per line, see `Record`, and the images that the lines refer to.
"""
import dataclasses
import json
import os
import pathlib
import sys

import cv2
import numpy as np

from data.common import files
from data.common.command_line import InputError

H_SAMPLES = range(160, 720, 10)  # the rows of the test set; part of the training set starts at 240
ABSENT = -2  # the x of a lane in a row where it is absent; readers treat all negative x alike
MAX_LANES = 5  # of an 8-bit label: a sixth grey value, 20 + 50 * 5, does not fit in a byte
PREPARED_LABELS = 'lanes.json'  # in a prepared folder: the lanes of its images/, for the official score
MAX_FILE_BYTES = 2 ** 30   # all of TuSimple's labels take 20 MB

_LARGEST = 1e9  # px; a larger coordinate is a mistake and could overflow integer arithmetic


@dataclasses.dataclass
class Record:
    """One line: an image and its lanes."""
    raw_file: str             # path of the image relative to its JSON file, exactly as read
    lanes: list               # [lanes][len(h_samples)] x in px; negative: the lane is absent in that row
    h_samples: list           # y in px
    source: str = ''          # 'file:line' where it was read, for messages
    run_time: float = None    # ms that a prediction took; None in labels
    ids: list = None          # [lanes] int, in video frames: the same id for a lane in all frames
    confidence: list = None   # [lanes] float from 0 to 1, of a prediction; None if unknown
    classes: list = None      # [lanes] str, of a prediction; written, not read


def read_records(json_path, need_lanes=True, need_h_samples=True):
    """Reads a label, task or prediction file line by line; empty lines are skipped.

    need_lanes: False ignores lanes (a list of images to predict); need_h_samples: False accepts lines without h_samples
    -> (records, problems): Records in the order of the lines, and 'file:line: reason' for each unusable line
    Raises InputError if the file cannot be read.
    """
    records, problems = [], []
    for number, line in enumerate(files.read_file(json_path, MAX_FILE_BYTES).split(b'\n'), 1):
        source = f'{json_path}:{number}'
        try:
            records += [_parse(line, source, need_lanes, need_h_samples)] if line.strip() else []
        except InputError as error:
            problems.append(f'{source}: {error}')
    return records, problems


def read_all(path, **kwargs):
    """-> records of a file, see read_records. Raises InputError if a line is unusable or there are none."""
    records, problems = read_records(path, **kwargs)
    if problems or not records:
        raise InputError((problems or [f'{path}: holds no lines'])[0])
    return records


def _parse(line, source, need_lanes, need_h_samples):
    try:
        values = json.loads(line.decode('utf-8-sig'))
    except (ValueError, RecursionError):  # not JSON, not UTF-8, nested too deeply
        raise InputError('not JSON; each line is one JSON object') from None
    if not isinstance(values, dict):
        raise InputError('not a JSON object')
    raw_file, lanes, h_samples, run_time, ids, confidence = map(
        values.get, ('raw_file', 'lanes', 'h_samples', 'run_time', 'ids', 'confidence'))
    if (not isinstance(raw_file, str) or not raw_file or '\0' in raw_file
            or raw_file.encode(errors='ignore').decode() != raw_file):   # a lone surrogate, "\ud800"
        raise InputError(f'raw_file {ascii(raw_file)[:80]} is not a path')
    if h_samples is not None or need_h_samples:
        _check_numbers(h_samples, 'h_samples', least=0)
    if run_time is not None:
        _check_numbers([run_time], 'run_time', most=sys.float_info.max)
    if not need_lanes:
        return Record(raw_file, [], h_samples or [], source, run_time)
    if not isinstance(lanes, list):
        raise InputError('lanes are not a list of lists')
    for i, lane in enumerate(lanes):
        _check_numbers(lane, f'lane {i}', h_samples and len(h_samples))
    if ids is not None:
        _check_numbers(ids, 'ids', len(lanes), least=0)
    if confidence is not None:
        _check_numbers(confidence, 'confidence', len(lanes), 0, 1)
    return Record(raw_file, lanes, h_samples or [], source, run_time, ids, confidence)


def _check_numbers(values, name, length=None, least=-_LARGEST, most=_LARGEST):
    """Raises InputError unless values is a list of numbers from least to most, of this length if one is given."""
    if not isinstance(values, list) or not values and length is None:
        raise InputError(f'{name} is not a list of numbers')
    if length is not None and len(values) != length:
        raise InputError(f'{name} has {len(values)} numbers instead of {length}')
    for value in values:
        if type(value) not in (int, float) or not least <= value <= most:   # NaN fails every comparison
            raise InputError(f'{name} holds {ascii(value)[:80]}, not a number from {least:.10g} to {most:.10g}')


def photo_path(folder, record):
    """-> path of the record's image, raw_file with / or \\ relative to folder. Raises InputError if it is outside."""
    parts = pathlib.PureWindowsPath(record.raw_file)  # splits at / and \, and recognises drive letters
    if parts.anchor or '..' in parts.parts:
        raise InputError(f'{record.source}: raw_file {ascii(record.raw_file)[:80]} leaves its folder; '
                         'it must be relative and without ".."')
    return os.path.join(folder, *parts.parts)


def scaled_rows(height):
    """H_SAMPLES, scaled to the height of an image. -> list of int, px"""
    return np.unique(np.multiply(H_SAMPLES, height) // 720).tolist()


def lane_points(lane, h_samples):
    """-> the points (x, y) of a lane where it is present, float64 [points, 2]"""
    return np.array([(x, y) for x, y in zip(lane, h_samples) if x >= 0], np.float64).reshape(-1, 2)


def to_line(record):
    """-> a record as one line of JSON, with its line break. Its lanes may be NumPy arrays."""
    values = {'lanes': list(record.lanes), 'h_samples': list(record.h_samples), 'raw_file': record.raw_file}
    values.update({name: getattr(record, name) for name in ('ids', 'confidence', 'classes', 'run_time')
                   if getattr(record, name) is not None})
    return json.dumps(values, default=lambda array: array.tolist(), allow_nan=False) + '\n'


def write_records(path, records):
    """Writes records, one JSON object per line, by `files.write_file`."""
    files.write_file(path, ''.join(map(to_line, records)).encode())


def draw_label(record, size):
    """Draws the label of an image: lane i is a polyline 7 px thick of grey value 20 + 50 i, the background 0.

    A lane is straight from point to point, also across rows where it is absent; one of a single point is not drawn.
    size: (width, height) of the image in px -> [height, width], uint8 or, if a sixth lane is drawn, uint16
    Raises InputError if a lane lies so far outside that the label must be for an image of another size.
    """
    width, height = size
    label = np.zeros([height, width], np.uint16)
    for i, lane in enumerate(record.lanes):
        points = lane_points(lane, record.h_samples)
        if len(points) < 2:
            continue
        if (points > np.multiply(1.1, size)).any():
            raise InputError(f'{record.source}: lane {i} lies outside the image of {width}x{height} px; '
                             'the label is for another size')
        cv2.polylines(label, [np.rint(points).astype(np.int32)], False, 20 + 50 * i, 7, cv2.LINE_8)
    return label if label.max() > 255 else label.astype(np.uint8)
