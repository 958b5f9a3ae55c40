"""The page in a headless Chromium: a real upload, the line, the download, a phone, the network."""

from __future__ import annotations

import base64
import re
import threading
from urllib.parse import urlsplit

import numpy as np
import pytest

from dmphn_jax.images import Image, encode_image
from tests.serving.test_api import turned
from tests.support.deblur import run
from tests.support.films import make_film, pictures
from tests.support.serving import WAIT, Negative, process, running, until

DONE = "#download:not([hidden])"
PHONE = {"width": 360, "height": 640}


@pytest.fixture(scope="module")
def server(chromium, checkpoint, compiled_once):
    with process("-c", checkpoint, "--token", "a token of some length") as started:
        yield started


@pytest.fixture(scope="module")
def local(chromium):
    """A server whose network is a negative, at once."""
    with running() as client:
        client.address = f"http://127.0.0.1:{client.port}/"
        yield client


def test_a_photograph_goes_through_and_the_download_is_dmphn_deblurs(
    opened, server, checkpoint, tmp_path
):
    photo = tmp_path / "holiday.jpg"
    photo.write_bytes(turned())
    tab = opened(server.address)
    tab.choose(photo)
    tab.page.wait_for_selector(DONE)
    with tab.page.expect_download() as download:
        tab.page.click("#download")
    assert download.value.suggested_filename == "holiday.jpg"
    download.value.save_as(tmp_path / "downloaded.jpg")
    assert run(photo, "-c", checkpoint, "-o", tmp_path / "deblurred.jpg") == 0
    assert (tmp_path / "downloaded.jpg").read_bytes() == (tmp_path / "deblurred.jpg").read_bytes()
    # Upright, and of one size.
    sizes = tab.page.evaluate(
        "['before', 'after'].map((id) => document.getElementById(id)).map("
        "(image) => [image.naturalWidth, image.naturalHeight])"
    )
    assert sizes == [[16, 20], [16, 20]]
    # Nothing was asked of anybody else, and the token does not stay in the address.
    own = urlsplit(server.address).netloc
    others = [url for url in tab.asked if urlsplit(url).netloc != own and url[:5] != "blob:"]
    assert others == []
    assert len(tab.asked) > 5
    assert "token" not in tab.page.url
    assert tab.said == []


def test_the_line_moves_by_keys_and_the_picture_zooms(opened, local, photo):
    tab = opened(local.address)
    tab.choose(photo)
    tab.page.wait_for_selector(DONE)
    tab.page.focus("#slider")
    press = tab.page.keyboard.press
    assert tab.slider() == 50
    for keys, value in (
        (["ArrowLeft"], 48),
        (["ArrowRight", "ArrowUp"], 52),
        (["PageUp"], 62),
        (["Home"], 0),
        (["ArrowLeft"], 0),
        (["End"], 100),
    ):
        for key in keys:
            press(key)
        assert tab.slider() == value
    assert tab.page.get_attribute("#slider", "aria-valuetext") == "100 % before, the rest after"
    assert tab.page.text_content("#zoom") == "100 %"
    press("+")
    assert tab.page.text_content("#zoom") == "125 %"
    before = place(tab)
    press("Shift+ArrowRight")
    assert place(tab)[0] < before[0]
    assert place(tab, "after") == place(tab)  # both move together
    press("0")
    press("-")
    assert tab.page.text_content("#zoom") == "100 %"
    assert tab.said == []


def place(tab, image="before"):
    """Where a picture lies: left, top, width."""
    box = tab.page.locator(f"#{image}").bounding_box()
    return round(box["x"]), round(box["y"]), round(box["width"])


