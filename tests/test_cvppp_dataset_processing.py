"""data/cvppp_dataset_processing.py and data/common/prepared_set.py: from folders of plants to photos and labels."""

import os
import subprocess
import sys

import cv2
import numpy as np
import PIL.Image
import pytest

import datagenerator
from conftest import ROOT
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
    """cvppp/ with A1, two plants beside files of other kinds, and A2, one RGBA plant of another size."""
    for name in ('plant001', 'plant002'):
        write_plant(tmp_path / 'cvppp/A1', name)
        for other in ('fg', 'centers'):
            assert cv2.imwrite(str(tmp_path / f'cvppp/A1/{name}_{other}.png'), np.ones((30, 40), np.uint8))
    write_plant(tmp_path / 'cvppp/A2', 'plant001', (50, 20), 5, channels=4)
    (tmp_path / 'cvppp/readme.txt').write_text('text')
    return tmp_path / 'cvppp'


def test_all_folders_are_read_and_their_names_stand_in_front(plants, tmp_path, run_script):
    outcome = run_script(processing, plants, '-o', tmp_path / 'out')
    assert outcome.status in (None, 0) and outcome.err == ''
    assert outcome.out == f'Wrote 3 photos and 11 leaves to {tmp_path / "out"}; passed over 0 plants.\n'
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
def test_one_of_the_folders_alone(plants, tmp_path, run_script, monkeypatch, folder):
    monkeypatch.chdir(plants / 'A1' if folder == '.' else plants)
    run_script(processing, folder, '-o', tmp_path / 'out')
    assert sorted(os.listdir(tmp_path / 'out/images')) == ['A1_plant001.png', 'A1_plant002.png']


def test_more_than_255_leaves(plants, tmp_path, run_script):
    write_plant(plants / 'A1', 'plant002', leaves=700, dtype=np.uint16)
    outcome = run_script(processing, plants / 'A1', '-o', tmp_path / 'out')
    assert '703 leaves' in outcome.out
    label = cv2.imread(str(tmp_path / 'out/labels/A1_plant002.png'), cv2.IMREAD_UNCHANGED)
    assert label.dtype == np.uint16 and label.max() == 700


def test_labels_with_a_palette_keep_their_numbers(plants, tmp_path, run_script):
    path = plants / 'A1/plant001_label.png'
    label = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    picture = PIL.Image.fromarray(label)
    picture.putpalette([0, 0, 0, 255, 0, 0, 255, 0, 0, 0, 0, 255])   # two leaves of one colour
    picture.save(path)
    run_script(processing, plants, '-o', tmp_path / 'out')
    written = cv2.imread(str(tmp_path / 'out/labels/A1_plant001.png'), cv2.IMREAD_UNCHANGED)
    assert written.ndim == 2 and (written == label).all()


BAD_PLANTS = {
    'photo without label': (lambda folder: (folder / 'plant002_label.png').unlink(),
                            'plant002_rgb.png: has no plant002_label.png'),
    'label without photo': (lambda folder: (folder / 'plant002_rgb.png').unlink(),
                            'plant002_label.png: has no plant002_rgb.png'),
    'another size': (lambda folder: cv2.imwrite(str(folder / 'plant002_label.png'), np.ones((9, 8), np.uint8)),
                     'plant002_label.png: is 8 x 9, but its photo is 40 x 30'),
    'photo as label': (lambda folder: (folder / 'plant002_label.png').write_bytes(
        (folder / 'plant002_rgb.png').read_bytes()), 'plant002_label.png: has 1,200 colours'),
    'text as photo': (lambda folder: (folder / 'plant002_rgb.png').write_text('text'), 'plant002_rgb.png: is not a'),
    'cut label': (lambda folder: os.truncate(folder / 'plant002_label.png', 60), 'plant002_label.png: is cut off'),
}


@pytest.mark.parametrize('spoil, reason', BAD_PLANTS.values(), ids=BAD_PLANTS.keys())
def test_a_plant_that_cannot_be_used_is_printed_and_passed_over(plants, tmp_path, run_script, spoil, reason):
    spoil(plants / 'A1')
    outcome = run_script(processing, plants, '-o', tmp_path / 'out')
    assert outcome.status in (None, 0) and outcome.err == ''
    problem, summary = outcome.out.splitlines()
    assert reason in problem and 'Wrote 2 photos and 8 leaves' in summary and 'passed over 1 plants' in summary
    assert sorted(os.listdir(tmp_path / 'out/labels')) == ['A1_plant001.png', 'A2_plant001.png']


def failure(outcome, words):
    assert outcome.status == 1 and outcome.out == '' and words in outcome.err
    assert outcome.err.count('\n') == 1 and outcome.err.startswith('cvppp_dataset_processing.py: error: ')


@pytest.mark.parametrize('folder, words', [
    ('absent', 'absent: no such folder'), ('empty', 'empty: holds no plantNNN_rgb.png'),
    ('note', 'note: is not a folder'), ('bad', 'bad: none of 1 photos can be used; the first problem: ')])
def test_nothing_usable_is_an_error_and_makes_nothing(tmp_path, run_script, folder, words):
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'note').write_text('text')
    write_plant(tmp_path / 'bad', 'plant001')
    (tmp_path / 'bad/plant001_rgb.png').write_text('text')
    failure(run_script(processing, tmp_path / folder, '-o', tmp_path / 'out'), words)
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('args, words', [
    ([], 'DIR'), (['a', '--workers', '0'], '--workers'), (['a', '-o'], '--outdir')])
