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


BAD_LINES = {
    'not JSON': ('{"lanes": [[1', 'not JSON'),
    'not UTF-8': (b'{"raw_file": "\xff\xfe"}', 'not JSON'),
    'a nested bomb': ('[' * 100000, 'not JSON'),
    'a number too long to parse': (line().replace('20.5', '9' * 5000), 'not JSON'),
    'a list': ('[1, 2]', 'not a JSON object'),
    'a number': ('3', 'not a JSON object'),
    'null': ('null', 'not a JSON object'),
    'no lanes': (line(lanes=None), 'no "lanes"'),
    'no h_samples': (line(h_samples=None), 'no "h_samples"'),
    'no raw_file': (line(raw_file=None), 'no "raw_file"'),
    'a shorter lane': (line(lanes=[[1, 2], [1]]), 'lane 1 has 1 points, h_samples 2'),
    'a longer lane': (line(lanes=[[1, 2, 3]]), 'lane 0 has 3 points'),
    'lanes an object': (line(lanes={'0': [1, 2]}), 'lanes are not'),
    'a lane that is a number': (line(lanes=[5]), 'lane 0 is not'),
    'text for x': (line(lanes=[[1, '2']]), "holds '2'"),
    'null for x': (line(lanes=[[1, None]]), 'holds None'),
    'true for x': (line(lanes=[[1, True]]), 'holds True'),
    'a list for x': (line(lanes=[[1, [2]]]), 'holds a list'),
    'NaN': (line(lanes=[[1, float('nan')]]), 'holds nan'),
    'infinity': (line(lanes=[[1, float('inf')]]), 'holds inf'),
    'a huge float': (line(lanes=[[1, 1e300]]), 'holds 1e+300'),
    'a huge integer': (line(lanes=[[1, 10 ** 400]]), 'holds a huge number'),
    'NaN in h_samples': (line(h_samples=[160, float('nan')]), 'h_samples holds nan'),
    'negative h_samples': (line(h_samples=[-10, 160]), 'h_samples are not'),
    'no rows at all': (line(h_samples=[], lanes=[[], []]), 'h_samples are not'),
    'raw_file a number': (line(raw_file=7), 'raw_file 7'),
    'raw_file empty': (line(raw_file=''), "raw_file ''"),
    'raw_file with NUL': (line(raw_file='a\0b'), 'raw_file'),
    'raw_file with half a character': (line(raw_file='\udc80'), 'raw_file'),
    'raw_file of megabytes': (line(raw_file='a/' * 1_900_000), "raw_file 'a/a/a/"),
    'raw_file of megabytes that says nothing': (line(raw_file='./' * 900_000), "raw_file './././"),
    'raw_file of too many bytes': (line(raw_file='ä' * 2049), 'is not a path'),
    'run_time text': (line(run_time='fast'), "run_time 'fast'"),
    'run_time NaN': (line(run_time=float('nan')), 'run_time nan'),
    'run_time huge': (line(run_time=10 ** 400), 'run_time a huge number'),
}


@pytest.mark.parametrize('bad, reason', BAD_LINES.values(), ids=BAD_LINES.keys())
def test_a_bad_line_is_one_problem_and_the_others_are_read(bad, reason, tmp_path):
    path, records, problems = read(tmp_path, line(), bad, line())
    assert [record.source for record in records] == [f'{path}:1', f'{path}:3']
    assert len(problems) == 1 and problems[0].startswith(f'{path}:2: ') and reason in problems[0]
    assert problems[0].isprintable() and len(problems[0]) < 300


def test_tasks_without_lanes_are_read_when_lanes_are_not_needed(tmp_path):
    _, records, problems = read(tmp_path, line(lanes=None), line(lanes='nonsense'), need_lanes=False)
    assert problems == [] and [record.lanes for record in records] == [[], []]


def test_a_line_too_long_is_passed_over_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(tusimple, '_MAX_LINE_BYTES', len(line()) + 1)
    path, records, problems = read(tmp_path, line(), line(raw_file='b' * 1000), line(), line() + '  ')
    assert [record.source for record in records] == [f'{path}:1', f'{path}:3']
    assert len(problems) == 2 and problems[0].startswith(f'{path}:2: is longer than')


