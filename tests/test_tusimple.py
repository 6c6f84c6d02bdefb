"""data/lanes/tusimple.py: reading, writing and drawing labels in the TuSimple layout."""
import json

import numpy as np
import pytest

from data.lanes import tusimple
from data.common.command_line import InputError

GOOD = {'lanes': [[10, 20.5], [-2, 30]], 'h_samples': [160, 170], 'raw_file': 'clips/ä/20.jpg'}


def line(**changes):
    return json.dumps({key: value for key, value in {**GOOD, **changes}.items() if value is not None})


def read(tmp_path, *lines, **kwargs):
    path = tmp_path / 'label_data_0.json'
    path.write_bytes(b'\n'.join(x if isinstance(x, bytes) else x.encode() for x in lines))
    return (path, *tusimple.read_records(path, **kwargs))


def test_reads_records_in_order_with_their_source(tmp_path):
    path, records, problems = read(tmp_path, line(), '', line(raw_file='b.jpg', run_time=12.5), '  ')
    assert problems == []
    lanes = [[10, 20.5], [-2, 30]]
    assert records == [tusimple.Record('clips/ä/20.jpg', lanes, [160, 170], f'{path}:1', None),
                       tusimple.Record('b.jpg', lanes, [160, 170], f'{path}:3', 12.5)]


@pytest.mark.parametrize('bad, reason', [
    ('{"lanes": [[1', 'not JSON'), (b'{"raw_file": "\xff\xfe"}', 'not JSON'), ('[' * 100000, 'not JSON'),
    (line(lanes=None), 'lanes are not'), (line(h_samples=None), 'h_samples is not'),
    (line(raw_file=None), 'raw_file None'), (line(lanes=[[1, 2], [1]]), 'lane 1 has 1 numbers instead of 2'),
    (line(lanes=[[1, '2']]), "holds '2'"), (line(lanes=[[1, float('nan')]]), 'holds nan'),
    (line(lanes=[[1, 10 ** 400]]), 'holds 1000'), (line(h_samples=[], lanes=[[], []]), 'h_samples is not'),
    (line(raw_file='\ud800'), 'raw_file'), (line(run_time='fast'), "run_time holds 'fast'"),
    (line(ids=[7]), 'ids has 1'), (line(confidence=[0.5, 1.01]), 'confidence holds 1.01')])
def test_bad_line_is_reported_and_the_others_are_read(bad, reason, tmp_path):
    path, records, problems = read(tmp_path, line(), bad, line())
    assert [record.source for record in records] == [f'{path}:1', f'{path}:3']
    assert len(problems) == 1 and problems[0].startswith(f'{path}:2: ') and reason in problems[0]
    assert problems[0].isprintable() and len(problems[0]) < 300


def test_tasks_without_lanes_are_read_when_lanes_are_not_needed(tmp_path):
    _, records, problems = read(tmp_path, line(lanes=None), line(lanes='nonsense'), need_lanes=False)
    assert problems == [] and [record.lanes for record in records] == [[], []]


def record(lanes=(), h_samples=(), raw_file='a.jpg'):
    return tusimple.Record(raw_file, lanes, h_samples, 'f.json:7')


def test_images_are_found_only_in_the_folder():
    for raw_file in ('clips/1/20.jpg', '..a/b..jpg', 'clips\\1\\20.jpg'):
        assert tusimple.photo_path('folder', record(raw_file=raw_file)) == 'folder/' + raw_file.replace('\\', '/')
    for raw_file in ('/etc/passwd', '../a.jpg', 'a\\..\\..\\b.jpg', 'C:\\a.jpg'):
        with pytest.raises(InputError, match=r'^f\.json:7: raw_file .* leaves'):
            tusimple.photo_path('folder', record(raw_file=raw_file))


def test_written_records_are_read_back_unchanged(tmp_path):
    path = tmp_path / 'out.json'
    array, mixed = np.array([[1.5, -2], [3, 4]]), [np.array([1.5, -2]), [np.float32(1), np.int64(2)]]
    tusimple.write_records(str(path), [tusimple.Record('ä.jpg', array, range(160, 180, 10), '', 3, [7, 0], [0.25, 1]),
                                       tusimple.Record('b.jpg', mixed, [1, 2])])
    assert tusimple.read_all(path) == [
        tusimple.Record('ä.jpg', [[1.5, -2], [3, 4]], [160, 170], f'{path}:1', 3, [7, 0], [0.25, 1]),
        tusimple.Record('b.jpg', [[1.5, -2], [1, 2]], [1, 2], f'{path}:2')]
    assert [entry.name for entry in tmp_path.iterdir()] == ['out.json']


def test_label_has_the_image_size_and_a_grey_value_for_each_lane():
    h_samples = [0, 50, 99]
    label = tusimple.draw_label(record([[20 + 40 * i] * 3 for i in range(5)], h_samples), (200, 100))
    assert label.dtype == np.uint8 and label.shape == (100, 200)
    assert (label == label[0]).all()  # upright lanes
    for i, grey in enumerate([20, 70, 120, 170, 220]):
        columns = np.flatnonzero(label[0] == grey)
        assert columns.mean() == 20 + 40 * i and 7 <= len(columns) == np.ptp(columns) + 1 <= 9
    assert set(np.unique(label)) == {0, 20, 70, 120, 170, 220}  # no in-between values


def test_label_omits_absent_points_and_bridges_gaps():
    label = tusimple.draw_label(record([[-2] * 5, [-2, 20, -2, 20, -2]], [10, 30, 50, 70, 90]), (40, 100))
    rows = np.flatnonzero(label.any(axis=1))   # of the second lane, whose grey value the empty one does not change
    assert 25 <= rows.min() <= 27 and 73 <= rows.max() <= 75 and (label[30:71, 20] == 70).all()


def test_a_label_has_16_bits_only_if_a_sixth_lane_is_drawn():
    lanes = [[10 * i + 5] * 2 for i in range(7)]
    label = tusimple.draw_label(record(lanes, [0, 19]), (70, 20))
    assert label.dtype == np.uint16 and set(np.unique(label)) == {0, 20, 70, 120, 170, 220, 270, 320}
    label = tusimple.draw_label(record(lanes[:5] + [[-2, -2]], [0, 19]), (70, 20))
    assert label.dtype == np.uint8 and label.max() == 220


@pytest.mark.parametrize('lane, h_samples', [([10, 23], [0, 10]), ([10, 10], [0, 23]), ([10, 1e9], [0, 10])])
def test_a_label_of_another_image_size_is_rejected(lane, h_samples):
    with pytest.raises(InputError, match='f.json:7: lane 0 lies outside the image of 20x20 px'):
        tusimple.draw_label(record([lane], h_samples), (20, 20))
