"""Where the seconds of `dmphn deblur` go: one clock per process, which `--timings` prints."""

from __future__ import annotations

import contextlib
import functools
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import numpy as np

    from dmphn_jax.inference.computing import Computing

Value = TypeVar("Value")


class Span:
    """The seconds during which at least one thing of a kind was going on, in whatever thread."""

    def __init__(self, *wider: Span) -> None:
        """Begins and ends `wider` ones with it."""
        self._wider, self._lock = wider, threading.Lock()
        self._running, self._since, self._seconds = 0, 0.0, 0.0

    @property
    def seconds(self) -> float:
        """So far."""
        with self._lock:
            now = time.perf_counter() - self._since if self._running else 0.0
            return self._seconds + now

    def begin(self) -> None:
        """One more thing is going on."""
        for span in self._wider:
            span.begin()
        with self._lock:
            if not self._running:
                self._since = time.perf_counter()
            self._running += 1

    def end(self) -> None:
        """One of them has ended."""
        with self._lock:
            self._running -= 1
            if not self._running:
                self._seconds += time.perf_counter() - self._since
        for span in self._wider:
            span.end()

    def of(self, function: Callable[..., Value], *arguments: Any) -> Value:
        """Returns `function(*arguments)`, whose run is one of the things."""
        with self:
            return function(*arguments)

    def __enter__(self) -> None:
        self.begin()

    def __exit__(self, *_: object) -> None:
        self.end()


class Clock:
    """What a process spent its time on.

    Attributes:
      decode, encode: pictures' files; a film's frames, in parts.
      compute: images on the devices: from the end of their submission until their result is on the
        host, which waits for the computation.
      submit: submission of images: tracing a size's program, compiling it or taking it from the
        cache, and starting it.
      kernels: the CPU's kernels: compiled once, then loaded.
      checkpoint: finding it (by name: bringing it), reading and verifying it.
      compiled: programs that were compiled.
      kept: programs that were taken from the cache on disk.
    """

    def __init__(self) -> None:
        self._work = Span()
        self.decode, self.compute, self.encode = (Span(self._work) for _ in range(3))
        self.submit, self.kernels, self.checkpoint = Span(), Span(), Span()
        self.compiled, self.kept = 0, 0
        self._imported: float | None = None

    def imported(self) -> None:
        """To be called once all is imported: what came before counts as the start."""
        if self._imported is None:
            self._imported = _age()

    def measured(
        self, submit: Callable[[np.ndarray], Computing]
    ) -> Callable[[np.ndarray], Computing]:
        """Returns a `submit` that does the same, measured."""

        def measuring(images: np.ndarray) -> Computing:
            with self.submit:
                computing = submit(images)
            self.compute.begin()
            return _Measured(computing, self.compute)

        return measuring

    @functools.cache  # noqa: B019 - there is one clock
    def count_programs(self) -> None:
        """Has JAX tell of the programs that it compiles, or takes from its cache, from now on."""
        import jax

        def on_event(event: str, **_: str | int) -> None:
            if event == "/jax/compilation_cache/cache_hits":
                self.kept += 1
                self.compiled -= 1  # which the event below tells of too

        def on_duration(event: str, duration_secs: float, **_: str | int) -> None:
            if event == "/jax/core/compile/backend_compile_duration":
                self.compiled += 1

        jax.monitoring.register_event_listener(on_event)
        jax.monitoring.register_event_duration_secs_listener(on_duration)

    def __str__(self) -> str:
        """Returns it on one line. Parts of several images overlap, and do not add up to the sum."""
        total = _age()
        parts = {
            "start": self._imported or total,
            "kernels": self.kernels.seconds,
            "checkpoint": self.checkpoint.seconds,
            "programs": self.submit.seconds,
            "decode": self.decode.seconds,
            "compute": self.compute.seconds,
            "encode": self.encode.seconds,
            "in all": total,
            "outside decode, compute and encode": total - self._work.seconds,
        }
        text = ", ".join(f"{name} {seconds:.2f}" for name, seconds in parts.items())
        return f"seconds: {text}; programs: compiled {self.compiled}, kept {self.kept}"


class _Measured:
    """A batch on its way whose end is noted."""

    def __init__(self, computing: Computing, span: Span) -> None:
        self._computing, self._span = computing, span

    def result(self) -> np.ndarray:
        """Waits for the result."""
        try:
            return self._computing.result()
        finally:
            self._span.end()


_LOADED = time.perf_counter()


def _age() -> float:
    """Returns the seconds since this process began; where the system does not say, since here."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        # Behind the program's name, which may hold anything: the 20th field, in ticks since boot.
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        began = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        return time.clock_gettime(time.CLOCK_BOOTTIME) - began
    return time.perf_counter() - _LOADED


CLOCK = Clock()
