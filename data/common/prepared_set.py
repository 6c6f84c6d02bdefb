"""Writes a data set as training reads it, images/NAME.png and labels/NAME.png: all of it or none, nothing replaced."""
import collections
import concurrent.futures
import os
import shutil

import cv2
import tqdm

from data.common import command_line, files, pictures, prefetch
from data.lanes import tusimple
from data.common.command_line import InputError

_FOLDERS = ('images', 'labels')


def refuse_others(outdir, names):
    """Raises InputError if outdir holds what training would read as well: pictures other than `names`, or lanes."""
    lanes = os.path.join(outdir, tusimple.PREPARED_LABELS)
    if os.path.lexists(lanes):
        raise InputError(f'{lanes}: holds the lanes of other photos; move it away or give another folder')
    for folder in _FOLDERS:
        folder = os.path.join(outdir, folder)
        for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
            if name.lower().endswith(pictures.IMAGE_EXTENSIONS) and not name.startswith('.') and name not in names:
                raise InputError(f'{os.path.join(folder, name)}: is not of this data set, and training would read it '
                                 'as well; move it away or give another folder')


def write_samples(outdir, samples):
    """Writes samples, which appear when all are ready. What is there already stays, and has to be the same.

    A run that is stopped while it moves the files leaves a folder that training refuses; another completes it.
    samples: iterable of (name, photo, label), the latter two as the bytes of a PNG
    -> number of samples
    Raises InputError if a file is there already and differs, or if two samples have one name.
    """
    count, moves, unfinished, names = 0, [], [], set()
    try:
        for name, *pictures in samples:
            if name in names:
                raise InputError(f'{os.path.join(outdir, _FOLDERS[0], name)}: two samples would have this name')
            names.add(name)
            for folder, data in zip(_FOLDERS, pictures):
                target = os.path.join(outdir, folder, name)
                if os.path.lexists(target):
                    if files.read_file(target, pictures.MAX_FILE_BYTES) != data:
                        raise InputError(f'{target}: is there already, and differs from what would be written; move '
                                         'it away or give another folder')
                    continue
                if not unfinished:   # not before: without a sample nothing is touched
                    for each in _FOLDERS:
                        unfinished.append(files.make_unfinished_folder(os.path.join(outdir, each)))
                source = os.path.join(unfinished[_FOLDERS.index(folder)], name)
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


def prepare_samples(source, outdir, prepare, items, workers, problems=()):
    """Prepares samples in threads, writes them as write_samples does, and prints why some could not be used.

    source: what the items are from, for messages
    prepare: function of an item -> (name, photo, label, {what: number}), the first three as write_samples takes them,
    the last to be added up; raises InputError if the item cannot be used
    problems: lines to print before those of the items
    -> (number of samples, {what: sum}, number of problems). Raises InputError if no item can be used.
    """
    sums, problems = collections.Counter(), list(problems)

    def outcome(item):
        try:
            return prepare(item)
        except InputError as error:
            return error

    def usable(outcomes):
        for outcome in tqdm.tqdm(outcomes, total=len(items), unit='photo', disable=None):
            if isinstance(outcome, InputError):
                problems.append(str(outcome))
                continue
            *sample, numbers = outcome
            sums.update(numbers)
            yield sample

    cv2.setNumThreads(1)  # the workers are the parallelism
    # Threads are as fast as processes here: OpenCV lets go of the interpreter while it decodes and encodes.
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        written = write_samples(outdir, usable(prefetch.in_order(pool, outcome, items, 2 * workers)))
    if not written:
        raise InputError(f'{source}: none of {len(items)} photos can be used; the first problem: {problems[0]}')
    for problem in problems:
        print(command_line.printable(problem))
    return written, sums, len(problems)
