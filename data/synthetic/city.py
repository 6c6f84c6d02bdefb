"""What borders a street: kerbs, pavements, railings, hedges, walls, fronts of buildings, trees, lights, people.

What stands is a list of (distance m, painter(canvas, rng)), painted from far to near.
"""
import functools

import cv2
import numpy as np

from data.synthetic.canvas import NEAREST, clipped, mixture, sixteenths
from data.synthetic.roadside import gantry, paint_pole, paint_tree, signs

_PIECES = np.concatenate([[0.6, 1.2], np.arange(2, 20, 1.5), np.geomspace(20, 260, 22)])  # m: joints of long things
_KERB_TOP = 0.18  # m, how wide a kerbstone is
_KERBSTONE = 2  # pieces that have one colour
RAILS = {  # (bottom, top) m of its bars along the road, height m, m between posts, m between upright bars
    'bars': ([(0.12, 0.17), (0.95, 1.0)], 1.0, 3.0, 0.16),
    'pipes': ([(0.35, 0.4), (0.65, 0.7), (0.95, 1.0)], 1.0, 2.0, 0),
    'guard': ([(0.45, 0.75)], 0.8, 2.0, 0),
    'panels': ([(0.05, 1.35)], 1.5, 2.5, 0),
    'hedge': ([(0.0, 1.0)], 0, 0, 0),
    'jersey': ([(0.0, 0.85)], 0, 0, 0),
    'balusters': ([(0.0, 0.2), (0.8, 1.0)], 1.1, 1.6, 0.35),
}
_DENSE_REACH, _POST_REACH = 22, 60  # m to which upright bars and posts are painted one by one
_GREEN = np.array([58.0, 78, 44])

_BUILDING_LENGTH, _BUILDING_HEIGHTS = (9, 32), ((4, 9), (9, 22), (22, 60))  # m
_BUILDING_GAP, _BUILDING_GAP_CHANCE, _SET_BACK = (3, 14), 0.25, (0, 3)  # m
_FRONT_REACH, _GANTRY_CHANCE = 200, 0.12  # m
_WALL_HEIGHT, _HEDGE_HEIGHT = (1.8, 3.2), (0.9, 2.6)  # m
_WOODS_STEP, _WOODS_DEPTH = (3, 7), (0, 7)  # m
_TREE_HEIGHT, _TREE_SIZE = (5, 12), (0.8, 1.2)  # m, times that
_TREES = (0, 0, 1, 1, 2, 5, 6, 6, 8, 13, 13, 14, 18, 18)  # sprites of synthetic_roadside: no bushes, few palms
_WOODS = (0, 1, 2, 4, 6, 7, 8, 10, 12, 13, 14, 18, 20)
_TUNNEL_HEIGHT, _TUNNEL_PANEL = (4.8, 5.6), 1.6  # m; of the paler lower part of its walls
_PEOPLE_FROM = -0.7  # m from the kerb: some walk on the road
_CLOTHES = [(40, 42, 50), (150, 40, 40), (60, 80, 130), (190, 190, 185), (70, 70, 60), (200, 170, 60)]


def _along(view, offset, height):
    """Points px of a line at _PIECES, also of those nearer than NEAREST. -> float64 [len(_PIECES), 2]"""
    return np.stack([view.column(_PIECES, offset), view.row(_PIECES, height)], -1)


def _things(piece):
    """A long thing of pieces, painted by piece(canvas, rng, number). -> list of (distance, painter)"""
    return [(max(_PIECES[i], NEAREST) + 0.5, functools.partial(piece, i=i)) for i in range(len(_PIECES) - 1)]


# ---- Kerbs and pavements ---------------------------------------------------------------------------------------------

