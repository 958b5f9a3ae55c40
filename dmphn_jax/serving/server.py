"""Sockets and signals: a service from its first request to its last."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

import uvicorn

from dmphn_jax.errors import UserError, one_line
from dmphn_jax.serving.app import build
from dmphn_jax.serving.protocol import Impatient
from dmphn_jax.serving.service import Service

_SPARE = 64  # connections beside those of the queue: the page's files, questions about films
_HEADER = 16_384  # bytes of a request's header
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def listen(host: str, port: int) -> socket.socket:
    """Returns a socket that listens; port 0 takes a free one. Raises UserError if it cannot."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        made = socket.socket(family, kind, protocol)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
        made.listen(128)
    except (OSError, UnicodeError) as error:  # UnicodeError: of a name that is none
        reason = getattr(error, "strerror", None) or one_line(error)
        raise UserError(f"--host {host} --port {port}: {reason}; give another") from None
    return made


def address(listening: socket.socket) -> str:
    """Returns the address of a socket as a browser on this machine takes it."""
    host, port = listening.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


class Server(uvicorn.Server):
    """Serves a service's application until SIGTERM, SIGHUP or an interrupt, or `end`.

    It lets the pictures under way end first; a second signal does not wait for them.
    """

    def __init__(self, service: Service) -> None:
        """Takes the service, which it does not close."""
        self.service = service
        config = uvicorn.Config(
            build(service),
            http=Impatient,
            loop="asyncio",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=service.limits.queue + _SPARE,
            h11_max_incomplete_event_size=_HEADER,
            timeout_graceful_shutdown=math.ceil(service.limits.seconds),
        )
        super().__init__(config)

    def serve_on(self, listening: socket.socket, on_ready: Callable[[], None]) -> None:
        """Serves on a socket of `listen`; tells once the network has computed for the first time.

        Raises what that first computation raised.
        """
        asyncio.run(self._serve_on(listening, on_ready))

    def end(self) -> None:
        """Begins to end; the second time, at once."""
        self.force_exit = self.should_exit
        self.should_exit = True
        self.service.stop()

    async def _serve_on(self, listening: socket.socket, on_ready: Callable[[], None]) -> None:
        async def tell() -> None:
            try:
                await asyncio.wrap_future(self.service.warming_up)
            except BaseException:
                self.should_exit = True
                raise
            on_ready()

        telling = asyncio.create_task(tell())
        try:
            await self.serve(sockets=[listening])
        finally:
            telling.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await telling

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handles signals while it serves; uvicorn's own raises them again at the end."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()

        def handle(number: int, frame: FrameType | None) -> None:
            loop.call_soon_threadsafe(self.end)

        nohup = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        heard = [each for each in _SIGNALS if each != signal.SIGHUP or not nohup]
        before = {number: signal.signal(number, handle) for number in heard}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def log_to_stderr() -> None:
    """Has a line per request, and what goes wrong, written to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    for name in ("dmphn.serve", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.addHandler(handler)
        logger.propagate = False
    logging.getLogger("dmphn.serve").setLevel(logging.INFO)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
