"""Everything that lies flat: the surfaces of road and verge, their seams, cracks and patches, the lines, the shadows.

As the camera's roll is left out while painting, each row of the picture lies at one distance, and every pattern on the
road is a product of an across and an along part, both with exact pixel coverage.
"""
import cv2
import numpy as np

from data.synthetic.canvas import FARTHEST, cloud_tile, look_up, mixture, noise_tile, sixteenths, speck_tile, wandering
from data.synthetic.vehicles import VEHICLES

# ---- Distributions: (low, high) of uniform ones, chances, and means of Poisson ones ----------------------------------

_VERGES, _VERGE_GAIN = [[92, 104, 60], [128, 118, 82], [148, 138, 120], [70, 88, 48], [110, 112, 104]], (0.7, 1.1)
_ONCOMING_GAIN = (0.85, 1.1)  # the opposite carriageway's brightness, of ours
_TRACKS, _LANE_TRACKS, _OIL, _LANE_OIL = 0.04, 0.02, (0, 0.22), (0.3, 1.2)  # of the tyres: deviations; gain; times that
_LANE_GAIN, _STREAKS = 0.03, (0.004, 0.02)  # deviations of the brightness: lane from lane, along the wheels' way
_OIL_ASIDE, _OIL_WIDTH = 0.08, (0.22, 0.5)  # m
_ROUGHNESS, _CLOUDINESS, _PITS = (0.5, 1.3), (0.005, 0.035), (0.0, 0.3)
_OCTAVES = (  # of the grain: noise_tile, m across and along per entry, strength, strength from which it is painted
    (0, 0.006, 0.012, 0.055, 0.006), (1, 0.03, 0.05, 0.035, 0.004), (2, 0.12, 0.9, 0.016, 0.002))

_PATCHES, _PATCH_START, _PATCH_LENGTH, _PATCH_GAIN = 1.3, (5, 90), 18, (0.72, 1.22)  # how many; m; m, mean; brightness
_PATCH_ASIDE, _PATCH_WIDTH = (0.1, (0, 2)), (0.5, 2.5)  # m; or a whole lane
_SKIDS, _SKID_START, _SKID_LENGTH, _SKID_GAIN, _SKID_SLANT = 0.6, (5, 50), (5, 30), (0.75, 0.9), 0.02  # of tyres
_SEAM_GAIN, _SEAM_WIDTH = (0.35, 0.75), (0.01, 0.04)  # m
_SEAM_CHANCE, _SEAM_AT_LINE_CHANCE = 0.35, 0.85  # on asphalt; then at each line
_MID_SEAM_CHANCE, _MID_SEAM_AT_LANE_CHANCE, _MID_SEAM_PLACE, _MID_SEAM_GAIN = 0.3, 0.6, (0.3, 0.7), (0.7, 1.15)
_SLAB, _SLAB_PHASE, _SLAB_STRENGTH, _SLAB_GAIN = (3.6, 6.5), (0, 6), (0.1, 0.8), (0.55, 0.85)  # m, m
_CROSS_JOINTS, _CROSS_JOINT_START, _CROSS_JOINT_LENGTH, _CROSS_JOINT_GAIN = 0.4, (12, 120), (0.2, 0.9), (0.5, 1.4)
_RENEWED_CHANCE, _RENEWED_START, _RENEWED_GAIN = 0.12, (15, 80), (0.75, 1.2)  # another surface from there on
_CRACKED_CHANCE, _SEALED_SHARE, _CRACKS, _CROSS_CRACKS = 0.45, 0.5, 4, 2
_CRACK_START, _CRACK_LENGTH, _CRACK_BEND, _CRACK_GAIN = (4, 60), (3, 25), (0.03, 0.15), (0.35, 0.7)  # m, m, m
_CRACK_WIDTH, _SEALED_WIDTH = (0.004, 0.01), (0.015, 0.035)  # m, half
_CROSS_CRACK_START, _CROSS_CRACK_WIDTH, _CROSS_CRACK_LENGTH = (6, 60), (2, 7), (0.05, 0.1)  # m

