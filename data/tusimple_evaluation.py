"""Scores lane predictions with the official TuSimple metric, or with CULane's.

    python data/tusimple_evaluation.py predictions.json TUSIMPLE/val_set/label_data_0000.json
    python data/tusimple_evaluation.py predictions.json labels.json --per-image scores.csv --worst worst
    python data/tusimple_evaluation.py predictions.json labels.json --measure culane

Prints the benchmark's JSON list of Accuracy, FP and FN. Both files hold one JSON object per line; a prediction
needs raw_file, lanes at the h_samples of its label, and run_time in ms.

The rules are those of the benchmark's own program (github.com/TuSimple/tusimple-benchmark, evaluate/lane.py),
reproduced to the last digit, including its corner cases: a label lane without points counts as a lane; one
prediction may be the best match of two lanes, so that FP can fall below 0.

--measure culane prints precision, recall and F1 at an IoU above 0.5 of lanes 30 px wide, on photos scaled to a width of
1640 px; run_time does not matter. The size of the photos is that of the first label's photo, where it lies beside the
label file, otherwise 1280x720; --photo-size names another. data/lanes/culane.py has the rules.

--precision-recall writes the precision and recall of all lanes whose confidence is not below a threshold, for each
confidence that occurs, and prints the threshold of the best F1. By TuSimple's measure a prediction is right if it is
0.85 accurate on a label lane, and label lanes are found as FN counts them, over the lanes of all photos together; the
limits of run_time and of the number of lanes do not apply.
"""
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from data.common import command_line

if __name__ == '__main__':
    command_line.exit_on_interrupt()   # the imports below take half a second

import collections
import functools
import json

import cv2
import numpy as np
import tqdm

from data.common import evaluation_report, files, pictures, precision_recall
from data.lanes import tusimple
from data.common.command_line import InputError

PIXEL_THRESHOLD = 20  # px between two vertical lanes
MATCH_ACCURACY = 0.85  # a label lane whose best prediction is less accurate is missed
MAX_RUN_TIME = 200  # ms per photo
MAX_EXTRA_LANES = 2  # predicted lanes beyond the number of label lanes
COUNTED_LANES = 4  # of more label lanes, the worst is ignored and one miss forgiven

DEFAULT_PHOTO_SIZE = 1280, 720  # px, of TuSimple's photos

COLOURS = LABEL_COLOUR, PREDICTION_COLOUR, TEXT_COLOUR = (0, 220, 0), (255, 40, 40), (255, 255, 255)  # RGB

PhotoScore = collections.namedtuple(
    'PhotoScore', 'raw_file accuracy fp fn label_lanes predicted_lanes run_time')
PhotoScore.__doc__ = """The score of a photo, the numbers of its lanes, and the prediction's run_time in ms or None."""


# ---- The metric ------------------------------------------------------------------------------------------------------

def lane_threshold(lane, h_samples):
    """Distance in x below which a prediction is right: 20 px / cos(angle of the label lane to the vertical). -> px

    lane: x in px at h_samples, negative where it is absent. The angle is that of the least-squares line x = k y + b
    through the points with x >= 0; 0 for fewer than two points.
    """
    lane, h_samples = np.asarray(lane), np.asarray(h_samples)
    x, y = lane[lane >= 0], h_samples[lane >= 0]
    k = 0.
    if len(x) > 1:
        # The steps of scikit-learn's LinearRegression, which the benchmark uses, so that the last bits agree.
        y = y[:, None].astype(np.float64)
        x = x.astype(np.float64)
        k = np.linalg.lstsq(y - np.average(y, axis=0), x - np.average(x), rcond=None)[0][0]
    return PIXEL_THRESHOLD / np.cos(np.arctan(k))


