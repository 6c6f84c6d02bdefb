"""The distributions of city streets: their lanes, lines, borders, traffic and what else is painted on them.

Units and the ways of writing are those of data/synthetic/distributions.py.
"""
import dataclasses

import numpy as np

from data.synthetic.canvas import mixture
from data.synthetic.distributions import sample_road, sample_vehicle
from data.synthetic.markings import ARROWS, SYMBOLS
from data.synthetic.scene import Line, Marking, Side
from data.synthetic.vehicles import VEHICLES

# ---- Road ------------------------------------------------------------------------------------------------------------

_KINDS = {'divided': 0.42, 'two-way': 0.36, 'one-way': 0.22}  # shares
_LANE_WIDTH, _LANE_WIDTHS = (3.3, 0.2), (2.8, 3.9)  # m, normal; its limits
_LANES_BESIDE = [0.26, 0.45, 0.29]  # chance of 0, 1, 2 lanes of our direction on a side
_ONCOMING_LANES = [0.55, 0.35, 0.1]  # chance of 1, 2, 3
_ASIDE, _BETWEEN_LANES, _BETWEEN_CHANCE = (0.0, 0.3), (-1.6, 1.6), 0.06  # m, normal; m
_GUTTER = (0.15, 0.7)  # m, from the outer line to the kerb
_PARKING_CHANCE, _PARKING = 0.4, (2.1, 2.7)  # m
_MEDIAN = (0.4, (1, 6))  # m
_SHADES = ((55, 95), (85, 135))  # brightness of the surface


def sample_street(rng, camera, nearest, night):
    """Draws a city street for a Camera. nearest: m to the road that it sees; night: vehicles have lights

    -> (Road, list of Lines, list of Vehicles, tuple of Sides, list of Markings)
    """
    kind = rng.choice(list(_KINDS), p=list(_KINDS.values()))
    width = float(np.clip(rng.normal(*_LANE_WIDTH), *_LANE_WIDTHS))
    left, right = (int(rng.choice(3, p=_LANES_BESIDE)) for _ in range(2))
    facing = 1 + int(rng.choice(3, p=_ONCOMING_LANES)) if kind == 'two-way' else 0
    aside = rng.uniform(*_BETWEEN_LANES) if rng.random() < _BETWEEN_CHANCE else rng.normal(*_ASIDE)
    parking = [rng.random() < _PARKING_CHANCE, rng.random() < _PARKING_CHANCE]
    parking[0] &= kind != 'divided'
    shoulders = tuple(rng.uniform(*_GUTTER) + (rng.uniform(*_PARKING) if parked else 0) for parked in parking)
    outer = -(left + facing + 0.5) * width + aside
    road = sample_road(rng, camera)
    concrete, shade = bool(rng.random() < 0.12), mixture(rng, *_SHADES)
    oncoming, median = None, mixture(rng, *_MEDIAN)
    if kind == 'divided':
        oncoming = (outer - 2 * shoulders[0] - median, int(rng.integers(1, 4)))
    road = dataclasses.replace(road, left=outer, right=(right + 0.5) * width + aside, lane_width=width,
                               shoulders=shoulders, concrete=concrete, shade=shade, shoulder_shade=shade,
                               oncoming=oncoming, two_way=bool(facing))
    lines = _sample_street_lines(rng, road, facing)
    vehicles = sample_traffic(rng, road, facing, rng.random() < _JAM_CHANCE, nearest)
    if night:
        vehicles = with_lights(vehicles)
    for side, parked in zip((-1, 1), parking):
        if parked:
            vehicles += _parked(rng, road.left - 1.25 if side < 0 else road.right + 1.25, side < 0 and facing > 0)
    vehicles.sort(key=lambda vehicle: -vehicle.distance)
    return road, lines, vehicles, _sample_sides(rng, road, median), _sample_markings(rng, road, facing)


# ---- Lines -----------------------------------------------------------------------------------------------------------

_PATTERNS = [  # as in data/synthetic/distributions.py
    ([(0, 2.0)], 6.0, .22), ([(0, 4.0)], 10.0, .2), ([(0, 3.0)], 9.0, .15), ([(0, 6.0)], 15.0, .18),
    ([(0, 3.0)], 12.0, .15), ([(0, 1.0)], 3.0, .1)]
