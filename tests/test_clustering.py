"""clustering.py: mean shift against the true clusters and scikit-learn's, and the numbering of instances."""

import subprocess
import sys

import cv2
import numpy as np
import pytest

import clustering
from conftest import ROOT
from reference import equal_labels, plain_cluster


# ---- Mean shift ------------------------------------------------------------------------------------------------------

def photo_like(seed, size=128, spread=0.08, smear=0.6):
    """Points [N, 3] like a trained network's: tight clusters 3 apart or more, and edges of lanes in between."""
    rng = np.random.default_rng(seed)
    label = np.zeros([size, size], np.uint8)
    for i in range(4):
        far, near = (size // 2 + 4 * i - 6, size // 4), (int(size * (0.05 + 0.3 * i)), size - 1)
        cv2.line(label, far, near, i + 1, 3)
    axes = 3 * np.linalg.qr(rng.normal(size=[3, 3]))[0]
    centers = np.concatenate([np.zeros([1, 3]), rng.permutation(np.concatenate([axes, -axes]))[:4]])
    shares = np.stack([cv2.GaussianBlur(np.float32(label == i), (0, 0), smear) for i in range(5)], -1) ** 2
    embedding = (shares / shares.sum(-1, keepdims=True)) @ centers
    return (embedding + rng.normal(0, spread, embedding.shape)).reshape(-1, 3)


def blobs(feature_dim, seed, offset=0.):
    """-> (points [N, feature_dim] within 0.5 of centers 3 apart or more, the number of each point's center [N])"""
    rng = np.random.default_rng(seed)
    centers = np.zeros([1, feature_dim])
    while len(centers) < 5:
        candidate = rng.uniform(-20, 20, feature_dim)
        if np.linalg.norm(centers - candidate, axis=1).min() >= 3:
            centers = np.append(centers, candidate[None], axis=0)
    blob = np.repeat(np.arange(5), [500, 400, 300, 200, 100])
    offsets = rng.normal(size=[len(blob), feature_dim])
    offsets *= 0.5 * rng.uniform(size=[len(blob), 1]) / np.linalg.norm(offsets, axis=1, keepdims=True)
    order = rng.permutation(len(blob))
    return (centers[blob] + offsets + offset)[order], blob[order]


@pytest.mark.parametrize('feature_dim', range(1, 17))
def test_separated_blobs_are_the_clusters(feature_dim):
    for seed in range(3):
        points, blob = blobs(feature_dim, seed)
        num, labels, _ = clustering.cluster(points, 1.0)
        assert num == 5
        np.testing.assert_array_equal(labels, blob)  # the blobs are numbered by decreasing size, too


@pytest.mark.parametrize('bandwidth', [1e-20, 1e20])
def test_bandwidth_is_in_the_units_of_the_points(bandwidth):
    points, blob = blobs(3, 0)
    num, labels, centers = clustering.cluster(points * bandwidth, bandwidth)
    np.testing.assert_array_equal(labels, blob)
    means = np.stack([points[blob == i].mean(0) for i in range(5)])
    np.testing.assert_allclose(centers / bandwidth, means, atol=0.01)


def test_distant_points_leave_the_labels_of_the_others_unchanged():
    points, blob = blobs(3, 0)
    num, labels, _ = clustering.cluster(np.append(points, [[1e30, 0, 0], [0, -1e300, 5]], axis=0), 1.0)
    assert num == 7 and sorted(labels[-2:]) == [5, 6]
    np.testing.assert_array_equal(labels[:-2], blob)


@pytest.mark.parametrize('seed', range(4))
def test_photo_like_embeddings_have_the_clusters_of_scikit_learn(seed):
    points = photo_like(seed).astype([np.float32, np.float64][seed % 2])
    ours, plain = clustering.cluster(points, 0.75), plain_cluster(points, 0.75)
    assert ours[0] == plain[0] >= 5 and equal_labels(ours, plain) >= 0.999


def test_blobs_on_coarse_cells_are_the_clusters(monkeypatch):
    points, blob = blobs(3, 0)
    monkeypatch.setattr(clustering, '_MAX_CELLS', 1)
    np.testing.assert_array_equal(clustering.cluster(points, 1.0)[1], blob)


@pytest.mark.parametrize('feature_dim, spread', [(2, 3), (40, 3), (40, 1e3), (3, 8e7)])
def test_cells_have_equal_numbers_if_and_only_if_they_are_equal(feature_dim, spread):
    rng = np.random.default_rng(0)
    cells = np.rint(rng.uniform(-spread, spread, [feature_dim, 60]))[:, rng.integers(0, 60, 200)]
    numbers = clustering._number_cells(cells)
    assert ((numbers[:, None] == numbers) == (cells[:, :, None] == cells[:, None]).all(0)).all()
    assert 0 <= numbers.min() and numbers.max() <= 1 << 20


def test_cluster_of_nothing():
    num, labels, centers = clustering.cluster(np.zeros([0, 3], np.float32), 1.0)
    assert num == 0 and labels.shape == (0,) and centers.shape == (0, 3)


@pytest.mark.parametrize('points', [np.float32([[3, -2, 7]]), np.full([1000, 3], 0.3, np.float32)])
def test_cluster_of_one_point_and_of_equal_points(points):
    num, labels, centers = clustering.cluster(points, 0.7)
    assert num == 1 and (labels == 0).all()
    np.testing.assert_allclose(centers, points[:1], rtol=1e-6)


@pytest.mark.parametrize('dtype', [np.float16, np.float32, np.float64, np.int32])
def test_cluster_accepts_any_dtype(dtype):
    points = np.array([[0, 0], [0, 1], [9, 9], [9, 8], [9, 9]], dtype)
    num, labels, centers = clustering.cluster(points, 2.0)
    assert num == 2 and labels.tolist() == [1, 1, 0, 0, 0]
    assert centers.dtype == (np.float64 if dtype in (np.float64, np.int32) else np.float32)


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
def test_first_point_that_is_not_finite_is_reported(value):
    points = np.zeros([5, 3], np.float32)
    points[3, 1] = value
    with pytest.raises(ValueError, match='row 3'):
        clustering.cluster(points, 1.0)


@pytest.mark.parametrize('bandwidth', [0, -1, np.nan, np.inf])
def test_bandwidth_must_be_positive_and_finite(bandwidth):
    with pytest.raises(ValueError, match='bandwidth'):
        clustering.cluster(np.ones([4, 3], np.float32), bandwidth)


@pytest.mark.parametrize('shape', [[4], [2, 3, 4], [4, 0]])
def test_prediction_must_be_rows_of_features(shape):
    with pytest.raises(ValueError, match='shape'):
        clustering.cluster(np.zeros(shape, np.float32), 1.0)


def test_clustering_needs_only_numpy():
    code = 'import sys, clustering; print({"tensorflow", "sklearn", "scipy", "cv2", "data"} & set(sys.modules))'
    command = [sys.executable, '-c', code]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.stdout.strip() == 'set()', result.stderr


# ---- Instances -------------------------------------------------------------------------------------------------------

def stripes(num, height=40, stripe=3):
    """An embedding [h, w, 3] of upright stripes, a cluster per stripe in shuffled order, and its ids [h, w]."""
    width = (num + 1) * 4 * stripe
    ids = np.zeros([height, width], np.int32)
    for i in range(num):
        ids[:, (i + 1) * 4 * stripe:][:, :stripe] = i + 1
    centers = np.random.default_rng(num).permutation(num + 1)[:, None] * np.float32([5, 0, -3])
    return centers[ids], ids


def test_instance_ids_run_from_left_to_right_with_the_largest_as_background():
    embedding, expected = stripes(7)
    ids = clustering.instance_ids(embedding, 1.0)
    assert ids.dtype == np.int32
    np.testing.assert_array_equal(ids, expected)


def test_instance_ids_are_in_the_order_of_their_lower_ends():
    expected = np.zeros([100, 200], np.uint8)
    cv2.line(expected, (150, 0), (20, 99), 1, 3)  # starts right of the other and ends left of it
    cv2.line(expected, (100, 40), (100, 99), 2, 3)
    embedding = np.float32([[0, 0], [0, 9], [9, 0]])[expected]
    np.testing.assert_array_equal(clustering.instance_ids(embedding, 1.0), expected)


@pytest.mark.parametrize('shape, offset', [((64, 64), 0), ((64, 64), 1e6), ((1024, 512), 0)])
def test_background_is_the_largest_cluster_at_any_offset_and_size(shape, offset):
    embedding = np.full([*shape, 3], offset, np.float32)
    embedding[:, :shape[1] // 64 + 1] += 4  # columns that regular sampling would always hit
    embedding[:, shape[1] // 2:shape[1] // 2 + shape[1] // 64 + 1] += 4
    ids = clustering.instance_ids(embedding, 0.75, (0.5, 1.5))
    np.testing.assert_array_equal(ids == 0, embedding[..., 0] == offset)


def test_lane_that_leaves_at_the_side_comes_after_one_that_leaves_at_the_bottom():
    expected = np.zeros([100, 200], np.uint8)
    cv2.line(expected, (110, 20), (180, 99), 1, 3)
    cv2.line(expected, (115, 20), (199, 50), 2, 3)  # further left on the whole
    cv2.line(expected, (90, 20), (80, 30), 3, 3)    # a short one counts where it points to
    embedding = np.float32([[0, 0], [0, 9], [9, 0], [9, 9]])[expected]
    np.testing.assert_array_equal(clustering.instance_ids(embedding, 1.0), np.int32([0, 2, 3, 1])[expected])


def test_pixels_between_lane_and_background_are_background_with_margins():
    embedding = np.zeros([20, 30, 2], np.float32)
    embedding[:, 12:15, 0] = 3          # the lane
    embedding[:, 11, 0], embedding[:, 15, 0] = 2.2, 1.8   # nearer to it than to the background
    ids = clustering.instance_ids(embedding, 1.0)
    np.testing.assert_array_equal(np.flatnonzero(ids[0]), [11, 12, 13, 14, 15])
    ids = clustering.instance_ids(embedding, 1.0, margins=(0.5, 1.5))
    np.testing.assert_array_equal(np.flatnonzero(ids[0]), [11, 12, 13, 14])


def test_bridge_to_the_background_is_not_an_instance_with_margins():
    embedding = np.zeros([40, 80, 3], np.float32)
    embedding[:, 20:24] = 3, 0, 0
    embedding[:, 60:64] = 0, 3, 0
    doubt = np.random.default_rng(0).uniform(0.2, 1.9, [40, 10, 1])
    embedding[:, 24:34], embedding[:, 64:74] = doubt * [1, 0, 0], doubt * [0, 1, 0]
    assert clustering.instance_ids(embedding, 0.5).max() > 2
    ids = clustering.instance_ids(embedding, 0.5, margins=(0.5, 1.5))
    np.testing.assert_array_equal(np.flatnonzero((ids == 1).all(0)), np.arange(20, 24))
    np.testing.assert_array_equal(np.flatnonzero((ids == 2).all(0)), np.arange(60, 64))
    assert ids.max() == 2


def test_speck_is_background_with_margins():
    embedding = np.zeros([200, 200, 2], np.float32)
    embedding[:, 50:53] = 3, 0
    embedding[10:12, 10:14] = 0, 3
    assert clustering.instance_ids(embedding, 1.0).max() == 2
    ids = clustering.instance_ids(embedding, 1.0, margins=(0.5, 1.5))
    assert ids.max() == 1 and not ids[:, :50].any()


def test_scattered_embedding_is_all_background_with_margins():
    embedding = np.random.default_rng(0).normal(0, 30, [128, 256, 3]).astype(np.float32)
    assert not clustering.instance_ids(embedding, 0.7, margins=(0.5, 1.5)).any()


def test_only_the_given_foreground_is_clustered():
    embedding, expected = stripes(3)
    embedding[expected == 0] = embedding[expected == 2][0]   # the background looks like an instance
    expected = np.where(expected == 3, 0, expected)
    ids = clustering.instance_ids(embedding, 1.0, (0.5, 1.5), foreground=expected > 0)
    np.testing.assert_array_equal(ids, expected)


def test_speck_of_a_given_foreground_belongs_to_the_nearest_instance():
    embedding, foreground = np.zeros([200, 200, 2], np.float32), np.zeros([200, 200], bool)
    embedding[:, 50:53], embedding[:, 90:93], embedding[10:12, 10:14] = (3, 0), (0, 3), (1, 4)
    foreground[:, 50:53] = foreground[:, 90:93] = foreground[10:12, 10:14] = True
    ids = clustering.instance_ids(embedding, 0.5, (0.5, 1.5), foreground)
    assert ids.max() == 2 and (ids[10:12, 10:14] == ids[0, 90]).all() and ids[0, 90] != ids[0, 50]


def test_instance_of_a_given_foreground_may_be_smaller_than_a_speck_elsewhere():
    embedding, foreground = np.zeros([200, 200, 2], np.float32), np.zeros([200, 200], bool)
    embedding[:, 50:53], embedding[10:15, 10:15] = (3, 0), (0, 3)
    foreground[:, 50:53] = foreground[10:15, 10:15] = True
    assert clustering.instance_ids(embedding, 0.5, (0.5, 1.5)).max() == 1
    ids = clustering.instance_ids(embedding, 0.5, (0.5, 1.5), foreground)
    assert ids.max() == 2 and (ids > 0).sum() == foreground.sum()


@pytest.mark.parametrize('share', [0, 1])
def test_foreground_without_clusters_has_no_instances(share):
    embedding = np.random.default_rng(0).normal(0, 30, [128, 256, 3]).astype(np.float32)
    foreground = np.full([128, 256], bool(share))
    assert not clustering.instance_ids(embedding, 0.7, (0.5, 1.5), foreground).any()


def test_output_is_split_into_embedding_and_probability():
    output = np.float32([[[1, 2, np.log(3)]]])
    assert clustering.split_output(output, 3) == (output, None)
    embedding, probability = clustering.split_output(output, 2)
    assert embedding.tolist() == [[[1, 2]]] and probability == pytest.approx(0.75)


def test_large_log_odds_do_not_overflow(recwarn):
    assert clustering.split_output(np.float32([[0, -200], [0, 200]]), 1)[1].tolist() == [0, 1] and not recwarn.list


def test_pixels_near_the_mean_of_their_instance_are_confident():
    embedding, ids = np.zeros([1, 6, 1]), np.int32([[0, 1, 1, 1, 1, 2]])
    embedding[0, :, 0] = 9, 0, 0, 0, 4, 9   # the mean of the first instance is 1
    sure = clustering.pixel_confidence(embedding, ids, 1.5)[0]
    np.testing.assert_allclose(sure, [0, 1, 1, 1, np.exp(-1), 1], rtol=1e-6)
    half = clustering.pixel_confidence(embedding, ids, 1.5, np.full([1, 6], 0.5))[0]
    np.testing.assert_allclose(half, sure / 2, rtol=1e-6)


@pytest.mark.parametrize('margins', [None, (0.5, 1.5)])
def test_get_instance_masks_gives_each_of_more_than_eight_instances_a_colour(margins):
    embedding, ids = stripes(11)
    masks = clustering.get_instance_masks(np.stack([embedding, embedding]), 1.0, margins)
    assert len(masks) == 2
    assert masks[0].shape == ids.shape + (3,) and masks[0].dtype == np.uint8
    colours = [np.unique(masks[0][ids == k], axis=0) for k in range(12)]
    assert all(len(colour) == 1 for colour in colours) and len(np.unique(colours, axis=0)) == 12
    assert not colours[0].any()