def test_predictions_without_h_samples_are_read_when_those_are_not_needed(tmp_path):
    _, records, problems = read(tmp_path, line(h_samples=None), line(lanes=[[1]]), need_h_samples=False)
    assert [record.h_samples for record in records] == [[]] and len(problems) == 1


def test_finds_label_files_sorted(tmp_path):
    folder = tmp_path / 'a[b]'
    folder.mkdir()
    for name in ('label_data_0601.json', 'label_data_0313.json', 'test_tasks_0627.json', 'label_data_1.txt'):
        (folder / name).touch()
    assert tusimple.find_label_files(str(folder)) == [str(folder / 'label_data_0313.json'),
                                                      str(folder / 'label_data_0601.json')]


@pytest.mark.parametrize('name', ['missing', 'empty', 'file'])
def test_a_folder_without_label_files_is_named(name, tmp_path):
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'file').touch()
    with pytest.raises(InputError, match=name):
        tusimple.find_label_files(str(tmp_path / name))


def record(lanes=(), h_samples=(), raw_file='a.jpg'):
    return tusimple.Record(raw_file, lanes, h_samples, 'f.json:7')


@pytest.mark.parametrize('raw_file', ['/etc/passwd', '../a.jpg', 'clips/../../a.jpg', '..', '//host/a.jpg',
                                      'a\\..\\..\\b.jpg', 'C:\\a.jpg', '\\a.jpg'])
def test_a_photo_outside_the_folder_is_refused_with_file_and_line(raw_file):
    with pytest.raises(InputError, match=r'^f\.json:7: raw_file .* leaves'):
        tusimple.photo_path('folder', record(raw_file=raw_file))


@pytest.mark.parametrize('raw_file', ['clips/1/20.jpg', './a.jpg', '..a/b..jpg', '...'])
def test_a_photo_in_the_folder_is_found(raw_file):
    assert tusimple.photo_path('folder', record(raw_file=raw_file)) == f'folder/{raw_file}'


def test_written_records_are_read_back_alike(tmp_path):
    path = tmp_path / 'out.json'
    array, mixed = np.array([[1.5, -2], [3, 4]]), [np.array([1.5, -2]), [np.float32(1), np.int64(2)]]
    tusimple.write_records(str(path), [tusimple.Record('ä.jpg', array, range(160, 180, 10), run_time=3),
                                       tusimple.Record('b.jpg', mixed, [1, 2])])
    records, problems = tusimple.read_records(path)
    assert problems == []
    assert records == [tusimple.Record('ä.jpg', [[1.5, -2], [3, 4]], [160, 170], f'{path}:1', 3),
                       tusimple.Record('b.jpg', [[1.5, -2], [1, 2]], [1, 2], f'{path}:2')]
    assert [entry.name for entry in tmp_path.iterdir()] == ['out.json']


def test_nothing_is_written_that_is_not_json(tmp_path):
    with pytest.raises(ValueError):
        tusimple.write_records(str(tmp_path / 'out.json'), [record([[float('nan')]], [1])])
    assert list(tmp_path.iterdir()) == []


def test_label_has_the_photo_size_and_a_grey_value_for_each_lane():
    h_samples = [0, 50, 99]
    label = tusimple.draw_label(record([[20 + 40 * i] * 3 for i in range(5)], h_samples), (200, 100))
    assert label.dtype == np.uint8 and label.shape == (100, 200)
    assert (label == label[0]).all()  # upright lanes
    for i, grey in enumerate([20, 70, 120, 170, 220]):
        columns = np.flatnonzero(label[0] == grey)
        assert columns.mean() == 20 + 40 * i and 7 <= len(columns) <= 9
        assert (np.diff(columns) == 1).all()
    assert set(np.unique(label)) == {0, 20, 70, 120, 170, 220}  # no in-between values


