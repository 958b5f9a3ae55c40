"""A convolution as a module: its parameters, and how they begin."""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from dmphn_jax.models.convolutions import XLA, Convolution, Convolutions


def initial_deviation(shape: tuple[int, ...]) -> float:
    """Standard deviation of the authors' initial kernels (kh, kw, in, out)."""
    kh, kw, _, out = shape
    return math.sqrt(0.5 / (kh * kw * out))


def paper_init(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Draws a kernel (kh, kw, in, out) as the authors' code does."""
    return initial_deviation(shape) * jax.random.normal(key, shape, dtype)


class Conv(nn.Module):
    """A convolution with bias; parameters `kernel` (HWIO) and `bias`, both float32.

    Attributes:
      inputs, features: channels of input and output, per pixel.
      stride: 1 or 2; 1 when transposed.
      transposed: 4x4 transposed convolution that doubles height and width.
      dtype: compute dtype.
      output: dtype of the result; None for the compute dtype.
      precision: of the products; None lets float32 use the device's fast approximations.
      convolutions: the formulation.
    """

    inputs: int
    features: int
    stride: int = 1
    transposed: bool = False
    dtype: jnp.dtype = jnp.float32
    output: jnp.dtype | None = None
    precision: lax.PrecisionLike = None
    convolutions: Convolutions = XLA

    @nn.compact
    def __call__(
        self, x: jax.Array, residual: jax.Array | None = None, *, relu: bool = False
    ) -> jax.Array:
        """(B, H, W, inputs) -> (B, H', W', features): `Convolutions.convolve`."""
        size = 4 if self.transposed else 3
        shape = (size, size, self.inputs, self.features)
        kernel = self.param("kernel", paper_init, shape, jnp.float32).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        kind = Convolution(self.stride, self.transposed, relu, self.precision, self.output)
        return self.convolutions.convolve(kind, x, kernel, bias.astype(self.dtype), residual)
