"""From arrays to pictures: instances and lanes on photos, embeddings as colours and plots, one palette for all.

Photos are uint8 [h, w, 3] RGB. ids are integers [h', w'] of any size: 0 is background, instances are 1, 2, ..., and
instance k has colour(k - 1) in every picture.
"""
import functools
import itertools
import math
import os

import cv2
import numpy as np
from scipy import ndimage

from data.common import pictures

_POINTS_PER_LABEL = 4000  # in scatter plots
_SHADES = 0, 0.45, -0.35, 0.2, -0.2, 0.65  # of the instances of a class: towards white, or black if negative


# ---- Colours ---------------------------------------------------------------------------------------------------------

@functools.cache
def palette():
    """64 colours, each as far as possible from those before it. -> [(r, g, b)]"""
    first = [(255, 40, 40), (0, 230, 80), (60, 110, 255), (255, 220, 0), (255, 0, 220), (0, 225, 255), (255, 130, 0)]
    steps = range(0, 256, 32)
    vivid = [c for c in itertools.product(steps, steps, steps) if max(c) >= 128 and max(c) - min(c) >= 96]
    colours = first + vivid
    lab = cv2.cvtColor(np.float32([colours]) / 255, cv2.COLOR_RGB2LAB)[0]   # perceptual distances
    distances = np.linalg.norm(lab[:, None] - lab, axis=2)
    picked = list(range(len(first)))
    while len(picked) < 64:
        picked.append(int(distances[picked].min(axis=0).argmax()))
    return [colours[i] for i in picked]


def colour(k):
    """The colour of number k = 0, 1, ...; from the 65th on they repeat. -> (r, g, b)"""
    return palette()[k % len(palette())]


def instance_colour(number, classes=None):
    """The colour of instance `number`, from 1: its own or, with classes, int [numbers + 1], a shade of its class's."""
    if classes is None:
        return colour(number - 1)
    shade, base = _SHADES[(number - 1) % len(_SHADES)], np.array(colour(classes[number] - 1))
    return tuple(np.rint(base + abs(shade) * ((255 if shade > 0 else 0) - base)).astype(int).tolist())


def colour_instances(ids):
    """Only the instances, on black. -> uint8 [h, w, 3]"""
    return np.array([(0, 0, 0)] + [colour(k) for k in range(ids.max(initial=0))], np.uint8)[ids]


# ---- On photos -------------------------------------------------------------------------------------------------------

def draw_instances(photo, ids, alpha=0.55, outlined=False, classes=None):
    """Blends each instance's colour into the photo; the background is unchanged. -> a new uint8 [h, w, 3]

    photo: uint8 [h, w, 3]; ids: integers [h', w'], scaled to the photo with smooth outlines
    alpha: share of the colour in the blend, 0 to 1
    outlined: draw a thin dark edge within each instance, which separates touching ones of similar colours
    classes: see instance_colour
    """
    picture, levels = photo.copy(), np.arange(256)[:, None]
    thickness = max(round(max(photo.shape) / 640), 1)
    for number, box in enumerate(ndimage.find_objects(ids), 1):
        if box is None:
            continue
        (rows, y), (columns, x) = map(_scaled_slices, box, ids.shape, photo.shape)
        mask, part = np.where(ids[rows, columns] == number, 255, 0).astype(np.uint8), picture[y, x]
        mask = cv2.threshold(pictures.resize_image(mask, part.shape[1::-1]), 127, 1, cv2.THRESH_BINARY)[1]
        tint = np.rint(levels * (1 - alpha) + np.multiply(instance_colour(number, classes), alpha)).astype(np.uint8)
        cv2.copyTo(cv2.LUT(part, tint[None]), mask, part)
        if outlined:
            part[mask > cv2.erode(mask, np.ones((3, 3), np.uint8), iterations=thickness)] = 20
    return picture


