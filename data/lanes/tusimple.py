"""The TuSimple layout: the one place that reads and writes its JSON and draws its labels.

A folder holds `label_data_*.json`, one JSON object per line, and the photos that the lines name:

    {"lanes": [[x, x, ...], ...], "h_samples": [y, y, ...], "raw_file": "clips/.../20.jpg"}

Each lane gives its x, in pixels of the photo, at each y of h_samples, and -2 where it does not exist.
Predictions have a `run_time` in milliseconds as well, and may have a `confidence`, a number from 0 to 1 per lane.
Frames of a video have `ids`, a whole number per lane.
Source: github.com/TuSimple/tusimple-benchmark.
"""

import dataclasses
import fnmatch
import json
import os
import pathlib
import sys

import cv2
import numpy as np

from data.common import files
from data.common.command_line import InputError

H_SAMPLES = range(160, 720, 10)  # the rows of the test set; part of the training set starts at 240
ABSENT = -2  # the x of a lane in a row where it does not exist; readers take every negative x so
_LANE_WIDTH = 7  # px, as cv2.polylines counts, which rounds up: an upright lane covers 9
MAX_LANES = 5  # a sixth grey value, 20 + 50 * 5, would not fit a byte
_LABEL_FILES = 'label_data_*.json'
PREPARED_LABELS = 'lanes.json'  # in a prepared folder: the lanes of its images/, for the official score

MAX_FILE_BYTES = 2 ** 30   # the labels of all of TuSimple are 20 MB
_MAX_LINE_BYTES = 2 ** 22   # a line is 2 kB
_MAX_PATH_BYTES = 2 ** 12   # as for Linux; splitting a path of megabytes into its parts takes a minute
_LARGEST = 1e9  # px; beyond it a coordinate is a mistake, and integer arithmetic on it may overflow


@dataclasses.dataclass
class Record:
    """One line: a photo and its lanes.

    raw_file: path of the photo relative to its JSON file, letter for letter as read
    lanes: list of lists of numbers, [lanes][len(h_samples)], x in px; negative: the lane is not in that row
    h_samples: list of numbers, y in px
    source: 'file:line' where it was read, for messages
    run_time: ms that a prediction took; None in labels
    ids: of a frame of a video, list of int, [lanes]: the number that a lane has in all frames; elsewhere None
    confidence: list of float from 0 to 1, [lanes], of a prediction; None where it is not known
    """
    raw_file: str
    lanes: list
    h_samples: list
    source: str = ''
    run_time: float = None
    ids: list = None
    confidence: list = None


def find_label_files(folder):
    """-> the sorted paths of the label_data_*.json in folder. Raises InputError if there are none."""
    names = fnmatch.filter(files.list_folder(folder, f'; give the one that holds {_LABEL_FILES}'), _LABEL_FILES)
    if not names:
        raise InputError(f'{folder}: holds no {_LABEL_FILES}; give the folder that does')
    return [os.path.join(folder, name) for name in names]


def read_records(json_path, need_lanes=True, need_h_samples=True):
    """Reads a label, task or prediction file, line by line; empty lines are passed over.

    need_lanes: False accepts lines without lanes (a list of photos to predict), and ignores lanes
    need_h_samples: False accepts lines without h_samples, as [] (predictions may leave them to the labels)
    -> (records, problems): Records in the order of the lines, and 'file:line: reason' of each line that is not usable
    Raises InputError if the file cannot be read or is too large.
    """
    records, problems = [], []
    with files.open_file(json_path, MAX_FILE_BYTES) as file:
        for number, line in enumerate(_lines(file), 1):
            source = f'{json_path}:{number}'
            if line.strip():
                try:
                    records.append(_parse(line, source, need_lanes, need_h_samples))
                except InputError as error:
                    problems.append(f'{source}: {error}')
    return records, problems


def _lines(file):
    """Yields the lines of a file as bytes; of a line that is too long the beginning, a byte more than is allowed."""
    while line := file.readline(_MAX_LINE_BYTES + 1):
        yield line
        while len(line) > _MAX_LINE_BYTES and not line.endswith(b'\n'):
            line = file.readline(_MAX_LINE_BYTES + 1)


