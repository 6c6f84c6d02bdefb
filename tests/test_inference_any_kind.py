"""inference.py with models of --kind any, and with a given foreground."""

import json

import cv2
import numpy as np
import pytest

import clustering
import inference
from data.common import segmentations
from stand_in import (SHAPE, colour_network, contents, one_line, pictures_in, read,  # noqa: F401
                      road, write, write_video)


# ---- Other kinds of image --------------------------------------------------------------------------------------------

@pytest.fixture
def any_network(colour_network):
    """Its conventions are those of a model for any kind of image."""
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


def test_json_of_any_kind_has_cocos_results(any_network, run_script, tmp_path):
    for name in ('000000000139', '7'):
        write(tmp_path / f'in/{name}.png', discs())
    write_video(tmp_path / 'discs.avi', [discs()])
    outcome = run_script(inference, '-i', tmp_path / 'in', '-o', tmp_path / 'out', '--masks', '--json',
                         tmp_path / 'p.json')
    assert outcome.status == 0 and '6 instances found (3.0 per' in outcome.out
    results = json.loads((tmp_path / 'p.json').read_text())
    assert [each['image_id'] for each in results] == [139] * 3 + [7] * 3
    mask = read(tmp_path / 'out/mask_0000.png')
    for i, each in enumerate(results[:3], 1):
        found = segmentations.draw(each['segmentation'], mask.shape)
        np.testing.assert_array_equal(found, mask == i)
        x, y, width, height = each['bbox']
        assert found[y:y + height, x:x + width].sum() == found.sum() and each['category_id'] == each['score'] == 1
        assert found[[y, y + height - 1]].any(axis=1).all() and found[:, [x, x + width - 1]].any(axis=0).all()
    assert '1.00 1.00 1.00' in (tmp_path / 'out/photos.csv').read_text()
    (tmp_path / 'in/7.png').rename(tmp_path / 'in/seven.png')   # if the names are not numbers, images are counted
    run_script(inference, '-i', tmp_path / 'in', tmp_path / 'discs.avi', '--no-pictures', '--json', tmp_path / 'p.json')
    assert {each['image_id'] for each in json.loads((tmp_path / 'p.json').read_text())} == {0, 1, 2}


def test_mask_of_more_than_255_instances_has_16_bits(any_network, run_script, tmp_path, monkeypatch):
    ids = np.arange(72 * 128).reshape(72, 128) // 14
    monkeypatch.setattr(clustering, 'instance_ids', lambda *args: ids)
    write(tmp_path / 'in/a.png', road(size=SHAPE))
    run_script(inference, '-i', tmp_path / 'in', '-o', tmp_path / 'out', '--masks')
    mask = read(tmp_path / 'out/mask_0000.png')
    assert mask.dtype == np.uint16 and len(np.unique(mask)) == ids.max() + 1


@pytest.mark.parametrize('flags', ['--culane lines', '--draw-lanes', '--max-lanes 2', '--min-confidence 0.5',
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


def test_images_without_a_mask_are_named_and_the_others_done(any_network, run_script, tmp_path):
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
