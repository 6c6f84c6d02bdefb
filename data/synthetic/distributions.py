"""Samples scenes. The distributions are tuned to the 3,626 training label lines of TuSimple."""
import functools

import numpy as np

from data.synthetic.canvas import mixture
from data.synthetic.scene import Camera, Lens, Light, Line, Road, Scene, Vehicle
from data.synthetic.vehicles import PAINTS, VEHICLES


def sample_scene(rng):
    """rng: np.random.Generator -> Scene"""
    camera = _sample_camera(rng)
    road = _sample_road(rng, camera)
    light = _sample_light(rng)
    lines = _sample_lines(rng, road)
    return Scene(camera, road, lines, _sample_vehicles(rng, road), light, _sample_lens(rng, light))


def _sample_camera(rng):
    if rng.random() < 0.88:  # similar to TuSimple's
        return Camera(focal=rng.uniform(1200, 2300), height=rng.normal(1.66, 0.03), centre=rng.normal(650, 12),
                      horizon=np.clip(rng.normal(237, 8), 200, 275), roll=np.deg2rad(rng.normal(0, 0.35)))
    return Camera(focal=rng.uniform(850, 1900), height=rng.uniform(1.35, 2.1), centre=rng.uniform(580, 710),
                  horizon=rng.uniform(190, 320), roll=np.deg2rad(rng.normal(0, 0.9)))


def _sample_road(rng, camera):
    """A freeway, or sometimes a two-way road: its lanes, bends, slope and surface. -> Road"""
    lane_width = rng.normal(3.66, 0.07)
    lanes_left = rng.choice(5, p=[0.16, 0.34, 0.28, 0.15, 0.07])  # of the camera's lane
    lanes_right = rng.choice(5, p=[0.13, 0.37, 0.28, 0.15, 0.07])
    bend = rng.random()
    straight = bend < 0.58
    curvature = rng.choice([-1, 1]) * rng.uniform(*(0.0014, 0.0024) if bend > 0.98 else (0.0002, 0.0012))
    if straight:
        curvature = rng.normal(0, 0.00002)
    # A driver keeps to the lane, but changes it from time to time.
    aside = rng.uniform(-1.6, 1.6) if rng.random() < 0.03 else rng.normal(0.1, 0.24)
    steep = 1e-5 if rng.random() < 0.6 else 6e-5
    two_way = lanes_left == 1 and rng.random() < 0.12
    concrete = rng.random() < 0.5
    shade = rng.uniform(118, 178) if concrete else mixture(rng, (62, 100), (90, 140))
    warm = rng.uniform(-0.02, 0.03)
    tint = np.array([0.99 + warm, 1.0 + 0.4 * warm, 0.97 - warm]) + rng.normal(0, 0.01, 3)
    left, right = -(lanes_left + 0.5) * lane_width + aside, (lanes_right + 0.5) * lane_width + aside
    shoulders = mixture(rng, (0.4, 1.2), (1.2, 4)), rng.uniform(0.8, 3.6)
    oncoming_seen = rng.random() < 0.7
    heading = rng.normal(0, 26) / camera.focal
    centre = functools.partial(_clothoid, heading, curvature, rng.normal(0, 2e-7 if straight else 3e-6))
    rise = functools.partial(_crest, rng.normal(0, steep))
    shoulder_shade = shade * mixture(rng, 1.0, (0.6, 0.95), (1.0, 1.3))
    joint_offset = rng.choice([-1, 1]) * mixture(rng, 0.1, (0.08, 0.45))
    oncoming = None
    if oncoming_seen and not two_way:
        inner = left - shoulders[0] * rng.uniform(1.2, 2.2) - mixture(rng, 0.6, (0.6, 14)) - 1.5
        oncoming = inner, int(rng.integers(2, 6))
    return Road(heading, centre, rise, left, right, lane_width, shoulders, concrete, shade, tint, shoulder_shade,
                joint_offset, oncoming, two_way)


def _clothoid(heading, curvature, rate, z):
    """Road.centre of a road whose curvature, 1/m, grows at a rate, 1/m^2, up to 250 m ahead."""
    near = np.minimum(z, 250.0)
    beyond = z - near
    slope = heading + curvature * near + rate * near ** 2 / 2
    return (heading * near + curvature * near ** 2 / 2 + rate * near ** 3 / 6
            + slope * beyond + (curvature + rate * near) * beyond ** 2 / 2)


