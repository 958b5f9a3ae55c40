"""DMPHN, the deep hierarchical multi-patch network (Sec. 3.2, Fig. 2, Eq. 1 to 9)."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float, Float32

from dmphn_jax.models.blocks import EncoderDecoder
from dmphn_jax.models.convolutions import XLA, Convolutions
from dmphn_jax.models.output import UnitOutput
from dmphn_jax.models.patches import Grid


class DMPHN(nn.Module):
    """One unit: work goes from the finest level L up to level 1.

    Everything stands on the image plane:

        F_l = join_l(enc_l(split_l(B + S_{l+1}))) + F_{l+1} [+ F_l of the previous stage]
        S_l = join_{l-1}(dec_l(split_{l-1}(F_l))) [+ first stage's output, at level 2]

    with S_{L+1} = F_{L+1} = 0 and level 1 decoded on the whole image. The terms in brackets are
    those of stages s >= 2 of a stack; the last one is in the authors' graphs and weights, not in
    the paper.

    Attributes:
      grids: patch grid of each level, level 1 first: "1-2-4" is ((1, 1), (2, 1), (2, 2)).
      weight_sharing: one encoder-decoder pair for all levels (Table 4, "-WS").
      global_skip: the unit's output is its input plus the network's (not in the paper).
      width: channels at full resolution.
      dtype: compute dtype.
      remat: recompute activations in the backward pass.
      convolutions: how they are computed.
    """

    grids: tuple[Grid, ...]
    weight_sharing: bool = False
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
        """Deblurs (B, H, W, 3) float32 on [-0.5, 0.5]; H, W multiples of 4x the finest grid.

        Images come and go as `convolutions.fold` lays them out.

        Args:
          image: the blurry image, or the previous stage's output.
          features: the previous stage's `UnitOutput.features`; None in stage 1.
          first_output: the first stage's output image; None in stage 1.
        """
        pair = (self.width, self.dtype, self.remat, self.convolutions)
        split, join = self.convolutions.split, self.convolutions.join
        shared = EncoderDecoder(*pair, name="shared") if self.weight_sharing else None
        output, added = None, None  # S_{l+1}, F_{l+1}
        images, encoded = [], []
        for level in range(len(self.grids), 0, -1):
            grid = self.grids[level - 1]
            coarser = self.grids[level - 2] if level > 1 else (1, 1)
            network = shared or EncoderDecoder(*pair, name=f"level_{level}")
            x = image if output is None else image + output
            f = join(network.encode(split(x, grid)), grid)
            if added is not None:
                f = f + added
            if features is not None:
                f = f + features[level - 1]
            s = join(network.decode(split(f, coarser)), coarser)
            if level == 2 and first_output is not None:
                s = s + first_output
            if level == 1 and self.global_skip:
                s = s + image
            output, added = s, f
            images.append(s)
            encoded.append(f)
        return UnitOutput(images[-1], tuple(reversed(images)), tuple(reversed(encoded)))
