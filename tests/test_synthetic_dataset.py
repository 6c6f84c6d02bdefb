"""data/synthetic_dataset.py: realistic geometry, images that match their labels, complete files."""
import cv2
import numpy as np
import pytest

from data import synthetic_dataset
from data.common import run, video
from data.lanes import tusimple
from data.synthetic import drive as drives
from data.synthetic.canvas import View
from data.synthetic.distributions import sample_scene
from data.synthetic.label import class_label, labelled_lanes, lane_labels
from data.synthetic.scene import Camera, Line, Vehicle
from data.synthetic.vehicles import VEHICLES

# Quantiles 0.1, 0.25, 0.5, 0.75, 0.9 over the 3,626 training label lines of TuSimple, as `statistics` measures them,
# and the tolerance, in px, for a sample of ours.
REAL_QUANTILES = {
    'column of the vanishing point': ((592, 618, 652, 668, 694), 22),
    'row of the vanishing point': ((224, 231, 238, 243, 248), 8),
    'own left line at row 710': ((52, 108, 164, 216, 271), 35),
    'width of the own lane at row 710': ((988, 1028, 1047, 1067, 1096), 22),
    'highest row': ((240, 250, 270, 270, 290), 15),
    'lowest row': ((400, 430, 650, 710, 710), 35),
    'bend of the upper third': ((-62, -1, 0, 3, 66), 25),
}
REAL_SHARE_OF_LANES = {2: 0.00, 3: 0.26, 4: 0.67, 5: 0.07}
SECONDS = 12.0   # of the drives


@pytest.fixture(scope='module')
def scenes():
    return [sample_scene(np.random.default_rng([3, index])) for index in range(250)]


