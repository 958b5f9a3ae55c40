"""Which pair each place of each batch takes: sampling without replacement over a sharded set."""

from __future__ import annotations

import functools
import math

import numpy as np

_LAYOUT, _ORDER, _CROP = range(3)  # keep the streams of random numbers apart


def generator(seed: int, *stream: int) -> np.random.Generator:
    """Returns the Philox generator of (seed, stream): the same numbers on every machine."""
    seeds = np.random.SeedSequence([seed % 2**64, *stream])
    return np.random.Generator(np.random.Philox(seeds))


class Deal:
    """Deals `pairs` pairs to the `batch_size` places of a batch, epoch after epoch.

    A batch is cut on the devices that hold its frames, so a place can only take pairs of its own
    share of the set. The pairs are shuffled once and laid on a line of length `pairs`, which is
    cut into `batch_size` equal shares. In epoch e pair i of the line lies at i + u(e), with
    0 <= u(e) < 1, and belongs to the place whose share it lies in; there the epoch's pairs are
    taken in a shuffled order. Hence, for any two numbers:

    * every epoch takes every pair exactly once;
    * a place starts its next epoch when its share of this one is used up, so no pair is dropped
      to fill a batch, and none is doubled;
    * where the batch size does not divide the number of pairs, u(e) moves the pairs at the
      shares' borders to and fro: over `cycle` epochs every place has taken the same number;
    * the batches depend on (seed, step) and not on the number of devices, as long as that
      number divides the batch size: device d of D holds the pairs `share(d, D)`.

    Args:
      pairs: number of pairs, at least 1; may be less than `batch_size`.
      batch_size: places in a batch, over all devices.
      seed: any integer.
    """

    def __init__(self, pairs: int, batch_size: int, seed: int):
        self.pairs, self.batch_size, self.seed = pairs, batch_size, seed
        common = math.gcd(pairs, batch_size)
        self.cycle = batch_size // common  # epochs after which all places are even again
        self._per_cycle = pairs // common  # steps of a cycle; what each place takes in it
        self.line = generator(seed, _LAYOUT).permutation(pairs)
        # A step near the golden section spreads the offsets, which keeps the places in time.
        stride = max(1, round(self.cycle * 0.618))
        while math.gcd(stride, self.cycle) != 1:
            stride += 1
        self._offsets = np.arange(self.cycle) * stride % self.cycle
        self._keys = functools.lru_cache(maxsize=4)(self._draw_keys)
        self._ends: dict[int, np.ndarray] = {}

    def _first(self, place: int, offset: np.ndarray | int) -> np.ndarray | int:
        # ceil(place * pairs / batch_size - offset / cycle), in integers
        return -((offset - place * self._per_cycle) // self.cycle)

    def share(self, device: int, devices: int) -> range:
        """Returns the positions on the line that device `device` of `devices` must hold.

        Neighbours share at most one pair; each holds at most ceil(pairs / devices) + 1.
        """
        first, last = (
            place * self.batch_size // devices * self._per_cycle for place in (device, device + 1)
        )
        return range(first // self.cycle, -(-last // self.cycle))

    def take(self, step: int, place: int) -> int:
        """Returns the position on the line of the pair that `place` takes in batch `step`."""
        if place not in self._ends:
            counts = self._first(place + 1, self._offsets) - self._first(place, self._offsets)
            self._ends[place] = np.cumsum(counts)
        ends = self._ends[place]
        cycle, rest = divmod(step, self._per_cycle)
        epoch = int(np.searchsorted(ends, rest, side="right"))
        rest -= int(ends[epoch - 1]) if epoch else 0
        offset = int(self._offsets[epoch])
        first, last = self._first(place, offset), self._first(place + 1, offset)
        keys = self._keys(cycle * self.cycle + epoch)[first:last]
        return first + int(np.argsort(keys, kind="stable")[rest])

    def _draw_keys(self, epoch: int) -> np.ndarray:
        return generator(self.seed, _ORDER, epoch).random(self.pairs)

    def fractions(self, step: int) -> np.ndarray:
        """Returns where the crops of batch `step` lie, (batch_size, 2) in [0, 1): down, right."""
        return generator(self.seed, _CROP, step).random((self.batch_size, 2))
