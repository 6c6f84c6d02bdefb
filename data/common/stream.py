"""Live video from a camera or a URL: only the newest frame is kept."""
import contextlib
import os
import queue
import re
import threading

import cv2

from data.common import command_line, video
from data.common.command_line import InputError

_TIMEOUT = 10_000   # ms without a frame after which a connection counts as lost
_WAIT = 1   # seconds between attempts to reconnect
_OPTIONS = 'rtsp_transport;tcp|protocol_whitelist;http,https,httpproxy,tcp,tls,crypto,udp,rtp,srtp,rtsp'   # no files


def is_stream(path):
    """-> whether a path is a URL or, unless there is a file of that name, a camera number"""
    is_camera = path.isdecimal() and len(path) <= 2 and not os.path.lexists(path)
    return is_camera or path.lower().startswith(('rtsp://', 'http://', 'https://'))


def names(source):
    """-> (a stream's name: its URL without user, password and query; the same as a file name without extension)"""
    if source.isdecimal():
        return 2 * (f'camera{source}',)
    scheme, _, rest = source.partition('://')
    place = re.match(r'(?:[^/?#]*@)?([^?#]*)', rest)[1]
    return f'{scheme}://{place}', re.sub(r'[^\w.-]+', '_', place).strip('_.')


def read_clip(path):
    """Opens a video, see video.read_video, or a stream, of which only the newest frame is kept.

    Frames of a stream are scaled to the size of the first. If the connection is lost, a warning is printed
    and reconnecting is retried indefinitely. -> video.Clip. Raises InputError if no frame can be decoded.
    """
    if not is_stream(path):
        return video.read_video(path)
    capture, first = _connect(path)
    if first is None:
        raise InputError(f'{names(path)[0]}: no frame can be received')
    size = first.shape[1::-1]
    return video.Clip(_newest(path, capture, size), None, video.frame_rate(capture), size, live=True)


def _connect(source):
    """-> (cv2.VideoCapture; its first frame, uint8 [h, w, 3] BGR, or None without a connection)"""
    timeouts = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, _TIMEOUT, cv2.CAP_PROP_READ_TIMEOUT_MSEC, _TIMEOUT]
    is_camera = source.isdecimal()
    capture = cv2.VideoCapture(int(source)) if is_camera else video.open_capture(source, _OPTIONS, timeouts)
    return capture, capture.read()[1]


def _newest(source, capture, size):
    """Yields the newest frame, uint8 [h, w, 3] RGB, as soon as there is a new one, indefinitely."""
    frames, stop = queue.Queue(), threading.Event()
    thread = threading.Thread(target=_receive, args=(source, capture, frames, stop), daemon=True)
    thread.start()
    try:
        while True:
            yield cv2.cvtColor(cv2.resize(frames.get(), size), cv2.COLOR_BGR2RGB)
    finally:
        stop.set()
        thread.join(1)   # it needs longer if no frame arrives


def _receive(source, capture, frames, stop):
    """Keeps only the newest frame of a stream in a queue, until stopped."""
    while not stop.is_set():
        found, frame = capture.read()
        if not found:
            command_line.warn(f'{names(source)[0]}: the connection is lost; reconnecting')
        while not found and not stop.wait(_WAIT):
            capture, frame = _connect(source)
            found = frame is not None
        with contextlib.suppress(queue.Empty):
            frames.get_nowait()
        frames.put(frame)