def _parse(line, source, need_lanes, need_h_samples):
    if len(line) > _MAX_LINE_BYTES:
        raise InputError(f'is longer than {_MAX_LINE_BYTES:,} bytes; each line is one JSON object')
    try:
        values = json.loads(line.decode('utf-8-sig'))
    except (ValueError, RecursionError):  # not JSON or not UTF-8; nested beyond any sense
        raise InputError('not JSON; each line is one JSON object') from None
    if not isinstance(values, dict):
        raise InputError('not a JSON object like {"lanes": ..., "h_samples": ..., "raw_file": ...}')
    for key, needed in (('raw_file', True), ('h_samples', need_h_samples), ('lanes', need_lanes)):
        if needed and key not in values:
            raise InputError(f'has no "{key}"')

    raw_file = values['raw_file']
    if not isinstance(raw_file, str) or not raw_file or not _is_path(raw_file):
        raise InputError(f'raw_file {_short(raw_file)} is not a path')
    h_samples = values.get('h_samples')
    if h_samples is not None or need_h_samples:
        _check_numbers(h_samples, 'h_samples')
        if not h_samples or min(h_samples) < 0:
            raise InputError('h_samples are not rows of a photo')
    lanes = values['lanes'] if need_lanes else []
    if not isinstance(lanes, list):
        raise InputError('lanes are not a list of lists')
    for i, lane in enumerate(lanes):
        _check_numbers(lane, f'lane {i}')
        if h_samples is not None and len(lane) != len(h_samples):
            raise InputError(f'lane {i} has {len(lane)} points, h_samples {len(h_samples)}; it takes as many')
    run_time = values.get('run_time')
    if run_time is not None and not _is_number(run_time, sys.float_info.max):
        raise InputError(f'run_time {_short(run_time)} is not a number of milliseconds')
    ids = values.get('ids') if need_lanes else None
    if ids is not None and not (isinstance(ids, list) and len(ids) == len(lanes)
                                and all(type(number) is int and 0 <= number < 2 ** 31 for number in ids)):
        raise InputError('ids are not one whole number per lane')
    confidence = values.get('confidence') if need_lanes else None
    if confidence is not None and not (isinstance(confidence, list) and len(confidence) == len(lanes)
                                       and all(_is_number(value, 1) and value >= 0 for value in confidence)):
        raise InputError('confidence is not one number from 0 to 1 per lane')
    return Record(raw_file, lanes, h_samples or [], source, run_time, ids, confidence)


def _is_path(text):
    try:
        return len(text) <= _MAX_PATH_BYTES and len(text.encode()) <= _MAX_PATH_BYTES and '\0' not in text
    except UnicodeEncodeError:  # half a character, "\ud800"
        return False


def _check_numbers(values, name):
    if not isinstance(values, list):
        raise InputError(f'{name} is not a list of numbers')
    for value in values:
        if not _is_number(value, _LARGEST):
            raise InputError(f'{name} holds {_short(value)}, which is not a pixel coordinate')


def _is_number(value, largest):
    # A comparison is False for NaN and works for integers of any length.
    return type(value) in (int, float) and -largest <= value <= largest


def _short(value):
    """A value from a user's file as a few printable characters. -> str"""
    if isinstance(value, (list, dict)):
        return 'a list' if isinstance(value, list) else 'an object'
    if isinstance(value, int) and abs(value) > _LARGEST:
        return 'a huge number'  # one of over 4,300 digits cannot even be printed
    text = ascii(value[:80] if isinstance(value, str) else value)
    return text if len(text) <= 80 else text[:76] + '...'


def photo_path(folder, record):
    """-> path of the record's photo, whose raw_file is relative to folder. Raises InputError if it is outside.

    Symbolic links are followed: they are made by the owner of the folder, not by the label file.
    """
    parts = pathlib.PureWindowsPath(record.raw_file)  # splits at both / and \, and knows drive letters
    if parts.anchor or '..' in parts.parts:
        raise InputError(f'{record.source}: raw_file {_short(record.raw_file)} leaves its folder; '
                         'it must be relative and without ".."')
    return os.path.join(folder, record.raw_file)


def write_records(path, records, follow_links=False):
    """Writes records, one JSON object per line, as `files.write_file` does. Lanes may be NumPy arrays."""
    lines = []
    for record in records:
        values = {'lanes': list(record.lanes), 'h_samples': list(record.h_samples),
                  'raw_file': record.raw_file}
        if record.ids is not None:
            values['ids'] = list(record.ids)
        if record.confidence is not None:
            values['confidence'] = list(record.confidence)
        if record.run_time is not None:
            values['run_time'] = record.run_time
        lines.append(json.dumps(values, default=lambda array: array.tolist(), allow_nan=False) + '\n')
    files.write_file(path, ''.join(lines).encode(), follow_links)


def draw_label(record, size):
    """Draws the label of a photo: lane i a polyline 7 px thick of grey 20 + 50 i, background 0.

    A lane goes straight from point to point, across rows where it is absent. A lane of fewer than two points is not
    drawn.

    size: (width, height) of the photo in px
    -> uint8 [height, width]
    Raises InputError if there are more than MAX_LANES lanes, or if one lies so far outside that the label must be of
    another size.
    """
    width, height = size
    label = np.zeros([height, width], np.uint8)
    for i, lane in enumerate(record.lanes):
        points = np.array([(x, y) for x, y in zip(lane, record.h_samples) if x >= 0], np.float64)
        if len(points) < 2:
            continue
        if i >= MAX_LANES:
            raise InputError(f'{record.source}: has more than {MAX_LANES} lanes, too many for an 8-bit label')
        if (points > np.multiply(1.1, size)).any():
            raise InputError(f'{record.source}: lane {i} lies outside the photo of {width}x{height} px; '
                             'the label is of another size')
        cv2.polylines(label, [np.rint(points).astype(np.int32)], False, 20 + 50 * i, _LANE_WIDTH, cv2.LINE_8)
    return label
