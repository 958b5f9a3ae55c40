"""What is scored: a network, the self-ensemble around it, and the blurry input itself."""

from __future__ import annotations

import dataclasses
from typing import Protocol

import jax
import numpy as np


class Outputs(Protocol):
    """Images under way; `inference.Pending` is one."""

    @property
    def images(self) -> np.ndarray | jax.Array:
        """Uint8 (B', H, W, 3), B' at least B, where they were computed; read after `check`."""

    def check(self) -> None:
        """Waits for them; raises UserError if they are of no use."""

    def result(self) -> np.ndarray:
        """Waits, checks, and returns them on the host, uint8 (B, H, W, 3)."""


class Method(Protocol):
    """What can be scored; `inference.Deblurrer` is one."""

    def submit(self, images: np.ndarray) -> Outputs:
        """Deblurs uint8 (B, H, W, 3)."""


@dataclasses.dataclass(frozen=True)
class Ready:
    """`Outputs` that lie on the host."""

    images: np.ndarray

    def check(self) -> None:
        """They are ready."""

    def result(self) -> np.ndarray:
        """Returns them."""
        return self.images


class Blurry:
    """The method that does nothing: its scores are the blurry input's."""

    def submit(self, images: np.ndarray) -> Ready:
        """Returns the images as they are."""
        return Ready(images)


class SelfEnsemble:
    """x8 self-ensemble: the mean over the 8 flips and quarter turns of the image.

    It gains a little PSNR and costs eight passes of the network per image, and one more compiled
    program for the turned size. The passes are averaged at 16 bits and rounded once.
    """

    def __init__(self, method: Method) -> None:
        self.method = method

    def submit(self, images: np.ndarray) -> Ready:
        """Deblurs uint8 (B, H, W, 3)."""
        deep = images.astype(np.uint16) * 257  # 255 becomes 65535: the same image, exactly
        total = np.zeros(images.shape, np.uint32)
        for turns in range(4):
            turned = np.rot90(deep, turns, axes=(1, 2))
            for flip in (slice(None), slice(None, None, -1)):
                output = self.method.submit(np.ascontiguousarray(turned[:, :, flip])).result()
                total += np.rot90(output[:, :, flip], -turns, axes=(1, 2))
        return Ready(((2 * total + 8 * 257) // (2 * 8 * 257)).astype(np.uint8))
