"""photos.csv: which photo each numbered picture in a folder of results is of."""
import csv
import io
import os
import re

from data.common import command_line, files
from data.common.command_line import InputError

PICTURE = re.compile(r'(?:cluster|mask|scatter|embedding)_(\d{4,})\.png')
_NAME = 'photos.csv'
_TIMES = 'network', 'clustering', 'lanes'
_COLUMNS = ['number', 'file', 'instances', 'confidences', 'classes', *(f'{name} ms' for name in _TIMES), 'total ms']
_MAX_BYTES = 2 ** 30


def numbers(folder):
    """-> {number: name of a picture} of the numbered pictures in a folder"""
    matches = filter(None, map(PICTURE.fullmatch, sorted(os.listdir(folder), reverse=True)))
    return {int(match[1]): match[0] for match in matches}


def read(folder):
    """The rows of a folder's table whose pictures are there. -> {number: row}, lists of str

    Raises InputError if there is another file of that name.
    """
    path = os.path.join(folder, _NAME)
    if not os.path.lexists(path):
        return {}
    text = files.read_file(path, _MAX_BYTES).decode('utf-8', 'surrogateescape')
    rows = list(csv.reader(io.StringIO(text, newline='')))
    if rows[:1] != [_COLUMNS] or not all(len(row) == len(_COLUMNS) and row[0].isdecimal() for row in rows[1:]):
        raise InputError(f'{path}: is not a table of results, which would replace it; give another --outdir')
    there = numbers(folder)
    return {int(row[0]): row for row in rows[1:] if int(row[0]) in there}


def warn_of_others(folder, photos):
    """Warns if pictures in the folder are of other photos than those that will replace them. Raises as read does."""
    rows = read(folder)
    others = [photo.number for photo in photos if photo.number in rows
              and os.path.realpath(rows[photo.number][1]) != os.path.realpath(photo.path)]
    if others:
        command_line.warn(f'{folder}: replaces the results of other photos ({rows[others[0]][1]}, {len(others)} in '
                          'all); stop now and give another --outdir to keep them')


def write(folder, photos):
    """Writes the table of these photos; rows of other numbers stay, and a warning says so."""
    rows = read(folder)
    rows.update({photo.number: _row(photo) for photo in photos})
    text = io.StringIO(newline='')
    csv.writer(text).writerows([_COLUMNS, *(rows[number] for number in sorted(rows))])
    files.write_file(os.path.join(folder, _NAME), text.getvalue().encode('utf-8', 'surrogateescape'))
    others = sorted(set(numbers(folder)) - {photo.number for photo in photos})
    if others:
        command_line.warn(f'{folder}: also holds pictures that are not of this run '
                          f'({numbers(folder)[others[0]]}, {len(others)} numbers in all)')


def _row(photo):
    times = [f'{photo.times[name]:.1f}' for name in _TIMES]
    confidences = ' '.join(f'{value:.2f}' for value in photo.confidences or ())
    return [f'{photo.number:04d}', photo.path, photo.num_found, confidences,
            ' '.join(photo.found_classes or ()), *times, f'{sum(photo.times.values()):.1f}']
