"""Scores instance masks with the measures of the leaf segmentation challenge, and with AP.

    python data/instance_evaluation.py results prepared/labels
    python data/instance_evaluation.py results labels --per-image scores.csv --worst worst --images images

Both folders hold id masks: 8 or 16-bit grey values, palette indices or one colour per instance; 0, or black, is the
background. Predictions match labels by file name, and must match one to one. If PREDICTED holds mask_NNNN.png, as
written by inference.py --masks, and LABELS does not, only those are read, and match the sorted labels by order.
"""

import concurrent.futures
import os
import re
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import cv2
import numpy as np
import tqdm

import visualization
from data.common import classes, command_line, evaluation_report, instance_metrics, pictures, prefetch
from data.common.command_line import InputError

MASK_NAME = re.compile(r'mask_(\d{4,})\.png')  # of inference.py --masks
MATCHED_COLOUR, MISSED_COLOUR = (0, 230, 0), (255, 40, 40)  # RGB


# ---- Pairs of files --------------------------------------------------------------------------------------------------

def match_masks(predicted_dir, labels_dir):
    """Pairs predictions with labels, see above. -> list of (path of the prediction, path of the label)

    Raises InputError if a mask has no partner.
    """
    predictions, labels = pictures.list_images(predicted_dir), pictures.list_images(labels_dir)
    masks, other = ([path for path in paths if MASK_NAME.fullmatch(os.path.basename(path))]
                    for paths in (predictions, labels))
    if masks and not other:
        expected = [os.path.join(predicted_dir, f'mask_{number:04d}.png') for number in range(len(labels))]
        if wrong := sorted(set(masks) ^ set(expected)):
            raise InputError(f'{wrong[0]}: there are {len(masks)} such masks for {len(labels)} labels in {labels_dir}')
        return list(zip(expected, labels))
    predictions, labels = by_name(predictions), by_name(labels)
    if unpaired := sorted(predictions.keys() ^ labels.keys()):
        name = unpaired[0]
        missing = f'label of its name in {labels_dir}' if name in predictions else f'prediction in {predicted_dir}'
        raise InputError(f'{predictions.get(name) or labels[name]}: has no {missing} ({len(unpaired)} lack a partner)')
    return [(predictions[name], labels[name]) for name in sorted(labels)]


def by_name(paths):
    """-> {file name without extension: path}. Raises InputError if two have the same name or one is a JPEG."""
    found = {}
    for path in paths:
        if path.lower().endswith(('.jpg', '.jpeg')):
            raise InputError(f'{path}: a JPEG does not preserve the ids of a mask; use PNG')
        if found.setdefault(stem(path), path) != path:
            raise InputError(f'{path}: is ambiguous, as {found[stem(path)]} has the same name')
    return found


def find_photos(images_dir, pairs):
    """-> list of paths, the image with the label's name for each pair. Raises InputError if one is missing."""
    photos = {stem(path): path for path in pictures.list_images(images_dir)}
    if missing := [label for _, label in pairs if stem(label) not in photos]:
        raise InputError(f'{missing[0]}: has no image of its name in {images_dir}')
    return [photos[stem(label)] for _, label in pairs]


def stem(path):
    return os.path.splitext(os.path.basename(path))[0]


def read_pair(pair, photo, ignore):
    """Reads a prediction and its label, turned by the EXIF orientation of the image at path photo unless it is None.

    -> (prediction, label), int32 [h, w], -1 where the label is `ignore`. Raises InputError, also if sizes differ.
    """
    prediction = pictures.read_label(pair[0]).astype(np.int32)
    label = (pictures.read_pair(photo, pair[1])[1] if photo else pictures.read_label(pair[1])).astype(np.int32)
    if prediction.shape != label.shape:
        raise InputError(f'{pair[0]}: is {prediction.shape[1]} x {prediction.shape[0]}, but its label {pair[1]} is '
                         f'{label.shape[1]} x {label.shape[0]}; if its image has an EXIF orientation, give --images')
    return prediction, np.where(label == ignore, -1, label)


def score_files(pairs, photos, ignore, names):
    """-> [(ImageScore, score_classes, {} without names)], in the order of the pairs. Raises InputError as read_pair."""
    def score(item):
        masks = read_pair(*item, ignore)
        return instance_metrics.score_image(*masks), instance_metrics.score_classes(*masks) if names else {}

    cv2.setNumThreads(1)   # the threads below are the parallelism
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        rows = prefetch.in_order(pool, score, zip(pairs, photos), 2 * os.cpu_count())
        return list(tqdm.tqdm(rows, total=len(pairs), unit='image', disable=None))


# ---- Reports ---------------------------------------------------------------------------------------------------------

def table(rows):
    """rows: list of ImageScore -> the lines to print"""
    means = instance_metrics.summarise(rows)
    return '\n'.join([f'{len(rows)} images, {sum(row.label_instances for row in rows)} labelled and '
                      f'{sum(row.predicted_instances for row in rows)} predicted instances',
                      f'SBD              {means["sbd"]:7.4f}   symmetric best Dice, mean over the images',
                      f'DiC              {means["dic"]:+7.2f}   predicted minus labelled instances, mean',
                      f'|DiC|            {means["abs_dic"]:7.2f}   its absolute value, mean',
                      f'foreground Dice  {means["foreground_dice"]:7.4f}   mean',
                      f'AP               {means["ap"]:7.4f}   over all images, IoU 0.5 to 0.95',
                      f'AP50             {means["ap50"]:7.4f}   at IoU 0.5'])


