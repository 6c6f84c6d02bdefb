"""Make road scenes with lane labels, in the layout of the TuSimple lane data set, from nothing but a seed.

    python data/synthetic_dataset.py synthetic --num 2000 --seed 1
    python data/tusimple_dataset_processing.py synthetic

DIR receives clips/synthetic/NNNNNN/20.jpg (1280x720) and, last of all, label_data_synthetic.json: a folder without that
file is an unfinished one. Run again, the script replaces what it wrote before; a folder that holds label files of
another name is refused. The same seed gives the same bytes whatever --workers is, and scene i is the same for any
--num.

How a scene comes about: `sample_scene` draws everything that is true of the world (camera, road, lines, vehicles,
light), `lane_labels` projects the lines into the label, `render` paints the photo. The camera is a pinhole over a road
that bends like a clothoid and rises or falls. Its roll is left out while painting, so that each row of the picture lies
at one distance and every pattern on the road is a product of an across and an along part, both with exact pixel
coverage; the finished picture is turned at the end. Colours are display values 0..255, not linear light.
"""

import concurrent.futures
import dataclasses
import functools
import multiprocessing
import os
import signal
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..'))
from data import command_line

if __name__ == '__main__':
    command_line.exit_on_interrupt()   # the imports below take half a second

import cv2
import numpy as np
import tqdm

from data import files, tusimple

WIDTH, HEIGHT = 1280, 720
LABEL_GAP = 20  # px below the vanishing row where labels begin; the median of TuSimple's
LABEL_EDGE = 5  # px before the sides of the photo where labels end; of TuSimple's half have a point there
MARGIN = 30  # px around the photo that the turn by the camera's roll may bring in
LABEL_FILE = 'label_data_synthetic.json'
NEAREST, FARTHEST = 2.0, 1500.0  # m along the road


# ---- What there is in a scene ------------------------------------------------------------------------------

@dataclasses.dataclass
class Camera:
    """A pinhole: focal length px, height m, (centre, horizon) px where a straight flat road vanishes, roll rad."""
    focal: float
    height: float
    centre: float
    horizon: float
    roll: float


@dataclasses.dataclass
class Road:
    """Offsets are m to the right of the camera's path, along the road's own bend.

    heading: slope dx/dz at the camera; curvature 1/m and its rate 1/m^2 (clothoid); grade: vertical curvature 1/m
    left, right: offsets of the outermost lines; lane_width, shoulders m
    concrete: slabs with joints, otherwise asphalt; shade: brightness of the surface; tint [3]
    joint_offset: m from a lane line to the joint beside it
    oncoming: (offset of the inner line, lanes) of the opposite carriageway, None if unseen; two_way: no median
    """
    heading: float
    curvature: float
    curvature_rate: float
    grade: float
    left: float
    right: float
    lane_width: float
    shoulders: tuple
    concrete: bool
    shade: float
    tint: tuple
    shoulder_shade: float
    joint_offset: float
    oncoming: tuple
    two_way: bool

    def centre(self, z):
        """Lateral position of the camera's path at distance z, in m; the bend stays as it is beyond 250 m."""
        near = np.minimum(z, 250.0)
        beyond = z - near
        curvature = self.curvature + self.curvature_rate * near
        slope = self.heading + self.curvature * near + self.curvature_rate * near ** 2 / 2
        return (self.heading * near + self.curvature * near ** 2 / 2 + self.curvature_rate * near ** 3 / 6
                + slope * beyond + curvature * beyond ** 2 / 2)

    def rise(self, z):
        """Height of the surface at distance z over the plane under the car, in m; the slope stays beyond 300 m."""
        near = np.minimum(z, 300.0)
        return self.grade * near * (near / 2 + (z - near))


@dataclasses.dataclass
class Line:
    """A painted line. pattern: list of (start, length) m within period; ([], 0): unbroken. wear 0 new .. 1 gone."""
    offset: float
    colour: tuple
    width: float
    pattern: list
    period: float
    phase: float
    wear: float
    dots: bool
    labelled: bool


@dataclasses.dataclass
class Vehicle:
    """kind: a key of VEHICLES; offset of its middle m, distance of its near end m, facing us or not."""
    kind: str
    offset: float
    distance: float
    colour: tuple
    oncoming: bool
    lights: bool
    size: float


@dataclasses.dataclass
class Light:
    """azimuth of the sun, rad to the right of straight ahead; elevation rad; shadow: 0 soft .. 1 black.

    zenith, horizon: colours of the sky; haze: visibility in m; ambient: brightness of everything
    """
    azimuth: float
    elevation: float
    shadow: float
    zenith: np.ndarray
    horizon: np.ndarray
    haze: float
    ambient: float
    clouds: float
    dusk: bool


@dataclasses.dataclass
class Lens:
    """What the camera makes of the scene. exposure: the mean brightness that its automatics aim at."""
    exposure: float
    balance: tuple
    contrast: float
    saturation: float
    vignette: float
    blur: float
    motion: float
    noise: float
    glare: float
    quality: int
    bonnet: float


@dataclasses.dataclass
class Scene:
    camera: Camera
    road: Road
    lines: list
    vehicles: list
    light: Light
    lens: Lens


# ---- Drawing a scene from the distributions ----------------------------------------------------------------
# Tuned against the 3,626 training label lines of TuSimple; tests/test_synthetic_dataset.py holds their quantiles.

def sample_scene(rng):
    """Draws a scene. rng: np.random.Generator"""
    camera = sample_camera(rng)
    road = sample_road(rng, camera)
    light = sample_light(rng)
    return Scene(camera, road, sample_lines(rng, road), sample_vehicles(rng, road), light,
                 sample_lens(rng, light))


def sample_camera(rng):
    if rng.random() < 0.88:  # cameras much like that of TuSimple
        return Camera(focal=rng.uniform(1200, 2300), height=1.66 + rng.normal(0, 0.03),
                      centre=650 + rng.normal(0, 12),
                      horizon=np.clip(237 + rng.normal(0, 8), 200, 275), roll=np.deg2rad(rng.normal(0, 0.35)))
    return Camera(focal=rng.uniform(850, 1900), height=rng.uniform(1.35, 2.1), centre=rng.uniform(580, 710),
                  horizon=rng.uniform(190, 320), roll=np.deg2rad(rng.normal(0, 0.9)))


def sample_road(rng, camera):
    lane_width = rng.normal(3.66, 0.07)
    lanes_left = rng.choice(5, p=[0.16, 0.34, 0.28, 0.15, 0.07])
    lanes_right = rng.choice(5, p=[0.13, 0.37, 0.28, 0.15, 0.07])
    bend = rng.random()
    straight, sharp = bend < 0.58, bend > 0.98
    curvature = rng.choice([-1, 1]) * rng.uniform(*(0.0014, 0.0024) if sharp else (0.0002, 0.0012))
    if straight:
        curvature = rng.normal(0, 0.00002)
    # A driver keeps to the lane: most of the offset is small, now and then the car is between two lanes.
    aside = rng.uniform(-1.6, 1.6) if rng.random() < 0.03 else rng.normal(0.1, 0.24)
    grade = 1e-5 if rng.random() < 0.6 else 6e-5
    two_way = lanes_left == 1 and rng.random() < 0.12
    concrete = bool(rng.random() < 0.5)
    shade = rng.uniform(118, 178) if concrete else rng.choice([rng.uniform(62, 100), rng.uniform(90, 140)])
    warm = rng.uniform(-0.02, 0.03)
    tint = np.array([0.99 + warm, 1.0 + 0.4 * warm, 0.97 - warm]) + rng.normal(0, 0.01, 3)
    left = -(lanes_left + 0.5) * lane_width + aside
    shoulders = (rng.choice([rng.uniform(0.4, 1.2), rng.uniform(1.2, 4)]), rng.uniform(0.8, 3.6))
    seen = rng.random() < 0.7
    return Road(heading=rng.normal(0, 26) / camera.focal, curvature=curvature,
                curvature_rate=rng.normal(0, 2e-7 if straight else 3e-6), grade=rng.normal(0, grade),
                left=left, right=(lanes_right + 0.5) * lane_width + aside, lane_width=lane_width,
                shoulders=shoulders, concrete=concrete, shade=shade, tint=tuple(tint),
                shoulder_shade=shade * rng.choice([1.0, rng.uniform(0.6, 0.95), rng.uniform(1.0, 1.3)]),
                joint_offset=rng.choice([-1, 1]) * rng.choice([0.1, rng.uniform(0.08, 0.45)]),
                oncoming=(left - shoulders[0] * rng.uniform(1.2, 2.2)
                          - rng.choice([0.6, rng.uniform(0.6, 14)]) - 1.5,
                          int(rng.integers(2, 6))) if seen and not two_way else None, two_way=bool(two_way))


PATTERNS = [  # (parts, period) m: broken lines of several countries
    ([(0, 3.66)], 14.63), ([(0, 3.05)], 12.19), ([(0, 3.0)], 9.0), ([(0, 6.0)], 18.0), ([(0, 4.0)], 12.0),
    ([(0, 2.0)], 6.0), ([(0, 6.0)], 15.0), ([(0, 1.0)], 3.0),
]
DOTS = [  # raised markers, 0.1 m long: groups of four, single ones, close rows
    ([(0, .10), (1.22, .10), (2.44, .10), (3.66, .10)], 14.63), ([(0, .10), (0.92, .10), (1.83, .10),
                                                                  (2.75, .10)], 14.63),
    ([(0, .10)], 7.3), ([(0, .10)], 2.4),
]


def sample_lines(rng, road):
    """All lines of the own carriageway from left to right, and of the opposite one; the label takes up to five."""
    offsets = np.arange(road.left, road.right + 0.1, road.lane_width)
    own = int(np.searchsorted(offsets, 0)) - 1  # the line at the left of our lane
    labelled = {own - 1, own, own + 1, own + 2}
    if rng.random() < 0.11:
        labelled.add(own - 2 if own > 1 and rng.random() < 0.55 else own + 3)
    raised = rng.random() < (0.5 if road.concrete else 0.12)
    pattern, period = PATTERNS[rng.choice(8, p=[.34, .1, .12, .12, .1, .08, .08, .06])]
    if raised:
        pattern, period = DOTS[rng.choice(4, p=[.5, .3, .1, .1])]
    wear = rng.choice([rng.uniform(0, 0.25), rng.uniform(0.2, 0.75)], p=[0.6, 0.4])
    width = rng.uniform(0.10, 0.17)
    white = np.clip(rng.uniform(200, 250) + rng.normal(0, 4, 3), 0, 255)
    yellow = np.array([235, 180, 60]) * rng.uniform(0.8, 1.03) + rng.normal(0, 12, 3)
    left_colour = yellow if rng.random() < 0.65 else white
    wear_spread = rng.uniform(0, 0.15)
    lines = []
    for i, offset in enumerate(offsets):
        edge = i in (0, len(offsets) - 1)
        style = dict(colour=tuple(left_colour if i == 0 else white), dots=False, pattern=[], period=0.0,
                     width=width * (rng.uniform(1, 1.3) if edge else 1), phase=rng.uniform(0, 20),
                     wear=float(np.clip(wear + rng.normal(0, wear_spread), 0, 0.9)), labelled=i in labelled)
        if road.two_way and i == 1:
            style['colour'] = tuple(left_colour)
        if not edge and not (road.two_way and i == 1 and rng.random() < 0.7) and rng.random() > 0.04:
            style.update(pattern=pattern, period=period, dots=raised)
            if not raised and rng.random() < 0.04:  # a merging lane has shorter, thicker marks
                style.update(pattern=[(0, 1.0)], period=rng.choice([3.0, 4.5]), width=style['width'] * 1.5)
        offset = offset + rng.normal(0, 0.03)
        doubled = (0.5 if road.two_way else 0.15) if not style['pattern'] else 0.02
        if rng.random() < doubled:  # the label runs along the one nearer to us
            apart = np.copysign(style['width'] / 2 + rng.uniform(0.05, 0.1), offset)
            lines.append(Line(offset=offset - apart, **style))
            other = dict(style, labelled=False)
            if road.two_way and rng.random() < 0.3:
                other.update(pattern=PATTERNS[0][0], period=PATTERNS[0][1])
            lines.append(Line(offset=offset + apart, **other))
        else:
            lines.append(Line(offset=offset, **style))
        if raised and style['dots'] and rng.random() < 0.25:  # paint between the raised markers
            lines.append(Line(**dict(vars(lines[-1]), pattern=[(0.1, 3.4)], period=14.63, dots=False,
                                     labelled=False,
                                     wear=rng.uniform(0.2, 0.8))))
    if road.oncoming:
        inner, count = road.oncoming
        for k in range(count + 1):
            edge = k in (0, count)
            lines.append(Line(offset=inner - k * road.lane_width,
                              colour=tuple(left_colour if k == 0 else white),
                              width=width, pattern=[] if edge else pattern, period=period,
                              phase=rng.uniform(0, 20), wear=wear, dots=raised and not edge, labelled=False))
    return lines


