"""Being asked to stop: SIGTERM from a scheduler, Ctrl-C from a person."""

from __future__ import annotations

import signal
import threading
from types import FrameType

import jax
from jax.experimental import multihost_utils


class StopRequest:
    """Turns SIGTERM, and the first Ctrl-C, into a question the loop asks between dispatches.

    In a run of several processes JAX's own service listens for SIGTERM: when any process gets it
    all of them learn at which dispatch to stop, so that they stop at the same step.
    """

    def __init__(self) -> None:
        self._name: str | None = None
        self._before: dict[int, object] = {}
        self._asked = 0

    def __enter__(self) -> StopRequest:
        alone = jax.process_count() == 1
        if alone and threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def reached(self) -> str | None:
        """Returns the signal's name if the run is to stop now; every process asks equally often."""
        self._asked += 1
        if jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(self._asked):
            return "SIGTERM"
        return self._name

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._name == "SIGINT" and number == signal.SIGINT:
            raise KeyboardInterrupt  # asked twice: at once
        self._name = signal.Signals(number).name
