"""Frames of a video file."""
import os

import cv2

from data.command_line import InputError

EXTENSIONS = ('.avi', '.mov', '.mp4')

# FFmpeg reads it when it opens its first file. A broken video is for our error line to tell, not for FFmpeg's.
os.environ.setdefault('OPENCV_FFMPEG_LOGLEVEL', '-8')


def read_frames(path):
    """The frames of a video, decoded one by one as they are asked for. -> (frames, their number or None)

    frames: iterator of uint8 [h, w, 3] RGB; it ends where no further frame can be decoded, in a damaged file before the
    end. Their number: that in the header, if there is one. Raises InputError if the path is not a regular file (a pipe
    or device may never end) or not even one frame can be decoded.
    """
    if not os.path.isfile(path):
        raise InputError(f'{path}: is not a file')
    with open(path, 'rb') as file:
        capture = cv2.VideoCapture(_name_for_ffmpeg(path, file))
    found, first = capture.read()
    if not found:
        raise InputError(f'{path}: is not a video, or a damaged one: no frame of it can be decoded')

    def frames():
        found, frame = True, first
        while found:
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
            found, frame = capture.read()

    count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    return frames(), count if count > 0 else None


def _name_for_ffmpeg(path, file):
    """A name that FFmpeg opens as this file."""
    try:
        path.encode()
    except UnicodeEncodeError:   # a name that is not UTF-8 crashes OpenCV
        return f'/dev/fd/{file.fileno()}'
    return os.path.abspath(path)   # a relative one may begin like a protocol: 10:30:00.mp4
