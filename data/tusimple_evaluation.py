"""Scores lane predictions with the official TuSimple metric or with CULane's.

    python data/tusimple_evaluation.py predictions.json TUSIMPLE/val_set/label_data_0000.json
    python data/tusimple_evaluation.py predictions.json labels.json --measure culane --per-image scores.csv

Both files hold one JSON object per line; a prediction has raw_file, lanes at the h_samples of its label and, for
TuSimple's metric, run_time in ms. For CULane's, either may be a folder of NAME.lines.txt.
"""
import json
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import tqdm

from data.common import command_line, files, pictures
from data.lanes import culane, score, tusimple


def read(args, path, **kwargs):
    """-> list of tusimple.Record, or of culane.Lanes from a folder. Raises InputError."""
    if args.measure == 'culane' and os.path.isdir(path):
        return [culane.read_photo(path, name) for name in culane.find_lines(path)]
    return tusimple.read_all(path, **kwargs)


def score_tusimple(args, predictions, labels):
    """Prints the scores in the benchmark's format. -> PhotoScores, worst first"""
    means, rows = score.score(predictions, labels, args.ignore_run_time)
    print(json.dumps([{'name': name, 'value': value, 'order': order} for name, value, order in
                      zip(('Accuracy', 'FP', 'FN'), means, ('desc', 'asc', 'asc'))]))
    return sorted(rows, key=lambda row: (row.accuracy, -row.fn, -row.fp))


def score_culane(args, predictions, labels):
    """Prints precision, recall and F1. -> culane.PhotoScores, worst first"""
    pairs = [[each if isinstance(each, culane.Lanes) else
              culane.from_record(each, each.h_samples or getattr(pair[1], 'h_samples', ())) for each in pair]
             for pair in score.match_photos(predictions, labels)]
    folder = args.labels if os.path.isdir(args.labels) else os.path.dirname(args.labels)
    photo = tusimple.photo_path(folder, labels[0])
    size = args.photo_size or (pictures.read_image(photo).shape[1::-1] if os.path.exists(photo) else (1280, 720))
    culane.check_labels([label for _, label in pairs], size)
    ious = [culane.lane_ious(prediction.lanes, label.lanes, size)
            for prediction, label in tqdm.tqdm(pairs, unit='image', disable=None)]
    means, rows = culane.score(pairs, ious)
    print(f'{len(rows)} images of {size[0]}x{size[1]}, {sum(row.label_lanes for row in rows)} labelled and '
          f'{sum(row.predicted_lanes for row in rows)} predicted lanes')
    print(*map('{:<10}{:.4f}'.format, ('precision', 'recall', 'F1'), means), sep='\n')
    return sorted(rows, key=lambda row: (row.f1, row.hits - row.label_lanes, row.hits - row.predicted_lanes))


def main(argv=None):
    parser = command_line.Parser(description=__doc__)
    parser.add_argument('predictions', help='File of predicted lanes, as written by inference.py --json.')
    parser.add_argument('labels', help='File of label lanes: a label_data_*.json, or lanes.json of a prepared folder.')
    parser.add_argument('--per-image', metavar='FILE', help='CSV file for the scores of each image, worst first.')
    parser.add_argument('--ignore-run-time', action='store_true',
                        help='Ignore the limit of 200 ms per image; run_time may be missing.')
    parser.add_argument('--measure', choices=['tusimple', 'culane'], default='tusimple',
                        help="TuSimple's accuracy, FP and FN, or CULane's precision, recall and F1.")
    parser.add_argument('--photo-size', nargs=2, metavar=('W', 'H'), type=command_line.positive_int,
                        help='Image size in px for --measure culane (default: that of the first label, else 1280 720).')
    args = parser.parse_args(argv)
    labels, predictions = read(args, args.labels), read(args, args.predictions, need_h_samples=False)
    if args.per_image:
        files.check_output_file('--per-image', args.per_image, [args.predictions, args.labels])
    rows = (score_culane if args.measure == 'culane' else score_tusimple)(args, predictions, labels)
    if args.per_image:
        files.write_csv(args.per_image, [rows[0]._fields, *rows])


if __name__ == '__main__':
    command_line.run(main)
