"""The convolutions and their gradients in forms that XLA hands to cuDNN as single calls.

Everything here is plain JAX, and computes the same on every platform. What it becomes on a GPU is
read in the compiled program: docs/plan.md, "GPU".
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.layout import Layout, with_layout_constraint
from jax.typing import DTypeLike

from dmphn_jax.models.convolutions import (
    Convolution,
    Convolutions,
    differentiable,
    interleaved,
    phase_kernel,
)

_LAYOUT = ("NHWC", "HWIO", "NHWC")
_LANES = 8  # channels of 16 bits that tensor cores take at once


@dataclasses.dataclass(frozen=True)
class CudnnConvolutions(Convolutions):
    """The formulation for NVIDIA's GPUs.

    The gradients of a transposed convolution are those of a strided one. The gradient of a 3x3
    convolution with a stride of 1 is a forward one, which adds the gradient of a residual block's
    other branch while its sums are still in registers. In a network of low precision no features
    are float32: images and what is added up to one are two numbers of low precision each, a value's
    rounding and what that left, which together keep 16 bits of it in bfloat16 and 22 in float16.
    """

    prepares = True

    def precision(self, exact):
        """See `Convolutions`: in TF32 a GPU's default, which is that."""
        return None if self.tf32 else exact

    def convolve(self, kind, x, kernel, bias, residual=None):
        """See `Convolutions`."""
        return differentiable(self, kind, x, kernel, bias, residual)

    def prepare(self, kind, kernel, bias, dtype):
        """See `Convolutions`: the kernel in the order and in the parts that cuDNN reads."""
        if kind.transposed:
            return ready(phase_kernel(kernel), jnp.tile(bias, 4), dtype, None)
        return ready(kernel, bias, dtype, _low(kind, dtype, kernel.dtype))

    def convolve_prepared(self, kind, x, prepared, residual=None):
        """See `Convolutions`; x, kernel and result may differ in dtype."""
        y = convolved(functools.partial(_call, kind), x, prepared)
        if kind.transposed:
            y = interleaved(y)
        if residual is not None:
            y = y + residual
        return nn.relu(y) if kind.relu else y

    def forward(self, kind, x, kernel, bias, residual):
        """See `Convolutions`; x, kernel and result may differ in dtype."""
        prepared = self.prepare(kind, kernel, bias, x.dtype)
        return self.convolve_prepared(kind, x, prepared, residual)

    def input_gradient(self, kind, x, kernel, g):
        """See `Convolutions`; the gradient has x's dtype."""
        low = _low(kind, x.dtype, kernel.dtype)
        if low is None:
            return _input_gradient(kind, x.shape, kernel, g)
        if x.dtype == low:
            return _input_gradient(kind, x.shape, twice(kernel, 3, low), parts(g, low))
        shape = (*x.shape[:3], _LANES)
        of_parts = _input_gradient(kind, shape, twice(kernel, 2, low), g)
        return of_parts[..., : x.shape[3]].astype(x.dtype)

    def kernel_gradient(self, kind, x, kernel, g):
        """See `Convolutions`; the gradients have the kernel's dtype."""
        low = _low(kind, x.dtype, kernel.dtype)
        of_bias = jnp.sum(g, (0, 1, 2), jnp.float32).astype(kernel.dtype)
        if low is None:
            return _kernel_gradient(kind, x, kernel.shape, g), of_bias
        axis = 3 if x.dtype == low else 2
        shape = list(kernel.shape)
        shape[axis] = _LANES
        x, g = (x, parts(g, low)) if axis == 3 else (parts(x, low), g)
        of_parts = _kernel_gradient(kind, x, tuple(shape), g).astype(kernel.dtype)
        first, second, _ = jnp.split(of_parts, _ends(kernel, axis), axis)
        return first + second, of_bias


def _low(kind: Convolution, x: DTypeLike, kernel: DTypeLike) -> DTypeLike | None:
    """Returns the dtype of the features on one side of a convolution of images; None of others."""
    output = kernel if kind.output is None else jnp.dtype(kind.output)
    features = x if x != kernel else output
    return None if features == kernel else features