_DAPPLE_CHANCE, _DAPPLE_START, _DAPPLE_LENGTH, _DAPPLE_REACH = 0.3, ((2, 40), (20, 90)), 25, (2, 14)  # of trees; m
_DAPPLE_SCALE = (0.03, 0.09), (0.03, 0.12)  # m per entry of the tile, across and along
_BRIDGE_CHANCE, _BRIDGE_START, _BRIDGE_SLANT, _BRIDGE_LENGTH = 0.12, (3, 70), 0.3, (8, 25)  # its shadow; m
_POLES_CHANCE, _POLES, _POLE_START = 0.25, (1, 4), (4, 70)  # poles, gantries, single trees: 1 to 3
_POLE_WIDTH, _POLE_HEIGHT = (0.08, 0.3), (6, 14)  # m
_TRUSS_CHANCE, _TRUSS_START = 0.05, (5, 40)  # of a sign gantry


def paint_ground(canvas, rng):
    """Paints the rows of the canvas from the end of the road downwards."""
    ground = _Ground(canvas, rng)
    _paint_patches(ground, rng)
    _paint_joints(ground, rng)
    _paint_cracks(ground, rng)
    for line in canvas.scene.lines:
        _paint_line(ground, line)
    seen = np.exp(-ground.z / canvas.light.haze).astype(np.float32)[:, None]
    bright = _grain(ground, rng)
    bright *= _sheen(ground)
    bright *= _shadows(ground, rng)
    bright = cv2.merge([bright * (seen * np.float32(canvas.light.ambient))] * 3)
    pixels = cv2.multiply(ground.pixels, bright)
    pixels += (1 - seen)[..., None] * canvas.light.horizon.astype(np.float32)
    canvas.pixels[ground.first:] = cv2.convertScaleAbs(pixels)


class _Ground:
    """The rows of the canvas that show the ground, as float32, and where their pixels lie in m.

    first: the first of these rows; z [rows]: distance along the road; place [rows]: the same from a drive's start
    far, near [rows]: places of the upper and lower edge
    long, wide [rows]: what one pixel covers along and across
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

    def columns(self, offset):
        """Columns px of an offset m, a number or one per row."""
        return self.middle + offset / self.wide

    def span(self, left, right, colour, strength, worn=0.0, shift=0.0):
        """Paints from offset left to right m (numbers or [rows]) with exact pixel coverage.

        colour: [3], or a number that the ground is multiplied by; strength: number or [rows], 0..1
        worn: 0..1, share of the paint that is off; shift: m, moves the flakes
        """
        strength = np.broadcast_to(strength, self.z.shape)
        start, end = self.columns(left) + 0.5, self.columns(right) + 0.5
        first = np.clip(np.floor(start), 0, self.canvas.width).astype(int)
        last = np.clip(np.ceil(end), 0, self.canvas.width).astype(int)
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
        z, x = self.place[rows] + shift, self.across[rows, columns] + shift
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

        def filled(z, start, length):
            turns = (z - start + phase) / period
            return np.floor(turns) * (length + raised) + np.minimum((turns - np.floor(turns)) * period, length + raised)
        for start, length in pattern:
            total += (filled(self.far, start, length) - filled(self.near, start, length)) / self.long
        return np.clip(total, 0, 1)

    def between(self, start, end):
        """Share [rows] of each row's stretch that lies between two places m."""
        return np.clip((np.minimum(self.far, end) - np.maximum(self.near, start)) / self.long, 0, 1)

    def wander(self, rng, step, count, scale):
        """A random smooth function of the place, given every step m, features scale steps long. -> [rows]

        During a drive it starts anew after count steps.
        """
        place = self.place % ((count - 1) * step) if self.progress.length else self.place
        return np.interp(place, np.arange(0, (count - 0.5) * step, step), wandering(rng, count, scale))

    def ragged(self, rng):
        """Noise [rows] of deviation 1 along the road, 0.1 m and longer; less and less is left of it far away."""
        return self.wander(rng, 0.08, 1500, 3) / np.sqrt(1 + self.long / 0.2)

    def texture(self, tile, across, along, shift=(0, 0), rows=slice(None)):
        """A noise tile laid on the ground with entries of across x along m. -> float32 [rows, columns]"""
        x = self.across[rows] * np.float32(1 / across) + np.float32(shift[0])
        start = self.progress.travelled / along % 512
        y = np.repeat((self.z[rows] / along + start + shift[1]).astype(np.float32)[:, None], x.shape[1], 1)
        return look_up(tile, x, y)


