"""CULane's lane metric: lanes are drawn 30 px wide; a prediction is a hit if its IoU with a label lane is above 0.5.

As in the official program (github.com/XingangPan/SCNN, tools/lane_evaluation), the image is scaled to a width of
1640 px, label lanes and predictions are assigned one to one with the highest total IoU, and precision, recall and F1
count the lanes of all images together. A lane of one point counts, but is never a hit. Two differences: lanes are drawn
as straight segments rather than splines, which for points every 5 or 10 rows is close (IoU 0.97 to 0.99 on labels of
CULane and TuSimple), and lanes without points, as in some TuSimple labels, do not count.
"""
import collections
import os
import pathlib

import cv2
import numpy as np
from scipy import optimize

from data.common import files
from data.common.command_line import InputError
from data.lanes import tusimple

LINES = '.lines.txt'  # ending of a file name
_CANVAS_WIDTH = 1640  # px, of CULane's images

PhotoScore = collections.namedtuple('PhotoScore', 'raw_file f1 hits label_lanes predicted_lanes')
Lanes = collections.namedtuple('Lanes', 'raw_file lanes source confidence')
Lanes.__doc__ = """The lanes of an image, each as points (x, y) in px, float64 [points, 2]; the rest as in Record."""


def from_record(record, h_samples):
    """-> the Lanes of a tusimple.Record in rows h_samples. Raises InputError if a lane differs in length."""
    if any(len(lane) != len(h_samples) for lane in record.lanes):
        raise InputError(f'{record.source}: a lane does not have the {len(h_samples)} points of its h_samples')
    lanes = [tusimple.lane_points(lane, h_samples) for lane in record.lanes]
    confidence = record.confidence and [value for value, lane in zip(record.confidence, lanes) if len(lane)]
    return Lanes(record.raw_file, [lane for lane in lanes if len(lane)], record.source, confidence)


def check_labels(labels, photo_size):
    """Raises InputError if a lane lies so far outside that the images must have another size. labels: list of Lanes"""
    for label in labels:
        if any((lane > np.multiply(1.1, photo_size)).any() for lane in label.lanes):
            raise InputError(f'{label.source}: has lanes outside an image of {photo_size[0]}x{photo_size[1]} px; give '
                             '--photo-size')


def _draw_lane(lane, photo_size):
    """Draws points (x, y) in px of the image, if at least two. -> uint8 [height, width] of the canvas, 1 on the lane"""
    width, height = photo_size
    mask = np.zeros([max(round(_CANVAS_WIDTH * height / width), 1), _CANVAS_WIDTH], np.uint8)
    if len(lane) > 1:
        # Clipped to OpenCV's 32-bit coordinates; points this far outside look the same.
        points = np.clip(np.rint(_CANVAS_WIDTH / width * lane), -2 ** 20, 2 ** 20).astype(np.int32)
        cv2.polylines(mask, [points], False, 1, 30, cv2.LINE_8)
    return mask


def lane_ious(pred_lanes, gt_lanes, photo_size):
    """IoU of each label lane with each prediction; lanes as in Lanes. -> float64 [label lanes, predicted lanes]"""
    labelled, predicted = ([_draw_lane(lane, photo_size) for lane in lanes] for lanes in (gt_lanes, pred_lanes))
    ious = [cv2.countNonZero(one & other) / max(cv2.countNonZero(one | other), 1)
            for one in labelled for other in predicted]
    return np.reshape(ious, [len(labelled), len(predicted)])


def count_hits(ious):
    """-> the number of hits in the one-to-one assignment"""
    return np.count_nonzero(ious[optimize.linear_sum_assignment(ious, maximize=True)] > 0.5)


def _f_measure(hits, labelled, predicted):
    """Precision, recall and F1 from numbers of lanes; 1 if there are none at all. -> 3 floats"""
    if not labelled and not predicted:
        return 1., 1., 1.
    return hits / max(predicted, 1), hits / max(labelled, 1), 2 * hits / (labelled + predicted)


def score(pairs, ious):
    """Scores pairs (prediction, label) of Lanes by their lane_ious. -> ((precision, recall, F1), list of PhotoScore)"""
    rows = []
    for (prediction, label), values in zip(pairs, ious):
        lanes = count_hits(values), len(label.lanes), len(prediction.lanes)
        rows.append(PhotoScore(label.raw_file, _f_measure(*lanes)[2], *lanes))
    return _f_measure(*(sum(row[i] for row in rows) for i in (2, 3, 4))), rows


# ---- Files -----------------------------------------------------------------------------------------------------------

def read_photo(folder, raw_file):
    """Reads the .lines.txt next to an image, a lane per line: x y x y ... in px. -> Lanes. Raises InputError."""
    path, lanes = os.path.join(folder, os.path.splitext(raw_file)[0] + LINES), []
    for number, line in enumerate(files.read_file(path, tusimple.MAX_FILE_BYTES).splitlines(), 1):
        try:
            lane = np.array(line.split(), np.float64).reshape(-1, 2)
            if not (np.abs(lane) < 1e9).all():
                raise ValueError
        except ValueError:
            raise InputError(f'{path}:{number}: is not a lane, x y x y ... in px') from None
        lanes += [lane] if len(lane) else []
    return Lanes(raw_file, lanes, path, None)


def find_lines(folder):
    """-> the sorted paths NAME.jpg, relative to a folder, of the NAME.lines.txt in it and below. Raises InputError."""
    files.list_folder(folder)
    found = sorted(str(path.relative_to(folder)).removesuffix(LINES) + '.jpg'
                   for path in pathlib.Path(folder).rglob('*' + LINES))
    if not found:
        raise InputError(f'{folder}: holds no *{LINES}')
    return found


def write_lines(path, lanes, h_samples):
    """Writes the lanes of an image as a .lines.txt, from its bottom up. lanes, h_samples: as in tusimple.Record"""
    points = [lane[lane[:, 1].argsort()[::-1]] for lane in (tusimple.lane_points(lane, h_samples) for lane in lanes)]
    lines = [' '.join(f'{x:.2f} {y:.10g}' for x, y in lane) + '\n' for lane in points if len(lane)]
    files.write_file(path, ''.join(lines).encode())


def to_record(lanes):
    """Lanes -> tusimple.Record in the rows of their points. Points beyond the left or upper border are dropped."""
    rows = sorted({y for lane in lanes.lanes for y in lane[:, 1].tolist() if y >= 0}) or [0]
    columns = [dict(zip(lane[:, 1].tolist(), lane[:, 0].tolist())) for lane in lanes.lanes]
    lanes_in_rows = [[max(x_of.get(y, tusimple.ABSENT), tusimple.ABSENT) for y in rows] for x_of in columns]
    return tusimple.Record(lanes.raw_file, lanes_in_rows, rows, lanes.source)
