"""Encoder and decoder with full resolution in blocks of 2x2 pixels: inference on NVIDIA's GPUs.

A tensor core's instruction multiplies with 64 columns and more, and 32 channels leave half of it
empty. So features of full resolution lie in blocks of 2x2 pixels, (B, H/2 + 1, W/2 + 1, 4*width) as
those of `models.folded` do, and are convolved block by block: 16/9 of the arithmetic, in less time.
Image and transposed convolution come into this layout without being turned round. Half and quarter
are plain: their channels fill the unit.

Unlike `models.folded` there are no strips, a residual is added while its convolution's sums are
still in registers, and the pixels outside of the image, two lines of each edge's blocks, are set to
zero in place.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from dmphn_jax.models import blocks
from dmphn_jax.models.conv import Conv, parameters, prepared
from dmphn_jax.models.convolutions import Convolutions, from_blocks
from dmphn_jax.models.cudnn_convolutions import CudnnConvolutions, convolved, ready
from dmphn_jax.models.folded.convolution import place_kernel
from dmphn_jax.models.folded.modules import Ended, ends
from dmphn_jax.models.folded.planes import Blocks, Plane, taps


class Planes(NamedTuple):
    """The planes of one encoder or decoder."""

    image: Plane  # and between the two convolutions of a residual block at full resolution
    full: Plane
    half: Plane


def planes(height: int, width: int) -> Planes:
    """Returns the planes of images of 4*height x 4*width pixels."""
    rows, columns = 2 * height, 2 * width
    return Planes(
        image=Plane(Blocks(2, 0, rows), Blocks(2, 0, columns)),
        full=Plane(Blocks(2, -1, rows + 1), Blocks(2, -1, columns + 1)),
        half=Plane(Blocks(1, 0, rows), Blocks(1, 0, columns)),
    )


def to_blocks(image: jax.Array) -> jax.Array:
    """(B, H, W, C) -> (B, H/2, W/2, 4*C)."""
    B, H, W, C = image.shape
    image = jnp.reshape(image, (B, H // 2, 2, W // 2, 2, C))
    return jnp.reshape(jnp.transpose(image, (0, 1, 3, 2, 4, 5)), (B, H // 2, W // 2, 4 * C))


def outside_zero(x: jax.Array) -> jax.Array:
    """Sets to zero what lies outside of the image in (B, H/2 + 1, W/2 + 1, 4*C), in place."""
    B, h, w, C = x.shape
    x = jnp.reshape(x, (B, h, w, 2, 2, C // 4))
    x = x.at[:, 0, :, 0].set(0).at[:, -1, :, 1].set(0)
    x = x.at[:, :, 0, :, 0].set(0).at[:, :, -1, :, 1].set(0)
    return jnp.reshape(x, (B, h, w, C))


class BlockConv(nn.Module):
    """A convolution with bias between blocks; parameters `kernel` (HWIO) and `bias`, both float32.

    Attributes:
      features: output channels, per pixel.
      kind: see `taps`.
      dtype: compute dtype; of an image, that goes in or comes out, float32.
      convolutions: whether products round to TF32.
      image: whether it reads or gives one.
    """

    features: int
    kind: str = "same"
    dtype: Any = jnp.float32
    convolutions: Convolutions = Convolutions()
    image: bool = False

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        source: Plane,
        target: Plane,
        residual: jax.Array | None = None,
        *,
        relu: bool = False,
    ) -> jax.Array:
        """(B, rows, columns, pixels*C) on `source` -> (B, rows', columns', pixels'*D) on `target`.

        What lies outside of the image in the result has no meaning.
        """
        rows, columns = (taps(a, b, self.kind) for a, b in zip(source, target))
        low = self.dtype if self.image and self.dtype != jnp.float32 else None
        exact = (blocks.image_precision if self.image else blocks.feature_precision)(self.dtype)
        pixels = target.pixels

        def prepare(kernel: jax.Array, bias: jax.Array) -> Any:
            placed, bias = place_kernel(kernel, rows.place, columns.place), jnp.tile(bias, pixels)
            if low is None:
                placed, bias = placed.astype(self.dtype), bias.astype(self.dtype)
            return ready(placed, bias, x.dtype, low)

        def call(x: jax.Array, kernel: jax.Array) -> jax.Array:
            return lax.conv_general_dilated(
                x,
                kernel,
                (rows.stride, columns.stride),
                (rows.padding, columns.padding),
                dimension_numbers=("NHWC", "OHWI", "NHWC"),
                precision=self.convolutions.precision(exact),
            )

        size = 4 if self.kind == "up" else 3
        shape = (size, size, x.shape[-1] // source.pixels, self.features)
        made = prepared(self, shape, prepare) or prepare(*parameters(self, shape))
        y = convolved(call, x, made)
        if residual is not None:
            y = y + residual
        return nn.relu(y) if relu else y


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(x))) on `Planes.full`, by way of `Planes.image`."""

    dtype: Any
    convolutions: Convolutions

    @nn.compact
    def __call__(self, x: jax.Array, p: Planes, ended: Ended) -> jax.Array:
        """(B, H/2 + 1, W/2 + 1, 4*C), likewise; zero outside of the image."""
        conv = functools.partial(
            BlockConv,
            x.shape[-1] // p.full.pixels,
            dtype=self.dtype,
            convolutions=self.convolutions,
        )
        y = ended(conv(name="conv_1")(x, p.full, p.image, relu=True), p.image)
        return ended(outside_zero(conv(name="conv_2")(y, p.image, p.full, x)), p.full)


class Encoder(nn.Module):
    """Image to features: (B, H, W, 3) -> (B, H/4, W/4, 4*width), 15 convolutions."""

    width: int
    dtype: Any
    convolutions: Convolutions  # that this module belongs to

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        """Returns features in the compute dtype, as `blocks.Encoder` does."""
        height, width = image.shape[1] // 4, image.shape[2] // 4
        p, ended = planes(height, width), ends(self.convolutions, height, width, 1)
        common = (self.dtype, self.convolutions)
        conv = functools.partial(BlockConv, dtype=self.dtype, convolutions=self.convolutions)
        x = conv(self.width, image=True, name="conv_1")(to_blocks(image), p.image, p.full)
        x = ended(outside_zero(x), p.full)
        x = ResidualBlock(*common, name="block_1")(x, p, ended)
        x = ResidualBlock(*common, name="block_2")(x, p, ended)
        x = conv(2 * self.width, "down", name="conv_2")(x, p.full, p.half)
        x = ended(x, p.half)
        x = blocks.ResidualBlock(2 * self.width, *common, name="block_3")(x)
        x = blocks.ResidualBlock(2 * self.width, *common, name="block_4")(x)
        x = Conv(
            2 * self.width,
            4 * self.width,
            stride=2,
            dtype=self.dtype,
            precision=blocks.feature_precision(self.dtype),
            convolutions=self.convolutions,
            name="conv_3",
        )(x)
        x = blocks.ResidualBlock(4 * self.width, *common, name="block_5")(x)
        return blocks.ResidualBlock(4 * self.width, *common, name="block_6")(x)


class Decoder(nn.Module):
    """Features to image: (B, h, w, 4*width) -> (B, 4h, 4w, 3) float32, 15 convolutions."""

    width: int
    dtype: Any
    convolutions: Convolutions  # that this module belongs to

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns an image in float32, as `blocks.Decoder` does."""
        _, height, width, _ = x.shape
        p, ended = planes(height, width), ends(self.convolutions, height, width, 1)
        common = (self.dtype, self.convolutions)
        conv = functools.partial(BlockConv, dtype=self.dtype, convolutions=self.convolutions)
        x = blocks.ResidualBlock(4 * self.width, *common, name="block_1")(x)
        x = blocks.ResidualBlock(4 * self.width, *common, name="block_2")(x)
        x = Conv(
            4 * self.width,
            2 * self.width,
            transposed=True,
            dtype=self.dtype,
            precision=blocks.feature_precision(self.dtype),
            convolutions=self.convolutions,
            name="up_1",
        )(x)
        x = blocks.ResidualBlock(2 * self.width, *common, name="block_3")(x)
        x = blocks.ResidualBlock(2 * self.width, *common, name="block_4")(x)
        x = conv(self.width, "up", name="up_2")(x, p.half, p.full)
        x = ended(outside_zero(x), p.full)
        x = ResidualBlock(*common, name="block_5")(x, p, ended)
        x = ResidualBlock(*common, name="block_6")(x, p, ended)
        return from_blocks(conv(3, image=True, name="conv")(x, p.full, p.image))


@dataclasses.dataclass(frozen=True)
class CudnnBlocks(CudnnConvolutions):
    """The formulation for inference on NVIDIA's GPUs, in less than full float32."""

    encoder = Encoder
    decoder = Decoder
