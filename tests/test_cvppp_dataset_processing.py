"""data/cvppp_dataset_processing.py and data/common/prepared_set.py: from folders of plants to images and labels."""

import os

import cv2
import numpy as np
import pytest

import datagenerator
from data import cvppp_dataset_processing as processing
from data.common import files
from data.common.command_line import InputError


def files_of(folder):
    """{relative path: bytes} of all files below folder, hidden ones too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob('*') if path.is_file()}


def write_plant(folder, name, shape=(30, 40), leaves=3, channels=3, dtype=np.uint8):
    rng = np.random.default_rng(len(name) + leaves)
    folder.mkdir(parents=True, exist_ok=True)
    label = np.zeros(shape, dtype)
    label.flat[100:100 + leaves] = np.arange(leaves) + 1
    assert cv2.imwrite(str(folder / f'{name}_rgb.png'), rng.integers(0, 256, [*shape, channels], np.uint8))
    assert cv2.imwrite(str(folder / f'{name}_label.png'), label)


@pytest.fixture
def plants(tmp_path):
    """cvppp/ with A1, two plants next to other files, and A2, one RGBA plant of another size."""
    for name in ('plant001', 'plant002'):
        write_plant(tmp_path / 'cvppp/A1', name)
        for other in ('fg', 'centers'):
            assert cv2.imwrite(str(tmp_path / f'cvppp/A1/{name}_{other}.png'), np.ones((30, 40), np.uint8))
    write_plant(tmp_path / 'cvppp/A2', 'plant001', (50, 20), 5, channels=4)
    (tmp_path / 'cvppp/readme.txt').write_text('text')
    return tmp_path / 'cvppp'


def test_all_folders_are_read_and_prefix_the_names(plants, tmp_path, run_script):
    outcome = run_script(processing, plants, '-o', tmp_path / 'out')
    assert outcome.status in (None, 0) and outcome.err == ''
    assert outcome.out == f'Wrote 3 photos and 11 leaves to {tmp_path / "out"}; skipped 0 plants.\n'
    names = ['A1_plant001', 'A1_plant002', 'A2_plant001']
    assert sorted(files_of(tmp_path / 'out')) == sorted(f'{folder}/{name}.png' for folder in ('images', 'labels')
                                                        for name in names)
    for name in names:
        source, plant = name.split('_')
        photo = cv2.imread(str(tmp_path / f'out/images/{name}.png'), cv2.IMREAD_UNCHANGED)
        label = cv2.imread(str(tmp_path / f'out/labels/{name}.png'), cv2.IMREAD_UNCHANGED)
        original = cv2.imread(str(plants / source / f'{plant}_rgb.png'), cv2.IMREAD_UNCHANGED)
        assert photo.shape[2] == 3 and (photo == original[..., :3]).all()
        assert (label == cv2.imread(str(plants / source / f'{plant}_label.png'), cv2.IMREAD_UNCHANGED)).all()
    images, labels = datagenerator.find_samples(str(tmp_path / 'out'))
    assert datagenerator.load_batch(images, labels, (32, 32))[1].shape == (3, 32, 32)


@pytest.mark.parametrize('folder', ['A1', 'A1/', '../cvppp/A1', '.'])
def test_single_folder(plants, tmp_path, run_script, monkeypatch, folder):
    monkeypatch.chdir(plants / 'A1' if folder == '.' else plants)
    run_script(processing, folder, '-o', tmp_path / 'out')
    assert sorted(os.listdir(tmp_path / 'out/images')) == ['A1_plant001.png', 'A1_plant002.png']


BAD_PLANTS = {
    'photo without label': (lambda folder: (folder / 'plant002_label.png').unlink(),
                            'plant002_label.png: no such file'),
    'label without photo': (lambda folder: (folder / 'plant002_rgb.png').unlink(),
                            'plant002_rgb.png: no such file'),
    'another size': (lambda folder: cv2.imwrite(str(folder / 'plant002_label.png'), np.ones((9, 8), np.uint8)),
                     'plant002_label.png: is 8 x 9, but its photo '),
    'photo as label': (lambda folder: (folder / 'plant002_label.png').write_bytes(
        (folder / 'plant002_rgb.png').read_bytes()), 'plant002_label.png: has 1,200 colours'),
}


@pytest.mark.parametrize('spoil, reason', BAD_PLANTS.values(), ids=BAD_PLANTS.keys())
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
    ('note', 'note: is not a folder'), ('bad', 'bad: none of 1 photos can be used; the first problem: ')])
def test_no_usable_plant_is_an_error_and_writes_nothing(tmp_path, run_script, folder, words):
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'note').write_text('text')
    write_plant(tmp_path / 'bad', 'plant001')
    (tmp_path / 'bad/plant001_rgb.png').write_text('text')
    failure(run_script(processing, tmp_path / folder, '-o', tmp_path / 'out'), words)
    assert not (tmp_path / 'out').exists()


# ---- Existing output -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('name, words', [
    ('images/0000.png', 'is not of this data set'), ('labels/mine.BMP', 'is not of this data set'),
    ('labels/A1_plant002.png', 'is there already, and differs')])
def test_foreign_pictures_are_rejected_and_nothing_is_changed(plants, tmp_path, run_script, name, words):
    (tmp_path / 'out' / name).parent.mkdir(parents=True)
    (tmp_path / 'out' / name).write_text('mine')
    failure(run_script(processing, plants, '-o', tmp_path / 'out'), f'{name}: {words}')
    assert files_of(tmp_path / 'out') == {name: b'mine'}


def test_run_interrupted_while_moving_files_is_detected_and_completed(plants, tmp_path, run_script):
    replace = os.replace

    def stopped(source, target):
        if target.endswith('labels/A1_plant002.png'):
            raise KeyboardInterrupt
        replace(source, target)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, 'replace', stopped)
        assert run_script(processing, plants, '-o', tmp_path / 'out').status == 130
    with pytest.raises(InputError, match='out: is half-written'):
        datagenerator.find_samples(str(tmp_path / 'out'))
    (tmp_path / 'out/labels' / f'{files.UNFINISHED}abc').mkdir()   # as a killed run leaves one
    assert run_script(processing, plants, '-o', tmp_path / 'out').status in (None, 0)
    run_script(processing, plants, '-o', tmp_path / 'new')
    assert files_of(tmp_path / 'out') == files_of(tmp_path / 'new')
    assert sorted(os.listdir(tmp_path / 'out/labels')) == sorted(os.listdir(tmp_path / 'new/labels'))
