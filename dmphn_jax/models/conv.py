"""A convolution as a module: its parameters, and how they begin."""

from __future__ import annotations

import math
from collections.abc import Callable
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
        precision = self.convolutions.precision(self.precision)
        kind = Convolution(self.stride, self.transposed, relu, precision, self.output)
        size = 4 if self.transposed else 3
        shape = (size, size, self.inputs, self.features)

        def prepare(kernel: jax.Array, bias: jax.Array) -> Any:
            cast = kernel.astype(self.dtype), bias.astype(self.dtype)
            return self.convolutions.prepare(kind, *cast, x.dtype)

        ready = prepared(self, shape, prepare)
        if ready is not None:
            return self.convolutions.convolve_prepared(kind, x, ready, residual)
        kernel, bias = (leaf.astype(self.dtype) for leaf in parameters(self, shape))
        return self.convolutions.convolve(kind, x, kernel, bias, residual)


def parameters(module: nn.Module, shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """Returns a module's `kernel` (kh, kw, C, D), of this shape, and `bias` (D), both float32."""
    kernel = module.param("kernel", paper_init, shape, jnp.float32)
    return kernel, module.param("bias", nn.initializers.zeros, shape[-1:], jnp.float32)


PREPARED = "prepared"
"""Flax's collection of what formulations make of parameters before there is an image."""


def prepared(
    module: nn.Module,
    shape: tuple[int, ...],
    prepare: Callable[[jax.Array, jax.Array], Any],
) -> Any:
    """Returns what was made of a module's `parameters`; None outside of such programs.

    Where the collection `PREPARED` may be written, it is made, by `prepare`, and kept there.
    """
    if not module.is_initializing() and module.is_mutable_collection(PREPARED):
        module.put_variable(PREPARED, "ready", prepare(*parameters(module, shape)))
    if module.has_variable(PREPARED, "ready"):
        return module.get_variable(PREPARED, "ready")
    return None
