"""Residual block, encoder and decoder (Fig. 4, Sec. 3.1), shared by every model."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from dmphn_jax.models.conv import Conv


def exactness(dtype: Any) -> lax.Precision | None:
    """Precision of the products: a float32 network means float32, not TF32 or one bfloat16 pass."""
    return lax.Precision.HIGHEST if jnp.dtype(dtype) == jnp.float32 else None


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(x))), channels unchanged."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, h, w, C) -> (B, h, w, C)."""
        conv = {"features": x.shape[-1], "dtype": self.dtype, "precision": exactness(self.dtype)}
        y = Conv(**conv, name="conv_1")(x, relu=True)
        return Conv(**conv, name="conv_2")(y, x)


class Encoder(nn.Module):
    """Image to features: (B, H, W, 3) -> (B, H/4, W/4, 4*width), 15 convolutions."""

    width: int = 32
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns features in the compute dtype; the first convolution is float32.

        An image rounded to bfloat16 is wrong by up to a quarter of a grey level, again in every
        stage of a stack: docs/benchmarks.md has what that costs.
        """
        precision = exactness(self.dtype)
        for i, (features, stride) in enumerate(((1, 1), (2, 2), (4, 2))):
            x = Conv(
                features * self.width,
                stride=stride,
                dtype=self.dtype if i else jnp.float32,
                precision=precision if i else precision or lax.Precision.HIGH,
                name=f"conv_{i + 1}",
            )(x).astype(self.dtype)
            x = ResidualBlock(self.dtype, name=f"block_{2 * i + 1}")(x)
            x = ResidualBlock(self.dtype, name=f"block_{2 * i + 2}")(x)
        return x


class Decoder(nn.Module):
    """Features to image: (B, h, w, 4*width) -> (B, 4h, 4w, 3) float32, 15 convolutions."""

    width: int = 32
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns an image; the last convolution and the image are float32."""
        precision = exactness(self.dtype)
        for i, features in enumerate((4, 2, 1)):
            if i:
                x = Conv(
                    features * self.width,
                    transposed=True,
                    dtype=self.dtype,
                    precision=precision,
                    name=f"up_{i}",
                )(x)
            x = ResidualBlock(self.dtype, name=f"block_{2 * i + 1}")(x)
            x = ResidualBlock(self.dtype, name=f"block_{2 * i + 2}")(x)
        return Conv(3, dtype=jnp.float32, precision=precision, name="conv")(x)


class EncoderDecoder(nn.Module):
    """The pair of one level: 1,808,131 parameters at width 32.

    With `remat`, activations inside the pair are recomputed in the backward pass.
    """

    width: int = 32
    dtype: Any = jnp.float32
    remat: bool = False

    def setup(self) -> None:
        """Names the two halves as the parameter tree spells them."""
        wrap = nn.remat if self.remat else (lambda module: module)
        self.encoder = wrap(Encoder)(self.width, self.dtype)
        self.decoder = wrap(Decoder)(self.width, self.dtype)

    def encode(self, x: jax.Array) -> jax.Array:
        """(B, H, W, 3) -> (B, H/4, W/4, 4*width)."""
        return self.encoder(x)

    def decode(self, x: jax.Array) -> jax.Array:
        """(B, h, w, 4*width) -> (B, 4h, 4w, 3)."""
        return self.decoder(x)
