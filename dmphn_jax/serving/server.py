"""Sockets and signals: a service from its first request to its last."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

import uvicorn

from dmphn_jax.errors import UserError
from dmphn_jax.serving.app import build
from dmphn_jax.serving.protocol import Impatient
from dmphn_jax.serving.service import Service

_SPARE = 64  # connections beside those of the queue: the page's files, questions about films
_HEADER = 16_384  # bytes of a request's header


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
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"--host {host} --port {port}: {reason}; give another") from None
    return made


def address(listening: socket.socket) -> str:
    """Returns the address of a socket as a browser on this machine takes it."""
    host, port = listening.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def serve(service: Service, listening: socket.socket, on_ready: Callable[[], None]) -> None:
    """Serves until SIGTERM or an interrupt; a second one does not wait for what is under way.

    Args:
      service: whose application is served; it is not closed.
      listening: of `listen`.
      on_ready: is called once the network has computed for the first time.

    Raises what the network's first computation raised.
    """
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
        timeout_graceful_shutdown=round(service.limits.seconds),
    )
    asyncio.run(_serve(_Server(config, service), listening, on_ready))


async def _serve(server: _Server, listening: socket.socket, on_ready: Callable[[], None]) -> None:
    async def tell() -> None:
        try:
            await asyncio.wrap_future(server.service.warming_up)
        except BaseException:
            server.should_exit = True
            raise
        on_ready()

    telling = asyncio.create_task(tell())
    try:
        await server.serve(sockets=[listening])
    finally:
        telling.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await telling


class _Server(uvicorn.Server):
    """Tells the service at the first signal, and returns in place of raising it again."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self.service = service

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handles them while the server runs."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()

        def handle(number: int, frame: FrameType | None) -> None:
            loop.call_soon_threadsafe(self._end)

        before = {number: signal.signal(number, handle) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _end(self) -> None:
        if self.should_exit:
            self.force_exit = True
        self.should_exit = True
        self.service.stop()


_SIGNALS = (signal.SIGINT, signal.SIGTERM)


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
