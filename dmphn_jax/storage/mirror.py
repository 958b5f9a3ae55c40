"""A run's files, kept in a store beside: logs, TensorBoard, status. None of them stops a run."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection
from pathlib import Path

from dmphn_jax.errors import UserError, one_line
from dmphn_jax.storage.address import Address
from dmphn_jax.storage.store import Store

INTERVAL = 30.0  # seconds between two looks
# Bytes a second that one growing file may take: it is sent whole, the larger the less often.
PACE = 40_000.0
_SECONDS = 20.0  # for which a request is tried again; the next look tries once more


class Mirror:
    """Sends a folder's files, whole, when they have changed, no faster than at `PACE` each.

    What cannot be sent is told in one line, once until it works again, and tried anew at every
    look.
    """

    def __init__(
        self,
        folder: Path,
        address: Address,
        *,
        leave_out: Collection[str],
        own: Callable[[], object],
        say: Callable[[str], None] = print,
    ) -> None:
        """Begins to look, in a thread.

        Args:
          folder: whose files are sent; hidden ones are not.
          address: where to.
          leave_out: names in the folder.
          own: raises UserError unless the run still has its lease.
          say: gets the line.
        """
        self._folder, self._leave_out = folder, frozenset(leave_out)
        self._store = Store(address, seconds=_SECONDS)
        self._own, self._say = own, say
        self._sent: dict[str, tuple[int, int]] = {}
        self._due: dict[str, float] = {}
        self._failing = False
        self._working = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, name="mirror", daemon=True)
        self._thread.start()

    def flush(self) -> None:
        """Sends now all that has changed."""
        self.send(due_only=False)

    def send(self, *, due_only: bool = True) -> None:
        """Sends what has changed, of which some may be left for later."""
        with self._working:
            try:
                self._own()
                for name, file, state in self._changed():
                    now = time.monotonic()
                    if due_only and now < self._due.get(name, now):
                        continue
                    self._store.upload(name, file)
                    self._sent[name] = state
                    self._due[name] = now + state[1] / PACE
                self._failing = False
            except (UserError, OSError) as error:
                if not self._failing:
                    self._failing = True
                    self._say(
                        f"warning: the run's log cannot be sent: {one_line(error)}; it stays in "
                        f"{self._folder}, and is tried again"
                    )

    def close(self) -> None:
        """Sends the rest and ends."""
        self._ended.set()
        self._thread.join()
        self.flush()

    def _look(self) -> None:
        while not self._ended.wait(INTERVAL):
            self.send()

    def _changed(self) -> list[tuple[str, Path, tuple[int, int]]]:
        found = []
        for file in sorted(self._folder.rglob("*")):
            parts = file.relative_to(self._folder).parts
            hidden = any(part.startswith(".") for part in parts)
            if hidden or parts[0] in self._leave_out or not file.is_file():
                continue
            status = file.stat()
            name, state = "/".join(parts), (status.st_mtime_ns, status.st_size)
            if self._sent.get(name) != state:
                found.append((name, file, state))
        return found
