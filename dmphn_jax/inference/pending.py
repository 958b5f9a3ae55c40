"""Images on their way through a network, which `Deblurrer.submit` returns."""

from __future__ import annotations

import abc
import collections
import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dmphn_jax.errors import UserError
from dmphn_jax.inference.tiles import Layout, Tile
from dmphn_jax.models.patches import Grid

# (device, grids, images (1, h, w, 3), weights of rows, weights of columns) -> what `programs.tile`
# returns
RunTile = Callable[
    [jax.Device, tuple[Grid, ...], np.ndarray, np.ndarray, np.ndarray],
    tuple[jax.Array, jax.Array],
]


class Pending(abc.ABC):
    """A batch on its way through the network.

    Attributes:
      shape: (B, H, W, 3) of the images that were submitted.
      precision: of the computation.
    """

    shape: tuple[int, ...]
    precision: str

    @property
    @abc.abstractmethod
    def images(self) -> jax.Array:
        """The results on devices, (B', H, W, 3); rows from B on are copies that fill the devices.

        They may not be finite numbers rounded: `check` tells.
        """

    @abc.abstractmethod
    def check(self) -> None:
        """Waits for the computation and raises UserError if an output is not finite.

        Weights can leave the range of float16, which ends at 65504, or come from training that
        diverged.
        """

    @abc.abstractmethod
    def result(self) -> np.ndarray:
        """Waits for the results and returns them on the host, (B, H, W, 3).

        Raises UserError if an output is not finite.
        """


def refuse_unless_finite(finite: Any, precision: str) -> None:
    """Raises UserError if an output of the network, computed in a precision, is not finite.

    Args:
      finite: bools, of whatever shape, all of which should be true.
      precision: that of the computation.
    """
    if not np.all(finite):
        cause = (
            "these weights need numbers beyond float16's range; take another precision"
            if precision == "float16"
            else "these weights are of no use; take an earlier checkpoint"
        )
        raise UserError(f"the network's output is not finite in {precision}: {cause}")


@dataclasses.dataclass(frozen=True)
class Ready:
    """Images that are done, on the host: they have `Pending`'s interface.

    Attributes:
      images: (B, H, W, 3).
    """

    images: np.ndarray

    def check(self) -> None:
        """They are ready."""

    def result(self) -> np.ndarray:
        """Returns them."""
        return self.images


@dataclasses.dataclass(frozen=True)
class Whole(Pending):
    """A batch whose images were submitted whole: it is being computed.

    Attributes:
      padded: the results on the devices, (B', H', W', 3) of the images' dtype: bottom and right
        are padding, and rows from B on are copies that fill the devices.
      finite: whether each row was computed without leaving the finite numbers, (B',) bool, there.
    """

    shape: tuple[int, ...]
    padded: jax.Array
    finite: jax.Array
    precision: str

    @property
    def images(self) -> jax.Array:
        """See `Pending`; on the devices that computed them."""
        return self.padded[:, : self.shape[1], : self.shape[2]]

    def check(self) -> None:
        """See `Pending`."""
        refuse_unless_finite(np.asarray(self.finite), self.precision)

    def result(self) -> np.ndarray:
        """See `Pending`."""
        padded, finite = jax.device_get((self.padded, self.finite))
        refuse_unless_finite(finite, self.precision)
        result: np.ndarray = padded[: self.shape[0], : self.shape[1], : self.shape[2]]
        return result


@dataclasses.dataclass(frozen=True)
class Tiled(Pending):
    """A batch of large images: computed tile by tile when its result is asked for.

    Beside the images on the host, one row of tiles is held there in float32, and one tile on each
    device at a time.

    Attributes:
      padded: the images, (B, H', W', 3).
      layout: of the tiles of one.
      devices: those that share the tiles.
      run: computes a tile.
    """

    shape: tuple[int, ...]
    padded: np.ndarray
    layout: Layout
    devices: Sequence[jax.Device]
    run: RunTile
    precision: str

    @property
    def images(self) -> jax.Array:
        """See `Pending`."""
        return jnp.asarray(self._computed)

    def check(self) -> None:
        """See `Pending`."""
        self._computed  # noqa: B018 - computes

    def result(self) -> np.ndarray:
        """See `Pending`."""
        return self._computed

    @functools.cached_property
    def _computed(self) -> np.ndarray:
        result = np.empty(self.shape, self.padded.dtype)
        for image, into in zip(self.padded, result, strict=True):
            self._compute(image, into)
        return result

    def _compute(self, image: np.ndarray, result: np.ndarray) -> None:
        """Computes one image, (H', W', 3), into `result`, (H, W, 3)."""
        rows = self.layout.rows
        height = self.layout.size[0]
        band = np.zeros((height, *image.shape[1:]), np.float32)  # sums of the rows under way
        for row, below in zip(rows, [*rows[1:], None]):
            self._add_row(image, row, band)
            done = below.start - row.start if below else height  # rows no further tile adds to
            _round(band[:done], result[row.start : row.start + done])
            kept = band[done:].copy()
            band[: len(kept)] = kept
            band[len(kept) :] = 0

    def _add_row(self, image: np.ndarray, row: Tile, band: np.ndarray) -> None:
        """Adds a row of tiles to the rows that it covers, (h, W', 3) float32."""
        height, width = self.layout.size
        running: collections.deque[tuple[int, Any]] = collections.deque()

        def take() -> None:
            start, (weighted, finite) = running.popleft()
            refuse_unless_finite(np.asarray(finite), self.precision)
            band[:, start : start + width] += np.asarray(weighted)[0]

        for number, column in enumerate(self.layout.columns):
            if len(running) == len(self.devices):
                take()
            window = image[None, row.start : row.start + height, column.start :][:, :, :width]
            grids = self.layout.grids(row, column)
            device = self.devices[number % len(self.devices)]
            computing = self.run(device, grids, window, row.weights, column.weights)
            running.append((column.start, computing))
        while running:
            take()


def _round(band: np.ndarray, result: np.ndarray, rows: int = 64) -> None:
    """Writes float32 rows on [0, 1] as whole numbers, a few at a time; the padding is left out."""
    top = np.float32(np.iinfo(result.dtype).max)
    for start in range(0, min(len(band), len(result)), rows):
        part = result[start : start + rows]
        values = band[start : start + rows][: len(part), : part.shape[1]] * top
        part[:] = np.clip(np.rint(values), 0, top)