def _crest(grade, z):
    """Road.rise of a road whose slope grows at a rate, grade 1/m, up to 300 m ahead."""
    near = np.minimum(z, 300.0)
    return grade * near * (near / 2 + (z - near))


_PATTERNS = [  # (parts, period) m, share: broken lines of several countries; parts: (start, length)
    ([(0, 3.66)], 14.63, .34), ([(0, 3.05)], 12.19, .1), ([(0, 3.0)], 9.0, .12), ([(0, 6.0)], 18.0, .12),
    ([(0, 4.0)], 12.0, .1), ([(0, 2.0)], 6.0, .08), ([(0, 6.0)], 15.0, .08), ([(0, 1.0)], 3.0, .06),
]
_DOTS = [  # the same for raised markers, 0.1 m long: groups of four, single ones, close rows
    ([(0, .10), (1.22, .10), (2.44, .10), (3.66, .10)], 14.63, .5),
    ([(0, .10), (0.92, .10), (1.83, .10), (2.75, .10)], 14.63, .3), ([(0, .10)], 7.3, .1), ([(0, .10)], 2.4, .1),
]


def _sample_lines(rng, road):
    """All lines of our carriageway from left to right, then those of the opposite one. -> list of Lines"""
    offsets = road.line_offsets
    own = int(np.searchsorted(offsets, 0)) - 1  # the line to our left
    labelled = {own - 1, own, own + 1, own + 2}
    if rng.random() < 0.11:
        labelled.add(own - 2 if own > 1 and rng.random() < 0.55 else own + 3)
    raised = rng.random() < (0.5 if road.concrete else 0.12)
    pattern, period = _choose(rng, _PATTERNS)
    if raised:
        pattern, period = _choose(rng, _DOTS)
    wear = mixture(rng, (0, 0.25), (0.2, 0.75), p=[0.6, 0.4])
    width = rng.uniform(0.10, 0.17)
    white = np.clip(rng.uniform(200, 250) + rng.normal(0, 4, 3), 0, 255)
    yellow = np.array([235, 180, 60]) * rng.uniform(0.8, 1.03) + rng.normal(0, 12, 3)
    left_colour = yellow if rng.random() < 0.65 else white
    wear_spread = rng.uniform(0, 0.15)
    lines = []
    for i, offset in enumerate(offsets):
        edge, centre = i in (0, len(offsets) - 1), road.two_way and i == 1  # centre: between the two directions
        line = Line(offset, tuple(left_colour if i == 0 or centre else white),
                    width=width * (rng.uniform(1, 1.3) if edge else 1), pattern=[], period=0.0,
                    phase=rng.uniform(0, 20), wear=np.clip(wear + rng.normal(0, wear_spread), 0, 0.9), dots=False,
                    labelled=i in labelled, number=i)
        broken = not edge and not (centre and rng.random() < 0.7) and rng.random() > 0.04
        if broken:
            line = line._replace(pattern=pattern, period=period, dots=raised)
        if broken and not raised and rng.random() < 0.04:  # a merging lane has shorter, thicker marks
            line = line._replace(pattern=[(0, 1.0)], period=rng.choice([3.0, 4.5]), width=line.width * 1.5)
        line = line._replace(offset=offset + rng.normal(0, 0.03))
        lines.append(line)
        if rng.random() < (0.02 if line.pattern else 0.5 if road.two_way else 0.15):
            lines[-1:] = _double_line(rng, line, road.two_way)
        if line.dots and rng.random() < 0.25:
            lines.append(lines[-1]._replace(pattern=[(0.1, 3.4)], period=14.63, dots=False, labelled=False, number=None,
                                            wear=rng.uniform(0.2, 0.8)))
    inner, count = road.oncoming or (0, -1)
    for k in range(count + 1):
        edge = k in (0, count)
        lines.append(Line(inner - k * road.lane_width, tuple(left_colour if k == 0 else white), width,
                          [] if edge else pattern, period, rng.uniform(0, 20), wear, raised and not edge, False))
    return lines


def _double_line(rng, line, two_way):
    """-> [Line, Line], the nearer of which is labelled"""
    apart = np.copysign(line.width / 2 + rng.uniform(0.05, 0.1), line.offset)
    other = line._replace(offset=line.offset + apart, labelled=False, number=None)
    if two_way and rng.random() < 0.3:
        other = other._replace(pattern=_PATTERNS[0][0], period=_PATTERNS[0][1])
    return [line._replace(offset=line.offset - apart), other]