def sample_vehicles(rng, road):
    """Traffic lane by lane, from far to near; the own lane is free for some metres ahead."""
    kinds = list(VEHICLES)
    density = rng.choice([0.1, 0.5, 1.0, 1.8], p=[.15, .3, .35, .2])
    vehicles = []

    def fill(offset, near, oncoming, trucks):
        z = near + rng.exponential(25 / density)
        while z < (180 if oncoming else 300):
            p = np.array([5, 4, 1.2, 1.6, 0.7, 0.7 * trucks, 0.6 * trucks, 0.1])
            kind = kinds[rng.choice(len(kinds), p=p / p.sum())]
            paint = np.array(PAINTS[rng.choice(len(PAINTS), p=PAINT_SHARES)]) * rng.uniform(0.75, 1.1)
            if kind in ('box', 'trailer'):
                paint = np.array([225, 225, 222]) * rng.uniform(0.65, 1.05) if rng.random() < 0.8 else paint
            vehicles.append(Vehicle(kind, offset + rng.normal(0, 0.25), z, tuple(np.clip(paint, 8, 250)),
                                    oncoming,
                                    bool(rng.random() < 0.12), rng.uniform(0.94, 1.06)))
            z += VEHICLES[kind].length + 4 + rng.exponential(28 / density)

    count = int(round((road.right - road.left) / road.lane_width))
    for lane in range(count):
        offset = road.left + (lane + 0.5) * road.lane_width
        own = abs(offset) < road.lane_width / 2
        fill(offset, rng.uniform(9, 30) if own else rng.uniform(2.5, 12), road.two_way and lane == 0,
             1.5 if lane >= count - 2 else 0.4)
    if road.oncoming:
        for lane in range(road.oncoming[1]):
            fill(road.oncoming[0] - (lane + 0.5) * road.lane_width, rng.uniform(5, 20), True, 0.8)
    return sorted(vehicles, key=lambda vehicle: -vehicle.distance)


def sample_light(rng):
    kind = rng.choice(['clear', 'overcast', 'low', 'haze', 'dusk'], p=[.46, .2, .14, .1, .1])
    azimuth = rng.uniform(-np.pi, np.pi)
    elevation = np.deg2rad(rng.uniform(25, 70))
    haze, ambient, shadow = rng.uniform(900, 6000), 1.0, rng.uniform(0.45, 0.72)
    clouds = rng.choice([0, rng.uniform(0, 0.8)])
    blue = rng.uniform(0.6, 1.0)
    zenith = np.array([95, 150, 215]) * blue + 20
    horizon = np.array([195, 218, 238]) * rng.uniform(0.9, 1.05)
    if kind == 'overcast':
        grey = rng.uniform(165, 245)
        zenith, horizon = grey * np.array([0.9, 0.93, 0.97]), grey * np.array([1.0, 1.01, 1.02])
        shadow, haze, ambient, clouds = rng.uniform(0, 0.12), rng.uniform(400, 3000), rng.uniform(0.68, 0.95), 0.6
    elif kind == 'low':
        azimuth, elevation = rng.normal(0, 0.7), np.deg2rad(rng.uniform(6, 22))
        horizon = np.array([250, 226, 190]) * rng.uniform(0.9, 1.03)
        haze = rng.uniform(400, 2500)
    elif kind == 'haze':
        haze, shadow = rng.uniform(120, 500), rng.uniform(0.0, 0.45)
        horizon = np.full(3, rng.uniform(190, 235)) + rng.normal(0, 5, 3)
        zenith = horizon * 0.5 + zenith * 0.5
    elif kind == 'dusk':
        ambient, shadow = rng.uniform(0.4, 0.68), 0.0
        zenith = np.array([80, 100, 140]) * rng.uniform(0.6, 1.1)
        horizon = np.array([190, 165, 155]) * rng.uniform(0.7, 1.1) + rng.normal(0, 12, 3)
    return Light(azimuth, elevation, shadow, np.clip(zenith, 0, 250), np.clip(horizon, 0, 252), haze, ambient,
                 float(clouds), kind == 'dusk')


def sample_lens(rng, light):
    against = light.shadow > 0.2 and abs(light.azimuth) < 1.2
    return Lens(exposure=rng.normal(104 if against else 114, 15) * light.ambient ** 0.6,
                balance=tuple(np.exp(rng.normal(0, 0.02, 3)) * (1, 1 + max(0, rng.uniform(-0.05, 0.07)), 1)),
                contrast=rng.uniform(0.0, 0.8), saturation=rng.uniform(0.55, 1.15), vignette=rng.uniform(0,
                                                                                                         0.3),
                blur=rng.choice([rng.uniform(0, 0.6), rng.uniform(0.5, 1.4)], p=[.75, .25]),
                motion=rng.choice([0, rng.uniform(1, 4)], p=[.8, .2]),
                noise=rng.uniform(0.6, 3.0) * (2.2 if light.dusk else 1), glare=rng.uniform(0, 1),
                quality=int(rng.integers(55, 97)), bonnet=rng.uniform(8, 60) if rng.random() < 0.1 else 0.0)


# ---- From scene to label -----------------------------------------------------------------------------------

class View:
    """The camera over the road: where things come to lie in the picture, in px, roll left aside."""

    def __init__(self, camera, road):
        self.camera, self.road = camera, road
        self.z = np.geomspace(NEAREST, FARTHEST, 3000)
        row = self.row(self.z)
        self.skyline = np.minimum.accumulate(row)  # the road behind a crest is hidden
        self.seen = row <= self.skyline
        self.vanishing = self.skyline[-1]

    def row(self, z, height=0.0):
        return self.camera.horizon + self.camera.focal * (self.camera.height - self.road.rise(z) - height) / z

    def column(self, z, offset):
        return self.camera.centre + self.camera.focal * (self.road.centre(z) + offset) / z

    def project(self, offset, height, z):
        """Points [n] in m (clamped to in front of the camera) -> float array [n, 2] in px."""
        z = np.maximum(np.asarray(z, float), NEAREST)
        return np.stack(np.broadcast_arrays(self.column(z, np.asarray(offset, float)), self.row(z, height)), -1)

    def distance(self, rows):
        """Distance m of the road in each row [n] px; rows over the skyline get FARTHEST."""
        return np.interp(rows, self.skyline[::-1], self.z[::-1], right=NEAREST)

    def turn(self):
        """The 2x3 matrix of the camera's roll, about the middle of the photo."""
        c, s = np.cos(self.camera.roll), np.sin(self.camera.roll)
        x, y = WIDTH / 2, HEIGHT / 2
        return np.array([[c, -s, x - c * x + s * y], [s, c, y - s * x - c * y]])


def lane_labels(scene, raw_file=''):
    """The label of a scene as TuSimple draws it: the two lines of the own lane and one or two more on each side.

    Lines go on where something hides them, from the bottom, or LABEL_EDGE before the side of the photo, to LABEL_GAP
    before the horizon. Annotators end their lines a row or two sooner or later; that noise is left out, as nothing in
    a photo foretells it. Of a double line the label follows the one nearer to us.
    Returns a tusimple.Record, lanes from left to right.
    """
    view = View(scene.camera, scene.road)
    turn = view.turn()
    rows = np.array(tusimple.H_SAMPLES)
    lanes = []
    for line in sorted((line for line in scene.lines if line.labelled), key=lambda line: line.offset):
        points = view.project(line.offset, 0.0, view.z)[view.seen] @ turn[:, :2].T + turn[:, 2]
        x, y = points[::-1, 0], np.maximum.accumulate(points[::-1, 1])
        columns = np.rint(np.interp(rows, y, x, left=-1, right=-1)).astype(int)
        hidden = (rows < y[0] + LABEL_GAP) | (rows > HEIGHT - scene.lens.bonnet)
        outside = (columns < LABEL_EDGE) | (columns > WIDTH - 1 - LABEL_EDGE)
        columns[outside | hidden] = tusimple.ABSENT
        if (columns >= 0).sum() >= 4:
            lanes.append(columns.tolist())
    return tusimple.Record(raw_file, lanes[:tusimple.MAX_LANES], list(tusimple.H_SAMPLES))


# ---- The picture -------------------------------------------------------------------------------------------

def render(scene, rng):
    """Paints a scene: uint8 [720, 1280, 3] RGB. rng decides on all that the scene leaves open (texture,
    trees, noise)."""
    canvas = Canvas(scene)
    paint_sky(canvas, rng)
    paint_horizon(canvas, rng)
    paint_ground(canvas, rng)
    paint_banks(canvas, rng)
    things = vehicles_as_things(scene) + roadside(canvas, rng)
    for _, paint in sorted(things, key=lambda thing: -thing[0]):
        paint(canvas, rng)
    return photograph(canvas, rng)


class Canvas:
    """uint8 [rows, columns, 3] with MARGIN around the photo, and what all painters need to know."""

    def __init__(self, scene):
        self.scene, self.light = scene, scene.light
        self.view = View(dataclasses.replace(scene.camera, centre=scene.camera.centre + MARGIN,
                                             horizon=scene.camera.horizon + MARGIN), scene.road)
        self.pixels = np.zeros([HEIGHT + 2 * MARGIN, WIDTH + 2 * MARGIN, 3], np.uint8)
        self.height, self.width = self.pixels.shape[:2]

    def air(self, colour, z):
        """A colour as the light and the haze over the distance z leave it."""
        seen = np.exp(-z / self.light.haze)
        return np.asarray(colour) * self.light.ambient * seen + self.light.horizon * (1 - seen)

    def polygon(self, points, colour):
        """Fills a polygon [n, 2] px with antialiased edges."""
        x = points[:, 0]
        if x.max() > 0 and x.min() < self.width:
            cv2.fillPoly(self.pixels, [sixteenths(points)], clipped(colour), cv2.LINE_AA, 4)

    def polyline(self, points, colour, width):
        """A line of width px, at least one."""
        width = max(1, int(round(width)))
        cv2.polylines(self.pixels, [sixteenths(points)], False, clipped(colour), width, cv2.LINE_AA, 4)

    def facing(self, azimuth):
        """Brightness of an upright face whose normal points to azimuth (0: away from us)."""
        lit = max(0.0, np.cos(azimuth - self.light.azimuth)) * np.cos(self.light.elevation)
        return 1.0 - self.light.shadow * (1 - lit) * 0.85


