"""Everything flat: the surfaces of road and verge with seams, cracks and patches, the lines, the shadows.

Without the camera's roll, which is applied later, each row of the picture is at one distance, and every pattern on the
road is the product of a part across and a part along it, both with exact pixel coverage.
"""
import itertools

import cv2
import numpy as np

from data.synthetic.canvas import FARTHEST, cloud_tile, fill, look_up, mixture, noise_tile, speck_tile, wandering
from data.synthetic.vehicles import VEHICLES

_VERGES = [[92, 104, 60], [128, 118, 82], [148, 138, 120], [70, 88, 48], [110, 112, 104]]
_OCTAVES = (  # of the grain: noise_tile, m across and along per entry, strength, least strength that is painted
    (0, 0.006, 0.012, 0.055, 0.006), (1, 0.03, 0.05, 0.035, 0.004), (2, 0.12, 0.9, 0.016, 0.002))


def paint_ground(canvas, rng):
    """Paints the rows of the canvas from the end of the road downwards."""
    ground = _Ground(canvas, rng)
    _paint_patches(ground, rng)
    _paint_joints(ground, rng)
    _paint_cracks(ground, rng)
    for line in canvas.scene.lines:
        _paint_line(ground, line)
    seen = np.exp(-ground.z / canvas.light.haze).astype(np.float32)[:, None]
    bright = _grain(ground, rng) * _sheen(ground) * _shadows(ground, rng)
    pixels = ground.pixels * (bright * (seen * np.float32(canvas.light.ambient)))[..., None]
    pixels += (1 - seen)[..., None] * canvas.light.horizon.astype(np.float32)
    canvas.pixels[ground.first:] = cv2.convertScaleAbs(pixels)


