"""data/tusimple_evaluation.py: the official metric, against a slow and literal one, and its script."""

import csv
import dataclasses
import json
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

from conftest import ROOT
from data.lanes import tusimple
from data import tusimple_evaluation as evaluation
from data.common.command_line import InputError


# ---- The rules, one after the other, without any thought of speed ----------------------------------------------------

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
        x_pred = x_pred if x_pred >= 0 else -100
        x_gt = x_gt if x_gt >= 0 else -100
        right += abs(x_pred - x_gt) < threshold
    return right / len(lane)


def plain_score(pred_lanes, gt_lanes, h_samples, run_time):
    if run_time > 200 or len(pred_lanes) > len(gt_lanes) + 2:
        return 0., 0., 1.
    line_accuracies, matched, misses = [], 0, 0
    for lane in gt_lanes:
        threshold = plain_threshold(lane, h_samples)
        best = 0.
        for predicted in pred_lanes:
            best = max(best, plain_accuracy(predicted, lane, threshold))
        if best < 0.85:
            misses += 1
        else:
            matched += 1
        line_accuracies.append(best)
    if len(gt_lanes) > 4 and misses > 0:
        forgiven = 1
    else:
        forgiven = 0
    total = 0.
    for value in line_accuracies:
        total = total + value
    if len(gt_lanes) > 4:
        total = total - min(line_accuracies)
    fp = (len(pred_lanes) - matched) / len(pred_lanes) if pred_lanes else 0.
    return total / max(min(4., len(gt_lanes)), 1.), fp, (misses - forgiven) / max(min(len(gt_lanes), 4.), 1.)


def random_photo(rng):
    """Lanes of one photo and predictions of all kinds, from nearly right to absurd."""
    h_samples = list(range(int(rng.choice([160, 240])), 720, 10))
    if rng.random() < 0.15:  # few rows: shares of them meet 0.85 exactly, and lines are of few points
        h_samples = sorted(rng.choice(720, int(rng.integers(1, 21)), replace=False).tolist())
    rows = np.array(h_samples)
    gt_lanes = []
    for _ in range(rng.choice(8, p=[.03, .05, .12, .2, .25, .2, .1, .05])):
        kind = rng.random()
        slope = rng.choice([0., 0.75, -0.75, 4 / 3, 12 / 5, *rng.normal(0, 1.5, 5)])  # whole thresholds, too
        bend = rng.normal(0, 1e-4) * (kind < 0.3)
        lane = slope * (rows - 700) + rng.integers(-400, 1700) + bend * (rows - 450) ** 2
        lane = np.where((rows >= rng.integers(0, 600)) & (lane < 1280), lane, -2)
        if kind < 0.7:
            lane = np.rint(lane)
        if kind > 0.95:
            lane[rng.random(len(rows)) < 0.97] = -2  # no point, or one
        gt_lanes.append([int(x) if x == int(x) else float(x) for x in np.where(lane >= 0, lane, -2)])
    pred_lanes = []
    for lane in gt_lanes:
        x = np.array(lane, np.float64)
        edge = rng.choice([0, 0, 19.999, 20, 20.001, 25, 52])  # 25 and 52: slopes 3/4 and 12/5
        x = np.where(x >= 0, x + rng.choice([0, 1, -1]) * edge + rng.normal(0, rng.choice([0, 0, 5, 15])), x)
        x[rng.random(len(x)) < rng.choice([0, .1, .15, .2])] = rng.choice([-2, -1, -1e-9, -100, 0, 3000])
        pred_lanes += [x.tolist()] * rng.choice(3, p=[.1, .8, .1])
    while rng.random() < 0.3:
        pred_lanes.append(rng.integers(-2, 1280, len(rows)).tolist())
    if rng.random() < 0.05:
        pred_lanes = []
    rng.shuffle(pred_lanes)
    run_time = rng.choice([0., 3.5, 200., 200.0001, 1e9], p=[.3, .3, .3, .05, .05])
    return pred_lanes, gt_lanes, h_samples, run_time


