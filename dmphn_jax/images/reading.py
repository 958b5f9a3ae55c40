"""Image files to pixels."""

from __future__ import annotations

import contextlib
import io
import os
import stat
import threading
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import numpy as np
import PIL.Image
import PIL.ImageCms

from dmphn_jax.errors import UserError, one_line
from dmphn_jax.files import shown
from dmphn_jax.images.core import DEFAULT_MAX_PIXELS, Image, ImageError
from dmphn_jax.images.metadata import read_metadata, upright

# Only these of Pillow's many readers meet a stranger's file.
_READERS = ("PNG", "JPEG", "WEBP", "BMP", "DIB", "TIFF", "GIF")  # MPO comes with JPEG
_SIGNATURES = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"RIFF": "WebP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"GIF8": "GIF",
    b"BM": "BMP",
}
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
    with _opened(path, max_pixels) as (_, image):
        return Header("JPEG" if image.format == "MPO" else image.format, *image.size)


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
    with _opened(path, max_pixels) as (file, image):
        notes = (_NOTE_MPO,) if image.format == "MPO" else ()
        depth = _depth(path, file, image)
        image.load()
        deep = depth == 16
        if deep and image.mode not in ("I;16", "I;16B", "I;16L", "I", "RGB", "RGBA", "LA"):
            deep, notes = False, (*notes, _NOTE_DEPTH)
        elif not deep and image.mode[0] in "IF":
            raise ImageError(
                f"{shown(path)}: its pixels are 32-bit or float; save it with 8 or 16 bits"
            )
        # Before conversion, which drops what these read.
        metadata, orientation = read_metadata(image)
        if deep:
            array, more = _decode_16_bit(path, file, image)
        else:
            array, more = _decode_8_bit(image), ()
        if image.mode in ("CMYK", "LAB"):
            metadata = metadata.__class__(**{**vars(metadata), "icc": None})
        return _assemble(upright(array, orientation), metadata, (*notes, *more))


def _assemble(array: np.ndarray, metadata, notes: tuple[str, ...]) -> Image:
    """Makes an Image of (H, W, 1 to 4): gray, gray and alpha, RGB, RGBA."""
    channels = array.shape[-1]
    gray = channels <= 2
    pixels = np.repeat(array[..., :1], 3, axis=-1) if gray else array[..., :3]
    alpha = np.ascontiguousarray(array[..., -1]) if channels in (2, 4) else None
    return Image(np.ascontiguousarray(pixels), alpha, gray, metadata, notes)


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
    with contextlib.suppress(cms.PyCMSError, OSError, ValueError, TypeError):
        if image.mode == "LAB":
            source = cms.createProfile("LAB")
        else:
            source = cms.ImageCmsProfile(io.BytesIO(image.info.get("icc_profile") or b""))
        return cms.profileToProfile(image, source, cms.createProfile("sRGB"), outputMode="RGB")
    return image.convert("RGB")


