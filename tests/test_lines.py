"""data/lanes/lines.py: lanes against the lines that the instances were drawn from."""
import cv2
import numpy as np
import pytest

from data.lanes import lines

PHOTO = 1280, 720
H_SAMPLES = list(range(160, 720, 10))


def road(bend=0.0):
    """Four lanes: float [4, h_samples], px, -2 outside the image and above row 270."""
    y = np.array(H_SAMPLES, float)
    depth = 1 / np.maximum(y - 240, 1)
    x = 640 + np.array([-2.4, -0.9, 0.8, 2.3])[:, None] * (y - 240) + bend * 3000 * depth
    return np.where((y >= 270) & (x >= 0) & (x <= 1279), x, -2)


def draw(lines, size=(512, 256)):
    photo = np.zeros(PHOTO[::-1], np.uint8)
    for i, line in enumerate(lines):
        points = np.rint([(x, y) for x, y in zip(line, H_SAMPLES) if x >= 0]).astype(np.int32)
        cv2.polylines(photo, [points], False, i + 1, 7)
    return cv2.resize(photo, size, interpolation=cv2.INTER_NEAREST).astype(np.int32)


def assert_lanes(found, expected, tolerance=12, ends=0):
    """As many lanes, x within tolerance px, present in the same rows except for at most `ends`."""
    assert len(found) == len(expected)
    for line, target in zip(found, expected):
        assert np.count_nonzero((line >= 0) != (target >= 0)) <= ends
        both = (line >= 0) & (target >= 0)
        assert np.abs(line - target)[both].max() < tolerance
        assert (line[line < 0] == -2).all()


@pytest.mark.parametrize('size', [(512, 256), (512, 512), (1280, 720), (320, 192)])
@pytest.mark.parametrize('bend', [-1, 0, 1])
def test_lanes_of_clean_instances_are_the_lines_they_were_drawn_from(bend, size):
    expected = road(bend)
    assert_lanes(lines.lanes(draw(expected, size), PHOTO, H_SAMPLES), expected, ends=1)


def test_ragged_edges_specks_and_a_vehicle_before_or_next_to_it_bend_no_lane():
    rng = np.random.default_rng(0)
    ids = draw(road())
    ids[140:200, 120:280] = 0
    ids[cv2.GaussianBlur(rng.normal(size=ids.shape), (0, 0), 1) > 0.3] = 0
    for x, y in rng.integers([0, 90], [512, 256], size=(12, 2)):
        cv2.circle(ids, (int(x), int(y)), 2, int(rng.integers(1, 7)), -1)
    ids[170:200, 330:380] = 3
    assert_lanes(lines.lanes(ids, PHOTO, H_SAMPLES), road(), ends=4)


@pytest.mark.parametrize('photo', [PHOTO, (640, 360)])
def test_lanes_end_a_few_px_before_the_side_of_the_image_as_labels_do(photo):
    ids = np.zeros([360, 640], np.uint8)
    cv2.line(ids, (320, 125), (639, 300), 1, 3)
    rows = np.arange(photo[1])
    line, = lines.lanes(ids, photo, rows)
    x = np.interp(rows, rows[line >= 0], line[line >= 0])
    assert 0.985 * photo[0] < x.max() < 0.997 * photo[0]


def points(*ends):
    """The straight lane between two points (x, y) of the image: float [h_samples]."""
    (x0, y0), (x1, y1) = ends
    y = np.array(H_SAMPLES, float)
    return np.where((y >= min(y0, y1)) & (y <= max(y0, y1)), x0 + (x1 - x0) * (y - y0) / (y1 - y0), -2)


def test_lane_that_forks_is_joined_with_the_branch_that_fits_best():
    stem, left, right = points((640, 440), (600, 710)), points((646, 420), (670, 280)), points((660, 420), (720, 280))
    found = lines.lanes(draw([stem, left, right]), PHOTO, H_SAMPLES)
    assert len(found) == 2
    both = np.maximum(stem, left)
    assert min(np.abs(line - both)[both >= 0].max() for line in found) < 15


