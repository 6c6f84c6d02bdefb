"""Vehicles: shapes, colours and painting.

Positions in a vehicle are (a, b, c): m to the right of its middle, up, and away from its near end.
"""
import collections
import functools

import numpy as np

from data.synthetic.canvas import NEAREST, cloud_tile, look_up, shade_changes


class _Shape(collections.namedtuple('_Shape', 'length width height body cabin wheels radius '
                                    'box', defaults=[0.33, False])):
    """A vehicle seen from its side: convex outlines [(m from the rear, m up)], clockwise from the lower rear.

    body: over the full width; cabin: narrower at the top; wheels: m from the rear; box: without glass
    """


VEHICLES = {
    'sedan': _Shape(4.7, 1.82, 1.45, [(.1, .28), (0, .5), (0, .96), (.3, 1.02), (3.3, .97), (4.5, .75), (4.7, .5),
                                     (4.6, .26)], [(.35, .98), (1.15, 1.42), (2.5, 1.45), (3.6, .95)], (.95, 3.75)),
    'suv': _Shape(4.7, 1.92, 1.76, [(.1, .38), (0, .55), (0, 1.08), (3.5, 1.08), (4.55, .98), (4.7, .6), (4.6, .36)],
                 [(.03, 1.06), (.35, 1.7), (2.6, 1.76), (3.6, 1.06)], (.95, 3.7), 0.37),
    'van': _Shape(5.0, 1.96, 1.85, [(.1, .3), (0, .5), (0, 1.1), (3.9, 1.05), (4.9, .8), (5.0, .5), (4.9, .28)],
                 [(.02, 1.08), (.25, 1.8), (3.0, 1.85), (4.2, 1.04)], (.95, 4.0)),
    'pickup': _Shape(5.6, 1.98, 1.85, [(.1, .48), (0, .6), (0, 1.12), (4.2, 1.12), (5.5, 1.05), (5.6, .65), (5.5, .45)],
                    [(1.75, 1.1), (1.95, 1.8), (3.3, 1.85), (4.2, 1.1)], (1.15, 4.5), 0.4),
    'hatch': _Shape(4.0, 1.75, 1.5, [(.1, .28), (0, .5), (0, .98), (3.1, .95), (3.9, .75), (4.0, .5), (3.9, .26)],
                   [(.05, .96), (.45, 1.46), (2.0, 1.5), (3.1, .94)], (.7, 3.2), 0.31),
    'box': _Shape(8.0, 2.4, 3.5, [(0, .95), (0, 3.5), (6, 3.5), (6, .95)],
                 [(6.2, .5), (6.2, 2.5), (7.5, 2.5), (8, .6)], (1.6, 6.8), 0.46, True),
    'trailer': _Shape(18.5, 2.55, 4.1, [(0, 1.15), (0, 4.1), (14, 4.1), (14, 1.15)],
                     [(15, .6), (15, 3.8), (17.5, 3.2), (18.5, .6)], (1.4, 2.7, 14.6, 17.4), 0.5, True),
    'bus': _Shape(12, 2.55, 3.2, [(0, .4), (0, 3.2), (12, 3.2), (12, .4)], [], (2.8, 9.5), 0.48),
}
PAINTS = [  # (colour, share)
    ((225, 226, 226), .25), ((168, 172, 175), .2), ((98, 100, 103), .15), ((30, 31, 34), .2), ((130, 28, 26), .06),
    ((38, 58, 100), .08), ((170, 158, 130), .04), ((60, 78, 62), .02)]
_GLASS, _TYRE, _UNDERSIDE = np.array([38.0, 46, 52]), np.array([20.0, 20, 21]), np.array([22.0, 22, 24])


def vehicle_painters(scene):
    """-> list of (distance m, painter(canvas, rng)), one for each vehicle; those next to us are at NEAREST"""
    return [(max(vehicle.distance, NEAREST), functools.partial(_paint_vehicle, vehicle)) for vehicle in scene.vehicles]


