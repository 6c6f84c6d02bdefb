"""What a hostile folder, an odd environment or a failing disk does to training.py: one line, and nothing lost.

The trainings are as small as those of test_training.py.
"""
import glob
import json
import os
import shutil
import socket
import threading
import time

import pytest

from data.common import quiet

quiet.import_tensorflow()
import tensorflow.compat.v1 as tf

import utils
from data.common.command_line import InputError
from test_training import (SMALL, assert_same, contents, curves, data, finished, home, last_state,  # noqa: F401
                           small_network, train)

TRAIN = ['--epochs', '3', '--learning-rate', '0.01', *SMALL]   # what `finished` was trained with


def one_line(outcome, *texts, status=1):
    assert outcome.status == status and outcome.err.count('\n') == 1, outcome.err
    assert all(text in outcome.err for text in texts), outcome.err


# ---- Files that are not what they seem -------------------------------------------------------------------------------

@pytest.mark.parametrize('make', [os.mkfifo, os.mkdir, lambda path: os.symlink('../../victim', path)],
                         ids=['pipe', 'folder', 'link'])
def test_lock_that_is_not_a_file_is_refused_and_its_target_stays(home, data, train, make):
    (home / 'victim').write_text('mine')
    os.makedirs('saved_model/resume')
    make('saved_model/resume/lock')
    outcome = train('-s', data, *TRAIN)
    one_line(outcome, 'saved_model/resume/lock: cannot be written: ')
    assert 'None' not in outcome.err and (home / 'victim').read_text() == 'mine'


def test_no_link_in_the_place_of_a_file_of_a_training_is_followed(home, data, train):
    names = ['saved_model/conventions.json', 'saved_model/checkpoint', 'saved_model/resume/flags.json',
             'saved_model/resume/conventions.json', 'log/variables.txt', 'log/clusters_epoch0001_0.png']
    for name in names:
        os.makedirs(os.path.dirname(name), exist_ok=True)
        os.symlink(home / 'victim', name)
    (home / 'victim').write_text('mine')
    outcome = train('-s', data, *TRAIN, '--pictures', '1')
    assert (outcome.status, outcome.err) == (0, '')
    assert (home / 'victim').read_text() == 'mine' and not any(map(os.path.islink, names))


@pytest.mark.parametrize('name', ['flags.json', 'conventions.json'])
def test_pipe_in_the_place_of_a_record_is_one_line(home, data, finished, train, name):
    shutil.copytree(finished / 'saved_model', 'saved_model')
    os.remove(home / 'saved_model/resume' / name)
    os.mkfifo(home / 'saved_model/resume' / name)
    one_line(train('-s', data, *TRAIN), f'saved_model/resume/{name}')


def test_pipe_in_the_place_of_the_index_of_checkpoints_is_done_without(home, finished):
    shutil.copytree(finished / 'saved_model', 'saved_model')
    os.remove('saved_model/checkpoint')
    os.mkfifo('saved_model/checkpoint')
    assert utils.find_checkpoint('saved_model').startswith('saved_model/model.ckpt-')


def test_dangling_index_beside_a_sound_model_is_passed_over(home, finished):
    shutil.copytree(finished / 'saved_model', 'saved_model')
    os.remove('saved_model/checkpoint')
    os.symlink('nowhere', 'saved_model/model.ckpt-99.index')
    assert 'model.ckpt-99' not in utils.find_checkpoint('saved_model')


@pytest.mark.parametrize('text', ['[["epochs", 3]]', '3', '"x"', '[' * 100000])
def test_record_of_flags_that_is_no_object_is_one_line(home, data, finished, train, text):
    shutil.copytree(finished / 'saved_model', 'saved_model')
    (home / 'saved_model/resume/flags.json').write_text(text)
    one_line(train('-s', data, *TRAIN), 'resume/flags.json', '--fresh')


# ---- Saves that fail -------------------------------------------------------------------------------------------------

def test_folder_that_turns_read_only_during_a_save_is_a_warning(home, data, finished, train,
                                                                monkeypatch):
    def save(self, sess, prefix, **kwargs):
        if prefix.endswith('state.ckpt-2-1'):
            open(os.path.join(os.path.dirname(prefix), 'x.tempstate1'), 'w').close()
            monkeypatch.setattr(os, 'remove', read_only)
            raise tf.errors.FailedPreconditionError(None, None, f'{prefix}: Read-only file system')
        monkeypatch.setattr(os, 'remove', remove)
        return whole(self, sess, prefix, **kwargs)

    def read_only(path):
        raise OSError(30, os.strerror(30), path)
    whole, remove = tf.train.Saver.save, os.remove
    monkeypatch.setattr(tf.train.Saver, 'save', save)
    outcome = train('-s', data, *TRAIN)
    one_line(outcome, 'state.ckpt-2-1: cannot be saved: Read-only file system; the training goes on', status=0)
    assert_same(last_state(home), last_state(finished))


def test_failed_save_leaves_no_data_without_an_index(home, data, train, monkeypatch):
    def save(self, sess, prefix, **kwargs):
        if 'state.ckpt-2' in prefix:   # as when the last inode went into the first of the two files
            open(prefix + '.data-00000-of-00001', 'w').close()
            raise tf.errors.ResourceExhaustedError(None, None, f'{prefix}.index: No space left on device')
        return whole(self, sess, prefix, **kwargs)
    whole = tf.train.Saver.save
    monkeypatch.setattr(tf.train.Saver, 'save', save)
    outcome = train('-s', data, '--epochs', '1', *SMALL)
    one_line(outcome, 'state.ckpt-2-1', 'No space left on device')
    assert not glob.glob('saved_model/resume/state.ckpt-2-*')