def clipped(colour):
    return tuple(min(max(float(c), 0.0), 255.0) for c in colour)


def sixteenths(points):
    """Points px [n, 2] as OpenCV takes them for a position finer than a pixel (shift 4)."""
    return np.minimum(np.maximum(points * 16 + 0.5, -120000), 120000).astype(np.int32)


@functools.lru_cache(maxsize=None)
def noise_tile(number, smooth=0.7):
    """float32 [513, 513] of mean 0 and deviation 1 that repeats seamlessly after 512; the same in every process."""
    noise = np.random.default_rng([77, number]).standard_normal([512, 512]).astype(np.float32)
    if smooth:
        noise = cv2.GaussianBlur(np.tile(noise, [3, 3]), (0, 0), smooth)[512:1024, 512:1024]
    return wrapped(noise / noise.std())


def wrapped(tile):
    """float32 [513, 513]: a tile with its first row and column again at the end, for interpolation."""
    return np.pad(tile, (0, 1), mode='wrap')


@functools.lru_cache(maxsize=None)
def cloud_tile():
    """Like noise_tile, with features of all sizes (1/f)."""
    frequency = np.hypot(np.fft.fftfreq(512)[:, None], np.fft.fftfreq(512)[None])
    frequency[0, 0] = np.inf
    spectrum = np.fft.fft2(np.random.default_rng(78).standard_normal([512, 512])) / frequency ** 1.6
    noise = np.fft.ifft2(spectrum).real.astype(np.float32)
    return wrapped(noise / noise.std())


@functools.lru_cache(maxsize=None)
def speck_tile():
    """Like noise_tile, but 0 almost everywhere, with single round spots of up to 1."""
    spots = np.zeros([512, 512], np.float32)
    rng = np.random.default_rng(80)
    for x, y, size in rng.uniform(8, 504, [260, 3]):
        cv2.circle(spots, (int(x * 16), int(y * 16)), int(16 * (0.8 + 2.2 * (size / 504) ** 3)),
                   float(rng.uniform(0.3, 1)), -1, cv2.LINE_8, 4)
    return wrapped(cv2.GaussianBlur(spots, (0, 0), 0.7))


def look_up(tile, x, y):
    """A tile at any places x, y float32 [rows, columns]. (OpenCV's own wrapping is ten times slower.)"""
    x, y = (places - np.floor(places * np.float32(1 / 512)) * np.float32(512) for places in (x, y))
    return cv2.remap(tile, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def wandering(rng, length, scale):
    """A random smooth line: float [length], deviation 1, features about scale entries long and finer ones."""
    total = np.zeros(length)
    for k in range(4):
        knots = max(2, int(length / scale * 2 ** k) + 2)
        total += np.interp(np.linspace(0, knots - 1, length), np.arange(knots),
                           rng.standard_normal(knots)) / 1.8 ** k
    return total / 1.2


def paint_sky(canvas, rng):
    light, view = canvas.light, canvas.view
    end = int(np.clip(view.vanishing + 4, 8, canvas.height))
    y, x = np.meshgrid(np.arange(0, end, 4.0), np.arange(0, canvas.width, 4.0), indexing='ij')
    rows = (np.clip(y / max(view.vanishing, 1), 0, 1) ** 1.3)[..., None]
    sky = light.zenith * (1 - rows) + light.horizon * rows
    if light.clouds:
        above = np.maximum(view.vanishing + 12 - y, 8)
        shift = rng.uniform(0, 512, 2)
        cloud = look_up(cloud_tile(), ((x - view.camera.centre) / above * 45 + shift[0]).astype(np.float32),
                        (6000 / above + shift[1]).astype(np.float32))[..., None]
        cover = np.clip((cloud - 1 + 2 * light.clouds) * 0.6, 0, 0.85) * (1 - rows ** 4)
        sky += (light.horizon * (1.02 - 0.12 * np.clip(cloud, 0, 1)) - sky) * cover
    if abs(light.azimuth) < 1.4 and light.shadow > 0.1:  # brighter around the sun
        sun = sun_position(canvas)
        far = np.hypot(x - sun[0], y - sun[1])[..., None]
        sky += (255 - sky) * (0.95 * np.exp(-far / 60) + 0.5 * np.exp(-far / 420))
    canvas.pixels[:end] = cv2.resize(np.clip(sky, 0, 255).astype(np.float32), (canvas.width, end))
    canvas.pixels[end:] = clipped(light.horizon)


def sun_position(canvas):
    view, light = canvas.view, canvas.light
    return (view.camera.centre + view.camera.focal * np.tan(np.clip(light.azimuth, -1.45, 1.45)),
            view.camera.horizon - view.camera.focal * np.tan(light.elevation))


def paint_horizon(canvas, rng):
    """Hills, then woods or houses, ever nearer and darker, down to the ground."""
    view, width = canvas.view, canvas.width
    before = canvas.pixels.copy()
    green = rng.uniform(0.6, 1.1)
    for z, tall, likely in ((8000, rng.uniform(150, 420), 0.35), (2500, rng.uniform(25, 110), 0.45),
                            (900, rng.uniform(4, 16), 0.9), (500, rng.uniform(2, 11), 0.7)):
        rough = 0.5 + 0.35 * wandering(rng, width, 400 if z > 1000 else 150)
        if z < 3000:  # crowns of trees
            rough = np.maximum(rough, 0.1) * (1 + 0.22 * wandering(rng, width, 16))
        if rng.random() < likely:
            top = view.vanishing + 2 - view.camera.focal / z * tall * np.clip(rough, 0.03, None)
            colour = canvas.air(np.array([75, 88, 62]) * (green if z > 1000 else 0.5 * green),
                                min(z, 0.9 * canvas.light.haze))
            bottom = view.vanishing + 12
            outline = np.stack([np.arange(width), top], 1)
            canvas.polygon(np.vstack([outline, [[width, bottom], [0, bottom]]]), colour)
    roughen(canvas, before, rng, 2.5, 0.09)


def differing(before, after):
    """Where two uint8 [rows, columns, 3] differ: bool [rows, columns]."""
    return cv2.transform(cv2.absdiff(before, after), np.ones([1, 3], np.float32)) > 0


def roughen(canvas, before, rng, size, strength):
    """Gives all that was painted since `before` a texture with features of some size px."""
    changed = differing(before, canvas.pixels)
    rows = np.flatnonzero(changed.any(1))
    if len(rows):
        part = slice(rows[0], rows[-1] + 1)
        y, x = np.meshgrid(np.arange(part.start, part.stop, dtype=np.float32),
                           np.arange(canvas.width, dtype=np.float32), indexing='ij')
        shift = rng.uniform(0, 512, 2).astype(np.float32)
        leaves = look_up(noise_tile(4, 1.2), x / np.float32(size) + shift[0], y / np.float32(size * 0.7) + shift[1])
        leaves += 0.8 * look_up(cloud_tile(), x / 2 + shift[1], y + shift[0])
        gain = 1 + np.float32(strength) * leaves * changed[part]
        canvas.pixels[part] = cv2.multiply(canvas.pixels[part], cv2.merge([gain] * 3), dtype=cv2.CV_8U)


# ---- The ground: everything that lies flat -----------------------------------------------------------------

class Ground:
    """The rows of the canvas that show the ground, as float32, and where their pixels lie in m.

    z [rows]: distance along the road; long, wide [rows]: what one pixel covers along and across;
    across [rows, columns]: offset from the camera's path; pixels [rows, columns, 3]
    """

    def __init__(self, canvas):
        self.canvas, view = canvas, canvas.view
        self.first = int(np.clip(np.ceil(view.vanishing + 0.5), 0, canvas.height - 2))
        rows = np.arange(self.first, canvas.height)
        self.z = view.distance(rows)
        self.far, self.near = view.distance(rows - 0.5), view.distance(rows + 0.5)
        self.long = np.maximum(self.far - self.near, 1e-3)
        self.wide = self.z / view.camera.focal
        self.middle = view.column(self.z, 0.0)
        columns = np.arange(canvas.width)
        self.across = ((columns[None] - self.middle[:, None]) * self.wide[:, None]).astype(np.float32)
        self.pixels = None

    def columns(self, offset):
        """Columns px of an offset m, a number or one per row."""
        return self.middle + offset / self.wide

    def span(self, left, right, colour, strength, worn=0.0, shift=0.0):
        """Paints from offset left to right m (numbers or [rows]) with exact pixel coverage.

        colour: [3], or a number that the ground is multiplied by; strength [rows] 0..1
        worn: 0..1, share of the paint that is off
        """
        canvas = self.canvas
        strength = np.broadcast_to(strength, self.z.shape)
        start, end = self.columns(left) + 0.5, self.columns(right) + 0.5
        first = np.clip(np.floor(start), 0, canvas.width).astype(int)
        last = np.clip(np.ceil(end), 0, canvas.width).astype(int)
        count = np.where(strength > 0.003, np.maximum(last - first, 0), 0)
        rows = np.repeat(np.arange(len(count)), count)
        columns = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count - first, count)
        cover = np.clip(np.minimum(columns + 1, end[rows]) - np.maximum(columns, start[rows]), 0, 1)
        cover = cover * strength[rows]
        if worn:
            cover = cover * (1 - self.flaking(rows, columns, worn, shift))
        cover = cover[:, None].astype(np.float32)
        old = self.pixels[rows, columns]
        new = old * np.float32(colour) if np.ndim(colour) == 0 else np.asarray(colour, np.float32)
        self.pixels[rows, columns] = old + (new - old) * cover

    def flaking(self, rows, columns, worn, shift):
        """How much paint is off at these pixels, 0..1: in flakes near the car, an even share far away."""
        z, x = self.z[rows] + shift, self.across[rows, columns] + shift
        fine = noise_tile(6, 1.5)[(z * 70).astype(int) % 512, (x * 140).astype(int) % 512]
        large = cloud_tile()[(z * 25).astype(int) % 512, (x * 90).astype(int) % 512]
        flakes = 0.55 * worn + 0.45 / (1 + np.exp(-4 * (0.5 * fine + 0.7 * large + 3.0 * (worn - 0.5))))
        blend = np.clip(self.long[rows] / 0.4, 0, 1)
        return np.clip(flakes * (1 - blend) + worn * blend, 0, 1) * (0.35 + 0.65 * min(1, worn * 1.6))

    def along(self, pattern, period, phase, raised=0.0):
        """Share [rows] of each row's stretch of road that lies in the parts (start, length) of a repeating pattern.

        raised: height m; what sticks out of the road hides some of it behind
        """
        raised = raised * self.z / self.canvas.view.camera.height
        total = np.zeros_like(self.z)
        for start, length in pattern:
            def filled(z):
                turns = (z - start + phase) / period
                return np.floor(turns) * (length + raised) + np.minimum((turns - np.floor(turns)) * period,
                                                                        length + raised)
            total += (filled(self.far) - filled(self.near)) / self.long
        return np.clip(total, 0, 1)

    def between(self, start, end):
        """Share [rows] of each row's stretch that lies between two distances m."""
        return np.clip((np.minimum(self.far, end) - np.maximum(self.near, start)) / self.long, 0, 1)

    def texture(self, tile, across, along, shift=(0, 0), rows=slice(None)):
        """A noise tile laid on the ground with texels of across x along m; float32 [rows, columns]."""
        x = self.across[rows] * np.float32(1 / across) + np.float32(shift[0])
        y = np.repeat((self.z[rows] / along + shift[1]).astype(np.float32)[:, None], x.shape[1], 1)
        return look_up(tile, x, y)