class _Body:
    """Draws in a vehicle's own coordinates."""

    def __init__(self, canvas, vehicle):
        self.canvas, self.vehicle = canvas, vehicle
        self.shape = VEHICLES[vehicle.kind]
        ends = vehicle.distance + np.array([0, self.shape.length])
        (self.x, x), (self.y, y) = canvas.view.road.centre(ends) + vehicle.offset, canvas.view.road.rise(ends)
        self.turn, self.climb = (x - self.x) / self.shape.length, (y - self.y) / self.shape.length
        self.rear, self.side = canvas.facing(np.pi), {side: canvas.facing(side * np.pi / 2) for side in (-1, 1)}
        self.near = self.shape.length if vehicle.oncoming else 0.0  # the visible end, m from the rear

    def points(self, points):
        """Projects positions [n, 3] in the vehicle, c from its rear. -> float64 [n, 2] px"""
        a, b, c = np.asarray(points, float).T * self.vehicle.size
        if self.vehicle.oncoming:
            c = self.shape.length * self.vehicle.size - c
        camera = self.canvas.view.camera
        scale = camera.focal / np.maximum(self.vehicle.distance + c, NEAREST)
        x = camera.centre + (self.x + self.turn * c + a) * scale
        return np.column_stack([x, camera.horizon + (camera.height - self.y - self.climb * c - b) * scale])

    def fill(self, points, colour):
        """Fills a polygon [n, 3] m."""
        self.canvas.polygon(self.points(points), self.canvas.air(colour, max(self.vehicle.distance, NEAREST)))

    def plate(self, a0, a1, b0, b1, colour):
        """Fills a rectangle on the visible end, from a0 to a1 and from b0 to b1 m."""
        self.fill([(a0, b0, self.near), (a1, b0, self.near), (a1, b1, self.near), (a0, b1, self.near)], colour)

    def prism(self, outline, low, high, colour, glass=None):
        """Paints the visible faces of an outline extruded to half the widths low (bottom) and high (top)."""
        c, b = np.array(outline).T
        half = low + (high - low) * (b - b.min()) / (b.max() - b.min())
        if not self.shape.box:  # rounded at both ends, narrower at the sills
            half = half * (1 - 0.09 * np.exp(-np.minimum(c, self.shape.length - c) / 0.25))
            half = half * (1 - 0.05 * (b < 0.45))
        for side in (-1, 1):
            face = np.column_stack([side * half, b, c])
            if self._faces_us(face, side):
                self.fill(face, colour * self.side[side])
                for pane in _windows(face) if glass is not None else ():
                    self.fill(pane, glass * self.side[side])
        rim = np.column_stack([half, b, c])
        for corner, following in zip(rim, np.roll(rim, -1, 0)):
            face = np.array([corner * (-1, 1, 1), corner, following, following * (-1, 1, 1)])
            if self._faces_us(face, -1):
                self._paint_end_face(face, colour, glass)

    def _faces_us(self, face, sense):
        """Whether the outer side of a face [n, 3] m is visible; sense: -1 or 1, orientation of its corners."""
        x, y = self.points(face).T
        area = x @ np.roll(y, -1) - y @ np.roll(x, -1)
        return area * sense * (-1 if self.vehicle.oncoming else 1) > 0

    def _paint_end_face(self, face, colour, glass):
        _, high, deep = np.abs(face[2] - face[1])
        flat = deep / (np.hypot(deep, high) + 1e-6)  # 0 for an upright face, 1 for a flat one
        self.fill(face, colour * (self.rear * (1 - flat) + 1.08 * flat))
        if glass is not None and 0.05 < flat < 0.96:
            middle = face.mean(0)
            self.fill(middle + (face - middle) * 0.84, glass * (0.6 + 0.7 * flat))


