"""Frames in the forms that `Deblurrer` takes, and computing them as they come."""

from __future__ import annotations

import collections
import os
from collections.abc import Callable, Iterator
from typing import TypeAlias

import numpy as np

from dmphn_jax.images import read_image
from dmphn_jax.inference.pending import Pending

Frame: TypeAlias = "np.ndarray | str | os.PathLike[str]"
"""An image, a batch of images, or the path of an image file."""


def pixels_of(frame: Frame) -> np.ndarray:
    """Returns a frame's pixels: (H, W, 3), or of a batch (B, H, W, 3).

    Raises ImageError, one line, for a file that cannot be read.
    """
    return read_image(frame).pixels if isinstance(frame, str | os.PathLike) else np.asarray(frame)


def each(
    frames: Iterator[Frame], submit: Callable[[np.ndarray], Pending], most: int
) -> Iterator[np.ndarray]:
    """Yields what `submit` makes of each frame, in order.

    A frame is read when fewer than `most` are submitted and not taken back, so `frames` may be
    endless. What reading or submitting a frame raises comes in its place, and ends the iteration.

    Args:
      frames: (H, W, 3), (B, H, W, 3), or paths.
      submit: `Deblurrer.submit`.
      most: frames on the devices, at least 1.
    """
    running: collections.deque[tuple[Pending, bool]] = collections.deque()

    def take() -> np.ndarray:
        pending, single = running.popleft()
        return pending.result()[0] if single else pending.result()

    failure: Exception | None = None
    while failure is None:
        try:
            pixels = pixels_of(next(frames))
            single = pixels.ndim != 4
            running.append((submit(pixels[None] if single else pixels), single))
        except StopIteration:
            break
        except Exception as error:
            failure = error
        if len(running) == most:
            yield take()
    while running:
        yield take()
    if failure is not None:
        raise failure
