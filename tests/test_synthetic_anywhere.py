"""data/synthetic_dataset.py --scenes any: what is in the scenes, that photos show it and that labels stay true."""

import dataclasses

import numpy as np
import pytest
from test_synthetic_dataset import files, plain_scene

from data import synthetic_dataset
from data.lanes import tusimple
from data.synthetic import night
from data.synthetic.anywhere import sample_any_scene
from data.synthetic.canvas import View
from data.synthetic.city import RAILS
from data.synthetic.label import lane_labels
from data.synthetic.markings import ARROWS, MARKINGS, SYMBOLS, symbol
from data.synthetic.scene import Marking, Night, Side, Vehicle, Windscreen


@pytest.fixture(scope='module')
def scenes():
    return [sample_any_scene(np.random.default_rng([3, index])) for index in range(400)]


def paint(scene):
    """The photo of a scene as float64 [720, 1280, 3]; what is random about it is the same in every call."""
    return synthetic_dataset.render(scene, lambda *part: np.random.default_rng(part)).astype(float)


@pytest.fixture(scope='module')
def plain():
    return paint(plain_scene(0.0))


def changed(photo, plain):
    return np.abs(photo - plain).max(-1) > 25


# ---- The mix ---------------------------------------------------------------------------------------------------------

def test_labels_lie_within_the_photo_and_off_the_bonnet(scenes):
    for scene in scenes:
        record = lane_labels(scene)
        assert 1 <= len(record.lanes) <= tusimple.MAX_LANES
        for lane in np.array(record.lanes):
            there = np.flatnonzero(lane >= 0)
            assert len(there) == there[-1] - there[0] + 1
            assert (lane[there] >= 5).all() and (lane[there] < 1275).all()
            if scene.windscreen:
                rows = np.array(record.h_samples)[there]
                assert (rows <= scene.windscreen.bonnet_row(lane[there], 720)).all()


@pytest.mark.parametrize('there, least, most', [
    (lambda scene: not scene.windscreen, 0.3, 0.55), (lambda scene: scene.sides, 0.25, 0.5),
    (lambda scene: scene.light.night, 0.04, 0.3), (lambda scene: scene.light.wet, 0.02, 0.3),
    (lambda scene: scene.camera.stretch > 1.3, 0.1, 0.4), (lambda scene: scene.camera.stretch < 0.9, 0.05, 0.4),
    (lambda scene: scene.camera.distortion, 0.1, 0.6), (lambda scene: scene.camera.horizon < 190, 0.01, 0.3),
    (lambda scene: scene.camera.horizon > 360, 0.05, 0.4), (lambda scene: scene.markings, 0.1, 0.5),
    (lambda scene: scene.windscreen and scene.windscreen.bonnet, 0.2, 0.6),
    (lambda scene: scene.windscreen and scene.windscreen.dirt, 0.05, 0.4),
    (lambda scene: scene.windscreen and scene.windscreen.reflection, 0.05, 0.4),
    (lambda scene: any(side.front == 'tunnel' for side in scene.sides), 0.002, 0.05),
], ids=['TuSimple', 'street', 'night', 'wet', 'wide crop', '4:3', 'distortion', 'high horizon', 'low horizon',
        'markings', 'bonnet', 'dirt', 'reflection', 'tunnel'])
def test_the_mix_has_a_share_of_everything(there, least, most, scenes):
    assert least <= np.mean([bool(there(scene)) for scene in scenes]) <= most


def test_a_street_labels_paint_alone(scenes):
    streets = [scene for scene in scenes if scene.sides]
    assert all(line.wear <= 0.8 for scene in streets for line in scene.lines)
    bare = [scene for scene in streets if scene.road.lanes not in {line.number for line in scene.lines}]
    assert len(bare) > 10  # a kerb alone at the right
    for scene in bare:
        assert not any(line.labelled and line.offset > scene.road.right - 1 for line in scene.lines)


