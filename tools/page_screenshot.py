"""Draws the page of `dmphn serve`, with a synthetic scene of this project deblurred on it.

    python tools/page_screenshot.py CHECKPOINT OUT.jpg

Needs the extras `serve` and `test`, and a Chromium of the system.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import threading
from contextlib import closing
from pathlib import Path

from playwright.sync_api import sync_playwright

from dmphn_jax.data.synthetic import SyntheticScenes
from dmphn_jax.errors import UserError, run_command
from dmphn_jax.images import Image, write_image
from dmphn_jax.inference.deblurrer import Deblurrer
from dmphn_jax.serving.server import Server, address, listen
from dmphn_jax.serving.service import Service

WAIT = 600  # seconds, for a CPU


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="folder or name")
    parser.add_argument("out", metavar="OUT.jpg", help="picture to write")
    parser.add_argument("--seed", type=int, default=21, help="of the scene (default: %(default)s)")
    args = parser.parse_args()

    def run(argv: list[str]) -> int:
        _draw(args.checkpoint, args.out, args.seed)
        return 0

    sys.exit(run_command(run, []))


def _draw(checkpoint: str, out: str, seed: int) -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        raise UserError("no chromium on this machine: apt-get install chromium")
    scene = SyntheticScenes((480, 800), 1, seed)[0]
    with (
        closing(listen("127.0.0.1", 0)) as listening,
        closing(Service(Deblurrer(checkpoint), name=Path(checkpoint).name)) as service,
        tempfile.TemporaryDirectory() as folder,
    ):
        photograph = Path(folder) / "scene.png"
        write_image(photograph, Image(scene.blurry))
        server = Server(service)
        thread = threading.Thread(target=server.serve_on, args=(listening, lambda: None))
        thread.start()
        try:
            _photograph(chromium, address(listening), photograph, out)
        finally:
            server.end()
            thread.join()


def _photograph(chromium: str, page_address: str, photograph: Path, out: str) -> None:
    with sync_playwright() as driver, driver.chromium.launch(executable_path=chromium) as browser:
        page = browser.new_page(viewport={"width": 960, "height": 860})
        page.goto(page_address)
        page.set_input_files("#file", str(photograph))
        page.wait_for_selector("#download:not([hidden])", timeout=1000 * WAIT)
        page.focus("#slider")
        page.keyboard.press("PageDown")
        page.keyboard.press("PageDown")
        page.screenshot(path=out, type="jpeg", quality=82)


if __name__ == "__main__":
    main()
