"""Where tiles lie in a frame, and which crops a grid of tiles can serve."""

from __future__ import annotations

import functools

import numpy as np


def tile_starts(length: int, size: int, stride: int) -> tuple[int, ...]:
    """Returns the first pixels of the tiles along one axis: every `stride`, the last at the end.

    Together the tiles cover the axis. An axis shorter than a tile has one tile, of its own length.
    """
    if length <= size:
        return (0,)
    starts = list(range(0, length - size, stride))
    return (*starts, length - size)


@functools.lru_cache(maxsize=256)
def crop_starts(length: int, size: int, stride: int, crop: int) -> np.ndarray:
    """Returns every first pixel, int64 (N,), of a crop that lies within one tile of the axis.

    All of 0 .. length - crop where neighbouring tiles overlap by at least crop - 1 pixels.
    Empty if a tile is smaller than the crop.
    """
    tile = min(size, length)
    if crop > tile:
        return np.empty(0, np.int64)
    reach = [
        np.arange(start, start + tile - crop + 1) for start in tile_starts(length, size, stride)
    ]
    return np.unique(np.concatenate(reach))


def tile_of(start: int, length: int, size: int, stride: int, crop: int) -> tuple[int, int]:
    """Returns (which tile along the axis holds the crop, the crop's first pixel within it)."""
    tile = min(size, length)
    for number, first in enumerate(tile_starts(length, size, stride)):
        if first <= start and start + crop <= first + tile:
            return number, start - first
    raise ValueError(f"no tile holds the crop of {crop} at {start}")
