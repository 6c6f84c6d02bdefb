"""Prepares a TuSimple folder for training: images and label pictures of the same names.

    python data/tusimple_dataset_processing.py TUSIMPLE/train_set
    python data/tusimple_dataset_processing.py TUSIMPLE/train_set --outdir prepared

Reads every label_data_*.json and writes images/NNNN.png, labels/NNNN.png (8 bits: background 0, lane i a line 7 px
wide of grey value 20 + 50 i) and lanes.json, the lanes of these images in TuSimple's format. Unusable lines are
reported as `file:line: reason` and skipped. The output appears once it is complete, and replaces that of an earlier
run.
"""
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from data.common import command_line, preparation, prepared_set
from data.lanes import own_lane, tusimple


def main(argv=None):
    parser = preparation.parser(__doc__, 'images/, labels/ and lanes.json')
    parser.add_argument('train_data_dir', help='Folder with label_data_*.json and the images they refer to.')
    parser.add_argument('--own-lane', action='store_true',
                        help='Only the lines of the own lane are labelled: ignore what lies beyond, for training.py '
                             f'--ignore {own_lane.IGNORED}.')
    args = parser.parse_args(argv)
    records, problems = [], []
    for path in tusimple.find_label_files(args.train_data_dir):
        for found, each in zip((records, problems), tusimple.read_records(path)):
            found += each
    if repeated := len(records) - len({record.raw_file for record in records}):
        command_line.warn(f'{repeated} label lines repeat an image; it may be in both training and validation')
    prepared_set.write_lanes(records, args.train_data_dir, args.outdir, args.workers, problems,
                             draw=own_lane.draw_label if args.own_lane else tusimple.draw_label)


if __name__ == '__main__':
    command_line.run(main)
