"""Scores of instance masks: the measures of the leaf segmentation challenge, and AP.

Per image, as in Scharr et al. 2016 (Leaf segmentation in plant phenotyping: a collation study):
  BD(a, b)         mean over the instances of a of the best Dice, 2 |A and B| / (|A| + |B|), with an instance of b
  SBD              symmetric best Dice, min(BD(prediction, label), BD(label, prediction))
  DiC              difference in count, predicted minus labelled instances; |DiC| its absolute value
  foreground Dice  Dice of the foreground
averaged over images. AP is that of Cityscapes, over all images together: instances match if their IoU is above a
threshold, 0.5 for AP50; AP is the mean over 0.5, 0.55, ..., 0.95. Masks have no confidence, so the curve of Cityscapes'
program has two points, (recall 0, precision 1) and (recall r, precision p), with an average precision of r (1 + p) / 2.
Instances of any size count. Without labelled instances, SBD, foreground Dice and AP are 1 if nothing is predicted, and
0 otherwise.
"""
import collections

import numpy as np

from data.common import classes

ImageScore = collections.namedtuple('ImageScore', 'sbd dic foreground_dice label_instances predicted_instances matches')
ImageScore.__doc__ = 'The score of one image; matches: pairs of instances with an IoU above each threshold of AP.'


def score_image(prediction, label):
    """The measures of one image; arguments as in overlaps. -> ImageScore"""
    predicted, labelled, overlap, union = overlaps(prediction, label)
    instances = (predicted > 0) & (labelled > 0)
    dice = np.where(instances, 2 * overlap / (union + overlap), 0)
    best_dice = []   # of each predicted instance, of each label instance
    for ids in (predicted, labelled):
        values, index = np.unique(ids, return_inverse=True)
        best = np.zeros(len(values))
        np.maximum.at(best, index, dice)
        best_dice.append(best[values > 0])
    counts = [len(best) for best in best_dice]
    foreground = overlap[predicted > 0].sum() + overlap[labelled > 0].sum()
    # In integers, IoU > k / 20 is exact. Above 0.5, matches are one to one.
    matches = tuple(int(np.count_nonzero(instances & (20 * overlap > k * union))) for k in range(10, 20))
    return ImageScore(sbd=float(min(best.mean() for best in best_dice)) if all(counts) else float(not any(counts)),
                      dic=counts[0] - counts[1],
                      foreground_dice=float(2 * overlap[instances].sum() / foreground) if foreground else 1.,
                      label_instances=counts[1], predicted_instances=counts[0], matches=matches)


def score_classes(prediction, label):
    """Applies score_image to each class. prediction, label: ids class * 1000 + number, int32 -> {class: ImageScore}"""
    class_of, truth_of = prediction // classes.BASE, label // classes.BASE
    return {number: score_image(np.where(class_of == number, prediction, 0),
                                np.where((truth_of == number) | (label < 0), label, 0))
            for number in np.union1d(class_of, truth_of).tolist() if number > 0}


def overlaps(prediction, label):
    """The joint histogram of two id masks, background included.

    prediction, label: integers [h, w] up to 2 ** 31 - 1, 0 is the background; pixels with a label below 0 are ignored
    -> (predicted id, label id, pixels that have both, pixels that have either), int64, for each pair that occurs
    """
    pair = (prediction.astype(np.int64) << 32 | label.astype(np.int64))[label >= 0]
    # Sorting runs of equal pixels instead of all pixels takes a twentieth of the time.
    starts = np.flatnonzero(np.diff(pair, prepend=-1))
    pairs, index = np.unique(pair[starts], return_inverse=True)
    overlap = np.bincount(index, np.diff(starts, append=pair.size)).astype(np.int64)
    predicted, labelled, union = pairs >> 32, pairs & (2 ** 32 - 1), -overlap
    for ids in (predicted, labelled):
        _, index = np.unique(ids, return_inverse=True)
        union += np.bincount(index, overlap).astype(np.int64)[index]
    return predicted, labelled, overlap, union


def summarise(rows):
    """The measures over a set of images. rows: list of ImageScore, at least one. -> {'sbd', 'dic', 'abs_dic',
    'foreground_dice', 'ap', 'ap50'}: floats"""
    sbd, dic, foreground_dice, labelled, predicted, matches = map(np.array, zip(*rows))
    labelled, predicted, matches = labelled.sum(), predicted.sum(), matches.sum(axis=0)
    precisions = (matches / labelled * (1 + matches / max(predicted, 1)) / 2 if labelled
                  else np.full(len(matches), not predicted))
    means = {'sbd': sbd, 'dic': dic, 'abs_dic': np.abs(dic), 'foreground_dice': foreground_dice, 'ap': precisions,
             'ap50': precisions[0]}
    return {name: float(np.mean(values)) for name, values in means.items()}