_WEARS, _WEAR_SHARES = ((0, 0.25), (0.2, 0.6), (0.5, 0.8)), [0.5, 0.35, 0.15]
_LINE_WIDTH, _WHITE = (0.09, 0.17), (185, 250)
_YELLOW_GAIN, _YELLOW_CENTRE_CHANCE, _YELLOW_MEDIAN_CHANCE = (0.75, 1.03), 0.75, 0.4
_EDGE_CHANCE, _MEDIAN_EDGE_CHANCE = 0.6, 0.8  # that the road's outer line is painted
_LANE_LINE_CHANCE, _UNBROKEN_CHANCE = 0.95, 0.15
_CENTRES = {'double': 0.45, 'single': 0.33, 'broken': 0.22}
_DOUBLE_GAP = (0.06, 0.12)  # m, half of it


def _sample_street_lines(rng, road, facing):
    """Lines from left to right, then those beyond the median. facing: how many lanes at the left face us."""
    offsets = road.left + road.lane_width * np.arange(road.lanes + 1)
    own = int(np.searchsorted(offsets, 0)) - 1
    pattern, period = _PATTERNS[rng.choice(len(_PATTERNS), p=[row[2] for row in _PATTERNS])][:2]
    wear, width = mixture(rng, *_WEARS, p=_WEAR_SHARES), rng.uniform(*_LINE_WIDTH)
    white = np.clip(rng.uniform(*_WHITE) + rng.normal(0, 4, 3), 0, 255)
    yellow = np.array([235, 180, 60]) * rng.uniform(*_YELLOW_GAIN) + rng.normal(0, 12, 3)
    centre = yellow if rng.random() < _YELLOW_CENTRE_CHANCE else white
    inner = yellow if rng.random() < _YELLOW_MEDIAN_CHANCE else white
    last = len(offsets) - 1
    painted = [rng.random() < (_MEDIAN_EDGE_CHANCE if road.oncoming and i == 0 else _EDGE_CHANCE) if i in (0, last)
               else i == facing or rng.random() < _LANE_LINE_CHANCE for i in range(last + 1)]
    if sum(painted[max(own - 1, 0):own + 3]) < 2:  # a road without lines has no lanes to learn
        painted[own] = painted[own + 1] = True
    lines = []
    for i in np.flatnonzero(painted):
        middle = facing and i == facing
        style = dict(colour=tuple(centre if middle else inner if i == 0 and road.oncoming else white),
                     width=width * (rng.uniform(1, 1.3) if i in (0, last) else 1), pattern=[], period=0.0,
                     phase=rng.uniform(0, 20), wear=float(np.clip(wear + rng.normal(0, 0.08), 0, 0.8)), dots=False,
                     labelled=bool(own - 1 <= i <= own + 2), number=int(i))
        kind = 'single'
        if middle:
            kind = rng.choice(list(_CENTRES), p=list(_CENTRES.values()))
        elif i not in (0, last) and rng.random() > _UNBROKEN_CHANCE:
            kind = 'broken'
        if kind == 'broken':
            style.update(pattern=pattern, period=period)
        offset = float(offsets[i] + rng.normal(0, 0.04))
        if kind == 'double':
            # The label runs along the one nearer to us.
            apart = np.copysign(width / 2 + rng.uniform(*_DOUBLE_GAP), offset)
            lines.append(Line(offset=offset - apart, **style))
            lines.append(Line(offset=offset + apart, **dict(style, labelled=False, number=None)))
        else:
            lines.append(Line(offset=offset, **style))
    if road.oncoming:
        start, count = road.oncoming
        for k in range(count + 1):
            lines.append(Line(start - k * road.lane_width, tuple(white), width, [] if k in (0, count) else pattern,
                              period, rng.uniform(0, 20), wear, False, False))
    return lines


# ---- Traffic ---------------------------------------------------------------------------------------------------------

_JAM_CHANCE = 0.4
_SHARES = {'sedan': 5, 'suv': 3, 'van': 1.4, 'pickup': 0.5, 'hatch': 2, 'box': 0.7, 'trailer': 0.25, 'bus': 0.6}
_JAM_GAP, _GAPS = (1.5, 7), (8, 20, 60)  # m; mean, of empty streets too
_OWN_FREE, _JAM_OWN_FREE, _NEXT_FREE = (4, 30), (0.5, 10), (-3, 8)  # m; own: beyond the nearest road
_TRAFFIC_REACH, _JAM_REACH = 200, 110  # m
_PARKED_GAP, _PARKED_REACH, _PARKED_END_CHANCE = (0.6, 2.5), 90, 0.06  # m; that a gap is a long one


