"""What the labels of a data set hold, found before the first training step."""
import cv2
import numpy as np

from data.common import pictures

_SPECK = 20           # px: a smaller instance teaches little, and is often the rim of a smoothed or resized label
_CLASS_PARTS = 3      # separate parts per value, in the mean: more are several things of one class
_CLASS_VALUES = 0.8   # share of labels in which a typical value occurs: instances are rarely numbered so


def survey(label_paths, ignore=None, most=100):
    """Reads at most `most` labels, evenly spaced. ignore: value of ignored pixels, or None.

    -> (what they hold, in a line; list of warnings). Raises InputError for a label that cannot be read.
    """
    chosen = np.unique(np.linspace(0, len(label_paths) - 1, min(most, len(label_paths))).astype(int))
    looks = [_look(pictures.read_label(label_paths[i]), ignore) for i in chosen]
    instances = np.mean([len(areas) for _, areas, _, _ in looks])
    background, foreground = np.sum([(background, areas.sum()) for background, areas, _, _ in looks], axis=0)
    return (f'{len(label_paths):,} images to train on, {instances:.1f} instances per image, '
            f'{100 * foreground / max(background + foreground, 1):.1f} % foreground'), _warnings(looks)


def _look(label, ignore):
    """-> (background pixels, pixels of each instance int [n], value of each [n], separate parts of each [n])"""
    areas = np.bincount(label.ravel())
    background, areas[0] = areas[0], 0
    if ignore is not None:
        areas[ignore:ignore + 1] = 0
    values = np.flatnonzero(areas)
    areas = areas[values]
    # Of many instances, the largest show whether their values are those of classes.
    largest = np.argsort(-areas)[:20]
    parts = [_parts(label == values[i]) for i in largest]
    return background, areas, values[largest], parts


def _parts(mask):
    """-> number of connected parts of more than _SPECK pixels"""
    stride = max(1, max(mask.shape) // 400)   # a line 7 px wide in 1280 x 720 stays in one part
    _, _, stats, _ = cv2.connectedComponentsWithStats(mask[::stride, ::stride].astype(np.uint8))
    return int((stats[1:, cv2.CC_STAT_AREA] > _SPECK / stride ** 2).sum())


def _warnings(looks):
    """looks: of _look. -> list of str"""
    areas = np.concatenate([areas for _, areas, _, _ in looks])
    if not len(areas):
        return ['no label has an instance: all pixels are 0 or ignored']
    found = []
    if not any(background for background, *_ in looks):
        found.append('no label has a pixel of 0, the background; is another value the background?')
    if all(len(areas) < 2 for _, areas, _, _ in looks):
        found.append('no label has two instances, so there is nothing to tell apart; are these masks of a class?')
    if np.mean(areas < _SPECK) > 0.5:
        found.append(f'most instances have fewer than {_SPECK} pixels; were the labels smoothed or resized?')
    values, labels = np.unique(np.concatenate([values for _, _, values, _ in looks]), return_counts=True)
    parts = np.concatenate([parts for *_, parts in looks])
    if np.median(labels) >= _CLASS_VALUES * len(looks) and parts.mean() >= _CLASS_PARTS and len(looks) > 1:
        found.append(f'the same {len(values)} values occur in most labels, in {parts.mean():.0f} separate parts each; '
                     'are these classes, not instances?')
    return found
