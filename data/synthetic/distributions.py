"""The distributions that rendered scenes are drawn from, each named in one place, and the drawing.

Lengths are in m, angles in the tables in degrees, places in the picture in px, colours RGB 0..255. A pair is the range
of a uniform distribution, or, where "normal" is said, mean and deviation; a chance or a share is a probability.

Tuned against the 3,626 training label lines of TuSimple; tests/test_synthetic_dataset.py holds their quantiles.
"""
import numpy as np

from data.synthetic.canvas import mixture
from data.synthetic.scene import Camera, Lens, Light, Line, Road, Scene, Vehicle
from data.synthetic.vehicles import PAINTS, VEHICLES


def sample_scene(rng):
    """Draws a scene. rng: np.random.Generator -> Scene"""
    camera = _sample_camera(rng)
    road = _sample_road(rng, camera)
    light = _sample_light(rng)
    lines = _sample_lines(rng, road, _sample_labelled(rng, road))
    return Scene(camera, road, lines, _sample_vehicles(rng, road), light, _sample_lens(rng, light))


# ---- Camera ----------------------------------------------------------------------------------------------------------

_TUSIMPLE_SHARE = 0.88  # cameras much like that of TuSimple
_TUSIMPLE_FOCAL = (1200, 2300)  # px
_TUSIMPLE_HEIGHT = (1.66, 0.03)  # m, normal, as the next three
_TUSIMPLE_CENTRE, _TUSIMPLE_HORIZON, _TUSIMPLE_ROLL = (650, 12), (237, 8), (0, 0.35)  # px, px, degrees
_HORIZON_LIMITS = (200, 275)  # px, of the normal one
_OTHER_FOCAL, _OTHER_HEIGHT = (850, 1900), (1.35, 2.1)  # px, m
_OTHER_CENTRE, _OTHER_HORIZON, _OTHER_ROLL = (580, 710), (190, 320), (0, 0.9)  # px, px, degrees (normal)


def _sample_camera(rng):
    if rng.random() < _TUSIMPLE_SHARE:
        return Camera(focal=rng.uniform(*_TUSIMPLE_FOCAL), height=rng.normal(*_TUSIMPLE_HEIGHT),
                      centre=rng.normal(*_TUSIMPLE_CENTRE),
                      horizon=np.clip(rng.normal(*_TUSIMPLE_HORIZON), *_HORIZON_LIMITS),
                      roll=np.deg2rad(rng.normal(*_TUSIMPLE_ROLL)))
    return Camera(focal=rng.uniform(*_OTHER_FOCAL), height=rng.uniform(*_OTHER_HEIGHT),
                  centre=rng.uniform(*_OTHER_CENTRE), horizon=rng.uniform(*_OTHER_HORIZON),
                  roll=np.deg2rad(rng.normal(*_OTHER_ROLL)))


# ---- Road ------------------------------------------------------------------------------------------------------------

_LANE_WIDTH = (3.66, 0.07)  # m, normal
_LANES_LEFT = [0.16, 0.34, 0.28, 0.15, 0.07]  # chance of 0, 1, .. 4 lanes to the left of ours
_LANES_RIGHT = [0.13, 0.37, 0.28, 0.15, 0.07]
_STRAIGHT_BELOW, _SHARP_ABOVE = 0.58, 0.98  # of a number 0..1: the shares of straight and of sharply bent roads
_BEND, _SHARP_BEND = (0.0002, 0.0012), (0.0014, 0.0024)  # curvature 1/m, to either side
_STRAIGHT_BEND = (0, 0.00002)  # 1/m, normal
_BEND_RATE, _STRAIGHT_BEND_RATE = 3e-6, 2e-7  # 1/m^2, deviation
_GRADE, _HILLY_GRADE, _FLAT_SHARE = 1e-5, 6e-5, 0.6  # vertical curvature 1/m, deviation
_HEADING = 26  # px that the road's direction deviates from the middle
_ASIDE = (0.1, 0.24)  # m from the middle of the lane, normal: a driver keeps to the lane ...
_BETWEEN_LANES, _BETWEEN_CHANCE = (-1.6, 1.6), 0.03  # m; ... and now and then changes it
_TWO_WAY_CHANCE = 0.12  # of a road with one lane to the left of ours
_CONCRETE_SHARE = 0.5
_CONCRETE_SHADE, _ASPHALT_SHADES = (118, 178), ((62, 100), (90, 140))  # brightness of the surface
_WARMTH = (-0.02, 0.03)  # of the surface, a share of its red and blue
_LEFT_SHOULDERS, _RIGHT_SHOULDER = ((0.4, 1.2), (1.2, 4)), (0.8, 3.6)  # m
_SHOULDER_SHADES = (1.0, (0.6, 0.95), (1.0, 1.3))  # times the shade of the road
_JOINT_OFFSETS = (0.1, (0.08, 0.45))  # m from a lane line, to either side
_ONCOMING_CHANCE = 0.7  # that there is an opposite carriageway to be seen
_MEDIANS = (0.6, (0.6, 14))  # m, beyond the left shoulders of both carriageways
_ONCOMING_SHOULDER = (1.2, 2.2)  # times our left one
_ONCOMING_LANES = (2, 6)  # from 2 to 5


