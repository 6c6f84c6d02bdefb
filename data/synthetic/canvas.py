"""The projection, painting primitives and textures of the renderer.

Lengths are in m, angles in rad, positions in the picture in px (x to the right, y down), colours RGB 0..255.
"""
import functools

import cv2
import numpy as np

WIDTH, HEIGHT = 1280, 720
MARGIN = 30  # px around the image that the camera's roll may bring into view
NEAREST, FARTHEST = 2.0, 1500.0  # m along the road


class View:
    """Projects the world into the picture, in px, as the camera sees it without roll.

    camera: scene.Camera; road: scene.Road
    z [n]: distances m; skyline [n]: the row px of the road's surface, or of the crest that hides it; seen: bool [n]
    vanishing: the row px where the road ends
    """

    def __init__(self, camera, road):
        self.camera, self.road = camera, road
        self.z = np.geomspace(NEAREST, FARTHEST, 3000)
        row = self.row(self.z)
        self.skyline = np.minimum.accumulate(row)
        self.seen = row <= self.skyline
        self.vanishing = self.skyline[-1]

    def row(self, z, height=0.0):  # px, of a point `height` m above the road at distance z m
        return self.camera.horizon + self.camera.focal * (self.camera.height - self.road.rise(z) - height) / z

    def column(self, z, offset):  # px, of a point `offset` m to the right of the camera's path at distance z m
        return self.camera.centre + self.camera.focal * (self.road.centre(z) + offset) / z

    def project(self, offset, height, z):
        """Projects points [n] in m; those nearer than NEAREST are moved there. -> float64 [n, 2] px"""
        z = np.maximum(z, NEAREST)
        return np.stack(np.broadcast_arrays(self.column(z, np.asarray(offset)), self.row(z, np.asarray(height))), -1)

    def distance(self, rows):
        """Rows [n] px; those above the skyline are at FARTHEST. -> distance of the road in each, float64 [n] m"""
        return np.interp(rows, self.skyline[::-1], self.z[::-1], right=NEAREST)

    def turn(self):
        """The camera's roll, about the centre of the image. -> float64 [2, 3], for cv2.warpAffine"""
        c, s = np.cos(self.camera.roll), np.sin(self.camera.roll)
        x, y = WIDTH / 2, HEIGHT / 2
        return np.array([[c, -s, x - c * x + s * y], [s, c, y - s * x - c * y]])

    def in_photo(self, points):
        """Rotates points [n, 2] px of the picture by the roll. -> float64 [n, 2] px of the image"""
        turn = self.turn()
        return points @ turn[:, :2].T + turn[:, 2]


class Canvas:
    """The picture being painted: pixels, uint8 [height, width, 3], with MARGIN around the image.

    view: View of the scene's camera, moved by MARGIN
    panned: px by which distant objects have moved to the left since the start of a drive
    """

    def __init__(self, scene):
        self.scene, self.light = scene, scene.light
        self.panned = scene.camera.focal * scene.progress.turned
        camera = scene.camera
        self.view = View(camera._replace(centre=camera.centre + MARGIN, horizon=camera.horizon + MARGIN), scene.road)
        self.pixels = np.zeros([HEIGHT + 2 * MARGIN, WIDTH + 2 * MARGIN, 3], np.uint8)
        self.height, self.width = self.pixels.shape[:2]

    def air(self, colour, z):
        """A colour seen in this light through z m of haze. -> float64 [3]"""
        seen = np.exp(-z / self.light.haze)
        return np.asarray(colour) * self.light.ambient * seen + self.light.horizon * (1 - seen)

    def facing(self, azimuth):
        """Brightness 0..1 of an upright face whose normal points to azimuth rad (0: away from us, pi: towards us)."""
        lit = max(0.0, np.cos(azimuth - self.light.azimuth)) * np.cos(self.light.elevation)
        return 1.0 - self.light.shadow * (1 - lit) * 0.85

    def sun(self):
        """The position of the sun. -> (x, y) px"""
        camera, light = self.view.camera, self.light
        return (camera.centre + camera.focal * np.tan(np.clip(light.azimuth, -1.45, 1.45)),
                camera.horizon - camera.focal * np.tan(light.elevation))

    def polygon(self, points, colour):
        """Fills a polygon [n, 2] px."""
        points = np.asarray(points)
        if points[:, 0].max() > 0 and points[:, 0].min() < self.width:
            fill(self.pixels, points, colour)

    def polyline(self, points, colour, width):
        """Draws a line through points [n, 2] px, at least one px wide."""
        width = max(1, int(round(width)))
        cv2.polylines(self.pixels, [_sixteenths(points)], False, clipped(colour), width, cv2.LINE_AA, 4)

    def roughen(self, before, rng, size, strength):
        """Textures everything painted since `before`, a copy of pixels, with features of size px."""
        rows = np.flatnonzero((before != self.pixels).any((1, 2)))
        if len(rows):
            part = slice(rows[0], rows[-1] + 1)
            y, x = np.meshgrid(np.arange(part.start, part.stop, dtype=np.float32),
                               np.arange(self.width, dtype=np.float32) + np.float32(self.panned), indexing='ij')
            shift = rng.uniform(0, 512, 2).astype(np.float32)
            leaves = look_up(noise_tile(4, 1.2), x / np.float32(size) + shift[0], y / np.float32(size * 0.7) + shift[1])
            leaves += 0.8 * look_up(cloud_tile(), x / 2 + shift[1], y + shift[0])
            shade_changes(self.pixels[part], before[part], np.float32(strength) * leaves)


