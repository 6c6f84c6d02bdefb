"""data/common/augmentation.py: image and label stay together, and what comes from outside is background."""
import cv2
import numpy as np
import pytest

from data.common import augmentation, pictures
from data.lanes import road_augmentation

BACKGROUND = (40, 60, 50)
COLOURS = {300: (250, 30, 20), 2: (20, 240, 30), 7: (30, 20, 250), 65535: (240, 230, 20)}


@pytest.fixture
def discs():
    """Discs, each of its own colour, of which two overlap and one is cut by the border, and their label of 16 bits."""
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
    assert np.abs(small.astype(int) - pictures.resize_image(image, (80, 48))).max() <= 4   # remap counts in 1 / 32 px
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