def _sample_road(rng, camera):
    """A freeway, or one road in some of two ways: its lanes, bends, slope and surface. -> Road"""
    lane_width = rng.normal(*_LANE_WIDTH)
    lanes_left, lanes_right = rng.choice(5, p=_LANES_LEFT), rng.choice(5, p=_LANES_RIGHT)
    bend = rng.random()
    straight = bend < _STRAIGHT_BELOW
    curvature = rng.choice([-1, 1]) * rng.uniform(*_SHARP_BEND if bend > _SHARP_ABOVE else _BEND)
    if straight:
        curvature = rng.normal(*_STRAIGHT_BEND)
    aside = rng.uniform(*_BETWEEN_LANES) if rng.random() < _BETWEEN_CHANCE else rng.normal(*_ASIDE)
    grade = _GRADE if rng.random() < _FLAT_SHARE else _HILLY_GRADE
    two_way = lanes_left == 1 and rng.random() < _TWO_WAY_CHANCE
    concrete = bool(rng.random() < _CONCRETE_SHARE)
    shade = rng.uniform(*_CONCRETE_SHADE) if concrete else mixture(rng, *_ASPHALT_SHADES)
    warm = rng.uniform(*_WARMTH)
    tint = np.array([0.99 + warm, 1.0 + 0.4 * warm, 0.97 - warm]) + rng.normal(0, 0.01, 3)
    left = -(lanes_left + 0.5) * lane_width + aside
    shoulders = mixture(rng, *_LEFT_SHOULDERS), rng.uniform(*_RIGHT_SHOULDER)
    seen = rng.random() < _ONCOMING_CHANCE
    return Road(heading=rng.normal(0, _HEADING) / camera.focal, curvature=curvature,
                curvature_rate=rng.normal(0, _STRAIGHT_BEND_RATE if straight else _BEND_RATE),
                grade=rng.normal(0, grade), left=left, right=(lanes_right + 0.5) * lane_width + aside,
                lane_width=lane_width, shoulders=shoulders, concrete=concrete, shade=shade, tint=tuple(tint),
                shoulder_shade=shade * mixture(rng, *_SHOULDER_SHADES),
                joint_offset=rng.choice([-1, 1]) * mixture(rng, *_JOINT_OFFSETS),
                oncoming=(left - shoulders[0] * rng.uniform(*_ONCOMING_SHOULDER) - mixture(rng, *_MEDIANS) - 1.5,
                          int(rng.integers(*_ONCOMING_LANES))) if seen and not two_way else None,
                two_way=bool(two_way))


# ---- Lines -----------------------------------------------------------------------------------------------------------

