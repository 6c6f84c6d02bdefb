"""photos.csv, which maps numbered results to their photos."""
import csv
import io
import os
import re

from data.common import command_line, files
from data.common.command_line import InputError

PICTURE = re.compile(r'(?:cluster|mask)_\d{4,}\.png')
_NAME = 'photos.csv'
_TIMES = 'network', 'clustering', 'lanes'
_COLUMNS = ['number', 'file', 'instances', 'confidences', 'classes', *(f'{name} ms' for name in _TIMES), 'total ms']
_MAX_BYTES = 2 ** 30


def read(folder):
    """-> {number: row} of a folder's table, list of str. Raises InputError if there is another file of that name."""
    path = os.path.join(folder, _NAME)
    if not os.path.lexists(path):
        return {}
    text = files.read_file(path, _MAX_BYTES).decode('utf-8', 'surrogateescape')
    columns, *rows = list(csv.reader(io.StringIO(text, newline=''))) or [[]]
    if columns != _COLUMNS or not all(len(row) == len(_COLUMNS) and row[0].isdecimal() for row in rows):
        raise InputError(f'{path}: is not a table of results, which would replace it; give another --outdir')
    return {int(row[0]): row for row in rows}


def warn_of_others(folder, photos):
    """Warns if the table has other photos under the numbers of these. Raises as read does."""
    rows = read(folder)
    others = [rows[photo.number][1] for photo in photos if photo.number in rows
              and os.path.realpath(rows[photo.number][1]) != os.path.realpath(photo.path)]
    if others:
        command_line.warn(f'{folder}: replaces the results of other photos ({others[0]}, {len(others)} in all); stop '
                          'now and give another --outdir to keep them')


def write(folder, photos):
    """Writes the rows of these photos into the folder's table."""
    rows = {**read(folder), **{photo.number: _row(photo) for photo in photos}}
    files.write_csv(os.path.join(folder, _NAME), [_COLUMNS, *(rows[number] for number in sorted(rows))])


def _row(photo):
    times = [f'{photo.times[name]:.1f}' for name in _TIMES]
    confidences = ' '.join(f'{value:.2f}' for value in photo.confidences)
    return [f'{photo.number:04d}', photo.path, len(photo.confidences), confidences,
            ' '.join(photo.found_classes or ()), *times, f'{sum(photo.times.values()):.1f}']
