"""inference.py from the command line: its outputs, its messages, and rejected input.

Most tests replace the network by one that returns the colours of an image: areas of one colour are instances.
"""
import collections
import csv
import http.server
import json
import os
import subprocess
import sys
import threading
import types

import cv2
import numpy as np
import pytest

import clustering
import inference
import reference
import visualization
from data import tusimple_evaluation
from data.common import inputs, quiet, stream
from data.common.command_line import InputError
from data.lanes import culane
from stand_in import (LINES, SHAPE, colour_network, contents, json_lines, one_line,  # noqa: F401
                      pictures_in, read, read_video, road, write, write_video)


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


def test_images_are_numbered_by_their_names_and_listed_and_a_bad_one_is_skipped(colour_network, run_script, tmp_path):
    sizes = {'a.Png': (64, 80), 'b.JPG': (100, 50), 'd.bmp': (130, 70)}
    for name, size in sizes.items():
        write(tmp_path / 'in' / name, road('red', 'blue', size=size))
    (tmp_path / 'in/c.jpg').write_text('not a photo')
    (tmp_path / 'out').mkdir()
    for name in ('out/cluster_0000.png', 'p.json'):
        (tmp_path / name).symlink_to('elsewhere')   # is replaced
    outcome = run_script(inference, '-i', tmp_path / 'in', '-o', tmp_path / 'out', '--json', tmp_path / 'p.json')
    assert outcome.status == 1 and 'c.jpg' in one_line(outcome.err)
    assert [line.split()[0] for line in outcome.out.splitlines()[1:5]] == ['network', 'clustering', 'lanes', 'total']
    assert '3 pictures, ' in outcome.out and 'frames per second' in outcome.out
    assert pictures_in(tmp_path / 'out') == [f'cluster_000{i}.png' for i in (0, 1, 3)]
    predictions = json_lines(tmp_path / 'p.json')
    with open(tmp_path / 'out/photos.csv', newline='') as file:
        rows = list(csv.DictReader(file))
    for row, line, (name, (width, height)) in zip(rows, predictions, sizes.items(), strict=True):
        assert row['file'] == str(tmp_path / 'in' / name) and line['raw_file'] == name
        assert read(tmp_path / f'out/cluster_{row["number"]}.png').shape == (height, width, 3)
        confidences = [float(value) for value in row['confidences'].split()]
        np.testing.assert_allclose(confidences, line['confidence'], atol=0.01)
        times = [float(row[f'{name} ms']) for name in ('network', 'clustering', 'lanes', 'total')]
        assert sum(times[:3]) == pytest.approx(times[3], abs=0.2) == pytest.approx(line['run_time'], abs=0.2)


def test_video_becomes_a_video_of_the_same_size_and_frame_rate(colour_network, run_script, tmp_path):
    photos = [road('red', size=(256, 144))] * 2 + [road(size=(256, 144))] * 5
    write_video(tmp_path / 'drive.mp4', photos, fps=29.97)
    outcome = run_script(inference, '-i', tmp_path / 'drive.mp4', '-o', tmp_path / 'out', '--bandwidth', '2')
    assert outcome.status == 0 and outcome.err == '' and '7 pictures' in outcome.out
    assert pictures_in(tmp_path / 'out') == ['drive.mp4'] and f"video: {tmp_path / 'out/drive.mp4'} (" in outcome.out
    frames, fps = read_video(tmp_path / 'out/drive.mp4')
    assert frames.shape == (7, 144, 256, 3) and fps == pytest.approx(29.97, abs=0.01)
    colour = visualization.colour(0)   # of the lane line, which hides the image
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


def test_lanes_without_an_id_are_left_out_with_their_instances():
    photo = inputs.Photo(0, 'a', 'a', lanes=[np.full(62, 415.), np.full(62, 1015.)], confidences=[0.5, 0.7],
                         shown=np.array([0, 1, 2, 1, 0]))
    inference.track_lanes(photo, types.SimpleNamespace(update=lambda lanes: (np.array([0, 5]), np.array(lanes))))
    assert photo.shown.tolist() == [0, 0, 5, 0, 0] and photo.track_ids == [5] and photo.confidences == [0.7]
    assert photo.lanes[0][0] == 1015


