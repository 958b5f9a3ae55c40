"""`<workdir>/status.json`: where a run stands, for monitors and `dmphn status`. No jax."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dmphn_jax import storage
from dmphn_jax.errors import UserError, one_line
from dmphn_jax.files import why, write_atomically
from dmphn_jax.storage import Address

NAME = "status.json"
# Reports come every `log_every` steps; an evaluation may lie between two of them.
_SILENT = 5  # times the time between the last two reports
_SILENT_AT_LEAST = 600.0  # seconds


class RunStatus:
    """Writes the file, whole each time; of process 0 only, silent in the others.

    A disk that refuses it does not stop the run: `updated` grows old.
    """

    def __init__(self, workdir: Path, *, on: bool = True, **fields: Any) -> None:
        """Begins with `fields` and the state "training"."""
        self._path = workdir / NAME
        self._on = on
        self._reported: float | None = None
        self._fields: dict[str, Any] = {
            "format": 1,
            "state": "training",
            "process": os.getpid(),
            "host": socket.gethostname(),
            "started": time.time(),
            "report_seconds": None,
        }
        self.update(**fields)

    def update(self, **fields: Any) -> None:
        """Merges plain JSON values and writes the file."""
        if not self._on:
            return
        self._fields |= {**fields, "updated": time.time()}
        with contextlib.suppress(OSError):
            write_atomically(self._path, (json.dumps(self._fields, indent=1) + "\n").encode())

    def report(self, **fields: Any) -> None:
        """Is `update` for what comes at regular steps, whose time apart tells of a stall."""
        now = time.time()
        since, self._reported = self._reported, now
        self.update(**fields, report_seconds=now - since if since else None)

    @contextlib.contextmanager
    def failing(self) -> Iterator[None]:
        """Notes why what is inside ended, if by an error."""
        try:
            yield
        except BaseException as error:
            self.update(state="failed", error=one_line(error)[:500])
            raise


def read(workdir: Path | Address) -> dict[str, Any]:
    """Returns the file's fields, and `health`: "ok", or what is wrong in a few words.

    Raises UserError where there is none, or none that can be read.
    """
    path = workdir / NAME
    try:
        fields: dict[str, Any] = json.loads(storage.read_text(path))
        fields["health"] = _health(fields, workdir)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; is {workdir} the folder of a run?") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: cannot be read: {why(error)}") from None
    return fields


def _health(fields: dict[str, Any], workdir: Path | Address) -> str:
    if fields["state"] == "failed":
        return f"failed: {fields['error']}"
    if fields["state"] != "training":
        return "ok"
    if not _at_work(fields["host"], workdir):
        return "killed: no process has the folder; the same command goes on"
    silent = time.time() - fields["updated"]
    if silent > max(_SILENT_AT_LEAST, _SILENT * (fields["report_seconds"] or 0)):
        return f"no word for {silent / 60:.0f} minutes"
    return "ok"


def _at_work(host: str, workdir: Path | Address) -> bool:
    """Tells whether a run holds the folder; True where that cannot be told."""
    if isinstance(workdir, Address):
        from dmphn_jax.storage import lease

        silence = lease.silence(workdir)
        # Clocks may differ by seconds; a killed run's lease stays.
        return silence is not None and silence < 2 * lease.RHYTHM.patience
    return host != socket.gethostname() or _held(workdir / "lock")


def _held(lock: Path) -> bool:
    try:
        with lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False
