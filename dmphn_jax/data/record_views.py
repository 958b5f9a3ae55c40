"""Windows into the records of an uncompressed ArrayRecord file, without reading whole records.

The ArrayRecord reader copies a whole record twice: 1.6 MB for a pair of 512 tiles, of which a
crop needs a quarter. Here the file is mapped into memory, the two tiles are located in it once,
and a crop is the only copy made.

An ArrayRecord file is a Riegeli file: a sequence of chunks, interrupted by a 24 byte header at
every 64 KiB. With `group_size:1,uncompressed` a chunk is a 40 byte header, a few bytes of sizes,
and one record, here a serialized `tf.train.Example`. Anything else is refused by `RecordViews`,
and the source then goes through the ordinary reader. Views do not verify the chunks' hashes, which
cover whole records; the ordinary reader does.

Why by hand: through TFDS's reader a crop takes 5 ms of a core, here 0.1 ms or less. Plain arrays
(`numpy.load(mmap_mode="r")`) would be as fast, but they would lie beside the records, which other
TFDS code reads: another 11.6 GB for GoPro; and sets that are prepared already have none.
"""

from __future__ import annotations

import mmap
import os
import struct
import threading
from typing import NamedTuple

import numpy as np

_BLOCK, _BLOCK_HEADER, _CHUNK_HEADER = 1 << 16, 24, 40
_PAYLOAD = _BLOCK - _BLOCK_HEADER  # bytes of content in each block


class NotViewableError(Exception):
    """The file is compressed, cut short, or laid out in a way this module does not read."""


class Image(NamedTuple):
    """Where an image's first byte lies in the file's content, and its (height, width)."""

    start: int
    height: int
    width: int