def test_the_line_and_the_picture_move_by_mouse(opened, local, photo):
    tab = opened(local.address)
    tab.choose(photo)
    tab.page.wait_for_selector(DONE)
    frame = tab.page.locator("#frame").bounding_box()
    mouse = tab.page.mouse

    def drag(start, end):
        mouse.move(frame["x"] + start * frame["width"], frame["y"] + 40)
        mouse.down()
        mouse.move(frame["x"] + end * frame["width"], frame["y"] + 60, steps=3)
        mouse.up()

    drag(0.5, 0.2)
    assert tab.slider() == 20
    mouse.wheel(0, -400)
    until(lambda: tab.page.text_content("#zoom") != "100 %")
    before = place(tab)
    assert before[2] > frame["width"]
    drag(0.8, 0.6)  # away from the line: the picture moves, the line stays
    assert place(tab)[0] < before[0]
    assert tab.slider() == 20
    # What is left of the line is the picture as it was: the clip stays with the line.
    clip = tab.page.evaluate("getComputedStyle(document.querySelector('.before')).clipPath")
    assert clip.startswith("inset(0")
    tab.page.click("#fit")
    assert place(tab)[2] == round(frame["width"])


def test_a_phone_has_no_scrolling_to_the_side(opened, local, photo):
    tab = opened(local.address, viewport=PHONE, has_touch=True, is_mobile=True)
    wide = "document.documentElement.scrollWidth > window.innerWidth"
    assert not tab.page.evaluate(wide)
    tab.choose(photo)
    tab.page.wait_for_selector(DONE)
    assert tab.page.evaluate("window.innerWidth") == PHONE["width"]
    assert not tab.page.evaluate(wide)
    small = tab.page.evaluate(
        "[...document.querySelectorAll('button, select, .button, #slider')].filter((each) =>"
        " each.offsetWidth && each.offsetHeight < 40).map((each) => each.id)"
    )
    assert small == []  # a finger finds everything
    box = tab.page.locator("#slider").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    touch = tab.context.new_cdp_session(tab.page)
    for kind, points in (
        ("touchStart", [{"x": x, "y": y}]),
        ("touchMove", [{"x": x - 90, "y": y}]),
        ("touchEnd", []),
    ):
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    assert tab.slider() < 35
    for page in ("docs", "?token=x"):
        tab.page.goto(local.address + page)
        tab.page.wait_for_load_state("networkidle")
        assert not tab.page.evaluate(wide)
    assert tab.said == []


