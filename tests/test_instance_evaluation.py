"""data/instance_evaluation.py, and data/common/instance_metrics.py against their definitions."""
import cv2
import numpy as np
import PIL.Image
import pytest

from data import instance_evaluation as evaluation
from data.common import instance_metrics as metrics


def write(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), array)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """pred/ and lab/ of three images a, b, c, the second of which is half right; images/; the working folder."""
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


@pytest.mark.parametrize('prepare', [lambda home: None, as_numbered_masks])
def test_masks_match_by_name_or_by_number(home, run_script, prepare):
    prepare(home)
    outcome = run_script(evaluation, 'pred', 'lab')
    assert outcome.status in (None, 0) and outcome.err == ''
    assert outcome.out.startswith('3 images, 6 labelled and 5 predicted instances\n')
    assert table(outcome.out) == {'SBD': 0.8333, 'DiC': -0.33, '|DiC|': 0.33, 'foreground Dice': 0.8889,
                                  'AP': 0.8333, 'AP50': 0.8333}


def test_ignored_pixels_are_excluded_from_all_scores(home, run_script):
    for name in 'abc':
        label = cv2.imread(str(home / f'lab/{name}.png'), cv2.IMREAD_UNCHANGED)
        label[label == 300] = 255
        write(home / f'lab/{name}.png', label)
    outcome = run_script(evaluation, 'pred', 'lab', '--ignore', 255)
    assert outcome.status in (None, 0) and outcome.out.startswith('3 images, 3 labelled and 3 predicted instances\n')
    assert table(outcome.out) == {'SBD': 1, 'DiC': 0, '|DiC|': 0, 'foreground Dice': 1, 'AP': 1, 'AP50': 1}


@pytest.mark.parametrize('orientation, turn', [(6, cv2.ROTATE_90_COUNTERCLOCKWISE), (3, cv2.ROTATE_180)])
def test_labels_are_turned_by_the_exif_orientation_of_their_images(home, run_script, orientation, turn):
    exif = PIL.Image.Exif()
    exif[0x112] = orientation
    for name in 'abc':   # stored as the camera was held, while predictions are upright
        label = cv2.rotate(cv2.imread(f'lab/{name}.png', -1), turn)
        write(home / f'lab/{name}.png', label)
        PIL.Image.new('RGB', label.shape[::-1]).save(f'images/{name}.jpg', exif=exif)
    outcome = run_script(evaluation, 'pred', 'lab', '--images', 'images')
    assert outcome.status in (None, 0) and table(outcome.out)['SBD'] == 0.8333
    outcome = run_script(evaluation, 'pred', 'lab')
    assert 'EXIF orientation, give --images' in outcome.err if orientation == 6 else table(outcome.out)['SBD'] < 0.5


def test_per_image_scores_are_worst_first(home, run_script):
    outcome = run_script(evaluation, 'pred', 'lab', '--per-image', 'new/scores.csv')
    assert outcome.status in (None, 0)
    assert (home / 'new/scores.csv').read_text().splitlines()[:3] == [
        'label,sbd,dic,foreground_dice,label_instances,predicted_instances,matched',
        f'b.png,0.5,-1,{800 / 1200},2,1,1', 'a.png,1.0,0,1.0,2,2,2']


def gone(path):
    return lambda home: (home / path).unlink()


def picture(path, array):
    return lambda home: write(home / path, array)


def numbered(home):
    """Two masks for three labels."""
    as_numbered_masks(home)
    (home / 'pred/mask_0001.png').unlink()


@pytest.mark.parametrize('line, spoil, words', [
    ('pred lab', gone('pred/b.png'), "pred and lab: only one holds 'b' (1 masks lack"),
    ('pred lab', gone('lab/b.png'), "pred and lab: only one holds 'b'"),
    ('pred lab', numbered, 'pred/mask_0001.png: there are 2 such masks for 3'),
    ('pred lab', picture('pred/a.bmp', np.zeros((60, 80))), 'pred/a.bmp: is ambiguous'),
    ('pred lab', picture('pred/b.png', np.zeros((60, 80))), 'pred/b.png: is 80 x 60, but its label lab/b.png is 81 x'),
    ('pred lab --images images', lambda home: (home / 'images/b.jpg').write_text(''), 'images/b.jpg'),
    ('pred lab --images images', gone('images/b.jpg'), 'lab/b.png: has no image of that name'),
    ('pred lab --per-image lab/a.png', lambda home: None, '--per-image lab/a.png: is an input itself')])