def paint_ground(canvas, rng):
    ground = Ground(canvas)
    ground.pixels = surface_colours(canvas, ground, rng)
    paint_patches(ground, rng)
    paint_joints(ground, rng)
    paint_cracks(ground, rng)
    for line in canvas.scene.lines:
        paint_line(ground, line)
    seen = np.exp(-ground.z / canvas.light.haze).astype(np.float32)[:, None]
    bright = grain(canvas, ground, rng)
    bright *= sheen(canvas, ground)
    bright *= shadows(canvas, ground, rng)
    bright *= seen * np.float32(canvas.light.ambient)
    ground.pixels = cv2.multiply(ground.pixels, cv2.merge([bright] * 3))
    ground.pixels += (1 - seen)[..., None] * canvas.light.horizon.astype(np.float32)
    canvas.pixels[ground.first:] = cv2.convertScaleAbs(ground.pixels)


def surface_colours(canvas, ground, rng):
    """The materials across the road, from one verge to the other: float32 [rows, columns, 3]."""
    road = canvas.scene.road
    step, reach = 0.025, 75.0
    s = np.arange(-reach, reach, step)
    verge = np.array(rng.choice([[92, 104, 60], [128, 118, 82], [148, 138, 120], [70, 88, 48],
                                 [110, 112, 104]]))
    table = np.repeat(verge[None] * rng.uniform(0.7, 1.1), len(s), 0).astype(np.float64)
    table *= 1 + 0.1 * wandering(rng, len(s), 120)[:, None]
    surface = road.shade * np.array(road.tint)

    def lay(left, right, shade):
        table[(s >= left) & (s < right)] = surface * shade
    left_edge, right_edge = road.left - road.shoulders[0], road.right + road.shoulders[1]
    if road.oncoming:
        inner, count = road.oncoming
        lay(inner - count * road.lane_width - 2.5, inner + 1.5, rng.uniform(0.85, 1.1))
    lay(left_edge, right_edge, road.shoulder_shade / road.shade)
    lay(road.left - 0.3, road.right + 0.3, 1.0)
    tracks, oil = rng.normal(0, 0.04), rng.uniform(0, 0.22) * (1 if road.concrete else 0.5)
    count = int(round((road.right - road.left) / road.lane_width))
    for lane in range(count):
        middle = road.left + (lane + 0.5) * road.lane_width
        inside = np.abs(s - middle) < road.lane_width / 2
        own_oil, own_tracks = oil * rng.uniform(0.3, 1.2), tracks + rng.normal(0, 0.02)
        gain = 1 + rng.normal(0, 0.03) * inside
        for side in (-0.85, 0.85):
            gain = gain + own_tracks * np.exp(-((s - middle - side) / 0.3) ** 2)
        gain = gain - own_oil * np.exp(-((s - middle - rng.normal(0, 0.08)) / rng.uniform(0.22, 0.5)) ** 2)
        table *= gain[:, None]
    streaks = (s > left_edge) & (s < right_edge)
    table[streaks] *= 1 + rng.uniform(0.004, 0.02) * wandering(rng, streaks.sum(), 30)[:, None]
    index = np.clip((ground.across + reach) / step, 0, len(s) - 1).astype(np.int32)
    return table.astype(np.float32)[index]


def grain(canvas, ground, rng):
    """Brightness of the texture: float32 [rows, columns], around 1; each octave fades where pixels outgrow it."""
    road = canvas.scene.road
    rough = rng.uniform(0.5, 1.3) * (0.8 if road.concrete else 1.1)
    total = 1 + ground.texture(cloud_tile(), 0.06, 0.25,
                               rng.uniform(0, 512, 2)) * np.float32(rng.uniform(0.005, 0.035))
    edge = max(road.right + road.shoulders[1], road.shoulders[0] - road.left)
    for number, across, along, strength, least in ((0, 0.006, 0.012, 0.055, 0.006),
                                                   (1, 0.03, 0.05, 0.035, 0.004),
                                                   (2, 0.12, 0.9, 0.016, 0.002)):
        fade = strength * rough / np.sqrt(1 + (ground.long / along) * (ground.wide / across) * 0.5)
        shift = rng.uniform(0, 512, 2)
        if fade[-1] > least:
            rows = slice(int(np.argmax(fade > least)), None)
            part = ground.texture(noise_tile(number), across, along, shift, rows)
            total[rows] += part * fade[rows, None].astype(np.float32)
    rows = slice(int(np.argmax(ground.z < 45)), None)
    if ground.z[-1] < 45:  # pits and stones
        fade = rng.uniform(0.0, 0.3) / (1 + (ground.z[rows] / 16) ** 3)
        total[rows] -= ground.texture(speck_tile(), 0.012, 0.02, shift, rows) * fade[:,
                                                                                     None].astype(np.float32)
    # Grass and gravel are rougher than any road.
    rough = (np.maximum(np.abs(ground.across) - np.float32(edge), 0) > 0).astype(np.float32) * np.float32(2.5)
    total += (total - 1) * rough
    return total


def paint_line(ground, line):
    wobble = 0.012 * np.interp(ground.z, np.arange(0, 200, 1.0),
                               wandering(np.random.default_rng(int(line.phase * 1e6)), 200, 8))
    middle = line.offset + wobble
    if line.dots:  # raised, so higher than flat marks; their shaded side is towards us if the sun is ahead
        light = ground.canvas.light
        rng = np.random.default_rng(int(line.phase * 1e6))
        metre = np.minimum(ground.z + line.phase - line.pattern[0][0] + 0.5, 2000).astype(int)
        middle = middle + rng.normal(0, 0.025, 2001)[metre]
        there = rng.random(2001)[metre] > 0.3 * line.wear  # some are lost
        along = there * ground.along(line.pattern, line.period, line.phase, 0.009)
        edge = there * ground.along([(start - 0.03, 0.06) for start, _ in line.pattern], line.period,
                                    line.phase, 0.004)
        ground.span(middle - 0.055, middle + 0.055, line.colour, along, 0.4 * line.wear, line.offset)
        ground.span(middle - 0.06, middle + 0.06, 1 - 0.75 * light.shadow * max(0.3, np.cos(light.azimuth)), edge)
        return
    along = ground.along(line.pattern, line.period, line.phase) if line.pattern else 1.0
    left, right = middle - line.width / 2, middle + line.width / 2
    if line.wear > 0.02:  # old paint leaves a paler or darker ghost
        ground.span(left, right, 1.0 + 0.12 * (0.5 - line.wear), along)
    ground.span(left, right, line.colour, along, line.wear, line.phase)


def paint_joints(ground, rng):
    """Seams along the lane lines and across the slabs: the marks most easily taken for lane lines."""
    road = ground.canvas.scene.road
    dark = rng.uniform(0.35, 0.75)
    width = rng.uniform(0.01, 0.04)
    lines = np.arange(road.left, road.right + 0.1, road.lane_width)
    if road.concrete or rng.random() < 0.35:
        for offset in lines:
            if rng.random() < 0.85:
                path = offset + road.joint_offset + 0.008 * np.interp(ground.z, np.arange(0, 1500, 2),
                                                                      wandering(rng, 750, 5))
                path = path + 0.008 * ragged(ground, rng)
                half = width / 2 * np.clip(1 + 0.45 * ragged(ground, rng), 0.3, 2.2)
                ground.span(path - half, path + half, dark, 1.0, 0.3 * rng.random() + 0.01, offset)
    if rng.random() < 0.3:  # a second seam, off the lines, pale or dark
        for offset in lines[:-1] + rng.uniform(0.3, 0.7) * road.lane_width:
            if rng.random() < 0.6:
                ground.span(offset - 0.02, offset + 0.02, rng.uniform(0.7, 1.15), 1.0, 0.4, offset)
    if road.concrete:
        slab, phase, strength = rng.uniform(3.6, 6.5), rng.uniform(0, 6), rng.uniform(0.1, 0.8)
        ground.span(road.left - 0.5, road.right + 0.5, rng.uniform(0.55, 0.85),
                    strength * ground.along([(0, 0.03)], slab, phase))
    for _ in range(rng.poisson(0.4)):  # the joint of a bridge, or where the surface was renewed
        z = rng.uniform(12, 120)
        ground.span(road.left - 3, road.right + 3, rng.uniform(0.5, 1.4),
                    ground.between(z, z + rng.uniform(0.2, 0.9)))
    if rng.random() < 0.12:
        z = rng.uniform(15, 80)
        ground.span(-60, 60, rng.uniform(0.75, 1.2), ground.between(z, FARTHEST))


def ragged(ground, rng):
    """Noise [rows] of deviation 1 along the road, 0.1 m and longer; less and less is left of it far away."""
    return np.interp(ground.z, np.arange(0, 120, 0.08), wandering(rng, 1500, 3)) / np.sqrt(1 + ground.long
                                                                                           / 0.2)


def paint_cracks(ground, rng):
    road = ground.canvas.scene.road
    if rng.random() < 0.45:
        sealed = rng.random() < 0.5
        for _ in range(rng.poisson(4)):
            z = rng.uniform(4, 60)
            offset = rng.uniform(road.left, road.right)
            path = offset + rng.uniform(0.03, 0.15) * np.interp(ground.z, np.arange(0, 200, 0.15),
                                                                wandering(rng, 1334, 40))
            half = rng.uniform(0.004, 0.01) if not sealed else rng.uniform(0.015, 0.035)
            ground.span(path - half, path + half, rng.uniform(0.35, 0.7),
                        ground.between(z, z + rng.uniform(3, 25)))
        for _ in range(rng.poisson(2) if sealed else 0):  # sealed ones across
            z, left = rng.uniform(6, 60), rng.uniform(road.left, road.right - 2)
            ground.span(left, left + rng.uniform(2, 7), 0.6, ground.between(z, z + rng.uniform(0.05, 0.1)))


def paint_patches(ground, rng):
    road = ground.canvas.scene.road
    for _ in range(rng.poisson(1.3)):
        z, lane = rng.uniform(5, 90), rng.integers(0, int(round((road.right - road.left) / road.lane_width)))
        left = road.left + lane * road.lane_width + rng.choice([0.1, rng.uniform(0, 2)])
        width = min(rng.choice([road.lane_width - 0.2, rng.uniform(0.5, 2.5)]),
                    road.left + (lane + 1) * road.lane_width - left)
        ground.span(left, left + width, rng.uniform(0.72, 1.22),
                    ground.between(z, z + rng.exponential(18) + 1))
    for _ in range(rng.poisson(0.6)):  # black streaks of braking tyres
        z, offset = rng.uniform(5, 50), rng.uniform(road.left, road.right)
        slant = rng.normal(0, 0.02)
        for side in (0, 1.5):
            path = offset + side + slant * ground.z
            ground.span(path - 0.1, path + 0.1, rng.uniform(0.75, 0.9),
                        ground.between(z, z + rng.uniform(5, 30)))


def sheen(canvas, ground):
    """Against the sun the road shines towards it: a gain, float32 [rows, columns] or 1."""
    light = canvas.light
    if light.shadow < 0.1 or abs(light.azimuth) > 1.2:
        return np.float32(1)
    x, _ = sun_position(canvas)
    rows = 0.35 * np.cos(light.elevation) ** 2 * (1 - 0.7 * np.exp(-ground.z / 60))
    columns = np.exp(-((np.arange(canvas.width) - x) / 420) ** 2)
    return (1 + rows[:, None] * columns[None]).astype(np.float32)


