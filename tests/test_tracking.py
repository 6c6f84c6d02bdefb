"""data/lanes/tracking.py: ids and lines on drives with known ground truth."""
import numpy as np
import pytest

from benchmark_lane_tracking import FAR, HORIZON, ROWS, drive, measure
from data.lanes.tracking import LaneTracker


def road(*offsets, shift=0.0, bend=0.0):
    """Lanes at these offsets from the camera, in lane widths: list of float [rows], -2 outside the image."""
    below = ROWS - HORIZON
    lines = [640 + 1.7 * (offset + shift) * below + bend / np.maximum(below, 5) for offset in offsets]
    return [np.where((ROWS >= FAR) & (x >= 0) & (x <= 1279), x, -2) for x in lines]


def run(frames, frame_rate=30, min_time=0, **kwargs):
    """-> list of ids, as lists, and list of lines, per frame."""
    tracker = LaneTracker(ROWS, frame_rate, min_time=min_time, **kwargs)
    results = [tracker.update(lanes) for lanes in frames]
    return [ids.tolist() for ids, _ in results], [lines for _, lines in results]


@pytest.mark.parametrize('kwargs', [{'num_lanes': 2}, {'frame_rate': 10}])
def test_ids_do_not_switch_in_bends_lane_changes_and_gaps(kwargs):
    switches, _, _ = measure(drive(1, 15, **kwargs), kwargs.get('frame_rate', 30))
    assert switches < 2


def test_smoothing_halves_the_jitter_through_bends_and_lane_changes():
    _, detected, tracked = measure(drive(2, 10, changes=True, bends=True))
    assert detected > 1.9 and tracked < 0.5 * detected


def test_lines_without_noise_do_not_lag():
    _, detected, tracked = measure(drive(3, 10, noise=0))
    assert detected == 0 and tracked < 0.7


@pytest.mark.parametrize('frame_rate', [10, 30])
def test_id_survives_a_gap_of_half_a_second_and_no_longer_one(frame_rate):
    both, one = road(-0.5, 0.5), road(-0.5)
    half = round(0.5 * frame_rate)
    ids, _ = run([both] * 5 + [one] * half + [both] * 5 + [one] * (half + 1) + [both], frame_rate)
    assert ids[5 + half] == [1, 2] and ids[-1] == [1, 3]


def test_missing_lane_moves_with_the_others_in_a_lane_change():
    shifts = np.linspace(0, 1, 90)  # by one lane in 3 s
    frames = [road(-1.5, -0.5, 0.5, shift=shift) for shift in shifts]
    for frame in frames[40:55]:
        del frame[1]
    ids, lines = run(frames)
    assert ids[55] == [1, 2, 3]
    np.testing.assert_allclose(lines[55][1], frames[55][1], atol=3)


def test_ids_are_not_reused():
    frames = [road(-0.5), []] * 5 + [[]] * 20
    ids, _ = run([lanes for _ in range(3) for lanes in frames])
    assert sorted({number for own in ids for number in own}) == [1, 2, 3]
    assert ids[0] == [1] and ids[len(frames)] == [2] and ids[2 * len(frames)] == [3]


def test_id_stays_with_the_longer_branch_of_a_fork():
    stem = road(-0.5)[0]
    branch, longer = np.where(ROWS < 400, stem, -2), np.where(stem >= 0, stem + 6, -2)  # the short one fits better
    ids, _ = run([[stem]] * 5 + [[branch, longer]] + [[branch - 6 * (branch >= 0), longer]] * 20)
    assert ids[5] == [2, 1] and ids[-1] == [2, 1]


def test_one_wrong_line_does_not_move_the_others():
    frames = [road(-1.5, -0.5, 0.5, 1.5) for _ in range(20)]
    frames[10][0] = np.where(frames[10][0] >= 0, frames[10][0] + 40, -2)
    ids, lines = run(frames)
    assert ids[10] == [1, 2, 3, 4]
    for own in lines:
        np.testing.assert_allclose(own[1:], frames[0][1:], atol=2)


def test_line_that_grows_has_no_step():
    whole = road(-0.5)[0]
    upper = np.where(ROWS < 500, whole, -2)
    _, lines = run([[upper]] * 20 + [[np.where(whole >= 0, whole + 10, -2)]])
    line = lines[-1][0]
    present = line >= 0
    np.testing.assert_allclose(np.diff(line[present]), np.diff(whole[present]), atol=2)


def test_line_detected_twice_keeps_the_older_id():
    line = road(-0.5)[0]
    twin = np.where(line >= 0, line + 8, -2)
    ids, _ = run([[line]] * 20 + [[twin, line]] * 2 + [[twin]] * 5)
    assert ids[20:] == [[2, 1]] * 2 + [[1]] * 5


@pytest.mark.parametrize('frame_rate', [10, 30])
def test_line_has_no_id_until_it_was_detected_for_a_fifth_of_a_second(frame_rate):
    one, both = road(-0.5), road(0.5, -0.5)
    wait = round(0.2 * frame_rate)
    ids, _ = run([one] * 20 + [both] * wait + [one] * frame_rate + [both] * (wait + 2), frame_rate, min_time=0.2)
    assert ids[20:20 + wait] == [[0, 1]] * wait
    assert ids[-2 - wait:] == [[0, 1]] * wait + [[2, 1]] * 2


def test_lines_are_present_where_the_lanes_are_and_unchanged_without_smoothing():
    frames = [list(lanes.values()) for lanes, _ in drive(4, 5)]
    ids, lines = run(frames, smoothing=False)
    smooth_ids, smooth = run(frames)
    assert ids == smooth_ids
    for lanes, own, smoothed in zip(frames, lines, smooth):
        np.testing.assert_array_equal(lanes, own)
        np.testing.assert_array_equal(own >= 0, smoothed >= 0)
        assert (smoothed[smoothed < 0] == -2).all()
