"""training.py: the files of a run, how it resumes after any end, and rejected input.

The runs are real but small: 64x32, a dozen drawn images, an ENet of which only the last bottleneck is left, and
sessions that do not optimise their graphs; both save many seconds per run.
"""
import dataclasses
import functools
import glob
import os
import resource
import shutil
import signal
import sys
import threading

import cv2
import numpy as np
import pytest

from data.common import command_line, quiet, settings, validation
from data.lanes import tusimple

quiet.import_tensorflow()
import tensorflow.compat.v1 as tf

import datagenerator
import inference
import reference
import training
import utils
import visualization
from data.common.replica import Replica

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
NETWORK = reference.small_enet()
SCATTER_PLOT = visualization.evaluate_scatter_plot
SMALL = ['--image-size', '64', '32', '--batch-size', '5', '--no-augment', '--workers', '1']
THREE = ['--epochs', '3', '--learning-rate', '0.01', *SMALL]   # what `finished` was trained with


def quicken(patch):
    """Sessions start quickly, and runs save and log each step."""
    options = tf.ConfigProto()
    options.graph_options.rewrite_options.disable_meta_optimizer = True
    patch.setattr(tf, 'Session', functools.partial(tf.Session, config=options))
    patch.setattr(training, 'SUMMARY_STEPS', 1)
    patch.setattr(training, 'SAVE_SECONDS', 0.)
    # matplotlib takes a fifth of such a run; test_lanes_are_separated draws the plot.
    patch.setattr(visualization, 'evaluate_scatter_plot', lambda *args: None)


def run_small(argv):
    """training.py with the small network as a process."""
    sys.argv[0] = 'training.py'
    quicken(pytest.MonkeyPatch())
    command_line.run(functools.partial(training.main, argv, NETWORK))


@pytest.fixture(autouse=True, scope='module')
def small_network():
    with pytest.MonkeyPatch.context() as patch:
        quicken(patch)
        yield


def draw(folder, count=12):
    """A data set of images with two straight lines, 20 (left) and 70 (right) in the labels, and their lanes.json."""
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


def train_in(folder, *args):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert training.main(list(map(str, args)), NETWORK) == 0
    return folder


@pytest.fixture(scope='module')
def finished(data, tmp_path_factory):
    """An undisturbed run of 3 epochs of 2 steps: its folder, with saved_model/ and log/."""
    return train_in(tmp_path_factory.mktemp('finished'), '-s', data, *THREE)


@pytest.fixture(scope='module')
def with_foreground(data, tmp_path_factory):
    """A run with both heads and coordinates, whose background is not an instance: its folder."""
    return train_in(tmp_path_factory.mktemp('with_foreground'), '-s', data, '--epochs', 2, '--learning-rate', 0.02,
                    '--background-weight', 0, '--foreground-weight', 5, '--foreground-threshold', 0.25,
                    '--coordinates', *SMALL)


LINKED = ['saved_model/conventions.json', 'saved_model/checkpoint', 'saved_model/resume/conventions.json',
          'log/clusters_epoch0015_0.png']


@pytest.fixture(scope='module')
def separated(data, tmp_path_factory):
    """A run of 30 epochs of 2 steps, long enough to separate the lanes, with links in place of the files LINKED: its
    folder. Their targets are in victim."""
    folder = tmp_path_factory.mktemp('separated')
    (folder / 'victim').write_text('mine')
    for name in LINKED:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(folder / 'victim')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(visualization, 'evaluate_scatter_plot', SCATTER_PLOT)
        patch.setattr(training, 'SAVE_SECONDS', 600.)
        patch.setattr(training, 'PICTURE_EPOCHS', 15)
        return train_in(folder, '-s', data, '--epochs', 30, '--learning-rate', 0.01, *SMALL)


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
    """[(tag, step, value)] as TensorBoard shows them: a START makes it discard all of the folder from its step on."""
    found = []
    for folder in (logdir, logdir / 'validation'):
        points = []
        for path in sorted(glob.glob(str(folder / '*tfevents*'))):
            for event in read_events(path):
                if event.HasField('session_log') and event.session_log.status == tf.SessionLog.START:
                    points = [point for point in points if point[1] < event.step]
                points += [(value.tag, event.step, value.simple_value) for value in event.summary.value
                           if value.HasField('simple_value')]
        found += points
    return found


