"""Light of lamps at night, on the road and in the lens, and what a wet road mirrors."""
import functools

import cv2
import numpy as np

from data.synthetic.canvas import NEAREST, cloud_tile, differing
from data.synthetic.vehicles import VEHICLES

_BEAM_COLOUR = np.array([1.0, 0.97, 0.9])
_BEAM_START, _BEAM_FALL = 4.5, 22.0  # m before the car
_BEAM_WIDTH, _BEAM_SPREAD = 2.2, 0.1  # m, m per m
_GLOW_REACH = 250  # m
_HEADLAMP, _REAR_LAMP = (255, 248, 225), (255, 40, 22)


def road_light(ground):
    """What lights the road at night: our headlights, street lamps, the sky. -> float32 [rows, columns, 3]"""
    light, night = ground.light, ground.light.night
    z = ground.z.astype(np.float32)[:, None]
    rise = 1 / (1 + np.exp(-(z - _BEAM_START) * 1.5)) * np.exp(-z / _BEAM_FALL)
    across = ground.across[:, ::4]
    beam = np.float32(night.beam) * rise * np.exp(-(across / (_BEAM_WIDTH + _BEAM_SPREAD * z)) ** 2)
    total = np.float32(light.ambient) + beam[..., None] * _BEAM_COLOUR.astype(np.float32)
    if night.lamp_glow:
        along = (z - np.float32(night.lamp_phase) + night.lamp_step / 2) % night.lamp_step - night.lamp_step / 2
        for offset in night.lamps:
            side = np.float32(offset - np.sign(offset) * 1.5)
            far = (along ** 2 + (across - side) ** 2) / np.float32(night.lamp_height ** 2)
            total += (np.float32(night.lamp_glow) * (1 + far) ** -1.5)[..., None] * night.lamp_colour.astype(np.float32)
    total = np.minimum(total, 1.3).astype(np.float32)
    return cv2.resize(total, ground.across.shape[::-1], interpolation=cv2.INTER_LINEAR)


def lamp_glows(scene):
    """The glow around the lamps of vehicles and of streets. -> list of (distance m, painter(canvas, rng))"""
    night, things = scene.light.night, []
    if not night:
        return things
    for vehicle in scene.vehicles:
        shape = VEHICLES[vehicle.kind]
        if vehicle.lights and NEAREST < vehicle.distance < _GLOW_REACH:
            up = 0.68 if vehicle.oncoming else 0.85
            for side in (-1, 1):
                place = vehicle.offset + side * shape.width * 0.41, up, vehicle.distance
                size = 1.0 if vehicle.oncoming else 0.3
                things.append((vehicle.distance - 0.05, functools.partial(
                    _paint_glow, place=place, size=size, streak=True,
                    colour=_HEADLAMP if vehicle.oncoming else _REAR_LAMP)))
    for offset in night.lamps if night.lamp_glow else ():
        for z in np.arange(night.lamp_phase, _GLOW_REACH, night.lamp_step):
            if z > NEAREST:
                place = offset - np.sign(offset) * 1.5, night.lamp_height + 0.9, z
                things.append((z - 0.05, functools.partial(_paint_glow, place=place, size=1.1, streak=False,
                                                           colour=night.lamp_colour * 255)))
    return things


def _paint_glow(canvas, rng, place, size, colour, streak):
    offset, up, z = place
    (x, y), = canvas.view.project([offset], [up], [z])
    radius = int(np.clip(canvas.view.camera.focal * size * 0.5 / z + 3, 3, 110))
    _add(canvas, x, y, _glow(radius), colour, 0.9)
    if streak and canvas.light.wet:  # mirrored by the road, drawn out towards us
        (_, foot), = canvas.view.project([offset], [-up], [z])
        long = max(6, int((foot - y) * 0.7))
        _add(canvas, x, foot, cv2.resize(_glow(32), (max(3, radius), 2 * long)), colour, 0.6 * canvas.light.wet)


def _add(canvas, x, y, glow, colour, strength):
    height, width = glow.shape
    left, top = int(round(x - width / 2)), int(round(y - height / 2))
    x0, y0, x1, y1 = max(left, 0), max(top, 0), min(left + width, canvas.width), min(top + height, canvas.height)
    if x0 < x1 and y0 < y1:
        part = canvas.pixels[y0:y1, x0:x1]
        glow = glow[y0 - top:y1 - top, x0 - left:x1 - left, None] * np.float32(strength)
        part[:] = cv2.add(part, np.rint(glow * np.asarray(colour, np.float32)).clip(0, 255).astype(np.uint8))


@functools.lru_cache(maxsize=256)
def _glow(radius):
    y, x = np.mgrid[-1:1:(2 * radius + 1) * 1j, -1:1:(2 * radius + 1) * 1j]
    far = np.hypot(x, y)
    return (np.clip(1 - far, 0, 1) ** 2 * (0.35 + 0.9 * np.exp(-(far / 0.16) ** 2))).clip(0, 1).astype(np.float32)


def mirror(canvas, dry):
    """Lets the wet road mirror what is above it, where nothing stands on it. dry: the pixels before that was painted"""
    view, wet = canvas.view, canvas.light.wet
    first = int(np.clip(view.vanishing + 2, 1, canvas.height - 2))
    rows = min(canvas.height - first, first)
    road = ~differing(dry[first:first + rows], canvas.pixels[first:first + rows])
    image = cv2.resize(canvas.pixels[first - rows:first][::-1], (canvas.width // 4, max(1, rows // 4)),
                       interpolation=cv2.INTER_AREA)
    image = cv2.GaussianBlur(image, (0, 0), sigmaX=1.5, sigmaY=9)
    image = cv2.resize(image, (canvas.width, rows)).astype(np.float32)
    z = view.distance(np.arange(first, first + rows))
    puddles = cloud_tile()[(np.log(z) * 70).astype(int)[:, None] % 512, (np.arange(canvas.width) // 3)[None] % 512]
    share = np.clip(0.45 + 0.3 * puddles, 0, 1) * np.float32(wet) * (0.25 + 0.75 * np.exp(-6 / z))[:, None]
    share = (share * road)[..., None].astype(np.float32)
    part = canvas.pixels[first:first + rows]
    part[:] = (part * (1 - 0.75 * share) + image * 0.75 * share).astype(np.uint8)
