"""A folder in a store belongs to one run at a time, by a lease that the run renews.

The lease is an object that is written on condition of its generation, so that of two runs that
want it one gets it. Its owner writes it anew at every beat. Whoever finds one watches whether it
changes: no clock of another machine is trusted. One that does not change for `Rhythm.patience` is
taken over; its owner, should it come back, finds another generation there and ends.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dmphn_jax.errors import UserError
from dmphn_jax.storage.address import Address
from dmphn_jax.storage.store import ChangedError, Content, StorageError, Store

NAME = "lock"


@dataclasses.dataclass(frozen=True)
class Rhythm:
    """Of a lease, in seconds.

    Attributes:
      beat: between two renewals.
      patience: a lease that was not renewed for so long is free.
    """

    beat: float = 10.0
    patience: float = 60.0


RHYTHM = Rhythm()


class Lease:
    """Holds `<address>/lock` from its making to `release`."""

    def __init__(
        self,
        address: Address,
        token_file: Path,
        say: Callable[[str], None] = print,
        rhythm: Rhythm | None = None,
    ) -> None:
        """Takes the lease, which may take `patience` where a killed run left it.

        Args:
          address: of the folder.
          token_file: remembers on this machine whose the lease is, so that one of a run that has
            ended here is not waited for.
          say: gets a line about a wait or a lease taken over.
          rhythm: by default `RHYTHM`.

        Raises UserError if another run has it.
        """
        self.address = address
        self._rhythm = rhythm or RHYTHM
        self._store = Store(address)
        self._owner = secrets.token_hex(16)
        self._beats = 0
        self._renewed = float("-inf")
        self._writing = threading.Lock()
        self._lost: str | None = None
        self._generation = self._taken(token_file, say)
        token_file.write_text(self._owner)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raises UserError if another run has taken the lease over."""
        if self._lost:
            raise UserError(self._lost)

    def confirm(self) -> None:
        """Raises UserError if the lease is lost, StorageError where that cannot be told.

        One renewed within half of others' patience is not: none of them can have waited so long.
        """
        self.check()
        if time.monotonic() - self._renewed > self._rhythm.patience / 2:
            with self._writing:
                self._beat(self._store)
            self.check()

    def release(self) -> None:
        """Gives the folder free; what cannot be removed runs out by itself."""
        self._ended.set()
        self._thread.join()
        store = Store(self.address, seconds=self._rhythm.beat)
        with contextlib.suppress(UserError):
            found = store.read(NAME)
            if found and found.generation == self._generation and not self._lost:
                store.delete(NAME)

    def _taken(self, token_file: Path, say: Callable[[str], None]) -> int:
        while True:
            found = self._store.read(NAME)
            if found is not None and not self._is_free(found, token_file, say):
                continue  # it was removed
            with contextlib.suppress(ChangedError):
                return self._write(self._store, found.generation if found else 0)

    def _is_free(self, found: Content, token_file: Path, say: Callable[[str], None]) -> bool:
        """Watches a lease; False if it vanished meanwhile. Raises UserError if it is renewed."""
        fields = _fields(found.data)
        holder = f"process {fields.get('process')} on {fields.get('host')}" if fields else "unknown"
        if fields and _ended_here(fields, token_file):
            return True
        since = time.monotonic()
        told = False
        while time.monotonic() - since < self._rhythm.patience:
            time.sleep(min(self._rhythm.beat / 4, 2.0))
            now = self._store.read(NAME)
            if now is None:
                return False
            if now.generation != found.generation:
                raise UserError(
                    f"{self.address}: another run is at work there ({holder}); wait for it, or "
                    "name another --workdir"
                )
            if not told:
                told = True
                say(
                    f"{self.address}: {holder} had it; waiting {self._rhythm.patience:.0f} s to "
                    "see whether it is still at work"
                )
        say(f"{self.address}: {holder} is gone; taken over")
        return True

    def _renew(self) -> None:
        # Not patient: the next beat tries again.
        store = Store(self.address, seconds=self._rhythm.beat)
        while not self._ended.wait(self._rhythm.beat):
            with self._writing, contextlib.suppress(StorageError):
                self._beat(store)
            if self._lost:
                return

    def _beat(self, store: Store) -> None:
        try:
            self._generation = self._write(store, self._generation)
        except ChangedError:
            found = self._store.read(NAME)
            fields = _fields(found.data) if found else {}
            if found and fields.get("owner") == self._owner:  # a beat whose answer was lost
                self._generation = found.generation
                return
            taker = f" (process {fields['process']} on {fields['host']})" if fields else ""
            self._lost = (
                f"{self.address}: another run has taken it over{taker}, as this one was out of "
                "reach of the store; it ends here"
            )

    def _write(self, store: Store, generation: int) -> int:
        since = time.monotonic()
        self._beats += 1
        written = store.write(NAME, self._content(), generation=generation)
        self._renewed = since
        return written

    def _content(self) -> bytes:
        fields = {
            "owner": self._owner,
            "process": os.getpid(),
            "host": socket.gethostname(),
            "beat": self._beats,
            "renewed": time.time(),
        }
        return (json.dumps(fields) + "\n").encode()


def silence(address: Address) -> float | None:
    """Returns the seconds since a folder's lease was renewed, by both clocks; None if it is free.

    Raises StorageError.
    """
    found = Store(address).read(NAME)
    if found is None:
        return None
    renewed = _fields(found.data).get("renewed")
    return max(0.0, time.time() - renewed) if isinstance(renewed, int | float) else 0.0


def _ended_here(fields: dict[str, Any], token_file: Path) -> bool:
    """Tells whether a lease is that of a process of this machine that is no more."""
    try:
        if token_file.read_text() != fields["owner"] or fields["host"] != socket.gethostname():
            return False
        os.kill(int(fields["process"]), 0)
    except ProcessLookupError:
        return True
    except (OSError, ValueError, TypeError):
        return False
    return False


def _fields(data: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(data)
    except ValueError:
        return {}
    needed = {"owner", "process", "host"}
    return fields if isinstance(fields, dict) and needed <= fields.keys() else {}
