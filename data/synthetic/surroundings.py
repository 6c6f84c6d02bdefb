"""The surroundings of the road: sky, horizon, banks; barriers, trees, poles, signs, bridges.

Those from barriers on are things, (distance m, painter(canvas, rng)), painted from far to near.
"""
import collections
import functools
import itertools

import cv2
import numpy as np

from data.synthetic.canvas import NEAREST, clipped, cloud_tile, look_up, mixture, noise_tile, wandering

_HORIZON_LAYERS = (  # distance m, (low, high) of the height m, chance; from far to near
    (8000, (150, 420), 0.35), (2500, (25, 110), 0.45), (900, (4, 16), 0.9), (500, (2, 11), 0.7))
_HORIZON_COLOUR = np.array([75, 88, 62])
_CHUNKS = np.concatenate([np.arange(2, 20, 1.5), np.geomspace(20, 500, 30)])  # m: ends of the pieces of long things
_DRIVE_CHUNK, _DRIVE_REACH = 5.0, 500.0  # m: length of all pieces in a drive; how far they are painted
_BARRIERS = {'none': .34, 'jersey': .22, 'rail': .24, 'wall': .1, 'fence': .1}  # shares
_SIGN_KINDS = [(0.75, 0.9, 2.1, (225, 225, 225)), (3.5, 2.2, 2.2, (20, 95, 70)), (0.9, 0.9, 2.0, (235, 140, 30))]


def paint_sky(canvas, rng):
    """Paints the whole canvas: the sky and, below it, the colour of the horizon."""
    light, view = canvas.light, canvas.view
    end = int(np.clip(view.vanishing + 4, 8, canvas.height))
    y, x = np.meshgrid(np.arange(0, end, 4.0), np.arange(0, canvas.width, 4.0), indexing='ij')
    rows = (np.clip(y / max(view.vanishing, 1), 0, 1) ** 1.3)[..., None]
    sky = light.zenith * (1 - rows) + light.horizon * rows
    if light.clouds:
        above = np.maximum(view.vanishing + 12 - y, 8)
        shift = rng.uniform(0, 512, 2)
        across = (x - view.camera.centre + canvas.panned) / above * 45 + shift[0]
        cloud = look_up(cloud_tile(), across.astype(np.float32),
                        (6000 / above + shift[1]).astype(np.float32))[..., None]
        cover = np.clip((cloud - 1 + 2 * light.clouds) * 0.6, 0, 0.85) * (1 - rows ** 4)
        sky += (light.horizon * (1.02 - 0.12 * np.clip(cloud, 0, 1)) - sky) * cover
    if abs(light.azimuth) < 1.4 and light.shadow > 0.1:  # brighter around the sun
        sun = canvas.sun()
        far = np.hypot(x - sun[0], y - sun[1])[..., None]
        sky += (255 - sky) * (0.95 * np.exp(-far / 60) + 0.5 * np.exp(-far / 420))
    canvas.pixels[:end] = cv2.resize(np.clip(sky, 0, 255).astype(np.float32), (canvas.width, end))
    canvas.pixels[end:] = clipped(light.horizon)


def paint_horizon(canvas, rng):
    """Hills, then woods or houses, nearer and darker, down to the ground."""
    view, width = canvas.view, canvas.width
    least, most = (int(view.camera.focal * turn) for turn in canvas.scene.progress.turns)
    around = width + most - least + 2 * (most > least)  # px, everything that comes into view during a drive
    columns = np.arange(width) + canvas.panned - least
    before = canvas.pixels.copy()
    green = rng.uniform(0.6, 1.1)
    # All heights are sampled before the first outline.
    for z, tall, chance in [(z, rng.uniform(*heights), chance) for z, heights, chance in _HORIZON_LAYERS]:
        rough = 0.5 + 0.35 * wandering(rng, around, 400 if z > 1000 else 150)
        if z < 3000:  # crowns of trees
            rough = np.maximum(rough, 0.1) * (1 + 0.22 * wandering(rng, around, 16))
        rough = np.interp(columns, np.arange(around), rough)
        if rng.random() < chance:
            top = view.vanishing + 2 - view.camera.focal / z * tall * np.clip(rough, 0.03, None)
            colour = canvas.air(_HORIZON_COLOUR * (green if z > 1000 else 0.5 * green), min(z, 0.9 * canvas.light.haze))
            bottom = view.vanishing + 12
            outline = np.stack([np.arange(width), top], 1)
            canvas.polygon(np.vstack([outline, [[width, bottom], [0, bottom]]]), colour)
    canvas.roughen(before, rng, 2.5, 0.09)


