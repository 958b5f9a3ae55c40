"""Opening image files, a stranger's too: what their first bytes declare is checked here."""

from __future__ import annotations

import contextlib
import io
import os
import stat
import threading
from collections.abc import Iterator
from typing import IO

import PIL.Image
from PIL.TiffImagePlugin import TiffImageFile

from dmphn_jax.errors import UserError, one_line
from dmphn_jax.images.core import ImageError

# Only these of Pillow's many readers meet a stranger's file.
_READERS = ("PNG", "JPEG", "WEBP", "BMP", "DIB", "TIFF", "GIF")  # MPO comes with JPEG
_SIGNATURES = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"RIFF": "WebP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "BigTIFF",
    b"MM\0+": "BigTIFF",
    b"GIF8": "GIF",
    b"BM": "BMP",
}


@contextlib.contextmanager
def opened(
    source: str | os.PathLike[str] | bytes | IO[bytes],
    name: str,
    max_pixels: int,
    flag: str = "",
) -> Iterator[tuple[IO[bytes], PIL.Image.Image]]:
    """Opens an image file and checks what its header declares; any failure is an ImageError.

    What the caller does with the open image falls under this too.

    Args:
      source: a path, a file's bytes, or an open file that can seek.
      name: what messages call it.
      max_pixels: larger declared sizes are refused.
      flag: how a user raises that limit, ends the message.
    """
    try:
        with _file(source, name) as file, _pillow_without_limit():
            signature = file.read(16)
            if not signature:
                raise ImageError(f"{name}: empty (0 bytes)")
            file.seek(0)
            with _identified(name, file, signature) as image:
                pixels = image.width * image.height
                if pixels > max_pixels:
                    raise ImageError(
                        f"{name}: {image.width}x{image.height} is {pixels / 1e6:.4g} million "
                        f"pixels; the limit is {max_pixels / 1e6:g} million{flag}"
                    )
                _check_single(name, image)
                yield file, image
    except UserError:
        raise
    except FileNotFoundError:
        link = isinstance(source, str | os.PathLike) and os.path.islink(source)
        broken = " (a broken link)" if link else ""
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


def _file(
    source: str | os.PathLike[str] | bytes | IO[bytes], name: str
) -> contextlib.AbstractContextManager[IO[bytes]]:
    if isinstance(source, bytes):
        return io.BytesIO(source)
    if not isinstance(source, str | os.PathLike):
        return contextlib.nullcontext(source)
    mode = os.stat(source).st_mode
    if stat.S_ISDIR(mode):
        raise ImageError(f"{name}: a folder, not an image")
    if not stat.S_ISREG(mode):
        # Opening a pipe would wait for its writer for ever.
        raise ImageError(f"{name}: not a regular file")
    return open(source, "rb")


def _identified(name: str, file: IO[bytes], signature: bytes) -> PIL.Image.Image:
    try:
        return PIL.Image.open(file, formats=_READERS)
    except PIL.UnidentifiedImageError:
        known = [text for start, text in _SIGNATURES.items() if signature.startswith(start)]
        if known:
            raise ImageError(f"{name}: a damaged, cut off or unsupported {known[0]} file") from None
        raise ImageError(
            f"{name}: not an image (PNG, JPEG, WebP, BMP, TIFF and GIF are read)"
        ) from None


_MOST_FRAMES = 32  # of a TIFF that are looked at


def _check_single(name: str, image: PIL.Image.Image) -> None:
    """Refuses files of several frames, whose other frames would be lost without a word."""
    if image.format == "MPO":  # a JPEG with its previews: the first is the picture
        return
    tiff = isinstance(image, TiffImageFile)
    frames = _few_frames(image) if tiff else getattr(image, "n_frames", 1)
    if frames == 1:
        return
    if isinstance(image, TiffImageFile) and frames <= _MOST_FRAMES:
        # Previews and masks (NewSubfileType 1 and 4) beside one picture are common.
        others = 0
        for index in range(1, frames):
            image.seek(index)
            others += not image.tag_v2.get(254, 0) & 5
        image.seek(0)
        if not others:
            return
    count = f"more than {_MOST_FRAMES}" if tiff and frames > _MOST_FRAMES else str(frames)
    raise ImageError(f"{name}: holds {count} frames; split it into still images first")


def _few_frames(image: PIL.Image.Image) -> int:
    """Returns how many frames a TIFF holds; `_MOST_FRAMES` + 1 for any more.

    Pillow's `n_frames` takes a time that grows with their square: for a stranger's file of 2 MB
    8 s, for one of 100 MB hours.
    """
    count = 1
    with contextlib.suppress(EOFError):
        while count <= _MOST_FRAMES:
            image.seek(count)
            count += 1
    image.seek(0)
    return count


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
