"""Prepares the leaf segmentation data set of the CVPPP challenge for training.

    python data/cvppp_dataset_processing.py CVPPP/A1 --outdir leaves
    python data/cvppp_dataset_processing.py CVPPP --outdir leaves           # A1, A2, ... in it

Reads plantNNN_rgb.png and plantNNN_label.png, and writes images/A1_plantNNN.png (RGB) and labels/A1_plantNNN.png (8 or
16 bits: background 0, one value per leaf, as in the original), prefixed with the folder's name. Unusable plants are
reported and skipped. The output appears once it is complete, and replaces nothing.
"""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import numpy as np

from data.common import command_line, files, pictures, preparation, prepared_set
from data.common.command_line import InputError

PHOTO, LABEL = '_rgb.png', '_label.png'  # after the name of a plant


def find_plants(folder):
    """Finds plants in a folder, or else in its subfolders. -> [(name, path of the image, path of the label)], sorted

    Raises InputError if there are none.
    """
    inner = [os.path.join(folder, name) for name in files.list_folder(folder)]
    plants = []
    for source in [folder] + sorted({os.path.realpath(path) for path in inner if os.path.isdir(path)}):
        prefix = os.path.basename(os.path.realpath(source))
        names = {name.removesuffix(end) for end in (PHOTO, LABEL) for name in files.list_folder(source)
                 if name.endswith(end)}
        plants += [(f'{prefix}_{name}.png', *(os.path.join(source, name + end) for end in (PHOTO, LABEL)))
                   for name in sorted(names)]
        if source == folder and plants:
            break
    if not plants:
        raise InputError(f'{folder}: holds no plantNNN{PHOTO} with plantNNN{LABEL}, nor do the folders in it')
    return plants


def prepare(plant):
    """-> (name, image as the bytes of a PNG, label likewise, {'leaves': number}). Raises InputError."""
    name, *paths = plant
    photo, label = pictures.read_pair(*paths)
    return name, pictures.encode(photo), pictures.encode(label), {'leaves': np.unique(label[label > 0]).size}


def main(argv=None):
    parser = preparation.parser(__doc__)
    parser.add_argument('folder', metavar='DIR',
                        help='Folder with plantNNN_rgb.png and plantNNN_label.png, or a parent of such folders.')
    args = parser.parse_args(argv)
    plants = find_plants(args.folder)
    prepared_set.refuse_others(args.outdir, {name for name, *_ in plants})
    written, sums, skipped = prepared_set.prepare_samples(args.folder, args.outdir, prepare, plants, args.workers)
    print(f'Wrote {written} photos and {sums["leaves"]} leaves to {args.outdir}; skipped {skipped} plants.')


if __name__ == '__main__':
    command_line.run(main)
