"""The two convolutions the networks are made of: 3x3, and 4x4 transposed with stride 2."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from dmphn_jax import cpu_kernels
from dmphn_jax.models import conv_gradients

_LAYOUT = ("NHWC", "HWIO", "NHWC")


class How(NamedTuple):
    """Which of the convolutions, and what follows it."""

    stride: int
    transposed: bool
    relu: bool
    precision: lax.PrecisionLike


def convolve(
    x: jax.Array,
    kernel: jax.Array,
    bias: jax.Array,
    residual: jax.Array | None = None,
    *,
    stride: int = 1,
    transposed: bool = False,
    relu: bool = False,
    precision: lax.PrecisionLike = None,
) -> jax.Array:
    """Convolves (B, H, W, C) to (B, H', W', D), adds bias (D) and residual, and applies ReLU.

    `kernel` is (3, 3, C, D), with a border of one zero and H' = H/stride; or, transposed,
    (4, 4, C, D), with H' = 2H. That one equals PyTorch's
    `ConvTranspose2d(C, D, 4, stride=2, padding=1)` for `kernel[i, j] = weight[:, :, 3 - i, 3 - j]`.

    On a CPU `cpu_kernels` compute it where they can. Gradients are `conv_gradients`';
    forward-mode differentiation is not defined.
    """
    return _compiled(How(stride, transposed, relu, precision), x, kernel, bias, residual)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _convolve(
    how: How, x: jax.Array, kernel: jax.Array, bias: jax.Array, residual: jax.Array | None
) -> jax.Array:
    def plain(x, kernel, bias, residual):
        y = convolve_plainly(how, x, kernel) + bias
        if residual is not None:
            y = y + residual
        return nn.relu(y) if how.relu else y

    def kernels(x, kernel, bias, residual):
        return cpu_kernels.convolve(
            x,
            kernel,
            bias,
            residual,
            stride=2 if how.transposed else how.stride,
            transposed=how.transposed,
            flipped=how.transposed,
            relu=how.relu,
        )

    if not cpu_kernels.serve(x.dtype, kernel.shape[3]):
        return plain(x, kernel, bias, residual)
    return lax.platform_dependent(x, kernel, bias, residual, cpu=kernels, default=plain)


def _convolve_forward(how: How, x, kernel, bias, residual):
    y = _convolve(how, x, kernel, bias, residual)
    return y, (x, kernel, y if how.relu else None, residual is not None)


def _convolve_backward(how: How, saved, g):
    x, kernel, y, has_residual = saved
    if y is not None:
        g = jnp.where(y > 0, g, 0)
    arguments = functools.partial(convolve_plainly, how), x, kernel, g
    kind = {"stride": how.stride, "transposed": how.transposed}
    return (
        conv_gradients.of_input(*arguments, **kind),
        *conv_gradients.of_kernel_and_bias(*arguments, **kind),
        g if has_residual else None,
    )


_convolve.defvjp(_convolve_forward, _convolve_backward)
# Without it a call outside of jit compiles `_convolve` anew each time, and a network lowers each of
# its convolutions, not each kind once.
_compiled = jax.jit(_convolve, static_argnums=0)


def convolve_plainly(how: How, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The convolution alone, by XLA and with XLA's own gradients."""
    if how.transposed:
        return _transposed(x, kernel, how.precision)
    return lax.conv_general_dilated(
        x,
        kernel,
        (how.stride, how.stride),
        ((1, 1), (1, 1)),
        dimension_numbers=_LAYOUT,
        precision=how.precision,
    )


def _transposed(x: jax.Array, kernel: jax.Array, precision: lax.PrecisionLike) -> jax.Array:
    """The transposed convolution as a sub-pixel convolution.

    Each of the four output phases sees 2x2 of the input, so one 2x2 convolution gives all four
    phases, and no multiplication meets an inserted zero.
    """
    batch, height, width, channels = x.shape
    features = kernel.shape[-1]
    # With a border of one, pixels 2i - 1 and 2i of the output are taps (1, 3) and (0, 2) of the
    # kernel on inputs (i - 1, i). Axes: tap row, phase row, tap column, phase column, C, D.
    taps = jnp.flip(jnp.reshape(kernel, (2, 2, 2, 2, channels, features)), (1, 3))
    taps = jnp.transpose(taps, (0, 2, 4, 1, 3, 5))
    y = lax.conv_general_dilated(
        x,
        jnp.reshape(taps, (2, 2, channels, 4 * features)),
        (1, 1),
        ((1, 1), (1, 1)),
        dimension_numbers=_LAYOUT,
        precision=precision,
    )
    y = jnp.reshape(y, (batch, height + 1, width + 1, 2, 2, features))
    y = jnp.transpose(y, (0, 1, 3, 2, 4, 5))
    return jnp.reshape(y, (batch, 2 * height + 2, 2 * width + 2, features))[:, 1:-1, 1:-1]


def initial_deviation(shape: tuple[int, ...]) -> float:
    """Standard deviation of the authors' initial kernels (kh, kw, in, out)."""
    kh, kw, _, out = shape
    return math.sqrt(0.5 / (kh * kw * out))


def paper_init(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
    """Draws a kernel (kh, kw, in, out) as the authors' code does."""
    return initial_deviation(shape) * jax.random.normal(key, shape, dtype)


class Conv(nn.Module):
    """A convolution with bias; parameters `kernel` (HWIO) and `bias`, both float32.

    Attributes:
      features: output channels.
      stride: 1 or 2; ignored when transposed.
      transposed: 4x4 transposed convolution that doubles height and width.
      dtype: compute and output dtype.
      precision: of the products; None lets float32 use the device's fast approximations.
    """

    features: int
    stride: int = 1
    transposed: bool = False
    dtype: jnp.dtype = jnp.float32
    precision: lax.PrecisionLike = None

    @nn.compact
    def __call__(
        self, x: jax.Array, residual: jax.Array | None = None, *, relu: bool = False
    ) -> jax.Array:
        """(B, H, W, C) -> (B, H', W', features): `convolve` with the module's parameters."""
        size = 4 if self.transposed else 3
        shape = (size, size, x.shape[-1], self.features)
        kernel = self.param("kernel", paper_init, shape, jnp.float32).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        return convolve(
            x.astype(self.dtype),
            kernel,
            bias.astype(self.dtype),
            residual,
            stride=self.stride,
            transposed=self.transposed,
            relu=relu,
            precision=self.precision,
        )
