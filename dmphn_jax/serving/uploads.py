"""Files that come in with a request: by multipart form, or as the body itself."""

from __future__ import annotations

import asyncio
import mimetypes
import os
import unicodedata
from pathlib import Path
from typing import NamedTuple

from starlette.requests import Request
from starlette.types import Message, Receive

from dmphn_jax.serving.forms import Form
from dmphn_jax.serving.refusal import Refusal

_SILENCE = 30.0  # seconds without a byte
_NAME = 120  # characters of a file's name that are kept


class Bounds(NamedTuple):
    """What a body may have: bytes, and seconds to come in."""

    most: int
    seconds: float


def limited(request: Request, bounds: Bounds) -> Request:
    """Returns the request with a body that raises Refusal, 413 or 408, beyond its bounds."""
    return Request(request.scope, _Counted(request.receive, bounds))


async def save(request: Request, folder: Path, field: str, bounds: Bounds) -> tuple[Path, str]:
    """Writes the request's file into `folder`; returns where, and the name it came with.

    The name is a file's name and nothing else, whatever the client sent; a body without one gets
    a name by its type.

    Raises Refusal: 413 too large, 408 too slow, 400 no file, 415 compressed in transfer; or
    ClientDisconnect.
    """
    _check_headers(request, bounds.most)
    counted = limited(request, bounds)
    path = folder / "upload"
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        with path.open("wb") as file:
            async for chunk in counted.stream():
                file.write(chunk)
        return path, field + (mimetypes.guess_extension(kind) or "")
    form = Form(request.headers["content-type"], field, path)
    return path, clean_name(await form.read(counted.stream())) or field


def clean_name(name: str) -> str:
    """Returns the last part of a path, printable, without a leading dot; "" if nothing is left."""
    last = unicodedata.normalize("NFC", name).replace("\\", "/").rpartition("/")[2]
    text = "".join(c for c in last if c.isprintable() and c not in '"<>|:*?').strip(". ")
    stem, extension = os.path.splitext(text)
    return stem[: _NAME - len(extension)] + extension if len(extension) < 16 else text[:_NAME]


def _check_headers(request: Request, most: int) -> None:
    """Refuses what the headers say already."""
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Refusal(415, "compressed in transfer; send the file as it is")
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > most:
        raise _too_large(most)


class _Counted:
    """A request's `receive` that ends it when it brings too much, or takes too long."""

    def __init__(self, receive: Receive, bounds: Bounds) -> None:
        self._receive, self._most = receive, bounds.most
        self._bytes = 0
        self._end = asyncio.get_running_loop().time() + bounds.seconds
        self._seconds = bounds.seconds

    async def __call__(self) -> Message:
        left = self._end - asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(min(left, _SILENCE)):
                message = await self._receive()
        except TimeoutError:
            raise Refusal(
                408,
                f"the file came too slowly: {self._seconds:g} s at most, no pause over "
                f"{_SILENCE:g} s",
            ) from None
        self._bytes += len(message.get("body", b""))
        if self._bytes > self._most:
            raise _too_large(self._most)
        return message


def _too_large(most: int) -> Refusal:
    return Refusal(413, f"the file is larger than this server takes, {most / 1e6:g} MB")