def roadside(canvas, banks, rng):
    """Everything next to and above the road except vehicles. banks: from paint_banks

    -> list of things: trees first, which keep their indices during a drive, pieces of barriers last
    """
    road, progress = canvas.scene.road, canvas.scene.progress
    left, right = road.edges
    median = 'jersey' if road.oncoming and rng.random() < 0.65 else None
    pieces = _barrier(rng, canvas, left - 0.2, -1, median)
    if road.oncoming:
        pieces += _barrier(rng, canvas, road.outer - 1, -1)
    pieces += _barrier(rng, canvas, right + 0.2, 1)
    things = [tree for bank in banks for tree in _trees(rng, bank, progress)]
    for sample in _lamps, _wires, _signs, _bridges, _gantry:
        things += sample(rng, canvas, left, right, progress)
    return things + pieces


def _beam(z, offset, height, tone, width, canvas, rng):
    """Paints a line through places (offset, height) m, z m away: width m wide, at least one pixel. tone: 0..255"""
    canvas.polyline(canvas.view.project(offset, height, z), canvas.air(tone, z), canvas.view.camera.focal * width / z)


def _board(z, left, right, low, high, colour, canvas, rng):
    """Paints an upright rectangle from offset left to right and from low to high m above the road, z m away."""
    canvas.polygon(canvas.view.project([left, right, right, left], [low, low, high, high], z), canvas.air(colour, z))


def _things(z, painter, *arguments):
    """-> a thing z m away for each tuple of arguments to _beam or _board"""
    return [(z, functools.partial(painter, z, *each)) for each in arguments]


def _chunks(progress):
    """The ends of the pieces of long things. -> (distances [n] m, the indices of the pieces ahead of us)"""
    if not progress.length:
        return _CHUNKS, range(len(_CHUNKS) - 1)
    z = np.arange(0, progress.length + _DRIVE_REACH, _DRIVE_CHUNK) - progress.travelled
    return z, range(np.searchsorted(z, NEAREST, 'right') - 1, np.searchsorted(z, _DRIVE_REACH - _DRIVE_CHUNK) - 1)


# ---- Banks and barriers ----------------------------------------------------------------------------------------------

# Rising ground next to the road, from edge + foot m outwards, up to crest [n] m at the distances z [n] m.
_Bank = collections.namedtuple('_Bank', 'side edge foot rise z crest green')


def paint_banks(canvas, rng):
    """Samples and paints the ground next to the road. -> the two Banks, left and right"""
    before = canvas.pixels.copy()
    road, banks = canvas.scene.road, []
    z, pieces = _chunks(canvas.scene.progress)
    for side, edge in ((-1, road.outer - 2), (1, road.edges[1] + 1.5)):
        green = rng.choice([[88, 104, 58], [70, 92, 52], [112, 112, 70], [60, 76, 50], [100, 100, 62]])
        rise = mixture(rng, 0, (1, 5), (5, 25), p=[.42, .32, .26])
        crest = rise * np.clip(0.7 + 0.35 * wandering(rng, len(z), 12), 0.1, None)
        banks.append(_Bank(side, edge, rng.uniform(1, 8), rise, z, crest, green * rng.uniform(0.6, 1.05)))
        if rise:
            _paint_bank(canvas, banks[-1], pieces)
    canvas.roughen(before, rng, rng.uniform(2, 5), 0.16)
    return banks


def _paint_bank(canvas, bank, pieces):
    light = 0.4 + 0.6 * canvas.facing(-bank.side * np.pi / 2)
    edges = [canvas.view.project(bank.edge + bank.side * (bank.foot + share * bank.rise * 2.2), bank.crest * share,
                                 bank.z) for share in (0, 0.35, 0.7, 1.0)]
    for i, k in itertools.product(reversed(pieces), range(3)):
        tone = bank.green * (0.85 + 0.1 * k) * light
        canvas.polygon([*edges[k][i:i + 2], *edges[k + 1][i:i + 2][::-1]], canvas.air(tone, bank.z[i]))