# ---- The surface -----------------------------------------------------------------------------------------------------

def _surface_colours(road, across, rng):
    """The materials across the road, from one verge to the other. across: m [rows, columns] -> float32 [.., 3]"""
    step, reach = 0.025, 75.0
    s = np.arange(-reach, reach, step)
    verge = np.array(rng.choice(_VERGES))
    table = np.repeat(verge[None] * rng.uniform(*_VERGE_GAIN), len(s), 0).astype(np.float64)
    table *= 1 + 0.1 * wandering(rng, len(s), 120)[:, None]
    surface = road.shade * np.array(road.tint)

    def lay(left, right, shade):
        table[(s >= left) & (s < right)] = surface * shade
    if road.oncoming:
        lay(road.outer + 0.5, road.oncoming[0] + 1.5, rng.uniform(*_ONCOMING_GAIN))
    lay(*road.edges, road.shoulder_shade / road.shade)
    lay(road.left - 0.3, road.right + 0.3, 1.0)
    tracks, oil = rng.normal(0, _TRACKS), rng.uniform(*_OIL) * (1 if road.concrete else 0.5)
    for lane in range(road.lanes):
        middle = road.left + (lane + 0.5) * road.lane_width
        inside = np.abs(s - middle) < road.lane_width / 2
        own_oil, own_tracks = oil * rng.uniform(*_LANE_OIL), tracks + rng.normal(0, _LANE_TRACKS)
        gain = 1 + rng.normal(0, _LANE_GAIN) * inside
        for side in (-0.85, 0.85):
            gain = gain + own_tracks * np.exp(-((s - middle - side) / 0.3) ** 2)
        gain = gain - own_oil * np.exp(-((s - middle - rng.normal(0, _OIL_ASIDE)) / rng.uniform(*_OIL_WIDTH)) ** 2)
        table *= gain[:, None]
    streaks = (s > road.edges[0]) & (s < road.edges[1])
    table[streaks] *= 1 + rng.uniform(*_STREAKS) * wandering(rng, streaks.sum(), 30)[:, None]
    index = np.clip((across + reach) / step, 0, len(s) - 1).astype(np.int32)
    return table.astype(np.float32)[index]


def _grain(ground, rng):
    """Brightness of the texture, around 1; each octave fades where pixels outgrow it. -> float32 [rows, columns]"""
    road = ground.road
    rough = rng.uniform(*_ROUGHNESS) * (0.8 if road.concrete else 1.1)
    total = 1 + ground.texture(cloud_tile(), 0.06, 0.25, rng.uniform(0, 512, 2)) * np.float32(rng.uniform(*_CLOUDINESS))
    for number, across, along, strength, least in _OCTAVES:
        fade = strength * rough / np.sqrt(1 + (ground.long / along) * (ground.wide / across) * 0.5)
        shift = rng.uniform(0, 512, 2)
        if fade[-1] > least:
            rows = slice(int(np.argmax(fade > least)), None)
            part = ground.texture(noise_tile(number), across, along, shift, rows)
            total[rows] += part * fade[rows, None].astype(np.float32)
    rows = slice(int(np.argmax(ground.z < 45)), None)
    if ground.z[-1] < 45:  # pits and stones
        fade = rng.uniform(*_PITS) / (1 + (ground.z[rows] / 16) ** 3)
        total[rows] -= ground.texture(speck_tile(), 0.012, 0.02, shift, rows) * fade[:, None].astype(np.float32)
    # Grass and gravel are rougher than any road.
    edge = max(road.edges[1], -road.edges[0])
    rough = (np.maximum(np.abs(ground.across) - np.float32(edge), 0) > 0).astype(np.float32) * np.float32(2.5)
    total += (total - 1) * rough
    return total


