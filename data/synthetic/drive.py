"""A drive: one road and its traffic filmed from a moving car, as ground truth for lane tracking.

Positions depend only on the time and the place, m along the road from the start. A frame is a Scene whose Road and
Progress hold the position of the car. Offsets are m to the right of a car that never leaves the middle of its lane.
"""
import collections
import functools

import numpy as np

from data.synthetic.canvas import FARTHEST
from data.synthetic.distributions import sample_scene, sample_vehicle
from data.synthetic.scene import Progress
from data.synthetic.vehicles import VEHICLES

FRAME_RATE = 20  # per second

_CHANGE_TIME = (3.5, 6)  # s, of a lane change
_SWAY = ((0.12, 9.0), (0.04, 3.7))  # (amplitude m, period s) of the car in its lane
_PITCH = ((0.8, 0.9), (0.5, 0.37))  # (amplitude px, period s) of the car on its springs
_GAP = 35  # m between vehicles of a lane, mean of an exponential distribution


def frames_of(seconds):
    """-> number of frames of a drive, at least one"""
    return max(1, round(seconds * FRAME_RATE))


def _sample_course(rng, length):
    """Samples a road. -> direction (slope), lateral position m, climb (slope) and height m, functions of the place m"""
    grid = np.arange(-50.0, length + FARTHEST + 100)
    places, curvatures, end = [-50.0], [0.0], rng.uniform(10, 150)
    while end < grid[-1]:
        bend = rng.choice([-1, 1]) * rng.uniform(0.0002, 0.0013)
        parts = rng.uniform(60, 120), rng.uniform(60, 250), rng.uniform(60, 120)  # m: clothoid, arc, clothoid
        places += [end, *(end + np.cumsum(parts))]
        curvatures += [0.0, bend, bend, 0.0]
        end = places[-1] + rng.uniform(80, 400)
    corners = -50 + np.cumsum(rng.uniform(100, 300, len(grid) // 100 + 2))
    functions = []
    for values in np.interp(grid, places, curvatures), np.interp(grid, corners, rng.normal(0, 3e-5, len(corners))):
        for _ in range(2):  # the first and the second integral, both 0 at the start of the drive
            values = np.concatenate([[0], np.cumsum((values[1:] + values[:-1]) / 2)])
            values = values - np.interp(0, grid, values)
            functions.append(functools.partial(np.interp, xp=grid, fp=values))
    return functions


def _changed(changes, t):
    """Offset m from lane changes (start s, duration s, m to the right) at time t s. -> like t"""
    total = 0.0 * t
    for start, duration, aside in changes:
        x = np.clip((t - start) / duration, 0, 1)
        total = total + aside * x ** 3 * (10 - 15 * x + 6 * x ** 2)  # smooth at both ends
    return total


class _Traveller(collections.namedtuple('_Traveller', 'vehicle place speed changes')):
    """A vehicle of constant speed, m/s along the road, negative if oncoming; place: of its near end at t = 0, m."""

    def at(self, t):  # -> (place of its near end, offset) m at time t s
        return self.place + self.speed * t, self.vehicle.offset + _changed(self.changes, t)


class _Track(collections.namedtuple('_Track', 'places offsets length behind before')):
    """Places of the rear of a vehicle at the times [n] of a drive, and the space kept free around it, m."""

    def touches(self, other):
        """Whether this vehicle enters the space of another."""
        beside = np.abs(self.offsets - other.offsets) < 2.6
        apart = self.places - other.places
        return (beside & (apart < other.length + other.before) & (apart > -(self.length + other.behind))).any()


class Drive:
    """A drive of this many seconds; the same seed and seconds yield the same drive in every process."""

    def __init__(self, seed, seconds):
        rng = np.random.default_rng([seed, 0])  # as in scene 0, for the same road
        self.seconds = seconds
        scene = sample_scene(rng)
        self.scene = scene._replace(lens=scene.lens._replace(hood=0.0))  # the hood's colour is sampled for each image
        self.road = scene.road
        self.speed = rng.uniform(*(14, 25) if self.road.two_way else (22, 33))
        self.speed_period = rng.uniform(10, 25)
        self.phases = rng.uniform(0, 2 * np.pi, 4)
        self.length = float(self.travelled(seconds))
        self.direction, self.lateral, self.climb, self.height = _sample_course(rng, self.length)
        self.changes = self._own_changes(rng)
        turned = self.direction(np.arange(self.length))
        self.turns = (float(turned.min()) - 0.1, float(turned.max()) + 0.1)
        self.traffic = self._traffic(rng)

    def travelled(self, t):
        """-> our place m at time t s"""
        w = 2 * np.pi / self.speed_period
        return self.speed * (t + 0.03 / w * (1 - np.cos(w * t)))

    def aside(self, t):
        """-> our offset m at time t s"""
        sway = sum(size * (np.sin(2 * np.pi * t / period + phase) - np.sin(phase))
                   for (size, period), phase in zip(_SWAY, self.phases))
        return _changed(self.changes, t) + sway

    def _own_changes(self, rng):
        first = 1 if self.road.two_way else 0  # the leftmost lane is for oncoming traffic
        changes, lane, t = [], int(np.argmin(np.abs(self.road.middles))), rng.uniform(1, 6)
        while t < self.seconds:
            ways = [way for way in (-1, 1) if first <= lane + way < self.road.lanes]
            if not ways:
                break
            way, duration = rng.choice(ways), rng.uniform(*_CHANGE_TIME)
            changes.append((t, duration, way * self.road.lane_width))
            lane += way
            t += duration + rng.uniform(4, 14)
        return changes

    def _traffic(self, rng):
        """Vehicles of all lanes that never touch each other or us. -> list of _Travellers"""
        t = np.arange(0, self.seconds + 0.25, 0.25)
        tracks = [_Track(self.travelled(t), self.aside(t), 4.5, 4.0 + 4.5, 14.0 - 4.5)]
        travellers, density = [], rng.uniform(0.15, 1.1)
        lanes = [(offset, self.road.two_way and lane == 0, (self.road.lanes - 1 - lane) * 0.8)
                 for lane, offset in enumerate(self.road.middles)]
        lanes += [(offset, True, 0.0) for offset in self.road.oncoming_middles]
        for offset, oncoming, faster in lanes:  # faster: m/s, relative to the rightmost lane
            speed = (self.speed + faster + rng.normal(0, 1.5)) * (-1 if oncoming else 1)
            for traveller, length in self._lane_traffic(rng, density, offset, oncoming, speed):
                track = _Track(*traveller.at(t), length, 8.0, 8.0)
                if not any(track.touches(other) for other in tracks):
                    travellers.append(traveller)
                    tracks.append(track)
        return travellers

    def _lane_traffic(self, rng, density, offset, oncoming, speed):
        """Yields (_Traveller, length m) of a lane, from -30 to 600 m ahead of us at some time of the drive."""
        gained = (speed - self.speed) * self.seconds  # m gained on us during the drive
        place = -30 - max(gained, 0.0) + rng.exponential(_GAP / density)
        while place < 600 - min(gained, 0.0):
            vehicle = sample_vehicle(rng, offset, 0.0, oncoming, 1.0)
            length = VEHICLES[vehicle.kind].length * vehicle.size
            changes = []
            if rng.random() < 0.2 and not oncoming and not self.road.two_way:
                way = rng.choice([-1, 1]) * self.road.lane_width
                change, middles = (rng.uniform(0, self.seconds), rng.uniform(*_CHANGE_TIME), way), self.road.middles
                changes = [change] if middles[0] - 0.1 <= offset + way <= middles[-1] + 0.1 else []
            yield _Traveller(vehicle, place, speed, changes), length
            place += length + 8 + rng.exponential(_GAP / density)

    def scene_at(self, frame):
        """What the camera sees in a frame, counted from 0. -> Scene; the label shows two lines on each side of us"""
        t = frame / FRAME_RATE
        place, aside = float(self.travelled(t)), float(self.aside(t))
        moved = self.travelled(t + 1e-3) - self.travelled(t - 1e-3)
        drift = float((self.aside(t + 1e-3) - self.aside(t - 1e-3)) / moved)
        turned = float(self.direction(place)) + drift
        camera, light, lines = self.scene.camera, self.scene.light, self.scene.lines
        pitch = sum(size * np.sin(2 * np.pi * t / period + phase)
                    for (size, period), phase in zip(_PITCH, self.phases[2:]))
        left = max((line.number for line in lines if line.number is not None and line.offset <= aside), default=-1)
        vehicles = []
        for traveller in self.traffic:
            near_end, offset = traveller.at(t)
            vehicles.append(traveller.vehicle._replace(offset=float(offset), distance=near_end - place))
        slope = self.road.heading - self.direction(place) - drift
        road = self.road._replace(centre=lambda z: self.lateral(place + z) - self.lateral(place) - aside + slope * z,
                                  rise=lambda z: self.height(place + z) - self.height(place) - self.climb(place) * z)
        return self.scene._replace(
            camera=camera._replace(horizon=camera.horizon + pitch), road=road,
            lines=[line._replace(labelled=line.number is not None and left - 1 <= line.number <= left + 2)
                   for line in lines],
            vehicles=vehicles, light=light._replace(azimuth=(light.azimuth - turned + np.pi) % (2 * np.pi) - np.pi),
            progress=Progress(place, self.length, turned, self.turns))