def lane_accuracy(predicted, lane, threshold):
    """Share of the rows in which two lanes are closer than threshold, or both absent.

    predicted: x in px, [..., rows]; lane: x in px, [rows] -> float64 [...]
    """
    predicted, lane = np.asarray(predicted), np.asarray(lane)
    predicted, lane = np.where(predicted >= 0, predicted, -100), np.where(lane >= 0, lane, -100)
    return np.count_nonzero(np.abs(predicted - lane) < threshold, axis=-1) / len(lane)


def lane_accuracies(pred_lanes, gt_lanes, h_samples):
    """lane_accuracy of each label lane with each prediction. -> float64 [label lanes, predicted lanes]"""
    predicted = np.reshape(pred_lanes, [len(pred_lanes), len(h_samples)])
    accuracies = [lane_accuracy(predicted, lane, lane_threshold(lane, h_samples)) for lane in gt_lanes]
    return np.reshape(accuracies, [len(gt_lanes), len(pred_lanes)])


def score_photo(pred_lanes, gt_lanes, h_samples, run_time=0):
    """The score of one photo.

    pred_lanes, gt_lanes: sequences of lanes, each x in px at h_samples, negative where the lane is absent
    run_time: ms
    -> (accuracy, fp, fn), floats
    """
    if run_time > MAX_RUN_TIME or len(pred_lanes) > len(gt_lanes) + MAX_EXTRA_LANES:
        return 0., 0., 1.
    best = lane_accuracies(pred_lanes, gt_lanes, h_samples).max(axis=1, initial=0).tolist()
    missed = sum(accuracy < MATCH_ACCURACY for accuracy in best)
    fp = (len(pred_lanes) - (len(gt_lanes) - missed)) / len(pred_lanes) if len(pred_lanes) else 0.
    total = 0.
    for accuracy in best:  # not sum(), which rounds differently from Python 3.12 on
        total += accuracy
    if len(gt_lanes) > COUNTED_LANES:
        total -= min(best)
        missed = max(missed - 1, 0)
    counted = max(min(len(gt_lanes), COUNTED_LANES), 1)
    return total / counted, fp, missed / counted


def count_by_confidence(prediction, label):
    """What precision_recall.curve takes of a photo. Raises InputError if the prediction has no confidence."""
    order = precision_recall.sort_by_confidence(prediction)
    accuracies = lane_accuracies(prediction.lanes, label.lanes, label.h_samples)[:, order]
    matches = np.pad(accuracies >= MATCH_ACCURACY, [(0, 0), (1, 0)])   # first, what no prediction matches
    right = np.cumsum(matches.any(axis=0))
    missed = len(label.lanes) - np.logical_or.accumulate(matches, axis=1).sum(axis=0)
    if len(label.lanes) > COUNTED_LANES:
        missed = np.maximum(missed - 1, 0)
    counted = min(len(label.lanes), COUNTED_LANES)
    return prediction.confidence, right, counted - np.minimum(missed, counted), counted


def score(predictions, labels, ignore_run_time=False):
    """The mean score of photos, each of which must have exactly one prediction.

    predictions, labels: lists of tusimple.Record, matched by raw_file; a prediction's h_samples may be empty
    ignore_run_time: slow predictions, and those without a run_time, count as fast ones
    -> ((accuracy, fp, fn), rows): means over the photos, and a PhotoScore per photo in the order of the predictions.
    Raises InputError if a prediction does not fit the labels or a photo has none.
    """
    rows = []
    for prediction, label in match_photos(predictions, labels, ignore_run_time):
        values = score_photo(prediction.lanes, label.lanes, label.h_samples,
                             0 if ignore_run_time else prediction.run_time)
        rows.append(PhotoScore(label.raw_file, *values, len(label.lanes), len(prediction.lanes),
                               prediction.run_time))
    means = []
    for values in zip(*((row.accuracy, row.fp, row.fn) for row in rows)):
        total = 0.
        for value in values:
            total += value
        means.append(total / len(rows))
    return tuple(means), rows


