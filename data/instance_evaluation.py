"""Scores instance masks with the measures of the leaf segmentation challenge, and with AP.

    python data/instance_evaluation.py results prepared/labels
    python data/instance_evaluation.py results labels --per-image scores.csv --worst worst --images images

Both folders hold id masks, PNG or BMP: grey of 8 or 16 bits, a palette (its indices are the ids) or a colour per
instance. 0, or black, is the background, and the pixels of an instance share a value. A prediction belongs to the label
with its name (a.png to a.png). Where PREDICTED holds mask_NNNN.png, as inference.py --masks writes, and LABELS does
not, only those are read, and mask_0000.png belongs to the first label in the order of names, mask_0001.png to the
second, and so on. Each must have its partner.
"""

import concurrent.futures
import os
import re
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from data.common import command_line

if __name__ == '__main__':
    command_line.exit_on_interrupt()   # the imports below take half a second

import cv2
import numpy as np
import tqdm

from data.common import evaluation_report, instance_metrics, pictures, prefetch
from data.common.command_line import InputError

MASK_NAME = re.compile(r'mask_(\d{4,})\.png')  # of inference.py --masks
MATCHED_COLOUR, MISSED_COLOUR, TEXT_COLOUR = (0, 230, 0), (255, 40, 40), (255, 255, 255)  # RGB


# ---- Pairs of files --------------------------------------------------------------------------------------------------

def match_masks(predicted_dir, labels_dir):
    """Pairs predictions with labels, see the docstring above. -> list of (path of the prediction, path of the label)

    Raises InputError if a folder cannot be used or a mask has no partner.
    """
    predictions, labels = pictures.list_images(predicted_dir), pictures.list_images(labels_dir)
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
    photos = {stem(path): path for path in pictures.list_images(images_dir)}
    for _, label in pairs:
        if stem(label) not in photos:
            raise InputError(f'{label}: has no photo of its name in {images_dir}')
    return [photos[stem(label)] for _, label in pairs]


def stem(path):
    return os.path.splitext(os.path.basename(path))[0]


def read_pair(pair):
    """-> (prediction, label), uint8 or uint16 [h, w]. Raises InputError, also if their sizes differ."""
    prediction, label = (pictures.read_label(path) for path in pair)
    if prediction.shape != label.shape:
        raise InputError(f'{pair[0]}: is {prediction.shape[1]} x {prediction.shape[0]}, but its label {pair[1]} is '
                         f'{label.shape[1]} x {label.shape[0]}')
    return prediction, label


def score_files(pairs):
    """-> ImageScores, in the order of the pairs. Raises InputError as read_pair does."""
    cv2.setNumThreads(1)   # the threads below are the parallelism
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        rows = prefetch.in_order(pool, lambda pair: instance_metrics.score_image(*read_pair(pair)), pairs,
                                 2 * os.cpu_count())
        return list(tqdm.tqdm(rows, total=len(pairs), unit='image', disable=None))


# ---- Reports ---------------------------------------------------------------------------------------------------------

def worst_first(scored):
    """Sorts (pair, photo, ImageScore): lowest SBD first, of equal ones that with the larger |DiC|, then by label."""
    return sorted(scored, key=lambda each: (each[2].sbd, -abs(each[2].dic), each[0][1]))


def table(rows):
    """rows: list of ImageScore -> the lines to print"""
    means = instance_metrics.summarise(rows)
    labelled, predicted = sum(row.label_instances for row in rows), sum(row.predicted_instances for row in rows)
    return '\n'.join([f'{len(rows)} images, {labelled} labelled and {predicted} predicted instances',
                      f'SBD              {means["sbd"]:7.4f}   symmetric best Dice, mean over the images',
                      f'DiC              {means["dic"]:+7.2f}   predicted minus labelled instances, mean',
                      f'|DiC|            {means["abs_dic"]:7.2f}   its absolute value, mean',
                      f'foreground Dice  {means["foreground_dice"]:7.4f}   mean',
                      f'AP               {means["ap"]:7.4f}   over all images, IoU 0.5 to 0.95',
                      f'AP50             {means["ap50"]:7.4f}   at IoU 0.5'])


def draw_comparison(photo, prediction, label, name, row):
    """The label on the left, the prediction on the right, each tinted; two lines of text above.

    Outlines are the label's on both sides: green around instances that a prediction matches with an IoU above 0.5, red
    around the others.

    photo: uint8 [h, w, 3] RGB, or None for black; prediction, label: uint8 or uint16 [h, w]; name: str
    row: ImageScore
    -> uint8 [h + 64, 2 w or more, 3]
    """
    height, width = label.shape
    photo = np.zeros([height, width, 3], np.uint8) if photo is None else pictures.resize_image(photo, (width, height))
    predicted, labelled, overlap, union = instance_metrics.overlaps(prediction, label)
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


def draw(each):
    """each: ((path of the prediction, path of the label), path of the photo or None, ImageScore)

    -> picture, see draw_comparison. Raises InputError if a file cannot be read.
    """
    pair, photo, row = each
    return draw_comparison(photo and pictures.read_image(photo), *read_pair(pair), stem(pair[1]), row)


# ---- The script ------------------------------------------------------------------------------------------------------

def parse_args(argv=None):
    parser = command_line.Parser(description=f'{__doc__}\n{instance_metrics.__doc__}')
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


def main():
    args = parse_args()
    pairs = match_masks(args.predicted, args.labels)
    photos = find_photos(args.images, pairs) if args.images else [None] * len(pairs)
    inputs = [path for pair in pairs for path in pair] + [photo for photo in photos if photo]
    evaluation_report.check_outputs(args.per_image, args.worst, inputs, inputs)

    rows = score_files(pairs)
    print(table(rows))

    scored = worst_first(zip(pairs, photos, rows))
    if args.per_image:
        evaluation_report.write_csv(
            args.per_image, ('label',) + instance_metrics.ImageScore._fields[:-1] + ('matched',),
            [(os.path.basename(label),) + row[:-1] + row.matches[:1] for (_, label), _, row in scored])
    if args.worst:
        return evaluation_report.draw_worst(args.worst, draw, scored[:args.worst_num])


if __name__ == '__main__':
    command_line.run(main)
