"""data/common/instance_metrics.py: the measures, against slow ones written from their definitions."""
import cv2
import numpy as np
import pytest

from data.common import instance_metrics as metrics


def plain_dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def plain_masks(ids):
    return [ids == value for value in np.unique(ids) if value]


def plain_best_dice(a, b):
    return np.mean([max(plain_dice(mask, other) for other in b) for mask in a])


def plain_average_precision(pairs, threshold):
    """The area in steps, as Cityscapes' program, between (recall 0, precision 1) and the point of all predictions."""
    hits = missed = predictions = 0
    for prediction, label in pairs:
        predicted = plain_masks(prediction)
        found = sum(any((mask & other).sum() / (mask | other).sum() > threshold for other in predicted)
                    for mask in plain_masks(label))
        hits, missed = hits + found, missed + len(plain_masks(label)) - found
        predictions += len(predicted)
    recall = hits / (hits + missed)
    return (recall / 2) * 1 + (recall / 2) * hits / predictions


def plain_score(pairs):
    masks = [(plain_masks(prediction), plain_masks(label)) for prediction, label in pairs]
    dic = [len(a) - len(b) for a, b in masks]
    precisions = [plain_average_precision(pairs, threshold / 100) for threshold in range(50, 100, 5)]
    return {'sbd': np.mean([min(plain_best_dice(a, b), plain_best_dice(b, a)) for a, b in masks]),
            'dic': np.mean(dic), 'abs_dic': np.mean(np.abs(dic)),
            'foreground_dice': np.mean([plain_dice(prediction > 0, label > 0) for prediction, label in pairs]),
            'ap': np.mean(precisions), 'ap50': precisions[0]}


def random_pair(rng, shape=(40, 50)):
    """A label of discs, and a prediction that misses, merges, moves and invents some of them."""
    dtype = rng.choice([np.uint8, np.uint16, np.int32])
    label, prediction = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    values = rng.choice(np.iinfo(dtype).max, 40, replace=False) + 1
    for i in range(rng.integers(1, 12)):
        centre, radius = rng.integers(0, 50, 2).tolist(), int(rng.integers(2, 12))
        cv2.circle(label, centre, radius, int(values[i]), -1)
        if rng.random() < 0.8:
            moved = (np.array(centre) + rng.integers(-2, 3, 2)).tolist()
            cv2.circle(prediction, moved, max(radius + int(rng.integers(-2, 3)), 0), int(rng.choice(values[:20])), -1)
    cv2.circle(label, (25, 20), 4, int(values[0]), -1)
    cv2.circle(prediction, rng.integers(0, 40, 2).tolist(), 3, int(values[-1]), -1)
    return prediction.astype(dtype), label.astype(dtype)


def score(predictions, labels):
    return metrics.summarise([metrics.score_image(*pair) for pair in zip(predictions, labels)])


@pytest.mark.parametrize('seed', range(3))
def test_measures_match_their_definitions(seed):
    rng = np.random.default_rng(seed)
    pairs = [random_pair(rng) for _ in range(5)]
    ours, plain = score(*zip(*pairs)), plain_score(pairs)
    assert ours == pytest.approx(plain, abs=1e-12)
    assert 0 < ours['ap'] < ours['ap50'] < 1 and 0 < ours['sbd'] < 1


def strip(*values):
    return np.array([values], np.uint8)


def test_a_split_instance_by_hand():
    row = metrics.score_image(strip(1, 1, 1, 2, 0, 0), strip(7, 7, 7, 7, 0, 0))
    # BD(prediction, label) = (6/7 + 2/5) / 2; BD(label, prediction) = 6/7; IoU 3/4.
    assert row.sbd == pytest.approx((6 / 7 + 2 / 5) / 2) and row.dic == 1 and row.foreground_dice == 1
    assert row.matches == (1,) * 5 + (0,) * 5
    means = metrics.summarise([row])
    assert means['ap50'] == 1 * (1 + 1 / 2) / 2 and means['ap'] == means['ap50'] / 2


def test_an_iou_of_exactly_the_threshold_is_no_match():
    assert metrics.score_image(strip(1, 1), strip(1, 0)).matches[0] == 0
    half = strip(*[1] * 20), strip(*[1] * 13 + [0] * 7)   # IoU 0.65
    assert metrics.score_image(*half).matches == (1, 1, 1) + (0,) * 7


def test_pixels_with_a_negative_label_are_ignored():
    label, prediction = strip(1, 1, 0, 2, 2, 2), strip(7, 7, 7, 8, 8, 0)
    ignored = np.where([[0, 0, 1, 0, 0, 1]], -1, label.astype(np.int32))
    kept = label[:, [0, 1, 3, 4]]
    assert metrics.score_image(prediction, ignored) == metrics.score_image(kept, kept)
    row = metrics.score_image(strip(3, 0), np.full((1, 2), -1))   # an instance of ignored pixels alone is none
    assert (row.predicted_instances, row.label_instances, row.sbd, row.foreground_dice) == (0, 0, 1, 1)


NOTHING, ONE = strip(0, 0, 0), strip(0, 5, 5)


@pytest.mark.parametrize('prediction, label, expected', [
    (NOTHING, NOTHING, (1, 0, 1, 1)), (ONE, NOTHING, (0, 1, 0, 0)), (NOTHING, ONE, (0, -1, 0, 0)),
    (ONE, ONE, (1, 0, 1, 1))])
def test_images_without_instances(prediction, label, expected):
    means = score([prediction], [label])
    assert tuple(means[name] for name in ('sbd', 'dic', 'foreground_dice', 'ap')) == expected
