"""Renders plants with exact leaf labels, a data set to try out training, determined by a seed.

    python data/synthetic_leaves.py leaves --num 500 --seed 1
    python training.py --recipe any --srcdir leaves --outdir leaves_model --logdir leaves_log

Writes DIR/images/NNNN.png (RGB, 384x384) and DIR/labels/NNNN.png (8 bits: background 0, leaves 1, 2, ...): rosettes of
up to 20 overlapping leaves, on soil or in pots, in varying light. Plant i is the same for any --num.
"""
import os
import sys

import cv2
import numpy as np

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from data.common import command_line, pictures, prepared_set

SIZE = 384          # px, width and height
MIN_VISIBLE = 60    # px of a leaf; smaller ones are omitted
GOLDEN_ANGLE = np.pi * (3 - 5 ** 0.5)   # between successive leaves, as in real rosettes


def rgb(hue, saturation, value):
    """hue: degrees, the others 0 to 1 -> float64 [3], 0 to 1"""
    return cv2.cvtColor(np.float32([[[hue, saturation, value]]]), cv2.COLOR_HSV2RGB)[0, 0].astype(np.float64)


def clouds(rng, *cells):
    """Sum of smooth noise with these numbers of cells along a side. -> float64 [SIZE, SIZE], mean 0, deviation 1"""
    noise = sum(cv2.resize(rng.normal(size=(n, n)), (SIZE, SIZE), interpolation=cv2.INTER_CUBIC) for n in cells)
    return (noise - noise.mean()) / noise.std()


def soil(rng):
    """Soil with stones and moss; half of the time in a round pot on a tray. -> float64 [SIZE, SIZE, 3], 0 to 1"""
    ground = rgb(rng.uniform(15, 40), rng.uniform(0.15, 0.5), rng.uniform(0.15, 0.45))
    picture = ground * (1 + 0.16 * clouds(rng, 6, 24, 60) + 0.22 * clouds(rng, 130, 250))[..., None]
    moss = np.clip(clouds(rng, 5, 40, 120) - rng.uniform(1, 3), 0, 1)[..., None]
    picture += moss * (rgb(rng.uniform(65, 100), 0.6, 0.35) - picture) * 0.8
    for _ in range(rng.integers(0, 40)):
        axes, colour = rng.integers(1, 6, 2).tolist(), rgb(rng.uniform(10, 50), 0.25, rng.uniform(0.2, 0.7))
        cv2.ellipse(picture, rng.integers(0, SIZE, 2).tolist(), axes, rng.uniform(0, 180), 0, 360, colour.tolist(), -1)
    if rng.random() < 0.5:
        y, x = np.mgrid[:SIZE, :SIZE] - (SIZE / 2 + rng.normal(0, 8, 2))[:, None, None]
        beyond = np.hypot(x, y) - SIZE * rng.uniform(0.42, 0.55)   # px beyond the rim of the pot
        tray = rgb(rng.choice([15, 215, 0]), rng.uniform(0, 0.7), rng.uniform(0.15, 0.7))
        tray = tray * (1 + 0.04 * clouds(rng, 3, 8))[..., None] * (1 - 0.5 * np.exp(-np.abs(beyond) / 9))[..., None]
        picture = np.where(beyond[..., None] > 0, tray, picture)
        picture[np.abs(beyond) < 3] = rng.uniform(0.05, 0.3)
    return picture


