"""The resident feed: the whole training set as uint8 in device memory, crops cut in the step.

GoPro's 2103 pairs of 1280x720 are 11.6 GB. Sharded over the mesh's `data` axis they are read
once; after that a step needs 12 bytes per pair from the host, and several steps can run per
dispatch. Each device cuts its crops from its own frames: nothing is gathered.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from tqdm import tqdm

from dmphn_jax.data.base import Pair, PairSource, SizedSource, StepFeed, check_divides
from dmphn_jax.data.crop_reader import check_size
from dmphn_jax.data.deal import Deal
from dmphn_jax.data.memory import DoesNotFitError, check_fits
from dmphn_jax.errors import UserError
from dmphn_jax.runtime import cores
from dmphn_jax.threads import map_ahead

_CHUNK_BYTES = 64 << 20  # host memory of one transfer
MEMORY_SHARE = 0.8  # of what is free; the rest is left to the step


class ResidentFeed(StepFeed):
    """Holds a source of pairs in device memory and feeds crops of it.

    Batches depend on (seed, step) only: neither on threads, nor on restores, nor on the number
    of devices and processes. Each epoch takes every pair once, whatever the number of pairs
    (`dmphn_jax.data.deal.Deal` tells how).

    `resident` is `{"blurry", "sharp"}`, each uint8 (D * rows, H, W, 3) sharded over `data`, where
    rows is the largest number of pairs on one device. A batch is int32 (n, B, 3): the row within
    its device's shard, top and left, in pixels.

    Args:
      source: the pairs; read once, from several threads.
      mesh: a mesh with a `data` axis; the set is replicated over its other axes.
      seed: any integer.
      batch_size: pairs per batch over all processes, a multiple of the `data` axis.
      crop_size: side of the square crops in pixels.
      frame_size: (H, W) that holds every frame; by default the largest height and width that
        `source.shape(index)` tells, or those of eight frames spread over the set. Smaller frames
        are padded in memory and never cropped beyond their edge.
      memory_share: the part of the free memory that the set may take; the rest is the step's.
      memory_limit: bytes the set may take on each device, instead of what the device reports.
      threads: readers; by default one per core and at most 16.
      progress: whether to draw a progress bar.

    Raises:
      UserError: the set does not fit; a frame is smaller than a crop or larger than
        `frame_size`; the batch does not divide; a pair cannot be read.
    """

    kind: ClassVar[str] = "resident"

    def __init__(
        self,
        source: PairSource,
        *,
        mesh: Mesh,
        seed: int,
        batch_size: int,
        crop_size: int,
        frame_size: tuple[int, int] | None = None,
        memory_share: float = MEMORY_SHARE,
        memory_limit: int | None = None,
        threads: int | None = None,
        progress: bool = True,
    ):
        super().__init__(len(source), seed=seed, batch_size=batch_size, crop_size=crop_size)
        self.mesh = mesh
        self._deal, self._shares = _dealt(len(source), mesh, batch_size, self.seed)
        self._rows = max(len(share) for share in self._shares)
        self._sizes: dict[int, np.ndarray] = {}  # shard -> (rows, 2): its frames' (H, W)
        self.frame_size = frame_size or _largest_size(source)
        _check_fits(source, mesh, self._rows, self.frame_size, memory_share, memory_limit)
        self.resident = self._load(source, threads or min(16, cores()), progress)

    @staticmethod
    def fits(
        source: PairSource,
        *,
        mesh: Mesh,
        batch_size: int,
        memory_share: float = MEMORY_SHARE,
        memory_limit: int | None = None,
    ) -> bool:
        """Returns whether the set fits in the memory of this process's devices, unread."""
        _, shares = _dealt(len(source), mesh, batch_size, 0)
        rows = max(len(share) for share in shares)
        try:
            size = _largest_size(source)
            _check_fits(source, mesh, rows, size, memory_share, memory_limit)
        except DoesNotFitError:
            return False
        return True

    # Loading

    def _load(self, source: PairSource, threads: int, progress: bool) -> dict[str, jax.Array]:
        shape = (len(self._shares) * self._rows, *self.frame_size, 3)
        sharding = NamedSharding(self.mesh, P("data"))
        holders: dict[int, list[jax.Device]] = {}
        for device, index in sharding.addressable_devices_indices_map(shape).items():
            holders.setdefault((index[0].start or 0) // self._rows, []).append(device)
        total = sum(len(self._shares[shard]) for shard in holders)
        parts: dict[str, list[jax.Array]] = {"blurry": [], "sharp": []}
        bar = tqdm(
            total=total, desc="loading pairs", unit="pair", disable=None if progress else True
        )
        with bar:
            for shard, devices in sorted(holders.items()):
                loaded = self._load_shard(source, shard, devices, threads, bar)
                for side, arrays in zip(parts, loaded):
                    parts[side] += arrays
        return {
            side: jax.make_array_from_single_device_arrays(shape, sharding, arrays)
            for side, arrays in parts.items()
        }

    def _load_shard(
        self,
        source: PairSource,
        shard: int,
        devices: list[jax.Device],
        threads: int,
        bar: tqdm,
    ) -> tuple[list[jax.Array], list[jax.Array]]:
        """Fills one shard on its devices, chunk by chunk: the host never holds the shard."""
        height, width = self.frame_size
        shape = (self._rows, height, width, 3)
        sides = [[jnp.zeros(shape, jnp.uint8, device=d) for d in devices] for _ in range(2)]
        sizes = np.zeros((self._rows, 2), np.int64)
        indices = [int(i) for i in self._deal.line[self._shares[shard]]]
        chunk = max(1, _CHUNK_BYTES // (height * width * 3))
        ahead = map_ahead(source.__getitem__, indices, threads=threads, ahead=2 * threads)
        with contextlib.closing(ahead) as pairs:  # a faulty pair ends the reading at once
            for start in range(0, len(indices), chunk):
                count = min(chunk, len(indices) - start)
                host = np.zeros((2, count, height, width, 3), np.uint8)
                for row, pair in enumerate(itertools.islice(pairs, count)):
                    h, w = self._checked_size(pair)
                    sizes[start + row] = h, w
                    host[0, row, :h, :w], host[1, row, :h, :w] = pair.blurry, pair.sharp
                    bar.update()
                for side, frames in zip(sides, host):
                    side[:] = [
                        _write(array, jax.device_put(frames, device), start)
                        for array, device in zip(side, devices)
                    ]
                jax.block_until_ready(sides)  # bounds the chunks in flight
        self._sizes[shard] = sizes
        return sides[0], sides[1]

    def _checked_size(self, pair: Pair) -> tuple[int, int]:
        _check_pair(pair)
        h, w = pair.blurry.shape[:2]
        check_size(pair.name, h, w, self.crop_size)
        if h > self.frame_size[0] or w > self.frame_size[1]:
            raise UserError(
                f"{pair.name}: {w}x{h} is larger than the {self.frame_size[1]}x"
                f"{self.frame_size[0]} reserved per frame; the resident feed wants frames of one "
                "size: use config.data.feed='host'"
            )
        return h, w

    # Feeding

    def next(self, n: int = 1) -> jax.Array:
        """Returns the places of the next `n` batches' crops, int32 (n, B, 3)."""
        sharding = NamedSharding(self.mesh, P(None, "data"))
        shape = (n, self.batch_size, 3)
        first, self._step = self._step, self._step + n
        where = np.zeros(shape, np.int32)
        per_device = self.batch_size // len(self._shares)
        for step in range(n):
            fractions = self._deal.fractions(first + step)
            for shard, sizes in self._sizes.items():  # this process's shards
                for place in range(shard * per_device, (shard + 1) * per_device):
                    row = self._deal.take(first + step, place) - self._shares[shard].start
                    room = sizes[row] - self.crop_size + 1
                    where[step, place, 0] = row
                    where[step, place, 1:] = fractions[place] * room
        # An explicit transfer per device, which a transfer guard lets pass.
        places = sharding.addressable_devices_indices_map(shape)
        parts = [jax.device_put(where[index], device) for device, index in places.items()]
        return jax.make_array_from_single_device_arrays(shape, sharding, parts)

    def crops(
        self, resident: dict[str, jax.Array], batch: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Cuts one batch's crops on the devices that hold them.

        Args:
          resident: this feed's `resident`.
          batch: (B, 3) int32, one of the batches of `next`.

        Returns:
          (blurry, sharp), uint8 (B, crop, crop, 3), sharded over `data`.
        """
        return cut_crops(resident, batch, mesh=self.mesh, crop_size=self.crop_size)

    def close(self) -> None:
        """Lets go of the frames; their memory is free once the caller drops `resident` too."""
        self.resident = None


def cut_crops(
    resident: dict[str, jax.Array], batch: jax.Array, *, mesh: Mesh, crop_size: int
) -> tuple[jax.Array, jax.Array]:
    """Computes `ResidentFeed.crops`, which says what it takes and returns."""
    size = (1, crop_size, crop_size, 3)

    def cut(frames: jax.Array, where: jax.Array) -> jax.Array:
        def one(place: jax.Array) -> jax.Array:
            start = (place[0], place[1], place[2], jnp.zeros_like(place[0]))
            return jax.lax.dynamic_slice(frames, start, size)[0]

        return jax.vmap(one)(where)

    return jax.shard_map(
        lambda blurry, sharp, where: (cut(blurry, where), cut(sharp, where)),
        mesh=mesh,
        in_specs=P("data"),
        out_specs=P("data"),
    )(resident["blurry"], resident["sharp"], batch)


@functools.partial(jax.jit, donate_argnums=0)
def _write(frames: jax.Array, chunk: jax.Array, start: int) -> jax.Array:
    return jax.lax.dynamic_update_slice_in_dim(frames, chunk, start, axis=0)


def _dealt(pairs: int, mesh: Mesh, batch_size: int, seed: int) -> tuple[Deal, list[range]]:
    """Returns how the pairs are dealt, and each device's share of the line."""
    if "data" not in mesh.axis_names:
        raise UserError(f"the mesh has axes {mesh.axis_names}; the feed needs one named 'data'")
    devices = mesh.shape["data"]
    check_divides(batch_size, devices)
    deal = Deal(pairs, batch_size, seed)
    return deal, [deal.share(device, devices) for device in range(devices)]


def _check_fits(
    source: PairSource,
    mesh: Mesh,
    rows: int,
    frame_size: tuple[int, int],
    share: float,
    limit: int | None,
) -> None:
    height, width = frame_size
    check_fits(
        rows * height * width * 3 * 2,
        [device for device in mesh.devices.flat if device.process_index == jax.process_index()],
        share=share,
        limit=limit,
        what=f"the resident feed's {len(source)} pairs of {width}x{height}",
        way_out="use more devices or config.data.feed='host'",
    )


def _largest_size(source: PairSource) -> tuple[int, int]:
    """Returns the (H, W) that holds every frame, or eight of them if sizes are not known."""
    if isinstance(source, SizedSource):
        sizes = [source.shape(index) for index in range(len(source))]
    else:
        sizes = []
        for index in sorted({int(i) for i in np.linspace(0, len(source) - 1, 8)}):
            pair = source[index]
            _check_pair(pair)
            sizes.append(pair.blurry.shape[:2])
    return tuple(int(n) for n in np.max(sizes, axis=0))


def _check_pair(pair: Pair) -> None:
    blurry, sharp = pair.blurry, pair.sharp
    if blurry.shape != sharp.shape:
        raise UserError(
            f"{pair.name}: the blurry image is {blurry.shape[1]}x{blurry.shape[0]} and the sharp "
            f"one {sharp.shape[1]}x{sharp.shape[0]}; a pair must have one size"
        )
    if blurry.dtype != np.uint8 or blurry.ndim != 3 or blurry.shape[-1] != 3:
        raise UserError(
            f"{pair.name}: {blurry.dtype} {blurry.shape} is no 8-bit RGB image; convert it"
        )
