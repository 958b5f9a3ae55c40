"""Image files of training pairs: their size without decoding, and their pixels."""

from __future__ import annotations

import io
import os
from typing import Any

import numpy as np

from dmphn_jax.errors import UserError, one_line

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
_ORIENTATION = 0x0112  # EXIF; 5 to 8 swap the axes


def image_size(
    file: str | os.PathLike[str] | io.IOBase, name: str | None = None
) -> tuple[int, int]:
    """Returns an image's (height, width) as it will be decoded, reading its header only.

    Raises:
      UserError: the file cannot be read or is no image; the line names it.
    """
    from PIL import Image

    try:
        with Image.open(file) as image:
            width, height = image.size
            swap = _orientation(image) in (5, 6, 7, 8)
    except Exception as error:
        raise UserError(_unreadable(name or file, error)) from error
    return (width, height) if swap else (height, width)


def decode_image(file: bytes | str | os.PathLike[str], name: str | None = None) -> np.ndarray:
    """Returns an image as uint8 (H, W, 3) RGB, turned upright by its EXIF orientation.

    Args:
      file: an encoded image's bytes, or its path.
      name: what a message calls it; the path by default.

    Raises:
      UserError: the file is missing, cut short or damaged; the line names it. Pillow is used
        because it refuses damaged files where faster decoders return what they have.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as image:
            if _orientation(image) != 1:
                image = ImageOps.exif_transpose(image)
            # `array`, not `asarray`: callers may write, and the file's buffer must not be kept.
            return np.array(image if image.mode == "RGB" else image.convert("RGB"))
    except Exception as error:
        raise UserError(_unreadable(name or file, error)) from error


def _orientation(image: Any) -> int:
    # For a PNG without EXIF in its header Pillow would decode all of it to look behind the pixels.
    if image.format == "PNG" and "exif" not in image.info:
        return 1
    return image.getexif().get(_ORIENTATION, 1)


def _unreadable(name: Any, error: Exception) -> str:
    shown = "an image" if isinstance(name, bytes | io.IOBase) else os.fspath(name)
    if isinstance(error, FileNotFoundError):
        return f"{shown}: no such file"
    return f"{shown}: cannot be read as an image ({one_line(error).split(': <')[0]})"
