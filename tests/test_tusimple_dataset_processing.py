"""data/tusimple_dataset_processing.py and data/lanes/prepared_lanes.py: from a TuSimple folder to images and labels."""

import json
import os

import cv2
import numpy as np
import pytest

import datagenerator
from data import tusimple_dataset_processing as processing
from data.common import files, pictures
from data.common.command_line import InputError
from data.lanes import tusimple


def files_of(folder):
    """{relative path: bytes} of all files below folder, hidden ones too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob('*') if path.is_file()}


def label_lines(folder):
    return (folder / 'label_data_0000.json').read_text().splitlines()


def but(line, **changes):
    """A label line with changed entries; None removes one."""
    return json.dumps({key: value for key, value in {**json.loads(line), **changes}.items() if value is not None})


@pytest.fixture
def out(tmp_path):
    return tmp_path / 'out'


def test_photos_labels_and_lanes_have_the_same_numbers(tusimple_folder, out, run_script):
    outcome = run_script(processing, tusimple_folder, '-o', out)
    assert outcome.status in (None, 0) and outcome.err == ''
    # One of the six lanes is empty.
    assert outcome.out == f'Wrote 3 photos and 5 lanes to {out}; skipped 0.\n'
    assert sorted(files_of(out)) == sorted(
        ['lanes.json'] + [f'{folder}/000{i}.png' for folder in ('images', 'labels') for i in range(3)])
    originals, prepared = (tusimple.read_all(path) for path in (tusimple_folder / 'label_data_0000.json',
                                                                out / 'lanes.json'))
    for i, (original, record) in enumerate(zip(originals, prepared, strict=True)):
        assert (record.lanes, record.h_samples) == (original.lanes, original.h_samples)
        photo = pictures.read_image(str(tusimple_folder / original.raw_file))
        assert (pictures.read_image(str(out / record.raw_file)) == photo).all()
        label = cv2.imread(str(out / f'labels/000{i}.png'), cv2.IMREAD_UNCHANGED)
        assert label.dtype == np.uint8 and (label == tusimple.draw_label(original, (128, 72))).all()


def test_same_bytes_again_and_with_any_number_of_workers(tusimple_folder, tmp_path, run_script):
    (tusimple_folder / 'label_data_1.json').write_text('\n'.join(label_lines(tusimple_folder)))
    results = []
    for out, workers in (('one', 1), ('one', 1), ('many', 5)):
        outcome = run_script(processing, tusimple_folder, '-o', tmp_path / out, '--workers', workers)
        results.append(files_of(tmp_path / out))
    assert len(results[0]) == 13 and results[0] == results[1] == results[2]
    assert '3 label lines repeat an image' in outcome.err


BAD_LINES = {
    'another length': (lambda line: but(line, lanes=[[1, 2]]), 'lane 0 has 2 numbers'),
    'far outside the photo': (lambda line: but(line, lanes=[[1000] * 6]), 'outside the image of 128x72'),
    'missing photo': (lambda line: but(line, raw_file='clips/no.jpg'), 'no such file'),
    'a name beyond any file system': (lambda line: but(line, raw_file='a' * 300), 'File name too long'),
    'truncated photo': (lambda line: but(line, raw_file='cut.jpg'), 'cut.jpg'),
    'absolute path': (lambda line: but(line, raw_file='/etc/hostname'), 'leaves'),
    'path upwards': (lambda line: but(line, raw_file='../train_set/clips/0000/0/20.jpg'), 'leaves'),
}


@pytest.mark.parametrize('make, reason', BAD_LINES.values(), ids=BAD_LINES.keys())
def test_bad_line_is_reported_skipped_and_counted(make, reason, tusimple_folder, out, run_script):
    photo = (tusimple_folder / 'clips/0000/0/20.jpg').read_bytes()
    (tusimple_folder / 'cut.jpg').write_bytes(photo[:len(photo) // 2])
    first, *rest = label_lines(tusimple_folder)
    path = tusimple_folder / 'label_data_0000.json'
    path.write_text('\n'.join([first, make(first), *rest]))
    outcome = run_script(processing, tusimple_folder, '-o', out)
    assert outcome.status in (None, 0)
    report, summary = outcome.out.splitlines()
    assert report.startswith(f'{path}:2: ') and reason in report and report.count(str(path)) == 1
    assert 'Wrote 3 photos' in summary and 'skipped 1' in summary
    assert sorted(os.listdir(out / 'images')) == ['0000.png', '0001.png', '0002.png']
    assert [record.lanes for record in tusimple.read_all(out / 'lanes.json')] == [
        json.loads(line)['lanes'] for line in (first, *rest)]


def failure(outcome, *words):
    """Asserts one line on stderr with these words and status 1."""
    assert outcome.status == 1 and outcome.out == ''
    assert outcome.err.count('\n') == 1 and outcome.err.startswith('tusimple_dataset_processing.py: error: ')
    assert all(word in outcome.err for word in words)


@pytest.mark.parametrize('content', ['\n\n', 'nonsense\n', '{"raw_file": "no.jpg", "lanes": [], "h_samples": [1]}'])
def test_no_usable_line_is_an_error_and_changes_nothing(content, tusimple_folder, tmp_path, out, run_script):
    run_script(processing, tusimple_folder, '-o', out)
    before = files_of(out)
    (tusimple_folder / 'label_data_0000.json').write_text(content)
    for folder in (out, tmp_path / 'new'):
        failure(run_script(processing, tusimple_folder, '-o', folder), 'none of', str(tusimple_folder))
    assert files_of(out) == before and not (tmp_path / 'new').exists()


def test_failure_halfway_leaves_earlier_output_unchanged(tusimple_folder, out, run_script, monkeypatch):
    run_script(processing, tusimple_folder, '-o', out)
    before = files_of(out)
    (tusimple_folder / 'label_data_0000.json').write_text('\n'.join(label_lines(tusimple_folder)[1:]))
    write_file = files.write_file

    def full_disk(path, data, **_):
        if path.endswith('0001.png'):
            raise InputError(f'{path}: cannot be written: No space left on device')
        write_file(path, data)
    monkeypatch.setattr(files, 'write_file', full_disk)
    failure(run_script(processing, tusimple_folder, '-o', out), 'No space left')
    assert files_of(out) == before


@pytest.mark.parametrize('name', [files.HALF_WRITTEN, f'images/{files.UNFINISHED}abcdefgh', 'lanes.json'])
def test_links_in_the_output_folder_are_not_followed(tusimple_folder, tmp_path, out, run_script, name):
    (tmp_path / 'mine').write_text('mine')
    (out / name).parent.mkdir(parents=True)
    (out / name).symlink_to(tmp_path / 'mine')
    assert run_script(processing, tusimple_folder, '-o', out).status in (None, 0)
    assert (tmp_path / 'mine').read_text() == 'mine'


@pytest.mark.parametrize('name', ['images/0001.png', 'labels/12345.png'])
def test_foreign_pictures_are_rejected_and_nothing_is_changed(tusimple_folder, out, run_script, name):
    lines = label_lines(tusimple_folder)
    (tusimple_folder / 'label_data_0000.json').write_text(lines[0])
    run_script(processing, tusimple_folder, '-o', out)
    (tusimple_folder / 'label_data_0000.json').write_text('\n'.join(lines))
    (out / name).write_text('mine')
    before = files_of(out)
    failure(run_script(processing, tusimple_folder, '-o', out), f'out/{name}: is not listed')
    assert files_of(out) == before


def test_photos_in_the_output_folder_are_not_replaced(tusimple_folder, out, run_script):
    run_script(processing, tusimple_folder, '-o', out)
    (out / 'lanes.json').rename(out / 'label_data_1.json')
    failure(run_script(processing, out, '-o', out), 'label_data_1.json:1: its image lies in the output folder')


def test_run_interrupted_while_moving_files_is_detected_and_completed(tusimple_folder, tmp_path, out, run_script):
    first, second, third = label_lines(tusimple_folder)
    run_script(processing, tusimple_folder, '-o', out)
    replace = os.replace

    def stopped(source, target):
        if os.path.join('out', 'labels', files.UNFINISHED) in source and source.endswith('0001.png'):
            raise KeyboardInterrupt
        replace(source, target)
    path = tusimple_folder / 'label_data_0000.json'
    path.write_text('\n'.join([third, second]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, 'replace', stopped)
        assert run_script(processing, tusimple_folder, '-o', out).status == 130
    with pytest.raises(InputError, match='out: is half-written'):
        datagenerator.find_samples(str(out))
    path.write_text(second)   # fewer images: those of higher numbers are removed
    for folder in (out, tmp_path / 'new'):
        assert run_script(processing, tusimple_folder, '-o', folder).status in (None, 0)
    assert files_of(out) == files_of(tmp_path / 'new')
    assert len(datagenerator.find_samples(str(out))[0]) == 1
