"""Writes a data set as training reads it, images/NAME.png and labels/NAME.png: all of it or none, nothing replaced."""
import os
import shutil

from data import files
from data.command_line import InputError

FOLDERS = ('images', 'labels')


def refuse_others(outdir, names):
    """Raises InputError if outdir holds pictures other than `names`, since training would read them as well."""
    for folder in FOLDERS:
        folder = os.path.join(outdir, folder)
        for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
            if name.lower().endswith(files.IMAGE_EXTENSIONS) and not name.startswith('.') and name not in names:
                raise InputError(f'{os.path.join(folder, name)}: is not of this data set, and training would read it '
                                 'as well; move it away or give another folder')


def write_samples(outdir, samples):
    """Writes samples, which appear when all are ready. What is there already stays, and has to be the same.

    A run that is stopped while it moves the files leaves a folder that training refuses; another completes it.
    samples: iterable of (name, photo, label), the latter two as the bytes of a PNG
    -> number of samples
    Raises InputError if a file is there already and differs.
    """
    count, moves, unfinished = 0, [], []
    try:
        for name, *pictures in samples:
            for folder, data in zip(FOLDERS, pictures):
                target = os.path.join(outdir, folder, name)
                if os.path.lexists(target):
                    if files.read_file(target, files.MAX_FILE_BYTES) != data:
                        raise InputError(f'{target}: is there already, and differs from what would be written; move '
                                         'it away or give another folder')
                    continue
                if not unfinished:   # not before: without a sample nothing is touched
                    for each in FOLDERS:
                        unfinished.append(files.make_unfinished_folder(os.path.join(outdir, each)))
                source = os.path.join(unfinished[FOLDERS.index(folder)], name)
                files.write_file(source, data)
                moves.append((source, target))
            count += 1
        if count:
            marker = os.path.join(outdir, files.HALF_WRITTEN)
            files.write_file(marker, b'', follow_links=False)   # until all is in its place
            for source, target in moves:
                os.replace(source, target)
            os.remove(marker)
    finally:
        for folder in unfinished:
            shutil.rmtree(folder, ignore_errors=True)
    return count
