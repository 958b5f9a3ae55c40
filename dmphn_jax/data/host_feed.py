"""The host feed: crops cut on the host by grain's threads, batches sent to the devices.

The order is decided for the whole batch (`crop_reader.Order`), then each process reads the rows
that its own devices hold: the same seed gives the same global batches on any number of processes,
threads and restores.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from dmphn_jax.data.base import PairSource, State, StepFeed, check_divides
from dmphn_jax.data.crop_reader import CropReader, Order, check_sizes
from dmphn_jax.data.memory import check_fits_host
from dmphn_jax.data.options import MOST_THREADS
from dmphn_jax.errors import UserError
from dmphn_jax.runtime import cores

if TYPE_CHECKING:
    import jax
    from grain import DatasetIterator
    from jax.sharding import Mesh, NamedSharding

_PREFETCHED_PAIRS = 64  # at least, and two batches
_MEMORY_SHARE = 0.8  # of what is free
_PIECES_PER_THREAD = 4  # read ahead: enough that no reader waits, few enough for grain's queue


class HostFeed(StepFeed):
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
      threads: readers at work at a time, whatever the batch size; by default one per core and at
        most 16.
      prefetch: pairs of this process read ahead, at least one per reader; by default two batches
        and at least 64. They and two batches are all that the feed holds.
      shard: (which, of how many) consecutive parts of each batch to read, where `mesh` is None.

    Raises:
      UserError: no pairs, a batch that does not divide, a frame smaller than a crop; later, from
        `next`, a file that cannot be read.
    """

    kind: ClassVar[str] = "host"

    def __init__(
        self,
        source: PairSource,
        *,
        mesh: Mesh | None = None,
        seed: int = 0,
        batch_size: int,
        crop_size: int,
        threads: int | None = None,
        prefetch: int | None = None,
        shard: tuple[int, int] = (0, 1),
    ):
        super().__init__(len(source), seed=seed, batch_size=batch_size, crop_size=crop_size)
        check_divides(batch_size, mesh.shape["data"] if mesh is not None else shard[1])
        check_sizes(source, crop_size)
        if not 0 <= (threads or 0) <= MOST_THREADS:
            raise UserError(f"{threads} readers asked for; 1 to {MOST_THREADS}, or 0 for its own")
        if (prefetch or 0) < 0:
            raise UserError(f"{prefetch} pairs to be read ahead: must not be negative")
        self._source, self._order = source, Order(len(source), batch_size, self.seed)
        self._sharding, self._rows = _rows(mesh, batch_size, crop_size, shard)
        self.threads = threads or min(16, cores())
        self.prefetch = max(prefetch or max(_PREFETCHED_PAIRS, 2 * len(self._rows)), self.threads)
        held = self.prefetch + 2 * len(self._rows)
        check_fits_host(
            held * 2 * 3 * crop_size**2,
            share=_MEMORY_SHARE,
            what=f"the host feed's {held:,} pairs of {crop_size}x{crop_size} in flight",
            way_out="lower config.data.prefetch or config.batch_size",
        )
        self._reader: CropReader | None = None
        self._iterator: DatasetIterator | None = None

    def next(self, n: int = 1) -> dict[str, jax.Array]:
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
        try:
            batches = [self._next_batch(self._step + number) for number in range(n)]
        except BaseException:
            self.close()  # amid a batch: `next` would start it again
            raise
        self._step += n
        if n == 1:
            return {side: array[None] for side, array in batches[0].items()}
        return {side: np.stack([batch[side] for batch in batches]) for side in batches[0]}

    def _next_batch(self, step: int) -> dict[str, np.ndarray]:
        if self._reader is None or self._iterator is None:
            self._start()
        # grain hands the pieces out in order, however many threads read them.
        batch = [next(self._iterator) for _ in range(self._reader.parts)][-1]
        self._reader.finish(step)
        return batch

    def _start(self) -> None:
        import grain

        piece = max(1, min(len(self._rows), self.prefetch // (_PIECES_PER_THREAD * self.threads)))
        # Starting from a position is a matter of numbering, which makes the state one integer.
        self._reader = CropReader(
            self._source, self._order, self.crop_size, self._rows, piece, first=self._step
        )
        options = grain.ReadOptions(
            num_threads=self.threads, prefetch_buffer_size=-(-self.prefetch // piece)
        )
        self._iterator = iter(grain.MapDataset.source(self._reader).to_iter_dataset(options))

    def names(self, start: int, count: int) -> list[str]:
        """Returns the names of the pairs at `count` places of the stream from `start` on."""
        return [self._source.names[self._order.pair(q)] for q in range(start, start + count)]

    def crops(self, resident: None, batch: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        """Returns (blurry, sharp), uint8 (B, crop, crop, 3)."""
        del resident
        return batch["blurry"], batch["sharp"]

    def restore(self, state: State) -> None:
        """Goes to a position that `state` returned; see `StepFeed.restore`."""
        super().restore(state)
        self.close()

    def close(self) -> None:
        """Ends the threads; `next` would start them again."""
        if self._iterator is not None:
            self._iterator.close()
        self._iterator = self._reader = None


def _rows(
    mesh: Mesh | None, batch_size: int, crop: int, shard: tuple[int, int]
) -> tuple[NamedSharding | None, Sequence[int]]:
    """Returns the sharding of (n, B, ...) and the rows of B that this process must read."""
    if mesh is None:
        which, count = shard
        return None, range(which * batch_size // count, (which + 1) * batch_size // count)
    from jax.sharding import NamedSharding, PartitionSpec

    sharding = NamedSharding(mesh, PartitionSpec(None, "data"))
    shape = (1, batch_size, crop, crop, 3)
    places = sharding.addressable_devices_indices_map(shape).values()
    return sharding, sorted({row for place in places for row in range(batch_size)[place[1]]})