def sample_traffic(rng, road, facing, jam, nearest):
    """Traffic lane by lane, closer than on a freeway. facing: lanes at the left that face us; jam: bumper to bumper
    nearest: m to the road that the camera sees; the vehicle before us is no nearer

    -> list of Vehicles from far to near
    """
    gap = _GAPS[rng.integers(len(_GAPS))]
    lanes = [(road.left + (k + 0.5) * road.lane_width, k < facing) for k in range(road.lanes)]
    if road.oncoming:
        lanes += [(road.oncoming[0] - (k + 0.5) * road.lane_width, True) for k in range(road.oncoming[1])]
    vehicles = []
    for offset, oncoming in lanes:
        own = abs(offset) < road.lane_width / 2
        full = jam and (not oncoming or rng.random() < 0.4)
        z = rng.uniform(*(_JAM_OWN_FREE if full else _OWN_FREE) if own else _NEXT_FREE)
        z += (nearest if own else 0) + (0 if full else rng.exponential(gap))
        while z < (_JAM_REACH if full else _TRAFFIC_REACH):
            vehicles.append(sample_vehicle(rng, offset, z, oncoming, 1.0, _SHARES))
            z += VEHICLES[vehicles[-1].kind].length * 1.06
            z += rng.uniform(*_JAM_GAP) if full else 3 + rng.exponential(gap)
    return sorted(vehicles, key=lambda vehicle: -vehicle.distance)


def with_lights(vehicles):
    """The vehicles with their lights on, but for a few that have forgotten it."""
    return [dataclasses.replace(vehicle, lights=vehicle.size < 1.055) for vehicle in vehicles]


def _parked(rng, offset, facing):
    """Vehicles in a row at the kerb, their lights off. offset: of the row's middle m -> list of Vehicles"""
    vehicles, z = [], rng.uniform(-3, 10)
    while z < _PARKED_REACH:
        vehicle = sample_vehicle(rng, offset, z, facing, 0.3, dict(_SHARES, bus=0, trailer=0))
        vehicles.append(dataclasses.replace(vehicle, offset=offset + rng.normal(0, 0.08), lights=False))
        z += VEHICLES[vehicle.kind].length * 1.06 + rng.uniform(*_PARKED_GAP)
        z += rng.uniform(6, 40) if rng.random() < _PARKED_END_CHANCE else 0
    return vehicles


# ---- Borders ---------------------------------------------------------------------------------------------------------

_KERB_HEIGHT, _KERB_SHADE, _STRIPED_CHANCE = (0.08, 0.2), (100, 195), 0.12
_PAVEMENT, _PAVEMENT_SHADE = (1.5, 6), (95, 175)  # m
_MEDIAN_RAILS = {'bars': .22, 'pipes': .1, 'guard': .12, 'panels': .1, 'hedge': .2, 'jersey': .1, 'none': .08,
                 'balusters': .08}
_SIDE_RAILS = {'bars': .1, 'pipes': .06, 'guard': .08, 'panels': .04, 'hedge': .1, 'jersey': .03, 'balusters': .05,
               'none': .54}
_FRONTS = {'buildings': .42, 'wall': .1, 'hedge': .1, 'woods': .3, 'open': .08}
_RAIL_COLOURS = [(215, 215, 212), (215, 215, 212), (150, 152, 155), (60, 110, 80), (120, 118, 112), (70, 80, 110)]
_TREES_CHANCE, _TREE_STEP, _WHITE_TRUNKS_CHANCE = 0.5, (6, 16), 0.3  # m
_PEOPLE = 2.5  # mean


def _sample_sides(rng, road, median):
    fronts, shade = list(_FRONTS), rng.uniform(*_PAVEMENT_SHADE)

    def draw(side, kerb, front, rails, width):
        stone = np.array([1.0, 0.99, 0.96]) * rng.uniform(*_KERB_SHADE)
        second = stone * 0.96
        if rng.random() < _STRIPED_CHANCE:
            second = np.array([(190.0, 40, 35), (200, 160, 40), (40, 40, 40)][rng.integers(3)])
        rail = rng.choice(list(rails), p=np.array(list(rails.values())) / sum(rails.values()))
        trees = width > 1.2 and rng.random() < _TREES_CHANCE
        return Side(side, kerb, rng.uniform(*_KERB_HEIGHT), stone, second, width, shade * rng.uniform(0.85, 1.1),
                    str(rail), np.array(_RAIL_COLOURS[rng.integers(len(_RAIL_COLOURS))], float) * rng.uniform(0.8, 1.1),
                    min(0.35, width / 2), front, rng.uniform(*_TREE_STEP) if trees else 0.0,
                    bool(rng.random() < _WHITE_TRUNKS_CHANCE),
                    int(rng.poisson(_PEOPLE)) if front in ('buildings', 'wall', 'open') else 0)
    sides, left = [], road.edges[0]
    if road.oncoming:
        sides += [draw(-1, road.outer + 2.2, str(rng.choice(fronts, p=list(_FRONTS.values()))), _SIDE_RAILS,
                       rng.uniform(*_PAVEMENT)),
                  draw(-1, left, 'median', _MEDIAN_RAILS, median)]
    else:
        sides.append(draw(-1, left, str(rng.choice(fronts, p=list(_FRONTS.values()))), _SIDE_RAILS,
                          rng.uniform(*_PAVEMENT)))
    sides.append(draw(1, road.edges[1], str(rng.choice(fronts, p=list(_FRONTS.values()))), _SIDE_RAILS,
                      rng.uniform(*_PAVEMENT)))
    return tuple(sides)


