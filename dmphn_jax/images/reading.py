"""Image files to pixels."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
from collections.abc import Mapping
from typing import IO, Any, NamedTuple

import numpy as np
import PIL.Image
import PIL.ImageCms
from PIL.TiffImagePlugin import TiffImageFile

from dmphn_jax.files import shown
from dmphn_jax.images.core import DEFAULT_MAX_PIXELS, Image, ImageError, Metadata, to_8_bit
from dmphn_jax.images.deep import png_without_pixels
from dmphn_jax.images.metadata import declared_orientation, read_metadata, upright
from dmphn_jax.images.opening import opened

_FLAG = " (--max-pixels)"
_NOTE_MPO = "the further pictures of a multi-picture JPEG (preview, gain map) are not kept"
_NOTE_EXTRA = "an extra channel that is not declared as transparency is not kept"
_NOTE_DEPTH = "16-bit colours other than RGB are reduced to 8 bits"


class Header(NamedTuple):
    """What a file's first bytes say: format ("PNG", ...), stored width and height in pixels."""

    format: str
    width: int
    height: int


def read_header(path: str | os.PathLike[str], *, max_pixels: int = DEFAULT_MAX_PIXELS) -> Header:
    """Reads what an image file declares, without decoding it.

    Raises ImageError, as `read_image` does, for what can be told so early.
    """
    with opened(path, shown(path), max_pixels, _FLAG) as (_, image):
        return Header("JPEG" if image.format == "MPO" else image.format or "", *image.size)


def read_image(path: str | os.PathLike[str], *, max_pixels: int = DEFAULT_MAX_PIXELS) -> Image:
    """Reads a still image, upright (EXIF orientation applied).

    Gray, gray with alpha, RGB, RGBA, palette (with transparency), 1-bit, CMYK, LAB and YCbCr
    become RGB, uint8; 16-bit gray and RGB, with and without alpha, stay uint16. CMYK and LAB go
    to sRGB, through the file's profile where it has one; other pictures keep their colour space
    and its profile.

    Args:
      path: a PNG, JPEG, WebP, BMP, TIFF or GIF file, told by its content, not its name.
      max_pixels: larger declared sizes are refused before anything is decoded.

    Raises ImageError, one line naming the file: missing, empty, not an image, cut off or damaged,
    larger than `max_pixels`, several frames (animations, multi-page TIFF), more than 16 bits.
    """
    with opened(path, shown(path), max_pixels, _FLAG) as (file, image):
        notes = (_NOTE_MPO,) if image.format == "MPO" else ()
        array, more = _decode(shown(path), file, image)
        if image.format == "PNG" and array.dtype == np.uint16:
            file.seek(0)
            image = PIL.Image.open(io.BytesIO(png_without_pixels(file.read())))
        metadata, orientation = read_metadata(image)
        if image.mode in ("CMYK", "LAB"):
            metadata = dataclasses.replace(metadata, icc=None)
        return _assemble(upright(array, orientation), metadata, (*notes, *more))


def read_rgb(source: str | os.PathLike[str] | bytes, name: str | None = None) -> np.ndarray:
    """Reads an image's colours only, upright, as uint8 (H, W, 3) RGB: the fast way for pairs.

    The pixels are `read_image`'s with alpha dropped and 16 bits rounded to 8; metadata is not read.

    Args:
      source: a path, or the bytes of a file.
      name: what messages call it; the path by default.

    Raises ImageError as `read_image` does. The array may be written to.
    """
    name = _name(source, name)
    with opened(source, name, DEFAULT_MAX_PIXELS) as (file, image):
        orientation = declared_orientation(image)
        array, _ = _decode(name, file, image)
        if array.shape[-1] <= 2:
            array = array[..., :1].repeat(3, axis=-1)
        array = upright(array[..., :3], orientation)
        if array.dtype == np.uint16:
            array = to_8_bit(array)
        return array if array.flags.writeable else array.copy()


def read_size(
    source: str | os.PathLike[str] | bytes | IO[bytes], name: str | None = None
) -> tuple[int, int]:
    """Returns the (height, width) that `read_rgb` gives, from the file's header alone.

    `source` may be an open file too, of which no more is read (a zip's, say); it stays open.

    Raises ImageError for what can be told so early.
    """
    with opened(source, _name(source, name), DEFAULT_MAX_PIXELS) as (_, image):
        swapped = declared_orientation(image) >= 5
        width, height = image.size
        return (width, height) if swapped else (height, width)


def _name(source: str | os.PathLike[str] | bytes | IO[bytes], name: str | None) -> str:
    if name is not None:
        return name
    return shown(source) if isinstance(source, str | os.PathLike) else "an image"


def _assemble(array: np.ndarray, metadata: Metadata, notes: tuple[str, ...]) -> Image:
    """Makes an Image of (H, W, 1 to 4): gray, gray and alpha, RGB, RGBA."""
    channels = array.shape[-1]
    gray = channels <= 2
    pixels = np.repeat(array[..., :1], 3, axis=-1) if gray else array[..., :3]
    alpha = np.ascontiguousarray(array[..., -1]) if channels in (2, 4) else None
    return Image(np.ascontiguousarray(pixels), alpha, gray, metadata, notes)


