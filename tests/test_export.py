"""inference.py --export: a SavedModel that plain TensorFlow 2 reads, written completely or not at all."""

import os
import subprocess
import sys

import numpy as np
import pytest

from data.common import quiet, settings

quiet.import_tensorflow()
import tensorflow.compat.v1 as tf

import clustering
import inference
import reference
import utils

# What someone would write who has never heard of this project.
CLIENT = '''
import sys
import numpy as np
import tensorflow as tf

assert tf.executing_eagerly()
photos, results = np.load('photos.npz'), {}
for folder in sys.argv[1:]:
    embed = tf.saved_model.load(folder).signatures['serving_default']
    for name, images in photos.items():
        for kind, values in ('', images), (' float', tf.cast(images, tf.float32)):
            results.update({f'{folder} {output} {name}{kind}': value for output, value in embed(image=values).items()})
np.savez('embeddings.npz', **results)
'''
SIZES = ((1, 64, 96), (3, 40, 128))   # b, h, w
# With a bottleneck of each kind.
ARCHITECTURE = reference.small_enet()._replace(stage2_kinds=(1, 2, 'asymmetric'), stage4_repeat=1)


@pytest.fixture
def export(run_script, tmp_path):
    """export(model, to='out') -> Outcome of inference.py --export, into a folder of tmp_path."""
    def run(model, to='out'):
        return run_script(inference, '-m', model, '--export', f'{tmp_path}/{to}', architecture=ARCHITECTURE)
    return run


def random_model(folder, **conventions):
    """A model with random weights of a size that is in SIZES."""
    conventions = settings.Settings(image_size=(96, 64), **conventions)
    with tf.Graph().as_default(), tf.Session() as sess:
        tf.set_random_seed(1)
        utils.build_model(tf.placeholder(tf.uint8, [None, None, None, 3]), conventions, architecture=ARCHITECTURE)
        sess.run(tf.global_variables_initializer())
        tf.train.Saver(tf.global_variables()).save(sess, str(folder / 'model.ckpt'), global_step=1)
    return conventions


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp('model')
    settings.write(folder, random_model(folder, feature_dim=4, bandwidth=0.3, foreground_weight=1.0))
    return folder


@pytest.fixture(scope='module')
def model_of_2018(tmp_path_factory):
    """Without a record, and its moving averages were never updated."""
    folder = tmp_path_factory.mktemp('model_of_2018')
    random_model(folder)
    return folder


@pytest.fixture
def light_graph(monkeypatch):
    """Most of the time goes into the network, which some tests do not need."""
    monkeypatch.setattr(inference, 'rebuild_graph',
                        lambda sess, model, input_image, *args, **kwargs: tf.tile(input_image, [1, 1, 1, 2]))


def test_plain_tensorflow_2_returns_the_embedding_of_inference(model, model_of_2018, tmp_path, export):
    rng = np.random.default_rng(0)
    photos = {str(i): rng.integers(0, 256, [*size, 3]).astype(np.uint8) for i, size in enumerate(SIZES)}
    np.savez(tmp_path / 'photos.npz', **photos)
    expected = {}
    for folder, model_dir, depth in (('ours', model, 4), ('of_2018', model_of_2018, 3)):
        outcome = export(model_dir, folder)
        assert outcome.status == 0 and outcome.err == ''
        assert ('drops channels' in outcome.out) == (folder == 'of_2018')
        assert f'embedding  float32 [?, ?, ?, {depth}]' in outcome.out
        assert ('foreground float32 [?, ?, ?]' in outcome.out) == (folder == 'ours')
        with tf.Graph().as_default(), tf.Session() as sess:
            image = tf.placeholder(tf.uint8, [None, None, None, 3])
            embedding = inference.rebuild_graph(sess, str(model_dir), image, depth, ARCHITECTURE)
            for name, images in photos.items():
                outputs = clustering.split_output(sess.run(embedding, {image: images}), depth)
                for output, values in zip(('embedding', 'foreground'), outputs):
                    if values is not None:
                        expected.update({f'{folder} {output} {name}{kind}': values for kind in ('', ' float')})

    subprocess.run([sys.executable, '-c', CLIENT, 'ours', 'of_2018'], cwd=tmp_path, check=True)
    embeddings = np.load(tmp_path / 'embeddings.npz')
    assert sorted(embeddings) == sorted(expected)
    for name, values in expected.items():
        assert values.std() > 0
        np.testing.assert_allclose(embeddings[name], values, atol=1e-4 * np.abs(values).max(), err_msg=name)


@pytest.mark.filterwarnings('ignore:(?s).*Interpreter is deprecated')
def test_tensorflow_lite_gives_the_embedding_of_inference_at_any_size(model, tmp_path, export):
    assert export(model).status == 0
    converter = tf.lite.TFLiteConverter.from_saved_model(str(tmp_path / 'out'))   # to its built-in operations alone
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
    """tf2onnx takes max(x, constant * x) for a leaky ReLU, and stops at one whose slopes are many."""
    with tf.Graph().as_default() as graph, tf.Session() as sess:
        image = tf.placeholder(tf.uint8, [None, None, None, 3])
        inference.rebuild_graph(sess, str(model), image, 4, ARCHITECTURE)
        for maximum in (op for op in graph.get_operations() if op.type == 'Maximum'):
            for x, other in (maximum.inputs, reversed(maximum.inputs)):
                assert other.op.type != 'Mul' or all(factor is not x for factor in other.op.inputs), maximum.name


def test_conventions_are_exported_into_an_empty_folder(model_of_2018, light_graph, tmp_path, export):
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'ordinary').mkdir()
    assert export(model_of_2018, 'empty/').status == 0
    assert sorted(os.listdir(tmp_path / 'empty')) == ['conventions.json', 'saved_model.pb', 'variables']
    assert settings.read(tmp_path / 'empty') == settings.OF_2018   # whose folder has no record
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
