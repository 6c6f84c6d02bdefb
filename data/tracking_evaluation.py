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

MIN_SHARED = 2  # rows of a match
NAMES = ('frames', 'id switches per 1,000 frames', 'missed lanes per frame', 'false lanes per frame', 'error, median',
         'error, mean', 'jitter', 'TuSimple accuracy')

Measures = collections.namedtuple(
    'Measures', 'frames switches missed false_positives median_error mean_error jitter accuracy')
Measures.__doc__ = """The measures of NAMES; NaN where undefined."""


def evaluate(predictions, labels):
    """Scores the tracks of a video. -> Measures

    predictions, labels: lists of tusimple.Record, one per frame, in order; raw_file is ignored

    As in MOTA (Bernardin and Stiefelhagen, Evaluating Multiple Object Tracking Performance: The CLEAR MOT Metrics,
    2008), an id switch is a label id matched with a different predicted id than at its last match, however long ago;
    matches are kept while possible. A label id that disappears and returns is new. Errors are |predicted x - true x| in
    px over all points of matched lanes. Jitter is the root mean square change, in px, of predicted x - true x at points
    matched in two successive frames. It includes 0.4 px from the labels, whose x are whole pixels.
    Raises InputError if the lists do not correspond or one has no ids.
    """
    check(predictions, labels)
    numbered = [[dataclasses.replace(record, raw_file=str(frame)) for frame, record in enumerate(records)]
                for records in (predictions, labels)]
    (accuracy, _, _), _ = score.score(*numbered, ignore_run_time=True)

    last, before = {}, {}  # by label id: the predicted id, the errors of the previous frame
    switches = missed = false_positives = 0
    errors, changes = [], []
    for prediction, label in zip(predictions, labels):
        rows = label.h_samples
        predicted, true = (np.reshape(record.lanes, [-1, len(rows)]) for record in (prediction, label))
        kept = [[last.get(number) == own for number in label.ids] for own in prediction.ids]
        lanes, truths = match(predicted, true, rows, kept)
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
            if number in before:
                changes.append(now[number] - before[number])
        before = now
        last = {number: last[number] for number in label.ids if number in last}

    errors, changes = (np.concatenate([*values, [np.nan]]) for values in (errors, changes))
    errors, changes = np.abs(errors[np.isfinite(errors)]), changes[np.isfinite(changes)]
    frames = len(labels)
    of_errors = [np.median(errors), errors.mean()] if len(errors) else [np.nan, np.nan]
    return Measures(frames, 1000 * switches / frames, missed / frames, false_positives / frames, *of_errors,
                    np.sqrt(np.square(changes).mean()) if len(changes) else np.nan, accuracy)


def match(predicted, true, rows, kept):
    """Pairs the lanes of a frame: earlier pairs first, then as many as possible, at least total distance.

    predicted: x in px, [P, rows], true: [T, rows], negative where a lane is absent. Lanes may be paired if their mean
    distance in x over shared rows is below score.lane_threshold of the true one.
    kept: [P, T], whether the two were last matched with each other
    -> (predicted int [M], true int [M])
    """
    shared = (predicted[:, None] >= 0) & (true >= 0)
    count = shared.sum(2)
    distance = (np.abs(predicted[:, None] - true) * shared).sum(2) / np.maximum(count, 1)
    thresholds = np.array([score.lane_threshold(lane, rows) for lane in true])
    possible = (count >= MIN_SHARED) & (distance < thresholds)
    kept = np.reshape(kept, possible.shape)
    lanes, truths = optimize.linear_sum_assignment(np.where(possible, distance - 1e8 * kept, 1e6))
    good = possible[lanes, truths]
    return lanes[good], truths[good]


def check(predictions, labels):
    """Raises InputError unless both are lists of tusimple.Record of the same frames, with an id per lane."""
    for record in [*predictions, *labels]:
        if record.ids is None or len(set(record.ids)) < len(record.ids):
            raise InputError(f'{record.source}: has no "ids" that differ from lane to lane')
    if not labels or len(predictions) != len(labels):
        raise InputError(f'there are {len(predictions)} predicted and {len(labels)} labelled frames; give one video')
    if wrong := [label for label in labels if list(label.h_samples) != list(labels[0].h_samples)]:
        raise InputError(f'{wrong[0].source}: its h_samples are not those of the first frame ({labels[0].source})')


def main(argv=None):
    parser = command_line.Parser(description=__doc__)
    parser.add_argument('predictions', help='File of lanes predicted in a video, as written by inference.py --json.')
    parser.add_argument('labels', help='File of label lanes: the label_data_synthetic.json of the drive.')
    args = parser.parse_args(argv)
    measures = evaluate(tusimple.read_all(args.predictions, need_h_samples=False), tusimple.read_all(args.labels))
    for name, value, form in zip(NAMES, measures, (',', '.2f', '.3f', '.3f', '.2f', '.2f', '.2f', '.4f')):
        unit = ' px' if name.startswith(('error', 'jitter')) else ''
        print(f'{name:30}{f"{value:{form}}{unit}":>10}')


if __name__ == '__main__':
    command_line.run(main)
