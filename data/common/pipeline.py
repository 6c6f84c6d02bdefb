"""Photos through stages, each in threads of its own, in order and a few at a time."""
import concurrent.futures
import contextlib
import functools
import time
import typing

from data.common import prefetch


class Stage(typing.NamedTuple):
    """function(photo, *args) in num_threads threads; its ms are added to photo.times[name], if there is a name."""
    name: str
    num_threads: int
    function: typing.Callable
    args: tuple = ()


def run(photos, stages, num_workers):
    """Takes each photo through the stages. -> iterator of the photos, in order, or those with an error as they are

    A stage works a few photos ahead of the next; with one thread it sees them in order. An exception is raised in place
    of the photo. With num_workers 0, everything runs in the calling thread, one photo after the other.
    """
    with contextlib.ExitStack() as stack:
        for stage in stages:
            work = functools.partial(_work, stage)
            if num_workers == 0:
                photos = map(work, photos)
            else:
                pool = stack.enter_context(concurrent.futures.ThreadPoolExecutor(stage.num_threads))
                photos = prefetch.in_order(pool, work, photos, stage.num_threads + 1)
        yield from photos


def _work(stage, photo):
    if photo.error is None:
        start = time.perf_counter()
        stage.function(photo, *stage.args)
        if stage.name:
            photo.times[stage.name] += 1000 * (time.perf_counter() - start)
    return photo