_PATTERNS = [  # (parts, period) m, share: broken lines of several countries; parts: (start, length)
    ([(0, 3.66)], 14.63, .34), ([(0, 3.05)], 12.19, .1), ([(0, 3.0)], 9.0, .12), ([(0, 6.0)], 18.0, .12),
    ([(0, 4.0)], 12.0, .1), ([(0, 2.0)], 6.0, .08), ([(0, 6.0)], 15.0, .08), ([(0, 1.0)], 3.0, .06),
]
_DOTS = [  # the same of raised markers, 0.1 m long: groups of four, single ones, close rows
    ([(0, .10), (1.22, .10), (2.44, .10), (3.66, .10)], 14.63, .5),
    ([(0, .10), (0.92, .10), (1.83, .10), (2.75, .10)], 14.63, .3), ([(0, .10)], 7.3, .1), ([(0, .10)], 2.4, .1),
]
_FIFTH_LINE_CHANCE, _FIFTH_LEFT_SHARE = 0.11, 0.55  # a line more on one side is labelled
_DOTS_CHANCE, _CONCRETE_DOTS_CHANCE = 0.12, 0.5
_WEARS, _WEAR_SHARES = ((0, 0.25), (0.2, 0.75)), [0.6, 0.4]
_WEAR_SPREAD = (0, 0.15)  # deviation from line to line
_LINE_WIDTH, _EDGE_LINE_WIDTH = (0.10, 0.17), (1, 1.3)  # m, times that
_WHITE, _YELLOW_GAIN = (200, 250), (0.8, 1.03)  # brightness; times (235, 180, 60)
_YELLOW_CHANCE = 0.65  # of the left line
_PHASE = (0, 20)  # m
_ASIDE_OF_LINE = 0.03  # m, deviation
_UNBROKEN_CHANCE, _TWO_WAY_UNBROKEN_CHANCE = 0.04, 0.7  # between two lanes
_MERGING_CHANCE, _MERGING_PERIODS = 0.04, [3.0, 4.5]  # a lane that merges has shorter, thicker marks; m
_DOUBLE_CHANCE, _TWO_WAY_DOUBLE_CHANCE, _BROKEN_DOUBLE_CHANCE = 0.15, 0.5, 0.02
_DOUBLE_GAP = (0.05, 0.1)  # m, half of it
_HALF_BROKEN_CHANCE = 0.3  # of a double line between two directions
_PAINT_BETWEEN_DOTS_CHANCE, _PAINT_BETWEEN_DOTS_WEAR = 0.25, (0.2, 0.8)


def _line_offsets(road):
    return np.arange(road.left, road.right + 0.1, road.lane_width)


def _sample_labelled(rng, road):
    """The numbers, from the left, of the lines that the label shows. -> set"""
    own = int(np.searchsorted(_line_offsets(road), 0)) - 1  # the line at the left of our lane
    labelled = {own - 1, own, own + 1, own + 2}
    if rng.random() < _FIFTH_LINE_CHANCE:
        labelled.add(own - 2 if own > 1 and rng.random() < _FIFTH_LEFT_SHARE else own + 3)
    return labelled


