"""inference.py from the command line: its outputs, its messages, and what it refuses.

Most tests replace the network by one that returns the colours of a photo: areas of one colour are instances.
"""

import csv
import json
import os
import subprocess
import sys
import types

import cv2
import numpy as np
import pytest

import clustering
import inference
import reference
import visualization
from data.common import inputs, quiet
from data.common.command_line import InputError

SHAPE = (128, 72)
LINES = {'red': ((10, 71), (50, 10), (255, 0, 0)), 'blue': ((110, 71), (70, 10), (0, 0, 255))}


@pytest.fixture
def colour_network(monkeypatch):
    """The stand-in for the network: the embedding is the photo's colour, 0 to 8."""
    def network(batch):
        assert batch.dtype == np.uint8 and batch.shape[1:] == (*SHAPE[::-1], 3)
        return batch.astype(np.float32) / 32
    conventions = types.SimpleNamespace(image_size=SHAPE, feature_dim=3, bandwidth=3.0, delta_v=0.5, delta_d=1.5,
                                        kind='road', background_weight=1., foreground_weight=0.)

    monkeypatch.setattr(inference, 'load_network', lambda modeldir, architecture=None: (network, conventions))
    monkeypatch.setattr(quiet, 'import_tensorflow', lambda: None)
    return conventions


def road(*names, size=(128, 72)):
    """A black photo with lines of pure colour, 1 px wide at 128x72: 10 in TuSimple's size."""
    photo = np.zeros([72, 128, 3], np.uint8)
    for name in names:
        start, end, rgb = LINES[name]
        cv2.line(photo, start, end, rgb)
    return cv2.resize(photo, size, interpolation=cv2.INTER_NEAREST)


def write(path, photo):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), photo[..., ::-1] if photo.ndim == 3 else photo)
    return path


def write_video(path, photos, fps=10):
    fourcc = cv2.VideoWriter_fourcc(*('MJPG' if path.suffix == '.avi' else 'mp4v'))
    writer = cv2.VideoWriter(str(path), fourcc, fps, photos[0].shape[1::-1])
    for photo in photos:
        writer.write(np.ascontiguousarray(photo[..., ::-1]))
    writer.release()
    return path


def read_video(path):
    """-> (frames, uint8 [num_frames, h, w, 3] RGB; frames per second)"""
    capture, frames = cv2.VideoCapture(str(path)), []
    found, frame = capture.read()
    while found:
        frames.append(frame[..., ::-1])
        found, frame = capture.read()
    return np.array(frames), capture.get(cv2.CAP_PROP_FPS)


def read(path):
    picture = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    return picture[..., ::-1] if picture.ndim == 3 else picture


def json_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob('*'))
            if path.is_file()}


def pictures_in(folder):
    """-> the sorted names of the results in a folder but its photos.csv"""
    return sorted(set(os.listdir(folder)) - {'photos.csv'})


def one_line(text):
    assert text.count('\n') == 1 and text.endswith('\n') and 'Traceback' not in text
    return text


# ---- What it writes --------------------------------------------------------------------------------------------------

def test_instances_are_coloured_from_left_to_right_and_background_is_unchanged(colour_network, run_script, tmp_path):
    photo = road('blue', 'red')
    write(tmp_path / 'in/a.png', photo)
    outcome = run_script(inference, '-i', tmp_path / 'in', '-o', tmp_path / 'out', '--masks')
    assert outcome.status == 0 and outcome.err == ''
    mask, picture = read(tmp_path / 'out/mask_0000.png'), read(tmp_path / 'out/cluster_0000.png')
    assert mask.dtype == np.uint8 and [mask[63, 15], mask[63, 105], mask[63, 60]] == [1, 2, 0]
    np.testing.assert_array_equal(picture[:, 122:], photo[:, 122:])
    for (x, y), k in (((15, 63), 0), ((105, 63), 1)):   # on the left line, on the right line
        expected = 0.45 * photo[y, x] + 0.55 * np.array(visualization.colour(k))
        np.testing.assert_allclose(picture[y, x], expected, atol=1)


