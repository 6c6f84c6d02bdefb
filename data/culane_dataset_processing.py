"""Prepares CULane for training: images and label pictures of the same names, and lanes.json.

    python data/culane_dataset_processing.py CULANE CULANE/list/train.txt --outdir prepared

Reads NAME.lines.txt next to each NAME.jpg in the list, one path per line relative to the folder, or, without a list,
all in the folder and its subfolders. The output is that of tusimple_dataset_processing.py. Unusable images are reported
and skipped.
"""
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from data.common import command_line, files, preparation, prepared_set
from data.lanes import culane, prepared_lanes, tusimple


def read_list(path):
    """-> the paths of images in a file, relative to the folder. Raises InputError."""
    lines = files.read_file(path, tusimple.MAX_FILE_BYTES).decode(errors='replace').splitlines()
    return [line.split()[0].lstrip('/') for line in lines if line.strip()]   # train_gt.txt has more columns


def read_record(folder, name, source):
    """-> tusimple.Record of the image at a path listed in source. Raises InputError."""
    tusimple.photo_path(folder, tusimple.Record(name, [], [], source))
    return culane.to_record(culane.read_photo(folder, name))


def main(argv=None):
    parser = preparation.parser(__doc__, 'images/, labels/ and lanes.json')
    parser.add_argument('folder', metavar='DIR', help='CULane folder that contains the drive folders.')
    parser.add_argument('list', metavar='LIST', nargs='?', help='File with one image path per line.')
    args = parser.parse_args(argv)
    names, problems = read_list(args.list) if args.list else culane.find_lines(args.folder), []
    records = list(prepared_set.usable(lambda name: read_record(args.folder, name, args.list), names, problems))
    prepared_lanes.write(records, args.folder, args.outdir, args.workers, problems)


if __name__ == '__main__':
    command_line.run(main)
