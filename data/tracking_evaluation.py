"""Scores lane tracking in a video against the ground truth of a rendered drive.

    python data/synthetic_dataset.py drive --drive 40 --seed 1 --video
    python inference.py --indir drive/drive.mp4 --json predictions.json
    python data/tracking_evaluation.py predictions.json drive/label_data_synthetic.json

Both files hold one JSON object per frame, in order, with "ids", one number per lane. Frames are matched by order, lanes
by distance.
"""
import collections
import dataclasses
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import numpy as np
from scipy import optimize

from data.common import command_line
from data.common.command_line import InputError
from data.lanes import score, tusimple

ROWS = {'frames': '{:,}', 'id switches per 1,000 frames': '{:.2f}', 'missed lanes per frame': '{:.3f}',
        'false lanes per frame': '{:.3f}', 'error, median': '{:.2f} px', 'error, mean': '{:.2f} px',
        'jitter': '{:.2f} px', 'TuSimple accuracy': '{:.4f}'}
Measures = collections.namedtuple(
    'Measures', 'frames switches missed false_positives median_error mean_error jitter accuracy')


def evaluate(predictions, labels):
    """Scores the tracks of a video. -> Measures, in the order of ROWS; NaN where undefined

    predictions, labels: lists of tusimple.Record, one per frame, in order; raw_file is ignored
    As in MOTA (Bernardin and Stiefelhagen, Evaluating Multiple Object Tracking Performance: The CLEAR MOT Metrics,
    2008), an id switch is a label id matched with a different predicted id than at its last match, however long ago;
    matches are kept while possible. A label id that disappears and returns is new. Errors are |predicted x - true x| in
    px over all points of matched lanes. Jitter is the root mean square change, in px, of predicted x - true x at points
    matched in two successive frames. It includes 0.4 px from the labels, whose x are whole pixels.
    Raises InputError if the lists do not correspond or one has no ids.
    """
    for record in [*predictions, *labels]:
        if record.ids is None or len(set(record.ids)) < len(record.ids):
            raise InputError(f'{record.source}: has no "ids" that differ from lane to lane')
    if len(predictions) != len(labels):
        raise InputError(f'there are {len(predictions)} predicted and {len(labels)} labelled frames; give one video')
    numbered = [[dataclasses.replace(record, raw_file=str(frame)) for frame, record in enumerate(records)]
                for records in (predictions, labels)]
    (accuracy, _, _), _ = score.score(*numbered, ignore_run_time=True)

    last, before = {}, {}  # by label id: the predicted id, the errors of the previous frame
    switches = missed = false_positives = 0
    errors, changes = [[np.nan]], [[np.nan]]
    for prediction, label in zip(predictions, labels):
        predicted, true = (np.reshape(record.lanes, [-1, len(label.h_samples)]) for record in (prediction, label))
        kept = [[last.get(number) == own for number in label.ids] for own in prediction.ids]
        lanes, truths = match(predicted, true, label.h_samples, kept)
        missed += len(true) - len(truths)
        false_positives += len(predicted) - len(lanes)
        now = {}
        for lane, truth in zip(lanes, truths):
            number, own = label.ids[truth], prediction.ids[lane]
            switches += last.get(number, own) != own
            last[number] = own
            shared = (predicted[lane] >= 0) & (true[truth] >= 0)
            now[number] = np.where(shared, predicted[lane] - true[truth], np.nan)
            errors.append(now[number])
            changes.append(now[number] - before.get(number, np.nan))
        before = now
        last = {number: last[number] for number in label.ids if number in last}

    errors, changes = (each[np.isfinite(each)] for each in map(np.concatenate, (errors, changes)))
    median, mean, jitter = (function(values) if len(values) else np.nan for function, values in (
        (np.median, np.abs(errors)), (np.mean, np.abs(errors)), (lambda x: np.sqrt(np.mean(x ** 2)), changes)))
    per_frame = np.array([1000 * switches, missed, false_positives]) / len(labels)
    return Measures(len(labels), *per_frame, median, mean, jitter, accuracy)


def match(predicted, true, rows, kept):
    """Pairs the lanes of a frame: earlier pairs first, then as many as possible, at least total distance.

    predicted: x in px, [P, rows], true: [T, rows], negative where a lane is absent. Lanes may be paired if their mean
    distance in x over two shared rows or more is below score.lane_threshold of the true one.
    kept: [P, T], whether the two were last matched with each other -> (predicted int [M], true int [M])
    """
    shared = (predicted[:, None] >= 0) & (true >= 0)
    count = shared.sum(2)
    distance = (np.abs(predicted[:, None] - true) * shared).sum(2) / np.maximum(count, 1)
    thresholds = np.array([score.lane_threshold(lane, rows) for lane in true])
    possible = (count >= 2) & (distance < thresholds)
    cost = np.where(possible, distance - 1e8 * np.reshape(kept, possible.shape), 1e6)
    lanes, truths = optimize.linear_sum_assignment(cost)
    good = possible[lanes, truths]
    return lanes[good], truths[good]


def main(argv=None):
    parser = command_line.Parser(description=__doc__)
    parser.add_argument('predictions', help='File of lanes predicted in a video, as written by inference.py --json.')
    parser.add_argument('labels', help='File of label lanes: the label_data_synthetic.json of the drive.')
    args = parser.parse_args(argv)
    measures = evaluate(tusimple.read_all(args.predictions, need_h_samples=False), tusimple.read_all(args.labels))
    for (name, form), value in zip(ROWS.items(), measures):
        print(f'{name:30}{form.format(value):>10}')


if __name__ == '__main__':
    command_line.run(main)
