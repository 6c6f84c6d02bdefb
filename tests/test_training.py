"""training.py: what a training leaves behind, how it goes on after any end, and what it refuses.

The trainings are real but small: 64x32, a dozen drawn photos, an ENet that of its bottlenecks has only the last, and
sessions that do not optimise their graphs; both save many seconds per run.
"""

import dataclasses
import functools
import glob
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading

import cv2
import numpy as np
import pytest

from data.common import quiet
from data.lanes import tusimple

quiet.import_tensorflow()
import tensorflow.compat.v1 as tf

import datagenerator
import inference
import reference
import training
import utils
import visualization
from data.common.command_line import InputError

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
NETWORK = reference.small_enet()
SCATTER_PLOT = visualization.evaluate_scatter_plot
SMALL = ['--image-size', '64', '32', '--batch-size', '5', '--summary-steps', '1', '--no-augment', '--workers', '1']

CHILD = '''
import functools
import sys
sys.path[:0] = [{root!r}, {root!r} + '/tests']
import pytest
import test_training
from data.common import command_line
sys.argv[0] = 'training.py'
test_training.quicken(pytest.MonkeyPatch())
command_line.run(functools.partial(test_training.training.main, architecture=test_training.NETWORK))
'''


def quicken(patch):
    """Makes the start of a session quick."""
    options = tf.ConfigProto()
    options.graph_options.rewrite_options.disable_meta_optimizer = True
    patch.setattr(tf, 'Session', functools.partial(tf.Session, config=options))


def shrink(patch):
    """Makes the network of training.main small, too."""
    patch.setattr(training, 'main', functools.partial(training.main, architecture=NETWORK))
    quicken(patch)


@pytest.fixture(autouse=True, scope='module')
def small_network():
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch)
        # A fifth of such a training, by matplotlib; test_training_separates_the_lanes has it drawn.
        patch.setattr(visualization, 'evaluate_scatter_plot', lambda *args: None)
        yield


def draw(folder, count=12):
    """A data set of photos with two straight lines, 20 (left) and 70 (right) in the labels, and their lanes.json."""
    rng = np.random.default_rng(1)
    records = []
    for kind in ('images', 'labels'):
        (folder / kind).mkdir(parents=True)
    for i in range(count):
        photo, label = rng.integers(80, 110, [32, 64, 3]).astype(np.uint8), np.zeros([32, 64], np.uint8)
        lanes = []
        for k in range(2):
            bottom, top = int(64 * (0.2 + 0.6 * k) + rng.uniform(-5, 5)), int(64 * (0.35 + 0.3 * k))
            cv2.line(photo, (bottom, 31), (top, 8), (240, 240, 240), 3)
            cv2.line(label, (bottom, 31), (top, 8), 20 + 50 * k, 3)
            lanes.append(np.interp([10, 20, 30], [8, 31], [top, bottom]).tolist())
        cv2.imwrite(str(folder / f'images/{i:04d}.png'), photo)
        cv2.imwrite(str(folder / f'labels/{i:04d}.png'), label)
        records.append(tusimple.Record(f'images/{i:04d}.png', lanes, [10, 20, 30]))
    tusimple.write_records(str(folder / 'lanes.json'), records)
    return folder


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return draw(tmp_path_factory.mktemp('data') / 'drawn')


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def train(run_script):
    """train(*flags) -> Outcome of training.py, of the small network."""
    return functools.partial(run_script, training, architecture=NETWORK)


@pytest.fixture(scope='module')
def finished(data, tmp_path_factory):
    """A training of 3 epochs of 2 steps that nothing disturbed: its folder, with saved_model/ and log/."""
    folder = tmp_path_factory.mktemp('finished')
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        args = ['-s', str(data), '--epochs', '3', '--learning-rate', '0.01', *SMALL]
        assert training.main(args, architecture=NETWORK) == 0
    return folder


def weights(checkpoint):
    reader = tf.train.load_checkpoint(checkpoint)
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def last_state(folder, outdir='saved_model'):
    return weights(utils.find_checkpoint(str(folder / outdir / 'resume')))


def assert_same(got, expected):
    assert got.keys() == expected.keys()
    for name in expected:
        np.testing.assert_array_equal(got[name], expected[name], err_msg=name)


def curves(logdir):
    """[(tag, step, value)] as TensorBoard shows them: a START makes it forget all of its folder from its step on."""
    found = []
    for folder in (logdir, logdir / 'validation'):
        points = []
        for path in sorted(glob.glob(str(folder / '*tfevents*'))):
            for event in read_events(path):
                if event.HasField('session_log'):
                    points = [point for point in points if point[1] < event.step]
                points += [(value.tag, event.step, value.simple_value) for value in event.summary.value
                           if value.HasField('simple_value')]
        found += points
    return found


def read_events(path):
    """The tf.Events of a file, as TensorBoard reads it: up to the one that a kill cut in two."""
    try:
        yield from tf.train.summary_iterator(path)
    except tf.errors.DataLossError:
        pass


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob('*') if path.is_file()}


def child(*args, cwd, text='epoch 1 ', then=None, **kwargs):
    """Runs a training as a process; calls `then` with it once `text` is in a line. -> (status, stdout, stderr)."""
    with subprocess.Popen([sys.executable, '-c', CHILD.format(root=ROOT), *map(str, args)], cwd=cwd, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, **kwargs) as process:
        out = ''
        for line in process.stdout:
            out += line
            if then and text in line:
                then(process)
                then = None
        return process.wait(), out, process.stderr.read()


# ---- What a training leaves behind -----------------------------------------------------------------------------------

