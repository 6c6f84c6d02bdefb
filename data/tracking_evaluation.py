"""Measures how well the lanes of a video were tracked, against the truth of a rendered drive.

    python data/synthetic_dataset.py drive --drive 40 --seed 1 --video
    python inference.py --indir drive/drive.mp4 --json predictions.json
    python data/tracking_evaluation.py predictions.json drive/label_data_synthetic.json

Both files hold one JSON object per line and frame, in the order of the video, with "ids", one number per lane. Their
frames are matched by their order, the lanes of a frame by their distance.
"""

import dataclasses
import os
import sys
import typing

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from data.common import command_line

if __name__ == '__main__':
    command_line.exit_on_interrupt()   # the imports below take half a second

import numpy as np
from scipy import optimize

from data import tusimple_evaluation
from data.common.command_line import InputError

MIN_SHARED = 2  # rows of a match


class Measures(typing.NamedTuple):
    """How well the lanes of a video were tracked; NaN where there is nothing to measure."""
    frames: int
    switches: float         # id switches per 1,000 frames
    missed: float           # label lanes without a match, per frame
    false_positives: float  # predicted lanes without a match, per frame
    median_error: float     # px, of |predicted x - true x| over all points of matched lanes
    mean_error: float       # px
    jitter: float           # px, root mean square of the change of predicted x - true x from frame to frame
    accuracy: float         # TuSimple's, run_time ignored


def evaluate(predictions, labels):
    """Measures the tracks of a video. -> Measures

    predictions, labels: lists of tusimple.Record, one per frame, in order; raw_file is not looked at

    An id switch is counted, as in the MOTA of Bernardin and Stiefelhagen, Evaluating Multiple Object Tracking
    Performance: The CLEAR MOT Metrics, 2008, where a label id is matched with another predicted id than when it was
    last matched, however long it was missed in between; that match is kept while it is possible. A label id that leaves
    the labels and returns is a new one. The jitter is that of the points, lane and row, that are matched in two
    successive frames. It includes that of the labels, whose x are whole pixels: 0.4 px.
    Raises InputError if the two lists do not fit together or one has no ids.
    """
    check(predictions, labels)
    numbered = [[dataclasses.replace(record, raw_file=str(frame)) for frame, record in enumerate(records)]
                for records in (predictions, labels)]
    (accuracy, _, _), _ = tusimple_evaluation.score(*numbered, ignore_run_time=True)

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
    return Measures(frames, 1000 * switches / frames, missed / frames, false_positives / frames,
                    np.median(errors) if len(errors) else np.nan, errors.mean() if len(errors) else np.nan,
                    np.sqrt(np.square(changes).mean()) if len(changes) else np.nan, accuracy)


def match(predicted, true, rows, kept):
    """Pairs the lanes of a frame: those again that were pairs, then as many as can be, at least total distance.

    predicted: x in px, [P, rows], true: [T, rows], negative where a lane is absent. Two lanes may be a pair if their
    mean distance in x over the rows that they share is below tusimple_evaluation.lane_threshold of the true one.
    kept: [P, T], whether the two were last matched with each other
    -> (predicted int [M], true int [M])
    """
    shared = (predicted[:, None] >= 0) & (true >= 0)
    count = shared.sum(2)
    distance = (np.abs(predicted[:, None] - true) * shared).sum(2) / np.maximum(count, 1)
    thresholds = np.array([tusimple_evaluation.lane_threshold(lane, rows) for lane in true])
    possible = (count >= MIN_SHARED) & (distance < thresholds)
    kept = np.reshape(kept, possible.shape)
    lanes, truths = optimize.linear_sum_assignment(np.where(possible, distance - 1e8 * kept, 1e6))
    good = possible[lanes, truths]
    return lanes[good], truths[good]


def check(predictions, labels):
    """Raises InputError unless both are lists of tusimple.Record of the same frames, with an id per lane."""
    for records, path in ((predictions, 'predictions'), (labels, 'labels')):
        if not records:
            raise InputError(f'there are no {path}')
        for record in records:
            if record.ids is None:
                raise InputError(f'{record.source}: has no "ids", which tell the tracks of a video')
            if len(set(record.ids)) < len(record.ids):
                raise InputError(f'{record.source}: two of its lanes have the same id')
    for label in labels:
        if list(label.h_samples) != list(labels[0].h_samples):
            raise InputError(f'{label.source}: its h_samples are not those of the first frame ({labels[0].source})')
    if len(predictions) != len(labels):
        raise InputError(f'{predictions[-1].source}: is frame {len(predictions)} and the last, but the labels have '
                         f'{len(labels)} ({labels[-1].source}); both must be of the same video')


# ---- The script ------------------------------------------------------------------------------------------------------

def main():
    parser = command_line.Parser(description=__doc__)
    paths = parser.add_argument_group('files')
    paths.add_argument('predictions', help='File of predicted lanes of a video, as written by inference.py --json.')
    paths.add_argument('labels', help='File of label lanes: the label_data_synthetic.json of the drive.')
    args = parser.parse_args()
    labels = tusimple_evaluation.read_all(args.labels)
    predictions = tusimple_evaluation.read_all(args.predictions, need_h_samples=False)
    measures = evaluate(predictions, labels)
    for name, value in (('frames', f'{measures.frames:,}'),
                        ('id switches per 1,000 frames', f'{measures.switches:.2f}'),
                        ('missed lanes per frame', f'{measures.missed:.3f}'),
                        ('false lanes per frame', f'{measures.false_positives:.3f}'),
                        ('error, median', f'{measures.median_error:.2f} px'),
                        ('error, mean', f'{measures.mean_error:.2f} px'),
                        ('jitter', f'{measures.jitter:.2f} px'),
                        ('TuSimple accuracy', f'{measures.accuracy:.4f}')):
        print(f'{name:30}{value:>10}')


if __name__ == '__main__':
    command_line.run(main)
