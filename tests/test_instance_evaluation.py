"""data/instance_evaluation.py: the measures, against slow ones written from their definitions, and the script."""

import csv
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest

from conftest import ROOT
from data import instance_evaluation as evaluation


# ---- The definitions, one after the other, without any thought of speed ----------------------------------------------

def plain_dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def plain_masks(ids):
    return [ids == value for value in np.unique(ids) if value]


def plain_best_dice(a, b):
    total = 0
    for mask in a:
        best = 0
        for other in b:
            best = max(best, plain_dice(mask, other))
        total += best
    return total / len(a)


def plain_average_precision(pairs, threshold):
    """The curve of Cityscapes' program: matches with a confidence each, then the area in steps between its points."""
    hits, confidences, missed = [], [], 0
    for prediction, label in pairs:
        predicted, visited = plain_masks(prediction), set()
        for mask in plain_masks(label):
            found = False
            for i, other in enumerate(predicted):
                if (mask & other).sum() / (mask | other).sum() > threshold:
                    assert not found and i not in visited
                    found = True
                    visited.add(i)
                    hits.append(1)
                    confidences.append(1)
            missed += not found
        hits += [0] * (len(predicted) - len(visited))
        confidences += [1] * (len(predicted) - len(visited))
    precision, recall = [], []
    for confidence in sorted(set(confidences)):
        accepted = [hit for hit, value in zip(hits, confidences) if value >= confidence]
        precision.append(sum(accepted) / len(accepted))
        recall.append(sum(accepted) / (sum(hits) + missed))
    precision.append(1)
    recall.append(0)
    padded = [recall[0], *recall, 0]
    widths = [(padded[i] - padded[i + 2]) / 2 for i in range(len(recall))]
    return sum(p * width for p, width in zip(precision, widths))


def plain_score(pairs):
    sbd, dic, foreground = [], [], []
    for prediction, label in pairs:
        a, b = plain_masks(prediction), plain_masks(label)
        sbd.append(min(plain_best_dice(a, b), plain_best_dice(b, a)))
        dic.append(len(a) - len(b))
        foreground.append(plain_dice(prediction > 0, label > 0))
    thresholds = [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95]
    precisions = [plain_average_precision(pairs, threshold) for threshold in thresholds]
    return {'sbd': np.mean(sbd), 'dic': np.mean(dic), 'abs_dic': np.mean(np.abs(dic)),
            'foreground_dice': np.mean(foreground), 'ap': np.mean(precisions), 'ap50': precisions[0]}


def random_pair(rng, shape=(40, 50)):
    """A label of discs, and a prediction that misses, merges, moves and invents some of them."""
    dtype = rng.choice([np.uint8, np.uint16, np.int32])
    label, prediction = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    values = rng.choice(np.iinfo(dtype).max, 40, replace=False) + 1
    for i in range(rng.integers(1, 12)):
        centre, radius = rng.integers(0, 50, 2).tolist(), int(rng.integers(2, 12))
        cv2.circle(label, centre, radius, int(values[i]), -1)
        if rng.random() < 0.8:
            moved = (np.array(centre) + rng.integers(-2, 3, 2)).tolist()
            cv2.circle(prediction, moved, max(radius + int(rng.integers(-2, 3)), 0), int(rng.choice(values[:20])), -1)
    cv2.circle(label, (25, 20), 4, int(values[0]), -1)
    cv2.circle(prediction, rng.integers(0, 40, 2).tolist(), 3, int(values[-1]), -1)
    return prediction.astype(dtype), label.astype(dtype)


@pytest.mark.parametrize('seed', range(20))
def test_measures_are_those_of_the_definitions(seed):
    rng = np.random.default_rng(seed)
    pairs = [random_pair(rng) for _ in range(5)]
    ours, plain = evaluation.score(*zip(*pairs)), plain_score(pairs)
    assert ours.keys() == plain.keys()
    for name, value in plain.items():
        assert ours[name] == pytest.approx(value, abs=1e-12), name
    assert 0 < ours['ap'] < ours['ap50'] < 1 and 0 < ours['sbd'] < 1


def test_noise_of_sixteen_bits_needs_no_table_of_all_pairs():
    rng = np.random.default_rng(0)
    prediction, label = rng.integers(0, 2 ** 16, (2, 300, 300), np.uint16)
    row = evaluation.score_image(prediction, label)
    assert row.predicted_instances > 40_000 and 0 < row.sbd < 1


