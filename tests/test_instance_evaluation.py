"""data/instance_evaluation.py: pairs of masks, the table, scores of each image."""
import cv2
import numpy as np
import PIL.Image
import pytest

from data import instance_evaluation as evaluation


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
    ('pred lab --images images', gone('images/b.jpg'), 'lab/b.png: has no image of its name'),
    ('pred lab --per-image lab/a.png', lambda home: None, '--per-image lab/a.png: is an input itself')])
def test_bad_input_is_one_line_and_changes_nothing(line, spoil, words, home, run_script):
    spoil(home)
    before = {path: path.read_bytes() for path in home.rglob('*') if path.is_file()}
    outcome = run_script(evaluation, *line.split())
    assert outcome.status == 1 and words in outcome.err and outcome.err.count('\n') == 1 and outcome.out == ''
    assert {path: path.read_bytes() for path in home.rglob('*') if path.is_file()} == before