def read_events(path):
    """The tf.Events of a file, as TensorBoard reads it: up to one that was truncated by a kill."""
    try:
        yield from tf.train.summary_iterator(path)
    except tf.errors.DataLossError:
        pass


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob('*') if path.is_file()}


def one_line(outcome, *texts, status=1):
    assert outcome.status == status and outcome.err.count('\n') == 1, outcome.err
    assert all(text in outcome.err for text in texts), outcome.err


def at_step(patch, number, act):
    """Calls act() before the step of that number, counted from 0, in this process."""
    def step(*args):
        if args[2] == number:
            act()
        return take_step(*args)
    take_step = Replica.take_step
    patch.setattr(Replica, 'take_step', step)


# ---- The files of a run ----------------------------------------------------------------------------------------------

def test_lanes_are_separated(separated):
    values = {(tag, step): value for tag, step, value in curves(separated / 'log')}
    # Pixels are at their means, and means are apart: only the regularisation, which is no goal, is left.
    pull_and_push = [values['loss/var', step] + values['loss/dist', step] for step in (2, 60)]
    assert pull_and_push[1] < pull_and_push[0] / 8
    assert values['validation/total', 60] < values['validation/total', 2] / 2
    assert ('validation/accuracy', 60) in values
    assert sorted(path.name for path in (separated / 'log').glob('*.png')) == [
        'clusters_epoch0015_0.png', 'clusters_epoch0015_1.png', 'clusters_epoch0030_0.png', 'clusters_epoch0030_1.png',
        'scatter_var1_dist1_reg1_dvar0.5_ddist1.5_000030.png', 'scatter_var1_dist1_reg1_dvar0.5_ddist1.5_000060.png']


def test_model_is_ready_for_inference(separated, data, home, run_script):
    outcome = run_script(inference, '-m', separated / 'saved_model', '-i', data / 'images', '-o', home / 'results',
                         architecture=NETWORK)
    assert outcome.status == 0 and len(glob.glob('results/*.png')) == 12


def test_no_link_in_the_place_of_a_file_of_a_run_is_followed(separated):
    assert (separated / 'victim').read_text() == 'mine'
    assert not any((separated / name).is_symlink() for name in LINKED)


def test_model_has_the_weights_and_state_has_everything(finished):
    model, state = weights(utils.find_checkpoint(str(finished / 'saved_model'))), last_state(finished)
    assert {name.split('/')[0] for name in model} == {'ENet', 'Instance'}
    assert not any('Adam' in name for name in model)
    trained = [name for name in model if 'moving_' not in name and 'fullconv' not in name]
    assert {'global_step', 'best_score', 'epochs_validated', *model} <= state.keys()
    slots = {name[:-len('/Adam')] for name in state if name.endswith('/Adam')}
    assert {name for name in trained if not name.endswith('biases')} <= slots <= set(trained)
    assert state['global_step'] == 6 and state['epochs_validated'] == 3
    scores = {step: value for tag, step, value in curves(finished / 'log') if tag == 'validation/score'}
    best = max(scores, key=lambda step: (scores[step], -step))
    assert utils.find_checkpoint(str(finished / 'saved_model')).endswith(f'model.ckpt-{best}')
    assert state['best_score'] == pytest.approx(scores[best])
    pictures = {value.tag for path in (finished / 'log/validation').iterdir() for event in read_events(str(path))
                for value in event.summary.value if value.HasField('image')}
    assert pictures == {f'sample/{name}/image/{i}' for name in ('photo', 'label', 'embedding') for i in (0, 1)}
    assert utils.read_conventions(str(finished / 'saved_model')) == settings.Settings(image_size=(64, 32))


def test_two_stages(home, data, train, monkeypatch):
    monkeypatch.setattr(training, 'SAVE_SECONDS', 600.)
    few = ['-s', data, '--epochs', '1', *SMALL]
    outcome = train('--semantic', '-o', 'pretrained_semantic_model', *few)
    assert outcome.status == 0 and 'variables are from a checkpoint; at random' in outcome.out and 'iou' in outcome.out
    semantic = weights(utils.find_checkpoint('pretrained_semantic_model'))
    assert {name.split('/')[0] for name in semantic} == {'ENet', 'Semantic'}
    tags = {tag for tag, *_ in curves(home / 'log/semantic')}
    assert {'loss/total', 'validation/total', 'validation/iou'} <= tags
    assert not {tag for tag in tags if tag.endswith(('/var', '/dist', '/reg'))}
    outcome = train(*few)
    assert 'from pretrained_semantic_model/model.ckpt' in outcome.out and 'at random: Instance/' in outcome.out
    first = weights('saved_model/resume/state.ckpt-0-0')
    enet = {name: value for name, value in semantic.items() if name.startswith('ENet/')}
    assert_same({name: first[name] for name in enet}, enet)


