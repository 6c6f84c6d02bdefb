"""data/lanes/score.py against a slow and literal score, and data/tusimple_evaluation.py."""

import os

import cv2
import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

from data import tusimple_evaluation as evaluation
from data.common.command_line import InputError
from data.lanes import score, tusimple


# ---- The rules, written for clarity ----------------------------------------------------------------------------------

def plain_threshold(lane, h_samples):
    points = [(x, y) for x, y in zip(lane, h_samples) if x >= 0]
    k = 0
    if len(points) >= 2:
        x, y = np.array(points).T
        k = LinearRegression().fit(y[:, None], x).coef_[0]
    return 20 / np.cos(np.arctan(k))


def plain_accuracy(predicted, lane, threshold):
    right = 0
    for x_pred, x_gt in zip(predicted, lane):
        right += abs((x_pred if x_pred >= 0 else -100) - (x_gt if x_gt >= 0 else -100)) < threshold
    return right / len(lane)


def plain_score(pred_lanes, gt_lanes, h_samples, run_time):
    if run_time > 200 or len(pred_lanes) > len(gt_lanes) + 2:
        return 0., 0., 1.
    total, accuracies = 0., []
    for lane in gt_lanes:
        threshold = plain_threshold(lane, h_samples)
        accuracies.append(max([plain_accuracy(predicted, lane, threshold) for predicted in pred_lanes] + [0.]))
        total = total + accuracies[-1]
    misses = sum(accuracy < 0.85 for accuracy in accuracies)
    fp = (len(pred_lanes) - (len(gt_lanes) - misses)) / len(pred_lanes) if pred_lanes else 0.
    if len(gt_lanes) > 4:
        total = total - min(accuracies)
        misses -= misses > 0
    counted = max(min(4., len(gt_lanes)), 1.)
    return total / counted, fp, misses / counted


def random_photo(rng):
    """Lanes of one photo and predictions of all kinds, from nearly right to absurd."""
    h_samples = list(range(int(rng.choice([160, 240])), 720, 10))
    if rng.random() < 0.15:  # few rows: shares of them meet 0.85 exactly
        h_samples = sorted(rng.choice(720, int(rng.integers(1, 21)), replace=False).tolist())
    rows = np.array(h_samples)
    gt_lanes, pred_lanes = [], []
    for _ in range(rng.choice(6, p=[.05, .1, .2, .25, .2, .2])):
        slope = rng.choice([0., 0.75, -0.75, *rng.normal(0, 1.5, 3)])  # whole thresholds, too
        lane = np.rint(slope * (rows - 700) + rng.integers(-400, 1700))
        lane = np.where((rows >= rng.integers(0, 600)) & (lane >= 0) & (lane < 1280), lane, -2)
        lane[rng.random(len(rows)) < rng.choice([0, 0.97], p=[.95, .05])] = -2  # no point, or one
        gt_lanes.append(lane.tolist())
        edge = rng.choice([0, 0, 19.999, 20, 20.001, 25]) * rng.choice([1, -1])
        x = np.where(lane >= 0, lane + edge + rng.normal(0, rng.choice([0, 0, 5, 15])), lane)
        x[rng.random(len(x)) < rng.choice([0, .1, .15, .2])] = rng.choice([-2, -1, -1e-9, -100, 0, 3000])
        pred_lanes += [x.tolist()] * rng.choice(3, p=[.1, .8, .1])
    while rng.random() < 0.3:
        pred_lanes.append(rng.integers(-2, 1280, len(rows)).tolist())
    rng.shuffle(pred_lanes)
    run_time = rng.choice([0., 3.5, 200., 200.0001, 1e9], p=[.3, .3, .3, .05, .05])
    return pred_lanes, gt_lanes, h_samples, run_time


def test_scores_are_bit_identical_to_the_plain_rules():
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(100):
        photo = random_photo(rng)
        expected = plain_score(*photo)
        assert score.score_photo(*photo) == expected
        seen.add((min(len(photo[1]), 6), expected[2] > 0, expected[1] < 0, expected[0] > 0.85))
    assert len(seen) > 15  # the corners were met


# ---- Corners, with scores worked out by hand -------------------------------------------------------------------------

ROWS = list(range(160, 720, 28))  # 20 rows: 17 right ones are exactly 0.85


def upright(x, rows=20):
    """A lane at x in the lowest rows, absent above."""
    return [-2] * (20 - rows) + [x] * rows


def five(good_rows):
    """Five lanes, the last one 50 px off below its good rows."""
    return [upright(200 * i) for i in range(4)] + [[800 + 50 * (row >= good_rows) for row in range(20)]]


