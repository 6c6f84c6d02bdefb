"""The contents of a rendered scene: camera, road, lines, vehicles, light, lens.

Lengths are in m, angles in rad, image positions in px, colours RGB 0..255.
"""
import collections

import numpy as np


class Camera(collections.namedtuple('Camera', 'focal height centre horizon roll')):
    """A pinhole: focal length px, height m, vanishing point of a straight flat road (centre, horizon) px, roll rad."""


class Road(collections.namedtuple('Road', 'heading centre rise left right lane_width shoulders concrete shade tint '
                                  'shoulder_shade joint_offset oncoming two_way')):
    """Offsets are m to the right of the camera's path, along the road's own bend.

    heading: slope dx/dz at the camera; centre, rise: functions of the distance m that return the lateral position of
    the camera's path and the height of the surface above the plane under the car, in m
    left, right: offsets of the outermost lines; lane_width, shoulders m
    concrete: slabs with joints, otherwise asphalt; shade: brightness of the surface; tint [3]
    joint_offset: m from a lane line to the joint next to it
    oncoming: (offset of the inner line, lanes) of the opposite carriageway, None if unseen; two_way: no median
    lanes, line_offsets, middles: number of our lanes, offsets of their lines and middles from the left (of a double
    line, its middle); oncoming_middles: those of the opposite lanes from the right
    edges: left and right, including shoulders; outer: left edge of all carriageways
    """

    lanes = property(lambda self: round((self.right - self.left) / self.lane_width))
    line_offsets = property(lambda self: np.arange(self.left, self.right + 0.1, self.lane_width))
    middles = property(lambda self: self.left + (np.arange(self.lanes) + 0.5) * self.lane_width)
    edges = property(lambda self: (self.left - self.shoulders[0], self.right + self.shoulders[1]))

    @property
    def oncoming_middles(self):
        inner, count = self.oncoming or (0, 0)
        return inner - (np.arange(count) + 0.5) * self.lane_width

    @property
    def outer(self):
        inner, count = self.oncoming or (0, 0)
        return inner - count * self.lane_width - 3 if count else self.edges[0]


class Line(collections.namedtuple('Line', 'offset colour width pattern period phase wear dots labelled '
                                  'number', defaults=[None])):
    """A painted line. pattern: list of (start, length) m within period; ([], 0): unbroken. wear 0 new .. 1 gone.

    number: among the lines of our carriageway, from the left; None for all other lines
    """

    @property
    def kind(self):
        return 'dots' if self.dots else 'dashed' if self.pattern else 'solid'


class Vehicle(collections.namedtuple('Vehicle', 'kind offset distance colour oncoming lights size')):
    """kind: a key of VEHICLES; offset of its middle m, distance of its near end m, facing us or not."""


class Light(collections.namedtuple('Light', 'azimuth elevation shadow zenith horizon haze ambient clouds dusk')):
    """azimuth of the sun, rad to the right of straight ahead; elevation rad; shadow: 0 soft .. 1 black.

    zenith, horizon: colours of the sky; haze: visibility in m; ambient: overall brightness
    """


class Lens(collections.namedtuple('Lens', 'exposure balance contrast saturation vignette blur motion noise glare '
                                  'quality hood')):
    """The optics and the sensor. exposure: target mean brightness; hood: height px.

    blur: sigma px; motion: blur along the columns px; noise: deviation; quality: of the JPEG, 0..100
    """


class Progress(collections.namedtuple('Progress', 'travelled length turned turns',
                                      defaults=[0.0, 0.0, 0.0, (0.0, 0.0)])):
    """Position within a drive; a single image is a drive of length 0.

    travelled, length: m along the road from the start of the drive to here and to its end
    turned, turns: rad to the right of the direction at the start, here and (least, most) of the whole drive
    """

    def somewhere(self, rng, start, end):
        """A random place; for a single image, from start to end m ahead. -> m from the start of the drive"""
        return rng.uniform(start, end + self.length)

    def places(self, rng, mean, start, end):
        """Yields random places as in somewhere(), on average `mean` for a single image."""
        for _ in range(rng.poisson(mean * self.times(start, end))):
            yield self.somewhere(rng, start, end)

    def times(self, start, end):
        """Ratio of the number of such places in a drive to that in a single image."""
        return 1 + self.length / (end - start)


class Scene(collections.namedtuple('Scene', 'camera road lines vehicles light lens progress', defaults=[Progress()])):
    """All of the above; lines and vehicles are lists, vehicles sorted from far to near except in a drive."""