def test_light_and_dark(opened, local):
    grounds = set()
    for scheme in ("light", "dark"):
        tab = opened(local.address, color_scheme=scheme)
        grounds.add(tab.page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert len(grounds) == 2


def test_a_bad_file_is_told_and_the_next_one_goes_through(opened, local, photo, tmp_path):
    tab = opened(local.address)
    # Not by wait_for_function here: the page's policy forbids the eval that it polls with.
    for name, data, reason in (
        ("letter.jpg", b"Dear reader", "letter.jpg: not an image"),
        ("empty.png", b"", "empty.png is empty."),
        ("film.mp4", b"no film", "film.mp4: cannot be read as video"),
    ):
        (tmp_path / name).write_bytes(data)
        tab.choose(tmp_path / name)
        tab.page.locator("#trouble", has_text=re.compile(f"^{re.escape(reason)}")).wait_for()
        assert tab.page.locator("#trouble").is_visible()
        assert tab.page.locator("#status").is_hidden()
    tab.choose(photo)
    tab.page.wait_for_selector(DONE)
    assert tab.page.locator("#trouble").is_hidden()


def test_what_the_browser_cannot_show_can_be_downloaded(opened, local, tmp_path):
    path = tmp_path / "deep.tif"
    path.write_bytes(encode_image(Image(pictures(1)[0].astype(np.uint16)), "TIFF")[0])
    tab = opened(local.address)
    tab.choose(path)
    tab.page.wait_for_selector(DONE)
    assert "does not show" in tab.page.text_content("#notes")
    assert tab.page.locator("#frame").is_hidden()


def test_stages_and_passes_are_chosen_and_a_picture_can_be_pasted(opened, local, photo):
    tab = opened(local.address)
    tab.page.wait_for_selector("#ensemble option[value=flips]", state="attached")
    tab.page.select_option("#stages", "1")
    tab.page.select_option("#ensemble", "flips")
    local.service.engine.deblurrer.seen.clear()
    tab.page.evaluate(
        """(data) => {
          const bytes = Uint8Array.from(atob(data), (each) => each.charCodeAt(0));
          const transfer = new DataTransfer();
          transfer.items.add(new File([bytes], "pasted.png", { type: "image/png" }));
          document.dispatchEvent(new ClipboardEvent("paste", { clipboardData: transfer }));
        }""",
        base64.b64encode(photo.read_bytes()).decode(),
    )
    tab.page.wait_for_selector(DONE)
    assert tab.page.get_attribute("#download", "download") == "pasted.png"
    assert [stages for stages, _ in local.service.engine.deblurrer.seen] == 8 * [1]
    tab.page.select_option("#ensemble", "none")
    tab.page.click("#again")
    until(lambda: len(local.service.engine.deblurrer.seen) == 9)
    tab.page.wait_for_selector(DONE)


def test_a_film_has_progress_and_a_download(opened, local, tmp_path):
    film = make_film(tmp_path / "a film.mp4", pictures(40))
    tab = opened(local.address)
    tab.choose(film)
    tab.page.wait_for_selector("#film:not([hidden])")
    with tab.page.expect_download() as download:
        tab.page.click("#film-download")
    assert download.value.suggested_filename == "a film.mp4"
    download.value.save_as(tmp_path / "downloaded.mp4")
    (made,) = local.service.films._held.values()
    assert (tmp_path / "downloaded.mp4").read_bytes() == made.output.read_bytes()
    assert tab.said == []


def test_a_stranger_enters_the_token(opened, server):
    tab = opened(server.address.partition("?")[0])
    tab.page.fill("#token", "wrong")
    tab.page.keyboard.press("Enter")
    tab.page.wait_for_selector(".said:not(:empty)")
    tab.page.fill("#token", "a token of some length")
    tab.page.keyboard.press("Enter")
    tab.page.wait_for_selector("#ensemble option", state="attached")
    assert tab.context.cookies()[0]["httpOnly"]
    tab.page.click("nav a")
    tab.page.wait_for_selector(".verb")
    assert "/v1/deblur" in tab.page.text_content("#docs")


def test_a_file_may_be_chosen_before_the_server_has_told_what_it_takes(opened, local, photo):
    tab = opened("about:blank")
    model = []
    tab.page.route("**/v1/model", lambda route: model.append(route))  # held back
    tab.page.goto(local.address)
    tab.choose(photo)
    until(lambda: model or tab.page.wait_for_timeout(10))
    assert tab.page.locator("#trouble").is_hidden()
    model[0].continue_()
    tab.page.wait_for_selector(DONE)


def test_a_full_queue_is_waited_for_and_cancelling_gives_the_place_up(opened, photo):
    deblurrer = Negative(hold=threading.Event())
    with running(deblurrer, queue=1) as client:
        tabs = [opened(f"http://127.0.0.1:{client.port}/") for _ in range(2)]
        tabs[0].choose(photo)
        assert deblurrer.begun.acquire(timeout=WAIT)
        tabs[1].choose(photo)
        tabs[1].page.locator(
            "#said", has_text=re.compile(r"^The queue is full\. Asking again in \d+ s")
        ).wait_for()
        tabs[0].page.click("#cancel")
        tabs[0].page.wait_for_selector("#status", state="hidden")
        assert tabs[0].page.locator("#trouble").is_hidden()
        until(lambda: client.service.places.taken == 0 or len(deblurrer.seen) > 1)
        deblurrer.hold.set()
        tabs[1].page.wait_for_selector(DONE)


def test_a_picture_that_takes_too_long_is_sent_once(opened, photo):
    deblurrer = Negative(hold=threading.Event())
    with running(deblurrer, seconds=0.1) as client:
        tab = opened(f"http://127.0.0.1:{client.port}/")
        tab.choose(photo)
        tab.page.locator("#trouble", has_text="a photo.png: not done within 0.1 s.").wait_for()
        assert tab.page.locator("#status").is_hidden()
        assert tab.page.locator("#again").is_visible()
        assert tab.sent("/v1/deblur") == 1
        deblurrer.hold.set()
