"""Work on threads, in order and in bounded memory."""

from __future__ import annotations

import collections
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Value = TypeVar("Value")


def map_ahead(
    function: Callable[[Item], Value], items: Iterable[Item], *, threads: int, ahead: int
) -> Generator[Value, None, None]:
    """Yields `function(item)` of every item in order, computed by threads ahead of the reader.

    `items` is read as results are taken, so it may be endless. An exception of `function` is
    raised in its item's place and ends the iteration; so does closing it. What has begun by then
    is waited for, what has not never begins.

    Args:
      function: runs on the threads, several at a time.
      items: its arguments.
      threads: at least 1.
      ahead: results that may be computed or held before the reader takes them, at least 1.
    """
    queue: collections.deque[Future[Value]] = collections.deque()
    pool = ThreadPoolExecutor(threads, "map-ahead")
    try:
        for item in items:
            queue.append(pool.submit(function, item))
            if len(queue) > ahead:
                yield queue.popleft().result()
        while queue:
            yield queue.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
