"""What of an image fits into a device's memory."""

from __future__ import annotations

import math
import weakref
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

import jax

from dmphn_jax.inference import programs, tiles
from dmphn_jax.inference.buckets import Size
from dmphn_jax.inference.programs import Network
from dmphn_jax.runtime import device_free, host_free

# What a program may take of the memory that is free. Memory is in pieces, and on a CPU, which
# computes an image while the one before is at its end, there are two, beside pictures in decoding
# and encoding and what the kernels take for themselves.
_SHARE = 0.8
_SHARE_OF_HOST = 0.4
_LEAST_TILE = 256  # pixels; where not even that fits, the error tells


def free_on(device: jax.Device) -> int | None:
    """Returns the bytes that are free where a device computes; None where nobody tells."""
    return host_free() if device.platform == "cpu" else device_free(device)


class _Running(NamedTuple):
    """Images under way: their results, on which devices, and the bytes that each of them needs."""

    results: weakref.ref[jax.Array]
    devices: Collection[jax.Device]
    needed: float

    @property
    def over(self) -> bool:
        results: Any = self.results()
        return results is None or bool(results.is_ready())


class Fitting:
    """Tells which images are computed whole and which in tiles, by the memory that is free.

    What a program needs is learnt once, by what its compiler has planned; what is free is asked
    for every batch. What the batches under way take, those told by `started`, counts as free.
    """

    def __init__(self, network: Network, overlap: int) -> None:
        """Takes the network and the overlap of neighbouring tiles, in pixels."""
        self._network, self._overlap = network, overlap
        self._known: dict[Any, float] = {}
        self._running: list[_Running] = []
        self._most: dict[jax.Device | None, int] = {}

    def tile(
        self, params: dict[str, Any], program: jax.stages.Wrapped, arguments: Sequence[Any]
    ) -> int | None:
        """Returns the size of tiles for images that do not fit whole; None for those that do.

        The size is one of few, 3/4 apart, so that memory that changes compiles few programs.

        Args:
          params: the parameters as the programs of tiles take them, on one device.
          program: of the whole.
          arguments: its, on the devices: the parameters, the images (B, H, W, 3), and more.
        """
        images = arguments[1]
        allowed = self._allowed(images.devices())
        needed = self._needed(program, *arguments)
        if needed <= allowed and needed < math.inf:
            return None
        count, height, width, _ = images.sharding.shard_shape(images.shape)
        # Of what does not compile nobody knows how much too large it is.
        pixels = count * height * width * (0.5 if needed == math.inf else allowed / needed)
        for side in _sides((height, width)):
            guess = min(side, height) * min(side, width) <= pixels
            if side == _LEAST_TILE or (
                guess and self._of_tile(params, images, (height, width), side) <= allowed
            ):
                break
        return side

    def started(
        self, program: jax.stages.Wrapped, arguments: Sequence[Any], results: jax.Array
    ) -> None:
        """Takes note of images that `tile` has found to fit, and that are being computed."""
        devices, needed = arguments[1].devices(), self._needed(program, *arguments)
        self._running.append(_Running(weakref.ref(results), devices, needed))

    def _allowed(self, devices: Collection[jax.Device]) -> float:
        """Returns the bytes a program may take on each of devices that work at once."""
        device = min(devices, key=lambda device: device.id)
        free = free_on(device)
        if free is None:
            return math.inf
        host = device.platform == "cpu"  # whose devices have one memory
        place = None if host else device
        self._most[place] = most = max(free, self._most.get(place, 0))
        self._running = [one for one in self._running if not one.over]
        ours = sum(
            one.needed * (len(one.devices) if host else 1)
            for one in self._running
            if host or device in one.devices
        )
        # A program that has just begun may not have taken yet what it needs.
        free_without = min(free + ours, most)
        return _SHARE_OF_HOST * free_without / len(devices) if host else _SHARE * free_without

    def _needed(self, program: jax.stages.Wrapped, *arguments: Any) -> float:
        key = program, arguments[1].shape, arguments[1].dtype
        if key not in self._known:
            self._known[key] = programs.bytes_needed(program, *arguments)
        return self._known[key]

    def _of_tile(self, params: dict[str, Any], images: jax.Array, size: Size, side: int) -> float:
        """Returns what the program of the first tile needs of an image cut into such."""
        network = self._network
        layout = tiles.lay_out(network.config, network.stages, size, side, self._overlap)
        row, column = layout.rows[0], layout.columns[0]
        run = programs.tile(network, layout.grids(row, column))
        window = jax.ShapeDtypeStruct((1, *layout.size, 3), images.dtype)
        return self._needed(run, params, window, row.weights, column.weights)


def _sides(size: Size) -> Iterator[int]:
    """Yields the sizes of tiles for images of a (height, width), the largest first."""
    side = max(size)
    while side > _LEAST_TILE:
        yield side
        side = side * 3 // 4
    yield _LEAST_TILE
