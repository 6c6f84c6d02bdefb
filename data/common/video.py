"""Video files: frames from one, frames into one."""
import os
import tempfile
import typing

import cv2

from data.common.command_line import InputError

EXTENSIONS = ('.avi', '.mov', '.mp4')
# What an MP4 file may hold, in the order in which they are tried. Browsers play H.264 and VP9; OpenCV from PyPI has no
# encoder for H.264, and takes 0.27 s for a frame of 1280x720 in VP9, 5 ms in MPEG-4.
CODECS = {'avc1': 'H.264', 'mp4v': 'MPEG-4; browsers need --codec vp09', 'vp09': 'VP9', 'MJPG': 'Motion JPEG'}
_DEFAULT_FPS = 25.   # of a video whose header does not say, or not plausibly


# ---- Reading ---------------------------------------------------------------------------------------------------------

class Clip(typing.NamedTuple):
    frames: typing.Iterator   # of uint8 [h, w, 3] RGB, decoded one by one as they are asked for
    count: int                # of the frames by the header, None if it does not say; damaged files have fewer
    fps: float                # frames per second
    size: tuple               # (width, height) in px


def read_video(path):
    """Opens a video. -> Clip

    Raises InputError if the path is not a regular file (a pipe or device may never end) or not even one frame can be
    decoded; and so does the iterator of frames at one of another size than those before it.
    """
    if not os.path.isfile(path):
        raise InputError(f'{path}: is not a file')
    # A playlist, by whatever name, would make FFmpeg open other files.
    os.environ.setdefault('OPENCV_FFMPEG_CAPTURE_OPTIONS', 'format_whitelist;avi,matroska,mov,mpegts')
    with open(path, 'rb') as file:
        capture = cv2.VideoCapture(_name_for_ffmpeg(path, f'/dev/fd/{file.fileno()}'))
    found, first = capture.read()
    if not found:
        raise InputError(f'{path}: is not a video, or a damaged one: no frame of it can be decoded')
    height, width = first.shape[:2]

    def frames():
        found, frame, number = True, first, 0
        while found:
            if frame.shape != first.shape:
                raise InputError(f'{path}: frame {number} is {frame.shape[1]}x{frame.shape[0]}, those before it are '
                                 f'{width}x{height}; it and the rest cannot be used')
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
            found, frame = capture.read()
            number += 1

    count, fps = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), capture.get(cv2.CAP_PROP_FPS)
    return Clip(frames(), count if count > 0 else None, fps if 1 <= fps <= 240 else _DEFAULT_FPS, (width, height))


# ---- Writing ---------------------------------------------------------------------------------------------------------

class Writer:
    """An MP4 file that is written frame by frame.

    path: where the file appears when it is closed, in place of an earlier one; without frames it does not
    size: (width, height) of the frames in px; OpenCV's encoders cut an odd one by a pixel. fps: frames per second
    codecs: keys of CODECS, of which the first is taken that OpenCV can encode; self.codec is its name in words
    Raises InputError if OpenCV can encode none or the folder cannot be written.
    """

    def __init__(self, path, size, fps, codecs=tuple(CODECS)):
        self.path, self._num_frames = path, 0
        try:
            self._folder = tempfile.TemporaryDirectory(prefix='.video-', dir=os.path.dirname(path) or '.')
        except OSError as error:
            raise InputError(f'{path}: cannot be written: {error.strerror}')
        self._part = os.path.join(self._folder.name, 'video.mp4')
        self._descriptor = os.open(self._folder.name, os.O_RDONLY)
        self._name = _name_for_ffmpeg(self._part, f'/dev/fd/{self._descriptor}/video.mp4')
        for codec in codecs:
            self.codec = CODECS[codec]
            self._writer = cv2.VideoWriter(self._name, cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*codec), fps, size)
            if self._writer.isOpened():
                return
        self._remove()
        raise InputError(f'{path}: this OpenCV cannot encode {" or ".join(codecs)}; give another --codec, or --frames')

    def write(self, frame):
        """frame: uint8 [h, w, 3] RGB."""
        self._writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
        self._num_frames += 1

    def close(self):
        """Makes the file appear with the frames so far. -> their number. Raises InputError if it cannot be written."""
        self._writer.release()
        try:
            if self._num_frames:
                # OpenCV does not tell when the disk is full.
                if cv2.VideoCapture(self._name).get(cv2.CAP_PROP_FRAME_COUNT) < self._num_frames:
                    raise InputError(f'{self.path}: could not be written completely; is the disk full?')
                os.replace(self._part, self.path)
        except OSError as error:
            raise InputError(f'{self.path}: cannot be written: {error.strerror}')
        finally:
            self._remove()
        return self._num_frames

    def _remove(self):
        os.close(self._descriptor)
        self._folder.cleanup()


def _name_for_ffmpeg(path, by_descriptor):
    """A name of a file that FFmpeg opens as that file, and without lines of its own: what is wrong is for us to say."""
    os.environ.setdefault('OPENCV_FFMPEG_LOGLEVEL', '-8')   # read when the first file is opened
    try:
        path.encode()
    except UnicodeEncodeError:
        return by_descriptor   # a name that is not UTF-8 crashes OpenCV
    return os.path.abspath(path)   # a relative one may begin like a protocol: 10:30:00.mp4
