"""All scripts, each with what it cannot use: one line that names the culprit, and nothing lost or half-written.

A row: (the command line, what spoils the folder that it runs in or None, words of the message). The folder is that of
`home`, with sound files of every kind. What is wrong with a flag ends with status 2, all else with 1.
"""

import json
import os
import pathlib
import shutil
import struct
import subprocess
import sys
import zlib

import cv2
import numpy as np
import pytest

from conftest import ROOT
from data import synthetic_dataset, tusimple_dataset_processing, tusimple_evaluation
from data.common import quiet
from data.lanes import tusimple

quiet.import_tensorflow()
import tensorflow.compat.v1 as tf

import inference
import reference
import training
import utils

SIZE, SMALL = (64, 32), reference.small_enet()
SCRIPTS = {'training': training, 'inference': inference, 'processing': tusimple_dataset_processing,
           'synthetic': synthetic_dataset, 'evaluation': tusimple_evaluation}


# ---- Sound files -----------------------------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def sound(tmp_path_factory):
    """The folder in which every command line would do, were it not for what a row changes.

    in/ two photos; set/ the same in TuSimple's layout, predictions.json for it; d/ prepared for training; model/
    a checkpoint; out/ and p.json, made by earlier runs.
    """
    home = tmp_path_factory.mktemp('sound')
    rng = np.random.default_rng(0)
    for folder in ('in', 'set/clips', 'd/images', 'd/labels', 'model', 'out', 'empty'):
        (home / folder).mkdir(parents=True)
    records = []
    for i in range(3):
        photo, label = rng.integers(0, 200, [*SIZE[::-1], 3]).astype(np.uint8), np.zeros(SIZE[::-1], np.uint8)
        label[:, 20 * i:20 * i + 5] = 20
        for path, picture in ((f'in/{i}.png', photo), (f'set/clips/{i}.png', photo), (f'd/images/{i}.png', photo),
                              (f'd/labels/{i}.png', label)):
            assert cv2.imwrite(str(home / path), picture)
        records.append(tusimple.Record(f'clips/{i}.png', [[20 * i, 20 * i]], [10, 30], run_time=5))
    tusimple.write_records(str(home / 'set/label_data_0.json'), records)
    tusimple.write_records(str(home / 'predictions.json'), records)
    for name in ('p.json', 'out/cluster_0000.png', 'out/notes.txt', 'notes.txt', 'scores.csv'):
        (home / name).write_text('of an earlier run')
    conventions = utils.Conventions(image_size=SIZE, batch_statistics=False, dropout_at_inference=False)
    utils.write_conventions(str(home / 'model'), conventions)
    with tf.Graph().as_default(), tf.Session() as sess:
        utils.build_model(tf.placeholder(tf.uint8, [1, *SIZE[::-1], 3]), conventions, architecture=SMALL)
        sess.run(tf.global_variables_initializer())
        tf.train.Saver().save(sess, str(home / 'model/model.ckpt'), write_meta_graph=False)
    return home


@pytest.fixture
def home(sound, tmp_path, monkeypatch):
    """A copy of `sound`, the working folder."""
    shutil.copytree(sound, tmp_path / 'home')
    monkeypatch.chdir(tmp_path / 'home')
    return tmp_path / 'home'


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() if path.stat().st_size < 2 ** 20 else path.stat().st_size
            for path in folder.rglob('*') if path.is_file() and path.name != 'lock'}


# ---- What spoils them ------------------------------------------------------------------------------------------------

def all_of(*changes):
    def spoil(home):
        for change in changes:
            change(home)
    return spoil


def text(path, content):
    """The file has this content instead."""
    def spoil(home):
        (home / path).parent.mkdir(parents=True, exist_ok=True)
        (home / path).write_bytes(content if isinstance(content, bytes) else content.encode())
    return spoil


