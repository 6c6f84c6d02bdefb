"""data/synthetic_leaves.py: reproducible plants whose labels fit the photo, and the script."""
import cv2
import numpy as np
import pytest

from data import synthetic_leaves


def files_of(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob('*') if path.is_file()}


def test_plants_do_not_depend_on_the_number_of_threads_or_plants(tmp_path, run_script):
    for name, seed, num, workers in (('a', 5, 2, 1), ('b', 5, 2, 2), ('b', 5, 3, 2), ('c', 6, 2, 2)):
        outcome = run_script(synthetic_leaves, tmp_path / name, '--num', num, '--seed', seed, '--workers', workers)
        assert outcome.status in (None, 0) and f'Wrote {num} photos' in outcome.out
    a, b, c = (files_of(tmp_path / name) for name in 'abc')
    assert sorted(a) == [f'{folder}/000{i}.png' for folder in ('images', 'labels') for i in range(2)]
    assert len(b) == 6 and all(b[name] == a[name] for name in a)
    assert len(set(a.values()) | set(c.values())) == 8


@pytest.mark.parametrize('index', range(4))
def test_labels_count_from_1_and_end_where_leaves_end(index):
    photo, label = synthetic_leaves.make_plant(0, index)
    assert photo.shape == (synthetic_leaves.SIZE, synthetic_leaves.SIZE, 3) and photo.dtype == label.dtype == np.uint8
    counts = np.bincount(label.ravel())
    assert 4 <= len(counts) <= 21 and counts.min() >= synthetic_leaves.MIN_VISIBLE
    grey = cv2.GaussianBlur(photo, (0, 0), 1).astype(np.float32)
    steps = np.hypot(*(np.abs(cv2.Sobel(grey, cv2.CV_32F, *axis)).sum(axis=2) for axis in ((1, 0), (0, 1))))
    kernel = np.ones((3, 3), np.uint8)
    edges = cv2.dilate(label, kernel) != cv2.erode(label, kernel)
    moved = [steps[np.roll(edges, shift, (0, 1))].mean() for shift in ((8, 0), (-8, 0), (0, 8), (0, -8))]
    assert steps[edges].mean() > 1.4 * max(moved)


def test_pictures_of_another_seed_are_rejected_and_kept(tmp_path, run_script):
    assert run_script(synthetic_leaves, tmp_path, '--num', 1, '--seed', 1).status in (None, 0)
    before = files_of(tmp_path)
    outcome = run_script(synthetic_leaves, tmp_path, '--num', 1, '--seed', 2)
    assert outcome.status == 1 and 'images/0000.png' in outcome.err and outcome.err.count('\n') == 1
    assert files_of(tmp_path) == before
