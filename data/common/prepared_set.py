"""Writes a data set as training reads it, images/NAME.png and labels/NAME.png: complete or absent."""
import collections
import concurrent.futures
import os
import pathlib
import shutil

import cv2
import tqdm

from data.common import command_line, files, pictures, prefetch
from data.common.command_line import InputError
from data.lanes import tusimple

FOLDERS = ('images', 'labels')


def refuse_others(outdir, names):
    """Raises InputError if training would also read other files in outdir: pictures not in `names`, or lanes."""
    lanes = os.path.join(outdir, tusimple.PREPARED_LABELS)
    if os.path.lexists(lanes):
        raise InputError(f'{lanes}: holds the lanes of other images; move it away or give another folder')
    for folder in filter(os.path.isdir, (os.path.join(outdir, folder) for folder in FOLDERS)):
        for name in files.list_folder(folder):
            if pictures.is_picture(folder, name) and name not in names:
                raise InputError(f'{os.path.join(folder, name)}: is not of this data set; move it away or give another '
                                 'folder')


def prepare_samples(source, outdir, prepare, items, workers, problems=(), what='instances', name_of=str,
                    own=frozenset(), finish=lambda: None):
    """Prepares samples in threads, writes them as _write_samples does, and prints problems.

    prepare: function of an item -> (name, image, label, {what: number}), image and label as the bytes of a PNG; raises
    InputError if the item is unusable. source, problems: the origin of the items and earlier problems, for messages
    what: the count in the summary; name_of: function of the names, called in order of the samples
    -> ({what: sum}, summary without its full stop). Raises InputError if no item is usable.
    """
    sums, problems = collections.Counter(), list(problems)
    num_entries = len(items) + len(problems)

    def in_threads(function, items):
        results = prefetch.in_order(pool, function, items, 2 * workers)
        return tqdm.tqdm(results, total=len(items), unit='image', disable=None)

    def samples():
        for name, image, label, counts in usable(prepare, items, problems, in_threads):
            sums.update(counts)
            yield name_of(name), image, label

    cv2.setNumThreads(1)   # the workers are the parallelism
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        written = _write_samples(outdir, samples(), own, finish)
    if not written:
        raise InputError(f'{source}: none of {num_entries} photos can be used'
                         + (f'; the first problem: {problems[0]}' if problems else ''))
    for problem in problems:
        print(command_line.printable(problem))
    return sums, f'Wrote {written} photos and {sums[what]} {what} to {outdir}; skipped {len(problems)}'


def usable(function, items, problems, apply=map):
    """Yields function(item) for each item; where it raises an InputError, appends its text to problems instead."""
    def attempt(item):
        try:
            return function(item)
        except InputError as error:
            return error

    for result in apply(attempt, items):
        if isinstance(result, InputError):
            problems.append(str(result))
        else:
            yield result


def _write_samples(outdir, samples, own, finish):
    """Writes samples, which appear together once all are complete. -> number of samples

    A run killed while it moves files leaves a folder that training rejects and the next run completes.
    samples: iterable of (name, image, label); own: names that are replaced, or removed without a new sample; other
    files must be identical if they exist; finish: called before the folder counts as complete
    Raises InputError if an existing file differs.
    """
    moves, unfinished, names = [], [], set()
    try:
        for name, *encoded in samples:
            if not names:   # not earlier: without samples, nothing changes
                unfinished += [files.make_unfinished_folder(os.path.join(outdir, folder)) for folder in FOLDERS]
            names.add(name)
            for folder, temporary, data in zip(FOLDERS, unfinished, encoded):
                target = os.path.join(outdir, folder, name)
                if name in own or not _is_there(target, data):
                    moves.append((os.path.join(temporary, name), target))
                    files.write_file(moves[-1][0], data)
        if names:
            marker = os.path.join(outdir, files.HALF_WRITTEN)
            files.write_file(marker, b'')
            for temporary, target in moves:
                os.replace(temporary, target)
            for path in (pathlib.Path(outdir, folder, name) for folder in FOLDERS for name in own - names):
                path.unlink(missing_ok=True)
            finish()
            os.remove(marker)
    finally:
        for folder in unfinished:
            shutil.rmtree(folder, ignore_errors=True)
    return len(names)


def _is_there(path, data):
    """Whether a file exists. Raises InputError if it has other bytes."""
    if not os.path.lexists(path):
        return False
    if files.read_file(path, pictures.MAX_FILE_BYTES) != data:
        raise InputError(f'{path}: is there already, and differs from what would be written; move it away or give '
                         'another folder')
    return True
