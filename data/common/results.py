"""Result files: photos.csv, which maps numbers to images; lanes as in TuSimple and CULane; instances as in COCO."""
import csv
import io
import json
import os
import pathlib
import re
import tempfile

import numpy as np

from data.common import command_line, files
from data.common.command_line import InputError
from data.lanes import culane, tusimple

PICTURE = re.compile(r'(?:cluster|mask)_\d{4,}\.png')
_NAME = 'photos.csv'
_TIMES = 'network', 'clustering', 'lanes'
_COLUMNS = ['number', 'file', 'instances', 'confidences', 'classes', *(f'{name} ms' for name in _TIMES), 'total ms']
_MAX_BYTES = 2 ** 30


def _read_table(folder):
    """-> {number: row} of a folder's table, list of str. Raises InputError if there is another file of that name."""
    path = os.path.join(folder, _NAME)
    if not os.path.lexists(path):
        return {}
    text = files.read_file(path, _MAX_BYTES).decode('utf-8', 'surrogateescape')
    columns, *rows = list(csv.reader(io.StringIO(text, newline=''))) or [[]]
    if columns != _COLUMNS or not all(len(row) == len(_COLUMNS) and row[0].isdecimal() for row in rows):
        raise InputError(f'{path}: is not a table of results and would be replaced; give another --outdir')
    return {int(row[0]): row for row in rows}


def warn_of_others(folder, photos):
    """Warns if the table lists other images under these numbers. Raises InputError like _read_table."""
    rows = _read_table(folder)
    others = [rows[photo.number][1] for photo in photos if photo.number in rows
              and os.path.realpath(rows[photo.number][1]) != os.path.realpath(photo.path)]
    if others:
        command_line.warn(f'{folder}: replaces the results of other images ({others[0]}, {len(others)} in all); stop '
                          'now and give another --outdir to keep them')


def write_table(folder, photos):
    """Writes the rows of these images into the folder's table."""
    rows = {**_read_table(folder), **{photo.number: _row(photo) for photo in photos}}
    files.write_csv(os.path.join(folder, _NAME), [_COLUMNS, *(rows[number] for number in sorted(rows))])


def _row(photo):
    times = [f'{photo.times[name]:.1f}' for name in _TIMES]
    confidences = ' '.join(f'{value:.2f}' for value in photo.confidences)
    return [f'{photo.number:04d}', photo.path, len(photo.confidences), confidences,
            ' '.join(photo.found_classes or ()), *times, f'{sum(photo.times.values()):.1f}']


class JsonFile:
    """The file of --json: the lanes of inputs.Photos, x to a hundredth of a pixel, or instances as COCO results.

    It grows on disk, unnamed until it is closed. COCO's image ids are the file names if these are different
    numbers, else 0, 1, ... jobs: list of inputs.Job
    """

    def __init__(self, path, jobs):
        self._file, self._count = tempfile.TemporaryFile(dir=os.path.dirname(path) or '.'), 0
        names = ['' if job.video else pathlib.Path(photo.raw_file).stem for job in jobs for photo in job.photos]
        self._by_name = len({int(name) for name in names if name.isdecimal()}) == len(names)

    def add(self, photo):
        if photo.results is None:
            self._file.write(tusimple.to_line(tusimple.Record(
                photo.raw_file, np.round(photo.lanes, 2).tolist(), photo.h_samples,
                run_time=round(sum(photo.times.values()), 3), ids=photo.track_ids,
                confidence=np.round(photo.confidences, 4).tolist(), classes=photo.found_classes)).encode())
        else:
            image_id = int(pathlib.Path(photo.raw_file).stem) if self._by_name else self._count
            for result in photo.results:
                line = json.dumps({'image_id': image_id, 'file_name': photo.raw_file, **result})
                self._file.write(line.encode() + b'\n')
        self._is_coco, self._count = photo.results is not None, self._count + 1

    def close(self, path):
        """Writes the file under its name, whole or not at all. Raises InputError."""
        with self._file:
            self._file.seek(0)
            data = self._file.read()
        files.write_file(path, b'[%s]' % data.rstrip().replace(b'\n', b', ') if self._is_coco else data)


def culane_path(photo, folder):
    """-> path of an image's lanes in a folder of CULane's layout. Raises InputError if it would replace labels."""
    path = tusimple.photo_path(folder, tusimple.Record(photo.raw_file, [], [], '--culane'))
    if os.path.realpath(os.path.dirname(path)) == os.path.realpath(os.path.dirname(photo.path)):
        raise InputError(f'--culane {folder}: holds the images, whose labels the results would replace')
    return os.path.splitext(path)[0] + culane.LINES


def write_culane(photo, folder):
    """Writes the lanes of an image in CULane's format."""
    path = culane_path(photo, folder)
    files.make_output_folder(os.path.dirname(path))
    culane.write_lines(path, photo.lanes, photo.h_samples)