def _choose(rng, table):
    """Samples a row (.., share) of a table. -> the row without its share"""
    return table[rng.choice(len(table), p=[share for *_, share in table])][:-1]


_KIND_SHARES = {'sedan': 5, 'suv': 4, 'van': 1.2, 'pickup': 1.6, 'hatch': 0.7, 'box': 0.7, 'trailer': 0.6, 'bus': 0.1}
_TRUCKS = ('box', 'trailer')


def sample_vehicle(rng, offset, distance, oncoming, trucks):
    """Samples a vehicle in a lane. offset: of the lane's middle m; trucks: factor on their share -> Vehicle"""
    shares = np.array([share * (trucks if kind in _TRUCKS else 1) for kind, share in _KIND_SHARES.items()])
    kind = list(_KIND_SHARES)[rng.choice(len(shares), p=shares / shares.sum())]
    paint = np.array(_choose(rng, PAINTS)[0]) * rng.uniform(0.75, 1.1)
    if kind in _TRUCKS and rng.random() < 0.8:
        paint = np.array([225, 225, 222]) * rng.uniform(0.65, 1.05)
    return Vehicle(kind, offset + rng.normal(0, 0.25), distance, tuple(np.clip(paint, 8, 250)), oncoming,
                   bool(rng.random() < 0.12), rng.uniform(0.94, 1.06))


def _sample_vehicles(rng, road):
    """Traffic lane by lane, sorted from far to near; our lane is free for some metres ahead."""
    density = rng.choice([0.1, 0.5, 1.0, 1.8], p=[.15, .3, .35, .2])
    lanes = [(offset, (9, 30) if abs(offset) < road.lane_width / 2 else (2.5, 12), road.two_way and lane == 0,
              1.5 if lane >= road.lanes - 2 else 0.4) for lane, offset in enumerate(road.middles)]
    lanes += [(offset, (5, 20), True, 0.8) for offset in road.oncoming_middles]
    vehicles = []
    for offset, free, oncoming, trucks in lanes:
        z = rng.uniform(*free) + rng.exponential(25 / density)
        while z < (180 if oncoming else 300):
            vehicles.append(sample_vehicle(rng, offset, z, oncoming, trucks))
            z += VEHICLES[vehicles[-1].kind].length + 4 + rng.exponential(28 / density)
    return sorted(vehicles, key=lambda vehicle: -vehicle.distance)


_WEATHER = {'clear': .46, 'overcast': .2, 'low': .14, 'haze': .1, 'dusk': .1}  # shares; low: a low sun


def _sample_light(rng):
    kind = rng.choice(list(_WEATHER), p=list(_WEATHER.values()))
    azimuth = rng.uniform(-np.pi, np.pi)
    elevation = np.deg2rad(rng.uniform(25, 70))
    haze, ambient, shadow = rng.uniform(900, 6000), 1.0, rng.uniform(0.45, 0.72)
    clouds = mixture(rng, 0, (0, 0.8))
    zenith = np.array([95, 150, 215]) * rng.uniform(0.6, 1.0) + 20
    horizon = np.array([195, 218, 238]) * rng.uniform(0.9, 1.05)
    if kind == 'overcast':
        grey = rng.uniform(165, 245)
        zenith, horizon = grey * np.array([0.9, 0.93, 0.97]), grey * np.array([1.0, 1.01, 1.02])
        shadow, haze, ambient = rng.uniform(0, 0.12), rng.uniform(400, 3000), rng.uniform(0.68, 0.95)
        clouds = 0.6
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


def _sample_lens(rng, light):
    against = light.shadow > 0.2 and abs(light.azimuth) < 1.2
    return Lens(exposure=rng.normal(104 if against else 114, 15) * light.ambient ** 0.6,
                balance=tuple(np.exp(rng.normal(0, 0.02, 3)) * (1, 1 + max(0, rng.uniform(-0.05, 0.07)), 1)),
                contrast=rng.uniform(0.0, 0.8), saturation=rng.uniform(0.55, 1.15), vignette=rng.uniform(0, 0.3),
                blur=mixture(rng, (0, 0.6), (0.5, 1.4), p=[.75, .25]), motion=mixture(rng, 0, (1, 4), p=[.8, .2]),
                noise=rng.uniform(0.6, 3.0) * (2.2 if light.dusk else 1), glare=rng.uniform(0, 1),
                quality=int(rng.integers(55, 97)), hood=rng.uniform(8, 60) if rng.random() < 0.1 else 0.0)