# ---- Corners, by hand ------------------------------------------------------------------------------------------------

def strip(*values):
    return np.array([values], np.uint8)


def test_a_split_instance_by_hand():
    row = evaluation.score_image(strip(1, 1, 1, 2, 0, 0), strip(7, 7, 7, 7, 0, 0))
    # BD(prediction, label) = (6/7 + 2/5) / 2; BD(label, prediction) = 6/7; IoU 3/4.
    assert row.sbd == pytest.approx((6 / 7 + 2 / 5) / 2) and row.dic == 1 and row.foreground_dice == 1
    assert row.matches == (1,) * 5 + (0,) * 5
    means = evaluation.summarise([row])
    assert means['ap50'] == 1 * (1 + 1 / 2) / 2 and means['ap'] == means['ap50'] / 2


def test_one_prediction_may_be_the_best_of_two_labels():
    row = evaluation.score_image(strip(1, 1, 1, 1), strip(1, 1, 2, 2))
    assert row.sbd == pytest.approx(2 / 3) and row.dic == -1 and row.matches == (0,) * 10


def test_an_iou_of_exactly_the_threshold_is_no_match():
    assert evaluation.score_image(strip(1, 1), strip(1, 0)).matches[0] == 0
    half = strip(*[1] * 20), strip(*[1] * 13 + [0] * 7)   # IoU 0.65
    assert evaluation.score_image(*half).matches == (1, 1, 1) + (0,) * 7


def test_values_of_the_ids_mean_nothing():
    prediction, label = random_pair(np.random.default_rng(3))
    swapped = {value: 1 + i for i, value in enumerate(np.unique(label[label > 0])[::-1])}
    renamed = np.vectorize(lambda value: swapped.get(value, 0))(label)
    assert evaluation.score_image(prediction, renamed) == evaluation.score_image(prediction, label)


NOTHING, ONE = strip(0, 0, 0), strip(0, 5, 5)


@pytest.mark.parametrize('prediction, label, expected', [
    (NOTHING, NOTHING, (1, 0, 1, 1)), (ONE, NOTHING, (0, 1, 0, 0)), (NOTHING, ONE, (0, -1, 0, 0)),
    (ONE, ONE, (1, 0, 1, 1))])
def test_images_without_instances(prediction, label, expected):
    means = evaluation.score([prediction], [label])
    assert tuple(means[name] for name in ('sbd', 'dic', 'foreground_dice', 'ap')) == expected


def test_differences_in_count_of_both_signs_do_not_cancel_in_the_absolute_mean():
    means = evaluation.score([ONE, NOTHING], [NOTHING, ONE])
    assert (means['dic'], means['abs_dic']) == (0, 1)


def test_what_cannot_be_scored_is_a_value_error():
    with pytest.raises(ValueError, match='does not fit'):
        evaluation.score([strip(1, 1)], [strip(1)])
    with pytest.raises(ValueError, match='no images'):
        evaluation.score([], [])
    with pytest.raises(ValueError):
        evaluation.score([ONE], [ONE, ONE])


# ---- The script ------------------------------------------------------------------------------------------------------

def write(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), array)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """pred/ and lab/ of three pictures a, b, c, the second of which is half right; images/; the working folder."""
    for i, name in enumerate('abc'):
        label = np.zeros((60, 80 + i), np.uint16)
        label[10:30, 10:30], label[30:50, 40:60] = 300, 2
        prediction = np.where(label == 2, 9, label if name != 'b' else 0)
        write(tmp_path / f'lab/{name}.png', label)
        write(tmp_path / f'pred/{name}.png', prediction.astype(np.uint16))
        write(tmp_path / f'images/{name}.jpg', np.full((60, 80 + i, 3), 90, np.uint8))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def table(out):
    return {line[:17].strip(): float(line[17:24]) for line in out.splitlines()[1:]}


def as_numbered_masks(home):
    for i, name in enumerate('abc'):
        (home / f'pred/{name}.png').rename(home / f'pred/mask_{i:04d}.png')
        write(home / f'pred/cluster_{i:04d}.png', np.zeros((9, 9, 3), np.uint8))