def match_photos(predictions, labels, ignore_run_time=False):
    """-> list of (prediction, label), in the order of the predictions. Arguments and errors: see score."""
    labels_of = {}
    for label in labels:
        if label.raw_file in labels_of:
            raise InputError(f'{label.source}: raw_file {label.raw_file!a} is labelled a second time')
        labels_of[label.raw_file] = label
    pairs, waiting = [], dict(labels_of)
    for prediction in predictions:
        label = labels_of.get(prediction.raw_file)
        _check(prediction, label, prediction.raw_file in waiting, ignore_run_time)
        del waiting[prediction.raw_file]
        pairs.append((prediction, label))
    if waiting:
        first = next(iter(waiting.values()))
        raise InputError(f'{first.source}: raw_file {first.raw_file!a} has no prediction '
                         f'({len(waiting)} of {len(labels)} photos have none)')
    if not pairs:
        raise InputError('there are no labels to score predictions by')
    return pairs


def _check(prediction, label, is_first, ignore_run_time):
    name = f'{prediction.source}: raw_file {prediction.raw_file!a}'
    if label is None:
        raise InputError(f'{name} is not in the labels')
    if not is_first:
        raise InputError(f'{name} is predicted a second time')
    if prediction.run_time is None and not ignore_run_time:
        raise InputError(f'{prediction.source}: has no "run_time" (ms); --ignore-run-time scores without it')
    for i, lane in enumerate(prediction.lanes):
        if len(lane) != len(label.h_samples):
            raise InputError(f'{prediction.source}: lane {i} has {len(lane)} points, but its label '
                             f'({label.source}) has {len(label.h_samples)} h_samples')
    if len(prediction.h_samples) and list(prediction.h_samples) != list(label.h_samples):
        raise InputError(f'{prediction.source}: its h_samples are not those of its label ({label.source})')


# ---- Reports ---------------------------------------------------------------------------------------------------------

def worst_first(rows):
    """-> PhotoScores by rising accuracy, then falling fn and fp"""
    return sorted(rows, key=lambda row: (row.accuracy, -row.fn, -row.fp))


def draw_comparison(photo, prediction, label, row):
    """Draws both sets of lanes on a photo, with two lines of text above.

    Lanes that lower the score are thick: label lanes that no prediction matches, with their accuracy, and
    predictions that are not the best match of any label lane.

    photo: uint8 [h, w, 3] RGB -> uint8 [h + 64, w, 3]
    """
    accuracies = lane_accuracies(prediction.lanes, label.lanes, label.h_samples)
    best = accuracies.max(axis=1, initial=0)
    found = best >= MATCH_ACCURACY
    used = set(accuracies[found].argmax(axis=1).tolist()) if found.any() else set()
    picture = photo.copy()
    feet = [_draw_lane(picture, lane, label.h_samples, LABEL_COLOUR, 3 if found[i] else 9)
            for i, lane in enumerate(label.lanes)]
    for j, lane in enumerate(prediction.lanes):
        _draw_lane(picture, lane, label.h_samples, PREDICTION_COLOUR, 2 if j in used else 6)
    for i, foot in enumerate(feet):
        if foot is not None and not found[i]:
            position = min(foot[0] + 16, picture.shape[1] - 150), foot[1] - 16
            _text(picture, f'missed: {best[i]:.2f}', position)
    head = np.zeros([64, picture.shape[1], 3], np.uint8)
    run_time = '' if row.run_time is None else f', {row.run_time:.0f} ms'
    score_text = f'accuracy {row.accuracy:.3f}, FP {row.fp:.2f}, FN {row.fn:.2f}{run_time}'
    _text(head, f'{row.raw_file!a}: {score_text}', (8, 24))
    _text(head, f'{row.label_lanes} label lanes green, {row.predicted_lanes} predicted red; '
                'thick: missed, or the best match of none', (8, 54))
    return np.concatenate([head, picture])