def statistics(records):
    """The values, over all lanes or all images, whose quantiles are in REAL_QUANTILES."""
    values = {name: [] for name in REAL_QUANTILES}
    for record in records:
        rows, lines = np.array(record.h_samples), []
        for lane in np.array(record.lanes):
            x, y = lane[lane >= 0], rows[lane >= 0]
            lower = max(2, len(y) * 2 // 3)
            lines.append(np.polyfit(y[-lower:], x[-lower:], 1))
            values['highest row'].append(y[0])
            values['lowest row'].append(y[-1])
            values['bend of the upper third'].append(x[0] - np.polyval(lines[-1], y[0]))
        slopes, at_zero = np.array(lines).T
        x, y = np.linalg.lstsq(np.column_stack([np.ones(len(lines)), -slopes]), at_zero, rcond=None)[0]
        values['column of the vanishing point'].append(x)
        values['row of the vanishing point'].append(y)
        bottom = slopes * 710 + at_zero
        if (slopes < 0).any() and (slopes > 0).any():
            left, right = bottom[slopes < 0].max(), bottom[slopes > 0].min()
            values['own left line at row 710'].append(left)
            values['width of the own lane at row 710'].append(right - left)
    return values


def test_lanes_are_distributed_like_real_ones(scenes):
    records = list(map(lane_labels, scenes))
    for name, values in statistics(records).items():
        real, tolerance = REAL_QUANTILES[name]
        np.testing.assert_allclose(np.quantile(values, [0.1, 0.25, 0.5, 0.75, 0.9]), real, atol=tolerance, err_msg=name)
    counts = np.array([len(record.lanes) for record in records])
    for number, share in REAL_SHARE_OF_LANES.items():
        assert np.mean(counts == number) == pytest.approx(share, abs=0.1)


def test_lanes_are_gapless_and_sorted_from_left_to_right(scenes):
    for record in map(lane_labels, scenes):
        assert list(record.h_samples) == list(range(160, 720, 10))
        assert 1 <= len(record.lanes) <= tusimple.MAX_LANES
        lowest = []
        for lane in record.lanes:
            assert all(type(x) is int and (x == -2 or 5 <= x < 1275) for x in lane)
            there = np.flatnonzero(np.array(lane) >= 0)
            assert len(there) == there[-1] - there[0] + 1
            lowest.append(np.polyval(np.polyfit(there, np.array(lane)[there], 1), 55))
        assert lowest == sorted(lowest)


def test_the_label_of_a_double_line_is_the_nearer_one(scenes):
    pairs = [pair for scene in scenes for pair in zip(scene.lines, scene.lines[1:])]
    doubles = [(line.offset, other.offset) for line, other in pairs
               if line.labelled and 0.05 < abs(line.offset - other.offset) < 1]
    assert len(doubles) > 10 and all(abs(line) < abs(other) for line, other in doubles)


def plain_scene(roll=0.0, vehicles=()):
    """Two white lines on dark asphalt in flat light, through a perfect lens."""
    scene = sample_scene(np.random.default_rng(0))
    road = scene.road._replace(centre=np.zeros_like, rise=np.zeros_like, left=-1.8, right=1.8, lane_width=3.6,
                               concrete=False, shade=80.0, shoulders=(4.0, 4.0), shoulder_shade=80.0, oncoming=None,
                               two_way=False)
    lines = [Line(offset, (250, 250, 250), 0.15, [], 0.0, 0.0, 0.0, False, True) for offset in (-1.8, 1.8)]
    lens = scene.lens._replace(balance=(1, 1, 1), contrast=0.0, saturation=1.0, vignette=0.0, blur=0.0, motion=0.0,
                               noise=0.0, glare=0.0, hood=0.0)
    light = scene.light._replace(shadow=0.0, haze=1e5, ambient=1.0, clouds=0.0, dusk=False)
    return scene._replace(camera=Camera(1500.0, 1.6, 640.0, 240.0, roll), road=road, lines=lines, light=light,
                          vehicles=list(vehicles), lens=lens)


def paint(scene):
    return synthetic_dataset.render(scene, lambda *part: np.random.default_rng(part)).astype(int)


@pytest.mark.parametrize('roll', [0.0, 0.02])
def test_label_points_lie_in_the_middle_of_the_painted_lines(roll):
    image, checked = paint(plain_scene(roll)).mean(-1), 0
    for lane in lane_labels(plain_scene(roll)).lanes:
        for x, y in zip(lane, tusimple.H_SAMPLES):
            if y >= 420 and 60 <= x < 1220:
                around = image[y, x - 60:x + 61]
                bright = np.flatnonzero(around > (around.max() + np.median(around)) / 2) - 60
                assert abs(bright.mean()) <= 4, (x, y)
                checked += 1
    assert checked > 40


@pytest.mark.parametrize('oncoming', [False, True])
def test_every_vehicle_hides_the_road_but_no_label(oncoming):
    plain = paint(plain_scene())
    for kinds in np.split(np.array(sorted(VEHICLES)), 2):  # four side by side
        vehicles = [Vehicle(kind, -6.0 + 4 * i, 25.0, (200, 20, 20), oncoming, True, 1.0)
                    for i, kind in enumerate(kinds)]
        scene = plain_scene(vehicles=vehicles)
        assert lane_labels(scene) == lane_labels(plain_scene())
        changed = np.abs(paint(scene) - plain).max(-1) > 40
        for vehicle in vehicles:
            x = 640 + int(1500 * vehicle.offset / 25)
            assert changed[:, x - 40:x + 40].sum() > 2500, vehicle


# ---- The script ------------------------------------------------------------------------------------------------------

def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes()
            for path in folder.rglob('*') if path.is_file()}