def test_every_photo_scores_as_by_the_plain_rules_to_the_last_bit():
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(1000):
        photo = random_photo(rng)
        expected = plain_score(*photo)
        assert evaluation.score_photo(*photo) == expected
        seen.add((min(len(photo[1]), 6), expected[2] > 0, expected[1] < 0, expected[0] > 0.85))
    assert len(seen) > 20  # the corners were met


def test_thresholds_equal_scikit_learns_to_the_last_bit():
    rng = np.random.default_rng(1)
    for _ in range(100):
        _, gt_lanes, h_samples, _ = random_photo(rng)
        for lane in gt_lanes:
            assert evaluation.lane_threshold(lane, h_samples) == plain_threshold(lane, h_samples)


def test_a_threshold_of_points_in_one_row_is_that_of_an_upright_lane():
    assert evaluation.lane_threshold([10, 300], [160, 160]) == 20


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
    ([upright(100)], [], 5, (0, 1, 0)),
    ([upright(100)] * 3, [], 5, (0, 0, 1)),                                     # more than two over
    ([upright(100)] * 3, [upright(100)], 5, (1, 2 / 3, 0)),                     # two over
    ([upright(100)] * 4, [upright(100)], 5, (0, 0, 1)),
    ([upright(100)], [upright(100)], 200, (1, 0, 0)),
    ([upright(100)], [upright(100)], 200.0001, (0, 0, 1)),
    ([upright(119.999)], [upright(100)], 5, (1, 0, 0)),
    ([upright(120)], [upright(100)], 5, (0, 1, 1)),                             # closer than 20 px, not 20
    ([upright(100, 17)], [upright(100)], 5, (0.85, 0, 0)),                      # 0.85 is enough
    ([upright(100, 16)], [upright(100)], 5, (0.8, 1, 1)),
    ([upright(110)], [upright(100), upright(120)], 5, (1, -1, 0)),              # one finds two lanes
    ([upright(-2)], [upright(-2)], 5, (1, 0, 0)),                               # an empty lane is a lane
    ([], [upright(-2)], 5, (0, 0, 1)),
    ([upright(-1)], [upright(-2)], 5, (1, 0, 0)),                               # any negative is absent
    ([upright(5)], [upright(-2)], 5, (0, 1, 1)),                                # and absent is far from 5
    ([[-2] * 19 + [19]], [[-2] * 19 + [0]], 5, (1, 0, 0)),                      # one point: as upright
    ([[-2] * 19 + [20]], [[-2] * 19 + [0]], 5, (0.95, 0, 0)),
    (five(20), five(20), 5, (1, 0, 0)),
    (five(10), five(20), 5, (1, 0.2, 0)),                                       # the worst is forgiven
    (five(20)[:4], five(20), 5, (1, 0, 0)),
    (five(20)[:3], five(20), 5, (0.75, 0, 0.25)),
    (five(18), five(20), 5, (1, 0, 0)),
])
def test_corner(predicted, truth, run_time, expected):
    assert evaluation.score_photo(predicted, truth, ROWS, run_time) == pytest.approx(expected)


def test_a_slanted_lane_is_given_more_room():
    lane = [0.75 * (y - 160) for y in ROWS]  # 20 / cos(atan 0.75) = 25
    for offset, accuracy in ((24.9, 1), (25.1, 0)):
        predicted = [x + offset for x in lane]
        assert evaluation.score_photo([predicted], [lane], ROWS, 5)[0] == accuracy


def test_arrays_and_fractions_do_as_lists():
    lanes = np.array([upright(100), upright(300)])
    assert evaluation.score_photo(lanes + .5, lanes, np.array(ROWS), 5) == (1, 0, 0)
    assert evaluation.score_photo(lanes[:0], lanes, np.array(ROWS), 5) == (0, 0, 1)


