"""training.py as a cluster: a chief and a worker, each a process on loopback.

The runs are as small as those of test_training.py; dropout, which differs from process to process, is off.
"""
import glob
import json
import os
import shutil
import socket
import subprocess
import sys

import numpy as np
import pytest

from data.common import quiet
from data.common.command_line import InputError
from data.common.run import read_tf_config

quiet.import_tensorflow()
import tensorflow.compat.v1 as tf

import enet
import training
from data.common.replica import Replica
from test_training import (NETWORK, ROOT, SMALL, curves, draw, home, last_state, one_line,  # noqa: F401
                           run_small, small_network)

CODE = '''
import sys
sys.path[:0] = [{root!r}, {root!r} + '/tests']
import test_cluster
test_cluster.{function}(sys.argv[1:])
'''


def simplify(patch):
    """No dropout, and no pictures."""
    patch.setattr(enet, 'noise_of_step', lambda seed: None)
    patch.setattr(training, 'write_pictures', lambda *args: None)


def run_simplified(argv):
    simplify(pytest.MonkeyPatch())
    run_small(argv)


class Processes:
    """The processes of a run in a folder: a chief and a worker, or the chief alone, according to the names.

    function: of this module, which they call with the arguments. Their output is in NAME.log.
    """

    def __init__(self, folder, function, args, names=('chief', 'worker')):
        self.folder, self.names, self.processes = folder, names, {}
        self._command = [sys.executable, '-c', CODE.format(root=ROOT, function=function), *map(str, args)]
        sockets = [socket.create_server(('127.0.0.1', 0)) for _ in names]
        self._jobs = {name: [f'127.0.0.1:{free.getsockname()[1]}'] for name, free in zip(names, sockets)}
        for free in sockets:
            free.close()

    def start(self, *names):
        for name in names or self.names:
            config = json.dumps({'cluster': self._jobs, 'task': {'type': name, 'index': 0}})
            with open(self.folder / f'{name}.log', 'a') as log:
                self.processes[name] = subprocess.Popen(self._command, cwd=self.folder, stdout=log, stderr=log,
                                                        env={**os.environ, 'TF_CONFIG': config})

    def log(self):
        return ''.join((self.folder / f'{name}.log').read_text() for name in self.names)

    def until(self, text):
        """Waits until one has printed that. Fails if the chief ends first."""
        while text not in self.log():
            try:
                pytest.fail(f'{self.processes["chief"].wait(0.05)}: {self.log()}')
            except subprocess.TimeoutExpired:
                pass

    def kill(self, *names):
        for name in names:
            self.processes[name].kill()
            self.processes[name].wait()


@pytest.fixture
def cluster(home):
    """cluster(*flags) -> Processes, killed at the end if need be."""
    started = []

    def start(*args):
        started.append(Processes(home, 'run_simplified', args))
        return started[-1]
    yield start
    for one in started:
        one.kill(*one.processes)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """Twenty labels and twenty copies of one image: all batches have the same statistics, and batch norm gives the same
    results for a batch as for its two halves."""
    folder = draw(tmp_path_factory.mktemp('data') / 'drawn', 20)
    photos = sorted(glob.glob(str(folder / 'images/*')))
    for path in photos[1:]:
        shutil.copy(photos[0], path)
    (folder / 'lanes.json').unlink()
    return folder


def flags(data, epochs, batch):
    return ['-s', str(data), '--epochs', str(epochs), *SMALL, '--batch-size', str(batch), '--seed', '1']


def assert_close(home):
    """The run of a cluster and that of one process have the same curves and variables.

    Adam magnifies rounding: the sign of a gradient of almost 0 determines a whole step.
    """
    got, expected = curves(home / 'log'), curves(home / 'log_alone')
    assert [point[:2] for point in got] == [point[:2] for point in expected]
    for (tag, step, value), (_, _, same) in zip(got, expected):
        if tag == 'loss/total':
            assert value == pytest.approx(same, rel=2e-5 if step < 4 else 2e-2), step
    got, expected = last_state(home), last_state(home, 'alone')
    assert got.keys() == expected.keys() and got['global_step'] == expected['global_step']
    apart = np.concatenate([np.abs(got[name] - expected[name]).ravel() for name in expected if f'{name}/Adam' in got])
    assert np.quantile(apart, 0.99) < 1e-4 and apart.max() < 6e-4
    for name in expected:
        if 'moving_mean' in name:
            np.testing.assert_allclose(got[name], expected[name], rtol=5e-2, atol=1e-2, err_msg=name)


