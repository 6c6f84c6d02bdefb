"""Files and folders: read with a limit, written whole or not at all.

Whatever is wrong with a file is an InputError of one line that names it.
"""
import contextlib
import os
import secrets
import shutil
import stat
import tempfile

from data.common.command_line import InputError

HALF_WRITTEN = '.unfinished'  # a file beside images/ and labels/: what is in them does not belong together yet
UNFINISHED = '.unfinished-'   # with random characters, the name of what is not in its place yet


# ---- Reading files ---------------------------------------------------------------------------------------------------

@contextlib.contextmanager
def open_file(path, limit):
    """A regular file of at most `limit` bytes, open for reading bytes, as a context.

    Never waits, as the open of a pipe without a writer would. Raises InputError for what is not such a file (a folder,
    a pipe, a device), and for any OSError while it is read.
    """
    try:
        with open(path, 'rb', opener=_open_without_waiting) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise InputError(f'{path}: is not a file')
            if status.st_size > limit:
                raise InputError(f'{path}: is too large ({status.st_size:,} bytes; up to {limit:,} are read)')
            yield file
    except FileNotFoundError:
        raise InputError(f'{path}: no such file')
    except IsADirectoryError:
        raise InputError(f'{path}: is a folder, not a file')
    except OSError as error:
        raise InputError(f'{path}: cannot be read: {error.strerror}')


def _open_without_waiting(path, flags):
    return os.open(path, flags | getattr(os, 'O_NONBLOCK', 0))


def read_file(path, limit):
    """The bytes of a regular file, of at most `limit`. -> bytes. Raises InputError as open_file does."""
    with open_file(path, limit) as file:
        size = os.fstat(file.fileno()).st_size
        data = file.read(size or limit + 1) or b''
    if len(data) > limit:   # files in /proc tell no size
        raise InputError(f'{path}: is too large (more than {limit:,} bytes)')
    return data


# ---- Writing files ---------------------------------------------------------------------------------------------------

def write_file(path, data, follow_links=False):
    """Writes bytes so that path is, at any instant, either what it was or whole. Raises InputError if it cannot.

    A link, pipe or device of that name is replaced. follow_links is for a path that the user gives: what a link points
    to is then written, and what is a pipe or a device, such as /dev/null, is written to. A run that is killed meanwhile
    leaves a hidden file, UNFINISHED and random characters, beside path.
    """
    target = os.path.realpath(path) if follow_links else path
    aside = os.path.join(os.path.dirname(target), UNFINISHED + secrets.token_hex(8))
    try:
        if follow_links and _is_special(path):
            with open(path, 'wb') as file:
                file.write(data)
            return
        file = open(aside, 'xb')   # x: a new file, never what a link points to
        try:
            with file:
                file.write(data)
            os.replace(aside, target)
        except BaseException:   # also Ctrl-C
            if os.path.lexists(aside):
                os.remove(aside)
            raise
    except OSError as error:
        raise InputError(f'{path}: cannot be written: {error.strerror}')


def _is_special(path):
    return os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)


def check_output_file(flag, path):
    """Makes the folder of a file that a flag names. Raises InputError if the file could not be written there."""
    if os.path.isdir(path):
        raise InputError(f'{flag} {path}: is a folder; give the name of a file')
    if not _is_special(path):
        make_output_folder(os.path.dirname(os.path.realpath(path)))


def make_output_folder(path):
    """Creates a folder and its parents. Raises InputError, also if no file can be written there."""
    try:
        os.makedirs(path, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise InputError(f'{path}: cannot be made a folder: a file of that name is in the way')
    except OSError as error:
        raise InputError(f'{path}: cannot be created: {error.strerror}')
    try:
        with tempfile.TemporaryFile(dir=path) as file:
            file.write(b'probe')
    except OSError as error:
        raise InputError(f'{path}: cannot be written: {error.strerror}')


def make_unfinished_folder(folder):
    """Makes a new folder below folder, without those that killed runs left there. -> its path"""
    make_output_folder(folder)
    for entry in os.scandir(folder):
        if entry.name.startswith(UNFINISHED) and entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path, ignore_errors=True)
    return tempfile.mkdtemp(prefix=UNFINISHED, dir=folder)


def list_folder(folder, advice=''):
    """-> sorted names of what is in a folder. Raises InputError, which ends with the advice, if it cannot be listed."""
    try:
        return sorted(os.listdir(folder))
    except FileNotFoundError:
        problem = 'no such folder'
    except NotADirectoryError:
        problem = 'is not a folder'
    except OSError as error:
        problem = f'cannot be read: {error.strerror}'
    raise InputError(f'{folder}: {problem}{advice}')
