"""Writes images with lanes as training reads them: images/NNNN.png, labels/NNNN.png and lanes.json.

The output appears once it is complete, and replaces the files that lanes.json lists from an earlier run. A run stopped
while it moves files leaves a folder that training rejects; the next run completes it.
"""
import functools
import os
import pathlib
import re
import shutil

import numpy as np

from data.common import command_line, files, pictures, prepared_set
from data.common.command_line import InputError
from data.lanes import tusimple

_FOLDERS = ('images', 'labels')


def _prepare(record, read, draw):
    """Reads the image of a tusimple.Record and draws its label, see write.

    -> (record, image as the bytes of a PNG, label likewise, number of visible lanes). Raises InputError.
    """
    try:
        image = read(record)
        label = draw(record, image.shape[1::-1])
    except InputError as error:
        raise InputError(f'{record.source}: {str(error).removeprefix(record.source + ": ")}') from None
    return record, pictures.encode(image), pictures.encode(label), np.unique(label[label > 0]).size


def _own_names(outdir):
    """-> names NNNN.png that earlier runs, even stopped ones, wrote into outdir. Raises InputError for others."""
    lanes_path, marker = os.path.join(outdir, tusimple.PREPARED_LABELS), os.path.join(outdir, files.HALF_WRITTEN)
    listed = []
    if os.path.exists(lanes_path):
        listed += [record.raw_file for record in tusimple.read_records(lanes_path)[0]]
    if os.path.exists(marker):
        listed += files.read_file(marker, tusimple.MAX_FILE_BYTES).decode(errors='replace').splitlines()
    own = {os.path.basename(path) for path in listed if re.fullmatch(r'images/\d{4,}\.png', path)}
    for folder in _FOLDERS:
        folder = os.path.join(outdir, folder)
        for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
            if re.fullmatch(r'\d{4,}\.png', name) and name not in own:
                raise InputError(f'{os.path.join(folder, name)}: is not listed in {lanes_path} and would be replaced; '
                                 'move it away or give another --outdir')
    return own


def _publish(outdir, unfinished, written, own):
    """Moves the files of written, a list of tusimple.Record, into place, and removes the other own files."""
    lanes_path, marker = os.path.join(outdir, tusimple.PREPARED_LABELS), os.path.join(outdir, files.HALF_WRITTEN)
    names = {os.path.basename(record.raw_file) for record in written}
    # Until all files are in place, an image could be paired with an old label.
    files.write_file(marker, ''.join(f'images/{name}\n' for name in sorted(own | names)).encode())
    for folder, source in zip(_FOLDERS, unfinished):
        for name in sorted(names):
            os.replace(os.path.join(source, name), os.path.join(outdir, folder, name))
        for name in own - names:
            pathlib.Path(outdir, folder, name).unlink(missing_ok=True)
    tusimple.write_records(lanes_path, written)
    os.remove(marker)


def write(records, folder, outdir, workers, problems=(), read=None, draw=tusimple.draw_label):
    """Prepares the images of records, relative to folder, in threads, and prints a summary.

    problems: earlier ones, printed with those found here
    read: function of a record that returns its image, by default from its file; draw: as tusimple.draw_label
    Raises InputError if no record is usable, if outdir holds other pictures, or if an image is in its images/.
    """
    images = os.path.realpath(os.path.join(outdir, _FOLDERS[0]))
    for record in records:
        path = os.path.join(folder, record.raw_file.replace('\\', '/'))
        if os.path.realpath(os.path.dirname(path)) == images:
            raise InputError(f'{record.source}: its image lies in the output folder {images}; give another --outdir')
    own, problems = _own_names(outdir), list(problems)
    written, num_lanes, unfinished = [], 0, []
    read = read or (lambda record: pictures.read_image(tusimple.photo_path(folder, record)))
    prepare = functools.partial(_prepare, read=read, draw=draw)
    try:
        for record, image, label, lanes in prepared_set.in_threads(prepare, records, workers, problems):
            if not written:  # not earlier: without a usable record, nothing changes
                unfinished += [files.make_unfinished_folder(os.path.join(outdir, name)) for name in _FOLDERS]
            name = f'{len(written):04d}.png'
            for target, data in zip(unfinished, (image, label)):
                files.write_file(os.path.join(target, name), data)
            written.append(tusimple.Record(f'images/{name}', record.lanes, record.h_samples))
            num_lanes += lanes
        if not written:
            raise InputError(f'{folder}: none of {len(problems)} entries is usable'
                             + (f'; the first: {problems[0]}' if problems else ''))
        _publish(outdir, unfinished, written, own)
    finally:
        for target in unfinished:
            shutil.rmtree(target, ignore_errors=True)
    for problem in problems:
        print(command_line.printable(problem))
    print(f'Wrote {len(written)} photos and {num_lanes} lanes to {outdir}; skipped {len(problems)}.')