def test_the_vehicle_before_us_leaves_some_road_to_be_seen(scenes):
    for scene in scenes:
        if scene.windscreen:
            camera, bonnet = scene.camera, scene.windscreen.bonnet
            nearest = camera.tall * camera.height / (720 - bonnet - camera.horizon)
            own = [vehicle.distance for vehicle in scene.vehicles if abs(vehicle.offset) < 1 and scene.sides]
            assert min(own, default=np.inf) > 0.95 * nearest


def test_any_scenes_have_the_same_bytes_whatever_the_number_of_processes(run_script, tmp_path):
    for workers, folder in ((1, 'a'), (2, 'b')):
        outcome = run_script(synthetic_dataset, tmp_path / folder, '--scenes', 'any', '--num', 4, '--seed', 1,
                             '--workers', workers)
        assert not outcome.status and '4 scenes' in outcome.out
    assert files(tmp_path / 'a') == files(tmp_path / 'b')
    freeway = run_script(synthetic_dataset, tmp_path / 'c', '--num', 1, '--seed', 1)
    assert not freeway.status and not files(tmp_path / 'c').items() <= files(tmp_path / 'a').items()


def test_a_drive_takes_no_other_scenes(run_script, tmp_path):
    outcome = run_script(synthetic_dataset, tmp_path / 'a', '--drive', 1, '--scenes', 'any')
    assert outcome.status == 2 and outcome.err.count('\n') == 1 and '--scenes' in outcome.err
    assert not (tmp_path / 'a').exists()


# ---- Cameras ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('camera', [dict(stretch=1.56, focal=700.0, horizon=330.0), dict(stretch=0.75, focal=800.0),
                                    dict(distortion=0.35), dict(distortion=0.1, stretch=1.5, roll=0.02, focal=900.0)],
                         ids=['wide crop', '4:3', 'distortion', 'all'])
def test_label_points_lie_in_the_middle_of_the_painted_lines_of_any_camera(camera):
    scene = plain_scene(0.0)
    scene = dataclasses.replace(scene, camera=dataclasses.replace(scene.camera, **camera))
    photo, checked = paint(scene).mean(-1), 0
    for lane in lane_labels(scene).lanes:
        for x, y in zip(lane, tusimple.H_SAMPLES):
            if y >= 460 and 60 <= x < 1220:
                around = photo[y, x - 60:x + 61]
                bright = np.flatnonzero(around > (around.max() + np.median(around)) / 2) - 60
                assert abs(bright.mean()) <= 4, (x, y)
                checked += 1
    assert checked > 25


def test_a_stretched_photo_is_the_resized_one():
    scene = plain_scene(0.0)
    tall = dataclasses.replace(scene, camera=dataclasses.replace(scene.camera, stretch=1.5, horizon=240.0))
    points = [View(each.camera, each.road).project(1.8, 0.0, [10.0, 20.0]) for each in (scene, tall)]
    np.testing.assert_allclose(points[0][:, 0], points[1][:, 0])
    np.testing.assert_allclose((points[0][:, 1] - 240) * 1.5, points[1][:, 1] - 240)


# ---- Streets ---------------------------------------------------------------------------------------------------------

def side(**values):
    """A kerb at the right, 4 m away, with nothing on it."""
    grey = np.full(3, 200.0)
    return Side(**{**dict(side=1, kerb=4.0, height=0.15, colour=grey, second_colour=grey, width=3.0, shade=150.0,
                          rail='none', rail_colour=np.array([30.0, 120, 60]), rail_place=0.3, front='open',
                          tree_step=0.0, white_trunks=False, people=0), **values})


def street(**values):
    return dataclasses.replace(plain_scene(0.0), sides=(side(**values),))


@pytest.fixture(scope='module')
def kerb():
    return paint(street())


@pytest.mark.parametrize('name, value', [('rail', rail) for rail in RAILS]
                         + [('front', front) for front in ('buildings', 'wall', 'hedge', 'woods', 'tunnel')]
                         + [('tree_step', 8.0), ('people', 8), ('second_colour', np.array([200.0, 20, 20]))])
