"""All scripts, each with unusable input: one line names the culprit, and nothing is lost or half-written.

A row: the command line, a function that spoils its working folder or None, words of the message. The folder is that of
`home`, with sound files of every kind. A wrong flag ends with status 2, anything else with 1.
"""
import functools
import glob
import importlib
import json
import os
import shutil
import struct
import subprocess
import sys

import cv2
import numpy as np
import pytest

from conftest import ROOT
from data.common import quiet, settings
from data.lanes import tusimple

quiet.import_tensorflow()
import tensorflow.compat.v1 as tf

import inference
import reference
import training
import utils

SIZE, SMALL = (64, 32), reference.small_enet()
DATA_SCRIPTS = sorted(os.path.basename(path)[:-3] for path in glob.glob(os.path.join(ROOT, 'data/[!_]*.py')))
SCRIPTS = {'training': training, 'inference': inference, 'photos': inference,   # photos: no network
           **{name: importlib.import_module(f'data.{name}') for name in DATA_SCRIPTS}}


# ---- Sound files -----------------------------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def sound(tmp_path_factory):
    """A folder in which every command line would work, except for the change that a row makes.

    in/ three images; set/ the same in TuSimple's layout, predictions.json for it; d/ prepared for training; model/
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
    conventions = settings.Settings(image_size=SIZE)
    settings.write(str(home / 'model'), conventions)
    with tf.Graph().as_default(), tf.Session() as sess:
        utils.build_model(tf.placeholder(tf.uint8, [1, *SIZE[::-1], 3]), conventions, architecture=SMALL)
        sess.run(tf.global_variables_initializer())
        tf.train.Saver().save(sess, str(home / 'model/model.ckpt'), write_meta_graph=False)
    return home


@pytest.fixture
def home(sound, tmp_path, monkeypatch):
    """A copy of `sound`, the working folder."""
    monkeypatch.chdir(shutil.copytree(sound, tmp_path / 'home'))
    return tmp_path / 'home'


def contents(folder):
    """-> {relative path: bytes, or None of a folder or pipe}"""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob('*')}


# ---- What spoils them ------------------------------------------------------------------------------------------------

def all_of(*changes):
    return lambda home: [change(home) for change in changes]


def text(path, content):
    """The file has this content instead."""
    return lambda home: (home / path).write_bytes(content if isinstance(content, bytes) else content.encode())


def cut(path):
    """The file ends in the middle."""
    return lambda home: os.truncate(home / path, (home / path).stat().st_size // 2)


def gone(path):
    return lambda home: shutil.rmtree(home / path) if (home / path).is_dir() else (home / path).unlink()


def pipe(path):
    """A pipe without a writer replaces the file: opening it would block for ever."""
    return all_of(gone(path), lambda home: os.mkfifo(home / path))


def lines(path, change):
    """The lines of the file are what `change` returns for the list of their values; text is left as it is."""
    def spoil(home):
        values = [json.loads(line) for line in (home / path).read_text().splitlines()]
        (home / path).write_text('\n'.join(value if isinstance(value, str) else json.dumps(value)
                                           for value in change(values)))
    return spoil


labels = functools.partial(lines, 'set/label_data_0.json')
predictions = functools.partial(lines, 'predictions.json')


def only(**changes):
    """Only one line is left, with these values."""
    return lambda values: [{**values[0], **changes}]


def conventions(**changes):
    return lambda home: (home / 'model/conventions.json').write_text(
        json.dumps({**json.loads((home / 'model/conventions.json').read_text()), **changes}))


# A few bytes that decode to gigabytes.
BOMB = cv2.imencode('.bmp', np.zeros((1, 1, 3), np.uint8))[1].tobytes()
BOMB = BOMB[:18] + struct.pack('<ii', 60000, 60000) + BOMB[26:]
NESTED = '[' * 100_000


# ---- The tables ------------------------------------------------------------------------------------------------------

PREFIX = {'inference': '-m model -i in -o out ', 'photos': '-m model -o out ',
          'training': '-s d -o new --image-size 64 32 '}
SCORED = 'predictions.json set/label_data_0.json '
LISTED = '-i set/label_data_0.json '

FLAGS = {
    'inference': [
        ('--bandwidth nan', '--bandwidth'), ('--bandwidth', '--bandwidth'), ('--workers 1.5', '--workers'),
        ('--colour red', '--colour'), ('photo.jpg', 'photo.jpg'), ('--no-pictures', '--no-pictures'),
        ('--export m --masks', '--export'), ('--export=', '--export'), ('--min-confidence 2', '--min-confidence')],
    'tusimple_dataset_processing': [('', 'train_data_dir'), ('set --workers 0', '--workers')],
    'synthetic_dataset': [('', 'DIR'), ('new --num x', '--num'), ('new --seed -1', '--seed')],
    'tusimple_evaluation': [('', 'predictions'), ('predictions.json', 'labels')],
    'training': [('--srcdir', '--srcdir')],
}

FILES = {
    'inference': [   # the first ones are found before TensorFlow is imported
        ('-i absent', None, 'absent: no such'), ('-i empty', None, 'empty: holds no images'),
        ('-i v.mp4', text('v.mp4', 'no video'), 'v.mp4: is not a video'),
        ('-i t.json', text('t.json', ''), 't.json: lists no images'),
        (LISTED, labels(only(raw_file='../in/0.png')), "label_data_0.json:1: raw_file '../in/0.png' leaves"),
        ('-o notes.txt/out', None, 'notes.txt/out: '), ('--json empty', None, '--json empty: is not a file'),
        ('--json in/1.png', None, 'in/1.png: is an input'), ('-i out/cluster_0000.png', None, '0000.png: is an input'),
        ('--export out', None, '--export out: cannot be written'),
        (f'-i {"x" * 300}', None, f'{"x" * 300}: '),
        ('-m absent', None, 'absent: no such folder'), ('-m empty', None, 'empty: holds no checkpoint'),
        ('', gone('model/model.ckpt.data-00000-of-00001'), 'model: holds no checkpoint'),
        ('', text('model/model.ckpt.index', 'Not found' * 99), 'model/model.ckpt: '),
        ('--export new', cut('model/model.ckpt.data-00000-of-00001'), 'model/model.ckpt: '),
        ('', conventions(feature_dim=5), 'weights is [2, 2, 3, 16]'),
        ('', conventions(head='Semantic', feature_dim=2), 'model: is a semantic model'),
        ('', conventions(image_size=[32768, 32768]), 'model/conventions.json: '),
        ('', conventions(bandwidth=float('inf')), 'model/conventions.json: "bandwidth"'),
        ('', conventions(version=99), 'model/conventions.json: '),
        ('', text('model/conventions.json', NESTED[:1000]), 'model/conventions.json: '),
        ('', pipe('model/conventions.json'), 'model/conventions.json: ')],
    'tusimple_dataset_processing': [
        ('absent -o out', None, 'absent: no such folder'), ('empty -o out', None, 'empty: holds no label_data_*.json'),
        ('set -o out', pipe('set/label_data_0.json'), 'label_data_0.json: is not a file'),
        ('set -o out', text('set/label_data_0.json', ''), 'set: none of 0 '),
        ('set -o out', text('set/label_data_0.json', NESTED), 'label_data_0.json:1: not JSON'),
        ('set -o out', labels(only(raw_file='label_data_0.json')), 'label_data_0.json:1: '),
        ('set -o out', text('out/images', 'mine'), 'out/images')],
    'synthetic_dataset': [('notes.txt', None, 'notes.txt: '), ('notes.txt/new', None, 'notes.txt/new: ')],
    'tusimple_evaluation': [
        (SCORED, predictions(lambda x: x[:2]), "label_data_0.json:3: raw_file 'clips/2.png' has no"),
        (SCORED, predictions(lambda x: x + x[:1]), 'predictions.json:4: '),
        (SCORED, predictions(only(lanes=None)), 'predictions.json:1: lanes are not'),
        (SCORED, predictions(lambda x: [{**line, 'run_time': None} for line in x]), '--ignore-run-time'),
        (SCORED, predictions(lambda x: [{**line, 'lanes': [[float('nan')] * 2]} for line in x]), 'lane 0 holds nan'),
        (SCORED, predictions(lambda x: ['{', '{']), 'predictions.json:1: not JSON'),
        ('/dev/zero set/label_data_0.json', None, '/dev/zero: is not a file'),
        (SCORED + '--per-image set/label_data_0.json', None, '--per-image set/label_data_0.json: is an')],
    'training': [
        ('', gone('d/labels'), 'd/labels: no such'), ('', gone('d/labels/1.png'), 'd/images/1.png: has no label'),
        ('', lambda home: shutil.copy(home / 'in/1.png', home / 'd/images/1.jpg'), 'has the same name'),
        ('-s notes.txt', None, 'notes.txt/images: is not a folder'), ('-m empty', None, 'empty: holds no checkpoint'),
        ('-o model/new', text('model/new', ''), 'model/new: ')],
    'photos': [
        ('-i b.png', text('b.png', BOMB), 'b.png: has more than 67,108,864 pixels'),
        ('-i in/0.png', cut('in/0.png'), 'in/0.png: is damaged or cut off'),
        ('-i in/0.png', text('in/0.png', 'text'), 'in/0.png: is not an image'),
        (LISTED, all_of(labels(only()), pipe('set/clips/0.png')), 'set/clips/0.png: is not a file')],
}


def fails(outcome, script, status, culprit):
    """Asserts that a script ended with this status and one line that has these words."""
    assert outcome.status == status, outcome
    assert outcome.err.startswith(f'{os.path.basename(SCRIPTS[script].__file__)}: '), outcome
    assert outcome.err.endswith('\n') and outcome.err.count('\n') == 1 and culprit in outcome.err, outcome


@pytest.mark.parametrize('script, args, culprit', [
    *((script, *row) for script, rows in FLAGS.items() for row in rows),
    *((script, 'set set --no-such-flag', '--no-such') for script in DATA_SCRIPTS)])
def test_flag(script, args, culprit, home, run_script, monkeypatch):
    monkeypatch.setattr(quiet, 'import_tensorflow', lambda: pytest.fail('TensorFlow was imported'))
    before = contents(home)
    fails(run_script(SCRIPTS[script], *args.split()), script, 2, culprit)
    assert contents(home) == before


@pytest.mark.parametrize('script, args, spoil, culprit', [
    pytest.param(script, *row, id=f'{script} {number}: {row[2][:40]}') for script, rows in FILES.items()
    for number, row in enumerate(rows)])
def test_file(script, args, spoil, culprit, home, run_script, monkeypatch):
    all_of(*filter(None, [spoil]))(home)
    before = contents(home)
    if script == 'photos':
        monkeypatch.setattr(inference, 'load_network', lambda *_: (np.zeros_like, settings.Settings(image_size=SIZE)))
    small = {} if script in DATA_SCRIPTS else {'architecture': SMALL}
    fails(run_script(SCRIPTS[script], *(PREFIX.get(script, '') + args).split(), **small), script, 1, culprit)
    assert contents(home) == before


def test_from_the_shell(home):
    done = subprocess.run([sys.executable, os.path.join(ROOT, 'training.py'), '-s', 'empty'], capture_output=True,
                          text=True)
    assert (done.returncode, done.stdout) == (1, '') and done.stderr.count('\n') == 1
    assert done.stderr.startswith('training.py: error: empty/images: no such folder')
