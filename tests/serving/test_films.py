"""Films as jobs: sent, asked about, fetched, dropped, and what is refused."""

import threading
from pathlib import Path
from urllib.parse import urljoin

import numpy as np
import pytest

from dmphn_jax.serving import films as serving_films
from dmphn_jax.serving import pictures as serving_pictures
from tests.support.films import facts, make_film, pictures
from tests.support.scripts import scripts
from tests.support.serving import WAIT, Negative, running, until
from tests.support.watching import opened_in


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    return make_film(tmp_path_factory.mktemp("film") / "in.mp4", pictures(40))


@pytest.fixture
def held():
    """A server whose network computes nothing until `deblurrer.hold` is set."""
    deblurrer = Negative(hold=threading.Event())
    with running(deblurrer, films=2, keep_seconds=WAIT) as client:
        client.deblurrer = deblurrer
        yield client
        deblurrer.hold.set()


def address_of(answer):
    """Where an answer to `POST /v1/films` says that the film is."""
    return urljoin("/v1/films", answer.headers["Location"])


def ended(client, answer):
    """Waits for a film's end; returns the last report."""
    address = address_of(answer)
    until(lambda: client.get(address).json["state"] in ("done", "failed"))
    return client.get(address).json


def test_a_film_comes_back_with_its_sound(film, tmp_path):
    with running() as client:
        taken = client.send("/v1/films?stages=1", "film", "my film.mp4", film.read_bytes())
        assert taken.status == 202
        assert taken.json["name"] == "my film.mp4"
        assert taken.json["frames_total"] == 40
        report = ended(client, taken)
        assert (report["state"], report["frames_done"], report["detail"]) == ("done", 40, None)
        answer = client.get(f"/{report['result']}")
        assert answer.headers["Content-Type"] == "video/mp4"
        assert "my%20film.mp4" in answer.headers["Content-Disposition"]
        assert {stages for stages, _ in client.service.engine.deblurrer.seen} == {1}
        (tmp_path / "out.mp4").write_bytes(answer.body)
        source, result = facts(film), facts(tmp_path / "out.mp4")
        assert result.times == source.times
        assert result.data("audio") == source.data("audio")
        error = np.abs(result.images.astype(int) - (255 - source.images.astype(int)))
        assert error.mean() < 4
        part = client.get(f"/{report['result']}", Range="bytes=0-9")
        assert (part.status, part.body) == (206, answer.body[:10])
        # The upload is gone, the result stays until it is dropped.
        assert [p.suffix for p in client.service.folder.rglob("*.*")] == [".mp4"]
        assert client.ask("DELETE", f"/v1/films/{report['id']}").status == 204
        assert client.get(f"/v1/films/{report['id']}").status == 404
        assert list(client.service.folder.iterdir()) == []


def test_a_picture_is_computed_between_the_frames_of_a_film(held, film):
    from tests.serving.test_api import PICTURES

    taken = held.ask("POST", "/v1/films", film.read_bytes(), Content_Type="video/mp4")
    assert taken.json["name"] == "film.mp4"
    assert held.deblurrer.begun.acquire(timeout=WAIT)
    answers = []
    thread = threading.Thread(
        target=lambda: answers.append(held.ask("POST", "/v1/deblur", PICTURES["a.png"]))
    )
    thread.start()
    until(lambda: held.service.places.taken == 1)
    assert held.get(address_of(taken)).json["state"] == "running"
    held.deblurrer.hold.set()
    thread.join(WAIT)
    assert answers[0].status == 200
    assert ended(held, taken)["state"] == "done"
    sizes = [shape[1:3] for _, shape in held.deblurrer.seen]
    assert (16, 20) in sizes[1:-1]


