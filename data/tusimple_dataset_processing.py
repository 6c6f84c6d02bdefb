"""Prepares a TuSimple folder for training: photos and label pictures with the same names.

    python data/tusimple_dataset_processing.py TUSIMPLE/train_set
    python data/tusimple_dataset_processing.py TUSIMPLE/train_set --outdir prepared

Reads every label_data_*.json in the folder and writes images/NNNN.png, labels/NNNN.png (8 bits: background 0,
lane i a line 7 px thick of grey 20 + 50 i) and lanes.json, the lanes of these photos in TuSimple's format.
Numbers run from 0000 over the usable lines, file by file. A line that is not usable is printed, as
`file:line: reason`, and passed over. The output appears when all of it is ready, and replaces what lanes.json says
that an earlier run wrote; until then, and if the run fails, that stays as it is. A run that is stopped while it moves
the files leaves a folder that training refuses; run again, the script completes it. Pictures NNNN.png that no run
wrote are never touched: with such the output folder is refused.
"""
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from data.common import command_line

if __name__ == '__main__':
    command_line.exit_on_interrupt()   # the imports below take half a second

import concurrent.futures
import re
import shutil

import cv2
import numpy as np
import tqdm

from data.common import files, pictures, prefetch
from data.lanes import tusimple
from data.common.command_line import InputError

FOLDERS = ('images', 'labels')  # in each, while files are made, a folder from which they are moved by a mere rename


def parse_args(argv=None):
    parser = command_line.Parser(description=__doc__)
    data = parser.add_argument_group('data')
    data.add_argument('train_data_dir', help='Folder with label_data_*.json and the photos that they name.')
    data.add_argument('-o', '--outdir', default=os.path.dirname(os.path.abspath(__file__)),
                      help='Folder to write images/, labels/ and lanes.json into.')
    speed = parser.add_argument_group('speed')
    speed.add_argument('--workers', type=command_line.workers, default=os.cpu_count(),
                       help='Number of threads that decode and encode pictures, at most 4 per core.')
    return parser.parse_args(argv)


def prepare(record, folder):
    """Reads the photo of a tusimple.Record and draws its label. Raises InputError.

    -> (photo as the bytes of a PNG, label likewise, number of lanes visible in the label)
    """
    path = tusimple.photo_path(folder, record)
    try:
        photo = pictures.read_image(path)
    except InputError as error:
        raise InputError(f'{record.source}: {error}') from None
    label = tusimple.draw_label(record, (photo.shape[1], photo.shape[0]))
    num_lanes = np.unique(label[label > 0]).size
    return pictures.encode(photo), pictures.encode(label), num_lanes


def outcomes(records, folder, workers):
    """Prepares records in threads. -> iterator of (record, what `prepare` returns or the InputError it raises)"""
    def outcome(record):
        try:
            return record, prepare(record, folder)
        except InputError as error:
            return record, error

    # Threads are as fast as processes here: OpenCV lets go of the interpreter while it decodes and encodes.
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        yield from prefetch.in_order(pool, outcome, records, 2 * workers)


def own_names(outdir):
    """Finds the NNNN.png in outdir that earlier runs wrote, by its lanes.json and the note of a run that was stopped.

    -> set of names. Raises InputError if there are others.
    """
    lanes_path, marker = (os.path.join(outdir, name) for name in (tusimple.PREPARED_LABELS, files.HALF_WRITTEN))
    listed = []
    if os.path.exists(lanes_path):
        listed += [record.raw_file for record in tusimple.read_records(lanes_path)[0]]
    if os.path.exists(marker):
        listed += files.read_file(marker, tusimple.MAX_FILE_BYTES).decode(errors='replace').splitlines()
    own = {os.path.basename(path) for path in listed if re.fullmatch(r'images/\d{4,}\.png', path)}
    for folder in FOLDERS:
        folder = os.path.join(outdir, folder)
        for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
            if re.fullmatch(r'\d{4,}\.png', name) and name not in own:
                raise InputError(f'{os.path.join(folder, name)}: is not from this script, as {lanes_path} does not '
                                 'have it; move it away or give another --outdir')
    return own


