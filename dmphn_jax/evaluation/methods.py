"""What is scored: a network, an ensemble around it, and the blurry input itself."""

from __future__ import annotations

from typing import Protocol

import jax
import numpy as np

from dmphn_jax.inference.pending import Ready


class Outputs(Protocol):
    """Images under way; `inference.pending.Pending` is one."""

    @property
    def images(self) -> np.ndarray | jax.Array:
        """Uint8 (B', H, W, 3), B' at least B, where they were computed; read after `check`."""

    def check(self) -> None:
        """Waits for them; raises UserError if they are of no use."""

    def result(self) -> np.ndarray:
        """Waits, checks, and returns them on the host, uint8 (B, H, W, 3)."""


class Method(Protocol):
    """What can be scored; `inference.deblurrer.Deblurrer` is one."""

    def submit(self, images: np.ndarray) -> Outputs:
        """Deblurs uint8 (B, H, W, 3)."""


class Blurry:
    """The method that does nothing: its scores are the blurry input's."""

    def submit(self, images: np.ndarray) -> Ready:
        """Returns the images as they are."""
        return Ready(images)