def _draw_lane(picture, lane, h_samples, colour, width):
    """Draws a lane. -> its lowest point (x, y), None without points"""
    # OpenCV takes coordinates of 32 bits; whatever is this far outside looks the same from inside.
    points = [(min(round(x), 2 ** 20), min(round(y), 2 ** 20)) for x, y in zip(lane, h_samples) if x >= 0]
    if not points:
        return None
    cv2.polylines(picture, [np.array(points, np.int32)], False, colour, width, cv2.LINE_AA)
    for point in points:
        cv2.circle(picture, point, width // 2 + 1, colour, cv2.FILLED, cv2.LINE_AA)  # so that a single point is visible
    return max(points, key=lambda point: point[1])


def _text(picture, text, position):
    """Writes text on black, its lower left corner at position (x, y)."""
    (width, height), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.7, 1)
    x, y = position
    cv2.rectangle(picture, (x - 4, y - height - 4), (x + width + 4, y + below), (0, 0, 0), cv2.FILLED)
    cv2.putText(picture, text, position, cv2.FONT_HERSHEY_SIMPLEX, 0.7, TEXT_COLOUR, 1, cv2.LINE_AA)


# ---- The script ------------------------------------------------------------------------------------------------------

def parse_args(argv=None):
    parser = command_line.Parser(description=__doc__)
    paths = parser.add_argument_group('files')
    paths.add_argument('predictions', help='File of predicted lanes, as written by inference.py --json.')
    paths.add_argument('labels',
                       help='File of label lanes: a label_data_*.json, or lanes.json of a prepared folder.')
    reports = parser.add_argument_group('reports')
    reports.add_argument('--per-image', metavar='FILE',
                         help='CSV file to write the score of each photo into, worst first.')
    reports.add_argument('--worst', metavar='DIR',
                         help='Folder to write the worst photos into, with both sets of lanes.')
    reports.add_argument('--worst-num', metavar='N', type=command_line.positive_int, default=20,
                         help='Number of photos that --worst draws.')
    reports.add_argument('--precision-recall', metavar='FILE',
                         help='CSV file to write precision and recall over the confidence of lanes into, or, if it '
                              'ends in .png, a plot of them.')
    rules = parser.add_argument_group('rules')
    rules.add_argument('--ignore-run-time', action='store_true',
                       help='Score as if no photo had taken more than 200 ms; run_time need not be there.')
    rules.add_argument('--measure', choices=['tusimple', 'culane'], default='tusimple',
                       help="Accuracy, FP and FN as TuSimple's program, or precision, recall and F1 as CULane's.")
    rules.add_argument('--photo-size', nargs=2, metavar=('W', 'H'), type=command_line.positive_int,
                       help='Size of the photos that the lanes are of, px, for --measure culane (default: that of the '
                            "first label's photo if it is there, else 1280 720).")
    args = parser.parse_args(argv)
    if args.photo_size and args.measure != 'culane':
        parser.error('--photo-size is of use with --measure culane only')
    return args


def read_all(path, **kwargs):
    """-> records of a file, see tusimple.read_records. Raises InputError if a line cannot be used or there is none."""
    records, problems = tusimple.read_records(path, **kwargs)
    if problems:
        more = f' ({len(problems)} such lines)' if len(problems) > 1 else ''
        raise InputError(problems[0] + more)
    if not records:
        raise InputError(f'{path}: holds no lines')
    return records


def find_photo_size(labels, labels_path):
    """-> (width, height) of the first label's photo, DEFAULT_PHOTO_SIZE if it is not there"""
    path = tusimple.photo_path(os.path.dirname(labels_path), labels[0])
    return pictures.read_image(path).shape[1::-1] if os.path.exists(path) else DEFAULT_PHOTO_SIZE


