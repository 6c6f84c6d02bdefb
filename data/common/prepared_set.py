"""Writes a data set in training's layout, images/NAME.png, labels/NAME.png and lanes.json, completely or not at all."""
import collections
import concurrent.futures
import functools
import os
import pathlib
import re
import shutil

import cv2
import numpy as np
import tqdm

from data.common import command_line, files, pictures, pipeline
from data.common.command_line import InputError
from data.lanes import tusimple

_FOLDERS = ('images', 'labels')
_DATA = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))   # where training.py looks


def parser(description, outputs='images/ and labels/'):
    """-> command_line.Parser with --outdir and --workers; outputs: contents of the folder, for the help"""
    parser = command_line.Parser(description=description)
    parser.add_argument('-o', '--outdir', default=_DATA, help=f'Folder for {outputs}.')
    parser.add_argument('--workers', type=command_line.workers, default=os.cpu_count(),
                        help='Number of threads that decode and encode images, at most 4 per core.')
    return parser


def refuse_others(outdir, names):
    """Raises InputError if outdir has other files that training would read: images not in `names`, or lanes."""
    lanes = os.path.join(outdir, tusimple.PREPARED_LABELS)
    if os.path.lexists(lanes):
        raise InputError(f'{lanes}: holds the lanes of other images; move it away or give another folder')
    for folder in filter(os.path.isdir, (os.path.join(outdir, folder) for folder in _FOLDERS)):
        for name in files.list_folder(folder):
            if pictures.is_picture(folder, name) and name not in names:
                raise InputError(f'{os.path.join(folder, name)}: is not part of this data set; move it away or give '
                                 'another folder')


def prepare_samples(source, outdir, prepare, items, workers, problems=(), what='instances', name_of=str,
                    own=frozenset(), finish=lambda: None):
    """Prepares samples in threads, writes them, and prints problems.

    The output appears once all samples are complete; a run killed while it moves files leaves a folder that training
    rejects and the next run completes. Existing files must be identical, except those named in `own`, which are
    replaced, or removed if no new sample replaces them.
    source, problems: the origin of the items and earlier problems, for messages; what: the count in the summary
    prepare: function of an item -> (name, image, label, {what: number}), image and label as the bytes of a PNG; raises
    InputError if the item is unusable. name_of: function of the names, called in order; finish: called at the end
    -> ({what: sum}, summary without its full stop). Raises InputError if no item is usable or an existing file differs.
    """
    sums, problems, num_entries = collections.Counter(), list(problems), len(items) + len(problems)
    cv2.setNumThreads(1)   # the workers already run in parallel
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        samples = usable(prepare, tqdm.tqdm(items, unit='image', disable=None), problems,
                         functools.partial(pipeline.in_order, pool, ahead=2 * workers))
        names = _write_samples(outdir, samples, sums, name_of, own, finish)
    if not names:
        raise InputError(f'{source}: none of {num_entries} images can be used'
                         + (f'; the first problem: {problems[0]}' if problems else ''))
    for problem in problems:
        print(command_line.printable(problem))
    return sums, f'Wrote {len(names)} photos and {sums[what]} {what} to {outdir}; skipped {len(problems)}'


def write_lanes(records, folder, outdir, workers, problems=(), read=None, draw=tusimple.draw_label):
    """Prepares the images of tusimple.Records, relative to folder, and prints a summary.

    Images are named NNNN.png, and lanes.json holds the lanes. Files of an earlier run that it lists are replaced.
    read: function of a record that returns its image, by default from its file; draw: as tusimple.draw_label
    Raises InputError if no record is usable, if outdir holds other images, or if an input lies in its images/.
    """
    images, written = os.path.realpath(os.path.join(outdir, 'images')), []
    for record in records:
        path = os.path.join(folder, record.raw_file.replace('\\', '/'))
        if os.path.realpath(os.path.dirname(path)) == images:
            raise InputError(f'{record.source}: its image lies in the output folder {images}; give another --outdir')

    def prepare(record):
        try:
            image = read(record) if read else pictures.read_image(tusimple.photo_path(folder, record))
            label = draw(record, image.shape[1::-1])
        except InputError as error:
            raise InputError(f'{record.source}: {str(error).removeprefix(record.source + ": ")}') from None
        return record, pictures.encode(image), pictures.encode(label), {'lanes': np.unique(label[label > 0]).size}

    def number(record):
        name = f'{len(written):04d}.png'
        written.append(tusimple.Record(f'images/{name}', record.lanes, record.h_samples))
        return name

    _, summary = prepare_samples(
        folder, outdir, prepare, records, workers, problems, 'lanes', number, _own_names(outdir),
        lambda: tusimple.write_records(os.path.join(outdir, tusimple.PREPARED_LABELS), written))
    print(f'{summary}.')


def _own_names(outdir):
    """-> set of the NNNN.png of earlier runs, even killed ones, in outdir. Raises InputError if there are others."""
    lanes_path, listed, own = os.path.join(outdir, tusimple.PREPARED_LABELS), set(), set()
    if os.path.exists(lanes_path):
        listed = {record.raw_file for record in tusimple.read_records(lanes_path)[0]}
    is_half_written = os.path.lexists(os.path.join(outdir, files.HALF_WRITTEN))
    for folder in filter(os.path.isdir, (os.path.join(outdir, name) for name in _FOLDERS)):
        for name in filter(re.compile(r'\d{4,}\.png').fullmatch, files.list_folder(folder)):
            if not is_half_written and f'images/{name}' not in listed:
                raise InputError(f'{os.path.join(folder, name)}: is not listed in {lanes_path} and would be replaced; '
                                 'move it away or give another --outdir')
            own.add(name)
    return own


def usable(function, items, problems, apply=map):
    """Yields function(item) for each item; where it raises an InputError, appends its text to problems instead."""
    def attempt(item):
        try:
            return function(item)
        except InputError as error:
            return error

    for result in apply(attempt, items):
        if isinstance(result, InputError):
            problems.append(str(result))
        else:
            yield result


def _write_samples(outdir, samples, sums, name_of, own, finish):
    """Writes samples (name, image, label, counts) and adds up their counts, see prepare_samples. -> set of names"""
    moves, unfinished, names = {}, [], set()
    try:
        for key, *encoded, counts in samples:
            if not names:   # only now: without samples, nothing changes
                unfinished += [files.make_unfinished_folder(os.path.join(outdir, folder)) for folder in _FOLDERS]
            name = name_of(key)
            names.add(name)
            sums.update(counts)
            for folder, temporary, data in zip(_FOLDERS, unfinished, encoded):
                moves.update(_stage(os.path.join(temporary, name), os.path.join(outdir, folder, name), data, own))
        if names:
            marker = os.path.join(outdir, files.HALF_WRITTEN)
            files.write_file(marker, b'')
            for temporary, target in moves.items():
                os.replace(temporary, target)
            for path in (pathlib.Path(outdir, folder, name) for folder in _FOLDERS for name in own - names):
                path.unlink(missing_ok=True)
            finish()
            os.remove(marker)
    finally:
        for folder in unfinished:
            shutil.rmtree(folder, ignore_errors=True)
    return names


def _stage(temporary, target, data, own):
    """Writes a file to move. -> {temporary: target}, {} if target exists. Raises InputError if its content differs."""
    if os.path.basename(target) in own or not os.path.lexists(target):
        files.write_file(temporary, data)
        return {temporary: target}
    if files.read_file(target, pictures.MAX_FILE_BYTES) != data:
        raise InputError(f'{target}: already exists with different content; move it away or give another folder')
    return {}