def test_tracked_lane_has_the_class_of_most_frames(monkeypatch):
    votes, found, conventions = collections.defaultdict(collections.Counter), [], types.SimpleNamespace(classes='ab')
    frames = iter([1, 2, 0, 2, 2])   # in the third one, the lane has no pixel
    monkeypatch.setattr(clustering, 'instance_classes', lambda scores, ids: np.array([0, next(frames)]))
    for _ in range(5):
        photo = inputs.Photo(0, 'a', 'a', ids=np.array([[1]]), shown=np.array([0, 1]), track_ids=[1])
        inference.find_classes(photo, conventions, votes)
        found += photo.found_classes
    assert found == [*'aaabb']


def test_stream_becomes_a_video_and_a_json_until_ctrl_c(colour_network, run_script, tmp_path, stop_after, monkeypatch):
    stop_after(8, KeyboardInterrupt())
    monkeypatch.setattr(stream, '_WAIT', 0)

    class Camera(http.server.BaseHTTPRequestHandler):
        """Three frames of Motion JPEG for each connection."""
        def do_GET(self):
            photo = cv2.imencode('.jpg', road('red', size=(256, 144))[..., ::-1])[1].tobytes()
            self.send_response(200)
            self.send_header('Content-Type', 'multipart/x-mixed-replace; boundary=next')
            self.end_headers()
            self.wfile.write(3 * (b'--next\r\nContent-Type: image/jpeg\r\n\r\n' + photo + b'\r\n'))

        def log_message(self, *args):
            """Prints nothing."""

    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Camera) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f'127.0.0.1:{server.server_port}/front'
        outcome = run_script(inference, '-i', f'http://me:secret@{address}', '-o', tmp_path / 'out', '--workers', '0',
                             '--json', tmp_path / 'p.json')
        server.shutdown()
    assert outcome.status == 0 and '8 pictures' in outcome.out and 'secret' not in ''.join(map(str, outcome))
    assert f'http://{address}: the connection is lost' in outcome.err
    assert json_lines(tmp_path / 'p.json')[7]['raw_file'] == f'http://{address}/0007'
    name, = pictures_in(tmp_path / 'out')
    assert name == address.translate({ord(':'): '_', ord('/'): '_'}) + '.mp4'
    assert read_video(tmp_path / 'out' / name)[0][0].shape == (144, 256, 3)


def test_tusimple_json_selects_images_names_and_rows(colour_network, run_script, tmp_path):
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


def test_images_may_have_any_names(colour_network, tmp_path):
    names = [b'$_{$ 100%, \x1b[31m\n.png', b'\xff\xfe.png']
    for name in names:
        path = write(tmp_path / 'in/a.png', road('red', size=SHAPE))
        os.rename(path, os.path.join(os.fsencode(tmp_path / 'in'), name))
    assert inference.main(['-i', str(tmp_path / 'in'), '-o', str(tmp_path / 'out'), '--json',
                           str(tmp_path / 'p.json')]) == 0
    assert [line['raw_file'] for line in json_lines(tmp_path / 'p.json')] == [os.fsdecode(name) for name in names]
    assert all(name in (tmp_path / 'out/photos.csv').read_bytes() for name in names)
    assert pictures_in(tmp_path / 'out') == ['cluster_0000.png', 'cluster_0001.png']


@pytest.mark.parametrize('limit, of_model, expected', [
    (['--max-lanes', '1'], 0., 1), (['--min-confidence', '1'], 0., 0), ([], 0., 2), ([], 1., 0),
    (['--min-confidence', '0'], 1., 2)])
def test_lanes_beyond_the_limits_are_left_out(colour_network, run_script, tmp_path, limit, of_model, expected):
    colour_network.min_confidence = of_model
    photo = write(tmp_path / 'in/a.png', road('red', 'blue'))
    write_video(tmp_path / 'drive.avi', [road('red', 'blue')])
    for indir in ('drive.avi', 'in'):
        run_script(inference, '-i', tmp_path / indir, '-o', tmp_path / 'out', '--masks', '--frames', '--json',
                   tmp_path / 'p.json', *limit)
        line, = json_lines(tmp_path / 'p.json')
        assert len(line['lanes']) == expected and read(tmp_path / 'out/mask_0000.png').max() == expected
    changed = (read(tmp_path / 'out/cluster_0000.png') != read(photo)).any(axis=2)[63]
    assert [changed[:64].any(), changed[64:].any()].count(True) == expected


