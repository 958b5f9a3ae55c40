"""What is scored: a network, the self-ensemble around it, and the blurry input itself."""

from __future__ import annotations

from typing import Protocol

import numpy as np


class Method(Protocol):
    """What can be scored; `inference.Deblurrer` is one."""

    def batch(self, images: np.ndarray) -> np.ndarray:
        """Deblurs uint8 (B, H, W, 3)."""


class Blurry:
    """The method that does nothing: its scores are the blurry input's."""

    def batch(self, images: np.ndarray) -> np.ndarray:
        """Returns the images as they are."""
        return images


class SelfEnsemble:
    """x8 self-ensemble: the mean over the 8 flips and quarter turns of the image.

    It gains a little PSNR and costs eight passes of the network per image, and one more compiled
    program for the turned size. The passes are averaged at 16 bits and rounded once.
    """

    def __init__(self, method: Method) -> None:
        self.method = method

    def batch(self, images: np.ndarray) -> np.ndarray:
        """Deblurs uint8 (B, H, W, 3)."""
        deep = images.astype(np.uint16) * 257  # 255 becomes 65535: the same image, exactly
        total = np.zeros(images.shape, np.uint32)
        for turns in range(4):
            turned = np.rot90(deep, turns, axes=(1, 2))
            for flip in (slice(None), slice(None, None, -1)):
                output = self.method.batch(np.ascontiguousarray(turned[:, :, flip]))
                total += np.rot90(output[:, :, flip], -turns, axes=(1, 2))
        return ((2 * total + 8 * 257) // (2 * 8 * 257)).astype(np.uint8)
