"""Prepares a TuSimple folder for training: images and labels of the same names.

    python data/tusimple_dataset_processing.py TUSIMPLE/train_set
    python data/tusimple_dataset_processing.py TUSIMPLE/train_set --outdir prepared

Reads every label_data_*.json and writes images/NNNN.png, labels/NNNN.png (background 0, lane i a line 7 px wide of grey
value 20 + 50 i) and lanes.json, the lanes in TuSimple's format. Unusable lines are reported and skipped. The output
appears once it is complete, and replaces that of an earlier run.
"""
import fnmatch
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import numpy as np

from data.common import command_line, files, prepared_set
from data.common.command_line import InputError
from data.lanes import tusimple

IGNORED = 255   # grey value of ignored pixels


def draw_own_lane(record, size):
    """The label of tusimple.draw_label, with IGNORED where there may be unlabelled lines. -> uint8 [height, width]

    The lane, a margin of a third of its width and everything above the horizon, where straight continuations of the
    lines meet, are known to be background. Below the ends of both lines, where a hood begins, lane and margin extend to
    the lower border. The continuation of a line that ends before the other is ignored, too. Lengths are for 1280 x 720.
    record: a tusimple.Record, whose outermost lanes are used. size: (width, height) of the image in px
    Raises InputError like tusimple.draw_label, and if no lane has two points.
    """
    width, height = size
    label = tusimple.draw_label(record, size)
    lines = [np.array([(y, x) for x, y in zip(lane, record.h_samples) if x >= 0]) for lane in record.lanes]
    lines = sorted((line for line in lines if len(line) > 1), key=lambda line: line[:, 1].mean())
    if not lines:
        raise InputError(f'{record.source}: has no line, so nothing is known about the image')
    rows, column, scale = np.arange(height), np.arange(width), height / 720
    first, last = min(line[0, 0] for line in lines), max(line[-1, 0] for line in lines)
    left, right = (_continue(line, rows) for line in (lines[0], lines[-1]))
    if len(lines) > 1:
        margin = 0.35 * (right - left)
        meeting = rows[(rows < first) & (left >= right)].max(initial=0) - 15 * scale
    else:
        margin = 0.15 * (rows - first) + 15 * scale
        meeting = first - 40 * scale
    margin = np.clip(margin, 10 * width / 1280, 90 * width / 1280)[:, None]
    horizon = np.clip(meeting, first - 120 * scale, first - 20 * scale)
    begin, end = np.minimum(left, right)[:, None], np.maximum(left, right)[:, None]
    known = (column >= begin - margin) & (column <= end + margin) & (rows >= first)[:, None]
    for line, x in ((lines[0], left), (lines[-1], right)):
        at_side = not width / 32 < line[-1, 1] < width - width / 32
        unfinished = (rows > line[-1, 0]) & (rows <= last) & (line[-1, 0] < last - 12 * scale) & (not at_side)
        unfinished |= (rows < line[0, 0]) & (line[0, 0] > first + 12 * scale)
        known &= ~(unfinished[:, None] & (np.abs(column - x[:, None]) <= margin))
    label[(label == 0) & ~known & (rows >= horizon)[:, None]] = IGNORED
    return label


def _continue(line, rows):
    """The x of a line (y, x) [points, 2] in all rows, straight beyond its ends. -> float64 [rows]"""
    x, part = np.interp(rows, *line.T), max(2, len(line) // 3)
    for end, points, beyond in ((line[0], line[:part], rows < line[0, 0]),
                                (line[-1], line[-part:], rows > line[-1, 0])):
        x[beyond] = end[1] + np.polyfit(*points.T, 1)[0] * (rows[beyond] - end[0])
    return x


def main(argv=None):
    parser = prepared_set.parser(__doc__, 'images/, labels/ and lanes.json')
    parser.add_argument('train_data_dir', help='Folder with label_data_*.json and the images they refer to.')
    parser.add_argument('--own-lane', action='store_true',
                        help='Only the lines of the ego lane are labelled: ignore everything beyond, for training.py '
                             f'--ignore {IGNORED}.')
    args = parser.parse_args(argv)
    names = fnmatch.filter(files.list_folder(args.train_data_dir), 'label_data_*.json')
    if not names:
        raise InputError(f'{args.train_data_dir}: holds no label_data_*.json; give the folder that does')
    found = [tusimple.read_records(os.path.join(args.train_data_dir, name)) for name in names]
    records, problems = (sum(lists, []) for lists in zip(*found))
    if repeated := len(records) - len({record.raw_file for record in records}):
        command_line.warn(f'{repeated} label lines repeat an image; it may be used in both training and validation')
    prepared_set.write_lanes(records, args.train_data_dir, args.outdir, args.workers, problems,
                             draw=draw_own_lane if args.own_lane else tusimple.draw_label)


if __name__ == '__main__':
    command_line.run(main)
