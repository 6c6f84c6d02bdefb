"""What is between the camera and the road: our own bonnet, dirt and reflections on the windscreen, the camera's mount.

Photos are uint8 [HEIGHT, WIDTH, 3] RGB, changed in place or returned anew; places in px.
"""

import cv2
import numpy as np

from data.synthetic.canvas import HEIGHT, WIDTH, clipped, cloud_tile, look_up, noise_tile, sixteenths, speck_tile

_SHRINK = 4  # px of the photo per entry of the layer: what lies on the windscreen is out of focus
_BONNET_SEAM = 6  # px, the dark gap at the bonnet's edge
_HAZE_COLOUR, _DUST_COLOUR = np.array([235.0, 238, 240]), np.array([205.0, 200, 190])
_SHEETS = (2, 9)  # reflected things on the dashboard: 2 to 8


def paint_bonnet(photo, windscreen, light, rng):
    """Paints our own bonnet: its colour, the sky that it mirrors, its edge."""
    if windscreen.bonnet <= 0:
        return
    columns = np.arange(WIDTH)
    edge = windscreen.bonnet_row(columns, HEIGHT)
    first = int(np.clip(np.floor(edge.min()) - 1, 0, HEIGHT - 1))
    rows = np.arange(first, HEIGHT)
    below = (rows[:, None] - edge[None]).astype(np.float32)
    horizon = HEIGHT // 2
    mirror = cv2.resize(photo[:horizon][::-1], (WIDTH, len(rows)), interpolation=cv2.INTER_AREA)
    mirror = cv2.GaussianBlur(mirror, (0, 0), 7).astype(np.float32)
    shine = np.float32(windscreen.bonnet_shine) * (0.4 + 0.6 * np.exp(-below[..., None] / 60))
    colour = np.array(windscreen.bonnet_colour) * light.ambient * np.float32(rng.uniform(0.8, 1.1))
    shape = 1 - 0.35 * np.clip(below / max(windscreen.bonnet, 30), 0, 1)[..., None]
    image = colour.astype(np.float32) * shape * (1 - shine) + mirror * shine
    crease = rng.uniform(0.3, 0.75) * windscreen.bonnet_reach  # a fold of the metal at each side
    for side in (-1, 1):
        x = windscreen.bonnet_middle + side * (crease + 0.6 * (rows - first))
        fold = 28 * shine.mean() * np.exp(-((columns[None] - x[:, None]) / 5) ** 2)
        image += fold[..., None].astype(np.float32)
    dark = np.exp(-((below - _BONNET_SEAM / 2) / _BONNET_SEAM) ** 2)[..., None]
    image *= 1 - np.float32(0.5) * dark
    cover = np.clip(below + 0.5, 0, 1)[..., None]
    part = photo[first:]
    part[:] = np.clip(part + (image - part) * cover, 0, 255).astype(np.uint8)


