"""Prepares a data set with COCO annotations for training.

    python data/coco_dataset_processing.py instances.json photos --outdir cats --categories cat

Writes images/NAME.png (RGB) and labels/NAME.png (8 or 16 bits: background 0, each instance its own value) per image of
the JSON file. A folder in its "file_name" becomes a part of NAME. Segmentations may be polygons, to which belong the
pixels whose centre lies inside, or run lengths, compressed or not. Smaller instances are drawn over larger ones. Left
out and counted are crowd regions ("iscrowd", the outline of many instances at once), instances without a pixel of their
own, and images without an instance. A photo that cannot be used is printed, as `file: reason`, and passed over.

The output appears when all of it is ready. A run that is stopped while it moves the files leaves a folder that training
refuses, and another run completes it. Nothing is ever replaced: an output folder with other pictures is refused.
"""
import json
import os
import pathlib
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import numpy as np

from data.common import command_line, files, pictures, prepared_set
from data.common.command_line import InputError

MAX_FILE_BYTES = 2 ** 31 - 1   # the largest file of COCO has 470 MB
MAX_COORDINATE = 1e6           # px, of a polygon


def parse_args(argv=None):
    parser = command_line.Parser(description=__doc__)
    parser.add_argument('annotations', metavar='ANNOTATIONS', help='JSON file with "images" and "annotations".')
    parser.add_argument('images', metavar='IMAGES', help='Folder of the photos.')
    parser.add_argument('-o', '--outdir', default=os.path.dirname(os.path.abspath(__file__)),
                        help='Folder to write images/ and labels/ into.')
    parser.add_argument('--categories', metavar='NAME', nargs='+', help='Only instances of these categories.')
    parser.add_argument('--workers', type=command_line.workers, default=os.cpu_count(),
                        help='Number of threads that decode and encode pictures, at most 4 per core.')
    return parser.parse_args(argv)


# ---- The annotations -------------------------------------------------------------------------------------------------

def read_annotations(path, folder, categories=None):
    """-> ([(name of the output, path of the photo, [height, width], annotations)] by name, number of crowd regions)

    folder: of the photos; categories: names, None for all. Raises InputError if the file is not of COCO's kind.
    """
    try:
        values = json.loads(files.read_file(path, MAX_FILE_BYTES))
    except (ValueError, RecursionError):   # not JSON or not UTF-8; nested beyond any sense
        raise InputError(f'{path}: is not JSON') from None
    images, names = {}, set()
    for image in entries(path, values, 'images', id=(int, str), file_name=str, height=int, width=int):
        parts = pathlib.PureWindowsPath(image['file_name'])   # splits at / and \
        if not parts.name or parts.anchor or '..' in parts.parts or not image['file_name'].isprintable():
            raise InputError(f'{path}: file_name {image["file_name"]!a} is not a path within a folder')
        name = '_'.join(parts.with_suffix('.png').parts)
        if image['id'] in images or name in names:
            raise InputError(f'{path}: has a second image of id {image["id"]!a} or for {name}')
        names.add(name)
        images[image['id']] = (name, os.path.join(folder, *parts.parts), [image['height'], image['width']], [])
    annotations = entries(path, values, 'annotations', image_id=(int, str))
    if categories:
        found = entries(path, values, 'categories', id=(int, str), name=str)
        names_found = {entry['name'] for entry in found}
        if unknown := set(categories) - names_found:
            raise InputError(f'{path}: has no category {min(unknown)!a}, but {", ".join(sorted(names_found))}')
        wanted = {entry['id'] for entry in found if entry['name'] in categories}   # two may have one name
        annotations = [annotation for annotation in annotations if annotation.get('category_id') in wanted]
    for annotation in annotations:
        if annotation['image_id'] not in images:
            raise InputError(f'{path}: has an annotation of image {annotation["image_id"]!a}, but no such image')
        if not annotation.get('iscrowd'):
            images[annotation['image_id']][3].append(annotation)
    return sorted(images.values()), sum(bool(annotation.get('iscrowd')) for annotation in annotations)


def entries(path, values, key, /, **kinds):
    """-> values[key], a list of dicts with entries of these kinds. Raises InputError if it is not one."""
    found = values.get(key) if isinstance(values, dict) else None
    if not isinstance(found, list) or not all(isinstance(entry, dict) and all(
            isinstance(entry.get(name), kind) for name, kind in kinds.items()) for entry in found):
        raise InputError(f'{path}: has no list "{key}" of objects with {", ".join(kinds)}')
    return found


# ---- Segmentations ---------------------------------------------------------------------------------------------------

