"""Precision and recall over the confidence threshold of predicted lanes."""

import collections
import io

import numpy as np

from data.common.command_line import InputError

MAX_STEPS = 200  # thresholds of a curve

Point = collections.namedtuple('Point', 'threshold precision recall f1')


def sort_by_confidence(prediction):
    """-> indices of a prediction's lanes, by decreasing confidence. Raises InputError if it has none."""
    if prediction.confidence is None:
        raise InputError(f'{prediction.source}: has no "confidence" per lane, which --precision-recall needs')
    return np.argsort(-np.array(prediction.confidence, np.float64), kind='stable')


def curve(photos):
    """Precision, recall and F1 of the predictions whose confidence reaches a threshold, over all images.

    photos: list of (confidence [n], right [n + 1], found [n + 1], labelled), per image: confidences in any order; for
    k = 0 to n, how many of the k most confident predictions are right and how many label lanes they find; label lanes
    -> list of Points by increasing threshold: all distinct confidences, or MAX_STEPS of them
    Raises InputError if there are no predictions.
    """
    thresholds = np.unique(np.concatenate([confidence for confidence, *_ in photos]))
    if not len(thresholds):
        raise InputError('--precision-recall: no lane is predicted')
    steps = min(MAX_STEPS, len(thresholds))
    thresholds = thresholds[np.linspace(0, len(thresholds) - 1, steps).round().astype(int)]
    predicted, right, found, labelled = np.zeros([4, len(thresholds)])
    for confidence, right_of, found_of, labelled_of in photos:
        accepted = len(confidence) - np.searchsorted(np.sort(confidence), thresholds)
        predicted += accepted
        right += np.asarray(right_of)[accepted]
        found += np.asarray(found_of)[accepted]
        labelled += labelled_of
    precision, recall = right / predicted, found / np.maximum(labelled, 1)
    f1 = 2 * precision * recall / np.where(precision + recall > 0, precision + recall, 1)
    return [Point(*values) for values in np.stack([thresholds, precision, recall, f1], 1).tolist()]


def best_point(points):
    """-> the Point of the highest F1, the first of equal ones"""
    return max(points, key=lambda point: point.f1)


def draw_curve(points, measure):
    """Plots precision over recall, with the best F1 marked. measure: name of the measure -> bytes of a PNG"""
    from matplotlib.figure import Figure   # here: it takes half a second; without pyplot, no screen is needed
    best = best_point(points)
    figure = Figure(layout='constrained')
    axes = figure.add_subplot(xlabel='recall', ylabel='precision', title=f'Lanes by confidence, {measure}')
    axes.plot([point.recall for point in points], [point.precision for point in points], marker='.')
    axes.plot(best.recall, best.precision, 'o', label=f'best F1 {best.f1:.3f}, confidence from {best.threshold:.3f}')
    axes.legend()
    data = io.BytesIO()
    figure.savefig(data, format='png')
    return data.getvalue()
