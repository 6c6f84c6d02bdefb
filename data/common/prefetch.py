"""Results computed ahead by threads or processes, in order."""
import collections

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
