"""data/common/augmentation.py and data/lanes/road_augmentation.py: image and label stay together, steps are pure."""
import cv2
import numpy as np
import pytest

from data.common import augmentation, pictures
from data.lanes import road_augmentation

BACKGROUND = (40, 60, 50)
COLOURS = {300: (250, 30, 20), 2: (20, 240, 30), 7: (30, 20, 250), 65535: (240, 230, 20)}


@pytest.fixture
def discs():
    """Discs, each of its own colour, of which two overlap and one is cut by the border, and their 16-bit label."""
    image, label = np.full((120, 200, 3), BACKGROUND, np.uint8), np.zeros((120, 200), np.uint16)
    for (value, colour), centre in zip(COLOURS.items(), ((50, 60), (75, 65), (150, 40), (195, 110))):
        cv2.circle(image, centre, 22, colour, -1)
        cv2.circle(label, centre, 22, value, -1)
    return image, label


def test_warp_by_the_identity_is_a_resize(discs):
    image, label = discs
    same, same_label = augmentation.warp(image, label, np.eye(3), None, (200, 120))
    assert (same == image).all() and (same_label == label).all()
    small, small_label = augmentation.warp(image, label, np.eye(3), np.zeros((48, 80, 2), np.float32), (80, 48))
    assert np.abs(small.astype(int) - pictures.resize_image(image, (80, 48))).max() <= 4   # remap rounds to 1 / 32 px
    assert (small_label == pictures.resize_label(label, (80, 48))).all()


@pytest.mark.parametrize('seed', range(3))
def test_each_disc_keeps_its_colour_and_its_id(discs, seed, monkeypatch):
    monkeypatch.setattr(augmentation, '_PHOTOMETRIC', ())
    image, label = augmentation.augment(*discs, np.random.default_rng(seed), (240, 200))
    assert set(np.unique(label)) <= {0, *COLOURS}
    edge = np.ones((9, 9), np.uint8)   # where colours mix
    for value, colour in {0: BACKGROUND, **COLOURS}.items():
        mask = (label == value).astype(np.uint8)
        kept = cv2.erode(mask, edge, borderType=cv2.BORDER_CONSTANT, borderValue=0) > 0
        close = np.abs(image.astype(int) - colour).max(axis=2) < 3
        assert close[kept].all(), value
        assert not close[cv2.dilate(mask, edge) == 0].any()


def test_outside_is_background_in_the_colour_of_the_background(discs):
    image, label = discs
    away = np.array([[1, 0, 500], [0, 1, 0], [0, 0, 1]])
    moved, moved_label = augmentation.warp(image, label, away, None, (200, 120))
    assert not moved_label.any() and (np.abs(moved.astype(int) - BACKGROUND) <= 1).all()
    moved, moved_label = augmentation.warp(image, np.full_like(label, 9), away, None, (200, 120))   # no background
    assert not moved_label.any() and (moved == moved[0, 0]).all()


@pytest.mark.parametrize('place', [augmentation.placement, road_augmentation.camera_change])
def test_half_of_the_variations_are_mirrored(place):
    matrices = [place((64, 36), np.random.default_rng(i)) for i in range(200)]
    assert 70 < sum(np.linalg.det(matrix) < 0 for matrix in matrices) < 130


# ---- Roads -----------------------------------------------------------------------------------------------------------

@pytest.fixture
def lane_photo():
    """A grey road with two white lines, and their label."""
    image, label = np.full((144, 256, 3), 90, np.uint8), np.zeros((144, 256), np.int32)
    for value, bottom in ((20, 60), (70, 190)):
        cv2.line(label, (128, 50), (bottom, 143), value, 5)
    image[label > 0] = 250
    return image, label


def test_road_warp_by_the_identity_is_a_resize(lane_photo):
    image, label = lane_photo
    warped, warped_label = road_augmentation.warp(image, label, np.eye(3), (64, 32))
    assert np.abs(warped.astype(int) - pictures.resize_image(image, (64, 32))).max() <= 1
    assert (warped_label == pictures.resize_label(label, (64, 32))).all()


@pytest.mark.parametrize('seed', range(3))
def test_warped_label_stays_on_its_line(lane_photo, seed):
    matrix = road_augmentation.camera_change((256, 144), np.random.default_rng(seed))
    warped, warped_label = road_augmentation.warp(*lane_photo, matrix, (128, 72))
    white, lane = warped.min(axis=-1) > 200, warped_label > 0
    assert set(np.unique(warped_label)) <= {0, 20, 70} and lane.sum() > 50
    assert (white & ~lane).sum() + (lane & (warped.min(axis=-1) < 100)).sum() < 0.05 * lane.sum()


@pytest.mark.parametrize('step', [step for _, step in road_augmentation._PHOTOMETRIC], ids=lambda step: step.__name__)
def test_photometric_step_is_a_pure_function_of_image_and_seed(step):
    image = cv2.resize(np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8), (128, 72))
    before = image.copy()
    results = [step(image, np.random.default_rng(seed)) for seed in (1, 1, 2, 3, 4, 5)]
    assert (image == before).all() and (results[0] == results[1]).all()
    assert all(result.shape == image.shape and result.dtype == np.uint8 for result in results)
    assert any((result != image).any() for result in results)
    assert any((result != results[0]).any() for result in results)


def test_wear_fades_paint_and_neither_road_nor_ignored_pixels(lane_photo):
    image, label = lane_photo
    label[60:80] = -1
    worn = [road_augmentation.wear(image, label, np.random.default_rng(seed)) for seed in range(10)]
    near = cv2.dilate(np.uint8(label > 0), np.ones((1, 5), np.uint8)) > 0
    for result in worn:
        assert (result[~near] == image[~near]).all() and (result <= image).all()
    assert any((result[label > 0] < 150).any() for result in worn)
    assert road_augmentation.wear(image, np.zeros_like(label), np.random.default_rng(0)) is image


@pytest.mark.parametrize('augment', [road_augmentation.augment, augmentation.augment], ids=['road', 'any'])
@pytest.mark.parametrize('size', [(256, 144), (1, 1)])
def test_augment_of_any_size_is_a_pure_function_of_sample_and_seed(lane_photo, augment, size):
    image, label = (cv2.resize(array, size, interpolation=cv2.INTER_NEAREST) for array in lane_photo)
    before = image.copy(), label.copy()
    for seed in range(15):
        (result, result_label), again = (augment(image, label, np.random.default_rng(seed), (64, 32)) for _ in range(2))
        assert (result.shape, result_label.shape) == ((32, 64, 3), (32, 64)) and result_label.dtype == label.dtype
        assert set(np.unique(result_label)) <= {0, *np.unique(label)}
        assert (result == again[0]).all() and (result_label == again[1]).all()
    assert (image == before[0]).all() and (label == before[1]).all()
