"""VMPHN (Sec. 3.3, Fig. 5b): down through the levels and back up.

The authors released no code for it. This is the reading that fits the text ("begins from the top
level, reaches the bottom level, and then proceeds back to the top level", "a reversed version of
Stack(2)-DMPHN") and the size of the paper's tables, six encoder-decoder pairs.
"""

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


class VMPHN(nn.Module):
    """One unit: a descending pass over levels 1..L, then an ascending pass over L..1.

    Visit v has its own encoder-decoder pair and computes, on the image plane,

        F_v = join(enc_v(split(B + S_{v-1}))) + F_{v-1} [+ F of the descending visit, if ascending]
        S_v = join(dec_v(split(F_v)))

    with S_0 = F_0 = 0. The encoder sees the visited level's patches; a descending visit decodes
    on the same grid, an ascending one on the next coarser grid, as in DMPHN. The ascending visit
    to level L follows the descending one, whose features it therefore adds twice. In a stack,
    stages s >= 2 also add the previous stage's features visit by visit, and the first stage's
    output to the ascending visit to level 2.

    Attributes: as in `DMPHN`.
    """

    grids: tuple[Grid, ...]
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
        """Deblurs (B, H, W, 3); arguments as of `DMPHN`.

        `UnitOutput.levels` are the ascending pass's images; `features` are those of all visits,
        in the order of the visits.
        """
        count = len(self.grids)
        pair = (self.width, self.dtype, self.remat, self.convolutions)
        split, join = self.convolutions.split, self.convolutions.join
        visits = [("descending", level) for level in range(1, count + 1)]
        visits += [("ascending", level) for level in range(count, 0, -1)]
        output, added = None, None  # S_{v-1}, F_{v-1}
        images: dict[int, jax.Array] = {}
        encoded: list[jax.Array] = []
        for number, (direction, level) in enumerate(visits):
            ascending = direction == "ascending"
            grid = self.grids[level - 1]
            decoded_on = grid
            if ascending:
                decoded_on = self.grids[level - 2] if level > 1 else (1, 1)
            network = EncoderDecoder(*pair, name=f"{direction}_level_{level}")
            x = image if output is None else image + output
            f = join(network.encode(split(x, grid)), grid)
            if added is not None:
                f = f + added
            if ascending:
                f = f + encoded[level - 1]
            if features is not None:
                f = f + features[number]
            s = join(network.decode(split(f, decoded_on)), decoded_on)
            if ascending and level == 2 and first_output is not None:
                s = s + first_output
            if ascending and level == 1 and self.global_skip:
                s = s + image
            output, added = s, f
            encoded.append(f)
            if ascending:
                images[level] = s
        levels = tuple(images[level] for level in range(1, count + 1))
        return UnitOutput(levels[0], levels, tuple(encoded))