def test_culane_lines_of_a_tree_of_images_are_scored(colour_network, run_script, tmp_path):
    rows = range(20, 72, 5)
    for name in ('a/0', 'b/c/0'):
        write(tmp_path / f'in/{name}.png', road('red', 'blue'))
        lanes = [np.interp(rows, (end[1], start[1]), (end[0], start[0])) for start, end, _ in LINES.values()]
        (tmp_path / 'labels' / name).parent.mkdir(parents=True)
        culane.write_lines(tmp_path / f'labels/{name}.lines.txt', lanes, rows)
    flags = '-i', tmp_path / 'in', '--recursive', '--no-pictures', '--culane'
    assert run_script(inference, *flags, tmp_path / 'found').status == 0
    outcome = run_script(tusimple_evaluation, tmp_path / 'found', tmp_path / 'labels', '--measure', 'culane',
                         '--photo-size', 128, 72)
    assert '2 images of 128x72, 4 labelled and 4 predicted' in outcome.out and 'F1        1.0000' in outcome.out
    assert 'whose labels the results would replace' in one_line(run_script(inference, *flags, tmp_path / 'in').err)


def test_draw_lanes_draws_lines_over_the_instances(colour_network, run_script, tmp_path):
    write(tmp_path / 'in/a.png', road('red', size=(640, 360)))
    run_script(inference, '-i', tmp_path / 'in', '-o', tmp_path / 'out', '--draw-lanes')
    picture = read(tmp_path / 'out/cluster_0000.png')
    # A line hides the image, an instance's colour does not.
    assert (picture == visualization.colour(0)).all(axis=2).sum() > 100


def test_scattered_embedding_causes_a_warning(colour_network, run_script, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, [*SHAPE[::-1], 3]).astype(np.uint8)
    write(tmp_path / 'in/a.png', noise)
    write(tmp_path / 'in/b.png', road('red'))
    outcome = run_script(inference, '-i', tmp_path / 'in', '-o', tmp_path / 'out', '--bandwidth', '0.2', '-m', 'mine')
    assert outcome.status == 0 and outcome.err.count('\n') == 1
    assert '1 of 2 pictures is scattered' in outcome.err and 'train mine for longer' in outcome.err


# ---- Stopped runs ----------------------------------------------------------------------------------------------------

@pytest.fixture
def stop_after(monkeypatch):
    """stop_after(n, exception): the clustering of image n raises it."""
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
    (tmp_path / 'p.json.part').symlink_to('p.json')   # not a name that the user gave
    outcome = run_script(inference, '-i', tmp_path / 'in', '--no-pictures', '--workers', '0',
                         '--json', tmp_path / 'p.json')
    assert outcome.status == 130 and ('p.json.part: holds the lanes of the 2 pictures' in outcome.err) == (count == 2)
    if count:
        assert [line['raw_file'] for line in json_lines(tmp_path / 'p.json.part')] == ['a.png', 'b.png']
    assert (tmp_path / 'p.json').read_text() == 'earlier predictions'


def test_stopped_run_leaves_a_playable_video(colour_network, run_script, tmp_path, stop_after):
    stop_after(2, SystemExit(143))   # of SIGTERM
    write_video(tmp_path / 'drive.mp4', [road('red')] * 5)
    outcome = run_script(inference, '-i', tmp_path / 'drive.mp4', '-o', tmp_path / 'out', '--workers', '0')
    assert outcome.status == 143 and 'out/drive.mp4 (' in outcome.out and ', 2 frames' in outcome.out
    assert pictures_in(tmp_path / 'out') == ['drive.mp4'] and len(read_video(tmp_path / 'out/drive.mp4')[0]) == 2


# ---- Bad input -------------------------------------------------------------------------------------------------------

