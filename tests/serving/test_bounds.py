"""Bytes, pixels, time, places: what is too much is answered in words, and nothing stays behind."""

import contextlib
import errno
import socket
import tempfile
import threading

import pytest

from dmphn_jax.images import Image, encode_image, read_image
from dmphn_jax.inference.pipeline import Budget
from dmphn_jax.serving import api, pictures, protocol, results, uploads
from tests.serving.test_api import PICTURES
from tests.support.pictures import bomb, noise
from tests.support.serving import WAIT, Negative, form, head, received, running, until

PICTURE = PICTURES["a.png"]


class Held(Negative):
    """Computes nothing until it is let go."""

    def __init__(self):
        super().__init__(hold=threading.Event())


@pytest.fixture
def held():
    """A server that is computing a picture, and will until `deblurrer.hold` is set."""
    deblurrer = Held()
    with running(deblurrer, queue=3, seconds=WAIT) as client:
        client.deblurrer, client.answers = deblurrer, []
        client.threads = []

        def ask():
            client.answers.append(client.ask("POST", "/v1/deblur", PICTURE))

        def start():
            client.threads.append(threading.Thread(target=ask))
            client.threads[-1].start()

        client.start = start
        start()
        assert deblurrer.begun.acquire(timeout=WAIT)
        yield client
        deblurrer.hold.set()
        for thread in client.threads:
            thread.join(WAIT)


def test_a_full_queue_is_told_with_the_time_to_come_back(held):
    held.start()
    held.start()
    until(lambda: held.service.places.taken == 3)
    assert held.get("/v1/places").json == {"pictures": 0, "films": 0, "seconds": 1}
    answer = held.ask("POST", "/v1/deblur", PICTURE)
    assert answer.status == 503
    assert answer.detail == "the queue is full; come back later"
    assert 1 <= int(answer.headers["Retry-After"]) <= 120
    assert held.get("/v1/model").status == 200  # others are answered
    held.deblurrer.hold.set()
    until(lambda: len(held.answers) == 3)
    assert {answer.status for answer in held.answers} == {200}
    until(lambda: held.get("/v1/places").json["pictures"] == 3)
    assert held.ask("POST", "/v1/deblur", PICTURE).status == 200


def test_who_goes_gives_the_place_up(held):
    with socket.create_connection(("127.0.0.1", held.port)) as connection:
        connection.sendall(head("/v1/deblur", f"Content-Length: {len(PICTURE)}") + PICTURE)
        until(lambda: held.service.places.taken == 2)
    until(lambda: held.service.places.taken == 1)
    held.deblurrer.hold.set()
    until(lambda: held.answers)
    until(lambda: not list(held.service.folder.iterdir()))
    assert len(held.deblurrer.seen) == 1  # the second was never computed


def test_who_goes_while_it_is_computed_stops_the_passes_to_come():
    with running(Held()) as client:
        deblurrer = client.service.engine.deblurrer
        path = "/v1/deblur?ensemble=flips"
        with socket.create_connection(("127.0.0.1", client.port)) as connection:
            connection.sendall(head(path, f"Content-Length: {len(PICTURE)}") + PICTURE)
            assert deblurrer.begun.acquire(timeout=WAIT)
        until(lambda: client.service.places.taken == 0)
        deblurrer.hold.set()
        until(lambda: not list(client.service.folder.iterdir()))
        assert len(deblurrer.seen) == 1


def test_what_takes_too_long_is_told_so():
    deblurrer = Held()
    with running(deblurrer, seconds=0.1) as client:
        answer = client.ask("POST", "/v1/deblur", PICTURE)
        assert answer.status == 504
        assert answer.detail == "not done within 0.1 s"
        assert "Retry-After" not in answer.headers  # the same again would take as long
        deblurrer.hold.set()
        until(lambda: not list(client.service.folder.iterdir()))


def test_reading_the_header_is_part_of_the_time_a_picture_has(held, monkeypatch):
    clock, started, pictures = [0.0], [], held.service.pictures
    read, start = pictures.read_header, pictures.start

    def slowly(source):
        reading = read(source)
        reading.result(WAIT)
        clock[0] = WAIT  # all of the fixture's limit
        return reading

    monkeypatch.setattr(api, "_now", lambda: clock[0])
    monkeypatch.setattr(pictures, "read_header", slowly)
    monkeypatch.setattr(pictures, "start", lambda *a: started.append(start(*a)) or started[0])
    answer = held.ask("POST", "/v1/deblur", PICTURE, timeout=WAIT / 2)
    assert (answer.status, len(started)) == (504, 1)


