"""Images as a network takes them: of sizes that its patch grid divides."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def padded_to(multiple: Sequence[int], images: np.ndarray) -> np.ndarray:
    """Pads images by reflection, at the bottom and the right, by the least amount.

    Args:
      multiple: (rows, columns) that the height and the width are to be multiples of.
      images: (B, H, W, 3) uint8 or uint16.

    Returns (B, H', W', 3); the images themselves where nothing is missing.
    Raises ValueError for another shape and TypeError for another dtype.
    """
    if images.ndim != 4 or images.shape[-1] != 3 or 0 in images.shape:
        raise ValueError(f"images of shape {images.shape}: RGB needed, (height, width, 3)")
    if images.dtype not in (np.uint8, np.uint16):
        raise TypeError(f"images of dtype {images.dtype}: uint8 or uint16 needed")
    rows, columns = multiple
    missing = ((0, 0), (0, -images.shape[1] % rows), (0, -images.shape[2] % columns), (0, 0))
    # NumPy reflects again and again where an image is smaller than its padding.
    return np.pad(images, missing, mode="reflect") if np.any(missing) else images
