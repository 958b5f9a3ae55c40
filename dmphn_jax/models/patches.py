"""Cutting images into a grid of patches and joining them again (Sec. 3.2, Eq. 1 to 7).

Both are one reshape and one transpose. Patches go to the batch axis, so a level of the hierarchy
is one encoder call and one decoder call, and joining is the paper's spatial concatenation.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array
from jaxtyping import Shaped

Grid = tuple[int, int]
"""(rows, columns) of non-overlapping patches of one size."""

# Number of patches -> grid (rows, columns): two patches are the top and the bottom half.
GRIDS: dict[int, Grid] = {1: (1, 1), 2: (2, 1), 4: (2, 2), 8: (4, 2), 16: (4, 4)}


def split_patches(x: Shaped[Array, "B H W C"], grid: Grid) -> Shaped[Array, "patches h w C"]:
    """Cuts (B, H, W, C) into patches (B*rows*columns, H/rows, W/columns, C).

    The patches of one image stay together, row by row. Images and feature maps are cut alike.
    Raises ValueError if the grid does not divide H and W.
    """
    rows, columns = grid
    if grid == (1, 1):
        return x
    batch, height, width, channels = x.shape
    if height % rows or width % columns:
        raise ValueError(f"a {rows}x{columns} patch grid does not divide {height}x{width}")
    h, w = height // rows, width // columns
    x = jnp.reshape(x, (batch, rows, h, columns, w, channels))
    x = jnp.transpose(x, (0, 1, 3, 2, 4, 5))
    return jnp.reshape(x, (batch * rows * columns, h, w, channels))


def join_patches(x: Shaped[Array, "patches h w C"], grid: Grid) -> Shaped[Array, "B H W C"]:
    """Joins patches (B*rows*columns, h, w, C) to (B, h*rows, w*columns, C).

    The inverse of `split_patches`. Raises ValueError if the first axis is no multiple of
    rows*columns.
    """
    rows, columns = grid
    if grid == (1, 1):
        return x
    patches, h, w, channels = x.shape
    if patches % (rows * columns):
        raise ValueError(f"{patches} patches do not fill {rows}x{columns} patch grids")
    batch = patches // (rows * columns)
    x = jnp.reshape(x, (batch, rows, columns, h, w, channels))
    x = jnp.transpose(x, (0, 1, 3, 2, 4, 5))
    return jnp.reshape(x, (batch, h * rows, w * columns, channels))