def test_a_film_that_is_dropped_stops(held, film):
    running_one = held.ask("POST", "/v1/films", film.read_bytes())
    waiting = held.ask("POST", "/v1/films", film.read_bytes())
    assert held.deblurrer.begun.acquire(timeout=WAIT)
    states = [held.get(address_of(each)).json["state"] for each in (running_one, waiting)]
    assert states == ["running", "queued"]
    places = held.get("/v1/places").json
    assert (places["pictures"] > 0, places["films"]) == (True, 0)
    full = held.ask("POST", "/v1/films", film.read_bytes())
    assert (full.status, full.headers["Retry-After"]) == (503, "60")
    early = held.get(f"{address_of(running_one)}/result")
    assert (early.status, early.detail) == (409, "this film is running")
    for each in (running_one, waiting):
        assert held.ask("DELETE", address_of(each)).status == 204
    assert held.get("/v1/places").json["films"] == 2  # although one is still being computed
    held.deblurrer.hold.set()
    until(lambda: not list(held.service.folder.iterdir()))
    assert len(held.deblurrer.seen) <= 2  # of 5 batches
    assert len(held.service.films) == 0


def test_a_film_that_failed_holds_no_place(film):
    with running(films=1, film_seconds=1e-9) as client:
        for _ in range(3):
            report = ended(client, client.ask("POST", "/v1/films", film.read_bytes()))
            assert report["state"] == "failed"
        assert len(client.service.films) == 0
        until(lambda: not list(client.service.folder.iterdir()))


def test_reports_of_failures_are_bounded(film, monkeypatch):
    monkeypatch.setattr(serving_films, "_REPORTS", 1)
    with running(film_seconds=1e-9) as client:
        taken = []
        for _ in range(3):
            taken.append(client.ask("POST", "/v1/films", film.read_bytes()))
            ended(client, taken[-1])
        assert [client.get(address_of(each)).status for each in taken] == [404, 200, 200]


def test_the_oldest_film_that_was_fetched_makes_way_and_no_other(film):
    with running(films=3) as client:
        taken = [client.ask("POST", "/v1/films", film.read_bytes()) for _ in range(3)]
        results = [f"/{ended(client, each)['result']}" for each in taken]

        def states():
            return [client.get(address_of(each)).status for each in taken]

        def post():
            return client.ask("POST", "/v1/films", film.read_bytes())

        # Looked at in a player, or asked about: neither is fetched.
        assert client.get(results[0], Range="bytes=0-").status == 206
        assert client.ask("HEAD", results[0]).status == 200
        assert client.get("/v1/places").json["films"] == 0
        assert post().status == 503
        for result in reversed(results[1:]):
            assert client.get(result).status == 200
        until(lambda: client.get("/v1/places").json["films"] == 2)
        assert post().status == 202
        assert states() == [200, 404, 200]
        assert post().status == 202
        assert states() == [200, 404, 404]
        assert post().status == 503
        until(lambda: len(list(client.service.folder.iterdir())) == 3)


def test_a_film_is_kept_for_a_while_only(film):
    with running(keep_seconds=0.1) as client:
        client.ask("POST", "/v1/films", film.read_bytes())
        until(lambda: len(client.service.films) == 0)
        until(lambda: not list(client.service.folder.iterdir()))


def test_at_the_end_films_are_stopped(held, film):
    held.ask("POST", "/v1/films", film.read_bytes())
    assert held.deblurrer.begun.acquire(timeout=WAIT)
    held.service.stop()
    answer = held.ask("POST", "/v1/films", film.read_bytes())
    assert (answer.status, answer.detail) == (503, "this server is stopping")
    held.deblurrer.hold.set()
    until(lambda: not list(held.service.folder.iterdir()))


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"film_frames": 39}, "40 frames; this server takes 39"),
        ({"pixels": 3000}, "64x48"),
        ({"film_bytes": 1000}, "larger than this server takes"),
    ],
)
def test_too_much_of_a_film_is_refused_before_it_is_computed(film, limits, reason):
    with running(**limits) as client:
        answer = client.send("/v1/films", "film", "a.mp4", film.read_bytes())
        assert answer.status in (413, 422)
        assert reason in answer.detail
        assert list(client.service.folder.iterdir()) == []
        assert len(client.service.films) == 0


