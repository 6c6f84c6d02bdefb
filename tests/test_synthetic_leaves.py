"""data/synthetic_leaves.py: plants that repeat, whose labels fit what is to be seen, and the script."""

import cv2
import numpy as np
import pytest

import datagenerator
from data import synthetic_leaves


def files_of(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob('*') if path.is_file()}


def test_same_seed_same_bytes_and_more_plants_continue_the_row(tmp_path, run_script):
    for name, seed, num, workers in (('a', 5, 3, 1), ('b', 5, 3, 3), ('b', 5, 4, 2), ('c', 6, 3, 2)):
        outcome = run_script(synthetic_leaves, tmp_path / name, '--num', num, '--seed', seed, '--workers', workers)
        assert outcome.status in (None, 0) and outcome.err == '' and f'Wrote {num} photos' in outcome.out
    a, b, c = (files_of(tmp_path / name) for name in 'abc')
    assert sorted(a) == [f'{folder}/000{i}.png' for folder in ('images', 'labels') for i in range(3)]
    assert len(b) == 8 and all(b[name] == a[name] for name in a)
    assert len(set(a.values()) | set(c.values())) == 12
    images, labels = datagenerator.find_samples(str(tmp_path / 'a'))
    photo, label = datagenerator.read_sample(images[0], labels[0])
    expected = synthetic_leaves.make_plant(5, 0)
    assert (photo == expected[0]).all() and (label == expected[1]).all()


@pytest.mark.parametrize('index', range(8))
def test_ids_count_from_1_and_each_is_seen(index):
    photo, label = synthetic_leaves.make_plant(0, index)
    assert photo.shape == (synthetic_leaves.SIZE, synthetic_leaves.SIZE, 3) and photo.dtype == label.dtype == np.uint8
    counts = np.bincount(label.ravel())
    assert 4 <= len(counts) <= 21 and counts.min() >= synthetic_leaves.MIN_VISIBLE
    assert 0.03 < (label > 0).mean() < 0.8


@pytest.mark.parametrize('index', range(8))
def test_labels_end_where_leaves_end(index):
    photo, label = synthetic_leaves.make_plant(0, index)
    grey = cv2.GaussianBlur(photo, (0, 0), 1).astype(np.float32)
    steps = np.hypot(*(np.abs(cv2.Sobel(grey, cv2.CV_32F, *axis)).sum(axis=2) for axis in ((1, 0), (0, 1))))
    kernel = np.ones((3, 3), np.uint8)
    edges = cv2.dilate(label, kernel) != cv2.erode(label, kernel)
    moved = [steps[np.roll(edges, shift, (0, 1))].mean() for shift in ((8, 0), (-8, 0), (0, 8), (0, -8))]
    assert steps[edges].mean() > 1.4 * max(moved)


@pytest.mark.parametrize('args, words', [
    ('', 'DIR'), ('new --num 0', '--num'), ('new --num x', '--num'), ('new --seed -1', '--seed'), ('new more', 'more'),
    ('new --num 2147483647', '--num')])
def test_bad_flags(tmp_path, monkeypatch, run_script, args, words):
    monkeypatch.chdir(tmp_path)
    outcome = run_script(synthetic_leaves, *args.split())
    assert outcome.status == 2 and words in outcome.err and outcome.err.count('\n') == 1 and files_of(tmp_path) == {}


@pytest.mark.parametrize('args, words', [
    ('set --num 1 --seed 1', 'set/images/0001.png: is not of this data set'),
    ('set --num 2 --seed 2', 'set/images/0000.png: is there already, and differs'),
    ('note', 'note/images'), ('note/set', 'note/set/images')])
def test_folders_of_others_are_refused_and_stay(tmp_path, monkeypatch, run_script, args, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'note').write_text('mine')
    assert run_script(synthetic_leaves, *'set --num 2 --seed 1'.split()).status in (None, 0)
    before = files_of(tmp_path)
    outcome = run_script(synthetic_leaves, *args.split())
    assert outcome.status == 1 and words in outcome.err and outcome.err.count('\n') == 1
    assert files_of(tmp_path) == before