def tunnel_sides(road):
    """The two walls of a tunnel. -> tuple of Sides"""
    grey = np.full(3, 120.0)
    return tuple(Side(side, kerb, 0.2, grey, grey * 0.97, 0.8, 110.0, 'none', grey, 0.0, 'tunnel', 0.0, False, 0)
                 for side, kerb in zip((-1, 1), road.edges))


# ---- Markings --------------------------------------------------------------------------------------------------------

_CROSSING_CHANCE, _CROSSING_START, _CROSSING_LENGTH, _STOP_LINE_CHANCE = 0.22, (9, 55), (3, 5), 0.7  # m
_BOX_CHANCE = 0.04
_SYMBOLS_CHANCE, _SYMBOL_START, _SYMBOL_STEP, _SYMBOL_LENGTH = 0.5, (6, 40), (15, 45), (3, 6.5)  # m
_BUS_LANE_CHANCE, _BUS_LANE_COLOURS = 0.08, [(120, 55, 48), (62, 105, 70), (150, 130, 60)]
_HATCH_CHANCE, _RUMBLE_CHANCE = 0.08, 0.06


def _sample_markings(rng, road, facing):
    white, wear = np.full(3, rng.uniform(180, 245)), rng.uniform(0, 0.6)
    markings = []

    def add(kind, left, right, start, end, colour=white, number=0):
        markings.append(Marking(kind, float(left), float(right), float(start), float(end), tuple(colour), wear, number))
    ours = road.left + facing * road.lane_width
    if rng.random() < _BUS_LANE_CHANCE:
        add('lane', road.right - road.lane_width + 0.1, road.right - 0.1, 0, 400,
            _BUS_LANE_COLOURS[rng.integers(len(_BUS_LANE_COLOURS))])
    crossing = rng.random()
    if crossing < _CROSSING_CHANCE + _BOX_CHANCE:
        start = rng.uniform(*_CROSSING_START)
        if crossing < _CROSSING_CHANCE:
            end = start + rng.uniform(*_CROSSING_LENGTH)
            add('zebra', road.edges[0] + 0.2, road.edges[1] - 0.2, start, end)
        else:
            end = start + rng.uniform(6, 14)
            add('box', road.edges[0] + 0.2, road.edges[1] - 0.2, start, end, (220, 175, 60))
        if rng.random() < _STOP_LINE_CHANCE:
            add('stop', ours, road.right, start - 2.2, start - 1.8)
    if rng.random() < _SYMBOLS_CHANCE:
        start, step = rng.uniform(*_SYMBOL_START), rng.uniform(*_SYMBOL_STEP)
        length = rng.uniform(*_SYMBOL_LENGTH)
        words = rng.random() < 0.4
        for lane in range(facing, road.lanes):
            middle = road.left + (lane + 0.5) * road.lane_width
            number = int(rng.integers(ARROWS, SYMBOLS) if words else rng.integers(ARROWS))
            half = rng.uniform(0.7, 1.1) if number >= ARROWS else rng.uniform(0.4, 0.6)
            if rng.random() < 0.75:
                for z in (start, start + step):
                    add('symbol', middle - half, middle + half, z, z + length, number=number)
    if rng.random() < _HATCH_CHANCE and road.shoulders[1] > 1:
        start = rng.uniform(5, 40)
        add('hatch', road.right + 0.2, road.edges[1] - 0.2, start, start + rng.uniform(10, 40),
            number=int(rng.integers(2)))
    if rng.random() < _RUMBLE_CHANCE:
        start = rng.uniform(5, 25)
        for lane in range(facing, road.lanes):
            middle = road.left + (lane + 0.5) * road.lane_width
            add('rumble', middle - 1.2, middle + 1.2, start, start + 60)
    return tuple(markings)