def large(pixels=1_500_000):
    """A picture whose file, and whose result, no buffer of a connection holds."""
    return encode_image(Image(noise(pixels // 1000, 1000, 3)), "BMP")[0]


@contextlib.contextmanager
def unread(client, data):
    """Sends a picture, and takes nothing of the answer."""
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", client.port))
        connection.sendall(head("/v1/deblur", f"Content-Length: {len(data)}") + data)
        assert connection.recv(12) == b"HTTP/1.1 200"
        yield connection


def test_a_result_holds_its_place_until_it_is_sent():
    data = large()
    with running(queue=1) as client:
        with unread(client, data) as connection:
            assert client.get("/v1/places").json["pictures"] == 0
            assert client.ask("POST", "/v1/deblur", PICTURE).status == 503
            taken = 0
            while taken < len(data):
                taken += len(connection.recv(1_000_000))
        until(lambda: client.service.places.taken == 0)
        until(lambda: not list(client.service.folder.iterdir()))
        with unread(client, data):
            assert client.service.places.taken == 1
        until(lambda: client.service.places.taken == 0)  # the client has gone
        until(lambda: not list(client.service.folder.iterdir()))


def test_who_takes_too_long_for_a_result_is_cut_off(monkeypatch):
    monkeypatch.setattr(results, "_TO_TAKE", 0.1)
    with running(queue=1) as client, unread(client, large()):
        until(lambda: client.service.places.taken == 0)
        assert list(client.service.folder.iterdir()) == []
        assert client.ask("POST", "/v1/deblur", PICTURE).status == 200


@pytest.mark.parametrize("as_form", [True, False])
def test_an_upload_lies_on_the_disk_once(held, as_form, tmp_path, monkeypatch):
    """Also a form's: it goes to its place as it comes, past the folder for temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    data = noise(2_000_000).tobytes()
    body, kind = form("image", "a.png", data) if as_form else (data, "image/png")
    lines = (f"Content-Length: {len(body)}", f"Content-Type: {kind}", "Connection: close")
    before = set(held.service.folder.iterdir())
    with socket.create_connection(("127.0.0.1", held.port)) as connection:
        connection.sendall(head("/v1/deblur", *lines) + body[:-1])

        def come():
            return [path.stat().st_size for path in held.service.folder.rglob("upload")]

        until(lambda: max(come(), default=0) > len(data) - 100_000)
        (folder,) = set(held.service.folder.iterdir()) - before
        assert [path.name for path in folder.iterdir()] == ["upload"]
        assert list(tmp_path.iterdir()) == []
        connection.sendall(body[-1:])
        assert b"not an image" in received(connection)


def test_bytes_are_counted_as_they_come():
    chunks = 0

    def endless():
        nonlocal chunks
        while chunks < 1000:
            chunks += 1
            yield b"x" * 100_000

    with running(upload_bytes=500_000) as client:
        declared = client.raw(head("/v1/deblur", "Content-Length: 500001", "Connection: close"))
        assert declared.startswith(b"HTTP/1.1 413")
        assert b"0.5 MB" in declared
        answer = client.ask("POST", "/v1/deblur", b"x" * 600_000)
        assert answer.status == 413
        with socket.create_connection(("127.0.0.1", client.port)) as connection:
            connection.sendall(head("/v1/deblur", "Transfer-Encoding: chunked"))
            for _ in range(6):
                connection.sendall(b"186a0\r\n" + b"x" * 100_000 + b"\r\n")
            assert connection.recv(13) == b"HTTP/1.1 413 "  # its words differ between Pythons
        answer = client.send("/v1/deblur", "image", "a.png", b"x" * 600_000)
        assert answer.status == 413
        until(lambda: not list(client.service.folder.iterdir()))


def test_pixels_are_refused_before_they_are_decoded():
    with running(pixels=319) as client:  # one less than the picture has
        answer = client.ask("POST", "/v1/deblur", PICTURE)
        assert answer.status == 422
        assert "20x16" in answer.detail
        assert "the limit is" in answer.detail
        assert client.ask("POST", "/v1/deblur", bomb()).status == 422
        assert client.service.engine.deblurrer.seen == []


def test_a_picture_is_refused_rather_than_taking_memory_that_is_not_there(monkeypatch):
    with running() as client:
        monkeypatch.setattr(pictures, "host_free", lambda: 48 * 320 - 1)
        answer = client.ask("POST", "/v1/deblur", PICTURE)
        assert answer.status == 413
        assert answer.detail == "too large for this server's memory; make it smaller"
        monkeypatch.setattr(pictures, "host_free", lambda: 48 * 320)
        assert client.ask("POST", "/v1/deblur", PICTURE).status == 200


def test_two_pictures_are_not_in_memory_that_are_too_large_together(held, monkeypatch):
    budget = Budget(300)  # of which the one that is computed has 320, no pixel is left
    budget.acquire(320)
    monkeypatch.setattr(held.service.pictures, "_budget", budget)
    read = []
    monkeypatch.setattr(
        pictures, "read_image", lambda *a, **b: read.append(1) or read_image(*a, **b)
    )
    held.start()
    until(lambda: held.service.places.taken == 2)
    assert not read
    budget.release(320)
    until(lambda: read)


def test_a_full_disk_is_told_and_is_nobodys_fault(monkeypatch):
    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    with running() as client:
        monkeypatch.setattr(pictures, "write_image", full)
        answer = client.ask("POST", "/v1/deblur", PICTURE)
        assert (answer.status, answer.detail) == (507, "this server's disk is full")


def test_a_body_that_drips_is_cut(monkeypatch):
    monkeypatch.setattr(uploads, "_SILENCE", 0.1)
    with running() as client:
        for path in ("/v1/deblur", "/v1/films"):
            with socket.create_connection(("127.0.0.1", client.port)) as connection:
                connection.sendall(head(path, "Content-Length: 1000", "Connection: close") + b"x")
                answer = received(connection)
            assert answer.startswith(b"HTTP/1.1 408")
            assert b"too slowly" in answer
        assert client.service.places.taken == 0
        assert len(client.service.films) == 0
        assert list(client.service.folder.iterdir()) == []


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"POST /v1/deblur HTTP/1.1\r\nHost: localhost\r\nX: ",  # a header that does not end
        head("/v1/deblur?stages=9", "Content-Length: 1000"),  # the rest of a refused body
    ],
)
def test_a_connection_that_only_waits_is_closed(monkeypatch, sent):
    monkeypatch.setattr(protocol, "_PATIENCE", 0.1)
    with running() as client, socket.create_connection(("127.0.0.1", client.port)) as connection:
        connection.sendall(sent)
        connection.settimeout(WAIT)
        answer = received(connection)
        assert answer == b"" or b"stages 1 to 2" in answer


def test_who_does_not_take_the_answer_is_left(monkeypatch):
    monkeypatch.setattr(protocol, "_STUCK", 0.1)
    monkeypatch.setattr(protocol.Impatient, "_watch", lambda self: None)
    with running() as client, socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", client.port))
        connection.sendall(3000 * head("/openapi.json", method="GET"))  # 25 MB that nobody reads
        until(lambda: client.server.server_state.total_requests > 10)
        until(lambda: not client.server.server_state.connections)
        assert client.server.server_state.total_requests < 3000


def test_at_the_end_what_is_computed_is_finished_and_what_waits_is_refused(held):
    held.start()
    held.start()
    until(lambda: held.service.places.taken == 3)
    held.server.end()
    until(lambda: len(held.answers) >= 1)  # one of the two that had not begun to be computed
    waited = held.answers[0]
    assert waited.status == 503
    assert waited.detail == "this server is stopping"
    held.deblurrer.hold.set()
    until(lambda: len(held.answers) == 3)
    assert sorted(answer.status for answer in held.answers) in ([200, 200, 503], [200, 503, 503])

    def refused():
        try:
            answer = held.get("/healthz")
        except ConnectionError:
            return True
        assert answer.status == 503
        assert answer.json == {"status": "stopping"}
        return False

    until(refused)
