"""Reads and writes video files by OpenCV's FFmpeg."""
import os
import tempfile
import threading
import time
import typing

import cv2

from data.common.command_line import InputError

EXTENSIONS = ('.avi', '.m4v', '.mkv', '.mov', '.mp4', '.mpeg', '.mpg', '.ts', '.webm')
CODECS = {'avc1': 'H.264', 'mp4v': 'MPEG-4'}   # in the order in which they are tried; OpenCV from PyPI has no H.264

(cv2.setLogLevel if hasattr(cv2, 'setLogLevel') else cv2.utils.logging.setLogLevel)(0)   # OpenCV 4, OpenCV 5
os.environ.setdefault('OPENCV_FFMPEG_LOGLEVEL', '-8')   # no messages from FFmpeg
_OPTIONS = 'format_whitelist;avi,matroska,mov,mpeg,mpegts'   # no playlists that open other files
_opening = threading.Lock()


class Clip(typing.NamedTuple):
    frames: typing.Iterator   # of uint8 [h, w, 3] RGB, decoded one by one
    count: int                # of frames according to the header, None if unknown; damaged files have fewer
    fps: float                # frames per second
    size: tuple               # (width, height) in px
    live: bool = False        # whether it is a stream, which has gaps and no end


def open_capture(path, options=_OPTIONS, parameters=()):
    """-> cv2.VideoCapture by FFmpeg. options: for FFmpeg; parameters: for OpenCV"""
    with _opening:
        os.environ['OPENCV_FFMPEG_CAPTURE_OPTIONS'] = options   # where OpenCV reads them
        return cv2.VideoCapture(path, cv2.CAP_FFMPEG, parameters)


def read_video(path):
    """Opens a video. -> Clip. Raises InputError if no frame can be decoded; so does the iterator, if a frame differs in
    size from the first."""
    if not os.path.isfile(path):   # a pipe could block for ever
        raise InputError(f'{path}: is not a file')
    capture = open_capture(_absolute(path))
    found, first = capture.read()
    if not found:
        raise InputError(f'{path}: is not a video, or is damaged: no frame can be decoded')
    count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    return Clip(_frames(path, capture, first), count if count > 0 else None, frame_rate(capture), first.shape[1::-1])


def frame_rate(capture):
    """-> frames per second"""
    fps = capture.get(cv2.CAP_PROP_FPS)
    return fps if 1 <= fps <= 240 else 25.   # if the header has no plausible rate


def _frames(path, capture, frame):
    shape, number = frame.shape, 0
    while frame is not None:
        if frame.shape != shape:
            raise InputError(f'{path}: frame {number} is {frame.shape[1]}x{frame.shape[0]}, earlier ones are '
                             f'{shape[1]}x{shape[0]}; it and the rest cannot be used')
        yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        frame = capture.read()[1]
        number += 1


def _absolute(path):
    """-> an absolute path: FFmpeg would mistake 10:30:00.mp4 for a URL"""
    try:
        path.encode()   # other names crash OpenCV
    except UnicodeEncodeError:
        raise InputError(f'{path}: the name of a video must be UTF-8; rename it')
    return os.path.abspath(path)


class Writer:
    """Writes an MP4 file frame by frame; it appears, and replaces an earlier one, when it is closed.

    size: (width, height) of the frames in px; OpenCV's encoders cut an odd one by one pixel
    self.codec is the name of the first of CODECS that OpenCV can encode
    live: whether the frames are from a stream; they are then repeated or dropped to keep real time
    """

    def __init__(self, path, size, fps, live=False):
        self.path, self._num_frames = path, 0
        self._live, self._fps, self._seconds, self._last = live, fps, 0., time.monotonic()
        self._folder = tempfile.TemporaryDirectory(prefix='.video-', dir=os.path.dirname(path) or '.')
        self._unfinished = _absolute(os.path.join(self._folder.name, 'video.mp4'))
        for code, self.codec in CODECS.items():
            self._writer = cv2.VideoWriter(self._unfinished, cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*code), fps, size)
            if self._writer.isOpened():
                return
        self._folder.cleanup()
        raise InputError(f'{path}: this OpenCV cannot encode {" or ".join(CODECS)}; give --frames')

    def write(self, frame):
        """frame: uint8 [h, w, 3] RGB."""
        repeats = 1
        if self._live:
            now = time.monotonic()
            if self._num_frames:
                self._seconds += min(now - self._last, 1)   # longer gaps, such as lost connections, are cut
            self._last, repeats = now, int(self._seconds * self._fps) + 1 - self._num_frames
        for _ in range(repeats):
            self._writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
            self._num_frames += 1

    def close(self):
        """Moves the file to its path, unless it has no frames. -> number of frames. Raises InputError if truncated."""
        self._writer.release()
        with self._folder:
            if self._num_frames:
                written = open_capture(self._unfinished).get(cv2.CAP_PROP_FRAME_COUNT)
                if written < self._num_frames:   # OpenCV reports no error
                    raise InputError(f'{self.path}: could not be written completely; is the disk full?')
                os.replace(self._unfinished, self.path)
        return self._num_frames