def score_culane(args, predictions, labels):
    """Prints CULane's measure. -> (culane.PhotoScores, worst first; what draws a photo). Raises InputError."""
    from data.lanes import culane  # here: SciPy takes a moment
    size = tuple(args.photo_size or find_photo_size(labels, args.labels))
    culane.canvas_size(size)
    culane.check_labels(labels, size)
    pairs = match_photos(predictions, labels, ignore_run_time=True)
    pairs = [tuple(map(culane.without_absent, pair)) for pair in pairs]
    ious = [culane.lane_ious(prediction.lanes, label.lanes, label.h_samples, size)
            for prediction, label in tqdm.tqdm(pairs, unit='photo', disable=None)]
    (precision, recall, f1), rows = culane.score(pairs, ious)
    photos = args.precision_recall and [culane.count_by_confidence(*pair, values) for pair, values in zip(pairs, ious)]
    print(f'{len(rows)} photos of {size[0]}x{size[1]}, {sum(row.label_lanes for row in rows)} labelled and '
          f'{sum(row.predicted_lanes for row in rows)} predicted lanes')
    for name, value in (('precision', precision), ('recall', recall), ('F1', f1)):
        print(f'{name:<10}{value:.4f}')
    if photos:
        report_curve(args.precision_recall, photos, 'IoU above 0.5')
    return culane.worst_first(rows), functools.partial(culane.draw_comparison, photo_size=size, colours=COLOURS)


def score_tusimple(args, predictions, labels):
    """Prints the benchmark's list. -> (PhotoScores, worst first; what draws a photo). Raises InputError."""
    (accuracy, fp, fn), rows = score(predictions, labels, args.ignore_run_time)
    photos = args.precision_recall and [count_by_confidence(*pair) for pair in match_photos(predictions, labels, True)]
    print(json.dumps([{'name': 'Accuracy', 'value': accuracy, 'order': 'desc'},
                      {'name': 'FP', 'value': fp, 'order': 'asc'},
                      {'name': 'FN', 'value': fn, 'order': 'asc'}]))
    if photos:
        report_curve(args.precision_recall, photos, f'accuracy of {MATCH_ACCURACY}')
    return worst_first(rows), draw_comparison


def report_curve(path, photos, measure):
    """Writes the curve of photos as a picture or CSV, and prints its best point. photos: see precision_recall.curve"""
    points = precision_recall.curve(photos)
    if path.lower().endswith('.png'):
        files.write_file(path, precision_recall.draw_curve(points, measure), follow_links=True)
    else:
        evaluation_report.write_csv(path, precision_recall.Point._fields, points)
    best = precision_recall.best_point(points)
    print(f'best F1 {best.f1:.4f} of lanes with a confidence of {best.threshold:.4f} and above: '
          f'precision {best.precision:.4f}, recall {best.recall:.4f}')


def main():
    args = parse_args()
    labels = read_all(args.labels)
    predictions = read_all(args.predictions, need_h_samples=False)
    photos = [os.path.join(os.path.dirname(args.labels), label.raw_file) for label in labels]
    inputs = [args.predictions, args.labels, *photos]
    evaluation_report.check_outputs(args.per_image, args.worst, inputs, photos)
    if args.precision_recall:
        evaluation_report.check_output_file('--precision-recall', args.precision_recall, inputs, [args.per_image])

    measure = score_culane if args.measure == 'culane' else score_tusimple
    rows, draw_photo = measure(args, predictions, labels)
    if args.per_image:
        evaluation_report.write_csv(args.per_image, rows[0]._fields, rows)
    if args.worst:
        prediction_of = {record.raw_file: record for record in predictions}
        label_of = {record.raw_file: record for record in labels}

        def draw(row):
            label = label_of[row.raw_file]
            photo = pictures.read_image(tusimple.photo_path(os.path.dirname(args.labels), label))
            return draw_photo(photo, prediction_of[row.raw_file], label, row)

        return evaluation_report.draw_worst(args.worst, draw, rows[:args.worst_num])


if __name__ == '__main__':
    command_line.run(main)
