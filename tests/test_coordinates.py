"""utils.build_head with coordinates, and the models that have them: in the graph, in a training, and out of it."""

import functools
import json

import cv2
import numpy as np
import pytest

from data.common import quiet

quiet.import_tensorflow()
import tensorflow.compat.v1 as tf

import inference
import reference
import training
import utils
import visualization

NETWORK = reference.small_enet()
MODEL = utils.Conventions(image_size=(64, 40), normalisation='signed', feature_dim=4, head_activation='none',
                          batch_statistics=False, dropout_at_inference=False, kind='any', background_weight=0.,
                          foreground_weight=1., coordinates=True)
NAME = 'Instance/coordinates/weights'
FLAGS = ['--image-size', '64', '32', '--batch-size', '5', '--feature-dim', '2', '--background-weight', '0',
         '--foreground-weight', '1', '--learning-rate', '0.01', '--reg', '0', '--no-augment', '--workers', '1']


def coordinates(height, width):
    """Where pixels are, by the definition. -> float64 [height, width, 2], (x, y)"""
    y, x = np.mgrid[:height, :width] + 0.5
    return np.stack([2 * x - width, 2 * y - height], axis=-1) / max(width, height)


@pytest.mark.parametrize('height, width', [(40, 64), (64, 40), (16, 16)])
def test_place_is_added_to_the_embedding_in_the_unit_of_the_longer_side(height, width):
    with tf.Graph().as_default(), tf.Session() as sess:
        features = tf.placeholder(tf.float32, [None, None, None, 16])
        known = tf.ensure_shape(features, [2, height // 2, width // 2, 16])
        plain = utils.build_head(features, 4)
        assert {v.op.name for v in tf.global_variables()} == {f'Instance/{utils.HEAD}/{name}'
                                                              for name in ('weights', 'biases')}
        placed = [utils.build_head(x, 4, reuse=tf.AUTO_REUSE, reach=6.) for x in (features, known)]
        weights = tf.global_variables()[-1]
        assert weights.op.name == NAME and weights in utils.to_train() and NAME not in str(
            tf.get_collection(tf.GraphKeys.REGULARIZATION_LOSSES))
        sess.run(tf.global_variables_initializer())
        values = sess.run([plain, *placed], {features: np.random.default_rng(0).normal(
            size=[2, height // 2, width // 2, 16])})
        np.testing.assert_array_equal(sess.run(weights), 6 * np.eye(2, 4))
    for value in values[1:]:
        difference = value - values[0]
        np.testing.assert_allclose(difference[..., :2], np.broadcast_to(6 * coordinates(height, width),
                                                                        [2, height, width, 2]), atol=1e-5)
        assert not difference[..., 2:].any()


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    """A model with random weights, and what its graph of variables gives for photos of two sizes."""
    folder, rng = tmp_path_factory.mktemp('model'), np.random.default_rng(1)
    photos = [rng.integers(0, 256, [2, *size, 3], np.uint8) for size in ((40, 64), (56, 24))]
    with tf.Graph().as_default(), tf.Session() as sess:
        image = tf.placeholder(tf.uint8, [None, None, None, 3])
        output = utils.build_model(image, MODEL, architecture=NETWORK)
        sess.run(tf.global_variables_initializer())
        weights = next(v for v in tf.global_variables() if v.op.name == NAME)
        sess.run(tf.assign_add(weights, rng.normal(size=[2, 4])))
        tf.train.Saver().save(sess, str(folder / 'model.ckpt'))
        outputs = [sess.run(output, {image: photo}) for photo in photos]
    utils.write_conventions(folder, MODEL)
    return folder, photos, outputs


def assert_close(value, expected):
    np.testing.assert_allclose(value, expected, atol=1e-4 * np.abs(expected).max())


def test_inference_and_export_give_what_the_graph_of_variables_gives(model, tmp_path, run_script):
    folder, photos, outputs = model
    embed, conventions = inference.load_network(str(folder), NETWORK)   # constant weights, fused kernels, a known size
    assert conventions == MODEL
    assert_close(embed(photos[0]), outputs[0])
    outcome = run_script(inference, '-m', folder, '--export', tmp_path / 'out', architecture=NETWORK)
    assert outcome.status == 0 and outcome.err == ''
    with tf.Graph().as_default(), tf.Session() as sess:
        signature = tf.saved_model.load(sess, ['serve'], str(tmp_path / 'out')).signature_def['serving_default']
        for photo, output in zip(photos, outputs):
            value = sess.run(signature.outputs['embedding'].name, {signature.inputs['image'].name: photo})
            assert_close(value, output[..., :4])


def test_record_that_was_written_before_there_were_coordinates_has_none(model, tmp_path):
    with tf.Graph().as_default(), tf.Session() as sess:
        variable = tf.get_variable('ENet/w', [1])
        sess.run(variable.initializer)
        tf.train.Saver().save(sess, str(tmp_path / 'model.ckpt'))
    record = json.loads((model[0] / 'conventions.json').read_text())
    del record['coordinates']
    (tmp_path / 'conventions.json').write_text(json.dumps(record))
    assert utils.read_conventions(str(tmp_path)).coordinates is False


# ---- A training ------------------------------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def discs(tmp_path_factory):
    """A data set of photos with two discs that look alike, one left and one right."""
    folder, rng = tmp_path_factory.mktemp('discs'), np.random.default_rng(0)
    for kind in ('images', 'labels'):
        (folder / kind).mkdir()
    for i in range(12):
        photo, label = np.full([32, 64, 3], 90, np.uint8), np.zeros([32, 64], np.uint8)
        for k, x in enumerate((16, 48)):
            centre = (int(x + rng.integers(-4, 5)), int(16 + rng.integers(-4, 5)))
            cv2.circle(photo, centre, 6, (40, 200, 40), -1)
            cv2.circle(label, centre, 6, k + 1, -1)
        for kind, picture in (('images', photo), ('labels', label)):
            assert cv2.imwrite(str(folder / kind / f'{i}.png'), picture)
    return folder


@pytest.fixture
def train(run_script, tmp_path, monkeypatch):
    """train(*flags) -> Outcome of training.py, of a small network."""
    options = tf.ConfigProto()
    options.graph_options.rewrite_options.disable_meta_optimizer = True
    monkeypatch.setattr(tf, 'Session', functools.partial(tf.Session, config=options))
    monkeypatch.setattr(visualization, 'evaluate_scatter_plot', lambda *args: None)
    monkeypatch.chdir(tmp_path)
    return functools.partial(run_script, training, architecture=NETWORK)


def last_state(folder):
    reader = tf.train.load_checkpoint(utils.find_checkpoint(str(folder / 'resume')))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def test_training_tells_discs_apart_that_look_alike(discs, train, run_script, tmp_path):
    outcome = train('-s', discs, '--coordinates', '--epochs', '30', *FLAGS)
    assert outcome.status == 0 and outcome.err == ''
    outcome = run_script(inference, '-m', 'saved_model', '-i', discs / 'images', '-o', 'results', '--masks',
                         '--foreground', discs / 'labels', architecture=NETWORK)
    assert outcome.status == 0 and outcome.err == ''
    right = []
    for i, path in enumerate(sorted((discs / 'labels').iterdir())):
        label = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        mask = cv2.imread(f'results/mask_{i:04d}.png', cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(mask > 0, label > 0)
        right.append(len({(a, b) for a, b in zip(mask[label > 0], label[label > 0])}) == 2 == mask.max())
    assert sum(right) >= 10


def test_training_with_coordinates_goes_on_and_hands_them_on(discs, train, tmp_path):
    for outdir, epochs in (('whole', '2'), ('parts', '1'), ('parts', '2')):
        outcome = train('-s', discs, '-o', outdir, '--coordinates', '--epochs', epochs, *FLAGS)
        assert outcome.status == 0 and outcome.err == ''
    whole, parts = last_state(tmp_path / 'whole'), last_state(tmp_path / 'parts')
    assert whole.keys() == parts.keys() and {NAME, f'{NAME}/Adam'} <= whole.keys()
    for name in whole:
        np.testing.assert_array_equal(whole[name], parts[name], err_msg=name)
    assert (whole[NAME] != 0).all()   # trained in all dimensions

    outcome = train('-s', discs, '-o', 'parts', '--epochs', '3', *FLAGS)
    assert outcome.status == 0 and 'as in parts/resume: --coordinates' in outcome.out
    outcome = train('-s', discs, '-m', 'whole', '-o', 'next', '--epochs', '1', *FLAGS)
    assert outcome.status == 0 and 'as in whole: --coordinates\n' in outcome.out
    assert f'{NAME}: from whole' in (tmp_path / 'log/variables.txt').read_text()
    assert json.loads((tmp_path / 'next/conventions.json').read_text())['coordinates'] is True


def test_background_that_is_everywhere_is_no_instance(discs, train):
    outcome = train('-s', discs, '--coordinates')
    assert outcome.status == 1 and '--coordinates: ' in outcome.err and '--background-weight 0' in outcome.err


def test_settings_of_a_model_of_other_pictures_are_not_taken_over(discs, train, tmp_path):
    assert train('-s', discs, '-o', 'whole', '--coordinates', '--epochs', '1', *FLAGS).status == 0
    outcome = train('-s', discs, '-m', 'whole', '-o', 'next', '--kind', 'road', '--epochs', '1', *FLAGS,
                    '--background-weight', '1', '--image-size', '32', '32')
    assert outcome.status == 0 and 'as in' not in outcome.out.replace('start as in', '')
    assert json.loads((tmp_path / 'next/conventions.json').read_text())['coordinates'] is False


def test_semantic_training_has_no_coordinates(discs, train):
    outcome = train('-s', discs, '--semantic', '--coordinates')
    assert outcome.status == 2 and '--coordinates: is about an embedding' in outcome.err
