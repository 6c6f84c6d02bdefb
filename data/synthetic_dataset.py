"""Renders road scenes with lane labels in the layout of TuSimple, from a seed alone.

    python data/synthetic_dataset.py synthetic --num 2000 --seed 1
    python data/synthetic_dataset.py drive --drive 10 --seed 1 --video
    python data/tusimple_dataset_processing.py synthetic

Writes DIR/clips/synthetic/NNNNNN/20.jpg (1280x720) and, last, DIR/label_data_synthetic.json; without that file, the
folder is incomplete. Replaces the output of an earlier run; rejects a folder with other label files. The same seed
yields the same bytes for any --workers, and scene i is the same for any --num.

--drive renders the video of a moving car: clips/synthetic_drive/NNNNNN.jpg at 20 frames per second, whose labels have
"ids", one number per lane and constant over all frames. --video also writes drive.mp4.

--classes writes images/NNNNNN.jpg, labels/NNNNNN.png (16 bits: 1000 c + n for lane n of class c, from left to right)
and classes.txt, which training reads directly. The classes are solid, dashed and dots.
"""
import concurrent.futures
import functools
import multiprocessing
import os
import signal
import sys
import threading

import cv2
import numpy as np
import tqdm

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from data.common import classes, command_line, files, pictures, prepared_set, video
from data.lanes import tusimple
from data.synthetic.camera import photograph
from data.synthetic.canvas import HEIGHT, NEAREST, WIDTH, Canvas
from data.synthetic.distributions import sample_scene
from data.synthetic.drive import FRAME_RATE, Drive, frames_of
from data.synthetic.ground import paint_ground
from data.synthetic.label import CLASSES, class_label, lane_labels
from data.synthetic.roadside import paint_banks, roadside
from data.synthetic.sky import paint_horizon, paint_sky
from data.synthetic.vehicles import vehicle_painters

LABEL_FILE, VIDEO_FILE = 'label_data_synthetic.json', 'drive.mp4'
MAX_DRIVE = 600  # s


def make_scene(seed, index):
    """Scene number `index` of a seed. -> (its Scene, photo uint8 [720, 1280, 3] RGB, tusimple.Record)"""
    rng = np.random.default_rng([seed, index])
    scene = sample_scene(rng)
    record = lane_labels(scene, f'clips/synthetic/{index:06d}/20.jpg')
    return scene, render(scene, lambda *part: rng), record


make_drive = functools.lru_cache(maxsize=1)(Drive)


def make_frame(seed, seconds, index):
    """Frame number `index` of a drive. -> (its Scene, photo uint8 [720, 1280, 3] RGB, tusimple.Record with ids)"""
    scene = make_drive(seed, seconds).scene_at(index)

    def stream(part, number=0):  # the same in every frame but for the noise of the camera
        return np.random.default_rng([seed, part, index if part == CAMERA else number, 1])
    record = lane_labels(scene, f'clips/synthetic_drive/{index + 1:06d}.jpg', with_ids=True)
    return scene, render(scene, stream), record


SKY, HORIZON, GROUND, BANKS, ROADSIDE, THING, CAMERA = range(7)  # parts of the picture that need random values


def render(scene, stream):
    """Paints a scene. -> uint8 [720, 1280, 3] RGB

    stream: function of (part) or (THING, number) that returns the np.random.Generator for texture, trees and noise
    """
    canvas = Canvas(scene)
    paint_sky(canvas, stream(SKY))
    paint_horizon(canvas, stream(HORIZON))
    paint_ground(canvas, stream(GROUND))
    banks = paint_banks(canvas, stream(BANKS))
    things = vehicle_painters(scene) + roadside(canvas, banks, stream(ROADSIDE))
    ahead = [(z, number, paint) for number, (z, paint) in enumerate(things) if z >= NEAREST]
    for _, number, paint in sorted(ahead, key=lambda thing: -thing[0]):
        paint(canvas, stream(THING, number))
    return photograph(canvas, stream(CAMERA))


def write_photo(make, folder, index):
    """Writes the photo of make(index), the result of make_scene or make_frame. -> its tusimple.Record"""
    scene, photo, record = make(index)
    write_jpeg(os.path.join(folder, record.raw_file), photo, scene.lens.quality)
    return record


def write_sample(make, folder, index):
    """Like write_photo, but writes images/ and the class labels/."""
    scene, photo, record = make(index)
    write_jpeg(os.path.join(folder, 'images', f'{index:06d}.jpg'), photo, scene.lens.quality)
    path = os.path.join(folder, 'labels', f'{index:06d}.png')
    os.makedirs(os.path.dirname(path), exist_ok=True)
    pictures.write_image(path, class_label(scene))
    return record