def paint_pavements(canvas, rng):
    """Paints the raised ground of all sides of the street, over the ground that is painted."""
    before = canvas.pixels.copy()
    for side in canvas.scene.sides:
        face = 0.45 + 0.4 * canvas.facing(-side.side * np.pi / 2)
        pavement = side.shade * np.array([1.0, 0.98, 0.95])
        if side.rail == 'hedge' or side.front in ('woods', 'hedge'):
            pavement = 0.4 * pavement + 0.6 * _GREEN * 1.5
        edges = [_along(canvas.view, side.kerb + side.side * out, up)
                 for out, up in ((0, 0), (0.02, side.height), (_KERB_TOP, side.height), (side.width, side.height))]
        beyond = _along(canvas.view, side.kerb + side.side * (side.width + 30), side.height)
        for i in reversed(range(len(_PIECES) - 1)):
            part, z = slice(i, i + 2), _PIECES[i]
            stone = side.colour if i // _KERBSTONE % 2 else side.second_colour
            if side.front != 'median':
                canvas.strip(edges[3][part], beyond[part], canvas.air(pavement * 0.8, z))
            canvas.strip(edges[2][part], edges[3][part], canvas.air(pavement, z))
            canvas.strip(edges[0][part], edges[1][part], canvas.air(stone * face, z))
            canvas.strip(edges[1][part], edges[2][part], canvas.air(stone, z))
    canvas.roughen(before, rng, rng.uniform(1.5, 3), 0.06)


def street_things(canvas, rng):
    """All that stands beside a street. -> list of (distance, painter)"""
    things = []
    for side in canvas.scene.sides:
        things += _rail(rng, canvas.view, side)
        things += {'buildings': _buildings, 'wall': _wall, 'hedge': _hedge, 'woods': _woods, 'tunnel': _tunnel}.get(
            side.front, lambda *_: [])(rng, canvas.view, side)
        things += _street_trees(rng, side) + _people(rng, side) + _street_lamps(rng, canvas.light, side)
    if canvas.scene.sides[-1].front != 'tunnel':
        left, right, progress = *canvas.scene.road.edges, canvas.scene.progress
        things += signs(rng, right, progress) + _traffic_lights(rng, canvas.scene)
        things += [gantry(rng, left, right, progress)] if rng.random() < _GANTRY_CHANCE else []
    return things


def _traffic_lights(rng, scene):
    """Lights on an arm over the road, beyond a crossing. -> list of (distance, painter)"""
    right = scene.road.edges[1] + 0.8
    reach, colour = rng.uniform(2, 6), ((255, 50, 40), (60, 240, 150), (255, 190, 60))[rng.integers(3)]

    def paint(canvas, rng, z):
        project, focal, grey = canvas.view.project, canvas.view.camera.focal, canvas.air(np.full(3, 90.0), z)
        canvas.polyline(project([right, right, right - reach], [0.0, 5.8, 5.8], [z] * 3), grey, focal * 0.16 / z)
        for x in (right, right - reach * 0.6, right - reach):
            corners = x + np.array([-0.2, 0.2, 0.2, -0.2])
            canvas.polygon(project(corners, np.array([5.2, 5.2, 6.3, 6.3]) - 2.5 * (x == right), np.full(4, z)),
                           canvas.air(np.full(3, 25.0), z))
            (column, row), = project([x], [6.05 - 2.5 * (x == right)], [z])
            cv2.circle(canvas.pixels, (int(np.clip(column, -99, 2000)), int(np.clip(row, -99, 2000))),
                       max(1, int(focal * 0.13 / z)), colour, -1, cv2.LINE_AA)
    return [(marking.end + 8, functools.partial(paint, z=marking.end + 8)) for marking in scene.markings
            if marking.kind in ('zebra', 'box')]


def _pieces(view, side, out, heights, colour, rough=0.0):
    """A long thing, `out` m from the kerb, as pieces. heights: list of (bottom, top) m -> things"""
    offset = side.kerb + side.side * out
    edges = [[_along(view, offset, side.height + high) for high in pair] for pair in heights]

    def piece(canvas, rng, i):
        light = 0.4 + 0.6 * canvas.facing(-side.side * np.pi / 2)
        for low, high in edges:
            gain = light * (1 + rough * rng.normal())
            canvas.strip(low[i:i + 2], high[i:i + 2], canvas.air(colour * gain, _PIECES[i]))
    return _things(piece)


