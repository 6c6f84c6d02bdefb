"""Prepares a data set with COCO annotations for training.

    python data/coco_dataset_processing.py instances.json photos --outdir cats --categories cat

Writes images/NAME.png and labels/NAME.png (8 or 16 bits) for each image in the JSON file. Folders in "file_name" become
part of NAME; a path that does not exist in IMAGES, as in Label Studio exports, is matched by its file name if that is
unique. Segmentations are polygons or run lengths, compressed or not; smaller instances are drawn over larger ones.

Unusable entries are counted and skipped, and so are "iscrowd" regions, except connected run-length masks, because CVAT
marks all brush masks as crowds. The output appears once it is complete, and replaces nothing.
"""
import collections
import json
import os
import pathlib
import sys
import urllib.parse

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import cv2
import numpy as np

from data.common import command_line, files, pictures, prepared_set, segmentations
from data.common.command_line import InputError


def read_annotations(path, folder, categories=None):
    """Reads the JSON file for a folder of images, keeping the annotations of these categories (names; None: all).

    -> ([(name of the output, path of the image, (height, width) as annotated, annotations)] sorted, reasons why images
    were skipped, number of annotations without an image). Raises InputError if the file is not in COCO format.
    """
    try:
        values = json.loads(files.read_file(path, 2 ** 31 - 1))   # COCO's largest file has 470 MB
    except (ValueError, RecursionError):   # not JSON, not UTF-8, nested too deeply
        raise InputError(f'{path}: is not JSON') from None
    annotations, of_image = entries(path, values, 'annotations'), collections.defaultdict(list)
    if categories:
        names = {id_of(entry, 'id'): str(entry.get('name')) for entry in entries(path, values, 'categories')}
        if unknown := set(categories) - set(names.values()):
            raise InputError(f'{path}: has no category {min(unknown)!a}, but {", ".join(sorted(names.values()))}')
        annotations = [each for each in annotations if names.get(id_of(each, 'category_id')) in categories]
    for each in annotations:
        of_image[id_of(each, 'image_id')].append(each)

    images, ids, problems = {}, set(), []
    listed = [(entry, str(entry.get('file_name'))) for entry in entries(path, values, 'images')]
    paths = find_photos([file_name for _, file_name in listed], folder)
    for (entry, file_name), found in zip(listed, paths):
        key = id_of(entry, 'id')
        name = found and '_'.join(found.with_suffix('.png').parts)
        if not name or key == 'None' or key in ids or name in images:
            reason = 'has no unique id or file name' if name else f'is not in {folder}'
            problems.append(f'{path}: image {file_name!a} {reason}')
            continue
        ids.add(key)
        images[name] = name, os.path.join(folder, found), (entry.get('height'), entry.get('width')), of_image[key]
    return [images[name] for name in sorted(images)], problems, sum(len(of_image[key]) for key in of_image.keys() - ids)


def entries(path, values, key):
    """-> the list values[key], with {} for entries that are not dicts. Raises InputError if it is not a list."""
    found = values.get(key) if isinstance(values, dict) else None
    if not isinstance(found, list):
        raise InputError(f'{path}: has no list "{key}"')
    return [entry if isinstance(entry, dict) else {} for entry in found]


def id_of(entry, key):
    return str(entry.get(key)).removesuffix('.0')   # some programs write 7.0 or "7" for 7


def find_photos(file_names, folder):
    """-> for each name, path or URL: path relative to the folder, or None if its file name is absent or ambiguous"""
    on_disk = collections.defaultdict(list)
    for path in pathlib.Path(folder).rglob('*'):
        on_disk[path.name].append(path.relative_to(folder))
    paths = [pathlib.PureWindowsPath(file_name) for file_name in file_names]   # splits at / and \
    lasts = [urllib.parse.unquote(path.name.split('?')[0]) for path in paths]
    uses, found = collections.Counter(lasts), []
    for path, last in zip(paths, lasts):
        exact = pathlib.Path(*path.parts)
        is_clear = len(on_disk[last]) == 1 == uses[last]
        found.append(exact if exact in on_disk[path.name] else on_disk[last][0] if is_clear else None)
    return found


def prepare(image):
    """-> (name, image as the bytes of a PNG, label likewise, numbers of instances). Raises InputError."""
    name, path, size, annotations = image
    photo = pictures.read_image(path)
    shape = photo.shape[:2]
    if None not in size and size != shape:
        raise InputError(f'{path}: is {shape[1]} x {shape[0]}, but annotated as {size[1]!a} x {size[0]!a}')
    counts, instances, reason = collections.Counter(), [], ''
    for annotation in annotations:
        try:
            mask = segmentations.draw(annotation.get('segmentation'), shape)
        except ValueError as error:
            counts['unusable'] += 1
            reason = f'; an annotation {error}'
            continue
        if annotation.get('iscrowd') and (isinstance(annotation['segmentation'], list)
                                          or cv2.connectedComponents(np.uint8(mask))[0] > 2):
            counts['crowds'] += 1
        else:
            instances.append(np.flatnonzero(mask))
    label = np.zeros(shape, np.uint8 if len(instances) < 2 ** 8 else np.uint16)
    for i, pixels in enumerate(sorted(instances, key=len, reverse=True)):
        label.flat[pixels] = i + 1
    counts['instances'] = np.unique(label[label > 0]).size
    counts['hidden'] = len(instances) - counts['instances']
    if not counts['instances']:
        raise InputError(f'{path}: none of its {len(annotations)} annotations is an instance with pixels{reason}')
    return name, pictures.encode(photo), pictures.encode(label), counts


def main(argv=None):
    parser = prepared_set.parser(__doc__)
    parser.add_argument('annotations', metavar='ANNOTATIONS', help='JSON file with "images" and "annotations".')
    parser.add_argument('images', metavar='IMAGES', help='Folder of the images.')
    parser.add_argument('--categories', metavar='NAME', nargs='+', help='Categories to keep; all by default.')
    args = parser.parse_args(argv)
    images, problems, orphans = read_annotations(args.annotations, args.images, args.categories)
    annotated = [image for image in images if image[3]]
    if not annotated:
        raise InputError(f'{args.annotations}: none of {len(images)} images has an instance'
                         + (f'; the first problem: {problems[0]}' if problems else ''))
    prepared_set.refuse_others(args.outdir, {name for name, *_ in annotated})
    sums, summary = prepared_set.prepare_samples(args.annotations, args.outdir, prepare, annotated, args.workers,
                                                 problems)
    print(f'Skipped {sums["crowds"]} crowd regions, {sums["hidden"]} instances without visible pixels, '
          f'{sums["unusable"] + orphans} unusable annotations and {len(images) - len(annotated)} images '
          f'without instances.\n{summary}.')


if __name__ == '__main__':
    command_line.run(main)
