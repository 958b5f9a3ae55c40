"""Reading a file's metadata, and its orientation."""

from __future__ import annotations

import contextlib
import re
from typing import Any

import numpy as np
import PIL.Image

from dmphn_jax.images.core import Metadata

_ORIENTATION = 0x0112
_EXIF_IFD = 0x8769
# Tags that describe how a TIFF stores its pixels, or that are kept apart (resolution, XMP, ICC):
# wrong in a file written anew.
_STRUCTURAL = {
    *(254, 255, 256, 257, 258, 259, 262, 263, 264, 265, 266, 273, 274, 277, 278, 279, 280, 281),
    *(282, 283, 284, 290, 291, 292, 293, 296, 301, 317, 318, 319, 320, 321, 322, 323, 324, 325),
    *(330, 332, 333, 334, 338, 339, 340, 341, 342, 343, 344, 345, 346, 347),
    *(512, 513, 514, 515, 517, 518, 519, 520, 521, 529, 530, 531, 532, 700),
    *(33723, 34377, 34675, 37724),
}
_XMP_KEY = "XML:com.adobe.xmp"


def read_metadata(image: PIL.Image.Image) -> tuple[Metadata, int]:
    """Returns the metadata of a Pillow image and the orientation (1 to 8) still to apply.

    A TIFF's is none: both its decoders turn its pixels, and its size, by themselves.

    Metadata that cannot be parsed is dropped: it is no reason to refuse a picture.
    """
    info = image.info
    orientation: int = 1
    exif: bytes | None = None
    with contextlib.suppress(Exception):  # Pillow raises many types for a damaged EXIF block
        tags = image.getexif()
        orientation = 1 if image.format == "TIFF" else tags.get(_ORIENTATION, 1)
        exif = _exif_bytes(tags, orientation)
    if orientation not in range(1, 9):
        orientation = 1
    text: dict[str, Any] = getattr(image, "text", None) or {}
    xmp = info.get("xmp") or text.get(_XMP_KEY)
    if isinstance(xmp, str):
        xmp = xmp.encode()
    if isinstance(xmp, bytes):
        # The pixels are turned upright, so whoever reads the packet must not turn them again.
        xmp = re.sub(rb'(tiff:Orientation(?:="|>))[0-9]', rb"\g<1>1", xmp)
    icc, comment = info.get("icc_profile"), info.get("comment")
    return Metadata(
        icc=icc if isinstance(icc, bytes) and len(icc) >= 128 else None,
        exif=exif,
        xmp=xmp if isinstance(xmp, bytes) else None,
        dpi=_dpi(info.get("dpi")),
        text=tuple(
            (str(key), str(value))
            for key, value in text.items()
            if key != _XMP_KEY and not key.startswith("Raw profile type")
        ),
        comment=comment if isinstance(comment, bytes) and image.format == "JPEG" else None,
    ), orientation


def declared_orientation(image: PIL.Image.Image) -> int:
    """Returns `read_metadata`'s orientation as an image's first bytes declare it, undecoded.

    EXIF behind a PNG's pixels, legal and rare, is not looked for: Pillow would decode all of it.
    """
    known = {"exif", _XMP_KEY} & image.info.keys()
    if image.format == "TIFF" or (image.format == "PNG" and not known):
        return 1
    orientation = image.getexif().get(_ORIENTATION, 1)
    return orientation if orientation in range(1, 9) else 1


def upright(array: np.ndarray, orientation: int) -> np.ndarray:
    """Turns an (H, W, ...) array as EXIF orientation 1 to 8 says, so that it shows upright."""
    turned = {
        1: lambda x: x,
        2: lambda x: x[:, ::-1],
        3: lambda x: x[::-1, ::-1],
        4: lambda x: x[::-1],
        5: lambda x: x.swapaxes(0, 1),
        6: lambda x: x.swapaxes(0, 1)[:, ::-1],
        7: lambda x: x.swapaxes(0, 1)[::-1, ::-1],
        8: lambda x: x.swapaxes(0, 1)[::-1],
    }[orientation](array)
    return np.ascontiguousarray(turned)


def _exif_bytes(tags: PIL.Image.Exif, orientation: int) -> bytes | None:
    """Returns the EXIF block without orientation and without what describes the old file."""
    for tag in [tag for tag in tags if tag in _STRUCTURAL]:
        del tags[tag]
    if orientation >= 5:
        photo = tags.get_ifd(_EXIF_IFD)
        width, height = photo.get(0xA002), photo.get(0xA003)
        if width and height:
            photo[0xA002], photo[0xA003] = height, width
    if not len(tags):
        return None
    tags.bigtiff = False  # EXIF has the plain TIFF structure, whatever file it comes from
    return tags.tobytes().removeprefix(b"Exif\0\0")


def _dpi(value: Any) -> tuple[float, float] | None:
    try:
        x, y = (float(v) for v in value)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    # Pillow reports 1 where a TIFF names no unit.
    return (x, y) if 1 < x < 1e5 and 1 < y < 1e5 else None
