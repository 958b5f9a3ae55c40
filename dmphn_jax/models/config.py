"""What a model is, as plain data: kept in every checkpoint and every training config. No jax."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

FAMILIES = ("dmphn", "vmphn", "dmsn")
PATCHES = (1, 2, 4, 8, 16)
# What inference computes in; training has fewer: float16 gradients vanish. "tf32" is float32 of
# which a GPU may round the factors of products to TF32's 11 bits; other devices round less.
PRECISIONS = ("float32", "tf32", "bfloat16", "float16")
# Far beyond any sensible model. Files name models too: what they claim must not fill the memory.
MOST_LEVELS = 8
MOST_STAGES = 64
MOST_APPLICATIONS = 256  # encoder-decoder pairs applied to one image
MOST_WIDTH = 1024  # 1.9 billion parameters per encoder-decoder pair


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A model of the family.

    Attributes:
      family: the unit: "dmphn", "vmphn" or "dmsn".
      hierarchy: patches per level, level 1 first, such as "1-2-4", at most 8 levels; for DMSN the
        number of scales, such as "3".
      stages: units stacked, at most 64 and 256 encoder-decoder pairs in all.
      weight_sharing: one encoder-decoder pair for all levels of a unit (DMPHN only).
      width: channels at full resolution, at most 1024; the paper's models have 32.
      global_skip: a unit's output is its input plus the network's (not in the paper).

    Raises ValueError for values no model has.
    """

    family: str = "dmphn"
    hierarchy: str = "1-2-4"
    stages: int = 1
    weight_sharing: bool = False
    width: int = 32
    global_skip: bool = False

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise ValueError(f"family {_short(self.family)}: one of {', '.join(FAMILIES)}")
        for field in ("weight_sharing", "global_skip"):
            if not isinstance(getattr(self, field), bool):
                raise ValueError(f"{field} {_short(getattr(self, field))}: true or false")
        if self.weight_sharing and self.family != "dmphn":
            raise ValueError("weight_sharing: of DMPHN only")
        for field, most in (("stages", MOST_STAGES), ("width", MOST_WIDTH)):
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{field} {_short(value)}: a positive integer")
            if value > most:
                raise ValueError(f"{field} {_short(value)}: at most {most}")
        self._check_hierarchy()
        if self.applications > MOST_APPLICATIONS:
            raise ValueError(
                f"{self.stages} stages of {self.applications // self.stages} encoder-decoder "
                f"pairs: at most {MOST_APPLICATIONS} pairs in all"
            )

    def _check_hierarchy(self) -> None:
        hierarchy = self.hierarchy
        if not isinstance(hierarchy, str):
            raise ValueError(f"hierarchy {_short(hierarchy)}: a text such as 1-2-4")
        if self.family == "dmsn":
            if not re.fullmatch(r"[1-6]", hierarchy):
                raise ValueError(f"hierarchy {_short(hierarchy)}: DMSN has 1 to 6 scales")
            return
        if hierarchy.count("-") >= MOST_LEVELS:
            raise ValueError(f"hierarchy {_short(hierarchy)}: at most {MOST_LEVELS} levels")
        known = {str(n) for n in PATCHES}
        if any(part not in known for part in hierarchy.split("-")):
            raise ValueError(
                f"hierarchy {_short(hierarchy)}: levels of 1, 2, 4, 8 or 16 patches, as 1-2-4"
            )

    @property
    def patches(self) -> tuple[int, ...]:
        """Patches per level, level 1 first; of DMSN one per scale."""
        if self.family == "dmsn":
            return (1,) * int(self.hierarchy)
        return tuple(int(part) for part in self.hierarchy.split("-"))

    @property
    def grids(self) -> tuple[tuple[int, int], ...]:
        """Patch grid (rows, columns) of each level, level 1 first."""
        from dmphn_jax.models.patches import GRIDS  # here, so that names and sizes need no jax

        return tuple(GRIDS[n] for n in self.patches)

    @property
    def multiple(self) -> tuple[int, int]:
        """(rows, columns): image height and width must be multiples of these."""
        if self.family == "dmsn":
            size = 4 * 2 ** (int(self.hierarchy) - 1)
            return size, size
        return 4 * max(r for r, _ in self.grids), 4 * max(c for _, c in self.grids)

    @property
    def pairs(self) -> int:
        """Encoder-decoder pairs of the whole model: the paper's sizes count them."""
        return self.stages if self.weight_sharing else self.applications

    @property
    def applications(self) -> int:
        """Encoder-decoder pairs applied to one image, weight sharing or not."""
        visits = 2 if self.family == "vmphn" else 1
        return self.stages * visits * len(self.patches)

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as plain JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> ModelConfig:
        """Inverse of `to_dict`; raises ValueError naming an unknown field or a bad value."""
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(fields) - known)
        if unknown:
            raise ValueError(f"unknown model field {_short(unknown[0])}")
        return cls(**fields)


def _short(value: Any) -> str:
    """Returns a value as a message shows it, however long it is."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def parameter_count(config: ModelConfig) -> int:
    """Returns the number of parameters; 1,808,131 per encoder-decoder pair at width 32."""
    w = config.width

    def conv(inputs: int, outputs: int, size: int = 3) -> int:
        return size * size * inputs * outputs + outputs

    blocks = sum(4 * conv(c, c) for c in (w, 2 * w, 4 * w))
    encoder = conv(3, w) + conv(w, 2 * w) + conv(2 * w, 4 * w) + blocks
    decoder = conv(4 * w, 2 * w, 4) + conv(2 * w, w, 4) + conv(w, 3) + blocks
    return config.pairs * (encoder + decoder)


def multiply_adds(config: ModelConfig, height: int, width: int) -> float:
    """Returns the multiply-accumulate operations of all convolutions for one image."""
    w = config.width
    blocks = 4 * 9 * w * w * (1 + 4 / 4 + 16 / 16)  # equal at each of the three resolutions
    encoder = 9 * 3 * w + 9 * w * 2 * w / 4 + 9 * 2 * w * 4 * w / 16 + blocks
    decoder = 16 * 4 * w * 2 * w / 16 + 16 * 2 * w * w / 4 + 9 * w * 3 + blocks
    per_pair = (encoder + decoder) * height * width
    if config.family == "dmsn":
        return config.stages * sum(per_pair / 4**k for k in range(int(config.hierarchy)))
    return config.applications * per_pair


def operations(config: ModelConfig, height: int, width: int, *, training: bool = False) -> float:
    """Returns the floating-point operations of all convolutions for one image or pair of crops.

    Two per multiply-accumulate. Training counts three times the forward pass, whose backward pass
    has gradients of inputs and of kernels; the update and the gradient of the first layer's input,
    which nobody takes, are not told apart.
    """
    return (3 if training else 1) * 2 * multiply_adds(config, height, width)
