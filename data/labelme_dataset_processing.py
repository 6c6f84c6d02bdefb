"""Prepares labelme annotations for training: regions as instances, or lines as lanes.

    python data/labelme_dataset_processing.py annotated --outdir prepared
    python data/labelme_dataset_processing.py annotated --outdir prepared --classes

Reads each NAME.json; its image is embedded or next to it. Polygons, rectangles, circles and masks become instances in
images/NAME.png and labels/NAME.png (16 bits), smaller ones over larger ones; a folder with only lines (line, linestrip)
becomes lanes, as in tusimple_dataset_processing.py. Shapes with the same label and group_id are one instance. With
--classes, classes.txt lists the labels in alphabetical order. Unusable files and shapes are counted and skipped.
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
from data.lanes import tusimple

REGIONS, LINES = ('polygon', 'rectangle', 'circle', 'mask'), ('line', 'linestrip')
ERRORS = AttributeError, KeyError, OSError, RecursionError, TypeError, ValueError   # raised by malformed values


def read_file(path):
    """-> (the shapes of a file, dicts; image data in base64 or None; path of the image). Raises InputError."""
    try:
        values = json.loads(files.read_file(path, pictures.MAX_FILE_BYTES))
        # Old files have no types.
        shapes = [{**shape, 'shape_type': shape.get('shape_type') or 'polygon'} for shape in values['shapes']]
        name = pathlib.PureWindowsPath(str(values.get('imagePath'))).name   # the path is on the annotator's machine
        return shapes, values.get('imageData'), os.path.join(os.path.dirname(path), name)
    except ERRORS:
        raise InputError(f'{path}: is not a labelme file, a JSON object with a list "shapes"') from None


def read_image(path):
    """-> the image of a file, uint8 [h, w, 3] RGB. Raises InputError."""
    _, data, name = read_file(path)
    try:
        return decode(data, 'RGB') if data else pictures.read_image(name)
    except (InputError, *ERRORS) as error:
        reason = error if isinstance(error, InputError) else 'its imageData is not an image'
        raise InputError(f'{path}: {reason}') from None


def decode(data, mode):
    with PIL.Image.open(io.BytesIO(base64.b64decode(data))) as image:
        return np.array(image.convert(mode))


def points_of(shape):
    """-> the points (x, y) of a shape in px, float64 [points, 2], at least two. Raises one of ERRORS."""
    points = np.array(shape['points'], np.float64)
    if points.shape[1:] != (2,) or len(points) < 2 or not (np.abs(points) < 1e6).all():
        raise ValueError
    return points


def grouped(shapes, draw):
    """Joins the arrays draw(shape) of each instance. -> ({(text, instance): array}, number of unusable shapes)"""
    groups, unusable = collections.defaultdict(list), 0
    for number, shape in enumerate(shapes):
        try:
            value = draw(shape)
        except ERRORS:
            unusable += 1
        else:
            instance = f'shape {number}' if shape.get('group_id') is None else str(shape['group_id'])
            groups[str(shape.get('label')), instance].append(value)
    return {key: np.concatenate(values) for key, values in groups.items()}, unusable


def values_of(texts, class_of):
    """-> list of int, the label value of each instance. texts: their label texts; class_of: {text: class} or {}"""
    kinds = [class_of.get(text, 0) for text in texts]
    if class_of and max(map(kinds.count, kinds), default=0) >= classes.BASE:
        raise InputError(f'an image has {classes.BASE} or more instances of a class, too many for --classes')
    return [kind * classes.BASE + kinds[:i].count(kind) + 1 for i, kind in enumerate(kinds)]


def region(shape, size):
    """-> the pixels of a shape in an image of size [h, w], as flat indices. Raises one of ERRORS."""
    kind, points, mask = shape['shape_type'], points_of(shape), np.zeros(size, bool)
    if kind == 'mask':   # a bitmap in the box of the points
        x, y = np.maximum(points[0], 0).astype(int)
        target = mask[y:, x:]
        patch = decode(shape['mask'], 'L')[:target.shape[0], :target.shape[1]]
        target[:patch.shape[0], :patch.shape[1]] = patch > 0
        return np.flatnonzero(mask)
    if kind == 'rectangle' and len(points) == 2:   # two corners
        points = np.stack([points[[0, 1, 1, 0], 0], points[[0, 0, 1, 1], 1]], axis=1)
    if kind == 'circle':   # its centre and a point on it
        turns = np.linspace(0, 2 * np.pi, 360, endpoint=False)
        points = points[0] + np.hypot(*(points[1] - points[0])) * np.stack([np.cos(turns), np.sin(turns)], axis=1)
    if kind not in REGIONS or len(points) < 3:
        raise ValueError
    segmentations.fill(mask, points)
    return np.flatnonzero(mask)


def prepare(path, class_of):
    """-> (name, image as the bytes of a PNG, label likewise, counts). class_of: {text: class}. Raises InputError."""
    image = read_image(path)
    groups, unusable = grouped(read_file(path)[0], lambda shape: region(shape, image.shape[:2]))
    masks = sorted(((text, np.unique(pixels)) for (text, _), pixels in groups.items()), key=lambda each: -len(each[1]))
    label = np.zeros(image.shape[:2], np.uint16)
    for value, (_, pixels) in zip(values_of([text for text, _ in masks], class_of), masks):
        label.flat[pixels] = value
    counts = {'instances': np.unique(label[label > 0]).size, 'unusable': unusable}
    if not counts['instances']:
        raise InputError(f'{path}: has no region')
    return f'{pathlib.Path(path).stem}.png', pictures.encode(image), pictures.encode(label), counts


def to_record(path, class_of):
    """-> tusimple.Record of the lines of a file, with label values as ids. Raises InputError."""
    height, width = read_image(path).shape[:2]
    rows = np.array(tusimple.scaled_rows(height))
    groups, _ = grouped([shape for shape in read_file(path)[0] if shape['shape_type'] in LINES], points_of)
    lanes = []
    for points in groups.values():
        x, y = points[points[:, 1].argsort(kind='stable')].T
        lane = np.round(np.interp(rows, y, x), 2)
        exists = (rows >= y[0]) & (rows <= y[-1]) & (lane >= 0) & (lane < width)
        lanes.append(np.where(exists, lane, tusimple.ABSENT).tolist())
    return tusimple.Record(os.path.basename(path), lanes, rows.tolist(), path,
                           ids=values_of([text for text, _ in groups], class_of))


def draw_label(record, size):
    """Like tusimple.draw_label, but with the ids of a record from to_record as values."""
    table = np.zeros(2 ** 16, np.uint16)
    table[20 + 50 * np.arange(len(record.ids))] = record.ids
    return table[tusimple.draw_label(record, size)]


def main(argv=None):
    parser = prepared_set.parser(__doc__)
    parser.add_argument('folder', metavar='DIR', help='Folder of NAME.json files written by labelme.')
    parser.add_argument('--classes', action='store_true', help='Encode the class of each instance in the labels.')
    args = parser.parse_args(argv)
    paths = [os.path.join(args.folder, name) for name in files.list_folder(args.folder) if name.endswith('.json')]
    problems = []
    found = {path: {(str(shape['shape_type']), str(shape.get('label'))) for shape in shapes} for path, (shapes, *_)
             in prepared_set.usable(lambda path: (path, read_file(path)), paths, problems)}
    if not found:
        raise InputError(problems[0] if problems else f'{args.folder}: holds no *.json')
    kinds, texts = ({pair[i] for pairs in found.values() for pair in pairs} for i in (0, 1))
    class_of = {text: number for number, text in enumerate(sorted(texts), 1)} if args.classes else {}
    if class_of:
        classes.check(args.outdir, list(class_of))
    if kinds & set(REGIONS) or not kinds & set(LINES):
        prepared_set.refuse_others(args.outdir, {f'{pathlib.Path(path).stem}.png' for path in found})
        sums, summary = prepared_set.prepare_samples(
            args.folder, args.outdir, lambda path: prepare(path, class_of), list(found), args.workers, problems)
        print(f'{summary} files and {sums["unusable"]} shapes.')
    else:
        records = list(prepared_set.usable(lambda path: to_record(path, class_of), found, problems))
        prepared_set.write_lanes(
            records, args.folder, args.outdir, args.workers, problems, lambda record: read_image(record.source),
            draw_label if class_of else tusimple.draw_label)
    if class_of:
        classes.write(args.outdir, list(class_of))


if __name__ == '__main__':
    command_line.run(main)
