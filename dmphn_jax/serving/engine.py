"""The one thread that computes: everything a server runs through the network passes here."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

from dmphn_jax.inference.buckets import Size
from dmphn_jax.inference.computing import Computing
from dmphn_jax.inference.deblurrer import Deblurrer
from dmphn_jax.inference.ensembles import Method, SelfEnsemble, ShiftEnsemble
from dmphn_jax.inference.pending import Tiled

Value = TypeVar("Value")

ENSEMBLES = ("none", "flips", "shifts")
_PROGRAMS = 16  # sizes whose programs are held at once: strangers may send any number of sizes


class How(NamedTuple):
    """How a picture is computed: a stack's first so many stages, and one of `ENSEMBLES`."""

    stages: int
    ensemble: str = "none"


class Stopped(Exception):  # noqa: N818 - no error: somebody wanted it
    """The work is not wanted any more."""


def begin(
    pool: ThreadPoolExecutor, work: Callable[..., Value], *arguments: Any, **named: Any
) -> Future[Value]:
    """Submits work to a pool; raises `Stopped` if that takes none any more."""
    try:
        return pool.submit(work, *arguments, **named)
    except RuntimeError:
        raise Stopped from None


class Engine:
    """Computes one batch after the other, in the order they are asked for.

    Attributes:
      deblurrer: all stages of the network.
      ready: set once it has computed.
    """

    def __init__(self, deblurrer: Deblurrer) -> None:
        self.deblurrer = deblurrer
        self.ready = threading.Event()
        self._thread = ThreadPoolExecutor(1, "device")
        self._cut = {deblurrer.stages: deblurrer}
        self._sizes: set[tuple[Any, ...]] = set()

    def warm_up(self, sizes: Sequence[Size]) -> Future[None]:
        """Compiles the programs of pictures of some (height, width), and is `ready` then."""

        def run() -> None:
            for size in sizes:
                self._compute(
                    np.zeros((1, *size, 3), np.uint8), How(self.deblurrer.stages), threading.Event()
                )
            self.ready.set()

        return self._thread.submit(run)

    def start(self, images: np.ndarray, how: How, stop: threading.Event) -> Future[np.ndarray]:
        """Deblurs (B, H, W, 3) uint8 or uint16 once it is their turn.

        The future's result has their shape and dtype. `stop` ends the work before its next pass,
        or tile, with `Stopped`.
        """
        return begin(self._thread, self._compute, images, how, stop)

    def close(self) -> None:
        """Drops what waits, and waits for what is computed."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _compute(self, images: np.ndarray, how: How, stop: threading.Event) -> np.ndarray:
        self._forget_old_programs((images.shape, images.dtype, how))
        if how.stages not in self._cut:
            self._cut[how.stages] = self.deblurrer.with_stages(how.stages)
        network = _Stoppable(self._cut[how.stages], stop)
        method: Method = network
        if how.ensemble == "flips":
            method = SelfEnsemble(network)
        elif how.ensemble == "shifts":
            method = ShiftEnsemble(network, self.deblurrer.config)
        return method.submit(images).result()

    def _forget_old_programs(self, size: tuple[Any, ...]) -> None:
        """Holds the programs of so many sizes at most; others come back from the cache on disk."""
        if size not in self._sizes and len(self._sizes) == _PROGRAMS:
            jax.clear_caches()
            self._sizes.clear()
        self._sizes.add(size)


class _Stoppable:
    """A deblurrer that looks before every pass and every tile whether to go on."""

    def __init__(self, deblurrer: Deblurrer, stop: threading.Event) -> None:
        self._deblurrer, self._stop = deblurrer, stop

    def submit(self, images: np.ndarray) -> Computing:
        """See `Deblurrer.submit`."""
        self._look()
        pending = self._deblurrer.submit(images)
        if not isinstance(pending, Tiled):
            return pending
        run = pending.run

        def run_tile(*arguments: Any) -> tuple[jax.Array, jax.Array]:
            self._look()
            return run(*arguments)

        return dataclasses.replace(pending, run=run_tile)

    def _look(self) -> None:
        if self._stop.is_set():
            raise Stopped