def class_table(scores, names):
    """AP and AP50 of each class over all images, and their means over the classes that are labelled, as Cityscapes.

    scores: list of {class: ImageScore}, see instance_metrics.score_classes; names: of class 1, 2, ...
    -> the lines to print
    """
    lines, means = [f'{"class":<16} {"AP":>7} {"AP50":>7}   labelled  predicted'], []
    for number in sorted({number for each in scores for number in each}):
        rows = [each[number] for each in scores if number in each]
        labelled, predicted = sum(row.label_instances for row in rows), sum(row.predicted_instances for row in rows)
        means.append([instance_metrics.summarise(rows)[name] if labelled else np.nan for name in ('ap', 'ap50')])
        name = names[number - 1] if number <= len(names) else f'class {number}'
        lines.append('{:<16} {:7.4f} {:7.4f} {:10,} {:10,}'.format(name, *means[-1], labelled, predicted))
    if np.isfinite(means).any():
        lines.append('{:<16} {:7.4f} {:7.4f}'.format('mean', *np.nanmean(means, axis=0)))
    return '\n'.join(lines)


def draw(item):
    """Draws the tinted label on the left and prediction on the right, below two lines of text.

    Outlines are the label's on both sides: green for instances matched with an IoU above 0.5, red for the others.

    item: ((path of the prediction, path of the label), path of the image or None for black, ImageScore, ignored value)
    -> uint8 [h + 64, 2 w, 640 at least, 3] RGB. Raises InputError if a file cannot be read.
    """
    pair, photo, row, ignore = item
    prediction, label = read_pair(pair, photo, ignore)
    shape = label.shape[::-1]
    photo = pictures.resize_image(pictures.read_image(photo), shape) if photo else np.zeros([*label.shape, 3], np.uint8)
    predicted, labelled, overlap, union = instance_metrics.overlaps(prediction, label)
    matched = (predicted > 0) & (labelled > 0) & (2 * overlap > union)
    kernel = np.ones((3, 3), np.uint8)
    outline = cv2.dilate(label.astype(np.float32), kernel) != cv2.erode(label.astype(np.float32), kernel)
    found = cv2.dilate(np.isin(label, labelled[matched]).astype(np.uint8), kernel) > 0
    panels = []
    for ids in (label, prediction):
        tints = visualization.colour_instances(visualization.number_instances(ids))
        panel = np.where(ids[..., None] > 0, photo // 2 + tints // 2, photo)
        panel[outline & found], panel[outline & ~found] = MATCHED_COLOUR, MISSED_COLOUR
        panels.append(panel)
    lines = (f'{stem(pair[1])!a}: SBD {row.sbd:.3f}, DiC {row.dic:+d}, foreground Dice {row.foreground_dice:.3f}',
             f'{row.label_instances} labelled left, {row.predicted_instances} predicted right; outlines: label, '
             'green matched, red missed')
    picture = np.pad(np.concatenate(panels, axis=1), [(64, 0), (0, max(640 - 2 * shape[0], 0)), (0, 0)])
    for i, line in enumerate(lines):
        cv2.putText(picture, line, (8, 24 + 28 * i), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (255, 255, 255), 1, cv2.LINE_AA)
    return picture


# ---- The script ------------------------------------------------------------------------------------------------------

def parse_args(argv=None):
    parser = command_line.Parser(description=f'{__doc__}\n{instance_metrics.__doc__}')
    parser.add_argument('predicted', metavar='PREDICTED',
                        help='Folder of predicted masks, such as --outdir of inference.py --masks.')
    parser.add_argument('labels', metavar='LABELS', help='Folder of label masks, such as labels/ of a prepared set.')
    parser.add_argument('--ignore', metavar='VALUE', type=command_line.non_negative_int,
                        help='Value of label pixels to ignore, such as 255 for the borders in VOC.')
    parser.add_argument('--classes', metavar='FILE',
                        help='File of class names, one per line, for ids class * 1000 + number (default: classes.txt '
                             'next to LABELS, if any).')
    parser.add_argument('--per-image', metavar='FILE', help='CSV file for the scores of each image, worst SBD first.')
    parser.add_argument('--worst', metavar='DIR', help='Folder for pictures of the worst images, label and prediction.')
    parser.add_argument('--worst-num', metavar='N', type=command_line.positive_int, default=20,
                        help='Number of images that --worst draws.')
    parser.add_argument('--images', metavar='DIR',
                        help='Folder of the images, named as the labels, on which --worst draws and whose EXIF '
                             'orientation turns the labels.')
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    pairs = match_masks(args.predicted, args.labels)
    photos = find_photos(args.images, pairs) if args.images else [None] * len(pairs)
    inputs = [path for pair in pairs for path in pair] + [photo for photo in photos if photo]
    evaluation_report.check_outputs(args.per_image, args.worst, inputs, inputs)

    path = args.classes or os.path.join(os.path.dirname(os.path.abspath(args.labels)), classes.FILE)
    names = classes.read(path) if args.classes or os.path.exists(path) else []
    rows, of_classes = zip(*score_files(pairs, photos, args.ignore, names))
    print(table(rows))
    if names:
        print(class_table(of_classes, names))

    scored = sorted(zip(pairs, photos, rows), key=lambda each: (each[2].sbd, -abs(each[2].dic), each[0][1]))
    if args.per_image:
        evaluation_report.write_csv(
            args.per_image, ('label',) + instance_metrics.ImageScore._fields[:-1] + ('matched',),
            [(os.path.basename(label),) + row[:-1] + row.matches[:1] for (_, label), _, row in scored])
    if args.worst:
        worst = [(*each, args.ignore) for each in scored[:args.worst_num]]
        return evaluation_report.draw_worst(args.worst, draw, worst)


if __name__ == '__main__':
    command_line.run(main)