def shadows(canvas, ground, rng):
    """What shadows leave of the light on the ground: float32 [rows, columns], 0..1."""
    light, road = canvas.light, canvas.scene.road
    mask = np.zeros(ground.across.shape, np.uint8)
    top = np.array([0, ground.first])
    # m along the ground per m of height
    away = np.array([np.sin(light.azimuth), np.cos(light.azimuth)]) / -np.tan(light.elevation)

    def cast(ground_points, value=255):
        points = np.array(ground_points, float)
        points = canvas.view.project(points[:, 0], 0.0, points[:, 1]) - top
        hull = cv2.convexHull(np.clip(points, -6000, 6000).astype(np.float32))[:, 0]
        cv2.fillPoly(mask, [sixteenths(hull)], value, cv2.LINE_AA, 4)

    sunny = light.shadow > 0.15
    if sunny:
        if rng.random() < 0.3:  # trees at one side throw dapples over part of the road
            start, length = rng.choice([rng.uniform(2, 40), rng.uniform(20, 90)]), rng.exponential(25) + 3
            noise = ground.texture(cloud_tile(), rng.uniform(0.03, 0.09), rng.uniform(0.03, 0.12),
                                   rng.uniform(0, 512, 2))
            side, reach = rng.choice([-1, 1]), rng.uniform(2, 14)
            edge = (road.right if side > 0 else road.left) - side * reach
            cover = np.clip((ground.across - edge) * side / 2.5, -2, 0.8)
            cover += np.clip(np.minimum(ground.z - start, start + length - ground.z) / 4, -3,
                             0.6).astype(np.float32)[:, None]
            soft = np.maximum(0.12, ground.long / 2).astype(np.float32)[:, None]
            mask = np.maximum(mask,
                              (np.clip((noise + cover * 1.3 - 0.6) / soft + 0.5, 0, 1)
                               * 255).astype(np.uint8))
        if rng.random() < 0.12:  # a bridge, maybe just overhead
            z, slant = rng.uniform(3, 70), rng.normal(0, 0.3)
            deep = rng.uniform(8, 25)
            cast([(-60, z - 60 * slant), (60, z + 60 * slant), (60, z + deep + 60 * slant),
                  (-60, z + deep - 60 * slant)])
        if rng.random() < 0.25:  # poles, gantries, single trees
            for _ in range(rng.integers(1, 4)):
                z, side, thick = rng.uniform(4, 70), rng.choice([-1, 1]), rng.uniform(0.08, 0.3)
                x = road.right + 2 if side > 0 else road.left - 2
                length = rng.uniform(6, 14)
                dx, dz = away * length
                dx = -side * max(abs(dx), 5)
                cast([(x, z), (x, z + thick), (x + dx, z + dz), (x + dx, z + dz + thick)])
        if rng.random() < 0.05:  # the truss of a sign gantry
            z = rng.uniform(5, 40)
            for dz in (0, 2.2):
                cast([(-30, z + dz), (30, z + dz), (30, z + dz + 0.25), (-30, z + dz + 0.25)])
            for x in np.arange(-30, 30, 2.5):
                for a, b in ((0, 2.2), (2.2, 0)):
                    cast([(x, z + a), (x + 0.15, z + a), (x + 1.25, z + b), (x + 1.4, z + b)])
    for vehicle in canvas.scene.vehicles:
        if vehicle.distance > 260:
            continue
        shape = VEHICLES[vehicle.kind]
        x, z, half = vehicle.offset, vehicle.distance, shape.width / 2
        box = np.array([(x - half, z), (x + half, z), (x + half, z + shape.length),
                        (x - half, z + shape.length)])
        if sunny:
            reach = np.clip(away * shape.height * 0.92, -25, 25)
            cast(np.vstack([box, box + reach]))
    mask = cv2.GaussianBlur(mask, (0, 0), 0.8).astype(np.float32) / 255
    under = np.zeros(ground.across.shape, np.uint8)  # beneath vehicles it is dark in any light
    for vehicle in canvas.scene.vehicles:
        shape = VEHICLES[vehicle.kind]
        x, z, half = vehicle.offset, vehicle.distance, shape.width / 2 - 0.05
        box = [(x - half, z - 0.15), (x + half, z - 0.15), (x + half, z + shape.length),
               (x - half, z + shape.length)]
        points = canvas.view.project(*np.array([(a, 0, b) for a, b in box]).T) - top
        cv2.fillPoly(under, [sixteenths(points)], 255, cv2.LINE_AA, 4)
    under = cv2.GaussianBlur(under, (0, 0), 3).astype(np.float32)
    return (1 - np.float32(light.shadow) * mask) * (1 - np.float32(0.8 / 255) * under)


# ---- Vehicles ----------------------------------------------------------------------------------------------

@dataclasses.dataclass
class Shape:
    """A vehicle seen from its side: convex outlines [(m from the rear, m up)], clockwise from the lower rear.

    body over the full width, cabin narrower at the top; wheels: their places from the rear; box: no glass in it
    """
    length: float
    width: float
    height: float
    body: list
    cabin: list
    wheels: tuple
    radius: float = 0.33
    box: bool = False


VEHICLES = {
    'sedan': Shape(4.7, 1.82, 1.45, [(.1, .28), (0, .5), (0, .96), (.3, 1.02), (3.3, .97), (4.5, .75),
                                     (4.7, .5), (4.6, .26)],
                   [(.35, .98), (1.15, 1.42), (2.5, 1.45), (3.6, .95)], (.95, 3.75)),
    'suv': Shape(4.7, 1.92, 1.76, [(.1, .38), (0, .55), (0, 1.08), (3.5, 1.08), (4.55, .98), (4.7, .6),
                                   (4.6, .36)],
                 [(.03, 1.06), (.35, 1.7), (2.6, 1.76), (3.6, 1.06)], (.95, 3.7), 0.37),
    'van': Shape(5.0, 1.96, 1.85, [(.1, .3), (0, .5), (0, 1.1), (3.9, 1.05), (4.9, .8), (5.0, .5),
                                   (4.9, .28)],
                 [(.02, 1.08), (.25, 1.8), (3.0, 1.85), (4.2, 1.04)], (.95, 4.0)),
    'pickup': Shape(5.6, 1.98, 1.85, [(.1, .48), (0, .6), (0, 1.12), (4.2, 1.12), (5.5, 1.05), (5.6, .65),
                                      (5.5, .45)],
                    [(1.75, 1.1), (1.95, 1.8), (3.3, 1.85), (4.2, 1.1)], (1.15, 4.5), 0.4),
    'hatch': Shape(4.0, 1.75, 1.5, [(.1, .28), (0, .5), (0, .98), (3.1, .95), (3.9, .75), (4.0, .5),
                                    (3.9, .26)],
                   [(.05, .96), (.45, 1.46), (2.0, 1.5), (3.1, .94)], (.7, 3.2), 0.31),
    'box': Shape(8.0, 2.4, 3.5, [(0, .95), (0, 3.5), (6, 3.5), (6, .95)],
                 [(6.2, .5), (6.2, 2.5), (7.5, 2.5), (8, .6)],
                 (1.6, 6.8), 0.46, True),
    'trailer': Shape(18.5, 2.55, 4.1, [(0, 1.15), (0, 4.1), (14, 4.1), (14, 1.15)],
                     [(15, .6), (15, 3.8), (17.5, 3.2), (18.5, .6)], (1.4, 2.7, 14.6, 17.4), 0.5, True),
    'bus': Shape(12, 2.55, 3.2, [(0, .4), (0, 3.2), (12, 3.2), (12, .4)], [], (2.8, 9.5), 0.48),
}
PAINTS = [(225, 226, 226), (168, 172, 175), (98, 100, 103), (30, 31, 34), (130, 28, 26), (38, 58, 100),
          (170, 158, 130), (60, 78, 62)]
PAINT_SHARES = [.25, .2, .15, .2, .06, .08, .04, .02]
GLASS = np.array([38.0, 46, 52])


def vehicles_as_things(scene):
    return [(vehicle.distance, functools.partial(paint_vehicle, vehicle=vehicle))
            for vehicle in scene.vehicles]


class Body:
    """Draws in a vehicle's own coordinates: a m to the right of its middle, b m up, c m away from its near end."""

    def __init__(self, canvas, vehicle):
        self.canvas, self.vehicle = canvas, vehicle
        self.scale = vehicle.size
        self.shape = VEHICLES[vehicle.kind]
        view, near, far = canvas.view, vehicle.distance, vehicle.distance + self.shape.length
        ends = np.array([near, far])
        (self.x, x), (self.y, y) = view.road.centre(ends) + vehicle.offset, view.road.rise(ends)
        self.turn, self.climb = (x - self.x) / self.shape.length, (y - self.y) / self.shape.length
        self.rear, self.side = canvas.facing(np.pi), {-1: canvas.facing(-np.pi / 2),
                                                      1: canvas.facing(np.pi / 2)}

    def points(self, points):
        a, b, c = np.asarray(points, float).T * self.scale
        if self.vehicle.oncoming:  # the outlines are given from the rear
            c = self.shape.length * self.scale - c
        camera = self.canvas.view.camera
        scale = camera.focal / np.maximum(self.vehicle.distance + c, NEAREST)
        points = np.empty([len(a), 2])
        points[:, 0] = camera.centre + (self.x + self.turn * c + a) * scale
        points[:, 1] = camera.horizon + (camera.height - self.y - self.climb * c - b) * scale
        return points

    def fill(self, points, colour):
        self.canvas.polygon(self.points(points), self.canvas.air(colour, self.vehicle.distance))

    def prism(self, outline, low, high, colour, glass=None):
        """Paints the faces that look at us of an outline drawn out to half the widths low (bottom) and high
        (top)."""
        outline = np.array(outline)
        bottom, top = outline[:, 1].min(), outline[:, 1].max()
        half = low + (high - low) * (outline[:, 1] - bottom) / (top - bottom)
        if not self.shape.box:  # rounded at both ends, drawn in at the sills
            c = outline[:, 0]
            half = half * (1 - 0.09 * np.exp(-np.minimum(c, self.shape.length - c) / 0.25))
            half = half * (1 - 0.05 * (outline[:, 1] < 0.45))
        turn = -1 if self.vehicle.oncoming else 1
        for side in (-1, 1):
            face = np.column_stack([side * half, outline[:, 1], outline[:, 0]])
            if area(self.points(face)) * side * turn > 0:
                self.fill(face, colour * self.side[side])
                if glass is not None:
                    panes = 1 if face[:, 2].max() - face[:, 2].min() < 2 else 2
                    for pane in range(panes):
                        self.fill(window(face, pane, panes), glass * self.side[side])
        for i in range(len(outline)):
            j = (i + 1) % len(outline)
            face = np.array([(-half[i], *outline[i][::-1]), (half[i], *outline[i][::-1]),
                             (half[j], *outline[j][::-1]), (-half[j], *outline[j][::-1])])
            if area(self.points(face)) * turn < 0:
                rise = abs(outline[j][0] - outline[i][0]) / (np.hypot(*(outline[j] - outline[i])) + 1e-6)
                light = self.rear * (1 - rise) + 1.08 * rise
                self.fill(face, colour * light)
                if glass is not None and 0.05 < rise < 0.96:
                    middle = face.mean(0)
                    self.fill(middle + (face - middle) * 0.84, glass * (0.6 + 0.7 * rise))


