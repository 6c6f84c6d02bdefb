"""Scores instance masks with the measures of the leaf segmentation challenge, and with AP.

    python data/instance_evaluation.py results prepared/labels
    python data/instance_evaluation.py results labels --per-image scores.csv --worst worst --images images

Both folders hold id masks: PNG or BMP of one channel, 8 or 16 bits, where 0 is the background and the pixels of an
instance share a value. A prediction belongs to the label with its name (a.png to a.png). Where PREDICTED holds
mask_NNNN.png, as inference.py --masks writes, and LABELS does not, only those are read, and mask_0000.png belongs to
the first label in the order of names, mask_0001.png to the second, and so on. Each must have its partner.

Per image, as Scharr et al. 2016 (Leaf segmentation in plant phenotyping: a collation study) define them:
  BD(a, b)         mean over the instances of a of the best Dice, 2 |A and B| / (|A| + |B|), with an instance of b
  SBD              symmetric best Dice, min(BD(prediction, label), BD(label, prediction))
  DiC              difference in count, predicted minus labelled instances; |DiC| its absolute value
  foreground Dice  Dice of everything that is not background
The table has their means over the images. Where the label has no instance, which the paper leaves open, SBD and
foreground Dice are 1 if the prediction has none either, and 0 otherwise.

AP is that of Cityscapes, over all images together and for one class: instances match if their IoU is above a threshold,
AP50 is at 0.5, AP the mean over 0.5, 0.55, ..., 0.95. Cityscapes averages the precision over the recall as
predictions of less and less confidence are accepted. Masks have no confidences, so that each prediction counts 1, and
its program's curve has two points, (recall 0, precision 1) and (recall r, precision p): the average is r (1 + p) / 2.
Nothing is ignored for being small. Without any label, AP is 1 if nothing is predicted, and 0 otherwise.
"""

import collections
import concurrent.futures
import csv
import io
import os
import re
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from data import command_line

if __name__ == '__main__':
    command_line.exit_on_interrupt()   # the imports below take half a second

import cv2
import numpy as np
import tqdm

from data import files, prefetch
from data.command_line import InputError

MASK_NAME = re.compile(r'mask_(\d{4,})\.png')  # of inference.py --masks
IOU_TWENTIETHS = range(10, 20)  # the IoU thresholds of AP, in twentieths: 0.5 to 0.95
MATCHED_COLOUR, MISSED_COLOUR, TEXT_COLOUR = (0, 230, 0), (255, 40, 40), (255, 255, 255)  # RGB

ImageScore = collections.namedtuple(
    'ImageScore', 'sbd dic foreground_dice label_instances predicted_instances matches')
ImageScore.__doc__ = 'The score of one image; matches: pairs of instances with an IoU above each threshold of AP.'


# ---- The measures ----------------------------------------------------------------------------------------------------

def score(predictions, labels):
    """The measures of the docstring above, over pairs of id masks.

    predictions, labels: iterables, equally long, of integers [h, w] from 0 to 2 ** 31 - 1
    -> {'sbd', 'dic', 'abs_dic', 'foreground_dice', 'ap', 'ap50'}: floats
    Raises ValueError if a pair differs in size, or there is none.
    """
    return summarise([score_image(prediction, label) for prediction, label in zip(predictions, labels, strict=True)])


def summarise(rows):
    """rows: ImageScores -> dict, as `score` returns. Raises ValueError if there are none."""
    if not rows:
        raise ValueError('there are no images to score')
    dic = np.array([row.dic for row in rows], np.float64)
    predicted, labelled = (sum(getattr(row, name) for row in rows)
                           for name in ('predicted_instances', 'label_instances'))
    matches = np.sum([row.matches for row in rows], axis=0)
    if labelled:
        average_precisions = matches / labelled * (1 + matches / max(predicted, 1)) / 2
    else:
        average_precisions = np.full(len(matches), float(not predicted))
    return {'sbd': float(np.mean([row.sbd for row in rows])), 'dic': float(dic.mean()),
            'abs_dic': float(np.abs(dic).mean()),
            'foreground_dice': float(np.mean([row.foreground_dice for row in rows])),
            'ap': float(average_precisions.mean()), 'ap50': float(average_precisions[0])}