def cut(path):
    """The file ends in the middle."""
    return lambda home: os.truncate(home / path, (home / path).stat().st_size // 2)


def huge(path, size):
    """The file is this long; on the disk it takes no room."""
    def spoil(home):
        (home / path).touch()
        os.truncate(home / path, size)
    return spoil


def pipe(path):
    """A pipe that nobody writes to, in the place of the file: to open it would be to wait for ever."""
    def spoil(home):
        (home / path).unlink(missing_ok=True)
        os.mkfifo(home / path)
    return spoil


def gone(path):
    return lambda home: shutil.rmtree(home / path) if (home / path).is_dir() else (home / path).unlink()


def renamed(path, name):
    return lambda home: (home / path).rename(home / name)


def lines(path, change):
    """The lines of the file, each read as JSON, are what `change` makes of their list; a text stays as it is."""
    def spoil(home):
        values = [json.loads(line) for line in (home / path).read_text().splitlines()]
        changed = change(values)
        (home / path).write_text('\n'.join(value if isinstance(value, str) else json.dumps(value)
                                           for value in (values if changed is None else changed)))
    return spoil


def labels(change):
    return lines('set/label_data_0.json', change)


def predictions(change):
    return lines('predictions.json', change)


def field(i, **changes):
    """Line i has these values; None takes one away."""
    def change(values):
        values[i].update(changes)
        for key in [key for key, value in values[i].items() if value is None]:
            del values[i][key]
    return change


def only(**changes):
    """One line is left, with these values."""
    return lambda values: [{**values[0], **changes}]


def conventions(**changes):
    def spoil(home):
        record = json.loads((home / 'model/conventions.json').read_text())
        (home / 'model/conventions.json').write_text(json.dumps({**record, **changes}))
    return spoil


def chunk(kind, data):
    return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))


# Each is of a few bytes, and of gigabytes if it were decoded.
PNG_BOMB = (b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', 60000, 60000, 8, 2, 0, 0, 0))
            + chunk(b'IDAT', zlib.compress(bytes(10 ** 4))) + chunk(b'IEND', b''))
JPEG_BOMB = (b'\xff\xd8' + b'\xff\xc0' + struct.pack('>HBHHB', 17, 8, 60000, 60000, 3) + bytes(9)
             + b'\xff\xda' + struct.pack('>H', 12) + bytes(10) + b'\xff\xd9')
BMP_BOMB = b'BM' + struct.pack('<IHHIIiiHHIIiiII', 54, 0, 0, 54, 40, 60000, -60000, 1, 24, 0, 0, 0, 0, 0, 0)
NESTED = '[' * 100_000


# ---- The table -------------------------------------------------------------------------------------------------------

INFERENCE = '-m model -i in -o out '
EVALUATION = 'predictions.json set/label_data_0.json '
TRAINING = '-s d -o new --image-size 64 32 --workers 1 '

FLAGS = {
    'inference': [
        ('--bandwidth 0', '--bandwidth'), ('--bandwidth -1', '--bandwidth'), ('--bandwidth nan', '--bandwidth'),
        ('--bandwidth 1e-39', '--bandwidth'),
        ('--bandwidth wide', '--bandwidth'), ('--bandwidth', '--bandwidth'), ('--workers -1', '--workers'),
        ('--workers 1.5', '--workers'), ('--colour red', '--colour'), ('photo.jpg', 'photo.jpg'),
        ('--no-pictures', '--no-pictures'), ('--export m --json p.json', '--json'), ('--export m --masks', '--masks'),
        ('--export m --bandwidth 2', '--bandwidth'),
        ('--export m --max-lanes 3', '--max-lanes'), ('--export m --min-confidence 0.5', '--min-confidence'),
        ('--export=', '--export'), ('--json=', '--json'),
        ('--no-pictures --masks --draw-lanes', '--draw-lanes'), ('--export', '--export')],
    'processing': [
        ('', 'train_data_dir'), ('set --workers 0', '--workers'), ('set --workers -1', '--workers'),
        ('set --workers two', '--workers'), ('set --outdir', '--outdir'), ('set --size 9', '--size')],
    'synthetic': [
        ('', 'DIR'), ('new --num 0', '--num'), ('new --num x', '--num'), ('new --seed -1', '--seed'),
        ('new --workers 0', '--workers'), ('new --scenes city', '--scenes'), ('new more', 'more'),
        ('new --num 2147483647', '--num')],
    'evaluation': [
        ('', 'predictions'), ('predictions.json', 'labels'), (EVALUATION + '--worst-num 0', '--worst-num'),
        (EVALUATION + '--worst-num few', '--worst-num'), (EVALUATION + '--best best', '--best')],
    'training': [   # test_training.py has one for each of the flags
        ('--epochs 0', '--epochs'), ('--dvar nan', '--dvar'), ('--image-size 64 30', '--image-size'),
        ('--learning-rate inf', '--learning-rate'), ('data', 'data'), ('--srcdir', '--srcdir')],
}

