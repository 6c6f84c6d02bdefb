"""Writes images with lanes as training reads them: images/NNNN.png, labels/NNNN.png and lanes.json.

The output appears once it is complete, and replaces the files that lanes.json lists from an earlier run.
"""
import os
import re

import numpy as np

from data.common import files, pictures, prepared_set
from data.common.command_line import InputError
from data.lanes import tusimple


def _own_names(outdir):
    """-> set of the NNNN.png of earlier runs, even killed ones, in outdir. Raises InputError if there are others."""
    lanes_path, listed, own = os.path.join(outdir, tusimple.PREPARED_LABELS), set(), set()
    if os.path.exists(lanes_path):
        listed = {record.raw_file for record in tusimple.read_records(lanes_path)[0]}
    is_half_written = os.path.lexists(os.path.join(outdir, files.HALF_WRITTEN))
    for folder in filter(os.path.isdir, (os.path.join(outdir, name) for name in prepared_set.FOLDERS)):
        for name in filter(re.compile(r'\d{4,}\.png').fullmatch, files.list_folder(folder)):
            if not is_half_written and f'images/{name}' not in listed:
                raise InputError(f'{os.path.join(folder, name)}: is not listed in {lanes_path} and would be replaced; '
                                 'move it away or give another --outdir')
            own.add(name)
    return own


def write(records, folder, outdir, workers, problems=(), read=None, draw=tusimple.draw_label):
    """Prepares the images of records, relative to folder, in threads, and prints a summary.

    read: function of a record that returns its image, by default from its file; draw: as tusimple.draw_label
    Raises InputError if no record is usable, if outdir holds other pictures, or if an image is in its images/.
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

    _, summary = prepared_set.prepare_samples(
        folder, outdir, prepare, records, workers, problems, 'lanes', number, _own_names(outdir),
        lambda: tusimple.write_records(os.path.join(outdir, tusimple.PREPARED_LABELS), written))
    print(f'{summary}.')