def look_through(photo, windscreen, light, rng):
    """The photo as it looks through the windscreen. -> uint8, like photo"""
    height, width = HEIGHT // _SHRINK, WIDTH // _SHRINK
    cover, layer = np.zeros([height, width], np.float32), np.zeros([height, width, 3], np.float32)
    y, x = np.mgrid[0:1:height * 1j, 0:1:width * 1j].astype(np.float32)
    bright = np.float32(max(light.ambient, 0.25))

    def lay(alpha, colour):
        """Puts a translucent thing over those before. alpha: [height, width] 0..1"""
        nonlocal cover, layer
        layer = layer * (1 - alpha[..., None]) + alpha[..., None] * np.asarray(colour, np.float32)
        cover = cover + alpha - cover * alpha
    if windscreen.haze:
        lower = np.clip((y - rng.uniform(0, 0.5)) * 2, 0, 1) if rng.random() < 0.6 else np.ones_like(y)
        away = (x - rng.uniform(0, 1)) * rng.uniform(0, 1.5)
        lay(np.float32(0.55 * windscreen.haze) * lower * np.exp(-away ** 2),
            _HAZE_COLOUR * bright * rng.uniform(0.75, 1.0))
    if windscreen.reflection:
        lay(*_reflection(windscreen, rng, bright))
    if windscreen.dirt:
        lay(_dust(windscreen, x, y, rng), _DUST_COLOUR * bright * rng.uniform(0.6, 1.2))
    if windscreen.streaks:
        lay(_streaks(windscreen, x, y, rng), _HAZE_COLOUR * bright * rng.uniform(0.5, 1.0))
    if windscreen.wiper:
        alpha = np.zeros([height, width], np.float32)
        *ends, thick = np.array(windscreen.wiper) / _SHRINK
        cv2.polylines(alpha, [sixteenths(np.array(ends).reshape(2, 2))], False, 1.0, max(1, int(thick)), cv2.LINE_8, 4)
        lay(cv2.GaussianBlur(alpha, (0, 0), 1.2), np.array([18.0, 18, 20]) * bright)
    if windscreen.corners:
        far = np.abs(2 * x - 1) ** 3 + 0.6 * np.abs(2 * y - 1) ** 3
        lay(np.clip((far - 1.6 + 0.55 * np.float32(windscreen.corners)) * 25, 0, 1), np.zeros(3))
    if not cover.any():
        return photo
    clear = cv2.resize(1 - cover, (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR)
    photo = cv2.multiply(photo, cv2.merge([clear] * 3), dtype=cv2.CV_8U)
    return cv2.add(photo, cv2.resize(cv2.convertScaleAbs(layer), (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR))


def _window(tile, rng, height, width, stretch=(1.0, 1.0)):
    """A random part of a tile. -> float32 [height, width]"""
    row, column = rng.integers(0, 512, 2)
    rows = (row + (np.arange(height) / stretch[0])).astype(int) % 512
    columns = (column + (np.arange(width) / stretch[1])).astype(int) % 512
    return tile[np.ix_(rows, columns)]


def _dust(windscreen, x, y, rng):
    """An even film, thicker where a wiper does not reach, with smudges and spots. -> alpha [height, width]"""
    smudges = np.clip(_window(cloud_tile(), rng, *x.shape) * rng.uniform(0.4, 1.0) + 0.3, 0, 2)
    spots = _window(speck_tile(), rng, *x.shape) * rng.uniform(0.2, 1.2)
    fine = np.clip(_window(noise_tile(9, 0.7), rng, *x.shape) * 0.1 + 0.15, 0, 1)
    film = (0.3 + smudges + fine) * 0.6
    if rng.random() < 0.45:  # what the wiper leaves: arcs around its axle
        axle = rng.uniform(0.2, 0.8)
        reach = np.hypot((x - axle) * 16 / 9, y - 1.15)
        wiped = 1 / (1 + np.exp((reach - rng.uniform(0.85, 1.25)) * 60))
        film *= 1 - 0.75 * wiped
    return np.clip((film + spots) * windscreen.dirt, 0, 0.85).astype(np.float32)


def _streaks(windscreen, x, y, rng):
    """Streaks along the wiper's way, or drops that run down. -> alpha [height, width]"""
    if rng.random() < 0.5:
        axle = rng.uniform(0.2, 0.8)
        reach = np.hypot((x - axle) * 16 / 9, y - 1.2)
        turn = np.arctan2(x - axle, 1.2 - y)
        lines = look_up(noise_tile(10, 1.0), (turn * 18 + rng.uniform(0, 500)).astype(np.float32),
                        (reach * 260).astype(np.float32))
        return np.clip((lines - 0.4) * 0.3 * windscreen.streaks, 0, 0.6).astype(np.float32)
    drops = _window(speck_tile(), rng, *x.shape) + _window(speck_tile(), rng, *x.shape, (3.0, 0.7))
    return np.clip(cv2.GaussianBlur(drops, (0, 0), 0.8) * windscreen.streaks, 0, 0.6).astype(np.float32)


def _reflection(windscreen, rng, bright):
    """The dashboard in the glass, out of focus: sheets, vents. -> (alpha [height, width], colour [height, width, 3])"""
    height, width = HEIGHT // _SHRINK, WIDTH // _SHRINK
    alpha, colour = np.zeros([height, width], np.float32), np.full([height, width, 3], 200.0, np.float32)
    if rng.random() < 0.6:  # the dashboard's upper side, with a bright edge
        t = np.linspace(0, 1, 24)
        crest = (rng.uniform(0.45, 0.85) + rng.uniform(-0.2, 0.2) * t + rng.uniform(0, 0.3) * (2 * t - 1) ** 2) * height
        crest = np.column_stack([t * width, crest])
        cv2.fillPoly(alpha, [sixteenths(np.vstack([crest, [[width, height], [0, height]]]))],
                     float(rng.uniform(0.1, 0.5)), cv2.LINE_8, 4)
        cv2.polylines(alpha, [sixteenths(crest)], False, float(rng.uniform(0.2, 0.8)), int(rng.integers(1, 5)),
                      cv2.LINE_8, 4)
    for _ in range(rng.integers(*_SHEETS)):
        x, y = rng.uniform(0, width), rng.uniform(0.35, 1.0) * height
        wide, tall, slant = rng.uniform(15, 130), rng.uniform(4, 45), rng.uniform(-0.8, 0.8)
        points = np.array([[0, 0], [wide, rng.uniform(-6, 6)], [wide + slant * tall, tall], [slant * tall, tall]])
        points += [x - wide / 2, y]
        tint = (np.array([70.0, 120, 190]) if rng.random() < 0.3 else np.full(3, rng.uniform(140, 250)))
        cv2.fillPoly(alpha, [sixteenths(points)], float(rng.uniform(0.25, 1)), cv2.LINE_8, 4)
        cv2.fillPoly(colour, [sixteenths(points)], clipped(tint), cv2.LINE_8, 4)
        if rng.random() < 0.4:  # a vent: bars across
            for k in np.linspace(0.15, 0.9, 5):
                a, b = points[0] + (points[3] - points[0]) * k, points[1] + (points[2] - points[1]) * k
                cv2.polylines(alpha, [sixteenths(np.array([a, b]))], False, 0.05, 1, cv2.LINE_8, 4)
    blur = rng.uniform(0.8, 5)
    alpha = cv2.GaussianBlur(alpha, (0, 0), blur) * np.float32(0.8 * windscreen.reflection)
    return alpha, cv2.GaussianBlur(colour, (0, 0), blur) * bright


def write_caption(photo, windscreen):
    """What the camera writes into its photo."""
    if windscreen.caption:
        x, y = (int(v) for v in windscreen.caption_place)
        for colour, thick in (((10, 10, 10), 5), ((245, 245, 240), 2)):
            cv2.putText(photo, windscreen.caption, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.9, colour, thick, cv2.LINE_AA)