def test_foreground_head_is_trained_next_to_the_embedding(with_foreground):
    values = {(tag, step): value for tag, step, value in curves(with_foreground / 'log')}
    assert values['loss/foreground', 4] < values['loss/foreground', 1]
    model = weights(utils.find_checkpoint(str(with_foreground / 'saved_model')))
    assert model[f'Semantic/{utils.HEAD}/biases'].shape == (2,) and np.ptp(model[f'Semantic/{utils.HEAD}/biases']) > 0
    assert (model['Instance/coordinates/weights'] != 0).all()   # trained in all dimensions
    conventions = utils.read_conventions(str(with_foreground / 'saved_model'))
    assert (conventions.background_weight, conventions.foreground_threshold, conventions.coordinates) == (0, 0.25, True)


def settle(*args):
    """-> Settings, source and whether it resumes, of the run that these flags request; its folder has lanes"""
    flags = training.parse_flags(list(map(str, args)))
    return training.resolve_settings(flags, flags.srcdir, (), 1)


def test_a_foreground_head_alone_can_be_trained(data):
    run, *_ = settle('-s', data, '--var', '0', '--dist', '0', '--reg', '0', '--foreground-weight', '1')
    assert (run.var, run.dist, run.reg, run.foreground_weight) == (0, 0, 0, 1)


def test_a_run_inherits_what_its_model_was_trained_with(home, data, with_foreground, finished, capsys):
    model = shutil.copytree(with_foreground / 'saved_model', 'm', ignore=shutil.ignore_patterns('resume'))
    before = dataclasses.replace(utils.read_conventions(model), min_confidence=0.3)
    settings.write(model, before)
    run, source, resumes = settle('-s', data, '-m', model, '--recipe', 'fast', '--bandwidth', '0.9')
    assert (source, resumes) == ('m', False) and 'inherited from m: --image-size 64 32' in capsys.readouterr().out
    assert settings.to_json(run) == settings.to_json(dataclasses.replace(before, bandwidth=0.9))
    # Models for lanes pass no settings on to other images; one of 2018 passes on only its normalisation.
    assert not settle('-s', 'anything', '-m', model)[0].coordinates
    os.remove('m/conventions.json')
    run, *_ = settle('-s', data, '-m', model)
    assert (run.normalisation, run.bandwidth) == ('none', settings.Settings.bandwidth)


def test_folders_have_their_shares_and_ignored_pixels_do_not_count(home, data, train):
    for name in ('a', 'b:2'):   # the : in a folder's name is not a share
        shutil.copytree(data, name)
    os.remove('a/lanes.json')
    for path in glob.glob('*/labels/*'):
        label = cv2.imread(path, cv2.IMREAD_GRAYSCALE)
        cv2.imwrite(path, np.where(label == 70, 255, label).astype(np.uint8))
    outcome = train('-s', 'a:3', 'b:2', '--ignore', '255', '--epochs', '1', *SMALL[:-3])
    assert outcome.status == 0 and 'no label has two instances' in outcome.err
    assert '20 images to train on, 1.0 instances per image' in outcome.out and 'official score' not in outcome.out
    assert 'validation/unclustered' in {tag for tag, *_ in curves(home / 'log')}   # scored as images of any kind
    one_line(train('-s', 'a', 'b:2'), 'other images, shares or lanes.json')
    one_line(train('-s', 'a:3', 'b:2', '--ignore', '7'), '--ignore was 255, is 7')


def test_the_loss_selects_the_epoch_while_most_images_cannot_be_clustered():
    records = [tusimple.Record(name, [[10, 20, 30]], [10, 20, 30]) for name in 'abc']
    for unclustered, expected in ((1, {'accuracy': 1, 'fp': 0, 'fn': 0, 'score': 1}), (2, {})):
        found = [(i >= unclustered, record) for i, record in enumerate(records)]
        assert validation.summarise(found, settings.Settings(), records) == {'unclustered': unclustered, **expected}