# ---- What is painted on it, and wear ---------------------------------------------------------------------------------

def _paint_line(ground, line):
    own = int(line.phase * 1e6)  # a seed: what is random about a line depends on nothing else
    middle = line.offset + 0.012 * ground.wander(np.random.default_rng(own), 1.0, 200, 8)
    if line.dots:  # raised, so higher than flat marks; their shaded side is towards us if the sun is ahead
        light, rng = ground.light, np.random.default_rng(own)
        metre = (ground.place + line.phase - line.pattern[0][0] + 0.5).astype(int) % 2001
        middle = middle + rng.normal(0, 0.025, 2001)[metre]
        there = rng.random(2001)[metre] > 0.3 * line.wear  # some are lost
        along = there * ground.along(line.pattern, line.period, line.phase, 0.009)
        edge = there * ground.along([(start - 0.03, 0.06) for start, _ in line.pattern], line.period, line.phase, 0.004)
        ground.span(middle - 0.055, middle + 0.055, line.colour, along, 0.4 * line.wear, line.offset)
        ground.span(middle - 0.06, middle + 0.06, 1 - 0.75 * light.shadow * max(0.3, np.cos(light.azimuth)), edge)
        return
    along = ground.along(line.pattern, line.period, line.phase) if line.pattern else 1.0
    left, right = middle - line.width / 2, middle + line.width / 2
    if line.wear > 0.02:  # old paint leaves a paler or darker ghost
        ground.span(left, right, 1.0 + 0.12 * (0.5 - line.wear), along)
    ground.span(left, right, line.colour, along, line.wear, line.phase)


def _paint_joints(ground, rng):
    """Seams along the lane lines and across the slabs: the marks most easily taken for lane lines."""
    road = ground.road
    dark, width = rng.uniform(*_SEAM_GAIN), rng.uniform(*_SEAM_WIDTH)
    lines = np.arange(road.left, road.right + 0.1, road.lane_width)
    if road.concrete or rng.random() < _SEAM_CHANCE:
        for offset in lines:
            if rng.random() < _SEAM_AT_LINE_CHANCE:
                path = offset + road.joint_offset + 0.008 * ground.wander(rng, 2, 750, 5)
                path = path + 0.008 * ground.ragged(rng)
                half = width / 2 * np.clip(1 + 0.45 * ground.ragged(rng), 0.3, 2.2)
                ground.span(path - half, path + half, dark, 1.0, 0.3 * rng.random() + 0.01, offset)
    if rng.random() < _MID_SEAM_CHANCE:
        for offset in lines[:-1] + rng.uniform(*_MID_SEAM_PLACE) * road.lane_width:
            if rng.random() < _MID_SEAM_AT_LANE_CHANCE:
                ground.span(offset - 0.02, offset + 0.02, rng.uniform(*_MID_SEAM_GAIN), 1.0, 0.4, offset)
    if road.concrete:
        slab, phase, strength = rng.uniform(*_SLAB), rng.uniform(*_SLAB_PHASE), rng.uniform(*_SLAB_STRENGTH)
        ground.span(road.left - 0.5, road.right + 0.5, rng.uniform(*_SLAB_GAIN),
                    strength * ground.along([(0, 0.03)], slab, phase))
    somewhere, times = ground.progress.somewhere, ground.progress.times
    for _ in range(rng.poisson(_CROSS_JOINTS * times(*_CROSS_JOINT_START))):  # of a bridge, or of two surfaces
        z = somewhere(rng, *_CROSS_JOINT_START)
        ground.span(road.left - 3, road.right + 3, rng.uniform(*_CROSS_JOINT_GAIN),
                    ground.between(z, z + rng.uniform(*_CROSS_JOINT_LENGTH)))
    if rng.random() < _RENEWED_CHANCE:
        z = somewhere(rng, *_RENEWED_START)
        ground.span(-60, 60, rng.uniform(*_RENEWED_GAIN), ground.between(z, FARTHEST + ground.progress.length))