@pytest.mark.parametrize('end, expected', [([640, 640], [640, 640]), ([640, 560], [710, 710])])
def test_lanes_end_at_our_own_cars_hood_but_are_extended_behind_different_objects(end, expected):
    ids = draw([np.where(np.array(H_SAMPLES) <= row, line, -2) for row, line in zip(end, road()[1:3])])
    for line, row in zip(lines.lanes(ids, PHOTO, H_SAMPLES), expected, strict=True):
        assert abs(max(y for x, y in zip(line, H_SAMPLES) if x >= 0) - row) <= 10


def test_lanes_begin_where_their_pixels_are_certain():
    ids = draw(road())
    certainty = np.where(np.arange(256)[:, None] < 128, 0.3, 1.0) * np.ones(ids.shape)   # row 360 of the image
    found, _ = lines.lanes_and_confidences(ids, PHOTO, H_SAMPLES, certainty=certainty)
    assert [min(y for x, y in zip(line, H_SAMPLES) if x >= 0) for line in found] == [360] * 4


def test_lanes_begin_at_much_the_same_row_except_one_that_begins_far_below():
    starts = [300, 300, 330, 450]
    ids = draw([np.where(np.array(H_SAMPLES) >= row, line, -2) for row, line in zip(starts, road()[[1, 0, 2, 3]])])
    found = [min(y for x, y in zip(line, H_SAMPLES) if x >= 0) for line in lines.lanes(ids, PHOTO, H_SAMPLES)]
    assert max(found[:3]) - min(found[:3]) <= 10
    assert found[3] >= 440


def test_lane_that_stops_shortly_before_the_border_is_extended_and_one_that_ends_midway_is_not():
    expected = road()[1:3]
    ids = draw(expected)
    ids[235:][ids[235:] == 1] = 0  # 59 px short
    ids[160:][ids[160:] == 2] = 0  # ends at row 450
    first, second = lines.lanes(ids, PHOTO, H_SAMPLES)
    assert_lanes([first], expected[:1], ends=1)
    assert max(y for x, y in zip(second, H_SAMPLES) if x >= 0) in (440, 450)


def test_no_instances_have_no_lanes():
    for shape in ([256, 512], [0, 9]):
        assert lines.lanes(np.zeros(shape, np.int32), PHOTO, H_SAMPLES) == []


def test_lane_with_gaps_or_unsure_pixels_or_a_short_or_broad_one_is_less_confident():
    ids = draw(road())
    _, whole = lines.lanes_and_confidences(ids, PHOTO, H_SAMPLES)
    assert len(whole) == 4 and min(whole) > 0.75
    gaps = ids.copy()
    gaps[130:160][gaps[130:160] == 2] = 0
    _, confidences = lines.lanes_and_confidences(gaps, PHOTO, H_SAMPLES)
    assert confidences[1] < whole[1] - 0.1 and confidences[0] == pytest.approx(whole[0])
    certainty = np.where(ids == 3, 0.5, 1.0)
    _, confidences = lines.lanes_and_confidences(ids, PHOTO, H_SAMPLES, certainty=certainty)
    assert confidences[2] == pytest.approx(whole[2] / 2) and confidences[3] == pytest.approx(whole[3])
    short = ids.copy()
    short[140:][short[140:] == 2] = 0
    broad = np.where(cv2.dilate(np.uint8(ids == 3), np.ones([1, 9])) > 0, 3, ids)
    for changed, number in ((short, 1), (broad, 2)):
        _, confidences = lines.lanes_and_confidences(changed, PHOTO, H_SAMPLES)
        assert confidences[number] < whole[number] - 0.2 and confidences[3 - number] == pytest.approx(whole[3 - number])


def test_the_most_confident_lanes_are_kept_and_none_below_the_threshold():
    ids = draw(road())
    certainty = np.choose(ids, [0, 0.3, 0.9, 0.8, 0.4])
    _, everything = lines.lanes_and_confidences(ids, PHOTO, H_SAMPLES, certainty=certainty)
    _, three = lines.lanes_and_confidences(ids, PHOTO, H_SAMPLES, 3, certainty=certainty)
    _, sure = lines.lanes_and_confidences(ids, PHOTO, H_SAMPLES, min_confidence=0.6, certainty=certainty)
    assert three == everything[1:] and sure == everything[1:3]
