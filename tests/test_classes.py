"""A class per instance, from the label file to the mask: class * 1000 + n in a label, names in classes.txt."""
import json

import cv2
import numpy as np
import pytest

from data.common import pictures, quiet, settings, validation
from data.lanes import lines

quiet.import_tensorflow()
import tensorflow.compat.v1 as tf

import clustering
import inference
import loss
import reference
import test_training
import training
import visualization

NETWORK = reference.small_enet()
FLAGS = ['--kind', 'road', '--image-size', '64', '32', '--batch-size', '5', '--no-augment', '--epochs', '1']


def draw(folder, values=(1000, 3000)):
    """A prepared data set of 12 images, each with two upright lines of these values."""
    (folder / 'images').mkdir(parents=True)
    (folder / 'labels').mkdir()
    for i in range(12):
        photo, label = np.full([32, 64, 3], 80 + 2 * i, np.uint8), np.zeros([32, 64], np.uint16)
        for x, value in zip((10, 40), values):
            photo[8:, x:x + 6], label[8:, x:x + 6] = 240, value
        cv2.imwrite(str(folder / f'images/{i:04d}.png'), photo)
        cv2.imwrite(str(folder / f'labels/{i:04d}.png'), label)
    (folder / 'classes.txt').write_text('solid\ndashed\ndots\n')
    return folder


@pytest.fixture(scope='module')
def home(tmp_path_factory):
    """A folder with a data set `data` and a model `saved_model` of two steps on it."""
    folder = tmp_path_factory.mktemp('home')
    draw(folder / 'data')
    with pytest.MonkeyPatch.context() as patch:
        test_training.quicken(patch)
        patch.chdir(folder)
        assert training.main(FLAGS, NETWORK) == 0
        yield folder


def test_the_loss_is_the_cross_entropy_of_pixels_that_are_not_ignored():
    scores = np.random.default_rng(1).normal(size=[1, 2, 2, 3]).astype(np.float32)
    with tf.Graph().as_default(), tf.Session() as sess:
        labels = [[[0, 1003], [2000, -1]]], -np.ones([1, 2, 2])
        value, none = sess.run([loss.class_log_loss(tf.constant(scores), each) for each in labels])
    odds = np.exp(scores[0])
    background, first, second = odds[0, 0, 0] / odds[0, 0].sum(), odds[0, 1], odds[1, 0]
    foreground = -np.log([background, first[1:].sum() / first.sum(), second[1:].sum() / second.sum()]).mean()
    of_classes = -np.log([first[1] / first[1:].sum(), second[2] / second[1:].sum()]).mean()
    assert none == 0 and value == pytest.approx(foreground + of_classes)


def test_an_instance_takes_the_class_with_most_weight():
    share = np.array([[[0.2, 0.5, 0.3], [0.2, 0.5, 0.3], [0, 0.01, 0.99]], [[1, 0, 0], [0.1, 0.3, 0.6], [1, 0, 0]]])
    ids, scores = np.array([[1, 1, 3], [0, 3, 0]]), np.log(share + 1e-9) + 5
    assert clustering.instance_classes(scores, ids).tolist() == [0, 1, 0, 2]
    output = np.concatenate([ids[..., None], scores], axis=-1)
    np.testing.assert_allclose(clustering.split_output(output, 1)[1], 1 - share[..., 0], atol=1e-6)
    label = np.array([[1000, 1000, 1001], [0, -1, 0]])   # the last one has class 2 from its only pixel
    assert validation.count_classes(output, label, settings.Settings(feature_dim=1)) == (1, 2)


def test_a_model_records_its_classes_and_hands_them_on(home, run_script, monkeypatch):
    monkeypatch.chdir(home)
    record = settings.read('saved_model')
    assert record.classes == ('solid', 'dashed', 'dots') and record.foreground_weight == 2
    (home / 'data/classes.txt').unlink()
    flags = '-m', 'saved_model', '-o', 'tuned', '-l', 'tuned_log', *FLAGS
    tuned = run_script(training, *flags, architecture=NETWORK)
    assert tuned.status == 0 and '103 of 103 variables are from' in tuned.out
    assert settings.read('tuned').classes == record.classes
    (home / 'two.txt').write_text('car\nvan')
    other = run_script(training, *flags, '--classes', 'two.txt', architecture=NETWORK)
    assert other.status == 1 and '--classes was solid dashed dots, is car van' in other.err


@pytest.mark.parametrize('text, problem', [
    ('car', 'labels/'), ('a\n\nb', 'has 2 unique names in 3 lines'), ('a\na', 'has 1 unique names'),
    ('\n'.join(map(str, range(65))), 'at most 64')])
def test_a_class_file_that_does_not_fit_is_one_line(text, problem, tmp_path, run_script, monkeypatch):
    monkeypatch.chdir(tmp_path)
    draw(tmp_path / 'data')
    (tmp_path / 'names.txt').write_text(text)
    result = run_script(training, *FLAGS, '--classes', 'names.txt', architecture=NETWORK)
    assert result.status == 1 and len(result.err.splitlines()) == 1 and problem in result.err


def test_results_have_the_classes(home, run_script, tmp_path, monkeypatch):
    ids = np.zeros([32, 64], int)
    ids[8:, 10:16], ids[8:, 40:46] = 1, 2
    monkeypatch.setattr(clustering, 'instance_ids', lambda *args: ids)
    monkeypatch.setattr(clustering, 'instance_classes', lambda scores, ids: np.array([0, 1, 1]))
    monkeypatch.setattr(lines, 'lanes_and_confidences', lambda ids, size, rows, *args: (
        [np.full(len(rows), x) for x in (12, 42)], [1., 1.]))
    model = '-m', home / 'saved_model'
    result = run_script(inference, *model, '-i', home / 'data/images', '-o', tmp_path, '--masks', '--json',
                        tmp_path / 'lanes.json', architecture=NETWORK)
    assert result.status == 0 and 'classes: solid 24' in result.out
    records = (tmp_path / 'lanes.json').read_text().splitlines()
    assert [json.loads(line)['classes'] for line in records] == [['solid', 'solid']] * 12
    mask = pictures.read_label(tmp_path / 'mask_0003.png')
    np.testing.assert_array_equal(mask, np.array([0, 1000, 1001])[ids])
    first, second = pictures.read_image(tmp_path / 'cluster_0003.png')[20, [12, 42]]
    assert (first != second).any()   # two shades
    np.testing.assert_allclose(first, np.multiply(visualization.colour(0), 0.55) + 0.45 * 240, atol=1)
    exported = run_script(inference, *model, '--export', tmp_path / 'out', architecture=NETWORK)
    assert exported.status == 0 and 'classes    float32 [?, ?, ?, 4]' in exported.out


def test_a_model_without_classes_has_the_same_record_and_heads():
    run = settings.Settings(foreground_weight=1.)
    assert 'classes' not in json.loads(settings.to_json(run, everything=True)) and run.clusters_foreground
    assert run.heads == {'Instance': 3, 'Semantic': 2}
