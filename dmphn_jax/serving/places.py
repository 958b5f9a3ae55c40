"""Places for pictures under way: as many as a server takes on, no more."""

from __future__ import annotations

import collections
import statistics
from collections.abc import Iterator
from contextlib import contextmanager

from dmphn_jax.serving.refusal import Refusal


class Places:
    """Counts who is under way; used on the event loop alone.

    Attributes:
      taken: places that are not free.
      closed: nobody new is let in.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._seconds: collections.deque[float] = collections.deque([1.0], maxlen=16)
        self.taken = 0
        self.closed = False

    def took(self, seconds: float) -> None:
        """Notes what a picture has taken, for telling others how long to wait."""
        self._seconds.append(seconds)

    @contextmanager
    def place(self) -> Iterator[None]:
        """Holds a place; raises Refusal, 503, if there is none."""
        self.look()
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1

    @property
    def free(self) -> int:
        """How many are free; raises Refusal, 503, once nobody is let in."""
        if self.closed:
            raise Refusal(503, "this server is stopping", retry_after=10)
        return self._count - self.taken

    def look(self) -> None:
        """Raises Refusal, 503, if there is no free place."""
        if not self.free:
            raise Refusal(503, "the queue is full; come back later", retry_after=self.wait)

    @property
    def wait(self) -> float:
        """Seconds after which to ask again: a quarter of the queue, 2 minutes at most."""
        return min(120.0, self.taken / 4 * statistics.median(list(self._seconds)))
