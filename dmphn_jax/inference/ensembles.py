"""Means over several looks at an image: more passes of a network, a little more quality."""

from __future__ import annotations

import collections
import functools
import operator
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

import numpy as np

from dmphn_jax.errors import UserError
from dmphn_jax.inference.buckets import Size
from dmphn_jax.inference.computing import PER_DEVICE, Computing
from dmphn_jax.models import ModelConfig
from dmphn_jax.models.patches import Grid

_Back = Callable[[np.ndarray], np.ndarray]


class Method(Protocol):
    """What deblurs; `inference.deblurrer.Deblurrer` is one."""

    def submit(self, images: np.ndarray) -> Computing:
        """Deblurs (B, H, W, 3) uint8 or uint16."""


class Mean:
    """The mean of images' passes, some of which are under way: it has `Pending`'s interface."""

    def __init__(self, images: np.ndarray, take: Callable[[], None]) -> None:
        """Takes the images, uint8 or uint16 (B, H, W, 3), and what ends the oldest pass."""
        self._dtype, self._scale = images.dtype, _scale(images.dtype)
        self._total, self._count = np.zeros(images.shape, np.uint32), 0
        self._take = take
        self._failure: Exception | None = None
        self.under_way = 0

    def end(self, computing: Computing, back: _Back) -> None:
        """Waits for the oldest pass under way and adds it; `result` raises what it raises."""
        self.under_way -= 1
        self._count += 1
        if self._failure is None:
            try:
                self._total += back(computing.result())
            except Exception as error:
                self._failure = error

    def result(self) -> np.ndarray:
        """See `Pending`."""
        while self.under_way:
            self._take()
        if self._failure is not None:
            raise self._failure
        return self.images

    def check(self) -> None:
        """See `Pending`."""
        self.result()

    @functools.cached_property
    def images(self) -> np.ndarray:
        """See `Pending`; on the host, rounded to nearest. To be read after `check`."""
        whole = self._count * self._scale
        return ((2 * self._total + whole) // (2 * whole)).astype(self._dtype)


class Ensemble:
    """The mean of what a method makes of an image in several poses.

    The passes are averaged at 16 bits and rounded once. Two are under way on every device, those
    of one image and of the next, and they are added in their order.
    """

    def __init__(self, method: Method, devices: int = 1) -> None:
        """Takes a method, and over how many devices its submitted images go in turn."""
        self.method, self._devices = method, devices
        self._running: collections.deque[tuple[Mean, Computing, _Back]] = collections.deque()

    def sizes(self, sizes: Iterable[Size]) -> list[Size]:
        """Returns the sizes of what the method gets for images of some (height, width)."""
        raise NotImplementedError

    def poses(self, images: np.ndarray) -> Iterator[tuple[np.ndarray, _Back]]:
        """Yields the images (B, H, W, 3) in every pose, and what undoes it."""
        raise NotImplementedError

    def submit(self, images: np.ndarray) -> Mean:
        """Deblurs uint8 or uint16 (B, H, W, 3); returns when the last pass is under way."""
        deep = images.astype(np.uint16) * np.uint16(_scale(images.dtype))
        mean = Mean(images, self._take)
        # A batch is shared by all devices.
        most = PER_DEVICE * (self._devices if len(images) == 1 else 1)
        for pose, back in self.poses(deep):
            while len(self._running) >= most:
                self._take()
            computing = self.method.submit(np.ascontiguousarray(pose))
            self._running.append((mean, computing, back))
            mean.under_way += 1
        return mean

    def _take(self) -> None:
        """Ends the oldest pass, whosever it is."""
        mean, computing, back = self._running.popleft()
        mean.end(computing, back)


def _scale(dtype: np.dtype) -> int:
    """What makes 16 bits of a dtype's: 255 becomes 65535, the same image, exactly."""
    return 257 if dtype == np.uint8 else 1


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

    def __init__(self, method: Method, config: ModelConfig, devices: int = 1) -> None:
        """Takes a method, its model and devices; raises UserError if that cuts no patches."""
        super().__init__(method, devices)
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
