"""utils.py: a model's conventions, checkpoints that fit and others, and the graph around the network."""

import dataclasses
import json
import os
import re

import numpy as np
import pytest

from data.common import quiet, settings
from data.common.command_line import InputError
from data.common.settings import OF_2018, Settings

quiet.import_tensorflow()
import tensorflow.compat.v1 as tf

import enet
import inference
import reference
import utils

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
HEAD = 'transfer_layer/conv2d_transpose'
OURS = Settings(image_size=(512, 256), feature_dim=4, delta_v=0.25, delta_d=2.0, bandwidth=0.5)


def save_checkpoint(folder, arrays, name='model.ckpt-7'):
    """Writes {name: array} as a checkpoint into a folder. -> the folder."""
    os.makedirs(folder, exist_ok=True)
    with tf.Graph().as_default(), tf.Session() as sess:
        names, tensors = zip(*arrays.items())
        inputs = [tf.placeholder(np.asarray(array).dtype, np.shape(array)) for array in tensors]
        save = tf.raw_ops.SaveV2(prefix=os.path.join(folder, name), tensor_names=names,
                                 shape_and_slices=[''] * len(names), tensors=inputs)
        sess.run(save, dict(zip(inputs, tensors)))
    with open(os.path.join(folder, 'checkpoint'), 'w') as file:
        file.write(f'model_checkpoint_path: "{name}"\n')
    return str(folder)


@pytest.fixture
def sess():
    with tf.Graph().as_default(), tf.Session() as sess:
        yield sess


@pytest.fixture
def small_model(tmp_path):
    """A checkpoint of two variables."""
    return save_checkpoint(tmp_path / 'model', {'ENet/a': np.float32([1, 2]), 'ENet/b': np.float32([[3]])})


@pytest.fixture(scope='module')
def model_of_2018(tmp_path_factory):
    """A checkpoint with the names of 2018 and random weights whose moving averages were never updated."""
    shapes = {**reference.checkpoint_variables(), f'Instance/{HEAD}/weights': (2, 2, 3, 16),
              f'Instance/{HEAD}/biases': (3,)}
    weights = reference.random_weights(1, shapes)
    for name, value in weights.items():
        if name.endswith(('moving_mean', 'moving_variance')):
            value[...] = name.endswith('variance')
    return save_checkpoint(tmp_path_factory.mktemp('model_of_2018'), {**weights, 'Variable': np.int32(7)})


# ---- Conventions -----------------------------------------------------------------------------------------------------

def test_settings_are_read_back_as_they_were_written(small_model):
    run = dataclasses.replace(OURS, epochs=7, augment=False, photos=(18, 2, 123, True), recipe='fast', modeldir='m')
    for record in OURS, OF_2018, Settings(kind='any', coordinates=True, background_weight=0., min_confidence=0.25):
        settings.write(small_model, record)
        assert utils.read_conventions(small_model) == record
    with open(os.path.join(small_model, 'conventions.json'), 'w') as file:   # older than the other settings
        json.dump({'version': settings.VERSION, 'bandwidth': 0.9}, file)
    assert utils.read_conventions(small_model) == Settings(bandwidth=0.9)
    settings.write(small_model, run, everything=True)
    assert settings.read(small_model) == run


@pytest.mark.parametrize('name', ['', 'any_camera', 'leaves'])
def test_shipped_models_have_sound_records(name):
    assert utils.read_conventions(os.path.join(ROOT, 'trained_model', name)).batch_statistics is False


@pytest.mark.parametrize('moving, expected', [
    ({}, True), ({'moving_mean': 0, 'moving_variance': 1}, True), ({'moving_mean': 0, 'moving_variance': 0.9}, False)])
def test_without_a_record_never_updated_averages_are_not_used(tmp_path, moving, expected):
    arrays = {f'ENet/x_batch_norm1/{name}': np.full([2], value, np.float32) for name, value in moving.items()}
    conventions = utils.read_conventions(save_checkpoint(tmp_path, {'ENet/w': np.float32([1]), **arrays}))
    assert conventions == dataclasses.replace(OF_2018, batch_statistics=expected)


