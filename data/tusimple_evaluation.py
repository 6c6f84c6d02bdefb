"""Scores lane predictions with the official TuSimple metric or with CULane's.

    python data/tusimple_evaluation.py predictions.json TUSIMPLE/val_set/label_data_0000.json
    python data/tusimple_evaluation.py predictions.json labels.json --measure culane --per-image scores.csv

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

import tqdm

from data.common import command_line, evaluation_report, pictures
from data.lanes import culane, score, tusimple


def read(args, path, **kwargs):
    """-> list of tusimple.Record, or of culane.Lanes from a folder. Raises InputError."""
    if args.measure == 'culane' and os.path.isdir(path):
        return [culane.read_photo(path, name) for name in culane.find_lines(path)]
    return tusimple.read_all(path, **kwargs)


def score_tusimple(args, predictions, labels):
    """Prints the benchmark's list. -> (PhotoScores, worst first; evaluation_report.curve's entry for each image)"""
    means, rows = score.score(predictions, labels, args.ignore_run_time)
    curve = args.precision_recall and [score.count_by_confidence(*pair)
                                       for pair in score.match_photos(predictions, labels)]
    print(json.dumps([{'name': name, 'value': value, 'order': order} for name, value, order in
                      zip(('Accuracy', 'FP', 'FN'), means, ('desc', 'asc', 'asc'))]))
    return sorted(rows, key=lambda row: (row.accuracy, -row.fn, -row.fp)), curve


def score_culane(args, predictions, labels):
    """Prints precision, recall and F1. -> as score_tusimple"""
    pairs = [[each if isinstance(each, culane.Lanes) else
              culane.from_record(each, each.h_samples or getattr(pair[1], 'h_samples', ())) for each in pair]
             for pair in score.match_photos(predictions, labels)]
    size = args.photo_size or size_of_photo(args.labels, labels[0])
    culane.check_labels([label for _, label in pairs], size)
    ious = [culane.lane_ious(prediction.lanes, label.lanes, size)
            for prediction, label in tqdm.tqdm(pairs, unit='image', disable=None)]
    means, rows = culane.score(pairs, ious)
    curve = args.precision_recall and [culane.count_by_confidence(pair[0], each) for pair, each in zip(pairs, ious)]
    print(f'{len(rows)} photos of {size[0]}x{size[1]}, {sum(row.label_lanes for row in rows)} labelled and '
          f'{sum(row.predicted_lanes for row in rows)} predicted lanes')
    print(*map('{:<10}{:.4f}'.format, ('precision', 'recall', 'F1'), means), sep='\n')
    return sorted(rows, key=lambda row: (row.f1, row.hits - row.label_lanes, row.hits - row.predicted_lanes)), curve


def size_of_photo(path, label):
    """-> (width, height) of the image of a label read from path, or TuSimple's size without the image"""
    photo = tusimple.photo_path(path if os.path.isdir(path) else os.path.dirname(path), label)
    return pictures.read_image(photo).shape[1::-1] if os.path.exists(photo) else (1280, 720)


def main(argv=None):
    parser = command_line.Parser(description=__doc__)
    parser.add_argument('predictions', help='File of predicted lanes, as written by inference.py --json.')
    parser.add_argument('labels', help='File of label lanes: a label_data_*.json, or lanes.json of a prepared folder.')
    parser.add_argument('--per-image', metavar='FILE', help='CSV file for the scores of each image, worst first.')
    parser.add_argument('--precision-recall', metavar='FILE',
                        help='CSV file for precision and recall over lane confidence.')
    parser.add_argument('--ignore-run-time', action='store_true',
                        help='Ignore the limit of 200 ms per image; run_time may be missing.')
    parser.add_argument('--measure', choices=['tusimple', 'culane'], default='tusimple',
                        help="TuSimple's accuracy, FP and FN, or CULane's precision, recall and F1.")
    parser.add_argument('--photo-size', nargs=2, metavar=('W', 'H'), type=command_line.positive_int,
                        help="Image size in px for --measure culane (default: the first label image's, else 1280 720).")
    args = parser.parse_args(argv)
    labels, predictions = read(args, args.labels), read(args, args.predictions, need_h_samples=False)
    for flag, path in (('--per-image', args.per_image), ('--precision-recall', args.precision_recall)):
        if path:
            evaluation_report.check_output_file(flag, path, [args.predictions, args.labels])
    rows, photos = (score_culane if args.measure == 'culane' else score_tusimple)(args, predictions, labels)
    if args.precision_recall:
        points = evaluation_report.curve(photos)
        evaluation_report.write_csv(args.precision_recall, evaluation_report.Point._fields, points)
        best = max(points, key=lambda point: point.f1)
        print(f'best F1 {best.f1:.4f} of lanes with a confidence of {best.threshold:.4f} and above: '
              f'precision {best.precision:.4f}, recall {best.recall:.4f}')
    if args.per_image:
        evaluation_report.write_csv(args.per_image, rows[0]._fields, rows)


if __name__ == '__main__':
    command_line.run(main)