def test_an_embedding_can_be_clustered_once_the_means_of_its_instances_are_apart():
    run = settings.Settings(dist=2., delta_d=1.5)
    for total, dist, expected in ((9., 4.4, True), (9., 4.6, False), (np.nan, 0., False)):
        assert validation.can_be_clustered({'total': total, 'dist': dist}, run) == expected
    assert validation.can_be_clustered({'total': 1., 'dist': 0.}, settings.Settings(dist=0.))


# ---- Resuming --------------------------------------------------------------------------------------------------------

def test_stopped_run_ends_as_if_never_stopped(home, data, finished, with_foreground, train):
    shutil.copytree(with_foreground / 'saved_model', 'saved_model')   # which --fresh replaces
    with pytest.MonkeyPatch.context() as patch:
        at_step(patch, 3, lambda: os.kill(os.getpid(), signal.SIGTERM))
        outcome = train('--fresh', '-s', data, *THREE)
    one_line(outcome, 'stopped after step 4 of 6, which is saved; the same command without --fresh resumes', status=143)
    outcome = train('-s', data)   # flags that its folder records are not needed
    assert outcome.status == 0 and 'resumes after step 4' in outcome.out
    assert_same(last_state(home), last_state(finished))
    assert_same(weights(utils.find_checkpoint('saved_model')),
                weights(utils.find_checkpoint(str(finished / 'saved_model'))))
    assert curves(home / 'log') == curves(finished / 'log')
    names = {os.path.basename(path) for path in glob.glob('saved_model/**/*.index', recursive=True)}
    best = os.path.basename(utils.find_checkpoint(str(finished / 'saved_model')))
    assert names == {f'{best}.index', 'state.ckpt-5-2.index', 'state.ckpt-6-2.index', 'state.ckpt-6-3.index'}
    assert not glob.glob('saved_model/**/*temp*', recursive=True)


def test_kill_between_the_curves_and_the_state_of_an_epoch(home, data, finished, train):
    class Killed(BaseException):
        pass

    def killed(saver, sess, prefix, curves=()):
        if prefix.endswith('state.ckpt-4-2'):   # the curves are out, the state is from before the validation
            for writer in curves:
                writer.flush()
            raise Killed
        save(saver, sess, prefix, curves)
    save = utils.save
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(utils, 'save', killed)
        training.main(['-s', str(data), *THREE], architecture=NETWORK)
    outcome = train('-s', data, *THREE)
    assert outcome.status == 0 and 'state.ckpt-4-1' in outcome.out
    assert_same(last_state(home), last_state(finished))
    assert curves(home / 'log') == curves(finished / 'log')


def test_signal_in_validation_leaves_the_epoch_to_be_validated(home, data, train, monkeypatch):
    monkeypatch.setattr(training, 'validate', lambda *args: os.kill(os.getpid(), signal.SIGTERM))   # returns None
    assert train('-s', data, '--epochs', '1', *SMALL).status == 143
    assert last_state(home)['global_step'] == 2 and last_state(home)['epochs_validated'] == 0


@pytest.mark.parametrize('args, culprit', [
    (['--learning-rate', '0.02'], '--learning-rate was 0.01, is 0.02'), (['--seed', '1'], '--seed was 42, is 1'),
    (['--modeldir', 'other'], '--modeldir'), (['--semantic'], '--semantic'), (['--schedule', 'cosine'], '--schedule'),
    (['--image-size', '32', '32'], '--image-size was 64 32, is 32 32'), (['--batch-size', '2'], '--batch-size'),
    (['--recipe', 'fast'], '--recipe')], ids=lambda args: args[0] if isinstance(args, list) else '')
def test_other_settings_are_named_with_the_way_out_and_nothing_is_touched(home, data, finished, train, args, culprit):
    shutil.copytree(finished / 'saved_model', 'saved_model')
    before = contents(home / 'saved_model')
    one_line(train('-s', data, *THREE, *args), culprit, '--modeldir saved_model --outdir NEW')
    assert contents(home / 'saved_model') == before


def test_epochs_can_be_added_unless_the_schedule_depends_on_their_number():
    assert settings.resume({'epochs': 6}, settings.Settings(epochs=5), 'o').epochs == 6
    with pytest.raises(training.InputError, match='--epochs was 5, is 6'):
        settings.resume({'epochs': 6}, settings.Settings(epochs=5, schedule='cosine'), 'o')


def test_fewer_epochs_than_were_done_end_the_run(home, data, finished, train):
    shutil.copytree(finished / 'saved_model', 'saved_model')
    before = contents(home / 'saved_model')
    assert train('-s', data, *SMALL, '--epochs', '1').status == 0
    assert contents(home / 'saved_model') == before


