"""Fetching a file of known size and SHA-256 by its address. No jax."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

from dmphn_jax import files
from dmphn_jax.checkpoints.torch.authors import File

_CHUNK = 1 << 16


@dataclasses.dataclass(frozen=True)
class Patience:
    """How long a source is waited for.

    Attributes:
      seconds: a source that sends fewer than `least` bytes in so many is as good as silent.
      least: bytes.
      tries: in a row that bring fewer than `least` bytes, before it is given up.
      pause: seconds before the second try; twice as many before each further one.
    """

    seconds: float = 30
    least: int = 1 << 14
    tries: int = 3
    pause: float = 1


class DownloadError(Exception):
    """Why a file did not come, in a few words."""


class _BrokenOffError(DownloadError):
    """A transfer that may go on a moment later."""


def fetch(
    address: str,
    file: File,
    target: Path,
    *,
    patience: Patience | None = None,
    progress: Callable[[int], object] = lambda count: None,
) -> None:
    """Brings a file to `target`, which appears whole and verified or not at all.

    What has come lies in `<target>.part` until then: a transfer that broke off goes on there,
    also that of a process that was killed. Proxies are those of the environment (`http_proxy`,
    `https_proxy`, `no_proxy`).

    Args:
      address: http, https or file.
      file: what it should be.
      target: where it goes, in a folder that is there.
      patience: with a silent or broken source.
      progress: called with the count of bytes that are here.

    Raises:
      DownloadError: the source cannot be reached, lacks the file or has another one, is too slow,
        or there is no room for it here.
    """
    patience = patience or Patience()
    part = target.with_name(f"{target.name}.part")
    failures, furthest, resumed = 0, _size(part), False
    while not file.is_at(target):
        resumed = resumed or _size(part) > 0
        try:
            with _explained(patience):
                _receive(address, file.size, part, patience, progress)
                if file.is_at(part):
                    os.replace(part, target)
                    break
                part.unlink()
        except _BrokenOffError as error:
            failures = 0 if _size(part) >= furthest + patience.least else failures + 1
            furthest = max(furthest, _size(part))
            if failures >= patience.tries:
                raise DownloadError(str(error)) from None
            time.sleep(patience.pause * 2 ** max(0, failures - 1))
        else:
            if not resumed:
                raise DownloadError("does not have the SHA-256 of the authors' file")
            resumed = False  # the first part may be at fault: once more from the start
    progress(file.size)


def _receive(
    address: str,
    size: int,
    part: Path,
    patience: Patience,
    progress: Callable[[int], object],
) -> None:
    """Appends to `part` what it lacks of `size` bytes; begins anew where that cannot be had."""
    have = _size(part)
    if have >= size:
        return
    request = urllib.request.Request(address, headers={"User-Agent": "dmphn_jax"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    # A new opener each time: it takes the proxies from the environment when it is made.
    opener = urllib.request.build_opener()
    try:
        response = opener.open(request, timeout=patience.seconds)
    except urllib.error.HTTPError as error:
        if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            part.unlink()
            raise _BrokenOffError("the server has no such part of it") from None
        raise
    with response:
        count = _start(response, part, size)
        with open(part, "ab" if count else "wb") as out:
            since, recent = time.monotonic(), 0
            while data := response.read1(_CHUNK):
                count += len(data)
                if count > size:
                    raise DownloadError(f"is longer than the authors' file ({size:,} bytes)")
                out.write(data)
                progress(count)
                recent += len(data)
                if recent >= patience.least:
                    since, recent = time.monotonic(), 0
                elif time.monotonic() - since > patience.seconds:
                    raise TimeoutError
    if count < size:
        raise _BrokenOffError(f"ends after {count:,} of {size:,} bytes")


def _start(response: Any, part: Path, size: int) -> int:
    """Returns from which byte of the file on a response is, 0 or where `part` ends.

    Raises DownloadError if it declares itself another file.
    """
    declared, start = response.headers.get("Content-Length") or "", 0
    if response.status == HTTPStatus.PARTIAL_CONTENT:
        given = response.headers.get("Content-Range") or ""
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", given.strip())
        start = _size(part)
        if not match or int(match[1]) != start:
            part.unlink(missing_ok=True)
            raise _BrokenOffError(f"the server sends another part than asked for ({given[:60]!r})")
        declared = match[2]
    if declared.isdecimal() and int(declared) != size:
        raise DownloadError(f"has {int(declared):,} bytes, the authors' file {size:,}")
    return start


@contextlib.contextmanager
def _explained(patience: Patience) -> Iterator[None]:
    """Raises whatever stops a transfer as DownloadError, told apart by whether it may pass."""
    try:
        yield
    except urllib.error.HTTPError as error:
        error.close()
        text = f"the server answers {error.code} {_said(error.reason)}".strip()
        passing = error.code >= 500 or error.code in (
            HTTPStatus.REQUEST_TIMEOUT,
            HTTPStatus.TOO_MANY_REQUESTS,
        )
        raise (_BrokenOffError if passing else DownloadError)(text) from None
    except http.client.HTTPException as error:
        raise _BrokenOffError(f"the connection broke ({_said(error)})") from None
    except OSError as error:
        # Failing to connect comes wrapped in an URLError.
        reason = getattr(error, "reason", error)
        if isinstance(reason, TimeoutError):
            text = f"fewer than {patience.least:,} bytes came in {patience.seconds:g} s"
            raise _BrokenOffError(text) from None
        cause = files.why(reason) if isinstance(reason, Exception) else str(reason)
        passing = isinstance(reason, ConnectionError) and not isinstance(
            reason, ConnectionRefusedError
        )
        raise (_BrokenOffError if passing else DownloadError)(cause) from None


def _said(text: object) -> str:
    """Returns what a server said as a short printable line."""
    return files.shown(" ".join(str(text).split())[:120])


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
