"""Compares the speed of mean shift with scikit-learn's, over sizes, instances, dimensions and kinds of embedding.

    python tests/benchmark_clustering.py [--quick]
"""
import functools
import itertools
import os
import sys
import time

import cv2
import numpy as np

TESTS = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.dirname(TESTS), TESTS]

import clustering
from reference import plain_cluster


def photo_like(side, instances=4, feature_dim=3, spread=0.12):
    """The embedding of a trained network for lanes on a background: float32 [side, side, feature_dim]."""
    label = np.zeros([side, side], np.uint8)
    for i in range(instances):
        cv2.line(label, (side // 2, side // 4), (i * side // instances, side), i + 1, max(2, side // 90))
    centers = np.zeros([instances + 1, feature_dim], np.float32)
    centers[:, :3] = list(itertools.product((0, 3.5, -3.5), repeat=3))[:instances + 1]
    embedding = cv2.GaussianBlur(centers[label], (0, 0), 0.7)   # blended at the edges of lanes
    return embedding + noise(side, feature_dim, (side / 12, 1.5), spread / 2 * np.sqrt(3 / feature_dim))


def noise(side, feature_dim=3, sigmas=(8, 2), scale=0.3):
    """The embedding of an untrained network, smooth noise without clusters: float32 [side, side, feature_dim]."""
    rng = np.random.default_rng(0)
    layers = [[cv2.GaussianBlur(rng.normal(size=[side, side]), (0, 0), sigma) for _ in range(feature_dim)]
              for sigma in sigmas]
    return sum(scale * np.stack([layer / layer.std() for layer in each], -1) for each in layers).astype(np.float32)


def in_turn(ways, runs, warm_up=1):
    """Median ms of each of `ways`, functions without arguments, run in turn after `warm_up` untimed runs."""
    times = np.zeros([warm_up + runs, len(ways)])
    for row in times:
        for i, way in enumerate(ways):
            start = time.perf_counter()
            way()
            row[i] = 1000 * (time.perf_counter() - start)
    return np.median(times[warm_up:], axis=0).tolist()


def rows(quick):
    """Yields (name, our ms, scikit-learn's ms), medians of runs taken in turn."""
    side, runs = (128, 1) if quick else (512, 3)
    for name, embedding, bandwidth in (
            ('512x512x3, 4 instances', photo_like(512), 1.0), ('512x512x3, 16 instances', photo_like(512, 16), 1.0),
            ('64x64x3, 4 instances', photo_like(64), 1.0), ('128x128x16, 4 instances', photo_like(128, 4, 16), 1.0),
            (f'{side}x{side}x3, smeared', photo_like(side, spread=0.8), 0.75),
            (f'{side}x{side}x3, noise', noise(side), 1.0), ('64x64x16, noise', noise(64, 16), 1.0)):
        arguments = embedding.reshape(-1, embedding.shape[-1]), bandwidth
        clustering.cluster(*arguments)
        ways = [functools.partial(way, *arguments) for way in (clustering.cluster, plain_cluster)]
        yield 'mean shift, ' + name, *in_turn(ways, runs, warm_up=0)


def main():
    print(f'{"":42}{"ours":>10}{"plain":>12}{"ratio":>8}')
    for name, ours, plain in rows('--quick' in sys.argv):
        print(f'{name:42}{ours:7.1f} ms{plain:9.0f} ms{plain / ours:8.1f}', flush=True)


if __name__ == '__main__':
    main()
