"""TuSimple's official lane score.

Bit-identical to the official program (github.com/TuSimple/tusimple-benchmark, evaluate/lane.py), including its corner
cases: a label lane without points counts, and one prediction may match two lanes, so FP can be negative. With more than
five label lanes, which do not occur in the benchmark, all but the worst count.
"""
import collections
import functools
import operator

import numpy as np

from data.common.command_line import InputError

_MATCH_ACCURACY = 0.85  # a label lane whose best prediction is less accurate is missed
_COUNTED_LANES = 4  # with more label lanes, the worst is ignored and one miss forgiven

PhotoScore = collections.namedtuple('PhotoScore', 'raw_file accuracy fp fn label_lanes predicted_lanes run_time')


def lane_threshold(lane, h_samples):
    """The distance in x below which predictions are right: 20 px / cos(angle of the label lane to the vertical). -> px

    lane: x in px at h_samples, negative where it is absent. The angle is that of its least-squares line x = k y + b.
    """
    lane, h_samples = np.asarray(lane), np.asarray(h_samples)
    x, y = lane[lane >= 0], h_samples[lane >= 0]
    k = 0.
    if len(x) > 1:
        # The steps of scikit-learn's LinearRegression, which the benchmark uses: even the last bits agree.
        x, y = x.astype(np.float64), y[:, None].astype(np.float64)
        k = np.linalg.lstsq(y - np.average(y, axis=0), x - np.average(x), rcond=None)[0][0]
    return 20 / np.cos(np.arctan(k))


def lane_accuracies(pred_lanes, gt_lanes, h_samples):
    """The share of rows in which two lanes are closer than lane_threshold, or both absent.

    pred_lanes, gt_lanes: sequences of lanes, each x in px at h_samples, negative where the lane is absent
    -> float64 [label lanes, predicted lanes]
    """
    predicted, labelled = (np.reshape(lanes, [-1, len(h_samples)]) for lanes in (pred_lanes, gt_lanes))
    predicted, x = (np.where(lanes >= 0, lanes, -100) for lanes in (predicted, labelled))
    thresholds = np.array([lane_threshold(lane, h_samples) for lane in labelled])
    close = np.abs(predicted - x[:, None]) < thresholds[:, None, None]
    return np.count_nonzero(close, axis=-1) / len(h_samples)


def score_photo(pred_lanes, gt_lanes, h_samples, run_time=0):
    """The score of one image; arguments as in lane_accuracies, run_time in ms. -> (accuracy, fp, fn), floats"""
    if run_time > 200 or len(pred_lanes) > len(gt_lanes) + 2:
        return 0., 0., 1.
    best = lane_accuracies(pred_lanes, gt_lanes, h_samples).max(axis=1, initial=0).tolist()
    missed = sum(accuracy < _MATCH_ACCURACY for accuracy in best)
    fp = (len(pred_lanes) - (len(gt_lanes) - missed)) / len(pred_lanes) if len(pred_lanes) else 0.
    total, counted = _add(best), max(len(gt_lanes), 1)
    if len(gt_lanes) > _COUNTED_LANES:
        total, missed, counted = total - min(best), max(missed - 1, 0), counted - 1
    return total / counted, fp, missed / counted


def _add(values):
    return functools.reduce(operator.add, values, 0.)   # sum() rounds differently from Python 3.12 on


def score(predictions, labels, ignore_run_time=False):
    """The mean score of images, each of which must have exactly one prediction.

    predictions, labels: lists of tusimple.Record, matched by raw_file; a prediction's h_samples may be empty
    ignore_run_time: no time limit, and run_time may be missing
    -> ((accuracy, fp, fn), rows): means over the images, and a PhotoScore per image in the order of the predictions
    Raises InputError if a prediction does not fit its label or an image has none.
    """
    rows = []
    for prediction, label in match_photos(predictions, labels):
        if prediction.run_time is None and not ignore_run_time:
            raise InputError(f'{prediction.source}: has no "run_time" (ms); --ignore-run-time scores without it')
        own = list(prediction.h_samples)
        if own and own != list(label.h_samples) or any(len(lane) != len(label.h_samples) for lane in prediction.lanes):
            raise InputError(f'{prediction.source}: its lanes do not have the h_samples of its label ({label.source})')
        run_time = 0 if ignore_run_time else prediction.run_time
        values = score_photo(prediction.lanes, label.lanes, label.h_samples, run_time)
        rows.append(PhotoScore(label.raw_file, *values, len(label.lanes), len(prediction.lanes), prediction.run_time))
    return tuple(_add(row[i] for row in rows) / len(rows) for i in (1, 2, 3)), rows


def match_photos(predictions, labels):
    """-> list of (prediction, label), in the order of the predictions. Arguments and errors: see score."""
    waiting, pairs = {}, []
    for label in labels:
        if waiting.setdefault(_key(label), label) is not label:
            raise InputError(f'{label.source}: raw_file {label.raw_file!a} is labelled a second time')
    for prediction in predictions:
        if _key(prediction) not in waiting:
            raise InputError(f'{prediction.source}: raw_file {prediction.raw_file!a} is not in the labels, or is '
                             'predicted a second time')
        pairs.append((prediction, waiting.pop(_key(prediction))))
    if waiting:
        first = next(iter(waiting.values()))
        raise InputError(f'{first.source}: raw_file {first.raw_file!a} has no prediction ({len(waiting)} have none)')
    return pairs


def _key(record):
    return record.raw_file.replace('\\', '/')   # Windows uses both
