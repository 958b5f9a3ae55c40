"""Which sizes are compiled for a folder of images of many."""

from __future__ import annotations

import collections
from collections.abc import Iterable

import numpy as np

MOST = 8  # programs compiled for a folder
_MOST_COMPARED = 256

Size = tuple[int, int]  # (height, width)


def choose(sizes: Iterable[Size], multiple: Size, most: int = MOST) -> tuple[Size, ...]:
    """Returns at most `most` sizes such that each of `sizes` fits into one of them.

    Those that cost the fewest pixels in all, found step by step: the two sizes go together that
    add the least.

    Args:
      sizes: of the images, multiples of `multiple`; one that comes often counts often.
      multiple: what those returned are multiples of.
      most: at least 1.
    """
    counts = collections.Counter(sizes)
    step = multiple
    while len(counts) > max(_MOST_COMPARED, most):  # coarser
        step = (2 * step[0], 2 * step[1])
        rounded: collections.Counter[Size] = collections.Counter()
        for (height, width), count in counts.items():
            rounded[-(-height // step[0]) * step[0], -(-width // step[1]) * step[1]] += count
        counts = rounded
    shapes = np.array(list(counts), np.int64).reshape(-1, 2)
    images = np.array(list(counts.values()), np.int64)
    while len(shapes) > most:
        joined = np.maximum(shapes[:, None], shapes[None]).prod(-1)
        own = images * shapes.prod(-1)
        added = (images[:, None] + images) * joined - own[:, None] - own
        np.fill_diagonal(added, np.iinfo(np.int64).max)
        a, b = np.unravel_index(np.argmin(added), added.shape)
        shapes[a] = np.maximum(shapes[a], shapes[b])
        images[a] += images[b]
        shapes, images = np.delete(shapes, b, 0), np.delete(images, b)
    return tuple(sorted({(int(height), int(width)) for height, width in shapes}))


def smallest(buckets: Iterable[Size], size: Size) -> Size | None:
    """Returns the bucket of the fewest pixels that a size fits into; None if there is none."""
    fitting = [b for b in buckets if b[0] >= size[0] and b[1] >= size[1]]
    return min(fitting, key=lambda b: b[0] * b[1], default=None)
