"""data/tusimple_dataset_processing.py: from a TuSimple folder to photos and label pictures."""

import json
import os
import subprocess
import sys
import threading

import cv2
import numpy as np
import pytest

from conftest import ROOT
from data.lanes import tusimple
from data import tusimple_dataset_processing as processing
import datagenerator
from data.common import files, pictures
from data.common.command_line import InputError


def files_of(folder):
    """{relative path: bytes} of all files below folder, hidden ones too."""
    found = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(parent, name)
            with open(path, 'rb') as file:
                found[os.path.relpath(path, folder)] = file.read()
    return found


def label_lines(folder):
    return (folder / 'label_data_0000.json').read_text().splitlines()



def test_photos_labels_and_lanes_have_the_same_numbers(tusimple_folder, tmp_path, run_script):
    out = tmp_path / 'out'
    outcome = run_script(processing, tusimple_folder, '-o', out)
    assert outcome.status in (None, 0) and outcome.err == ''
    # One of the six lanes is empty.
    assert 'Wrote 3 photos and 5 lanes' in outcome.out and 'passed over 0 label lines' in outcome.out
    assert sorted(files_of(out)) == sorted(
        ['lanes.json'] + [f'{folder}/000{i}.png' for folder in ('images', 'labels') for i in range(3)])

    originals, _ = tusimple.read_records(tusimple_folder / 'label_data_0000.json')
    prepared, problems = tusimple.read_records(out / 'lanes.json')
    assert problems == [] and len(prepared) == 3
    for i, (original, record) in enumerate(zip(originals, prepared)):
        assert (record.lanes, record.h_samples) == (original.lanes, original.h_samples)
        photo = pictures.read_image(str(tusimple_folder / original.raw_file))
        assert (pictures.read_image(str(out / record.raw_file)) == photo).all()
        label = cv2.imread(str(out / f'labels/000{i}.png'), cv2.IMREAD_UNCHANGED)
        assert label.dtype == np.uint8 and (label == tusimple.draw_label(original, (128, 72))).all()


def test_photos_keep_their_own_size(tusimple_folder, tmp_path, run_script):
    cv2.imwrite(str(tusimple_folder / 'clips/0000/1/20.jpg'), np.zeros([80, 140, 3], np.uint8))
    run_script(processing, tusimple_folder, '-o', tmp_path / 'out')
    for folder in ('images', 'labels'):
        assert cv2.imread(str(tmp_path / 'out' / folder / '0001.png')).shape == (80, 140, 3)


def test_same_bytes_again_and_with_any_number_of_workers(tusimple_folder, tmp_path, run_script):
    for i in range(3):
        (tusimple_folder / f'label_data_1{i}.json').write_text('\n'.join(label_lines(tusimple_folder)))
    results = []
    for out, workers in (('one', 1), ('one', 1), ('many', 5)):
        run_script(processing, tusimple_folder, '-o', tmp_path / out, '--workers', workers)
        results.append(files_of(tmp_path / out))
    assert len(results[0]) == 25 and results[0] == results[1] == results[2]


def but(**changes):
    """Turns a good line into a bad one; None takes the key away."""
    return lambda line: json.dumps({key: value for key, value in {**json.loads(line), **changes}.items()
                                    if value is not None})


BAD_LINES = {
    'not JSON': (lambda line: line[:30], 'not JSON'),
    'nested bomb': (lambda line: '[' * 100000, 'not JSON'),
    'a list': (lambda line: f'[{line}]', 'not a JSON object'),
    'a missing key': (but(h_samples=None), 'no "h_samples"'),
    'another length': (but(lanes=[[1, 2]]), 'lane 0 has 2 points'),
    'text as x': (but(lanes=[['a'] * 6]), "holds 'a'"),
    'NaN': (but(lanes=[[float('nan')] * 6]), 'holds nan'),
    'huge': (but(lanes=[[1e30] * 6]), 'holds 1e+30'),
    'far outside the photo': (but(lanes=[[1000] * 6]), 'outside the photo of 128x72'),
    'six lanes': (but(lanes=[[9] * 6] * 6), 'more than 5 lanes'),
    'missing photo': (but(raw_file='clips/no.jpg'), 'no such file'),
    'a folder as photo': (but(raw_file='clips'), 'folder'),
    'a name beyond any file system': (but(raw_file='a' * 300), 'File name too long'),
    'a path of megabytes': (but(raw_file='./' * 900_000), 'is not a path'),
    'a path of thousands': (but(raw_file='./' * 1_900 + 'no.jpg'), 'no such file'),
    'truncated photo': (but(raw_file='cut.jpg'), 'cut.jpg'),
    'text as photo': (but(raw_file='text.jpg'), 'text.jpg'),
    'absolute path': (but(raw_file='/etc/hostname'), 'leaves'),
    'path upwards': (but(raw_file='../train_set/clips/0000/0/20.jpg'), 'leaves'),
}