def score_image(prediction, label):
    """prediction, label: integers [h, w] from 0 to 2 ** 31 - 1 -> ImageScore. Raises ValueError if the sizes differ."""
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
    # In integers, IoU > k / 20 is exact. Above 0.5, an instance has one partner at most.
    matches = tuple(int(np.count_nonzero(instances & (20 * overlap > k * union))) for k in IOU_TWENTIETHS)
    return ImageScore(sbd=float(min(best.mean() for best in best_dice)) if all(counts) else float(not any(counts)),
                      dic=counts[0] - counts[1],
                      foreground_dice=float(2 * overlap[instances].sum() / foreground) if foreground else 1.,
                      label_instances=counts[1], predicted_instances=counts[0], matches=matches)


def overlaps(prediction, label):
    """The joint histogram of two id masks, background included. Raises ValueError if their sizes differ.

    prediction, label: integers [h, w] from 0 to 2 ** 31 - 1
    -> (predicted id, label id, pixels that have both, pixels that have either), int64, for each pair that occurs
    """
    prediction, label = np.asarray(prediction), np.asarray(label)
    if prediction.shape != label.shape:
        raise ValueError(f'a prediction of {prediction.shape} does not fit its label of {label.shape}')
    pair = (prediction.astype(np.int64) << 32 | label.astype(np.int64)).ravel()
    # Masks are runs of equal pixels: sorting these instead of all pixels takes a twentieth of the time.
    starts = np.flatnonzero(np.diff(pair, prepend=-1))
    pairs, index = np.unique(pair[starts], return_inverse=True)
    overlap = np.bincount(index, np.diff(starts, append=pair.size)).astype(np.int64)
    predicted, labelled, union = pairs >> 32, pairs & (2 ** 32 - 1), -overlap
    for ids in (predicted, labelled):
        _, index = np.unique(ids, return_inverse=True)
        union += np.bincount(index, overlap).astype(np.int64)[index]
    return predicted, labelled, overlap, union


# ---- Pairs of files --------------------------------------------------------------------------------------------------

def match_masks(predicted_dir, labels_dir):
    """Pairs predictions with labels, see the docstring above. -> list of (path of the prediction, path of the label)

    Raises InputError if a folder cannot be used or a mask has no partner.
    """
    predictions, labels = files.list_images(predicted_dir), files.list_images(labels_dir)
    masks = {int(name[1]): path for path in predictions if (name := MASK_NAME.fullmatch(os.path.basename(path)))}
    if masks and not any(MASK_NAME.fullmatch(os.path.basename(path)) for path in labels):
        for number, label in enumerate(labels):
            if number not in masks:
                raise InputError(f'{label}: is number {number} of {len(labels)} labels, but {predicted_dir} has no '
                                 f'mask_{number:04d}.png')
        if len(masks) > len(labels):
            raise InputError(f'{masks[max(masks)]}: has no label; there are {len(labels)} in {labels_dir} for '
                             f'{len(masks)} predictions')
        return list(zip((masks[number] for number in range(len(labels))), labels))
    predictions, labels = by_name(predictions), by_name(labels)
    unpaired = sorted(predictions.keys() ^ labels.keys())
    if unpaired:
        name = unpaired[0]
        missing = f'label of its name in {labels_dir}' if name in predictions else f'prediction in {predicted_dir}'
        raise InputError(f'{predictions.get(name) or labels[name]}: has no {missing} ({len(predictions)} predictions '
                         f'and {len(labels)} labels, {len(unpaired)} without a partner)')
    return [(predictions[name], labels[name]) for name in sorted(labels)]


def by_name(paths):
    """-> {file name without extension: path}. Raises InputError if two have the same name or one is a JPEG."""
    found = {}
    for path in paths:
        if path.lower().endswith(('.jpg', '.jpeg')):
            raise InputError(f'{path}: a JPEG does not keep the ids of a mask; make it a PNG')
        if found.setdefault(stem(path), path) != path:
            raise InputError(f'{path}: has the same name as {found[stem(path)]}; which of the two is meant?')
    return found


def find_photos(images_dir, pairs):
    """-> for each pair, the path of the photo with the label's name. Raises InputError if one has none."""
    photos = {stem(path): path for path in files.list_images(images_dir)}
    for _, label in pairs:
        if stem(label) not in photos:
            raise InputError(f'{label}: has no photo of its name in {images_dir}')
    return [photos[stem(label)] for _, label in pairs]