def test_training_separates_the_lanes(home, data, run_script, train, monkeypatch):
    monkeypatch.setattr(visualization, 'evaluate_scatter_plot', SCATTER_PLOT)
    outcome = train('-s', data, '--epochs', '30', '--learning-rate', '0.01', '--pictures', '15', *SMALL)
    assert outcome.status == 0 and outcome.err == '' and 'million weights' in outcome.out
    values = {(tag, step): value for tag, step, value in curves(home / 'log')}
    # Pixels to their means, and means apart: what is left is the regularisation, which is no goal.
    pull_and_push = [values['loss/var', step] + values['loss/dist', step] for step in (2, 60)]
    assert pull_and_push[1] < pull_and_push[0] / 8
    assert values['validation/total', 60] < values['validation/total', 2] / 2
    assert 0 <= values['validation/accuracy', 60] <= 1
    conventions = json.loads((home / 'saved_model/conventions.json').read_text())
    assert conventions['image_size'] == [64, 32] and conventions['head_activation'] == 'none'
    assert sorted(path.name for path in (home / 'log').glob('*.png')) == [
        'clusters_epoch0015_0.png', 'clusters_epoch0015_1.png', 'clusters_epoch0030_0.png', 'clusters_epoch0030_1.png',
        'scatter_var1_dist1_reg1_dvar0.5_ddist1.5_000030.png', 'scatter_var1_dist1_reg1_dvar0.5_ddist1.5_000060.png']
    # The model is for inference as it is.
    outcome = run_script(inference, '-m', home / 'saved_model', '-i', data / 'images', '-o', home / 'results',
                         architecture=NETWORK)
    assert outcome.status == 0 and len(os.listdir(home / 'results')) == 12


def test_other_kinds_of_pictures_are_scored_by_symmetric_best_dice(home, data, train):
    flags = [flag for flag in SMALL if flag != '--no-augment']
    outcome = train('-s', data, '--kind', 'any', '--epochs', '8', '--learning-rate', '0.01', *flags)
    assert outcome.status == 0 and ', sbd ' in outcome.out and 'official score' not in outcome.out
    values = {tag: value for tag, _, value in curves(home / 'log')}
    assert 0 <= values['validation/sbd'] == values['validation/score'] <= 1 and values['validation/abs_dic'] >= 0
    assert 'validation/accuracy' not in values


def test_training_from_before_there_were_kinds_goes_on(home, data, finished, train):
    shutil.copytree(finished, home, dirs_exist_ok=True)
    path = home / 'saved_model/resume/flags.json'
    record = json.loads(path.read_text())
    del record['kind']
    path.write_text(json.dumps(record))
    args = ['-s', data, '--epochs', '4', '--learning-rate', '0.01', *SMALL]
    assert '--kind was road, is any' in train(*args, '--kind', 'any').err
    assert train(*args).status == 0


def test_model_has_the_weights_and_state_has_everything(finished):
    model, = glob.glob(str(finished / 'saved_model/*.index'))
    model, state = weights(model[:-len('.index')]), last_state(finished)
    assert {name.split('/')[0] for name in model} == {'ENet', 'Instance'}
    assert not any('Adam' in name for name in model)
    trained = [name for name in model if 'moving_' not in name and 'fullconv' not in name]
    assert {'global_step', 'best_score', 'epochs_validated', *model} <= state.keys()
    assert len([name for name in state if name.endswith(('beta1_power', 'beta2_power'))]) == 2
    slots = {name[:-len('/Adam')] for name in state if name.endswith('/Adam')}
    assert {name for name in trained if not name.endswith('biases')} <= slots <= set(trained)
    assert state['global_step'] == 6 and state['epochs_validated'] == 3


def test_best_model_is_that_of_the_best_score(finished):
    scores = {step: value for tag, step, value in curves(finished / 'log') if tag == 'validation/accuracy'}
    best = max(scores, key=lambda step: (scores[step], -step))
    assert utils.find_checkpoint(str(finished / 'saved_model')).endswith(f'model.ckpt-{best}')
    assert last_state(finished)['best_score'] == pytest.approx(scores[best])


def test_two_stages_and_fine_tuning(home, data, train):
    few = ['-s', data, '--epochs', '1', '--cache', '1e18', *SMALL]   # more than a number of bytes can be
    outcome = train('--semantic', '-o', 'pretrained_semantic_model', *few)
    assert outcome.status == 0 and 'from scratch' in outcome.out and 'iou' in outcome.out
    semantic = weights(utils.find_checkpoint('pretrained_semantic_model'))
    assert {name.split('/')[0] for name in semantic} == {'ENet', 'Semantic'}
    tags = {tag for tag, *_ in curves(home / 'log/semantic')}
    assert {'loss/total', 'validation/total', 'validation/iou'} <= tags
    assert not {tag for tag in tags if tag.endswith(('/var', '/dist', '/reg'))}

    outcome = train(*few)
    first = weights(str(home / 'saved_model/resume/state.ckpt-0-0'))
    assert 'pretrained_semantic_model/model.ckpt' in outcome.out and 'at random: Instance/' in outcome.out
    enet = {name: value for name, value in semantic.items() if name.startswith('ENet/')}
    assert_same({name: first[name] for name in enet}, enet)
    log = (home / 'log/variables.txt').read_text().splitlines()
    model = weights(utils.find_checkpoint('saved_model'))
    assert {line.split(':')[0] for line in log} == {*model, *semantic}

    outcome = train('-m', 'saved_model', '-o', 'fine_tuned', *few)
    assert outcome.status == 0 and 'at random' not in outcome.out
    first = weights(str(home / 'fine_tuned/resume/state.ckpt-0-0'))
    assert_same({name: first[name] for name in model}, model)


def test_checkpoint_of_2018_keeps_what_its_weights_are_used_to(home, data, finished, train):
    shutil.copytree(finished / 'saved_model', 'old', ignore=shutil.ignore_patterns('resume', 'conventions.json'))
    outcome = train('-s', data, '-m', 'old', '--epochs', '1', *SMALL)
    assert outcome.status == 0
    assert json.loads((home / 'saved_model/conventions.json').read_text())['normalisation'] == 'none'


# ---- A second head, recipes, and what comes from a model -------------------------------------------------------------

@pytest.fixture(scope='module')
def with_foreground(data, tmp_path_factory):
    """A training with both heads, whose background is no instance of the embedding: its folder."""
    folder = tmp_path_factory.mktemp('with_foreground')
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        args = ['-s', str(data), '--epochs', '2', '--learning-rate', '0.02', '--background-weight', '0',
                '--foreground-weight', '5', '--foreground-threshold', '0.25', *SMALL]
        assert training.main(args, architecture=NETWORK) == 0
    return folder


