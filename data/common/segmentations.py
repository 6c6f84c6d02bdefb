"""Masks from polygons, and from and to COCO's run lengths."""
import cv2
import numpy as np

_MAX_COORDINATE = 1e6   # px, of a polygon


def draw(segmentation, shape):
    """Draws COCO's list of polygons [x, y, x, y, ...] in px, or dict of run lengths. -> bool [h, w] of this shape.
    Raises ValueError with the reason if it is neither."""
    if isinstance(segmentation, dict):
        counts = segmentation.get('counts')
        counts = _uncompress(counts) if isinstance(counts, str) else counts
        if (segmentation.get('size') != list(shape) or not isinstance(counts, list)
                or not all(type(count) is int and count >= 0 for count in counts) or sum(counts) != np.prod(shape)):
            raise ValueError('has run lengths that do not fit the image')
        return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(shape[::-1]).T   # column by column
    if not isinstance(segmentation, list) or not segmentation:
        raise ValueError('has no segmentation')
    mask = np.zeros(shape, bool)
    for polygon in segmentation:
        if (not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2
                or not all(type(x) in (int, float) and abs(x) <= _MAX_COORDINATE for x in polygon)):
            raise ValueError('has a polygon that is not a list of three or more x, y in px')
        fill(mask, np.reshape(polygon, [-1, 2]))
    return mask


def fill(mask, polygon):
    """Adds pixels whose centres are inside, by the even-odd rule. mask: bool [h, w]; polygon: (x, y) [n, 2] in px"""
    from matplotlib.path import Path   # here, as inference.py starts faster without it
    low, high = np.clip([polygon.min(axis=0), np.ceil(polygon.max(axis=0))], 0, mask.shape[::-1]).astype(int)
    y, x = np.mgrid[low[1]:high[1], low[0]:high[0]]
    inside = Path(polygon).contains_points(np.stack([x.ravel(), y.ravel()], axis=1) + 0.5)
    mask[low[1]:high[1], low[0]:high[0]] |= inside.reshape(x.shape)


def results(ids, scores, classes=None):
    """-> non-empty instances in COCO's results format without image ids, list of dict

    ids: int [h, w], 0 background; scores: float [num_instances]; classes: int [num_instances + 1]
    """
    found = []
    for k, score in enumerate(scores, 1):
        mask = ids == k
        if mask.any():
            box = list(cv2.boundingRect(mask.astype(np.uint8)))
            category = 1 if classes is None else int(classes[k])
            found.append({'category_id': category, 'segmentation': encode(mask), 'bbox': box, 'score': round(score, 4)})
    return found


def encode(mask):
    """-> the compressed run lengths of a mask, bool [h, w], as COCO writes them"""
    flat = mask.T.ravel()   # column by column
    changes = np.flatnonzero(np.diff(flat, prepend=False))
    counts = np.diff([0, *changes, flat.size]).tolist()
    return {'size': list(mask.shape), 'counts': _compress(counts)}


def _compress(counts):
    """The inverse of _uncompress. -> str"""
    text = []
    for i, value in enumerate(counts):
        value -= counts[i - 2] if i > 2 else 0
        while not -16 <= value < 16:
            text.append(chr(48 + 32 + (value & 31)))
            value >>= 5
        text.append(chr(48 + (value & 31)))
    return ''.join(text)


def _uncompress(text):
    """COCO's compressed run lengths. -> list of int. Raises ValueError if they are damaged.

    A character holds 5 bits of a number, lowest first, and a bit that is set if more follow. From the fourth on,
    numbers are differences from the last but one.
    """
    counts, value, shift = [], 0, 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 30:
            raise ValueError('has compressed run lengths that are damaged')
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (bits & 16) << shift - 4   # the sign
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    return counts
