"""One file over a connection that may do anything: whole and verified, or one line."""

from __future__ import annotations

import os
import socket

import pytest

from dmphn_jax.checkpoints.download import DownloadError, fetch
from tests.checkpoints.conftest import QUICK
from tests.support import mirror as m
from tests.support.mirror import authors_file, serving

SIZE = 4000


@pytest.fixture
def source(tmp_path, cache):
    """A mirror of one file, and where the file goes."""
    (tmp_path / "served").mkdir()
    (tmp_path / "got").mkdir()
    (tmp_path / "served" / "a file").write_bytes(os.urandom(SIZE))
    with serving(tmp_path / "served") as mirror:
        yield mirror


@pytest.fixture
def get(tmp_path, source):
    def get(address=None, patience=QUICK):
        counts = []
        fetch(
            address or f"{source.address}/a%20file",
            authors_file(tmp_path / "served" / "a file"),
            tmp_path / "got" / "file",
            patience=patience,
            progress=counts.append,
        )
        assert counts[-1] == SIZE
        assert max(counts) == SIZE
        got, served = tmp_path / "got", tmp_path / "served"
        assert [path.name for path in got.iterdir()] == ["file"]
        assert (got / "file").read_bytes() == (served / "a file").read_bytes()

    return get


@pytest.fixture
def fails(tmp_path, get):
    def fails(address=None) -> str:
        with pytest.raises(DownloadError) as error:
            get(address)
        assert not (tmp_path / "got" / "file").exists()
        assert "\n" not in str(error.value)
        return str(error.value)

    return fails


def test_a_file_comes_once(source, get):
    get()
    get()
    assert source.requests == [("/a%20file", None)]
    assert source.served == SIZE


@pytest.mark.parametrize("pieces", [[1500], [1000, 1000, 1000, 900]])
def test_a_broken_transfer_goes_on_where_it_was(source, get, pieces):
    source.answers = [m.cut(count) for count in pieces]
    get()
    assert source.served == SIZE
    starts = [f"bytes={sum(pieces[: i + 1])}-" for i in range(len(pieces))]
    assert [asked for _, asked in source.requests] == [None, *starts]


def test_a_left_part_is_gone_on_with(tmp_path, source, get):
    data = (tmp_path / "served" / "a file").read_bytes()
    (tmp_path / "got" / "file.part").write_bytes(data[:3000])
    get()
    assert source.served == SIZE - 3000


def test_a_server_without_ranges_sends_all_again(source, get):
    source.answers = [m.cut(1500), m.all_of_it]
    get()
    assert source.served == SIZE + 1500


@pytest.mark.parametrize("answer", [m.other_part, m.status(416)])
def test_what_no_part_can_be_had_of_comes_anew(source, get, answer):
    source.answers = [m.cut(1500), answer]
    get()
    assert source.requests[-1][1] is None


@pytest.mark.parametrize("left", [b"rubbish", b"r" * SIZE, b"r" * (SIZE + 1)])
def test_a_part_of_something_else_costs_a_second_transfer(tmp_path, source, get, left):
    (tmp_path / "got" / "file.part").write_bytes(left)
    get()


def test_tampered_bytes_are_never_kept(tmp_path, source, fails):
    source.answers = [m.tampered]
    assert "SHA-256" in fails()
    assert list((tmp_path / "got").iterdir()) == []
    source.answers = [m.cut(1500), m.tampered, m.tampered]
    assert "SHA-256" in fails()


def test_another_length_is_told_from_its_head(source, fails):
    source.answers = [m.another]
    assert fails() == "has 20 bytes, the authors' file 4,000"
    assert len(source.requests) == 1


def test_no_more_than_the_file_is_taken(source, fails, get):
    source.answers = [m.endless]
    assert "longer than the authors' file" in fails()
    get()


@pytest.mark.parametrize(("code", "requests"), [(404, 1), (403, 1), (500, 3), (503, 3), (429, 3)])
def test_a_refusal_is_one_line_and_one_that_may_pass_is_tried_again(source, fails, code, requests):
    source.answers = [m.status(code) for _ in range(requests)]
    assert f"the server answers {code}" in fails()
    assert len(source.requests) == requests


def test_what_a_server_says_cannot_paint_the_terminal(source, fails):
    def answer(handler, data):
        handler.send_response(404, "\x1b[31mred")
        handler.end_headers()

    source.answers = [answer]
    assert fails() == "the server answers 404 \\x1b[31mred"


def test_a_server_that_comes_back(source, get):
    source.answers = [m.status(500), m.status(502)]
    get()
    assert source.served == SIZE


@pytest.mark.parametrize("ranges", [True, False])
def test_a_server_that_always_breaks_off_is_given_up(source, fails, ranges):
    """With no more of it each time; one that goes on in small steps is not."""
    source.answers = [m.cut(1500), *[m.cut(0 if ranges else 1500, ranges)] * 3]
    assert "ends after 1,500 of 4,000 bytes" in fails()
    assert len(source.requests) == 4


@pytest.mark.parametrize("answer", [m.stall(10), m.drip])
def test_a_silent_and_a_dripping_server_are_given_up(source, fails, answer):
    source.answers = [answer] * 3
    assert fails() == "fewer than 256 bytes came in 0.2 s"
    assert len(source.requests) == 3


def test_a_stalled_transfer_goes_on_elsewhere(source, get):
    source.answers = [m.stall(1000)]
    get()
    assert source.requests[-1][1] == "bytes=1000-"


def test_redirects(source, get, fails):
    source.answers = [m.redirect(f"{source.address}/a%20file")] * 2
    get()
    assert len(source.requests) == 3


def test_bad_redirects(source, fails):
    source.answers = [m.redirect("file:///etc/passwd")]
    assert "302" in fails()
    source.answers = [m.redirect(f"{source.address}/a%20file")] * 20
    assert "302" in fails()
    source.answers = [m.redirect(f"{source.address}/none")]
    assert "404" in fails()


def test_files(tmp_path, fails, get):
    where = (tmp_path / "served" / "a file").as_uri()
    assert "No such file" in fails(f"{where}s")
    assert fails((tmp_path / "served").as_uri())
    (tmp_path / "got" / "file.part").write_bytes(b"rubbish")
    get(where)


def test_no_network(source, fails):
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}/a"
        assert fails(address) == "Connection refused"
    assert fails("http://no-such-host.invalid/a")


def test_a_full_disk(tmp_path, source, fails, get):
    part = tmp_path / "got" / "file.part"
    part.symlink_to("/dev/full")
    assert fails() == "No space left on device"
    part.unlink()
    get()


def test_proxies_of_the_environment(source, get, fails, monkeypatch):
    monkeypatch.setenv("http_proxy", source.address)
    get("http://weights.invalid/a%20file")
    assert source.requests == [("http://weights.invalid/a%20file", None)]


def test_a_proxy_for_https_is_asked_for_a_tunnel(source, fails, monkeypatch):
    monkeypatch.setenv("https_proxy", source.address)
    assert "403" in fails("https://weights.invalid/a%20file")
    assert source.requests == [("weights.invalid:443", None)]


def test_no_proxy_where_the_environment_says_so(source, get, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://proxy.invalid:1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    get()
    assert source.served == SIZE