def _sample_lines(rng, road, labelled):
    """All lines of the own carriageway from left to right, then those of the opposite one. labelled: set of numbers."""
    offsets = _line_offsets(road)
    raised = rng.random() < (_CONCRETE_DOTS_CHANCE if road.concrete else _DOTS_CHANCE)
    pattern, period = _choose(rng, _PATTERNS)
    if raised:
        pattern, period = _choose(rng, _DOTS)
    wear = mixture(rng, *_WEARS, p=_WEAR_SHARES)
    width = rng.uniform(*_LINE_WIDTH)
    white = np.clip(rng.uniform(*_WHITE) + rng.normal(0, 4, 3), 0, 255)
    yellow = np.array([235, 180, 60]) * rng.uniform(*_YELLOW_GAIN) + rng.normal(0, 12, 3)
    left_colour = yellow if rng.random() < _YELLOW_CHANCE else white
    wear_spread = rng.uniform(*_WEAR_SPREAD)
    lines = []
    for i, offset in enumerate(offsets):
        edge, centre = i in (0, len(offsets) - 1), road.two_way and i == 1  # centre: between the two directions
        style = dict(colour=tuple(left_colour if i == 0 else white), dots=False, pattern=[], period=0.0,
                     width=width * (rng.uniform(*_EDGE_LINE_WIDTH) if edge else 1), phase=rng.uniform(*_PHASE),
                     wear=float(np.clip(wear + rng.normal(0, wear_spread), 0, 0.9)), labelled=i in labelled, number=i)
        if centre:
            style['colour'] = tuple(left_colour)
        if not edge and not (centre and rng.random() < _TWO_WAY_UNBROKEN_CHANCE) and rng.random() > _UNBROKEN_CHANCE:
            style.update(pattern=pattern, period=period, dots=raised)
            if not raised and rng.random() < _MERGING_CHANCE:
                style.update(pattern=[(0, 1.0)], period=rng.choice(_MERGING_PERIODS), width=style['width'] * 1.5)
        offset = offset + rng.normal(0, _ASIDE_OF_LINE)
        unbroken_double = _TWO_WAY_DOUBLE_CHANCE if road.two_way else _DOUBLE_CHANCE
        if rng.random() < (_BROKEN_DOUBLE_CHANCE if style['pattern'] else unbroken_double):
            # The label runs along the one nearer to us.
            apart = np.copysign(style['width'] / 2 + rng.uniform(*_DOUBLE_GAP), offset)
            lines.append(Line(offset=offset - apart, **style))
            other = dict(style, labelled=False, number=None)
            if road.two_way and rng.random() < _HALF_BROKEN_CHANCE:
                other.update(pattern=_PATTERNS[0][0], period=_PATTERNS[0][1])
            lines.append(Line(offset=offset + apart, **other))
        else:
            lines.append(Line(offset=offset, **style))
        if raised and style['dots'] and rng.random() < _PAINT_BETWEEN_DOTS_CHANCE:
            lines.append(Line(**dict(vars(lines[-1]), pattern=[(0.1, 3.4)], period=14.63, dots=False,
                                     labelled=False, number=None, wear=rng.uniform(*_PAINT_BETWEEN_DOTS_WEAR))))
    if road.oncoming:
        inner, count = road.oncoming
        for k in range(count + 1):
            edge = k in (0, count)
            lines.append(Line(offset=inner - k * road.lane_width, colour=tuple(left_colour if k == 0 else white),
                              width=width, pattern=[] if edge else pattern, period=period, phase=rng.uniform(*_PHASE),
                              wear=wear, dots=raised and not edge, labelled=False))
    return lines


def _choose(rng, table):
    """One of the rows (.., share) of a table. -> the row without its share"""
    return table[rng.choice(len(table), p=[share for *_, share in table])][:-1]


# ---- Vehicles --------------------------------------------------------------------------------------------------------

_DENSITIES, _DENSITY_SHARES = [0.1, 0.5, 1.0, 1.8], [.15, .3, .35, .2]
_FIRST_GAP, _GAP = 25, 28  # m, mean of an exponential distribution, at density 1
_LEAST_GAP = 4  # m
_OWN_LANE_FREE, _NEXT_LANE_FREE, _ONCOMING_FREE = (9, 30), (2.5, 12), (5, 20)  # m ahead without a vehicle
_REACH, _ONCOMING_REACH = 300, 180  # m
_KIND_SHARES = {'sedan': 5, 'suv': 4, 'van': 1.2, 'pickup': 1.6, 'hatch': 0.7, 'box': 0.7, 'trailer': 0.6, 'bus': 0.1}
_TRUCKS = ('box', 'trailer')
_TRUCKS_RIGHT, _TRUCKS_LEFT, _TRUCKS_ONCOMING = 1.5, 0.4, 0.8  # times their share: the two right lanes, the others
_PAINT_GAIN, _WHITE_TRUCK_GAIN, _WHITE_TRUCK_CHANCE = (0.75, 1.1), (0.65, 1.05), 0.8
_VEHICLE_ASIDE = 0.25  # m, deviation from the middle of the lane
_LIGHTS_CHANCE = 0.12
_VEHICLE_SIZE = (0.94, 1.06)  # times the usual size of its kind


