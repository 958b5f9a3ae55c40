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
from dmphn_jax.training import lock

NAME = "status.json"
STARTING, TRAINING = "starting", "training"  # while a run is at work; then "failed" or an end
# Reports come every `log_every` steps; an evaluation may lie between two of them.
_NEEDED = {"state", "health", "process", "host", "updated", "stale_at", "step", "num_steps"}
_SILENT = 5  # times the time before the last report
_SILENT_AT_LEAST = 600.0  # seconds
_SILENT_AT_START = 3600.0  # data may be copied, then programs compiled


class RunStatus:
    """Writes the file, whole each time; of process 0 only, silent in the others.

    `health` there is the run's own word, of the time `updated`; from `stale_at` on, seconds since
    1970, its silence tells that it hangs or is gone. A disk that refuses the file does not stop
    the run: `updated` grows old.
    """

    def __init__(
        self, workdir: Path, *, on: bool = True, fresh: bool = False, **fields: Any
    ) -> None:
        """Begins the file with the state "starting", which the first report ends.

        Args:
          workdir: of the run.
          on: False in processes other than the first.
          fresh: nothing stands there yet: a mistake found before the run's length is known
            leaves nothing there.
          fields: plain JSON values; `num_steps` is None until that is known.
        """
        self._path = workdir / NAME
        self._on, self._fresh = on, fresh
        self._fields: dict[str, Any] = {
            "format": 1,
            "state": STARTING,
            "health": "ok",
            "process": os.getpid(),
            "host": socket.gethostname(),
            "started": time.time(),
            "report_seconds": None,
        }
        self.update(**fields)

    def update(self, **fields: Any) -> None:
        """Merges plain JSON values, and places as their names, and writes the file."""
        if not self._on:
            return
        named = {k: str(v) if isinstance(v, Path | Address) else v for k, v in fields.items()}
        self._fields |= {**named, "updated": time.time()}
        self._fields["stale_at"] = _stale_at(self._fields)
        with contextlib.suppress(OSError):
            write_atomically(self._path, (json.dumps(self._fields, indent=1) + "\n").encode())

    def report(self, **fields: Any) -> None:
        """Is `update` for what comes at regular steps, whose time apart tells of a stall."""
        if self._on:
            apart = time.time() - self._fields["updated"]
            self.update(**fields, state=TRAINING, report_seconds=apart)

    @contextlib.contextmanager
    def failing(self) -> Iterator[None]:
        """Notes why what is inside ended, if by an error."""
        try:
            yield
        except BaseException as error:
            unknown = self._fields.get("num_steps") is None
            if self._on and self._fresh and unknown and isinstance(error, UserError):
                with contextlib.suppress(OSError):
                    self._path.unlink()
            else:
                reason = one_line(error)[:500]
                self.update(state="failed", error=reason, health=f"failed: {reason}")
            raise


def read(workdir: Path | Address) -> dict[str, Any]:
    """Returns the file's fields; `health` is as of now: "ok", or what is wrong in a few words.

    Raises UserError where there is none, or none that can be read.
    """
    path = workdir / NAME
    try:
        fields: dict[str, Any] = json.loads(storage.read_text(path))
        if not isinstance(fields, dict) or not fields.keys() >= _NEEDED:
            raise ValueError("not the status of a run")
        fields["health"] = _health(fields, workdir)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; is {workdir} the folder of a run?") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: cannot be read: {why(error)}") from None
    return fields


def _stale_at(fields: dict[str, Any]) -> float | None:
    """Returns the time from which silence is no good sign; None where no more word is to come."""
    if fields["state"] == STARTING:
        return fields["updated"] + _SILENT_AT_START
    if fields["state"] == TRAINING:
        return fields["updated"] + max(_SILENT_AT_LEAST, _SILENT * fields["report_seconds"])
    return None


def _health(fields: dict[str, Any], workdir: Path | Address) -> str:
    if fields["state"] not in (STARTING, TRAINING):
        return fields["health"]
    if not _at_work(fields["host"], workdir):
        return "killed: no process has the folder; the same command goes on"
    now = time.time()
    if now > (fields["stale_at"] or 0):
        return f"no word for {(now - fields['updated']) / 60:.0f} minutes"
    return "ok"


def _at_work(host: str, workdir: Path | Address) -> bool:
    """Tells whether a run holds the folder; True where that cannot be told."""
    if isinstance(workdir, Address):
        from dmphn_jax.storage import lease

        silence = lease.silence(workdir)
        # Clocks may differ by seconds; a killed run's lease stays.
        return silence is not None and silence < 2 * lease.RHYTHM.patience
    return host != socket.gethostname() or _held(workdir / lock.NAME)


def _held(path: Path) -> bool:
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False