class _Ground:
    """The rows of the canvas that show the ground, as float32, and the positions of their pixels in m.

    first: the first of these rows; z [rows]: distance along the road; place [rows]: the same from a drive's start
    far, near [rows]: places of the upper and lower edge
    long, wide [rows]: m that one pixel covers along and across
    across [rows, columns]: offset from the camera's path; pixels [rows, columns, 3]
    """

    def __init__(self, canvas, rng):
        self.canvas, self.light, self.road, view = canvas, canvas.light, canvas.scene.road, canvas.view
        self.progress = canvas.scene.progress
        self.first = int(np.clip(np.ceil(view.vanishing + 0.5), 0, canvas.height - 2))
        rows = np.arange(self.first, canvas.height)
        self.z = view.distance(rows)
        far, near = view.distance(rows - 0.5), view.distance(rows + 0.5)
        self.long = np.maximum(far - near, 1e-3)
        self.place, self.far, self.near = (z + self.progress.travelled for z in (self.z, far, near))
        self.wide = self.z / view.camera.focal
        self.middle = view.column(self.z, 0.0)
        columns = np.arange(canvas.width)
        self.across = ((columns[None] - self.middle[:, None]) * self.wide[:, None]).astype(np.float32)
        self.pixels = _surface_colours(self.road, self.across, rng)

    def span(self, left, right, colour, strength, worn=0.0, shift=0.0):
        """Paints from offset left to right m (numbers or [rows]) with exact pixel coverage.

        colour: [3], or a number that the ground is multiplied by; strength: number or [rows], 0..1
        worn: 0..1, share of missing paint; shift: m, moves the flakes
        """
        strength = np.broadcast_to(strength, self.z.shape)
        start, end = (self.middle + edge / self.wide + 0.5 for edge in (left, right))
        first, last = (np.clip(edge, 0, self.canvas.width).astype(int) for edge in (np.floor(start), np.ceil(end)))
        count = np.where(strength > 0.003, np.maximum(last - first, 0), 0)
        rows = np.repeat(np.arange(len(count)), count)
        columns = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count - first, count)
        cover = np.clip(np.minimum(columns + 1, end[rows]) - np.maximum(columns, start[rows]), 0, 1)
        cover = cover * strength[rows]
        if worn:
            cover = cover * (1 - self.flaking(rows, columns, worn, shift))
        cover = cover[:, None].astype(np.float32)
        old = self.pixels[rows, columns]
        new = old * np.float32(colour) if np.ndim(colour) == 0 else np.float32(colour)
        self.pixels[rows, columns] = old + (new - old) * cover

    def flaking(self, rows, columns, worn, shift):
        """Share of paint missing at these pixels, 0..1: in flakes near the car, evenly far away."""
        z, x = self.place[rows] + shift, self.across[rows, columns] + shift
        fine = noise_tile(6, 1.5)[(z * 70).astype(int) % 512, (x * 140).astype(int) % 512]
        large = cloud_tile()[(z * 25).astype(int) % 512, (x * 90).astype(int) % 512]
        flakes = 0.55 * worn + 0.45 / (1 + np.exp(-4 * (0.5 * fine + 0.7 * large + 3.0 * (worn - 0.5))))
        blend = np.clip(self.long[rows] / 0.4, 0, 1)
        return np.clip(flakes * (1 - blend) + worn * blend, 0, 1) * (0.35 + 0.65 * min(1, worn * 1.6))

    def along(self, pattern, period, phase, raised=0.0):
        """Share [rows] of each row's stretch of road that the parts (start, length) of a repeating pattern cover.

        raised: height m; raised marks hide some of the road behind them
        """
        total = np.zeros_like(self.z)
        for start, length in pattern:
            length = length + raised * self.z / self.canvas.view.camera.height
            turns = (np.stack([self.far, self.near]) - start + phase) / period
            far, near = np.floor(turns) * length + np.minimum((turns - np.floor(turns)) * period, length)
            total += (far - near) / self.long
        return np.clip(total, 0, 1)

    def between(self, start, end):
        """Share [rows] of each row's stretch between two places m."""
        return np.clip((np.minimum(self.far, end) - np.maximum(self.near, start)) / self.long, 0, 1)

    def wander(self, rng, step, count, scale):
        """A random smooth function of the place, sampled every step m, with features scale steps long. -> [rows]

        During a drive it repeats after count steps.
        """
        place = self.place % ((count - 1) * step) if self.progress.length else self.place
        return np.interp(place, np.arange(0, (count - 0.5) * step, step), wandering(rng, count, scale))

    def texture(self, tile, across, along, shift=(0, 0), rows=slice(None)):
        """A noise tile on the ground with entries of across x along m. -> float32 [rows, columns]"""
        x = self.across[rows] * np.float32(1 / across) + np.float32(shift[0])
        start = self.progress.travelled / along % 512
        y = np.repeat((self.z[rows] / along + start + shift[1]).astype(np.float32)[:, None], x.shape[1], 1)
        return look_up(tile, x, y)


# ---- The surface -----------------------------------------------------------------------------------------------------

def _surface_colours(road, across, rng):
    """The materials across the road, from one verge to the other. across: m [rows, columns] -> float32 [.., 3]"""
    step, reach = 0.025, 75.0
    s = np.arange(-reach, reach, step)
    verge = rng.choice(_VERGES) * rng.uniform(0.7, 1.1)
    table = verge * (1 + 0.1 * wandering(rng, len(s), 120)[:, None])
    surface = road.shade * road.tint
    areas = [(*road.edges, road.shoulder_shade / road.shade), (road.left - 0.3, road.right + 0.3, 1.0)]
    if road.oncoming:
        areas.insert(0, (road.outer + 0.5, road.oncoming[0] + 1.5, rng.uniform(0.85, 1.1)))
    for left, right, shade in areas:
        table[(s >= left) & (s < right)] = surface * shade
    tracks, oil = rng.normal(0, 0.04), rng.uniform(0, 0.22) * (1 if road.concrete else 0.5)
    for middle in road.middles:
        inside = np.abs(s - middle) < road.lane_width / 2
        own_oil, own_tracks = oil * rng.uniform(0.3, 1.2), tracks + rng.normal(0, 0.02)
        gain = 1 + rng.normal(0, 0.03) * inside
        for side in (-0.85, 0.85):
            gain = gain + own_tracks * np.exp(-((s - middle - side) / 0.3) ** 2)
        gain = gain - own_oil * np.exp(-((s - middle - rng.normal(0, 0.08)) / rng.uniform(0.22, 0.5)) ** 2)
        table *= gain[:, None]
    streaks = (s > road.edges[0]) & (s < road.edges[1])
    table[streaks] *= 1 + rng.uniform(0.004, 0.02) * wandering(rng, streaks.sum(), 30)[:, None]
    index = np.clip((across + reach) / step, 0, len(s) - 1).astype(np.int32)
    return table.astype(np.float32)[index]