def sample_vehicle(rng, offset, distance, oncoming, trucks):
    """Draws a vehicle of a lane. offset: of the lane's middle m; trucks: times their usual share -> Vehicle"""
    shares = np.array([share * (trucks if kind in _TRUCKS else 1) for kind, share in _KIND_SHARES.items()])
    kind = list(_KIND_SHARES)[rng.choice(len(shares), p=shares / shares.sum())]
    paint = np.array(_choose(rng, PAINTS)[0]) * rng.uniform(*_PAINT_GAIN)
    if kind in _TRUCKS and rng.random() < _WHITE_TRUCK_CHANCE:
        paint = np.array([225, 225, 222]) * rng.uniform(*_WHITE_TRUCK_GAIN)
    return Vehicle(kind, offset + rng.normal(0, _VEHICLE_ASIDE), distance, tuple(np.clip(paint, 8, 250)), oncoming,
                   bool(rng.random() < _LIGHTS_CHANCE), rng.uniform(*_VEHICLE_SIZE))


def _sample_vehicles(rng, road):
    """Traffic lane by lane, sorted from far to near; the own lane is free for some metres ahead."""
    density = rng.choice(_DENSITIES, p=_DENSITY_SHARES)
    vehicles = []

    def fill(offset, free, oncoming, trucks):
        z = free + rng.exponential(_FIRST_GAP / density)
        while z < (_ONCOMING_REACH if oncoming else _REACH):
            vehicles.append(sample_vehicle(rng, offset, z, oncoming, trucks))
            z += VEHICLES[vehicles[-1].kind].length + _LEAST_GAP + rng.exponential(_GAP / density)

    for lane in range(road.lanes):
        offset = road.left + (lane + 0.5) * road.lane_width
        free = rng.uniform(*_OWN_LANE_FREE if abs(offset) < road.lane_width / 2 else _NEXT_LANE_FREE)
        fill(offset, free, road.two_way and lane == 0, _TRUCKS_RIGHT if lane >= road.lanes - 2 else _TRUCKS_LEFT)
    if road.oncoming:
        inner, count = road.oncoming
        for lane in range(count):
            fill(inner - (lane + 0.5) * road.lane_width, rng.uniform(*_ONCOMING_FREE), True, _TRUCKS_ONCOMING)
    return sorted(vehicles, key=lambda vehicle: -vehicle.distance)


# ---- Light and lens --------------------------------------------------------------------------------------------------

_WEATHER = {'clear': .46, 'overcast': .2, 'low': .14, 'haze': .1, 'dusk': .1}  # shares; low: the sun
_ELEVATION, _LOW_ELEVATION = (25, 70), (6, 22)  # degrees
_LOW_AZIMUTH = 0.7  # rad, deviation from straight ahead; uniform otherwise
_HAZE = {'clear': (900, 6000), 'overcast': (400, 3000), 'low': (400, 2500), 'haze': (120, 500)}  # visibility m
_SHADOW = {'clear': (0.45, 0.72), 'overcast': (0, 0.12), 'haze': (0.0, 0.45)}  # share of the light that shadows take
_AMBIENT = {'overcast': (0.68, 0.95), 'dusk': (0.4, 0.68)}
_CLOUDS, _OVERCAST_CLOUDS = (0, (0, 0.8)), 0.6  # cover
_BLUE = (0.6, 1.0)
_CLEAR_HORIZON, _LOW_HORIZON = (0.9, 1.05), (0.9, 1.03)  # gain
_OVERCAST_GREY, _HAZE_GREY = (165, 245), (190, 235)
_DUSK_ZENITH, _DUSK_HORIZON = (0.6, 1.1), (0.7, 1.1)  # gain


