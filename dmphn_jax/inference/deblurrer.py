"""Running a network over images: the one place that does."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from dmphn_jax import checkpoints
from dmphn_jax.errors import UserError, nearest
from dmphn_jax.models import PRECISIONS, ModelConfig, build, convolutions_for
from dmphn_jax.models.output import Output
from dmphn_jax.models.pixels import from_network, to_network
from dmphn_jax.runtime import compiler_options, data_mesh


@dataclasses.dataclass(frozen=True)
class Pending:
    """A batch on its way through the network; `Deblurrer.submit` returns it at once.

    Attributes:
      shape: (B, H, W, 3) of the images that were submitted.
      padded: the results on the devices, (B', H', W', 3) of the images' dtype: bottom and right
        are padding, and rows from B on are copies that fill the devices.
      finite: whether each row was computed without leaving the finite numbers, (B',) bool, there.
      precision: of the computation.
    """

    shape: tuple[int, ...]
    padded: jax.Array
    finite: jax.Array
    precision: str

    @property
    def images(self) -> jax.Array:
        """The results on the devices that computed them, (B', H, W, 3); B' as in `padded`.

        They may not be finite numbers rounded: `check` tells.
        """
        return self.padded[:, : self.shape[1], : self.shape[2]]

    def check(self) -> None:
        """Waits for the computation and raises UserError if an output is not finite.

        Weights can leave the range of float16, which ends at 65504, or come from training that
        diverged.
        """
        self._check(np.asarray(self.finite))

    def _check(self, finite: np.ndarray) -> None:
        if not finite.all():
            cause = (
                "these weights need numbers beyond float16's range; take another precision"
                if self.precision == "float16"
                else "these weights are of no use; take an earlier checkpoint"
            )
            raise UserError(f"the network's output is not finite in {self.precision}: {cause}")

    def result(self) -> np.ndarray:
        """Waits for the results and returns them on the host, (B, H, W, 3).

        Raises UserError if an output is not finite.
        """
        padded, finite = jax.device_get((self.padded, self.finite))
        self._check(finite)
        result: np.ndarray = padded[: self.shape[0], : self.shape[1], : self.shape[2]]
        return result


class Deblurrer:
    """A network ready to deblur images of any size.

        sharp = Deblurrer("CHECKPOINT")(blurry)

    Images are RGB, uint8 or uint16, of any height and width from 1 up; results have their dtype,
    rounded to nearest. Sizes the patch grid does not divide are padded by reflection at the
    bottom and the right, by the least amount, and cropped back. A size compiles at its first use.

    Attributes:
      params: the parameter tree, float32, on the first of the devices.
      config: the model.
      digest: of the checkpoint's parameters; None if they came as a tree.
      stages: how many of a stack's stages run.
      precision: of the computation.
      programs: what it runs, on `place(images)`.
    """

    params: dict[str, Any]
    config: ModelConfig
    digest: str | None
    stages: int
    precision: str
    programs: Programs

    def __init__(
        self,
        checkpoint: str | os.PathLike[str] | None = None,
        *,
        params: dict[str, Any] | None = None,
        config: ModelConfig | None = None,
        stages: int | None = None,
        precision: str = "float32",
        devices: Sequence[jax.Device] | None = None,
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

        Raises UserError for an unusable checkpoint, an unknown precision, or stages that the
        model does not have.
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
        self.programs = _programs(config, precision, self.stages, self._first.platform)

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
        results, finite = self.programs.quantised(*self.place(self._pad(images)))
        return Pending(images.shape, results, finite, self.precision)

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


class Programs(NamedTuple):
    """Compiled on first use, each taking (params, images (B, H, W, 3) uint8 or uint16)."""

    raw: jax.stages.Wrapped  # -> Output
    quantised: jax.stages.Wrapped  # -> images like the input's, whether each is finite: (B,) bool


@functools.cache
def _programs(config: ModelConfig, precision: str, stages: int, platform: str) -> Programs:
    """Returns the programs of a model; one set per process, so new parameters recompile nothing."""
    module = build(config, precision, convolutions=convolutions_for(platform))

    def raw(params: dict[str, Any], images: jax.Array) -> Output:
        output: Any = module.apply({"params": params}, to_network(images), stages=stages)
        return output

    def quantised(params: dict[str, Any], images: jax.Array) -> tuple[jax.Array, jax.Array]:
        image = raw(params, images).image
        finite = jnp.all(jnp.isfinite(image), axis=(1, 2, 3))
        return from_network(image, images.dtype), finite

    options = compiler_options(platform)
    return Programs(
        jax.jit(raw, compiler_options=options), jax.jit(quantised, compiler_options=options)
    )
