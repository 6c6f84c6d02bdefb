"""data/lanes/score.py against a slow, literal implementation, and the script."""
import csv
import json

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

from data import tusimple_evaluation as evaluation
from data.common.command_line import InputError
from data.lanes import score, tusimple


def plain_threshold(lane, h_samples):
    x, y = np.array([(x, y) for x, y in zip(lane, h_samples) if x >= 0]).reshape(-1, 2).T
    k = LinearRegression().fit(y[:, None], x).coef_[0] if len(x) >= 2 else 0
    return 20 / np.cos(np.arctan(k))


def plain_accuracy(predicted, lane, threshold):
    return sum(abs((x_pred if x_pred >= 0 else -100) - (x_gt if x_gt >= 0 else -100)) < threshold
               for x_pred, x_gt in zip(predicted, lane)) / len(lane)


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
    """Lanes of one image and predictions of all kinds, from nearly right to absurd."""
    rows, gt_lanes, pred_lanes = np.arange(rng.choice([160, 240]), 720, 10), [], []
    if rng.random() < 0.15:  # few rows: shares of them meet 0.85 exactly
        rows = np.sort(rng.choice(720, rng.integers(1, 21), replace=False))
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
    return pred_lanes, gt_lanes, rows.tolist(), run_time


def test_scores_are_bit_identical_to_the_plain_rules():
    rng, seen = np.random.default_rng(0), set()
    for photo in (random_photo(rng) for _ in range(100)):
        expected = plain_score(*photo)
        assert score.score_photo(*photo) == expected
        seen.add((min(len(photo[1]), 6), expected[2] > 0, expected[1] < 0, expected[0] > 0.85))
    assert len(seen) > 15  # the corner cases occurred


ROWS = list(range(160, 720, 28))  # 20 rows: 17 right ones are exactly 0.85


def upright(x, rows=20):
    """A lane at x in the lowest rows, absent above."""
    return [-2] * (20 - rows) + [x] * rows


def five(good_rows):
    """Five lanes, the last one 50 px off below its good rows."""
    return [upright(200 * i) for i in range(4)] + [[800 + 50 * (row >= good_rows) for row in range(20)]]


@pytest.mark.parametrize('predicted, truth, run_time, expected', [
    ([], [upright(100)], 5, (0, 0, 1)),
    ([upright(100 * i) for i in range(4)], [upright(100 * i) for i in range(7)], 5, (4 / 6, 0, 2 / 6)),
    ([upright(100)], [], 5, (0, 1, 0)),
    ([upright(100)] * 3, [upright(100)], 5, (1, 2 / 3, 0)),                     # two too many
    ([upright(100)], [upright(100)], 200, (1, 0, 0)),
    ([upright(100)], [upright(100)], 200.0001, (0, 0, 1)),
    ([upright(119.999)], [upright(100)], 5, (1, 0, 0)),
    ([upright(120)], [upright(100)], 5, (0, 1, 1)),                             # closer than 20 px, not 20
    ([upright(100, 17)], [upright(100)], 5, (0.85, 0, 0)),                      # 0.85 is enough
    ([upright(100, 16)], [upright(100)], 5, (0.8, 1, 1)),
    ([upright(110)], [upright(100), upright(120)], 5, (1, -1, 0)),              # one finds two lanes
    ([upright(-1)], [upright(-2)], 5, (1, 0, 0)),                               # an empty lane is a lane
    (five(10), five(20), 5, (1, 0.2, 0)),                                       # the worst is forgiven
    (five(20)[:3], five(20), 5, (0.75, 0, 0.25)),
])
def test_corner(predicted, truth, run_time, expected):
    assert score.score_photo(predicted, truth, ROWS, run_time) == pytest.approx(expected)


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


@pytest.fixture
def files(tusimple_folder):
    """Paths of labels and of predictions, of which the first image's second lane is wrong and the least confident."""
    labels = tusimple_folder / 'label_data_0000.json'
    records, _ = tusimple.read_records(labels)
    for i, record in enumerate(records):
        record.lanes = [lane for lane in record.lanes if max(lane) >= 0]
        record.confidence = [0.9 - 0.1 * i - 0.5 * j for j in range(len(record.lanes))]
        record.run_time = 1.
    records[0].lanes[1] = [0, 0, 0, 0, 0, 1]
    predictions = tusimple_folder.parent / 'predictions.json'
    tusimple.write_records(predictions, records)
    return predictions, labels


def test_prints_the_benchmarks_list_and_writes_scores_worst_first(files, tmp_path, run_script):
    outcome = run_script(evaluation, *files, '--per-image', tmp_path / 'scores.csv')
    assert outcome.status in (None, 0) and outcome.err == ''
    (accuracy, fp, fn), _ = score.score(*map(tusimple.read_all, files))
    assert (fp, fn) == pytest.approx((1 / 2 / 3, (1 / 2 + 1 / 3) / 3))   # a lane without points is missed
    assert json.loads(outcome.out) == [{'name': 'Accuracy', 'value': accuracy, 'order': 'desc'},
                                       {'name': 'FP', 'value': fp, 'order': 'asc'},
                                       {'name': 'FN', 'value': fn, 'order': 'asc'}]
    with open(tmp_path / 'scores.csv', newline='') as file:
        assert [row['raw_file'][11] for row in csv.DictReader(file)] == ['0', '1', '2']
