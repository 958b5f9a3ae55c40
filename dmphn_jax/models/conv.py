"""The two convolutions the networks are made of: 3x3, and 4x4 transposed with stride 2."""

from __future__ import annotations

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

_LAYOUT = ("NHWC", "HWIO", "NHWC")


def convolve(
    x: jax.Array, kernel: jax.Array, *, stride: int = 1, precision: lax.PrecisionLike = None
) -> jax.Array:
    """3x3 convolution with a border of one zero: (B, H, W, C) -> (B, H/stride, W/stride, D).

    `kernel` is (3, 3, C, D).
    """
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        ((1, 1), (1, 1)),
        dimension_numbers=_LAYOUT,
        precision=precision,
    )


def convolve_transposed(
    x: jax.Array, kernel: jax.Array, *, precision: lax.PrecisionLike = None
) -> jax.Array:
    """4x4 transposed convolution, stride 2: (B, H, W, C) -> (B, 2H, 2W, D).

    Equals PyTorch's `ConvTranspose2d(C, D, 4, stride=2, padding=1)` for
    `kernel[i, j] = weight[:, :, 3 - i, 3 - j]`, of shape (4, 4, C, D).

    Computed as a sub-pixel convolution: each of the four output phases sees 2x2 of the input, so
    one 2x2 convolution gives all four phases, and no multiplication meets an inserted zero.
    """
    batch, height, width, _ = x.shape
    channels = kernel.shape[-1]
    # Taps (0, 2) of the kernel make the even outputs from inputs (i-1, i), taps (1, 3) the odd
    # ones from (i, i+1). Axes: tap row, phase row, tap column, phase column, in, out.
    taps = jnp.reshape(kernel, (2, 2, 2, 2, -1, channels))
    taps = jnp.transpose(taps, (0, 2, 4, 1, 3, 5))
    taps = jnp.reshape(taps, (2, 2, -1, 4 * channels))
    y = lax.conv_general_dilated(
        x, taps, (1, 1), ((1, 1), (1, 1)), dimension_numbers=_LAYOUT, precision=precision
    )
    y = jnp.reshape(y, (batch, height + 1, width + 1, 2, 2, channels))
    phases = [[y[:, a : a + height, b : b + width, a, b] for b in range(2)] for a in range(2)]
    y = jnp.stack([jnp.stack(row, axis=3) for row in phases], axis=2)  # B, H, 2, W, 2, D
    return jnp.reshape(y, (batch, 2 * height, 2 * width, channels))


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
        return x + jnp.reshape(bias.astype(self.dtype), (1, 1, 1, -1))
