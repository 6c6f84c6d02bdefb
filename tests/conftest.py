"""Shared by the tests: the repository on the path, a tiny TuSimple folder, scripts run in this process."""

import collections
import functools
import gc
import json
import os
import signal
import sys

import cv2
import numpy as np
import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

from data.common import command_line

Outcome = collections.namedtuple('Outcome', 'status out err')


@pytest.fixture(autouse=True, scope='session')
def rare_garbage_collections():
    """TensorFlow's modules hold a million objects; scanning them repeatedly takes a tenth of the tests' time."""
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)


@pytest.fixture(autouse=True, scope='session')
def ctrl_c_is_heeded():
    """In the background of a shell, the tests and all scripts that they start would ignore it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def tusimple_folder(tmp_path):
    """A folder in the TuSimple layout: three drawn images of 128x72 with 2, 3 (one empty) and 1 lanes."""
    folder = tmp_path / 'train_set'
    h_samples = list(range(20, 72, 10))
    lanes = [[[60, 52, 44, 36, 28, 20], [70, 78, 86, 94, 102, 110]],
             [[60, 50, 40, 30, 20, 10], [-2, 64, 64, 64, -2, 64], [-2] * 6],
             [[-2, -2, 100, 90, 80, 70]]]
    label_lines = []
    for i, photo_lanes in enumerate(lanes):
        raw_file = f'clips/0000/{i}/20.jpg'
        photo = np.full([72, 128, 3], 90 + 20 * i, np.uint8)
        for lane in photo_lanes:
            points = [(x, y) for x, y in zip(lane, h_samples) if x >= 0]
            cv2.polylines(photo, [np.array(points, np.int32).reshape(-1, 2)], False, (240, 240, 240), 2)
        (folder / raw_file).parent.mkdir(parents=True)
        assert cv2.imwrite(str(folder / raw_file), photo)
        label = {'lanes': photo_lanes, 'h_samples': h_samples, 'raw_file': raw_file}
        label_lines.append(json.dumps(label) + '\n')
    (folder / 'label_data_0000.json').write_text(''.join(label_lines))
    return folder


@pytest.fixture
def run_script(monkeypatch, capsys):
    """run(module, *args, **kwargs) -> Outcome: a script's main(**kwargs) under command_line.run, as from a shell."""
    def run(module, *args, **kwargs):
        monkeypatch.setattr(sys, 'argv', [module.__file__, *map(str, args)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            command_line.run(functools.partial(module.main, **kwargs))
        return Outcome(end.value.code, *capsys.readouterr())
    return run
