"""Means over several looks at an image: more passes of a network, a little more quality."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

import numpy as np

from dmphn_jax.errors import UserError
from dmphn_jax.inference.buckets import Size
from dmphn_jax.inference.pending import Ready
from dmphn_jax.models import ModelConfig
from dmphn_jax.models.patches import Grid

_Back = Callable[[np.ndarray], np.ndarray]


class Computing(Protocol):
    """Images under way; `inference.Pending` is one."""

    def result(self) -> np.ndarray:
        """Waits for them and returns them on the host, (B, H, W, 3)."""


class Method(Protocol):
    """What deblurs; `inference.Deblurrer` is one."""

    def submit(self, images: np.ndarray) -> Computing:
        """Deblurs (B, H, W, 3) uint8 or uint16."""


class Ensemble:
    """The mean of what a method makes of an image in several poses.

    The passes are averaged at 16 bits and rounded once.
    """

    def __init__(self, method: Method) -> None:
        self.method = method

    def sizes(self, sizes: Iterable[Size]) -> list[Size]:
        """Returns the sizes of what the method gets for images of some (height, width)."""
        raise NotImplementedError

    def poses(self, images: np.ndarray) -> Iterator[tuple[np.ndarray, _Back]]:
        """Yields the images (B, H, W, 3) in every pose, and what undoes it."""
        raise NotImplementedError

    def submit(self, images: np.ndarray) -> Ready:
        """Deblurs uint8 or uint16 (B, H, W, 3); the result is there at once."""
        # 255 becomes 65535: the same image, exactly.
        scale = 257 if images.dtype == np.uint8 else 1
        deep = images.astype(np.uint16) * np.uint16(scale)
        total, count = np.zeros(images.shape, np.uint32), 0
        for pose, back in self.poses(deep):
            total += back(self.method.submit(np.ascontiguousarray(pose)).result())
            count += 1
        whole = count * scale
        return Ready(((2 * total + whole) // (2 * whole)).astype(images.dtype))


class SelfEnsemble(Ensemble):
    """x8 self-ensemble: the mean over the 8 flips and quarter turns of the image.

    It gains a little PSNR and costs eight passes of the network per image, and one more compiled
    program for the turned size.
    """

    def sizes(self, sizes: Iterable[Size]) -> list[Size]:
        """See `Ensemble`."""
        return [size for h, w in sizes for size in ((h, w), (w, h))]

    def poses(self, images: np.ndarray) -> Iterator[tuple[np.ndarray, _Back]]:
        """See `Ensemble`."""
        for turns in range(4):
            turned = np.rot90(images, turns, axes=(1, 2))
            for flip in (slice(None), slice(None, None, -1)):
                yield turned[:, :, flip], functools.partial(_turned_back, turns=turns, flip=flip)


def _turned_back(images: np.ndarray, turns: int, flip: slice) -> np.ndarray:
    return np.rot90(images[:, :, flip], -turns, axes=(1, 2))


class ShiftEnsemble(Ensemble):
    """The mean over two places of the patch grid along each axis that it cuts.

    The image is extended by reflection, by a quarter of a finest patch, once before and once
    behind: its cuts lie an eighth of a patch to either side of where they were. Two or four passes
    of a slightly larger image.
    """

    def __init__(self, method: Method, config: ModelConfig) -> None:
        """Takes a method and its model; raises UserError if that cuts no patches."""
        super().__init__(method)
        grids = config.grids if config.family != "dmsn" else ((1, 1),)
        self._finest: Grid = (max(rows for rows, _ in grids), max(cols for _, cols in grids))
        self._multiple = config.multiple
        if self._finest == (1, 1):
            raise UserError("the shift ensemble moves the patch grid, and this model has none")

    def sizes(self, sizes: Iterable[Size]) -> list[Size]:
        """See `Ensemble`."""
        return [(h + self._shift((h, w))[0], w + self._shift((h, w))[1]) for h, w in sizes]

    def poses(self, images: np.ndarray) -> Iterator[tuple[np.ndarray, _Back]]:
        """See `Ensemble`."""
        height, width = images.shape[1:3]
        down, right = self._shift((height, width))
        for top in dict.fromkeys((0, down)):
            for left in dict.fromkeys((0, right)):
                extended = ((0, 0), (top, down - top), (left, right - left), (0, 0))
                part = np.s_[:, top : top + height, left : left + width]
                yield np.pad(images, extended, "reflect"), operator.itemgetter(part)

    def _shift(self, size: Size) -> Size:
        """Pixels that the image is extended by; 0 along an axis that is not cut."""
        down, right = (
            -(-length // (4 * patches * multiple)) * multiple if patches > 1 else 0
            for length, patches, multiple in zip(size, self._finest, self._multiple)
        )
        return down, right
