"""Work done ahead by threads or processes, its results in order: the one bounded prefetch."""
import collections

from data.common.command_line import InputError


def in_order(pool, function, items, ahead):
    """Computes function(item) for each item up to `ahead` items ahead of the reader. -> iterator of the results.

    pool: concurrent.futures.Executor. items: an iterable, taken from only as far as needed. An exception of `function`
    is raised where its result would have been. When the iterator is closed, what has not begun is cancelled. Raises
    InputError if the pool cannot start its threads.
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