def _rail(rng, view, side):
    """A railing, a hedge or a barrier between the road and the pavement, or on a median."""
    if side.rail == 'none':
        return []
    bars, height, post_step, bar_step = RAILS[side.rail]
    offset = side.kerb + side.side * side.rail_place
    if side.rail == 'hedge':
        return _leaves(rng, side, side.rail_place, rng.uniform(*_HEDGE_HEIGHT) * 0.6)
    things = _pieces(view, side, side.rail_place, bars, side.rail_colour)

    def upright(canvas, rng, z, thick):
        canvas.polyline(canvas.view.project(offset, [side.height, side.height + height], [z, z]),
                        canvas.air(side.rail_colour * 0.85, z), canvas.view.camera.focal * thick / z)

    def group(canvas, rng, start, end):  # from far to near
        for z in np.arange(end, start, -bar_step):
            upright(canvas, rng, z, 0.03)
    if post_step:
        things += [(z, functools.partial(upright, z=z, thick=0.1))
                   for z in np.arange(NEAREST + rng.uniform(0, post_step), _POST_REACH, post_step)]
    if bar_step:
        things += [(start + 0.2, functools.partial(group, start=start, end=end))
                   for start, end in zip(_PIECES, _PIECES[1:]) if NEAREST <= start and end < _DENSE_REACH]
    return things