def test_killed_processes_join_again_and_the_result_is_that_of_one_process(home, cluster, data, monkeypatch):
    """One process takes the images of both in each step."""
    processes = cluster(*flags(data, 4, 3))
    processes.start()
    for text, name in (('epoch 1 of', 'worker'), ('epoch 2 of', 'chief')):
        processes.until(text)
        processes.kill(name)
        processes.start(name)
    simplify(monkeypatch)
    assert training.main([*flags(data, 4, 6), '-o', 'alone', '-l', 'log_alone'], NETWORK) == 0
    assert [process.wait() for process in processes.processes.values()] == [0, 0], processes.log()
    assert 'resumes after step' in processes.log() and processes.log().count(': joining') == 3
    assert 'Traceback' not in processes.log()
    assert_close(home)
    # One process can resume the run of a cluster.
    with pytest.raises(InputError, match='--batch-size times processes was 6, is 3'):
        training.main(flags(data, 4, 3), NETWORK)
    assert training.main(flags(data, 5, 6), NETWORK) == 0
    assert last_state(home)['global_step'] == 15


def test_a_gradient_that_is_submitted_twice_or_late_does_not_count_twice():
    """As by a restarted worker: the mean is that of each replica's gradient of this step."""
    with tf.Graph().as_default():
        step = tf.train.create_global_step()
        chief, worker = (object.__new__(Replica) for _ in range(2))
        for replica, index in ((chief, 0), (worker, 1)):
            replica.index, replica.count, replica.is_chief = index, 2, index == 0
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr('data.common.replica.CHIEF', '')
            worker.mean([tf.constant([10.])], step)
            mean, = chief.mean([tf.constant([0.])], step)
        with tf.control_dependencies([mean]):
            update = tf.assign_add(step, 1)
        with tf.Session() as sess:
            sess.run(tf.global_variables_initializer())
            for at in (0, 0):
                sess.run(worker._hand_in, {worker._at_step: at})
            assert sess.run([mean, update])[0] == [5.]
            for at in (0, 1):   # the first is late
                sess.run(worker._hand_in, {worker._at_step: at})
            assert sess.run([mean, update])[0] == [5.]


@pytest.mark.parametrize('text', [
    '{', '[]', '{"cluster": {"chief": ["a:1"]}}',
    '{"cluster": {"chief": ["a"], "worker": ["b:1"]}, "task": {"type": "chief", "index": 0}}',
    '{"cluster": {"chief": ["a:1"], "worker": ["b:1"]}, "task": {"type": "chief", "index": 1}}',
    '{"cluster": {"chief": ["a:1", "c:1"]}, "task": {"type": "chief", "index": 0}}',
    '{"cluster": {"chief": ["a:1"], "ps": ["b:1"]}, "task": {"type": "chief", "index": 0}}'])
def test_bad_tf_config(text):
    with pytest.raises(InputError, match='^TF_CONFIG: .*there is no ps'):
        read_tf_config(text)


def test_tf_config_numbers_the_chief_first():
    text = json.dumps({'cluster': {'chief': ['a:1'], 'worker': ['b:1', 'c:1']}, 'task': {'type': 'worker', 'index': 1}})
    assert read_tf_config(text) == (['a:1', 'b:1', 'c:1'], 2)
    assert read_tf_config(None) == ([], 0)


def test_taken_address_is_one_line(home, data, run_script, monkeypatch):
    with socket.socket() as taken:
        taken.bind(('127.0.0.1', 0))
        taken.listen()
        jobs = {'chief': [f'127.0.0.1:{taken.getsockname()[1]}'], 'worker': ['127.0.0.1:1']}
        monkeypatch.setenv('TF_CONFIG', json.dumps({'cluster': jobs, 'task': {'type': 'chief', 'index': 0}}))
        one_line(run_script(training, '-s', data), 'TF_CONFIG', jobs['chief'][0])