def fill(pixels, points, colour):
    """Fills a polygon [n, 2] px with antialiased edges. colour: number or [3], as pixels; clipped to 0..255"""
    cv2.fillPoly(pixels, [_sixteenths(points)], clipped(colour), cv2.LINE_AA, 4)


def _sixteenths(points):
    """-> int32 [n, 2], in sixteenths of a pixel (OpenCV's shift 4)"""
    return np.clip(points * 16 + 0.5, -120000, 120000).astype(np.int32)


def clipped(colour):
    return np.clip(colour, 0.0, 255.0).tolist()


def shade_changes(pixels, before, gain):
    """Multiplies pixels, uint8 [rows, columns, 3], by 1 + gain [rows, columns] where they differ from `before`."""
    changed = cv2.transform(cv2.absdiff(before, pixels), np.ones([1, 3], np.float32)) > 0
    pixels[:] = cv2.multiply(pixels, cv2.merge([1 + gain * changed] * 3), dtype=cv2.CV_8U)


def mixture(rng, *parts, p=None):
    """Samples one of several parts, each a number or the (low, high) of a uniform distribution; p: their shares."""
    return rng.choice([rng.uniform(*part) if isinstance(part, tuple) else part for part in parts], p=p)


def wandering(rng, length, scale):
    """A random smooth curve, features about `scale` entries long and finer ones. -> float64 [length], deviation 1"""
    total = np.zeros(length)
    for k in range(4):
        knots = max(2, int(length / scale * 2 ** k) + 2)
        total += np.interp(np.linspace(0, knots - 1, length), np.arange(knots), rng.standard_normal(knots)) / 1.8 ** k
    return total / 1.2


@functools.lru_cache(maxsize=None)
def noise_tile(number, smooth=0.7):
    """Noise that repeats seamlessly after 512 entries, the same in every process. smooth: sigma of its blur, entries

    -> float32 [513, 513], mean 0, deviation 1; the first row and column are repeated at the end, for interpolation
    """
    noise = np.random.default_rng([77, number]).standard_normal([512, 512]).astype(np.float32)
    if smooth:
        noise = cv2.GaussianBlur(np.tile(noise, [3, 3]), (0, 0), smooth)[512:1024, 512:1024]
    return np.pad(noise / noise.std(), (0, 1), mode='wrap')


@functools.lru_cache(maxsize=None)
def cloud_tile():
    """Like noise_tile, with features of all sizes (1/f)."""
    frequency = np.hypot(np.fft.fftfreq(512)[:, None], np.fft.fftfreq(512)[None])
    frequency[0, 0] = np.inf
    spectrum = np.fft.fft2(np.random.default_rng(78).standard_normal([512, 512])) / frequency ** 1.6
    noise = np.fft.ifft2(spectrum).real.astype(np.float32)
    return np.pad(noise / noise.std(), (0, 1), mode='wrap')


@functools.lru_cache(maxsize=None)
def speck_tile():
    """Like noise_tile, but 0 almost everywhere, with single round spots of up to 1."""
    spots = np.zeros([512, 512], np.float32)
    rng = np.random.default_rng(80)
    for x, y, size in rng.uniform(8, 504, [260, 3]):
        cv2.circle(spots, (int(x * 16), int(y * 16)), int(16 * (0.8 + 2.2 * (size / 504) ** 3)),
                   float(rng.uniform(0.3, 1)), -1, cv2.LINE_8, 4)
    return np.pad(cv2.GaussianBlur(spots, (0, 0), 0.7), (0, 1), mode='wrap')


def look_up(tile, x, y):
    """Samples a tile at x, y float32 [rows, columns]. (OpenCV's own wrapping is ten times slower.) -> float32"""
    x, y = (places - np.floor(places * np.float32(1 / 512)) * np.float32(512) for places in (x, y))
    return cv2.remap(tile, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