def _decode(
    name: str, file: IO[bytes], image: PIL.Image.Image
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Returns an opened image as (H, W, 1 to 4), uint8 or uint16, and notes on what is lost."""
    deep = _depth(name, file, image) == 16
    if deep and image.mode in ("RGB", "RGBA", "LA"):
        return _decode_16_bit_colour(name, file, image)
    image.load()
    if deep and image.mode in ("I;16", "I;16B", "I;16L", "I"):
        return _decode_16_bit_gray(image), ()
    if not deep and image.mode[0] in "IF":
        raise ImageError(f"{name}: its pixels are 32-bit or float; save it with 8 or 16 bits")
    return _decode_8_bit(image), (_NOTE_DEPTH,) if deep else ()


def _decode_8_bit(image: PIL.Image.Image) -> np.ndarray:
    """Returns a loaded Pillow image as (H, W, 1 to 4) uint8."""
    if image.mode in ("CMYK", "LAB"):
        return np.asarray(_to_srgb(image))
    base = "L" if image.mode in ("1", "L", "LA", "La") else "RGB"
    mode = base + ("A" if image.has_transparency_data else "")
    array = np.asarray(image if image.mode == mode else image.convert(mode))
    return array[..., None] if array.ndim == 2 else array


def _to_srgb(image: PIL.Image.Image) -> PIL.Image.Image:
    """Converts CMYK or LAB to sRGB, through its profile if it has a usable one."""
    cms = PIL.ImageCms
    converted = None
    with contextlib.suppress(cms.PyCMSError, OSError, ValueError, TypeError):
        lab = cms.createProfile("LAB") if image.mode == "LAB" else None
        own = lab or io.BytesIO(image.info.get("icc_profile") or b"")
        converted = cms.profileToProfile(
            image, cms.ImageCmsProfile(own), cms.createProfile("sRGB"), outputMode="RGB"
        )
    return converted or image.convert("RGB")


def _decode_16_bit_gray(image: PIL.Image.Image) -> np.ndarray:
    """Returns a loaded Pillow image of 16-bit gray as (H, W, 1 or 2) uint16."""
    array = np.asarray(image).astype(np.uint16)[..., None]
    if _tags(image).get(262) == 0:  # white is zero
        array = 65535 - array
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        array = np.concatenate([array, np.where(array == clear, 0, 65535)], -1)
    return array.astype(np.uint16)


def _decode_16_bit_colour(
    name: str, file: IO[bytes], image: PIL.Image.Image
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Returns a 16-bit image of 2 to 4 channels as (H, W, 2 to 4) uint16, and notes.

    By OpenCV: Pillow reduces colours to 8 bits. From 4.10 on OpenCV refuses what is cut off or
    damaged, as Pillow does.
    """
    tags = _tags(image)
    if tags.get(284) == 2:
        raise ImageError(
            f"{name}: a 16-bit TIFF with its channels stored apart; save it interleaved"
        )
    import cv2

    file.seek(0)
    data = file.read()
    array = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if array is None or array.dtype != np.uint16 or array.shape[:2] != image.size[::-1]:
        raise ImageError(
            f"{name}: damaged or cut off, or its kind of 16-bit pixels is not read; save it as PNG"
        )
    if array.ndim == 2:
        array = array[..., None]
    if array.shape[-1] >= 3:
        array = array[..., [2, 1, 0, 3][: array.shape[-1]]]  # OpenCV's order is BGR
    if image.format == "PNG" and data[25] == 4:  # colour type: gray and alpha
        return array[..., [0, -1]], ()
    if array.shape[-1] == 4 and tags:
        if tags.get(338, (0,))[0] == 1:  # multiplied by alpha
            alpha = array[..., 3:].astype(np.uint32)
            colour = (array[..., :3] * np.uint32(65535) + alpha // 2) // np.maximum(alpha, 1)
            array = np.concatenate([np.minimum(colour, 65535), alpha], -1).astype(np.uint16)
        elif image.mode == "RGB":
            return array[..., :3], (_NOTE_EXTRA,)
    return array, ()


def _tags(image: PIL.Image.Image) -> Mapping[int, Any]:
    """The tags of a TIFF; none for other formats."""
    return image.tag_v2 if isinstance(image, TiffImageFile) else {}


def _depth(name: str, file: IO[bytes], image: PIL.Image.Image) -> int:
    """Returns the bits per channel a file stores, 8 (or fewer) or 16."""
    if image.format == "PNG":
        position = file.tell()
        file.seek(24)
        depth = file.read(1)[0]
        file.seek(position)
        return depth
    if image.format == "TIFF":
        bits = set(np.atleast_1d(_tags(image).get(258, 1)).tolist())
        if not bits <= {1, 2, 4, 8, 16, 32, 64}:
            raise ImageError(f"{name}: {max(bits)} bits per channel; save it with 8 or 16 bits")
        signed = set(np.atleast_1d(_tags(image).get(339, 1)).tolist()) - {1, 4}
        return 16 if bits == {16} and not signed else 32 if signed else 8
    return 8