def test_scenes_do_not_depend_on_the_number_of_processes_or_scenes(run_script, tmp_path):
    assert not run_script(synthetic_dataset, tmp_path / 'a', '--num', 1, '--seed', 5, '--workers', 1).status
    assert '2 scenes' in run_script(synthetic_dataset, tmp_path / 'b', '--num', 2, '--seed', 5, '--workers', 2).out
    one, two = files(tmp_path / 'a'), files(tmp_path / 'b')
    labels, more = one.pop(synthetic_dataset.LABEL_FILE), two.pop(synthetic_dataset.LABEL_FILE)
    assert more.startswith(labels) and len(more) > len(labels)
    assert len(one) == 1 and len(two) == 2 and one.items() <= two.items() and len(set(two.values())) == 2
    for record in tusimple.read_all(tmp_path / 'b' / synthetic_dataset.LABEL_FILE):
        image = cv2.imread(tusimple.photo_path(tmp_path / 'b', record))
        assert image.shape == (720, 1280, 3) and image.std() > 10


def test_failed_run_leaves_no_label_file(run_script, tmp_path):
    (tmp_path / synthetic_dataset.LABEL_FILE).write_text('{}')  # of an earlier run
    (tmp_path / 'clips').write_text('a file in the way')
    outcome = run_script(synthetic_dataset, tmp_path, '--num', 1, '--workers', 1)
    assert outcome.status == 1 and outcome.err.count('\n') == 1 and 'clips' in outcome.err
    assert not (tmp_path / synthetic_dataset.LABEL_FILE).exists()


@pytest.mark.parametrize('flags', [('--drive', 1, '--num', 2), ('--drive', 0), ('--video',)])
def test_invalid_drive_is_rejected_in_one_line(flags, run_script, tmp_path):
    outcome = run_script(synthetic_dataset, tmp_path / 'a', *flags)
    assert outcome.status == 2 and outcome.err.count('\n') == 1 and '--drive' in outcome.err
    assert not (tmp_path / 'a').exists()


def test_class_labels_are_complete_and_have_lanes(run_script, tmp_path):
    flags = '--classes', '--num', 1, '--seed', 2, '--workers', 1
    assert not run_script(synthetic_dataset, tmp_path, *flags).status
    before = files(tmp_path)
    assert sorted(before) == ['classes.txt', 'images/000000.jpg', 'labels/000000.png', 'lanes.json']
    scene = sample_scene(np.random.default_rng([2, 0]))
    label = cv2.imread(str(tmp_path / 'labels' / '000000.png'), cv2.IMREAD_UNCHANGED)
    assert label.dtype == np.uint16 and (label == class_label(scene)).all()
    record, = run.lane_records(tmp_path, [str(tmp_path / 'images/000000.jpg')])
    assert record.lanes == lane_labels(scene).lanes
    again = run_script(synthetic_dataset, tmp_path, *flags)
    assert again.status == 1 and 'lanes.json' in again.err and files(tmp_path) == before


