"""data/lanes/culane.py: hand-made cases, --measure culane, and data/culane_dataset_processing.py."""
import csv

import cv2
import numpy as np
import pytest

from data import culane_dataset_processing as culane_processing
from data import tusimple_evaluation as evaluation
from data.lanes import culane, tusimple

SIZE = 1640, 590
ROWS = list(range(0, 600, 10))


def upright(x, rows=60):
    """A lane at x in the lowest rows, absent above."""
    return [-2] * (len(ROWS) - rows) + [x] * rows


def iou_of(prediction, label, rows=ROWS, size=SIZE):
    return culane.lane_ious(*([tusimple.lane_points(lane, rows)] for lane in (prediction, label)), size)[0, 0]


@pytest.mark.parametrize('apart, scale', [(0, 1), (5, 1), (12, 2), (40, 2)])
def test_upright_lanes_overlap_by_their_distance_on_the_canvas(apart, scale):
    rows, size = [y / scale for y in ROWS], (SIZE[0] // scale, SIZE[1] // scale)
    lane, other = ([x / scale if x >= 0 else x for x in upright(400 + x)] for x in (0, apart))
    lane[20:30] = [-2] * 10   # joined across
    assert iou_of(other, lane, rows, size) == pytest.approx(max(30 - apart, 0) / (30 + apart), abs=0.02)


def test_slanted_lane_is_as_wide_across_its_direction():
    lanes = [[x + y for y in ROWS] for x in (400, 400 + 10 * 2 ** 0.5)]   # 10 px apart
    assert iou_of(*lanes) == pytest.approx(20 / 40, abs=0.03)


def test_optimal_assignment_has_hits_above_half():
    assert culane.count_hits(np.array([[.9, .6], [.7, 0]])) == 2
    assert [culane.count_hits(np.array([[iou]])) for iou in (0.5, 0.5001)] == [0, 1]


def test_lanes_of_all_images_count_together():
    records = [tusimple.Record(name, [upright(100 * i) for i in range(1, num + 1)], ROWS)
               for name, num in (('a', 4), ('b', 1), ('c', 0))]
    found = [tusimple.Record('a', [upright(x) for x in (102, 203, 900)], ROWS),
             tusimple.Record('b', [upright(500)], ROWS), tusimple.Record('c', [], ROWS)]
    pairs = [[culane.from_record(record, ROWS) for record in pair] for pair in zip(found, records)]
    scores, rows = culane.score(pairs, [culane.lane_ious(one.lanes, other.lanes, SIZE) for one, other in pairs])
    assert scores == pytest.approx((2 / 4, 2 / 5, 4 / 9))
    assert rows == [('a', 4 / 7, 2, 4, 3), ('b', 0, 0, 1, 1), ('c', 1, 0, 0, 0)]


def test_single_point_counts_but_is_no_hit_and_absent_lane_does_not_count():
    record = culane.from_record(tusimple.Record('a', [upright(5, 1), upright(-2), upright(70)], ROWS,
                                                confidence=[.1, .2, .3]), ROWS)
    assert len(record.lanes) == 2 and record.confidence == [.1, .3]
    assert culane.lane_ious(record.lanes, record.lanes, SIZE).tolist() == [[0, 0], [0, 1]]


@pytest.fixture
def files(tusimple_folder):
    """Paths of labels and of predictions: of 5 lanes, 4 are hits, and the second image has one more."""
    labels = tusimple_folder / 'label_data_0000.json'
    records, _ = tusimple.read_records(labels)
    records[0].lanes[1] = [x - 40 if x > 40 else 0 for x in records[0].lanes[1]]
    records[1].lanes[2] = [0, 0, 0, 0, 1, 2]
    predictions = tusimple_folder.parent / 'predictions.json'
    tusimple.write_records(str(predictions), records)  # without run_time
    return predictions, labels


def test_prints_the_measure_at_the_size_of_the_first_image_and_writes_scores_worst_first(files, run_script, tmp_path):
    outcome = run_script(evaluation, *files, '--measure', 'culane', '--per-image', tmp_path / 'scores.csv')
    assert outcome.status in (None, 0) and outcome.err == ''
    assert outcome.out == ('3 images of 128x72, 5 labelled and 6 predicted lanes\n'
                           f'precision {4 / 6:.4f}\nrecall    {4 / 5:.4f}\nF1        {8 / 11:.4f}\n')
    with open(tmp_path / 'scores.csv', newline='') as file:
        rows = list(csv.DictReader(file))
    assert [(row['raw_file'][11], row['hits'], row['label_lanes'], row['predicted_lanes']) for row in rows] == [
        ('0', '1', '2', '2'), ('1', '2', '2', '3'), ('2', '1', '1', '1')]


def test_size_can_be_given_and_defaults_to_tusimples_without_images(files, run_script, tmp_path):
    lonely = tmp_path / 'labels.json'
    lonely.write_bytes(files[1].read_bytes())
    for args, words in (([], '3 images of 1280x720, '), (['--photo-size', 200, 100], '3 images of 200x100, '),
                        (['--photo-size', 64, 72], 'labels.json:1: has lanes outside an image of 64x72 px')):
        outcome = run_script(evaluation, files[0], lonely, '--measure', 'culane', *args)
        assert words in outcome.out + outcome.err


@pytest.fixture
def drive(files, monkeypatch):
    """The lanes of files as .lines.txt: truth/ with images, and found/; the working folder."""
    home = files[0].parent
    for path, folder in zip(files, ('found', 'truth')):
        for record in tusimple.read_all(path):
            target = home / folder / record.raw_file
            target.parent.mkdir(parents=True)
            target.write_bytes((files[1].parent / record.raw_file).read_bytes())
            culane.write_lines(str(target.with_suffix('.lines.txt')), record.lanes, record.h_samples)
    monkeypatch.chdir(home)
    return home


def test_lines_are_written_from_the_bottom_up_and_read_back(tmp_path):
    path = tmp_path / 'a.lines.txt'
    culane.write_lines(path, [[-2, 10.126, 20], [-2, -2, -2], [5, 6, -2]], [160, 170, 180])
    assert path.read_text() == '20.00 180 10.13 170\n6.00 170 5.00 160\n'
    assert [lane.tolist() for lane in culane.read_photo(tmp_path, 'a.jpg').lanes] == [
        [[20, 180], [10.13, 170]], [[6, 170], [5, 160]]]


def test_folders_of_lines_are_measured_as_json(drive, files, run_script):
    expected = run_script(evaluation, *files, '--measure', 'culane').out
    for predictions, labels in (('found', 'truth'), (files[0], 'truth'), ('found', files[1])):
        outcome = run_script(evaluation, predictions, labels, '--measure', 'culane')
        assert outcome.status in (None, 0) and outcome.out == expected and outcome.err == ''


@pytest.mark.parametrize('text', ['1 2 3', '1 a', '1 nan', '1e300 5'])
def test_malformed_lines_are_reported(drive, run_script, text):
    (drive / 'found/clips/0000/1/20.lines.txt').write_text(f'\n{text}\n')
    outcome = run_script(evaluation, 'found', 'truth', '--measure', 'culane')
    assert outcome.status == 1 and '20.lines.txt:2: is not a lane' in outcome.err and outcome.err.count('\n') == 1


def test_culane_is_prepared_with_and_without_a_list(drive, files, run_script):
    outcome = run_script(culane_processing, 'truth', '-o', 'out')
    assert outcome.status in (None, 0) and outcome.out == 'Wrote 3 photos and 5 lanes to out; skipped 0.\n'
    first, label = tusimple.read_all('out/lanes.json')[0], tusimple.read_all(files[1])[0]
    assert (first.lanes, first.h_samples) == (label.lanes, label.h_samples)
    assert (cv2.imread('out/labels/0000.png', -1) == tusimple.draw_label(label, (128, 72))).all()
    (drive / 'list.txt').write_text('/clips/0000/2/20.jpg /seg.png 1 0 0 0\n/clips/no.jpg\n')
    outcome = run_script(culane_processing, 'truth', 'list.txt', '-o', 'listed')
    assert 'Wrote 1 photos and 1 lanes to listed; skipped 1.' in outcome.out
    assert 'no.lines.txt: no such file' in outcome.out
    assert 'out: holds no *.lines.txt' in run_script(culane_processing, 'out', '-o', 'new').err
