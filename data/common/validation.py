"""Scores of a network's output on validation images. Imports no TensorFlow."""
import numpy as np

import clustering
from data.common import instance_metrics
from data.lanes import lines, tusimple
from data.lanes.score import score as score_lanes


def score_image(output, label, size, run, record):
    """What `summarise` needs of one validation image, None if it has no score.

    output: of the network, float32 [h, w, channels]. label: int32 [h, w]. size: (width, height) of the image before it
    was resized. run: Settings. record: tusimple.Record with its lanes, or None.
    """
    if run.head == 'Semantic':
        lane, truth = (mask[label >= 0] for mask in (output[..., 1] > output[..., 0], label > 0))
        return np.sum(lane & truth), np.sum(lane | truth)
    if run.kind == 'road' and not record:
        return None
    ids, clusterable = find_instances(output, label, run)
    if run.kind == 'any':
        return clusterable, instance_metrics.score_image(ids, label)
    lanes = [lane.tolist() for lane in lines.lanes(ids, size, record.h_samples)]
    return clusterable, tusimple.Record(record.raw_file, lanes, record.h_samples)


def summarise(found, run, records):
    """found: of `score_image`, for each image. records: tusimple.Records or None. -> {name: score}, with 'score' for
    the one that selects the best epoch, if there is one: not while most images cannot be clustered yet."""
    if run.head == 'Semantic':
        common, union = np.sum(found, axis=0)
        return {'iou': common / max(union, 1), 'score': common / max(union, 1)}
    if None in found:
        return {}
    unclustered = sum(not clusterable for clusterable, _ in found)
    if unclustered > len(found) / 2:
        return {'unclustered': unclustered}
    scores = [score for _, score in found]
    if run.kind == 'any':
        means = instance_metrics.summarise(scores)
        return {'sbd': means['sbd'], 'abs_dic': means['abs_dic'], 'score': means['sbd'], 'unclustered': unclustered}
    (accuracy, fp, fn), _ = score_lanes(scores, records, ignore_run_time=True)
    return {'accuracy': accuracy, 'fp': fp, 'fn': fn, 'score': accuracy, 'unclustered': unclustered}


def count_classes(output, label, run):
    """The instances of a label whose class the network finds, by the vote of their labelled pixels. The arguments: of
    `score_image` -> (number of them, number of instances)"""
    classes = clustering.instance_classes(output[..., run.feature_dim:], np.maximum(label, 0))
    instances = np.unique(label[label > 0])
    return np.count_nonzero(classes[instances] == instances // 1000), len(instances)


def can_be_clustered(output, label, run):
    """Whether an embedding has begun to separate the instances, so that mean shift, which takes seconds on one that has
    not, finds something: of the background's pixels and of the instances', more than half each are nearest to their own
    mean. output: float32 [h, w, channels]; label: int32 [h, w] -> bool
    """
    if not np.isfinite(output).all():
        return False
    embedding, probability = clustering.split_output(output, run.feature_dim)
    counts, foreground = label >= 0, find_foreground(probability, label, run)
    points, label = embedding.reshape(*label.shape, -1)[counts], label[counts]
    foreground = None if foreground is None else foreground[counts]
    is_background, (instances, own) = label == 0, np.unique(label, return_inverse=True)
    means = np.stack([np.bincount(own, column) for column in points.T], axis=1) / np.bincount(own)[:, None]
    nearest, least = np.zeros(len(points), int), np.full(len(points), np.inf, np.float32)
    for number, mean in enumerate(means.astype(np.float32)):
        distance = np.square(points - mean).sum(1)
        if instances[number] == 0 and foreground is not None:
            distance = np.where(foreground, np.inf, -1)
        nearest, least = np.where(distance < least, number, nearest), np.minimum(distance, least)
    # What a foreground head misses is missing from the score and takes no time.
    clustered = ~is_background if foreground is None else ~is_background & foreground
    return all(not part.any() or np.mean(nearest[part] == own[part]) > 0.5 for part in (is_background, clustered))


def find_foreground(probability, label, run):
    """The pixels to cluster: those of the foreground head or else of the label. -> bool, label's shape

    probability: as of clustering.split_output. None if the background is an instance of the embedding and no head
    separates it.
    """
    if probability is not None and run.clusters_foreground:
        return probability.reshape(label.shape) >= run.foreground_threshold
    return None if run.background_weight else label > 0


def find_instances(output, label, run):
    """The instances of one image as inference finds them. output: float32 [h, w, channels]; label: int32 [h, w], whose
    foreground is used where nothing in the output predicts it. -> (int32 [h, w], see `can_be_clustered`)"""
    if not can_be_clustered(output, label, run):
        return np.zeros_like(label), False
    embedding, probability = clustering.split_output(output, run.feature_dim)
    foreground = find_foreground(probability, label, run)
    return clustering.instance_ids(embedding, run.bandwidth, (run.delta_v, run.delta_d), foreground), True