def test_foreground_head_is_trained_beside_the_embedding(with_foreground):
    found = curves(with_foreground / 'log')
    values = {(tag, step): value for tag, step, value in found}
    assert values['loss/foreground', 4] < values['loss/foreground', 1]
    model, = glob.glob(str(with_foreground / 'saved_model/*.index'))
    names = weights(model[:-len('.index')])
    assert names[f'Semantic/{utils.HEAD}/biases'].shape == (2,) and np.ptp(names[f'Semantic/{utils.HEAD}/biases']) > 0
    assert names[f'Instance/{utils.HEAD}/biases'].shape == (3,)
    conventions = utils.read_conventions(str(with_foreground / 'saved_model'))
    assert (conventions.background_weight, conventions.foreground_threshold, conventions.version) == (0, 0.25, 2)


def test_inference_clusters_the_foreground_alone(home, data, with_foreground, run_script):
    embed, _ = inference.load_network(str(with_foreground / 'saved_model'), NETWORK)
    assert embed(np.zeros([1, 32, 64, 3], np.uint8)).shape == (1, 32, 64, 4)
    shutil.copytree(with_foreground / 'saved_model', 'm')
    for threshold in (0, 0.5):   # with this bandwidth all that is clustered is one instance
        conventions = dataclasses.replace(utils.read_conventions('m'), foreground_threshold=threshold, bandwidth=1e4)
        utils.write_conventions('m', conventions)
        outcome = run_script(inference, '-m', 'm', '-i', data / 'images', '-o', f'r{threshold}', '--masks',
                             '--no-pictures', architecture=NETWORK)
        assert outcome.status == 0
        for i, path in enumerate(sorted((data / 'images').iterdir())):
            photo = cv2.imread(str(path))[None, ..., ::-1]
            expected = (embed(photo)[0, ..., 3] >= 0) if threshold else np.ones([32, 64])
            np.testing.assert_array_equal(cv2.imread(f'r{threshold}/mask_{i:04d}.png', -1), expected)


def test_resumed_training_needs_no_flag_that_its_folder_records(home, data, with_foreground, train):
    shutil.copytree(with_foreground, home, dirs_exist_ok=True)
    flags = SMALL[SMALL.index('--batch-size'):]   # but for the size of the photos
    outcome = train('-s', data, '--epochs', '3', '--learning-rate', '0.02', *flags)
    assert outcome.status == 0 and 'epoch 3 of 3' in outcome.out
    assert 'as in saved_model/resume: ' in outcome.out and '--image-size 64 32' in outcome.out
    assert '--background-weight was 0' in train('-s', data, '--epochs', '4', '--learning-rate', '0.02',
                                                '--background-weight', '2', *flags).err


def test_training_takes_over_what_its_model_was_trained_with(home, data, with_foreground, train):
    flags = SMALL[SMALL.index('--batch-size'):]
    outcome = train('-s', data, '-m', with_foreground / 'saved_model', '--epochs', '1', '--reg', '0.5',
                    '--bandwidth', '0.9', *flags)
    assert outcome.status == 0 and outcome.out.count(' variables start as in ') == 1 and 'at random' not in outcome.out
    conventions = utils.read_conventions('saved_model')
    assert conventions.image_size == (64, 32) and conventions.foreground_weight == 5
    assert (conventions.reg, conventions.bandwidth) == (0.5, 0.9)   # flags say otherwise


def test_model_without_a_record_of_its_loss_leaves_the_loss_alone(home, data, finished, train):
    shutil.copytree(finished / 'saved_model', 'm', ignore=shutil.ignore_patterns('resume'))
    record = json.loads((home / 'm/conventions.json').read_text())
    kept = {name: value for name, value in record.items() if name not in utils.SINCE_VERSION_2}
    (home / 'm/conventions.json').write_text(json.dumps({**kept, 'version': 1}))
    flags = SMALL[SMALL.index('--batch-size'):]
    assert train('-s', data, '-m', 'm', '--epochs', '1', '--recipe', 'fast', *flags).status == 0
    conventions = utils.read_conventions('saved_model')
    assert (conventions.reg, conventions.image_size) == (training.RECIPES['fast']['reg'], (64, 32))


def test_recipe_sets_what_no_flag_does(home):
    flags = training.parse_flags(['--recipe', 'fast', '--reg', '0.5'])
    assert flags.reg == 0.5
    for name, value in training.RECIPES['fast'].items():
        assert name == 'reg' or getattr(flags, name) == value
    default = training.parse_flags([])
    assert (default.batch_size, default.image_size, default.reg, default.foreground_weight) == (1, (512, 512), 1, 0)


def test_recipe_is_printed_in_full(with_foreground, home, data, train):
    outcome = train('-s', data, '--epochs', '1', '--recipe', 'fast', *SMALL)
    assert outcome.status == 0
    line, = [line for line in outcome.out.splitlines() if line.startswith('recipe fast: ')]
    for flag in ('--batch-size 5', '--image-size 64 32', '--learning-rate 0.003', '--reg 0.001', '--schedule cosine'):
        assert f'{flag} ' in f'{line} '


def test_pictures_without_lanes_are_of_any_kind(home, data, train):
    folder = shutil.copytree(data, home / 'd')
    (folder / 'lanes.json').unlink()
    assert train('-s', folder, '--epochs', '1', *SMALL).status == 0
    assert utils.read_conventions('saved_model').kind == 'any'


def test_nothing_that_tells_the_background_is_refused(home, data, train):
    outcome = train('-s', data, '--background-weight', '0', *SMALL)
    assert outcome.status == 1 and outcome.err.count('\n') == 1 and '--foreground-weight' in outcome.err


def separated(labels, strength):
    """An embedding of labels, float32 [h, w, 3]: at 0 all pixels are alike, at 1 instances lie 3 apart."""
    means = 3. * np.float32([(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)])
    noise = np.random.default_rng(1).normal(0, 0.3, (*labels.shape, 3))
    return strength * means[labels] + noise.astype(np.float32)


@pytest.mark.parametrize('weight', [1, 0])
@pytest.mark.parametrize('strength, expected', [(0, False), (1, True)])
def test_embedding_can_be_clustered_once_most_pixels_are_nearest_to_their_own_mean(strength, expected, weight):
    labels = np.zeros([40, 60], np.int32)
    labels[:, 10:14], labels[:, 30:34], labels[:, 50:54] = 20, 70, 120
    output = separated(np.unique(labels, return_inverse=True)[1].reshape(labels.shape), strength)
    flags = training.parse_flags(['--background-weight', str(weight)])
    assert training.can_be_clustered(output, labels, flags) == expected
    logit = np.where(labels > 0, 3, -3)[..., None]
    for score, sure in ((logit, expected), (-logit, False), (np.full_like(logit, -3), True)):   # none: nothing to do
        assert training.can_be_clustered(np.float32(np.concatenate([output, score], 2)), labels, flags) == sure


