"""Prepares Cityscapes for training, with the class of each instance.

    python data/cityscapes_dataset_processing.py CITYSCAPES --outdir prepared
    python training.py --srcdir prepared --ignore 255

Reads *_leftImg8bit.png and *_gtFine_instanceIds.png in the folder and its subfolders, and writes images/NAME.png,
labels/NAME.png (16 bits: class * 1000 + number) and classes.txt, the eight classes that Cityscapes evaluates. Ids that
its evaluation ignores and groups of instances become 255, for --ignore 255; everything else is 0.
"""
import os
import pathlib
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import numpy as np

from data.common import classes, command_line, files, pictures, prepared_set
from data.common.command_line import InputError

IMAGE, LABEL = '_leftImg8bit.png', '_gtFine_instanceIds.png'
IGNORED = 255
# From labels.py of cityscapesScripts: the ids of classes with instances, and those with ignoreInEval.
CLASSES = {24: 'person', 25: 'rider', 26: 'car', 27: 'truck', 28: 'bus', 31: 'train', 32: 'motorcycle', 33: 'bicycle'}
IGNORED_IDS = [0, 1, 2, 3, 4, 5, 6, 9, 10, 14, 15, 16, 18, 29, 30]


def find_samples(folder):
    """-> ([(name, path of the image, path of the label)] sorted, number of unpaired files). Raises InputError."""
    files.list_folder(folder)
    images, labels = ({path.name.removesuffix(end): str(path) for path in pathlib.Path(folder).rglob('*' + end)}
                      for end in (IMAGE, LABEL))
    names = sorted(images.keys() & labels.keys())
    if not names:
        raise InputError(f'{folder}: holds no *{IMAGE} with its *{LABEL}')
    return [(f'{name}.png', images[name], labels[name]) for name in names], len(images.keys() ^ labels.keys())


def convert(ids):
    """Cityscapes' instanceIds, uint16 [h, w] -> label, uint16 [h, w]: class * 1000 + number, IGNORED, 0 background"""
    ids = ids.astype(np.int32)
    is_instance = ids >= 1000
    class_id = np.where(is_instance, ids // 1000, ids)
    label = np.zeros(ids.shape, np.uint16)
    for number, each in enumerate(CLASSES, 1):
        of_class = class_id == each
        label[of_class] = np.where(is_instance, number * classes.BASE + ids % 1000, IGNORED)[of_class]   # a group
    label[np.isin(class_id, IGNORED_IDS)] = IGNORED
    return label


def prepare(sample):
    """-> (name, image as the bytes of a PNG, label likewise, {'instances': number}). Raises InputError."""
    name, *paths = sample
    image, ids = pictures.read_pair(*paths)
    label = convert(ids)
    return name, pictures.encode(image), pictures.encode(label), {'instances': np.unique(label[label > IGNORED]).size}


def main(argv=None):
    parser = prepared_set.parser(__doc__, 'images/, labels/ and classes.txt')
    parser.add_argument('folder', metavar='DIR', help=f'Folder with *{IMAGE} and *{LABEL}, at any depth.')
    args = parser.parse_args(argv)
    (samples, alone), names = find_samples(args.folder), list(CLASSES.values())
    prepared_set.refuse_others(args.outdir, {name for name, *_ in samples})
    classes.check(args.outdir, names)
    _, summary = prepared_set.prepare_samples(args.folder, args.outdir, prepare, samples, args.workers)
    classes.write(args.outdir, names)
    print(f'{summary}, and {alone} unpaired images or labels.')


if __name__ == '__main__':
    command_line.run(main)
