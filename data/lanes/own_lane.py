"""Labels of photos in which the lines of the own lane alone are labelled: ignored where other lines may be."""
import numpy as np

from data.common.command_line import InputError
from data.lanes import tusimple

IGNORED = 255            # grey value of pixels that count nowhere
_MARGIN = 0.35           # outside of the lines, relative to the width of the lane in that row
_LEAST, _MOST = 10, 90   # margin, px of a photo 1280 px wide
_HORIZON = 20, 120       # of the first labelled row, least and most rows that the horizon lies above it, of 720
_END = 12                # rows, of 720, by which a line has to end before the other to count as unfinished


def draw_label(record, size):
    """The label of tusimple.draw_label, with IGNORED where a line may be that is not labelled. -> uint8 [height, width]

    Known to be background is the lane, a margin outside its lines, and all above the horizon, where straight
    continuations of the lines meet. Below their end, where a hood begins, this continues to the lower border. The
    continuation of a line that ends before the other is ignored as well.
    record: a tusimple.Record, of which the outermost lanes count. size: (width, height) of the image in px
    Raises InputError as tusimple.draw_label does, and if no lane has two points.
    """
    width, height = size
    label = tusimple.draw_label(record, size)
    lines = [np.array([(y, x) for x, y in zip(lane, record.h_samples) if x >= 0]) for lane in record.lanes]
    lines = sorted((line for line in lines if len(line) > 1), key=lambda line: line[:, 1].mean())
    if not lines:
        raise InputError(f'{record.source}: has no line, so nothing is known of the photo')
    rows, column, scale = np.arange(height), np.arange(width), height / 720
    first, last = min(line[0, 0] for line in lines), max(line[-1, 0] for line in lines)
    left, right = (_continue(line, rows) for line in (lines[0], lines[-1]))
    if len(lines) > 1:
        margin = _MARGIN * (right - left)
        meeting = rows[(rows < first) & (left >= right)].max(initial=0) - 15 * scale
    else:
        margin = 0.15 * (rows - first) + 15 * scale
        meeting = first - 40 * scale
    margin = np.clip(margin, _LEAST * width / 1280, _MOST * width / 1280)[:, None]
    horizon = np.clip(meeting, first - _HORIZON[1] * scale, first - _HORIZON[0] * scale)
    begin, end = np.minimum(left, right)[:, None], np.maximum(left, right)[:, None]
    known = (column >= begin - margin) & (column <= end + margin) & (rows >= first)[:, None]
    for line, x in ((lines[0], left), (lines[-1], right)):
        at_side = not width / 32 < line[-1, 1] < width - width / 32
        unfinished = (rows > line[-1, 0]) & (rows <= last) & (line[-1, 0] < last - _END * scale) & (not at_side)
        unfinished |= (rows < line[0, 0]) & (line[0, 0] > first + _END * scale)
        known &= ~(unfinished[:, None] & (np.abs(column - x[:, None]) <= margin))
    label[(label == 0) & ~known & (rows >= horizon)[:, None]] = IGNORED
    return label


def _continue(line, rows):
    """The x of a line (y, x) [points, 2] in all rows, straight beyond its ends. -> float64 [rows]"""
    x, part = np.interp(rows, *line.T), max(2, len(line) // 3)
    for end, points, beyond in ((line[0], line[:part], rows < line[0, 0]),
                                (line[-1], line[-part:], rows > line[-1, 0])):
        x[beyond] = end[1] + np.polyfit(*points.T, 1)[0] * (rows[beyond] - end[0])
    return x
