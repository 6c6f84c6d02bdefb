"""data/synthetic_dataset.py: geometry like real labels, photos that show what the labels say, whole files."""

import concurrent.futures
import contextlib
import dataclasses
import json
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest

from data import synthetic_dataset
from data.common import video
from data.lanes import tusimple
from data.synthetic import drive as drives
from data.synthetic.canvas import View
from data.synthetic.distributions import sample_scene
from data.synthetic.label import lane_labels
from data.synthetic.scene import Camera, Line, Vehicle
from data.synthetic.vehicles import VEHICLES

# Of the 3,626 training label lines of TuSimple, as `statistics` measures them: quantiles 0.1, 0.25, 0.5,
# 0.75, 0.9, and how far, in px, a sample of ours may lie from each.
REAL_QUANTILES = {
    'column of the vanishing point': ((592, 618, 652, 668, 694), 22),
    'row of the vanishing point': ((224, 231, 238, 243, 248), 8),
    'own left line at row 710': ((52, 108, 164, 216, 271), 35),
    'own right line at row 710': ((1088, 1149, 1208, 1269, 1330), 40),
    'width of the own lane at row 710': ((988, 1028, 1047, 1067, 1096), 22),
    'highest row': ((240, 250, 270, 270, 290), 15),
    'lowest row': ((400, 430, 650, 710, 710), 35),
    'points': ((14, 17, 39, 45, 46), 4),
    'bend of the upper third': ((-62, -1, 0, 3, 66), 25),
}
REAL_SHARE_OF_LANES = {2: 0.00, 3: 0.26, 4: 0.67, 5: 0.07}


@pytest.fixture(scope='module')
def records():
    return [lane_labels(sample_scene(np.random.default_rng([3, index])))
            for index in range(500)]


