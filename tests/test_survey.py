"""data/common/survey.py: statistics of labels, and warnings about unsuitable ones."""
import numpy as np
import pytest

from data.common import pictures, survey


def two_squares():
    label = np.zeros((40, 50), np.uint8)
    label[5:15, 5:15] = 1
    label[20:30, 20:40] = 2
    return label


def classes():
    """Two values, each in four separate squares."""
    label = np.zeros((40, 50), np.uint8)
    for i in range(4):
        label[2:10, 2 + 12 * i:10 + 12 * i] = 1
        label[20:28, 2 + 12 * i:10 + 12 * i] = 2
    return label


def write(folder, labels):
    paths = [str(folder / f'{i}.png') for i in range(len(labels))]
    for path, label in zip(paths, labels):
        pictures.write_image(path, label)
    return paths


def test_survey_counts(tmp_path):
    label = two_squares()
    label[0] = 255
    text, warnings = survey.survey(write(tmp_path, [label, 3 * (two_squares() == 1).astype(np.uint8)]), ignore=255)
    assert (text, warnings) == ('2 images to train on, 1.5 instances per image, 10.1 % foreground', [])


def test_survey_reads_some_of_many(monkeypatch):
    seen = []
    monkeypatch.setattr(pictures, 'read_label', lambda path: seen.append(path) or two_squares())
    assert survey.survey(['0.png'] * 1000)[0].startswith('1,000 images') and len(seen) == 100


@pytest.mark.parametrize('label, warning', [
    (two_squares() * 0, 'no label has an instance'),
    (np.array([9, 1, 2], np.uint8)[two_squares()], 'no label has a pixel of 0'),
    ((two_squares() > 0).astype(np.uint8) * 255, 'no label has two instances'),
    (np.random.default_rng(0).integers(0, 200, (40, 50), np.uint8), 'most instances have fewer than 20 pixels'),
    (classes(), 'the same 2 values occur in most labels, in 4 separate parts each')],
    ids=['empty', 'no background', 'one instance', 'specks', 'classes'])
def test_survey_warns(tmp_path, label, warning):
    _, (found,) = survey.survey(write(tmp_path, [label] * 3))
    assert found.startswith(warning)