def test_earlier_predictions_are_kept_if_no_image_can_be_read(colour_network, run_script, tmp_path):
    good = write(tmp_path / 'good.png', road('red')).read_bytes()
    (tmp_path / 'cut.png').write_bytes(good[:len(good) // 2])
    (tmp_path / 'p.json').write_text('earlier predictions')
    outcome = run_script(inference, '-i', tmp_path / 'cut.png', '-o', tmp_path / 'out', '--json', tmp_path / 'p.json')
    assert outcome.status == 1 and 'cut.png' in one_line(outcome.err) and outcome.out == ''
    assert (tmp_path / 'p.json').read_text() == 'earlier predictions' and pictures_in(tmp_path / 'out') == []


def test_truncated_video_is_processed_as_far_as_possible_and_named(colour_network, run_script, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, [20, 72, 128, 3], np.uint8)
    data = write_video(tmp_path / 'whole.avi', noise).read_bytes()
    (tmp_path / 'cut.avi').write_bytes(data[:len(data) // 2])
    outcome = run_script(inference, '-i', tmp_path / 'cut.avi', '-o', tmp_path / 'out', '--bandwidth', '50')
    assert outcome.status == 1 and 'cut.avi' in one_line(outcome.err)
    assert 5 <= len(read_video(tmp_path / 'out/cut.mp4')[0]) <= 11


@pytest.mark.parametrize('indir, outdir', [('drive.mp4', '.'), ('out/link.mp4', 'out'), ('in', 'in')])
def test_video_is_never_replaced_by_its_result(colour_network, run_script, tmp_path, monkeypatch, indir, outdir):
    monkeypatch.chdir(tmp_path)
    data = write_video(tmp_path / 'drive.mp4', [road('red')]).read_bytes()
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out/link.mp4').symlink_to('../drive.mp4')
    (tmp_path / 'in').mkdir()
    (tmp_path / 'in/drive.mp4').hardlink_to('drive.mp4')
    outcome = run_script(inference, '-i', indir, '-o', outdir)
    assert outcome.status == 1 and f'{indir}' in outcome.err and ': is an input' in one_line(outcome.err)
    assert run_script(inference, '-i', indir, '-o', outdir, '--frames').status == 0   # writes no video
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
IMAGES = np.random.RandomState(0).randint(0, 256, [1, *SHAPE[::-1], 3]).astype(np.uint8)


@pytest.fixture(scope='module')
def tiny_model(tmp_path_factory):
    """A model folder with random weights, for images of SHAPE, and the output of its graph of variables for them."""
    quiet.import_tensorflow()
    import tensorflow.compat.v1 as tf

    import utils
    from data.common import settings
    folder = tmp_path_factory.mktemp('tiny_model')
    conventions = settings.Settings(image_size=SHAPE, kind='any', background_weight=0., foreground_weight=1.,
                                    coordinates=True)
    settings.write(folder, conventions)
    with tf.Graph().as_default(), tf.Session() as sess:
        output = utils.build_model(tf.constant(IMAGES), conventions, architecture=ARCHITECTURE)
        sess.run(tf.global_variables_initializer())
        tf.train.Saver(tf.global_variables()).save(sess, str(folder / 'model.ckpt'), global_step=1)
        return folder, sess.run(output)


def test_load_network_and_rebuild_graph_return_the_output_of_the_graph_of_variables(tiny_model):
    import tensorflow.compat.v1 as tf
    folder, expected = tiny_model
    was_eager = tf.executing_eagerly()
    embed, conventions = inference.load_network(folder, ARCHITECTURE)
    assert expected.shape == (1, *SHAPE[::-1], conventions.feature_dim + 1) and expected.std() > 0
    with tf.Graph().as_default(), tf.Session() as sess:
        input_image = tf.placeholder(tf.float32, [1, *SHAPE[::-1], 3])   # as in the 2018 scripts
        rebuilt = inference.rebuild_graph(sess, folder, input_image, conventions.feature_dim, ARCHITECTURE)
        again = sess.run(rebuilt, {input_image: IMAGES})
        assert not tf.global_variables()   # the weights are constants
    assert tf.executing_eagerly() == was_eager
    for output in (embed(IMAGES), again):
        np.testing.assert_allclose(output, expected, atol=1e-4 * abs(expected).max())
    with pytest.raises(InputError, match='3 dimensions, not 5'):
        inference.rebuild_graph(None, folder, None, 5)


# ---- From the shell --------------------------------------------------------------------------------------------------
def test_run_from_another_folder_prints_only_its_results(tmp_path):
    """Nor does it import slow modules before its inputs are checked; a grey image has no lane."""
    code = ('import sys; sys.path.insert(0, sys.argv.pop(1)); import inference\n'
            'heavy = {"tensorflow", "keras", "matplotlib.pyplot", "sklearn"} & set(sys.modules)\n'
            'sys.exit(f"imported: {heavy}" if heavy else inference.main())')
    for name, photo in (('0', road('red', 'blue')), ('1', np.full([72, 128, 3], 128, np.uint8))):
        write(tmp_path / f'in/{name}.png', photo)
    environment = {name: value for name, value in os.environ.items() if name != 'TF_CPP_MIN_LOG_LEVEL'}
    command = [sys.executable, '-c', code, inference.HERE, '-i', 'in', '-o', 'out', '--json', 'lanes.json']
    outcome = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert outcome.returncode == 0 and outcome.stderr == '' and '2 pictures' in outcome.stdout
    assert pictures_in(tmp_path / 'out') == ['cluster_0000.png', 'cluster_0001.png']
    assert json_lines(tmp_path / 'lanes.json')[1]['lanes'] == []