def statistics(records):
    """The values, over all lanes or all photos, whose quantiles stand in REAL_QUANTILES."""
    values = {name: [] for name in REAL_QUANTILES}
    for record in records:
        rows, lines = np.array(record.h_samples), []
        for lane in np.array(record.lanes):
            x, y = lane[lane >= 0], rows[lane >= 0]
            lower = max(2, len(y) * 2 // 3)
            line = np.polyfit(y[-lower:], x[-lower:], 1)
            lines.append(line)
            values['highest row'].append(y[0])
            values['lowest row'].append(y[-1])
            values['points'].append(len(y))
            values['bend of the upper third'].append(x[0] - np.polyval(line, y[0]))
        slopes, at_zero = np.array(lines).T
        x, y = np.linalg.lstsq(np.column_stack([np.ones(len(lines)), -slopes]), at_zero, rcond=None)[0]
        values['column of the vanishing point'].append(x)
        values['row of the vanishing point'].append(y)
        bottom = slopes * 710 + at_zero
        if (slopes < 0).any() and (slopes > 0).any():
            left, right = bottom[slopes < 0].max(), bottom[slopes > 0].min()
            values['own left line at row 710'].append(left)
            values['own right line at row 710'].append(right)
            values['width of the own lane at row 710'].append(right - left)
    return values


def test_lanes_are_distributed_like_real_ones(records):
    measured = {name: np.quantile(values, [0.1, 0.25, 0.5, 0.75, 0.9])
                for name, values in statistics(records).items()}
    far_off = {name: measured[name].round(1) for name, (real, tolerance) in REAL_QUANTILES.items()
               if np.abs(measured[name] - real).max() > tolerance}
    assert not far_off


def test_number_of_lanes_is_distributed_like_the_real_one(records):
    counts = np.array([len(record.lanes) for record in records])
    for number, share in REAL_SHARE_OF_LANES.items():
        assert np.mean(counts == number) == pytest.approx(share, abs=0.08)


def test_labels_follow_the_convention(records):
    for record in records:
        assert list(record.h_samples) == list(range(160, 720, 10))
        assert 1 <= len(record.lanes) <= tusimple.MAX_LANES
        lowest = []
        for lane in record.lanes:
            assert all(type(x) is int and (x == -2 or 5 <= x < 1275) for x in lane)
            there = np.flatnonzero(np.array(lane) >= 0)
            assert len(there) == there[-1] - there[0] + 1  # no gaps: lines go on behind what hides them
            line = np.polyfit(there, np.array(lane)[there], 1)
            lowest.append(np.polyval(line, 55))
        assert lowest == sorted(lowest)


def test_the_label_of_a_double_line_is_the_one_nearer_to_us():
    doubles = 0
    for index in range(200):
        lines = sample_scene(np.random.default_rng([4, index])).lines
        for line, other in zip(lines, lines[1:]):
            if line.labelled and abs(line.offset - other.offset) > 0.05 and abs(line.offset - other.offset) < 1:
                doubles += 1
                assert abs(line.offset) < abs(other.offset)
    assert doubles > 10


def test_a_point_of_a_flat_straight_road_lands_where_the_pinhole_puts_it():
    scene = plain_scene(roll=0.0)
    lane = np.array(lane_labels(scene).lanes[0])
    # x = centre + offset / height * (row - horizon), whatever the focal length
    row = np.array(tusimple.H_SAMPLES)
    expected = 640 - 1.8 / 1.6 * (row - 240)
    there = lane >= 0
    assert there.sum() > 30
    np.testing.assert_allclose(lane[there], expected[there], atol=0.51)


def plain_scene(roll, vehicles=()):
    """Two white lines on dark asphalt in flat light, through a faultless lens."""
    rng = np.random.default_rng(0)
    scene = sample_scene(rng)
    lines = [Line(offset, (250, 250, 250), 0.15, [], 0.0, 0.0, 0.0, False, True)
             for offset in (-1.8, 1.8)]
    return dataclasses.replace(
        scene, camera=Camera(1500.0, 1.6, 640.0, 240.0, roll),
        road=dataclasses.replace(scene.road, heading=0.0, curvature=0.0, curvature_rate=0.0, grade=0.0,
                                 left=-1.8, right=1.8, lane_width=3.6, concrete=False, shade=80.0,
                                 shoulders=(4.0, 4.0), shoulder_shade=80.0,
                                 oncoming=None, two_way=False),
        lines=lines, vehicles=list(vehicles),
        light=dataclasses.replace(scene.light, shadow=0.0, haze=1e5, ambient=1.0, clouds=0.0, dusk=False),
        lens=dataclasses.replace(scene.lens, balance=(1, 1, 1), contrast=0.0, saturation=1.0, vignette=0.0,
                                 blur=0.0, motion=0.0, noise=0.0, glare=0.0, bonnet=0.0))


def paint(scene):
    rng = np.random.default_rng(1)
    return synthetic_dataset.render(scene, lambda *part: rng)


@pytest.mark.parametrize('roll', [0.0, 0.02, -0.02])
def test_label_points_lie_in_the_middle_of_the_painted_lines(roll):
    scene = plain_scene(roll)
    photo = paint(scene).astype(float).mean(-1)
    checked = 0
    for lane in lane_labels(scene).lanes:
        for x, y in zip(lane, tusimple.H_SAMPLES):
            if y >= 420 and 60 <= x < 1220:
                around = photo[y, x - 60:x + 61]
                bright = np.flatnonzero(around > (around.max() + np.median(around)) / 2) - 60
                assert abs(bright.mean()) <= 4, (x, y)
                checked += 1
    assert checked > 40


def test_vehicles_hide_lines_but_not_their_labels():
    vehicle = Vehicle('sedan', 1.8, 10.0, (120, 20, 20), False, False, 1.0)
    free, hidden = plain_scene(0.0), plain_scene(0.0, [vehicle])
    assert lane_labels(free) == lane_labels(hidden)
    photos = [paint(scene).astype(int) for scene in (free, hidden)]
    row = 450  # 11.4 m away on the road: behind the end of the car
    column = 640 + int(1.8 / 1.6 * (row - 240))
    assert photos[0][row, column].min() > photos[1][row, column].min() + 60


@pytest.fixture(scope='module')
def empty():
    return paint(plain_scene(0.0)).astype(int)


@pytest.mark.parametrize('kind', sorted(VEHICLES))
def test_every_vehicle_is_painted_from_both_ends(kind, empty):
    for oncoming in (False, True):
        vehicle = Vehicle(kind, 4.0, 15.0, (200, 20, 20), oncoming, True, 1.0)
        photo = paint(plain_scene(0.0, [vehicle])).astype(int)
        changed = np.abs(photo - empty).max(-1) > 40
        x = 640 + 1500 * 4.0 / 15
        assert changed[:, int(x) - 60:int(x) + 60].sum() > 4000


def run(run_script, folder, *flags):
    return run_script(synthetic_dataset, folder, *flags)


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes()
            for path in folder.rglob('*') if path.is_file()}


