"""Image files for tests."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import PIL.Image

from dmphn_jax.images import read_image

SHAPE = (16, 20)  # of most pictures


def noise(*shape, dtype=np.uint8, seed=0):
    top = np.iinfo(dtype).max
    return np.random.default_rng(seed).integers(0, top, shape, dtype=dtype, endpoint=True)


def saved(path, array, mode=None, **options):
    image = PIL.Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


def png_16(array, chunks=(), behind=()):
    """A 16-bit PNG made apart from the package: no filter, one IDAT."""
    height, width, channels = array.shape
    rows = array.astype(">u2").view(np.uint8).reshape(height, -1)
    body = zlib.compress(np.pad(rows, ((0, 0), (1, 0))).tobytes())
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    return _png([(b"IHDR", header), *chunks, (b"IDAT", body), *behind, (b"IEND", b"")])


def bomb(width=60000, height=60000):
    """A PNG of a few bytes that declares 3.6 billion pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return _png([(b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")])


def _png(chunks):
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks
    )


def pixels(path):
    return read_image(path).pixels


def tree(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if not p.is_dir())


def negative_of(path, source):
    return np.array_equal(pixels(path), 255 - pixels(source))
