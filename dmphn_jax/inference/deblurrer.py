"""Running a network over images: the one place that does."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from dmphn_jax import checkpoints
from dmphn_jax.errors import UserError, nearest
from dmphn_jax.models import PRECISIONS, ModelConfig, build, convolutions_for
from dmphn_jax.models.output import Output
from dmphn_jax.runtime import compiler_options


class Deblurrer:
    """A network ready to deblur images of any size.

        sharp = Deblurrer("CHECKPOINT")(blurry)

    Images are RGB, uint8 or uint16, of any height and width from 1 up; results have their dtype,
    rounded to nearest. Sizes the patch grid does not divide are padded by reflection at the
    bottom and the right, by the least amount, and cropped back. A size compiles at its first use.

    Attributes:
      params: the parameter tree.
      config: the model.
      digest: of the checkpoint's parameters; None if they came as a tree.
      programs: what it runs, on `place(images)`.
    """

    params: dict[str, Any]
    config: ModelConfig
    digest: str | None
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
          checkpoint: a checkpoint folder; exclusive with `params` and `config`.
          params: a parameter tree.
          config: the model it belongs to.
          stages: run the first so many stages of a stack only.
          precision: of the computation, one of `models.PRECISIONS`; parameters stay float32.
          devices: those that share a batch; all local ones by default.

        Raises UserError for an unusable checkpoint, an unknown precision, or stages that the
        model does not have.
        """
        if (checkpoint is None) == (params is None) or (params is None) != (config is None):
            raise TypeError("Deblurrer takes a checkpoint, or both params and config")
        if precision not in PRECISIONS:
            raise UserError(
                f"precision {precision!r}: one of {', '.join(PRECISIONS)}"
                f"{nearest(str(precision), PRECISIONS)}"
            )
        self.digest = None
        if checkpoint is not None:
            params, config, _, self.digest = checkpoints.load(checkpoint)
        if stages is not None and not 1 <= stages <= config.stages:
            raise UserError(f"stages {stages}: the model has stages 1 to {config.stages}")
        self.config = config
        self.stages = stages or config.stages
        self.precision = precision
        self._mesh = Mesh(np.asarray(devices or jax.local_devices()), ("data",))
        self.params = jax.device_put(params, NamedSharding(self._mesh, P()))
        platform = self._mesh.devices.flat[0].platform
        self.programs = _programs(config, precision, self.stages, platform)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Deblurs one image, (H, W, 3) uint8 or uint16; the result has its shape and dtype."""
        return self.batch(np.asarray(image)[None])[0]

    def batch(self, images: np.ndarray) -> np.ndarray:
        """Deblurs images of one size, (B, H, W, 3) uint8 or uint16, shared among the devices.

        Raises UserError if an output is not finite: weights can leave the range of float16, which
        ends at 65504, or come from training that diverged.
        """
        images = np.asarray(images)
        padded = self._pad(images)
        result, finite = jax.device_get(self.programs.quantised(*self.place(padded)))
        if not finite.all():
            cause = (
                "these weights need numbers beyond float16's range; take another precision"
                if self.precision == "float16"
                else "these weights are of no use; take an earlier checkpoint"
            )
            raise UserError(f"the network's output is not finite in {self.precision}: {cause}")
        return result[: images.shape[0], : images.shape[1], : images.shape[2]]

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

    def place(self, images: np.ndarray) -> tuple[Any, jax.Array]:
        """Returns parameters and images on the devices that compute: one, or all sharing a batch.

        `images` is uint8 or uint16 (B, H, W, 3), of a size the patch grid divides. A batch that the
        devices do not divide is filled up with copies of its last image.
        """
        count = self._mesh.size
        if len(images) == 1 or count == 1:
            return self._params_of_one, jax.device_put(images, self._mesh.devices.flat[0])
        missing = -len(images) % count
        if missing:
            images = np.concatenate([images, np.repeat(images[-1:], missing, axis=0)])
        return self.params, jax.device_put(images, NamedSharding(self._mesh, P("data")))

    @functools.cached_property
    def _params_of_one(self) -> Any:
        """The copy of the parameters on the first device."""
        return jax.tree.map(lambda x: x.addressable_shards[0].data, self.params)


class Programs(NamedTuple):
    """Compiled on first use, each taking (params, images (B, H, W, 3) uint8 or uint16)."""

    raw: Any  # -> Output
    quantised: Any  # -> images like the input's, and whether each is of finite numbers: (B,)


@functools.cache
def _programs(config: ModelConfig, precision: str, stages: int, platform: str) -> Programs:
    """Returns the programs of a model; one set per process, so new parameters recompile nothing."""
    module = build(config, precision, convolutions=convolutions_for(platform))

    def raw(params: Any, images: jax.Array) -> Output:
        x = images.astype(jnp.float32) / jnp.iinfo(images.dtype).max - 0.5
        return module.apply({"params": params}, x, stages=stages)

    def quantised(params: Any, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        top = jnp.iinfo(images.dtype).max
        y = (raw(params, images).image + 0.5) * top
        finite = jnp.all(jnp.isfinite(y), axis=(1, 2, 3))
        return jnp.clip(jnp.round(y), 0, top).astype(images.dtype), finite

    options = compiler_options(platform)
    return Programs(
        jax.jit(raw, compiler_options=options), jax.jit(quantised, compiler_options=options)
    )