def test_photos_that_cannot_be_clustered_are_counted_and_the_loss_decides(home, data, train, monkeypatch):
    calls = []
    monkeypatch.setattr(training, 'can_be_clustered', lambda *args: bool(calls.append(1)) or len(calls) > 8)
    outcome = train('-s', data, '--epochs', '5', '--learning-rate', '0.01', *SMALL)
    lines = [line for line in outcome.out.splitlines() if line.startswith('epoch')]
    assert outcome.status == 0 and '2 of 2 photos cannot be clustered yet' in lines[0] and 'accuracy' not in lines[0]
    assert 'accuracy' in lines[-1] and 'cannot' not in lines[-1]
    values = {(tag, step): value for tag, step, value in curves(home / 'log')}
    assert values['validation/score', 2] == -values['validation/total', 2]
    assert values['validation/score', 10] == values['validation/accuracy', 10] >= 0


# ---- Going on --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('number, step', [(signal.SIGKILL, None), (signal.SIGTERM, 3), (signal.SIGINT, 0)])
def test_stopped_training_ends_as_if_it_had_not_been(home, data, finished, train, number, step):
    args = ['-s', data, '--epochs', '3', '--learning-rate', '0.01', '--save-minutes', '1e-9', *SMALL]
    if number == signal.SIGKILL:
        assert child(*args, cwd=home, then=lambda process: process.kill())[0] == -signal.SIGKILL
    else:
        with pytest.MonkeyPatch.context() as patch:
            at_step(patch, step, lambda: os.kill(os.getpid(), number))
            outcome = train(*args)
        assert outcome.status == 128 + number and outcome.err.count('\n') == 1
        assert f'stopped after step {step + 1} of 6, which is saved; the same command goes on' in outcome.err
    outcome = train(*args)
    assert outcome.status == 0 and 'goes on after step' in outcome.out
    assert_same(last_state(home), last_state(finished))
    assert_same(weights(utils.find_checkpoint('saved_model')),
                weights(utils.find_checkpoint(str(finished / 'saved_model'))))
    assert curves(home / 'log') == curves(finished / 'log')
    assert len(glob.glob('saved_model/*.index')) == 1 and len(glob.glob('saved_model/resume/*.index')) == 3
    assert not glob.glob('saved_model/**/*temp*', recursive=True)


def test_kill_between_the_curves_and_the_state_of_an_epoch(home, data, finished, train):
    class Killed(BaseException):
        pass

    def killed(self):
        if self.counters()[:2] == (4, 2):   # the curves are out, the state is from before the validation
            raise Killed
        save_state(self)
    save_state = utils.RunFolder.save_state
    args = ['-s', str(data), '--epochs', '3', '--learning-rate', '0.01', '--save-minutes', '1e-9', *SMALL]
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(utils.RunFolder, 'save_state', killed)
        training.main(args, architecture=NETWORK)
    outcome = train(*args)
    assert outcome.status == 0 and 'state.ckpt-4-1' in outcome.out
    assert_same(last_state(home), last_state(finished))
    assert curves(home / 'log') == curves(finished / 'log')


