"""Gradients of the two convolutions, formulated per platform; docs/benchmarks.md has the timings.

XLA:CPU derives a filter gradient as a convolution whose window is the whole image, and runs it
several times slower with an implicit border than with a written one; the derived gradient of the
sub-pixel form falls off its fast path altogether. Here both become convolutions without border.
Other platforms keep what XLA derives. The tests hold the two equal.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

Function = Callable[[jax.Array, jax.Array], jax.Array]


def of_convolution(
    function: Function,
    x: jax.Array,
    kernel: jax.Array,
    g: jax.Array,
    *,
    stride: int,
    precision: lax.PrecisionLike,
) -> tuple[jax.Array, jax.Array]:
    """Gradients of a 3x3 convolution for x (B, H, W, C) and kernel (3, 3, C, D).

    `g`, (B, H/stride, W/stride, D), is the gradient at its output, `function` the convolution.
    """

    def cpu(x: jax.Array, kernel: jax.Array, g: jax.Array) -> jax.Array:
        channels, features = kernel.shape[2:]
        if stride == 2:
            return _correlate_folded(x, g, precision)[:3, :3]
        if features < channels:
            # A product with few columns wastes the vector units: exchange the roles.
            taps = _correlate(_padded(g), x, precision)
            return jnp.transpose(jnp.flip(taps, (0, 1)), (0, 1, 3, 2))
        return _correlate(_padded(x), g, precision)

    return _input_gradient(function)(x, kernel, g), lax.platform_dependent(
        x, kernel, g, cpu=cpu, default=_kernel_gradient(function)
    )


def of_transposed(
    function: Function,
    x: jax.Array,
    kernel: jax.Array,
    g: jax.Array,
    *,
    precision: lax.PrecisionLike,
) -> tuple[jax.Array, jax.Array]:
    """Gradients of the 4x4 transposed convolution for x (B, H, W, C) and kernel (4, 4, C, D).

    `g`, (B, 2H, 2W, D), is the gradient at its output. The adjoint is a 4x4 convolution with
    stride 2; on the output folded 2x2 into channels it is a 2x2 convolution with stride 1.
    """

    def cpu_input(x: jax.Array, kernel: jax.Array, g: jax.Array) -> jax.Array:
        channels, features = kernel.shape[2:]
        # Axes: tap row, phase row, tap column, phase column, C, D -> taps, phases and D, C.
        taps = jnp.reshape(jnp.flip(kernel, (0, 1)), (2, 2, 2, 2, channels, features))
        taps = jnp.transpose(taps, (0, 2, 1, 3, 5, 4))
        return lax.conv_general_dilated(
            _folded(g),
            jnp.reshape(taps, (2, 2, 4 * features, channels)),
            (1, 1),
            "VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=precision,
        )

    def cpu_kernel(x: jax.Array, kernel: jax.Array, g: jax.Array) -> jax.Array:
        taps = _correlate_folded(g, x, precision)
        return jnp.flip(jnp.transpose(taps, (0, 1, 3, 2)), (0, 1))

    return (
        lax.platform_dependent(x, kernel, g, cpu=cpu_input, default=_input_gradient(function)),
        lax.platform_dependent(x, kernel, g, cpu=cpu_kernel, default=_kernel_gradient(function)),
    )


def of_bias(g: jax.Array) -> jax.Array:
    """Gradient of a bias (D) that was added to (B, H, W, D), from the gradient of the sum."""

    def cpu(g: jax.Array) -> jax.Array:
        # As a product with ones it takes a third of the time of a reduction.
        rows = jnp.reshape(g, (-1, g.shape[-1]))
        return jnp.matmul(jnp.ones(len(rows), g.dtype), rows, precision=lax.Precision.HIGHEST)

    return lax.platform_dependent(g, cpu=cpu, default=lambda g: jnp.sum(g, (0, 1, 2)))


def _input_gradient(function: Function) -> Callable[..., jax.Array]:
    """XLA's gradient for the first argument."""
    return lambda x, kernel, g: jax.vjp(lambda x: function(x, kernel), x)[1](g)[0]


def _kernel_gradient(function: Function) -> Callable[..., jax.Array]:
    """XLA's gradient for the second argument."""
    return lambda x, kernel, g: jax.vjp(lambda kernel: function(x, kernel), kernel)[1](g)[0]


def _padded(x: jax.Array) -> jax.Array:
    """Writes a border of one zero in height and width."""
    # Without the barrier XLA moves the border back into the convolution.
    return lax.optimization_barrier(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))))


def _folded(g: jax.Array) -> jax.Array:
    """Folds 2x2 pixels of a bordered image into channels: (B, 2H, 2W, D) -> (B, H+1, W+1, 4D)."""
    batch, height, width, features = g.shape
    rows, columns = height // 2 + 1, width // 2 + 1
    g = jnp.reshape(_padded(g), (batch, rows, 2, columns, 2, features))
    g = jnp.transpose(g, (0, 1, 3, 2, 4, 5))
    return lax.optimization_barrier(jnp.reshape(g, (batch, rows, columns, 4 * features)))


def _correlate(x: jax.Array, g: jax.Array, precision: lax.PrecisionLike) -> jax.Array:
    """Filter gradient of a convolution without border.

    For x (B, H, W, C) and g (B, h, w, D) it is the sum over b, i, j of
    x[b, i + r, j + s, c] * g[b, i, j, d], for all offsets (r, s) that fit: (H-h+1, W-w+1, C, D).
    """
    return lax.conv_general_dilated(
        x,
        g,
        (1, 1),
        "VALID",
        dimension_numbers=("CHWN", "IHWO", "HWNC"),
        precision=precision,
    )


def _correlate_folded(large: jax.Array, small: jax.Array, precision: lax.PrecisionLike):
    """Filter gradient of a 4x4 convolution with stride 2 and a border of one.

    For `large` (B, 2H, 2W, C), with that border, and `small` (B, H, W, D) it is the sum over
    b, i, j of large[b, 2i + r, 2j + s, c] * small[b, i, j, d]: (4, 4, C, D).
    """
    channels, features = large.shape[-1], small.shape[-1]
    # The folded image is the window, not the image: it is taken as it lies in memory.
    taps = jnp.flip(_correlate(_padded(small), _folded(large), precision), (0, 1))
    # Axes: tap row, tap column, D, phase row, phase column, C.
    taps = jnp.reshape(taps, (2, 2, features, 2, 2, channels))
    return jnp.reshape(jnp.transpose(taps, (0, 3, 1, 4, 5, 2)), (4, 4, channels, features))
