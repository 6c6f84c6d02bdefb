"""Prepares annotations of labelme for training: regions as instances, or lines as lanes.

    python data/labelme_dataset_processing.py annotated --outdir prepared
    python data/labelme_dataset_processing.py annotated --outdir prepared --classes

Reads each NAME.json in the folder; its image is embedded or lies next to it. Polygons, rectangles, circles and masks
become images/NAME.png and labels/NAME.png (16 bits: background 0, each instance its own value), smaller ones over
larger ones. In a folder without them, lines (line, linestrip) become images/NNNN.png, labels/NNNN.png, with lines 7 px
thick, and lanes.json, in TuSimple's rows. Shapes of the same label and group_id are one instance. With --classes,
values are class * 1000 + number, and classes.txt has the texts of the labels in alphabetical order, class 1 first.
Files and shapes that cannot be used are left out and counted, files with the reason. The output appears when all of it
is ready.
"""
import base64
import collections
import io
import json
import os
import pathlib
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import numpy as np
import PIL.Image

from data.common import classes, command_line, files, pictures, prepared_set, segmentations
from data.common.command_line import InputError
from data.lanes import prepared_lanes, tusimple

REGIONS, LINES = ('polygon', 'rectangle', 'circle', 'mask'), ('line', 'linestrip')
MAX_FILE_BYTES = 2 ** 30
ERRORS = KeyError, OSError, TypeError, ValueError   # of values from a file that are not what they should be


def read_file(path):
    """-> (the shapes of a file, dicts; the file's dict). Raises InputError if it is not labelme's."""
    try:
        values = json.loads(files.read_file(path, MAX_FILE_BYTES))
        return [shape for shape in values['shapes'] if isinstance(shape, dict)], values
    except (RecursionError, *ERRORS):
        raise InputError(f'{path}: is not a file of labelme, a JSON object with a list "shapes"') from None


def read_image(path):
    """-> the image of a file, uint8 [h, w, 3] RGB. Raises InputError."""
    _, values = read_file(path)
    if values.get('imageData'):
        try:
            with PIL.Image.open(io.BytesIO(base64.b64decode(values['imageData']))) as image:
                return np.array(image.convert('RGB'))
        except ERRORS:
            raise InputError(f'{path}: its imageData is not a picture') from None
    name = pathlib.PureWindowsPath(str(values.get('imagePath'))).name   # next to it, wherever it was annotated
    try:
        return pictures.read_image(os.path.join(os.path.dirname(path), name))
    except InputError as error:
        raise InputError(f'{path}: {error}') from None


def picture_name(path):
    return os.path.basename(path).removesuffix('.json') + '.png'


def kind_of(shape):
    return shape.get('shape_type') or 'polygon'


def points_of(shape, least):
    """-> the points (x, y) of a shape in px, float64 [points, 2]. Raises TypeError or ValueError without `least`."""
    points = np.array(shape.get('points'), np.float64)
    if points.ndim != 2 or points.shape[1] != 2 or len(points) < least or not (np.abs(points) < 1e6).all():
        raise ValueError
    return points


def grouped(shapes, draw):
    """Collects draw(shape) of each instance. -> ({(text, instance): list}, number of shapes that cannot be used)"""
    groups, unusable = collections.defaultdict(list), 0
    for number, shape in enumerate(shapes):
        instance = f'shape {number}' if shape.get('group_id') is None else str(shape['group_id'])
        try:
            groups[str(shape.get('label')), instance].append(draw(shape))
        except ERRORS:
            unusable += 1
    return {key: found for key, found in groups.items() if found}, unusable


def values_of(texts, class_of):
    """The label's value of each instance, by its text. class_of: {text: class}, empty for none -> list of int"""
    counts, values = collections.Counter(), []
    for text in texts:
        kind = class_of.get(text, 0)
        counts[kind] += 1
        if kind and counts[kind] == classes.BASE:
            raise InputError(f'{text!a} has {classes.BASE} instances or more in one image, too many for --classes')
        values.append(kind * classes.BASE + counts[kind])
    return values


# ---- Regions ---------------------------------------------------------------------------------------------------------

def region(shape, size):
    """-> the mask of a shape, bool of size [h, w]. Raises one of ERRORS."""
    kind, points, mask = kind_of(shape), points_of(shape, 2), np.zeros(size, bool)
    if kind == 'mask':
        patch = np.array(PIL.Image.open(io.BytesIO(base64.b64decode(shape['mask'])))) > 0
        x, y = np.maximum(points[0], 0).astype(int)
        target = mask[y:y + patch.shape[0], x:x + patch.shape[1]]
        target |= patch[:target.shape[0], :target.shape[1]]
        return mask
    if kind == 'rectangle' and len(points) == 2:   # two corners
        points = np.stack([points[[0, 1, 1, 0], 0], points[[0, 0, 1, 1], 1]], axis=1)
    if kind == 'circle':   # its centre and a point on it
        turns = np.linspace(0, 2 * np.pi, 360, endpoint=False)
        points = points[0] + np.hypot(*(points[1] - points[0])) * np.stack([np.cos(turns), np.sin(turns)], axis=1)
    if kind not in REGIONS or len(points) < 3:
        raise ValueError
    segmentations.fill(mask, points)
    return mask


