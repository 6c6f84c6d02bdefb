"""Ordered work in threads, a few items at a time: one function, or several stages that images pass through."""
import collections
import concurrent.futures
import contextlib
import functools
import time
import typing

from data.common.command_line import InputError


def in_order(pool, function, items, ahead):
    """Computes function(item) for each item, up to `ahead` items in advance. -> iterator of results

    pool: concurrent.futures.Executor; items: iterable, consumed lazily. Exceptions of `function` are raised in order.
    Closing the iterator cancels pending items. Raises InputError if the pool cannot start its threads.
    """
    pending = collections.deque()
    try:
        for item in items:
            try:
                pending.append(pool.submit(function, item))
            except (RuntimeError, MemoryError) as error:
                raise InputError(f'--workers: {error or "out of memory"}; give fewer') from None
            if len(pending) >= ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()


class Stage(typing.NamedTuple):
    """Runs function(photo, *args) in num_threads threads; adds its ms to photo.times[name], unless name is empty."""
    name: str
    num_threads: int
    function: typing.Callable
    args: tuple = ()


def run(photos, stages, num_workers):
    """Passes each Photo without an error through the stages. -> iterator of all photos, in order

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
                photos = in_order(pool, work, photos, stage.num_threads + 1)
        yield from photos


def _work(stage, photo):
    if photo.error is None:
        start = time.perf_counter()
        stage.function(photo, *stage.args)
        if stage.name:
            photo.times[stage.name] += 1000 * (time.perf_counter() - start)
    return photo
