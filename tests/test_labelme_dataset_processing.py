"""data/labelme_dataset_processing.py: annotations made by the tests, and the resulting images, labels and lanes."""
import base64
import json
import os

import cv2
import numpy as np
import pytest

from data import labelme_dataset_processing as processing
from data.lanes import tusimple

SHAPE = (72, 128)


def shape(kind, points, label='leaf', **more):
    return {'label': label, 'shape_type': kind, 'points': points, 'group_id': None, **more}


def encoded(array):
    return base64.b64encode(cv2.imencode('.png', array)[1].tobytes()).decode()


def write(home, name, shapes, embedded=False):
    photo = np.full((*SHAPE, 3), 90, np.uint8)
    assert embedded or cv2.imwrite(str(home / f'a/{name}.jpg'), photo)
    (home / f'a/{name}.json').write_text(json.dumps({'shapes': shapes, 'imagePath': f'..\\photos\\{name}.jpg',
                                                     'imageData': encoded(photo) if embedded else None}))


@pytest.fixture
def home(tmp_path, monkeypatch):
    (tmp_path / 'a').mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def label(name, folder='out'):
    return cv2.imread(f'{folder}/labels/{name}.png', cv2.IMREAD_UNCHANGED)


@pytest.mark.parametrize('embedded', [False, True])
@pytest.mark.parametrize('region, pixels', [
    (shape('polygon', [[2, 2], [12, 2], [12, 8], [2, 8]]), 60), (shape('rectangle', [[12, 8], [2, 2]]), 60),
    (shape(None, [[2, 2], [12, 2], [12, 8], [2, 8]]), 60),
    (shape('circle', [[20, 20], [20, 30]]), round(np.pi * 100)),
    (shape('mask', [[5, 6], [8, 7]], mask=encoded(np.uint8([[1, 0, 1, 1], [0, 1, 1, 0]]))), 5)])
def test_regions_are_instances(home, run_script, region, pixels, embedded):
    write(home, 'one', [region], embedded)
    outcome = run_script(processing, 'a', '-o', 'out')
    assert outcome.status in (None, 0) and outcome.err == ''
    assert outcome.out == 'Wrote 1 photos and 1 instances to out; skipped 0 files and 0 shapes.\n'
    assert cv2.imread('out/images/one.png').shape == (*SHAPE, 3) and label('one').shape == SHAPE
    assert np.count_nonzero(label('one') == 1) == pytest.approx(pixels, abs=0.02 * pixels)


def box(x, **more):
    return shape('rectangle', [[x, 5], [x + 10, 15]], **more)


def test_group_is_one_instance_and_classes_are_written(home, run_script):
    write(home, 'one', [box(0, label='tree', group_id=3), box(20, label='tree', group_id=3), box(60, label='tree'),
                        box(40, label='car', group_id=3), box(80, label='tree')])
    run_script(processing, 'a', '-o', 'out')
    assert len(np.unique(label('one'))) == 5
    assert run_script(processing, 'a', '-o', 'classes', '--classes').status in (None, 0)
    assert (home / 'classes/classes.txt').read_text() == 'car\ntree\n'
    found = label('one', 'classes')[10]
    assert found.dtype == np.uint16 and set(found.tolist()) == {0, 1001, 2001, 2002, 2003}
    assert found[5] == found[25] == 2001 and found[45] == 1001
    write(home, 'one', [box(0, label='dog')])
    outcome = run_script(processing, 'a', '-o', 'classes', '--classes')
    assert outcome.status == 1 and 'classes.txt: lists classes other' in outcome.err


def test_lines_are_lanes(home, run_script):
    write(home, 'one', [shape('linestrip', [[60, 60], [50, 40], [50, 20]], 'solid'),
                        shape('line', [[100, 70], [90, 30]], 'dashed')], embedded=True)
    write(home, 'two', [shape('linestrip', [[10, 70], [10, 20]], 'dashed')])
    outcome = run_script(processing, 'a', '-o', 'out')
    assert outcome.status in (None, 0) and outcome.out == 'Wrote 2 photos and 3 lanes to out; skipped 0.\n'
    first, second = tusimple.read_all('out/lanes.json')
    assert first.h_samples == list(range(16, 72)) and len(second.lanes) == 1
    lane = dict(zip(first.h_samples, first.lanes[0]))
    assert [lane[y] for y in (16, 20, 40, 50, 60, 61)] == [-2, 50, 50, 55, 60, -2]
    assert set(np.unique(label('0000'))) == {0, 20, 70}
    run_script(processing, 'a', '-o', 'classes', '--classes')
    assert (home / 'classes/classes.txt').read_text() == 'dashed\nsolid\n'
    values = [set(np.unique(label(f'000{i}', 'classes'))) for i in range(2)]
    assert values == [{0, 1001, 2001}, {0, 1001}]


def test_unusable_shapes_are_counted_and_skipped(home, run_script):
    write(home, 'one', [
        shape('polygon', [[1, 2], [3, 4]]), shape('polygon', 'abc'), shape('polygon', [[1, float('nan')]] * 3),
        shape('mask', [[5, 6], [8, 7]]), shape('mask', [[5, 6], [8, 7]], mask='x'), shape('point', [[1, 2]]),
        shape('linestrip', [[1, 2], [3, 4], [9, 9]]), {}, box(3)])
    assert 'Wrote 1 photos and 1 instances to out; skipped 0 files and 8 shapes' in run_script(
        processing, 'a', '-o', 'out').out


@pytest.mark.parametrize('text, words', [
    ('{', 'is not a labelme file'), ('[]', 'is not a labelme file'), ('{"shapes": []}', 'no such file'),
    ('{"shapes": [], "imageData": "AAAA"}', 'its imageData is not an image')])
def test_unusable_file_is_reported_and_skipped(home, run_script, text, words):
    write(home, 'one', [box(3)])
    (home / 'a/two.json').write_text(text)
    outcome = run_script(processing, 'a', '-o', 'out')
    assert outcome.status in (None, 0) and 'two' in outcome.out.splitlines()[0] and words in outcome.out
    assert 'Wrote 1 photos' in outcome.out and os.listdir('out/images') == ['one.png']


@pytest.mark.parametrize('folder', ['absent', 'a'])
def test_no_usable_file_is_one_line(home, run_script, folder):
    outcome = run_script(processing, folder, '-o', 'out')
    assert outcome.status == 1 and outcome.err.count('\n') == 1 and not (home / 'out').exists()