@pytest.mark.parametrize('head, depth', [('Instance', 3), ('Instance', 8), ('Semantic', 2)])
def test_without_a_record_the_weights_reveal_the_head(tmp_path, head, depth):
    biases = {f'{head}/{HEAD}/biases': np.zeros([depth], np.float32)}
    folder = save_checkpoint(tmp_path / 'one', biases)
    assert utils.read_conventions(folder) == dataclasses.replace(OF_2018, head=head, feature_dim=depth)
    other = {'Instance': 'Semantic', 'Semantic': 'Instance'}[head]
    with pytest.raises(InputError, match='conventions.json .* is missing'):   # no model of 2018 has two
        utils.read_conventions(save_checkpoint(tmp_path / 'two', {**biases, f'{other}/{HEAD}/biases': np.zeros(3)}))


@pytest.mark.parametrize('field, value', [
    ('version', 2), ('image_size', 512), ('image_size', [512, 250]), ('image_size', [8.0, 8]),
    ('image_size', [10 ** 30 * 8, 8]), ('normalisation', []), ('head', 'instance'), ('feature_dim', 3.0),
    ('feature_dim', True), ('feature_dim', 10 ** 400), ('batch_statistics', 1), ('delta_v', 2.0),
    ('delta_d', float('nan')), ('bandwidth', 1e-39), ('of_tomorrow', 1)], ids=lambda value: repr(value)[:20])
def test_value_that_no_model_has_is_named(small_model, field, value):
    settings.write(small_model, OURS)
    path = os.path.join(small_model, 'conventions.json')
    with open(path) as file:
        record = json.load(file)
    with open(path, 'w') as file:
        json.dump({**record, field: value}, file)
    named = {'delta_v': 'delta_v|dvar', 'image_size': 'image.size'}.get(field, field)
    with pytest.raises(InputError, match=rf'^{re.escape(path)}: .*({named})'):
        utils.read_conventions(small_model)


# ---- Finding a checkpoint --------------------------------------------------------------------------------------------

@pytest.mark.parametrize('text', [
    b'model_checkpoint_path: "/home/other/model.ckpt-7"', None, b'\xff\xfe\x00', b'model_checkpoint_path: "gone-9"'],
    ids=repr)
def test_weights_of_a_moved_folder_or_without_a_sound_checkpoint_file_are_found(small_model, text):
    path = os.path.join(small_model, 'checkpoint')
    os.remove(path)
    if text is not None:
        with open(path, 'wb') as file:
            file.write(text)
    assert utils.find_checkpoint(small_model) == os.path.join(small_model, 'model.ckpt-7')


def test_only_the_remains_of_a_killed_save_are_removed(small_model):
    left = ['model.ckpt-8.data-00000-of-00001', 'model.ckpt-8.data-00000-of-00001.tempstate1', 'checkpoint.tmp2']
    for name in left:
        open(os.path.join(small_model, name), 'w').close()
    before = set(os.listdir(small_model))
    utils.remove_unfinished(small_model)
    assert before - set(os.listdir(small_model)) == set(left)


def test_newest_complete_checkpoint_is_found_if_no_file_names_one(small_model):
    save_checkpoint(small_model, {'x': np.float32([1])}, 'model.ckpt-9')
    save_checkpoint(small_model, {'x': np.float32([1])}, 'model.ckpt-10')
    for age, number in ((3, 7), (2, 9), (1, 10)):
        os.utime(os.path.join(small_model, f'model.ckpt-{number}.index'), (1e9 - age, 1e9 - age))
    os.remove(os.path.join(small_model, 'checkpoint'))
    assert utils.find_checkpoint(small_model) == os.path.join(small_model, 'model.ckpt-10')
    os.remove(os.path.join(small_model, 'model.ckpt-10.data-00000-of-00001'))
    assert utils.find_checkpoint(small_model) == os.path.join(small_model, 'model.ckpt-9')