FILES = {
    'inference, before the network is loaded': {
        # Where the photos are
        'no such input': ('-i absent', None, 'absent: no such'),
        'empty folder': ('-i empty', None, 'empty: holds no pictures'),
        'folder without pictures': ('-i model', None, 'model: holds no pictures'),
        'damaged video': ('-i v.mp4', text('v.mp4', 'no video'), 'v.mp4: is not a video'),
        'empty json': ('-i t.json', text('t.json', ''), 't.json: lists no photos'),
        'json that is none': ('-i notes.json', text('notes.json', 'words'), 'notes.json:1: not JSON'),
        'nested json': ('-i t.json', text('t.json', NESTED), 't.json:1: not JSON'),
        'json of one long line': ('-i t.json', huge('t.json', 2 ** 23), 't.json:1: is longer than'),
        'json of a gigabyte': ('-i t.json', huge('t.json', 2 ** 30 + 1), 't.json: is too large'),
        'path upwards': ('-i set/label_data_0.json', labels(only(raw_file='../in/0.png')),
                         'label_data_0.json:1: raw_file \'../in/0.png\' leaves'),
        'path through a folder upwards': ('-i set/label_data_0.json', labels(only(raw_file='clips/../../in/0.png')),
                                          'label_data_0.json:1: raw_file'),
        'absolute path': ('-i set/label_data_0.json', labels(only(raw_file='/etc/passwd')), 'label_data_0.json:1: '),
        'path of Windows': ('-i set/label_data_0.json', labels(only(raw_file='C:\\a.png')), 'label_data_0.json:1: '),
        # Where the results go
        'output folder is a file': ('-o notes.txt', None, 'notes.txt: '),
        'output folder below a file': ('-o notes.txt/out', None, 'notes.txt/out: '),
        'json output is a folder': ('--json empty', None, '--json empty: is a folder'),
        'json output below a file': ('--json notes.txt/p.json', None, 'notes.txt: '),
        'json output is the input': ('-i set/label_data_0.json --json set/../set/label_data_0.json', None,
                                     '--json set/../set/label_data_0.json: is the input'),
        'json output is a photo': ('--json in/1.png', None, '--json in/1.png: is one of the photos'),
        'results over their own input': ('-i out', None, 'out/cluster_0000.png: is an input'),
        'export to a file': ('--export notes.txt', None, '--export notes.txt: is there already'),
        'export to a folder in use': ('--export out', None, '--export out: is there already'),
        'export below a file': ('--export notes.txt/m', None, 'notes.txt: '),
    },
    'inference': {
        'name that no file can have': (f'-i {"x" * 300}', None, f'{"x" * 300}: File name too long'),
        # The model
        'no model folder': ('-m absent', None, 'absent: no such folder'),
        'no checkpoint': ('-m empty', None, 'empty: holds no checkpoint'),
        'index alone': ('', gone('model/model.ckpt.data-00000-of-00001'), 'model: holds no checkpoint'),
        'index is text': ('', text('model/model.ckpt.index', 'Not found' * 99), 'model/model.ckpt: '),
        'index is cut': ('', cut('model/model.ckpt.index'), 'model/model.ckpt: '),
        'index is empty': ('', text('model/model.ckpt.index', ''), 'model/model.ckpt: '),
        'weights are cut': ('', cut('model/model.ckpt.data-00000-of-00001'), 'model/model.ckpt: '),
        'weights are cut, to export': ('--export new', cut('model/model.ckpt.data-00000-of-00001'),
                                       'model/model.ckpt: '),
        'weights of another shape': ('', conventions(feature_dim=5), 'weights is [2, 2, 3, 16]'),
        'semantic model': ('', conventions(head='Semantic', feature_dim=2), 'model: is a semantic model'),
        'semantic model, to export': ('--export new', conventions(head='Semantic', feature_dim=2), 'model: '),
        'photos beyond all memory': ('', conventions(image_size=[32768, 32768]),
                                     'model/conventions.json: "image_size"'),
        'no size': ('', conventions(image_size=None), 'model/conventions.json: '),
        'odd size': ('', conventions(image_size=[30, 30]), 'model/conventions.json: "image_size"'),
        'bandwidth of infinity': ('', conventions(bandwidth=float('inf')), 'model/conventions.json: "bandwidth"'),
        'margins without room': ('', conventions(delta_v=1.5), 'model/conventions.json: "delta_v"'),
        'later version': ('', conventions(version=3), 'model/conventions.json: "version"'),
        'nested conventions': ('', text('model/conventions.json', NESTED[:1000]), 'model/conventions.json: '),
        'conventions of a gigabyte': ('', huge('model/conventions.json', 2 ** 30), 'model/conventions.json: '),
        'conventions as a folder': ('', all_of(gone('model/conventions.json'),
                                               lambda home: (home / 'model/conventions.json').mkdir()),
                                    'model/conventions.json: '),
        # Photos
        'PNG bomb': ('-i b.png', text('b.png', PNG_BOMB), 'b.png: is 60000 x 60000'),
        'JPEG bomb': ('-i b.jpg', text('b.jpg', JPEG_BOMB), 'b.jpg: is 60000 x 60000'),
        'BMP bomb': ('-i b.bmp', text('b.bmp', BMP_BOMB), 'b.bmp: is 60000 x 60000'),
        'cut photo': ('-i in/0.png', cut('in/0.png'), 'in/0.png: is cut off'),
        'empty photo': ('-i in/0.png', text('in/0.png', ''), 'in/0.png: is empty'),
        'text as photo': ('-i in/0.png', text('in/0.png', 'text'), 'in/0.png: is not a'),
        'photo of a gigabyte': ('-i b.png', huge('b.png', 2 ** 30), 'b.png: is too large'),
        'listed photo is missing': ('-i set/label_data_0.json', labels(only(raw_file='no.png')), 'set/no.png: no such'),
        'listed photo is a pipe': ('-i set/label_data_0.json', all_of(labels(only()), pipe('set/clips/0.png')),
                                   'set/clips/0.png: is not a file'),
        'listed photo is a folder': ('-i set/label_data_0.json', labels(only(raw_file='clips')),
                                     'set/clips: is a folder'),
    },
    'processing': {
        'no such folder': ('absent -o out', None, 'absent: no such folder'),
        'folder without labels': ('empty -o out', None, 'empty: holds no label_data_*.json'),
        'file in place of a folder': ('notes.txt -o out', None, 'notes.txt: is not a folder'),
        'labels are a pipe': ('set -o out', pipe('set/label_data_0.json'), 'label_data_0.json: is not a file'),
        'empty labels': ('set -o out', text('set/label_data_0.json', ''), 'set: none of 0 label lines'),
        'labels that are words': ('set -o out', text('set/label_data_0.json', 'words\n'),
                                  'label_data_0.json:1: not JSON'),
        'labels are a folder': ('set -o out', all_of(gone('set/label_data_0.json'),
                                                     lambda home: (home / 'set/label_data_0.json').mkdir()),
                                'label_data_0.json: is a folder'),
        'labels of a gigabyte': ('set -o out', huge('set/label_data_0.json', 2 ** 30 + 1), 'label_data_0.json: is too'),
        'nested labels': ('set -o out', text('set/label_data_0.json', NESTED), 'label_data_0.json:1: not JSON'),
        'all paths upwards': ('set -o out', labels(only(raw_file='../in/0.png')), 'label_data_0.json:1: raw_file'),
        'all paths absolute': ('set -o out', labels(only(raw_file='/etc/hostname')), 'label_data_0.json:1: raw_file'),
        'only a bomb': ('set -o out', all_of(text('set/b.png', PNG_BOMB), labels(only(raw_file='b.png'))),
                        'label_data_0.json:1: set/b.png: is 60000 x 60000'),
        'only text as photo': ('set -o out', labels(only(raw_file='label_data_0.json')), 'label_data_0.json:1: '),
        'images is a file': ('set -o out', text('out/images', 'mine'), 'out/images'),
        'labels is a file': ('set -o out', text('out/labels', 'mine'), 'out/labels'),
        'outdir is a file': ('set -o notes.txt', None, 'notes.txt'),
        'photos would be replaced': ('d -o d', lambda home: (home / 'd/label_data_0.json').write_text(
            (home / 'set/label_data_0.json').read_text().replace('clips', 'images')), 'label_data_0.json:1: its photo'),
    },
    'synthetic': {
        'labels of another data set': ('set', None, 'set/label_data_0.json: label file of another data set'),
        'folder is a file': ('notes.txt', None, 'notes.txt: '),
        'folder below a file': ('notes.txt/new', None, 'notes.txt/new: '),
    },
    'evaluation': {
        'no prediction': ('', predictions(lambda x: x[:2]), 'label_data_0.json:3: raw_file \'clips/2.png\' has no'),
        'an unknown photo': ('', predictions(field(1, raw_file='x\n.jpg')), 'predictions.json:2: '),
        'a second prediction': ('', predictions(lambda x: x + x[:1]), 'predictions.json:4: '),
        'a photo labelled twice': ('', labels(lambda x: x + x[:1]), 'label_data_0.json:4: '),
        'no raw_file': ('', predictions(field(1, raw_file=None)), 'predictions.json:2: has no "raw_file"'),
        'no lanes': ('', predictions(field(1, lanes=None)), 'predictions.json:2: has no "lanes"'),
        'no run_time': ('', predictions(field(1, run_time=None)), '--ignore-run-time'),
        'run_time text': ('', predictions(field(1, run_time='5')), 'predictions.json:2: run_time'),
        'too short': ('', predictions(field(2, lanes=[[1]], h_samples=None)),
                      'predictions.json:3: lane 0 has 1 points'),
        'other rows': ('', predictions(field(2, h_samples=[1, 2])), 'predictions.json:3: its h_samples'),
        'x is NaN': ('', predictions(field(0, lanes=[[float('nan')] * 2])), 'predictions.json:1: lane 0 holds nan'),
        'not JSON': ('', predictions(lambda x: x[:2] + ['{']), 'predictions.json:3: not JSON'),
        'two bad lines': ('', predictions(lambda x: ['{', '{']),
                          'not JSON; each line is one JSON object (2 such lines)'),
        'empty': ('', predictions(lambda x: []), 'predictions.json: holds no lines'),
        'predictions from a device': ('/dev/zero set/label_data_0.json', None, '/dev/zero: is not a file'),
        'predictions from a pipe': ('', pipe('predictions.json'), 'predictions.json: is not a file'),
        'no predictions': ('absent.json set/label_data_0.json', None, 'absent.json: no such file'),
        'no labels': ('predictions.json absent.json', None, 'absent.json: no such file'),
        'labels are a folder': ('predictions.json set', None, 'set: is a folder'),
        'labels are a picture': ('predictions.json in/0.png', None, 'in/0.png:1: not JSON'),
        'worst is a file': ('--worst notes.txt', None, 'notes.txt: '),
        'worst among the photos': ('--worst set/../set/clips', None, '--worst set/../set/clips: holds the pictures'),
        'scores below a file': ('--per-image notes.txt/scores.csv', None, 'notes.txt: '),
        'scores are a folder': ('--per-image set', None, '--per-image set: is a folder'),
        'scores over the labels': ('--per-image set/label_data_0.json', None,
                                   '--per-image set/label_data_0.json: is an'),
        'path upwards': ('--worst empty', all_of(*(change(only(raw_file='../in/0.png')) for change in
                                                   (labels, predictions))),
                         'label_data_0.json:1: raw_file \'../in/0.png\' leaves'),
        'bomb among the photos': ('--worst empty', all_of(*(change(only()) for change in (labels, predictions)),
                                                          text('set/clips/0.png', PNG_BOMB)),
                                  'set/clips/0.png: is 60000 x 60000'),
    },
    'training': {   # test_training.py has those that need a training to be there
        'images without labels': ('', gone('d/labels'), 'd/labels: no such folder'),
        'image without a label': ('', gone('d/labels/1.png'), 'd/images/1.png: has no label'),
        'label without an image': ('', gone('d/images/1.png'), 'd/labels/1.png: has no image'),
        'two images of a name': ('', lambda home: shutil.copy(home / 'd/images/1.png', home / 'd/images/1.jpg'),
                                 'd/images/1.png: has the same name'),
        'no images': ('', all_of(gone('d/images'), lambda home: (home / 'd/images').mkdir()), 'd/images: holds no'),
        'srcdir is a file': ('-s notes.txt', None, 'notes.txt/images: is not a folder'),
        'lanes.json is a pipe': ('', pipe('d/lanes.json'), 'd/lanes.json: is not a file'),
        'lanes.json is a folder': ('', lambda home: (home / 'd/lanes.json').mkdir(), 'd/lanes.json: is a folder'),
        'bomb as photo': ('', all_of(*(text(f'd/images/{i}.png', PNG_BOMB) for i in range(3))), 'is 60000 x 60000'),
        'bomb as label': ('', all_of(*(text(f'd/labels/{i}.png', PNG_BOMB) for i in range(3))), 'is 60000 x 60000'),
        'photos as labels': ('', all_of(gone('d/labels'), lambda home: shutil.copytree(home / 'in', home / 'd/labels')),
                             'colours, as a photo does'),
        'labels of another size': ('', all_of(*(lambda home, i=i: cv2.imwrite(
            str(home / f'd/labels/{i}.png'), np.zeros([8, 8], np.uint8)) for i in range(3))),
                    'is 8 x 8, but its photo'),
        'model folder is empty': ('-m empty', None, 'empty: holds no checkpoint'),
        'index is damaged': ('-m model', text('model/model.ckpt.index', 'x' * 99), 'model/model.ckpt: '),
        'conventions beyond all memory': ('-m model', conventions(image_size=[32768, 32768]),
                                          'model/conventions.json: '),
        'settings are damaged': ('-o old', all_of(text('old/resume/state.index', ''),
                                                  text('old/resume/flags.json', NESTED)), 'old/resume/flags.json: '),
    },
}


