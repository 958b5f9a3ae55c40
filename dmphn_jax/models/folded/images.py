"""Images in blocks of 4x4 pixels, and patches cut from them and joined again."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dmphn_jax.models.patches import Grid

IMAGE_BLOCK = 4


def fold_image(image: jax.Array) -> jax.Array:
    """(B, H, W, 3) float32 -> (B, H/4, W/4, 48), blocks of 4x4 pixels.

    Pixels of a row are next to each other in the lanes. A product with a constant takes every
    fourth of them to its block eight times as fast as a transposition does.
    """
    B, H, W, C = image.shape
    f = IMAGE_BLOCK
    place = _lane_blocks(W)
    image = jnp.reshape(
        jnp.transpose(image, (0, 1, 3, 2)), (B, H // f, f, C, W // len(place), len(place))
    )
    image = jnp.einsum("bhpcgl,lPw->bhgwpPc", image, place, precision=lax.Precision.HIGHEST)
    return jnp.reshape(image, (B, H // f, W // f, f * f * C))


def unfold_image(image: jax.Array) -> jax.Array:
    """(B, h, w, 48) -> (B, 4h, 4w, 3), the inverse of `fold_image`."""
    B, h, w, _ = image.shape
    f = IMAGE_BLOCK
    place = _lane_blocks(w * f)
    image = jnp.reshape(image, (B, h, w * f // len(place), len(place) // f, f, f, -1))
    image = jnp.einsum("bhgwpPc,lPw->bhpcgl", image, place, precision=lax.Precision.HIGHEST)
    return jnp.transpose(jnp.reshape(image, (B, h * f, -1, w * f)), (0, 1, 3, 2))


def _lane_blocks(width: int) -> np.ndarray:
    """(L, 4, L/4), 1 where lane l is pixel P of block w; L divides the width and is at most 64."""
    lanes = math.gcd(width, 64)
    place = np.zeros((lanes, IMAGE_BLOCK, lanes // IMAGE_BLOCK), np.float32)
    lane = np.arange(lanes)
    place[lane, lane % IMAGE_BLOCK, lane // IMAGE_BLOCK] = 1
    return place


def split_patches(x: jax.Array, grid: Grid) -> jax.Array:
    """Cuts (B, h, w, C) into patches (rows*columns*B, h/rows, w/columns, C), patch by patch.

    As `patches.split_patches`, but the images of one patch stay together: a TPU then moves whole
    tiles of eight images.
    """
    rows, columns = grid
    if grid == (1, 1):
        return x
    B, h, w, C = x.shape
    x = jnp.reshape(x, (B, rows, h // rows, columns, w // columns, C))
    x = jnp.transpose(x, (1, 3, 0, 2, 4, 5))
    return jnp.reshape(x, (rows * columns * B, h // rows, w // columns, C))


def join_patches(x: jax.Array, grid: Grid) -> jax.Array:
    """Joins patches (rows*columns*B, h, w, C) to (B, h*rows, w*columns, C)."""
    rows, columns = grid
    if grid == (1, 1):
        return x
    _, h, w, C = x.shape
    x = jnp.reshape(x, (rows, columns, -1, h, w, C))
    x = jnp.transpose(x, (2, 0, 3, 1, 4, 5))
    return jnp.reshape(x, (-1, h * rows, w * columns, C))
