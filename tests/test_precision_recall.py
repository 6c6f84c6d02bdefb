"""Precision and recall over the confidence of lanes, against one threshold after the other, and --precision-recall."""

import csv

import numpy as np
import pytest

from data import tusimple_evaluation as evaluation
from data.common import precision_recall
from data.lanes import culane, tusimple

SIZE = 400, 300
ROWS = list(range(0, 300, 15))  # 20: 17 right ones are 0.85


def random_photos(num, seed):
    """Pairs of predictions with confidences in tenths, many of them equal, and labels. -> list of (Record, Record)"""
    rng = np.random.default_rng(seed)
    pairs = []
    for i in range(num):
        labels = [[60 * k + 20] * 20 for k in range(rng.integers(0, 7))]
        lanes = [[lane[0] + int(offset)] * 20 for lane in labels
                 for offset in rng.choice([0, 2, 30], rng.integers(0, 3))]
        confidence = (rng.integers(0, 11, len(lanes)) / 10).tolist()
        pairs.append((tusimple.Record(f'{i}', lanes, ROWS, run_time=1., confidence=confidence),
                      tusimple.Record(f'{i}', labels, ROWS)))
    return pairs


def accepted_lanes(prediction, threshold):
    return [lane for lane, value in zip(prediction.lanes, prediction.confidence) if value >= threshold]


def ious_of(*sets):
    return culane.lane_ious(*([tusimple.lane_points(lane, ROWS) for lane in lanes] for lanes in sets), SIZE)


def plain_culane(pairs, threshold):
    hits = predicted = labelled = 0
    for prediction, label in pairs:
        lanes = accepted_lanes(prediction, threshold)
        hits += len(culane.find_hits(ious_of(lanes, label.lanes))[0])
        predicted += len(lanes)
        labelled += len(label.lanes)
    return hits, predicted, hits, labelled


def test_each_point_is_the_score_of_the_lanes_that_are_accepted():
    pairs = random_photos(12, 0)
    points = precision_recall.curve([culane.count_by_confidence(prediction, ious_of(prediction.lanes, label.lanes))
                                     for prediction, label in pairs])
    assert [point.threshold for point in points] == sorted({value for pair in pairs for value in pair[0].confidence})
    for threshold, precision, recall, f1 in points:
        right, predicted, found, labelled = plain_culane(pairs, threshold)
        assert (precision, recall) == (right / predicted, found / labelled)
        assert f1 == pytest.approx(2 * precision * recall / (precision + recall) if right else 0)
    assert len({point.f1 for point in points}) > 5


def test_a_curve_by_hand():
    # Of 4 lanes the 2 most confident are right, one more is the least confident.
    points = precision_recall.curve([(np.array([0.9, 0.3]), [0, 1, 1], [0, 1, 1], 2),
                                     (np.array([0.1, 0.8]), [0, 1, 2], [0, 1, 2], 3)])
    assert [tuple(point) for point in points] == [
        (0.1, 3 / 4, 3 / 5, pytest.approx(2 / 3)), (0.3, 2 / 3, 2 / 5, pytest.approx(0.5)),
        (0.8, 1, 2 / 5, pytest.approx(4 / 7)), (0.9, 1, 1 / 5, pytest.approx(1 / 3))]
    assert precision_recall.best_point(points) is points[0]


def test_many_confidences_make_200_steps_from_the_lowest_to_the_highest():
    confidence = np.random.default_rng(2).random(1000)
    points = precision_recall.curve([(confidence, range(1001), range(1001), 2000)])
    assert len(points) == 200 and points[0].threshold == confidence.min() and points[-1].threshold == confidence.max()
    assert points[0][1:3] == (1, 0.5) and points[-1][1:3] == (1, 1 / 2000)


# ---- The script ------------------------------------------------------------------------------------------------------

@pytest.fixture
def files(tusimple_folder):
    """Paths of labels and of predictions, whose second lane is wrong and the least confident."""
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


@pytest.mark.parametrize('measure', ['tusimple', 'culane'])
def test_writes_the_curve_and_prints_its_best_point(files, run_script, tmp_path, measure):
    table = run_script(evaluation, *files, '--measure', measure).out
    outcome = run_script(evaluation, *files, '--measure', measure, '--precision-recall', tmp_path / 'new/curve.csv')
    assert outcome.status in (None, 0) and outcome.err == ''
    with open(tmp_path / 'new/curve.csv', newline='') as file:
        rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    assert [row['threshold'] for row in rows] == pytest.approx([0.3, 0.4, 0.7, 0.8, 0.9])
    assert [row['precision'] for row in rows] == [0.8, 0.75, 1, 1, 1]
    labelled = 5 if measure == 'culane' else 6  # a lane without points counts for TuSimple
    assert [row['recall'] * labelled for row in rows] == pytest.approx([4, 3, 3, 2, 1])
    best = max(row['f1'] for row in rows)
    assert outcome.out.startswith(table + f'best F1 {best:.4f} ')


@pytest.mark.parametrize('measure', ['tusimple', 'culane'])
def test_predictions_without_confidence_are_one_line(files, run_script, tmp_path, measure):
    records, _ = tusimple.read_records(files[0])
    records[1].confidence = None
    tusimple.write_records(files[0], records)
    outcome = run_script(evaluation, *files, '--measure', measure, '--precision-recall', tmp_path / 'curve.csv')
    assert outcome.status and outcome.err.count('\n') == 1 and outcome.out == ''
    assert 'predictions.json:2: has no "confidence"' in outcome.err and not (tmp_path / 'curve.csv').exists()


def test_the_curve_and_the_score_of_each_photo_are_two_files(files, run_script, tmp_path):
    (tmp_path / 'link').symlink_to(tmp_path)
    outcome = run_script(evaluation, *files, '--per-image', tmp_path / 'a.csv',
                         '--precision-recall', tmp_path / 'link/a.csv')
    assert outcome.status and outcome.err.count('\n') == 1 and 'another flag has the same file' in outcome.err
    assert not (tmp_path / 'a.csv').exists()
