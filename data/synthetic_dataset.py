"""Renders road scenes with lane labels in the layout of TuSimple, determined by a seed.

    python data/synthetic_dataset.py synthetic --num 2000 --seed 1
    python data/synthetic_dataset.py drive --drive 10 --seed 1 --video
    python data/tusimple_dataset_processing.py synthetic

Writes DIR/clips/synthetic/NNNNNN/20.jpg (1280x720) and, last, DIR/label_data_synthetic.json; without that file, the
folder is incomplete. Replaces the output of an earlier run. The same seed yields the same bytes for any --workers, and
scene i is the same for any --num.

--drive renders the drive of a car: clips/synthetic_drive/NNNNNN.jpg at 20 frames per second, whose labels have "ids",
one per lane, constant over all frames. --video also writes drive.mp4. --classes writes a folder that training reads
directly: images/, labels/ (16 bits: class * 1000 + n), classes.txt (solid, dashed, dots) and lanes.json.
"""
import concurrent.futures
import functools
import multiprocessing
import os
import pathlib
import signal
import sys

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
from data.synthetic.surroundings import paint_banks, paint_horizon, paint_sky, roadside
from data.synthetic.vehicles import vehicle_painters

LABEL_FILE, VIDEO_FILE = 'label_data_synthetic.json', 'drive.mp4'
SKY, HORIZON, GROUND, BANKS, ROADSIDE, THING, CAMERA = range(7)  # parts of the image that need random values


def make_scene(seed, index):
    """Scene number `index` of a seed. -> (its Scene, image uint8 [720, 1280, 3] RGB, tusimple.Record)"""
    rng = np.random.default_rng([seed, index])
    scene = sample_scene(rng)
    return scene, render(scene, lambda *part: rng), lane_labels(scene, f'clips/synthetic/{index:06d}/20.jpg')


make_drive = functools.lru_cache(maxsize=1)(Drive)


def make_frame(seed, seconds, index):
    """Frame number `index` of a drive. -> (its Scene, image uint8 [720, 1280, 3] RGB, tusimple.Record with ids)"""
    scene = make_drive(seed, seconds).scene_at(index)

    def stream(part, number=0):  # the same in every frame except for the noise of the camera
        return np.random.default_rng([seed, part, index if part == CAMERA else number, 1])
    record = lane_labels(scene, f'clips/synthetic_drive/{index + 1:06d}.jpg', with_ids=True)
    return scene, render(scene, stream), record


def render(scene, stream):
    """Paints a scene. -> uint8 [720, 1280, 3] RGB. stream: function of (part) or (THING, number) that returns the
    np.random.Generator for texture, trees and noise"""
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


def write_scene(make, folder, with_classes, index):
    """Writes the image of make(index), with classes also its label. make: make_scene or make_frame -> its Record"""
    scene, photo, record = make(index)
    if with_classes:
        record.raw_file = f'images/{index:06d}.jpg'
        pictures.write_image(os.path.join(folder, 'labels', f'{index:06d}.png'), class_label(scene))
    path = os.path.join(folder, record.raw_file)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    _, data = cv2.imencode('.jpg', photo[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, scene.lens.quality])
    files.write_file(path, data.tobytes())
    return record


def in_processes(function, num, workers, unit):
    """Calls function(index) for 0 .. num - 1, several at a time. -> list of its results, in order"""
    progress = functools.partial(tqdm.tqdm, total=num, unit=unit, disable=None)
    if min(workers, num) == 1:
        return list(progress(map(function, range(num))))
    context = multiprocessing.get_context('spawn')  # a forked OpenCV may hang
    pool = concurrent.futures.ProcessPoolExecutor(min(workers, num, os.cpu_count()), context, start_worker)
    try:
        return list(progress(pool.map(function, range(num), chunksize=4)))
    finally:
        pool.shutdown(cancel_futures=True)


def start_worker():
    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C stops the main process, which stops the workers


def parse_flags(argv):
    parser = command_line.Parser(description=__doc__)
    parser.add_argument('folder', metavar='DIR', help='Output folder, created if absent.')
    length = parser.add_mutually_exclusive_group()
    length.add_argument('--num', type=command_line.number_of_pictures, default=1000, help='Number of scenes.')
    length.add_argument('--drive', metavar='SECONDS', type=command_line.positive_float,
                        help=f'Instead of scenes, render a drive of this length in s, {FRAME_RATE} frames per second.')
    parser.add_argument('--video', action='store_true', help=f'Also write the frames of a drive as {VIDEO_FILE}.')
    parser.add_argument('--classes', action='store_true',
                        help='Write a prepared data set whose labels have the class of each lane.')
    parser.add_argument('--seed', type=command_line.non_negative_int, default=0, help='Seed of all random values.')
    parser.add_argument('--workers', type=command_line.positive_int, default=os.cpu_count(),
                        help='Number of processes, at most one per core; does not affect the output.')
    flags = parser.parse_args(argv)
    if flags.video and not flags.drive:
        parser.error('argument --video: needs --drive SECONDS')
    return flags


def prepare_folder(folder, num, with_classes):
    """Marks the folder as incomplete until the new labels are written. Raises InputError if it cannot be used."""
    files.make_output_folder(folder)
    if with_classes:
        prepared_set.refuse_others(folder, {f'{index:06d}{end}' for index in range(num) for end in ('.jpg', '.png')})
        files.write_file(os.path.join(folder, files.HALF_WRITTEN), b'')
        os.makedirs(os.path.join(folder, 'labels'), exist_ok=True)
        classes.write(folder, CLASSES)
    else:
        for name in LABEL_FILE, VIDEO_FILE:
            pathlib.Path(folder, name).unlink(missing_ok=True)


def main(argv=None):
    flags = parse_flags(argv)
    unit, num, make = 'scene', flags.num, functools.partial(make_scene, flags.seed)
    if flags.drive:
        unit, num = 'frame', frames_of(flags.drive)
        make = functools.partial(make_frame, flags.seed, flags.drive)
    prepare_folder(flags.folder, num, flags.classes)
    write = functools.partial(write_scene, make, flags.folder, flags.classes)
    records = in_processes(write, num, flags.workers, unit)
    if flags.video:
        writer = video.Writer(os.path.join(flags.folder, VIDEO_FILE), (WIDTH, HEIGHT), FRAME_RATE)
        for record in tqdm.tqdm(records, unit='frame', desc=VIDEO_FILE, disable=None):
            writer.write(pictures.read_image(os.path.join(flags.folder, record.raw_file)))
        writer.close()
    label_file = tusimple.PREPARED_LABELS if flags.classes else LABEL_FILE
    tusimple.write_records(os.path.join(flags.folder, label_file), records)
    if flags.classes:
        os.remove(os.path.join(flags.folder, files.HALF_WRITTEN))
    lanes = sum(len(record.lanes) for record in records)
    print(f'{flags.folder}: {num} {unit}s with {lanes} lanes, labels in {label_file}')


if __name__ == '__main__':
    command_line.run(main)
