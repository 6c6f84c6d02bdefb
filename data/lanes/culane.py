"""CULane's measure of lanes: drawn 30 px wide, a prediction is a hit if its IoU with a label lane is above 0.5.

The rules are those of the data set's own program (github.com/XingangPan/SCNN, tools/lane_evaluation): the photo is
scaled to a width of 1640 px, label lanes and predictions are assigned one to one with the highest sum of IoUs, and
precision, recall and F1 count the lanes of all photos together. A lane of one point counts, but is never a hit. Two
things differ: that program draws a spline through the points of a lane, this one straight pieces, which is close enough
for points every 5 or 10 rows (on labels of CULane and TuSimple, the IoU of one with the other is 0.97 to 0.99); and a
lane without points, as in some labels of TuSimple, does not count.
"""

import collections
import dataclasses

import cv2
import numpy as np
from scipy import optimize

from data.common import pictures, precision_recall
from data.common.command_line import InputError

CANVAS_WIDTH = 1640  # px, of CULane's photos
LANE_WIDTH = 30  # px of the canvas
MIN_IOU = 0.5  # of a hit, which is above it
_MAX_HEIGHT = 8 * CANVAS_WIDTH  # px; a taller photo is a mistake, and lanes on it would take all memory

PhotoScore = collections.namedtuple('PhotoScore', 'raw_file f1 hits label_lanes predicted_lanes')


# ---- Lanes on the canvas ---------------------------------------------------------------------------------------------

def canvas_size(photo_size):
    """photo_size: (width, height) in px -> (width, height) of the canvas. Raises InputError if that is too tall."""
    width, height = photo_size
    size = CANVAS_WIDTH, max(round(CANVAS_WIDTH * height / width), 1)
    if size[1] > _MAX_HEIGHT:
        raise InputError(f'photos of {width}x{height} px are too tall and narrow to measure lanes on')
    return size


def draw_lane(lane, h_samples, photo_size):
    """A lane on the canvas, straight from point to point, also across rows where it is absent.

    lane, h_samples: x and y in px of the photo; x < 0: absent
    -> uint8 [height, CANVAS_WIDTH], 1 on the lane; all 0 for fewer than two points
    """
    size = canvas_size(photo_size)
    mask = np.zeros(size[::-1], np.uint8)
    points = CANVAS_WIDTH / photo_size[0] * np.array([(x, y) for x, y in zip(lane, h_samples) if x >= 0], np.float64)
    if len(points) > 1:
        # OpenCV takes coordinates of 32 bits; whatever is this far outside looks the same from inside.
        points = np.minimum(np.rint(points), 2 ** 20).astype(np.int32)
        cv2.polylines(mask, [points], False, 1, LANE_WIDTH, cv2.LINE_8)
    return mask


def lane_ious(pred_lanes, gt_lanes, h_samples, photo_size):
    """IoU of each label lane with each prediction. -> float64 [label lanes, predicted lanes]"""
    ious = np.zeros([len(gt_lanes), len(pred_lanes)])
    masks = [draw_lane(lane, h_samples, photo_size) for lane in gt_lanes]
    areas = [cv2.countNonZero(mask) for mask in masks]
    for j, lane in enumerate(pred_lanes if gt_lanes else []):
        predicted = draw_lane(lane, h_samples, photo_size)
        area = cv2.countNonZero(predicted)
        for i, mask in enumerate(masks):
            overlap = cv2.countNonZero(cv2.bitwise_and(mask, predicted))
            ious[i, j] = overlap / max(areas[i] + area - overlap, 1)
    return ious


def find_hits(ious):
    """The pairs of the one-to-one assignment that are hits. -> (label lanes, predicted lanes), indices, int [hits]"""
    labelled, predicted = optimize.linear_sum_assignment(ious, maximize=True)
    hit = ious[labelled, predicted] > MIN_IOU
    return labelled[hit], predicted[hit]


# ---- Photos ----------------------------------------------------------------------------------------------------------

def without_absent(record):
    """-> the tusimple.Record without the lanes that have no point"""
    kept = [i for i, lane in enumerate(record.lanes) if any(x >= 0 for x in lane)]
    lists = {name: [getattr(record, name)[i] for i in kept] for name in ('lanes', 'ids', 'confidence')
             if getattr(record, name) is not None}
    return dataclasses.replace(record, **lists)


