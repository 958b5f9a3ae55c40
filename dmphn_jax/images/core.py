"""What an image file becomes in memory, and the formats' names."""

from __future__ import annotations

import dataclasses
import os

import numpy as np

from dmphn_jax.errors import UserError

# Extension -> format; the first extension of a format is the one given to new files.
EXTENSIONS: dict[str, str] = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".jfif": "JPEG",
    ".webp": "WEBP",
    ".bmp": "BMP",
    ".dib": "BMP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".gif": "GIF",
}
# Format -> extension of new files. GIF holds 256 colours and is only read.
WRITABLE: dict[str, str] = {
    "PNG": ".png",
    "JPEG": ".jpg",
    "WEBP": ".webp",
    "BMP": ".bmp",
    "TIFF": ".tif",
}
DEFAULT_MAX_PIXELS = 100_000_000


class ImageError(UserError):
    """An image file that cannot be read or written; one line naming the file and the reason."""


def format_of(path: str | os.PathLike[str]) -> str | None:
    """Returns the format a file name's extension stands for ("PNG", ...), None if unknown."""
    return EXTENSIONS.get(os.path.splitext(os.fspath(path))[1].lower())


def to_8_bit(array: np.ndarray) -> np.ndarray:
    """Rounds 16 bits to 8, 65535 to 255."""
    return ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)


@dataclasses.dataclass(frozen=True)
class Metadata:
    """What a file says of its picture. Orientation is not here: pixels are upright.

    Attributes:
      icc: ICC colour profile, which the pixels are in.
      exif: EXIF block (TIFF structure, without the "Exif" prefix), orientation removed.
      xmp: XMP packet.
      dpi: resolution, horizontal and vertical, in pixels per inch.
      text: PNG text, (keyword, text) pairs.
      comment: JPEG comment.
    """

    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    text: tuple[tuple[str, str], ...] = ()
    comment: bytes | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Image:
    """A still picture, upright.

    Attributes:
      pixels: (H, W, 3) RGB, uint8 or uint16, not multiplied by alpha.
      alpha: (H, W) of the pixels' dtype, 0 transparent; None if the picture is opaque.
      gray: whether it is a gray picture (its three channels are equal when read); written so.
      metadata: what else the file said.
      notes: what of the file is not in here, in words; empty almost always.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None = None
    gray: bool = False
    metadata: Metadata = Metadata()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        pixels, alpha = self.pixels, self.alpha
        if pixels.ndim != 3 or pixels.shape[-1] != 3 or 0 in pixels.shape:
            raise ValueError(f"pixels of shape {pixels.shape}: (height, width, 3) needed")
        if pixels.dtype not in (np.uint8, np.uint16):
            raise TypeError(f"pixels of dtype {pixels.dtype}: uint8 or uint16 needed")
        if alpha is not None and (alpha.shape != pixels.shape[:2] or alpha.dtype != pixels.dtype):
            raise ValueError(
                f"alpha {alpha.shape} {alpha.dtype} does not fit pixels {pixels.shape} "
                f"{pixels.dtype}"
            )

    def with_pixels(self, pixels: np.ndarray) -> Image:
        """Returns this picture with other colours, of the same size; alpha and the rest stay."""
        if pixels.shape != self.pixels.shape:
            raise ValueError(f"pixels of shape {pixels.shape}, not {self.pixels.shape}")
        return dataclasses.replace(self, pixels=np.asarray(pixels))
