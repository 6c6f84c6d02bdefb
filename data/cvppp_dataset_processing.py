"""Prepares the leaf segmentation data set of the CVPPP challenge for training.

    python data/cvppp_dataset_processing.py CVPPP/A1 --outdir leaves
    python data/cvppp_dataset_processing.py CVPPP --outdir leaves           # all of A1, A2, ...

Reads plantNNN_rgb.png and plantNNN_label.png, and writes images/A1_plantNNN.png and labels/A1_plantNNN.png, prefixed
with the folder's name. Unusable plants are skipped. The output appears once it is complete, and replaces nothing.
"""
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import numpy as np

from data.common import command_line, files, pictures, prepared_set
from data.common.command_line import InputError

ENDS = '_rgb.png', '_label.png'  # of file names, after a plant's name


def find_plants(folder):
    """-> [(name, path of the image, path of the label)] of the plants directly in a folder, sorted"""
    prefix = os.path.basename(os.path.realpath(folder))
    names = {name.removesuffix(end) for name in files.list_folder(folder) for end in ENDS if name.endswith(end)}
    return [(f'{prefix}_{name}.png', *(os.path.join(folder, name + end) for end in ENDS)) for name in sorted(names)]


def prepare(plant):
    """-> (name, image as the bytes of a PNG, label likewise, {'leaves': number}). Raises InputError."""
    name, *paths = plant
    photo, label = pictures.read_pair(*paths)
    return name, pictures.encode(photo), pictures.encode(label), {'leaves': np.unique(label[label > 0]).size}


def main(argv=None):
    parser = prepared_set.parser(__doc__)
    parser.add_argument('folder', metavar='DIR',
                        help='Folder with plantNNN_rgb.png and plantNNN_label.png, or a parent of such folders.')
    args = parser.parse_args(argv)
    inner = {os.path.realpath(os.path.join(args.folder, name)) for name in files.list_folder(args.folder)}
    plants = find_plants(args.folder) or sum(map(find_plants, sorted(filter(os.path.isdir, inner))), [])
    if not plants:
        raise InputError(f'{args.folder}: holds no plantNNN{ENDS[0]} with plantNNN{ENDS[1]}, nor do its subfolders')
    prepared_set.refuse_others(args.outdir, {name for name, *_ in plants})
    _, summary = prepared_set.prepare_samples(args.folder, args.outdir, prepare, plants, args.workers, what='leaves')
    print(f'{summary} plants.')


if __name__ == '__main__':
    command_line.run(main)
