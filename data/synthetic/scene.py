"""The contents of a rendered scene: camera, road, lines, vehicles, light, lens.

Lengths are in m, angles in rad, positions in the picture in px, colours RGB 0..255.
"""
import collections
import dataclasses

import numpy as np


class Camera(collections.namedtuple('Camera', 'focal height centre horizon roll')):
    """A pinhole: focal length px, height m, vanishing point of a straight flat road (centre, horizon) px, roll rad."""


@dataclasses.dataclass
class Road:
    """Offsets are m to the right of the camera's path, along the road's own bend.

    heading: slope dx/dz at the camera; curvature 1/m and its rate 1/m^2 (clothoid); grade: vertical curvature 1/m
    left, right: offsets of the outermost lines; lane_width, shoulders m
    concrete: slabs with joints, otherwise asphalt; shade: brightness of the surface; tint [3]
    joint_offset: m from a lane line to the joint next to it
    oncoming: (offset of the inner line, lanes) of the opposite carriageway, None if unseen; two_way: no median
    """
    heading: float
    curvature: float
    curvature_rate: float
    grade: float
    left: float
    right: float
    lane_width: float
    shoulders: tuple
    concrete: bool
    shade: float
    tint: tuple
    shoulder_shade: float
    joint_offset: float
    oncoming: tuple
    two_way: bool

    def centre(self, z):
        """Lateral position of the camera's path at distance z, in m; the curvature is constant beyond 250 m."""
        near = np.minimum(z, 250.0)
        beyond = z - near
        curvature = self.curvature + self.curvature_rate * near
        slope = self.heading + self.curvature * near + self.curvature_rate * near ** 2 / 2
        return (self.heading * near + self.curvature * near ** 2 / 2 + self.curvature_rate * near ** 3 / 6
                + slope * beyond + curvature * beyond ** 2 / 2)

    def rise(self, z):
        """Height of the surface at distance z over the plane under the car, m; constant slope beyond 300 m."""
        near = np.minimum(z, 300.0)
        return self.grade * near * (near / 2 + (z - near))

    @property
    def lanes(self):
        """Number of lanes of our carriageway."""
        return int(round((self.right - self.left) / self.lane_width))

    @property
    def line_offsets(self):
        """Offsets m of the lines of our carriageway, from the left; for a double line its middle."""
        return np.arange(self.left, self.right + 0.1, self.lane_width)

    @property
    def middles(self):
        """Offsets m of the middles of its lanes, from the left."""
        return self.left + (np.arange(self.lanes) + 0.5) * self.lane_width

    @property
    def oncoming_middles(self):
        """Offsets m of the middles of the lanes of the opposite carriageway, from the right."""
        inner, count = self.oncoming or (0, 0)
        return inner - (np.arange(count) + 0.5) * self.lane_width

    @property
    def edges(self):
        """Offsets m of the left and right edge of our carriageway, including shoulders."""
        return self.left - self.shoulders[0], self.right + self.shoulders[1]

    @property
    def outer(self):
        """Offset m of the left edge of the paved area."""
        if self.oncoming:
            return self.oncoming[0] - self.oncoming[1] * self.lane_width - 3
        return self.edges[0]


class Line(collections.namedtuple('Line', 'offset colour width pattern period phase wear dots labelled '
                                  'number', defaults=[None])):
    """A painted line. pattern: list of (start, length) m within period; ([], 0): unbroken. wear 0 new .. 1 gone.

    number: among the lines of our carriageway, from the left; None for all other lines
    """

    @property
    def kind(self):
        """'solid', 'dashed' or 'dots'"""
        return 'dots' if self.dots else 'dashed' if self.pattern else 'solid'


class Vehicle(collections.namedtuple('Vehicle', 'kind offset distance colour oncoming lights size')):
    """kind: a key of VEHICLES; offset of its middle m, distance of its near end m, facing us or not."""


class Light(collections.namedtuple('Light', 'azimuth elevation shadow zenith horizon haze ambient clouds dusk')):
    """azimuth of the sun, rad to the right of straight ahead; elevation rad; shadow: 0 soft .. 1 black.

    zenith, horizon: colours of the sky; haze: visibility in m; ambient: brightness of everything
    """


class Lens(collections.namedtuple('Lens', 'exposure balance contrast saturation vignette blur motion noise glare '
                                  'quality hood')):
    """The optics and the sensor. exposure: target mean brightness; hood: height px.

    blur: sigma px; motion: blur along the columns px; noise: deviation; quality: of the JPEG, 0..100
    """


class Progress(collections.namedtuple('Progress', 'travelled length turned turns',
                                      defaults=[0.0, 0.0, 0.0, (0.0, 0.0)])):
    """Position within a drive; a single photo is a drive of length 0.

    travelled, length: m along the road from the start of the drive to here and to its end
    turned, turns: rad to the right of the direction at the start, here and (least, most) of the whole drive
    """

    def somewhere(self, rng, start, end):
        """A random place, for a single photo from start to end m ahead. -> m from the start of the drive"""
        return rng.uniform(start, end + self.length)

    def places(self, rng, mean, start, end):
        """Yields random places as in somewhere(), on average `mean` for a single photo."""
        for _ in range(rng.poisson(mean * self.times(start, end))):
            yield self.somewhere(rng, start, end)

    def times(self, start, end):
        """Ratio of the number of such places in a drive to that of a single photo."""
        return 1 + self.length / (end - start)


class Scene(collections.namedtuple('Scene', 'camera road lines vehicles light lens progress', defaults=[Progress()])):
    """Of the classes above; lines and vehicles are lists, vehicles sorted from far to near except in a drive."""
