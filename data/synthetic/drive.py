"""A drive: one road and its traffic as a moving car films them, the ground truth for tracking lanes.

Where things are is a function of the time and of the place, m along the road since the start, alone: the road's line
is a table over the place, and what lies or stands beside it keeps its place. A frame is a Scene whose Road and Progress
say where the car is. Offsets are m to the right of the path on which the car would have gone straight on in its lane.
"""
import dataclasses

import numpy as np

from data.synthetic.canvas import FARTHEST
from data.synthetic.distributions import sample_scene, sample_vehicle
from data.synthetic.scene import Progress, Road, Vehicle
from data.synthetic.vehicles import VEHICLES

FRAME_RATE = 20  # per second

# ---- Distributions: (low, high) of uniform ones ----------------------------------------------------------------------

_STRAIGHT, _FIRST_STRAIGHT, _ARC, _CLOTHOID = (80, 400), (10, 150), (60, 250), (60, 120)  # m, parts of the road
_BEND = (0.0002, 0.0013)  # curvature of the arcs 1/m, to either side
_HILL_STEP = (100, 300)  # vertical curvature 1/m, deviation; its corners m apart
_CHANGE_TIME = (3.5, 6)  # lane changes s
_SWAY = ((0.12, 9.0), (0.04, 3.7))  # (amplitude m, period s) of the car in its lane
_PITCH = ((0.8, 0.9), (0.5, 0.37))  # (amplitude px, period s) of the car on its springs
_GAP = 35  # m between vehicles of a lane, mean of an exponential distribution, and least
_OWN_ROOM, _ROOM = (4.0, 14.0), (8.0, 8.0)  # m kept free behind and before us, and another


# ---- The road --------------------------------------------------------------------------------------------------------