def test_curves_survive_a_clock_that_is_set_back(home, data, finished, train, monkeypatch):
    now = time.time
    assert train('-s', data, *TRAIN).status == 0
    monkeypatch.setattr(time, 'time', lambda: now() - 7200)
    assert train('-s', data, *['4' if flag == '3' else flag for flag in TRAIN]).status == 0
    steps = [step for tag, step, _ in curves(home / 'log') if tag == 'loss/total']
    assert steps == list(range(1, 9))   # `curves` reads the files by name, as TensorBoard does
    times = [event.wall_time for path in sorted(glob.glob('log/*tfevents*'))
             for event in tf.train.summary_iterator(path)]
    assert times == sorted(times)


# ---- Flags and the environment ---------------------------------------------------------------------------------------

@pytest.mark.parametrize('flag, value', [
    ('--clip', '1e39'), ('--learning-rate', '1e308'), ('--var', '1e308'), ('--ddist', '1e300'),
    ('--keep', '2147483648'), ('--epochs', '9' * 30), ('--cache', '1e300'), ('--workers', '-1')])
def test_flag_beyond_what_the_network_computes_with_is_refused_at_once(home, train, flag, value):
    one_line(train('-s', 'data', flag, value), flag, status=2)
    assert not os.listdir(home)


def test_batch_that_no_memory_holds_is_refused_before_it_is_built(home, data, train):
    one_line(train('-s', data, *TRAIN, '--batch-size', '1000000000'), '--batch-size', 'GiB')
    assert not glob.glob('saved_model/**/*.index', recursive=True)


@pytest.fixture
def port():
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        return free.getsockname()[1]


def as_task(monkeypatch, cluster, job, index=0):
    monkeypatch.setenv('TF_CONFIG', json.dumps({'cluster': cluster, 'task': {'type': job, 'index': index}}))


@pytest.mark.parametrize('address', ['a\0b:1', '\ud800:1', 'a b:1', 'a:1:2', 'a/b:1', 'a:', ':1', 'a:65536', 'ä:1'])
def test_address_that_is_none_is_one_line(home, data, train, monkeypatch, address):
    monkeypatch.setattr(os, 'environ', {**os.environ, 'TF_CONFIG': json.dumps({
        'cluster': {'chief': ['b:1'], 'ps': [address]}, 'task': {'type': 'chief', 'index': 0}})})
    one_line(train('-s', data, *TRAIN), 'TF_CONFIG')


@pytest.mark.parametrize('twin', ['127.0.0.1:04711', '127.0.0.1:4711'])
def test_one_address_in_two_spellings_is_one_line(home, data, train, monkeypatch, twin):
    as_task(monkeypatch, {'chief': ['127.0.0.1:4711'], 'ps': [twin]}, 'chief')
    one_line(train('-s', data, *TRAIN), 'TF_CONFIG', 'address twice')


def test_task_in_the_place_of_another_is_named(home, data, train, monkeypatch, port):
    """The chief's TF_CONFIG has the addresses of ps and worker the wrong way round."""
    worker = tf.train.Server({'worker': [f'127.0.0.1:{port}']}, 'worker', 0)
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        chief = free.getsockname()[1]
    as_task(monkeypatch, {'chief': [f'127.0.0.1:{chief}'], 'ps': [f'127.0.0.1:{port}'], 'worker': ['127.0.0.1:1']},
            'chief')
    outcome = train('-s', data, *TRAIN)
    one_line(outcome, f'TF_CONFIG: at 127.0.0.1:{port} is worker 0, not ps 0')
    del worker


def test_address_of_another_machine_is_one_line(home, data, train, monkeypatch, port):
    def unreachable(address, timeout):
        raise OSError('no route to host')
    monkeypatch.setattr(socket, 'create_connection', unreachable)
    as_task(monkeypatch, {'chief': [f'elsewhere:{port}'], 'ps': ['127.0.0.1:1']}, 'chief')
    one_line(train('-s', data, *TRAIN), f'chief cannot be reached at elsewhere:{port}')


@pytest.mark.parametrize('greeting', [b'', b'SSH-2.0-OpenSSH_9.6\r\n'], ids=['mute', 'another service'])
def test_what_is_no_tensorflow_server_is_found_silent(monkeypatch, greeting):
    """A session that connects to it would wait for minutes, deaf to signals."""
    monkeypatch.setattr(utils, 'ANSWER', 0.1)
    monkeypatch.setattr(tf, 'Session', lambda *_, **__: pytest.fail('a session waits for it'))
    task = object.__new__(utils.Task)
    with socket.create_server(('127.0.0.1', 0)) as server:
        connections = []

        def accept():
            connections.append(server.accept()[0])
            connections[0].sendall(greeting)
        thread = threading.Thread(target=accept)
        thread.start()
        task.addresses, task._identified = {'ps 0': '127.0.0.1:{}'.format(server.getsockname()[1])}, set()
        assert task.silent(['ps 0']) == ['ps 0']
        thread.join()
    connections[0].close()


def test_wait_names_who_is_waited_for(monkeypatch):
    monkeypatch.setattr(utils, 'PATIENCE', 0.)
    task, lines = object.__new__(utils.Task), []
    task.name, task.addresses, task._log = 'chief', {'worker 0': 'a:1', 'worker 1': 'b:2'}, lines.append
    task.stop = utils.StopSignal()
    answers = iter([None, None, 'ready'])
    assert task.wait(lambda: next(answers), 'step 7', lambda: ['worker 1'], poll=0) == 'ready'
    assert lines == ['chief: step 7: waits for worker 1 at b:2']
    with pytest.raises(InputError, match='GiB'):
        utils.check_memory(10 ** 9, (512, 512), 3)
