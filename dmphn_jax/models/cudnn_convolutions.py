"""The convolutions and their gradients in forms that XLA hands to cuDNN as single calls.

Everything here is plain JAX, and computes the same on every platform. What it becomes on a GPU is
read in the compiled program: docs/plan.md, "GPU".
"""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.layout import Layout, with_layout_constraint
from jax.typing import DTypeLike

from dmphn_jax.models.convolutions import Convolution, Convolutions, differentiable

_LAYOUT = ("NHWC", "HWIO", "NHWC")
_LANES = 8  # channels of 16 bits that tensor cores take at once


@dataclasses.dataclass(frozen=True)
class CudnnConvolutions(Convolutions):
    """The formulation for NVIDIA's GPUs.

    A transposed convolution is cuDNN's gradient of a strided one. The gradient of a 3x3 convolution
    with a stride of 1 is a forward one, which adds the gradient of a residual block's other branch
    while its sums are still in registers. In a network of low precision no features are float32:
    images and what is added up to one are two numbers of low precision each, a value's rounding and
    what that left, which together keep 16 bits of it in bfloat16 and 22 in float16.
    """

    def convolve(self, kind, x, kernel, bias, residual=None):
        """See `Convolutions`."""
        return differentiable(self, kind, x, kernel, bias, residual)

    def forward(self, kind, x, kernel, bias, residual):
        """See `Convolutions`; x, kernel and result may differ in dtype."""
        low = _low(kind, x, kernel)
        if kind.transposed:
            y = _convolve(kind, *_with_bias(x, kernel, bias))
        elif low is None:
            y = _convolve(kind, x, kernel) + bias
        elif x.dtype == low:
            return _to_image(kind, x, kernel) + bias
        else:
            y = _convolve(kind, _parts(x, low), _twice(kernel, 2, low)) + bias.astype(low)
        if residual is not None:
            y = y + residual
        return nn.relu(y) if kind.relu else y

    def input_gradient(self, kind, x, kernel, g):
        """See `Convolutions`; the gradient has x's dtype."""
        low = _low(kind, x, kernel)
        if low is None:
            return _input_gradient(kind, x.shape, kernel, g)
        if x.dtype == low:
            return _input_gradient(kind, x.shape, _twice(kernel, 3, low), _parts(g, low))
        shape = (*x.shape[:3], _LANES)
        of_parts = _input_gradient(kind, shape, _twice(kernel, 2, low), g)
        return of_parts[..., : x.shape[3]].astype(x.dtype)

    def kernel_gradient(self, kind, x, kernel, g):
        """See `Convolutions`; the gradients have the kernel's dtype."""
        low = _low(kind, x, kernel)
        of_bias = jnp.sum(g, (0, 1, 2), jnp.float32).astype(kernel.dtype)
        if low is None:
            return _kernel_gradient(kind, x, kernel.shape, g), of_bias
        axis = 3 if x.dtype == low else 2
        shape = list(kernel.shape)
        shape[axis] = _LANES
        x, g = (x, _parts(g, low)) if axis == 3 else (_parts(x, low), g)
        of_parts = _kernel_gradient(kind, x, tuple(shape), g).astype(kernel.dtype)
        first, second, _ = jnp.split(of_parts, _ends(kernel, axis), axis)
        return first + second, of_bias


def _low(kind: Convolution, x: jax.Array, kernel: jax.Array) -> DTypeLike | None:
    """Returns the dtype of the features on one side of a convolution of images; None of others."""
    output = kernel.dtype if kind.output is None else jnp.dtype(kind.output)
    features = x.dtype if x.dtype != kernel.dtype else output
    return None if features == kernel.dtype else features


def _parts(x: jax.Array, low: DTypeLike) -> jax.Array:
    """(B, H, W, C) float32 -> (B, H, W, 8): x rounded, what that left, and zeros."""
    high = x.astype(low)
    rest = (x - high.astype(x.dtype)).astype(low)
    zeros = jnp.zeros((*x.shape[:3], _LANES - 2 * x.shape[3]), low)
    return jnp.concatenate((high, rest, zeros), 3)


def _twice(kernel: jax.Array, axis: int, low: DTypeLike) -> jax.Array:
    """A kernel for `_parts`: the same for both."""
    kernel = kernel.astype(low)
    shape = list(kernel.shape)
    shape[axis] = _LANES - 2 * shape[axis]
    return jnp.concatenate((kernel, kernel, jnp.zeros(shape, low)), axis)


