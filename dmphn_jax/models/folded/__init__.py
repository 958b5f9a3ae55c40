"""Encoder and decoder on blocks of pixels: a layout of features that fills a TPU's 128 lanes.

A vector unit has 128 lanes and a matrix unit 128 x 128 cells; 32 channels fill a quarter of
either. Here a position of an array holds a block of pixels, so that every feature array of the
network has 4*width channels:

    resolution   block (rows x columns)   array
    full         2 x 2                    (B, H/2 + 1, W/2 + 1, 4*width)
    half         1 x 2                    (B, H/2, W/4 + 1, 2 * 2*width)
    quarter      1 x 1                    (B, H/4, W/4, 4*width)
    image        4 x 4                    (B, H/4, W/4, 48)

The blocks of the residual stream begin one pixel *before* the image (hence "+ 1"), those between
the two convolutions of a residual block at the image's first pixel. A 3x3 convolution from either
to the other sees 2x2 blocks, not 3x3: its arithmetic is 16/9 of the plain one's, where blocks on
one grid would cost 4 times. What the stream holds outside of the image is kept zero by a mask.

A kernel between blocks holds the plain kernel's taps, each at its place, and zeros: one product
with a constant (`place_kernel`). So parameters and gradients are those of the plain layout.

A TPU wants eight images side by side in the eight rows of a tile. Fewer are cut into strips of
columns, which go to the batch axis and exchange their border columns after a convolution.
"""

from __future__ import annotations

import dataclasses

import jax

from dmphn_jax.models.convolutions import Convolutions
from dmphn_jax.models.folded import images
from dmphn_jax.models.folded.modules import Decoder, Encoder
from dmphn_jax.models.patches import Grid


@dataclasses.dataclass(frozen=True)
class FoldedConvolutions(Convolutions):
    """The formulation for TPUs; the same results on every platform, up to rounding."""

    encoder = Encoder
    decoder = Decoder

    def fold(self, image: jax.Array) -> jax.Array:
        """See `Convolutions`: (B, H, W, 3) -> (B, H/4, W/4, 48)."""
        return images.fold_image(image)

    def unfold(self, image: jax.Array) -> jax.Array:
        """See `Convolutions`: (B, h, w, 48) -> (B, 4h, 4w, 3)."""
        return images.unfold_image(image)

    def split(self, x: jax.Array, grid: Grid) -> jax.Array:
        """See `Convolutions`; the images of one patch stay together."""
        return images.split_patches(x, grid)

    def join(self, x: jax.Array, grid: Grid) -> jax.Array:
        """See `Convolutions`."""
        return images.join_patches(x, grid)
