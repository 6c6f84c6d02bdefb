"""data/coco_dataset_processing.py and data/common/segmentations.py, on annotations made by the tests."""
import itertools
import json
import os

import cv2
import numpy as np
import pytest

import datagenerator
from data import coco_dataset_processing as processing
from data.common import segmentations

SHAPE = (12, 16)


def square(x, y, size):
    return [x, y, x + size, y, x + size, y + size, x, y + size]


def run_lengths(mask):
    """Uncompressed: column by column, of 0s and 1s in turn."""
    counts = [len(list(run)) for _, run in itertools.groupby(mask.T.ravel().tolist())]
    return {'size': list(mask.shape), 'counts': [0] * bool(mask[0, 0]) + counts}


def compress(counts):
    """As described in the comment of rleToString in COCO's maskApi.c."""
    text = ''
    for i, count in enumerate(counts):
        rest, more = count - (counts[i - 2] if i > 2 else 0), True
        while more:
            low, rest = rest & 31, rest >> 5
            more = rest != (-1 if low & 16 else 0)
            text += chr(low + 32 * more + 48)
    return text


@pytest.fixture
def home(tmp_path, monkeypatch):
    """a.json of three images in p/: two instances, one and a crowd region, and none; the working folder."""
    (tmp_path / 'p/sub').mkdir(parents=True)
    names = 'one.jpg', 'sub/two.png', 'three.png'
    for i, name in enumerate(names):
        assert cv2.imwrite(str(tmp_path / 'p' / name), np.full((*SHAPE, 3), 60 * i, np.uint8))
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'a.json').write_text(json.dumps({
        'images': [{'id': 7 + i, 'file_name': name, 'width': 16, 'height': 12} for i, name in enumerate(names)],
        'categories': [{'id': 3, 'name': 'cat'}, {'id': 4, 'name': 'dog'}],
        'annotations': [{'image_id': 7, 'category_id': 3, 'iscrowd': 0, 'segmentation': [square(5, 2, 3)]},
                        {'image_id': 7, 'category_id': 4, 'iscrowd': 0, 'segmentation': [square(2, 1, 9)]},
                        {'image_id': 8, 'category_id': 4, 'segmentation': [square(0, 0, 4)]},
                        {'image_id': 8, 'category_id': 4, 'iscrowd': 1,
                         'segmentation': {'size': [12, 16], 'counts': [60, 4, 60, 4, 64]}}]}))
    return tmp_path


@pytest.fixture
def run(home, run_script):
    """run(edit, *args) -> Outcome of the script after edit(values of a.json)."""
    def run(edit=None, *args):
        if edit:
            values = json.loads((home / 'a.json').read_text())
            edit(values)
            (home / 'a.json').write_text(json.dumps(values))
        return run_script(processing, 'a.json', 'p', '-o', 'out', *args)
    return run


def image(index=0, **fields):
    return lambda values: values['images'][index].update(fields)


def first(**fields):
    return lambda values: values['annotations'][0].update(fields)


def label(name):
    return cv2.imread(f'out/labels/{name}.png', cv2.IMREAD_UNCHANGED)


def test_images_and_labels_are_written(run):
    outcome = run()
    assert outcome.status in (None, 0) and outcome.err == ''
    assert outcome.out == ('Skipped 1 crowd regions, 0 instances without visible pixels, 0 unusable annotations '
                           'and 1 images without instances.\n'
                           'Wrote 2 photos and 3 instances to out; skipped 0.\n')
    assert sorted(os.listdir('out/images')) == sorted(os.listdir('out/labels')) == ['one.png', 'sub_two.png']
    small, large = np.zeros((2, *SHAPE), bool)
    small[2:5, 5:8] = large[1:10, 2:11] = True
    assert (label('one') == np.where(small, 2, large)).all()   # the smaller one is on top, though listed first
    assert cv2.imread('out/images/sub_two.png').tolist() == np.full((*SHAPE, 3), 60).tolist()
    images, labels = datagenerator.find_samples('out')
    assert next(datagenerator.get_batches_fn(9, (16, 8), images, labels))[1].shape == (2, 8, 16)


