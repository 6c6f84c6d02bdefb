"""Prepares the leaf segmentation data set of the CVPPP challenge for training.

    python data/cvppp_dataset_processing.py CVPPP/A1 --outdir leaves
    python data/cvppp_dataset_processing.py CVPPP --outdir leaves           # A1, A2, ... in it

Reads plantNNN_rgb.png and plantNNN_label.png, and writes images/A1_plantNNN.png (RGB) and labels/A1_plantNNN.png (8 or
16 bits: background 0, each leaf its own value, as in the original), the folder's name in front. Photos keep their
sizes. Other files (plantNNN_fg.png, plantNNN_centers.png) are not needed. A plant that cannot be used is printed, as
`file: reason`, and passed over.

The output appears when all of it is ready. A run that is stopped while it moves the files leaves a folder that training
refuses; run again, the script completes it. Nothing is ever replaced or deleted: an output folder with other pictures,
which training would read as well, is refused.
"""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from data.common import command_line

if __name__ == '__main__':
    command_line.exit_on_interrupt()   # the imports below take half a second

import numpy as np

from data.common import files, pictures, prepared_set
from data.common.command_line import InputError

PHOTO, LABEL = '_rgb.png', '_label.png'  # after the name of a plant


def parse_args(argv=None):
    parser = command_line.Parser(description=__doc__)
    data = parser.add_argument_group('data')
    data.add_argument('folder', metavar='DIR',
                      help='Folder with plantNNN_rgb.png and plantNNN_label.png, or with such folders in it.')
    data.add_argument('-o', '--outdir', default=os.path.dirname(os.path.abspath(__file__)),
                      help='Folder to write images/ and labels/ into.')
    speed = parser.add_argument_group('speed')
    speed.add_argument('--workers', type=command_line.workers, default=os.cpu_count(),
                       help='Number of threads that decode and encode pictures, at most 4 per core.')
    return parser.parse_args(argv)


def find_plants(folder):
    """Plants in a folder, or else in the folders in it. -> ([(name, path of photo, path of label)], problems), sorted

    problems: lines `file: reason` about photos without a label and labels without a photo
    Raises InputError if there are neither.
    """
    plants, problems = [], []
    inner = [os.path.join(folder, name) for name in files.list_folder(folder)]
    seen = set()
    for source in [folder] + [path for path in inner if os.path.isdir(path)]:
        if os.path.realpath(source) in seen:   # a link to another of them
            continue
        seen.add(os.path.realpath(source))
        names = set(files.list_folder(source))
        prefix = os.path.basename(os.path.realpath(source))
        for plant in sorted({name.removesuffix(end) for end in (PHOTO, LABEL) for name in names if name.endswith(end)}):
            photo, label = (os.path.join(source, plant + end) for end in (PHOTO, LABEL))
            if plant + LABEL not in names:
                problems.append(f'{photo}: has no {plant}{LABEL} beside it')
            elif plant + PHOTO not in names:
                problems.append(f'{label}: has no {plant}{PHOTO} beside it')
            else:
                plants.append((f'{prefix}_{plant}.png', photo, label))
        if source == folder and (plants or problems):
            break
    if not plants:
        more = f'; the first problem: {problems[0]}' if problems else ''
        raise InputError(f'{folder}: holds no plantNNN{PHOTO} with plantNNN{LABEL}, nor do the folders in it{more}')
    return plants, problems


def prepare(plant):
    """-> (name, photo as the bytes of a PNG, label likewise, {'leaves': number}). Raises InputError."""
    name, photo_path, label_path = plant
    photo, label = pictures.read_image(photo_path), pictures.read_label(label_path)
    if photo.shape[:2] != label.shape:
        raise InputError(f'{label_path}: is {label.shape[1]} x {label.shape[0]}, but its photo is '
                         f'{photo.shape[1]} x {photo.shape[0]}')
    return name, pictures.encode(photo), pictures.encode(label), {'leaves': np.unique(label[label > 0]).size}


def main():
    args = parse_args()
    plants, problems = find_plants(args.folder)
    prepared_set.refuse_others(args.outdir, {name for name, *_ in plants})
    written, sums, passed_over = prepared_set.prepare_samples(args.folder, args.outdir, prepare, plants, args.workers,
                                                              problems)
    print(f'Wrote {written} photos and {sums["leaves"]} leaves to {args.outdir}; passed over {passed_over} plants.')


if __name__ == '__main__':
    command_line.run(main)
