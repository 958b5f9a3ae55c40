"""The addresses of `/v1`: pictures at once, films as jobs."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import json
import logging
import math
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import PIL.Image
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from dmphn_jax.errors import UserError, nearest, one_line, out_of_memory
from dmphn_jax.files import shown
from dmphn_jax.images import WRITABLE, Header, format_of
from dmphn_jax.serving import uploads
from dmphn_jax.serving.engine import ENSEMBLES, How, Stopped
from dmphn_jax.serving.films import Film, State
from dmphn_jax.serving.pictures import Done
from dmphn_jax.serving.refusal import Refusal
from dmphn_jax.serving.results import FilmResult, Temporary
from dmphn_jax.video.encoding import EXTENSIONS, film_name, is_film

if TYPE_CHECKING:
    from dmphn_jax.serving.service import Service

Value = TypeVar("Value")
log = logging.getLogger("dmphn.serve")
_now = time.monotonic


class Api:
    """The endpoints."""

    def __init__(self, service: Service) -> None:
        self._service, self._limits = service, service.limits

    async def model(self, request: Request) -> Response:
        """What this server runs and takes."""
        deblurrer = self._service.engine.deblurrer
        return JSONResponse(
            {
                "model": self._service.name,
                "stages": deblurrer.stages,
                "precision": deblurrer.precision,
                "ensembles": list(self._service.ensembles),
                "films": self._service.takes_films,
                "film_extensions": EXTENSIONS,
                "limits": dataclasses.asdict(self._limits),
            }
        )

    async def places(self, request: Request) -> Response:
        """How many pictures and films would be taken now: a file need not be sent to learn it."""
        places = self._service.places
        free = places.free
        films = self._service.films.free if free else 0
        wait = math.ceil(places.wait)
        return JSONResponse({"pictures": free, "films": films, "seconds": max(1, wait)})

    async def deblur(self, request: Request) -> Response:
        """A picture in, the same picture deblurred out."""
        how = self._how(request)
        limits = self._limits
        with ExitStack() as place:
            place.enter_context(self._service.places.place())
            folder = self._folder()
            stop, working = threading.Event(), None
            try:
                bounds = uploads.Bounds(limits.upload_bytes, limits.upload_seconds)
                source, name = await uploads.save(request, folder, "image", bounds)
                deadline = _Deadline(limits.seconds)
                pictures = self._service.pictures
                header = await _while_connected(request, pictures.read_header(source), deadline)
                output = folder / f"result{_extension(header)}"
                working = pictures.start(source, header, output, how, stop)
                done = await _while_connected(request, working, deadline)
                source.unlink()
            except BaseException as error:
                stop.set()
                _remove_after(folder, working)
                if isinstance(error, Exception):
                    raise _as_refusal(error, folder / "upload") from error
                raise
            request.state.told = f"{done.size[1]}x{done.size[0]} in {done.seconds:.2f} s"
            release = place.pop_all().close  # once the result is sent: it lies on the disk
            return _picture_response(output, result_name(name, header), done, release)

    async def post_film(self, request: Request) -> Response:
        """Takes a film; answers at once with its id."""
        how = self._how(request)
        films, limits = self._service.films, self._limits
        self._service.places.look()
        with films.place():
            folder = self._folder()
            try:
                bounds = uploads.Bounds(limits.film_bytes, limits.upload_seconds)
                source, name = await uploads.save(request, folder, "film", bounds)
                total = await asyncio.to_thread(films.check, source)
                film = Film(folder, film_name(name) if is_film(name) else f"{name}.mp4", how)
                making = films.add(source, film, total)
            except BaseException as error:
                _remove_after(folder, None)
                if isinstance(error, Exception):
                    raise _as_refusal(error, folder / "upload") from error
                raise
        self._service.in_background(self._keep(film, making))
        # Relative to this address: a proxy may have put a path before it.
        return JSONResponse(film.report(), 202, {"Location": f"films/{film.id}"})

    async def get_film(self, request: Request) -> Response:
        """How far a film is."""
        return JSONResponse(self._film(request).report())

    async def get_film_result(self, request: Request) -> Response:
        """The film that came out."""
        film = self._film(request)
        if film.state is State.FAILED:
            raise Refusal(409, f"this film failed: {film.detail}")
        if film.state is not State.DONE:
            raise Refusal(409, f"this film is {film.state}", retry_after=5)
        return FilmResult(film)

    async def delete_film(self, request: Request) -> Response:
        """Stops and forgets a film."""
        self._service.films.drop(self._film(request))
        return Response(status_code=204)

    def _film(self, request: Request) -> Film:
        return self._service.films.get(request.path_params["id"])

    async def _keep(self, film: Film, making: Future[None]) -> None:
        """Forgets a film some time after its end."""
        await asyncio.wait([asyncio.wrap_future(making)])
        log.info("film %s: %d frames, %.1f s", film.state, film.done, film.seconds)
        await asyncio.sleep(self._limits.keep_seconds)
        self._service.films.drop(film)

    def _folder(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self._service.folder))

    def _how(self, request: Request) -> How:
        """Reads `stages` and `ensemble`; raises Refusal, 400, for what there is not."""
        known = ("stages", "ensemble")
        for name in request.query_params:
            if name not in known:
                shown_name = json.dumps(name[:40])
                raise Refusal(
                    400,
                    f"no parameter {shown_name}{nearest(name[:40], known)}; there are "
                    f"{' and '.join(known)}",
                )
        most = self._service.engine.deblurrer.stages
        text = request.query_params.get("stages", str(most))
        if not (text.isascii() and text.isdecimal() and len(text) < 5 and 1 <= int(text) <= most):
            raise Refusal(400, f"stages={json.dumps(text[:40])}: the model has stages 1 to {most}")
        ensemble = request.query_params.get("ensemble", ENSEMBLES[0])
        if ensemble not in self._service.ensembles:
            raise Refusal(
                400,
                f"ensemble={json.dumps(ensemble[:40])}: one of "
                f"{', '.join(self._service.ensembles)}",
            )
        return How(int(text), ensemble)


def _extension(header: Header) -> str:
    """Returns the extension of a picture's result: the format is that of the file's content."""
    return WRITABLE.get(header.format, WRITABLE["PNG"])  # GIF is only read


def result_name(name: str, header: Header) -> str:
    """Returns what a picture's result is called: its name, with the extension of its format."""
    if WRITABLE.get(format_of(name) or "") == _extension(header):
        return name
    return (os.path.splitext(name)[0] if format_of(name) else name) + _extension(header)


