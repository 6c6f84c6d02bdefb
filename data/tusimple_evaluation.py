"""Scores lane predictions with the official TuSimple metric or with CULane's.

    python data/tusimple_evaluation.py predictions.json TUSIMPLE/val_set/label_data_0000.json
    python data/tusimple_evaluation.py predictions.json labels.json --per-image scores.csv --worst worst
    python data/tusimple_evaluation.py predictions.json labels.json --measure culane

Both files hold one JSON object per line; a prediction has raw_file, lanes at the h_samples of its label and, for
TuSimple's metric, run_time in ms. For CULane's, either may be a folder of NAME.lines.txt. Prints the benchmark's JSON
list of Accuracy, FP and FN, or CULane's precision, recall and F1; see data/lanes/score.py and data/lanes/culane.py.

--precision-recall writes precision and recall over the confidence threshold, and prints the threshold of the best F1.
With TuSimple's metric, a prediction is correct if its accuracy on a label lane is at least 0.85; label lanes count as
in FN, over all images together, regardless of run_time and the number of lanes.
"""
import json
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import cv2
import numpy as np
import tqdm

from data.common import command_line, evaluation_report, files, pictures, precision_recall
from data.lanes import culane, score, tusimple

LABEL_COLOUR, PREDICTION_COLOUR = (0, 220, 0), (255, 40, 40)  # RGB


def parse_args(argv=None):
    parser = command_line.Parser(description=__doc__)
    parser.add_argument('predictions', help='File of predicted lanes, as written by inference.py --json.')
    parser.add_argument('labels', help='File of label lanes: a label_data_*.json, or lanes.json of a prepared folder.')
    parser.add_argument('--per-image', metavar='FILE', help='CSV file for the scores of each image, worst first.')
    parser.add_argument('--worst', metavar='DIR', help='Folder for the worst images, with both sets of lanes.')
    parser.add_argument('--worst-num', metavar='N', type=command_line.positive_int, default=20,
                        help='Number of images that --worst draws.')
    parser.add_argument('--precision-recall', metavar='FILE',
                        help='CSV file, or plot if it ends in .png, of precision and recall over lane confidence.')
    parser.add_argument('--ignore-run-time', action='store_true',
                        help='Ignore the limit of 200 ms per image; run_time may be missing.')
    parser.add_argument('--measure', choices=['tusimple', 'culane'], default='tusimple',
                        help="TuSimple's accuracy, FP and FN, or CULane's precision, recall and F1.")
    parser.add_argument('--photo-size', nargs=2, metavar=('W', 'H'), type=command_line.positive_int,
                        help="Image size in px for --measure culane (default: the first label image's, else 1280 720).")
    args = parser.parse_args(argv)
    if args.photo_size and args.measure != 'culane':
        parser.error('--photo-size requires --measure culane')
    return args


# ---- Measures --------------------------------------------------------------------------------------------------------

def score_tusimple(args, predictions, labels):
    """Prints the benchmark's list.

    -> (PhotoScores, worst first; pairs (prediction, label); what precision_recall.curve needs of each pair)
    """
    means, rows = score.score(predictions, labels, args.ignore_run_time)
    pairs = score.match_photos(predictions, labels)
    curve = args.precision_recall and [score.count_by_confidence(*pair) for pair in pairs]
    print(json.dumps([{'name': name, 'value': value, 'order': order} for name, value, order in
                      zip(('Accuracy', 'FP', 'FN'), means, ('desc', 'asc', 'asc'))]))
    return sorted(rows, key=lambda row: (row.accuracy, -row.fn, -row.fp)), pairs, curve


def score_culane(args, predictions, labels):
    """Prints precision, recall and F1. -> as score_tusimple, the pairs of culane.Lanes"""
    pairs = [[each if isinstance(each, culane.Lanes) else
              culane.from_record(each, each.h_samples or getattr(pair[1], 'h_samples', ())) for each in pair]
             for pair in score.match_photos(predictions, labels)]
    width, height = args.photo_size
    culane.check_labels([label for _, label in pairs], args.photo_size)
    ious = [culane.lane_ious(prediction.lanes, label.lanes, args.photo_size)
            for prediction, label in tqdm.tqdm(pairs, unit='image', disable=None)]
    means, rows = culane.score(pairs, ious)
    curve = args.precision_recall and [culane.count_by_confidence(pair[0], each) for pair, each in zip(pairs, ious)]
    print(f'{len(rows)} photos of {width}x{height}, {sum(row.label_lanes for row in rows)} labelled and '
          f'{sum(row.predicted_lanes for row in rows)} predicted lanes')
    for name, value in zip(('precision', 'recall', 'F1'), means):
        print(f'{name:<10}{value:.4f}')
    worst_first = sorted(rows, key=lambda row: (row.f1, row.hits - row.label_lanes, row.hits - row.predicted_lanes))
    return worst_first, pairs, curve