def test_damaged_newest_state_is_passed_over(home, data, finished, train):
    shutil.copytree(finished, home, dirs_exist_ok=True)
    newest = utils.find_checkpoint('saved_model/resume') + '.data-00000-of-00001'
    os.truncate(newest, os.path.getsize(newest) // 2)
    outcome = train('-s', data, '--epochs', '3', '--learning-rate', '0.01', *SMALL)
    assert outcome.status == 0 and outcome.err.count('\n') == 1
    assert 'state.ckpt-6-3' in outcome.err and 'state.ckpt-4-2' in outcome.out
    assert_same(last_state(home), last_state(finished))
    assert curves(home / 'log') == curves(finished / 'log')


def test_fresh_replaces_a_training_and_the_new_one_goes_on_without_it(home, data, finished, train, monkeypatch):
    shutil.copytree(finished / 'saved_model', 'saved_model')
    args = ['-s', data, '--epochs', '1', '--seed', '7', *SMALL]
    at_step(monkeypatch, 0, lambda: os.kill(os.getpid(), signal.SIGTERM))
    outcome = train('--fresh', *args)
    assert outcome.status == 143 and 'replaced' in outcome.out
    assert 'step 1 of 2, which is saved; the same command without --fresh goes on' in outcome.err
    assert train(*args).status == 0
    names = {os.path.basename(path) for path in glob.glob('saved_model/**/*.index', recursive=True)}
    assert names == {'model.ckpt-2.index', 'state.ckpt-0-0.index', 'state.ckpt-1-0.index', 'state.ckpt-2-1.index'}


@pytest.mark.parametrize('args, culprit', [
    (['--learning-rate', '0.02'], '--learning-rate was 0.01, is 0.02'), (['--seed', '1'], '--seed was 42, is 1'),
    (['--modeldir', 'other'], '--modeldir'), (['--semantic'], '--semantic'), (['--schedule', 'cosine'], '--schedule'),
    (['--image-size', '32', '32'], '--image-size')])
def test_other_flags_are_named_and_nothing_is_touched(home, data, finished, train, args, culprit):
    shutil.copytree(finished / 'saved_model', 'saved_model')
    before = contents(home / 'saved_model')
    outcome = train('-s', data, '--epochs', '3', '--learning-rate', '0.01', *SMALL, *args)
    assert outcome.status == 1 and outcome.err.count('\n') == 1 and culprit in outcome.err
    lock = home / 'saved_model/resume/lock'
    before.pop(lock)
    after = contents(home / 'saved_model')
    after.pop(lock)
    assert after == before


def test_all_flags_are_recorded_and_those_that_matter_are_compared(home, finished):
    record = json.loads((finished / 'saved_model/resume/flags.json').read_text())
    assert vars(training.parse_flags([])).keys() - {'given'} <= record.keys()
    assert record['epochs'] == 3 and record['workers'] == 1
    names = ['a.png', os.fsdecode(b'\xff.png')]   # any name
    for name in names:
        (home / name).write_text('')
    data = training.Data((names[:1], names[:1]), (names[1:], names[1:]), None)
    for schedule, expected in (('2018', ''), ('cosine', '--epochs was 5, is 6')):   # whose rates depend on the end
        before, now = (utils.settings(training.parse_flags(
            ['--schedule', schedule, '--epochs', number, '--workers', number]), data) for number in '56')
        assert utils.differences(before, now) == expected


def test_other_photos_are_noticed(home, finished, train):
    shutil.copytree(finished / 'saved_model', 'saved_model')
    outcome = train('-s', draw(home / 'd', 13), '--epochs', '3', '--learning-rate', '0.01', *SMALL)
    assert outcome.status == 1 and 'other photos' in outcome.err


def test_other_photos_of_the_same_names_and_a_lost_score_are_noticed(home, data, finished, train):
    shutil.copytree(finished / 'saved_model', 'saved_model')
    inverted = shutil.copytree(data, home / 'd')
    for path in (inverted / 'images').iterdir():
        cv2.imwrite(str(path), cv2.blur(cv2.imread(str(path)), (3, 3)))
    unscored = shutil.copytree(data, home / 'e')
    os.remove(unscored / 'lanes.json')
    for folder in (inverted, unscored):
        outcome = train('-s', folder, '--epochs', '3', '--learning-rate', '0.01', *SMALL)
        assert outcome.status == 1 and 'other photos' in outcome.err


def test_a_photo_without_lanes_is_named_and_there_is_no_score(home, capsys):
    folder = draw(home / 'd', 3)
    lines = (folder / 'lanes.json').read_text().splitlines(keepends=True)
    (folder / 'lanes.json').write_text(''.join(lines[:1] + lines[2:]))
    paths = [str(folder / f'images/{i:04d}.png') for i in range(3)]
    assert [record.raw_file for record in training.lane_records(str(folder), paths[::2])] == [
        'images/0000.png', 'images/0002.png']
    assert training.lane_records(str(folder), paths) is None
    assert f'lanes.json: does not have {paths[1]}; there is no official score' in capsys.readouterr().err


def test_files_of_others_in_outdir_stay(home, data, train):
    os.mkdir('o')
    for name in ('experiment.meta', '.draft.tmp'):
        (home / 'o' / name).write_text('mine')
    assert train('-s', data, '-o', 'o', '--epochs', '1', *SMALL).status in (None, 0)
    assert (home / 'o/experiment.meta').read_text() == (home / 'o/.draft.tmp').read_text() == 'mine'


def test_fewer_states_are_kept_from_then_on(home, data, finished, train):
    shutil.copytree(finished / 'saved_model', 'saved_model')
    assert len(utils.checkpoints('saved_model/resume')) == 3
    train('-s', data, '--epochs', '4', '--learning-rate', '0.01', '--keep', '1', *SMALL)
    assert len(utils.checkpoints('saved_model/resume')) == 1


def test_second_training_on_an_outdir_is_refused(home, data, train):
    (home / 'saved_model/resume').mkdir(parents=True)
    with utils.lock_folder('saved_model', 'saved_model/resume'):
        outcome = train('-s', data)
    assert outcome.status == 1 and f'process {os.getpid()}' in outcome.err and outcome.err.count('\n') == 1


# ---- A loss that is not finite ---------------------------------------------------------------------------------------

@pytest.fixture
def spoil_steps(monkeypatch):
    """spoil_steps(*numbers): the loss of these steps, counted from 1, is NaN."""
    def spoil(*numbers):
        def spoilt(variables):
            step = tf.train.get_global_step() + 1
            return weight_decay(variables) + tf.where_v2(tf.reduce_any(tf.equal(step, numbers)), np.nan, 0.)
        monkeypatch.setattr(utils, 'weight_decay', spoilt)
    weight_decay = utils.weight_decay
    return spoil


LONG_EPOCHS = [*SMALL, '--batch-size', '2']   # of 5 steps


def test_step_that_is_not_finite_changes_nothing(home, data, train, spoil_steps):
    spoil_steps(1, 2)
    assert train('-s', data, '--epochs', '1', *SMALL).status == 0
    before, after = weights('saved_model/resume/state.ckpt-0-0'), last_state(home)
    changed = {'global_step', 'epochs_validated', 'best_score'}
    assert after['global_step'] == 2
    assert_same({name: after[name] for name in after.keys() - changed},
                {name: before[name] for name in before.keys() - changed})


def test_files_of_a_skipped_step_are_named_and_training_goes_on(home, data, train, spoil_steps):
    spoil_steps(2, 3, 5)
    outcome = train('-s', data, '--epochs', '1', *LONG_EPOCHS)
    lines = outcome.err.splitlines()
    assert outcome.status == 0 and last_state(home)['global_step'] == 5
    assert [line.split(':')[2].strip() for line in lines] == ['step 2', 'step 3', 'step 5']
    assert all(line.count(f'{data}/images/') == 2 and 'skipped' in line for line in lines)


def test_three_in_a_row_stop_the_training_and_no_state_is_written(home, data, train, spoil_steps):
    spoil_steps(2, 3, 4)
    outcome = train('-s', data, '--epochs', '1', *LONG_EPOCHS)
    assert outcome.status == 1
    assert re.search('step 4: loss .* = var .* 3rd .*; try --fresh --learning-rate 3e-05$', outcome.err)
    assert [os.path.basename(prefix) for prefix in utils.checkpoints('saved_model/resume')] == ['state.ckpt-0-0']


def test_three_in_a_row_after_a_model_was_saved_advise_to_start_from_it(home, data, train, spoil_steps):
    spoil_steps(6, 7, 8)
    outcome = train('-s', data, '--epochs', '2', *LONG_EPOCHS)
    assert outcome.status == 1
    assert re.search('try --modeldir saved_model --outdir saved_model_2 --learning-rate 3e-05$', outcome.err)


# ---- Faults ----------------------------------------------------------------------------------------------------------

def test_full_disk_leaves_what_was_saved(home, data, finished, train):
    shutil.copytree(finished, home, dirs_exist_ok=True)
    before = contents(home / 'saved_model/resume')
    args = ['-s', data, '--epochs', '4', '--learning-rate', '0.01', *SMALL]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))   # a file may hold no more than this many bytes
    try:
        outcome = train(*args)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert outcome.status == 1
    error = outcome.err.splitlines()[-1]
    assert 'cannot be saved: File too large' in error and 'ckpt-8' in error
    after = contents(home / 'saved_model/resume')
    lock = home / 'saved_model/resume/lock'
    assert {**after, lock: b''} == {**before, lock: b''}
    outcome = train(*args)   # with room again
    assert outcome.status == 0 and 'after step 6' in outcome.out


