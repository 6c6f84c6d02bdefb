"""data/cvppp_dataset_processing.py: from folders of plants to images and labels."""
import os

import cv2
import numpy as np
import pytest

import datagenerator
from data import cvppp_dataset_processing as processing


def write_plant(folder, name, shape=(30, 40), leaves=3, channels=3):
    rng = np.random.default_rng(len(name) + leaves)
    folder.mkdir(parents=True, exist_ok=True)
    label = np.zeros(shape, np.uint8)
    label.flat[100:100 + leaves] = np.arange(leaves) + 1
    assert cv2.imwrite(str(folder / f'{name}_rgb.png'), rng.integers(0, 256, [*shape, channels], np.uint8))
    assert cv2.imwrite(str(folder / f'{name}_label.png'), label)


@pytest.fixture
def plants(tmp_path):
    """cvppp/ with A1, two plants next to another file, and A2, one RGBA plant of another size."""
    for name in ('plant001', 'plant002'):
        write_plant(tmp_path / 'cvppp/A1', name)
    assert cv2.imwrite(str(tmp_path / 'cvppp/A1/plant001_fg.png'), np.ones((30, 40), np.uint8))
    write_plant(tmp_path / 'cvppp/A2', 'plant001', (50, 20), 5, channels=4)
    (tmp_path / 'cvppp/readme.txt').write_text('text')
    return tmp_path / 'cvppp'


def test_all_folders_are_read_and_prefix_the_names(plants, tmp_path, run_script):
    outcome = run_script(processing, plants, '-o', tmp_path / 'out')
    assert outcome.status in (None, 0) and outcome.err == ''
    assert outcome.out == f'Wrote 3 photos and 11 leaves to {tmp_path / "out"}; skipped 0 plants.\n'
    for name in ('A1_plant001', 'A1_plant002', 'A2_plant001'):
        original = plants / name.replace('_', '/')
        photo, label, original_photo, original_label = (cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in (
            tmp_path / f'out/images/{name}.png', tmp_path / f'out/labels/{name}.png', f'{original}_rgb.png',
            f'{original}_label.png'))
        assert photo.shape[2] == 3 and (photo == original_photo[..., :3]).all() and (label == original_label).all()
    assert sorted(os.listdir(tmp_path / 'out')) == ['images', 'labels']
    images, labels = datagenerator.find_samples(str(tmp_path / 'out'))
    assert next(datagenerator.get_batches_fn(9, (32, 32), images, labels))[1].shape == (3, 32, 32)


@pytest.mark.parametrize('folder', ['A1', '.'])
def test_single_folder(plants, tmp_path, run_script, monkeypatch, folder):
    monkeypatch.chdir(plants / 'A1' if folder == '.' else plants)
    run_script(processing, folder, '-o', tmp_path / 'out')
    assert sorted(os.listdir(tmp_path / 'out/images')) == ['A1_plant001.png', 'A1_plant002.png']


@pytest.mark.parametrize('spoil, reason', [
    (lambda folder: (folder / 'plant002_label.png').unlink(), 'plant002_label.png: no such file'),
    (lambda folder: (folder / 'plant002_rgb.png').unlink(), 'plant002_rgb.png: no such file'),
    (lambda folder: cv2.imwrite(str(folder / 'plant002_label.png'), np.ones((9, 8), np.uint8)),
     'plant002_label.png: is 8 x 9, but its image ')])
def test_unusable_plant_is_reported_and_skipped(plants, tmp_path, run_script, spoil, reason):
    spoil(plants / 'A1')
    outcome = run_script(processing, plants, '-o', tmp_path / 'out')
    assert outcome.status in (None, 0) and outcome.err == ''
    problem, summary = outcome.out.splitlines()
    assert reason in problem and 'Wrote 2 photos and 8 leaves' in summary and 'skipped 1 plants' in summary
    assert sorted(os.listdir(tmp_path / 'out/labels')) == ['A1_plant001.png', 'A2_plant001.png']


def failure(outcome, words):
    assert outcome.status == 1 and outcome.out == '' and words in outcome.err
    assert outcome.err.count('\n') == 1 and outcome.err.startswith('cvppp_dataset_processing.py: error: ')


@pytest.mark.parametrize('folder, words', [
    ('absent', 'absent: no such folder'), ('empty', 'empty: holds no plantNNN_rgb.png'),
    ('bad', 'bad: none of 1 images can be used; the first problem: ')])
def test_no_usable_plant_is_an_error_and_writes_nothing(tmp_path, run_script, folder, words):
    (tmp_path / 'empty').mkdir()
    write_plant(tmp_path / 'bad', 'plant001')
    (tmp_path / 'bad/plant001_rgb.png').write_text('text')
    failure(run_script(processing, tmp_path / folder, '-o', tmp_path / 'out'), words)
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('name, words', [
    ('labels/mine.BMP', 'is not part of this data set'), ('labels/A1_plant002.png', 'already exists with')])
def test_foreign_images_are_rejected_and_nothing_is_changed(plants, tmp_path, run_script, name, words):
    (tmp_path / 'out' / name).parent.mkdir(parents=True)
    (tmp_path / 'out' / name).write_text('mine')
    failure(run_script(processing, plants, '-o', tmp_path / 'out'), f'{name}: {words}')
    assert [path for path in (tmp_path / 'out').rglob('*') if path.is_file()] == [tmp_path / 'out' / name]
    assert (tmp_path / 'out' / name).read_text() == 'mine'
