"""Strips of columns: images cut so that eight stand side by side, as the rows of a TPU's tile do.

A strip holds a column of either neighbour's beside its own, which `exchange` fills after every
convolution; at an image's border that column is zero.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dmphn_jax.models.folded.planes import Plane

TILE_ROWS = 8


def strip_count(batch: int, width: int) -> int:
    """Strips per image of `width` columns (quarter resolution) that fill a tile's rows, if any do.

    The least number that makes the batch a multiple of eight and divides the width.
    """
    for count in range(1, TILE_ROWS + 1):
        if batch * count % TILE_ROWS == 0 and width % count == 0 and width // count >= 2:
            return count
    return 1


def cut(x: jax.Array, strips: int) -> jax.Array:
    """(B, h, w, C) -> (B*strips, h, w/strips + 2, C), with a column of either neighbour's.

    At the image's border that column is zero. One strip is `x` itself.
    """
    if strips == 1:
        return x
    B, h, w, C = x.shape
    x = jnp.transpose(jnp.reshape(x, (B, h, strips, w // strips, C)), (0, 2, 1, 3, 4))
    x = jnp.reshape(x, (B * strips, h, w // strips, C))
    before = neighbours(x[:, :, -1:], strips, 1)
    after = neighbours(x[:, :, :1], strips, -1)
    return jnp.concatenate((before, x, after), axis=2)


def join(x: jax.Array, strips: int) -> jax.Array:
    """(B*strips, h, w, C), without the neighbours' columns, -> (B, h, strips*w, C)."""
    if strips == 1:
        return x
    B, h, w, C = x.shape
    x = jnp.transpose(jnp.reshape(x, (B // strips, strips, h, w, C)), (0, 2, 1, 3, 4))
    return jnp.reshape(x, (B // strips, h, strips * w, C))


def neighbours(x: jax.Array, strips: int, by: int) -> jax.Array:
    """Moves every strip's part to the strip `by` to its right; an image's border gets zeros."""
    shape = x.shape
    x = jnp.reshape(x, (-1, strips, *shape[1:]))
    x = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), (by, -by, 0), *((0, 0, 0),) * 3))
    return jnp.reshape(x, shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def exchange(x: jax.Array, strips: int) -> jax.Array:
    """Fills the first and last columns, the neighbours', with what the neighbours computed."""
    if strips == 1:
        return x
    columns = neighbours(x[:, :, -2:-1], strips, 1), neighbours(x[:, :, 1:2], strips, -1)
    return _with_columns(x, *columns)


def _exchange_adjoint(strips: int, g: jax.Array) -> jax.Array:
    """Adds to a strip's columns what its neighbours' copies of them received; clears its copies.

    XLA's own would be sums of padded arrays. A strip has two columns of its own, or more.
    """
    if strips == 1:
        return g
    second = g[:, :, 1:2] + neighbours(g[:, :, -1:], strips, 1)
    last_but_one = g[:, :, -2:-1] + neighbours(g[:, :, :1], strips, -1)
    second, last_but_one = lax.optimization_barrier((second, last_but_one))  # `_with_columns`
    g = g.at[:, :, 1:2].set(second).at[:, :, -2:-1].set(last_but_one)
    return g.at[:, :, :1].set(0).at[:, :, -1:].set(0)


exchange.defvjp(
    lambda x, strips: (exchange(x, strips), None),
    lambda strips, _, g: (_exchange_adjoint(strips, g),),
)


def _with_columns(x: jax.Array, first: jax.Array, last: jax.Array) -> jax.Array:
    """Replaces the first and last columns in place."""
    # Read all, then write: else XLA may copy the whole array.
    first, last = lax.optimization_barrier((first, last))
    return x.at[:, :, :1].set(first).at[:, :, -1:].set(last)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def relu_exchange(x: jax.Array, bias: jax.Array, strips: int) -> jax.Array:
    """`exchange(max(x + bias, 0))`; the gradient needs the result only, so nothing else is kept."""
    return exchange(jnp.maximum(x + bias, 0), strips)


def _relu_exchange_forward(x, bias, strips):
    y = relu_exchange(x, bias, strips)
    return y, y


def _relu_exchange_backward(strips, y, g):
    # A copy of a neighbour's column is positive where the column is, so the ReLU may come first;
    # then it, and the bias's sum, can be computed where the convolution's gradient is.
    g = jnp.where(y > 0, g, 0)
    return _exchange_adjoint(strips, g), jnp.sum(g, (0, 1, 2))


relu_exchange.defvjp(_relu_exchange_forward, _relu_exchange_backward)


def exchange_seams(x: jax.Array, strips: int) -> jax.Array:
    """Completes the blocks that two strips share, each of which computed its own half of them.

    Args:
      x: the stream at half resolution: the first column's right pixel and the last one's left
        pixel are this strip's own.
      strips: per image.
    """
    if strips == 1:
        return x
    own_left = np.arange(x.shape[3]) < x.shape[3] // 2
    first, last = x[:, :, :1], x[:, :, -1:]
    return _with_columns(
        x,
        jnp.where(own_left, neighbours(last, strips, 1), first),
        jnp.where(own_left, last, neighbours(first, strips, -1)),
    )


def outside_zero(x: jax.Array, plane: Plane, strips: int) -> jax.Array:
    """Sets to zero what a stream (B*strips, rows, columns, pixels*C) holds outside of the image."""
    rows, columns = (
        np.arange(axis.count)[:, None] * axis.size + axis.start + np.arange(axis.size)
        for axis in plane
    )
    channels = x.shape[3] // plane.pixels
    if plane.rows.start < 0:
        last = plane.rows.start + plane.rows.count * plane.rows.size - 1
        inside = (rows >= 0) & (rows < last)
        x = x * _mask(inside[None, :, None, :, None], plane, channels, x.dtype)
    last = plane.columns.start + plane.columns.count * plane.columns.size - 1
    strip = np.arange(strips)[:, None, None]
    inside = ((columns >= 0) | (strip > 0)) & ((columns < last) | (strip < strips - 1))
    mask = _mask(inside[:, None, :, None, :], plane, channels, x.dtype)
    return x * jnp.tile(mask, (x.shape[0] // strips if strips > 1 else 1, 1, 1, 1))


def behind_zero(
    x: jax.Array, plane: Plane, strips: int, filled: tuple[jax.Array, jax.Array]
) -> jax.Array:
    """Sets to zero what a stream (B*strips, rows, columns, pixels*C) holds behind images' ends.

    `filled` are the pixels' rows and columns that the images fill, of all the strips'.
    """
    pixel = np.arange(x.shape[3]) * plane.pixels // x.shape[3]
    row, column = (
        axis.start + axis.size * np.arange(axis.count)[:, None] + of
        for axis, of in zip(plane, divmod(pixel, plane.columns.size))
    )
    column = column + plane.columns.own * np.arange(strips)[:, None, None]
    inside = (row < filled[0])[None, :, None] & (column < filled[1])[:, None]
    return jnp.where(jnp.tile(inside, (x.shape[0] // strips, 1, 1, 1)), x, 0)


def _mask(inside: np.ndarray, plane: Plane, channels: int, dtype: Any) -> jax.Array:
    """Expands the pixels of a block (.., p or 1, P or 1) to (.., pixels*channels), 0 or 1."""
    shape = (*inside.shape[:3], plane.rows.size, plane.columns.size)
    inside = np.broadcast_to(inside, shape)[..., None]
    inside = np.broadcast_to(inside, (*shape, channels))
    return jnp.asarray(inside.reshape(*shape[:3], -1), dtype)
