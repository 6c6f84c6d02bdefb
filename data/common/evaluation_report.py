"""Reports of the evaluation scripts: CSV files, and precision and recall over the confidence of lanes."""
import collections
import csv
import io
import os

import numpy as np

from data.common import files
from data.common.command_line import InputError

Point = collections.namedtuple('Point', 'threshold precision recall f1')


def check_output_file(flag, path, inputs):
    """Creates the folder of the output file of a flag. Raises InputError, also if it is one of the inputs."""
    files.check_output_file(flag, path)
    if os.path.exists(path) and any(os.path.exists(other) and os.path.samefile(path, other) for other in inputs):
        raise InputError(f'{flag} {path}: is an input itself; give another name')


def write_csv(path, header, rows):
    """Writes a CSV file. header: column names; rows: tuples"""
    text = io.StringIO()
    csv.writer(text, lineterminator='\n').writerows([header, *rows])
    files.write_file(path, text.getvalue().encode(errors='surrogateescape'))


def sort_by_confidence(prediction):
    """-> indices of a prediction's lanes, by decreasing confidence. Raises InputError if it has none."""
    if prediction.confidence is None:
        raise InputError(f'{prediction.source}: has no "confidence" per lane, which --precision-recall needs')
    return np.argsort(-np.array(prediction.confidence, np.float64), kind='stable')


def curve(photos):
    """Precision, recall and F1 of the predictions whose confidence reaches a threshold, over all images.

    photos: list of (confidence [n], right [n + 1], found [n + 1], labelled), per image: confidences in any order; for
    k = 0 to n, how many of the k most confident predictions are right and how many label lanes they find; label lanes
    -> list of Points by increasing threshold: all distinct confidences, or 200 of them
    Raises InputError if there are no predictions.
    """
    thresholds = np.unique(np.concatenate([confidence for confidence, *_ in photos]))
    if not len(thresholds):
        raise InputError('--precision-recall: no lane is predicted')
    steps = min(200, len(thresholds))
    thresholds = thresholds[np.linspace(0, len(thresholds) - 1, steps).round().astype(int)]
    sums = np.zeros([4, len(thresholds)])
    for confidence, right, found, labelled in photos:
        accepted = len(confidence) - np.searchsorted(np.sort(confidence), thresholds)
        sums += np.broadcast_arrays(accepted, np.take(right, accepted), np.take(found, accepted), labelled)
    predicted, right, found, labelled = sums
    precision, recall = right / predicted, found / np.maximum(labelled, 1)
    f1 = 2 * precision * recall / np.where(precision + recall > 0, precision + recall, 1)
    return [Point(*values) for values in np.stack([thresholds, precision, recall, f1], 1).tolist()]