def _scaled_slices(part, small, large):
    """Grows a slice of an axis by a rim, then until resizing it alone equals resizing all. -> (slice, its place)"""
    step, rim = small // math.gcd(small, large), 1 + small // large   # the period of both grids; a pixel of either
    start, stop = max(part.start - rim, 0) // step * step, min(-(-(part.stop + rim) // step) * step, small)
    return slice(start, stop), slice(start * large // small, stop * large // small)


def fit_to_foreground(ids, foreground):
    """Resizes instances to cover a foreground and nothing else; pixels without one get the nearest. -> integers [h, w]

    ids: integers [h', w']; foreground: uint8 [h, w], 0 or 1
    """
    ids = pictures.resize_label(ids.astype(np.int32), foreground.shape[::-1]) * foreground
    if ids.any():
        y, x = ndimage.distance_transform_edt(ids == 0, return_distances=False, return_indices=True)
        ids = ids[y, x] * foreground
    return ids


def lane_of_instance(lanes, h_samples, ids, size):
    """Which lane each instance belongs to: the one with most points on it, if those are on at least half of its rows.

    Each lane has at least the instance under most of its points. lanes, h_samples: see draw_lanes; ids: integers
    [h', w']; size: (width, height) of the photo -> int [instances + 1], index of the lane or -1, as for the background
    """
    x_scale, y_scale = np.divide(ids.shape[::-1], size)
    rows = np.clip((np.asarray(h_samples) + 0.5) * y_scale, 0, ids.shape[0] - 1).astype(int)
    present = np.zeros([len(rows), ids.max(initial=0) + 1], int)   # instances in the rows
    present[np.arange(len(rows))[:, None], ids[rows]] = 1
    counts = np.zeros([len(lanes), present.shape[1]], int)   # points of each lane on each instance
    for lane, count in zip(np.asarray(lanes), counts):
        x = np.clip((lane[lane >= 0] + 0.5) * x_scale, 0, ids.shape[1] - 1).astype(int)
        np.add.at(count, ids[rows[lane >= 0], x], 1)
    counts[:, 0] = 0
    if not counts.any():
        return np.full(counts.shape[1], -1)
    most, found = counts.max(axis=0), np.flatnonzero(counts.any(axis=1))
    owner = np.where((most > 0) & (2 * most >= present.sum(axis=0)), counts.argmax(axis=0), -1)
    owner[counts[found].argmax(axis=1)] = found
    return owner


def draw_lanes(photo, lanes, h_samples, numbers, classes=None):
    """Draws lane lines with a dark edge, for contrast on bright concrete. -> a new uint8 [h, w, 3]

    lanes: [num_lanes][len(h_samples)] x in px of the photo, negative where a lane is absent; h_samples: y in px
    numbers: [num_lanes] int, of the instances whose colours the lines have; classes: see instance_colour
    """
    picture = photo.copy()
    thickness = max(round(max(photo.shape[:2]) / 320), 1)
    for lane, number in zip(lanes, numbers, strict=True):
        points = np.stack([lane, h_samples], axis=1).astype(np.float64)
        present = points[:, 0] >= 0
        pieces = np.split(points, np.flatnonzero(np.diff(present)) + 1)
        # With the last point twice, a single point is drawn as a dot. shift=4: 1/16 px.
        pieces = [np.rint(16 * np.append(piece, piece[-1:], axis=0)).astype(np.int32)
                  for piece in pieces if len(piece) and piece[0, 0] >= 0]
        for rgb, width in (((20, 20, 20), thickness + 2), (instance_colour(number, classes), thickness)):
            cv2.polylines(picture, pieces, False, rgb, width, cv2.LINE_AA, shift=4)
    return picture


# ---- Plots -----------------------------------------------------------------------------------------------------------

def scatter_plot(embedding, label, title=''):
    """The pixels of one photo in embedding space, coloured by instance, with crosses at the means. -> uint8 [h', w', 3]

    One panel per pair of the first three dimensions, or principal components of more than three.
    embedding: [h, w, feature_dim] or [N, feature_dim]; label: integers [h, w] or [N], 0 is background
    """
    # Not pyplot, which keeps every figure alive.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    label = np.ravel(label)
    points = np.reshape(embedding, (len(label), -1)).astype(np.float64)
    name = 'dimension'
    if points.shape[1] > 3:   # the first three principal components
        centred = points - points.mean(axis=0)
        directions = np.linalg.eigh(centred.T @ centred)[1]   # by ascending variance
        points, name = centred @ directions[:, :-4:-1], 'component'
    if points.shape[1] == 1:
        points = np.stack([points[:, 0], label], axis=1)   # one row of points per label
    pairs = [(0, 1)] if points.shape[1] == 2 else [(0, 1), (0, 2), (1, 2)]

    figure = Figure(figsize=(5 * len(pairs), 5), dpi=100, layout='constrained')
    canvas = FigureCanvasAgg(figure)
    figure.suptitle(title)
    all_axes = figure.subplots(1, len(pairs), squeeze=False)[0]
    for axes, (i, j) in zip(all_axes, pairs):
        axes.set_aspect('equal', 'datalim')   # the loss and mean shift depend on distances
        axes.set_xlabel(f'{name} {i + 1}')
        axes.set_ylabel(f'{name} {j + 1}')
        axes.grid(alpha=0.3)
    values = np.unique(label)
    for value, number in zip(values, np.searchsorted(values[values > 0], values) + (values > 0)):
        own = points[label == value]
        drawn = own[np.linspace(0, len(own) - 1, min(len(own), _POINTS_PER_LABEL)).astype(int)]
        rgb = np.divide(colour(number - 1) if number else (150, 150, 150), 255)
        mean = own.mean(axis=0)
        for axes, (i, j) in zip(all_axes, pairs):
            axes.plot(drawn[:, i], drawn[:, j], '.', color=rgb, markersize=2, zorder=1 if number else 0)
            axes.plot(mean[i], mean[j], 'x', color='black', markersize=8, zorder=2)
    canvas.draw()
    return np.array(canvas.buffer_rgba())[..., :3]


def evaluate_scatter_plot(log_dir, valid_pred, valid_label, feature_dim, param_string, step):
    """Writes a scatter plot of a validation photo to log_dir/scatter_<param_string>_<step>.png. -> path

    valid_pred: [b, h, w, feature_dim] or [h, w, feature_dim]; valid_label: [b, h, w] or [h, w]; the first is plotted
    param_string: names the run, such as 'var1.0_dist1.0'. Raises InputError if the file cannot be written.
    """
    label = np.reshape(valid_label, (-1, *np.shape(valid_label)[-2:]))[0]
    embedding = np.reshape(valid_pred, (-1, *label.shape, feature_dim))[0]
    path = os.path.join(log_dir, f'scatter_{param_string}_{step:06d}.png'.replace(os.sep, '_'))
    pictures.write_image(path, scatter_plot(embedding, label, f'{param_string}  step {step:,}'))
    return path
