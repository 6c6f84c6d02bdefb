"""data/synthetic_leaves.py: reproducible plants whose labels fit the image, and the script."""
import cv2
import numpy as np
import pytest

from data import synthetic_leaves


def files_of(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob('*') if path.is_file()}


def test_plants_do_not_depend_on_their_number_and_are_never_replaced(tmp_path, run_script):
    for num in 2, 3:
        outcome = run_script(synthetic_leaves, tmp_path, '--num', num, '--seed', 5)
        assert not outcome.status and f'Wrote {num} images' in outcome.out
    before = files_of(tmp_path)
    assert sorted(before) == [f'{folder}/000{i}.png' for folder in ('images', 'labels') for i in range(3)]
    assert len(set(before.values())) == 6
    outcome = run_script(synthetic_leaves, tmp_path, '--num', 3, '--seed', 2)
    assert outcome.status == 1 and 'images/0000.png' in outcome.err and outcome.err.count('\n') == 1
    assert files_of(tmp_path) == before


@pytest.mark.parametrize('index', range(2))
def test_labels_count_from_1_and_end_where_leaves_end(index):
    image, label = synthetic_leaves.make_plant(0, index)
    assert image.shape == (synthetic_leaves.SIZE, synthetic_leaves.SIZE, 3) and image.dtype == label.dtype == np.uint8
    counts = np.bincount(label.ravel())
    assert 4 <= len(counts) <= 21 and counts.min() >= synthetic_leaves.MIN_VISIBLE
    grey = cv2.GaussianBlur(image, (0, 0), 1).astype(np.float32)
    steps = np.hypot(*(np.abs(cv2.Sobel(grey, cv2.CV_32F, *axis)).sum(axis=2) for axis in ((1, 0), (0, 1))))
    kernel = np.ones((3, 3), np.uint8)
    edges = cv2.dilate(label, kernel) != cv2.erode(label, kernel)
    moved = [steps[np.roll(edges, shift, (0, 1))].mean() for shift in ((8, 0), (-8, 0), (0, 8), (0, -8))]
    assert steps[edges].mean() > 1.4 * max(moved)
