"""clustering.py: mean shift against scikit-learn, and the numbering of instances."""

import subprocess
import sys
import tracemalloc

import cv2
import numpy as np
import pytest

import clustering
from conftest import ROOT
from reference import equal_labels, plain_cluster

# ---- Embeddings ------------------------------------------------------------------------------------------------------

def smooth_noise(rng, shape, sigma):
    noise = cv2.GaussianBlur(rng.normal(size=shape).astype(np.float32), (0, 0), sigma).reshape(shape)
    return noise / noise.std()


def network_like(seed, size=96, feature_dim=3, spread=0.12, smear=1.0, distance=2.2):
    """Like a trained network's: tight clusters, and pixels between them along the edges of the lanes."""
    rng = np.random.default_rng(seed)
    label = np.zeros([size, size], np.uint8)
    for i in range(4):
        far, near = (size // 2 + 2 * i - 3, size // 4), (int(size * (0.05 + 0.3 * i)), size - 1)
        cv2.line(label, far, near, i + 1, max(2, size // 90))
    centers = np.zeros([5, feature_dim])
    for i in range(1, 5):
        while np.linalg.norm(centers[:i] - centers[i], axis=1).min() < distance:
            centers[i] = rng.normal(size=feature_dim) * distance
    shares = np.stack([cv2.GaussianBlur(np.float32(label == i), (0, 0), smear) for i in range(5)], -1) ** 2
    embedding = (shares / shares.sum(-1, keepdims=True)) @ centers.astype(np.float32)
    for sigma in (size / 12, 1.5):
        embedding += spread / 2 * smooth_noise(rng, embedding.shape, sigma)
    return embedding.astype(np.float32)


def untrained(seed, size=64, feature_dim=3, scale=0.6):
    rng = np.random.default_rng(seed)
    return scale * sum(smooth_noise(rng, (size, size, feature_dim), sigma) for sigma in (8, 2, 0.8))


# ---- Mean shift against scikit-learn ---------------------------------------------------------------------------------

def assert_same(points, bandwidth, least=0.9999):
    ours, plain = clustering.cluster(points, bandwidth), plain_cluster(points, bandwidth)
    assert ours[0] == plain[0] == len(ours[2])
    assert equal_labels(ours, plain) >= least
    return ours[1]


@pytest.mark.parametrize('dtype', [np.float32, np.float64])
@pytest.mark.parametrize('bandwidth', [0.7, 1.0])
@pytest.mark.parametrize('seed', range(3))
def test_cluster_equals_scikit_learn_on_trained_embeddings(seed, bandwidth, dtype):
    labels = assert_same(network_like(seed).reshape(-1, 3).astype(dtype), bandwidth)
    assert len(np.unique(labels)) >= 5


@pytest.mark.parametrize('feature_dim', [1, 2, 4, 8, 16])
def test_cluster_equals_scikit_learn_in_any_dimension(feature_dim):
    distance = 1.6 if feature_dim == 1 else 2.2
    size = 32 if feature_dim == 16 else 64
    embedding = network_like(10 + feature_dim, size, feature_dim, 0.05, 1.0, distance)
    assert_same(embedding.reshape(-1, feature_dim), 1.0)


@pytest.mark.parametrize('points, bandwidth', [
    (untrained(0, size=40).reshape(-1, 3), 1.0),
    (untrained(1, size=48, scale=0.3).reshape(-1, 3), 0.7),
    (untrained(2, size=32, feature_dim=2, scale=1).reshape(-1, 2).astype(np.float64), 0.5),
    (untrained(3, size=20, feature_dim=8, scale=0.25).reshape(-1, 8), 1.0),
    (untrained(4, size=10, feature_dim=16, scale=0.2).reshape(-1, 16), 1.0)])
def test_cluster_equals_scikit_learn_on_untrained_noise(points, bandwidth):
    assert_same(points, bandwidth)


@pytest.mark.parametrize('seed', range(3))
def test_cluster_equals_scikit_learn_on_smeared_clusters(seed):
    assert_same(network_like(20 + seed, smear=2.5, spread=0.4, distance=1.8).reshape(-1, 3), 0.7)


def test_cluster_equals_scikit_learn_to_the_last_label_on_small_random_inputs():
    rng = np.random.default_rng(0)
    for trial in range(30):
        n, feature_dim = int(rng.integers(1, [6, 200][trial % 2])), int(rng.integers(1, 5))
        points = rng.normal(size=(3, feature_dim))[rng.integers(0, 3, n)] * 2
        points = points + rng.normal(size=(n, feature_dim)) * 0.3
        points = points.astype([np.float32, np.float64][trial % 3 == 0])
        if trial % 5 == 0:
            points = np.maximum(points, 0)  # a head with a ReLU: many coordinates are exactly 0
        if trial % 7 == 0:
            points = np.round(points * 2) / 2  # on the surfaces of bins and balls
        assert_same(points, 1.0, least=1.0)


def test_limits_of_memory_change_no_result(monkeypatch):
    points = untrained(5, size=48).reshape(-1, 3)
    expected = clustering.cluster(points, 0.8)
    monkeypatch.setattr(clustering, '_CHUNK', 100)
    monkeypatch.setattr(clustering, '_MAX_CANDIDATES', 1000)
    num, labels, centers = clustering.cluster(points, 0.8)
    assert num == expected[0] and (labels == expected[1]).all()
    np.testing.assert_allclose(centers, expected[2], atol=1e-6)


@pytest.mark.parametrize('feature_dim, spread', [(2, 3), (40, 3), (40, 1e3), (3, 1e15)])
def test_bins_have_equal_numbers_if_and_only_if_they_are_equal(feature_dim, spread):
    rng = np.random.default_rng(0)
    bins = np.rint(rng.uniform(-spread, spread, [feature_dim, 60]))[:, rng.integers(0, 60, 200)]
    numbers, bits = clustering._number_bins(bins, 20)
    assert ((numbers[:, None] == numbers) == (bins[:, :, None] == bins[:, None]).all(0)).all()
    assert numbers.min() >= 0 and numbers.max() < 1 << bits <= 1 << 20


@pytest.mark.parametrize('levels, min_split, block', [(1, 1, 3), (3, 1, 16), (3, 10 ** 9, 100)])
def test_depth_of_the_tree_and_size_of_blocks_change_no_result(monkeypatch, levels, min_split, block):
    points = network_like(6).reshape(-1, 3)
    expected = clustering.cluster(points, 0.7)
    monkeypatch.setattr(clustering, '_LEVELS', levels)
    monkeypatch.setattr(clustering, '_MIN_SPLIT', min_split)
    monkeypatch.setattr(clustering, '_BLOCK', block)
    num, labels, centers = clustering.cluster(points, 0.7)
    assert num == expected[0] and (labels == expected[1]).all()
    np.testing.assert_allclose(centers, expected[2], atol=1e-6)


@pytest.mark.parametrize('points', [
    network_like(0, 512).reshape(-1, 3),
    untrained(0, 512, scale=0.15).reshape(-1, 3),
    np.concatenate([network_like(1, 512).reshape(-1, 3), np.float32([[1e6, -1e7, 1e5], [1e12, 0, -1e12]])]),
    network_like(2, 256, feature_dim=16, spread=0.02).reshape(-1, 16)
], ids=['trained', 'noise', 'far', '16-d'])
def test_extra_memory_stays_under_the_bound(points):
    tracemalloc.start()
    clustering.cluster(points, 1.0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60 * points.size + 30e6 < 100e6


@pytest.mark.parametrize('max_extent, max_error', [(0, 1e-3), (0, 0), (1e4, 0)])
def test_precision_of_distances_and_closed_gaps_change_no_result(monkeypatch, max_extent, max_error):
    islands = np.float32([[0, 0, 0], [900, -40, 0], [900, 40, 7000]])
    points = np.concatenate([network_like(7, 48).reshape(-1, 3) + island for island in islands])
    expected = clustering.cluster(points, 0.7)
    monkeypatch.setattr(clustering, '_MAX_EXTENT', max_extent)  # 0: gaps are always closed
    monkeypatch.setattr(clustering, '_MAX_ERROR', max_error)  # 0: always float64
    num, labels, centers = clustering.cluster(points, 0.7)
    assert num == expected[0] and (labels == expected[1]).all()
    np.testing.assert_allclose(centers, expected[2], atol=2e-3)


# ---- Corner cases ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('dtype', [np.float32, np.float64])
def test_distant_points_leave_the_clusters_of_the_others_unchanged(dtype):
    island = network_like(8, 48).reshape(-1, 3).astype(dtype)
    far = np.array([[2**30, -2**41, 0], [-2**50, 5, 2**14]], dtype)
    num, labels, _ = clustering.cluster(island, 1.0)
    num_far, labels_far, centers_far = clustering.cluster(np.concatenate([island, far]), 1.0)
    assert num_far == num + 2 and (labels_far[:-2] == labels).all()
    assert len(set(labels_far[-2:]) - set(labels)) == 2
    np.testing.assert_array_equal(centers_far[labels_far[-2:]], far)


@pytest.mark.parametrize('dtype', [np.float32, np.float64])
def test_points_exactly_on_the_surfaces_of_balls_and_bins(dtype):
    lattice = np.stack(np.meshgrid(*[np.arange(5)] * 3), -1).reshape(-1, 3).astype(dtype)
    for bandwidth in (0.5, 1.0, 1.5, 2.0):  # a multiple of half the spacing
        assert_same(lattice / 2, bandwidth, least=1.0)
        assert_same(np.repeat(lattice / 2, 4, axis=0)[::3], bandwidth, least=1.0)


@pytest.mark.parametrize('bandwidth', [1e-20, 1e-3, 1e3, 1e20])
def test_huge_and_tiny_bandwidths(bandwidth):
    points = np.float32([[1, 1], [20, 1], [50, 50], [20, 1]]) * np.float32(bandwidth)
    num, labels, _ = clustering.cluster(points, bandwidth)  # scikit-learn overflows
    assert num == 3 and labels[1] == labels[3] == 0 and sorted(labels) == [0, 0, 1, 2]


@pytest.mark.parametrize('points', [
    np.float64([[0]] * 3 + [[2 ** 24 + 1]] * 3 + [[2 ** 24 + 6]] * 2),  # the seeds' float32 is off by a bin
    np.float32([[-3, 0]] * 2 + [[16777213, .49]] * 3 + [[16777214, -.49]] * 2),  # as is a difference of bins
])
def test_bins_whose_numbers_exceed_float32(points):
    assert_same(points, 1.0)


def test_two_far_points_are_two_clusters():
    num, labels, centers = clustering.cluster(np.float32([[0, 0], [1e30, 0]]), 1.0)
    assert num == 2 and sorted(labels) == [0, 1]
    np.testing.assert_array_equal(centers[labels], np.float32([[0, 0], [1e30, 0]]))


def test_memory_stays_bounded_for_thousands_of_clusters():
    points = np.random.default_rng(0).uniform(0, 1e3, [5000, 3]).astype(np.float32)
    tracemalloc.start()
    num, _, _ = clustering.cluster(points, 1.0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert num > 4500 and peak < 1e8


def test_cluster_of_nothing():
    num, labels, centers = clustering.cluster(np.zeros([0, 3], np.float32), 1.0)
    assert num == 0 and labels.shape == (0,) and centers.shape == (0, 3)


def test_cluster_of_one_point_and_of_equal_points():
    for points in (np.float32([[3, -2, 7]]), np.full([1000, 3], 0.3, np.float32)):
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
def test_first_point_that_is_not_finite_is_named(value):
    points = np.zeros([5, 3], np.float32)
    points[3, 1] = value
    with pytest.raises(ValueError, match='row 3'):
        clustering.cluster(points, 1.0)


def test_bandwidth_must_not_be_0_in_the_precision_of_the_points():
    with pytest.raises(ValueError, match='bandwidth'):
        clustering.cluster(np.zeros([4, 3], np.float32), 1e-50)


@pytest.mark.parametrize('bandwidth', [0, -1, np.nan, np.inf, 1e-300])
def test_bandwidth_must_be_a_number_above_0(bandwidth):
    with pytest.raises(ValueError, match='bandwidth'):
        clustering.cluster(np.ones([4, 3], np.float32), bandwidth)


@pytest.mark.parametrize('shape', [[4], [2, 3, 4], [4, 0]])
def test_prediction_must_be_rows_of_features(shape):
    with pytest.raises(ValueError, match='shape'):
        clustering.cluster(np.zeros(shape, np.float32), 1.0)


def test_seeds_without_points_around_them_are_replaced_by_points():
    points = np.array([[0.45] * 8, [10.45] * 8, [10.45] * 8])  # 1.27 from the middles of their bins
    num, labels, _ = clustering.cluster(points, 1.0)
    assert num == 2 and labels.tolist() == [1, 0, 0]


def test_clustering_needs_numpy_alone():
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


def test_bandwidth_that_is_too_small_for_the_embedding_is_an_error():
    embedding = np.zeros([8, 8, 3], np.float32)
    embedding[0] = 3e38
    assert clustering.is_scattered(embedding, 1e-6) is False
    with pytest.raises(ValueError, match='too small'):
        clustering.instance_ids(embedding, 1e-6, (0.5, 1.5))


def test_lane_that_leaves_at_the_side_comes_after_one_that_leaves_at_the_bottom():
    expected = np.zeros([100, 200], np.uint8)
    cv2.line(expected, (110, 20), (180, 99), 1, 3)
    cv2.line(expected, (115, 20), (199, 50), 2, 3)  # further left on the whole
    cv2.line(expected, (90, 20), (80, 30), 3, 3)    # a short one is where it points to
    embedding = np.float32([[0, 0], [0, 9], [9, 0], [9, 9]])[expected]
    np.testing.assert_array_equal(clustering.instance_ids(embedding, 1.0), np.int32([0, 2, 3, 1])[expected])


def test_instance_ids_of_one_cluster_are_background():
    assert not clustering.instance_ids(np.ones([8, 9, 3], np.float32), 1.0).any()


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


@pytest.mark.parametrize('dtype', [np.float16, np.float32, np.float64])
def test_margins_change_nothing_where_clusters_satisfy_the_loss(dtype):
    embedding, expected = stripes(7)
    embedding = (embedding + np.random.default_rng(0).uniform(-0.2, 0.2, embedding.shape)).astype(dtype)
    np.testing.assert_array_equal(clustering.instance_ids(embedding, 1.0, margins=(0.5, 1.5)), expected)


def test_background_alone_has_no_instances_with_margins():
    embedding = np.random.default_rng(0).uniform(-0.2, 0.2, [8, 9, 3])
    assert not clustering.instance_ids(embedding, 1.0, margins=(0.5, 1.5)).any()
    assert clustering.instance_ids(np.zeros([0, 9, 3]), 1.0, margins=(0.5, 1.5)).shape == (0, 9)


def test_background_as_wide_as_the_loss_allows_has_no_instances():
    rng = np.random.default_rng(0)
    embedding = rng.normal(size=[64, 64, 3])
    embedding *= 0.95 * rng.uniform(size=[64, 64, 1]) ** (1 / 3) / np.linalg.norm(embedding, axis=2, keepdims=True)
    assert not clustering.instance_ids(embedding, 1.0, margins=(1.0, 1.2)).any()


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


def test_is_scattered_tells_noise_from_a_cluster():
    assert clustering.is_scattered(np.random.default_rng(0).normal(0, 50, [64, 64, 3]), 1.0)
    assert not clustering.is_scattered(np.zeros([64, 64, 3]), 1.0)


def test_foreground_alone_is_clustered():
    embedding, expected = stripes(3)
    embedding[expected == 0] = embedding[expected == 2][0]   # the background looks like an instance
    expected = np.where(expected == 3, 0, expected)
    ids = clustering.instance_ids(embedding, 1.0, (0.5, 1.5), foreground=expected > 0)
    np.testing.assert_array_equal(ids, expected)


def test_largest_cluster_of_a_given_foreground_is_an_instance():
    assert (clustering.instance_ids(np.zeros([20, 20, 2]), 1.0, foreground=np.ones([20, 20], bool)) == 1).all()


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


def test_foreground_that_is_not_finite_is_an_error():
    embedding, foreground = np.zeros([4, 4, 2]), np.zeros([4, 4], bool)
    embedding[0, 0], foreground[0, 0] = np.nan, True
    with pytest.raises(ValueError, match='NaN'):
        clustering.instance_ids(embedding, 1.0, foreground=foreground)


def test_output_is_split_into_embedding_and_probability():
    output = np.float32([[[1, 2, np.log(3)]]])
    assert clustering.split_output(output, 3) == (output, None)
    embedding, probability = clustering.split_output(output, 2)
    assert embedding.tolist() == [[[1, 2]]] and probability == pytest.approx(0.75)


def test_odds_that_float32_cannot_hold_are_certain(recwarn):
    assert clustering.split_output(np.float32([[0, -200], [0, 200]]), 1)[1].tolist() == [0, 1] and not recwarn.list


def test_pixels_near_the_mean_of_their_instance_are_sure():
    embedding, ids = np.zeros([1, 6, 1]), np.int32([[0, 1, 1, 1, 1, 2]])
    embedding[0, :, 0] = 9, 0, 0, 0, 4, 9   # the mean of the first instance is 1
    sure = clustering.pixel_confidence(embedding, ids, 1.5)[0]
    np.testing.assert_allclose(sure, [0, 1, 1, 1, np.exp(-1), 1], rtol=1e-6)
    half = clustering.pixel_confidence(embedding, ids, 1.5, np.full([1, 6], 0.5))[0]
    np.testing.assert_allclose(half, sure / 2, rtol=1e-6)


def test_masks_of_a_given_foreground_are_black_elsewhere():
    embedding, ids = stripes(3)
    mask, = clustering.get_instance_masks(embedding[None], 1.0, (0.5, 1.5), [ids == 2])
    np.testing.assert_array_equal(mask.any(2), ids == 2)


@pytest.mark.parametrize('margins', [None, (0.5, 1.5)])
def test_get_instance_masks_gives_each_of_more_than_eight_instances_a_colour(margins):
    embedding, ids = stripes(11)
    masks = clustering.get_instance_masks(np.stack([embedding, embedding]), 1.0, margins)
    assert len(masks) == 2
    assert masks[0].shape == ids.shape + (3,) and masks[0].dtype == np.uint8
    colours = [np.unique(masks[0][ids == k], axis=0) for k in range(12)]
    assert all(len(colour) == 1 for colour in colours) and len(np.unique(colours, axis=0)) == 12
    assert not colours[0].any()