def one_line(outcome, script, status, culprit):
    name = os.path.basename(SCRIPTS[script].__file__)
    assert outcome.status == status, outcome
    assert outcome.err.startswith(f'{name}: error: ') or status == 1 and outcome.err.startswith(f'{name}: warning: ')
    assert culprit in outcome.err and outcome.err.count('\n') == 1 and outcome.err.endswith('\n')


@pytest.mark.parametrize('script, args, culprit', [
    pytest.param(script, *row, id=f'{script} {row[0]}') for script, rows in FLAGS.items() for row in rows])
def test_flag(script, args, culprit, home, run_script, monkeypatch):
    monkeypatch.setattr(quiet, 'import_tensorflow', lambda: pytest.fail('TensorFlow was imported'))
    before = contents(home)
    one_line(run_script(SCRIPTS[script], *args.split()), script, 2, culprit)
    assert contents(home) == before and not (home / 'new').exists()


@pytest.mark.parametrize('script, args, spoil, culprit', [
    pytest.param(script, *row, id=f'{script}: {name}') for script, rows in FILES.items() for name, row in rows.items()])
def test_file(script, args, spoil, culprit, home, run_script, monkeypatch):
    if script.endswith('before the network is loaded'):
        script = 'inference'
        monkeypatch.setattr(quiet, 'import_tensorflow', lambda: pytest.fail('TensorFlow was imported'))
    if script == 'evaluation' and '.json' in args.split('--')[0]:
        prefix = ''
    else:
        prefix = {'inference': INFERENCE, 'evaluation': EVALUATION, 'training': TRAINING}.get(script, '')
    if spoil:
        spoil(home)
    before = contents(home)
    small = {'architecture': SMALL} if script in ('inference', 'training') else {}
    one_line(run_script(SCRIPTS[script], *(prefix + args).split(), **small), script, 1, culprit)
    after = contents(home)
    assert {path: after.get(path) for path in before} == before
    new = set(after) - set(before)   # a training whose photos are found bad has begun, and keeps its log and state
    assert all(path.startswith(('log/', 'new/resume/')) and 'temp' not in path for path in new)


@pytest.mark.parametrize('script, args, status, culprit', [
    ('inference', '-m model -i in/0.png -o out --bandwidth none', 2, '--bandwidth'),
    ('inference', '-m empty -i in -o out', 1, 'empty: holds no checkpoint'),
    ('training', '-s empty', 1, 'empty/images: no such folder'),
    ('processing', 'empty', 1, 'empty: holds no label_data_*.json'),
    ('synthetic', 'set', 1, 'set/label_data_0.json'),
    ('evaluation', 'notes.txt notes.txt', 1, 'notes.txt:1: not JSON'),
])
def test_from_the_shell(script, args, status, culprit, home):
    path = pathlib.Path(SCRIPTS[script].__file__).relative_to(ROOT)
    before = contents(home)
    done = subprocess.run([sys.executable, os.path.join(ROOT, path), *args.split()], capture_output=True, text=True)
    assert done.returncode == status and done.stdout == ''
    assert done.stderr.startswith(f'{path.name}: error: ') and done.stderr.count('\n') == 1 and culprit in done.stderr
    assert contents(home) == before
