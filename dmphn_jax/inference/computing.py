"""Images on their way through a network, and how many of them. No jax."""

from __future__ import annotations

from typing import Protocol

import numpy as np

# Batches submitted and not taken back, for a device: one is computed while one is copied.
PER_DEVICE = 2


class Computing(Protocol):
    """A batch on its way; `inference.pending.Pending` is one."""

    def result(self) -> np.ndarray:
        """Waits for it; returns it on the host, (B, H, W, 3) of the dtype that was submitted."""
