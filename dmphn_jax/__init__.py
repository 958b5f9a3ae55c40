"""DMPHN motion deblurring (Zhang et al., CVPR 2019) in JAX/Flax.

import dmphn_jax
sharp = dmphn_jax.Deblurrer("CHECKPOINT")(blurry)  # uint8 (H, W, 3) in and out
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dmphn_jax.errors import UserError
    from dmphn_jax.inference.deblurrer import Deblurrer

__version__ = "0.1.0"
__all__ = ["Deblurrer", "UserError", "__version__"]


def __getattr__(name: str) -> Any:
    # Loaded on first use: importing jax takes seconds, and `dmphn --help` must not wait for it.
    if name == "Deblurrer":
        from dmphn_jax.inference.deblurrer import Deblurrer

        return Deblurrer
    if name == "UserError":
        from dmphn_jax.errors import UserError

        return UserError
    raise AttributeError(f"module 'dmphn_jax' has no attribute {name!r}")
