"""Where the tiles of a large image lie, and how they are blended: docs/inference.md derives it.

A tile is a window of the image that goes through the network by itself. Two things set it apart
from the same pixels of the whole: what lies beyond its borders is missing, which reaches `margin`
pixels inwards; and the patch grid, which cuts the whole image and not the tile. So no tile is cut
where the image is not: tiles stand centred on the image's cuts, with grids of two patches for the
levels that cut there, or between them, with grids of one. Beyond the margin a tile then equals
the whole.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from dmphn_jax.models import ModelConfig
from dmphn_jax.models.patches import Grid

RAMP = 32  # pixels from one tile to the next


class Tile(NamedTuple):
    """A window of an image along one axis, or a row or column of tiles.

    Attributes:
      start: its first pixel.
      patches: how many it is cut into at each level, level 1 first.
      weights: of its pixels in the result, (size,) float32; those of all tiles add up to 1.
    """

    start: int
    patches: tuple[int, ...]
    weights: np.ndarray


class Layout(NamedTuple):
    """The tiles of an image: every row's with every column's.

    Attributes:
      size: (height, width) of a tile.
      rows, columns: in order.
    """

    size: tuple[int, int]
    rows: tuple[Tile, ...]
    columns: tuple[Tile, ...]

    @property
    def tiles(self) -> int:
        """How many tiles there are."""
        return len(self.rows) * len(self.columns)

    def grids(self, row: Tile, column: Tile) -> tuple[Grid, ...]:
        """Patch grid of each level of the tile in a row and a column."""
        return tuple(zip(row.patches, column.patches, strict=True))


def margin(config: ModelConfig, stages: int) -> int:
    """Returns how many pixels in from a tile's border its result is not the whole image's.

    64 per encoder-decoder pair that a pixel passes, one after the other: 192 for DMPHN(1-2-4),
    768 for a stack of four. DMSN's coarse scales reach further.
    """
    if config.family != "dmsn":
        return _pair(0) * (config.applications // config.stages) * stages
    reached = 0
    for _ in range(stages):
        output: int | None = None
        for scale in range(len(config.patches), 0, -1):
            seen = -(-reached // 2 ** (scale - 1))
            if output is not None:
                seen = max(seen, 2 * output + 1)  # bilinear doubling reaches one pixel
            output = _pair(seen)
        reached = output or 0
    return -(-reached // config.multiple[0]) * config.multiple[0]


def _pair(wrong: int) -> int:
    """Returns how many pixels from a border are wrong behind an encoder-decoder pair.

    `wrong` are so before it. A 3x3 convolution reaches 1 pixel further; with a stride of 2, w
    wrong pixels become ceil((w + 1) / 2), and the transposed one makes 2w + 1 of them.
    """
    wrong += 1 + 4  # the first convolution, two residual blocks
    for _ in range(2):
        wrong = -(-(wrong + 1) // 2) + 4
    wrong += 4
    for _ in range(2):
        wrong = 2 * wrong + 1 + 4
    return wrong + 1  # the last convolution


def default_overlap(config: ModelConfig, stages: int) -> int:
    """Returns the least overlap with which tiles equal the whole: two margins and a ramp."""
    return 2 * margin(config, stages) + RAMP


def lay_out(
    config: ModelConfig, stages: int, size: tuple[int, int], tile: int, overlap: int
) -> Layout:
    """Lays tiles over an image.

    Args:
      config: the model.
      stages: those that run.
      size: (height, width) of the image; the patch grid divides it.
      tile: height and width of a tile at most, in pixels. Smaller where the image's patches are.
      overlap: pixels that neighbours share, at least; of a tile at most half. In its middle they
        are blended by a raised cosine, over what two margins leave of it, or `RAMP`; pixels
        nearer to a tile's border count for nothing.
    """
    wrong = margin(config, stages)
    grids = config.grids if config.family != "dmsn" else ((1, 1),) * len(config.patches)
    step = 4 if config.family != "dmsn" else config.multiple[0]
    height, rows = _axis(size[0], tuple(r for r, _ in grids), tile, overlap, wrong, step)
    width, columns = _axis(size[1], tuple(c for _, c in grids), tile, overlap, wrong, step)
    return Layout((height, width), rows, columns)


def _axis(
    length: int, patches: tuple[int, ...], tile: int, overlap: int, wrong: int, step: int
) -> tuple[int, tuple[Tile, ...]]:
    """Returns the tiles' size along an axis, and the tiles.

    Args:
      length: of the image.
      patches: of the image along this axis, level by level.
      tile: size at most.
      overlap: see `lay_out`.
      wrong: the margin.
      step: tiles begin at its multiples; their halves are multiples of it.
    """
    if tile >= length:
        return length, (Tile(0, patches, np.ones(length, np.float32)),)
    finest = max(patches)
    patch = length // finest
    size = 2 * patch if tile >= 2 * patch else min(tile, patch)
    size = max(size // (2 * step), 1) * 2 * step
    overlap = min(-(-overlap // (2 * step)) * 2 * step, size // 2 // step * step)
    places = {
        cut * patch - size // 2: tuple(2 if cut * n % finest == 0 else 1 for n in patches)
        for cut in range(1, finest)
    }
    for number in range(finest):
        for start in _between(number, finest, patch, size, overlap, step):
            places.setdefault(start, (1,) * len(patches))
    starts = sorted(places)
    weights = _weights(length, size, starts, overlap, wrong)
    return size, tuple(Tile(start, places[start], w) for start, w in zip(starts, weights))


def _between(number: int, finest: int, patch: int, size: int, overlap: int, step: int) -> list[int]:
    """Returns where the tiles begin that lie in one patch and fill what centred tiles leave."""
    low, high = number * patch, (number + 1) * patch
    first, last = number == 0, number == finest - 1
    # From the end of the tile centred on the upper border to the start of the lower border's.
    done = 0 if first else low + size // 2
    resumed = high if last else high - size // 2
    if done - (0 if first or last else overlap) >= resumed:
        return []
    begin = 0 if first else done - overlap
    end = high if last else resumed + overlap
    if end - begin <= size:
        return [min(begin, high - size)]
    count = -(-(end - begin - overlap) // (size - overlap))
    free = (end - begin - size) // step
    return [begin + free * i // (count - 1) * step for i in range(count)]


def _weights(
    length: int, size: int, starts: list[int], overlap: int, wrong: int
) -> list[np.ndarray]:
    """Returns every tile's weights: 0 in its outermost pixels, a raised cosine, 1."""
    ramp = max(min(RAMP, overlap // 2), overlap - 2 * wrong)
    rise = np.concatenate([np.zeros((overlap - ramp) // 2), _raised_cosine(ramp)])
    windows = []
    total = np.zeros(length)
    for start in starts:
        window = np.ones(size)
        if start > 0:
            window[: len(rise)] = rise
        if start + size < length:
            window[size - len(rise) :] *= rise[::-1]
        total[start : start + size] += window
        windows.append(window)
    return [
        (window / total[start : start + size]).astype(np.float32)
        for start, window in zip(starts, windows)
    ]


@functools.cache
def _raised_cosine(count: int) -> np.ndarray:
    return np.sin((np.arange(count) + 0.5) / max(count, 1) * np.pi / 2) ** 2