@pytest.mark.parametrize('predicted, truth, run_time, expected', [
    ([upright(100)], [upright(100)], 5, (1, 0, 0)),
    ([], [], 5, (0, 0, 0)),
    ([], [upright(100)], 5, (0, 0, 1)),
    ([upright(100 * i) for i in range(7)], [upright(100 * i) for i in range(7)], 5, (1, 0, 0)),
    ([upright(100 * i) for i in range(4)], [upright(100 * i) for i in range(7)], 5, (4 / 6, 0, 2 / 6)),
    ([upright(100)], [], 5, (0, 1, 0)),
    ([upright(100)] * 3, [upright(100)], 5, (1, 2 / 3, 0)),                     # two over
    ([upright(100)], [upright(100)], 200, (1, 0, 0)),
    ([upright(100)], [upright(100)], 200.0001, (0, 0, 1)),
    ([upright(119.999)], [upright(100)], 5, (1, 0, 0)),
    ([upright(120)], [upright(100)], 5, (0, 1, 1)),                             # closer than 20 px, not 20
    ([upright(100, 17)], [upright(100)], 5, (0.85, 0, 0)),                      # 0.85 is enough
    ([upright(100, 16)], [upright(100)], 5, (0.8, 1, 1)),
    ([upright(110)], [upright(100), upright(120)], 5, (1, -1, 0)),              # one finds two lanes
    ([upright(-2)], [upright(-2)], 5, (1, 0, 0)),                               # an empty lane is a lane
    ([upright(-1)], [upright(-2)], 5, (1, 0, 0)),                               # any negative is absent
    (five(20), five(20), 5, (1, 0, 0)),
    (five(10), five(20), 5, (1, 0.2, 0)),                                       # the worst is forgiven
    (five(20)[:4], five(20), 5, (1, 0, 0)),
    (five(20)[:3], five(20), 5, (0.75, 0, 0.25)),
])
def test_corner(predicted, truth, run_time, expected):
    assert score.score_photo(predicted, truth, ROWS, run_time) == pytest.approx(expected)


# ---- Many photos -----------------------------------------------------------------------------------------------------


def test_run_time_can_be_ignored():
    slow, none, label = (tusimple.Record('a.jpg', [upright(100)], ROWS, run_time=time) for time in (201, None, 1))
    assert score.score([slow], [label])[0] == (0, 0, 1)
    assert score.score([slow], [label], True)[0] == score.score([none], [label], True)[0] == (1, 0, 0)
    with pytest.raises(InputError, match='has no "run_time"'):
        score.score([none], [label])


def test_predictions_of_windows_match_their_labels():
    lanes = [upright(100)]
    records = [tusimple.Record(name, lanes, ROWS, run_time=1.) for name in ('clips\\a\\20.jpg', 'clips/a/20.jpg')]
    assert score.score(records[:1], records[1:])[0] == (1, 0, 0)
    with pytest.raises(InputError, match='labelled a second time'):
        score.score(records[:1], records)


# ---- The script ------------------------------------------------------------------------------------------------------

@pytest.fixture
def files(tusimple_folder):
    """Paths of labels and of predictions that miss the second photo's two lanes and find all others."""
    labels = tusimple_folder / 'label_data_0000.json'
    records, _ = tusimple.read_records(labels)
    for record in records:
        record.run_time = 12.5
    records[1].lanes = [[-2 if x < 0 else x + 40 for x in lane] for lane in records[1].lanes]
    predictions = tusimple_folder.parent / 'predictions.json'
    tusimple.write_records(str(predictions), records)
    return predictions, labels


def test_prints_the_benchmarks_list(files, run_script):
    outcome = run_script(evaluation, *files)
    assert outcome.status in (None, 0) and outcome.err == ''
    (accuracy, fp, fn), _ = score.score(*(tusimple.read_records(path)[0] for path in files))
    assert 0 < accuracy < 1 and fp == fn == (2 / 3) / 3
    assert outcome.out == (f'[{{"name": "Accuracy", "value": {accuracy!r}, "order": "desc"}}, '
                           f'{{"name": "FP", "value": {fp!r}, "order": "asc"}}, '
                           f'{{"name": "FN", "value": {fn!r}, "order": "asc"}}]\n')


def is_colour(picture, colour):
    return (np.abs(picture.astype(int) - colour).sum(axis=2) < 60).sum()


def test_worst_images_are_drawn_with_both_sets_of_lanes(files, run_script, tmp_path):
    outcome = run_script(evaluation, *files, '--worst', tmp_path / 'worst', '--worst-num', 2)
    assert outcome.status in (None, 0) and outcome.err == ''
    assert sorted(os.listdir(tmp_path / 'worst')) == ['0000.png', '0001.png']
    worst, good = (cv2.imread(str(tmp_path / f'worst/000{i}.png'))[..., ::-1] for i in range(2))
    for picture in (worst, good):
        assert picture.shape[0] > 72 and picture.shape[1] == 128
        assert is_colour(picture, evaluation.PREDICTION_COLOUR) > 20
    green = evaluation.LABEL_COLOUR
    assert is_colour(worst, green) > 2 * is_colour(good, green)  # missed lanes are thick


def test_missing_image_is_reported_and_the_others_are_drawn(files, run_script, tmp_path):
    (files[1].parent / 'clips/0000/0/20.jpg').unlink()
    outcome = run_script(evaluation, *files, '--worst', tmp_path / 'worst')
    assert outcome.status == 1 and outcome.out.startswith('[{')
    assert outcome.err.count('\n') == 1 and '0000/0/20.jpg' in outcome.err
    assert sorted(os.listdir(tmp_path / 'worst')) == ['0000.png', '0002.png']