def write_jpeg(path, photo, quality):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    _, data = cv2.imencode('.jpg', photo[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    files.write_file(path, data.tobytes())


def write_video(path, photos):
    """Writes the photos of a drive, given by their paths, as a video."""
    writer = video.Writer(path, (WIDTH, HEIGHT), FRAME_RATE)
    for photo in tqdm.tqdm(photos, unit='frame', desc=VIDEO_FILE, disable=None):
        writer.write(pictures.read_image(photo))
    writer.close()


def start_worker():
    """Prepares a worker process: one thread, ignores Ctrl-C, exits when its parent ends, even if killed."""
    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=end_with_parent, daemon=True).start()


def end_with_parent():
    multiprocessing.parent_process().join()
    os._exit(1)


def in_processes(function, num, workers, unit):
    """Calls function(index) for 0 .. num - 1, several at a time. -> list of its results, in order"""
    if min(workers, num) == 1:
        return [function(index) for index in tqdm.tqdm(range(num), unit=unit, disable=None)]
    context = multiprocessing.get_context('spawn')  # a forked OpenCV may hang
    pool = concurrent.futures.ProcessPoolExecutor(min(workers, num, os.cpu_count()), context, start_worker)
    try:
        return list(tqdm.tqdm(pool.map(function, range(num), chunksize=4), total=num, unit=unit, disable=None))
    except concurrent.futures.process.BrokenProcessPool:
        raise command_line.InputError('a worker process was killed, perhaps for lack of memory; try fewer '
                                      '--workers') from None
    finally:
        pool.shutdown(cancel_futures=True)


def check_folder(folder):
    """Makes the folder. Raises InputError if it holds labels of another data set."""
    files.make_output_folder(folder)
    for name in sorted(os.listdir(folder)):
        if name.startswith('label_data_') and name.endswith('.json') and name != LABEL_FILE:
            raise command_line.InputError(f'{os.path.join(folder, name)}: label file of another data set; give '
                                          'another folder')


def write_classes(flags):
    """Writes images/, labels/ and classes.txt; training rejects the folder until all are written."""
    names = {f'{index:06d}{end}' for index in range(flags.num) for end in ('.jpg', '.png')}
    prepared_set.refuse_others(flags.folder, names)
    marker = os.path.join(flags.folder, files.HALF_WRITTEN)
    files.write_file(marker, b'')
    classes.write(flags.folder, CLASSES)
    write = functools.partial(write_sample, functools.partial(make_scene, flags.seed), flags.folder)
    records = in_processes(write, flags.num, flags.workers, 'scene')
    os.remove(marker)
    print(f'{flags.folder}: {len(records)} scenes with {sum(len(record.lanes) for record in records)} lanes, '
          f'classes in {classes.FILE}')


def parse_flags(argv):
    parser = command_line.Parser(description=__doc__)
    parser.add_argument('folder', metavar='DIR', help='Output folder, created if absent.')
    length = parser.add_mutually_exclusive_group()
    length.add_argument('--num', type=command_line.number_of_pictures, default=1000, help='Number of scenes.')
    length.add_argument('--drive', metavar='SECONDS', type=command_line.positive_float,
                        help=f'Render a drive of this length in s instead, {FRAME_RATE} frames per second.')
    parser.add_argument('--video', action='store_true', help=f'Also write the frames of a drive as {VIDEO_FILE}.')
    parser.add_argument('--classes', action='store_true',
                        help='Write a prepared data set whose labels have the class of each lane.')
    parser.add_argument('--seed', type=command_line.non_negative_int, default=0, help='Seed of all random values.')
    parser.add_argument('--workers', type=command_line.positive_int, default=os.cpu_count(),
                        help='Number of processes, at most one per core; does not affect the output.')
    flags = parser.parse_args(argv)
    if flags.drive and flags.drive > MAX_DRIVE:
        parser.error(f'argument --drive: {flags.drive:g} is more than {MAX_DRIVE} seconds')
    if flags.video and not flags.drive:
        parser.error('argument --video: needs --drive SECONDS')
    if flags.classes and flags.drive:
        parser.error('argument --classes: not allowed with --drive')
    return flags


def main(argv=None):
    flags = parse_flags(argv)
    check_folder(flags.folder)
    if flags.classes:
        return write_classes(flags)
    label_path, video_path = os.path.join(flags.folder, LABEL_FILE), os.path.join(flags.folder, VIDEO_FILE)
    # Until the new labels are written, the folder must not look complete.
    for path in (label_path, video_path) if flags.drive else (label_path,):
        if os.path.exists(path):
            os.remove(path)
    unit, num, make = 'scene', flags.num, functools.partial(make_scene, flags.seed)
    if flags.drive:
        unit, num = 'frame', frames_of(flags.drive)
        make = functools.partial(make_frame, flags.seed, flags.drive)
    records = in_processes(functools.partial(write_photo, make, flags.folder), num, flags.workers, unit)
    if flags.video:
        write_video(video_path, [tusimple.photo_path(flags.folder, record) for record in records])
    tusimple.write_records(label_path, records)
    lanes = sum(len(record.lanes) for record in records)
    print(f'{flags.folder}: {len(records)} {unit}s with {lanes} lanes, labels in {LABEL_FILE}')


if __name__ == '__main__':
    command_line.run(main)