# ---- Restoring -------------------------------------------------------------------------------------------------------

def variable(name, value):
    return tf.get_variable(name, initializer=tf.constant(value, tf.float32))


def test_variables_that_do_not_fit_are_named_with_the_file(small_model, sess):
    variables = [variable('ENet/a', [0, 0]), variable('ENet/b', [0]), variable('ENet/c', [0, 1])]
    checkpoint = utils.find_checkpoint(small_model)
    with pytest.raises(InputError) as error:
        utils.restore(sess, checkpoint, variables)
    for part in (f'{checkpoint}: ', '2 of 3 variables', 'ENet/b is [1, 1] instead of [1]', 'ENet/c [2] is missing'):
        assert part in str(error.value)
    assert '\n' not in str(error.value) and 'ENet/a' not in str(error.value)
    sess.run(tf.global_variables_initializer())
    assert utils.restore(sess, checkpoint, variables, least=1) == ['ENet/a']
    assert [value.tolist() for value in sess.run(variables)] == [[1, 2], [0], [0, 1]]


def test_constants_that_do_not_fit_are_named_once_all_are_known(small_model):
    with pytest.raises(InputError, match=r'3 of 4 variables do not fit: .*is \[2\] instead of \[3\].*missing'):
        with utils.constant_weights(utils.find_checkpoint(small_model)):
            for name, shape in (('ENet/a', [3]), ('ENet/b', [1, 1]), ('other', [1]), ('another', [1])):
                tf.get_variable(name, shape)


@pytest.mark.parametrize('part, change', [
    ('index', lambda data: b'Download failed: 404\n' * 20), ('data-00000-of-00001', lambda data: b'')],
    ids=['index is text', 'data are empty'])
def test_damaged_checkpoint_is_an_error_that_names_it(tmp_path, sess, part, change):
    folder = save_checkpoint(tmp_path, {'ENet/norm/moving_mean': np.float32([1, 2])})
    path = tmp_path / f'model.ckpt-7.{part}'
    path.write_bytes(change(path.read_bytes()))
    checkpoint = utils.find_checkpoint(folder)
    weights = variable('ENet/norm/moving_mean', [0, 0])
    with pytest.raises(InputError, match=re.escape(checkpoint)):
        utils.restore(sess, checkpoint, [weights])
    with pytest.raises(InputError, match=re.escape(checkpoint)), utils.constant_weights(checkpoint):
        tf.get_variable('ENet/norm/moving_mean', [2])
    with pytest.raises(InputError, match=re.escape(checkpoint)):
        utils.read_conventions(folder)


# ---- The model of 2018 -----------------------------------------------------------------------------------------------

def test_checkpoint_of_2018_has_the_output_of_the_graph_of_2018(model_of_2018):
    """Compared with a plain graph of the variables of training."""
    images = np.random.default_rng(2).integers(0, 256, [2, 32, 48, 3], np.uint8)
    with tf.Graph().as_default(), tf.Session() as sess:
        image = tf.placeholder(tf.uint8, [None, None, None, 3])
        live = utils.build_model(image, utils.read_conventions(model_of_2018))
        head = {f'Instance/{HEAD}/weights', f'Instance/{HEAD}/biases'}
        assert {v.op.name for v in tf.global_variables()} == reference.checkpoint_variables().keys() | head
        utils.restore(sess, utils.find_checkpoint(model_of_2018), tf.global_variables())
        last_prelu, _ = reference.plain_enet(tf.cast(image, tf.float32), batch_statistics=True,
                                             noise=enet.noise_of_2018)
        with tf.variable_scope(f'Instance/{HEAD}', reuse=True):
            plain = tf.nn.conv2d_transpose(last_prelu, tf.get_variable('weights'), tf.shape(live), 2, 'SAME')
            plain = tf.nn.relu(plain + tf.get_variable('biases'))
        plain = sess.run(plain, {image: images})
    with tf.Graph().as_default(), tf.Session() as sess:
        image = tf.placeholder(tf.uint8, [None, None, None, 3])
        frozen = sess.run(inference.rebuild_graph(sess, model_of_2018, image, 3), {image: images})
        assert not tf.global_variables()
    assert frozen.shape == (2, 32, 48, 3) and frozen.min() == 0 and plain.max() > 0.1
    # Statistics over the 48 pixels of the deepest layers magnify rounding; test_enet.py is stricter.
    np.testing.assert_allclose(frozen, plain, atol=1e-3 * plain.max())


