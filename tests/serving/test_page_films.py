"""Films on the page in a headless Chromium: their places, failed polls, reloads, other files."""

from __future__ import annotations

import threading

import pytest

from tests.support.films import make_film, pictures
from tests.support.serving import Negative, running, until


@pytest.fixture
def film(tmp_path):
    return make_film(tmp_path / "a film.mp4", pictures(40))


def test_a_film_is_not_sent_where_there_is_no_place_for_it(opened, film):
    deblurrer = Negative(hold=threading.Event())
    with running(deblurrer, films=1) as client:
        other = client.ask("POST", "/v1/films", film.read_bytes()).json["id"]
        tab = opened(f"http://127.0.0.1:{client.port}/")
        tab.choose(film)
        tab.page.locator("#trouble", has_text="holds no more films now").wait_for()
        assert tab.sent("/v1/films") == 0
        assert client.ask("DELETE", f"/v1/films/{other}").status == 204
        deblurrer.hold.set()
        tab.page.click("#again")
        tab.page.wait_for_selector("#film:not([hidden])")
        assert tab.sent("/v1/films") == 1


@pytest.fixture
def filming(opened, film):
    """A tab whose film is being computed, and will until `deblurrer.hold` is set."""
    deblurrer = Negative(hold=threading.Event())
    with running(deblurrer, films=1) as client:
        tab = opened(f"http://127.0.0.1:{client.port}/")
        tab.choose(film)
        tab.page.locator("#said", has_text="Deblurring frame 0").wait_for()
        tab.client, tab.deblurrer, tab.asks = client, deblurrer, []
        tab.answer = False  # to the question whether the film is to be stopped

        def answer(dialog):
            tab.asks.append(dialog.message)
            dialog.accept() if tab.answer else dialog.dismiss()

        tab.page.on("dialog", answer)
        yield tab
        deblurrer.hold.set()


def test_a_film_outlasts_polls_that_fail_and_a_reload(filming):
    page, failing = filming.page, [True]

    def fail(route):
        if failing:
            failing.pop()
            route.abort()
        else:
            route.continue_()

    page.route("**/v1/films/*", fail)
    page.locator("#said", has_text="cannot be reached. Asking again in 1 s").wait_for()
    page.locator("#said", has_text="Deblurring frame 0").wait_for()
    page.reload()
    page.locator("#said", has_text="Deblurring frame 0").wait_for()
    filming.deblurrer.hold.set()
    page.wait_for_selector("#film:not([hidden])")
    page.reload()
    page.wait_for_selector("#film:not([hidden])")
    # What became of one that is not there any more is told after a reload, once.
    filming.client.service.films.drop(*filming.client.service.films._held.values())
    page.reload()
    page.locator("#trouble", has_text="no such film here").wait_for()
    page.reload()
    page.wait_for_selector("#ensemble option", state="attached")
    assert page.locator("#trouble").is_hidden()


def test_a_running_film_is_dropped_only_when_asked(filming, photo):
    page, films = filming.page, filming.client.service.films
    filming.choose(photo)
    assert len(filming.asks) == 1
    assert page.locator("#said", has_text="Deblurring frame 0").is_visible()
    assert (len(films), filming.sent("/v1/deblur")) == (1, 0)
    filming.answer = True
    filming.choose(photo)
    until(lambda: len(films) == 0 or page.wait_for_timeout(10))
    filming.deblurrer.hold.set()
    page.wait_for_selector("#download:not([hidden])")
    assert len(filming.asks) == 2


def test_a_new_film_takes_the_place_of_the_one_before(filming, film):
    filming.deblurrer.hold.set()
    filming.page.wait_for_selector("#film:not([hidden])")
    films = filming.client.service.films
    (first,) = films._held
    filming.choose(film)
    assert len(filming.asks) == 1  # it has not been downloaded, and stays
    assert (filming.sent("/v1/films"), [*films._held]) == (1, [first])
    with filming.page.expect_download():
        filming.page.click("#film-download")
    filming.choose(film)  # there is one place
    until(lambda: {first} != set(films._held) != set() or filming.page.wait_for_timeout(10))
    filming.page.wait_for_selector("#film:not([hidden])")
    assert len(filming.asks) == 1
    filming.deblurrer.hold.clear()
    filming.answer = True
    filming.choose(film)
    filming.page.locator("#said", has_text="Deblurring frame 0").wait_for()
    filming.choose(film)  # in the place of one that runs
    filming.deblurrer.hold.set()
    filming.page.wait_for_selector("#film:not([hidden])")
    assert filming.sent("/v1/films") == 4