def parts(x: jax.Array, low: DTypeLike) -> jax.Array:
    """(B, H, W, C) float32 -> (B, H, W, 2*C or more): x rounded, what that left, and zeros."""
    high = x.astype(low)
    rest = (x - high.astype(x.dtype)).astype(low)
    zeros = jnp.zeros((*x.shape[:3], -2 * x.shape[3] % _LANES), low)
    return jnp.concatenate((high, rest, zeros), 3)


def twice(kernel: jax.Array, axis: int, low: DTypeLike) -> jax.Array:
    """A kernel for `parts`: the same for both."""
    kernel = kernel.astype(low)
    shape = list(kernel.shape)
    shape[axis] = -2 * shape[axis] % _LANES
    return jnp.concatenate((kernel, kernel, jnp.zeros(shape, low)), axis)


def _ends(kernel: jax.Array, axis: int) -> tuple[int, int]:
    """Where the two parts along an axis end."""
    return kernel.shape[axis], 2 * kernel.shape[axis]


Ready = tuple[jax.Array | tuple[jax.Array, jax.Array], jax.Array]  # of a kernel and a bias


def ready(kernel: jax.Array, bias: jax.Array, x: DTypeLike, low: DTypeLike | None) -> Ready:
    """Returns what `convolved` takes of a kernel (kh, kw, C, D) and a bias (D).

    Args:
      kernel, bias: of one dtype.
      x: the dtype of what is convolved.
      low: that of the features on one side of a convolution of images; None of others.
    """
    if low is None:
        return _outputs_first(kernel), bias
    if x != low:
        return _outputs_first(twice(kernel, 2, low)), bias.astype(low)
    return _in_two_calls(kernel, low), bias


def convolved(
    convolve: Callable[[jax.Array, jax.Array], jax.Array], x: jax.Array, made: Ready
) -> jax.Array:
    """Convolves x with what `ready` made, and adds the bias; `convolve` takes x and a kernel."""
    kernel, bias = made
    if isinstance(kernel, tuple):
        return _to_image(convolve, x, kernel, len(bias)) + bias
    return convolve(x if x.dtype == kernel.dtype else parts(x, kernel.dtype), kernel) + bias


def _outputs_first(kernel: jax.Array) -> jax.Array:
    """(kh, kw, C, D) -> (D, kh, kw, C), in which order cuDNN reads a kernel."""
    return jnp.transpose(kernel, (3, 0, 1, 2))


def _in_two_calls(kernel: jax.Array, low: DTypeLike) -> tuple[jax.Array, jax.Array]:
    """What `_to_image` takes of a float32 kernel (kh, kw, C, D): both (2*D or more, kh, kw, C)."""
    high = kernel.astype(low)
    rest = (kernel - high.astype(kernel.dtype)).astype(low)
    zeros = jnp.zeros((*kernel.shape[:3], -2 * kernel.shape[3] % _LANES), low)
    first = jnp.concatenate((-high, rest, zeros), 3)
    again = jnp.concatenate((high, jnp.zeros_like(rest), zeros), 3)
    return _outputs_first(first), _outputs_first(again)


def _to_image(
    convolve: Callable[[jax.Array, jax.Array], jax.Array],
    x: jax.Array,
    kernels: tuple[jax.Array, jax.Array],
    features: int,
) -> jax.Array:
    """The convolution of features of low precision, (B, H', W', features) float32.

    cuDNN sums in float32 but writes the dtype that it reads. So it sums twice: what the first call
    writes, rounded and negative, is added to the same sums in the second, which leaves what was
    rounded off. Where sums are rounded before that is added, as XLA does it on a CPU, the second
    call gives zeros, and the result is as exact as one call's.

    Args:
      convolve: the call, of x and a kernel.
      x: the features.
      kernels: of `_in_two_calls`.
      features: of the float32 kernel.
    """
    rounded = convolve(x, kernels[0])
    left = (convolve(x, kernels[1]) + rounded).astype(jnp.float32)
    of_high, of_rest = left[..., :features], left[..., features : 2 * features]
    return of_high + of_rest - rounded[..., :features].astype(jnp.float32)


def _call(kind: Convolution, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolves with a prepared kernel, (D, kh, kw, C), 3x3 or the phases' 2x2."""
    return lax.conv_general_dilated(
        x,
        kernel,
        (kind.stride, kind.stride),
        ((1, 1), (1, 1)),
        dimension_numbers=("NHWC", "OHWI", "NHWC"),
        precision=kind.precision,
    )


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
