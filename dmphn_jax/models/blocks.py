"""Residual block, encoder and decoder (Fig. 4, Sec. 3.1), shared by every model."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float, Float32

from dmphn_jax.models.conv import Conv
from dmphn_jax.models.convolutions import XLA, Convolutions


def feature_precision(dtype: Any) -> lax.Precision | None:
    """Precision of products of features: of a float32 network HIGHEST, else the dtype's own.

    Without it float32 may mean TF32, or one pass in bfloat16.
    """
    return lax.Precision.HIGHEST if jnp.dtype(dtype) == jnp.float32 else None


def image_precision(dtype: Any) -> lax.Precision:
    """Precision of the convolutions that read and write images, which take and give float32.

    In a network of low precision HIGH. On a TPU, whose units multiply bfloat16, that is three
    products of them for one: the kernel and the image keep 16 bits each, the sums are float32, and
    the result is off by less than a hundredth of a grey level. A float32 network's HIGHEST is six.
    """
    return feature_precision(dtype) or lax.Precision.HIGH


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(x))), channels unchanged."""

    channels: int
    dtype: Any = jnp.float32
    convolutions: Convolutions = XLA

    @nn.compact
    def __call__(self, x: Float[jax.Array, "B h w C"]) -> Float[jax.Array, "B h w C"]:
        """(B, h, w, channels) -> (B, h, w, channels)."""
        conv = {
            "inputs": self.channels,
            "features": self.channels,
            "dtype": self.dtype,
            "precision": feature_precision(self.dtype),
            "convolutions": self.convolutions,
        }
        y = Conv(**conv, name="conv_1")(x, relu=True)
        return Conv(**conv, name="conv_2")(y, x)


class Encoder(nn.Module):
    """Image to features: (B, H, W, 3) -> (B, H/4, W/4, 4*width), 15 convolutions."""

    width: int = 32
    dtype: Any = jnp.float32
    convolutions: Convolutions = XLA

    @nn.compact
    def __call__(self, image: Float32[jax.Array, "B H W 3"]) -> Float[jax.Array, "B H//4 W//4 C"]:
        """Returns features in the compute dtype; the first convolution reads a float32 image.

        An image rounded to bfloat16 is wrong by up to a quarter of a grey level, again in every
        stage of a stack: docs/benchmarks.md has what that costs.
        """
        x = Conv(
            3,
            self.width,
            dtype=jnp.float32,
            output=self.dtype,
            precision=image_precision(self.dtype),
            convolutions=self.convolutions,
            name="conv_1",
        )(image)
        for i, factor in enumerate((1, 2, 4)):
            channels = factor * self.width
            if i:
                x = Conv(
                    channels // 2,
                    channels,
                    stride=2,
                    dtype=self.dtype,
                    precision=feature_precision(self.dtype),
                    convolutions=self.convolutions,
                    name=f"conv_{i + 1}",
                )(x)
            block = (channels, self.dtype, self.convolutions)
            x = ResidualBlock(*block, name=f"block_{2 * i + 1}")(x)
            x = ResidualBlock(*block, name=f"block_{2 * i + 2}")(x)
        return x


class Decoder(nn.Module):
    """Features to image: (B, h, w, 4*width) -> (B, 4h, 4w, 3) float32, 15 convolutions."""

    width: int = 32
    dtype: Any = jnp.float32
    convolutions: Convolutions = XLA

    @nn.compact
    def __call__(self, x: Float[jax.Array, "B h w C"]) -> Float32[jax.Array, "B 4*h 4*w 3"]:
        """Returns an image in float32.

        The last convolution reads features of the compute dtype, and multiplies them with its
        float32 kernel at `image_precision`; its sums are float32. (`CudnnConvolutions` takes kernel
        and sums in two parts of the compute dtype each, which is as exact.)
        """
        for i, factor in enumerate((4, 2, 1)):
            channels = factor * self.width
            if i:
                x = Conv(
                    2 * channels,
                    channels,
                    transposed=True,
                    dtype=self.dtype,
                    precision=feature_precision(self.dtype),
                    convolutions=self.convolutions,
                    name=f"up_{i}",
                )(x)
            block = (channels, self.dtype, self.convolutions)
            x = ResidualBlock(*block, name=f"block_{2 * i + 1}")(x)
            x = ResidualBlock(*block, name=f"block_{2 * i + 2}")(x)
        return Conv(
            self.width,
            3,
            dtype=jnp.float32,
            precision=image_precision(self.dtype),
            convolutions=self.convolutions,
            name="conv",
        )(x)


class EncoderDecoder(nn.Module):
    """The pair of one level: 1,808,131 parameters at width 32.

    With `remat`, activations inside the pair are recomputed in the backward pass.
    """

    width: int = 32
    dtype: Any = jnp.float32
    remat: bool = False
    convolutions: Convolutions = XLA

    def setup(self) -> None:
        """Names the two halves as the parameter tree spells them."""
        wrap = nn.remat if self.remat else (lambda module: module)
        half = (self.width, self.dtype, self.convolutions)
        self.encoder = wrap(self.convolutions.encoder or Encoder)(*half)
        self.decoder = wrap(self.convolutions.decoder or Decoder)(*half)

    def encode(self, x: Float32[jax.Array, "B _ _ _"]) -> Float[jax.Array, "B h w C"]:
        """Image (B, H, W, 3), folded by `convolutions`, -> (B, H/4, W/4, 4*width)."""
        return self.encoder(x)

    def decode(self, x: Float[jax.Array, "B h w C"]) -> Float32[jax.Array, "B _ _ _"]:
        """(B, h, w, 4*width) -> image (B, 4h, 4w, 3), folded by `convolutions`."""
        return self.decoder(x)
