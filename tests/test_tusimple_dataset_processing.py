"""data/tusimple_dataset_processing.py and the prepared folders that all scripts write: complete or unchanged."""
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


@pytest.fixture
def label_file(tusimple_folder):
    return tusimple_folder / 'label_data_0000.json'


@pytest.fixture
def out(tmp_path):
    return tmp_path / 'out'


@pytest.fixture
def run(tusimple_folder, out, run_script):
    """run(folder=out, *args) -> Outcome of the script on tusimple_folder."""
    return lambda folder=out, *args: run_script(processing, tusimple_folder, '-o', folder, *args)


def test_images_labels_and_lanes_have_the_same_numbers(tusimple_folder, label_file, out, run):
    outcome = run()
    assert outcome.status in (None, 0) and outcome.err == ''
    assert outcome.out == f'Wrote 3 photos and 5 lanes to {out}; skipped 0.\n'   # one of the six lanes is empty
    assert sorted(files_of(out)) == sorted(
        ['lanes.json'] + [f'{folder}/000{i}.png' for folder in ('images', 'labels') for i in range(3)])
    for i, (original, record) in enumerate(zip(tusimple.read_all(label_file), tusimple.read_all(out / 'lanes.json'))):
        assert (record.lanes, record.h_samples) == (original.lanes, original.h_samples)
        photo = pictures.read_image(str(tusimple_folder / original.raw_file))
        assert (pictures.read_image(str(out / record.raw_file)) == photo).all()
        label = cv2.imread(str(out / f'labels/000{i}.png'), cv2.IMREAD_UNCHANGED)
        assert label.dtype == np.uint8 and (label == tusimple.draw_label(original, (128, 72))).all()


def test_same_bytes_again_and_with_any_number_of_workers(tusimple_folder, label_file, tmp_path, run):
    (tusimple_folder / 'label_data_1.json').write_text(label_file.read_text())
    results = []
    for name, workers in (('one', 1), ('one', 1), ('many', 5)):
        outcome = run(tmp_path / name, '--workers', workers)
        results.append(files_of(tmp_path / name))
    assert len(results[0]) == 13 and results[0] == results[1] == results[2]
    assert '3 label lines repeat an image' in outcome.err


@pytest.mark.parametrize('changes, reason', [
    ({'lanes': [[1, 2]]}, 'lane 0 has 2 numbers'), ({'lanes': [[1000] * 6]}, 'outside the image of 128x72'),
    ({'raw_file': 'clips/no.jpg'}, 'no such file'), ({'raw_file': 'a' * 300}, 'File name too long'),
    ({'raw_file': 'cut.jpg'}, 'cut.jpg'), ({'raw_file': '../train_set/clips/0000/0/20.jpg'}, 'leaves')])
