"""Scene cuts, windows of successive frames, and their averages: blur made the way GoPro's was."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from dmphn_jax.video.reading import Frame, Report

_CUT_RATIO = 4.0  # a cut differs this much more than the frames before it: fast pans do not


class Window(NamedTuple):
    """Successive frames of one shot; the sharp one is `frames[len(frames) // 2]`."""

    frames: list[Frame]

    @property
    def middle(self) -> Frame:
        """The frame that is the sharp image."""
        return self.frames[len(self.frames) // 2]


class CutDetector:
    """Tells where a new shot begins.

    A cut is where the mean difference of successive frames, shrunk to 32x18, exceeds
    `threshold` (a share of the full range; 0 finds none) and four times what it was lately:
    a fast pan differs much, but from frame to frame alike. Another frame size is a cut too.
    """

    def __init__(self, threshold: float):
        self._threshold = threshold
        self._last: np.ndarray | None = None
        self._size: tuple[int, ...] = ()
        self._lately: deque[float] = deque(maxlen=16)

    def __call__(self, image: np.ndarray) -> bool:
        """Returns whether `image`, uint8 (H, W, 3), begins a new shot."""
        import cv2

        small = cv2.resize(image, (32, 18), interpolation=cv2.INTER_AREA).astype(np.float32)
        last, self._last = self._last, small
        resized, self._size = image.shape != self._size, image.shape
        if last is None:
            return False
        if resized:
            self._lately.clear()
            return True
        difference = float(np.abs(small - last).mean()) / 255
        usual = float(np.median(self._lately)) if self._lately else 0.0
        self._lately.append(difference)
        return bool(self._threshold) and difference > max(self._threshold, _CUT_RATIO * usual)


def windows(
    frames: Iterable[Frame],
    counts: Iterator[int],
    detector: CutDetector,
    report: Report,
    every: int | None = None,
) -> Iterator[Window]:
    """Cuts a video into windows of successive frames; holds no more frames than a window.

    Args:
      frames: in order.
      counts: endless; the lengths of the windows.
      detector: no window reaches over a cut it finds, nor over a gap.
      report: counts the cuts.
      every: frames from one window's first to the next one's; None for windows that touch.
    """
    held: deque[Frame] = deque()
    skip, count = 0, next(counts)
    for frame in frames:
        cut = detector(frame.image)
        report.cuts += cut
        if cut or frame.after_gap:
            held.clear()
            skip = 0
        if skip:
            skip -= 1
            continue
        held.append(frame)
        while len(held) >= count:
            yield Window(list(itertools.islice(held, count)))
            step = every or count
            skip = max(0, step - len(held))
            for _ in range(min(step, len(held))):
                held.popleft()
            count = next(counts)


def average(images: list[np.ndarray], gamma: float = 1.0) -> np.ndarray:
    """Averages frames into a blurry image, uint8 (H, W, 3), rounded to nearest.

    Args:
      images: uint8 (H, W, 3), of one shape.
      gamma: of the camera's response. 1 averages the stored values: GoPro's `blur`, the paper's
        protocol. Otherwise stored = light^(1/gamma) is undone before the mean and applied after
        it; 2.2 is GoPro's `blur_gamma`, nearer to what a longer exposure records.
    """
    if gamma == 1:
        total = np.zeros(images[0].shape, np.uint32)
        for image in images:
            total += image
        return ((total + len(images) // 2) // len(images)).astype(np.uint8)
    light = ((np.arange(256) / 255) ** gamma).astype(np.float32)
    mean = np.zeros(images[0].shape, np.float32)
    for image in images:
        mean += light[image]
    mean /= len(images)
    return np.rint(255 * mean ** (1 / gamma)).clip(0, 255).astype(np.uint8)
