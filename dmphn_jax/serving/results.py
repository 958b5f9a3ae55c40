"""Answers that are files: a picture's result, which goes once it is sent, and a film's."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path

from starlette.responses import FileResponse
from starlette.types import Message, Receive, Scope, Send

from dmphn_jax.serving.films import Film

_TO_TAKE = 1800.0  # seconds that a picture may take to be sent


class Temporary(FileResponse):
    """A picture's file; its folder and its place go once it is sent, or the client has gone.

    A client that takes too long for it is cut off: others wait for the place.
    """

    def __init__(
        self,
        path: Path,
        filename: str,
        *,
        kind: str,
        headers: dict[str, str],
        release: Callable[[], None],
    ) -> None:
        """Takes the file, its name for the client, a MIME type, headers, what frees the place."""
        super().__init__(path, filename=filename, media_type=kind, headers=headers)
        self._folder, self._release = path.parent, release

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends it."""
        try:
            with contextlib.suppress(TimeoutError):  # the server then closes the connection
                async with asyncio.timeout(_TO_TAKE):
                    await super().__call__(scope, receive, send)
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._release()


class FilmResult(FileResponse):
    """A film's file, which counts as fetched once the system has taken it whole, in one piece.

    A browser's player asks for ranges: who looks at a film has not taken it yet.
    """

    def __init__(self, film: Film) -> None:
        super().__init__(film.output, filename=film.name)
        self._film = film

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends it."""
        whole = False

        async def watched(message: Message) -> None:
            nonlocal whole
            await send(message)
            if message["type"] == "http.response.start":
                whole = message["status"] == 200 and scope["method"] == "GET"
            elif whole and not message.get("more_body"):
                self._film.fetched = True

        await super().__call__(scope, receive, watched)