def at_step(monkeypatch, number, act):
    """Has act() called before the step of that number, counted from 0, in this process."""
    def step(self, sess, *fetches):
        if sess.run(tf.train.get_global_step(sess.graph)) == number:
            act()
        return run_step(self, sess, *fetches)
    run_step = utils.SingleProcess.run_step
    monkeypatch.setattr(utils.SingleProcess, 'run_step', step)


def small_photo(path):
    cv2.imwrite(path, np.zeros([16, 16, 3], np.uint8))


@pytest.mark.parametrize('spoil, problem', [
    (os.remove, 'no such file'), (lambda path: open(path, 'w').close(), 'is empty'), (small_photo, 'its photo')],
    ids=['deleted', 'emptied', 'replaced'])
def test_photos_spoilt_in_mid_epoch(home, data, finished, train, spoil, problem):
    shutil.copytree(data, 'd')
    args = ['-s', 'd', '--epochs', '3', '--learning-rate', '0.01', '--cache', '0', *SMALL]
    with pytest.MonkeyPatch.context() as patch:
        # One batch ahead, so that not all has been read before.
        patch.setattr(datagenerator, 'BatchQueue', functools.partial(datagenerator.BatchQueue, capacity=1))
        at_step(patch, 3, lambda: [spoil(path) for path in glob.glob('d/images/*')])
        outcome = train(*args)
    assert outcome.status == 1 and outcome.err.count('\n') == 1
    assert 'd/images/' in outcome.err and problem in outcome.err
    assert not any(thread.name.startswith(('loader', 'enqueue')) for thread in threading.enumerate())
    shutil.copytree(data, 'd', dirs_exist_ok=True)
    outcome = train(*args)
    assert outcome.status == 0 and 'goes on after step' in outcome.out and 'after step 2' not in outcome.out
    assert_same(last_state(home), last_state(finished))
    assert curves(home / 'log') == curves(finished / 'log')


@pytest.mark.parametrize('step', [3, 5], ids=['in the second epoch', 'in the last'])
def test_vanished_outdir_is_made_anew(home, data, finished, train, monkeypatch, step):
    at_step(monkeypatch, step, lambda: shutil.rmtree('saved_model'))
    outcome = train('-s', data, '--epochs', '3', '--learning-rate', '0.01', *SMALL)
    assert outcome.status == 0 and 'saved_model: the model that was there has vanished' in outcome.err
    # The best is that of the epochs since, whose model is there.
    scores = {at: value for tag, at, value in curves(finished / 'log') if tag == 'validation/score' and at > step}
    best = max(scores, key=lambda at: (scores[at], -at))
    expected, state = last_state(finished), last_state(home)
    assert state['best_score'] == pytest.approx(scores[best])
    assert_same(state, {**expected, 'best_score': state['best_score']})
    checkpoint = utils.find_checkpoint('saved_model')
    assert checkpoint.endswith(f'model.ckpt-{best}')
    model, then = weights(checkpoint), weights(f'saved_model/resume/state.ckpt-{best}-{best // 2}')
    assert_same(model, {name: then[name] for name in model})
    assert utils.read_conventions('saved_model') == utils.read_conventions(str(finished / 'saved_model'))
    assert train('-s', data, '--epochs', '3', '--learning-rate', '0.01', *SMALL).status == 0


def test_vanished_logdir_does_not_stop_the_training(home, data, finished, train, monkeypatch):
    at_step(monkeypatch, 3, lambda: shutil.rmtree('log'))
    outcome = train('-s', data, '--epochs', '3', '--learning-rate', '0.01', *SMALL)
    assert outcome.status == 0 and 'without TensorBoard' in outcome.err and 'without these pictures' in outcome.err
    assert all(line.startswith('training.py: warning: log/') for line in outcome.err.splitlines())
    assert_same(last_state(home), last_state(finished))


@pytest.mark.parametrize('spoilt', [False, True], ids=['alone', 'with the photos'])
def test_outdir_that_cannot_be_made_anew_is_a_warning_until_the_last(home, data, train, spoilt):
    def replace():
        shutil.rmtree('saved_model')
        (home / 'saved_model').write_text('mine')
        for path in glob.glob('d/images/*') * spoilt:
            os.remove(path)
    shutil.copytree(data, 'd')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datagenerator, 'BatchQueue', functools.partial(datagenerator.BatchQueue, capacity=1))
        at_step(patch, 1, replace)
        outcome = train('-s', 'd', '--epochs', '2', '--cache', '0', *SMALL)
    *warnings, error = outcome.err.splitlines()
    assert outcome.status == 1 and error.startswith(f'training.py: error: {"d/images/" if spoilt else "saved_model: "}')
    assert warnings and all(line.startswith('training.py: warning: saved_model') for line in warnings)
    assert (home / 'saved_model').read_text() == 'mine'


@pytest.mark.parametrize('text', [b'', b'model_checkpoint_path: 7', b'\xff\xfe\0garbage'])
def test_damaged_index_of_checkpoints_is_done_without(home, data, finished, train, text):
    shutil.copytree(finished, home, dirs_exist_ok=True)
    for folder in ('saved_model', 'saved_model/resume'):
        (home / folder / 'checkpoint').write_bytes(text)
    outcome = train('-s', data, '--epochs', '4', '--learning-rate', '0.01', *SMALL)
    assert outcome.status == 0 and outcome.err == '' and 'goes on after step 6' in outcome.out


