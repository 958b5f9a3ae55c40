"""The two convolutions the networks are made of: 3x3, and 4x4 transposed with stride 2."""

from __future__ import annotations

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from dmphn_jax.models import conv_gradients

_LAYOUT = ("NHWC", "HWIO", "NHWC")


def convolve(
    x: jax.Array, kernel: jax.Array, *, stride: int = 1, precision: lax.PrecisionLike = None
) -> jax.Array:
    """3x3 convolution with a border of one zero: (B, H, W, C) -> (B, H/stride, W/stride, D).

    `kernel` is (3, 3, C, D). Gradients are `conv_gradients`'; forward-mode is not defined.
    """
    return _convolve(stride, precision, x, kernel)


def convolve_transposed(
    x: jax.Array, kernel: jax.Array, *, precision: lax.PrecisionLike = None
) -> jax.Array:
    """4x4 transposed convolution, stride 2: (B, H, W, C) -> (B, 2H, 2W, D).

    Equals PyTorch's `ConvTranspose2d(C, D, 4, stride=2, padding=1)` for
    `kernel[i, j] = weight[:, :, 3 - i, 3 - j]`, of shape (4, 4, C, D).

    Computed as a sub-pixel convolution: each of the four output phases sees 2x2 of the input, so
    one 2x2 convolution gives all four phases, and no multiplication meets an inserted zero.
    """
    return _convolve_transposed(precision, x, kernel)


@jax.custom_vjp
def add_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
    """(B, H, W, D) + (D)."""
    return x + jnp.reshape(bias, (1, 1, 1, -1))


add_bias.defvjp(
    lambda x, bias: (add_bias(x, bias), None),
    lambda _, g: (g, conv_gradients.of_bias(g)),
)


def _plain(stride: int, precision: lax.PrecisionLike, x: jax.Array, kernel: jax.Array):
    """The 3x3 convolution with XLA's own gradients."""
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        ((1, 1), (1, 1)),
        dimension_numbers=_LAYOUT,
        precision=precision,
    )


def _plain_transposed(precision: lax.PrecisionLike, x: jax.Array, kernel: jax.Array):
    """The transposed convolution with XLA's own gradients."""
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


# The same functions with gradients chosen by platform.
_convolve = jax.custom_vjp(_plain, nondiff_argnums=(0, 1))
_convolve.defvjp(
    lambda stride, precision, x, kernel: (_plain(stride, precision, x, kernel), (x, kernel)),
    lambda stride, precision, saved, g: conv_gradients.of_convolution(
        functools.partial(_plain, stride, precision), *saved, g, stride=stride, precision=precision
    ),
)
_convolve_transposed = jax.custom_vjp(_plain_transposed, nondiff_argnums=(0,))
_convolve_transposed.defvjp(
    lambda precision, x, kernel: (_plain_transposed(precision, x, kernel), (x, kernel)),
    lambda precision, saved, g: conv_gradients.of_transposed(
        functools.partial(_plain_transposed, precision), *saved, g, precision=precision
    ),
)


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
    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, H, W, C) -> (B, H', W', features)."""
        size = 4 if self.transposed else 3
        shape = (size, size, x.shape[-1], self.features)
        kernel = self.param("kernel", paper_init, shape, jnp.float32).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        x = x.astype(self.dtype)
        if self.transposed:
            x = convolve_transposed(x, kernel, precision=self.precision)
        else:
            x = convolve(x, kernel, stride=self.stride, precision=self.precision)
        return add_bias(x, bias.astype(self.dtype))
