"""training.py on more than one machine: a parameter server, a chief and a worker, each a process on loopback.

The trainings are as small as those of test_training.py; dropout, which differs from replica to replica, is off.
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

from data.common import command_line, quiet  # noqa: F401

quiet.import_tensorflow()

import enet
import training
import utils
from test_training import SMALL, assert_same, curves, draw, home, last_state, shrink  # noqa: F401
from test_training import small_network  # noqa: F401

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TASK = '''
import sys
sys.path[:0] = [{root!r}, {root!r} + '/tests']
import pytest
import test_cluster
sys.argv[0] = 'training.py'
test_cluster.shrink_task(pytest.MonkeyPatch())
test_cluster.command_line.run(test_cluster.training.main)
'''


def shrink_task(patch):
    shrink(patch)
    patch.setattr(enet, 'noise_of_step', lambda seed: None)
    patch.setattr(training, 'write_pictures', lambda *args: None)
    patch.setattr(utils, 'PATIENCE', 0.)


class Cluster:
    """Starts the processes of a cluster, called chief, worker, ps, and ps1; what they print is in NAME.log."""

    def __init__(self, folder, *args, servers=1):
        self.folder, self.args, self.processes = folder, args, {}
        sockets = [socket.socket() for _ in range(2 + servers)]
        for free in sockets:
            free.bind(('127.0.0.1', 0))
        addresses = [f'127.0.0.1:{free.getsockname()[1]}' for free in sockets]
        for free in sockets:
            free.close()
        self.jobs = {'chief': addresses[:1], 'worker': addresses[1:2], 'ps': addresses[2:]}

    def start(self, *names):
        for name in names:
            job = name.rstrip('1')
            task = {'cluster': self.jobs, 'task': {'type': job, 'index': int(name != job)}}
            with open(self.folder / f'{name}.log', 'a') as log:
                self.processes[name] = subprocess.Popen(
                    [sys.executable, '-c', TASK.format(root=ROOT), *map(str, self.args)], cwd=self.folder,
                    env={**os.environ, 'TF_CONFIG': json.dumps(task)}, stdout=log, stderr=log)

    def log(self, job):
        return (self.folder / f'{job}.log').read_text()

    def until(self, job, text):
        """Waits until a task has printed that. Fails if the process ends before."""
        while text not in self.log(job):
            try:
                pytest.fail(f'{job} ended with {self.processes[job].wait(0.05)}: {self.log(job)}')
            except subprocess.TimeoutExpired:
                pass

    def kill(self, job):
        self.processes[job].kill()
        self.processes[job].wait()

    def statuses(self):
        return {job: self.processes[job].wait(300) for job in self.processes}


@pytest.fixture
def start_cluster(home):
    """start(*flags, servers=1) -> Cluster, killed at the end if need be."""
    started = []

    def start(*args, **kwargs):
        started.append(Cluster(home, *args, **kwargs))
        return started[-1]
    yield start
    for one in started:
        for process in one.processes.values():
            process.kill()
            process.wait()


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """Twenty labels and twenty times the same photo. So the statistics of any batch are those of any other, and batch
    norm does not see whether a batch is whole or in two halves."""
    folder = draw(tmp_path_factory.mktemp('data') / 'drawn', 20)
    photos = sorted(glob.glob(str(folder / 'images/*')))
    for path in photos[1:]:
        shutil.copy(photos[0], path)
    (folder / 'lanes.json').unlink()
    return folder


def flags(data, epochs, batch):
    # Of seeds 0 to 4 and 42, only with the last one a gradient is so near 0 that two halves give it another sign.
    return ['-s', data, '--epochs', epochs, *SMALL, '--batch-size', batch, '--seed', 1]


def test_two_halves_of_a_batch_are_one_process_with_all_of_it(home, start_cluster, data, run_script, monkeypatch):
    cluster = start_cluster(*flags(data, 2, 3), servers=2)
    cluster.start('worker', 'ps', 'ps1', 'chief')
    monkeypatch.setattr(enet, 'noise_of_step', lambda seed: None)
    monkeypatch.setattr(training, 'write_pictures', lambda *args: None)
    alone = run_script(training, *flags(data, 2, 6), '-o', 'alone', '-l', 'log_alone')
    assert alone.status == 0
    assert cluster.statuses() == {'ps': 0, 'ps1': 0, 'chief': 0, 'worker': 0}, cluster.log('chief')
    expected, got = curves(home / 'log_alone'), curves(home / 'log')
    assert [point[:2] for point in got] == [point[:2] for point in expected]
    assert {step for tag, step, _ in got if tag == 'loss/total'} == {1, 2, 3, 4, 5, 6}
    for (tag, step, value), (_, _, same) in zip(expected, got):
        # Adam's first steps make much of little: a rounding error in a gradient of almost 0 decides its sign.
        exact = 1e-5 if step < 3 else 1e-2
        if not tag.startswith('validation'):
            assert same == pytest.approx(value, rel=1e-3 if tag == 'gradient_norm' and step < 3 else exact), (tag, step)
    one, both = last_state(home, 'alone'), last_state(home)
    assert one.keys() == both.keys()
    for name in one:   # a variance is estimated with n - 1, and n is half as large for half a batch
        if 'moving_' in name:
            np.testing.assert_allclose(both[name], one[name], rtol=5e-2, atol=2e-3, err_msg=name)

    # What the cluster has begun, one process goes on with: a state is a state.
    outcome = run_script(training, *flags(data, 3, 3))
    assert outcome.status == 1 and '--batch-size was 6, is 3' in outcome.err
    outcome = run_script(training, *flags(data, 3, 6))
    assert outcome.status == 0 and 'goes on after step 6' in outcome.out


def test_killed_tasks_join_again(home, start_cluster, data):
    cluster = start_cluster(*flags(data, 6, 3), '--save-minutes', '1e-9')
    cluster.start('ps')
    cluster.until('ps', 'waits for chief at 127.0.0.1:')
    cluster.start('chief')
    cluster.until('chief', 'waits for worker 0 at 127.0.0.1:')
    cluster.start('worker')
    cluster.until('chief', 'epoch 1 of')
    cluster.kill('worker')
    cluster.start('worker')
    cluster.until('chief', 'epoch 3 of')
    cluster.kill('chief')
    cluster.until('worker', 'waits for chief at 127.0.0.1:')
    cluster.start('chief')
    assert cluster.statuses() == {'ps': 0, 'chief': 0, 'worker': 0}, cluster.log('chief') + cluster.log('worker')
    assert 'started again; it joins again' in cluster.log('worker') and 'goes on after step' in cluster.log('chief')
    assert 'Traceback' not in cluster.log('worker') + cluster.log('chief') + cluster.log('ps')
    steps = [step for tag, step, _ in curves(home / 'log') if tag == 'loss/total']
    assert steps == list(range(1, 19))
    assert last_state(home)['global_step'] == 18 and last_state(home)['epochs_validated'] == 6


@pytest.mark.parametrize('text, problem', [
    ('{', 'JSON'), ('[]', 'JSON'), ('3', 'JSON'), ('{"cluster": {"chief": ["a:1"]}}', '"task"'),
    ('{"cluster": {"chief": "a:1"}, "task": {"type": "chief", "index": 0}}', 'JSON'),
    ('{"cluster": {"chief": ["a"], "ps": ["b:1"]}, "task": {"type": "chief", "index": 0}}', 'JSON'),
    ('{"cluster": {"chief": ["a:1"], "ps": ["b:1"]}, "task": {"type": "chief", "index": 1}}', 'chief 1'),
    ('{"cluster": {"chief": ["a:1"], "ps": ["b:1"]}, "task": {"type": "worker", "index": 0}}', 'worker 0'),
    ('{"cluster": {"chief": ["a:1"], "ps": ["b:1"]}, "task": {"type": "ps", "index": -1}}', 'ps -1'),
    ('{"cluster": {"worker": ["a:1"], "ps": ["b:1"]}, "task": {"type": "worker", "index": 0}}', '0 chiefs'),
    ('{"cluster": {"chief": ["a:1", "c:1"], "ps": ["b:1"]}, "task": {"type": "chief", "index": 0}}', '2 chiefs'),
    ('{"cluster": {"chief": ["a:1"], "worker": ["b:1"]}, "task": {"type": "chief", "index": 0}}', 'no ps'),
    ('{"cluster": {"chief": ["a:1"], "ps": ["a:1"]}, "task": {"type": "chief", "index": 0}}', 'address twice'),
    ('{"cluster": {"chief": ["a:1"], "evaluator": ["b:1"]}, "task": {"type": "chief", "index": 0}}', 'evaluator')])
def test_bad_tf_config(home, data, run_script, monkeypatch, text, problem):
    monkeypatch.setenv('TF_CONFIG', text)
    outcome = run_script(training, '-s', data)
    assert outcome.status == 1 and outcome.err.count('\n') == 1
    assert 'TF_CONFIG' in outcome.err and problem in outcome.err and not os.listdir(home)


def test_no_cluster_without_another_task():
    assert utils.read_tf_config('{"cluster": {"chief": ["a:1"]}, "task": {"type": "chief", "index": 0}}') is None


def test_taken_address_is_one_line(home, data, run_script, monkeypatch):
    with socket.socket() as taken:
        taken.bind(('127.0.0.1', 0))
        taken.listen()
        jobs = {'chief': ['127.0.0.1:1'], 'ps': [f'127.0.0.1:{taken.getsockname()[1]}']}
        monkeypatch.setenv('TF_CONFIG', json.dumps({'cluster': jobs, 'task': {'type': 'ps', 'index': 0}}))
        outcome = run_script(training, '-s', data)
    assert outcome.status == 1 and outcome.err.count('\n') == 1
    assert 'TF_CONFIG' in outcome.err and jobs['ps'][0] in outcome.err
