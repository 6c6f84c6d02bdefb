"""Times mean shift against scikit-learn's, over sizes, instances, dimensions and kinds of embedding.

    python tests/benchmark_clustering.py
    python tests/benchmark_clustering.py --quick
"""

import argparse
import os
import statistics
import sys
import time

import cv2
import numpy as np

TESTS = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.dirname(TESTS), TESTS]

import clustering
from reference import plain_cluster


def photo_like(side, instances=4, feature_dim=3, seed=0, spread=0.12):
    """The embedding of a trained network for lanes on a background: float32 [side, side, feature_dim]."""
    label = np.zeros([side, side], np.uint8)
    for i in range(instances):
        top, bottom = (side * (0.4 + 0.2 * i / instances), side * 0.3), (side * (0.05 + 0.9 * i / instances), side - 1)
        cv2.line(label, [int(x) for x in top], [int(x) for x in bottom], i + 1, max(2, side // 90))
    # Centers 3.5 apart, the background's in the middle.
    axes = min(feature_dim, 3)
    grid = np.stack(np.meshgrid(*[[-3.5, 0, 3.5]] * axes, indexing='ij'), -1).reshape(-1, axes)
    grid = np.concatenate([grid, 2 * grid[np.square(grid).sum(1) > 0]])  # 16 instances in 2 dimensions fit too
    order = np.argsort(np.square(grid).sum(1), kind='stable')[:instances + 1]
    centers = np.pad(np.float32(grid[order]), [(0, 0), (0, feature_dim - axes)])
    shares = np.stack([cv2.GaussianBlur(np.float32(label == i), (0, 0), 1) for i in range(instances + 1)], -1) ** 2
    embedding = (shares / shares.sum(-1, keepdims=True)) @ centers
    return embedding + noise(side, feature_dim, seed, (side / 12, 1.5), spread / 2 * np.sqrt(3 / feature_dim))


def noise(side, feature_dim=3, seed=0, sigmas=(8, 2), scale=0.3):
    """The embedding of an untrained network, smooth noise without clusters: float32 [side, side, feature_dim]."""
    rng = np.random.default_rng(seed)
    result = np.zeros([side, side, feature_dim], np.float32)
    for sigma in sigmas:
        for j in range(feature_dim):
            layer = cv2.GaussianBlur(rng.normal(size=[side, side]).astype(np.float32), (0, 0), sigma)
            result[..., j] += scale * layer / layer.std()
    return result


def in_turn(ways, runs, warm_up=1):
    """Median seconds of each of `ways`, functions without arguments, run in turn after `warm_up` untimed runs."""
    times = [[] for _ in ways]
    for run in range(warm_up + runs):
        for way, of_way in zip(ways, times):
            start = time.perf_counter()
            way()
            if run >= warm_up:
                of_way.append(time.perf_counter() - start)
    return [statistics.median(of_way) for of_way in times]


def compare(name, embedding, bandwidth, turns):
    """-> (name, our seconds, scikit-learn's seconds, None: there is no floor)"""
    points = embedding.reshape(-1, embedding.shape[-1])
    clustering.cluster(points, bandwidth)
    ours, plain = in_turn([lambda: clustering.cluster(points, bandwidth),
                           lambda: plain_cluster(points, bandwidth)], turns, warm_up=0)
    return name, ours, plain, None


def rows(quick):
    """Yields (name, our seconds, plain seconds, floor in seconds or None), medians of runs taken in turn."""
    turns, bandwidth = (1, 1.0) if quick else (3, 1.0)
    for seed in range(1 if quick else 3):
        yield compare(f'mean shift, photo-like 512x512 no. {seed}', photo_like(512, seed=seed), bandwidth, turns)
    for side in (64,) if quick else (32, 64, 1024):
        yield compare(f'mean shift, photo-like {side}x{side}', photo_like(side), bandwidth, turns)
    for instances in (1, 16):
        yield compare(f'mean shift, 512x512, {instances} instances', photo_like(512, instances), bandwidth, turns)
    for feature_dim in (2, 16):
        embedding = photo_like(128, feature_dim=feature_dim)
        yield compare(f'mean shift, 128x128, {feature_dim} dimensions', embedding, bandwidth, turns)
    side = 128 if quick else 512
    yield compare('mean shift, noise 64x64, 16 dimensions', noise(64, feature_dim=16), bandwidth, turns)
    yield compare(f'mean shift, noise {side}x{side}', noise(side), bandwidth, turns)
    yield compare(f'mean shift, smeared {side}x{side}', photo_like(side, spread=0.8), 0.75, turns)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--quick', action='store_true',
                        help='Fewer and smaller embeddings, one run each: under a minute.')
    flags = parser.parse_args()
    print(f'{"":42s}{"ours":>10s}{"plain":>12s}{"ratio":>8s}')
    for name, ours, plain, _ in rows(flags.quick):
        print(f'{name:42s}{1e3 * ours:7.1f} ms{1e3 * plain:9.0f} ms{plain / ours:8.1f}', flush=True)


if __name__ == '__main__':
    main()