def test_other_images_of_the_same_names_and_a_lost_score_are_noticed(home, data, finished, train):
    shutil.copytree(finished / 'saved_model', 'saved_model')
    blurred, unscored = shutil.copytree(data, home / 'd'), shutil.copytree(data, home / 'e')
    for path in (blurred / 'images').iterdir():
        cv2.imwrite(str(path), cv2.blur(cv2.imread(str(path)), (3, 3)))
    os.remove(unscored / 'lanes.json')
    for folder in (blurred, unscored):
        one_line(train('-s', folder), 'other images, shares or lanes.json')


def test_an_image_without_lanes_is_named_and_there_is_no_score(home, capsys):
    folder = draw(home / 'd', 2)
    first, _ = (folder / 'lanes.json').read_text().splitlines(keepends=True)
    (folder / 'lanes.json').write_text(first)
    paths = [str(folder / f'images/{i:04d}.png') for i in range(2)]
    assert [record.raw_file for record in training.lane_records(str(folder), paths[:1])] == paths[:1]
    assert training.lane_records(str(folder), paths) is None
    assert f'lanes.json: does not have {paths[1]}; there is no official score' in capsys.readouterr().err


# ---- Faults ----------------------------------------------------------------------------------------------------------

def test_loss_that_is_not_finite_ends_the_run_before_anything_is_saved(home, data, train, monkeypatch):
    def spoilt(variables):
        return weight_decay(variables) * tf.where_v2(tf.equal(tf.train.get_global_step(), 3), np.nan, 1.)
    weight_decay = utils.weight_decay
    monkeypatch.setattr(utils, 'weight_decay', spoilt)
    outcome = train('-s', data, *THREE)
    one_line(outcome, 'step 4: the loss (total ', 'or its gradient (norm nan) is not finite',
             '--modeldir saved_model/resume --outdir NEW --learning-rate 0.003')
    assert outcome.err.count('.png') == 5
    assert last_state(home)['global_step'] == 3
    assert all(np.isfinite(value).all() for name, value in last_state(home).items() if name != 'best_score')
    assert settle('-s', data, '--modeldir', 'saved_model/resume', '-o', 'new')[1:] == ('saved_model/resume', False)


def test_full_disk_leaves_what_was_saved(home, data, finished, train):
    shutil.copytree(finished, home, dirs_exist_ok=True)
    before = contents(home / 'saved_model/resume')
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))   # a file may hold no more than this many bytes
    try:
        outcome = train('-s', data, '--epochs', '4')
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    one_line(outcome, 'state.ckpt-7-3: cannot be saved: File too large')
    assert contents(home / 'saved_model/resume') == before


def test_images_deleted_in_mid_run_are_one_line(home, data, train, monkeypatch):
    shutil.copytree(data, 'd')
    monkeypatch.setattr(training, 'CACHE', 0)
    # One batch ahead: not everything has been read yet.
    monkeypatch.setattr(datagenerator, 'BatchQueue', functools.partial(datagenerator.BatchQueue, capacity=1))
    at_step(monkeypatch, 3, lambda: [os.remove(path) for path in glob.glob('d/images/*')])
    one_line(train('-s', 'd', *THREE), 'd/images/')
    assert last_state(home)['global_step'] > 3
    assert not any(thread.name.startswith(('loader', 'queue')) for thread in threading.enumerate())


@pytest.mark.parametrize('text', ['', '{', '[1]', None])
def test_damaged_or_lost_record_of_a_run_is_one_line(home, data, finished, train, text):
    shutil.copytree(finished / 'saved_model', 'saved_model')
    record = home / 'saved_model/resume/conventions.json'
    record.unlink() if text is None else record.write_text(text)
    one_line(train('-s', data), 'saved_model/resume', 'conventions')


def test_second_run_on_an_outdir_is_refused(home, data, train):
    (home / 'saved_model/resume').mkdir(parents=True)
    with training.lock_folder('saved_model/resume'):
        one_line(train('-s', data), 'saved_model/resume: is in use by another run')


