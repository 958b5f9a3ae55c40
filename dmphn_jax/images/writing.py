"""Pixels to image files."""

from __future__ import annotations

import dataclasses
import io
import os
from typing import Any

import numpy as np
import PIL.Image

from dmphn_jax.errors import one_line
from dmphn_jax.files import shown, write_atomically
from dmphn_jax.images.core import WRITABLE, Image, ImageError, Metadata, format_of, to_8_bit
from dmphn_jax.images.deep import encode_png_16, encode_tiff, png_text

DEFAULT_QUALITY = 95
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # Rec. 601
_LONGEST = {"JPEG": 65500, "WEBP": 16383}
_NOTE_ALPHA = "{} holds no transparency: laid on white"
_NOTE_DEPTH = "{} holds 8 bits: 16-bit pixels are rounded to them"
_NOTE_METADATA = "metadata too large for {} is not kept"


def write_image(
    path: str | os.PathLike[str],
    image: Image,
    *,
    format: str | None = None,
    quality: int = DEFAULT_QUALITY,
) -> tuple[str, ...]:
    """Writes an image file under a temporary name and renames it: no half file is ever seen.

    Args:
      path: where; missing folders are made, an existing file is replaced.
      image: what.
      format: "PNG", "JPEG", "WEBP", "BMP" or "TIFF"; by the path's extension if None.
      quality: 1 to 100, of JPEG and WebP; 100 makes WebP lossless.

    Returns notes on what the format could not hold, empty if nothing was lost.
    Raises ImageError in one line.
    """
    name = shown(path)
    format = format or format_of(path)
    if format not in WRITABLE:
        raise ImageError(f"{name}: no format to write; name it {', '.join(WRITABLE.values())}")
    try:
        data, notes = encode_image(image, format, quality)
        write_atomically(path, data)
    except MemoryError:
        raise ImageError(f"{name}: too large for memory") from None
    except ImageError as error:
        raise ImageError(f"{name}: {one_line(error)}") from None
    except OSError as error:
        reason = error.strerror or one_line(error)
        raise ImageError(f"{name}: cannot be written: {reason}") from None
    return notes


def encode_image(
    image: Image, format: str, quality: int = DEFAULT_QUALITY
) -> tuple[bytes, tuple[str, ...]]:
    """Encodes an image as `write_image` does; returns the file's bytes and the notes.

    Raises ImageError for an image larger than the format holds.
    """
    height, width = image.pixels.shape[:2]
    longest = _LONGEST.get(format, 2**31 - 1)
    if max(height, width) > longest:
        raise ImageError(f"{format} holds {longest} pixels a side, not {width}x{height}; use png")
    pixels, alpha, notes = image.pixels, image.alpha, []
    if pixels.dtype == np.uint16 and format not in ("PNG", "TIFF"):
        notes.append(_NOTE_DEPTH.format(format))
        pixels, alpha = to_8_bit(pixels), None if alpha is None else to_8_bit(alpha)
    if alpha is not None and format in ("JPEG", "BMP"):
        notes.append(_NOTE_ALPHA.format(format))
        pixels, alpha = _on_white(pixels, alpha), None
    as_gray = image.gray and format != "WEBP"
    if image.gray:
        # The network's three channels differ a little; a gray picture stays gray.
        pixels = np.rint(pixels.astype(np.float32) @ _LUMA)[..., None].astype(pixels.dtype)
        # Hardly any reader knows a TIFF of 16-bit gray and alpha; RGBA they do.
        as_gray &= not (format == "TIFF" and alpha is not None and pixels.dtype == np.uint16)
        pixels = pixels if as_gray else np.repeat(pixels, 3, axis=-1)
    array = pixels if alpha is None else np.concatenate([pixels, alpha[..., None]], -1)
    metadata = _fitting(image.metadata, as_gray)
    if format == "TIFF":
        return encode_tiff(array, metadata), tuple(notes)
    if array.dtype == np.uint16:
        return encode_png_16(array, metadata), tuple(notes)
    try:
        return _encode_8_bit(array, format, quality, metadata), tuple(notes)
    except (ValueError, OSError):
        # JPEG holds 64 KB of EXIF and of XMP each; the picture matters more.
        notes.append(_NOTE_METADATA.format(format))
        bare = Metadata(icc=metadata.icc, dpi=metadata.dpi)
        return _encode_8_bit(array, format, quality, bare), tuple(notes)


def _encode_8_bit(array: np.ndarray, format: str, quality: int, metadata: Metadata) -> bytes:
    options: dict[str, Any] = {}
    if format != "BMP":
        exif = metadata.exif or b""
        if exif and format == "JPEG":
            exif = b"Exif\0\0" + exif
        options |= {"icc_profile": metadata.icc, "exif": exif}
    if metadata.dpi and format != "WEBP":
        options["dpi"] = metadata.dpi
    if format == "PNG":
        options |= {"pnginfo": png_text(metadata), "compress_level": 4}
    elif format == "JPEG":
        # Chroma at full resolution at high qualities: an edge made sharp stays so in colour.
        options |= {"quality": quality, "subsampling": "4:4:4" if quality >= 90 else "4:2:0"}
        options |= {"comment": metadata.comment or b""}
    elif format == "WEBP":
        # `exact` keeps colours under full transparency, as the other formats do.
        options |= {"quality": quality, "lossless": quality == 100, "exact": True}
    if metadata.xmp and format in ("JPEG", "WEBP"):
        options["xmp"] = metadata.xmp
    file = io.BytesIO()
    picture = PIL.Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)
    picture.save(file, format, **options)
    return file.getvalue()


def _fitting(metadata: Metadata, gray: bool) -> Metadata:
    """Drops an ICC profile that is of another kind of pixels: readers take it for damage."""
    space = metadata.icc[16:20] if metadata.icc else b""
    if space == (b"GRAY" if gray else b"RGB "):
        return metadata
    return dataclasses.replace(metadata, icc=None)


def _on_white(pixels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Lays 8-bit pixels on white as their alpha says."""
    a = alpha[..., None].astype(np.uint16)
    return ((pixels * a + 255 * (255 - a) + 127) // 255).astype(np.uint8)