def check_labels(labels, photo_size):
    """Raises InputError if a lane lies so far outside that the photos must be of another size."""
    width, height = photo_size
    for label in labels:
        points = [(x, y) for lane in label.lanes for x, y in zip(lane, label.h_samples) if x >= 0]
        if points and (np.array(points) > np.multiply(1.1, photo_size)).any():
            raise InputError(f'{label.source}: has lanes outside a photo of {width}x{height} px; give --photo-size')


def f_measure(hits, labelled, predicted):
    """Precision, recall and F1 of numbers of lanes. 0 / 0 is 1 if there are no lanes at all, else 0. -> 3 floats"""
    nothing = float(not labelled and not predicted)
    return (hits / predicted if predicted else nothing, hits / labelled if labelled else nothing,
            2 * hits / (labelled + predicted) if labelled or predicted else nothing)


def score(pairs, ious):
    """pairs: list of (prediction, label), tusimple.Records; ious: of each, as lane_ious returns them

    -> ((precision, recall, F1), rows): over the lanes of all photos, and a PhotoScore per photo
    """
    rows = []
    for (prediction, label), values in zip(pairs, ious):
        lanes = len(find_hits(values)[0]), len(label.lanes), len(prediction.lanes)
        rows.append(PhotoScore(label.raw_file, f_measure(*lanes)[2], *lanes))
    return f_measure(*(sum(row[i] for row in rows) for i in (2, 3, 4))), rows


def count_by_confidence(prediction, label, ious):
    """What precision_recall.curve takes of a photo; ious: as lane_ious returns them. Raises InputError as that does."""
    order = precision_recall.sort_by_confidence(prediction)
    hits = [len(find_hits(ious[:, order[:k]])[0]) for k in range(len(order) + 1)]
    return prediction.confidence, hits, hits, len(label.lanes)


def worst_first(rows):
    """-> PhotoScores by rising F1, then falling numbers of missed label lanes and of wrong predictions"""
    return sorted(rows, key=lambda row: (row.f1, row.hits - row.label_lanes, row.hits - row.predicted_lanes))


def draw_comparison(photo, prediction, label, row, photo_size, colours):
    """Tints a photo where lanes are, strongly where they are not hits, with two lines of text above.

    Missed label lanes have their best IoU beside them.

    photo: uint8 [h, w, 3] RGB; photo_size: (width, height) that the lanes are of, px
    colours: RGB of label, prediction and text
    -> uint8 [canvas height + 64, CANVAS_WIDTH, 3]
    """
    ious = lane_ious(prediction.lanes, label.lanes, label.h_samples, photo_size)
    picture = pictures.resize_image(photo, canvas_size(photo_size))
    text = []
    for lanes, hits, colour in zip((label.lanes, prediction.lanes), find_hits(ious), colours):
        for i, lane in enumerate(lanes):
            mask = draw_lane(lane, label.h_samples, photo_size) > 0
            strength = 0.3 if i in hits else 0.6
            picture[mask] = np.uint8((1 - strength) * picture[mask] + strength * np.array(colour))
            if lanes is label.lanes and i not in hits and mask.any():
                y, x = np.argwhere(mask)[-1].tolist()
                text.append((f'missed: {ious[i].max(initial=0):.2f}', (min(x, CANVAS_WIDTH - 150), y - 16)))
    head = np.zeros([64, CANVAS_WIDTH, 3], np.uint8)
    picture = np.concatenate([head, picture])
    text = [(line, (x, y + 64)) for line, (x, y) in text]
    text += [(f'{row.raw_file!a}: F1 {row.f1:.3f}', (8, 24)),
             (f'{row.label_lanes} label lanes green, {row.predicted_lanes} predicted red, {row.hits} hits; '
              'strong: missed, or no hit', (8, 54))]
    for line, position in text:
        cv2.putText(picture, line, position, cv2.FONT_HERSHEY_SIMPLEX, 0.7, colours[2], 1, cv2.LINE_AA)
    return picture