def _grain(ground, rng):
    """Brightness of the texture, around 1; octaves fade where pixels cover more ground. -> float32 [rows, columns]"""
    road = ground.road
    rough = rng.uniform(0.5, 1.3) * (0.8 if road.concrete else 1.1)
    total = 1 + ground.texture(cloud_tile(), 0.06, 0.25, rng.uniform(0, 512, 2)) * np.float32(rng.uniform(0.005, 0.035))
    for number, across, along, strength, least in _OCTAVES:
        fade = strength * rough / np.sqrt(1 + (ground.long / along) * (ground.wide / across) * 0.5)
        shift, rows = rng.uniform(0, 512, 2), slice(int(np.argmax(fade > least)), None)
        part = ground.texture(noise_tile(number), across, along, shift, rows)
        total[rows] += part * fade[rows, None].astype(np.float32)
    rows = slice(int(np.argmax(ground.z < 45)), None)  # pits and stones
    fade = rng.uniform(0.0, 0.3) / (1 + (ground.z[rows] / 16) ** 3)
    total[rows] -= ground.texture(speck_tile(), 0.012, 0.02, shift, rows) * fade[:, None].astype(np.float32)
    verge = np.abs(ground.across) > np.float32(max(road.edges[1], -road.edges[0]))  # grass and gravel are rougher
    return total + (total - 1) * verge * np.float32(2.5)


# ---- Lines and wear --------------------------------------------------------------------------------------------------

def _paint_line(ground, line):
    own = int(line.phase * 1e6)  # a seed: the randomness of a line depends on nothing else
    middle = line.offset + 0.012 * ground.wander(np.random.default_rng(own), 1.0, 200, 8)
    if line.dots:  # raised, so higher than flat marks; we see their shaded side if the sun is ahead
        light, rng = ground.light, np.random.default_rng(own)
        metre = (ground.place + line.phase - line.pattern[0][0] + 0.5).astype(int) % 2001
        middle = middle + rng.normal(0, 0.025, 2001)[metre]
        there = rng.random(2001)[metre] > 0.3 * line.wear  # some are missing
        along = there * ground.along(line.pattern, line.period, line.phase, 0.009)
        edge = there * ground.along([(start - 0.03, 0.06) for start, _ in line.pattern], line.period, line.phase, 0.004)
        ground.span(middle - 0.055, middle + 0.055, line.colour, along, 0.4 * line.wear, line.offset)
        ground.span(middle - 0.06, middle + 0.06, 1 - 0.75 * light.shadow * max(0.3, np.cos(light.azimuth)), edge)
        return
    along = ground.along(line.pattern, line.period, line.phase) if line.pattern else 1.0
    left, right = middle - line.width / 2, middle + line.width / 2
    if line.wear > 0.02:  # worn paint leaves a paler or darker trace
        ground.span(left, right, 1.0 + 0.12 * (0.5 - line.wear), along)
    ground.span(left, right, line.colour, along, line.wear, line.phase)