def test_classes_are_those_of_the_painted_lines(scenes):
    seen = set()
    for scene in scenes[:40]:
        label, values = class_label(scene), set()
        for line, columns in labelled_lanes(scene):
            x, y = next((x, y) for x, y in zip(columns, tusimple.H_SAMPLES) if x >= 0 and y >= 350)
            values.add(label[y, x])
            name = synthetic_dataset.CLASSES[label[y, x] // 1000 - 1]
            seen.add(name)
            assert (name == 'solid') == (line.pattern == []) and (name == 'dots') == line.dots
        assert values == set(np.unique(label)) - {0} and len(values) == len(labelled_lanes(scene))
        assert all(value % 1000 == 0 or value - 1 in values for value in values)
    assert seen == set(synthetic_dataset.CLASSES)


# ---- A drive ---------------------------------------------------------------------------------------------------------

@pytest.fixture(scope='module', params=[0, 3])
def drive(request):
    """A drive with a lane change, to the left and to the right."""
    drive = drives.Drive(request.param, SECONDS)
    assert drive.changes
    return drive


def test_a_drive_and_its_video_show_the_same_frames(run_script, tmp_path):
    (tmp_path / synthetic_dataset.VIDEO_FILE).write_text('of an earlier run')
    flags = '--drive', 0.1, '--seed', 5, '--workers', 1
    assert '2 frames' in run_script(synthetic_dataset, tmp_path, *flags).out
    first = files(tmp_path)
    assert synthetic_dataset.VIDEO_FILE not in first
    run_script(synthetic_dataset, tmp_path, *flags, '--video')
    assert first.items() < files(tmp_path).items()
    records = tusimple.read_all(tmp_path / synthetic_dataset.LABEL_FILE)
    assert [record.raw_file for record in records] == [f'clips/synthetic_drive/{i:06d}.jpg' for i in (1, 2)]
    assert all(len(record.ids) == len(record.lanes) > 0 for record in records)
    clip = video.read_video(str(tmp_path / synthetic_dataset.VIDEO_FILE))
    images = [cv2.imread(tusimple.photo_path(tmp_path, record))[..., ::-1] for record in records]
    distances = [[np.abs(frame.astype(float) - image).mean() for image in images] for frame in clip.frames]
    assert clip.fps == drives.FRAME_RATE
    assert np.argmin(distances, axis=1).tolist() == [0, 1] and np.diag(distances).max() < 10


def test_a_line_of_a_drive_keeps_its_id_and_moves_smoothly(drive):
    below = np.array(tusimple.H_SAMPLES) >= 320  # where lanes are much farther apart than lines move
    seen, before = set(), {}
    for frame in range(drives.frames_of(SECONDS)):
        record = lane_labels(drive.scene_at(frame), with_ids=True)
        assert record.ids == sorted(set(record.ids)) and 2 <= len(record.ids) <= 4
        lanes = dict(zip(record.ids, map(np.array, record.lanes)))
        for number in lanes.keys() & before.keys():
            both = below & (lanes[number] >= 0) & (before[number] >= 0)
            assert np.abs(lanes[number] - before[number])[both].max(initial=0) < 35, (frame, number)
        before = lanes
        seen.add(tuple(record.ids))
    assert len(seen) > 1  # the lane change reveals another line


def test_vehicles_never_touch(drive):
    for frame in range(0, drives.frames_of(SECONDS), 5):
        vehicles = [(vehicle.distance, vehicle.offset, VEHICLES[vehicle.kind].length)
                    for vehicle in drive.scene_at(frame).vehicles]
        vehicles.append((-4.0, drive.aside(frame / drives.FRAME_RATE), 4.0))
        for i, (z, offset, length) in enumerate(vehicles):
            for other_z, other_offset, other_length in vehicles[:i]:
                assert abs(offset - other_offset) > 1.5 or z > other_z + other_length or other_z > z + length


def test_the_road_moves_past_from_frame_to_frame():
    drive, patches = drives.Drive(8, SECONDS), []
    start = drive.travelled(2)
    # A piece of road ahead of the car, m
    place, offset = np.meshgrid(start + np.arange(14, 26, 0.03), drive.aside(2) + np.arange(-1.2, 1.2, 0.03),
                                indexing='ij')
    for frame, shift in ((40, 0.0), (42, 0.0), (42, 0.5)):
        scene = drive.scene_at(frame)
        image = paint(scene._replace(vehicles=[], lens=scene.lens._replace(noise=0.0, motion=0.0)))
        view = View(scene.camera, scene.road)
        points = view.project(offset, 0.0, place - scene.progress.travelled + shift)
        points = view.in_photo(points.reshape(-1, 2)).reshape(points.shape).astype(np.float32)
        patch = cv2.remap(image.astype(np.float32).mean(-1), points, None, cv2.INTER_LINEAR)
        patch = cv2.GaussianBlur(patch, (0, 0), 1.5)
        patches.append((patch - cv2.GaussianBlur(patch, (0, 0), 12)).ravel())
    _, same, elsewhere = np.corrcoef(patches)[0]
    assert same > 0.8 and same > elsewhere + 0.1
