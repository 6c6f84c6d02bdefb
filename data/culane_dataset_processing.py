"""Prepares CULane for training: images, labels of the same names, and lanes.json.

    python data/culane_dataset_processing.py CULANE CULANE/list/train.txt --outdir prepared

Reads NAME.lines.txt next to each NAME.jpg in LIST (one path per line, relative to DIR) or, without LIST, everywhere in
DIR and its subfolders. The output has the same layout as that of tusimple_dataset_processing.py.
"""
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from data.common import command_line, files, prepared_set
from data.lanes import culane, tusimple


def main(argv=None):
    parser = prepared_set.parser(__doc__, 'images/, labels/ and lanes.json')
    parser.add_argument('folder', metavar='DIR', help='CULane folder that contains the drive folders.')
    parser.add_argument('list', metavar='LIST', nargs='?', help='File with one image path per line.')
    args = parser.parse_args(argv)
    if args.list:
        lines = files.read_file(args.list, tusimple.MAX_FILE_BYTES).decode(errors='replace').splitlines()
        names = [line.split()[0].lstrip('/') for line in lines if line.strip()]   # train_gt.txt has more columns
    else:
        names = culane.find_lines(args.folder)
    problems = []
    lanes = prepared_set.usable(lambda name: culane.read_photo(args.folder, name), names, problems)
    records = list(map(culane.to_record, lanes))
    prepared_set.write_lanes(records, args.folder, args.outdir, args.workers, problems)


if __name__ == '__main__':
    command_line.run(main)
