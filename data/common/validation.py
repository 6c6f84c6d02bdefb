"""Scores of a network's output on validation images. Does not import TensorFlow."""
import numpy as np

import clustering
from data.common import instance_metrics
from data.lanes import lines, tusimple
from data.lanes.score import score as score_lanes


def score_image(output, terms, label, size, run, record):
    """The score of one validation image, for `summarise`, or None if it has none.

    output: of the network, float32 [h, w, channels]. terms: its loss terms. label: int32 [h, w]. size: (width, height)
    of the image before it was resized. run: Settings. record: tusimple.Record with its lanes, or None.
    """
    if run.head == 'Semantic':
        lane, truth = (mask[label >= 0] for mask in (output[..., 1] > output[..., 0], label > 0))
        return np.sum(lane & truth), np.sum(lane | truth)
    if run.kind == 'road' and not record:
        return None
    clusterable = can_be_clustered(terms, run)
    ids = find_instances(output, label, run) if clusterable else np.zeros_like(label)
    if run.kind == 'any':
        return clusterable, instance_metrics.score_image(ids, label)
    lanes = [lane.tolist() for lane in lines.lanes(ids, size, record.h_samples)]
    return clusterable, tusimple.Record(record.raw_file, lanes, record.h_samples)


def summarise(found, run, records):
    """Scores of all images. found: of `score_image`, for each. records: tusimple.Records or None. -> {name: score}; its
    'score' selects the best epoch and is absent while most images cannot be clustered."""
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
    """Counts the labelled instances whose class the network predicts, by the vote of their pixels. Arguments: as in
    `score_image` -> (number of these, number of all instances)"""
    classes = clustering.instance_classes(output[..., run.feature_dim:], np.maximum(label, 0))
    instances = np.unique(label[label > 0])
    return np.count_nonzero(classes[instances] == instances // 1000), len(instances)


def can_be_clustered(terms, run):
    """Whether the means of instances are on average more than delta_d apart. Until then, mean shift takes seconds
    and finds nothing. terms: {name: float}, of the loss"""
    return np.isfinite(terms['total']) and terms['dist'] <= run.dist * run.delta_d ** 2


def find_instances(output, label, run):
    """The instances of one image as inference finds them. output: float32 [h, w, channels]; label: int32 [h, w], whose
    foreground is used if the network does not predict one. -> int32 [h, w]"""
    embedding, probability = clustering.split_output(output, run.feature_dim)
    if run.clusters_foreground:
        foreground = probability >= run.foreground_threshold
    else:
        foreground = None if run.background_weight else label > 0
    return clustering.instance_ids(embedding, run.bandwidth, (run.delta_v, run.delta_d), foreground)