@pytest.mark.parametrize('text', ['', '{', '[1]', 'null', None])
def test_damaged_record_of_flags_is_named_and_nothing_is_touched(home, data, finished, train, text):
    shutil.copytree(finished / 'saved_model', 'saved_model')
    record = home / 'saved_model/resume/flags.json'
    record.unlink() if text is None else record.write_text(text)
    before = contents(home / 'saved_model')
    outcome = train('-s', data, '--epochs', '4', '--learning-rate', '0.01', *SMALL)
    assert outcome.status == 1 and outcome.err.count('\n') == 1
    assert 'flags.json' in outcome.err and '--fresh' in outcome.err
    lock = home / 'saved_model/resume/lock'
    assert {**contents(home / 'saved_model'), lock: b''} == {**before, lock: b''}


def test_lost_record_of_conventions_is_named(home, data, finished, train):
    """Without it the weights would be taken for those of 2018, which know photos of 0 to 255."""
    shutil.copytree(finished / 'saved_model', 'saved_model')
    (home / 'saved_model/resume/conventions.json').unlink()
    outcome = train('-s', data, '--epochs', '4', '--learning-rate', '0.01', *SMALL)
    assert outcome.status == 1 and outcome.err.count('\n') == 1
    assert 'resume/conventions.json' in outcome.err and '--fresh' in outcome.err


def test_failing_tensorboard_is_one_warning(tmp_path):
    warnings = []
    events = utils.EventFile(str(tmp_path), 0, warnings.append)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        for step in range(20):
            events.add_scalars({'loss': 1.}, step)
            events.flush()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    events.close()
    assert len(warnings) == 1 and 'tfevents' in warnings[0] and 'File too large' in warnings[0]


def test_removed_event_file_is_one_warning(tmp_path):
    warnings = []
    events = utils.EventFile(str(tmp_path / 'log'), 0, warnings.append)   # no such folder
    events.add_scalars({'loss': 1.}, 1)
    assert len(warnings) == 1
    events = utils.EventFile(str(tmp_path), 0, warnings.append)
    for path in tmp_path.glob('*tfevents*'):
        path.unlink()
    events.flush()
    events.flush()
    assert len(warnings) == 2 and 'removed' in warnings[1]


def test_failing_save_is_a_warning_until_the_last(home, data, train, monkeypatch):
    def save(self):
        if self.counters()[0]:
            raise InputError(f'{self.resume}: cannot be saved: disk full')
        save_state(self)
    save_state = utils.RunFolder.save_state
    monkeypatch.setattr(utils.RunFolder, 'save_state', save)
    outcome = train('-s', data, '--epochs', '2', '--save-minutes', '1e-9', *SMALL)
    *warnings, error = outcome.err.splitlines()
    assert outcome.status == 1 and error == 'training.py: error: saved_model/resume: cannot be saved: disk full'
    assert len(warnings) >= 3 and all('disk full; the training goes on' in line for line in warnings)
    assert 'epoch 2 of 2' in outcome.out   # the last epoch is validated all the same


def test_last_model_that_cannot_be_saved_leaves_the_epoch_to_be_validated(home, data, train, monkeypatch):
    def full(self):
        raise InputError(f'{self.outdir}: cannot be saved: disk full')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utils.RunFolder, 'save_model', full)
        outcome = train('-s', data, '--epochs', '1', *SMALL)
    assert outcome.status == 1 and 'disk full' in outcome.err and 'epoch 1 of 1' in outcome.out
    assert last_state(home)['global_step'] == 2 and last_state(home)['epochs_validated'] == 0
    outcome = train('-s', data, '--epochs', '1', *SMALL)
    assert outcome.status == 0 and utils.find_checkpoint('saved_model').endswith('model.ckpt-2')


def test_signal_in_validation_leaves_the_epoch_to_be_validated(home, data, train, monkeypatch):
    monkeypatch.setattr(training, 'validate', lambda *args: os.kill(os.getpid(), signal.SIGTERM))   # returns None
    assert train('-s', data, '--epochs', '1', *SMALL).status == 143
    assert last_state(home)['global_step'] == 2 and last_state(home)['epochs_validated'] == 0


# ---- Parts -----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('schedule', ['2018', 'cosine'])
def test_learning_rate(schedule):
    steps = np.array([0, 1, 499, 500, 4999, 5000, 9999])
    with tf.Graph().as_default(), tf.Session() as sess:
        step = tf.placeholder(tf.int64, [])
        rate = utils.learning_rate(schedule, 3e-3, step, 10000)
        got = [sess.run(rate, {step: s}) for s in steps]
    if schedule == '2018':
        expected = 3e-3 * 0.96 ** (steps // 5000)
    else:
        expected = np.where(steps < 500, 3e-3 * (steps + 1) / 500, 1.5e-3 * (1 + np.cos(np.pi * (steps - 500) / 9500)))
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-9)


def test_norm_decay_rises_to_its_end():
    with tf.Graph().as_default(), tf.Session() as sess:
        np.testing.assert_allclose(sess.run([utils.norm_decay(s) for s in (0, 90, 10 ** 6)]), [0.1, 0.91, 0.99])


def test_optimizer_is_applied_if_finite_and_steps_count_either_way():
    with tf.Graph().as_default(), tf.Session() as sess:
        variable, average, step = tf.Variable([3., 4.]), tf.Variable(1.), tf.Variable(0, dtype=tf.int64)
        finite = tf.placeholder(tf.bool, [])
        operation = utils.apply_if(finite, tf.train.AdamOptimizer(0.1), [(tf.constant([0.6, 0.8]), variable)],
                                   [(average, tf.constant(0.25))], step)
        sess.run(tf.global_variables_initializer())
        slot = [v for v in tf.global_variables() if v.op.name.endswith('/Adam')][0]
        sess.run(operation, {finite: False})
        got = sess.run([variable, average, slot, step])
        np.testing.assert_array_equal(got[0], [3, 4])
        assert got[1] == 1 and not got[2].any() and got[3] == 1
        sess.run(operation, {finite: True})
        got = sess.run([variable, average, slot, step])
        np.testing.assert_allclose(got[0], [2.9, 3.9], rtol=1e-5)             # Adam's first step is the rate itself
        np.testing.assert_allclose(got[2], 0.1 * np.array([0.6, 0.8]), rtol=1e-5)
        assert got[1] == 0.75 and got[3] == 2