def _paint_cracks(ground, rng):
    road, somewhere, times = ground.road, ground.progress.somewhere, ground.progress.times
    if rng.random() < _CRACKED_CHANCE:
        sealed = rng.random() < _SEALED_SHARE
        for _ in range(rng.poisson(_CRACKS * times(*_CRACK_START))):
            z = somewhere(rng, *_CRACK_START)
            offset = rng.uniform(road.left, road.right)
            path = offset + rng.uniform(*_CRACK_BEND) * ground.wander(rng, 0.15, 1334, 40)
            half = rng.uniform(*_SEALED_WIDTH if sealed else _CRACK_WIDTH)
            ground.span(path - half, path + half, rng.uniform(*_CRACK_GAIN),
                        ground.between(z, z + rng.uniform(*_CRACK_LENGTH)))
        for _ in range(rng.poisson(_CROSS_CRACKS * times(*_CROSS_CRACK_START)) if sealed else 0):
            z, left = somewhere(rng, *_CROSS_CRACK_START), rng.uniform(road.left, road.right - 2)
            ground.span(left, left + rng.uniform(*_CROSS_CRACK_WIDTH), 0.6,
                        ground.between(z, z + rng.uniform(*_CROSS_CRACK_LENGTH)))


def _paint_patches(ground, rng):
    road, somewhere, times = ground.road, ground.progress.somewhere, ground.progress.times
    for _ in range(rng.poisson(_PATCHES * times(*_PATCH_START))):
        z, lane = somewhere(rng, *_PATCH_START), rng.integers(0, road.lanes)
        left = road.left + lane * road.lane_width + mixture(rng, *_PATCH_ASIDE)
        width = min(mixture(rng, road.lane_width - 0.2, _PATCH_WIDTH),
                    road.left + (lane + 1) * road.lane_width - left)
        ground.span(left, left + width, rng.uniform(*_PATCH_GAIN),
                    ground.between(z, z + rng.exponential(_PATCH_LENGTH) + 1))
    for _ in range(rng.poisson(_SKIDS * times(*_SKID_START))):
        z, offset = somewhere(rng, *_SKID_START), rng.uniform(road.left, road.right)
        slant = rng.normal(0, _SKID_SLANT)
        for side in (0, 1.5):
            path = offset + side + slant * (ground.place - (z if ground.progress.length else 0))
            ground.span(path - 0.1, path + 0.1, rng.uniform(*_SKID_GAIN),
                        ground.between(z, z + rng.uniform(*_SKID_LENGTH)))


# ---- Light on it -----------------------------------------------------------------------------------------------------

def _sheen(ground):
    """Against the sun the road shines towards it. -> gain, float32 [rows, columns] or 1"""
    light = ground.light
    if light.shadow < 0.1 or abs(light.azimuth) > 1.2:
        return np.float32(1)
    x, _ = ground.canvas.sun()
    rows = 0.35 * np.cos(light.elevation) ** 2 * (1 - 0.7 * np.exp(-ground.z / 60))
    columns = np.exp(-((np.arange(ground.canvas.width) - x) / 420) ** 2)
    return (1 + rows[:, None] * columns[None]).astype(np.float32)


