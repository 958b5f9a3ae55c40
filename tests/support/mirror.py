"""A mirror of the authors' files on loopback that can misbehave, and small files to serve."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import re
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from dmphn_jax import checkpoints
from dmphn_jax.checkpoints.torch import authors
from dmphn_jax.checkpoints.torch.names import MODEL_FILE
from dmphn_jax.checkpoints.torch.reading import params_from_torch
from dmphn_jax.checkpoints.torch.writing import write_torch
from tests.checkpoints.torch.weights import assert_same_bits, narrow
from tests.support.http_server import QuietServer
from tests.support.networks import random_params

# name -> folder in the repository; the first has two files only, so that tests are quick
NAME = "dmphn_1"
FAKE = {NAME: "checkpoints/DMPHN_1", "stack2": "checkpoints/SDNet2"}


def fake_release(root: Path) -> authors.Release:
    """Writes a repository of two narrow models under `root`; returns its table."""
    folders = {}
    for name, path in FAKE.items():
        config = narrow(name)
        write_torch(random_params(config), config, root / path)
        (root / path / MODEL_FILE).unlink()
        files = [authors_file(file) for file in sorted((root / path).iterdir())]
        folders[name] = authors.Folder(name, path, tuple(files))
    return dataclasses.replace(authors.release(), folders=folders)


def sizes(release, name=NAME):
    return sum(file.size for file in release.folders[name].files)


def assert_here(path, repository, name=NAME):
    params, config = params_from_torch(repository[0] / FAKE[name])
    found = checkpoints.load(path)
    assert found.config == config == narrow(name)
    assert_same_bits(found.params, params)


def authors_file(path: Path) -> authors.File:
    data = path.read_bytes()
    return authors.File(path.name, len(data), hashlib.sha256(data).hexdigest())


class Mirror:
    """Serves a folder, with ranges, as `http://127.0.0.1:PORT/...`; a proxy for any host too.

    Attributes:
      answers: what the next requests get in place of the file, first come first served.
      requests: the (address, Range header) of each request.
      served: bytes of all bodies.
      waiting: set while an answer stalls.
      go: set it to let stalled answers go on.
    """

    def __init__(self, folder: Path, address: str) -> None:
        self.folder, self.address = folder, address
        self.answers: list[Callable[[Handler, bytes], None]] = []
        self.requests: list[tuple[str, str | None]] = []
        self.served = 0
        self.waiting, self.go = threading.Event(), threading.Event()


class Handler(BaseHTTPRequestHandler):
    mirror: Mirror

    def do_GET(self) -> None:
        self.mirror.requests.append((self.path, self.headers["Range"]))
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        file = self.mirror.folder / path.lstrip("/")
        if not file.is_file():
            status(404)(self, b"")
            return
        answer = self.mirror.answers.pop(0) if self.mirror.answers else whole
        with contextlib.suppress(ConnectionError):  # the client may go away
            answer(self, file.read_bytes())

    def do_CONNECT(self) -> None:
        self.mirror.requests.append((self.path, None))
        status(403)(self, b"")

    def head(self, code: int = 200, **fields: object) -> None:
        self.send_response(code)
        for name, value in fields.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def body(self, data: bytes) -> None:
        self.mirror.served += len(data)  # first: whoever has the last byte may look at it
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


def whole(handler: Handler, data: bytes) -> None:
    """The file, or the part of it that is asked for."""
    match = re.fullmatch(r"bytes=(\d+)-", handler.headers["Range"] or "")
    start = int(match[1]) if match else 0
    if start >= len(data):
        handler.head(416, Content_Range=f"bytes */{len(data)}")
        return
    fields = {"Content_Range": f"bytes {start}-{len(data) - 1}/{len(data)}"} if match else {}
    handler.head(206 if match else 200, Content_Length=len(data) - start, **fields)
    handler.body(data[start:])


def all_of_it(handler: Handler, data: bytes) -> None:
    """As a server that knows no ranges."""
    handler.head(Content_Length=len(data))
    handler.body(data)


def tampered(handler: Handler, data: bytes) -> None:
    whole(handler, data[:-1] + bytes([data[-1] ^ 1]))


def another(handler: Handler, data: bytes) -> None:
    """A page, as networks that want a login first serve it for everything."""
    all_of_it(handler, b"<html>welcome</html>")


def endless(handler: Handler, data: bytes) -> None:
    """No length said, and more than there should be."""
    handler.head()
    handler.body(data + b"more")


def other_part(handler: Handler, data: bytes) -> None:
    handler.head(206, Content_Range=f"bytes 1-{len(data) - 1}/{len(data)}")
    handler.body(data[1:])


def cut(count: int, ranges: bool = True) -> Callable[[Handler, bytes], None]:
    """Breaks off after `count` bytes."""

    def answer(handler: Handler, data: bytes) -> None:
        match = re.fullmatch(r"bytes=(\d+)-", handler.headers["Range"] or "")
        start = int(match[1]) if match and ranges else 0
        fields = {"Content_Range": f"bytes {start}-{len(data) - 1}/{len(data)}"} if start else {}
        handler.head(206 if start else 200, Content_Length=len(data) - start, **fields)
        handler.body(data[start : start + count])

    return answer


def stall(count: int) -> Callable[[Handler, bytes], None]:
    """Sends `count` bytes, then nothing until `mirror.go`."""

    def answer(handler: Handler, data: bytes) -> None:
        handler.head(Content_Length=len(data))
        handler.body(data[:count])
        handler.wfile.flush()
        handler.mirror.waiting.set()
        handler.mirror.go.wait()
        handler.body(data[count:])

    return answer


def drip(handler: Handler, data: bytes) -> None:
    """A byte now and then: never silent, never done."""
    handler.head(Content_Length=len(data))
    for index in range(len(data)):
        handler.body(data[index : index + 1])
        if handler.mirror.go.wait(0.01):
            return


def status(code: int) -> Callable[[Handler, bytes], None]:
    return lambda handler, data: handler.head(code, Content_Length=0)


def redirect(to: str) -> Callable[[Handler, bytes], None]:
    return lambda handler, data: handler.head(302, Location=to, Content_Length=0)


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[Mirror]:
    """Runs a mirror of `folder` in threads."""
    server = QuietServer(("127.0.0.1", 0), type("Bound", (Handler,), {}))
    mirror = Mirror(folder, f"http://127.0.0.1:{server.server_port}")
    server.RequestHandlerClass.mirror = mirror
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield mirror
    finally:
        mirror.go.set()
        server.shutdown()
        server.server_close()
        thread.join()