def publish(outdir, unfinished, written, own):
    """Moves the finished files into place, and removes those of higher numbers that an earlier run wrote.

    unfinished: paths of the folders, in the order of FOLDERS, that hold the files written: list of tusimple.Record
    own: see `own_names`
    -> how many old files were removed
    """
    lanes_path, marker = (os.path.join(outdir, name) for name in (tusimple.PREPARED_LABELS, files.HALF_WRITTEN))
    names = {os.path.basename(record.raw_file) for record in written}
    # Until all is in its place: a photo could meet the label of an earlier run.
    files.write_file(marker, ''.join(f'images/{name}\n' for name in sorted(own | names)).encode())
    if os.path.exists(lanes_path):
        os.remove(lanes_path)
    removed = 0
    for folder, source in zip(FOLDERS, unfinished):
        for name in sorted(names):
            os.replace(os.path.join(source, name), os.path.join(outdir, folder, name))
        for name in own - names:
            if os.path.exists(os.path.join(outdir, folder, name)):
                os.remove(os.path.join(outdir, folder, name))
                removed += 1
    tusimple.write_records(lanes_path, written)
    os.remove(marker)
    return removed


def main():
    args = parse_args()
    records, problems = [], []   # the latter (file, line, 'file:line: reason')
    for path in tusimple.find_label_files(args.train_data_dir):
        good, bad = tusimple.read_records(path)
        records += good
        problems += [(path, int(problem[len(path) + 1:].split(':')[0]), problem) for problem in bad]

    images = os.path.realpath(os.path.join(args.outdir, FOLDERS[0]))
    for record in records:
        if os.path.realpath(os.path.dirname(os.path.join(args.train_data_dir, record.raw_file))) == images:
            raise InputError(f'{record.source}: its photo lies where the results go, in {images}; give another '
                             '--outdir')

    own = own_names(args.outdir)

    cv2.setNumThreads(1)  # the workers are the parallelism
    written, num_lanes, photos = [], 0, set()
    unfinished = []
    try:
        results = outcomes(records, args.train_data_dir, args.workers)
        with tqdm.tqdm(results, total=len(records), unit='photo', disable=None) as progress:
            for record, outcome in progress:
                if isinstance(outcome, InputError):
                    path, _, line = record.source.rpartition(':')
                    problems.append((path, int(line), str(outcome)))
                    continue
                photo, label, lanes_seen = outcome
                if not written:  # not before: without a usable line nothing is touched
                    for folder in FOLDERS:
                        unfinished.append(files.make_unfinished_folder(os.path.join(args.outdir, folder)))
                name = f'{len(written):04d}.png'
                for folder, data in zip(unfinished, (photo, label)):
                    files.write_file(os.path.join(folder, name), data)
                written.append(tusimple.Record(f'images/{name}', record.lanes, record.h_samples))
                num_lanes += lanes_seen
                photos.add(os.path.normpath(record.raw_file))
        problems = [problem for *_, problem in sorted(problems)]
        if not written:
            first = f'; the first: {problems[0]}' if problems else ''
            raise InputError(f'{args.train_data_dir}: none of {len(problems)} label lines is usable{first}')
        removed = publish(args.outdir, unfinished, written, own)
    except (MemoryError, cv2.error) as error:
        if isinstance(error, cv2.error) and error.code != cv2.Error.StsNoMem:
            raise
        raise InputError(f'--workers {args.workers}: there is not enough memory; give fewer') from None
    finally:
        for folder in unfinished:
            shutil.rmtree(folder, ignore_errors=True)

    for problem in problems:
        print(command_line.one_line(problem))
    if len(photos) < len(written):
        command_line.warn(f'{args.train_data_dir}: {len(written) - len(photos)} label lines are of photos that others '
                          f'are of, too; training and validation may share them')
    if removed:
        print(f'Removed {removed} files of an earlier, longer run.')
    print(f'Wrote {len(written)} photos and {num_lanes} lanes to {args.outdir}; '
          f'passed over {len(problems)} label lines.')


if __name__ == '__main__':
    command_line.run(main)