def test_what_stands_beside_a_street_is_seen_and_not_labelled(name, value, kerb):
    scene = street(**{name: value})
    seen = changed(paint(scene), kerb)
    assert seen[:, 660:].sum() > 800
    assert lane_labels(scene) == lane_labels(plain_scene(0.0))


def test_a_kerb_is_seen_beside_the_road_and_not_on_it(kerb):
    photo = paint(dataclasses.replace(street(), sides=(side(kerb=4.0, colour=np.array([220.0, 20, 20]),
                                                            second_colour=np.array([220.0, 20, 20])),)))
    rows, columns = np.nonzero(changed(photo, kerb))
    offset = (columns - 640) * 1.6 / np.maximum(rows - 240, 1)  # m, of what lies on the road
    assert len(rows) > 1000 and offset[rows > 400].min() > 3.8 and offset[rows > 400].max() < 4.8


def test_traffic_lights_stand_beyond_a_crossing(kerb):
    crossing = Marking('zebra', -1.5, 1.5, 20.0, 24.0, (80.0, 80, 80), 1.0)
    photo = paint(dataclasses.replace(street(), markings=(crossing,)))
    rows, columns = np.nonzero(changed(photo, kerb))
    assert (rows[columns > 660] < 240).sum() > 100  # above the horizon, as nothing else of a crossing


# ---- Markings --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('kind', sorted(MARKINGS))
def test_markings_are_painted_in_their_place_alone(kind, plain):
    marking = Marking(kind, -1.5, 1.5, 10.0, 20.0, (250.0, 250, 250), 0.0)
    scene = dataclasses.replace(plain_scene(0.0), markings=(marking,))
    rows, columns = np.nonzero(changed(paint(scene), plain))
    z = 1.6 * 1500 / np.maximum(rows - 240, 1)
    offset = (columns - 640) * z / 1500
    inside = (np.abs(offset) < 1.6) & (z > 9.5) & (z < 20.8)
    on_lines = np.abs(np.abs(offset) - 1.8) < 0.2  # crossings take their place
    assert inside.sum() > 300 and (inside | on_lines).all()
    assert lane_labels(scene) == lane_labels(plain_scene(0.0))


def test_a_zebra_crossing_interrupts_the_lines(plain):
    marking = Marking('zebra', -1.5, 1.5, 10.0, 14.0, (250.0, 250, 250), 0.0)
    photo = paint(dataclasses.replace(plain_scene(0.0), markings=(marking,)))
    row, column = 240 + 200, 640 + int(1.8 / 1.6 * 200)  # 12 m away
    assert plain[row, column].min() > photo[row, column].max() + 60
    np.testing.assert_allclose(plain[600:], photo[600:], atol=8)  # but for the exposure


def test_symbols_differ_and_arrows_point_ahead():
    shapes = [symbol(number)[:128, :64] for number in range(SYMBOLS)]
    assert len({shape.tobytes() for shape in shapes}) == SYMBOLS
    assert all(0.05 < shape.mean() < 0.8 for shape in shapes)
    straight = shapes[0]
    assert straight[:48].sum() > straight[-48:].sum() and straight[2, 28:36].max() > straight[2, :20].max()
    assert ARROWS < SYMBOLS


# ---- Windscreen ------------------------------------------------------------------------------------------------------

def through(**values):
    return dataclasses.replace(plain_scene(0.0), windscreen=Windscreen(**values))


def test_a_bonnet_hides_the_road_and_ends_the_labels(plain):
    scene = through(bonnet=150.0, bonnet_reach=700.0, bonnet_colour=(200, 20, 20))
    seen = changed(paint(scene), plain)
    edge = scene.windscreen.bonnet_row(np.arange(1280), 720)
    assert edge[640] == 570 and seen[600:, 600:680].mean() > 0.9 and not seen[:560].any()
    short, long = (np.array(lane_labels(each).lanes) for each in (scene, plain_scene(0.0)))
    rows = np.array(tusimple.H_SAMPLES)
    assert (short[:, rows < 560] == long[:, rows < 560]).all()
    for before, after in zip(long, short):
        gone = (before >= 0) & (after < 0)
        assert gone.any() and (rows[gone] > scene.windscreen.bonnet_row(before[gone], 720)).all()


