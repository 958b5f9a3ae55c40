"""Being asked to stop: SIGTERM from a scheduler, SIGHUP of a lost terminal, Ctrl-C of a person."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType

import jax
import numpy as np
from jax.experimental import multihost_utils

from dmphn_jax import distributed

# The last one counts if several came. A hang-up is what a broken ssh connection leaves behind.
_SIGNALS = (signal.SIGHUP, signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """Turns SIGTERM, SIGHUP and the first Ctrl-C into a question asked between dispatches.

    In a run of several processes JAX's own service listens for SIGTERM: when any process gets it
    all of them learn at which dispatch to stop, so that they stop at the same step. There the other
    signals are passed to that service.

    Attributes:
      alone: whether this process is the only one.
    """

    def __init__(self) -> None:
        self._got = 0  # place in _SIGNALS, from 1
        self._before: dict[int, object] = {}
        self._asked = 0
        self.alone = jax.process_count() == 1

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is not threading.main_thread():
            return self
        for number in _SIGNALS:
            # nohup ignores SIGHUP on purpose; JAX's handler of SIGTERM stays where it is needed.
            ignored = number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN
            if not ignored and (self.alone or number != signal.SIGTERM):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            if handler is not None:  # one that was not installed by Python
                signal.signal(number, handler)

    def reached(self) -> str | None:
        """Returns the signal's name if the run is to stop now; every process asks equally often."""
        if self.alone:
            return self.asked()
        self._asked += 1
        if not multihost_utils.reached_preemption_sync_point(self._asked):
            return None
        # A preemption notice of the platform comes without a signal to Python: SIGTERM's place.
        mine = self._got or _SIGNALS.index(signal.SIGTERM) + 1
        got = multihost_utils.process_allgather(np.int32(mine))
        return _SIGNALS[int(np.max(got)) - 1].name

    def asked(self) -> str | None:
        """Returns the signal's name if the run is to stop soon; the other processes need not ask.

        For long work that process 0 does alone.
        """
        if not self._got and not self.alone and distributed.told_to_stop():
            return signal.SIGTERM.name
        return _SIGNALS[self._got - 1].name if self._got else None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and _SIGNALS[self._got - 1] == number and self._got:
            raise KeyboardInterrupt  # asked twice: at once
        self._got = max(self._got, _SIGNALS.index(signal.Signals(number)) + 1)
        if not self.alone:
            os.kill(os.getpid(), signal.SIGTERM)
