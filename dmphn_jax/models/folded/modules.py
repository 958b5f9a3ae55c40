"""Encoder and decoder on blocks, with the parameter tree of `models.blocks`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from dmphn_jax.models.blocks import feature_precision, image_precision
from dmphn_jax.models.conv import parameters
from dmphn_jax.models.convolutions import Convolutions
from dmphn_jax.models.folded.convolution import convolve
from dmphn_jax.models.folded.planes import Plane, planes
from dmphn_jax.models.folded.strips import (
    behind_zero,
    cut,
    exchange,
    exchange_seams,
    join,
    outside_zero,
    strip_count,
)

Ended = Callable[[jax.Array, Plane], jax.Array]


class Conv(nn.Module):
    """A convolution with bias on blocks; parameters `kernel` (HWIO) and `bias`, both float32.

    Attributes:
      features: output channels.
      kind: see `taps`.
      dtype: compute and output dtype.
      precision: of the products.
    """

    features: int
    kind: str = "same"
    dtype: Any = jnp.float32
    precision: lax.PrecisionLike = None

    @nn.compact
    def __call__(self, x: jax.Array, source: Plane, target: Plane, relu_of: int = 0) -> jax.Array:
        """`convolve` with the module's parameters."""
        size = 4 if self.kind == "up" else 3
        shape = (size, size, x.shape[-1] // source.pixels, self.features)
        x, (kernel, bias) = x.astype(self.dtype), parameters(self, shape)
        return convolve(x, kernel, bias, source, target, self.kind, self.precision, relu_of)


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(x))) on the stream's plane, by way of another.

    Both end where images do that do not fill their arrays: `ends`.
    """

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, plane: Plane, inner: Plane, strips: int, ended: Ended
    ) -> jax.Array:
        """(B*strips, h, w, pixels*C), likewise."""
        conv = functools.partial(
            Conv,
            x.shape[-1] // plane.pixels,
            dtype=self.dtype,
            precision=feature_precision(self.dtype),
        )
        y = ended(conv(name="conv_1")(x, plane, inner, relu_of=strips), inner)
        y = conv(name="conv_2")(y, inner, plane)
        if plane == inner:  # blocks of one pixel
            return ended(exchange(x + y, strips), plane)
        return x + ended(outside_zero(y, plane, strips), plane)


def ends(convolutions: Convolutions, height: int, width: int, strips: int) -> Ended:
    """Returns what sets to zero what lies behind images that do not fill their arrays.

    `height` and `width` are those of the arrays' features at a quarter of the resolution.
    """
    filled = convolutions.filled(height, width)
    if filled is None:
        return lambda x, plane: x
    rows, columns = filled

    def ended(x: jax.Array, plane: Plane) -> jax.Array:
        scale = plane.rows.own // height
        return behind_zero(x, plane, strips, (scale * rows, scale * columns))

    return ended


class Encoder(nn.Module):
    """Image to features: (B, h, w, 48), folded, -> (B, h, w, 4*width), 15 convolutions."""

    width: int
    dtype: Any
    convolutions: Convolutions  # that this module belongs to

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns features in the compute dtype; the first convolution is `blocks.Encoder`'s."""
        batch, height, width, _ = x.shape
        strips = strip_count(batch, width)
        p = planes(height, width // strips, int(strips > 1))
        precision = feature_precision(self.dtype)
        ended = ends(self.convolutions, height, width, strips)

        def blocks(x, i, *where):
            x = ResidualBlock(self.dtype, name=f"block_{i}")(x, *where, strips, ended)
            return ResidualBlock(self.dtype, name=f"block_{i + 1}")(x, *where, strips, ended)

        def opening(self, x):
            x = Conv(self.width, precision=image_precision(self.dtype), name="conv_1")(
                cut(x, strips), p.image, p.full
            )
            x = ended(outside_zero(x.astype(self.dtype), p.full, strips), p.full)
            return ResidualBlock(self.dtype, name="block_1")(x, p.full, p.full_inner, strips, ended)

        common = {"dtype": self.dtype, "precision": precision}
        # A backward pass computes these features of full resolution again from the image.
        x = nn.remat(opening)(self, x)
        x = ResidualBlock(self.dtype, name="block_2")(x, p.full, p.full_inner, strips, ended)
        x = Conv(2 * self.width, "down", **common, name="conv_2")(x, p.full, p.half)
        x = exchange_seams(x, strips) if strips > 1 else outside_zero(x, p.half, strips)
        x = ended(x, p.half)
        x = blocks(x, 3, p.half, p.half_inner)
        x = Conv(4 * self.width, "down", **common, name="conv_3")(x, p.half, p.quarter)
        x = ended(exchange(x, strips), p.quarter)
        x = blocks(x, 5, p.quarter, p.quarter)
        return join(x[:, :, 1:-1] if strips > 1 else x, strips)


class Decoder(nn.Module):
    """Features to image: (B, h, w, 4*width) -> (B, h, w, 48), folded, float32, 15 convolutions."""

    width: int
    dtype: Any
    convolutions: Convolutions  # that this module belongs to

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns an image in float32; the last convolution is that of `blocks.Decoder`."""
        batch, height, width, _ = x.shape
        strips = strip_count(batch, width)
        p = planes(height, width // strips, int(strips > 1))
        precision = feature_precision(self.dtype)
        ended = ends(self.convolutions, height, width, strips)

        def blocks(x, i, *where):
            x = ResidualBlock(self.dtype, name=f"block_{i}")(x, *where, strips, ended)
            return ResidualBlock(self.dtype, name=f"block_{i + 1}")(x, *where, strips, ended)

        common = {"dtype": self.dtype, "precision": precision}
        x = blocks(cut(x, strips), 1, p.quarter, p.quarter)
        x = Conv(2 * self.width, "up", **common, name="up_1")(x, p.quarter, p.half)
        x = blocks(ended(outside_zero(x, p.half, strips), p.half), 3, p.half, p.half_inner)
        # Apart from the convolution before it: fused, the two take half as long again.
        x = lax.optimization_barrier(x)
        x = Conv(self.width, "up", **common, name="up_2")(x, p.half, p.full)
        x = blocks(ended(outside_zero(x, p.full, strips), p.full), 5, p.full, p.full_inner)
        own = planes(height, width // strips, 0).image
        x = Conv(3, precision=image_precision(self.dtype), name="conv")(x, p.full, own)
        return join(x, strips)
