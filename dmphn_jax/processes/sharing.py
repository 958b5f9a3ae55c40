"""Pieces of work that several processes do together: each of them once, none left behind."""

from __future__ import annotations

import collections
import sys
import time
from collections.abc import Callable, Iterator, Sequence

from dmphn_jax.processes.claims import Claims
from dmphn_jax.processes.places import Place

POLL = 1.0  # seconds between two looks at what others are still at work on
# Seconds without any change after which a process that finds nothing to take goes home: a film may
# take another one hours.
PATIENCE = 600.0
_COUNT_EVERY = 5.0


class Shared:
    """The share of one process: whatever is free when it has time.

    Nobody owns more than what he is at work on. A process begins at its own place in the list, so
    that they seldom want the same; when it has come round, it stays for what others hold, and takes
    that too if they die.

    Attributes:
      failures: work -> why it failed in another process.
    """

    def __init__(
        self,
        claims: Claims,
        works: Sequence[str],
        place: Place,
        *,
        there: Callable[[str], bool] = lambda work: False,
    ) -> None:
        """Begins with nothing done.

        Args:
          claims: those of this process.
          works: names, the same for all processes, of what is to be done.
          place: of this process.
          there: tells whether what comes of a work is there already; asked once it is claimed.
        """
        self._claims, self._there = claims, there
        first = place.index * len(works) // place.count
        self._left = dict.fromkeys([*works[first:], *works[:first]])
        self._here, self._others, self._counted = 0, 0, -_COUNT_EVERY
        self._all = len(self._left)
        self.failures: dict[str, str] = {}

    def rounds(self) -> Iterator[Iterator[str]]:
        """Yields what is free to be taken, again and again until everything is finished.

        Or until others are at work on the rest and nothing has changed for `PATIENCE`.
        """
        changed, told = time.monotonic(), False
        while self._left:
            before = len(self._left)
            yield self._free()
            for work in list(self._left):
                self._look(work)
            if len(self._left) < before:
                changed = time.monotonic()
            elif time.monotonic() - changed >= PATIENCE:
                return
            else:
                if not told:
                    told = True
                    print(f"dmphn: waiting for {self.left}", file=sys.stderr, flush=True)
                time.sleep(POLL)

    def take(self, work: str) -> bool:
        """Claims a piece of work; tells whether this process is to do it."""
        if not self._claims.take(work):
            return False
        if self._there(work):
            self.finish(work)
            self._here -= 1
            return False
        return True

    def finish(self, work: str, failure: str | None = None) -> None:
        """Notes that what was taken is done, or why it has failed."""
        self._claims.finish(work, failure)
        self._left.pop(work, None)
        self._here += 1

    @property
    def done(self) -> int:
        """How much all processes have finished since this one began; of others a while ago."""
        if self.complete:
            return self._all
        now = time.monotonic()
        if now > self._counted + _COUNT_EVERY:
            self._counted, self._others = now, self._claims.done() - self._here
        return min(self._all, self._here + self._others)

    @property
    def complete(self) -> bool:
        """Whether everything is finished."""
        return not self._left

    @property
    def elsewhere(self) -> int:
        """How much other processes have finished, as far as this one has looked."""
        return self._all - len(self._left) - self._here

    @property
    def left(self) -> str:
        """What others are at work on, for people; empty where there is nothing left."""
        holders: collections.Counter[str] = collections.Counter()
        for work in self._left:
            claim = self._claims.look(work)
            holders[claim.holder if claim else "nobody"] += 1
        return ", ".join(f"{count} with {holder}" for holder, count in holders.items())

    def _free(self) -> Iterator[str]:
        for work in list(self._left):
            if self._look(work):
                yield work

    def _look(self, work: str) -> bool:
        """Tells whether a piece of work is free; forgets it if it is finished."""
        claim = self._claims.look(work)
        if claim is None:
            return True
        if claim.finished:
            self._left.pop(work, None)
            if claim.failure:
                self.failures[work] = claim.failure
        return False
