"""The networks: DMPHN, stacks, VMPHN, DMSN, and the zoo that names them.

Nothing here knows of data, files or flags. `config` and `zoo` need no jax; the rest is imported
on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dmphn_jax.errors import UserError, nearest
from dmphn_jax.models import zoo
from dmphn_jax.models.config import (
    PRECISIONS,
    ModelConfig,
    multiply_adds,
    operations,
    parameter_count,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    import flax.linen as nn

    from dmphn_jax.models.convolutions import Convolutions
    from dmphn_jax.models.patches import Grid
    from dmphn_jax.models.stack import Stack

__all__ = [
    "PRECISIONS",
    "ModelConfig",
    "build",
    "convolutions_for",
    "convolutions_named",
    "init_params",
    "multiply_adds",
    "operations",
    "parameter_count",
    "parameter_name",
    "parameter_shapes",
    "zoo",
]


def build(
    config: ModelConfig,
    dtype: Any = "float32",
    *,
    remat: bool = False,
    convolutions: Convolutions | None = None,
    grids: tuple[Grid, ...] | None = None,
) -> Stack:
    """Returns the Flax module of a model.

    `module.init(key, x)["params"]` draws the paper's initial weights and
    `module.apply({"params": params}, x, stages=None)` returns a `models.output.Output`.

    Args:
      config: the model.
      dtype: compute dtype, one of `PRECISIONS`; parameters and images stay float32, and the
        convolutions that read and write images keep more of them: `blocks.image_precision`.
      remat: recompute each encoder's and decoder's activations in the backward pass.
      convolutions: the formulation of the convolutions, such as `convolutions_for(platform)`;
        XLA's own (`models.convolutions.XLA`) by default.
      grids: patch grids in place of `config.grids`: those of a part of an image, with the whole
        image's cuts. The parameters are the same. DMSN has none.
    """
    import functools

    import jax.numpy as jnp

    from dmphn_jax.models.convolutions import XLA
    from dmphn_jax.models.dmsn import DMSN
    from dmphn_jax.models.hierarchy import DMPHN
    from dmphn_jax.models.stack import Stack
    from dmphn_jax.models.vmphn import VMPHN

    convolutions = XLA if convolutions is None else convolutions
    if dtype == "tf32":
        dtype, convolutions = "float32", convolutions.in_tf32()
    common = {
        "global_skip": config.global_skip,
        "width": config.width,
        "dtype": jnp.dtype(dtype).type,
        "remat": remat,
        "convolutions": convolutions,
    }
    unit: Callable[..., nn.Module]
    if config.family == "dmsn":
        unit = functools.partial(DMSN, int(config.hierarchy), **common)
    elif config.family == "vmphn":
        unit = functools.partial(VMPHN, grids or config.grids, **common)
    else:
        unit = functools.partial(
            DMPHN, grids or config.grids, weight_sharing=config.weight_sharing, **common
        )
    return Stack(unit, config.stages, convolutions)


LAYOUTS = ("xla", "folded", "cudnn", "cudnn-blocks")
"""Formulations of the convolutions that any program can be compiled with."""
LAYOUT_CHOICES = ("auto", *LAYOUTS)
"""What `convolutions_for` takes."""


def convolutions_named(layout: str) -> Convolutions:
    """Returns the formulation of a name of `LAYOUTS`; raises UserError for another name."""
    from dmphn_jax.models.convolutions import XLA
    from dmphn_jax.models.cudnn_blocks import CudnnBlocks
    from dmphn_jax.models.cudnn_convolutions import CudnnConvolutions
    from dmphn_jax.models.folded import FoldedConvolutions

    known = {
        "xla": XLA,
        "folded": FoldedConvolutions(),
        "cudnn": CudnnConvolutions(),
        "cudnn-blocks": CudnnBlocks(),
    }
    if layout not in known:
        raise UserError(
            f"layout {layout!r} is not known{nearest(layout, known)}: one of {', '.join(known)}"
        )
    return known[layout]


def convolutions_for(
    platform: str, layout: str = "auto", *, inference: str | None = None
) -> Convolutions:
    """Returns the fastest formulation of the convolutions on a platform of JAX, such as "cpu".

    With a `layout` of `LAYOUTS` in place of "auto" it is that one, on any platform. `inference`
    is the precision of a network that is not trained.

    On a CPU the kernels of `cpu_kernels`, compiled at their first use on a machine and loaded here,
    once per process; on a TPU `folded`; on a GPU `cudnn`, for inference in less than float32
    `cudnn-blocks`; where neither can be had XLA's. The
    choice is that of the entry points: it may run a compiler and reads the environment, which
    tracing a model does not.
    """
    from dmphn_jax.models.convolutions import XLA

    if layout != "auto":
        return convolutions_named(layout)
    if platform == "tpu":
        return convolutions_named("folded")
    if platform in ("gpu", "cuda"):  # JAX has both names
        return convolutions_named("cudnn" if inference in (None, "float32") else "cudnn-blocks")
    if platform != "cpu":
        return XLA
    from dmphn_jax import cpu_kernels
    from dmphn_jax.models.cpu_convolutions import CpuConvolutions

    kernels = cpu_kernels.load()
    return XLA if kernels is None else CpuConvolutions(kernels)


def parameter_shapes(config: ModelConfig) -> dict[str, Any]:
    """Returns the model's parameter tree with `jax.ShapeDtypeStruct`s in place of arrays."""
    import jax
    import jax.numpy as jnp

    from dmphn_jax.models.convolutions import ShapesOnly

    image = jax.ShapeDtypeStruct((1, *config.multiple, 3), jnp.float32)
    module = build(config, convolutions=ShapesOnly())
    return jax.eval_shape(lambda image: module.init(jax.random.key(0), image), image)["params"]


def parameter_name(path: tuple[Any, ...]) -> str:
    """Returns a leaf's path in a tree as `stage_1/level_3/encoder/conv_1/kernel`."""
    import jax

    return jax.tree_util.keystr(path, simple=True, separator="/")


def init_params(config: ModelConfig, seed: int = 0) -> dict[str, Any]:
    """Returns initial parameters, a nested dict of float32 NumPy arrays.

    They have the distribution of the authors' code: kernels N(0, 0.5 / (kh*kw*out)), biases 0.
    `seed` is from 0 to 2**64 - 1. Every parameter depends on it and its own path only, so the first
    stages of a deep stack start like a shallow one. (`module.init` draws from the same
    distribution, but compiles the whole network to do so.)
    """
    import zlib

    import jax
    import numpy as np

    from dmphn_jax.models.conv import initial_deviation

    def draw(path: Any, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        if len(leaf.shape) == 1:
            return np.zeros(leaf.shape, np.float32)
        name = parameter_name(path)
        rng = np.random.Generator(np.random.Philox(key=[seed, zlib.crc32(name.encode())]))
        deviation = np.float32(initial_deviation(leaf.shape))
        return deviation * rng.standard_normal(leaf.shape, np.float32)

    return jax.tree_util.tree_map_with_path(draw, parameter_shapes(config))