def _barrier(rng, canvas, offset, side, kind=None):
    """A concrete or steel barrier or a wall along the road, in pieces, for correct occlusion."""
    kind = kind or rng.choice(list(_BARRIERS), p=list(_BARRIERS.values()))
    progress = canvas.scene.progress
    z, pieces = _chunks(progress)
    start, end = 0, 500
    if rng.random() < 0.15:
        start = rng.uniform(30, 120)
    else:
        end = mixture(rng, 500, (60, 300))
    shade, tint = rng.uniform(95, 185), np.array([1, 0.99, 0.95])
    stains = wandering(rng, len(z), 8) * 0.03
    jersey, wall = rng.uniform(0.8, 1.1), rng.uniform(2.5, 5)
    faces = {  # (height, away from the road) of its lower and upper edge, grey, whether it is upright
        'jersey': [((jersey, .22), (jersey, .42), 1.1, 0), ((0.3, .14), (jersey, .22), 1, 1),
                   ((0, 0), (0.3, .14), 0.9, 1)],
        'wall': [((0, 0), (wall, 0), 0.9, 1), ((wall, 0), (wall + .15, 0), 1.1, 0)],
        'rail': [((0.45, 0), (0.6, 0), 0.75, 1), ((0.6, 0), (0.75, 0), 1.05, 1)],
        'fence': [((h, 0), (h + 0.04, 0), 0.7, 1) for h in (0.6, 1.2, 1.8)], 'none': []}[kind]
    edges = [[canvas.view.project(offset + side * lean, high, z) for high, lean in pair] for *pair, _, _ in faces]
    post = {'rail': 0.75, 'fence': 1.8}.get(kind)

    def paint_piece(i, canvas, rng):
        colour = shade * tint * (1 + stains[i])
        for (low, high), (*_, gain, upright) in zip(edges, faces):
            tone = colour * gain * (canvas.facing(-side * np.pi / 2) if upright else 1)
            canvas.polygon([*low[i:i + 2], *high[i:i + 2][::-1]], canvas.air(tone, max(z[i], NEAREST)))
        if post and z[i] >= NEAREST:
            _beam(z[i], offset, [0.0, post], 75.0, 0.1, canvas, rng)
    first, last = start - progress.travelled, end + progress.length - progress.travelled
    return [(max(z[i], NEAREST) + 0.5, functools.partial(paint_piece, i))
            for i in pieces if faces and first <= z[i] < last]


# ---- Trees -----------------------------------------------------------------------------------------------------------

def _trees(rng, bank, progress):
    """Trees and bushes on and in front of a bank."""
    things = []
    count, tall = rng.choice([0, 6, 25, 70], p=[.14, .26, .35, .25]), rng.uniform(4, 14)
    for _ in range(int(count * progress.times(0, 500))):
        z = rng.uniform(20, 120) if rng.random() < 0.3 else 500 * rng.random() ** 0.7 + 25
        if progress.length:
            z = rng.uniform(0, progress.length + 500) - progress.travelled
        away = rng.exponential(9) + 1.5  # m from the foot of the bank
        base = np.interp(z, bank.z, bank.crest) * min(1, away / (bank.rise * 2.2 + 0.1))
        height = tall * rng.uniform(0.35, 1.25)
        colour = bank.green * 0.72 * rng.uniform(0.6, 1.15) + rng.normal(0, 4, 3)
        things.append((z, functools.partial(_paint_tree, bank.edge + bank.side * (bank.foot + away), height, z, colour,
                                            base)))
    return things


def _paint_tree(offset, height, z, colour, base, canvas, rng):
    """Paints a tree that stands `base` m above the road."""
    x, y = canvas.view.project(offset, base, z)
    tall = canvas.view.camera.focal * height / z
    if not 3 <= tall <= 1100:
        return
    sprites = _tree_sprite(rng.integers(24))
    if tall <= 80:
        sprites = [cv2.resize(sprite, (64, 80), interpolation=cv2.INTER_AREA) for sprite in sprites]
    size = int(tall * rng.uniform(0.7, 1.1)), int(tall)
    left, top = int(x - size[0] / 2), int(y - tall)
    x0, x1, y0, y1 = max(left, 0), min(left + size[0], canvas.width), max(top, 0), min(top + size[1], canvas.height)
    if x0 >= x1 or y0 >= y1:
        return
    if rng.random() < 0.5:
        sprites = [sprite[:, ::-1] for sprite in sprites]
    tone, cover = (cv2.resize(sprite, size, interpolation=cv2.INTER_AREA if tall < 320 else cv2.INTER_LINEAR)
                   [y0 - top:y1 - top, x0 - left:x1 - left] for sprite in sprites)
    dark, bright = canvas.air(colour * 0.25, z), canvas.air(colour * (1.5 * canvas.facing(np.pi)), z)
    colours = np.clip(dark + (bright - dark) * np.linspace(0, 1, 256)[:, None], 0, 255).astype(np.uint8)
    part = canvas.pixels[y0:y1, x0:x1]
    alpha = cover[..., None].astype(np.uint16)
    part[:] = (part * (255 - alpha) + colours[tone] * alpha) >> 8