def _windows(face):
    """The one or two windows in the side of a cabin [n, 3] m. -> list of float64 [m, 3]"""
    middle, panes = face.mean(0), 1 if np.ptp(face[:, 2]) < 2 else 2
    inner = middle + (face - middle) * np.array([1, 0.78, 0.88])
    inner = inner[np.argsort(inner[:, 2])]
    bottom, top = inner[np.argmin(inner[:, 1])], inner[np.argmax(inner[:, 1])]
    windows = []
    for pane in range(panes):
        cut = inner[0, 2] + np.ptp(inner[:, 2]) * np.array([pane + 0.03, pane + 0.97]) / panes
        upper = np.maximum(np.interp(cut, inner[:, 2], inner[:, 1]), bottom[1] + 0.02)
        ridge = inner[(inner[:, 2] > cut[0]) & (inner[:, 2] < cut[1]) & (inner[:, 1] > middle[1])]
        b = np.array([bottom[1], upper[0], *ridge[:, 1], upper[1], bottom[1]])
        c = [cut[0], cut[0], *ridge[:, 2], cut[1], cut[1]]
        share = (b - bottom[1]) / (top[1] - bottom[1] + 1e-6)
        windows.append(np.column_stack([bottom[0] + (top[0] - bottom[0]) * share, b, c]))
    return windows


def _paint_vehicle(vehicle, canvas, rng):
    """Paints a vehicle; near ones are darker at the bottom and uneven like sheet metal."""
    view, shape, z = canvas.view, VEHICLES[vehicle.kind], max(vehicle.distance, NEAREST)
    if not NEAREST - shape.length < vehicle.distance < 600:
        return
    middle, size = view.column(z, vehicle.offset), view.camera.focal / z
    left, right = (int(np.clip(middle + side * size * 3, 0, canvas.width)) for side in (-1, 1))
    top, bottom = (int(np.clip(view.row(z, up), 0, canvas.height)) for up in (shape.height * 1.1, -0.3))
    tall, part = size * shape.height, canvas.pixels[top:bottom, left:right]
    before = part.copy()
    if -1500 < middle < canvas.width + 1500 or canvas.scene.progress.length:  # in a drive it may be next to us
        if tall < 18:
            _paint_far(_Body(canvas, vehicle))
        else:
            _paint_near(_Body(canvas, vehicle), rng, tall)
    if tall > 30 and part.size:
        y, x = np.meshgrid(np.linspace(0, 1, bottom - top, dtype=np.float32),
                           np.arange(right - left, dtype=np.float32), indexing='ij')
        uneven = look_up(cloud_tile(), x * np.float32(90 / size) + np.float32(rng.uniform(0, 512)),
                         y * np.float32(160) + np.float32(rng.uniform(0, 512)))
        shade_changes(part, before, (0.5 - y) * 0.35 + 0.09 * uneven)


def _paint_far(body):
    """A vehicle of a few pixels: its end, its window, the shadow below."""
    shape, colour = body.shape, np.array(body.vehicle.colour)
    half, (low, top), high = shape.width / 2, np.array(shape.body)[[0, 2], 1], shape.height

    def end(lower, upper, b0, b1, tint):
        a0, a1 = half * lower, half * upper
        body.fill([(-a0, b0, body.near), (a0, b0, body.near), (a1, b1, body.near), (-a1, b1, body.near)], tint)
    end(0.95, 0.95, 0.0, low + 0.05, _UNDERSIDE)
    if high > top + 0.1:
        end(0.92, 0.75, top, high, colour * 1.05)
        end(0.8, 0.66, top + 0.06, high - 0.08, _GLASS)
    end(1, 1, low, top, colour * body.rear)
    lamp = [210.0, 212, 215] if body.vehicle.oncoming else [130.0, 22, 18]
    for side in (-1, 1):
        body.plate(side * half * .7, side * half * .95, top * .6, top * .8, lamp)