def _decode_16_bit(
    path: str | os.PathLike[str], file: BinaryIO, image: PIL.Image.Image
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Returns a loaded 16-bit image as (H, W, 1 to 4) uint16, and notes.

    Pillow keeps 16 bits of gray only; colour is decoded again by OpenCV (by then Pillow's decoding
    has shown the file to be whole, which OpenCV does not always tell).
    """
    tags = getattr(image, "tag_v2", {})
    if image.mode.startswith("I"):
        array = np.asarray(image).astype(np.uint16)[..., None]
        if tags.get(262) == 0:  # white is zero
            array = 65535 - array
        clear = image.info.get("transparency")
        if isinstance(clear, int):
            array = np.concatenate([array, np.where(array == clear, 0, 65535)], -1)
        return array.astype(np.uint16), ()
    if tags.get(284) == 2:
        raise ImageError(
            f"{shown(path)}: a 16-bit TIFF with its channels stored apart; save it interleaved"
        )
    import cv2

    file.seek(0)
    data = file.read()
    array = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if array is None or array.dtype != np.uint16 or array.shape[:2] != image.size[::-1]:
        raise ImageError(f"{shown(path)}: its 16-bit pixels cannot be decoded; save it as PNG")
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


def _depth(path: str | os.PathLike[str], file: BinaryIO, image: PIL.Image.Image) -> int:
    """Returns the bits per channel a file stores, 8 (or fewer) or 16."""
    if image.format == "PNG":
        position = file.tell()
        file.seek(24)
        depth = file.read(1)[0]
        file.seek(position)
        return depth
    if image.format == "TIFF":
        bits = set(np.atleast_1d(image.tag_v2.get(258, 1)).tolist())
        if not bits <= {1, 2, 4, 8, 16, 32, 64}:
            raise ImageError(
                f"{shown(path)}: {max(bits)} bits per channel; save it with 8 or 16 bits"
            )
        signed = set(np.atleast_1d(image.tag_v2.get(339, 1)).tolist()) - {1, 4}
        return 16 if bits == {16} and not signed else 32 if signed else 8
    return 8


@contextlib.contextmanager
def _opened(
    path: str | os.PathLike[str], max_pixels: int
) -> Iterator[tuple[BinaryIO, PIL.Image.Image]]:
    """Opens an image file and checks what its header declares; any failure is an ImageError."""
    name = shown(path)
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise ImageError(f"{name}: a folder, not an image")
        if not stat.S_ISREG(mode):
            # Opening a pipe would wait for its writer for ever.
            raise ImageError(f"{name}: not a regular file")
        with open(path, "rb") as file, _pillow_without_limit():
            signature = file.read(16)
            if not signature:
                raise ImageError(f"{name}: empty (0 bytes)")
            file.seek(0)
            with _identified(name, file, signature) as image:
                pixels = image.width * image.height
                if pixels > max_pixels:
                    raise ImageError(
                        f"{name}: {image.width}x{image.height} is {pixels / 1e6:.4g} million "
                        f"pixels; the limit is {max_pixels / 1e6:g} million (--max-pixels)"
                    )
                _check_single(name, image)
                yield file, image
    except UserError:
        raise
    except FileNotFoundError:
        broken = " (a broken link)" if os.path.islink(path) else ""
        raise ImageError(f"{name}: no such file{broken}") from None
    except MemoryError:
        raise ImageError(f"{name}: too large for memory") from None
    except OSError as error:
        if error.errno:  # the system's; Pillow's own have none
            raise ImageError(f"{name}: {error.strerror}") from None
        # libtiff's reason goes to stderr; what reaches here is a bare number.
        reason = one_line(error)
        reason = "" if reason.startswith("decoder error") else f": {reason}"
        raise ImageError(f"{name}: damaged or cut off{reason}") from None
    except Exception as error:  # Pillow's readers raise many types for damaged files
        raise ImageError(f"{name}: damaged: {one_line(error)}") from None


def _identified(name: str, file: BinaryIO, signature: bytes) -> PIL.Image.Image:
    try:
        return PIL.Image.open(file, formats=_READERS)
    except PIL.UnidentifiedImageError:
        known = [text for start, text in _SIGNATURES.items() if signature.startswith(start)]
        if known:
            raise ImageError(f"{name}: a damaged, cut off or unsupported {known[0]} file") from None
        raise ImageError(
            f"{name}: not an image (PNG, JPEG, WebP, BMP, TIFF and GIF are read)"
        ) from None


def _check_single(name: str, image: PIL.Image.Image) -> None:
    """Refuses files of several frames, whose other frames would be lost without a word."""
    frames = getattr(image, "n_frames", 1)
    if frames == 1 or image.format == "MPO":  # a JPEG with its previews: the first is the picture
        return
    if image.format == "TIFF" and frames <= 32:
        # Previews and masks (NewSubfileType 1 and 4) beside one picture are common.
        others = 0
        for index in range(1, frames):
            image.seek(index)
            others += not image.tag_v2.get(254, 0) & 5
        image.seek(0)
        if not others:
            return
    raise ImageError(f"{name}: holds {frames} frames; split it into still images first")


_unlimited = 0
_unlimited_lock = threading.Lock()
_pillow_limit = PIL.Image.MAX_IMAGE_PIXELS


@contextlib.contextmanager
def _pillow_without_limit() -> Iterator[None]:
    """Lifts Pillow's own limit, a global, while files are read here: `max_pixels` rules instead."""
    global _unlimited, _pillow_limit
    with _unlimited_lock:
        if not _unlimited:
            _pillow_limit, PIL.Image.MAX_IMAGE_PIXELS = PIL.Image.MAX_IMAGE_PIXELS, None
        _unlimited += 1
    try:
        yield
    finally:
        with _unlimited_lock:
            _unlimited -= 1
            if not _unlimited:
                PIL.Image.MAX_IMAGE_PIXELS = _pillow_limit
