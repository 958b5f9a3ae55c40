"""Running a network over images: the one place that does."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, overload

import jax
import numpy as np

from dmphn_jax import checkpoints
from dmphn_jax.errors import UserError, nearest
from dmphn_jax.inference import buckets, memory, programs, tiles
from dmphn_jax.inference.computing import PER_DEVICE
from dmphn_jax.inference.frames import Frame, each, pixels_of
from dmphn_jax.inference.padding import padded_to
from dmphn_jax.inference.pending import Pending, Tiled, Whole, refuse_unless_finite
from dmphn_jax.inference.placement import Placement
from dmphn_jax.inference.programs import Network, Programs
from dmphn_jax.models import PRECISIONS, ModelConfig, convolutions_named
from dmphn_jax.models.output import Output
from dmphn_jax.models.patches import Grid


class Deblurrer:
    """A network ready to deblur images of any size.

        deblurrer = Deblurrer("stack4")  # or a checkpoint's folder
        sharp = deblurrer(blurry)  # an image or a batch
        sharp = deblurrer("blurry.jpg")
        for sharp in deblurrer(iter(frames)):  # one by one, of any length

    Images are RGB, uint8 or uint16 on their dtype's whole range, of any height and width from 1
    up; results have their dtype, rounded to nearest. Sizes the patch grid does not divide are
    padded by reflection at the bottom and the right, by the least amount, and cropped back. A size
    compiles at its first use.

    Images larger than `tile` pixels on a side are computed in tiles, and so are those for which
    the program for the whole would need more memory than is free. With the default overlap, tiles
    give what the whole would: docs/inference.md.

    Attributes:
      config: the model.
      digest: of the checkpoint's parameters; None if they came as a tree.
      stages: how many of a stack's stages run.
      precision: of the computation.
      programs: what it runs on images that fit into memory, on `place(images)`.
      tile: the largest height and width that are computed whole; None for what fits into memory.
      overlap: of neighbouring tiles, in pixels.
    """

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
        split_rows: bool = False,
        layout: str = "auto",
    ) -> None:
        """Loads a checkpoint, or takes `params` of the model `config`.

        Args:
          checkpoint: a checkpoint folder, or the name of a released model, which is downloaded at
            its first use; exclusive with `params` and `config`.
          params: a parameter tree.
          config: the model it belongs to.
          stages: run the first so many stages of a stack only.
          precision: of the computation, one of `models.PRECISIONS`; parameters stay float32.
          devices: those that share a batch; all local ones by default. One image takes the first,
            and submitted ones, or tiles, all in turn; the others hold no weights before that.
          tile: compute larger images in tiles of so many pixels on a side; by default those that
            do not fit into memory, in tiles that do.
          overlap: pixels that neighbouring tiles share; by default as many as make the result
            the whole image's, `tiles.default_overlap`, and at most half of the tile.
          split_rows: split every image by rows over the devices, which takes as much less memory
            on each; the result is one device's but for the last digits of floats.
          layout: formulation of the convolutions, one of `models.LAYOUTS`, for all but rows that
            are split; by default the platform's fastest.

        Raises UserError for an unusable checkpoint, an unknown precision or layout, stages that
        the model does not have, or tiles that are too small.
        """
        _check(precision, layout)
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
        devices = devices or jax.local_devices()
        self._network = Network(config, precision, self.stages, devices[0].platform, layout)
        self._placement = Placement(params, devices, programs.prepare(self._network))
        self._split_rows = split_rows and len(self.devices) > 1
        self._buckets: tuple[buckets.Size, ...] = ()
        self.programs = programs.whole(self._network)
        self._set_tiles(tile, overlap)

    @property
    def params(self) -> dict[str, Any]:
        """The parameter tree, float32, on the first of the devices."""
        return self._placement.params

    @property
    def devices(self) -> tuple[jax.Device, ...]:
        """Those that compute."""
        return self._placement.devices

    @overload
    def __call__(self, image: Frame) -> np.ndarray: ...

    @overload
    def __call__(self, image: Iterator[Frame]) -> Iterator[np.ndarray]: ...

    def __call__(self, image: Frame | Iterator[Frame]) -> np.ndarray | Iterator[np.ndarray]:
        """Deblurs an image, a batch, an image file, or frames as they come.

        Args:
          image: one of
            an array (H, W, 3) or (B, H, W, 3), uint8 or uint16, RGB;
            the path of an image file, as `images.read_image` reads it: turned upright as EXIF
            says, gray as RGB, uint8 or uint16; without its alpha channel and metadata, which
            `dmphn deblur` keeps;
            an iterator of these, each of a size of its own.

        Returns an array of the image's shape and dtype, on the host. Of an iterator an iterator,
        which yields one for each frame, in order: it reads as many frames ahead as keep the
        devices busy, two for each, and computes nothing before the first is asked for.

        Raises ValueError for another shape, TypeError for another dtype, and UserError, in one
        line, for a file that cannot be read or an output that is not finite (`Pending.check`). Of
        an iterator these come in the frame's place, and end it.
        """
        if isinstance(image, Iterator):
            return each(image, self.submit, PER_DEVICE * len(self.devices))
        pixels = pixels_of(image)
        return self.batch(pixels) if pixels.ndim == 4 else self.batch(pixels[None])[0]

    def batch(self, images: np.ndarray) -> np.ndarray:
        """Deblurs images of one size, (B, H, W, 3) uint8 or uint16, shared among the devices.

        Raises UserError if an output is not finite: see `Pending.check`.
        """
        return self._start(images, self.devices[0]).result()

    def submit(self, images: np.ndarray) -> Pending:
        """Starts what `batch` does and returns at once: the caller may submit the next batch.

        The devices then go on computing while the first batch's result is copied to the host.
        Batches of one image go to the devices in turn. Results are those of `batch`, to the bit.
        """
        return self._start(images, self._placement.next_device() if len(images) == 1 else None)

    def compile_for(self, sizes: Iterable[buckets.Size], most: int = buckets.MOST) -> None:
        """Has images of all `sizes`, (height, width), computed by at most `most` programs.

        Where there are more sizes, several share a program for arrays that hold the largest of
        them, with the same results but for the last digits of floats; it also computes the rest
        of the array, and which sizes go together is chosen for the fewest pixels. Nothing is
        compiled yet. Images of other sizes get programs of their own, and so do DMSN's, images in
        tiles, and those that are split by rows.
        """
        self._buckets = ()
        padded = [self.array_size(size) for size in sizes]
        few = len(set(padded)) <= most or self.config.family == "dmsn" or self._split_rows
        if not few:
            self._buckets = buckets.choose(padded, self.config.multiple, most)

    def array_size(self, size: Sequence[int]) -> buckets.Size:
        """Returns the (height, width) that the program of images of a size computes."""
        rows, columns = self.config.multiple
        padded = (-(-size[0] // rows) * rows, -(-size[1] // columns) * columns)
        return buckets.smallest(self._buckets, padded) or padded

    def with_stages(self, stages: int) -> Deblurrer:
        """Returns one that runs the first so many stages, with the same options and parameters.

        Raises UserError for more stages than the model has.
        """
        return Deblurrer(
            params=self.params,
            config=self.config,
            stages=stages,
            precision=self.precision,
            devices=self.devices,
            tile=self.tile,
            overlap=self._given_overlap,
            split_rows=self._split_rows,
            layout=self._network.layout,
        )

    def _start(self, images: np.ndarray, device: jax.Device | None) -> Pending:
        images = np.asarray(images)
        padded = padded_to(self.config.multiple, images)
        tile = self.tile
        if tile is None or max(padded.shape[1:3]) <= tile:
            program, *arguments = self._program_for(padded, device)
            by_memory = tile is None
            tile = self._tile_that_fits(program, arguments) if by_memory else None
            if tile is None:
                results, finite = program(*arguments)
                if by_memory:
                    self._fitting.started(program, arguments, results)
                return Whole(images.shape, results, finite, self.precision)
        layout = tiles.lay_out(self.config, self.stages, padded.shape[1:3], tile, self.overlap)
        return Tiled(images.shape, padded, layout, self.devices, self._run_tile, self.precision)

    def _program_for(self, padded: np.ndarray, device: jax.Device | None) -> tuple[Any, ...]:
        """Returns the program that computes images whole, and its arguments."""
        if self._split_rows:
            program = programs.by_rows(self._network, self._placement.mesh)
            return program, *self._placement.place_everywhere(padded)
        batch, height, width, _ = padded.shape
        bucket = buckets.smallest(self._buckets, (height, width))
        if bucket is None:
            placed = self._placement.place(padded, device)
            if len(placed[1].sharding.device_set) == 1:
                return self.programs.quantised, *placed
            return programs.shared(self._network, self._placement.mesh), *placed
        array = np.zeros((batch, *bucket, 3), padded.dtype)
        array[:, :height, :width] = padded
        size = np.array([height, width], np.int32)
        return programs.bucket(self._network), *self._placement.place(array, device), size

    def output(self, image: np.ndarray) -> Output:
        """Returns every stage's and level's image of one image, (H, W, 3) uint8 or uint16.

        They are float32 (H, W, 3) arrays on [0, 1], not clipped, cropped to the image's size (of
        DMSN's scale k, to its share of it). `features` are left on the padded grid.

        Raises UserError if a stage's image is not finite.
        """
        image = np.asarray(image)
        padded = padded_to(self.config.multiple, image[None])
        raw = jax.device_get(self.programs.raw(*self.place(padded)))
        height, width = image.shape[:2]

        def crop(x: np.ndarray) -> np.ndarray:
            factor = padded.shape[1] // x.shape[1]
            return x[0, : -(-height // factor), : -(-width // factor)] + np.float32(0.5)

        stages, levels = jax.tree.map(crop, (raw.stages, raw.levels))
        refuse_unless_finite([np.isfinite(stage).all() for stage in stages], self.precision)
        return Output(stages, levels, raw.features)

    def place(self, images: np.ndarray) -> tuple[Any, jax.Array]:
        """Returns what the programs take: parameters and images, on one device or all of a batch.

        `images` is uint8 or uint16 (B, H, W, 3), of a size the patch grid divides. A batch that the
        devices do not divide is filled up with copies of its last image.
        """
        return self._placement.place(images)

    def _set_tiles(self, tile: int | None, overlap: int | None) -> None:
        least = 4 * max(self.config.multiple)
        if tile is not None and tile < least:
            raise UserError(f"tile {tile}: at least {least} pixels for this model")
        if overlap is not None and overlap < 0:
            raise UserError(f"overlap {overlap}: at least 0 pixels")
        if overlap is not None and tile is not None and overlap > tile // 2:
            raise UserError(f"overlap {overlap}: at most half of a tile, {tile // 2} of {tile}")
        self.tile, self._given_overlap = tile, overlap
        if overlap is None:
            overlap = tiles.default_overlap(self.config, self.stages)
        self.overlap = overlap
        self._fitting = memory.Fitting(self._network, overlap)

    def _tile_that_fits(self, program: Any, arguments: list[Any]) -> int | None:
        return self._fitting.tile(self._placement.params_on(self.devices[0]), program, arguments)

    def _run_tile(
        self,
        device: jax.Device,
        grids: tuple[Grid, ...],
        window: np.ndarray,
        rows: np.ndarray,
        columns: np.ndarray,
    ) -> tuple[jax.Array, jax.Array]:
        placed = jax.device_put((window, rows, columns), device)
        params = self._placement.params_on(device)
        computed: tuple[jax.Array, jax.Array] = programs.tile(self._network, grids)(params, *placed)
        return computed


def _check(precision: str, layout: str) -> None:
    """Raises UserError for what is not known, before any work."""
    if layout != "auto":
        convolutions_named(layout)
    if precision not in PRECISIONS:
        raise UserError(
            f"precision {precision!r}: one of {', '.join(PRECISIONS)}"
            f"{nearest(str(precision), PRECISIONS)}"
        )