def test_a_new_head_of_any_dimension_on_the_weights_of_another_head(model_of_2018):
    with tf.Graph().as_default(), tf.Session() as sess:
        last_prelu = utils.load_enet(sess, model_of_2018, tf.zeros([2, 16, 16, 3]),
                                     architecture=reference.small_enet())
        embedding = utils.add_transfer_layers_and_initialize(sess, last_prelu, 5)
        assert last_prelu.name == 'ENet/bottleneck5_1_last_prelu:0' and last_prelu.shape.as_list() == [2, 8, 8, 16]
        assert sess.run(embedding).min() < 0   # no ReLU on an embedding
        shapes = {v.op.name: v.shape.as_list() for v in tf.global_variables(scope='Instance/')}
        assert shapes == {f'Instance/{HEAD}/weights': [2, 2, 5, 16], f'Instance/{HEAD}/biases': [5]}
        reader = tf.train.load_checkpoint(utils.find_checkpoint(model_of_2018))
        for variable in tf.global_variables(scope='ENet/'):
            np.testing.assert_array_equal(sess.run(variable), reader.get_tensor(variable.op.name))
        untrained = {v.op.name for v in tf.trainable_variables()} - {v.op.name for v in utils.to_train()}
        assert untrained == {'ENet/fullconv/weights', 'ENet/fullconv/biases'}


# ---- The step of a run -----------------------------------------------------------------------------------------------

@pytest.mark.parametrize('schedule', ['2018', 'cosine'])
def test_learning_rate(sess, schedule):
    steps = np.array([0, 1, 499, 500, 4999, 5000, 9999])
    got = sess.run([utils.learning_rate(schedule, 3e-3, tf.constant(step), 10000) for step in steps])
    if schedule == '2018':
        expected = 3e-3 * 0.96 ** (steps // 5000)
    else:
        expected = np.where(steps < 500, 3e-3 * (steps + 1) / 500, 1.5e-3 * (1 + np.cos(np.pi * (steps - 500) / 9500)))
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-9)
    np.testing.assert_allclose(sess.run([utils.norm_decay(s) for s in (0, 90, 10 ** 6)]), [0.1, 0.91, 0.99])


# ---- Coordinates -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('height, width', [(40, 64), (64, 40)])
def test_coordinates_are_added_to_the_embedding_in_the_unit_of_the_longer_side(sess, height, width):
    features = tf.placeholder(tf.float32, [None, None, None, 16])
    known = tf.ensure_shape(features, [2, height // 2, width // 2, 16])
    plain = utils.build_head(features, 4)
    placed = [utils.build_head(x, 4, reuse=tf.AUTO_REUSE, reach=6.) for x in (features, known)]
    weights = tf.global_variables()[-1]
    assert weights.op.name == 'Instance/coordinates/weights' and weights in utils.to_train()
    assert 'coordinates' not in str(tf.get_collection(tf.GraphKeys.REGULARIZATION_LOSSES))
    sess.run(tf.global_variables_initializer())
    photos = np.random.default_rng(0).normal(size=[2, height // 2, width // 2, 16])
    before, *after = sess.run([plain, *placed], {features: photos})
    y, x = np.mgrid[:height, :width] + 0.5
    expected = 6 * np.stack([2 * x - width, 2 * y - height, 0 * x, 0 * x], axis=-1) / max(width, height)
    for value in after:
        np.testing.assert_allclose(value - before, np.broadcast_to(expected, value.shape), atol=1e-5)
