"""A stand-in for the network of inference.py, images for it, and its results."""
import json
import os
import types

import cv2
import numpy as np
import pytest

import inference
from data.common import quiet

SHAPE = (128, 72)
LINES = {'red': ((10, 71), (50, 10), (255, 0, 0)), 'blue': ((110, 71), (70, 10), (0, 0, 255))}


@pytest.fixture
def colour_network(monkeypatch):
    """The stand-in for the network: the embedding is the image's colour, 0 to 8."""
    def network(batch):
        assert batch.dtype == np.uint8 and batch.shape[1:] == (*SHAPE[::-1], 3)
        return batch.astype(np.float32) / 32
    conventions = types.SimpleNamespace(image_size=SHAPE, feature_dim=3, bandwidth=3.0, delta_v=0.5, delta_d=1.5,
                                        kind='road', background_weight=1., foreground_weight=0.,
                                        foreground_threshold=0.5, min_confidence=0., classes=())

    monkeypatch.setattr(inference, 'load_network', lambda modeldir, architecture=None: (network, conventions))
    monkeypatch.setattr(quiet, 'import_tensorflow', lambda: None)
    return conventions


def road(*names, size=(128, 72)):
    """A black image with lines of pure colour, 1 px wide at 128x72: 10 in TuSimple's size."""
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
    """-> the sorted names of the results in a folder except photos.csv"""
    return sorted(set(os.listdir(folder)) - {'photos.csv'})


def one_line(text):
    assert text.count('\n') == 1 and text.endswith('\n') and 'Traceback' not in text
    return text