def test_bad_flags(run_script, args, words):
    outcome = run_script(processing, *args)
    assert outcome.status == 2 and words in outcome.err and outcome.err.count('\n') == 1


def test_writes_beside_the_script_by_default():
    assert processing.parse_args(['somewhere']).outdir == os.path.join(ROOT, 'data')


# ---- What is in the output folder already ----------------------------------------------------------------------------

def test_same_bytes_again_and_with_any_number_of_workers(plants, tmp_path, run_script):
    results = []
    for out, workers in (('one', 1), ('one', 1), ('many', 5)):
        assert run_script(processing, plants, '-o', tmp_path / out, '--workers', workers).status in (None, 0)
        results.append(files_of(tmp_path / out))
    assert len(results[0]) == 6 and results[0] == results[1] == results[2]


@pytest.mark.parametrize('name, words', [
    ('images/0000.png', 'is not of this data set'), ('labels/mine.BMP', 'is not of this data set'),
    ('labels/A1_plant002.png', 'is there already, and differs')])
def test_pictures_of_others_are_refused_and_nothing_is_touched(plants, tmp_path, run_script, name, words):
    (tmp_path / 'out' / name).parent.mkdir(parents=True)
    (tmp_path / 'out' / name).write_text('mine')
    failure(run_script(processing, plants, '-o', tmp_path / 'out'), f'{name}: {words}')
    assert files_of(tmp_path / 'out') == {name: b'mine'}


def test_lanes_of_others_are_refused(plants, tmp_path, run_script):
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out/lanes.json').write_text('mine')
    failure(run_script(processing, plants, '-o', tmp_path / 'out'), 'lanes.json: holds the lanes of other photos')
    assert files_of(tmp_path / 'out') == {'lanes.json': b'mine'}


def test_a_folder_and_a_link_to_it_are_read_once(plants, tmp_path, run_script):
    (plants / 'latest').symlink_to('A1')
    assert 'Wrote 3 photos' in run_script(processing, plants, '-o', tmp_path / 'out').out


def test_two_plants_of_one_name_are_refused(plants, tmp_path, run_script):
    write_plant(tmp_path / 'other/A1', 'plant001')
    (plants / 'more').symlink_to(tmp_path / 'other/A1')
    failure(run_script(processing, plants, '-o', tmp_path / 'out'), 'A1_plant001.png: two samples')
    assert not list((tmp_path / 'out').rglob('*.png'))


def test_other_files_stay(plants, tmp_path, run_script):
    (tmp_path / 'out/images').mkdir(parents=True)
    (tmp_path / 'out/images/notes.txt').write_text('mine')
    assert run_script(processing, plants, '-o', tmp_path / 'out').status in (None, 0)
    assert files_of(tmp_path / 'out')['images/notes.txt'] == b'mine'


@pytest.mark.parametrize('blocked', ['out', 'out/labels'])
def test_a_file_in_place_of_a_folder(plants, tmp_path, run_script, blocked):
    (tmp_path / blocked).parent.mkdir(exist_ok=True)
    (tmp_path / blocked).write_text('mine')
    outcome = run_script(processing, plants, '-o', tmp_path / 'out')
    assert outcome.status == 1 and blocked in outcome.err and (tmp_path / blocked).read_text() == 'mine'


def test_a_failure_half_way_leaves_no_pictures(plants, tmp_path, run_script, monkeypatch):
    write_file = files.write_file

    def full_disk(path, data, **_):
        if path.endswith('A2_plant001.png'):
            raise InputError(f'{path}: cannot be written: No space left on device')
        write_file(path, data)
    monkeypatch.setattr(files, 'write_file', full_disk)
    failure(run_script(processing, plants, '-o', tmp_path / 'out'), 'No space left')
    assert files_of(tmp_path / 'out') == {}


def test_a_run_that_is_stopped_among_its_files_is_noticed_and_completed(plants, tmp_path, run_script):
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


@pytest.mark.parametrize('name', [files.HALF_WRITTEN, 'labels/A1_plant002.png', f'labels/{files.UNFINISHED}abc'])
def test_what_a_link_in_the_output_folder_points_to_is_left_alone(plants, tmp_path, run_script, name):
    (tmp_path / 'mine').write_text('mine')
    (tmp_path / 'out/labels').mkdir(parents=True)
    (tmp_path / 'out' / name).symlink_to(tmp_path / 'mine')
    run_script(processing, plants, '-o', tmp_path / 'out')
    assert (tmp_path / 'mine').read_text() == 'mine'


def test_runs_from_any_folder_without_tensorflow(plants, tmp_path):
    script = os.path.join(ROOT, 'data/cvppp_dataset_processing.py')
    code = ('import runpy, sys; sys.argv = sys.argv[1:]\n'
            'try: runpy.run_path(sys.argv[0], run_name="__main__")\n'
            'finally: print("tensorflow" in sys.modules)')
    done = subprocess.run([sys.executable, '-c', code, script, 'cvppp', '--outdir', 'out'], cwd=tmp_path,
                          capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == '' and done.stdout.endswith('\nFalse\n')
    assert (tmp_path / 'out/labels/A2_plant001.png').exists()