def _shadows(ground, rng):
    """What shadows leave of the light on the ground. -> float32 [rows, columns], 0..1"""
    light, vehicles, view = ground.light, ground.canvas.scene.vehicles, ground.canvas.view
    mask = np.zeros(ground.across.shape, np.uint8)
    top = np.array([0, ground.first])
    travelled, times = ground.progress.travelled, ground.progress.times

    def somewhere(limits):
        return ground.progress.somewhere(rng, *limits) - travelled
    # m along the ground per m of height
    away = np.array([np.sin(light.azimuth), np.cos(light.azimuth)]) / -np.tan(light.elevation)

    def cast(places):
        """Darkens the convex hull of places [n, 2] (offset, distance) m."""
        places = np.array(places, float)
        points = view.project(places[:, 0], 0.0, places[:, 1]) - top
        hull = cv2.convexHull(np.clip(points, -6000, 6000).astype(np.float32))[:, 0]
        cv2.fillPoly(mask, [sixteenths(hull)], 255, cv2.LINE_AA, 4)

    if light.shadow > 0.15:
        if rng.random() < _DAPPLE_CHANCE:
            np.maximum(mask, _dapples(ground, rng), out=mask)
        if rng.random() < _BRIDGE_CHANCE:
            z, slant = somewhere(_BRIDGE_START), rng.normal(0, _BRIDGE_SLANT)
            deep = rng.uniform(*_BRIDGE_LENGTH)
            cast([(-60, z - 60 * slant), (60, z + 60 * slant), (60, z + deep + 60 * slant),
                  (-60, z + deep - 60 * slant)])
        if rng.random() < _POLES_CHANCE:
            for _ in range(int(rng.integers(*_POLES) * times(*_POLE_START))):
                z, side, thick = somewhere(_POLE_START), rng.choice([-1, 1]), rng.uniform(*_POLE_WIDTH)
                x = ground.road.right + 2 if side > 0 else ground.road.left - 2
                dx, dz = away * rng.uniform(*_POLE_HEIGHT)
                dx = -side * max(abs(dx), 5)
                cast([(x, z), (x, z + thick), (x + dx, z + dz), (x + dx, z + dz + thick)])
        if rng.random() < _TRUSS_CHANCE:
            z = somewhere(_TRUSS_START)
            for dz in (0, 2.2):
                cast([(-30, z + dz), (30, z + dz), (30, z + dz + 0.25), (-30, z + dz + 0.25)])
            for x in np.arange(-30, 30, 2.5):
                for a, b in ((0, 2.2), (2.2, 0)):
                    cast([(x, z + a), (x + 0.15, z + a), (x + 1.25, z + b), (x + 1.4, z + b)])
        for vehicle in vehicles:
            if vehicle.distance <= 260:
                box = _outline(vehicle)
                cast(np.vstack([box, box + np.clip(away * VEHICLES[vehicle.kind].height * 0.92, -25, 25)]))
    mask = cv2.GaussianBlur(mask, (0, 0), 0.8).astype(np.float32) / 255
    under = np.zeros(ground.across.shape, np.uint8)  # beneath vehicles it is dark in any light
    for vehicle in vehicles:
        x, z = _outline(vehicle, narrower=0.05, nearer=0.15).T
        cv2.fillPoly(under, [sixteenths(view.project(x, 0.0, z) - top)], 255, cv2.LINE_AA, 4)
    under = cv2.GaussianBlur(under, (0, 0), 3).astype(np.float32)
    return (1 - np.float32(light.shadow) * mask) * (1 - np.float32(0.8 / 255) * under)


def _outline(vehicle, narrower=0.0, nearer=0.0):
    """The corners of the ground under a vehicle. -> float64 [4, 2], (offset, distance) m"""
    shape, x, z = VEHICLES[vehicle.kind], vehicle.offset, vehicle.distance
    half = shape.width / 2 - narrower
    return np.array([(x - half, z - nearer), (x + half, z - nearer), (x + half, z + shape.length),
                     (x - half, z + shape.length)])


def _dapples(ground, rng):
    """The shadows of trees at one side over part of the road. -> uint8 [rows, columns]"""
    starts = [(start, end + ground.progress.length) for start, end in _DAPPLE_START]
    start, length = mixture(rng, *starts), rng.exponential(_DAPPLE_LENGTH) + 3
    scale = [rng.uniform(*limits) for limits in _DAPPLE_SCALE]
    noise = ground.texture(cloud_tile(), *scale, rng.uniform(0, 512, 2))
    side, reach = rng.choice([-1, 1]), rng.uniform(*_DAPPLE_REACH)
    edge = (ground.road.right if side > 0 else ground.road.left) - side * reach
    cover = np.clip((ground.across - edge) * side / 2.5, -2, 0.8)
    ends = np.clip(np.minimum(ground.place - start, start + length - ground.place) / 4, -3, 0.6)
    cover += ends.astype(np.float32)[:, None]
    soft = np.maximum(0.12, ground.long / 2).astype(np.float32)[:, None]
    return (np.clip((noise + cover * 1.3 - 0.6) / soft + 0.5, 0, 1) * 255).astype(np.uint8)
