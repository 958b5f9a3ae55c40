"""The one structure every model returns, and what a unit hands to the next stage."""

from __future__ import annotations

from flax import struct
from jax import Array
from jaxtyping import Float, Float32


@struct.dataclass
class UnitOutput:
    """Result of one unit (one stage).

    Attributes:
      image: the unit's output image, (B, H, W, 3) float32.
      levels: every level's image, level 1 first, so `levels[0]` is `image`. Of DMPHN and VMPHN
        all are (B, H, W, 3) (Fig. 7); of DMSN, level l's is (B, H/2^(l-1), W/2^(l-1), 3).
      features: the encoded features of every visit, (B, H/4, W/4, 4*width) each; the next stage
        adds them to its own (Fig. 5).
    """

    image: Float32[Array, "B H W 3"]
    levels: tuple[Float32[Array, "B _ _ 3"], ...]
    features: tuple[Float[Array, "B _ _ C"], ...]


@struct.dataclass
class Output:
    """Result of a model. What a caller does not use, XLA removes from the compiled program.

    Images are float32 on [-0.5, 0.5], not clipped.

    Attributes:
      stages: every stage's image, (B, H, W, 3), stage 1 first (Fig. 8).
      levels: for every stage, its level images, level 1 first (see `UnitOutput`).
      features: the last stage's features, one per level or visit.
    """

    stages: tuple[Float32[Array, "B H W 3"], ...]
    levels: tuple[tuple[Float32[Array, "B _ _ 3"], ...], ...]
    features: tuple[Float[Array, "B _ _ C"], ...]

    @property
    def image(self) -> Float32[Array, "B H W 3"]:
        """The final image: the last stage's."""
        return self.stages[-1]
