"""inference.py --export: a SavedModel that other programs read, written completely or not at all."""
import os

import numpy as np
import pytest

from data.common import quiet, settings

quiet.import_tensorflow()
import tensorflow.compat.v1 as tf

import clustering
import inference
import reference
import utils

SIZES = ((1, 64, 96), (3, 40, 128))   # b, h, w
# With one bottleneck of each kind.
ARCHITECTURE = reference.small_enet()._replace(stage2_kinds=(1, 2, 'asymmetric'), stage4_repeat=1)


@pytest.fixture
def export(run_script, tmp_path):
    """export(model, to='out') -> Outcome of inference.py --export, into a folder of tmp_path."""
    def run(model, to='out'):
        return run_script(inference, '-m', model, '--export', f'{tmp_path}/{to}', architecture=ARCHITECTURE)
    return run


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    """A model with random weights."""
    folder = tmp_path_factory.mktemp('model')
    conventions = settings.Settings(image_size=(96, 64), feature_dim=4, bandwidth=0.3, foreground_weight=1.0)
    settings.write(folder, conventions)
    with tf.Graph().as_default(), tf.Session() as sess:
        tf.set_random_seed(1)
        utils.build_model(tf.placeholder(tf.uint8, [None, None, None, 3]), conventions, architecture=ARCHITECTURE)
        sess.run(tf.global_variables_initializer())
        tf.train.Saver(tf.global_variables()).save(sess, str(folder / 'model.ckpt'), global_step=1)
    return folder


@pytest.fixture
def light_graph(monkeypatch):
    """Saves most of the time in tests that do not need the network."""
    monkeypatch.setattr(inference, 'rebuild_graph',
                        lambda sess, model, input_image, *args, **kwargs: tf.tile(input_image, [1, 1, 1, 2]))


@pytest.mark.filterwarnings('ignore:(?s).*Interpreter is deprecated')
def test_tensorflow_lite_gives_the_embedding_of_inference_at_any_size(model, tmp_path, export):
    outcome = export(model)
    assert outcome.status == 0 and outcome.err == '' and 'drops channels' not in outcome.out
    assert 'embedding  float32 [?, ?, ?, 4]' in outcome.out and 'foreground float32 [?, ?, ?]' in outcome.out
    converter = tf.lite.TFLiteConverter.from_saved_model(str(tmp_path / 'out'))   # to built-in operations only
    interpreter = tf.lite.Interpreter(model_content=converter.convert())
    image = interpreter.get_input_details()[0]['index']
    outputs = sorted(interpreter.get_output_details(), key=lambda output: -len(output['shape']))   # embedding first
    with tf.Graph().as_default(), tf.Session() as sess:
        image_input = tf.placeholder(tf.uint8, [None, None, None, 3])
        ours = inference.rebuild_graph(sess, str(model), image_input, 4, ARCHITECTURE)
        for size in SIZES:
            images = np.random.default_rng(1).integers(0, 256, [*size, 3])
            interpreter.resize_tensor_input(image, images.shape)
            interpreter.allocate_tensors()
            interpreter.set_tensor(image, images.astype(np.float32))
            interpreter.invoke()
            for output, expected in zip(outputs, clustering.split_output(sess.run(ours, {image_input: images}), 4)):
                assert expected.std() > 0
                np.testing.assert_allclose(interpreter.get_tensor(output['index']), expected,
                                           atol=1e-4 * np.abs(expected).max())


def test_no_prelu_looks_like_a_leaky_relu(model):
    """tf2onnx mistakes max(x, constant * x) for a leaky ReLU, and fails if it has several slopes."""
    with tf.Graph().as_default() as graph, tf.Session() as sess:
        image = tf.placeholder(tf.uint8, [None, None, None, 3])
        inference.rebuild_graph(sess, str(model), image, 4, ARCHITECTURE)
        for maximum in (op for op in graph.get_operations() if op.type == 'Maximum'):
            for x, other in (maximum.inputs, reversed(maximum.inputs)):
                assert other.op.type != 'Mul' or all(factor is not x for factor in other.op.inputs), maximum.name


def test_conventions_are_exported_into_an_empty_folder(model, light_graph, tmp_path, export, monkeypatch):
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'ordinary').mkdir()
    monkeypatch.setattr(utils, 'read_conventions', lambda folder: settings.OF_2018)
    assert 'drops channels' in export(model, 'empty/').out
    assert sorted(os.listdir(tmp_path / 'empty')) == ['conventions.json', 'saved_model.pb', 'variables']
    assert settings.read(tmp_path / 'empty') == settings.OF_2018
    assert (tmp_path / 'empty').stat().st_mode == (tmp_path / 'ordinary').stat().st_mode
    assert sorted(os.listdir(tmp_path)) == ['empty', 'ordinary']


def test_failed_export_is_one_line_and_leaves_nothing_behind(model, light_graph, tmp_path, export, monkeypatch):
    def save(builder, *args):
        raise tf.errors.UnknownError(None, None, 'x; No space left on device')
    monkeypatch.setattr(type(tf.saved_model.Builder(str(tmp_path / 'x'))), 'save', save)
    os.rmdir(tmp_path / 'x')
    outcome = export(model)
    assert outcome.status == 1 and outcome.err.count('\n') == 1
    assert 'out' in outcome.err and 'No space left on device' in outcome.err
    assert os.listdir(tmp_path) == []