def area(points):
    x, y = points.T
    return x[:-1] @ y[1:] - y[:-1] @ x[1:] + x[-1] * y[0] - y[-1] * x[0]


def window(face, pane, panes):
    """A side window: the cabin's side, drawn in, cut upright into panes."""
    middle = face.mean(0)
    inner = middle + (face - middle) * np.array([1, 0.78, 0.88])
    start, end = inner[:, 2].min(), inner[:, 2].max()
    cut = start + (end - start) * np.array([pane + 0.03, pane + 0.97]) / panes
    bottom, top = inner[np.argmin(inner[:, 1])], inner[np.argmax(inner[:, 1])]
    order = np.argsort(inner[:, 2])
    upper = np.interp(cut, inner[order, 2], inner[order, 1])
    peak = inner[(inner[:, 2] > cut[0]) & (inner[:, 2] < cut[1]) & (inner[:, 1] > middle[1])]
    ridge = peak[np.argsort(peak[:, 2])]
    outline = [(cut[0], bottom[1]), (cut[0], max(upper[0], bottom[1] + 0.02))]
    outline += [(c, b) for _, b, c in ridge] + [(cut[1], max(upper[1], bottom[1] + 0.02)),
                                                (cut[1], bottom[1])]
    share = [(b - bottom[1]) / (top[1] - bottom[1] + 1e-6) for _, b in outline]
    return np.array([(bottom[0] + (top[0] - bottom[0]) * f, b, c) for (c, b), f in zip(outline, share)])


def paint_far_vehicle(body, colour, near):
    """One of a few pixels: its end, its window, the dark below."""
    shape = body.shape
    half, (low, top), high = shape.width / 2, np.array(shape.body)[:, 1][[0, 2]], shape.height

    def plate(half_low, half_high, b0, b1, tint):
        body.fill([(-half_low, b0, near), (half_low, b0, near), (half_high, b1, near),
                   (-half_high, b1, near)], tint)
    plate(half * 0.95, half * 0.95, 0.0, low + 0.05, np.array([22.0, 22, 24]))
    if high > top + 0.1:
        plate(half * 0.92, half * 0.75, top, high, colour * 1.05)
        plate(half * 0.8, half * 0.66, top + 0.06, high - 0.08, GLASS)
    plate(half, half, low, top, colour * body.rear)
    for side in (-1, 1):
        tint = np.array([210.0, 212, 215]) if body.vehicle.oncoming else np.array([130.0, 22, 18])
        body.fill(np.array([(0.7, .6, near), (.95, .6, near), (.95, .8, near), (.7, .8, near)])
                  * [side * half, top, 1], tint)


def paint_vehicle(canvas, rng, vehicle):
    """Paints a vehicle; on near ones the light falls off from the top down and is uneven as on real sheet
    metal."""
    view, shape = canvas.view, VEHICLES[vehicle.kind]
    middle, size = view.column(vehicle.distance, vehicle.offset), view.camera.focal / vehicle.distance
    left, right = (int(np.clip(middle + side * size * 3, 0, canvas.width)) for side in (-1, 1))
    top, bottom = (int(np.clip(view.row(vehicle.distance, up), 0, canvas.height))
                   for up in (shape.height * 1.1, -0.3))
    before = canvas.pixels[top:bottom, left:right].copy() if shape.height * size > 30 else None
    paint_body(canvas, rng, vehicle)
    if before is not None and before.size:
        part = canvas.pixels[top:bottom, left:right]
        y, x = np.meshgrid(np.linspace(0, 1, bottom - top, dtype=np.float32),
                           np.arange(right - left, dtype=np.float32), indexing='ij')
        uneven = look_up(cloud_tile(), x * np.float32(90 / size) + np.float32(rng.uniform(0, 512)),
                         y * np.float32(160) + np.float32(rng.uniform(0, 512)))
        gain = 1 + ((0.5 - y) * 0.35 + 0.09 * uneven) * differing(before, part)
        part[:] = cv2.multiply(part, cv2.merge([gain] * 3), dtype=cv2.CV_8U)


def paint_body(canvas, rng, vehicle):
    body, shape = Body(canvas, vehicle), VEHICLES[vehicle.kind]
    half = shape.width / 2
    colour = np.array(vehicle.colour)
    size = canvas.view.camera.focal * shape.height / vehicle.distance  # px
    middle = canvas.view.column(vehicle.distance, vehicle.offset)
    if not -1500 < middle < canvas.width + 1500:
        return
    if size < 18:  # px
        paint_far_vehicle(body, colour, shape.length if vehicle.oncoming else 0.0)
        return
    tyre = np.array([20.0, 20, 21])
    near = shape.length if vehicle.oncoming else 0.0  # the end that we see
    inward = -1 if vehicle.oncoming else 1
    axle = shape.wheels[-1] if vehicle.oncoming else shape.wheels[0]
    for side in (-1, 1):
        thick = 0.5 if shape.box else 0.22
        a = np.array([side * half, side * (half - thick)]) * 0.97
        c = axle - inward * shape.radius * 0.6
        body.fill([(a[0], 0, c), (a[1], 0, c), (a[1], 2 * shape.radius, c), (a[0], 2 * shape.radius, c)],
                  tyre)
    parts = [(shape.body, half, half, None),
             (shape.cabin, half * 0.93, half * (0.76 if not shape.box else 0.93), GLASS)]
    if shape.box:
        dark = np.array([30.0, 30, 32])
        body.prism([(0.3, .6), (0.3, 1.15), (shape.length - 1, 1.15), (shape.length - 1, .6)], half * .5,
                   half * .5, dark)
        parts[1] = (shape.cabin, half * 0.95, half * 0.9, GLASS if vehicle.oncoming else None)
        parts = parts if vehicle.oncoming else parts[::-1]
        parts = [(outline, low, high, glass, colour if outline is shape.body else np.roll(colour, 1) * 0.7)
                 for outline, low, high, glass in parts]
        parts.sort(key=lambda part: part[0] is shape.body, reverse=vehicle.oncoming)
    for outline, low, high, glass, *own in parts:
        if outline:
            body.prism(outline, low, high, own[0] if own else colour, glass)
    visible = -1 if canvas.view.road.centre(vehicle.distance) + vehicle.offset > 0 else 1
    for place in shape.wheels:
        if abs(canvas.view.road.centre(vehicle.distance) + vehicle.offset) < half:
            continue
        for radius, tone in ((shape.radius * 1.15, 14), (shape.radius, 26), (shape.radius * 0.6, 105)):
            t = np.linspace(0, 2 * np.pi, 18, endpoint=False)
            rim = np.column_stack([np.full(18, visible * half * 0.98), shape.radius + radius * np.sin(t),
                                   place + radius * np.cos(t)])
            body.fill(rim, np.full(3, float(tone)) * body.side[visible])

    def plate(a0, a1, b0, b1, tint):
        body.fill([(a0, b0, near), (a1, b0, near), (a1, b1, near), (a0, b1, near)], np.asarray(tint, float))
    light = body.rear
    low, top = min(b for _, b in shape.body), max(b for _, b in shape.body)
    if shape.box and not vehicle.oncoming:
        plate(-half, half, low, low + 0.1, colour * 0.5 * light)
        plate(-0.02, 0.02, low, top, colour * 0.55 * light)
        for side in (-1, 1):
            plate(side * half, side * (half - .06), low, top, colour * 0.75 * light)
            plate(side * 0.45, side * 0.48, low + 0.1, top - 0.1, colour * 0.8 * light)
        plate(-half * .9, half * .9, .55, .65, (50, 50, 52))
        lamps, lamp_height = (0.75, 0.92), (low - .2, low - .08)
    else:
        plate(-half * .98, half * .98, low + .02, low + .28 * (top - low), colour * 0.55 * light)
        lamps, lamp_height = (0.66, 0.97), (low + .6 * (top - low), low + .85 * (top - low))
        if shape.body and vehicle.kind == 'bus':
            plate(-half * .85, half * .85, 1.7, 2.8, GLASS)
            lamps, lamp_height = (0.8, 0.95), (0.8, 1.1)
        if vehicle.oncoming:
            plate(-half * .55, half * .55, low + .35 * (top - low), low + .62 * (top - low), (28, 28, 30))
            lamp_height = (low + .5 * (top - low), low + .75 * (top - low))
        plate(-.26, .26, low + .38 * (top - low), low + .55 * (top - low), np.array([190, 192, 195]) * light
              * 0.85)
    on = vehicle.lights or (canvas.light.dusk and vehicle.size > 0.97)
    for side in (-1, 1):
        tint = np.array([215, 218, 220]) * light if vehicle.oncoming else np.array([96, 14, 14]) * (0.4 + 0.6
                                                                                                    * light)
        if on:
            tint = np.array([255, 250, 235]) if vehicle.oncoming else np.array([245, 45, 28])
            tint = tint / max(canvas.light.ambient, 0.3)
        plate(side * half * lamps[0], side * half * lamps[1], *lamp_height, tint)
    if canvas.light.shadow > 0.3 and rng.random() < 0.35 and not shape.box:  # the sun glints in the glass
        x, y = body.points([(rng.uniform(-half, half) * 0.7, shape.height * rng.uniform(0.75, 0.98),
                             near + inward * 0.8)])[0]
        radius = np.clip(size * 0.03, 1.0, 5)
        for reach in (1.0, 2.2):
            if radius * reach >= 1:
                t = np.linspace(0, 2 * np.pi, 8, endpoint=False)
                spike = radius * np.where(np.arange(8) % 2, 0.4, reach)
                canvas.polygon(np.column_stack([x + spike * np.cos(t), y + spike * np.sin(t)]),
                               (255, 255, 250))


# ---- Beside and above the road -----------------------------------------------------------------------------