def draw(segmentation, shape):
    """-> bool [h, w] of this shape. Raises ValueError, with the reason, if it is not a segmentation of COCO's kind."""
    if isinstance(segmentation, dict):
        counts = segmentation.get('counts')
        counts = uncompress(counts) if isinstance(counts, str) else counts
        if (segmentation.get('size') != list(shape) or not isinstance(counts, list)
                or not all(type(count) is int and count >= 0 for count in counts) or sum(counts) != np.prod(shape)):
            raise ValueError('has run lengths that do not fit the photo')
        return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(shape[::-1]).T   # column by column
    if not isinstance(segmentation, list) or not segmentation:
        raise ValueError('has no segmentation')
    mask = np.zeros(shape, bool)
    for polygon in segmentation:
        if (not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2
                or not all(type(x) in (int, float) and abs(x) <= MAX_COORDINATE for x in polygon)):
            raise ValueError('has a polygon that is not a list of three or more x, y in px')
        fill(mask, np.reshape(polygon, [-1, 2]))
    return mask


def fill(mask, polygon):
    """Adds the pixels whose centre is inside, by the even-odd rule. mask: bool [h, w]; polygon: (x, y) [n, 2] in px"""
    (x, y), (next_x, next_y) = polygon.T, np.roll(polygon, -1, axis=0).T
    first, end = np.clip(np.ceil(np.sort([y, next_y], axis=0) - 0.5), 0, len(mask)).astype(int)   # rows of each edge
    edge = np.repeat(np.arange(len(x)), end - first)
    row = np.arange(len(edge)) - (np.cumsum(end - first) - end)[edge]
    crossing = x[edge] + (row + 0.5 - y[edge]) * (next_x - x)[edge] / (next_y - y)[edge]
    rows = slice(first.min(), end.max())
    crossed = np.zeros([rows.stop - rows.start, mask.shape[1] + 1], bool)
    column = np.clip(np.ceil(crossing - 0.5), 0, mask.shape[1]).astype(int)
    np.logical_xor.at(crossed, (row - rows.start, column), True)
    mask[rows] |= np.logical_xor.accumulate(crossed, axis=1)[:, :-1]


def uncompress(text):
    """COCO's compressed run lengths. -> list of int. Raises ValueError if they are damaged.

    A character has 5 bits of a number, lowest first, and one that says if more follow. From the fourth number on, they
    are differences to the last but one.
    """
    counts, value, shift = [], 0, 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 30:
            raise ValueError('has compressed run lengths that are damaged')
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (bits & 16) << shift - 4   # the sign
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    return counts


# ---- The script ------------------------------------------------------------------------------------------------------

def prepare(image):
    """-> (name, photo as the bytes of a PNG, label likewise, {'instances', 'hidden': numbers}). Raises InputError."""
    name, path, size, annotations = image
    photo = pictures.read_image(path)
    shape = photo.shape[:2]
    if size != list(shape):
        raise InputError(f'{path}: is {shape[1]} x {shape[0]}, but annotated as {size[1]!a} x {size[0]!a}')
    try:
        instances = [np.flatnonzero(draw(annotation.get('segmentation'), shape)) for annotation in annotations]
    except ValueError as error:
        raise InputError(f'{path}: an annotation {error}') from None
    label = np.zeros(shape, np.uint8 if len(instances) < 2 ** 8 else np.uint16)
    for i, pixels in enumerate(sorted(instances, key=len, reverse=True)[:2 ** 16 - 1]):
        label.flat[pixels] = i + 1
    visible = np.unique(label[label > 0]).size
    if not visible:
        raise InputError(f'{path}: none of its {len(instances)} instances has a pixel')
    counts = {'instances': visible, 'hidden': len(instances) - visible}
    return name, pictures.encode(photo), pictures.encode(label), counts


def main(argv=None):
    args = parse_args(argv)
    images, crowds = read_annotations(args.annotations, args.images, args.categories)
    annotated = [image for image in images if image[3]]
    if not annotated:
        raise InputError(f'{args.annotations}: none of {len(images)} images has an instance')
    prepared_set.refuse_others(args.outdir, {name for name, *_ in annotated})
    written, sums, passed_over = prepared_set.prepare_samples(args.annotations, args.outdir, prepare, annotated,
                                                              args.workers)
    print(f'Left out {crowds} crowd regions, {sums["hidden"]} instances without a pixel of their own and '
          f'{len(images) - len(annotated)} images without an instance.\n'
          f'Wrote {written} photos and {sums["instances"]} instances to {args.outdir}; passed over {passed_over}.')


if __name__ == '__main__':
    command_line.run(main)
