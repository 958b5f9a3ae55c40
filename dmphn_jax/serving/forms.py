"""Multipart forms whose file goes straight to its place on disk."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import BinaryIO

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from dmphn_jax.serving.refusal import Refusal

_FIELDS = 8  # beside the file


class Form:
    """Takes a form as it comes in: its file is written, other fields are dropped.

    Attributes:
      name: the file's, as it was sent; None before the file is whole.
    """

    def __init__(self, kind: str, field: str, path: Path) -> None:
        """Takes the form's Content-Type, the name of the file's field, and where to write it.

        Raises Refusal, 400, for a type without a usable boundary.
        """
        self.name: str | None = None
        self._field, self._path = field, path
        self._file: BinaryIO | None = None
        self._fields = self._files = 0
        self._header, self._value = bytearray(), bytearray()
        self._options: dict[bytes, bytes] = {}  # of the part's Content-Disposition
        try:
            self._parser = MultipartParser(
                parse_options_header(kind)[1][b"boundary"],
                {
                    "on_part_begin": self._begin,
                    "on_header_field": self._add_to_header,
                    "on_header_value": self._add_to_value,
                    "on_header_end": self._end_header,
                    "on_headers_finished": self._open,
                    "on_part_data": self._write,
                    "on_part_end": self._end,
                },
            )
        except (KeyError, FormParserError):
            raise Refusal(400, "not a multipart form: its header is damaged") from None

    async def read(self, body: AsyncIterator[bytes]) -> str:
        """Takes the body; returns the file's name. Raises Refusal, 400, and what `body` raises."""
        try:
            async for chunk in body:
                self._parser.write(chunk)
            self._parser.finalize()
        except FormParserError:
            raise Refusal(400, "not a multipart form: its body is damaged") from None
        finally:
            if self._file is not None:
                self._file.close()
        if self.name is None:
            raise Refusal(400, f"no file in the form; its field is called {self._field!r}")
        return self.name

    def _begin(self) -> None:
        self._options = {}

    def _add_to_header(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _add_to_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._options = parse_options_header(bytes(self._value))[1]
        self._header.clear()
        self._value.clear()

    def _open(self) -> None:
        if b"filename" not in self._options:
            self._fields += 1
        else:
            self._files += 1
            if _decoded(self._options.get(b"name", b"")) == self._field:
                self._file = self._path.open("wb")
        if self._fields > _FIELDS or self._files > 1:
            raise Refusal(400, f"a form of one file and at most {_FIELDS} fields, not more")

    def _write(self, data: bytes, start: int, end: int) -> None:
        if self._file is not None:
            self._file.write(data[start:end])

    def _end(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file, self.name = None, _decoded(self._options[b"filename"])


def _decoded(text: bytes) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError:
        return text.decode("latin-1")