@pytest.mark.parametrize('file_name', [
    'sub\\two.png', '../../media/upload/4/two.png', '/data/local-files/?d=photos/two.png', 'C:\\photos\\two.png',
    'https://host/photos/two.png?token=1', './sub/two.png'])
def test_paths_of_other_programs_are_matched_by_file_name(run, file_name):
    assert 'Wrote 2 photos and 3 instances' in run(image(1, file_name=file_name)).out
    assert label('sub_two') is not None


def test_image_with_an_ambiguous_file_name_is_skipped(home, run):
    (home / 'p/other').mkdir()
    (home / 'p/other/two.png').write_bytes((home / 'p/sub/two.png').read_bytes())
    outcome = run(image(1, file_name='x/two.png'))
    assert "a.json: image 'x/two.png' is not in p" in outcome.out and 'Wrote 1 photos and 2 instances' in outcome.out


@pytest.mark.parametrize('pieces, words', [(1, 'Skipped 1 crowd regions'), (2, 'Skipped 2 crowd regions')])
def test_crowd_masks_are_instances_if_connected(run, pieces, words):
    mask = np.zeros(SHAPE, bool)
    mask[2:6, 8:12] = True
    mask[2, 14] = pieces == 2
    outcome = run(lambda values: values['annotations'].append(
        {'image_id': 8, 'category_id': 4, 'iscrowd': 1, 'segmentation': run_lengths(mask)}))
    assert words in outcome.out and f'Wrote 2 photos and {5 - pieces} instances' in outcome.out


def test_only_the_given_categories_are_kept(run):
    outcome = run(None, '--categories', 'cat')
    assert 'Skipped 0 crowd regions' in outcome.out and 'Wrote 1 photos and 1 instances' in outcome.out
    assert np.count_nonzero(label('one')) == 9


