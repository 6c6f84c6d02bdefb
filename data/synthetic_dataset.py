"""Make road scenes with lane labels, in the layout of the TuSimple lane data set, from nothing but a seed.

    python data/synthetic_dataset.py synthetic --num 2000 --seed 1
    python data/tusimple_dataset_processing.py synthetic

DIR receives clips/synthetic/NNNNNN/20.jpg (1280x720) and, last of all, label_data_synthetic.json: a folder without that
file is an unfinished one. Run again, the script replaces what it wrote before; a folder that holds label files of
another name is refused. The same seed gives the same bytes whatever --workers is, and scene i is the same for any
--num.

How a scene comes about: everything that is true of the world (camera, road, lines, vehicles, light) is drawn, the lines
are projected into the label, and the photo is painted. The camera is a pinhole over a road that bends like a clothoid
and rises or falls. Colours are display values 0..255, not linear light.
"""

import concurrent.futures
import functools
import multiprocessing
import os
import signal
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..'))
from data import command_line

if __name__ == '__main__':
    command_line.exit_on_interrupt()   # the imports below take half a second

import cv2
import numpy as np
import tqdm

from data import files, tusimple
from data.synthetic_camera import photograph
from data.synthetic_canvas import Canvas
from data.synthetic_distributions import sample_scene
from data.synthetic_ground import paint_ground
from data.synthetic_label import lane_labels
from data.synthetic_roadside import paint_banks, roadside
from data.synthetic_sky import paint_horizon, paint_sky
from data.synthetic_vehicles import vehicle_painters

LABEL_FILE = 'label_data_synthetic.json'


# ---- Scenes ----------------------------------------------------------------------------------------------------------

def make_scene(seed, index):
    """Scene number index of a seed. -> (photo uint8 [720, 1280, 3] RGB, JPEG quality, tusimple.Record)"""
    rng = np.random.default_rng([seed, index])
    scene = sample_scene(rng)
    record = lane_labels(scene, f'clips/synthetic/{index:06d}/20.jpg')
    return render(scene, rng), scene.lens.quality, record


def render(scene, rng):
    """Paints a scene; rng decides on all that it leaves open (texture, trees, noise). -> uint8 [720, 1280, 3] RGB"""
    canvas = Canvas(scene)
    paint_sky(canvas, rng)
    paint_horizon(canvas, rng)
    paint_ground(canvas, rng)
    banks = paint_banks(canvas, rng)
    things = vehicle_painters(scene) + roadside(canvas, banks, rng)
    for _, paint in sorted(things, key=lambda thing: -thing[0]):
        paint(canvas, rng)
    return photograph(canvas, rng)


# ---- Files -----------------------------------------------------------------------------------------------------------

def write_scene(folder, seed, index):
    """Makes a scene and writes its photo; runs in a worker process. -> its tusimple.Record"""
    try:
        photo, quality, record = make_scene(seed, index)
    except cv2.error as error:
        if error.code != cv2.Error.StsNoMem:
            raise
        raise MemoryError from None
    path = os.path.join(folder, record.raw_file)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    _, data = cv2.imencode('.jpg', photo[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    files.write_file(path, data.tobytes())
    return record


def start_worker():
    cv2.setNumThreads(1)  # the processes share the cores already
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends us
    threading.Thread(target=end_with_parent, daemon=True).start()


def end_with_parent():
    """Ends this worker process when the parent is gone, even one that was killed and could tell nobody."""
    multiprocessing.parent_process().join()
    os._exit(1)


def make_all(folder, num, seed, workers):
    """Writes the photos of all scenes, several at a time. -> their Records, in order"""
    context = multiprocessing.get_context('spawn')  # a forked OpenCV may hang
    # More processes than cores would only take memory.
    pool = concurrent.futures.ProcessPoolExecutor(min(workers, num, os.cpu_count()), context, start_worker)
    try:
        scenes = pool.map(functools.partial(write_scene, folder, seed), range(num), chunksize=4)
        return list(tqdm.tqdm(scenes, total=num, unit='scene', disable=None))
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
    scenes.add_argument('--num', type=command_line.positive_int, default=1000,
                        help='How many scenes to make.')
    scenes.add_argument('--seed', type=command_line.non_negative_int, default=0,
                        help='Seed of everything random; another seed gives other scenes.')
    work = parser.add_argument_group('work')
    work.add_argument('--workers', type=command_line.positive_int, default=os.cpu_count(),
                      help='How many processes paint; the files do not depend on it.')
    return parser.parse_args()


def main():
    flags = parse_flags()
    check_folder(flags.folder)
    label_path = os.path.join(flags.folder, LABEL_FILE)
    if os.path.exists(label_path):
        os.remove(label_path)  # until the new one is there, the folder must not pass for a whole data set
    records = make_all(flags.folder, flags.num, flags.seed, flags.workers)
    tusimple.write_records(label_path, records)
    lanes = sum(len(record.lanes) for record in records)
    print(f'{flags.folder}: {len(records)} scenes with {lanes} lanes, labels in {LABEL_FILE}')


if __name__ == '__main__':
    command_line.run(main)