def grow(rng):
    """The leaves of a plant, the lowest first. -> list of (slices of the image, px inside the leaf, brightness)"""
    count = rng.integers(4, 21)
    size, centre = SIZE * rng.uniform(0.25, 0.48), SIZE / 2 + rng.normal(0, SIZE / 25, 2)
    broad, stalk, teeth, start = rng.uniform(0.14, 0.3), rng.uniform(0.15, 0.5), rng.integers(0, 9), rng.uniform(0, 7)
    light = rng.uniform(0, 2 * np.pi)
    grid = np.mgrid[:SIZE, :SIZE].astype(np.float32) - np.float32(centre)[:, None, None]
    leaves = []
    for age in np.linspace(1, 0.05, count):
        length = size * age ** 0.7 * rng.uniform(0.75, 1.1)
        box = tuple(slice(max(int(c - length) - 20, 0), int(c + length) + 20) for c in centre)   # with its shadow
        y, x = grid[:, box[0], box[1]]
        angle = start + GOLDEN_ANGLE * len(leaves) + rng.normal(0, 0.25)
        along = (x * np.cos(angle) + y * np.sin(angle)) / length
        across = (y * np.cos(angle) - x * np.sin(angle)) / length - rng.normal(0, 0.12) * along ** 2
        # Half the width: a blade beyond the stalk, broadest past its middle, with a toothed edge.
        t = np.clip((along - stalk) / (1 - stalk), 0, 1)
        blade = broad * rng.uniform(0.8, 1.2) * (6.75 * t ** 2 * (1 - t)) ** 0.55
        half = blade * (1 + 0.05 * np.sin(teeth * 2 * np.pi * t))
        half = np.where((along > 0) & (along < 0.9), np.maximum(half, 0.022), np.where(half > 0, half, -1))
        side = across / np.maximum(half, 1e-6)   # -1 and 1 at the edges
        brightness = (1 + 0.18 * side * np.sin(light - angle) - 0.27 * np.abs(side) ** 3 + 0.15 * (t - 0.5)
                      + 0.05 * np.sin(25 * (t - 0.6 * np.abs(across / broad))) * (np.abs(side) < 0.9)
                      + 0.22 * np.exp(-(across / 0.012) ** 2))   # bulging, with veins
        leaves.append((box, (half - np.abs(across)) * length, brightness))
    return leaves


def make_plant(seed, index):
    """Plant number index of a seed. -> (image uint8 [SIZE, SIZE, 3] RGB, label uint8 [SIZE, SIZE])"""
    rng = np.random.default_rng([seed, index])
    leaves, hue, vivid = grow(rng), rng.uniform(70, 125), rng.uniform(0.4, 0.75)
    label = np.zeros((SIZE, SIZE), np.uint8)
    for i, (box, inside, _) in enumerate(leaves):
        label[box][inside > 0] = i + 1
    seen = np.flatnonzero(np.bincount(label.ravel(), minlength=len(leaves) + 1)[1:] >= MIN_VISIBLE)
    label[:] = 0

    picture, texture = soil(rng), 1 + 0.05 * clouds(rng, 12, 60)
    shift, depth = rng.integers(-4, 5, 2), rng.uniform(0.25, 0.6)   # of the shadows
    for number, i in enumerate(seen, start=1):
        box, inside, brightness = leaves[i]
        part, cover = picture[box], np.clip(inside + 0.5, 0, 1)[..., None]   # cover: the leaf's share of each pixel
        part *= 1 - depth * cv2.GaussianBlur(np.roll(cover, shift, (0, 1)), (0, 0), 4)[..., None]
        old = rng.random() < 0.08
        colour = rgb(hue * (0.6 if old else 1) + rng.normal(0, 5), vivid, rng.uniform(0.4, 0.75))
        part += cover * (colour * (brightness * texture[box])[..., None] - part)
        label[box][inside > 0] = number

    x = np.linspace(-1, 1, SIZE)
    slope = rng.normal(0, 0.15, 2)
    picture *= ((1 + slope[0] * x[:, None] + slope[1] * x) * rng.uniform(0.7, 1.3))[..., None]   # of the light
    picture = np.clip(picture * np.exp(rng.normal(0, 0.07, 3)), 0, 1) ** rng.uniform(0.75, 1.1)
    picture = 255 * cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.4, 0.9))
    picture += rng.normal(0, rng.uniform(1, 5), picture.shape)
    return np.clip(picture, 0, 255).astype(np.uint8), label


def main(argv=None):
    parser = command_line.Parser(description=__doc__)
    parser.add_argument('folder', metavar='DIR', help='Output folder, created if absent.')
    parser.add_argument('--num', type=command_line.number_of_pictures, default=500, help='Number of images.')
    parser.add_argument('--seed', type=command_line.non_negative_int, default=0, help='Seed of all random values.')
    flags = parser.parse_args(argv)
    prepared_set.refuse_others(flags.folder, {f'{index:04d}.png' for index in range(flags.num)})

    def make(index):
        image, label = make_plant(flags.seed, index)
        return f'{index:04d}.png', pictures.encode(image), pictures.encode(label), {}
    prepared_set.prepare_samples(flags.folder, flags.folder, make, range(flags.num), os.cpu_count())
    print(f'Wrote {flags.num} images and their labels to {flags.folder}')


if __name__ == '__main__':
    command_line.run(main)