def test_more_than_255_instances_are_written_in_16_bits(run):
    assert cv2.imwrite('p/three.png', np.zeros((30, 40, 3), np.uint8))
    annotations = [{'image_id': 9, 'segmentation': [square(i % 40, i // 40, 1)]} for i in range(700)]
    assert '700 instances' in run(lambda values: (image(2, width=40, height=30)(values),
                                                  values.update(annotations=annotations))).out
    assert label('three').dtype == np.uint16 and len(np.unique(label('three'))) == 701


@pytest.mark.parametrize('seed', range(4))
def test_polygon_contains_the_pixels_whose_centre_is_inside(seed):
    """By winding number: the angles to successive corners sum to a full turn inside and 0 outside."""
    rng = np.random.default_rng(seed)
    corners = rng.uniform(-4, 20, (rng.integers(3, 9), 2)) + 1e-4
    y, x = np.mgrid[:12, :16] + 0.5
    steps = corners[:, None, None] - np.stack([x, y], axis=-1)
    angles = np.arctan2(steps[..., 1], steps[..., 0])
    turns = np.roll(angles, -1, axis=0) - angles
    windings = np.rint(((turns + np.pi) % (2 * np.pi) - np.pi).sum(0) / (2 * np.pi)).astype(int)
    assert (segmentations.draw([corners.ravel().tolist()], SHAPE) == (windings % 2 == 1)).all()


@pytest.mark.parametrize('seed', range(4))
def test_run_lengths_are_read_compressed_or_not(seed):
    rng = np.random.default_rng(seed)
    mask = rng.random((rng.integers(1, 40), rng.integers(1, 90))) < rng.choice([0, 0.01, 0.3, 0.99, 1])
    plain = run_lengths(mask)
    assert (segmentations.draw(plain, mask.shape) == mask).all()
    assert (segmentations.draw({**plain, 'counts': compress(plain['counts'])}, mask.shape) == mask).all()
    assert segmentations.encode(mask) == {**plain, 'counts': compress(plain['counts'])}


@pytest.mark.parametrize('segmentation, reason', [
    ([], 'has no segmentation'), ([[1, 2, 3, 4]], 'has a polygon that is not'),
    ([list('123456')], 'has a polygon that is not'), ([[1, 2, float('nan'), 4, 5, 6]], 'has a polygon that is not'),
    ({'size': [16, 12], 'counts': [192]}, 'do not fit the image'),
    ({'size': [12, 16], 'counts': [-1, 193]}, 'do not fit the image'),
    ({'size': [12, 16], 'counts': 'é'}, 'are damaged')])
def test_unusable_annotation_is_counted_and_skipped(run, segmentation, reason):
    outcome = run(first(segmentation=segmentation))
    assert '1 unusable annotations' in outcome.out and 'Wrote 2 photos and 2 instances' in outcome.out
    with pytest.raises(ValueError, match=reason):
        segmentations.draw(segmentation, SHAPE)


@pytest.mark.parametrize('size', [{'width': 16., 'height': 12.}, {'width': None}])
def test_numbers_may_be_fractions_text_or_missing(run, size):
    outcome = run(lambda values: (first(image_id=7., category_id='3')(values), image(**size)(values)),
                  '--categories', 'cat')
    assert 'Wrote 1 photos and 1 instances' in outcome.out


def test_annotations_without_an_image_are_counted(run):
    outcome = run(lambda values: values['annotations'].extend([{'image_id': 99}, {}, 7]))
    assert '3 unusable annotations' in outcome.out and 'Wrote 2 photos and 3 instances' in outcome.out


@pytest.mark.parametrize('edit, reason', [
    (image(width=12, height=16), 'p/one.jpg: is 16 x 12, but annotated as 12 x 16'),
    (image(file_name='absent.jpg'), "a.json: image 'absent.jpg' is not in p"),
    (image(file_name=None), "a.json: image 'None' is not in p"), (image(file_name='\ud800.jpg'), 'is not in p'),
    (image(id=None), "image 'one.jpg' has no unique id"),
    (lambda values: (values['images'][0].update(id=8), values['images'].reverse()), 'no unique id'),
    (lambda values: [each.update(segmentation=[square(90, 90, 2)]) for each in values['annotations'][:2]],
     'none of its 2 annotations is an instance')])
def test_unusable_image_is_reported_and_skipped(run, edit, reason):
    outcome = run(edit)
    assert outcome.status in (None, 0) and outcome.err == ''
    problem, _, summary = outcome.out.splitlines()
    assert reason in problem and summary == 'Wrote 1 photos and 1 instances to out; skipped 1.'
    assert os.listdir('out/labels') == ['sub_two.png']


def text(words):
    return lambda home: (home / 'a.json').write_text(words)


@pytest.mark.parametrize('spoil, words', [
    (text('[1, 2'), 'a.json: is not JSON'), (text('[' * 10 ** 5), 'a.json: is not JSON'),
    (text('[]'), 'a.json: has no list "annotations"'), (text('{"annotations": []}'), 'a.json: has no list "images"'),
    (lambda home: [path.unlink() for path in home.glob('p/**/*.*g')],
     "none of 0 images has an instance; the first problem: a.json: image 'one.jpg' is not in p")])
def test_bad_input_is_one_line_and_writes_nothing(home, run, spoil, words):
    spoil(home)
    outcome = run()
    assert outcome.status == 1 and words in outcome.err and outcome.err.count('\n') == 1 and outcome.out == ''
    assert not (home / 'out').exists()


def test_unknown_category_is_rejected(run):
    outcome = run(None, '--categories', 'cat', 'cow')
    assert outcome.status == 1 and "a.json: has no category 'cow', but cat, dog" in outcome.err