def test_bad_line_is_reported_skipped_and_counted(changes, reason, tusimple_folder, label_file, out, run):
    photo = (tusimple_folder / 'clips/0000/0/20.jpg').read_bytes()
    (tusimple_folder / 'cut.jpg').write_bytes(photo[:len(photo) // 2])
    first, *rest = label_file.read_text().splitlines()
    label_file.write_text('\n'.join([first, json.dumps({**json.loads(first), **changes}), *rest]))
    outcome = run()
    report, summary = outcome.out.splitlines()
    assert report.startswith(f'{label_file}:2: ') and reason in report and report.count(str(label_file)) == 1
    assert outcome.status in (None, 0) and 'Wrote 3 photos' in summary and 'skipped 1' in summary
    assert [record.lanes for record in tusimple.read_all(out / 'lanes.json')] == [
        json.loads(line)['lanes'] for line in (first, *rest)]


def fails(outcome, words):
    """Asserts status 1 and one line on stderr with these words."""
    assert outcome.status == 1 and outcome.out == '' and words in outcome.err and outcome.err.count('\n') == 1


@pytest.mark.parametrize('content', ['\n\n', 'nonsense\n', '{"raw_file": "no.jpg", "lanes": [], "h_samples": [1]}'])
def test_no_usable_line_is_an_error_and_changes_nothing(content, label_file, tmp_path, out, run):
    run()
    before = files_of(out)
    label_file.write_text(content)
    for folder in (out, tmp_path / 'new'):
        fails(run(folder), 'none of')
    assert files_of(out) == before and not (tmp_path / 'new').exists()


def test_failure_halfway_leaves_earlier_output_unchanged(label_file, out, run, monkeypatch):
    run()
    before = files_of(out)
    label_file.write_text(''.join(label_file.read_text().splitlines(True)[1:]))
    write_file = files.write_file

    def full_disk(path, data, **_):
        if path.endswith('0001.png'):
            raise InputError(f'{path}: cannot be written: No space left on device')
        write_file(path, data)
    monkeypatch.setattr(files, 'write_file', full_disk)
    fails(run(), 'No space left')
    assert files_of(out) == before


@pytest.mark.parametrize('name', [files.HALF_WRITTEN, f'images/{files.UNFINISHED}abcdefgh', 'lanes.json'])
def test_links_in_the_output_folder_are_not_followed(tmp_path, out, run, name):
    (tmp_path / 'mine').write_text('mine')
    (out / name).parent.mkdir(parents=True)
    (out / name).symlink_to(tmp_path / 'mine')
    assert run().status in (None, 0) and (tmp_path / 'mine').read_text() == 'mine'


@pytest.mark.parametrize('name', ['images/0001.png', 'labels/12345.png'])
def test_foreign_images_are_rejected_and_nothing_is_changed(label_file, out, run, name):
    lines = label_file.read_text()
    label_file.write_text(lines.splitlines()[0])
    run()
    label_file.write_text(lines)
    (out / name).write_text('mine')
    before = files_of(out)
    fails(run(), f'out/{name}: is not listed')
    assert files_of(out) == before


def test_images_in_the_output_folder_are_not_replaced(out, run, run_script):
    run()
    (out / 'lanes.json').rename(out / 'label_data_1.json')
    fails(run_script(processing, out, '-o', out), 'label_data_1.json:1: its image lies in the output folder')


def test_run_interrupted_while_moving_files_is_detected_and_completed(label_file, tmp_path, out, run):
    _, second, third = label_file.read_text().splitlines()
    run()
    replace = os.replace

    def stopped(source, target):
        if os.path.join('out', 'labels', files.UNFINISHED) in source and source.endswith('0001.png'):
            raise KeyboardInterrupt
        replace(source, target)
    label_file.write_text('\n'.join([third, second]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, 'replace', stopped)
        assert run().status == 130
    with pytest.raises(InputError, match='out: is half-written'):
        datagenerator.find_samples(str(out))
    label_file.write_text(second)   # fewer images: those with higher numbers are removed
    for folder in (out, tmp_path / 'new'):
        assert run(folder).status in (None, 0)
    assert files_of(out) == files_of(tmp_path / 'new') and len(datagenerator.find_samples(str(out))[0]) == 1


# ---- The own lane ----------------------------------------------------------------------------------------------------

SIZE, ROWS = (640, 360), list(range(160, 300, 10))   # the hood begins at row 300


def record(*lanes):
    return tusimple.Record('a.jpg', list(lanes), ROWS)


def line(direction):
    """A straight line from (320, 140) downwards. direction: px to the side per row"""
    return [320 + direction * (y - 140) for y in ROWS]


LEFT, RIGHT = line(-1), line(1)


def test_lane_margin_sky_and_hood_are_known_and_the_rest_is_ignored():
    label = processing.draw_own_lane(record(LEFT, RIGHT), SIZE)
    assert label[200, 320 - 60] == 20 and label[200, 320 + 60] == 70
    assert label[200, 320] == label[200, 320 - 90] == label[200, 320 + 90] == 0   # lane width 120 px, margin 42
    assert (label[200, [100, 200, 440, 600]] == processing.IGNORED).all()
    assert (label[:120] == 0).all() and label[145, 100] == processing.IGNORED
    assert (label[310:, 320 - 170:320 + 170] == 0).all() and label[330, 20] == processing.IGNORED


def test_continuation_of_a_line_that_ends_first_is_ignored():
    label = processing.draw_own_lane(record(LEFT[:6] + [-2] * (len(ROWS) - 6), RIGHT), SIZE)
    assert label[200, 320 - 60] == 20 and label[250, 320 - 110] == processing.IGNORED
    assert label[250, 320] == 0 and label[320, 320 - 180] == 0   # below the end of both, there is a hood
    steep = [max(x, -2) for x in line(-3)]   # leaves the image, so it does not end first
    assert (processing.draw_own_lane(record(steep, RIGHT), SIZE)[280, :320] == 0).all()


def test_of_one_line_its_surroundings_are_known():
    label = processing.draw_own_lane(record(LEFT), SIZE)
    assert label[200, 320 - 60] == 20 and label[200, 320 - 70] == 0 and label[200, 320 + 60] == processing.IGNORED
    assert (label[:110] == 0).all()


def test_image_without_a_line_is_rejected():
    with pytest.raises(InputError, match='has no line'):
        processing.draw_own_lane(record([-2] * len(ROWS)), SIZE)