@functools.lru_cache(maxsize=None)
def _tree_sprite(number):
    """A tree, the same in every process. -> (brightness, cover), uint8 [320, 256]"""
    rng = np.random.default_rng([79, number])
    height, width = 320, 256
    tone, cover = np.zeros([2, height, width], np.uint8)
    kind = ('broad', 'broad', 'tall', 'bush', 'conifer', 'palm')[number % 6]
    if kind != 'bush':
        for sprite, value in ((tone, 45), (cover, 255)):
            cv2.line(sprite, (width // 2, height - 1), (width // 2 + 4, height // 3), value, 6 if kind != 'palm' else 5)
    if kind == 'palm':
        _paint_palm_leaves(rng, tone, cover)
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


def _paint_palm_leaves(rng, tone, cover):
    t = np.linspace(0, 1, 12)
    for angle in np.linspace(0, 2 * np.pi, 26):
        reach = rng.uniform(45, 75)
        points = np.stack([128 + np.cos(angle) * reach * t, 80 + np.sin(angle) * reach * 0.6 * t + 45 * t ** 2], 1)
        for sprite, value in ((tone, int(rng.uniform(50, 170))), (cover, 255)):
            cv2.polylines(sprite, [points.astype(np.int32)], False, value, 4)


# ---- Poles, wires, signs ---------------------------------------------------------------------------------------------

def _lamps(rng, canvas, left, right, progress):
    """Street lights on both sides."""
    if rng.random() >= 0.45:
        return []
    step, phase = rng.uniform(25, 60), rng.uniform(8, 50)
    arm, height, tone = mixture(rng, 0, (2, 4)), rng.uniform(8, 13), rng.uniform(60, 150) * canvas.facing(np.pi)
    sides = [(x, arm) for x, arm in ((left - 1, arm), (right + 1.5, -arm)) if rng.random() < 0.6]
    things = []
    for (x, arm), z in itertools.product(sides, np.arange(phase, 350 + progress.length, step) - progress.travelled):
        things += _things(z, _beam, (x, [0.0, height], tone, 0.13))
        if arm:
            things += _things(z, _beam, ([x, x + arm * 0.6, x + arm], height + np.array([0, 0.9, 1]), tone, 0.091),
                              ([x + arm, x + arm * 1.25], height + 1.0, tone, 0.208))
    return things


def _wires(rng, canvas, left, right, progress):
    """Posts with wires on one side."""
    if rng.random() >= 0.3:
        return []
    offset, height = rng.choice([left - 15, right + rng.uniform(4, 20)]), rng.uniform(9, 14)
    spots = np.arange(rng.uniform(15, 40), 320 + progress.length, 42) - progress.travelled

    def paint(canvas, rng):
        t = np.linspace(0, 1, 9)
        for drop, (a, b) in itertools.product((0, 0.8), itertools.pairwise(spots[spots > NEAREST])):
            sag = height - drop - 1.2 * 4 * t * (1 - t)
            canvas.polyline(canvas.view.project(offset, sag, a + (b - a) * t), canvas.air(60.0, a), 1)
    post = offset, [0.0, height], 70.0 * canvas.facing(np.pi), 0.13
    return [(max(spots[0], NEAREST), paint)] + [thing for z in spots for thing in _things(z, _beam, post)]


def _signs(rng, canvas, left, right, progress):
    """Road signs on the right."""
    things = []
    for _ in range(rng.poisson(0.8 * progress.times(18, 150))):
        wide, tall, base, colour = _SIGN_KINDS[rng.choice(len(_SIGN_KINDS))]
        z = progress.somewhere(rng, 18, 150) - progress.travelled
        x = right + rng.uniform(1.2, 4) + wide / 2
        things += _things(z, _beam, (x, [0.0, base + 0.2], 80.0, 0.12))
        for rim, tone in ((0.05, 200.0), (0.0, np.array(colour))):
            half, tone = wide / 2 + rim, tone * canvas.facing(np.pi)
            things += _things(z, _board, (x - half, x + half, base - rim, base + tall + rim, tone))
    return things


def _bridges(rng, canvas, left, right, progress):
    """Bridges across the road."""
    count = rng.integers(1, 3) if rng.random() < 0.22 else 0
    return [_bridge(rng, left, right, canvas.scene.road.outer, progress) for _ in range(count)]


def _bridge(rng, left, right, outer, progress):
    """Deck, parapet, piers."""
    z = progress.somewhere(rng, 35, 320) - progress.travelled
    deep, clear = rng.uniform(8, 22), rng.uniform(5.0, 7.0)
    thick, slant, shade = rng.uniform(0.9, 2.0), rng.normal(0, 0.12), rng.uniform(80, 150)
    railing = rng.random() < 0.6
    start, end = outer - 50, right + 50
    piers = [x for x in (left - 0.8, outer - 2.5, right + 2.5) if rng.random() < 0.8]

    def paint(canvas, rng):
        colour, top = np.array([1.0, 0.98, 0.94]) * shade * canvas.facing(np.pi), clear + thick
        x = np.array([start, end, end, start])
        for a, row in itertools.product(piers, (deep * 0.75, deep * 0.25)):
            points = canvas.view.project(a + np.array([-0.6, 0.6, 0.6, -0.6]), [0, 0, clear, clear], z + row)
            canvas.polygon(points, canvas.air(colour * 0.6, z))
        for low, high, near, gain in ((clear, clear, deep, 0.35), (clear, top, 0, 1), (top, top + 0.12, 0, 1.25)):
            points = canvas.view.project(x, [low, low, high, high], z + slant * x * 0.3 + [near, near, 0, 0])
            canvas.polygon(points, canvas.air(colour * gain, z))
        if railing:
            _beam(z, [start, end], top + 1.2, colour * 0.6, 0.08, canvas, rng)
            for x in np.arange(start, end, 2.0):
                _beam(z, x, [top, top + 1.2], colour * 0.6, 0, canvas, rng)
    return z, paint


def _gantry(rng, canvas, left, right, progress):
    """Signs over the lanes on a truss."""
    if rng.random() >= 0.3:
        return []
    z = progress.somewhere(rng, 30, 250) - progress.travelled
    clear, panels = rng.uniform(5.5, 6.5), rng.integers(1, 4)
    colour = np.array([(18, 88, 62), (22, 60, 120)][int(rng.random() < 0.25)]) * rng.uniform(0.6, 1.1)
    start, end = left - 1.5, right + 1.5
    if rng.random() >= 0.7:
        start = end - rng.uniform(6, 10)
    places = np.sort(rng.uniform(start + 2, right - 2, panels))
    widths, bars = rng.uniform(2.5, 5.5, panels), rng.random([panels, 3, 2])
    steel, dim = 105.0 * canvas.facing(np.pi), 0.35 + 0.65 * canvas.facing(np.pi)
    zigzag = np.arange(start, end, 1.2)
    things = _things(z, _beam, *((x, [0.0, clear + 1.8], steel, 0.35) for x in (start, end)),
                     *(([start, end], clear + up, steel, 0.14) for up in (0.6, 1.8)),
                     (zigzag, clear + 0.6 + 1.2 * (np.arange(len(zigzag)) % 2), steel, 0.09))
    for x, width, rows in zip(places, widths, bars):
        for rim, tone in ((0, 200.0), (0.06, colour)):
            half = width / 2 - rim
            things += _things(z, _board, (x - half, x + half, clear + rim, clear + 2.6 - rim, tone * dim))
        for low, (a, b) in zip(clear + 0.35 + 0.7 * np.arange(3), rows):
            letters = np.arange(x - width * (0.15 + 0.25 * a), x + width * (0.1 + 0.3 * b), 0.26)
            things += _things(z, _board, *((letter, letter + 0.17, low, low + 0.37, 205.0 * dim) for letter in letters))
    return things
