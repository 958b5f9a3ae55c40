"""Answers that are files: a picture's result, which goes once it is sent, and a film's."""

from __future__ import annotations

import shutil
from pathlib import Path

from starlette.responses import FileResponse
from starlette.types import Message, Receive, Scope, Send

from dmphn_jax.serving.films import Film


class Temporary(FileResponse):
    """A file that is removed, with its folder, once it is sent or the client has gone."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            shutil.rmtree(Path(self.path).parent, ignore_errors=True)


class FilmResult(FileResponse):
    """A film's file, which has been fetched once it has gone out whole and in one piece.

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