def stem(path):
    return os.path.splitext(os.path.basename(path))[0]


def read_pair(pair):
    """-> (prediction, label), uint8 or uint16 [h, w]. Raises InputError, also if their sizes differ."""
    prediction, label = (files.read_label(path) for path in pair)
    if prediction.shape != label.shape:
        raise InputError(f'{pair[0]}: is {prediction.shape[1]} x {prediction.shape[0]}, but its label {pair[1]} is '
                         f'{label.shape[1]} x {label.shape[0]}')
    return prediction, label


def score_files(pairs):
    """-> ImageScores, in the order of the pairs. Raises InputError as read_pair does."""
    cv2.setNumThreads(1)   # the threads below are the parallelism
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        rows = prefetch.in_order(pool, lambda pair: score_image(*read_pair(pair)), pairs, 2 * os.cpu_count())
        return list(tqdm.tqdm(rows, total=len(pairs), unit='image', disable=None))


# ---- Reports ---------------------------------------------------------------------------------------------------------

def worst_first(pairs, rows):
    """-> indices of the images, lowest SBD first; of equal ones, that with the larger |DiC|, then by name"""
    return sorted(range(len(rows)), key=lambda i: (rows[i].sbd, -abs(rows[i].dic), pairs[i][1]))


def table(rows):
    """-> the lines to print"""
    means = summarise(rows)
    labelled, predicted = sum(row.label_instances for row in rows), sum(row.predicted_instances for row in rows)
    return '\n'.join([f'{len(rows)} images, {labelled} labelled and {predicted} predicted instances',
                      f'SBD              {means["sbd"]:7.4f}   symmetric best Dice, mean over the images',
                      f'DiC              {means["dic"]:+7.2f}   predicted minus labelled instances, mean',
                      f'|DiC|            {means["abs_dic"]:7.2f}   its absolute value, mean',
                      f'foreground Dice  {means["foreground_dice"]:7.4f}   mean',
                      f'AP               {means["ap"]:7.4f}   over all images, IoU 0.5 to 0.95',
                      f'AP50             {means["ap50"]:7.4f}   at IoU 0.5'])