def test_pictures_are_numbered_in_the_order_of_their_names(colour_network, run_script, tmp_path):
    write(tmp_path / 'in/b.JPG', road('red', size=(100, 50)))
    write(tmp_path / 'in/a.Png', road('red', size=(64, 80)))
    write(tmp_path / 'in/c.bmp', road('red', size=(30, 30)))
    run_script(inference, '-i', tmp_path / 'in', '-o', tmp_path / 'out', '--json', tmp_path / 'p.json')
    assert pictures_in(tmp_path / 'out') == [f'cluster_{i:04d}.png' for i in range(3)]
    assert [read(tmp_path / f'out/cluster_{i:04d}.png').shape for i in range(3)] == [(80, 64, 3), (50, 100, 3),
                                                                                      (30, 30, 3)]
    assert [line['raw_file'] for line in json_lines(tmp_path / 'p.json')] == ['a.Png', 'b.JPG', 'c.bmp']


def test_video_becomes_a_video_of_the_same_size_and_frame_rate(colour_network, run_script, tmp_path):
    photos = [road('red', size=(256, 144))] * 2 + [road(size=(256, 144))] * 5
    write_video(tmp_path / 'drive.mp4', photos, fps=29.97)
    outcome = run_script(inference, '-i', tmp_path / 'drive.mp4', '-o', tmp_path / 'out', '--bandwidth', '2')
    assert outcome.status == 0 and outcome.err == '' and '7 pictures' in outcome.out
    assert pictures_in(tmp_path / 'out') == ['drive.mp4'] and f"video: {tmp_path / 'out/drive.mp4'} (" in outcome.out
    frames, fps = read_video(tmp_path / 'out/drive.mp4')
    assert frames.shape == (7, 144, 256, 3) and fps == pytest.approx(29.97, abs=0.01)
    colour = visualization.colour(0)   # of the lane line, which hides the photo
    found = [(np.abs(frame.astype(int) - colour).max(axis=2) < 60).sum() for frame in frames]
    assert min(found[:2]) > 15 and max(found[2:]) == 0


@pytest.mark.parametrize('workers', [0, 2])
def test_lanes_of_a_video_keep_their_ids_and_colours(colour_network, run_script, tmp_path, workers):
    """The left lane is missed for two frames: the right one stays the second, and the left one returns as the first."""
    frames = [road('red', 'blue')] * 3 + [road('blue')] * 2 + [road('red', 'blue')] * 3
    write_video(tmp_path / 'drive.avi', frames)
    outcome = run_script(inference, '-i', tmp_path / 'drive.avi', '-o', tmp_path / 'out', '--frames',
                         '--json', tmp_path / 'p.json', '--workers', workers, '--no-smoothing')
    assert outcome.status == 0
    ids = [line['ids'] for line in json_lines(tmp_path / 'p.json')]
    assert ids == [[1, 2]] * 3 + [[2]] * 2 + [[1, 2]] * 3
    red, green, _ = read(tmp_path / 'out/cluster_0004.png')[63, 105]
    assert red < 60 < 100 < green   # as in the frames before, the second colour


@pytest.mark.parametrize('tracks', [[7, 5], [0, 5]], ids=['all', 'one too young'])
def test_instances_have_the_id_of_their_lane_and_those_without_one_are_left_out(tracks):
    photo = inputs.Photo(0, 'a', 'a', lanes=[np.full(62, 415.), np.full(62, 1015.)], confidences=[0.5, 0.7],
                         shown=np.array([0, 1, 2, 1, 0]))
    inference.track_lanes(photo, types.SimpleNamespace(update=lambda lanes: (np.array(tracks), np.array(lanes))))
    assert photo.shown.tolist() == [0, tracks[0], tracks[1], tracks[0], 0]
    kept = [track for track in tracks if track]
    assert photo.track_ids == kept and photo.confidences == [0.5, 0.7][-len(kept):] and photo.num_found == len(kept)
    assert len(photo.lanes) == len(kept) and photo.lanes[-1][0] == 1015


