"""Stack(N) over any unit (Sec. 3.3, Fig. 5a, Eq. 11): the paper's generic framework."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
from jaxtyping import Float32

from dmphn_jax.models.convolutions import XLA, Convolutions
from dmphn_jax.models.output import Output, UnitOutput


class Stack(nn.Module):
    """N units in a row: stage s deblurs the output of stage s-1 and adds its features.

    A single model is a stack of one. Every stage's output is supervised, so the first k stages
    are a valid, cheaper model: `stages=k` runs them and needs their parameters only.

    Attributes:
      unit: makes a unit with a name; a unit maps (image, features, first output) to `UnitOutput`.
      stages: N.
      convolutions: the units' formulation, which says how images lie between them.
    """

    unit: Callable[..., nn.Module]
    stages: int = 1
    convolutions: Convolutions = XLA

    @nn.compact
    def __call__(self, image: Float32[jax.Array, "B H W 3"], stages: int | None = None) -> Output:
        """Deblurs (B, H, W, 3) float32 on [-0.5, 0.5] with the first `stages` stages (all).

        Raises ValueError if `stages` is not in 1..N.
        """
        count = self.stages if stages is None else stages
        if not 1 <= count <= self.stages:
            raise ValueError(f"stages={count}, but the model has stages 1 to {self.stages}")
        fold, unfold = self.convolutions.fold, self.convolutions.unfold
        image = fold(image)
        outputs: list[UnitOutput] = []
        for stage in range(1, count + 1):
            unit = self.unit(name=f"stage_{stage}")
            if not outputs:
                outputs.append(unit(image))
            else:
                previous = outputs[-1]
                outputs.append(unit(previous.image, previous.features, outputs[0].image))
        return Output(
            stages=tuple(unfold(output.image) for output in outputs),
            levels=tuple(tuple(map(unfold, output.levels)) for output in outputs),
            features=outputs[-1].features,
        )