def _paint_near(body, rng, tall):
    """A vehicle with all its parts. tall: its height px"""
    shape, colour, oncoming = body.shape, np.array(body.vehicle.colour), body.vehicle.oncoming
    half = shape.width / 2
    inward = -1 if oncoming else 1
    for side in (-1, 1):
        outer, inner = np.array([side * half, side * (half - (0.5 if shape.box else 0.22))]) * 0.97
        c, high = shape.wheels[-1 if oncoming else 0] - inward * shape.radius * 0.6, 2 * shape.radius
        body.fill([(outer, 0, c), (inner, 0, c), (inner, high, c), (outer, high, c)], _TYRE)
    trunk = (shape.body, half, half, colour)
    if shape.box:
        chassis = [(0.3, .6), (0.3, 1.15), (shape.length - 1, 1.15), (shape.length - 1, .6)]
        body.prism(chassis, half * .5, half * .5, np.array((30.0, 30, 32)))
        cabin = (shape.cabin, half * 0.95, half * 0.9, np.roll(colour, 1) * 0.7)
        parts = [trunk, (*cabin, _GLASS)] if oncoming else [cabin, trunk]
    else:
        parts = [trunk, (shape.cabin, half * 0.93, half * 0.76, colour, _GLASS)]
    for part in parts:
        if part[0]:
            body.prism(*part)
    _paint_wheels(body)
    _paint_end(body, colour)
    if body.canvas.light.shadow > 0.3 and rng.random() < 0.35 and not shape.box:  # the sun glints in the glass
        place = rng.uniform(-half, half) * 0.7, shape.height * rng.uniform(0.75, 0.98), body.near + inward * 0.8
        radius, t = np.clip(tall * 0.03, 1.0, 5), np.linspace(0, 2 * np.pi, 8, endpoint=False)
        for reach in (1.0, 2.2):
            spikes = radius * np.where(np.arange(8) % 2, 0.4, reach)[:, None]
            star = body.points([place]) + spikes * np.column_stack([np.cos(t), np.sin(t)])
            body.canvas.polygon(star, (255, 255, 250))


def _paint_wheels(body):
    """The wheels on the visible side, if any."""
    shape, half = body.shape, body.shape.width / 2
    if abs(body.x) < half:
        return
    visible = -1 if body.x > 0 else 1
    t = np.linspace(0, 2 * np.pi, 18, endpoint=False)
    for place in shape.wheels:
        for radius, tone in ((shape.radius * 1.15, 14.), (shape.radius, 26.), (shape.radius * 0.6, 105.)):
            rim = np.column_stack([np.full(18, visible * half * 0.98), shape.radius + radius * np.sin(t),
                                   place + radius * np.cos(t)])
            body.fill(rim, np.full(3, tone) * body.side[visible])


def _paint_end(body, colour):
    """Bumper, number plate, lamps or doors of the visible end."""
    shape, vehicle, light, plate = body.shape, body.vehicle, body.rear, body.plate
    half, oncoming, ambient = shape.width / 2, vehicle.oncoming, body.canvas.light.ambient
    low, top = min(b for _, b in shape.body), max(b for _, b in shape.body)
    if shape.box and not oncoming:
        plate(-half, half, low, low + 0.1, colour * 0.5 * light)
        plate(-0.02, 0.02, low, top, colour * 0.55 * light)
        for side in (-1, 1):
            plate(side * half, side * (half - .06), low, top, colour * 0.75 * light)
            plate(side * 0.45, side * 0.48, low + 0.1, top - 0.1, colour * 0.8 * light)
        plate(-half * .9, half * .9, .55, .65, (50, 50, 52))
        lamps, lamp_height = (0.75, 0.92), (low - .2, low - .08)
    else:
        plate(-half * .98, half * .98, low + .02, low + .28 * (top - low), colour * 0.55 * light)
        lamps, lamp_height = (0.66, 0.97), (low + .6 * (top - low), low + .85 * (top - low))
        if vehicle.kind == 'bus':
            plate(-half * .85, half * .85, 1.7, 2.8, _GLASS)
            lamps, lamp_height = (0.8, 0.95), (0.8, 1.1)
        if oncoming:
            plate(-half * .55, half * .55, low + .35 * (top - low), low + .62 * (top - low), (28, 28, 30))
            lamp_height = (low + .5 * (top - low), low + .75 * (top - low))
        plate(-.26, .26, low + .38 * (top - low), low + .55 * (top - low), np.array([190, 192, 195]) * light * 0.85)
    if vehicle.lights or body.canvas.light.dusk and vehicle.size > 0.97:
        lamp = np.array([255, 250, 235] if oncoming else [245, 45, 28]) / ambient
    else:
        lamp = np.array([215, 218, 220]) * light if oncoming else np.array([96, 14, 14]) * (0.4 + 0.6 * light)
    for side in (-1, 1):
        plate(side * half * lamps[0], side * half * lamps[1], *lamp_height, lamp)