def write_csv(path, names, rows):
    """Writes a line per image with a header, the whole file or none of it."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow(('label',) + ImageScore._fields[:-1] + ('matched',))
    for name, row in zip(names, rows):
        writer.writerow((name,) + row[:-1] + (row.matches[0],))
    files.write_file(path, text.getvalue().encode(errors='surrogateescape'))


def draw_comparison(photo, prediction, label, name, row):
    """The label on the left, the prediction on the right, each tinted; two lines of text above.

    Outlines are the label's on both sides: green around instances that a prediction matches with an IoU above 0.5, red
    around the others.

    photo: uint8 [h, w, 3] RGB, or None for black; prediction, label: uint8 or uint16 [h, w]; name: str
    row: ImageScore
    -> uint8 [h + 64, 2 w or more, 3]
    """
    height, width = label.shape
    photo = np.zeros([height, width, 3], np.uint8) if photo is None else files.resize_image(photo, (width, height))
    predicted, labelled, overlap, union = overlaps(prediction, label)
    matched = (predicted > 0) & (labelled > 0) & (2 * overlap > union)
    kernel = np.ones((3, 3), np.uint8)
    outline = cv2.dilate(label, kernel) != cv2.erode(label, kernel)
    found = cv2.dilate(np.isin(label, labelled[matched]).astype(np.uint8), kernel) > 0
    panels = []
    for ids in (label, prediction):
        panel = np.where(ids[..., None] > 0, photo // 2 + tints(ids) // 2, photo)
        panel[outline & found], panel[outline & ~found] = MATCHED_COLOUR, MISSED_COLOUR
        panels.append(panel)
    picture = np.concatenate(panels, axis=1)
    lines = (f'{name!a}: SBD {row.sbd:.3f}, DiC {row.dic:+d}, foreground Dice {row.foreground_dice:.3f}',
             f'{row.label_instances} labelled left, {row.predicted_instances} predicted right; outlines: label, '
             'green matched, red missed')
    widths = [cv2.getTextSize(line, cv2.FONT_HERSHEY_SIMPLEX, 0.6, 1)[0][0] + 16 for line in lines]
    head = np.zeros([64, max(widths + [2 * width]), 3], np.uint8)
    for i, line in enumerate(lines):
        cv2.putText(head, line, (8, 24 + 28 * i), cv2.FONT_HERSHEY_SIMPLEX, 0.6, TEXT_COLOUR, 1, cv2.LINE_AA)
    return np.concatenate([head, np.pad(picture, [(0, 0), (0, head.shape[1] - 2 * width), (0, 0)])])


def tints(ids):
    """A colour per id, ids that follow each other far apart. ids: uint8 or uint16 [h, w] -> uint8 [h, w, 3] RGB"""
    hues = (np.arange(int(ids.max(initial=0)) + 1) * 0.618 % 1 * 180).astype(np.uint8)   # the golden ratio
    hsv = np.stack([hues, np.full_like(hues, 190), np.full_like(hues, 255)], axis=-1)
    return cv2.cvtColor(hsv[None], cv2.COLOR_HSV2RGB)[0][ids]


def draw_worst(folder, pairs, photos, rows):
    """Writes NNNN.png per pair. A photo that cannot be read is warned of. -> exit status"""
    status = 0
    for rank, (pair, photo, row) in enumerate(zip(pairs, photos, rows)):
        try:
            picture = draw_comparison(photo and files.read_image(photo), *read_pair(pair), stem(pair[1]), row)
        except InputError as error:
            command_line.warn(f'not drawn: {error}')
            status = 1
            continue
        files.write_file(os.path.join(folder, f'{rank:04d}.png'), files.encode(picture), follow_links=False)
    command_line.warn_of_others(folder, [name for name in os.listdir(folder) if re.fullmatch(r'\d{4,}\.png', name)
                                         and int(name[:-4]) >= len(rows)])
    return status


# ---- The script ------------------------------------------------------------------------------------------------------

def parse_args(argv=None):
    parser = command_line.Parser(description=__doc__)
    paths = parser.add_argument_group('files')
    paths.add_argument('predicted', metavar='PREDICTED',
                       help='Folder of predicted masks, for example --outdir of inference.py --masks.')
    paths.add_argument('labels', metavar='LABELS', help='Folder of label masks, for example labels/ of a prepared set.')
    reports = parser.add_argument_group('reports')
    reports.add_argument('--per-image', metavar='FILE',
                         help='CSV file to write the score of each image into, worst SBD first.')
    reports.add_argument('--worst', metavar='DIR',
                         help='Folder to write pictures of the worst images into, label and prediction side by side.')
    reports.add_argument('--worst-num', metavar='N', type=command_line.positive_int, default=20,
                         help='Number of images that --worst draws.')
    reports.add_argument('--images', metavar='DIR',
                         help='Folder of the photos, named as the labels, for --worst to draw on; otherwise it draws '
                              'on black.')
    args = parser.parse_args(argv)
    if args.images and not args.worst:
        parser.error('--images is of use with --worst only')
    return args


def check_outputs(args, inputs):
    """Creates the output folders. inputs: paths of all files that are read.

    Raises InputError if a folder is not writable or an output would overwrite an input.
    """
    if args.per_image:
        files.check_output_file('--per-image', args.per_image)
        if os.path.exists(args.per_image) and any(os.path.samefile(args.per_image, path) for path in inputs):
            raise InputError(f'--per-image {args.per_image}: is an input itself; give another name')
    if args.worst:
        folder = os.path.realpath(args.worst)
        if any(os.path.realpath(path) == folder for path in {os.path.dirname(path) for path in inputs}):
            raise InputError(f'--worst {args.worst}: holds the masks or photos themselves; give another folder')
        files.make_output_folder(args.worst)


def main():
    args = parse_args()
    pairs = match_masks(args.predicted, args.labels)
    photos = find_photos(args.images, pairs) if args.images else [None] * len(pairs)
    check_outputs(args, [path for pair in pairs for path in pair] + [photo for photo in photos if photo])

    rows = score_files(pairs)
    print(table(rows))

    order = worst_first(pairs, rows)
    pairs, photos, rows = ([values[i] for i in order] for values in (pairs, photos, rows))
    if args.per_image:
        write_csv(args.per_image, [os.path.basename(label) for _, label in pairs], rows)
    if args.worst:
        drawn = slice(args.worst_num)
        return draw_worst(args.worst, pairs[drawn], photos[drawn], rows[drawn])


if __name__ == '__main__':
    command_line.run(main)
