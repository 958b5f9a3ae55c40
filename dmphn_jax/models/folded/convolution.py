"""Convolutions between planes of blocks, with a plain convolution's parameters and gradients."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dmphn_jax.models.folded.planes import Plane, taps
from dmphn_jax.models.folded.strips import relu_exchange


def place_kernel(kernel: jax.Array, rows: np.ndarray, columns: np.ndarray) -> jax.Array:
    """Returns the kernel between blocks, (K, L, p*P*C, q*Q*D), of a plain one (T, U, C, D).

    Args:
      kernel: float32 or bfloat16.
      rows, columns: `Taps.place`, (K, p, q, T) and (L, P, Q, U).
    """
    _, _, C, D = kernel.shape
    K, p, q, T = rows.shape
    L, P, Q, U = columns.shape
    if (p, q, P, Q) == (1, 1, 1, 1) and (K, L) == (T, U):
        return kernel
    place = np.einsum("kpqt,lPQu->klpPqQtu", rows, columns).reshape(-1, T * U)
    # One product for both axes, and one transposition. An element is one of the kernel's or zero,
    # exact in any precision, but its gradient is a sum.
    kernel = jnp.reshape(kernel, (T * U, C * D))
    placed = jnp.matmul(place, kernel, precision=lax.Precision.HIGHEST)
    placed = jnp.reshape(placed, (K, L, p * P, q * Q, C, D))
    return jnp.reshape(jnp.transpose(placed, (0, 1, 2, 4, 3, 5)), (K, L, p * P * C, q * Q * D))


class Windows(NamedTuple):
    """The geometry of a convolution between blocks: (rows, columns) of each."""

    strides: tuple[int, int]
    padding: tuple[tuple[int, int], tuple[int, int]]
    dilation: tuple[int, int]
    precision: lax.PrecisionLike


_LAYOUT = ("NHWC", "HWIO", "NHWC")


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _convolve(windows: Windows, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolves (B, h, w, C) with a float32 kernel (K, L, C, D) in the dtype of `x`."""
    return _convolve_plainly(windows, x, kernel)


def _convolve_plainly(windows, x, kernel):
    return lax.conv_general_dilated(
        x,
        kernel.astype(x.dtype),
        windows.strides,
        windows.padding,
        windows.dilation,
        dimension_numbers=_LAYOUT,
        precision=windows.precision,
    )


def _convolve_forward(windows, x, kernel):
    return _convolve(windows, x, kernel), (x, kernel)


def _convolve_backward(windows, saved, g):
    x, kernel = saved
    of_x = jax.vjp(lambda x: _convolve_plainly(windows, x, kernel), x)[1](g)[0]
    return of_x, _kernel_gradient(windows, x, kernel.shape, g)


_convolve.defvjp(_convolve_forward, _convolve_backward)


def _kernel_gradient(windows: Windows, x: jax.Array, shape: tuple[int, ...], g: jax.Array):
    """Gradient of `_convolve` for its kernel, float32: x and g are image and filter by turns.

    XLA's own has x for the image. Where that is the smaller of the two, the TPU's compiler turns
    the larger one round in memory, three times as costly as the gradient itself.
    """
    forwards = g.shape[1] * g.shape[2] <= x.shape[1] * x.shape[2]
    common = {"precision": windows.precision, "preferred_element_type": jnp.float32}
    if forwards:
        # dK[k] = sum over i of g[i] x[stride*i + k - before]
        padding = []
        for axis in (0, 1):
            before = windows.padding[axis][0]
            extent = windows.strides[axis] * (g.shape[1 + axis] - 1) + shape[axis]
            padding.append((before, extent - before - x.shape[1 + axis]))
        return lax.conv_general_dilated(
            x,
            g,
            (1, 1),
            padding,
            rhs_dilation=windows.strides,
            dimension_numbers=("CHWN", "IHWO", "HWNC"),
            **common,
        )
    # dK[k] = sum over i of x[i] g[dilation*i + before - k], found in the reverse order of k
    padding = []
    for axis in (0, 1):
        before = shape[axis] - 1 - windows.padding[axis][0]
        extent = windows.dilation[axis] * (x.shape[1 + axis] - 1) + shape[axis]
        padding.append((before, extent - before - g.shape[1 + axis]))
    turned = lax.conv_general_dilated(
        g,
        x,
        (1, 1),
        padding,
        rhs_dilation=windows.dilation,
        dimension_numbers=("CHWN", "IHWO", "HWNC"),
        **common,
    )
    return jnp.transpose(turned[::-1, ::-1], (0, 1, 3, 2))


def convolve(
    x: jax.Array,
    kernel: jax.Array,
    bias: jax.Array,
    source: Plane,
    target: Plane,
    kind: str = "same",
    precision: lax.PrecisionLike = None,
    relu_of: int = 0,
) -> jax.Array:
    """Convolves features on plane `source` to plane `target` and adds a bias.

    Args:
      x: (B, rows, columns, pixels*C), zero outside of the image.
      kernel: (3, 3, C, D), or (4, 4, C, D) if `kind` is "up"; of `x`'s dtype or float32.
      bias: (D,).
      source, target, kind: see `taps`.
      precision: of the products.
      relu_of: 0, or the number of strips: then follow ReLU and `exchange`.

    Returns:
      (B, rows', columns', pixels'*D) of `x`'s dtype; meaningless outside of the image.
    """
    rows = taps(source.rows, target.rows, kind)
    columns = taps(source.columns, target.columns, kind)
    windows = Windows(
        (rows.stride, columns.stride),
        (rows.padding, columns.padding),
        (rows.dilation, columns.dilation),
        precision,
    )
    y = _convolve(windows, x, place_kernel(kernel, rows.place, columns.place))
    bias = jnp.tile(bias.astype(x.dtype), target.pixels)
    return relu_exchange(y, bias, relu_of) if relu_of else y + bias