# ---- Many photos -----------------------------------------------------------------------------------------------------

def photos(num, seed=2):
    rng = np.random.default_rng(seed)
    labels, predictions, scores = [], [], []
    for i in range(num):
        pred_lanes, gt_lanes, h_samples, run_time = random_photo(rng)
        labels.append(tusimple.Record(f'{i}.jpg', gt_lanes, h_samples, f'labels.json:{i + 1}'))
        predictions.append(tusimple.Record(f'{i}.jpg', pred_lanes, [], f'predictions.json:{i + 1}', run_time))
        scores.append(plain_score(pred_lanes, gt_lanes, h_samples, run_time))
    return predictions, labels, scores


def test_the_score_is_the_mean_over_photos_in_the_order_of_the_predictions():
    predictions, labels, scores = photos(100)
    total = [0., 0., 0.]
    for values in scores:
        total = [a + b for a, b in zip(total, values)]
    means, rows = evaluation.score(predictions, labels[::-1])
    assert means == tuple(value / 100 for value in total)
    assert [row[:4] for row in rows] == [(f'{i}.jpg', *values) for i, values in enumerate(scores)]


def test_labels_against_themselves_are_perfect():
    _, labels, _ = photos(50)
    labels = [label for label in labels if 1 <= len(label.lanes) <= 5]  # six would give 5 / 4
    predictions = [dataclasses.replace(label, run_time=1.) for label in labels]
    means, _ = evaluation.score(predictions, labels)
    assert means == (1, 0, 0)


def test_run_time_can_be_left_out_of_it():
    predictions, labels, _ = photos(50)
    without = [dataclasses.replace(prediction, run_time=None) for prediction in predictions]
    fast = [dataclasses.replace(prediction, run_time=1.) for prediction in predictions]
    expected, _ = evaluation.score(fast, labels)
    assert evaluation.score(without, labels, ignore_run_time=True)[0] == expected
    assert evaluation.score(predictions, labels, ignore_run_time=True)[0] == expected
    assert evaluation.score(predictions, labels)[0] != expected


def test_no_labels_at_all_are_no_score():
    with pytest.raises(InputError, match='no labels'):
        evaluation.score([], [])


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
    (accuracy, fp, fn), _ = evaluation.score(*(tusimple.read_records(path)[0] for path in files))
    assert 0 < accuracy < 1 and fp == fn == (2 / 3) / 3
    assert outcome.out == (f'[{{"name": "Accuracy", "value": {accuracy!r}, "order": "desc"}}, '
                           f'{{"name": "FP", "value": {fp!r}, "order": "asc"}}, '
                           f'{{"name": "FN", "value": {fn!r}, "order": "asc"}}]\n')


def test_per_image_scores_are_worst_first(files, run_script, tmp_path):
    run_script(evaluation, *files, '--per-image', tmp_path / 'new/scores.csv')
    with open(tmp_path / 'new/scores.csv', newline='') as file:
        rows = list(csv.DictReader(file))
    assert [row['raw_file'] for row in rows] == [f'clips/0000/{i}/20.jpg' for i in (1, 0, 2)]
    _, scores = evaluation.score(*(tusimple.read_records(path)[0] for path in files))
    assert [float(row['accuracy']) for row in rows] == [scores[1].accuracy, 1, 1]
    assert rows[0]['label_lanes'] == '3' and rows[0]['run_time'] == '12.5'


def is_colour(picture, colour):
    return (np.abs(picture.astype(int) - colour).sum(axis=2) < 60).sum()