def test_states_are_named_newest_first_and_only_if_complete(tmp_path):
    for age, name in ((1, 'a'), (2, 'b'), (3, 'half')):
        for suffix in ('.index', '.data-00000-of-00001')[:1 if name == 'half' else 2]:
            (tmp_path / (name + suffix)).write_bytes(b'x')
            os.utime(tmp_path / (name + suffix), (age, age))
    assert [os.path.basename(prefix) for prefix in utils.checkpoints(str(tmp_path))] == ['b', 'a']
    (tmp_path / 'checkpoint').write_text('model_checkpoint_path: "/elsewhere/a"\n')
    assert [os.path.basename(prefix) for prefix in utils.checkpoints(str(tmp_path))] == ['a', 'b']


# ---- Bad input -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('args, culprit', [
    *[([flag, value], flag) for value in ('0', '-1', 'x') for flag in
      ('--epochs', '--batch-size', '--feature-dim', '--workers', '--keep', '--pictures', '--summary-steps')],
    *[([flag, value], flag) for value in ('0', '-1', 'nan', 'inf') for flag in
      ('--dvar', '--ddist', '--bandwidth', '--learning-rate', '--clip', '--save-minutes')],
    *[([flag, value], flag) for flag in ('--var', '--dist', '--reg', '--cache') for value in ('-1', 'nan')],
    (['--seed', '-1'], '--seed'), (['--image-size', '64'], '--image-size'),
    (['--image-size', '64', '30'], '--image-size'), (['--image-size', '4096', '4104'], '--image-size'),
    (['--image-size', '32776', '8'], '--image-size'), (['--feature-dim', '1025'], '--feature-dim'),
    (['--dvar', '1.5'], '--dvar'), (['--dvar', '0.4', '--ddist', '0.3'], '--dvar'),
    (['--schedule', 'linear'], '--schedule'), (['--var', '0', '--dist', '0', '--reg', '0'], '--var'),
    (['--semantic', '--ddist', '2'], '--ddist'), (['--semantic', '--feature-dim', '4'], '--feature-dim'),
    (['--no-such-flag'], '--no-such-flag')], ids=lambda value: ' '.join(value) if isinstance(value, list) else '')
def test_bad_flags(home, train, args, culprit):
    outcome = train('-s', 'data', *args)
    assert outcome.status == 2 and outcome.err.count('\n') == 1 and culprit in outcome.err
    assert not os.listdir(home)


def test_largest_model_that_the_flags_allow_can_be_read_back():
    for args in (['--image-size', '4096', '4096'], ['--image-size', '32768', '8'], ['--feature-dim', '1024']):
        flags = training.parse_flags(args)
        utils.Conventions(image_size=flags.image_size, feature_dim=flags.feature_dim).check('flags')


def bad_folders():
    def file(path):
        return lambda home: (home / path).write_text('')

    def unwritable(home):
        (home / 'o').mkdir()
        (home / 'o').chmod(0o500)

    def model(home):
        (home / 'o').mkdir()
        (home / 'o/m.index').write_text('')

    yield 'no data', None, ['-s', 'nowhere'], 'nowhere'
    yield 'no images', lambda home: (home / 'd').mkdir(), ['-s', 'd'], 'd/images'
    yield 'one photo', lambda home: draw(home / 'one', 1), ['-s', 'one'], 'one/images/0000.png'
    yield 'no model', None, ['-m', 'nowhere'], 'nowhere: no such folder; give --modeldir'
    yield 'model is outdir', lambda home: (home / 'o').mkdir(), ['-m', 'o', '-o', 'o'], 'o: is --modeldir and --outdir'
    yield 'outdir is a file', file('o'), ['-o', 'o'], 'o:'
    yield 'outdir below a file', file('o'), ['-o', 'o/p'], 'o/p:'
    yield 'logdir is a file', file('l'), ['-l', 'l'], 'l:'
    yield 'outdir with a bracket', None, ['-o', 'o[1]'], 'o[1]: TensorFlow reads no checkpoint'
    yield 'logdir is no UTF-8', None, ['-l', os.fsdecode(b'l\xff')], r'l\udcff: is not UTF-8'
    yield 'outdir holds a model', model, ['-o', 'o'], 'o: holds a model'
    if os.geteuid():
        yield 'unwritable', unwritable, ['-o', 'o'], 'o: cannot be written'


@pytest.mark.parametrize('prepare, args, culprit', [pytest.param(*case[1:], id=case[0]) for case in bad_folders()])
def test_bad_folders_are_found_before_tensorflow(home, data, train, monkeypatch, prepare, args, culprit):
    monkeypatch.setattr(quiet, 'import_tensorflow', lambda: pytest.fail('TensorFlow was imported'))
    if prepare:
        prepare(home)
    before = contents(home)
    outcome = train(*([] if '-s' in args else ['-s', data]), *args)
    assert outcome.status == 1 and outcome.err.count('\n') == 1
    assert outcome.err.startswith(f'training.py: error: {culprit}')
    assert {path: value for path, value in contents(home).items() if path.name != 'lock'} == before


@pytest.mark.parametrize('kind', ['empty', 'not ours', 'truncated'])
def test_bad_model(home, data, finished, train, kind):
    (home / 'm').mkdir()
    if kind == 'truncated':
        shutil.copytree(finished / 'saved_model', 'm', dirs_exist_ok=True)
        path, = glob.glob('m/*.data*')
        os.truncate(path, 1000)
    elif kind == 'not ours':
        with tf.Graph().as_default(), tf.Session() as sess:
            tf.get_variable('something', [2])
            sess.run(tf.global_variables_initializer())
            tf.train.Saver().save(sess, 'm/model.ckpt')
    outcome = train('-s', data, '-m', 'm', *SMALL)
    assert outcome.status == 1 and outcome.err.count('\n') == 1 and re.match('training.py: error: m[:/]', outcome.err)
    assert not glob.glob('saved_model/**/*.index', recursive=True)


def test_unreadable_label_is_one_line(home, data, train):
    shutil.copytree(data, 'd')
    for path in glob.glob('d/labels/*'):
        os.truncate(path, 40)
    outcome = train('-s', 'd', *SMALL)
    assert outcome.status == 1 and 'd/labels/' in outcome.err and outcome.err.count('\n') == 1
    assert not any(thread.name.startswith(('loader', 'enqueue')) for thread in threading.enumerate())