def test_tusimple_json_decides_photos_names_and_rows(colour_network, run_script, tmp_path):
    write(tmp_path / 'set/clips/1/20.jpg', road('red', 'blue', size=(1280, 720)))
    lines = [{'raw_file': './clips//1/20.jpg', 'h_samples': [240, 300, 400, 700], 'lanes': []},
             {'raw_file': 'clips/1/20.jpg', 'h_samples': [500, 600]}]
    (tmp_path / 'set/test_tasks.json').write_text(''.join(json.dumps(line) + '\n' for line in lines))
    outcome = run_script(inference, '-i', tmp_path / 'set/test_tasks.json', '--no-pictures',
                         '-o', tmp_path / 'out', '--json', tmp_path / 'p.json')
    assert outcome.status == 0 and '4 lanes' in outcome.out
    assert not (tmp_path / 'out').exists()
    predictions = json_lines(tmp_path / 'p.json')
    for line, prediction in zip(lines, predictions, strict=True):
        assert prediction['raw_file'] == line['raw_file'] and prediction['h_samples'] == line['h_samples']
        assert all(len(lane) == len(line['h_samples']) for lane in prediction['lanes'])
        assert prediction['run_time'] > 0
    left, right = predictions[0]['lanes']   # the red line runs from (100, 710) to (500, 100)
    np.testing.assert_allclose(left[2], 100 + 400 * (710 - 400) / 610, atol=15)
    np.testing.assert_allclose(right[2], 1100 - 400 * (710 - 400) / 610, atol=15)


def test_mask_of_more_than_255_instances_has_16_bits(any_network, run_script, tmp_path, monkeypatch):
    ids = np.arange(72 * 128).reshape(72, 128) // 14
    monkeypatch.setattr(clustering, 'instance_ids', lambda *args: ids)
    write(tmp_path / 'in/a.png', road(size=SHAPE))
    run_script(inference, '-i', tmp_path / 'in', '-o', tmp_path / 'out', '--masks')
    mask = read(tmp_path / 'out/mask_0000.png')
    assert mask.dtype == np.uint16 and len(np.unique(mask)) == ids.max() + 1


def test_scatter_writes_the_plot_and_the_embedding_as_colours(colour_network, run_script, tmp_path):
    write(tmp_path / 'in/a.png', road('red', 'blue', size=SHAPE))
    run_script(inference, '-i', tmp_path / 'in', '-o', tmp_path / 'out', '--scatter', '--no-pictures')
    assert pictures_in(tmp_path / 'out') == ['embedding_0000.png', 'scatter_0000.png']
    np.testing.assert_array_equal(read(tmp_path / 'out/embedding_0000.png'), road('red', 'blue', size=SHAPE))


@pytest.mark.parametrize('name', [b'\xff\xfe.png', b'$_{$ 100%, \x1b[31m\n.png'])
def test_photo_may_have_any_name(colour_network, tmp_path, name):
    folder = os.fsencode(tmp_path / 'in')
    os.rename(write(tmp_path / 'in/a.png', road('red')), os.path.join(folder, name))
    assert inference.main(['-i', str(tmp_path / 'in'), '-o', str(tmp_path / 'out'), '--scatter',
                           '--json', str(tmp_path / 'p.json')]) == 0
    assert json_lines(tmp_path / 'p.json')[0]['raw_file'] == os.fsdecode(name)
    assert name in (tmp_path / 'out/photos.csv').read_bytes() and len(pictures_in(tmp_path / 'out')) == 3


def table(folder):
    with open(folder / 'photos.csv', newline='') as file:
        return list(csv.DictReader(file))


def test_table_names_the_photo_of_each_number(colour_network, run_script, tmp_path):
    write(tmp_path / 'in/IMG_7.png', road('red', 'blue'))
    (tmp_path / 'in/IMG_8.png').write_bytes(b'damaged')
    write(tmp_path / 'in/IMG_9.png', road())
    run_script(inference, '-i', tmp_path / 'in', '-o', tmp_path / 'out', '--json', tmp_path / 'p.json')
    rows = table(tmp_path / 'out')
    assert [(row['number'], row['file'], row['instances']) for row in rows] == [
        ('0000', str(tmp_path / 'in/IMG_7.png'), '2'), ('0002', str(tmp_path / 'in/IMG_9.png'), '0')]
    for row, line in zip(rows, json_lines(tmp_path / 'p.json'), strict=True):
        confidences = [float(value) for value in row['confidences'].split()]
        np.testing.assert_allclose(confidences, line['confidence'], atol=0.01)
        times = [float(row[f'{name} ms']) for name in ('network', 'clustering', 'lanes', 'total')]
        assert sum(times[:3]) == pytest.approx(times[3], abs=0.2) == pytest.approx(line['run_time'], abs=0.2)


