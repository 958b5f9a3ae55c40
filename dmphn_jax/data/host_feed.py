"""The host feed: crops cut on the host by grain's threads, batches sent to the devices.

Which pair and which crop stand in row r of batch k depends on (seed, batch size, k, r) only. The
order is decided for the whole batch, then each process reads the rows that its own devices hold:
the same seed gives the same global batches on any number of processes, threads and restores.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from dmphn_jax.data.base import Feed, PairSource
from dmphn_jax.errors import UserError

_PREFETCHED_PAIRS = 64
_ORDER, _CROP = range(2)  # keep the streams of random numbers apart


class HostFeed(Feed):
    """Random crops of a source's pairs.

    Every epoch of `len(source)` places visits each pair once, in an order of its own; a batch may
    end one epoch and begin the next, so that no pair is left out. A crop's position is uniform
    over the frame. Sources of raw tiles (`CropsSource`) give the same crops as whole frames as
    long as their tiles overlap by at least `crop_size - 1` pixels, as the default ones do; with
    less overlap positions are uniform over those that lie within one tile.

    `next` returns `{"blurry", "sharp"}`, each uint8 (n, B, crop, crop, 3).

    Args:
      source: the pairs.
      mesh: a mesh with a `data` axis, over which B is sharded; None keeps batches on one device.
      seed: any integer.
      batch_size: pairs per batch over all processes.
      crop_size: side of the square crops in pixels.
      threads: readers; by default one per core and at most 16.
      prefetch: pairs of this process read ahead.
      shard: (which, of how many) consecutive parts of each batch to read, where `mesh` is None.

    Raises:
      UserError: no pairs, a batch that does not divide, a frame smaller than a crop; later, from
        `next`, a file that cannot be read.
    """

    def __init__(
        self,
        source: PairSource,
        *,
        mesh: Any = None,
        seed: int = 0,
        batch_size: int,
        crop_size: int,
        threads: int | None = None,
        prefetch: int = _PREFETCHED_PAIRS,
        shard: tuple[int, int] = (0, 1),
    ):
        if len(source) == 0:
            raise UserError("the training set holds no pairs")
        parts = mesh.shape["data"] if mesh is not None else shard[1]
        if batch_size < 1 or batch_size % parts:
            raise UserError(
                f"batch size {batch_size} does not divide over {parts} devices; "
                f"use a multiple of {parts}"
            )
        self.batch_size, self.crop_size, self.seed = batch_size, crop_size, int(seed)
        self.steps_per_epoch = max(1, len(source) // batch_size)
        self._sharding, rows = _rows(mesh, batch_size, crop_size, shard)
        self._batches = _Batches(source, self.seed, batch_size, crop_size, rows)
        self._batches.check()
        self._threads = threads or min(16, os.cpu_count() or 1)
        self._prefetch = max(1, -(-prefetch // len(rows)))  # grain counts elements: batches here
        self._step = 0
        self._iterator: Any = None

    def next(self, n: int = 1) -> dict[str, Any]:
        """Returns `n` batches: `{"blurry", "sharp"}`, uint8 (n, B, crop, crop, 3)."""
        import jax

        local = self.next_local(n)
        if self._sharding is None:
            return {side: jax.device_put(array) for side, array in local.items()}
        shape = (n, self.batch_size, self.crop_size, self.crop_size, 3)
        return {
            side: jax.make_array_from_process_local_data(self._sharding, array, shape)
            for side, array in local.items()
        }

    def next_local(self, n: int = 1) -> dict[str, np.ndarray]:
        """Returns this process's rows of the next `n` batches as host arrays."""
        if self._iterator is None:
            self._iterator = self._start()
        batches = [next(self._iterator) for _ in range(n)]
        self._step += n
        if n == 1:
            return {side: array[None] for side, array in batches[0].items()}
        return {side: np.stack([batch[side] for batch in batches]) for side in batches[0]}

    def _start(self) -> Any:
        import grain

        options = grain.ReadOptions(
            num_threads=min(self._threads, self._prefetch), prefetch_buffer_size=self._prefetch
        )
        # Starting from a position is a matter of numbering, which makes the state one integer.
        dataset = grain.MapDataset.source(self._batches.starting(self._step))
        return iter(dataset.to_iter_dataset(options))

    def names(self, start: int, count: int) -> list[str]:
        """Returns the names of the pairs at `count` places of the stream from `start` on."""
        index = self._batches.index
        return [self._batches.source.names[index(q)] for q in range(start, start + count)]

    def crops(self, resident: Any, batch: dict[str, Any]) -> tuple[Any, Any]:
        """Returns (blurry, sharp), uint8 (B, crop, crop, 3)."""
        del resident
        return batch["blurry"], batch["sharp"]

    def state(self) -> dict[str, Any]:
        """Returns the position after the last batch handed out, and what it depends on."""
        return {"feed": "host", "step": self._step, **self._identity()}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes to a position that `state` returned.

        Raises:
          UserError: the state is another feed's, or the set, seed, batch or crop has changed, so
            that the batches that followed it cannot be given.
        """
        if state.get("feed") != "host":
            raise UserError(
                f"the run was started with config.data.feed={state.get('feed')!r}, not 'host'"
            )
        for name, now in self._identity().items():
            if state.get(name) != now:
                raise UserError(
                    f"the run cannot go on where it was: {name} was {state.get(name)}, now {now}"
                )
        self.close()
        self._step = int(state["step"])

    def _identity(self) -> dict[str, int]:
        return {
            "seed": self.seed,
            "pairs": len(self._batches.source),
            "batch_size": self.batch_size,
            "crop_size": self.crop_size,
        }

    def close(self) -> None:
        """Ends the threads; `next` would start them again."""
        iterator, self._iterator = self._iterator, None
        if hasattr(iterator, "close"):
            iterator.close()


def _rows(
    mesh: Any, batch_size: int, crop: int, shard: tuple[int, int]
) -> tuple[Any, Sequence[int]]:
    """Returns the sharding of (n, B, ...) and the rows of B that this process must read."""
    if mesh is None:
        which, count = shard
        return None, range(which * batch_size // count, (which + 1) * batch_size // count)
    from jax.sharding import NamedSharding, PartitionSpec

    sharding = NamedSharding(mesh, PartitionSpec(None, "data"))
    shape = (1, batch_size, crop, crop, 3)
    places = sharding.addressable_devices_indices_map(shape).values()
    return sharding, sorted({row for place in places for row in range(batch_size)[place[1]]})


class _Batches:
    """The rows of every batch that a process reads, by number: what grain's threads work on."""

    def __init__(
        self,
        source: PairSource,
        seed: int,
        batch_size: int,
        crop_size: int,
        rows: Sequence[int],
        first: int = 0,
    ):
        self.source, self._seed, self._rows = source, seed, list(rows)
        self._batch_size, self._crop, self._first = batch_size, crop_size, first
        # grain's own shuffle walks a cipher per index, 17 ms each in a set of a few pairs.
        self._epoch = functools.lru_cache(maxsize=4)(self._shuffled)

    def _generator(self, use: int, number: int) -> np.random.Generator:
        """Returns the generator of (seed, use, number): the same numbers on every machine."""
        key = [self._seed % 2**64, use << 62 | number]
        return np.random.Generator(np.random.Philox(key=np.array(key, np.uint64)))

    def _shuffled(self, epoch: int) -> np.ndarray:
        return self._generator(_ORDER, epoch).permutation(len(self.source))

    def index(self, q: int) -> int:
        """Returns the pair at place `q` of the stream."""
        epoch, place = divmod(q, len(self.source))
        return int(self._epoch(epoch)[place])

    def starting(self, step: int) -> _Batches:
        """Returns the same batches numbered from `step` on."""
        return _Batches(
            self.source, self._seed, self._batch_size, self._crop, self._rows, first=step
        )

    def check(self) -> None:
        """Raises UserError if a frame whose size is known is smaller than a crop."""
        if hasattr(self.source, "positions"):
            shapes = {self.source.shape(index): index for index in range(len(self.source))}
            for index in shapes.values():
                self.source.positions(index, self._crop)
        elif hasattr(self.source, "shape"):
            for index in range(len(self.source)):
                self._check(index, *self.source.shape(index))

    def _check(self, index: int, height: int, width: int) -> None:
        if min(height, width) < self._crop:
            raise UserError(
                f"pair {self.source.names[index]} is {width}x{height}, smaller than a crop of "
                f"{self._crop}; set config.crop_size lower or leave it out"
            )

    def __len__(self) -> int:
        """Returns a number that no run reaches; grain wants one."""
        return sys.maxsize // 2

    def __getitem__(self, number: int) -> dict[str, np.ndarray]:
        """Returns a batch's rows, uint8 (rows, crop, crop, 3) a side."""
        # One allocation: from 4 MB on NumPy asks for huge pages, which halves the time of a crop.
        blurry, sharp = np.empty((2, len(self._rows), self._crop, self._crop, 3), np.uint8)
        step = self._first + number
        # Drawn for the whole batch, so that it does not matter which process reads a row.
        fractions = self._generator(_CROP, step).random((self._batch_size, 2))
        for place, row in enumerate(self._rows):
            index = self.index(step * self._batch_size + row)
            self._cut(index, *fractions[row], blurry[place], sharp[place])
        return {"blurry": blurry, "sharp": sharp}

    def _cut(
        self, index: int, down: float, right: float, blurry: np.ndarray, sharp: np.ndarray
    ) -> None:
        """Fills in the crop of pair `index` at these fractions, in [0, 1), of its free play."""
        crop = self._crop
        if hasattr(self.source, "positions"):
            tops, lefts = self.source.positions(index, crop)
            top, left = int(tops[int(down * len(tops))]), int(lefts[int(right * len(lefts))])
            self.source.crop(index, top, left, crop, out=(blurry, sharp))
            return
        pair = self.source[index]
        height, width = pair.blurry.shape[:2]
        self._check(index, height, width)
        top, left = int(down * (height - crop + 1)), int(right * (width - crop + 1))
        place = (slice(top, top + crop), slice(left, left + crop))
        blurry[...], sharp[...] = pair.blurry[place], pair.sharp[place]