class RecordViews:
    """Memory views of the image pairs in one ArrayRecord file; safe to read from several threads.

    Positions below count the file's content, without the block headers.

    Args:
      path: the file.
      count: how many records it holds.

    Raises:
      NotViewableError: see above.
    """

    def __init__(self, path: str | os.PathLike[str], count: int):
        self.path, self.count = os.fspath(path), count
        self._lock = threading.Lock()
        self._starts: list[tuple[int, int]] | None = None  # (first byte, length) of each record
        self._pairs: dict[int, tuple[Image, Image]] = {}
        try:
            with open(self.path, "rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise NotViewableError(str(error)) from error
        self.pair(0)

    def _read(self, start: int, length: int) -> bytes:
        """Returns `length` bytes of content; meant for a few bytes."""
        out = b""
        while length > 0:
            block, column = divmod(start, _PAYLOAD)
            place = block * _BLOCK + _BLOCK_HEADER + column
            part = self._map[place : place + min(length, _PAYLOAD - column)]
            if not part:
                raise NotViewableError(f"{self.path} ends early")
            out += part
            start, length = start + len(part), length - len(part)
        return out

    def _varint(self, start: int) -> tuple[int, int]:
        """Returns (value, next position) of a base 128 number."""
        value = 0
        for place, byte in enumerate(self._read(start, min(10, self._end - start))):
            value |= (byte & 127) << (7 * place)
            if byte < 128:
                return value, start + place + 1
        raise NotViewableError(f"{self.path}: no number at {start}")

    @property
    def _end(self) -> int:
        size = len(self._map)
        return size // _BLOCK * _PAYLOAD + max(0, size % _BLOCK - _BLOCK_HEADER)

    def _walk(self) -> list[tuple[int, int]]:
        """Returns (first byte, length) of every record by stepping from chunk to chunk."""
        starts: list[tuple[int, int]] = []
        position = 0
        while len(starts) < self.count:
            _, size, _, kind, _ = struct.unpack("<5Q", self._read(position, _CHUNK_HEADER))
            kind, records = chr(kind & 255), kind >> 8
            body = position + _CHUNK_HEADER
            position = body + size
            if kind == "s" and position == _CHUNK_HEADER:
                continue  # the file's signature
            if kind != "r" or records != 1 or position > self._end:
                raise NotViewableError(f"{self.path}: a {kind!r} chunk of {records} records")
            if self._read(body, 1) != b"\0":
                raise NotViewableError(f"{self.path} is compressed")
            sizes, after = self._varint(body + 1)
            length, _ = self._varint(after)
            starts.append((after + sizes, length))
            if after + sizes + length != position:
                raise NotViewableError(f"{self.path}: a record of unexpected length")
        return starts

    def pair(self, index: int) -> tuple[Image, Image]:
        """Returns where record `index` keeps its blurry and its sharp image.

        Raises NotViewableError if it is not laid out as `RecordViews` reads them.
        """
        found = self._pairs.get(index)
        if found is None:
            if self._starts is None:
                with self._lock:
                    self._starts = self._starts or self._walk()
            try:
                found = self._pairs[index] = self._locate(*self._starts[index])
            except (UnicodeDecodeError, IndexError) as error:
                raise NotViewableError(f"{self.path}: record {index}: {error}") from None
        return found

    def _locate(self, start: int, length: int) -> tuple[Image, Image]:
        """Finds `{blurry,sharp}/{value,shape}` in a serialized Example.

        Example { Features features = 1 }, Features { map<string, Feature> feature = 1 },
        Feature { BytesList bytes = 1 or Int64List int64 = 3 }, each list { value = 1 }.
        """
        fields: dict[str, tuple[int, int, int]] = {}
        position, end = self._enter(start, start + length)
        while position < end:
            entry, entry_end = self._enter(position, end)
            key, key_end = self._enter(entry, entry_end)
            name = self._read(key, key_end - key).decode()
            feature, feature_end = self._enter(key_end, entry_end, tag=2)
            kind = self._read(feature, 1)[0] >> 3
            fields[name] = (kind, *self._enter(feature, feature_end, tag=kind))
            position = entry_end
        return self._image(fields, "blurry"), self._image(fields, "sharp")

    def _enter(self, position: int, end: int, tag: int = 1) -> tuple[int, int]:
        """Returns where the content of the length-delimited field at `position` starts and ends."""
        head, position = self._varint(position)
        size, position = self._varint(position)
        if head != (tag << 3 | 2) or position + size > end:
            raise NotViewableError(f"{self.path}: not the expected example")
        return position, position + size

    def _image(self, fields: dict[str, tuple[int, int, int]], side: str) -> Image:
        try:
            kind, value, value_end = fields[f"{side}/value"]
            shape_kind, shape, shape_end = fields[f"{side}/shape"]
        except KeyError as error:
            raise NotViewableError(f"{self.path}: an example without {side}") from error
        if (kind, shape_kind) != (1, 3):
            raise NotViewableError(f"{self.path}: {side} is not raw bytes")
        value, value_end = self._enter(value, value_end)
        shape, shape_end = self._enter(shape, shape_end)
        sizes = []
        while shape < shape_end:
            size, shape = self._varint(shape)
            sizes.append(size)
        if len(sizes) != 3 or sizes[2] != 3 or value_end - value != np.prod(sizes):
            raise NotViewableError(f"{self.path}: {side} is not an RGB image")
        return Image(value, sizes[0], sizes[1])

    def window(self, image: Image, top: int, left: int, out: np.ndarray) -> None:
        """Copies the window of an image at (top, left) into `out`, uint8 (height, width, 3).

        `out` may be a part of a larger array whose pixels follow each other within a row.
        """
        height, width, _ = out.shape
        if not (0 <= top <= top + height <= image.height):
            raise IndexError(f"rows {top} to {top + height} of {image.height}")
        if not (0 <= left <= left + width <= image.width):
            raise IndexError(f"columns {left} to {left + width} of {image.width}")
        stride, row_bytes = image.width * 3, width * 3
        start = image.start + top * stride + left * 3
        row = 0
        while row < height:
            block, column = divmod(start + row * stride, _PAYLOAD)
            # All rows that end within this block go in one strided copy.
            rows = min(height - row, (_PAYLOAD - column - row_bytes) // stride + 1)
            if rows > 0:
                place = block * _BLOCK + _BLOCK_HEADER + column
                shape, strides = (rows, width, 3), (stride, 3, 1)
                out[row : row + rows] = np.ndarray(shape, np.uint8, self._map, place, strides)
            else:  # the block's header interrupts this row
                rows = 1
                read = self._read(start + row * stride, row_bytes)
                out[row] = np.frombuffer(read, np.uint8).reshape(width, 3)
            row += rows