def _ends(kernel: jax.Array, axis: int) -> tuple[int, int]:
    """Where the two parts along an axis end."""
    return kernel.shape[axis], 2 * kernel.shape[axis]


def _with_bias(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> tuple[jax.Array, jax.Array]:
    """What a transposed convolution takes so that its sums hold the bias: cuDNN's have none.

    A channel of ones is added, and the bias at the kernel's four inner taps: each pixel of the
    result meets one of them, at a border too. That writes half of what a pass over the result does.
    """
    batch, height, width, _ = x.shape
    inner = jnp.pad(jnp.ones((2, 2, 1, 1), bias.dtype), ((1, 1), (1, 1), (0, 0), (0, 0))) * bias
    zeros = jnp.zeros((4, 4, _LANES - 1, kernel.shape[3]), kernel.dtype)
    ones = jnp.broadcast_to(jnp.arange(_LANES) == 0, (batch, height, width, _LANES))
    return (
        jnp.concatenate((x, ones.astype(x.dtype)), 3),
        jnp.concatenate((kernel, inner, zeros), 2),
    )


def _to_image(kind: Convolution, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The convolution of features of low precision, in float32.

    cuDNN sums in float32 but writes the dtype that it reads. So it sums twice: what the first call
    writes, rounded and negative, is added to the same sums in the second, which leaves what was
    rounded off. Where sums are rounded before that is added, as XLA does it on a CPU, the second
    call gives zeros, and the result is as exact as one call's.
    """
    high = kernel.astype(x.dtype)
    rest = (kernel - high.astype(kernel.dtype)).astype(x.dtype)
    zeros = jnp.zeros((*kernel.shape[:3], _LANES - 2 * kernel.shape[3]), x.dtype)
    rounded = _convolve(kind, x, jnp.concatenate((-high, rest, zeros), 3))
    again = jnp.concatenate((high, jnp.zeros_like(rest), zeros), 3)
    left = _convolve(kind, x, again) + rounded
    of_high, of_rest, _ = jnp.split(left.astype(kernel.dtype), _ends(kernel, 3), 3)
    return of_high + of_rest - rounded[..., : kernel.shape[3]].astype(kernel.dtype)


def _convolve(kind: Convolution, x: jax.Array, kernel: jax.Array) -> jax.Array:
    if not kind.transposed:
        return _plain(x, kernel, kind.stride, kind.precision)
    batch, height, width, _ = x.shape
    shape = (batch, 2 * height, 2 * width, kernel.shape[3])
    adjoint = _adjoint(kernel)
    return _transpose(lambda y: _plain(y, adjoint, 2, kind.precision), shape, x)


def _input_gradient(kind: Convolution, shape, kernel: jax.Array, g: jax.Array) -> jax.Array:
    if kind.transposed:
        return _plain(g, _adjoint(kernel), 2, kind.precision)
    if kind.stride == 1:
        return _plain(g, _adjoint(kernel), 1, kind.precision)
    return _transpose(lambda x: _plain(x, kernel, kind.stride, kind.precision), shape, g)


def _kernel_gradient(kind: Convolution, x: jax.Array, shape, g: jax.Array) -> jax.Array:
    if kind.transposed:
        adjoint = (*shape[:2], shape[3], shape[2])
        of_adjoint = _transpose(lambda kernel: _plain(g, kernel, 2, kind.precision), adjoint, x)
        of_kernel = jnp.swapaxes(jnp.flip(of_adjoint, (0, 1)), 2, 3)
        # In the order of the other kernels' gradients: XLA sums over devices in one exchange only
        # what is laid out alike.
        return with_layout_constraint(of_kernel, Layout((0, 1, 2, 3)))
    return _transpose(lambda kernel: _plain(x, kernel, kind.stride, kind.precision), shape, g)


def _adjoint(kernel: jax.Array) -> jax.Array:
    """The kernel (kh, kw, D, C) that takes gradients back; kept, for XLA undoes it if it can."""
    return lax.optimization_barrier(jnp.swapaxes(jnp.flip(kernel, (0, 1)), 2, 3))


def _transpose(function, shape, g: jax.Array) -> jax.Array:
    """The transpose of a linear function of arrays of a shape and g's dtype, applied to g."""
    return jax.linear_transpose(function, jax.ShapeDtypeStruct(shape, g.dtype))(g)[0]


def _plain(x: jax.Array, kernel: jax.Array, stride: int, precision) -> jax.Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        ((1, 1), (1, 1)),
        dimension_numbers=_LAYOUT,
        precision=precision,
    )