@pytest.mark.parametrize('values', [dict(dirt=0.8), dict(haze=0.8), dict(reflection=1.0), dict(streaks=0.8),
                                    dict(wiper=(300, 750, 700, 300, 20))], ids=lambda values: next(iter(values)))
def test_what_is_on_the_windscreen_is_seen_and_changes_no_label(values, plain):
    scene = through(**values)
    difference = np.abs(paint(scene) - plain).max(-1)
    assert (difference > 8).sum() > 5000 and np.median(difference) < 120
    assert lane_labels(scene) == lane_labels(plain_scene(0.0))


def test_a_mount_makes_the_corners_black():
    photo = paint(through(corners=1.0))
    assert photo[:8, :8].max() < 10 and photo[-8:, -8:].max() < 10 and photo[300:400, 600:700].min() > 20


def test_a_caption_is_written_in_its_place(plain):
    seen = changed(paint(through(caption='2020/02/02 02:02:02', caption_place=(400, 700))), plain)
    rows, columns = np.nonzero(seen)
    assert seen.sum() > 500 and rows.min() > 660 and columns.min() > 380 and columns.max() < 800


# ---- Night -----------------------------------------------------------------------------------------------------------

def at_night(wet=0.0, vehicles=(), **values):
    night = Night(**{**dict(beam=0.0, lamps=(), lamp_step=20.0, lamp_phase=10.0, lamp_height=8.0,
                            lamp_colour=np.ones(3), lamp_glow=0.0), **values})
    scene = plain_scene(0.0, vehicles)
    dark = np.full(3, 10.0)
    return dataclasses.replace(scene, light=dataclasses.replace(scene.light, night=night, wet=wet, ambient=0.2,
                                                                zenith=dark, horizon=dark))


def test_headlights_light_the_road_before_us():
    dark, lit = (photo[450:500, 600:680].mean() / photo[450:500, :200].mean()
                 for photo in (paint(at_night(beam=beam)) for beam in (0.0, 1.0)))
    assert lit > 1.5 * dark


def test_street_lamps_glow_and_light_the_road():
    scene = at_night(lamps=(-5.0,), lamp_glow=0.8)
    photo, dark = paint(scene), paint(at_night())
    (x, y), = View(scene.camera, scene.road).project([-3.5], [8.9], [50.0])
    x, y = int(x), int(y)
    assert photo[y - 2:y + 3, x - 2:x + 3].max() > dark[y - 2:y + 3, x - 2:x + 3].max() + 60
    gain = photo[320:360] / np.maximum(dark[320:360], 1)
    assert gain[:, :500].mean() > 1.15 * gain[:, 780:].mean()


def test_lamps_of_vehicles_glow_only_where_they_are_on():
    vehicles = [[Vehicle('sedan', 0.0, 12.0, (60, 60, 60), True, lights, 1.0)] for lights in (False, True)]
    off, on = (paint(at_night(vehicles=each)) for each in vehicles)
    assert changed(on, off).sum() > 300
    assert not night.lamp_glows(at_night(vehicles=vehicles[0]))


def test_a_wet_road_mirrors_what_is_above_it_and_hides_no_vehicle():
    vehicle = Vehicle('sedan', 0.0, 10.0, (200, 20, 20), False, False, 1.0)
    dry, wet = plain_scene(0.0, [vehicle]), plain_scene(0.0, [vehicle])
    wet = dataclasses.replace(wet, light=dataclasses.replace(wet.light, wet=0.9))
    photos = [paint(dataclasses.replace(scene, lens=dataclasses.replace(scene.lens, exposure=1e-9)))
              for scene in (dry, wet)]
    seen = np.abs(photos[0] - photos[1]).max(-1)
    assert seen[300:420, 900:].mean() > 2
    assert seen[375:400, 600:680].max() <= 1  # the rear of the car
