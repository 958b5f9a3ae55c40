"""Running a network over images: the one place that does."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from dmphn_jax import checkpoints
from dmphn_jax.errors import UserError, nearest
from dmphn_jax.inference import memory, programs, tiles
from dmphn_jax.inference.pending import Pending, Tiled, Whole
from dmphn_jax.inference.programs import Network, Programs
from dmphn_jax.models import PRECISIONS, ModelConfig
from dmphn_jax.models.output import Output
from dmphn_jax.models.patches import Grid
from dmphn_jax.runtime import data_mesh

_LEAST_TILE = 256  # pixels; where not even that fits, the error tells


class Deblurrer:
    """A network ready to deblur images of any size.

        sharp = Deblurrer("CHECKPOINT")(blurry)

    Images are RGB, uint8 or uint16, of any height and width from 1 up; results have their dtype,
    rounded to nearest. Sizes the patch grid does not divide are padded by reflection at the
    bottom and the right, by the least amount, and cropped back. A size compiles at its first use.

    Images larger than `tile` pixels on a side are computed in tiles, and so are those for which
    the program for the whole would need more memory than is free. With the default overlap, tiles
    give what the whole would: docs/inference.md.

    Attributes:
      params: the parameter tree, float32, on the first of the devices.
      config: the model.
      digest: of the checkpoint's parameters; None if they came as a tree.
      stages: how many of a stack's stages run.
      precision: of the computation.
      programs: what it runs on images that fit into memory, on `place(images)`.
      tile: the largest height and width that are computed whole; None for what fits into memory.
      overlap: of neighbouring tiles, in pixels.
    """

    params: dict[str, Any]
    config: ModelConfig
    digest: str | None
    stages: int
    precision: str
    programs: Programs
    tile: int | None
    overlap: int

    def __init__(
        self,
        checkpoint: str | os.PathLike[str] | None = None,
        *,
        params: dict[str, Any] | None = None,
        config: ModelConfig | None = None,
        stages: int | None = None,
        precision: str = "float32",
        devices: Sequence[jax.Device] | None = None,
        tile: int | None = None,
        overlap: int | None = None,
    ) -> None:
        """Loads a checkpoint, or takes `params` of the model `config`.

        Args:
          checkpoint: a checkpoint folder, or the name of a released model, which is downloaded at
            its first use; exclusive with `params` and `config`.
          params: a parameter tree.
          config: the model it belongs to.
          stages: run the first so many stages of a stack only.
          precision: of the computation, one of `models.PRECISIONS`; parameters stay float32.
          devices: those that share a batch; all local ones by default. One image, or a batch of
            one, takes the first; the others hold no weights before a batch needs them.
          tile: compute larger images in tiles of so many pixels on a side; by default those that
            do not fit into memory, in tiles that do.
          overlap: pixels that neighbouring tiles share; by default as many as make the result
            the whole image's, `tiles.default_overlap`, and at most half of the tile.

        Raises UserError for an unusable checkpoint, an unknown precision, stages that the model
        does not have, or tiles that are too small.
        """
        if precision not in PRECISIONS:
            raise UserError(
                f"precision {precision!r}: one of {', '.join(PRECISIONS)}"
                f"{nearest(str(precision), PRECISIONS)}"
            )
        self.digest = None
        if checkpoint is not None and params is None and config is None:
            params, config, _, self.digest = checkpoints.load(checkpoint)
        elif checkpoint is not None or params is None or config is None:
            raise TypeError("Deblurrer takes a checkpoint, or both params and config")
        if stages is not None and not 1 <= stages <= config.stages:
            raise UserError(f"stages {stages}: the model has stages 1 to {config.stages}")
        self.config = config
        self.stages = stages or config.stages
        self.precision = precision
        devices = list(devices or jax.local_devices())
        self._mesh = data_mesh(devices)
        self._first = devices[0]
        self.params = jax.device_put(params, self._first)
        self._params = {self._first: self.params}
        self._network = Network(config, precision, self.stages, self._first.platform)
        self.programs = programs.whole(self._network)
        self._set_tiles(tile, overlap)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Deblurs one image, (H, W, 3) uint8 or uint16; the result has its shape and dtype."""
        result: np.ndarray = self.batch(np.asarray(image)[None])[0]
        return result

    def batch(self, images: np.ndarray) -> np.ndarray:
        """Deblurs images of one size, (B, H, W, 3) uint8 or uint16, shared among the devices.

        Raises UserError if an output is not finite: see `Pending.check`.
        """
        return self.submit(images).result()

    def submit(self, images: np.ndarray) -> Pending:
        """Starts what `batch` does and returns at once: the caller may submit the next batch.

        The devices then go on computing while the first batch's result is copied to the host.
        Results are those of `batch`, to the bit.
        """
        images = np.asarray(images)
        padded = self._pad(images)
        tile = self.tile or self._tile_that_fits(padded)
        if tile and tile < max(padded.shape[1:3]):
            layout = tiles.lay_out(self.config, self.stages, padded.shape[1:3], tile, self.overlap)
            devices = list(self._mesh.devices)
            return Tiled(images.shape, padded, layout, devices, self._run_tile, self.precision)
        results, finite = self.programs.quantised(*self.place(padded))
        return Whole(images.shape, results, finite, self.precision)

    def output(self, image: np.ndarray) -> Output:
        """Returns every stage's and level's image of one image, (H, W, 3) uint8 or uint16.

        They are float32 (H, W, 3) arrays on [0, 1], not clipped, cropped to the image's size (of
        DMSN's scale k, to its share of it). `features` are left on the padded grid.
        """
        image = np.asarray(image)
        padded = self._pad(image[None])
        raw = jax.device_get(self.programs.raw(*self.place(padded)))
        height, width = image.shape[:2]

        def crop(x: np.ndarray) -> np.ndarray:
            factor = padded.shape[1] // x.shape[1]
            return x[0, : -(-height // factor), : -(-width // factor)] + np.float32(0.5)

        stages, levels = jax.tree.map(crop, (raw.stages, raw.levels))
        return Output(stages, levels, raw.features)

    def _pad(self, images: np.ndarray) -> np.ndarray:
        """Pads (B, H, W, 3) by reflection to the sizes the patch grid divides."""
        if images.ndim != 4 or images.shape[-1] != 3 or 0 in images.shape:
            raise ValueError(f"images of shape {images.shape}: RGB needed, (height, width, 3)")
        if images.dtype not in (np.uint8, np.uint16):
            raise TypeError(f"images of dtype {images.dtype}: uint8 or uint16 needed")
        rows, columns = self.config.multiple
        missing = ((0, 0), (0, -images.shape[1] % rows), (0, -images.shape[2] % columns), (0, 0))
        # NumPy reflects again and again where an image is smaller than its padding.
        return np.pad(images, missing, mode="reflect") if np.any(missing) else images

    def place(self, images: np.ndarray) -> tuple[dict[str, Any], jax.Array]:
        """Returns parameters and images on the devices that compute: one, or all sharing a batch.

        `images` is uint8 or uint16 (B, H, W, 3), of a size the patch grid divides. A batch that the
        devices do not divide is filled up with copies of its last image.
        """
        count = self._mesh.size
        if len(images) == 1 or count == 1:
            return self.params, jax.device_put(images, self._first)
        missing = -len(images) % count
        if missing:
            images = np.concatenate([images, np.repeat(images[-1:], missing, axis=0)])
        return self._shared_params, jax.device_put(images, NamedSharding(self._mesh, P("data")))

    @functools.cached_property
    def _shared_params(self) -> dict[str, Any]:
        """The parameters on every device."""
        shared: dict[str, Any] = jax.device_put(self.params, NamedSharding(self._mesh, P()))
        return shared

    def _set_tiles(self, tile: int | None, overlap: int | None) -> None:
        least = 4 * max(self.config.multiple)
        if tile is not None and tile < least:
            raise UserError(f"tile {tile}: at least {least} pixels for this model")
        if overlap is not None and tile is not None and overlap > tile // 2:
            raise UserError(f"overlap {overlap}: at most half of a tile, {tile // 2} of {tile}")
        self.tile = tile
        if overlap is None:
            overlap = tiles.default_overlap(self.config, self.stages)
        self.overlap = overlap
        self._fitting: dict[tuple[tuple[int, ...], np.dtype], int | None] = {}

    def _tile_that_fits(self, padded: np.ndarray) -> int | None:
        """Returns the size of tiles for images that do not fit whole; None for those that do.

        Told once per size, by what the compiler has planned for it.
        """
        key = padded.shape, padded.dtype
        if key not in self._fitting:
            self._fitting[key] = self._find_tile_that_fits(padded)
        return self._fitting[key]

    def _find_tile_that_fits(self, padded: np.ndarray) -> int | None:
        allowed = memory.allowed(self._first)
        if allowed is None:
            return None
        needed = programs.bytes_needed(self.programs.quantised, *self.place(padded))
        if needed <= allowed:
            return None
        pixels = padded[: -(-len(padded) // self._mesh.size), :, :, 0].size  # on one device
        side = int((pixels * allowed / needed) ** 0.5)
        while side > _LEAST_TILE:
            layout = tiles.lay_out(self.config, self.stages, padded.shape[1:3], side, self.overlap)
            row, column = layout.rows[0], layout.columns[0]
            program = programs.tile(self._network, layout.grids(row, column))
            window = jax.ShapeDtypeStruct((1, *layout.size, 3), padded.dtype)
            if programs.bytes_needed(program, self.params, window, row.weights, column.weights) <= (
                allowed
            ):
                break
            side = side * 3 // 4
        return max(side, _LEAST_TILE)

    def _run_tile(
        self,
        device: jax.Device,
        grids: tuple[Grid, ...],
        window: np.ndarray,
        rows: np.ndarray,
        columns: np.ndarray,
    ) -> tuple[jax.Array, jax.Array]:
        placed = jax.device_put((window, rows, columns), device)
        return programs.tile(self._network, grids)(self._params_on(device), *placed)

    def _params_on(self, device: jax.Device) -> dict[str, Any]:
        """The parameters on one device, put there at their first use."""
        if device not in self._params:
            self._params[device] = jax.device_put(self.params, device)
        return self._params[device]