def test_the_worst_photos_are_drawn_with_both_sets_of_lanes(files, run_script, tmp_path):
    outcome = run_script(evaluation, *files, '--worst', tmp_path / 'worst', '--worst-num', 2)
    assert outcome.status in (None, 0) and outcome.err == ''
    assert sorted(os.listdir(tmp_path / 'worst')) == ['0000.png', '0001.png']
    worst, good = (cv2.imread(str(tmp_path / f'worst/000{i}.png'))[..., ::-1] for i in range(2))
    for picture in (worst, good):
        assert picture.shape[0] > 72 and picture.shape[1] == 128
        assert is_colour(picture, evaluation.PREDICTION_COLOUR) > 20
    green = evaluation.LABEL_COLOUR
    assert is_colour(worst, green) > 2 * is_colour(good, green)  # missed lanes are thick


def test_pictures_of_another_run_are_named_and_stay(files, run_script, tmp_path):
    run_script(evaluation, *files, '--worst', tmp_path / 'worst')
    outcome = run_script(evaluation, *files, '--worst', tmp_path / 'worst', '--worst-num', 1)
    assert outcome.status in (None, 0) and 'not of this run (0001.png, 2 in all)' in outcome.err
    assert len(os.listdir(tmp_path / 'worst')) == 3


def test_a_missing_photo_is_named_and_the_others_are_drawn(files, run_script, tmp_path):
    (files[1].parent / 'clips/0000/0/20.jpg').unlink()
    outcome = run_script(evaluation, *files, '--worst', tmp_path / 'worst')
    assert outcome.status == 1 and outcome.out.startswith('[{')
    assert outcome.err.count('\n') == 1 and '0000/0/20.jpg' in outcome.err
    assert sorted(os.listdir(tmp_path / 'worst')) == ['0000.png', '0002.png']


def test_odd_lanes_and_photos_can_be_drawn():
    photo = np.zeros([1, 1, 3], np.uint8)
    record = tusimple.Record('\n\u2603', [[-2, -2], [5, -2], [1e9, -1e9], [0, 0]], [160, 170], run_time=1.)
    row = evaluation.score([record], [record])[1][0]
    assert evaluation.draw_comparison(photo, record, record, row).shape[1] == 1
    nothing = dataclasses.replace(record, lanes=[])
    for predicted, label in ((record, nothing), (nothing, record), (nothing, nothing)):
        assert evaluation.draw_comparison(photo, predicted, label, row).shape[1] == 1


@pytest.mark.parametrize('args, words', [
    (['--per-image', 'train_set/clips/0000/0/20.jpg'], 'is an input itself'),
    (['--per-image', ''], '--per-image: is empty'), (['--worst', ''], '--worst: is empty')])
def test_no_report_replaces_a_photo_or_has_no_name(files, run_script, monkeypatch, args, words):
    monkeypatch.chdir(files[0].parent)
    photo = (files[1].parent / 'clips/0000/0/20.jpg').read_bytes()
    outcome = run_script(evaluation, *files, *args)
    assert outcome.status and words in outcome.err and outcome.err.count('\n') == 1
    assert (files[1].parent / 'clips/0000/0/20.jpg').read_bytes() == photo


def test_predictions_need_no_h_samples(files, run_script):
    predictions, labels = files
    expected = run_script(evaluation, predictions, labels).out
    lines = predictions.read_text().splitlines()
    without = [{key: value for key, value in json.loads(line).items() if key != 'h_samples'} for line in lines]
    predictions.write_text('\n'.join(map(json.dumps, without)))
    assert run_script(evaluation, predictions, labels).out == expected


def test_runs_from_any_folder_without_tensorflow_or_scikit_learn(files, tmp_path):
    script = os.path.join(ROOT, 'data/tusimple_evaluation.py')
    code = ('import runpy, sys; sys.argv = sys.argv[1:]\n'
            'try: runpy.run_path(sys.argv[0], run_name="__main__")\n'
            'finally: print("tensorflow" in sys.modules, "sklearn" in sys.modules)')
    done = subprocess.run([sys.executable, '-c', code, script, 'predictions.json', files[1]], cwd=tmp_path,
                          capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == ''
    assert done.stdout.startswith('[{"name": "Accuracy"') and done.stdout.endswith('False False\n')