def test_results_keep_the_tree(colour_network, run_script, tmp_path):
    for name in ('in/1.png', 'in/sub/2.png'):
        write(tmp_path / name, road('red'))
    write_video(tmp_path / 'in/sub/drive.avi', [road('red')] * 2)
    for _ in range(2):   # the results lie below the input
        outcome = run_script(inference, '-i', tmp_path / 'in', '-o', tmp_path / 'in/out', '--recursive', '--masks',
                             '--no-pictures')
        assert outcome.status == 0 and outcome.err == ''
    masks = {name for name in contents(tmp_path / 'in/out') if not name.endswith('photos.csv')}
    assert masks == {'mask_0000.png', 'sub/mask_0000.png', 'sub/drive/mask_0000.png', 'sub/drive/mask_0001.png'}


def test_defaults_on_another_drive_are_absolute(monkeypatch):
    def relpath(path):
        raise ValueError("path is on mount 'D:', start on mount 'C:'")
    monkeypatch.setattr(os.path, 'relpath', relpath)
    assert inference.parse_flags([]).modeldir == os.path.join(inference.HERE, 'trained_model')


@pytest.mark.parametrize('limit, expected', [(['--max-lanes', '1'], 1), (['--min-confidence', '1'], 0), ([], 2)])
def test_lanes_beyond_the_limits_are_left_out_everywhere(colour_network, run_script, tmp_path, limit, expected):
    photo = write(tmp_path / 'in/a.png', road('red', 'blue'))
    write_video(tmp_path / 'drive.avi', [road('red', 'blue')])
    for indir in ('in', 'drive.avi'):
        run_script(inference, '-i', tmp_path / indir, '-o', tmp_path / indir / '..' / 'out', '--masks', '--frames',
                   '--json', tmp_path / 'p.json', *limit)
        line, = json_lines(tmp_path / 'p.json')
        assert len(line['lanes']) == expected and read(tmp_path / 'out/mask_0000.png').max() == expected
        if indir == 'in':
            changed = (read(tmp_path / 'out/cluster_0000.png') != read(photo)).any(axis=2)[63]
            assert [changed[:64].any(), changed[64:].any()].count(True) == expected


def test_default_confidence_is_that_of_the_model(colour_network, run_script, tmp_path):
    write(tmp_path / 'in/a.png', road('red', 'blue'))
    colour_network.min_confidence = 1.
    for flags, expected in (([], 0), (['--min-confidence', '0'], 2)):
        run_script(inference, '-i', tmp_path / 'in', '--no-pictures', '--json', tmp_path / 'p.json', *flags)
        assert len(json_lines(tmp_path / 'p.json')[0]['lanes']) == expected


def test_draw_lanes_draws_lines_over_the_instances(colour_network, run_script, tmp_path):
    write(tmp_path / 'in/a.png', road('red', size=(640, 360)))
    run_script(inference, '-i', tmp_path / 'in', '-o', tmp_path / 'out', '--draw-lanes')
    picture = read(tmp_path / 'out/cluster_0000.png')
    # A line hides the photo, an instance's colour does not.
    assert (picture == visualization.colour(0)).all(axis=2).sum() > 100


def test_scattered_embedding_is_warned_of(colour_network, run_script, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, [*SHAPE[::-1], 3]).astype(np.uint8)
    write(tmp_path / 'in/a.png', noise)
    write(tmp_path / 'in/b.png', road('red'))
    outcome = run_script(inference, '-i', tmp_path / 'in', '-o', tmp_path / 'out', '--bandwidth', '0.2', '-m', 'mine')
    assert outcome.status == 0 and outcome.err.count('\n') == 1
    assert '1 of 2 pictures is scattered' in outcome.err and 'train mine for longer' in outcome.err


def test_output_does_not_depend_on_the_number_of_workers(colour_network, run_script, tmp_path):
    for i in range(6):
        write(tmp_path / f'in/{i}.png', road('red', 'blue', size=(100 + 10 * i, 90)))
    for workers in ('0', '3'):
        run_script(inference, '-i', tmp_path / 'in', '-o', tmp_path / workers, '--masks', '--workers', workers)
        (tmp_path / workers / 'photos.csv').unlink()   # with times
    assert len(contents(tmp_path / '0')) == 12 and contents(tmp_path / '0') == contents(tmp_path / '3')