@pytest.mark.parametrize('prepare', [lambda home: None, as_numbered_masks], ids=['by name', 'by number'])
def test_table_of_a_folder(home, run_script, prepare):
    prepare(home)
    outcome = run_script(evaluation, 'pred', 'lab')
    assert outcome.status in (None, 0) and outcome.err == ''
    assert outcome.out.startswith('3 images, 6 labelled and 5 predicted instances\n')
    assert table(outcome.out) == {'SBD': 0.8333, 'DiC': -0.33, '|DiC|': 0.33, 'foreground Dice': 0.8889,
                                  'AP': 0.8333, 'AP50': 0.8333}


def test_labels_that_are_called_masks_are_matched_by_name(home, run_script):
    as_numbered_masks(home)
    for i, name in enumerate('bac'):   # not in the order of the names before
        (home / f'lab/{name}.png').rename(home / f'lab/mask_{i:04d}.png')
    outcome = run_script(evaluation, 'pred', 'lab')
    assert outcome.status == 1 and 'cluster_0000.png: has no label' in outcome.err


def test_per_image_scores_are_worst_first(home, run_script):
    outcome = run_script(evaluation, 'pred', 'lab', '--per-image', 'new/scores.csv')
    assert outcome.status in (None, 0)
    with open(home / 'new/scores.csv', newline='') as file:
        rows = list(csv.DictReader(file))
    assert [row['label'] for row in rows] == ['b.png', 'a.png', 'c.png']
    assert rows[0] == {'label': 'b.png', 'sbd': '0.5', 'dic': '-1', 'foreground_dice': str(800 / 1200),
                       'label_instances': '2', 'predicted_instances': '1', 'matched': '1'}


def is_colour(picture, colour):
    return (picture == colour).all(axis=2).sum()


@pytest.mark.parametrize('flags', [[], ['--images', 'images']])
def test_the_worst_are_drawn_with_what_is_missed_in_red(home, run_script, flags):
    outcome = run_script(evaluation, 'pred', 'lab', '--worst', 'worst', '--worst-num', 2, *flags)
    assert outcome.status in (None, 0) and outcome.err == ''
    assert sorted(os.listdir(home / 'worst')) == ['0000.png', '0001.png']
    worst, good = (cv2.imread(str(home / f'worst/000{i}.png'))[64:, :2 * 81 - i * 2, ::-1] for i in range(2))
    outline = 4 * 4 * 19 + 16   # two pixels wide, on both sides, of a square of 20
    assert is_colour(worst, evaluation.MISSED_COLOUR) == is_colour(worst, evaluation.MATCHED_COLOUR) == outline
    assert is_colour(good, evaluation.MISSED_COLOUR) == 0
    assert is_colour(good, evaluation.MATCHED_COLOUR) == 2 * outline
    grey = worst[58, 5].tolist()
    assert grey == ([90] * 3 if flags else [0] * 3)
    left, right = worst[20, 20], worst[20, 81 + 20]   # the instance that is missed: tinted on the left alone
    assert right.tolist() == grey and left.tolist() != grey


def test_a_photo_that_cannot_be_read_is_named_and_the_others_are_drawn(home, run_script):
    (home / 'images/b.jpg').write_text('text')
    outcome = run_script(evaluation, 'pred', 'lab', '--worst', 'worst', '--images', 'images')
    assert outcome.status == 1 and outcome.out.startswith('3 images')
    assert 'not drawn: images/b.jpg' in outcome.err and sorted(os.listdir(home / 'worst')) == ['0001.png', '0002.png']


def test_pictures_of_another_run_are_named_and_stay_and_links_are_not_followed(home, run_script):
    run_script(evaluation, 'pred', 'lab', '--worst', 'worst')
    (home / 'worst/0000.png').unlink()
    (home / 'worst/0000.png').symlink_to(home / 'lab/a.png')
    before = (home / 'lab/a.png').read_bytes()
    outcome = run_script(evaluation, 'pred', 'lab', '--worst', 'worst', '--worst-num', 1)
    assert outcome.status in (None, 0) and 'not of this run (0001.png, 2 in all)' in outcome.err
    assert (home / 'lab/a.png').read_bytes() == before and not (home / 'worst/0000.png').is_symlink()


def gone(path):
    return lambda home: (home / path).unlink()


def picture(path, array):
    return lambda home: write(home / path, array)


def bare(path):
    def spoil(home):
        for entry in list((home / path).iterdir()):
            entry.unlink()
    return spoil


