"""Paint on the road that is no lane line: crossings, stop lines, arrows, words, bus lanes, hatched areas.

None of it is labelled. A painter takes (ground: of synthetic_ground, marking: scene.Marking).
"""
import functools

import cv2
import numpy as np

from data.synthetic.canvas import look_up

_SYMBOL = 64, 128  # entries across and along
_BAR, _BAR_STEP = 0.45, 0.95  # m, of a crossing
_HATCH_BAR, _HATCH_STEP = 0.4, 1.9  # m
_BOX_LINE, _BOX_STEP = 0.15, 1.6  # m
_WORDS = ('BUS', 'STOP', 'SLOW', 'ONLY', 'TAXI', '40', '60', '80')
ARROWS, SYMBOLS = 5, 5 + len(_WORDS) + 8  # numbers below ARROWS are arrows, then words, then signs of other scripts


def crossings(scene):
    """Where lane lines are interrupted. -> list of (start, end) m"""
    return [(marking.start - 0.4, marking.end + 0.4) for marking in scene.markings if marking.kind in ('zebra', 'box')]


def paint_markings(ground, markings):
    """Paints the markings on the ground, before its grain and light."""
    for marking in markings:
        MARKINGS[marking.kind](ground, marking)


def _zebra(ground, marking):
    along = ground.between(marking.start, marking.end)
    for left in np.arange(marking.left, marking.right - _BAR, _BAR_STEP):
        ground.span(left, left + _BAR, marking.colour, along, marking.wear, left)


def _bar(ground, marking):
    ground.span(marking.left, marking.right, marking.colour, ground.between(marking.start, marking.end), marking.wear,
                marking.start)


def _lane(ground, marking):
    """A coloured lane, its colour mixed with that of the road."""
    ground.span(marking.left, marking.right, marking.colour, 0.65 * ground.between(marking.start, marking.end),
                0.5 * marking.wear + 0.05, marking.start)


def _hatch(ground, marking):
    """Slanting bars inside a frame."""
    inside = ground.between(marking.start, marking.end)
    slope = np.tan(0.7) * (1 if marking.number % 2 else -1)
    for k in np.arange(-(marking.right - marking.left), marking.end - marking.start, _HATCH_STEP):
        middle = marking.left + (ground.place - marking.start - k) / slope
        if slope < 0:
            middle = middle + marking.right - marking.left
        ground.span(np.clip(middle - _HATCH_BAR / 2, marking.left, marking.right),
                    np.clip(middle + _HATCH_BAR / 2, marking.left, marking.right), marking.colour, inside,
                    marking.wear, k)


def _box(ground, marking):
    """A junction to be kept free: a grid of slanting lines."""
    inside, wide = ground.between(marking.start, marking.end), marking.right - marking.left
    for k in np.arange(-wide, marking.end - marking.start, _BOX_STEP):
        rise = ground.place - marking.start - k
        for middle in (marking.left + rise, marking.right - rise):
            ground.span(np.clip(middle - _BOX_LINE / 2, marking.left, marking.right),
                        np.clip(middle + _BOX_LINE / 2, marking.left, marking.right), marking.colour, inside,
                        marking.wear, k)


def _rumble(ground, marking):
    """Short bars across the lane, in groups, that make drivers slow down."""
    middle = (marking.left + marking.right) / 2
    along = ground.along([(0, 0.25), (0.6, 0.25), (1.2, 0.25)], 9.0, -marking.start)
    half = (marking.right - marking.left) / 2
    ground.span(middle - half, middle + half, marking.colour,
                along * ground.between(marking.start, marking.end), marking.wear, marking.start)


def _symbol(ground, marking):
    """An arrow or letters, stretched along the road."""
    rows = np.flatnonzero(ground.between(marking.start, marking.end) > 0)
    if not len(rows):
        return
    rows = slice(rows[0], rows[-1] + 1)
    tile = symbol(marking.number)
    wide = marking.right - marking.left
    x = (ground.across[rows] - np.float32(marking.left)) * np.float32(_SYMBOL[0] / wide)
    rise = (marking.end - ground.place[rows]) / (marking.end - marking.start) * _SYMBOL[1]
    inside = (x >= 0) & (x < _SYMBOL[0] - 1)
    columns = np.flatnonzero(inside.any(0))
    if not len(columns):
        return
    columns = slice(columns[0], columns[-1] + 1)
    x, y = x[:, columns], np.repeat(rise.astype(np.float32)[:, None], columns.stop - columns.start, 1)
    cover = look_up(tile, x, np.clip(y, 0, _SYMBOL[1] - 1)) * inside[:, columns]
    row, column = np.mgrid[rows, columns]
    cover *= 1 - ground.flaking(row, column, marking.wear, marking.start).astype(np.float32)
    part = ground.pixels[rows, columns]
    part += (np.asarray(marking.colour, np.float32) - part) * cover[..., None]


MARKINGS = {'zebra': _zebra, 'stop': _bar, 'lane': _lane, 'hatch': _hatch, 'box': _box, 'rumble': _rumble,
            'symbol': _symbol}


@functools.lru_cache(maxsize=None)
def symbol(number):
    """How much of a symbol's place is paint, as it is read from below. -> float32 [513, 513], in its upper left corner

    number: below ARROWS an arrow, below SYMBOLS letters
    """
    wide, tall = _SYMBOL
    image = np.zeros([tall, wide], np.uint8)
    if number < ARROWS:
        shaft = [(26, 127), (38, 127), (38, 45), (26, 45)]
        head = [(32, 0), (54, 48), (10, 48)]
        right = [(26, 90), (26, 78), (48, 50), (48, 30), (63, 56), (48, 82), (48, 66), (38, 84)]
        left = [(63 - x, y) for x, y in right]
        # straight; straight and right; straight and left; left; right
        for part in ([shaft, head], [shaft, head, right], [shaft, head, left], [shaft[:2] + [(38, 70), (26, 70)], left],
                     [shaft[:2] + [(38, 70), (26, 70)], right])[number]:
            cv2.fillPoly(image, [np.array(part, np.int32)], 255)
    elif number < ARROWS + len(_WORDS):
        word = _WORDS[number - ARROWS]
        (w, h), _ = cv2.getTextSize(word, cv2.FONT_HERSHEY_SIMPLEX, 1, 5)
        text = np.zeros([h + 12, w + 8], np.uint8)
        cv2.putText(text, word, (4, h + 5), cv2.FONT_HERSHEY_SIMPLEX, 1, 255, 5)
        image = cv2.resize(text, (wide, tall), interpolation=cv2.INTER_AREA)
    else:  # strokes as of Chinese characters, two or three below each other
        rng = np.random.default_rng([81, number])
        signs = 2 + number % 2
        for top in np.arange(signs) * tall / signs:
            for _ in range(9):
                a = rng.integers([6, 0], [wide - 6, int(tall / signs) - 6])
                upright = rng.random() < 0.45
                b = a + ([0, rng.integers(8, 30)] if upright else [rng.integers(10, 40), rng.integers(-3, 4)])
                b = np.minimum(b, [wide - 5, int(tall / signs) - 6])
                ends = [tuple(int(v) for v in p + [0, int(top) + 3]) for p in (a, b)]
                cv2.line(image, *ends, 255, 5)
    image = cv2.GaussianBlur(image, (0, 0), 0.8).astype(np.float32) / 255
    tile = np.zeros([513, 513], np.float32)
    tile[:tall, :wide] = image
    return tile
