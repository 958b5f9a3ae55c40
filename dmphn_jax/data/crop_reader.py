"""What the host feed's readers do: which crop stands in which row, and reading it.

Which pair and which crop stand in row r of batch k depends on (seed, batch size, k, r) only.
"""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Sequence

import numpy as np

from dmphn_jax.data.base import CropSource, PairSource, SizedSource
from dmphn_jax.errors import UserError

_ORDER, _CROP = range(2)  # keep the streams of random numbers apart
_HUGE_PAGES = 4 << 20  # bytes from which on NumPy asks for them


class Order:
    """Which pair each row of each batch takes, and where its crop lies.

    Epoch after epoch every pair is taken once; a batch may end one epoch and begin the next.

    Args:
      pairs: number of pairs.
      batch_size: rows per batch, over all processes.
      seed: any integer.
    """

    def __init__(self, pairs: int, batch_size: int, seed: int):
        self.pairs, self.batch_size, self._seed = pairs, batch_size, seed
        # grain's own shuffle walks a cipher per index, 17 ms each in a set of a few pairs.
        self._epoch = functools.lru_cache(maxsize=4)(self._shuffled)

    def _generator(self, use: int, number: int) -> np.random.Generator:
        """Returns the generator of (seed, use, number): the same numbers on every machine."""
        key = [self._seed % 2**64, use << 62 | number]
        return np.random.Generator(np.random.Philox(key=np.array(key, np.uint64)))

    def _shuffled(self, epoch: int) -> np.ndarray:
        return self._generator(_ORDER, epoch).permutation(self.pairs)

    def pair(self, place: int) -> int:
        """Returns the pair at `place` of the stream: row r of batch k is k * batch_size + r."""
        epoch, rest = divmod(place, self.pairs)
        return int(self._epoch(epoch)[rest])

    def fractions(self, step: int) -> np.ndarray:
        """Returns where the crops of batch `step` lie, (batch_size, 2) in [0, 1): down, right."""
        return self._generator(_CROP, step).random((self.batch_size, 2))


class _UnderWay:
    """A batch that readers are filling: its crops, and where they lie in their frames."""

    def __init__(self, crops: np.ndarray, fractions: np.ndarray):
        self.blurry, self.sharp = crops
        self.fractions = fractions


class CropReader:
    """Pieces of batches by number, for grain's threads; every piece fills its rows in place.

    Piece p is part p % parts of batch p // parts, counted from `first`. All pieces of a batch
    return the same arrays, which are whole once each of them has been read. A piece of a few
    rows keeps every thread at work whatever the batch size, and no row is copied again.

    Args:
      source: the pairs.
      order: decides for the whole batch, so that it does not matter which process reads a row.
      crop: side of the square crops in pixels.
      rows: the rows of each batch to read, those of this process's devices.
      piece: rows per piece.
      first: the batch that piece 0 belongs to.
    """

    def __init__(
        self,
        source: PairSource,
        order: Order,
        crop: int,
        rows: Sequence[int],
        piece: int,
        first: int,
    ):
        self._source, self._order, self._crop, self._rows = source, order, crop, list(rows)
        self._piece, self._first = piece, first
        self.parts = -(-len(self._rows) // piece)
        self._crops = source if isinstance(source, CropSource) else None
        self._lock = threading.Lock()
        self._under_way: dict[int, _UnderWay] = {}
        # Small batches share an allocation that is large enough for huge pages: writing to fresh
        # small pages takes longer than cutting the crops.
        self._shape = (2, len(self._rows), crop, crop, 3)
        self._together = max(1, -(-_HUGE_PAGES // int(np.prod(self._shape))))
        self._spare: list[np.ndarray] = []

    def __len__(self) -> int:
        """Returns a number that no run reaches; grain wants one."""
        return sys.maxsize // 2

    def __getitem__(self, number: int) -> dict[str, np.ndarray]:
        """Reads a piece; returns its batch, uint8 (rows, crop, crop, 3) a side."""
        step, part = divmod(number, self.parts)
        step += self._first
        batch = self._begun(step)
        for place in range(part * self._piece, min((part + 1) * self._piece, len(self._rows))):
            row = self._rows[place]
            index = self._order.pair(step * self._order.batch_size + row)
            self._cut(index, *batch.fractions[row], batch.blurry[place], batch.sharp[place])
        return {"blurry": batch.blurry, "sharp": batch.sharp}

    def _begun(self, step: int) -> _UnderWay:
        with self._lock:
            if step not in self._under_way:
                if not self._spare:
                    self._spare = list(np.empty((self._together, *self._shape), np.uint8))
                self._under_way[step] = _UnderWay(self._spare.pop(), self._order.fractions(step))
            return self._under_way[step]

    def finish(self, step: int) -> None:
        """Forgets batch `step`, all of whose pieces have been read."""
        with self._lock:
            del self._under_way[step]

    def _cut(
        self, index: int, down: float, right: float, blurry: np.ndarray, sharp: np.ndarray
    ) -> None:
        """Fills in the crop of pair `index` at these fractions, in [0, 1), of its free play."""
        crop = self._crop
        if self._crops is not None:
            tops, lefts = self._crops.positions(index, crop)
            top, left = int(tops[int(down * len(tops))]), int(lefts[int(right * len(lefts))])
            self._crops.crop(index, top, left, crop, out=(blurry, sharp))
            return
        pair = self._source[index]
        height, width = pair.blurry.shape[:2]
        check_size(pair.name, height, width, crop)
        top, left = int(down * (height - crop + 1)), int(right * (width - crop + 1))
        place = (slice(top, top + crop), slice(left, left + crop))
        blurry[...], sharp[...] = pair.blurry[place], pair.sharp[place]


def check_sizes(source: PairSource, crop: int) -> None:
    """Raises UserError if a frame whose size is known is smaller than a crop."""
    if not isinstance(source, SizedSource):
        return
    shapes = {source.shape(index): index for index in range(len(source))}
    for (height, width), index in shapes.items():
        if isinstance(source, CropSource):
            source.positions(index, crop)
        else:
            check_size(source.names[index], height, width, crop)


def check_size(name: str, height: int, width: int, crop: int) -> None:
    """Raises UserError naming the pair if its frame is smaller than a crop."""
    if min(height, width) < crop:
        raise UserError(
            f"pair {name} is {width}x{height}, smaller than a crop of {crop}x{crop}; "
            "set config.crop_size lower or leave it out"
        )