def numbered_without(number):
    def spoil(home):
        as_numbered_masks(home)
        (home / f'pred/mask_{number:04d}.png').unlink()
    return spoil


def numbered_with_one_more(home):
    as_numbered_masks(home)
    write(home / 'pred/mask_0003.png', np.zeros((60, 80), np.uint8))


BAD = {
    'label without prediction': ('pred lab', gone('pred/b.png'), 'lab/b.png: has no prediction in pred (2 pred'),
    'prediction without label': ('pred lab', gone('lab/b.png'), 'pred/b.png: has no label of its name in lab'),
    'number without mask': ('pred lab', numbered_without(1), 'lab/b.png: is number 1 of 3 labels, but pred has'),
    'more masks than labels': ('pred lab', numbered_with_one_more, 'pred/mask_0003.png: has no label'),
    'coloured mask': ('pred lab', picture('pred/a.png', np.eye(60, 80)[..., None] * np.array([255, 0, 9])),
                      'pred/a.png: is coloured'),
    'JPEG as mask': ('pred lab', picture('pred/a.jpg', np.zeros((60, 80))), 'pred/a.jpg: a JPEG does not keep'),
    'two of a name': ('pred lab', picture('pred/a.bmp', np.zeros((60, 80))), 'pred/a.png: has the same name as'),
    'another size': ('pred lab', picture('pred/b.png', np.zeros((60, 80))),
                     'pred/b.png: is 80 x 60, but its label lab/b.png is 81 x 60'),
    'no such folder': ('absent lab', None, 'absent: no such folder'),
    'a file as folder': ('pred lab/a.png', None, 'lab/a.png: is not a folder'),
    'nothing in it': ('pred lab', bare('pred'), 'pred: holds no pictures'),
    'text as mask': ('pred lab', lambda home: (home / 'pred/c.png').write_text('text'), 'pred/c.png: is not a PNG'),
    'cut mask': ('pred lab', lambda home: os.truncate(home / 'lab/c.png', 60), 'lab/c.png: is cut off'),
    'no photo': ('pred lab --worst w --images images', gone('images/b.jpg'), 'lab/b.png: has no photo of its name'),
    'scores over a mask': ('pred lab --per-image lab/a.png', None, '--per-image lab/a.png: is an input itself'),
    'scores over a photo': ('pred lab --worst w --images images --per-image images/a.jpg', None, 'is an input itself'),
    'scores in a folder': ('pred lab --per-image pred', None, '--per-image pred: is a folder'),
    'pictures among masks': ('pred lab --worst pred/../lab', None, '--worst pred/../lab: holds the masks'),
    'pictures below a file': ('pred lab --worst lab/a.png/w', None, 'lab/a.png/w: '),
}


@pytest.mark.parametrize('line, spoil, words', BAD.values(), ids=BAD.keys())
def test_bad_input_is_one_line_and_changes_nothing(line, spoil, words, home, run_script):
    if spoil:
        spoil(home)
    before = {path: path.read_bytes() for path in home.rglob('*') if path.is_file()}
    outcome = run_script(evaluation, *line.split())
    assert outcome.status == 1 and words in outcome.err and outcome.err.count('\n') == 1 and outcome.out == ''
    assert {path: path.read_bytes() for path in home.rglob('*') if path.is_file()} == before


@pytest.mark.parametrize('line, words', [
    ('', 'PREDICTED'), ('pred', 'LABELS'), ('pred lab --worst-num 0', '--worst-num'), ('pred lab --worst=', '--worst'),
    ('pred lab --per-image=', '--per-image'), ('pred lab --images images', '--images is of use')])
def test_bad_flags(line, words, home, run_script):
    outcome = run_script(evaluation, *line.split())
    assert outcome.status == 2 and words in outcome.err and outcome.err.count('\n') == 1


def test_runs_from_any_folder_without_tensorflow(home):
    code = ('import runpy, sys; sys.argv = sys.argv[1:]\n'
            'try: runpy.run_path(sys.argv[0], run_name="__main__")\n'
            'finally: print("tensorflow" in sys.modules)')
    script = os.path.join(ROOT, 'data/instance_evaluation.py')
    done = subprocess.run([sys.executable, '-c', code, script, 'pred', 'lab'], capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == '' and done.stdout.endswith('\nFalse\n')