def test_same_seed_same_bytes_whatever_the_number_of_processes_or_scenes(run_script, tmp_path):
    assert not run(run_script, tmp_path / 'a', '--num', 2, '--seed', 5, '--workers', 1).status
    outcome = run(run_script, tmp_path / 'b', '--num', 3, '--seed', 5, '--workers', 2)
    assert not outcome.status and '3 scenes' in outcome.out
    one, two = files(tmp_path / 'a'), files(tmp_path / 'b')
    labels, more = one.pop(synthetic_dataset.LABEL_FILE), two.pop(synthetic_dataset.LABEL_FILE)
    assert more.startswith(labels) and len(more) > len(labels)
    assert len(one) == 2 and len(two) == 3 and one.items() <= two.items()
    assert len(set(two.values())) == 3
    found, problems = tusimple.read_records(tmp_path / 'b' / synthetic_dataset.LABEL_FILE)
    assert not problems
    for record in found:
        photo = cv2.imread(tusimple.photo_path(tmp_path / 'b', record))
        assert photo.shape == (720, 1280, 3) and photo.std() > 10


def test_another_seed_gives_other_scenes():
    scenes = [sample_scene(np.random.default_rng([seed, 0])) for seed in (1, 2)]
    assert lane_labels(scenes[0]).lanes != lane_labels(scenes[1]).lanes


def test_a_run_that_fails_leaves_no_label_file(run_script, tmp_path):
    (tmp_path / synthetic_dataset.LABEL_FILE).write_text(json.dumps({}))  # of an earlier run
    (tmp_path / 'clips').write_text('a file in the way')
    outcome = run(run_script, tmp_path, '--num', 1, '--workers', 1)
    assert outcome.status == 1
    assert outcome.err.count('\n') == 1 and 'clips' in outcome.err
    assert not (tmp_path / synthetic_dataset.LABEL_FILE).exists()


def start(folder, *flags, **kwargs):
    """The script as a process of its own, its output in a pipe that its worker processes hold open too."""
    command = [sys.executable, synthetic_dataset.__file__, folder, *map(str, flags)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **kwargs)


def test_workers_end_silently_when_their_parent_is_killed(tmp_path):
    parent = start(tmp_path, '--num', 100000, '--workers', 2)
    try:
        while not (tmp_path / 'clips').exists():  # until a worker has painted a scene
            with contextlib.suppress(subprocess.TimeoutExpired):
                pytest.fail(f'ended with {parent.wait(0.05)}')
    finally:
        parent.kill()
    assert parent.communicate(timeout=60)[0] == ''  # the end of the pipe: no worker is left


def test_workers_leave_ctrl_c_to_their_parent_from_their_first_moment(tmp_path):
    (tmp_path / 'sitecustomize.py').write_text(
        'import os, signal, sys\n'
        'if "--multiprocessing-fork" in sys.orig_argv:\n'
        '    os.kill(os.getpid(), signal.SIGINT)\n')
    process = start(tmp_path / 'out', '--num', 1, env={**os.environ, 'PYTHONPATH': str(tmp_path)})
    assert 'Traceback' not in process.communicate()[0] and process.returncode == 0


def out_of_memory(*_):
    raise MemoryError


def test_a_worker_without_memory_is_one_line(run_script, tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic_dataset, 'write_scene', out_of_memory)
    outcome = run(run_script, tmp_path, '--num', 2, '--workers', 2)
    assert outcome.status == 1 and outcome.err.count('\n') == 1 and '--workers' in outcome.err
    assert not (tmp_path / synthetic_dataset.LABEL_FILE).exists()


def test_no_more_workers_than_cores_are_started(run_script, tmp_path, monkeypatch):
    started = []
    pool = concurrent.futures.ProcessPoolExecutor
    monkeypatch.setattr(os, 'cpu_count', lambda: 1)
    monkeypatch.setattr(concurrent.futures, 'ProcessPoolExecutor',
                        lambda workers, *args: started.append(workers) or pool(workers, *args))
    assert not run(run_script, tmp_path, '--num', 2, '--workers', 30000).status
    assert started == [1]


# ---- A drive ---------------------------------------------------------------------------------------------------------

SECONDS = 12.0


@pytest.fixture(scope='module', params=[0, 3])
def drive(request):
    """A drive with a change of lane, to the left and to the right."""
    drive = drives.Drive(request.param, SECONDS)
    assert drive.changes
    return drive


def test_a_drive_has_the_same_bytes_whatever_the_number_of_processes(run_script, tmp_path):
    folders = tmp_path / 'a', tmp_path / 'b'
    for workers, folder in enumerate(folders, 1):
        outcome = run(run_script, folder, '--drive', 0.25, '--seed', 5, '--workers', workers)
        assert not outcome.status and '5 frames' in outcome.out
    one, two = map(files, folders)
    assert one == two and len(one) == len(set(one.values())) == 6
    found, problems = tusimple.read_records(folders[0] / synthetic_dataset.LABEL_FILE)
    assert not problems
    assert [record.raw_file for record in found] == [f'clips/synthetic_drive/{i:06d}.jpg' for i in range(1, 6)]
    for record in found:
        assert len(record.ids) == len(record.lanes) > 0
        assert cv2.imread(tusimple.photo_path(folders[0], record)).shape == (720, 1280, 3)