def _picture_response(output: Path, name: str, done: Done, release: Callable[[], None]) -> Response:
    headers = {"Dmphn-Seconds": f"{done.seconds:.3f}"}
    if done.notes:
        headers["Dmphn-Notes"] = "; ".join(done.notes)
    kind = PIL.Image.MIME[format_of(output) or "PNG"]
    return Temporary(output, name, kind=kind, headers=headers, release=release)


class _Deadline:
    """So many seconds from now."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self._end = seconds, _now() + seconds

    @property
    def left(self) -> float:
        """Seconds until then, 0 after it."""
        return max(0.0, self._end - _now())


async def _while_connected(request: Request, work: Future[Value], deadline: _Deadline) -> Value:
    """Waits for work as long as the client does, and gives it up else.

    Raises ClientDisconnect, Refusal, 504, for what takes too long, or Stopped.
    """
    working = asyncio.wrap_future(work)
    gone = asyncio.create_task(_disconnected(request))
    try:
        either: list[asyncio.Future[Any]] = [working, gone]
        await asyncio.wait(either, timeout=deadline.left, return_when=asyncio.FIRST_COMPLETED)
        if working.cancelled():
            raise Stopped
        if working.done():
            return working.result()
        if gone.done():
            raise ClientDisconnect
        raise Refusal(504, f"not done within {deadline.seconds:g} s")
    finally:
        gone.cancel()
        working.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _remove_after(folder: Path, working: Future[Any] | None) -> None:
    """Removes a request's folder, once nobody works in it."""
    if working is None:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        working.add_done_callback(lambda _: shutil.rmtree(folder, ignore_errors=True))


def _as_refusal(error: Exception, path: Path) -> Exception:
    """Gives what went wrong a status and words without this machine's paths."""
    if isinstance(error, Stopped):
        return Refusal(503, "this server is stopping", retry_after=10)
    if out_of_memory(error) or "too large for memory" in str(error):
        return Refusal(413, "too large for this server's memory; make it smaller")
    if os.strerror(errno.ENOSPC) in str(error):
        return Refusal(507, "this server's disk is full")
    if isinstance(error, UserError):
        text = one_line(error).replace(f"{shown(path)}: ", "").replace(shown(path.parent), "")
        return Refusal(422, text)
    return error
