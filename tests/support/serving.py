"""Servers for tests, in a thread or a process, and a client that may misbehave."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import secrets
import socket
import subprocess
import sys
import threading
import time
from typing import NamedTuple

import numpy as np

from dmphn_jax.inference.pending import Ready
from dmphn_jax.models import ModelConfig
from dmphn_jax.serving import server
from dmphn_jax.serving.limits import Limits
from dmphn_jax.serving.service import Service

WAIT = 60  # seconds, for what is expected at once


class Negative:
    """Stands in a Deblurrer's place: at once, told by eye; `hold` keeps it from going on."""

    config, precision, devices = ModelConfig(hierarchy="1-2", stages=2), "float32", (None,)

    def __init__(self, stages=2, hold=None, begun=None):
        self.stages, self.seen = stages, []
        self.hold, self.begun = hold or threading.Event(), begun or threading.Semaphore(0)
        if hold is None:
            self.hold.set()

    def with_stages(self, stages):
        other = Negative(stages, self.hold, self.begun)
        other.seen = self.seen
        return other

    def submit(self, images):
        if images.shape[1:3] != (256, 256):  # the first computation
            self.seen.append((self.stages, images.shape))
            self.begun.release()
            assert self.hold.wait(WAIT)
        return Ready(np.iinfo(images.dtype).max - images)


class Answer(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def detail(self):
        return self.json["detail"]


class Client:
    """Asks a server; every request has a connection of its own."""

    def __init__(self, port, token=None):
        self.port = port
        self.headers = {"Authorization": f"Bearer {token}"} if token else {}

    def ask(self, method, path, body=None, timeout=WAIT, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        with contextlib.closing(connection):
            chunked = body is not None and not isinstance(body, bytes)
            connection.request(method, path, body, self.headers | named, encode_chunked=chunked)
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())

    def get(self, path, **headers):
        return self.ask("GET", path, **headers)

    def send(self, path, field, name, data, **headers):
        body, kind = form(field, name, data)
        return self.ask("POST", path, body, Content_Type=kind, **headers)

    def raw(self, *parts, wait=WAIT):
        """Sends bytes as they are; returns all that comes back until the connection ends."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=wait) as connection:
            with contextlib.suppress(ConnectionError):
                for part in parts:
                    connection.sendall(part)
            return received(connection)


def received(connection):
    """Returns what comes until the connection ends."""
    found = b""
    with contextlib.suppress(ConnectionError):
        while part := connection.recv(65536):
            found += part
    return found


def form(field, name, data):
    """Returns a multipart body, and its type."""
    line = secrets.token_hex(16)
    head = f'--{line}\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n\r\n'
    body = head.encode() + data + f"\r\n--{line}--\r\n".encode()
    return body, f"multipart/form-data; boundary={line}"


def head(path="/v1/deblur", *lines, method="POST"):
    """Returns a request's header for `Client.raw`."""
    text = "\r\n".join([f"{method} {path} HTTP/1.1", "Host: localhost", *lines, "", ""])
    return text.encode("latin-1")


@contextlib.contextmanager
def running(deblurrer=None, *, access=None, **limits):
    """Runs a server in a thread of this process; yields a client, its `service` among it."""
    listening = server.listen("127.0.0.1", 0)
    options = {"limits": Limits(**limits), "access": access}
    service = Service(deblurrer or Negative(), name="a model", **options)
    serving, ready = server.Server(service), threading.Event()
    thread = threading.Thread(target=serving.serve_on, args=(listening, ready.set))
    thread.start()
    client = Client(listening.getsockname()[1], access and access.token)
    client.service, client.server = service, serving
    try:
        assert ready.wait(WAIT)
        yield client
    finally:
        serving.end()
        thread.join(WAIT)
        service.close()
        listening.close()
        assert not thread.is_alive()
        assert not service.folder.exists()


class Process(NamedTuple):
    """A server in a process of its own."""

    process: subprocess.Popen
    client: Client
    address: str


@contextlib.contextmanager
def process(*flags, **environment):
    """Runs `dmphn serve` on a free port; yields once it is ready."""
    command = [sys.executable, "-m", "dmphn_jax", "serve", "--port", "0", *map(str, flags)]
    clean = {name: value for name, value in os.environ.items() if name != "DMPHN_SERVE_TOKEN"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=clean | environment, **pipes) as started:
        try:
            line = started.stdout.readline()
            match = re.fullmatch(r"ready: (http://127\.0\.0\.1:(\d+)/(?:\?token=(\S+))?)\n", line)
            assert match, line + started.stderr.read()
            yield Process(started, Client(int(match[2]), match[3]), match[1])
        finally:
            started.kill()


def until(true):
    """Waits until something becomes true."""
    end = time.monotonic() + WAIT
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def resident(pid):
    """Returns the most memory a process has held, in bytes."""
    with open(f"/proc/{pid}/status") as file:
        (line,) = [line for line in file if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024
