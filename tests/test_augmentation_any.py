"""data/common/augmentation.py: image and label stay together, and whatever lies outside is background."""
import cv2
import numpy as np
import pytest

from data.common import augmentation as augmentation
from data.common import pictures

BACKGROUND = (40, 60, 50)
COLOURS = {300: (250, 30, 20), 2: (20, 240, 30), 7: (30, 20, 250), 65535: (240, 230, 20)}


def discs(width=200, height=120):
    """Discs, each of its own colour, of which two overlap and one is cut by the border; and their label, of 16 bits."""
    image, label = np.full((height, width, 3), BACKGROUND, np.uint8), np.zeros((height, width), np.uint16)
    for (value, colour), centre in zip(COLOURS.items(), ((50, 60), (75, 65), (150, 40), (195, 110))):
        for array, paint in ((image, colour), (label, value)):
            cv2.circle(array, centre, 22, paint, -1)
    return image, label


def test_warp_without_a_change_is_a_resize():
    image, label = discs(160, 90)
    same, same_label = augmentation.warp(image, label, np.eye(3), None, (160, 90))
    assert (same == image).all() and (same_label == label).all()
    small, small_label = augmentation.warp(image, label, np.eye(3), np.zeros((32, 64, 2), np.float32), (64, 32))
    assert np.abs(small.astype(int) - pictures.resize_image(image, (64, 32))).max() <= 4   # remap counts in 1 / 32 px
    assert (small_label == pictures.resize_label(label, (64, 32))).all()


@pytest.mark.parametrize('image_shape', [(200, 120), (96, 64), (240, 200)])
@pytest.mark.parametrize('seed', range(8))
def test_each_disc_keeps_its_colour_and_its_id(seed, image_shape, monkeypatch):
    monkeypatch.setattr(augmentation, '_PHOTOMETRIC', ())
    image, label = augmentation.augment(*discs(), np.random.default_rng(seed), image_shape)
    assert set(np.unique(label)) <= {0, *COLOURS}
    edge = np.ones((9, 9), np.uint8)   # where colours mix
    for value, colour in {0: BACKGROUND, **COLOURS}.items():
        mask = (label == value).astype(np.uint8)
        kept = cv2.erode(mask, edge, borderType=cv2.BORDER_CONSTANT, borderValue=0) > 0
        close = np.abs(image.astype(int) - colour).max(axis=2) < 3
        assert close[kept].all(), value
        assert not close[cv2.dilate(mask, edge) == 0].any()


@pytest.mark.parametrize('seed', range(8))
def test_a_disc_stays_one_disc(seed, monkeypatch):
    image, label = discs()
    label[label != 7] = 0   # the disc that nothing hides
    matrix = augmentation.placement((200, 120), np.random.default_rng(seed))
    scale = np.sqrt(abs(np.linalg.det(matrix)))
    assert augmentation._SCALE[0] <= scale <= augmentation._SCALE[1]
    matrix[:2, 2] += np.subtract((100, 60), (matrix @ [150, 40, 1])[:2])   # into the middle
    displacement = augmentation.bend((200, 120), np.random.default_rng(seed))
    _, turned = augmentation.warp(image, label, matrix, displacement, (200, 120))
    (contour, *more), _ = cv2.findContours((turned > 0).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    assert not more and (turned > 0).sum() == pytest.approx((label > 0).sum() * scale ** 2, rel=0.15)
    _, radius = cv2.minEnclosingCircle(contour)
    assert (turned > 0).sum() > 0.75 * np.pi * radius ** 2   # bent, yet round


def test_outside_is_background_of_the_backgrounds_colour():
    image, label = discs()
    away = np.array([[1, 0, 500], [0, 1, 0], [0, 0, 1]])
    moved, moved_label = augmentation.warp(image, label, away, None, (200, 120))
    assert not moved_label.any() and (np.abs(moved.astype(int) - BACKGROUND) <= 1).all()
    full = np.full_like(label, 9)
    moved, moved_label = augmentation.warp(image, full, away, None, (200, 120))   # no background to take it from
    assert not moved_label.any() and (moved == moved[0, 0]).all()


def test_all_flips_and_turns_occur():
    matrices = [augmentation.placement((64, 36), np.random.default_rng(i)) for i in range(200)]
    mirrored = [np.linalg.det(matrix) < 0 for matrix in matrices]
    angles = [np.arctan2(matrix[1, 0], matrix[0, 0]) // (np.pi / 2) for matrix in matrices]
    assert 70 < sum(mirrored) < 130 and min(np.bincount(np.int64(angles) + 2)) > 30


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
@pytest.mark.parametrize('size', [(200, 120), (1, 1), (8, 8)])
def test_augment_of_any_size_repeats_with_its_rng_and_is_pure(size, dtype):
    image, label = (cv2.resize(array, size, interpolation=cv2.INTER_NEAREST) for array in discs())
    label = label.astype(dtype)
    before = image.copy(), label.copy()
    results = [[augmentation.augment(image, label, np.random.default_rng(seed), (64, 32)) for seed in range(20)]
               for _ in range(2)]
    for (result, result_label), (again, again_label) in zip(*results):
        assert result.shape == (32, 64, 3) and result.dtype == np.uint8
        assert result_label.shape == (32, 64) and result_label.dtype == dtype
        assert set(np.unique(result_label)) <= {0, *np.unique(label)}
        assert (result == again).all() and (result_label == again_label).all()
    assert (image == before[0]).all() and (label == before[1]).all()
    assert any((result != results[0][0][0]).any() for result, _ in results[0])
    own, own_label = augmentation.augment(image, label, np.random.default_rng(0))
    assert own.shape == image.shape and own_label.shape == label.shape
