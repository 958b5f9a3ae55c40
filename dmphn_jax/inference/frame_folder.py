"""A folder of pictures as the frames of a film."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from fractions import Fraction

import numpy as np

from dmphn_jax.errors import UserError
from dmphn_jax.files import shown
from dmphn_jax.images import read_image
from dmphn_jax.images.core import format_of, to_8_bit
from dmphn_jax.video.film import NO_ALPHA, FilmFrame, FilmInfo
from dmphn_jax.video.reading import VideoError


class FrameFolder:
    """Reads a folder's pictures, of one size, in the order of their names' numbers, as a film.

    Raises UserError, one line, for a picture that cannot be read or has another size.
    """

    def __init__(self, folder: str, rate: Fraction, *, max_pixels: int) -> None:
        """Reads the first picture; `rate` is in frames per second."""
        try:
            names = [name for name in os.listdir(folder) if not name.startswith(".")]
        except OSError as error:
            raise UserError(f"{shown(folder)}: cannot be read ({error.strerror})") from None
        names = [name for name in names if format_of(name)]
        if not names:
            raise UserError(f"{shown(folder)}: no pictures in this folder to make a film of")
        self._paths = [os.path.join(folder, name) for name in sorted(names, key=_natural)]
        self._max_pixels, self._alpha = max_pixels, False
        pixels = self._pixels(self._paths[0])
        self.info = FilmInfo(
            height=pixels.shape[0],
            width=pixels.shape[1],
            bits=8 * pixels.dtype.itemsize,
            time_base=1 / rate,
            rate=rate,
            frames=len(self._paths),
            chroma="rgb",
        )

    def close(self) -> None:
        """Nothing is open."""

    def frames(
        self, skip: int = 0, stop: int | None = None, *, deep: bool | None = None
    ) -> Iterator[FilmFrame]:
        """Yields the frames from number `skip` on, before `stop`; as deep as the first if None."""
        deep = self.info.deep if deep is None else deep
        for number, path in list(enumerate(self._paths))[skip:stop]:
            pixels = self._pixels(path)
            if pixels.shape[:2] != (self.info.height, self.info.width):
                raise VideoError(
                    f"{shown(path)}: {pixels.shape[1]}x{pixels.shape[0]}, where the frames before "
                    f"it have {self.info.width}x{self.info.height}; a film has one size"
                )
            yield FilmFrame(_as_deep(pixels) if deep else _as_shallow(pixels), number)

    def notes(self) -> list[str]:
        """Tells what of the pictures is lost."""
        return [NO_ALPHA] if self._alpha else []

    def _pixels(self, path: str) -> np.ndarray:
        image = read_image(path, max_pixels=self._max_pixels)
        self._alpha = self._alpha or image.alpha is not None
        return image.pixels


def _as_deep(pixels: np.ndarray) -> np.ndarray:
    return pixels if pixels.dtype == np.uint16 else pixels.astype(np.uint16) * np.uint16(257)


def _as_shallow(pixels: np.ndarray) -> np.ndarray:
    return pixels if pixels.dtype == np.uint8 else to_8_bit(pixels)


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts 9.png before 10.png."""
    parts = re.split(r"([0-9]+)", name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]
