"""Convolutions for the CPU in C++, called by XLA: docs/benchmarks.md has their speed.

Convolutions in vectors of the processor: every loaded number serves a block of sums kept in
registers, and bias, residual and ReLU cost no pass over the image of their own. Those of 3x3 with a
stride of 1 take 16 multiplications in place of 36, by minimal filtering (Lavin and Gray, 2016). All
arrays are float32; results are the same for any number of threads. Gradients are in
`models.conv_gradients`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from dmphn_jax.cpu_kernels.library import load


def serve(dtype: jnp.dtype, features: int) -> bool:
    """Tells whether `convolve` and `filter_gradient` can make so many features in this process."""
    return dtype == jnp.float32 and (library := load()) is not None and not features % library.lanes


def convolve(
    x: jax.Array,
    kernel: jax.Array,
    bias: jax.Array | None = None,
    residual: jax.Array | None = None,
    *,
    stride: int = 1,
    transposed: bool = False,
    swapped: bool = False,
    flipped: bool = False,
    relu: bool = False,
) -> jax.Array:
    """Convolution with a border of 1, then `+ bias`, `+ residual` and ReLU.

        y[i, j] = sum over r, s of x[stride * i + r - 1, stride * j + s - 1] @ w[r, s]

    or, transposed, with H' = stride * H and W' = stride * W instead of a division,

        y[stride * i + r - 1, stride * j + s - 1] = sum of all x[i, j] @ w[r, s] that meet there

    Args:
      x: (B, H, W, C).
      kernel: w, (k, k, C, D), k 3 or 4.
      bias: (D).
      residual: (B, H', W', D).
      stride: 1 or 2.
      transposed: see above; with a stride of 1 it would be the same as flipped: not allowed.
      swapped: the kernel comes as (k, k, D, C).
      flipped: the kernel comes reversed in both its rows and its columns.
      relu: whether to apply it.

    Returns (B, H', W', D).
    """
    batch, height, width, _ = x.shape
    height, width = (
        (height * stride, width * stride) if transposed else (height // stride, width // stride)
    )
    shape = (batch, height, width, kernel.shape[2 if swapped else 3])
    none = np.zeros(0, np.float32)
    return _call("dmphn_convolve", jax.ShapeDtypeStruct(shape, jnp.float32))(
        x,
        kernel,
        none if bias is None else bias,
        none if residual is None else residual,
        stride=np.int64(stride),
        transposed=transposed,
        swapped=swapped,
        flipped=flipped,
        relu=relu,
    )


def filter_gradient(
    x: jax.Array,
    g: jax.Array,
    size: int,
    *,
    stride: int = 1,
    swapped: bool = False,
    flipped: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """Filter gradient of `convolve`, and the gradient of its bias.

    Args:
      x: (B, stride * H, stride * W, C).
      g: (B, H, W, D).
      size: of the kernel, 3 or 4.
      stride: 1 or 2.
      swapped: return (size, size, D, C).
      flipped: return it reversed in both rows and columns.

    Returns the sums over b, i, j of x[b, stride * i + r - 1, stride * j + s - 1, c] g[b, i, j, d],
    (size, size, C, D), and the sum of g over b, i, j, (D).
    """
    channels, features = x.shape[3], g.shape[3]
    inner = (features, channels) if swapped else (channels, features)
    shapes = ((size, size, *inner), (features,))
    return _call(
        "dmphn_filter_gradient", tuple(jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes)
    )(x, g, stride=np.int64(stride), swapped=swapped, flipped=flipped)


def _call(target: str, results):
    return jax.ffi.ffi_call(load().names[target], results, vmap_method="sequential")