def test_label_leaves_out_absent_points_and_bridges_the_gap():
    label = tusimple.draw_label(record([[-2, 20, -2, 20, -2]], [10, 30, 50, 70, 90]), (40, 100))
    rows = np.flatnonzero(label.any(axis=1))
    assert 25 <= rows.min() <= 27 and 73 <= rows.max() <= 75 and (label[30:71, 20] == 20).all()


def test_a_lane_keeps_its_grey_value_when_one_before_it_is_empty():
    label = tusimple.draw_label(record([[-2, -2], [10, 10]], [0, 20]), (20, 21))
    assert set(np.unique(label)) == {0, 70}


@pytest.mark.parametrize('lanes', [[], [[-2, -2]], [[5, -2]]])
def test_fewer_than_two_points_are_no_line(lanes):
    assert not tusimple.draw_label(record(lanes, [5, 10]), (20, 20)).any()


def test_fractions_are_rounded():
    label = tusimple.draw_label(record([[9.6, 9.6]], [0, 19.4]), (20, 20))
    assert np.flatnonzero(label[10]).mean() == 10


def test_a_sixth_lane_is_refused_only_if_it_is_there():
    lanes = [[5, 5]] * 5
    tusimple.draw_label(record(lanes + [[-2, -2]], [0, 10]), (20, 20))
    with pytest.raises(InputError, match='f.json:7: has more than 5 lanes'):
        tusimple.draw_label(record(lanes + [[5, 5]], [0, 10]), (20, 20))


@pytest.mark.parametrize('lane, h_samples', [([10, 23], [0, 10]), ([10, 10], [0, 23]), ([10, 1e9], [0, 10])])
def test_a_label_of_another_photo_size_is_refused(lane, h_samples):
    with pytest.raises(InputError, match='f.json:7: lane 0 lies outside the photo of 20x20 px'):
        tusimple.draw_label(record([lane], h_samples), (20, 20))


def test_ids_of_a_drive_are_read_as_they_were_written(tmp_path):
    records = [tusimple.Record('a.jpg', [[1, 2], [3, 4]], [10, 20], ids=[7, 0]), tusimple.Record('b.jpg', [], [10, 20])]
    tusimple.write_records(str(tmp_path / 'l.json'), records)
    found, problems = tusimple.read_records(str(tmp_path / 'l.json'))
    assert not problems and [record.ids for record in found] == [[7, 0], None]


@pytest.mark.parametrize('ids', ['[7]', '[7, "a"]', '[7, true]', '[7, -1]', '[7, 99999999999]', '"ab"', '{}'])
def test_ids_that_number_no_lanes_are_a_problem(tmp_path, ids):
    (tmp_path / 'l.json').write_text(
        '{"raw_file": "a.jpg", "h_samples": [10], "lanes": [[1], [2]], "ids": %s}\n' % ids)
    records, problems = tusimple.read_records(str(tmp_path / 'l.json'))
    assert not records and len(problems) == 1 and 'ids' in problems[0]


def test_confidences_are_read_as_they_were_written(tmp_path):
    records = [tusimple.Record('a.jpg', [[1, 2], [3, 4]], [10, 20], confidence=[0.25, 1]),
               tusimple.Record('b.jpg', [], [10, 20], confidence=[]), tusimple.Record('c.jpg', [], [10, 20])]
    tusimple.write_records(tmp_path / 'a.json', records)
    found, problems = tusimple.read_records(tmp_path / 'a.json')
    assert not problems and [record.confidence for record in found] == [[0.25, 1], [], None]


@pytest.mark.parametrize('confidence', ['[0.5]', '[0.5, 1.01]', '[0.5, -0.01]', '[0.5, NaN]', '[0.5, Infinity]',
                                        '[0.5, true]', '[0.5, "1"]', '[0.5, null]', '0.5', '{}'])
def test_confidences_that_are_none_are_a_problem(tmp_path, confidence):
    (tmp_path / 'a.json').write_text(
        '{"raw_file": "a.jpg", "h_samples": [10], "lanes": [[1], [2]], "confidence": %s}\n' % confidence)
    records, problems = tusimple.read_records(tmp_path / 'a.json')
    assert not records and len(problems) == 1 and 'one number from 0 to 1 per lane' in problems[0]
