"""Image planes cut into blocks of pixels, and how a convolution of pixels acts between them."""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np


class Blocks(NamedTuple):
    """An axis of pixels cut into `count` blocks of `size` pixels; the first begins at `start`."""

    size: int
    start: int
    count: int

    @property
    def own(self) -> int:
        """Pixels but for those before the image, or the strip, and as many behind it."""
        return self.size * self.count + 2 * self.start


class Plane(NamedTuple):
    """An image plane in blocks: an array (B, rows.count, columns.count, pixels * channels).

    The last axis is (row in the block, column in the block, channel).
    """

    rows: Blocks
    columns: Blocks

    @property
    def pixels(self) -> int:
        """Pixels of a block."""
        return self.rows.size * self.columns.size


class Planes(NamedTuple):
    """The planes of one encoder or decoder; see `planes`."""

    image: Plane
    full: Plane
    full_inner: Plane
    half: Plane
    half_inner: Plane
    quarter: Plane


def planes(height: int, width: int, halo: int) -> Planes:
    """Returns the planes of images of 4*height x 4*width pixels.

    Args:
      height, width: of the features at a quarter of the resolution.
      halo: columns of blocks, at either side, that belong to neighbouring strips: 0 or 1.
    """
    m, n = height, width
    return Planes(
        image=Plane(Blocks(4, 0, m), Blocks(4, -4 * halo, n + 2 * halo)),
        full=Plane(Blocks(2, -1, 2 * m + 1), Blocks(2, -1, 2 * n + 1)),
        full_inner=Plane(Blocks(2, 0, 2 * m), Blocks(2, -2 * halo, 2 * n + 2 * halo)),
        half=Plane(Blocks(1, 0, 2 * m), Blocks(2, -1, n + 1)),
        half_inner=Plane(Blocks(1, 0, 2 * m), Blocks(2, -2 * halo, n + 2 * halo)),
        quarter=Plane(Blocks(1, 0, m), Blocks(1, -halo, n + 2 * halo)),
    )


class Taps(NamedTuple):
    """One axis of a convolution between blocks.

    Attributes:
      place: (K, p, q, T): 1 where tap K of the convolution between blocks meets, from pixel p of
        a block of the input to pixel q of a block of the output, tap T of the plain kernel.
      stride: of the windows.
      dilation: of the input, for transposed convolutions.
      padding: zeros before and after; negative where the input has more than is needed.
    """

    place: np.ndarray
    stride: int
    dilation: int
    padding: tuple[int, int]


@functools.cache
def taps(source: Blocks, target: Blocks, kind: str) -> Taps:
    """Returns how a convolution of pixels acts between two axes of blocks.

    Args:
      source: the input's axis, in pixels of its own resolution.
      target: the output's.
      kind: "same", the convolution of 3 taps; "down", with stride 2; "up", the transposed one of
        4 taps and stride 2.
    """
    numerator, denominator = {"same": (1, 1), "down": (2, 1), "up": (1, 2)}[kind]
    # Blocks of the input that the window moves on for one of the output, or the inverse of it.
    stride = max(numerator * target.size // (denominator * source.size), 1)
    dilation = max(denominator * source.size // (numerator * target.size), 1)
    length = 4 if kind == "up" else 3
    places = set()
    for block in range(dilation):
        for q in range(target.size):
            y = target.start + target.size * block + q
            for t in range(length):
                x = y + t - 2 if kind == "up" else numerator * y + t - 1
                if x % denominator == 0:  # else it is one of the zeros between two pixels
                    i, p = divmod(x // denominator - source.start, source.size)
                    places.add((dilation * i - stride * block, p, q, t))
    first = min(place[0] for place in places)
    size = max(place[0] for place in places) - first + 1
    place = np.zeros((size, source.size, target.size, length), np.float32)
    for k, p, q, t in places:
        place[k - first, p, q, t] = 1
    extent = dilation * (source.count - 1) + 1
    after = stride * (target.count - 1) + size - extent + first
    return Taps(place, stride, dilation, (-first, after))
