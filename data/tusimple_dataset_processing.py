"""Prepares a TuSimple folder for training: images and label pictures of the same names.

    python data/tusimple_dataset_processing.py TUSIMPLE/train_set
    python data/tusimple_dataset_processing.py TUSIMPLE/train_set --outdir prepared

Reads every label_data_*.json and writes images/NNNN.png, labels/NNNN.png (8 bits: background 0, lane i a line 7 px
thick of grey 20 + 50 i) and lanes.json, the lanes of these images in TuSimple's format, numbered over the usable lines.
Others are printed, as `file:line: reason`, and skipped. The output appears when all of it is ready, and replaces the
files of an earlier run.
"""
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from data.common import command_line
from data.lanes import prepared_lanes, tusimple


def parse_args(argv=None):
    parser = command_line.Parser(description=__doc__)
    parser.add_argument('train_data_dir', help='Folder with label_data_*.json and the images that they name.')
    parser.add_argument('-o', '--outdir', default=os.path.dirname(os.path.abspath(__file__)),
                        help='Folder for images/, labels/ and lanes.json.')
    parser.add_argument('--workers', type=command_line.workers, default=os.cpu_count(),
                        help='Number of threads that decode and encode pictures, at most 4 per core.')
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    records, problems = [], []
    for path in tusimple.find_label_files(args.train_data_dir):
        for found, each in zip((records, problems), tusimple.read_records(path)):
            found += each
    if repeated := len(records) - len({record.raw_file for record in records}):
        command_line.warn(f'{repeated} label lines are of images that have another; validation may share them')
    prepared_lanes.write(records, args.train_data_dir, args.outdir, args.workers, problems)


if __name__ == '__main__':
    command_line.run(main)