def prepare(item):
    """item: (path, {text: class}) -> (name, image as the bytes of a PNG, label likewise, counts). Raises InputError."""
    path, class_of = item
    image = read_image(path)
    groups, unusable = grouped(read_file(path)[0], lambda shape: region(shape, image.shape[:2]))
    masks = [(text, np.any(found, axis=0)) for (text, _), found in groups.items()]
    masks.sort(key=lambda each: -each[1].sum())
    label = np.zeros(image.shape[:2], np.uint16)
    for value, (_, mask) in zip(values_of([text for text, _ in masks], class_of), masks):
        label[mask] = value
    counts = {'instances': np.unique(label[label > 0]).size, 'unusable': unusable}
    if not counts['instances']:
        raise InputError(f'{path}: has no region')
    return picture_name(path), pictures.encode(image), pictures.encode(label), counts


# ---- Lines -----------------------------------------------------------------------------------------------------------

def to_record(path, class_of):
    """-> tusimple.Record of the lines of a file, with the label's values as ids. Raises InputError."""
    height, width = read_image(path).shape[:2]
    rows = np.unique(np.multiply(tusimple.H_SAMPLES, height) // 720)
    groups, _ = grouped([shape for shape in read_file(path)[0] if kind_of(shape) in LINES],
                        lambda shape: points_of(shape, 2))
    lanes = []
    for points in map(np.concatenate, groups.values()):
        x, y = points[points[:, 1].argsort(kind='stable')].T
        exists = (rows >= y[0]) & (rows <= y[-1])
        lane = np.where(exists, np.round(np.interp(rows, y, x), 2), tusimple.ABSENT)
        lanes.append(np.where((lane >= 0) & (lane < width), lane, tusimple.ABSENT).tolist())
    return tusimple.Record(os.path.basename(path), lanes, rows.tolist(), path,
                           ids=values_of([text for text, _ in groups], class_of))


def draw_label(record, size):
    """tusimple.draw_label, with the ids of a record of to_record as the values of its lanes"""
    label = tusimple.draw_label(record, size)
    table = np.zeros(2 ** 16, np.uint16)
    table[20 + 50 * np.arange(len(record.ids))] = record.ids
    return table[label]


# ---- The script ------------------------------------------------------------------------------------------------------

def survey(paths):
    """-> ({kinds of shapes}, [texts of labels], sorted) of all files that can be read"""
    kinds, texts = set(), set()
    for path in paths:
        try:
            for shape in read_file(path)[0]:
                kinds.add(kind_of(shape))
                texts.add(str(shape.get('label')))
        except InputError:
            pass   # named when it is prepared
    return kinds, sorted(texts)


def main(argv=None):
    parser = command_line.Parser(description=__doc__)
    parser.add_argument('folder', metavar='DIR', help='Folder of NAME.json, as labelme writes them.')
    parser.add_argument('-o', '--outdir', default=os.path.dirname(os.path.abspath(__file__)),
                        help='Folder for images/ and labels/.')
    parser.add_argument('--classes', action='store_true', help='Write the class of each instance into the labels.')
    parser.add_argument('--workers', type=command_line.workers, default=os.cpu_count(),
                        help='Number of threads that decode and encode pictures, at most 4 per core.')
    args = parser.parse_args(argv)
    paths = [os.path.join(args.folder, name) for name in files.list_folder(args.folder) if name.endswith('.json')]
    if not paths:
        raise InputError(f'{args.folder}: holds no *.json')
    kinds, names = survey(paths)
    class_of = {name: number for number, name in enumerate(names, 1)} if args.classes else {}
    if class_of:
        classes.check(args.outdir, names)
    if kinds & set(REGIONS) or not kinds & set(LINES):
        prepared_set.refuse_others(args.outdir, {picture_name(path) for path in paths})
        written, sums, skipped = prepared_set.prepare_samples(
            args.folder, args.outdir, prepare, [(path, class_of) for path in paths], args.workers)
        print(f'Wrote {written} photos and {sums["instances"]} instances to {args.outdir}; skipped {skipped} files and '
              f'{sums["unusable"]} shapes.')
    else:
        records, problems = [], []
        for path in paths:
            try:
                records.append(to_record(path, class_of))
            except InputError as error:
                problems.append(str(error))
        prepared_lanes.write(records, args.folder, args.outdir, args.workers, problems,
                             lambda record: read_image(record.source), draw_label if class_of else tusimple.draw_label)
    if class_of:
        classes.write(args.outdir, names)


if __name__ == '__main__':
    command_line.run(main)