def test_the_video_of_a_drive_shows_its_photos_in_order(run_script, tmp_path):
    assert not run(run_script, tmp_path, '--drive', 0.15, '--seed', 5, '--workers', 1, '--video').status
    clip = video.read_video(str(tmp_path / synthetic_dataset.VIDEO_FILE))
    frames = list(clip.frames)
    assert clip.fps == drives.FRAME_RATE and len(frames) == 3
    photos = [cv2.imread(str(path))[..., ::-1] for path in sorted(tmp_path.rglob('*.jpg'))]
    distances = [[np.abs(frame.astype(float) - photo).mean() for photo in photos] for frame in frames]
    assert np.argmin(distances, axis=1).tolist() == [0, 1, 2] and np.diag(distances).max() < 10


def test_a_drive_leaves_no_video_of_an_earlier_one(run_script, tmp_path):
    (tmp_path / synthetic_dataset.VIDEO_FILE).write_text('of an earlier run')
    assert not run(run_script, tmp_path, '--drive', 0.05, '--workers', 1).status
    assert not (tmp_path / synthetic_dataset.VIDEO_FILE).exists()


@pytest.mark.parametrize('flags', [('--drive', 1, '--num', 2), ('--drive', 1e9), ('--drive', 0),
                                   ('--video', '--num', 2), ('--video',)])
def test_a_drive_that_cannot_be_is_one_line(flags, run_script, tmp_path):
    outcome = run(run_script, tmp_path / 'a', *flags)
    assert outcome.status == 2 and outcome.err.count('\n') == 1 and '--drive' in outcome.err
    assert not (tmp_path / 'a').exists()


def test_a_line_of_a_drive_keeps_its_id_and_moves_smoothly(drive):
    below = np.array(tusimple.H_SAMPLES) >= 320  # where lanes are much farther apart than lines move
    seen, before = set(), {}
    for frame in range(drives.frames_of(SECONDS)):
        record = lane_labels(drive.scene_at(frame), with_ids=True)
        ids, lanes = record.ids, list(zip(record.ids, record.lanes))
        assert ids == sorted(set(ids)) and 2 <= len(ids) <= 4
        for number, lane in lanes:
            lane, last = np.array(lane), np.array(before.get(number, lane))
            both = below & (lane >= 0) & (last >= 0)
            assert np.abs(lane - last)[both].max(initial=0) < 35, (frame, number)
        before = dict(lanes)
        seen.add(tuple(ids))
    assert len(seen) > 1  # the change of lane shows another line


def test_nobody_runs_into_anybody(drive):
    for frame in range(0, drives.frames_of(SECONDS), 5):
        scene = drive.scene_at(frame)
        vehicles = [(vehicle.distance, vehicle.offset, VEHICLES[vehicle.kind].length) for vehicle in scene.vehicles]
        vehicles.append((-4.0, scene.road.aside, 4.0))
        for i, (z, offset, length) in enumerate(vehicles):
            for other_z, other_offset, other_length in vehicles[:i]:
                assert abs(offset - other_offset) > 1.5 or z > other_z + other_length or other_z > z + length


@pytest.mark.parametrize('seed', [1, 8])
def test_the_road_flows_past_from_frame_to_frame(seed):
    drive, patches = drives.Drive(seed, SECONDS), []
    start = drive.scene_at(40)
    # A piece of road before the car, m
    place, offset = np.meshgrid(start.progress.travelled + np.arange(14, 26, 0.03),
                                start.road.aside + np.arange(-1.2, 1.2, 0.03), indexing='ij')
    for frame, shift in ((40, 0.0), (42, 0.0), (42, 0.5)):
        scene = drive.scene_at(frame)
        scene = dataclasses.replace(scene, vehicles=[], lens=dataclasses.replace(scene.lens, noise=0.0, motion=0.0))
        photo = synthetic_dataset.render(scene, lambda *part: np.random.default_rng(part))
        view = View(scene.camera, scene.road)
        turn = view.turn()
        points = view.project(offset, 0.0, place - scene.progress.travelled + shift) @ turn[:, :2].T + turn[:, 2]
        patch = cv2.remap(photo.astype(np.float32).mean(-1), points.astype(np.float32), None, cv2.INTER_LINEAR)
        patch = cv2.GaussianBlur(patch, (0, 0), 1.5)
        patches.append((patch - cv2.GaussianBlur(patch, (0, 0), 12)).ravel())
    _, same, elsewhere = np.corrcoef(patches)[0]
    assert same > 0.8 and same > elsewhere + 0.1
