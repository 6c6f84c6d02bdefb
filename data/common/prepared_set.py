"""Writes a data set as training reads it, images/NAME.png and labels/NAME.png: complete or absent."""
import collections
import concurrent.futures
import os
import shutil

import cv2
import tqdm

from data.common import command_line, files, pictures, prefetch
from data.common.command_line import InputError
from data.lanes import tusimple

_FOLDERS = ('images', 'labels')


def refuse_others(outdir, names):
    """Raises InputError if training would also read other files in outdir: pictures not in `names`, or lanes."""
    lanes = os.path.join(outdir, tusimple.PREPARED_LABELS)
    if os.path.lexists(lanes):
        raise InputError(f'{lanes}: holds the lanes of other images; move it away or give another folder')
    for folder in filter(os.path.isdir, (os.path.join(outdir, folder) for folder in _FOLDERS)):
        for name in files.list_folder(folder):
            if pictures.is_picture(folder, name) and name not in names:
                raise InputError(f'{os.path.join(folder, name)}: is not of this data set; move it away or give another '
                                 'folder')


def write_samples(outdir, samples):
    """Writes samples, which appear together once all are complete. -> number of samples

    Existing files must be identical. A run killed while it moves files leaves a folder that training rejects and the
    next run completes. samples: iterable of (name, image, label), the latter two as the bytes of a PNG.
    Raises InputError if an existing file differs or if two samples have the same name.
    """
    moves, unfinished, names = [], {}, set()
    try:
        for name, *encoded in samples:
            if name in names:
                raise InputError(f'{os.path.join(outdir, _FOLDERS[0], name)}: two samples would have this name')
            names.add(name)
            for folder, data in zip(_FOLDERS, encoded):
                target = os.path.join(outdir, folder, name)
                if os.path.lexists(target):
                    _check_same(target, data)
                    continue
                for each in _FOLDERS if not unfinished else ():   # not earlier: without samples, nothing changes
                    unfinished[each] = files.make_unfinished_folder(os.path.join(outdir, each))
                moves.append((os.path.join(unfinished[folder], name), target))
                files.write_file(moves[-1][0], data)
        if names:
            marker = os.path.join(outdir, files.HALF_WRITTEN)
            files.write_file(marker, b'')
            for source, target in moves:
                os.replace(source, target)
            os.remove(marker)
    finally:
        for folder in unfinished.values():
            shutil.rmtree(folder, ignore_errors=True)
    return len(names)


def _check_same(path, data):
    if files.read_file(path, pictures.MAX_FILE_BYTES) != data:
        raise InputError(f'{path}: is there already, and differs from what would be written; move it away or give '
                         'another folder')


def in_threads(prepare, items, workers, problems):
    """Calls prepare(item) in threads. -> iterator of results, in order; the texts of InputErrors go to problems"""
    def outcome(item):
        try:
            return prepare(item)
        except InputError as error:
            return error

    cv2.setNumThreads(1)   # the workers are the parallelism
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        outcomes = prefetch.in_order(pool, outcome, items, 2 * workers)
        for result in tqdm.tqdm(outcomes, total=len(items), unit='image', disable=None):
            if isinstance(result, InputError):
                problems.append(str(result))
            else:
                yield result


def prepare_samples(source, outdir, prepare, items, workers, problems=()):
    """Prepares samples in threads, writes them as write_samples does, and prints problems.

    prepare: function of an item -> (name, image, label, {what: number}), the first three as in write_samples; raises
    InputError if the item is unusable. source, problems: the origin of the items and earlier problems, for messages
    -> (number of samples, {what: sum}, number of problems). Raises InputError if no item is usable.
    """
    sums, problems = collections.Counter(), list(problems)

    def samples():
        for *sample, counts in in_threads(prepare, items, workers, problems):
            sums.update(counts)
            yield sample

    written = write_samples(outdir, samples())
    if not written:
        raise InputError(f'{source}: none of {len(items)} photos can be used; the first problem: {problems[0]}')
    for problem in problems:
        print(command_line.printable(problem))
    return written, sums, len(problems)
