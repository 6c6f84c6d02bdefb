"""Labels with classes, as in Cityscapes' instanceIds: class * 1000 + number, 0 for the background.

classes.txt, next to images/ and labels/, lists the names of classes 1, 2, ..., one per line.
"""
import os

from data.common import files
from data.common.command_line import InputError

FILE = 'classes.txt'
BASE = 1000
_MOST = 64   # classes; more do not fit in 16-bit labels


def read(path):
    """-> the class names in a file, tuple of str, () for an empty file. Raises InputError."""
    lines = files.read_file(path, 2 ** 20).decode('utf-8-sig', errors='replace').splitlines()
    names = tuple(line.strip() for line in lines)
    count = len({*names} - {''})
    if count < len(names) or count > _MOST:
        raise InputError(f'{path}: has {count} unique names in {len(names)} lines; give one unique name per line, '
                         f'at most {_MOST}')
    return names


def check(outdir, names):
    """Raises InputError if there are too many names, or outdir has different ones."""
    path = os.path.join(outdir, FILE)
    if len(names) > _MOST or os.path.lexists(path) and read(path) != tuple(names):
        raise InputError(f'{path}: lists classes other than these {len(names)}, or there are more than {_MOST}; give '
                         'another folder')


def write(outdir, names):
    files.write_file(os.path.join(outdir, FILE), ''.join(f'{name}\n' for name in names).encode())
