"""Gradients of the convolutions: XLA's own, or on a CPU those of `cpu_kernels`.

The tests hold the two equal.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from dmphn_jax import cpu_kernels

Function = Callable[[jax.Array, jax.Array], jax.Array]


def of_input(
    function: Function,
    x: jax.Array,
    kernel: jax.Array,
    g: jax.Array,
    *,
    stride: int,
    transposed: bool,
) -> jax.Array:
    """Gradient of a convolution for its input.

    Args:
      function: the convolution of x and kernel, by XLA.
      x: (B, H, W, C).
      kernel: (3, 3, C, D), or (4, 4, C, D) if transposed.
      g: the gradient at the output, (B, H', W', D).
      stride: of the convolution, 1 if transposed.
      transposed: whether it is.
    """

    def derived(x: jax.Array, kernel: jax.Array, g: jax.Array) -> jax.Array:
        return jax.vjp(lambda x: function(x, kernel), x)[1](g)[0]

    def kernels(x: jax.Array, kernel: jax.Array, g: jax.Array) -> jax.Array:
        # The adjoint of a transposed convolution is a strided one, and the other way round.
        return cpu_kernels.convolve(
            g,
            kernel,
            stride=2 if transposed else stride,
            transposed=stride == 2,
            swapped=True,
            flipped=stride == 1,
        )

    if not cpu_kernels.serve(x.dtype, x.shape[3]):
        return derived(x, kernel, g)
    return lax.platform_dependent(x, kernel, g, cpu=kernels, default=derived)


def of_kernel_and_bias(
    function: Function,
    x: jax.Array,
    kernel: jax.Array,
    g: jax.Array,
    *,
    stride: int,
    transposed: bool,
) -> tuple[jax.Array, jax.Array]:
    """Gradients of a convolution for its kernel and for a bias (D) added to it; see `of_input`."""
    channels, features = kernel.shape[2:]

    def derived(x: jax.Array, g: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jax.vjp(lambda kernel: function(x, kernel), kernel)[1](g)[0], jnp.sum(g, (0, 1, 2))

    def direct(x: jax.Array, g: jax.Array) -> tuple[jax.Array, jax.Array]:
        return cpu_kernels.filter_gradient(x, g, 3, stride=stride)

    def exchanged(x: jax.Array, g: jax.Array) -> tuple[jax.Array, jax.Array]:
        """With g, as large as x or larger, in the place of the image."""
        size, stride = (4, 2) if transposed else (3, 1)
        of_kernel, _ = cpu_kernels.filter_gradient(
            g, x, size, stride=stride, swapped=True, flipped=True
        )
        # As a product with ones the sum takes a third of the time of a reduction.
        rows = jnp.reshape(g, (-1, features))
        ones = jnp.ones(len(rows), g.dtype)
        return of_kernel, jnp.matmul(ones, rows, precision=lax.Precision.HIGHEST)

    if not transposed and cpu_kernels.serve(x.dtype, features):
        kernels = direct
    elif stride == 1 and cpu_kernels.serve(x.dtype, channels):
        kernels = exchanged
    else:
        return derived(x, g)
    return lax.platform_dependent(x, g, cpu=kernels, default=derived)