def test_photos_that_are_labelled_twice_are_written_twice_and_said(tusimple_folder, tmp_path, run_script):
    lines = (tusimple_folder / 'label_data_0000.json').read_text()
    (tusimple_folder / 'label_data_all.json').write_text(lines)
    outcome = run_script(processing, tusimple_folder, '-o', tmp_path / 'out')
    count = len(label_lines(tusimple_folder))
    assert outcome.status in (None, 0) and f'{count} label lines are of photos that others are' in outcome.err
    assert len(os.listdir(tmp_path / 'out/images')) == 2 * count


@pytest.mark.parametrize('make, reason', BAD_LINES.values(), ids=BAD_LINES.keys())
def test_a_bad_line_is_reported_passed_over_and_counted(make, reason, tusimple_folder, tmp_path, run_script):
    photo = (tusimple_folder / 'clips/0000/0/20.jpg').read_bytes()
    (tusimple_folder / 'cut.jpg').write_bytes(photo[:len(photo) // 2])
    (tusimple_folder / 'text.jpg').write_text('not a picture')
    first, *rest = label_lines(tusimple_folder)
    path = tusimple_folder / 'label_data_0000.json'
    path.write_text('\n'.join([first, make(first), *rest]))
    outcome = run_script(processing, tusimple_folder, '-o', tmp_path / 'out')
    assert outcome.status in (None, 0) and outcome.err == ''
    report, summary = outcome.out.splitlines()
    assert report.startswith(f'{path}:2: ') and reason in report and len(report) < 600
    assert 'Wrote 3 photos' in summary and 'passed over 1 label lines' in summary
    assert sorted(os.listdir(tmp_path / 'out/images')) == ['0000.png', '0001.png', '0002.png']
    records, _ = tusimple.read_records(tmp_path / 'out/lanes.json')
    assert [record.lanes for record in records] == [json.loads(line)['lanes'] for line in (first, *rest)]


def test_bad_lines_are_reported_in_their_order(tusimple_folder, tmp_path, run_script):
    good, *_ = label_lines(tusimple_folder)
    no_photo = but(raw_file='no.jpg')(good)
    (tusimple_folder / 'label_data_0000.json').write_text('\n'.join([no_photo, good] * 5 + ['{', no_photo, '{']))
    (tusimple_folder / 'label_data_0001.json').write_text('{')
    outcome = run_script(processing, tusimple_folder, '-o', tmp_path / 'out')
    places = [line.split(': ')[0].split('/')[-1] for line in outcome.out.splitlines()[:-1]]
    expected = [f'label_data_0000.json:{line}' for line in (1, 3, 5, 7, 9, 11, 12, 13)] + ['label_data_0001.json:1']
    assert places == expected


def failure(outcome, *words):
    """Asserts one line on stderr with these words and status 1."""
    assert outcome.status == 1 and outcome.out == ''
    assert outcome.err.count('\n') == 1 and outcome.err.startswith('tusimple_dataset_processing.py: error: ')
    for word in words:
        assert word in outcome.err


@pytest.mark.parametrize('content', ['', '\n\n', 'nonsense\n',
                                     '{"raw_file": "no.jpg", "lanes": [], "h_samples": [1]}'])
def test_nothing_usable_is_an_error_and_touches_nothing(content, tusimple_folder, tmp_path, run_script):
    run_script(processing, tusimple_folder, '-o', tmp_path / 'out')
    before = files_of(tmp_path / 'out')
    (tusimple_folder / 'label_data_0000.json').write_text(content)
    failure(run_script(processing, tusimple_folder, '-o', tmp_path / 'out'),
            'none of', str(tusimple_folder), '' if not content.strip() else 'label_data_0000.json:1: ')
    assert files_of(tmp_path / 'out') == before
    failure(run_script(processing, tusimple_folder, '-o', tmp_path / 'new'))
    assert not (tmp_path / 'new').exists()


def test_a_failure_half_way_leaves_earlier_output_alone(tusimple_folder, tmp_path, run_script, monkeypatch):
    run_script(processing, tusimple_folder, '-o', tmp_path / 'out')
    before = files_of(tmp_path / 'out')
    first, *rest = label_lines(tusimple_folder)
    (tusimple_folder / 'label_data_0000.json').write_text('\n'.join(rest))
    write_file = files.write_file

    def full_disk(path, data, **_):
        if path.endswith('0001.png'):
            raise InputError(f'{path}: cannot be written: No space left on device')
        write_file(path, data)
    monkeypatch.setattr(files, 'write_file', full_disk)
    failure(run_script(processing, tusimple_folder, '-o', tmp_path / 'out'), 'No space left')
    assert files_of(tmp_path / 'out') == before


def no_thread(*_):
    raise RuntimeError("can't start new thread")


def no_memory(*_):
    raise MemoryError


def no_memory_for_opencv(*_):
    error = cv2.error('Insufficient memory')
    error.code = cv2.Error.StsNoMem
    raise error


@pytest.mark.parametrize('owner, name, fail', [
    (threading.Thread, 'start', no_thread), (pictures, 'encode', no_memory), (files, 'encode', no_memory_for_opencv),
    (cv2, 'imdecode', no_memory_for_opencv)], ids=['no thread', 'no memory', 'none to encode', 'none to decode'])
def test_too_many_workers_are_named_and_nothing_is_written(tusimple_folder, tmp_path, run_script, monkeypatch, owner,
                                                           name, fail):
    run_script(processing, tusimple_folder, '-o', tmp_path / 'out')
    before = files_of(tmp_path / 'out')
    monkeypatch.setattr(owner, name, fail)
    outcome = run_script(processing, tusimple_folder, '-o', tmp_path / 'out', '--workers', 30000)
    failure(outcome, '--workers', 'give fewer')
    assert files_of(tmp_path / 'out') == before


def test_what_a_killed_run_left_behind_is_cleared(tusimple_folder, tmp_path, run_script):
    unfinished = tmp_path / 'out/images' / f'{files.UNFINISHED}abcdefgh'
    unfinished.mkdir(parents=True)
    (unfinished / '0000.png').write_text('half')
    run_script(processing, tusimple_folder, '-o', tmp_path / 'out')
    assert sorted(os.listdir(tmp_path / 'out/images')) == ['0000.png', '0001.png', '0002.png']
    assert cv2.imread(str(tmp_path / 'out/images/0000.png')) is not None


@pytest.mark.parametrize('name', [files.HALF_WRITTEN, f'{files.UNFINISHED}abcdefgh', 'lanes.json'])
@pytest.mark.parametrize('folder', ['out', 'out/images', 'out/labels'])
@pytest.mark.parametrize('target', ['folder', 'file'])
def test_what_a_link_in_the_output_folder_points_to_is_left_alone(tusimple_folder, tmp_path, run_script, folder, name,
                                                                  target):
    (tmp_path / 'mine').mkdir()
    for mine in ('0000.png', '0001.png', 'note'):
        (tmp_path / 'mine' / mine).write_text('mine')
    before = files_of(tmp_path / 'mine')
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / folder / name).symlink_to(tmp_path / ('mine' if target == 'folder' else 'mine/note'))
    outcome = run_script(processing, tusimple_folder, '-o', tmp_path / 'out')
    assert files_of(tmp_path / 'mine') == before
    assert outcome.status in (None, 0) or (outcome.status, folder, target) == (1, 'out', 'folder')


def test_files_of_an_earlier_longer_run_are_removed_and_others_kept(tusimple_folder, tmp_path, run_script):
    run_script(processing, tusimple_folder, '-o', tmp_path / 'out')
    for name in ('labels/photo.png', 'images/0007.jpg'):
        (tmp_path / 'out' / name).write_text('x')
    (tusimple_folder / 'label_data_0000.json').write_text(label_lines(tusimple_folder)[0])
    outcome = run_script(processing, tusimple_folder, '-o', tmp_path / 'out')
    assert 'Removed 4 files of an earlier, longer run' in outcome.out
    assert sorted(files_of(tmp_path / 'out')) == ['images/0000.png', 'images/0007.jpg', 'labels/0000.png',
                                                  'labels/photo.png', 'lanes.json']


@pytest.mark.parametrize('name', ['images/0001.png', 'labels/12345.png'])
@pytest.mark.parametrize('earlier', [False, True], ids=['alone', 'beside those of an earlier run'])
def test_pictures_of_others_are_refused_and_nothing_is_touched(tusimple_folder, tmp_path, run_script, name, earlier):
    if earlier:
        lines = label_lines(tusimple_folder)
        (tusimple_folder / 'label_data_0000.json').write_text(lines[0])
        run_script(processing, tusimple_folder, '-o', tmp_path / 'out')
        (tusimple_folder / 'label_data_0000.json').write_text('\n'.join(lines))
    (tmp_path / 'out' / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / 'out' / name).write_text('mine')
    before = files_of(tmp_path / 'out')
    failure(run_script(processing, tusimple_folder, '-o', tmp_path / 'out'), f'out/{name}: is not from this script')
    assert files_of(tmp_path / 'out') == before


def test_run_that_is_stopped_among_its_files_is_noticed_and_completed(tusimple_folder, tmp_path, run_script):
    first, second, third = label_lines(tusimple_folder)
    run_script(processing, tusimple_folder, '-o', tmp_path / 'out')
    replace = os.replace

    def stopped(source, target):
        if os.path.join('out', 'labels', files.UNFINISHED) in source and source.endswith('0001.png'):
            raise KeyboardInterrupt
        replace(source, target)
    path = tusimple_folder / 'label_data_0000.json'
    path.write_text('\n'.join([third, second]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, 'replace', stopped)
        assert run_script(processing, tusimple_folder, '-o', tmp_path / 'out').status == 130
    with pytest.raises(InputError, match='out: is half-written'):
        datagenerator.find_samples(str(tmp_path / 'out'))
    path.write_text(second)
    assert run_script(processing, tusimple_folder, '-o', tmp_path / 'out').status in (None, 0)
    run_script(processing, tusimple_folder, '-o', tmp_path / 'new')
    assert files_of(tmp_path / 'out') == files_of(tmp_path / 'new')
    assert len(datagenerator.find_samples(str(tmp_path / 'out'))[0]) == 1


def test_label_files_are_taken_in_the_order_of_their_names(tusimple_folder, tmp_path, run_script):
    first, second, third = label_lines(tusimple_folder)
    (tusimple_folder / 'label_data_0000.json').write_text(third)
    (tusimple_folder / 'label_data_0001.json').write_text(f'{second}\n{first}\n')
    run_script(processing, tusimple_folder, '-o', tmp_path / 'out')
    records, _ = tusimple.read_records(tmp_path / 'out/lanes.json')
    expected = [json.loads(line)['lanes'] for line in (third, second, first)]
    assert [record.lanes for record in records] == expected


def test_links_in_the_folder_are_followed(tusimple_folder, tmp_path, run_script):
    (tusimple_folder / 'clips').rename(tmp_path / 'elsewhere')
    (tusimple_folder / 'clips').symlink_to(tmp_path / 'elsewhere')
    outcome = run_script(processing, tusimple_folder, '-o', tmp_path / 'out')
    assert 'Wrote 3 photos' in outcome.out


def test_writes_beside_the_script_by_default():
    args = processing.parse_args(['somewhere'])
    assert args.outdir == os.path.join(ROOT, 'data')


def test_runs_from_any_folder(tusimple_folder, tmp_path):
    script = os.path.join(ROOT, 'data/tusimple_dataset_processing.py')
    done = subprocess.run([sys.executable, script, 'train_set', '--outdir', 'out'], cwd=tmp_path,
                          capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == '' and 'Wrote 3 photos' in done.stdout
    assert (tmp_path / 'out/labels/0002.png').exists()