def _leaves(rng, side, out, height):
    """A hedge, of pieces with an uneven top and rough faces."""
    offset = side.kerb + side.side * out
    tops = height * rng.uniform(0.85, 1.15, len(_PIECES))
    green = _GREEN * rng.uniform(0.7, 1.3) + rng.normal(0, 6, 3)

    def piece(canvas, rng, i):
        z, part = _PIECES[i:i + 2], slice(i, i + 2)
        low, high = (_along(canvas.view, offset, up)[part] for up in (side.height, side.height + tops))
        deep = _along(canvas.view, offset + side.side * 0.8, side.height + tops)[part]
        light = 0.35 + 0.5 * canvas.facing(-side.side * np.pi / 2)
        x = np.concatenate([low[:, 0], high[:, 0], deep[:, 0]])
        y = np.concatenate([low[:, 1], high[:, 1], deep[:, 1]])
        left, right = np.clip([x.min(), x.max() + 1], 0, canvas.width).astype(int)
        top, bottom = np.clip([y.min(), y.max() + 1], 0, canvas.height).astype(int)
        canvas.strip(high, deep, canvas.air(green * 1.1, z[0]))
        canvas.strip(low, high, canvas.air(green * light, z[0]))
        if right - left > 6 and bottom - top > 6:
            count = min(160, (right - left) * (bottom - top) // 50)
            along, up = rng.random([2, count, 1])
            foot, crest = (line[0] + along * (line[1] - line[0]) for line in (low, high))
            spots = np.clip(foot + up * (crest - foot), -100, 3000)
            size = int(np.clip(canvas.view.camera.focal * 0.03 / z[0], 1, 5))
            for point, gain in zip(spots, rng.uniform(0.5, 1.6, count)):
                cv2.circle(canvas.pixels, (int(point[0]), int(point[1])), size,
                           clipped(canvas.air(green * light * gain, z[0])), -1)
    return _things(piece)


def _hedge(rng, view, side):
    return _leaves(rng, side, side.width, rng.uniform(*_HEDGE_HEIGHT))


def _wall(rng, view, side):
    height = rng.uniform(*_WALL_HEIGHT)
    colour = np.array([1, 0.97, 0.92]) * rng.uniform(70, 190)
    return _pieces(view, side, side.width, [(0, height), (height, height + 0.15)], colour, 0.02)


def _tunnel(rng, view, side):
    """The wall of a tunnel, its half of the ceiling, and a row of lamps."""
    height, across = rng.uniform(*_TUNNEL_HEIGHT), abs(side.kerb) + side.width
    colour = np.array([1.0, 0.96, 0.88]) * rng.uniform(100, 200)
    low, middle = (_along(view, side.kerb + side.side * side.width, up) for up in (0.0, _TUNNEL_PANEL))
    top = _along(view, side.kerb + side.side * side.width, height)
    crown = _along(view, side.kerb + side.side * (side.width - across), height + 0.6)
    lamps = [_along(view, side.kerb + side.side * (side.width - out), height - 0.1) for out in (1.5, 1.8)]

    def piece(canvas, rng, i):
        part = slice(i, i + 2)
        for a, b, gain in ((low, middle, 1.0), (middle, top, 0.6), (top, crown, 0.35)):
            canvas.strip(a[part], b[part], canvas.air(colour * gain, _PIECES[i]))
        if i % 2:
            canvas.strip(lamps[0][part], lamps[1][part], (255, 246, 225))
    return _things(piece)


# ---- Buildings -------------------------------------------------------------------------------------------------------

def _buildings(rng, view, side):
    """Fronts in a row, with gaps between some."""
    things, z = [], NEAREST + rng.uniform(-8, 6)
    heights = _BUILDING_HEIGHTS[rng.integers(len(_BUILDING_HEIGHTS))]
    while z < _FRONT_REACH:
        length = rng.uniform(*_BUILDING_LENGTH)
        back = side.width + rng.uniform(*_SET_BACK)
        things.append((z + length, functools.partial(
            _paint_building, offset=side.kerb + side.side * back, side=side.side, start=z, end=z + length,
            height=rng.uniform(*heights), number=int(rng.integers(16)), gain=rng.uniform(0.6, 1.05))))
        z += length + (rng.uniform(*_BUILDING_GAP) if rng.random() < _BUILDING_GAP_CHANCE else 0)
    return things


def _paint_building(canvas, rng, offset, side, start, end, height, number, gain):
    night = canvas.light.night is not None
    first = max(start, NEAREST)
    if end <= first + 0.5:
        return
    if start > NEAREST:  # the end that faces us
        depth = offset + side * np.array([0, 14, 14, 0])
        corners = canvas.view.project(depth, np.array([0, 0, height, height]), np.full(4, start))
        _lay(canvas, _facade(number, night), (0, 0.6), corners, gain * 0.8, start, canvas.facing(np.pi))
    corners = canvas.view.project(np.full(4, offset), np.array([0, 0, height, height]),
                                  np.array([first, end, end, first]))
    _lay(canvas, _facade(number, night), ((first - start) / (end - start), 1), corners, gain, first,
         canvas.facing(-side * np.pi / 2))


def _lay(canvas, facade, share, corners, gain, z, facing):
    """Lays a share (from, to) of a facade [rows, columns, 3] between corners [4, 2] px, clockwise from lower left."""
    low, high = corners.min(0), corners.max(0)
    x0, y0 = np.clip(low, 0, [canvas.width, canvas.height]).astype(int)
    x1, y1 = np.clip(high + 1, 0, [canvas.width, canvas.height]).astype(int)
    if x1 - x0 < 1 or y1 - y0 < 1:
        return
    rows, columns = facade.shape[:2]
    shrink = min(8, 2 ** int(np.log2(max(1, min(rows / max(high[1] - low[1], 1), columns / max(high[0] - low[0], 1)))
                                     + 0.01)))
    if shrink > 1:
        facade = cv2.resize(facade, None, fx=1 / shrink, fy=1 / shrink, interpolation=cv2.INTER_AREA)
        rows, columns = facade.shape[:2]
    a, b = share[0] * columns, share[1] * columns
    source = np.float32([[a, rows], [b, rows], [b, 0], [a, 0]])
    matrix = cv2.getPerspectiveTransform(source, (corners - [x0, y0]).astype(np.float32))
    seen = np.exp(-z / canvas.light.haze)
    light = max(canvas.light.ambient, 0.8 if canvas.light.night else 0) * (0.45 + 0.55 * facing)
    tint = cv2.convertScaleAbs(facade, alpha=gain * light * seen)
    if seen < 0.98:
        tint = cv2.add(tint, clipped(canvas.light.horizon * (1 - seen)))
    cover = np.zeros([y1 - y0, x1 - x0], np.uint8)
    cv2.fillPoly(cover, [sixteenths(corners - [x0, y0])], 255, cv2.LINE_8, 4)
    image = cv2.warpPerspective(tint, matrix, (x1 - x0, y1 - y0), flags=cv2.INTER_LINEAR,
                                borderMode=cv2.BORDER_REPLICATE)
    cv2.copyTo(image, cover, canvas.pixels[y0:y1, x0:x1])


@functools.lru_cache(maxsize=None)
def _facade(number, night):
    """A front with windows, the same in every process; at night some are lit. -> uint8 [256, 384, 3]"""
    rng = np.random.default_rng([82, number])
    lit = np.random.default_rng([83, number])
    rows, columns = 256, 384
    base = np.array([(176, 168, 155), (150, 100, 82), (196, 190, 180), (120, 118, 116), (205, 180, 140),
                     (140, 150, 160)][number % 6]) * rng.uniform(0.75, 1.15)
    dark = 0.12 if night else 1.0
    image = np.empty([rows, columns, 3], np.float32)
    image[:] = base * dark * rng.normal(1, 0.03, [rows, columns, 1])
    floors, across = int(rng.integers(2, 9)), int(rng.integers(5, 15))
    shops = rng.random() < 0.6
    tall, wide = rows / (floors + 0.3), columns / across
    glass = np.array([70, 82, 95]) * rng.uniform(0.5, 1.4)
    w, h = rng.uniform(0.45, 0.85), rng.uniform(0.4, 0.75)
    for floor in range(floors):
        top = rows - (floor + 1) * tall
        if shops and floor == 0:
            continue
        for column in range(across):
            tone = glass * rng.uniform(0.6, 1.4) * dark
            if night and lit.random() < 0.3:
                tone = np.array([255, 215, 150]) * lit.uniform(0.4, 1.0)
            left = (column + (1 - w) / 2) * wide
            cv2.rectangle(image, (int(left), int(top + (1 - h) / 2 * tall)),
                          (int(left + w * wide), int(top + (1 + h) / 2 * tall)), clipped(tone), -1)
        if number % 3 == 0:
            cv2.rectangle(image, (0, int(top)), (columns, int(top + 0.08 * tall)), clipped(base * 0.8 * dark), -1)
    if shops:
        top, left = rows - tall, 0
        while left < columns:
            right = left + int(rng.uniform(35, 90))
            sign = rng.uniform(20, 230, 3)
            cv2.rectangle(image, (left + 3, int(top + 0.35 * tall)), (right - 3, rows),
                          clipped(np.array([255, 235, 200]) * 0.8 if night and lit.random() < 0.7 else
                                  glass * rng.uniform(0.4, 1.1) * dark), -1)
            cv2.rectangle(image, (left + 1, int(top + 0.05 * tall)), (right - 1, int(top + 0.35 * tall)),
                          clipped(sign * 0.9), -1)
            for x in range(left + 6, right - 6, 5):
                cv2.line(image, (x, int(top + 0.15 * tall)), (x, int(top + 0.27 * tall)), clipped(255 - sign), 2)
            left = right
    return np.clip(image, 0, 255).astype(np.uint8)


# ---- Trees, lamps, people --------------------------------------------------------------------------------------------

def _woods(rng, view, side):
    """Trees so close to each other that they are a wall."""
    things, z = [], 4.0
    green, tall = _GREEN * rng.uniform(0.6, 1.1), rng.uniform(*_TREE_HEIGHT)
    while z < 160:
        out = side.width + rng.uniform(*_WOODS_DEPTH) + 1.5
        things.append((z, functools.partial(paint_tree, offset=side.kerb + side.side * out, z=z, base=side.height,
                                            height=tall * rng.uniform(*_TREE_SIZE),
                                            colour=green + rng.normal(0, 5, 3), sprites=_WOODS)))
        z += rng.uniform(*_WOODS_STEP) * (1 + z / 40)
    return things + _leaves(rng, side, side.width + 0.5, rng.uniform(*_HEDGE_HEIGHT) * 1.3)


def _street_trees(rng, side):
    if not side.tree_step:
        return []
    things, tall = [], rng.uniform(*_TREE_HEIGHT)
    green = _GREEN * rng.uniform(0.7, 1.3)
    offset = side.kerb + side.side * min(0.9, side.width / 2)
    for z in np.arange(4 + rng.uniform(0, side.tree_step), 150, side.tree_step):
        height = tall * rng.uniform(*_TREE_SIZE)
        things.append((z, functools.partial(_paint_street_tree, z=z, offset=offset + rng.normal(0, 0.15),
                                            height=height, base=side.height, white=side.white_trunks,
                                            colour=green + rng.normal(0, 5, 3))))
    return things


def _paint_street_tree(canvas, rng, z, offset, height, base, white, colour):
    """A crown on a trunk, which may be painted white below."""
    project, width = canvas.view.project, canvas.view.camera.focal * 0.24 / z
    canvas.polyline(project(offset, [base, base + height * 0.5], [z, z]), canvas.air(np.array([62, 52, 42]), z), width)
    if white:
        canvas.polyline(project(offset, [base, base + 1.2], [z, z]), canvas.air(np.full(3, 205.0), z), width)
    paint_tree(canvas, rng, offset, height * 0.75, z, colour, base + height * 0.33, _TREES)


def _street_lamps(rng, light, side):
    """Lamp posts; at night they stand where the light does."""
    if side.front == 'tunnel':
        return []
    if light.night:
        if not any(abs(offset - side.kerb) < 2 for offset in light.night.lamps):
            return []
        step, phase, height = light.night.lamp_step, light.night.lamp_phase, light.night.lamp_height
    elif rng.random() < 0.5:
        return []
    else:
        step, phase, height = rng.uniform(20, 45), rng.uniform(5, 40), rng.uniform(6, 11)
    arm, tone = mixture(rng, 0, (1.2, 3)), rng.uniform(60, 180)
    return [(z, functools.partial(paint_pole, z=z, offset=side.kerb + side.side * 0.6, height=height,
                                  arm=-side.side * arm, tone=tone))
            for z in np.arange(phase, 260, step) if z > NEAREST]


def _people(rng, side):
    things = []
    for _ in range(side.people):
        z, out = rng.uniform(6, 60), rng.uniform(_PEOPLE_FROM, max(0.5, side.width - 0.3))
        clothes = [np.array(_CLOTHES[i], float) for i in rng.integers(len(_CLOTHES), size=2)]
        things.append((z, functools.partial(_paint_person, z=z, offset=side.kerb + side.side * out,
                                            base=side.height * (out > 0), height=rng.uniform(1.5, 1.85),
                                            clothes=clothes)))
    return things


def _paint_person(canvas, rng, z, offset, base, height, clothes):
    def part(a, low, high, wide, colour):
        points = canvas.view.project(offset + a + np.array([-wide, wide, wide * 0.9, -wide * 0.9]),
                                     base + height * np.array([low, low, high, high]), np.full(4, z))
        canvas.polygon(points, canvas.air(colour, z))
    for a in (-0.1, 0.1):
        part(a, 0, 0.5, 0.08, clothes[0] * 0.7)
    part(0, 0.46, 0.84, 0.22, clothes[1])
    part(0, 0.85, 1.0, 0.09, np.array([150.0, 110, 90]) if rng.random() < 0.6 else np.array([35.0, 30, 28]))
