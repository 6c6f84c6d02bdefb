"""Make road scenes with lane labels, in the layout of the TuSimple lane data set, from nothing but a seed.

    python data/synthetic_dataset.py synthetic --num 2000 --seed 1
    python data/synthetic_dataset.py drive --drive 10 --seed 1 --video
    python data/tusimple_dataset_processing.py synthetic

DIR receives clips/synthetic/NNNNNN/20.jpg (1280x720) and, last of all, label_data_synthetic.json: a folder without that
file is an unfinished one. Run again, the script replaces what it wrote before; a folder that holds label files of
another name is refused. The same seed gives the same bytes whatever --workers is, and scene i is the same for any
--num.

--drive renders what a moving car films instead: clips/synthetic_drive/NNNNNN.jpg, 20 frames per second, labelled in
order. Beside "lanes" each of its label lines has "ids", one number per lane, the same for a line of the road in every
frame. The same drive needs the same SECONDS too. --video adds drive.mp4, a video of these frames.

How a scene comes about: everything that is true of the world (camera, road, lines, vehicles, light) is drawn, the lines
are projected into the label, and the photo is painted. The camera is a pinhole, over a
road that bends like a clothoid and rises or falls. Colours are display values 0..255, not linear light.
"""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..'))
from data.common import command_line

if __name__ == '__main__':
    command_line.exit_on_interrupt()   # the imports below take half a second

import concurrent.futures
import functools
import multiprocessing
import signal
import threading

import cv2
import numpy as np
import tqdm

from data.common import files, pictures, video
from data.lanes import tusimple
from data.synthetic.camera import photograph
from data.synthetic.canvas import HEIGHT, NEAREST, WIDTH, Canvas
from data.synthetic.distributions import sample_scene
from data.synthetic.drive import FRAME_RATE, Drive, frames_of
from data.synthetic.ground import paint_ground
from data.synthetic.label import lane_labels
from data.synthetic.roadside import paint_banks, roadside
from data.synthetic.sky import paint_horizon, paint_sky
from data.synthetic.vehicles import vehicle_painters

LABEL_FILE, VIDEO_FILE = 'label_data_synthetic.json', 'drive.mp4'
MAX_DRIVE = 600  # s; all that lies on the road of a drive is drawn anew for each frame


# ---- Scenes ----------------------------------------------------------------------------------------------------------

def make_scene(seed, index):
    """Scene number index of a seed. -> (photo uint8 [720, 1280, 3] RGB, JPEG quality, tusimple.Record)
    """
    rng = np.random.default_rng([seed, index])
    scene = sample_scene(rng)
    record = lane_labels(scene, f'clips/synthetic/{index:06d}/20.jpg')
    return render(scene, lambda *part: rng), scene.lens.quality, record


make_drive = functools.lru_cache(maxsize=1)(Drive)


def make_frame(seed, seconds, index):
    """Frame number index of a drive. -> (photo uint8 [720, 1280, 3] RGB, JPEG quality, tusimple.Record with ids)"""
    drive = make_drive(seed, seconds)
    scene = drive.scene_at(index)
    record = lane_labels(scene, f'clips/synthetic_drive/{index + 1:06d}.jpg', with_ids=True)

    def stream(part, number=0):  # the same in every frame but for the noise of the camera
        return np.random.default_rng([seed, part, index if part == CAMERA else number, 1])
    return render(scene, stream), scene.lens.quality, record


SKY, HORIZON, GROUND, BANKS, ROADSIDE, THING, CAMERA = range(7)  # the parts of the picture that random values are for


def render(scene, stream):
    """Paints a scene. -> uint8 [720, 1280, 3] RGB

    stream: function of (part) or (THING, number), to the np.random.Generator that decides on all that the scene leaves
    open there (texture, trees, noise)
    """
    canvas = Canvas(scene)
    paint_sky(canvas, stream(SKY))
    paint_horizon(canvas, stream(HORIZON))
    paint_ground(canvas, stream(GROUND))
    banks = paint_banks(canvas, stream(BANKS))
    things = vehicle_painters(scene) + roadside(canvas, banks, stream(ROADSIDE))
    before_us = [(z, number, paint) for number, (z, paint) in enumerate(things) if z >= NEAREST]
    for _, number, paint in sorted(before_us, key=lambda thing: -thing[0]):
        paint(canvas, stream(THING, number))
    return photograph(canvas, stream(CAMERA))


# ---- Files -----------------------------------------------------------------------------------------------------------

def write_scene(folder, seed, index):
    """Makes a scene and writes its photo; runs in a worker process. -> its tusimple.Record"""
    photo, quality, record = make_scene(seed, index)
    write_photo(os.path.join(folder, record.raw_file), photo, quality)
    return record


def write_frame(folder, seed, seconds, index):
    """Makes a frame of a drive and writes its photo; runs in a worker process. -> its tusimple.Record"""
    photo, quality, record = make_frame(seed, seconds, index)
    write_photo(os.path.join(folder, record.raw_file), photo, quality)
    return record


