"""Whether the contenders of a group compute the same, checked before any of them is timed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dmphn_jax.benchmarking.contender import Contender

TOLERANCE = 1e-4
# Largest difference from float32 by precision, as a part of the scale; float32's is an option.
BOUNDS = {"float32": TOLERANCE, "tf32": 1e-2, "float16": 1e-1, "bfloat16": 1e-1}


class DisagreementError(Exception):
    """Two contenders do not compute the same; their times must not be compared."""


def check(contenders: Sequence[Contender], tolerance: float = TOLERANCE) -> list[dict[str, Any]]:
    """Compares what every contender computes with what the first does.

    That is in float32 if any is. Else the larger one of the two precisions' bounds holds.

    Args:
      contenders: of one group.
      tolerance: of those in float32; the others have `BOUNDS`. Both are parts of the scale.

    Returns:
      A dict per contender but the first and thing compared: `difference`, the largest absolute
      one; `scale`, the reference's largest absolute value (random weights may give images far
      within the range, or beyond it); `bound`, of the difference.

    Raises DisagreementError if a difference is above its bound.
    """
    reference, *others = contenders
    if not others:
        return []
    bounds = BOUNDS | {"float32": tolerance}
    expected = reference.check()
    rows = []
    for other in others:
        found = other.check()
        share = max(bounds[reference.precision], bounds[other.precision])
        for what, value in expected.items():
            row = {"contender": other.name, "reference": reference.name, "what": what}
            rows.append(row | _compare(value, found[what], share))
            if not rows[-1]["difference"] <= rows[-1]["bound"]:  # nan, too, is a disagreement
                raise DisagreementError(
                    f"{other.name} and {reference.name} do not give the same {what}: they differ "
                    f"by {rows[-1]['difference']:.3g}, the bound is {rows[-1]['bound']:.3g}; "
                    "they were not timed"
                )
    return rows


def _compare(expected: np.ndarray, found: np.ndarray, share: float) -> dict[str, float]:
    if found.shape != expected.shape:
        raise DisagreementError(f"shapes {found.shape} and {expected.shape} are not the same")
    scale = float(np.max(np.abs(expected)))
    difference = float(np.max(np.abs(found.astype(np.float64) - expected)))
    return {"difference": difference, "scale": scale, "bound": share * scale}
