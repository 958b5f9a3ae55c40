"""A headless Chromium of the system, and what it did on the network."""

from __future__ import annotations

import contextlib
import shutil
from urllib.parse import urlsplit

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)


@contextlib.contextmanager
def browser():
    """Starts it; skips the test where there is none."""
    if CHROMIUM is None:
        pytest.skip("no Chromium: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM)
        with contextlib.closing(started):
            yield started


class Tab:
    """A page of the server, opened.

    Attributes:
      page: playwright's.
      asked: every address it asked for.
      said: what it complained of: errors in its code, what its security policy forbade.
    """

    def __init__(self, started, address, **options):
        self.context = started.new_context(reduced_motion="reduce", **options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(30_000)
        self.asked, self.said = [], []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("console", lambda line: line.type == "error" and self.said.append(line.text))
        self.page.goto(address)

    def choose(self, path):
        """Chooses a file as a person does."""
        self.page.set_input_files("#file", str(path))

    def sent(self, path):
        """Returns how often it has sent a file there."""
        return [urlsplit(url).path for url in self.asked].count(path)

    def slider(self):
        """Returns what a reader of the screen is told of the line."""
        return int(self.page.get_attribute("#slider", "aria-valuenow"))

    def close(self):
        """Closes the page."""
        self.context.close()
