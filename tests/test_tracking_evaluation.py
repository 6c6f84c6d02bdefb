"""data/tracking_evaluation.py: sequences with measures computed by hand, and the script."""
import json
import math

import numpy as np
import pytest

from data import tracking_evaluation
from data.lanes import tusimple

ROWS = list(range(400, 600, 10))


def upright(x, rows=20):
    """A lane at x in the lowest rows, absent above."""
    return [-2] * (20 - rows) + [x] * rows


def video(*frames, source='v.json'):
    """Records of frames, each a dict: id -> lane, or x of an upright one."""
    return [tusimple.Record('v', [upright(lane) if np.isscalar(lane) else lane for lane in frame.values()], ROWS,
                            f'{source}:{i}', ids=list(frame)) for i, frame in enumerate(frames, 1)]


def measure(predicted, true):
    return tracking_evaluation.evaluate(video(*predicted), video(*true, source='labels.json'))


def test_labels_against_themselves_are_perfect():
    frames = [{3: 100, 4: 500}, {4: 505, 3: 110}, {}, {4: 510}]
    assert measure(frames, frames) == (4, 0, 0, 0, 0, 0, 0, 0.75)  # TuSimple's accuracy of an empty frame is 0


@pytest.mark.parametrize('ids, switches', [
    ([1, 1, 1, 1, 1], 0), ([1, 2, 2, 2, 2], 1), ([1, 2, 1, 2, 1], 4),
    ([1, 1, None, None, 1], 0), ([1, 1, None, None, 2], 1),   # a gap is no switch, another id after it is
    ([None, None, 2, 2, 3], 1),                               # the first id is none
])
def test_switches_are_counted_against_the_last_match(ids, switches):
    predicted = [{} if number is None else {number: 100} for number in ids]
    measures = measure(predicted, [{7: 100}] * 5)
    assert measures.switches == 1000 * switches / 5 and measures.missed == ids.count(None) / 5
    assert measure([{1: 100}, {}, {2: 100}], [{7: 100}, {}, {7: 100}]).switches == 0   # a label id that returns is new


def test_match_is_kept_while_possible_even_next_to_a_nearer_lane():
    measures = measure([{1: 103}, {1: 119, 2: 101}, {1: 121, 2: 101}], [{7: 100}] * 3)
    assert measures.switches == 1000 / 3 and measures.mean_error == pytest.approx((3 + 19 + 1) / 3)


@pytest.mark.parametrize('predicted, true, expected', [
    ([{1: 119, 2: 520}, {1: 119, 2: 520, 3: 900}], [{7: 100, 8: 500}] * 2, (1, 1.5, 19)),   # 20 px are too far
    ([{1: 110, 2: 128}], [{7: 95, 8: 112}], (0, 0, (15 + 16) / 2))])   # 1 is nearest to 8, but that leaves 7 alone
def test_as_many_lanes_as_possible_are_matched(predicted, true, expected):
    measures = measure(predicted, true)
    assert (measures.missed, measures.false_positives, measures.mean_error) == expected
    assert measures.median_error == measures.mean_error


def test_jitter_is_the_change_of_the_error_in_rows_that_both_frames_have():
    # Lane 7 moves by 10; its error goes 2, -1, -1: changes -3 in 20 rows, 0 in the 10 that are left.
    predicted = [{1: 102}, {1: 109}, {1: upright(119, 10)}]
    measures = measure(predicted, [{7: 100}, {7: 110}, {7: 120}])
    assert measures.jitter == pytest.approx(math.sqrt(20 * 9 / 30))


TRUE = [{7: 100, 8: 500}, {7: 102, 8: 498}, {7: 104, 8: 496}, {7: 106, 8: 494}]


def written(folder, predicted):
    paths = folder / 'predictions.json', folder / 'labels.json'
    for path, frames in zip(paths, (predicted, TRUE)):
        tusimple.write_records(str(path), video(*frames))
    return paths


def test_the_script_prints_the_measures(tmp_path, run_script):
    predicted = [{1: frame[7] + 1, 2: frame[8] + 3} for frame in TRUE[:3]]
    outcome = run_script(tracking_evaluation, *written(tmp_path, predicted + [{3: 107}]))
    assert outcome.status in (None, 0) and outcome.err == ''
    assert [' '.join(line.split()) for line in outcome.out.splitlines()] == [
        'frames 4', 'id switches per 1,000 frames 250.00', 'missed lanes per frame 0.250',
        'false lanes per frame 0.000', 'error, median 1.00 px', 'error, mean 1.86 px', 'jitter 0.00 px',
        'TuSimple accuracy 0.8750']


def change(**values):
    return lambda lines: lines[1].update(values)


@pytest.mark.parametrize('name, spoil, words', [
    ('predictions', lambda lines: lines.pop(), 'there are 3 predicted and 4 labelled frames'),
    ('predictions', change(ids=None), 'predictions.json:2: has no "ids"'),
    ('labels', change(ids=[7, 7]), 'labels.json:2: has no "ids" that differ'),
    ('predictions', change(lanes=[[5], [6]], h_samples=None), 'predictions.json:2: its lanes are not in the h_samples'),
    ('labels', lambda lines: lines.clear(), 'labels.json: holds no lines'),
])
def test_bad_input_is_one_line(name, spoil, words, tmp_path, run_script):
    paths, path = written(tmp_path, TRUE), tmp_path / f'{name}.json'
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    spoil(lines)
    path.write_text('\n'.join(map(json.dumps, lines)))
    outcome = run_script(tracking_evaluation, *paths)
    assert outcome.status == 1 and outcome.out == ''
    assert words in outcome.err and outcome.err.count('\n') == 1