def test_bad_input_is_one_line_and_changes_nothing(line, spoil, words, home, run_script):
    spoil(home)
    before = {path: path.read_bytes() for path in home.rglob('*') if path.is_file()}
    outcome = run_script(evaluation, *line.split())
    assert outcome.status == 1 and words in outcome.err and outcome.err.count('\n') == 1 and outcome.out == ''
    assert {path: path.read_bytes() for path in home.rglob('*') if path.is_file()} == before


# ---- Measures --------------------------------------------------------------------------------------------------------

def plain_dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def plain_masks(ids):
    return [ids == value for value in np.unique(ids) if value]


def plain_best_dice(a, b):
    return np.mean([max(plain_dice(mask, other) for other in b) for mask in a])


def plain_average_precision(pairs, threshold):
    """The area in steps as in Cityscapes' program between (recall 0, precision 1) and the point of all predictions."""
    hits = missed = predictions = 0
    for prediction, label in pairs:
        predicted = plain_masks(prediction)
        found = sum(any((mask & other).sum() / (mask | other).sum() > threshold for other in predicted)
                    for mask in plain_masks(label))
        hits, missed = hits + found, missed + len(plain_masks(label)) - found
        predictions += len(predicted)
    recall = hits / (hits + missed)
    return (recall / 2) * 1 + (recall / 2) * hits / predictions


def plain_score(pairs):
    masks = [(plain_masks(prediction), plain_masks(label)) for prediction, label in pairs]
    dic = [len(a) - len(b) for a, b in masks]
    precisions = [plain_average_precision(pairs, threshold / 100) for threshold in range(50, 100, 5)]
    return {'sbd': np.mean([min(plain_best_dice(a, b), plain_best_dice(b, a)) for a, b in masks]),
            'dic': np.mean(dic), 'abs_dic': np.mean(np.abs(dic)),
            'foreground_dice': np.mean([plain_dice(prediction > 0, label > 0) for prediction, label in pairs]),
            'ap': np.mean(precisions), 'ap50': precisions[0]}


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


def score(predictions, labels):
    return metrics.summarise([metrics.score_image(*pair) for pair in zip(predictions, labels)])


@pytest.mark.parametrize('seed', range(3))
def test_measures_match_their_definitions(seed):
    rng = np.random.default_rng(seed)
    pairs = [random_pair(rng) for _ in range(5)]
    ours, plain = score(*zip(*pairs)), plain_score(pairs)
    assert ours == pytest.approx(plain, abs=1e-12)
    assert 0 < ours['ap'] < ours['ap50'] < 1 and 0 < ours['sbd'] < 1


def strip(*values):
    return np.array([values], np.uint8)


def test_a_split_instance_by_hand():
    row = metrics.score_image(strip(1, 1, 1, 2, 0, 0), strip(7, 7, 7, 7, 0, 0))
    # BD(prediction, label) = (6/7 + 2/5) / 2; BD(label, prediction) = 6/7; IoU 3/4.
    assert row.sbd == pytest.approx((6 / 7 + 2 / 5) / 2) and row.dic == 1 and row.foreground_dice == 1
    assert row.matches == (1,) * 5 + (0,) * 5
    means = metrics.summarise([row])
    assert means['ap50'] == 1 * (1 + 1 / 2) / 2 and means['ap'] == means['ap50'] / 2


def test_an_iou_of_exactly_the_threshold_is_no_match():
    assert metrics.score_image(strip(1, 1), strip(1, 0)).matches[0] == 0
    half = strip(*[1] * 20), strip(*[1] * 13 + [0] * 7)   # IoU 0.65
    assert metrics.score_image(*half).matches == (1, 1, 1) + (0,) * 7


def test_pixels_with_a_negative_label_are_ignored():
    label, prediction = strip(1, 1, 0, 2, 2, 2), strip(7, 7, 7, 8, 8, 0)
    ignored = np.where([[0, 0, 1, 0, 0, 1]], -1, label.astype(np.int32))
    kept = label[:, [0, 1, 3, 4]]
    assert metrics.score_image(prediction, ignored) == metrics.score_image(kept, kept)
    row = metrics.score_image(strip(3, 0), np.full((1, 2), -1))   # an instance of only ignored pixels does not count
    assert (row.predicted_instances, row.label_instances, row.sbd, row.foreground_dice) == (0, 0, 1, 1)


NOTHING, ONE = strip(0, 0, 0), strip(0, 5, 5)


@pytest.mark.parametrize('prediction, label, expected', [
    (NOTHING, NOTHING, (1, 0, 1, 1)), (ONE, NOTHING, (0, 1, 0, 0)), (NOTHING, ONE, (0, -1, 0, 0)),
    (ONE, ONE, (1, 0, 1, 1))])
def test_images_without_instances(prediction, label, expected):
    means = score([prediction], [label])
    assert tuple(means[name] for name in ('sbd', 'dic', 'foreground_dice', 'ap')) == expected
