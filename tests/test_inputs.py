"""The inputs that --indir finds, the pipeline that images pass through, and the table of results."""
import csv
import json
import queue
import re
import socket
import threading
import types

import cv2
import numpy as np
import pytest

from data.common import inputs, pipeline, results, stream, video
from data.common.command_line import InputError


def write(path, data=b''):
    """A file, or a grey image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data or cv2.imencode('.png', np.full([9, 16, 3], 90, np.uint8))[1].tobytes())
    return path


def write_video(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'mp4v'), 25, (128, 72))
    writer.write(np.full([72, 128, 3], 90, np.uint8))
    writer.release()


# ---- Inputs ----------------------------------------------------------------------------------------------------------

def test_images_of_several_inputs_are_numbered_consecutively_and_their_results_keep_the_tree(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ('a/1.png', 'a/2.JPG', 'a/sub/2.png', 'a/out/old.png', 'a/.git/x.png', 'b/1.png', 'c.png'):
        write(tmp_path / name)
    write_video(tmp_path / 'a/sub/drive.mp4')
    jobs, problems = inputs.find_jobs(['a', 'b', 'c.png'], 'a/out', recursive=True)
    assert not problems and [job.folder for job in jobs] == ['a/out', 'a/out/sub', 'a/out/sub/drive']
    assert [(photo.number, photo.raw_file) for photo in jobs[0].photos] == [
        (0, 'a/1.png'), (1, 'a/2.JPG'), (2, 'b/1.png'), (3, 'c.png')]
    assert jobs[2].result == 'a/out/sub/drive.mp4' and jobs[2].photos[0].raw_file == 'a/sub/drive.mp4/0000'
    jobs, _ = inputs.find_jobs(['a/sub/drive.mp4'], 'out', recursive=False)   # alone, its pictures go to OUTDIR itself
    assert [(job.folder, job.result) for job in jobs] == [('out', 'out/drive.mp4')]
    jobs, _ = inputs.find_jobs(['a'], 'out', recursive=True)
    assert [photo.raw_file for job in jobs for photo in job.photos][-2:] == ['sub/2.png', 'sub/drive.mp4/0000']


def test_folder_names_and_counts_what_it_skips(tmp_path, capsys):
    for name in ('in/a.png', 'in/notes.txt', 'in/b.raw', 'in/.hidden', 'in/sub/b.png'):
        write(tmp_path / name)
    (job,), _ = inputs.find_jobs([str(tmp_path / 'in')], 'out', recursive=False)
    assert len(job.photos) == 1
    assert 'skipped 3 files and folders, neither images nor videos (b.raw, notes.txt, sub/)' in capsys.readouterr().err


@pytest.mark.parametrize('names, message', [
    (['drive.avi', 'drive.mp4'], 'would both become'), (['none'], 'no such file'), (['empty'], 'holds no images'),
    (['cut.mp4'], 'is not a video')])
def test_unusable_inputs_are_refused(tmp_path, names, message):
    for name in ('drive.avi', 'drive.mp4'):
        write_video(tmp_path / name)
    (tmp_path / 'empty').mkdir()
    write(tmp_path / 'cut.mp4', b'no video')
    with pytest.raises(InputError, match=message):
        inputs.find_jobs([str(tmp_path / name) for name in names], 'out', recursive=False)


def test_unusable_videos_and_lines_of_a_json_are_named_and_the_others_found(tmp_path):
    write(tmp_path / 'cut.mp4', b'no video')
    lines = [json.dumps({'raw_file': name, 'h_samples': [30, 40]}) for name in ('a.jpg', '../secret.jpg')]
    write(tmp_path / 'tasks.json', '\n'.join(['not json', *lines]).encode())
    (job,), problems = inputs.find_jobs([str(tmp_path / 'tasks.json'), str(tmp_path / 'cut.mp4')], 'out', False)
    assert [(photo.number, photo.raw_file, photo.h_samples) for photo in job.photos] == [(0, 'a.jpg', [30, 40])]
    for problem, words in zip(problems, ('tasks.json:1', 'tasks.json:3', 'cut.mp4: is not a video'), strict=True):
        assert words in problem


# ---- Streams ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('source, names', [
    ('0', ('camera0', 'camera0')), ('http://[::1', ('http://[::1', '1')),
    ('rtsp://me:secret@10.0.0.7:554/../front?token=7', ('rtsp://10.0.0.7:554/../front', '10.0.0.7_554_.._front'))])
def test_stream_is_named_without_its_password_and_is_alone(tmp_path, monkeypatch, source, names):
    monkeypatch.chdir(tmp_path)
    assert stream.names(source) == names
    (job,), _ = inputs.find_jobs([source], 'out', recursive=False)
    assert job.result == f'out/{names[1]}.mp4' and job.photos[0].raw_file == f'{names[0]}/0000'
    with pytest.raises(InputError, match='^' + re.escape(names[0]) + ': a stream has no end'):
        inputs.find_jobs([source, 'photos'], 'out', recursive=False)
    write(tmp_path / '0')
    assert not stream.is_stream('0') and not stream.is_stream('20261128')


def test_stream_that_cannot_be_reached_is_refused():
    with socket.socket() as unused:
        unused.bind(('127.0.0.1', 0))   # refuses connections
        address = f'http://127.0.0.1:{unused.getsockname()[1]}/'
        with pytest.raises(InputError, match=f'^{address}: no frame can be received$'):
            stream.read_clip(address)


def test_newest_frame_of_a_stream_is_kept_over_lost_connections(monkeypatch, capsys):
    stop, frames = threading.Event(), queue.Queue()

    def read():
        frame = next(received, None)
        if frame == 'last':
            stop.set()
        return frame is not None, frame

    received = iter(['first', 'second', None, 'last'])
    attempts = iter([None, None, 'third'])
    capture = types.SimpleNamespace(read=read)
    monkeypatch.setattr(stream, '_WAIT', 0)
    monkeypatch.setattr(stream, '_connect', lambda source: (capture, next(attempts)))
    stream._receive('0', capture, frames, stop)
    assert frames.get_nowait() == 'last' and frames.empty() and next(attempts, None) is None
    assert capsys.readouterr().err.count('camera0: the connection is lost; reconnecting') == 1


def test_video_of_a_stream_keeps_time_and_cuts_long_gaps(tmp_path, monkeypatch):
    seconds = iter([0, 5, 5.0625, 5.25, 100])   # the start, then 1 frame, none, 2, and 8 for one second
    monkeypatch.setattr(video, 'time', types.SimpleNamespace(monotonic=lambda: next(seconds)))
    writer = video.Writer(str(tmp_path / 'a.mp4'), (128, 72), 8, live=True)
    for _ in range(4):
        writer.write(np.zeros([72, 128, 3], np.uint8))
    assert writer.close() == 11


# ---- The pipeline ----------------------------------------------------------------------------------------------------

def stage(function, name=''):
    return pipeline.Stage(name, 2, function)


def numbered(count):
    return (inputs.Photo(number, '', '') for number in range(count))


def test_pipeline_keeps_the_order_and_bounds_the_images_in_memory():
    under_way, most, release = set(), [], threading.Event()

    def read(photo):
        under_way.add(photo.number)
        most.append(len(under_way))

    def finish_photo(photo):
        if photo.number == 0:
            release.wait(60)   # the first is the last to be done
        elif photo.number == 2:
            release.set()

    seen = []
    for photo in pipeline.run(numbered(200), [stage(read), stage(finish_photo)], num_workers=3):
        seen.append(photo.number)
        under_way.remove(photo.number)
    assert seen == list(range(200)) and max(most) <= 9


@pytest.mark.parametrize('num_workers', [0, 2])
def test_exception_in_a_stage_is_raised_and_ends_all_threads(num_workers):
    def fail(photo):
        if photo.number == 5:
            raise ZeroDivisionError

    stages = [stage(lambda photo: None), stage(fail), stage(lambda photo: None)]
    with pytest.raises(ZeroDivisionError):
        list(pipeline.run(numbered(1000), stages, num_workers))
    assert not any('ThreadPool' in thread.name for thread in threading.enumerate())


def test_stages_are_timed_and_leave_out_images_that_could_not_be_read():
    bad, good = inputs.Photo(0, '', '', error=InputError('bad')), inputs.Photo(1, '', '')
    calls = []
    list(pipeline.run([bad, good], [stage(calls.append, 'network'), stage(calls.append)], 0))
    assert calls == [good, good] and list(good.times) == ['network'] and not bad.times


# ---- The table of results --------------------------------------------------------------------------------------------

def photos(*paths):
    return [inputs.Photo(number, path, path, confidences=[0.5, 0.25]) for number, path in enumerate(paths)]


def test_results_of_other_images_are_replaced_with_a_warning_and_their_rows_kept_elsewhere(tmp_path, capsys):
    first, other = photos('in/0.png', 'in/1.png', 'in/2.png'), photos('other/0.png')
    results.write_table(tmp_path, first)
    results.warn_of_others(tmp_path, first)
    assert capsys.readouterr().err == ''
    results.warn_of_others(tmp_path, other)
    assert 'replaces the results of other images (in/0.png, 1 in all)' in capsys.readouterr().err
    results.write_table(tmp_path, other)
    with open(tmp_path / 'photos.csv', newline='') as file:
        rows = list(csv.DictReader(file))
    assert [row['file'] for row in rows] == ['other/0.png', 'in/1.png', 'in/2.png']
    assert rows[0]['confidences'] == '0.50 0.25' and rows[0]['instances'] == '2'


@pytest.mark.parametrize('text', ['', 'date,place\n'])
def test_table_of_something_else_is_not_replaced(tmp_path, text):
    (tmp_path / 'photos.csv').write_text(text)
    with pytest.raises(InputError, match='is not a table of results'):
        results.warn_of_others(tmp_path, photos('a.png'))