@functools.lru_cache(maxsize=None)
def tree_sprite(number):
    """A tree on 320x256 px: (brightness uint8, cover uint8); the same in every process."""
    rng = np.random.default_rng([79, number])
    height, width = 320, 256
    tone, cover = np.zeros([height, width], np.uint8), np.zeros([height, width], np.uint8)
    kind = ('broad', 'broad', 'tall', 'bush', 'conifer', 'palm')[number % 6]
    base = height - 1
    if kind != 'bush':
        for sprite, value in ((tone, 45), (cover, 255)):
            cv2.line(sprite, (width // 2, base), (width // 2 + 4, height // 3), value,
                     6 if kind != 'palm' else 5)
    if kind == 'palm':
        for angle in np.linspace(0, 2 * np.pi, 26):
            t = np.linspace(0, 1, 12)
            reach = rng.uniform(45, 75)
            x = width // 2 + np.cos(angle) * reach * t
            y = 80 + np.sin(angle) * reach * 0.6 * t + 45 * t ** 2
            points = np.stack([x, y], 1).astype(np.int32)
            for sprite, value in ((tone, int(rng.uniform(50, 170))), (cover, 255)):
                cv2.polylines(sprite, [points], False, value, 4)
        return tone, cover
    lobes = rng.integers(6, 11)
    middle = np.column_stack([width / 2 + rng.normal(0, 38, lobes), rng.uniform(70, 190, lobes)])
    radius = rng.uniform(34, 60, lobes)
    if kind == 'tall':
        middle = np.column_stack([width / 2 + rng.normal(0, 20, lobes), np.linspace(45, 240, lobes)])
        radius = rng.uniform(24, 46, lobes)
    elif kind == 'bush':
        middle = np.column_stack([np.linspace(40, width - 40, lobes), rng.uniform(230, 290, lobes)])
        radius = rng.uniform(40, 70, lobes)
    elif kind == 'conifer':
        rise = np.linspace(0.0, 0.95, 2 * lobes)
        middle, radius = np.column_stack([np.full(2 * lobes, width / 2), 25 + 260 * rise]), 6 + 60 * rise
    y, x = np.mgrid[:height, :width].astype(np.float32)
    up = (y[..., None] - middle[:, 1]) / radius  # [rows, columns, lobes]
    far = np.hypot((x[..., None] - middle[:, 0]) / radius, up)
    inside, up = 1 - far.min(-1), np.take_along_axis(up, far.argmin(-1)[..., None], -1)[..., 0]
    row, column = rng.integers(0, 180, 2)
    leaves, fine, clumps = (tile[row:row + height, column:column + width]
                            for tile in (noise_tile(7, 2.2), noise_tile(8, 1.0), cloud_tile()))
    crown = np.clip((inside + 0.2 * leaves + 0.09 * fine + 0.1 * clumps - 0.05) * 9, 0, 1)
    shade = 95 - 42 * up + 22 * leaves + 14 * fine + 12 * clumps - 0.12 * (y - 150)
    tone = (tone * (1 - crown) + np.clip(shade, 12, 235) * crown).astype(np.uint8)
    return tone, np.maximum(cover, (255 * crown).astype(np.uint8))


@functools.lru_cache(maxsize=None)
def small_tree_sprite(number):
    return tuple(cv2.resize(sprite, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
                 for sprite in tree_sprite(number))


def paint_tree(canvas, rng, offset, height, z, colour, base=0.0):
    x, y = canvas.view.project(offset, base, z)
    tall = canvas.view.camera.focal * height / z
    if tall < 3 or tall > 1100:
        return
    sprites = (tree_sprite if tall > 80 else small_tree_sprite)(int(rng.integers(24)))
    size = (max(2, int(tall * rng.uniform(0.7, 1.1))), int(tall))
    left, top = int(x - size[0] / 2), int(y - tall)
    x0, y0, x1, y1 = max(left, 0), max(top, 0), min(left + size[0], canvas.width), min(top + size[1],
                                                                                       canvas.height)
    if x0 >= x1 or y0 >= y1:
        return
    way = cv2.INTER_AREA if tall < 320 else cv2.INTER_LINEAR
    flip = rng.random() < 0.5
    window = slice(y0 - top, y1 - top), slice(x0 - left, x1 - left)
    tone, cover = (cv2.resize(sprite[:, ::-1] if flip else sprite, size, interpolation=way)[window]
                   for sprite in sprites)
    dark, bright = canvas.air(colour * 0.25, z), canvas.air(colour * (1.5 * canvas.facing(np.pi)), z)
    ramp = np.linspace(0, 1, 256)[:, None]
    lut = (dark + (bright - dark) * ramp).clip(0, 255).astype(np.uint8)
    part = canvas.pixels[y0:y1, x0:x1]
    alpha = cover[..., None].astype(np.uint16)
    part[:] = ((part * (255 - alpha) + lut[tone] * alpha) >> 8).astype(np.uint8)


def roadside(canvas, rng):
    """All that stands: (distance, painter) pairs."""
    road, things = canvas.scene.road, []
    left, right = road.left - road.shoulders[0], road.right + road.shoulders[1]
    outer = left
    if road.oncoming:
        inner, count = road.oncoming
        outer = inner - count * road.lane_width - 3
    if road.two_way:
        outer = left
    things += barrier(rng, left - 0.2, -1, 'jersey' if road.oncoming and rng.random() < 0.65 else None)
    if road.oncoming:
        things += barrier(rng, outer - 1, -1)
    things += barrier(rng, right + 0.2, 1)
    for bank in canvas.banks:
        things += trees(rng, bank)
    things += poles(rng, left, right)
    if rng.random() < 0.22:
        for _ in range(rng.integers(1, 3)):
            things.append(bridge(rng, outer, right, left))
    if rng.random() < 0.3:
        things.append(gantry(rng, left, right))
    return things


CHUNKS = np.concatenate([np.arange(2, 20, 1.5), np.geomspace(20, 500, 30)])


def barrier(rng, offset, side, kind=None):
    """A concrete or steel barrier or a wall along the road, in pieces so that it hides and is hidden
    rightly."""
    kind = kind or rng.choice(['none', 'jersey', 'rail', 'wall', 'fence'], p=[.34, .22, .24, .1, .1])
    start, end = (rng.uniform(30, 120), 500) if rng.random() < 0.15 else (0,
                                                                          rng.choice([500,
                                                                                      rng.uniform(60, 300)]))
    shade, tint = rng.uniform(95, 185), np.array([1, 0.99, 0.95])
    stains = wandering(rng, len(CHUNKS), 8) * 0.03
    tall = {'jersey': rng.uniform(0.8, 1.1), 'rail': 0.75, 'wall': rng.uniform(2.5, 5), 'fence': 1.8,
            'none': 0}[kind]
    things = []

    profiles = {  # (height, away from the road) of the edges of each face, grey, brightness
        'jersey': [((tall, .22), (tall, .42), 1.1, 0), ((0.3, .14), (tall, .22), 1, 1),
                   ((0, 0), (0.3, .14), 0.9, 1)],
        'wall': [((0, 0), (tall, 0), 0.9, 1), ((tall, 0), (tall + .15, 0), 1.1, 0)],
        'rail': [((0.45, 0), (0.6, 0), 0.75, 1), ((0.6, 0), (0.75, 0), 1.05, 1)],
        'fence': [((h, 0), (h + 0.04, 0), 0.7, 1) for h in (0.6, 1.2, 1.8)], 'none': []}[kind]
    edges = []

    def piece(canvas, rng, i):
        if not edges:  # all pieces share one projection
            edges.extend([canvas.view.project(offset + side * lean, high, CHUNKS) for high, lean in pair]
                         for *pair, _, _ in profiles)
        colour = shade * tint * (1 + stains[i])
        for (low, high), (*_, gain, turned) in zip(edges, profiles):
            tone = colour * gain * (canvas.facing(-side * np.pi / 2) if turned else 1)
            canvas.polygon(np.vstack([low[i:i + 2], high[i:i + 2][::-1]]), canvas.air(tone, CHUNKS[i]))
        if kind in ('rail', 'fence'):
            post = canvas.view.project(offset, [0.0, tall], CHUNKS[[i, i]])
            canvas.polyline(post, canvas.air(np.full(3, 75.0), CHUNKS[i]), canvas.view.camera.focal * 0.1
                            / CHUNKS[i])
    if kind != 'none':
        for i in range(len(CHUNKS) - 1):
            if start <= CHUNKS[i] < end:
                things.append((CHUNKS[i] + 0.5, functools.partial(piece, i=i)))
    return things


@dataclasses.dataclass
class Bank:
    """Rising ground beside the road, from edge + foot m outwards, up to crest [CHUNKS] m."""
    side: int
    edge: float
    foot: float
    rise: float
    crest: np.ndarray
    green: np.ndarray

    def paint(self, canvas):
        light = 0.4 + 0.6 * canvas.facing(-self.side * np.pi / 2)
        steps = np.array([0, 0.35, 0.7, 1.0])
        edges = [canvas.view.project(self.edge + self.side * (self.foot + step * self.rise * 2.2),
                                     self.crest * step, CHUNKS)
                 for step in steps]
        for i in reversed(range(len(CHUNKS) - 1)):
            for k, (low, high) in enumerate(zip(edges, edges[1:])):
                canvas.polygon(np.vstack([low[i:i + 2], high[i:i + 2][::-1]]),
                               canvas.air(self.green * (0.85 + 0.1 * k) * light, CHUNKS[i]))


def paint_banks(canvas, rng):
    before = canvas.pixels.copy()
    road = canvas.scene.road
    outer = road.left - road.shoulders[0]
    if road.oncoming:
        outer = road.oncoming[0] - road.oncoming[1] * road.lane_width - 3
    canvas.banks = []
    for side, edge in ((-1, outer - 2), (1, road.right + road.shoulders[1] + 1.5)):
        green = np.array(rng.choice([[88, 104, 58], [70, 92, 52], [112, 112, 70], [60, 76, 50],
                                     [100, 100, 62]]))
        rise = rng.choice([0, rng.uniform(1, 5), rng.uniform(5, 25)], p=[.42, .32, .26])
        crest = rise * np.clip(0.7 + 0.35 * wandering(rng, len(CHUNKS), 12), 0.1, None)
        bank = Bank(side, edge, rng.uniform(1, 8), rise, crest, green * rng.uniform(0.6, 1.05))
        canvas.banks.append(bank)
        if rise:
            bank.paint(canvas)
    roughen(canvas, before, rng, rng.uniform(2, 5), 0.16)


def trees(rng, bank):
    """Trees and bushes on and before a bank."""
    things = []
    side, edge, foot, rise, crest, green = (getattr(bank, field.name) for field in dataclasses.fields(bank))
    count = rng.choice([0, 6, 25, 70], p=[.14, .26, .35, .25])
    tall = rng.uniform(4, 14)
    for _ in range(count):
        z = rng.uniform(20, 120) if rng.random() < 0.3 else 500 * rng.random() ** 0.7 + 25
        away = foot + rng.exponential(9) + 1.5
        base = np.interp(z, CHUNKS, crest) * min(1,
                                                 max(0.0,
                                                     (away - foot) / (rise * 2.2 + 0.1))) if rise else 0.0
        height = tall * rng.uniform(0.35, 1.25)
        colour = green * 0.72 * rng.uniform(0.6, 1.15) + rng.normal(0, 4, 3)
        things.append((z, functools.partial(paint_tree, offset=edge + side * away, height=height, z=z,
                                            colour=colour, base=base)))
    return things


def poles(rng, left, right):
    """Street lights, posts with wires, road signs."""
    things = []

    def pole(canvas, rng, z, offset, height, arm, tone):
        width = canvas.view.camera.focal * 0.13 / z
        colour = canvas.air(np.full(3, tone) * canvas.facing(np.pi), z)
        canvas.polyline(canvas.view.project(offset, [0.0, height], [z, z]), colour, width)
        if arm:
            points = canvas.view.project([offset, offset + arm * 0.6, offset + arm],
                                         [height, height + 0.9, height + 1.0], [z] * 3)
            canvas.polyline(points, colour, width * 0.7)
            canvas.polyline(canvas.view.project([offset + arm, offset + arm * 1.25], height + 1.0, [z, z]),
                            colour, width * 1.6)

    def sign(canvas, rng, z, offset, wide, tall, base, colour):
        dim = canvas.facing(np.pi)
        canvas.polyline(canvas.view.project(offset, [0.0, base + 0.2], [z, z]),
                        canvas.air(np.full(3, 80.0), z), canvas.view.camera.focal * 0.12 / z)

        def panel(grow, tone):
            w, b, t = wide / 2 + grow, base - grow, base + tall + grow
            canvas.polygon(canvas.view.project(offset + np.array([-w, w, w, -w]), np.array([b, b, t, t]),
                                               [z] * 4), canvas.air(tone * dim, z))
        panel(0.05, np.full(3, 200.0))
        panel(0.0, np.array(colour, float))
    if rng.random() < 0.45:
        step, phase = rng.uniform(25, 60), rng.uniform(8, 50)
        arm, height, tone = rng.choice([0, rng.uniform(2, 4)]), rng.uniform(8, 13), rng.uniform(60, 150)
        for side, edge in ((-1, left - 1), (1, right + 1.5)):
            if rng.random() < 0.6:
                for z in np.arange(phase, 350, step):
                    things.append((z, functools.partial(pole, z=z, offset=edge, height=height,
                                                        arm=-side * arm, tone=tone)))
    if rng.random() < 0.3:
        offset, height = rng.choice([left - 15, right + rng.uniform(4, 20)]), rng.uniform(9, 14)
        spots = np.arange(rng.uniform(15, 40), 320, 42)

        def wires(canvas, rng):
            for drop in (0, 0.8):
                t = np.linspace(0, 1, 9)
                for a, b in zip(spots, spots[1:]):
                    sag = height - drop - 1.2 * 4 * t * (1 - t)
                    canvas.polyline(canvas.view.project(offset, sag, a + (b - a) * t),
                                    canvas.air(np.full(3, 60.0), a), 1)
        things.append((spots[0], wires))
        for z in spots:
            things.append((z, functools.partial(pole, z=z, offset=offset, height=height, arm=0, tone=70.0)))
    for _ in range(rng.poisson(0.8)):
        kind = rng.choice(3)
        wide, tall, base, colour = ((0.75, 0.9, 2.1, (225, 225, 225)), (3.5, 2.2, 2.2, (20, 95, 70)),
                                    (0.9, 0.9, 2.0, (235, 140, 30)))[kind]
        z = rng.uniform(18, 150)
        things.append((z, functools.partial(sign, z=z, offset=right + rng.uniform(1.2, 4) + wide / 2,
                                            wide=wide, tall=tall, base=base, colour=colour)))
    return things


def bridge(rng, outer, right, left):
    """A bridge across the road: deck, parapet, piers."""
    z, deep, clear = rng.uniform(35, 320), rng.uniform(8, 22), rng.uniform(5.0, 7.0)
    thick, slant, shade = rng.uniform(0.9, 2.0), rng.normal(0, 0.12), rng.uniform(80, 150)
    railing = rng.random() < 0.6
    ends = np.array([outer - 50, right + 50])
    piers = [x for x in (left - 0.8, outer - 2.5, right + 2.5) if rng.random() < 0.8]

    def paint(canvas, rng):
        colour = np.array([1.0, 0.98, 0.94]) * shade * canvas.facing(np.pi)

        def quad(low, high, near, far, tone):
            x = np.array([ends[0], ends[1], ends[1], ends[0]])
            points = canvas.view.project(x, [low, low, high, high],
                                         z + slant * x * 0.3 + np.array([near, near, far, far]))
            canvas.polygon(points, canvas.air(tone, z))
        for x in piers:
            for row in (deep * 0.75, deep * 0.25):
                points = canvas.view.project(x + np.array([-0.6, 0.6, 0.6, -0.6]), [0, 0, clear, clear],
                                             [z + row] * 4)
                canvas.polygon(points, canvas.air(colour * 0.6, z))
        quad(clear, clear, deep, 0, colour * 0.35)
        quad(clear, clear + thick, 0, 0, colour)
        quad(clear + thick, clear + thick + 0.12, 0, 0, colour * 1.25)
        if railing:
            top = clear + thick + 1.2
            canvas.polyline(canvas.view.project(ends, top, [z, z]), canvas.air(colour * 0.6, z),
                            canvas.view.camera.focal * 0.08 / z)
            for x in np.arange(ends[0], ends[1], 2.0):
                canvas.polyline(canvas.view.project(x, [clear + thick, top], [z, z]),
                                canvas.air(colour * 0.6, z), 1)
    return z, paint


def gantry(rng, left, right):
    """Signs over the lanes on a truss."""
    z, clear, panels = rng.uniform(30, 250), rng.uniform(5.5, 6.5), rng.integers(1, 4)
    colour = np.array([(18, 88, 62), (22, 60, 120)][int(rng.random() < 0.25)], float) * rng.uniform(0.6, 1.1)
    start = left - 1.5 if rng.random() < 0.7 else right + 1.5 - rng.uniform(6, 10)
    places = np.sort(rng.uniform(start + 2, right - 2, panels))
    widths, bars = rng.uniform(2.5, 5.5, panels), rng.random([panels, 3, 2])

    def paint(canvas, rng):
        steel = canvas.air(np.full(3, 105.0) * canvas.facing(np.pi), z)
        pixel = canvas.view.camera.focal / z
        for x in (start, right + 1.5):
            canvas.polyline(canvas.view.project(x, [0.0, clear + 1.8], [z, z]), steel, 0.35 * pixel)
        for height in (clear + 0.6, clear + 1.8):
            canvas.polyline(canvas.view.project([start, right + 1.5], height, [z, z]), steel, 0.14 * pixel)
        zigzag = np.arange(start, right + 1.5, 1.2)
        canvas.polyline(canvas.view.project(zigzag, clear + 0.6 + 1.2 * (np.arange(len(zigzag)) % 2),
                                            np.full(len(zigzag), z)), steel, 0.09 * pixel)
        dim = 0.35 + 0.65 * canvas.facing(np.pi)

        def panel(x0, x1, low, high, tone):
            canvas.polygon(canvas.view.project([x0, x1, x1, x0], [low, low, high, high], [z] * 4),
                           canvas.air(tone * dim, z))
        for x, width, rows in zip(places, widths, bars):
            panel(x - width / 2, x + width / 2, clear, clear + 2.6, np.full(3, 200.0))
            panel(x - width / 2 + 0.06, x + width / 2 - 0.06, clear + 0.06, clear + 2.54, colour)
            for k, (a, b) in enumerate(rows):
                letters = np.arange(x - width * (0.15 + 0.25 * a), x + width * (0.1 + 0.3 * b), 0.26)
                for letter in letters:
                    panel(letter, letter + 0.17, clear + 0.35 + 0.7 * k, clear + 0.72 + 0.7 * k,
                          np.full(3, 205.0))
    return z, paint


# ---- What the camera makes of it ---------------------------------------------------------------------------

def photograph(canvas, rng):
    """Turns the canvas by the camera's roll, adds lens and sensor: uint8 [720, 1280, 3] RGB."""
    lens, light = canvas.scene.lens, canvas.light
    turn = canvas.view.turn()
    turn[:, 2] -= turn[:, :2] @ [MARGIN, MARGIN]
    photo = cv2.warpAffine(canvas.pixels, turn, (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR,
                           borderMode=cv2.BORDER_REPLICATE)
    gain = np.clip((lens.exposure / photo[::8, ::8].mean()) ** 0.8, 0.45, 1.9)
    if lens.bonnet:
        paint_bonnet(photo, lens, light, rng)
    small = cv2.resize(photo, (WIDTH // 8, HEIGHT // 8), interpolation=cv2.INTER_AREA).astype(np.float32)
    veil = cv2.GaussianBlur(np.maximum(small - 190, 0), (0, 0), 5) * (0.1 + 0.25 * lens.glare)
    if light.shadow > 0.2 and abs(light.azimuth) < 1.0 and light.elevation < 0.6:  # stray light
        x, y = sun_position(canvas)
        far = np.hypot(np.arange(WIDTH // 8)[None] - (x - MARGIN) / 8, np.arange(HEIGHT // 8)[:, None]
                       - (y - MARGIN) / 8)
        veil += (lens.glare * (70 * np.exp(-far / 60) + 120 * np.exp(-far / 14)))[...,
                                                                                  None] * np.float32([1, .95,
                                                                                                      .85])
    photo = cv2.add(photo, cv2.resize(cv2.convertScaleAbs(veil), (WIDTH, HEIGHT),
                                      interpolation=cv2.INTER_LINEAR))
    if lens.blur > 0.25 or lens.motion:
        photo = cv2.GaussianBlur(photo, (0, 0), sigmaX=max(lens.blur, 0.1),
                                 sigmaY=max(np.hypot(lens.blur, lens.motion / 3), 0.1))
    matrix = lens.saturation * np.eye(3) + (1 - lens.saturation) * np.array([[0.3, 0.59, 0.11]])
    photo = cv2.transform(photo, (matrix * np.array(lens.balance)[:, None] * gain).astype(np.float32))
    t = np.arange(256) / 255
    photo = cv2.LUT(photo,
                    np.rint(255 * (t + 0.8 * lens.contrast * (t * t * (3 - 2 * t) - t))).astype(np.uint8))
    return sensor(photo, lens, rng)


def sensor(photo, lens, rng):
    """Darker corners, then the noise of each pixel and, half as strong, of its colour."""
    dark = 1 - np.float32(lens.vignette) * corner_distance()
    (y, x), (v, u) = rng.integers(0, 512, [2, 2])
    shot = sensor_noise()[y:y + HEIGHT, x:x + WIDTH] * np.float32(lens.noise)
    hue = sensor_noise()[v:v + HEIGHT, u:u + WIDTH] * np.float32(lens.noise * 0.5)
    photo = cv2.multiply(photo, cv2.merge([dark] * 3), dtype=cv2.CV_32F)
    return np.clip(photo + cv2.merge([shot + hue, shot, shot - hue]) + 0.5, 0, 255).astype(np.uint8)


@functools.lru_cache(maxsize=None)
def sensor_noise():
    return np.tile(noise_tile(5, 0)[:512, :512], [3, 4])


@functools.lru_cache(maxsize=None)
def corner_distance():
    y, x = np.mgrid[-1:1:HEIGHT * 1j, -1:1:WIDTH * 1j]
    return ((x ** 2 + y ** 2) / 2).astype(np.float32)


def paint_bonnet(photo, lens, light, rng):
    x = np.linspace(-200, WIDTH + 200, 60)
    y = HEIGHT - lens.bonnet * (1 - ((x - WIDTH / 2) / (WIDTH * 0.75)) ** 2)
    colour = np.array(PAINTS[rng.integers(len(PAINTS))]) * 0.4 * light.ambient + 0.15 * light.zenith
    for drop, gain in ((0, 0.6), (3, 1.0), (lens.bonnet * 0.5, 0.85)):
        points = np.vstack([np.stack([x, y + drop], 1), [[WIDTH + 200, HEIGHT + 50], [-200, HEIGHT + 50]]])
        cv2.fillPoly(photo, [sixteenths(points)], clipped(colour * gain), cv2.LINE_AA, 4)


# ---- Files -------------------------------------------------------------------------------------------------

def make_scene(seed, index):
    """Scene number index of a seed -> (photo uint8 [720, 1280, 3] RGB, JPEG quality, tusimple.Record)."""
    rng = np.random.default_rng([seed, index])
    scene = sample_scene(rng)
    record = lane_labels(scene, f'clips/synthetic/{index:06d}/20.jpg')
    return render(scene, rng), scene.lens.quality, record


def write_scene(folder, seed, index):
    """Makes a scene and writes its photo. Returns its tusimple.Record. Runs in a worker process."""
    photo, quality, record = make_scene(seed, index)
    path = os.path.join(folder, record.raw_file)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    _, data = cv2.imencode('.jpg', photo[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    files.write_file(path, data.tobytes())
    return record


def start_worker():
    cv2.setNumThreads(1)  # the processes share the cores already
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends us


def make_all(folder, num, seed, workers):
    """Writes the photos of all scenes, several at a time. Returns their records in order."""
    context = multiprocessing.get_context('spawn')  # a forked OpenCV may hang
    pool = concurrent.futures.ProcessPoolExecutor(min(workers, num), context, start_worker)
    try:
        scenes = pool.map(functools.partial(write_scene, folder, seed), range(num), chunksize=4)
        return list(tqdm.tqdm(scenes, total=num, unit='scene', disable=None))
    except concurrent.futures.process.BrokenProcessPool:
        raise command_line.InputError('a worker process was ended from outside; if memory is short, use '
                                      'fewer --workers') from None
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
