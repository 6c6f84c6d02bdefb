"""Labels with classes, as in Cityscapes' instanceIds: class * 1000 + number, 0 for the background.

classes.txt, next to images/ and labels/, has the names of classes 1, 2, ..., one per line.
"""
import os

from data.common import files
from data.common.command_line import InputError

FILE = 'classes.txt'
BASE = 1000
MAX_CLASSES = (2 ** 16 - 1) // BASE   # of a 16-bit label


def read(path):
    """-> the names of a file, a list of str; an empty file has none. Raises InputError if one is there twice."""
    lines = files.read_file(path, 2 ** 20).decode('utf-8-sig', errors='replace').splitlines()
    names = [line.strip() for line in lines if line.strip()]
    if len(set(names)) < len(names) or len(names) > MAX_CLASSES:
        raise InputError(f'{path}: has a name twice, or more than {MAX_CLASSES}; give the name of a class in each line')
    return names


def check(outdir, names):
    """Raises InputError if there are too many names, or if outdir has different ones."""
    path = os.path.join(outdir, FILE)
    if len(names) > MAX_CLASSES or os.path.lexists(path) and read(path) != list(names):
        raise InputError(f'{path}: has other classes than these {len(names)}, or there are more than {MAX_CLASSES}; '
                         'give another folder')


def write(outdir, names):
    files.write_file(os.path.join(outdir, FILE), ''.join(f'{name}\n' for name in names).encode())
