"""DMSN, the multi-scale baseline of Table 2: the same encoder-decoder, coarse to fine."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float, Float32

from dmphn_jax.models.blocks import EncoderDecoder
from dmphn_jax.models.convolutions import XLA, Convolutions
from dmphn_jax.models.output import UnitOutput


def halve(x: jax.Array) -> jax.Array:
    """Averages 2x2 pixels: (B, 2h, 2w, C) -> (B, h, w, C)."""
    batch, height, width, channels = x.shape
    x = jnp.reshape(x, (batch, height // 2, 2, width // 2, 2, channels))
    return jnp.mean(x, axis=(2, 4))


class DMSN(nn.Module):
    """One unit over `scales` scales; scale k has 1/2^(k-1) of the image's height and width.

    From the coarsest scale to scale 1: S_k = dec_k(enc_k(B_k + up(S_{k+1}))), with B_k the
    2x2-averaged image, `up` bilinear doubling, and S_{scales+1} = 0. Every S_k is supervised.
    DMSN(1) is DMPHN(1). The paper gives no code; the setup is that of Nah et al. (2017).

    Attributes: `scales`, the others as in `DMPHN`; `global_skip` adds B_k at every scale.
    """

    scales: int
    global_skip: bool = False
    width: int = 32
    dtype: Any = jnp.float32
    remat: bool = False
    convolutions: Convolutions = XLA

    @nn.compact
    def __call__(
        self,
        image: Float32[jax.Array, "B H W C"],
        features: tuple[Float[jax.Array, "B _ _ _"], ...] | None = None,
        first_output: Float32[jax.Array, "B H W C"] | None = None,
    ) -> UnitOutput:
        """Deblurs (B, H, W, 3), H and W multiples of 2^(scales+1).

        In a stack the previous stage's features are added scale by scale; `first_output` is not
        used, since no scale corresponds to the patch hierarchy's level 2. Images come and go as
        `convolutions.fold` lays them out.
        """
        del first_output
        pair = (self.width, self.dtype, self.remat, self.convolutions)
        fold, unfold = self.convolutions.fold, self.convolutions.unfold
        pyramid = [unfold(image)]
        while len(pyramid) < self.scales:
            pyramid.append(halve(pyramid[-1]))
        output = None
        images, encoded = [], []
        for scale in range(self.scales, 0, -1):
            blurry = pyramid[scale - 1]
            x = blurry
            if output is not None:
                x = x + jax.image.resize(output, blurry.shape, "linear")
            network = EncoderDecoder(*pair, name=f"scale_{scale}")
            f = network.encode(fold(x))
            if features is not None:
                f = f + features[scale - 1]
            output = unfold(network.decode(f))
            if self.global_skip:
                output = output + blurry
            images.append(fold(output))
            encoded.append(f)
        return UnitOutput(images[-1], tuple(reversed(images)), tuple(reversed(encoded)))