def _paint_joints(ground, rng):
    """Seams along the lane lines and across the slabs: the marks most easily mistaken for lane lines."""
    road = ground.road
    dark, width = rng.uniform(0.35, 0.75), rng.uniform(0.01, 0.04)
    for offset in road.line_offsets if road.concrete or rng.random() < 0.35 else ():
        if rng.random() < 0.85:
            path = offset + road.joint_offset + 0.008 * ground.wander(rng, 2, 750, 5)
            rough, wide = (ground.wander(rng, 0.08, 1500, 3) / np.sqrt(1 + ground.long / 0.2) for _ in range(2))
            path, half = path + 0.008 * rough, width / 2 * np.clip(1 + 0.45 * wide, 0.3, 2.2)
            ground.span(path - half, path + half, dark, 1.0, 0.3 * rng.random() + 0.01, offset)
    if rng.random() < 0.3:
        for offset in road.line_offsets[:-1] + rng.uniform(0.3, 0.7) * road.lane_width:
            if rng.random() < 0.6:
                ground.span(offset - 0.02, offset + 0.02, rng.uniform(0.7, 1.15), 1.0, 0.4, offset)
    if road.concrete:
        slab, phase, strength = rng.uniform(3.6, 6.5), rng.uniform(0, 6), rng.uniform(0.1, 0.8)
        ground.span(road.left - 0.5, road.right + 0.5, rng.uniform(0.55, 0.85),
                    strength * ground.along([(0, 0.03)], slab, phase))
    for z in ground.progress.places(rng, 0.4, 12, 120):  # joints of bridges or between surfaces
        ground.span(road.left - 3, road.right + 3, rng.uniform(0.5, 1.4), ground.between(z, z + rng.uniform(0.2, 0.9)))
    if rng.random() < 0.12:  # from there on, the surface is newer
        z = ground.progress.somewhere(rng, 15, 80)
        ground.span(-60, 60, rng.uniform(0.75, 1.2), ground.between(z, FARTHEST + ground.progress.length))


def _paint_cracks(ground, rng):
    road, places = ground.road, ground.progress.places
    if rng.random() >= 0.45:
        return
    sealed = rng.random() < 0.5
    for z in places(rng, 4, 4, 60):
        offset = rng.uniform(road.left, road.right)
        path = offset + rng.uniform(0.03, 0.15) * ground.wander(rng, 0.15, 1334, 40)
        half = rng.uniform(*(0.015, 0.035) if sealed else (0.004, 0.01))
        ground.span(path - half, path + half, rng.uniform(0.35, 0.7), ground.between(z, z + rng.uniform(3, 25)))
    for z in places(rng, 2, 6, 60) if sealed else ():
        left = rng.uniform(road.left, road.right - 2)
        ground.span(left, left + rng.uniform(2, 7), 0.6, ground.between(z, z + rng.uniform(0.05, 0.1)))


def _paint_patches(ground, rng):
    """Patches of another surface, then skid marks."""
    road, progress = ground.road, ground.progress
    for z in progress.places(rng, 1.3, 5, 90):
        lane = rng.integers(0, road.lanes)
        left = road.left + lane * road.lane_width + mixture(rng, 0.1, (0, 2))
        width = min(mixture(rng, road.lane_width - 0.2, (0.5, 2.5)), road.left + (lane + 1) * road.lane_width - left)
        ground.span(left, left + width, rng.uniform(0.72, 1.22), ground.between(z, z + rng.exponential(18) + 1))
    for z in progress.places(rng, 0.6, 5, 50):
        offset, slant = rng.uniform(road.left, road.right), rng.normal(0, 0.02)
        for side in (0, 1.5):
            path = offset + side + slant * (ground.place - (z if progress.length else 0))
            ground.span(path - 0.1, path + 0.1, rng.uniform(0.75, 0.9), ground.between(z, z + rng.uniform(5, 30)))


# ---- Light -----------------------------------------------------------------------------------------------------------

def _sheen(ground):
    """The road shines against the sun. -> gain, float32 [rows, columns] or 1"""
    light = ground.light
    if light.shadow < 0.1 or abs(light.azimuth) > 1.2:
        return np.float32(1)
    x, _ = ground.canvas.sun()
    rows = 0.35 * np.cos(light.elevation) ** 2 * (1 - 0.7 * np.exp(-ground.z / 60))
    columns = np.exp(-((np.arange(ground.canvas.width) - x) / 420) ** 2)
    return (1 + rows[:, None] * columns).astype(np.float32)


def _shadows(ground, rng):
    """The share of light that shadows leave. -> float32 [rows, columns], 0..1"""
    mask, under = np.zeros([2, *ground.across.shape], np.uint8)
    if ground.light.shadow > 0.15:
        if rng.random() < 0.3:
            mask = _dapples(ground, rng)
        for places in _shadow_outlines(ground, rng):
            points = np.clip(_in_rows(ground, np.array(places, float)), -6000, 6000)
            fill(mask, cv2.convexHull(points.astype(np.float32))[:, 0], 255)
    for vehicle in ground.canvas.scene.vehicles:  # it is always dark below vehicles
        fill(under, _in_rows(ground, _outline(vehicle, narrower=0.05, nearer=0.15)), 255)
    mask = cv2.GaussianBlur(mask, (0, 0), 0.8).astype(np.float32) / 255
    under = cv2.GaussianBlur(under, (0, 0), 3).astype(np.float32)
    return (1 - np.float32(ground.light.shadow) * mask) * (1 - np.float32(0.8 / 255) * under)


