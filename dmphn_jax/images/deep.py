"""PNG of 16 bits, and TIFF: written here, since Pillow writes no 16-bit colour and OpenCV no
metadata; and the metadata of a PNG without its pixels.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence

import numpy as np
import PIL.Image
from PIL.PngImagePlugin import PngInfo
from PIL.TiffImagePlugin import IFDRational, ImageFileDirectory_v2

from dmphn_jax.images.core import Metadata

_PNG = b"\x89PNG\r\n\x1a\n"
_LEVEL = 4  # of zlib: within 5 % of the smallest files, at half the time
_STRIP = 1 << 20  # bytes


def png_text(metadata: Metadata) -> PngInfo:
    """Returns the text chunks, XMP among them."""
    info = PngInfo()
    for key, value in metadata.text:
        info.add_itxt(key, value)
    if metadata.xmp:
        info.add_itxt("XML:com.adobe.xmp", metadata.xmp.decode("utf-8", "replace"))
    return info


def encode_png_16(array: np.ndarray, metadata: Metadata) -> bytes:
    """Encodes (H, W, 1 to 4) uint16 (gray, gray and alpha, RGB, RGBA) as PNG."""
    height, width, channels = array.shape
    step = 2 * channels
    rows = array.astype(">u2").view(np.uint8).reshape(height, -1)
    filtered = np.empty((height, 1 + rows.shape[1]), np.uint8)
    filtered[:, 0] = 1  # filter "Sub": each byte less the one of the pixel to its left
    filtered[:, 1 : 1 + step] = rows[:, :step]
    np.subtract(rows[:, step:], rows[:, :-step], out=filtered[:, 1 + step :])
    colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0))]
    if metadata.icc:
        chunks.append((b"iCCP", b"ICC Profile\0\0" + zlib.compress(metadata.icc)))
    if metadata.dpi:
        per_metre = [round(dpi / 0.0254) for dpi in metadata.dpi]
        chunks.append((b"pHYs", struct.pack(">IIB", *per_metre, 1)))
    if metadata.exif:
        chunks.append((b"eXIf", metadata.exif))
    chunks += [(entry[0], entry[1]) for entry in png_text(metadata).chunks]
    packed = zlib.compress(filtered.data, _LEVEL)
    chunks += [(b"IDAT", packed[start : start + _STRIP]) for start in range(0, len(packed), _STRIP)]
    chunks.append((b"IEND", b""))
    return _png(chunks)


def png_without_pixels(data: bytes) -> bytes:
    """Returns a PNG of a single gray pixel with the metadata of the PNG `data`.

    What lies behind the pixels is in it too: of the whole file Pillow would decode them to get
    there.
    """
    single = [
        (b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(bytes(2))),
    ]
    chunks, start = [], len(_PNG)
    while start + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, start)
        if kind not in (b"IHDR", b"IDAT", b"PLTE", b"tRNS"):  # those of the pixels
            chunks.append((kind, data[start + 8 : start + 8 + length]))
        start += 12 + length
    return _png([*single, *chunks])


def _png(chunks: Sequence[tuple[bytes, bytes]]) -> bytes:
    return _PNG + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def encode_tiff(array: np.ndarray, metadata: Metadata) -> bytes:
    """Encodes (H, W, 1 to 4) uint8 or uint16 as TIFF: deflate, horizontal predictor."""
    height, width, channels = array.shape
    array = array.astype(array.dtype.newbyteorder("<"))
    difference = array.copy()
    difference[:, 1:] -= array[:, :-1]
    rows = max(1, _STRIP // array[0].nbytes)
    strips = [
        zlib.compress(difference[start : start + rows].data, _LEVEL)
        for start in range(0, height, rows)
    ]
    sizes = [len(strip) for strip in strips]
    ifd = ImageFileDirectory_v2()
    if metadata.exif:
        exif = PIL.Image.Exif()
        exif.load(metadata.exif)
        for tag, value in exif.items():
            nested = tag in (0x8769, 0x8825)
            ifd[tag] = dict(exif.get_ifd(tag)) if nested else value
    ifd[256], ifd[257] = width, height
    ifd[258] = (8 * array.itemsize,) * channels
    ifd[259] = 8  # deflate
    ifd[262] = 1 if channels <= 2 else 2  # black is zero, RGB
    ifd[273] = tuple(int(start) for start in np.cumsum([0, *sizes[:-1]]))
    ifd[277], ifd[278], ifd[279] = channels, rows, tuple(sizes)
    ifd[284], ifd[317] = 1, 2
    if channels in (2, 4):
        ifd[338] = (2,)  # alpha, colours not multiplied by it
    if metadata.dpi:
        ifd[282], ifd[283] = (IFDRational(round(dpi * 1000), 1000) for dpi in metadata.dpi)
        ifd[296] = 2  # per inch
    if metadata.icc:
        ifd.tagtype[34675] = 7
        ifd[34675] = metadata.icc
    if metadata.xmp:
        ifd.tagtype[700] = 1
        ifd[700] = metadata.xmp
    file = io.BytesIO()
    ifd.save(file)  # strip offsets become absolute here: the strips follow
    for strip in strips:
        file.write(strip)
    return file.getvalue()