def write_photo(path, photo, quality):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    _, data = cv2.imencode('.jpg', photo[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    files.write_file(path, data.tobytes())


def write_video(path, photos):
    """Makes a video of the photos of a drive, given by their paths."""
    writer = video.Writer(path, (WIDTH, HEIGHT), FRAME_RATE)
    for photo in tqdm.tqdm(photos, unit='frame', desc=VIDEO_FILE, disable=None):
        writer.write(pictures.read_image(photo))
    writer.close()


def job(write, index):
    """Calls write(index) in a worker process, where memory may be short."""
    try:
        return write(index)
    except cv2.error as error:
        if error.code != cv2.Error.StsNoMem:
            raise
        raise MemoryError from None


def start_worker():
    cv2.setNumThreads(1)  # the processes share the cores already
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=end_with_parent, daemon=True).start()


def end_with_parent():
    """Ends this worker process when the parent is gone, even one that was killed and could tell nobody."""
    multiprocessing.parent_process().join()
    os._exit(1)


def write_all(write, num, workers, unit):
    """Calls write(index) for 0 .. num - 1, several at a time. -> what it returns, in order"""
    context = multiprocessing.get_context('spawn')  # a forked OpenCV may hang
    sys.warnoptions.append('ignore:resource_tracker')  # what Python's own helper prints if this process is killed
    # More processes than cores would only take memory.
    pool = concurrent.futures.ProcessPoolExecutor(min(workers, num, os.cpu_count()), context, start_worker)
    try:
        # Ctrl-C is for this process, which ends the workers. They ignore it from their first moment, as they inherit.
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        written = pool.map(functools.partial(job, write), range(num), chunksize=4)
        signal.signal(signal.SIGINT, handler)
        return list(tqdm.tqdm(written, total=num, unit=unit, disable=None))
    except (concurrent.futures.process.BrokenProcessPool, MemoryError):
        raise command_line.InputError('a worker process ran out of memory or was ended from outside; if memory is '
                                      'short, use fewer --workers') from None
    finally:
        pool.shutdown(cancel_futures=True)


def check_folder(folder):
    """Makes the folder; refuses one that holds labels of somebody else."""
    files.make_output_folder(folder)
    others = [name for name in sorted(os.listdir(folder))
              if name.startswith('label_data_') and name.endswith('.json') and name != LABEL_FILE]
    if others:
        raise command_line.InputError(f'{os.path.join(folder, others[0])}: label file of another data set; '
                                      'give a folder of its own for the synthetic scenes')


def parse_flags():
    parser = command_line.Parser(description=__doc__)
    parser.add_argument('folder', metavar='DIR', help='Folder to fill; made if it does not exist.')
    scenes = parser.add_argument_group('scenes')
    length = scenes.add_mutually_exclusive_group()
    length.add_argument('--num', type=command_line.number_of_pictures, default=1000,
                        help='How many scenes to make.')
    length.add_argument('--drive', metavar='SECONDS', type=command_line.positive_float,
                        help=f'Render a drive of that length instead, {FRAME_RATE} frames per second.')
    scenes.add_argument('--video', action='store_true',
                        help=f'Write the frames of a drive as {VIDEO_FILE} as well.')
    scenes.add_argument('--seed', type=command_line.non_negative_int, default=0,
                        help='Seed of everything random; another seed gives other scenes.')
    work = parser.add_argument_group('work')
    work.add_argument('--workers', type=command_line.positive_int, default=os.cpu_count(),
                      help='How many processes paint, at most one per core; the files do not depend on it.')
    flags = parser.parse_args()
    if flags.drive and flags.drive > MAX_DRIVE:
        parser.error(f'argument --drive: {flags.drive:g} is more than {MAX_DRIVE} seconds')
    if flags.video and not flags.drive:
        parser.error('argument --video: is of a drive; give --drive SECONDS too')
    return flags


def main():
    flags = parse_flags()
    check_folder(flags.folder)
    label_path, video_path = os.path.join(flags.folder, LABEL_FILE), os.path.join(flags.folder, VIDEO_FILE)
    # Until the new ones are there, the folder must not pass for a whole data set.
    for path in (label_path, video_path) if flags.drive else (label_path,):
        if os.path.exists(path):
            os.remove(path)
    if flags.drive:
        unit, num = 'frame', frames_of(flags.drive)
        write = functools.partial(write_frame, flags.folder, flags.seed, flags.drive)
    else:
        unit, num = 'scene', flags.num
        write = functools.partial(write_scene, flags.folder, flags.seed)
    records = write_all(write, num, flags.workers, unit)
    if flags.video:
        write_video(video_path, [tusimple.photo_path(flags.folder, record) for record in records])
    tusimple.write_records(label_path, records)
    lanes = sum(len(record.lanes) for record in records)
    print(f'{flags.folder}: {len(records)} {unit}s with {lanes} lanes, labels in {LABEL_FILE}')


if __name__ == '__main__':
    command_line.run(main)