def _in_rows(ground, places):
    """Projects places on the ground [n, 2] (offset, distance) m into its rows. -> float64 [n, 2] px"""
    return ground.canvas.view.project(places[:, 0], 0.0, places[:, 1]) - np.array([0, ground.first])


def _shadow_outlines(ground, rng):
    """Yields places [n, 2] (offset, distance) m on the ground whose convex hull is a shadow."""
    light, road, progress = ground.light, ground.road, ground.progress
    # m along the ground per m of height
    away = np.array([np.sin(light.azimuth), np.cos(light.azimuth)]) / -np.tan(light.elevation)
    if rng.random() < 0.12:  # of a bridge
        z, slant = progress.somewhere(rng, 3, 70) - progress.travelled, rng.normal(0, 0.3)
        deep = rng.uniform(8, 25)
        yield (-60, z - 60 * slant), (60, z + 60 * slant), (60, z + deep + 60 * slant), (-60, z + deep - 60 * slant)
    poles = int(rng.integers(1, 4) * progress.times(4, 70)) if rng.random() < 0.25 else 0
    for _ in range(poles):
        z, side = progress.somewhere(rng, 4, 70) - progress.travelled, rng.choice([-1, 1])
        thick, (dx, dz) = rng.uniform(0.08, 0.3), away * rng.uniform(6, 14)
        x = road.right + 2 if side > 0 else road.left - 2
        dx = -side * max(abs(dx), 5)
        yield (x, z), (x, z + thick), (x + dx, z + dz), (x + dx, z + dz + thick)
    if rng.random() < 0.05:  # of the truss of a gantry
        z = progress.somewhere(rng, 5, 40) - progress.travelled
        for dz in (0, 2.2):
            yield (-30, z + dz), (30, z + dz), (30, z + dz + 0.25), (-30, z + dz + 0.25)
        for x, (a, b) in itertools.product(np.arange(-30, 30, 2.5), ((0, 2.2), (2.2, 0))):
            yield (x, z + a), (x + 0.15, z + a), (x + 1.25, z + b), (x + 1.4, z + b)
    for vehicle in ground.canvas.scene.vehicles:
        if vehicle.distance <= 260:
            box = _outline(vehicle)
            yield np.vstack([box, box + np.clip(away * VEHICLES[vehicle.kind].height * 0.92, -25, 25)])


def _outline(vehicle, narrower=0.0, nearer=0.0):
    """The corners of the ground under a vehicle. -> float64 [4, 2], (offset, distance) m"""
    shape, x, z = VEHICLES[vehicle.kind], vehicle.offset, vehicle.distance
    half = shape.width / 2 - narrower
    return np.array([(x - half, z - nearer), (x + half, z - nearer), (x + half, z + shape.length),
                     (x - half, z + shape.length)])


def _dapples(ground, rng):
    """The shadows of trees on one side over part of the road. -> uint8 [rows, columns]"""
    starts = [(start, end + ground.progress.length) for start, end in ((2, 40), (20, 90))]
    start, length = mixture(rng, *starts), rng.exponential(25) + 3
    noise = ground.texture(cloud_tile(), rng.uniform(0.03, 0.09), rng.uniform(0.03, 0.12), rng.uniform(0, 512, 2))
    side, reach = rng.choice([-1, 1]), rng.uniform(2, 14)
    edge = (ground.road.right if side > 0 else ground.road.left) - side * reach
    cover = np.clip((ground.across - edge) * side / 2.5, -2, 0.8)
    ends = np.clip(np.minimum(ground.place - start, start + length - ground.place) / 4, -3, 0.6)
    cover += ends.astype(np.float32)[:, None]
    soft = np.maximum(0.12, ground.long / 2).astype(np.float32)[:, None]
    return (np.clip((noise + cover * 1.3 - 0.6) / soft + 0.5, 0, 1) * 255).astype(np.uint8)