def test_frames_too_large_for_memory_are_refused(film, monkeypatch):
    with running() as client:
        for free, status in ((0, 413), (None, 202)):  # none at all; nobody tells
            monkeypatch.setattr(serving_pictures, "host_free", lambda free=free: free)
            answer = client.send("/v1/films", "film", "a.mp4", film.read_bytes())
            assert answer.status == status


def test_no_film_and_half_a_film_are_told_in_words(film, tmp_path):
    with running() as client:
        for data in (b"", b"no film", film.read_bytes()[:900]):
            answer = client.send("/v1/films", "film", "a.mp4", data)
            assert answer.status == 422, data[:9]
            assert "cannot be read" in answer.detail or "no frame" in answer.detail
            assert "/" not in answer.detail
        assert client.ask("POST", "/v1/films?stages=9", b"").status == 400
        assert client.send("/v1/films", "image", "a.mp4", b"x").detail.endswith("called 'film'")


@pytest.mark.parametrize("kind", scripts("", ""))
def test_a_script_in_a_films_place_is_refused_and_not_followed(tmp_path, kind):
    """The upload's name on the server is known: a script could name itself."""
    other = make_film(tmp_path / "other.ts", pictures(2), sound=None)
    with running() as client:
        for named in ("upload", str(other)):
            with opened_in(tmp_path) as opened:
                script = scripts(named, named)[kind]
                answer = client.send("/v1/films", "film", "a.mp4", script)
            assert answer.status == 422
            assert answer.detail.startswith("cannot be read as video (")
            assert opened == []
        assert list(client.service.folder.iterdir()) == []
        assert client.get("/healthz").status == 200


def test_what_shows_only_while_it_runs_is_told_without_paths(film):
    class Broken(Negative):
        def submit(self, images):
            if images.shape[1:3] == (48, 64):
                raise RuntimeError("broken")
            return super().submit(images)

    for limits, deblurrer, reason in (
        ({"film_seconds": 1e-9}, Negative(), "took longer than 1e-09 s"),
        ({}, Broken(), "RuntimeError: broken"),
    ):
        with running(deblurrer, **limits) as client:
            taken = client.send("/v1/films", "film", "a.mp4", film.read_bytes())
            report = ended(client, taken)
            assert (report["state"], report["detail"]) == ("failed", reason)
            answer = client.get(f"/v1/films/{report['id']}/result")
            assert (answer.status, answer.detail) == (409, f"this film failed: {reason}")


def test_a_film_that_holds_more_than_it_says_is_stopped(film, monkeypatch):
    monkeypatch.setattr(serving_films.Films, "check", lambda self, path: None)
    with running(film_frames=10) as client:
        report = ended(client, client.send("/v1/films", "film", "a.mp4", film.read_bytes()))
        assert report["detail"] == "more than the 10 frames this server takes"


def test_without_pyav_and_without_films(monkeypatch):
    with running(films=0) as client:
        assert client.ask("POST", "/v1/films", b"x").status == 501
        assert client.get("/v1/model").json["films"] is False
    monkeypatch.setattr(serving_films, "PYAV", False)
    with running() as client:
        answer = client.ask("POST", "/v1/films", b"x")
        assert (answer.status, "pip install" in answer.detail) == (501, True)


def test_the_result_keeps_the_container(tmp_path):
    source = Path(make_film(tmp_path / "in.webm", pictures(5), codec="libvpx-vp9", sound=None))
    with running() as client:
        report = ended(client, client.send("/v1/films", "film", "a.webm", source.read_bytes()))
        answer = client.get(f"/{report['result']}")
        assert answer.headers["Content-Type"] == "video/webm"
        assert answer.body[:4] == b"\x1aE\xdf\xa3"
