"""Files and folders: reads up to a size limit, atomic writes.

Every problem with a file raises an InputError, whose one line names the file.
"""
import csv
import io
import os
import secrets
import shutil
import stat
import tempfile

from data.common.command_line import InputError

HALF_WRITTEN = '.unfinished'   # marks a folder whose images/ and labels/ may not match
UNFINISHED = '.unfinished-'    # prefix of files and folders until they are complete


def read_file(path, limit):
    """-> the bytes of a regular file of at most `limit` bytes. Raises InputError otherwise."""
    try:
        with open(path, 'rb', opener=lambda name, mode: os.open(name, mode | getattr(os, 'O_NONBLOCK', 0))) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):   # a device, or a pipe that could block
                raise InputError(f'{path}: is not a file')
            if status.st_size > limit:
                raise InputError(f'{path}: is too large ({status.st_size:,} bytes; the limit is {limit:,})')
            return file.read()
    except OSError as error:
        problems = {FileNotFoundError: 'no such file', IsADirectoryError: 'is a folder, not a file'}
        raise InputError(f'{path}: {problems.get(type(error), f"cannot be read: {error.strerror}")}')


def list_folder(folder, advice=''):
    """-> sorted names of the entries of a folder. Raises InputError, ending with the advice, if it cannot be read."""
    try:
        return sorted(os.listdir(folder))
    except OSError as error:
        problems = {FileNotFoundError: 'no such folder', NotADirectoryError: 'is not a folder'}
        raise InputError(f'{folder}: {problems.get(type(error), f"cannot be read: {error.strerror}")}{advice}')


def write_file(path, data):
    """Writes bytes under a random name, then renames the file: path is never incomplete. A link or pipe at path is
    replaced. Raises InputError."""
    unfinished = os.path.join(os.path.dirname(path), UNFINISHED + secrets.token_hex(8))
    try:
        file = open(unfinished, 'xb')   # x: a new file, never the target of a link
        try:
            with file:
                file.write(data)
            os.replace(unfinished, path)
        finally:
            if os.path.lexists(unfinished):
                os.remove(unfinished)
    except OSError as error:
        raise InputError(f'{path}: cannot be written: {error.strerror}')


def write_csv(path, rows):
    """Writes a CSV file, as write_file does. rows: tuples, first the names of the columns"""
    text = io.StringIO(newline='')
    csv.writer(text, lineterminator='\n').writerows(rows)
    write_file(path, text.getvalue().encode(errors='surrogateescape'))


def check_output_file(flag, path, inputs=()):
    """Creates the folder of a flag's output file. Raises InputError if it is unwritable, not a file, or an input."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise InputError(f'{flag} {path}: is not a file; give a file name')
    if os.path.exists(path) and any(os.path.exists(other) and os.path.samefile(path, other) for other in inputs):
        raise InputError(f'{flag} {path}: is an input itself; give another name')
    make_output_folder(os.path.dirname(os.path.abspath(path)))


def make_output_folder(path):
    """Creates a folder and its parents. Raises InputError if that fails or the folder is not writable."""
    try:
        os.makedirs(path, exist_ok=True)
        with tempfile.TemporaryFile(dir=path) as file:
            file.write(b'probe')
    except (FileExistsError, NotADirectoryError):
        raise InputError(f'{path}: cannot be created: a file of that name is in the way')
    except OSError as error:
        raise InputError(f'{path}: cannot be written: {error.strerror}')


def make_unfinished_folder(folder):
    """Creates a folder with a random name inside folder, and deletes those of killed runs. -> its path"""
    make_output_folder(folder)
    for entry in os.scandir(folder):
        if entry.name.startswith(UNFINISHED) and entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path, ignore_errors=True)
    return tempfile.mkdtemp(prefix=UNFINISHED, dir=folder)


def check_checkpoint_folder(path):
    """Raises InputError for a folder in which TensorFlow cannot find the checkpoints that it saves."""
    if '[' in str(path) or '\\' in str(path) and os.sep == '/':
        raise InputError(f'{path}: TensorFlow cannot read checkpoints from a path with [ or \\; rename the folder')
