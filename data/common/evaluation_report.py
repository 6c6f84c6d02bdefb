"""Reports of the evaluation scripts: a CSV file with a row per image, and pictures of the worst images."""

import csv
import io
import os

from data.common import command_line, files, pictures
from data.common.command_line import InputError


def check_outputs(per_image, worst, inputs, pictures):
    """Creates the folders of --per-image FILE and --worst DIR, either of which may be None. Raises InputError.

    inputs: paths of input files, not to be overwritten; pictures: paths in whose folders --worst must not write
    """
    if per_image:
        check_output_file('--per-image', per_image, inputs)
    if worst:
        if os.path.realpath(worst) in {os.path.realpath(os.path.dirname(path)) for path in pictures}:
            raise InputError(f'--worst {worst}: holds the pictures that are scored; give another folder')
        files.make_output_folder(worst)


def check_output_file(flag, path, inputs, others=()):
    """Creates the folder of the output file of a flag. others: paths of other outputs, or None. Raises InputError."""
    files.check_output_file(flag, path)
    if os.path.realpath(path) in [os.path.realpath(other) for other in others if other]:
        raise InputError(f'{flag} {path}: another flag has the same file; give another name')
    if os.path.exists(path) and any(os.path.exists(other) and os.path.samefile(path, other) for other in inputs):
        raise InputError(f'{flag} {path}: is an input itself; give another name')


def write_csv(path, header, rows):
    """Writes a CSV file. header: column names; rows: tuples"""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow(header)
    writer.writerows(rows)
    files.write_file(path, text.getvalue().encode(errors='surrogateescape'), follow_links=True)


def draw_worst(folder, draw, items):
    """Writes NNNN.png per item, worst first, and warns of items that cannot be drawn. -> exit status, 1 if any

    draw: function of an item that returns a picture, uint8 [h, w, 3] RGB, or raises InputError
    """
    problems = []
    for rank, item in enumerate(items):
        try:
            pictures.write_image(os.path.join(folder, f'{rank:04d}.png'), draw(item))
        except InputError as error:
            problems.append(error)
            command_line.warn(f'not drawn: {error}')
    return int(bool(problems))
