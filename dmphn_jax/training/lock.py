"""A work folder belongs to one run at a time."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

from dmphn_jax.errors import UserError, one_line

NAME = "lock"
_LOOKS, _PAUSE = 4, 0.1  # seconds between two of them


class Lock:
    """Holds `<workdir>/lock` until `release`, or until the process ends, however it ends.

    The lock is the system's (`flock`) on an open file: a killed run leaves the file but no lock.
    Between hosts it holds where the shared file system passes locks on (NFS since Linux 2.6.12,
    Lustre mounted with `flock`, most others); one that has none is said and not waited for.
    """

    def __init__(
        self,
        workdir: Path,
        say: Callable[[str], None] = print,
        *,
        name: str = "",
        flag: str = "--workdir",
    ) -> None:
        """Takes the folder, made if need be.

        In messages `name` is what it is called, by default its path, and `flag` what names it.
        Raises UserError if another run has it or it cannot be written.
        """
        self._path = workdir / NAME
        self._name, self._flag = name or str(workdir), flag
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            self._file = self._taken(say)
            os.ftruncate(self._file, 0)
            os.write(self._file, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        except OSError as error:
            reason = error.strerror or one_line(error)
            raise UserError(f"{workdir}: cannot be written: {reason}") from None

    def release(self) -> None:
        """Lets go of the folder; removes it if nothing was written there."""
        with contextlib.suppress(OSError):
            if os.listdir(self._path.parent) == [NAME]:
                self._path.unlink()
                self._path.parent.rmdir()
        os.close(self._file)

    def _taken(self, say: Callable[[str], None]) -> int:
        looks = 0
        while True:
            file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                holder = os.pread(file, 200, 0).decode(errors="replace").strip()
                if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                    os.close(file)
                    looks += 1
                    if looks < _LOOKS:  # a monitor holds it for a moment
                        time.sleep(_PAUSE)
                        continue
                    raise UserError(
                        f"{self._name}: another run is at work there "
                        f"({holder or 'unknown'}); wait for it, or name another {self._flag}"
                    ) from None
                say(f"warning: {self._path}: no locks on this file system ({error.strerror})")
                return file
            # The run that had it may have removed it in between: then this is no longer the file.
            with contextlib.suppress(OSError):
                if os.path.samestat(os.fstat(file), os.stat(self._path)):
                    return file
            os.close(file)