def write_curve(path, photos, measure):
    """Writes a plot or CSV of the curve, and prints its best point. photos: see precision_recall.curve"""
    points = precision_recall.curve(photos)
    if path.lower().endswith('.png'):
        files.write_file(path, precision_recall.draw_curve(points, measure), follow_links=True)
    else:
        evaluation_report.write_csv(path, precision_recall.Point._fields, points)
    best = precision_recall.best_point(points)
    print(f'best F1 {best.f1:.4f} of lanes with a confidence of {best.threshold:.4f} and above: '
          f'precision {best.precision:.4f}, recall {best.recall:.4f}')


def draw(item):
    """Draws label lanes and predicted lanes on an image, unmatched ones thick, below two lines of text.

    item: (folder of the label file, size in px of CULane's measure or None, prediction, label, their score)
    -> uint8 [h + 64, w, 3] RGB. Raises InputError if the image cannot be read.
    """
    folder, size, prediction, label, row = item
    photo = pictures.read_image(tusimple.photo_path(folder, label))
    lanes = [label.lanes, prediction.lanes]
    if size:
        photo = pictures.resize_image(photo, size)
        matches = culane.find_hits(culane.lane_ious(*lanes[::-1], size))
    else:
        matches = score.find_matches(score.lane_accuracies(*lanes[::-1], label.h_samples))
        lanes = [[tusimple.lane_points(lane, label.h_samples) for lane in each] for each in lanes]
    picture = np.pad(photo, [(64, 0), (0, 0), (0, 0)])
    for each, matched, colour in zip(lanes, matches, (LABEL_COLOUR, PREDICTION_COLOUR)):
        for i, lane in enumerate(each):
            # Within OpenCV's 32-bit coordinates; points this far outside look the same.
            points = np.clip(np.rint(lane + (0, 64)), -2 ** 20, 2 ** 20).astype(np.int32)
            cv2.polylines(picture, [points], False, colour, 3 if i in matched else 9, cv2.LINE_AA)
    values = ', '.join(f'{name} {value:.3f}' for name, value in row._asdict().items() if isinstance(value, float))
    for y, line in ((24, f'{row.raw_file!a}: {values}'),
                    (54, f'{row.label_lanes} label lanes green, {row.predicted_lanes} predicted red; thick: no match')):
        cv2.putText(picture, line, (8, y), cv2.FONT_HERSHEY_SIMPLEX, 0.7, (255, 255, 255), 1, cv2.LINE_AA)
    return picture


# ---- The script ------------------------------------------------------------------------------------------------------

def read(args, path, **kwargs):
    """-> list of tusimple.Record, or of culane.Lanes from a folder. Raises InputError."""
    if args.measure == 'culane' and os.path.isdir(path):
        return [culane.read_photo(path, name) for name in culane.find_lines(path)]
    return tusimple.read_all(path, **kwargs)


def main(argv=None):
    args = parse_args(argv)
    labels, predictions = read(args, args.labels), read(args, args.predictions, need_h_samples=False)
    folder = args.labels if os.path.isdir(args.labels) else os.path.dirname(args.labels)
    photos = [os.path.join(folder, label.raw_file) for label in labels]
    inputs = [args.predictions, args.labels, *photos]
    evaluation_report.check_outputs(args.per_image, args.worst, inputs, photos)
    if args.precision_recall:
        evaluation_report.check_output_file('--precision-recall', args.precision_recall, inputs, [args.per_image])

    if args.measure == 'culane' and not args.photo_size:
        path = tusimple.photo_path(folder, labels[0])
        args.photo_size = pictures.read_image(path).shape[1::-1] if os.path.exists(path) else (1280, 720)
    measure = score_culane if args.measure == 'culane' else score_tusimple
    rows, pairs, curve = measure(args, predictions, labels)
    if args.precision_recall:
        write_curve(args.precision_recall, curve, args.measure)
    if args.per_image:
        evaluation_report.write_csv(args.per_image, rows[0]._fields, rows)
    if args.worst:
        pair_of = {label.raw_file: (prediction, label) for prediction, label in pairs}
        return evaluation_report.draw_worst(args.worst, draw, [
            (folder, args.photo_size, *pair_of[row.raw_file], row) for row in rows[:args.worst_num]])


if __name__ == '__main__':
    command_line.run(main)
