"""data/lanes/own_lane.py: what is known of a photo in which only the own lane's lines are labelled."""
import pytest

from data.common.command_line import InputError
from data.lanes import own_lane, tusimple

SIZE, ROWS = (640, 360), list(range(160, 300, 10))   # the hood begins at row 300


def record(*lanes):
    return tusimple.Record('a.jpg', list(lanes), ROWS)


def line(direction):
    """A straight line from (320, 140) downwards. direction: px to the side per row"""
    return [320 + direction * (y - 140) for y in ROWS]


LEFT, RIGHT = line(-1), line(1)


def test_lane_margin_sky_and_hood_are_known_and_the_rest_is_ignored():
    label = own_lane.draw_label(record(LEFT, RIGHT), SIZE)
    assert label[200, 320 - 60] == 20 and label[200, 320 + 60] == 70
    assert label[200, 320] == label[200, 320 - 90] == label[200, 320 + 90] == 0   # lane width 120 px, margin 42
    assert (label[200, [100, 200, 440, 600]] == own_lane.IGNORED).all()
    assert (label[:120] == 0).all() and label[145, 100] == own_lane.IGNORED
    assert (label[310:, 320 - 170:320 + 170] == 0).all() and label[330, 20] == own_lane.IGNORED


def test_continuation_of_a_line_that_ends_first_is_ignored():
    label = own_lane.draw_label(record(LEFT[:6] + [-2] * (len(ROWS) - 6), RIGHT), SIZE)
    assert label[200, 320 - 60] == 20 and label[250, 320 - 110] == own_lane.IGNORED
    assert label[250, 320] == 0 and label[320, 320 - 180] == 0   # below the end of both, there is a hood


def test_line_that_leaves_the_photo_has_not_ended_first():
    steep = [max(x, -2) for x in line(-3)]
    assert (own_lane.draw_label(record(steep, RIGHT), SIZE)[280, :320] == 0).all()


def test_of_one_line_its_surroundings_are_known():
    label = own_lane.draw_label(record(LEFT), SIZE)
    assert label[200, 320 - 60] == 20 and label[200, 320 - 70] == 0 and label[200, 320 + 60] == own_lane.IGNORED
    assert (label[:110] == 0).all()


def test_photo_without_a_line_is_rejected():
    with pytest.raises(InputError, match='has no line'):
        own_lane.draw_label(record([-2] * len(ROWS)), SIZE)
