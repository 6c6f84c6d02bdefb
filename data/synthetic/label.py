"""From a scene to its label: the lines of the road, projected as in the annotations of TuSimple."""
import numpy as np

from data.lanes import tusimple
from data.synthetic import canvas

_GAP = 20  # px below the vanishing row where labels begin; the median of TuSimple's
_EDGE = 5  # px from the sides of the image at which labels end, as for half of TuSimple's
_MIN_POINTS = 4  # a line with fewer is omitted
CLASSES = ('solid', 'dashed', 'dots')


def lane_labels(scene, raw_file='', with_ids=False):
    """The label of a scene as in TuSimple. with_ids: give each lane the number of its line -> tusimple.Record"""
    lanes = labelled_lanes(scene)
    return tusimple.Record(raw_file, [columns for _, columns in lanes], list(tusimple.H_SAMPLES),
                           ids=[line.number for line, _ in lanes] if with_ids else None)


def class_label(scene):
    """The same lanes with classes. -> uint16 [720, 1280]: 0 background, elsewhere 1000 c + n

    c: 1, 2, ... for the kinds of lines in CLASSES; n: counts the lanes of a class from 0, from left to right
    """
    kinds = [line.kind for line, _ in labelled_lanes(scene)]
    values = np.zeros(256, np.uint16)  # of the grey values of draw_label
    for i, kind in enumerate(kinds):
        values[20 + 50 * i] = 1000 * (CLASSES.index(kind) + 1) + kinds[:i].count(kind)
    return values[tusimple.draw_label(lane_labels(scene), (canvas.WIDTH, canvas.HEIGHT))]


def labelled_lanes(scene):
    """The lines of our lane and one or two more on each side.

    Lines continue behind occlusions. They start at the bottom of the image, at the hood or _EDGE px from the side, and
    end _GAP px below the horizon. Double lines are labelled along the nearer line.
    -> list of (Line, its columns in the rows tusimple.H_SAMPLES), from left to right, at most tusimple.MAX_LANES
    """
    view = canvas.View(scene.camera, scene.road)
    rows = np.array(tusimple.H_SAMPLES)
    lanes = []
    for line in sorted((line for line in scene.lines if line.labelled), key=lambda line: line.offset):
        points = view.in_photo(view.project(line.offset, 0.0, view.z)[view.seen])
        x, y = points[::-1, 0], np.maximum.accumulate(points[::-1, 1])
        columns = np.rint(np.interp(rows, y, x, left=-1, right=-1)).astype(int)
        hidden = (rows < y[0] + _GAP) | (rows > canvas.HEIGHT - scene.lens.hood)
        outside = (columns < _EDGE) | (columns > canvas.WIDTH - 1 - _EDGE)
        columns[outside | hidden] = tusimple.ABSENT
        if (columns >= 0).sum() >= _MIN_POINTS:
            lanes.append((line, columns.tolist()))
    return lanes[:tusimple.MAX_LANES]