def _sample_light(rng):
    """Sun, sky, haze and shadows of a day, overcast, hazy or at dusk for some. -> Light"""
    kind = rng.choice(list(_WEATHER), p=list(_WEATHER.values()))
    azimuth = rng.uniform(-np.pi, np.pi)
    elevation = np.deg2rad(rng.uniform(*_ELEVATION))
    haze, ambient, shadow = rng.uniform(*_HAZE['clear']), 1.0, rng.uniform(*_SHADOW['clear'])
    clouds = mixture(rng, *_CLOUDS)
    zenith = np.array([95, 150, 215]) * rng.uniform(*_BLUE) + 20
    horizon = np.array([195, 218, 238]) * rng.uniform(*_CLEAR_HORIZON)
    if kind == 'overcast':
        grey = rng.uniform(*_OVERCAST_GREY)
        zenith, horizon = grey * np.array([0.9, 0.93, 0.97]), grey * np.array([1.0, 1.01, 1.02])
        shadow, haze, ambient = (rng.uniform(*table[kind]) for table in (_SHADOW, _HAZE, _AMBIENT))
        clouds = _OVERCAST_CLOUDS
    elif kind == 'low':
        azimuth, elevation = rng.normal(0, _LOW_AZIMUTH), np.deg2rad(rng.uniform(*_LOW_ELEVATION))
        horizon = np.array([250, 226, 190]) * rng.uniform(*_LOW_HORIZON)
        haze = rng.uniform(*_HAZE[kind])
    elif kind == 'haze':
        haze, shadow = rng.uniform(*_HAZE[kind]), rng.uniform(*_SHADOW[kind])
        horizon = np.full(3, rng.uniform(*_HAZE_GREY)) + rng.normal(0, 5, 3)
        zenith = horizon * 0.5 + zenith * 0.5
    elif kind == 'dusk':
        ambient, shadow = rng.uniform(*_AMBIENT[kind]), 0.0
        zenith = np.array([80, 100, 140]) * rng.uniform(*_DUSK_ZENITH)
        horizon = np.array([190, 165, 155]) * rng.uniform(*_DUSK_HORIZON) + rng.normal(0, 12, 3)
    return Light(azimuth, elevation, shadow, np.clip(zenith, 0, 250), np.clip(horizon, 0, 252), haze, ambient,
                 float(clouds), kind == 'dusk')


_EXPOSURE, _EXPOSURE_AGAINST_SUN, _EXPOSURE_SPREAD = 114, 104, 15  # mean brightness of the photo; its deviation
_BALANCE, _GREEN = 0.02, (-0.05, 0.07)  # deviation of the logarithm per channel; more green, never less
_CONTRAST, _SATURATION, _VIGNETTE, _GLARE = (0.0, 0.8), (0.55, 1.15), (0, 0.3), (0, 1)
_BLURS, _BLUR_SHARES = ((0, 0.6), (0.5, 1.4)), [.75, .25]  # px, sigma
_MOTIONS, _MOTION_SHARES = (0, (1, 4)), [.8, .2]  # px along the columns
_NOISE, _DUSK_NOISE = (0.6, 3.0), 2.2  # deviation; times that
_JPEG_QUALITY = (55, 97)
_HOOD, _HOOD_CHANCE = (8, 60), 0.1  # px at the bottom


def _sample_lens(rng, light):
    """What the camera makes of the light that falls in: exposure, colours, blur, noise, our own hood. -> Lens"""
    against = light.shadow > 0.2 and abs(light.azimuth) < 1.2
    return Lens(exposure=(rng.normal(_EXPOSURE_AGAINST_SUN if against else _EXPOSURE, _EXPOSURE_SPREAD)
                          * light.ambient ** 0.6),
                balance=tuple(np.exp(rng.normal(0, _BALANCE, 3)) * (1, 1 + max(0, rng.uniform(*_GREEN)), 1)),
                contrast=rng.uniform(*_CONTRAST), saturation=rng.uniform(*_SATURATION),
                vignette=rng.uniform(*_VIGNETTE), blur=mixture(rng, *_BLURS, p=_BLUR_SHARES),
                motion=mixture(rng, *_MOTIONS, p=_MOTION_SHARES),
                noise=rng.uniform(*_NOISE) * (_DUSK_NOISE if light.dusk else 1), glare=rng.uniform(*_GLARE),
                quality=int(rng.integers(*_JPEG_QUALITY)),
                hood=rng.uniform(*_HOOD) if rng.random() < _HOOD_CHANCE else 0.0)
