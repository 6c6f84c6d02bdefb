"""Measures data/lanes/tracking.py on drives that it generates: id switches, and jitter before and after smoothing.

    python tests/benchmark_lane_tracking.py
"""
import os
import sys

import cv2
import numpy as np

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from data.lanes.tracking import LaneTracker

ROWS = np.arange(160, 720, 10.)
HORIZON, FAR = 240, 265  # rows
GAP = 0.4  # seconds


def drive(seed=0, seconds=40, frame_rate=30, num_lanes=4, bends=True, changes=True, noise=2.0):
    """Yields per frame (lanes, truth): dicts, number of a lane on the road -> x [ROWS], px, -2 where absent.

    bends: curvature and yaw vary within 6 to 17 s; changes: of lane, within 3 s, every 9 s; noise: px, in lanes only.
    The camera pitches at 1.3 Hz, and one lane is missing for GAP every 3 s.
    """
    rng = np.random.default_rng(seed)
    phases = rng.uniform(0, 2 * np.pi, 4)
    for frame in range(round(seconds * frame_rate)):
        t = frame / frame_rate
        steps = np.clip((t - 5 - 9 * np.arange(20)) / 3, 0, 1)   # without jumps in velocity or acceleration
        position = changes * np.tile([1, 1, -1, -1], 5) @ (steps ** 3 * (steps * (6 * steps - 15) + 10))
        bend = 900 * bends * sum(np.sin(2 * np.pi * t / period + phase) for period, phase in zip((6, 11, 17), phases))
        yaw = 15 * bends * np.sin(2 * np.pi * t / 7 + phases[3])
        below = ROWS - HORIZON - 1.5 * np.sin(2 * np.pi * 1.3 * t)
        truth = {}
        for number in range(-9, 10):
            offset = number - 0.5 - position
            if abs(offset) <= num_lanes / 2:
                x = 640 + yaw + 1.7 * offset * below + bend / np.maximum(below, 5)
                x = np.where((ROWS >= FAR) & (x >= 8) & (x <= 1271), x, -2)
                if (x >= 0).sum() >= 5:
                    truth[number] = x
        if frame % round(3 * frame_rate) == 0:
            missing = int(rng.integers(num_lanes))
        in_gap = t >= 3 and t % 3 < GAP
        lanes = {}
        for k, (number, x) in enumerate(truth.items()):
            jitter = rng.normal(size=(len(ROWS), 1))   # then correlated over rows, as in a spline
            jitter = cv2.GaussianBlur(jitter, (1, 31), 0, sigmaY=5, borderType=cv2.BORDER_REFLECT) * 4.2
            if not (in_gap and k == missing):
                lanes[number] = np.where(x >= 0, np.maximum(x + noise * jitter[:, 0], 0), -2)
        yield lanes, truth


def measure(frames, frame_rate=30):
    """-> (id switches per 1,000 frames, error of the detected lines, of the tracked ones: root mean square, px)."""
    tracker, last, switches, raw, tracked = LaneTracker(ROWS, frame_rate), {}, 0, [], []
    for frame, (lanes, truth) in enumerate(frames):
        ids, lines = tracker.update(list(lanes.values()))
        for (number, lane), own, line in zip(lanes.items(), ids, lines, strict=True):
            if not own:
                continue
            before, seen = last.get(number, (own, frame))
            switches += own != before and frame - seen <= 0.5 * frame_rate
            last[number] = own, frame
            present = lane >= 0
            raw.append((lane - truth[number])[present])
            tracked.append((line - truth[number])[present])
    raw, tracked = (np.sqrt(np.square(np.concatenate(errors)).mean()) for errors in (raw, tracked))
    return 1000 * switches / (frame + 1), raw, tracked


def main():
    kinds = {'bends and lane changes': {}, 'straight on': {'bends': False, 'changes': False},
             'one lane': {'num_lanes': 1}, 'six lanes': {'num_lanes': 6}, '10 frames/s': {'frame_rate': 10}}
    print(f'{"":34s}{"switches per 1,000 frames":>26s}{"detected px":>12s}{"tracked px":>12s}{"ratio":>8s}')
    for name, kwargs in kinds.items():
        results = [measure(drive(seed, **kwargs), kwargs.get('frame_rate', 30)) for seed in range(3)]
        switches, raw, tracked = np.mean(results, axis=0)
        print(f'{name:34s}{switches:26.2f}{raw:12.2f}{tracked:12.2f}{tracked / raw:8.2f}', flush=True)


if __name__ == '__main__':
    main()