def test_closing_table_shows_times_lanes_and_frames_per_second(colour_network, run_script, tmp_path):
    for i in range(3):
        write(tmp_path / f'in/{i}.png', road('red', 'blue'))
    lines = run_script(inference, '-i', tmp_path / 'in', '-o', tmp_path / 'out').out.splitlines()
    assert [line.split()[0] for line in lines[1:5]] == ['network', 'clustering', 'lanes', 'total']
    assert '3 pictures, 6 lanes found' in lines[5] and 'frames per second' in lines[5]


# ---- Stopped runs ----------------------------------------------------------------------------------------------------

@pytest.fixture
def stop_after(monkeypatch):
    """stop_after(n, exception): the clustering of photo n raises it."""
    def stop(count, exception):
        whole, calls = clustering.instance_ids, []

        def interrupted(*args):
            calls.append(1)
            if len(calls) > count:
                raise exception
            return whole(*args)
        monkeypatch.setattr(clustering, 'instance_ids', interrupted)
    return stop


@pytest.mark.parametrize('count', [0, 2])
def test_stopped_run_writes_the_lanes_so_far(colour_network, run_script, tmp_path, stop_after, count):
    stop_after(count, KeyboardInterrupt())
    for name in 'abcd':
        write(tmp_path / f'in/{name}.png', road('red'))
    (tmp_path / 'p.json').write_text('earlier predictions')
    (tmp_path / 'p.json.part').symlink_to('p.json')   # it is no name that the user gave
    outcome = run_script(inference, '-i', tmp_path / 'in', '--no-pictures', '--workers', '0',
                         '--json', tmp_path / 'p.json')
    assert outcome.status == 130 and ('p.json.part: holds the lanes of the 2 pictures' in outcome.err) == (count == 2)
    if count:
        assert [line['raw_file'] for line in json_lines(tmp_path / 'p.json.part')] == ['a.png', 'b.png']
    assert (tmp_path / 'p.json').read_text() == 'earlier predictions'


def test_links_are_followed_where_the_user_names_them_and_replaced_elsewhere(colour_network, run_script, tmp_path):
    write(tmp_path / 'a.png', road('red'))
    (tmp_path / 'out').mkdir()
    victim = tmp_path / 'victim'
    victim.write_text('mine')
    for name in ('out/cluster_0000.png', 'out/mask_0000.png', 'out/.p.json.tmp', 'out/.unfinished'):
        (tmp_path / name).symlink_to(victim)
    (tmp_path / 'out/p.json').symlink_to('lanes.json')
    outcome = run_script(inference, '-i', tmp_path / 'a.png', '-o', tmp_path / 'out', '--masks',
                         '--json', tmp_path / 'out/p.json')
    assert outcome.status == 0 and victim.read_text() == 'mine'
    assert not (tmp_path / 'out/cluster_0000.png').is_symlink() and not (tmp_path / 'out/mask_0000.png').is_symlink()
    assert (tmp_path / 'out/p.json').is_symlink() and len(json_lines(tmp_path / 'out/lanes.json')) == 1


def test_stopped_run_leaves_a_playable_video(colour_network, run_script, tmp_path, stop_after):
    stop_after(2, SystemExit(143))   # of SIGTERM
    write_video(tmp_path / 'drive.mp4', [road('red')] * 5)
    outcome = run_script(inference, '-i', tmp_path / 'drive.mp4', '-o', tmp_path / 'out', '--workers', '0')
    assert outcome.status == 143 and 'out/drive.mp4 (' in outcome.out and ', 2 frames' in outcome.out
    assert pictures_in(tmp_path / 'out') == ['drive.mp4'] and len(read_video(tmp_path / 'out/drive.mp4')[0]) == 2


# ---- Bad input -------------------------------------------------------------------------------------------------------

