"""data/cityscapes_dataset_processing.py on images drawn and named as in Cityscapes, and AP per class of its output."""
import cv2
import numpy as np
import pytest

import datagenerator
from data import cityscapes_dataset_processing as processing
from data import instance_evaluation

# Per column: road, car 0, car 1, a group of cars, person 12, ego vehicle, parking, a caravan, sky, a group of riders
IDS = [7, 26000, 26001, 26, 24012, 1, 9, 29000, 23, 25]
LABEL = [0, 3000, 3001, 255, 1012, 255, 255, 255, 0, 255]


@pytest.fixture
def home(tmp_path, monkeypatch):
    for i, ids in enumerate((np.repeat([IDS] * 8, 4, axis=1).astype(np.uint16), np.full((8, 40), 7, np.uint8))):
        for folder, end, array in (('leftImg8bit', processing.IMAGE, np.full((8, 40, 3), 60, np.uint8)),
                                   ('gtFine', processing.LABEL, ids)):
            path = tmp_path / f'city/{folder}/train/aachen/aachen_00000{i}_000019{end}'
            path.parent.mkdir(parents=True, exist_ok=True)
            assert cv2.imwrite(str(path), array)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_ids_become_classes_and_ignored_pixels(home, run_script):
    outcome = run_script(processing, 'city', '-o', 'out')
    assert outcome.status in (None, 0) and outcome.err == ''
    assert outcome.out == 'Wrote 2 photos and 3 instances to out; skipped 0, and 0 unpaired images or labels.\n'
    label = cv2.imread('out/labels/aachen_000000_000019.png', cv2.IMREAD_UNCHANGED)
    assert label.dtype == np.uint16 and (label == np.repeat(LABEL, 4)).all()
    assert not cv2.imread('out/labels/aachen_000001_000019.png', cv2.IMREAD_UNCHANGED).any()
    assert (home / 'out/classes.txt').read_text().split() == list(processing.CLASSES.values())
    assert len(datagenerator.find_samples('out')[0]) == 2
    assert run_script(processing, 'city', '-o', 'out').status in (None, 0)   # again


def test_scores_of_each_class_and_their_mean(home, run_script):
    run_script(processing, 'city', '-o', 'out')
    (home / 'pred').mkdir()
    for i in range(2):
        name = f'aachen_00000{i}_000019.png'
        mask = cv2.imread(f'out/labels/{name}', cv2.IMREAD_UNCHANGED)
        mask[mask == 3001] = 1999       # a car predicted as a person
        mask[mask == 255] = 2001        # a rider in ignored pixels
        mask[0, 0] = 8000               # a bicycle in a class without labels
        assert cv2.imwrite(f'pred/{name}', mask)
    outcome = run_script(instance_evaluation, 'pred', 'out/labels', '--ignore', 255)
    assert outcome.status in (None, 0) and outcome.err == ''
    lines = [line.split() for line in outcome.out.splitlines()[7:]]
    # person: recall 1, precision 1/2; car: recall 1/2, precision 1
    assert lines == [['class', 'AP', 'AP50', 'labelled', 'predicted'], ['person', '0.7500', '0.7500', '1', '2'],
                     ['rider', 'nan', 'nan', '0', '0'],
                     ['car', '0.5000', '0.5000', '2', '1'], ['bicycle', 'nan', 'nan', '0', '2'],
                     ['mean', '0.6250', '0.6250']]
    (home / 'names').write_text('one\ntwo\n')
    outcome = run_script(instance_evaluation, 'pred', 'out/labels', '--classes', 'names')
    assert '\none ' in outcome.out and '\nclass 3 ' in outcome.out
    (home / 'names').write_text('\n')
    outcome = run_script(instance_evaluation, 'pred', 'out/labels', '--classes', 'names')
    assert outcome.status == 1 and 'names: has 0 unique names' in outcome.err


def test_unusable_files_are_reported_or_counted(home, run_script):
    first, second = sorted(home.glob('city/**/*_leftImg8bit.png'))
    second.unlink()
    outcome = run_script(processing, 'city', '-o', 'out')
    assert 'Wrote 1 photos' in outcome.out and '1 unpaired images or labels' in outcome.out
    assert cv2.imwrite(str(first), np.zeros((9, 9, 3), np.uint8))
    outcome = run_script(processing, 'city', '-o', 'new')
    assert outcome.status == 1 and 'is 40 x 8, but its image' in outcome.err and not (home / 'new').exists()
    first.unlink()
    outcome = run_script(processing, 'city', '-o', 'new')
    assert outcome.status == 1 and 'city: holds no *_leftImg8bit.png' in outcome.err
