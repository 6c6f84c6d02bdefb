"""data/common/files.py: files read up to a limit, written whole or not at all, folders created and listed."""
import os
import stat

import pytest

from data.common import files
from data.common.command_line import InputError


def save(path, data):
    path.write_bytes(data)
    return str(path)


@pytest.mark.parametrize('make, reason', [
    (os.mkfifo, 'is not a file'), (lambda path: os.symlink('/dev/zero', path), 'is not a file'),
    (os.mkdir, 'is a folder'), (lambda path: None, 'no such file'),
    (lambda path: os.symlink('/proc/self/mem', path), 'cannot be read: '),
    (lambda path: open(path, 'wb').write(bytes(21)), r'too large \(21 bytes')],
    ids=['pipe', 'device', 'folder', 'missing', 'unreadable', 'too large'])
def test_read_file_takes_regular_files_within_the_limit(tmp_path, make, reason):
    """And rejects those on which it would block forever."""
    make(str(tmp_path / 'a.png'))
    with pytest.raises(InputError, match=f'a.png: .*{reason}'):
        files.read_file(str(tmp_path / 'a.png'), 20)
    assert files.read_file(save(tmp_path / 'whole', bytes(20)), 20) == bytes(20)


def test_failed_write_keeps_the_old_file_and_leaves_nothing(tmp_path, monkeypatch):
    path = save(tmp_path / 'a.bin', b'old')

    def no_space(*_):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(os, 'replace', no_space)
    with pytest.raises(InputError, match='a.bin: cannot be written: No space left on device'):
        files.write_file(path, b'new')
    monkeypatch.undo()
    assert os.listdir(tmp_path) == ['a.bin'] and (tmp_path / 'a.bin').read_bytes() == b'old'
    with pytest.raises(InputError, match='cannot be written'):
        files.write_file(str(tmp_path / 'none' / 'a.bin'), b'new')


@pytest.mark.parametrize('make', [
    os.mkfifo, lambda path: os.symlink('victim', path), lambda path: os.symlink('/dev/full', path),
    lambda path: os.symlink('nowhere', path)], ids=['pipe', 'link', 'link to a device', 'dangling link'])
def test_link_or_pipe_at_the_output_path_is_replaced(tmp_path, make):
    (tmp_path / 'victim').write_bytes(b'mine')
    make(tmp_path / 'a.bin')
    files.write_file(str(tmp_path / 'a.bin'), b'new')
    assert stat.S_ISREG(os.lstat(tmp_path / 'a.bin').st_mode) and (tmp_path / 'a.bin').read_bytes() == b'new'
    assert (tmp_path / 'victim').read_bytes() == b'mine' and sorted(os.listdir(tmp_path)) == ['a.bin', 'victim']


def test_make_output_folder(tmp_path):
    for _ in range(2):
        files.make_output_folder(str(tmp_path / 'a' / 'b'))
        assert os.listdir(tmp_path / 'a') == ['b'] and not os.listdir(tmp_path / 'a' / 'b')
    save(tmp_path / 'file', b'')
    for path in (tmp_path / 'file', tmp_path / 'file' / 'sub'):
        with pytest.raises(InputError, match='in the way'):
            files.make_output_folder(str(path))
    with pytest.raises(InputError, match='^/proc/self: cannot be written'):
        files.make_output_folder('/proc/self')


def test_unfinished_folders_of_killed_runs_are_deleted(tmp_path):
    (tmp_path / f'{files.UNFINISHED}old').mkdir()
    (tmp_path / 'mine').mkdir()
    os.symlink('mine', tmp_path / f'{files.UNFINISHED}link')
    new = files.make_unfinished_folder(str(tmp_path))
    assert sorted(os.listdir(tmp_path)) == sorted(['mine', f'{files.UNFINISHED}link', os.path.basename(new)])
