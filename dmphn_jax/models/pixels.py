"""Stored pixels to what the networks compute with, and back."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Float, Float32, UInt


def to_network(images: UInt[jax.Array, "*shape"]) -> Float32[jax.Array, "*shape"]:
    """Returns uint8 or uint16 images as float32 on [-0.5, 0.5]: x / 255 - 0.5, or / 65535."""
    return images.astype(jnp.float32) / jnp.iinfo(images.dtype).max - 0.5


def from_network(
    images: Float[jax.Array, "*shape"], dtype: DTypeLike = jnp.uint8
) -> UInt[jax.Array, "*shape"]:
    """Returns float images on [-0.5, 0.5] as uint8 or uint16: rounded to nearest, clipped.

    A value that is not finite becomes any number: check before.
    """
    top = jnp.iinfo(dtype).max
    scaled = (images.astype(jnp.float32) + 0.5) * top
    return jnp.clip(jnp.round(scaled), 0, top).astype(dtype)
