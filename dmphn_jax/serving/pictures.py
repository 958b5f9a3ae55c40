"""Pictures from file to file, through the network."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from dmphn_jax.images import Header, read_header, read_image, write_image
from dmphn_jax.inference.pipeline import IN_FLIGHT, Budget
from dmphn_jax.runtime import host_free
from dmphn_jax.serving.engine import Engine, How, Stopped, begin

# Pictures in memory: one is computed while another is decoded or encoded, if both are not too large
# together.
_AT_ONCE = 2
# Of a pixel, from decoding to encoding: 26 were seen with 16 bits; the network's copies come to it.
_BYTES = 48


def check_memory(needed: int) -> None:
    """Raises MemoryError if the host has fewer bytes left, as far as that is known."""
    free = host_free()
    if free is not None and needed > free:
        raise MemoryError


class Done(NamedTuple):
    """A picture's result: notes on what its format could not hold, (height, width), seconds."""

    notes: tuple[str, ...]
    size: tuple[int, int]
    seconds: float


class Pictures:
    """Deblurs picture files as `dmphn deblur` does, `_AT_ONCE` at a time; the others wait."""

    def __init__(
        self, engine: Engine, max_pixels: int, on_done: Callable[[Done], None] = lambda done: None
    ) -> None:
        """Takes the engine, and what is told of every picture."""
        self._engine, self._max_pixels, self._on_done = engine, max_pixels, on_done
        self._pool = ThreadPoolExecutor(_AT_ONCE, "picture")
        self._headers = ThreadPoolExecutor(_AT_ONCE, "header")
        self._budget = Budget(IN_FLIGHT)

    def read_header(self, path: Path) -> Future[Header]:
        """Reads what a file declares; fails with an ImageError for what can be told so early."""
        return begin(self._headers, read_header, path, max_pixels=self._max_pixels)

    def start(
        self, source: Path, header: Header, output: Path, how: How, stop: threading.Event
    ) -> Future[Done]:
        """Deblurs `source` into `output`, whose format its extension tells.

        Fails with `Stopped` once `stop` is set, with a UserError in one line for a bad file, with
        MemoryError before it takes more memory than there is.
        """
        pixels = header.width * header.height

        def run() -> Done:
            try:
                self._budget.acquire(pixels)
            except CancelledError:
                raise Stopped from None
            try:
                check_memory(_BYTES * pixels)
                return self._deblur(source, output, how, stop)
            finally:
                self._budget.release(pixels)

        return begin(self._pool, run)

    def stop(self) -> None:
        """Drops what waits; what is under way goes on."""
        self._budget.close()
        for pool in (self._headers, self._pool):
            pool.shutdown(wait=False, cancel_futures=True)

    def close(self) -> None:
        """Stops, and waits for what is under way."""
        self.stop()
        for pool in (self._headers, self._pool):
            pool.shutdown(wait=True)

    def _deblur(self, source: Path, output: Path, how: How, stop: threading.Event) -> Done:
        if stop.is_set():
            raise Stopped
        begun = time.perf_counter()
        image = read_image(source, max_pixels=self._max_pixels)
        (pixels,) = self._engine.start(image.pixels[None], how, stop).result()
        notes = write_image(output, image.with_pixels(pixels))
        done = Done(image.notes + notes, pixels.shape[:2], time.perf_counter() - begun)
        self._on_done(done)
        return done
