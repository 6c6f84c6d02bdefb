"""Scores instance masks with the measures of the leaf segmentation challenge, and with AP.

    python data/instance_evaluation.py results prepared/labels
    python data/instance_evaluation.py results labels --per-image scores.csv --images images

Both folders hold id masks, in the formats of training labels. They match one to one, by file name; mask_NNNN.png, as
written by inference.py --masks, match the sorted labels in order.
"""
import concurrent.futures
import os
import pathlib
import re
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import cv2
import numpy as np
import tqdm

from data.common import classes, command_line, files, instance_metrics, pictures
from data.common.command_line import InputError


def match_masks(predicted_dir, labels_dir):
    """Pairs predictions with labels, see above. -> list of (path of the prediction, path of the label). Raises
    InputError if a mask has no partner."""
    predictions, labels = pictures.list_images(predicted_dir), pictures.list_images(labels_dir)
    masks, others = ([path for path in paths if re.fullmatch(r'mask_\d{4,}\.png', os.path.basename(path))]
                     for paths in (predictions, labels))
    if masks and not others:
        expected = [os.path.join(predicted_dir, f'mask_{number:04d}.png') for number in range(len(labels))]
        if wrong := sorted(set(masks) ^ set(expected)):
            raise InputError(f'{wrong[0]}: there are {len(masks)} such masks for {len(labels)} labels in {labels_dir}')
        return list(zip(expected, labels))
    predictions, labels = by_name(predictions), by_name(labels)
    if unpaired := predictions.keys() ^ labels.keys():
        raise InputError(f'{predicted_dir} and {labels_dir}: only one holds {min(unpaired)!a} ({len(unpaired)} masks '
                         'lack a partner)')
    return [(predictions[name], labels[name]) for name in sorted(labels)]


def by_name(paths):
    """-> {file name without extension: path}. Raises InputError if two have the same name."""
    found = {pathlib.Path(path).stem: path for path in paths}
    if others := set(paths) - set(found.values()):
        raise InputError(f'{min(others)}: is ambiguous, as another mask has the same name')
    return found


def score_pair(pair, photos, ignore, has_classes):
    """Scores a prediction against its label, turned by its image's EXIF orientation. photos: {name: path} or None

    -> (ImageScore, {class: ImageScore} or {}). Raises InputError if a file cannot be read or sizes differ.
    """
    predicted, labelled = pair
    photo = photos and photos.get(pathlib.Path(labelled).stem)
    if photos and not photo:
        raise InputError(f'{labelled}: has no image of that name in --images')
    prediction = pictures.read_label(predicted).astype(np.int32)
    label = (pictures.read_pair(photo, labelled)[1] if photo else pictures.read_label(labelled)).astype(np.int32)
    if prediction.shape != label.shape:
        raise InputError(f'{predicted}: is {prediction.shape[1]} x {prediction.shape[0]}, but its label {labelled} is '
                         f'{label.shape[1]} x {label.shape[0]}; if its image has an EXIF orientation, give --images')
    label[label == ignore] = -1
    scores = instance_metrics.score_image(prediction, label)
    return scores, instance_metrics.score_classes(prediction, label) if has_classes else {}


def print_table(rows):
    """rows: list of ImageScore"""
    means = instance_metrics.summarise(rows)
    print(f'{len(rows)} images, {sum(row.label_instances for row in rows)} labelled and '
          f'{sum(row.predicted_instances for row in rows)} predicted instances')
    print(f'SBD              {means["sbd"]:7.4f}   symmetric best Dice, mean over the images')
    print(f'DiC              {means["dic"]:+7.2f}   predicted minus labelled instances, mean')
    print(f'|DiC|            {means["abs_dic"]:7.2f}   its absolute value, mean')
    print(f'foreground Dice  {means["foreground_dice"]:7.4f}   mean')
    print(f'AP               {means["ap"]:7.4f}   over all images, IoU 0.5 to 0.95')
    print(f'AP50             {means["ap50"]:7.4f}   at IoU 0.5')


def print_class_table(scores, names):
    """scores: list of {class: ImageScore}; names: of classes 1, 2, ... The mean is over the classes with labels."""
    print(f'{"class":<16} {"AP":>7} {"AP50":>7}   labelled  predicted')
    means = []
    for number in sorted({number for each in scores for number in each}):
        rows = [each[number] for each in scores if number in each]
        labelled, predicted = sum(row.label_instances for row in rows), sum(row.predicted_instances for row in rows)
        means.append([instance_metrics.summarise(rows)[name] if labelled else np.nan for name in ('ap', 'ap50')])
        name = names[number - 1] if number <= len(names) else f'class {number}'
        print('{:<16} {:7.4f} {:7.4f} {:10,} {:10,}'.format(name, *means[-1], labelled, predicted))
    if np.isfinite(means).any():
        print('{:<16} {:7.4f} {:7.4f}'.format('mean', *np.nanmean(means, axis=0)))


def main(argv=None):
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
    parser.add_argument('--images', metavar='DIR',
                        help='Folder of images named like the labels; their EXIF orientation applies to the labels.')
    args = parser.parse_args(argv)
    pairs = match_masks(args.predicted, args.labels)
    photos = args.images and by_name(pictures.list_images(args.images))
    if args.per_image:
        files.check_output_file('--per-image', args.per_image, sum(pairs, ()))
    path = args.classes or os.path.join(os.path.dirname(os.path.abspath(args.labels)), classes.FILE)
    names = classes.read(path) if args.classes or os.path.exists(path) else []
    cv2.setNumThreads(1)   # the threads below already run in parallel
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        scores = pool.map(lambda pair: score_pair(pair, photos, args.ignore, bool(names)), pairs)
        rows, of_classes = zip(*tqdm.tqdm(scores, total=len(pairs), unit='image', disable=None))
    print_table(rows)
    if names:
        print_class_table(of_classes, names)
    if args.per_image:
        scored = sorted(zip(pairs, rows), key=lambda each: (each[1].sbd, -abs(each[1].dic), each[0][1]))
        columns = 'label', *instance_metrics.ImageScore._fields[:-1], 'matched'
        files.write_csv(args.per_image, [columns, *((os.path.basename(label), *row[:-1], row.matches[0])
                                                    for (_, label), row in scored)])


if __name__ == '__main__':
    command_line.run(main)
