"""The networks: DMPHN, stacks, VMPHN, DMSN, and the zoo that names them.

Nothing here knows of data, files or flags. `config` and `zoo` need no jax; the rest is imported
on first use.
"""

from __future__ import annotations

from typing import Any

from dmphn_jax.models import zoo
from dmphn_jax.models.config import ModelConfig, multiply_adds, parameter_count

__all__ = [
    "ModelConfig",
    "build",
    "init_params",
    "multiply_adds",
    "parameter_count",
    "zoo",
]


def build(config: ModelConfig, dtype: Any = "float32", *, remat: bool = False):
    """Returns the Flax module of a model.

    `module.init(key, x)["params"]` draws the paper's initial weights and
    `module.apply({"params": params}, x, stages=None)` returns a `models.output.Output`.

    Args:
      config: the model.
      dtype: compute dtype, "float32" or "bfloat16"; parameters and images stay float32.
      remat: recompute each encoder's and decoder's activations in the backward pass.
    """
    import functools

    import jax.numpy as jnp

    from dmphn_jax.models.dmsn import DMSN
    from dmphn_jax.models.hierarchy import DMPHN
    from dmphn_jax.models.stack import Stack
    from dmphn_jax.models.vmphn import VMPHN

    common = {
        "global_skip": config.global_skip,
        "width": config.width,
        "dtype": jnp.dtype(dtype).type,
        "remat": remat,
    }
    if config.family == "dmsn":
        unit = functools.partial(DMSN, int(config.hierarchy), **common)
    elif config.family == "vmphn":
        unit = functools.partial(VMPHN, config.grids, **common)
    else:
        unit = functools.partial(
            DMPHN, config.grids, weight_sharing=config.weight_sharing, **common
        )
    return Stack(unit, config.stages)


def init_params(config: ModelConfig, seed: int = 0) -> dict[str, Any]:
    """Returns initial parameters (nested dict of float32 arrays) drawn from `seed`."""
    import jax
    import jax.numpy as jnp

    module = build(config)
    image = jnp.zeros((1, *config.multiple, 3), jnp.float32)
    return jax.jit(lambda key: module.init(key, image)["params"])(jax.random.key(seed))
