"""Checks the labels of a data set before the first training step."""
from typing import NamedTuple

import cv2
import numpy as np

from data.common import pictures

_MOST = 100           # labels to read
_SPECK = 20           # px: a smaller instance teaches little, and is often the rim of a smoothed or resized label
_CLASS_PARTS = 3      # mean number of separate parts per value from which values are probably classes
_CLASS_VALUES = 0.8   # share of labels with a typical value from which values are probably classes


class _Look(NamedTuple):
    """Statistics of one label. areas: of its instances, in px; values, parts: of the 20 largest"""
    background: int
    areas: np.ndarray
    values: np.ndarray
    parts: list


def survey(label_paths, ignore=None):
    """Reads some labels, evenly spaced. ignore: value of ignored pixels, or None. Raises InputError if one is damaged.
    -> (a line about the data set, list of warnings), str"""
    chosen = np.unique(np.linspace(0, len(label_paths) - 1, _MOST).astype(int))
    looks = [_look(pictures.read_label(label_paths[i]), ignore) for i in chosen]
    background, areas = sum(look.background for look in looks), np.concatenate([look.areas for look in looks])
    foreground = areas.sum() / max(background + areas.sum(), 1)
    return (f'{len(label_paths):,} images to train on, {len(areas) / len(looks):.1f} instances per image, '
            f'{100 * foreground:.1f} % foreground'), list(_warnings(looks, areas))


def _look(label, ignore):
    areas = np.bincount(label.ravel())
    background, areas[0] = areas[0], 0
    if ignore is not None:
        areas[ignore:ignore + 1] = 0
    values = np.argsort(-areas, kind='stable')[:np.count_nonzero(areas)]
    return _Look(background, areas[values], values[:20], [_count_parts(label == value) for value in values[:20]])


def _count_parts(mask):
    """-> number of connected parts of more than _SPECK pixels"""
    stride = max(1, max(mask.shape) // 400)   # keeps a line 7 px wide in 1280 x 720 connected
    _, _, stats, _ = cv2.connectedComponentsWithStats(mask[::stride, ::stride].astype(np.uint8))
    return int((stats[1:, cv2.CC_STAT_AREA] > _SPECK / stride ** 2).sum())


def _warnings(looks, areas):
    if not len(areas):
        yield 'no label has an instance: all pixels are 0 or ignored'
        return
    if not any(look.background for look in looks):
        yield 'no label has a pixel of 0, the background; is another value the background?'
    if all(len(look.areas) < 2 for look in looks):
        yield 'no label has two instances, so there is nothing to separate; are these masks of a class?'
    if np.mean(areas < _SPECK) > 0.5:
        yield f'most instances have fewer than {_SPECK} pixels; were the labels smoothed or resized?'
    values, labels = np.unique(np.concatenate([look.values for look in looks]), return_counts=True)
    parts = np.mean(np.concatenate([look.parts for look in looks]))
    if np.median(labels) >= _CLASS_VALUES * len(looks) and parts >= _CLASS_PARTS and len(looks) > 1:
        yield (f'the same {len(values)} values occur in most labels, in {parts:.0f} separate parts each; are these '
               'classes, not instances?')
