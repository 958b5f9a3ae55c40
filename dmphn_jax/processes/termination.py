"""SIGTERM, by which schedulers and `kill` end a job, and the exit statuses of what was stopped."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

from dmphn_jax.distributed import TRY_AGAIN

TERMINATED = 128 + signal.SIGTERM  # 143, what shells say of it
INTERRUPTED = 128 + signal.SIGINT  # 130, by a person's Ctrl-C


def status(stopped: str) -> int:
    """Returns the exit status of a run that a signal of this name stopped.

    It is `TRY_AGAIN` for SIGTERM, SIGHUP and a preemption notice.
    """
    return INTERRUPTED if stopped == signal.SIGINT.name else TRY_AGAIN


@contextlib.contextmanager
def exits_on_sigterm(status: int = TERMINATED, *, line: bool = True) -> Iterator[None]:
    """Makes SIGTERM end what is inside as an interrupt does: cleaned up, one line, a status.

    In threads other than the main one it changes nothing.

    Args:
      status: to exit with.
      line: whether to print the line; not where what is inside prints its own.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, frame: FrameType | None) -> NoReturn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # leave once
        raise SystemExit(status)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    except SystemExit as leaving:
        if line and leaving.code == status:
            print("dmphn: terminated", file=sys.stderr)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