def test_one_bad_photo_is_named_and_the_others_are_processed(colour_network, run_script, tmp_path):
    for name in 'abd':
        write(tmp_path / f'in/{name}.png', road('red'))
    (tmp_path / 'in/c.jpg').write_text('not a photo')
    outcome = run_script(inference, '-i', tmp_path / 'in', '-o', tmp_path / 'out',
                         '--json', tmp_path / 'p.json')
    assert outcome.status == 1 and 'c.jpg' in one_line(outcome.err)
    assert pictures_in(tmp_path / 'out') == [f'cluster_{i:04d}.png' for i in (0, 1, 3)]
    assert [line['raw_file'] for line in json_lines(tmp_path / 'p.json')] == ['a.png', 'b.png', 'd.png']
    assert '3 pictures' in outcome.out


def test_earlier_predictions_are_kept_if_no_photo_can_be_read(colour_network, run_script, tmp_path):
    good = write(tmp_path / 'good.png', road('red')).read_bytes()
    (tmp_path / 'cut.png').write_bytes(good[:len(good) // 2])
    (tmp_path / 'p.json').write_text('earlier predictions')
    outcome = run_script(inference, '-i', tmp_path / 'cut.png', '-o', tmp_path / 'out',
                         '--json', tmp_path / 'p.json')
    assert outcome.status == 1 and 'cut.png' in one_line(outcome.err) and outcome.out == ''
    assert (tmp_path / 'p.json').read_text() == 'earlier predictions' and pictures_in(tmp_path / 'out') == []


def test_truncated_video_is_processed_as_far_as_possible_and_named(colour_network, run_script, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, [20, 72, 128, 3], np.uint8)
    data = write_video(tmp_path / 'whole.avi', noise).read_bytes()
    (tmp_path / 'cut.avi').write_bytes(data[:len(data) // 2])
    outcome = run_script(inference, '-i', tmp_path / 'cut.avi', '-o', tmp_path / 'out', '--bandwidth', '50')
    assert outcome.status == 1 and 'cut.avi' in one_line(outcome.err)
    assert 5 <= len(read_video(tmp_path / 'out/cut.mp4')[0]) <= 11


@pytest.mark.parametrize('indir, outdir', [('drive.mp4', '.'), ('out/link.mp4', 'out'), ('out/link.mp4', '.')])
def test_video_is_never_replaced_by_its_result(colour_network, run_script, tmp_path, monkeypatch, indir, outdir):
    monkeypatch.chdir(tmp_path)
    data = write_video(tmp_path / 'drive.mp4', [road('red')]).read_bytes()
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out/link.mp4').symlink_to('../drive.mp4')
    (tmp_path / 'link.mp4').symlink_to('drive.mp4')
    outcome = run_script(inference, '-i', indir, '-o', outdir)
    assert outcome.status == 1 and f'{indir}: is an input' in one_line(outcome.err)
    assert (tmp_path / 'drive.mp4').read_bytes() == data and (tmp_path / 'out/link.mp4').is_symlink()


def test_model_that_returns_nan_is_named(colour_network, run_script, tmp_path, monkeypatch):
    network, conventions = inference.load_network('model')
    diverged = lambda batch: network(batch) * np.nan, conventions
    monkeypatch.setattr(inference, 'load_network', lambda modeldir, architecture=None: diverged)
    write(tmp_path / 'in/a.png', road('red'))
    outcome = run_script(inference, '-m', tmp_path / 'model', '-i', tmp_path / 'in', '-o', tmp_path / 'out')
    assert outcome.status == 1 and 'a.png: the model returns NaN' in one_line(outcome.err)


# ---- With a network --------------------------------------------------------------------------------------------------

ARCHITECTURE = reference.small_enet()


@pytest.fixture(scope='module')
def tiny_model(tmp_path_factory):
    """A model folder with random weights, for pictures of SHAPE."""
    quiet.import_tensorflow()
    import tensorflow.compat.v1 as tf

    import utils
    from data.common import settings
    folder = tmp_path_factory.mktemp('tiny_model')
    conventions = settings.Settings(image_size=SHAPE, batch_statistics=False, dropout_at_inference=False)
    settings.write(folder, conventions)
    with tf.Graph().as_default(), tf.Session() as sess:
        utils.build_model(tf.placeholder(tf.uint8, [None, *SHAPE[::-1], 3]), conventions, architecture=ARCHITECTURE)
        sess.run(tf.global_variables_initializer())
        tf.train.Saver(tf.global_variables()).save(sess, str(folder / 'model.ckpt'), global_step=1)
    return folder


def test_rebuild_graph_returns_the_embedding_that_the_script_uses(tiny_model):
    import tensorflow.compat.v1 as tf
    images = np.random.RandomState(0).randint(0, 256, [1, *SHAPE[::-1], 3]).astype(np.uint8)
    embed, conventions = inference.load_network(tiny_model, ARCHITECTURE)
    embedding = embed(images)
    assert embedding.shape == (1, *SHAPE[::-1], conventions.feature_dim) and embedding.std() > 0
    with tf.Graph().as_default(), tf.Session() as sess:
        input_image = tf.placeholder(tf.float32, [1, *SHAPE[::-1], 3])   # as in the 2018 scripts
        rebuilt = inference.rebuild_graph(sess, tiny_model, input_image, conventions.feature_dim, ARCHITECTURE)
        again = sess.run(rebuilt, {input_image: images})
        assert not tf.global_variables()   # the weights are constants
    np.testing.assert_allclose(again, embedding, atol=1e-4 * abs(embedding).max())
    with pytest.raises(InputError, match='3 dimensions, not 5'):
        inference.rebuild_graph(None, tiny_model, None, 5)


def test_load_network_leaves_eager_execution_on():
    code = ('import numpy as np, tensorflow as tf, inference\n'
            'embed, conventions = inference.load_network("trained_model")\n'
            'output = embed(np.zeros([1, *conventions.image_size[::-1], 3], np.uint8))\n'
            'assert tf.executing_eagerly() and tf.constant(output).numpy().shape == output.shape')
    subprocess.run([sys.executable, '-c', code], cwd=inference.HERE, check=True)


# ---- From the shell --------------------------------------------------------------------------------------------------

def test_importing_the_script_imports_nothing_slow():
    code = ('import sys, inference\n'
            'heavy = {"tensorflow", "keras", "matplotlib.pyplot", "sklearn"} & set(sys.modules)\n'
            'sys.exit(f"imported: {heavy}" if heavy else 0)')
    subprocess.run([sys.executable, '-c', code], cwd=inference.HERE, check=True)


def test_run_from_another_folder_prints_only_its_results(tmp_path):
    write(tmp_path / 'in/0.png', road('red', 'blue'))
    environment = {name: value for name, value in os.environ.items() if name != 'TF_CPP_MIN_LOG_LEVEL'}
    command = [sys.executable, inference.__file__, '-i', 'in', '-o', 'out', '--json', 'lanes.json']
    outcome = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert outcome.returncode == 0 and outcome.stderr == '' and '1 pictures' in outcome.stdout
    assert pictures_in(tmp_path / 'out') == ['cluster_0000.png'] and len(json_lines(tmp_path / 'lanes.json')) == 1


# ---- Other kinds of picture ------------------------------------------------------------------------------------------

@pytest.fixture
def any_network(colour_network):
    """Its conventions are those of a model of any kind of picture."""
    colour_network.kind = 'any'
    return colour_network


def discs(size=SHAPE):
    """Three discs on black, the largest at the right; blue and red touch."""
    photo = np.zeros([72, 128, 3], np.uint8)
    for centre, radius, rgb in (((100, 40), 20, (0, 0, 255)), ((65, 40), 15, (255, 0, 0)), ((25, 20), 8, (0, 255, 0))):
        cv2.circle(photo, centre, radius, rgb, -1)
    return cv2.resize(photo, size, interpolation=cv2.INTER_NEAREST)


def test_instances_of_any_kind_are_numbered_by_size_and_outlined(any_network, run_script, tmp_path):
    photo = discs()
    write(tmp_path / 'in/a.png', photo)
    outcome = run_script(inference, '-i', tmp_path / 'in', '-o', tmp_path / 'out', '--masks')
    assert outcome.status == 0 and outcome.err == '' and 'lane' not in outcome.out
    assert '3 instances found (3.0 per' in outcome.out
    mask = read(tmp_path / 'out/mask_0000.png')
    np.testing.assert_array_equal(mask, photo @ np.array([2, 3, 1]) // 255)
    picture = read(tmp_path / 'out/cluster_0000.png')
    edge = (mask > cv2.erode(mask, np.ones((3, 3), np.uint8))) & (mask > 0)
    assert (picture[edge] == 20).all() and not (picture[~edge] == 20).all(axis=-1).any()
    np.testing.assert_array_equal(picture[mask == 0], photo[mask == 0])


def test_video_of_any_kind_has_instances_and_no_lanes(any_network, run_script, tmp_path):
    write_video(tmp_path / 'discs.avi', [discs()] * 3)
    outcome = run_script(inference, '-i', tmp_path / 'discs.avi', '-o', tmp_path / 'out', '--masks')
    assert outcome.status == 0 and '3 pictures, 9 instances' in outcome.out and 'lane' not in outcome.out
    assert pictures_in(tmp_path / 'out') == ['discs.mp4'] + [f'mask_000{i}.png' for i in range(3)]


@pytest.mark.parametrize('flags', ['--json p.json', '--draw-lanes', '--max-lanes 2', '--min-confidence 0.5',
                                   '--no-smoothing'])
def test_flags_about_lanes_are_refused_for_any_kind(any_network, run_script, tmp_path, monkeypatch, flags):
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / 'discs.avi', [discs()])
    outcome = run_script(inference, '-m', 'model', '-i', 'discs.avi', '-o', 'out', *flags.split())
    assert outcome.status == 1 and f'error: {flags.split()[0]}: is about lanes' in one_line(outcome.err)
    assert contents(tmp_path).keys() == {'discs.avi'}


# ---- A foreground that is given --------------------------------------------------------------------------------------

@pytest.mark.parametrize('size', [(128, 72), (301, 199), (40, 20)])
def test_given_foreground_is_divided_into_instances_and_nothing_else(any_network, run_script, tmp_path, size):
    any_network.background_weight = 0.
    photo = discs(size)
    foreground = photo.any(axis=-1)
    foreground[:, :size[0] // 8] = False
    foreground[-1, 0] = True   # a pixel far from all others
    write(tmp_path / 'in/a.png', photo)
    write(tmp_path / 'fg/a.bmp', np.where(foreground, 7, 0).astype(np.uint8))
    outcome = run_script(inference, '-i', tmp_path / 'in', '-o', tmp_path / 'out', '--masks', '--foreground',
                         tmp_path / 'fg')
    assert outcome.status == 0 and outcome.err == ''
    mask = read(tmp_path / 'out/mask_0000.png')
    np.testing.assert_array_equal(mask > 0, foreground)
    for colour, number in ((2, 1), (0, 2), (1, 3)):
        inside = foreground & (cv2.erode(photo[..., colour], np.ones((3, 3), np.uint8)) > 0)
        assert (mask[inside] == number).mean() > (0.9 if min(size) < 72 else 0.97)
    changed = (read(tmp_path / 'out/cluster_0000.png') != photo).any(axis=-1)
    assert not changed[~foreground].any()


def test_photos_without_a_mask_are_named_and_the_others_done(any_network, run_script, tmp_path):
    for name in 'abcd':
        write(tmp_path / f'in/{name}.png', discs())
        write(tmp_path / f'fg/{name}.png', np.ones([9, 16], np.uint8))
    (tmp_path / 'fg/a.png').unlink()
    (tmp_path / 'fg/b.png').write_bytes(b'no picture')
    (tmp_path / 'fg/c.png').rename(tmp_path / 'fg/c.jpg')   # in a JPEG, zeros may be 1 or 2
    outcome = run_script(inference, '-i', tmp_path / 'in', '-o', tmp_path / 'out', '--foreground', tmp_path / 'fg')
    assert outcome.status == 1 and pictures_in(tmp_path / 'out') == ['cluster_0003.png']
    a, b, c = outcome.err.splitlines()
    assert 'in/a.png: --foreground has no mask of that name' in a and 'fg/b.png' in b
    assert 'in/c.png: --foreground has no mask of that name' in c


def test_model_without_a_background_needs_the_foreground(any_network, run_script, tmp_path):
    any_network.background_weight = 0.
    write(tmp_path / 'in/a.png', discs())
    outcome = run_script(inference, '-i', tmp_path / 'in', '-o', tmp_path / 'out')
    assert outcome.status == 1 and 'give the foreground by --foreground' in one_line(outcome.err)


