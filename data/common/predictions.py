"""Files of predictions: lanes in TuSimple's and CULane's formats, instances in that of COCO's results."""
import json
import os

import numpy as np

from data.common import files, inputs
from data.common.command_line import InputError
from data.lanes import culane, tusimple


def write_json(path, photos):
    """Writes the lanes of inputs.Photos, x to a hundredth of a pixel, or their instances as results of COCO."""
    if photos[0].results is not None:
        results = [{'image_id': image_id, 'file_name': photo.raw_file, **result}
                   for image_id, photo in zip(_image_ids(photos), photos) for result in photo.results]
        files.write_file(path, json.dumps(results).encode())
        return
    tusimple.write_records(path, [
        tusimple.Record(photo.raw_file, np.round(photo.lanes, 2).tolist(), photo.h_samples,
                        run_time=round(sum(photo.times.values()), 3), ids=photo.track_ids,
                        confidence=np.round(photo.confidences, 4).tolist(), classes=photo.found_classes)
        for photo in photos])


def _image_ids(photos):
    """The ids of images for COCO: the numbers that all names are, else NNNN, else 0, 1, ... -> list of int"""
    names = [inputs.stem(photo.raw_file) for photo in photos]
    for ids in [int(name) for name in names if name.isdecimal()], [photo.number for photo in photos]:
        if len(set(ids)) == len(photos):
            return ids
    return list(range(len(photos)))


def culane_path(photo, folder):
    """-> path of a photo's lanes in a folder of CULane's layout. Raises InputError if that is no place for results."""
    path = tusimple.photo_path(folder, tusimple.Record(photo.raw_file, [], [], '--culane'))
    if os.path.realpath(os.path.dirname(path)) == os.path.realpath(os.path.dirname(photo.path)):
        raise InputError(f'--culane {folder}: holds the photos, whose labels the results would replace')
    return os.path.splitext(path)[0] + culane.LINES


def write_culane(photo, folder):
    """Writes the lanes of a photo in CULane's format."""
    path = culane_path(photo, folder)
    files.make_output_folder(os.path.dirname(path))
    culane.write_lines(path, photo.lanes, photo.h_samples)