# ---- Bad input -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('args, culprit', [
    *[([flag, value], flag) for value in ('0', '-1', 'x') for flag in
      ('--epochs', '--batch-size', '--feature-dim', '--workers')],
    *[([flag, value], flag) for value in ('0', '-1', 'nan', 'inf', '1e308') for flag in
      ('--dvar', '--ddist', '--bandwidth', '--learning-rate')],
    *[([flag, value], flag) for flag in ('--var', '--dist', '--reg') for value in ('-1', 'nan')],
    (['--seed', '-1'], '--seed'), (['--image-size', '64'], '--image-size'),
    (['--feature-dim', '1025'], '--feature-dim'), (['--image-size', '32776', '8'], '--image-size'),
    (['--schedule', 'linear'], '--schedule'), (['--no-such-flag'], '--no-such-flag')],
    ids=lambda value: ' '.join(value) if isinstance(value, list) else '')
def test_bad_flags(home, train, args, culprit):
    one_line(train('-s', 'data', *args), culprit, status=2)
    assert not os.listdir(home)


@pytest.fixture
def no_tensorflow(monkeypatch):
    monkeypatch.setattr(quiet, 'import_tensorflow', lambda: pytest.fail('TensorFlow was imported'))


@pytest.mark.parametrize('args, culprit', [
    (['--image-size', '64', '30'], '--image-size'), (['--image-size', '4096', '4104'], '--image-size'),
    (['--dvar', '1.5'], '--dvar'), (['--dvar', '0.4', '--ddist', '0.3'], '--dvar'),
    (['--var', '0', '--dist', '0', '--reg', '0'], '--var'), (['--coordinates'], '--background-weight 0'),
    (['--background-weight', '0'], '--foreground-weight'), (['--semantic', '--ddist', '2'], '--ddist'),
    (['--semantic', '--coordinates'], '--coordinates'), (['-m', 'm', '--dvar', '1.7'], '--dvar: 1.7 is not below')],
    ids=lambda value: ' '.join(value) if isinstance(value, list) else '')
def test_contradictions_are_found_before_tensorflow_is_imported(home, data, train, no_tensorflow, args, culprit):
    os.mkdir('m')
    (home / 'm/model.index').write_text('')
    settings.write('m', settings.Settings(delta_v=0.2, delta_d=1.6))
    one_line(train('-s', data, *args), culprit)
    assert os.listdir(home) == ['m']


def test_a_setting_that_a_record_should_not_have_is_named():
    with pytest.raises(training.InputError, match='^m: "of_tomorrow" is an unknown setting'):
        settings.from_json('{"version": 3, "of_tomorrow": 1}', 'm')


def test_flags_win_over_the_model_and_it_over_the_recipe():
    chosen = {'recipe': 'fast', 'kind': 'road', 'delta_v': 1.7}
    run, inherited = settings.start(chosen, settings.Settings(delta_v=0.2, delta_d=2.))
    assert (run.delta_v, run.delta_d, run.reg, run.schedule) == (1.7, 2., 1., 'cosine') and inherited['delta_d'] == 2.
    run, _ = settings.start({'recipe': '2018', 'var': 0., 'dist': 0., 'reg': 0., 'foreground_weight': 1.})
    assert run.heads == {'Instance': 3, 'Semantic': 2}   # there is something to learn


def test_every_flag_of_a_setting_is_parsed_into_its_field():
    flags = training.parse_flags(settings.as_flags(settings.RECIPES['any']).split())
    assert settings.given(flags) == settings.RECIPES['any']
    assert settings.given(training.parse_flags([])) == {}


def touch(path):
    """Makes an empty file, or a folder if the path ends in /."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if not path.endswith('/'):
        open(path, 'w').close()


@pytest.mark.parametrize('path, args, culprit', [
    (None, ['-s', 'nowhere'], 'nowhere'), ('d/', ['-s', 'd'], 'd/images'),
    (None, ['-m', 'nowhere'], 'nowhere: holds no checkpoint; give --modeldir'),
    ('m/', ['-m', 'm'], 'm: holds no checkpoint'),
    ('o/', ['-m', 'o', '-o', 'o'], 'o: is both --modeldir and --outdir'), ('./o', ['-o', 'o'], 'o: cannot be created'),
    (None, ['-o', 'o[1]'], 'o[1]: TensorFlow cannot read checkpoints'), ('o/m.index', ['-o', 'o'], 'o: holds a model')])
def test_bad_folders_are_found_before_tensorflow_is_imported(home, data, train, no_tensorflow, path, args, culprit):
    if path:
        touch(path)
    before = contents(home)
    one_line(train(*([] if '-s' in args else ['-s', data]), *args), f'training.py: error: {culprit}')
    assert contents(home) == before
