"""data/lanes/road_augmentation.py: cameras that keep label and photo together, worn paint, steps that are pure."""
import cv2
import numpy as np
import pytest

from data.common import pictures
from data.lanes import road_augmentation


def photo(height, width):
    coarse = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def lane_photo():
    """Grey road with two white lines on it, and the label of the lines."""
    image, label = np.full((144, 256, 3), 90, np.uint8), np.zeros((144, 256), np.uint8)
    for value, bottom in ((20, 60), (70, 190)):
        cv2.line(label, (128, 50), (bottom, 143), value, 5)
    image[label > 0] = 250
    return image, label


def test_warp_without_a_change_is_a_resize():
    image, label = photo(90, 160), lane_photo()[1][:90, :160].copy()
    warped, warped_label = road_augmentation.warp(image, label, np.eye(3), (64, 32))
    assert np.abs(warped.astype(int) - pictures.resize_image(image, (64, 32))).max() <= 1
    assert (warped_label == pictures.resize_label(label, (64, 32))).all()


@pytest.mark.parametrize('seed', range(5))
def test_warped_label_stays_on_its_line(seed):
    image, label = lane_photo()
    matrix = road_augmentation.camera_change((256, 144), np.random.default_rng(seed))
    warped, warped_label = road_augmentation.warp(image, label, matrix, (128, 72))
    white, lane = warped.min(axis=-1) > 200, warped_label > 0
    assert set(np.unique(warped_label)) <= {0, 20, 70} and lane.sum() > 50
    assert (white & ~lane).sum() + (lane & (warped.min(axis=-1) < 100)).sum() < 0.05 * lane.sum()


def test_a_sideways_move_of_the_camera_leaves_the_horizon(monkeypatch):
    monkeypatch.setattr(road_augmentation, '_FLIP', 0)
    monkeypatch.setattr(road_augmentation, '_around',
                        lambda rng, low, high, mode=0: high if high == road_augmentation._SWAY else 0)
    matrix = road_augmentation.camera_change((200, 100), np.random.default_rng(0))
    np.testing.assert_allclose(matrix @ [50, 38, 1], [50, 38, 1], atol=1e-9)
    np.testing.assert_allclose(matrix @ [50, 88, 1], [50 + 50 * road_augmentation._SWAY, 88, 1], atol=1e-9)


def test_camera_change_mirrors_half_of_the_time():
    mirrored = [
        np.linalg.det(road_augmentation.camera_change((64, 36), np.random.default_rng(i))) < 0 for i in range(200)]
    assert 70 < sum(mirrored) < 130


@pytest.mark.parametrize('step', [step for _, step in road_augmentation._PHOTOMETRIC])
def test_photometric_step_is_pure(step):
    image = photo(72, 128)
    before = image.copy()
    results = [step(image, np.random.default_rng(seed)) for seed in (1, 1, 2, 3, 4, 5)]
    assert (image == before).all()
    assert all(result.shape == image.shape and result.dtype == np.uint8 for result in results)
    assert (results[0] == results[1]).all()
    assert any((result != image).any() for result in results)
    assert any((result != results[0]).any() for result in results)


def test_wear_fades_paint_and_nothing_else():
    image, label = lane_photo()
    worn = [road_augmentation.wear(image, label, np.random.default_rng(seed)) for seed in range(10)]
    near = cv2.dilate(label, np.ones((1, 5), np.uint8)) > 0
    for result in worn:
        assert (result[~near] == image[~near]).all() and (result <= image).all()
    assert any((result[label > 0] < 150).any() for result in worn)
    assert road_augmentation.wear(image, np.zeros_like(label), np.random.default_rng(0)) is image


@pytest.mark.parametrize('size', [(256, 144), (1, 1), (8, 8)])
def test_augment_of_any_size_repeats_with_its_rng(size):
    image, label = (cv2.resize(array, size, interpolation=cv2.INTER_NEAREST) for array in lane_photo())
    label = label.astype(np.uint16)
    for seed in range(30):
        result, result_label = road_augmentation.augment(image, label, np.random.default_rng(seed), (64, 32))
        again, again_label = road_augmentation.augment(image, label, np.random.default_rng(seed), (64, 32))
        assert result.shape == (32, 64, 3) and result.dtype == np.uint8
        assert result_label.shape == (32, 64) and set(np.unique(result_label)) <= {0, 20, 70}
        assert (result == again).all() and (result_label == again_label).all()
