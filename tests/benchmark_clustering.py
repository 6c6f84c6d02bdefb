"""Times mean shift against scikit-learn's, over sizes, instances, dimensions and kinds of embedding.

    python tests/benchmark_clustering.py [--quick]
"""

import argparse
import os
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
    axes = min(feature_dim, 3)  # centers 3.5 apart, the background's in the middle
    grid = np.stack(np.meshgrid(*[[-3.5, 0, 3.5]] * axes, indexing='ij'), -1).reshape(-1, axes)
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
    return [float(np.median(of_way)) for of_way in times]


def compare(name, embedding, bandwidth, turns):
    """-> (name, our seconds, scikit-learn's seconds, None: there is no floor)"""
    points = embedding.reshape(-1, embedding.shape[-1])
    clustering.cluster(points, bandwidth)
    ways = [lambda: clustering.cluster(points, bandwidth), lambda: plain_cluster(points, bandwidth)]
    return name, *in_turn(ways, turns, warm_up=0), None


def rows(quick):
    """Yields (name, our seconds, plain seconds, floor in seconds or None), medians of runs taken in turn."""
    side, turns = (128, 1) if quick else (512, 3)
    for seed in range(1 if quick else 3):
        yield compare(f'mean shift, photo-like 512x512 no. {seed}', photo_like(512, seed=seed), 1.0, turns)
    for size, instances, feature_dim in (64, 4, 3), (512, 1, 3), (512, 16, 3), (128, 4, 2), (128, 4, 16):
        embedding = photo_like(size, instances, feature_dim)
        yield compare(f'mean shift, {size}x{size}x{feature_dim}, {instances} instances', embedding, 1.0, turns)
    yield compare(f'mean shift, noise {side}x{side}x3', noise(side), 1.0, turns)
    yield compare('mean shift, noise 64x64x16', noise(64, feature_dim=16), 1.0, turns)
    yield compare(f'mean shift, smeared {side}x{side}x3', photo_like(side, spread=0.8), 0.75, turns)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--quick', action='store_true', help='Smaller embeddings, one run each: under a minute.')
    flags = parser.parse_args()
    print(f'{"":42s}{"ours":>10s}{"plain":>12s}{"ratio":>8s}')
    for name, ours, plain, _ in rows(flags.quick):
        print(f'{name:42s}{1e3 * ours:7.1f} ms{1e3 * plain:9.0f} ms{plain / ours:8.1f}', flush=True)


if __name__ == '__main__':
    main()