class _Course:
    """The line of a road: direction (slope) and lateral position over the place; the same of its profile.

    places [n] m; direction, lateral, climb, height [n], linear between the places
    """

    def __init__(self, rng, length):
        self.places = np.arange(-50.0, length + FARTHEST + 100)
        places, curvatures, end = [-50.0], [0.0], rng.uniform(*_FIRST_STRAIGHT)
        while end < self.places[-1]:
            bend = rng.choice([-1, 1]) * rng.uniform(*_BEND)
            parts = rng.uniform(*_CLOTHOID), rng.uniform(*_ARC), rng.uniform(*_CLOTHOID)
            places += [end, *(end + np.cumsum(parts))]
            curvatures += [0.0, bend, bend, 0.0]
            end = places[-1] + rng.uniform(*_STRAIGHT)
        self.direction, self.lateral = self._integrals(np.interp(self.places, places, curvatures))
        corners = -50 + np.cumsum(rng.uniform(*_HILL_STEP, len(self.places) // _HILL_STEP[0] + 2))
        hills = np.interp(self.places, corners, rng.normal(0, 3e-5, len(corners)))
        self.climb, self.height = self._integrals(hills)

    def _integrals(self, values):
        """The first and second integral over the places, both 0 at the start of the drive."""
        integrals = []
        for _ in range(2):
            values = np.concatenate([[0], np.cumsum((values[1:] + values[:-1]) / 2)])
            values = values - np.interp(0, self.places, values)
            integrals.append(values)
        return integrals

    def at(self, table, place):
        return np.interp(place, self.places, table)


@dataclasses.dataclass
class _CourseRoad(Road):
    """The Road as it lies before the car at a place: aside m to the right of its path, drifting by a slope."""
    course: _Course
    travelled: float
    aside: float
    drift: float

    def centre(self, z):
        course, place = self.course, self.travelled
        return (course.at(course.lateral, place + z) - course.at(course.lateral, place) - self.aside
                + (self.heading - course.at(course.direction, place) - self.drift) * z)

    def rise(self, z):
        course, place = self.course, self.travelled
        return (course.at(course.height, place + z) - course.at(course.height, place)
                - course.at(course.climb, place) * z)


# ---- What moves ------------------------------------------------------------------------------------------------------

@dataclasses.dataclass
class _LaneChange:
    """start, duration s; aside: m to the right"""
    start: float
    duration: float
    aside: float


def _changed(changes, t):
    """How far lane changes have led aside at time t s, a number or array. -> m"""
    total = 0.0 * t
    for change in changes:
        x = np.clip((t - change.start) / change.duration, 0, 1)
        total = total + change.aside * x ** 3 * (10 - 15 * x + 6 * x ** 2)  # without a jerk at either end
    return total


@dataclasses.dataclass
class _Traveller:
    """A vehicle that keeps its speed, m/s along the road, negative towards us; place: of its near end at t = 0, m."""
    vehicle: Vehicle
    place: float
    speed: float
    changes: list

    def at(self, t):
        """-> (place of its near end, offset) m at time t s"""
        return self.place + self.speed * t, self.vehicle.offset + _changed(self.changes, t)


def frames_of(seconds):
    """How many frames a drive has, at least one."""
    return max(1, round(seconds * FRAME_RATE))


class Drive:
    """A drive of some seconds. The same seed and seconds are the same drive in every process."""

    def __init__(self, seed, seconds):
        rng = np.random.default_rng([seed, 0])  # so that the road is that of scene 0
        self.seconds = seconds
        scene = sample_scene(rng)
        # No hood: its colour is drawn for each photo.
        self.scene = dataclasses.replace(scene, lens=dataclasses.replace(scene.lens, hood=0.0))
        self.road, self.lines = scene.road, scene.lines
        self.speed = rng.uniform(*(14, 25) if self.road.two_way else (22, 33))
        self.speed_period = rng.uniform(10, 25)
        self.phases = rng.uniform(0, 2 * np.pi, 4)
        self.length = float(self._travelled(seconds))
        self.course = _Course(rng, self.length)
        self.lane = int(np.argmin(np.abs(self.road.middles)))
        self.changes = self._own_changes(rng)
        near = self.course.direction[(self.course.places >= 0) & (self.course.places <= self.length)]
        self.turns = (float(near.min()) - 0.1, float(near.max()) + 0.1)
        self.traffic = self._traffic(rng)

    def _travelled(self, t):
        w = 2 * np.pi / self.speed_period
        return self.speed * (t + 0.03 / w * (1 - np.cos(w * t)))

    def _aside(self, t):
        sway = sum(size * (np.sin(2 * np.pi * t / period + phase) - np.sin(phase))
                   for (size, period), phase in zip(_SWAY, self.phases))
        return _changed(self.changes, t) + sway

    def _own_changes(self, rng):
        first = 1 if self.road.two_way else 0  # the lane at the left of it is for those who come towards us
        changes, lane, t = [], self.lane, rng.uniform(1, 6)
        while t < self.seconds:
            ways = [way for way in (-1, 1) if first <= lane + way < self.road.lanes]
            if not ways:
                break
            way = rng.choice(ways)
            changes.append(_LaneChange(t, rng.uniform(*_CHANGE_TIME), way * self.road.lane_width))
            lane += way
            t += changes[-1].duration + rng.uniform(4, 14)
        return changes

    def _traffic(self, rng):
        """Vehicles of all lanes that nobody ever touches. -> list of _Travellers"""
        t = np.arange(0, self.seconds + 0.25, 0.25)
        # [vehicles, times] of those there are so far, at first ourselves
        places, offsets, lengths = self._travelled(t)[None], self._aside(t)[None], np.array([4.5])
        behind, before = np.array([_OWN_ROOM[0] + 4.5]), np.array([_OWN_ROOM[1] - 4.5])
        middles, travellers, density = self.road.middles, [], rng.uniform(0.15, 1.1)
        lanes = [(offset, self.road.two_way and lane == 0, (len(middles) - 1 - lane) * 0.8, True)
                 for lane, offset in enumerate(middles)]
        lanes += [(offset, True, 0.0, False) for offset in self.road.oncoming_middles]
        for offset, oncoming, faster, own_side in lanes:
            speed = (self.speed + faster + rng.normal(0, 1.5)) * (-1 if oncoming else 1)
            gained = (speed - self.speed) * self.seconds  # m on us during the drive
            place = -30 - max(gained, 0.0) + rng.exponential(_GAP / density)
            while place < 600 - min(gained, 0.0):
                vehicle = sample_vehicle(rng, offset, 0.0, oncoming, 1.0)
                changes = []
                if rng.random() < 0.2 and own_side and not self.road.two_way:
                    way = rng.choice([-1, 1]) * self.road.lane_width
                    change = _LaneChange(rng.uniform(0, self.seconds), rng.uniform(*_CHANGE_TIME), way)
                    if middles[0] - 0.1 <= offset + way <= middles[-1] + 0.1:
                        changes.append(change)
                traveller = _Traveller(vehicle, place, speed, changes)
                length = VEHICLES[vehicle.kind].length * vehicle.size
                own_places, own_offsets = (np.broadcast_to(value, t.shape) for value in traveller.at(t))
                beside = np.abs(own_offsets - offsets) < 2.6
                apart = own_places - places  # from the rear of one to the rear of the other
                touching = beside & (apart < (lengths + before)[:, None]) & (apart > -(length + behind)[:, None])
                if not touching.any():
                    travellers.append(traveller)
                    places, offsets = np.vstack([places, own_places]), np.vstack([offsets, own_offsets])
                    lengths = np.append(lengths, length)
                    behind, before = np.append(behind, _ROOM[0]), np.append(before, _ROOM[1])
                place += length + 8 + rng.exponential(_GAP / density)
        return travellers

    # ---- A frame -----------------------------------------------------------------------------------------------------

    def scene_at(self, frame):
        """What the camera sees in a frame, counted from 0. -> Scene; the label shows two lines on each side of us"""
        t = frame / FRAME_RATE
        travelled, aside = float(self._travelled(t)), float(self._aside(t))
        moved = self._travelled(t + 1e-3) - self._travelled(t - 1e-3)
        drift = float((self._aside(t + 1e-3) - self._aside(t - 1e-3)) / moved)
        turned = float(self.course.at(self.course.direction, travelled)) + drift
        camera, light = self.scene.camera, self.scene.light
        pitch = sum(size * np.sin(2 * np.pi * t / period + phase)
                    for (size, period), phase in zip(_PITCH, self.phases[2:]))
        left = max((line.number for line in self.lines if line.number is not None and line.offset <= aside), default=-1)
        vehicles = []
        for traveller in self.traffic:
            place, offset = traveller.at(t)
            vehicles.append(dataclasses.replace(traveller.vehicle, offset=float(offset), distance=place - travelled))
        return dataclasses.replace(
            self.scene, camera=dataclasses.replace(camera, horizon=camera.horizon + pitch),
            road=_CourseRoad(**vars(self.road), course=self.course, travelled=travelled, aside=aside, drift=drift),
            lines=[dataclasses.replace(line, labelled=line.number is not None and left - 1 <= line.number <= left + 2)
                   for line in self.lines],
            vehicles=vehicles,
            light=dataclasses.replace(light, azimuth=(light.azimuth - turned + np.pi) % (2 * np.pi) - np.pi),
            progress=Progress(travelled, self.length, turned, self.turns))
