"""Pictures from arrays: the right pixels get the right colours, and nothing else changes."""
import os

import cv2
import numpy as np
import pytest

import visualization
from data.common import pictures


def blocks(height=16, width=24):
    """Two square instances on background."""
    ids = np.zeros([height, width], np.int32)
    ids[4:10, 2:8] = 1
    ids[6:14, 14:20] = 2
    return ids


def test_first_16_colours_are_easily_distinguished():
    lab = cv2.cvtColor(np.float32([[visualization.colour(k) for k in range(16)]]) / 255, cv2.COLOR_RGB2LAB)[0]
    distances = np.linalg.norm(lab[:, None] - lab, axis=2) + 1000 * np.eye(16)
    assert distances.min() > 25   # 2.3 is just noticeable


def test_background_and_input_image_are_unchanged():
    photo = np.random.RandomState(0).randint(0, 256, [16, 24, 3]).astype(np.uint8)
    before = photo.copy()
    picture = visualization.draw_instances(photo, blocks())
    np.testing.assert_array_equal(photo, before)
    changed = (picture != photo).any(axis=2)
    np.testing.assert_array_equal(changed, blocks() > 0)


def test_more_instances_than_colours_are_coloured():
    ids = np.arange(101).reshape(1, 101)
    picture = visualization.colour_instances(ids)
    assert not picture[0, 0].any() and picture[0, 1:].any(axis=1).all()
    np.testing.assert_array_equal(visualization.draw_instances(np.zeros_like(picture), ids, alpha=1), picture)


def test_small_ids_are_scaled_to_the_image_without_a_shift():
    ids = blocks(40, 60)
    picture = visualization.draw_instances(np.zeros([123, 200, 3], np.uint8), ids, alpha=1)
    for number in (1, 2):
        drawn = (picture == visualization.colour(number - 1)).all(axis=2)
        whole = cv2.resize(np.where(ids == number, 255, 0).astype(np.uint8), (200, 123)) > 127
        assert (drawn != whole).sum() <= 0.02 * whole.sum()   # fixed-point rounding on the outline


@pytest.mark.parametrize('size', [(64, 32), (128, 64), (320, 180), (101, 77)])
def test_instances_are_drawn_as_if_their_masks_were_resized_whole(size):
    """In photos smaller and larger than the ids, by whole factors or not, with their outlines."""
    ids = np.zeros((64, 128), np.int32)
    for number in range(1, 9):
        cv2.circle(ids, (16 * number - 8, 7 * number), 6, number, -1)
    photo = np.full((size[1], size[0], 3), 100, np.uint8)
    picture, edges = visualization.draw_instances(photo, ids, outlined=True), np.zeros(photo.shape[:2], bool)
    for number in range(1, 9):
        mask = np.uint8(pictures.resize_image(np.uint8(255 * (ids == number)), size) > 127)
        edges |= mask > cv2.erode(mask, np.ones((3, 3), np.uint8))
    np.testing.assert_array_equal((picture == 20).all(axis=2), edges)


def test_lane_is_drawn_through_its_points_and_interrupted_where_absent():
    photo = np.full([100, 960, 3], 128, np.uint8)
    h_samples = [10, 20, 30, 60, 70, 90]
    picture = visualization.draw_lanes(photo, [[50, 50, -2, -2, 50, 50]], h_samples, [1])
    assert tuple(picture[15, 50]) == visualization.colour(0) == tuple(picture[80, 50])
    np.testing.assert_array_equal(picture[30:60], photo[30:60])


@pytest.mark.parametrize('lanes', [[], [[-2, -2]], [[-2, 5]], [[5000, 1e5]]],
                         ids=['none', 'absent', 'dot', 'outside'])
def test_lanes_without_a_line_are_drawn_without_an_error(lanes):
    picture = visualization.draw_lanes(np.zeros([20, 20, 3], np.uint8), lanes, [5, 15], [1] * len(lanes))
    assert picture.any() == (lanes == [[-2, 5]])


def test_instances_above_and_below_a_vehicle_belong_to_the_lane_over_both():
    ids = np.zeros([60, 40], int)
    ids[:20, 10], ids[40:, 10], ids[:, 30], ids[:30, 20] = 5, 2, 3, 4
    lanes = [[30.5 * 16] * 30, [10.5 * 16] * 30]
    h_samples = list(range(16, 960, 32))
    assert visualization.lane_of_instance(lanes, h_samples, ids, (640, 960)).tolist() == [-1, -1, 1, 0, -1, 1]
    short = [20.5 * 16] * 6 + [-2] * 24   # over two fifths of 4, but over nothing else
    assert visualization.lane_of_instance([short], h_samples, ids, (640, 960)).tolist() == [-1, -1, -1, -1, 0, -1]
    assert visualization.lane_of_instance([], h_samples, ids, (640, 960)).tolist() == [-1] * 6


@pytest.mark.parametrize('feature_dim', [2, 3, 8])
def test_scatter_plot_shows_each_instance_in_its_colour_and_is_named_by_its_run(tmp_path, feature_dim):
    embedding = (5 * np.eye(8)[blocks()] + np.random.RandomState(0).randn(16, 24, 8))[None, ..., :feature_dim]
    path = visualization.evaluate_scatter_plot(tmp_path, embedding, blocks()[None], feature_dim,
                                               'var1.0/dist1.0', 70)
    assert os.path.basename(path) == 'scatter_var1.0_dist1.0_000070.png'
    picture = cv2.imread(path)[..., ::-1]
    assert picture.shape[1] == (3 if feature_dim > 2 else 1) * picture.shape[0]
    for number in (1, 2):
        assert (picture == visualization.colour(number - 1)).all(axis=2).sum() > 10
