"""Work done ahead by threads or processes, with its results in order."""
import collections

from data.common.command_line import InputError


def in_order(pool, function, items, ahead):
    """Computes function(item) for each item, up to `ahead` items before its result is asked for. -> iterator of results

    pool: concurrent.futures.Executor. items: an iterable, consumed only as far as needed. An exception of `function`
    is raised in the place of its result. Closing the iterator cancels the items that have not started. Raises
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
