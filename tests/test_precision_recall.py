"""data/common/precision_recall.py, and --precision-recall of data/tusimple_evaluation.py."""

import csv

import numpy as np
import pytest

from data import tusimple_evaluation as evaluation
from data.common import precision_recall
from data.lanes import tusimple


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
