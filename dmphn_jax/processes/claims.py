"""Work shared among processes that know of one another only by the files of a common folder."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import secrets
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

from dmphn_jax.errors import UserError
from dmphn_jax.files import shown, why, write_atomically

# Seconds for which a process on another machine may be silent before it counts as dead. Attributes
# of files on NFS are up to a minute old. One of this machine counts as dead when it is gone.
SILENCE = 120.0
_BEAT = 15.0


@dataclasses.dataclass(frozen=True)
class Claim:
    """A piece of work that is not free.

    Attributes:
      holder: the process that took it, for people.
      finished: whether it is done, or has failed.
      failure: why it failed, one line.
    """

    holder: str
    finished: bool = False
    failure: str | None = None


_VOID = Claim("")  # holds nothing any more


@dataclasses.dataclass(frozen=True)
class _Process:
    """What a process says of itself."""

    label: str
    machine: str
    pid: int
    born: str
    done: int = 0
    ended: bool = False


class Claims:
    """Claims on pieces of work, each a file in one folder; a context manager.

    A claim is a file that only one process can create (O_EXCL, which NFS keeps too), named after
    the work and a number. It stays when the work is finished, and says so then: whoever looks later
    sees it, however old what his file system remembers of outputs. A claim whose process died, or
    that was finished before this process began (what counts then is what is there), is void:
    the work is claimed anew under the next number. So nothing is ever taken away from another.

    Every process renews a file of its own, by whose time the others tell that it lives: the times
    of one file server are compared with one another, never with a host's clock.
    """

    def __init__(self, folder: Path, label: str, *, silence: float = SILENCE) -> None:
        """Enters the folder, made if need be; raises UserError if it cannot be written.

        Args:
          folder: the same for all processes.
          label: this process, for people.
          silence: seconds, see `SILENCE`.
        """
        self.folder, self._silence = folder, silence
        self._members = folder / "processes"
        self._id = f"{os.getpid()}-{secrets.token_hex(6)}"
        host = socket.gethostname()
        self._own = _Process(
            f"{label} (pid {os.getpid()} on {host})", _machine(), os.getpid(), _born(os.getpid())
        )
        self._first: dict[str, int] = {}  # work -> the first number that may not be void
        self._ending = threading.Event()
        self._cleared = False
        self._lock = threading.Lock()  # of this process's own file
        self._beat()
        self._began = self._now()
        self._before = self._counted()
        self._beating = threading.Thread(target=self._renew, name="claims", daemon=True)
        self._beating.start()

    def __enter__(self) -> Claims:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leaves: what this process has not finished is free."""
        self._ending.set()
        self._beating.join()
        self._own = dataclasses.replace(self._own, ended=True)
        with contextlib.suppress(UserError):
            self._beat()

    def look(self, work: str) -> Claim | None:
        """Returns the claim on a piece of work; None if it is free."""
        key = _key(work)
        while True:
            claim = self._valid(self.folder / f"{key}.{self._first.get(key, 0)}")
            if claim is not _VOID:
                return claim
            self._first[key] = self._first.get(key, 0) + 1

    def take(self, work: str) -> bool:
        """Claims a piece of work; tells whether it is this process's now."""
        if self.look(work) is not None:
            return False
        path = self._path(work)
        try:
            with open(path, "x") as file:
                file.write(json.dumps({"process": self._id}))
        except FileExistsError:
            return False
        except FileNotFoundError:  # others have just finished everything, and cleared away
            self._beat()
            return self.take(work)
        except OSError as error:
            if error.errno == errno.ESTALE:  # a mounted bucket tells when the file is closed
                return False
            raise _unwritable(self.folder, error) from None
        return True

    def finish(self, work: str, failure: str | None = None) -> None:
        """Notes that what this process took is done, or has failed."""
        record = {"process": self._id, "by": self._own.label, "finished": True, "failure": failure}
        try:
            write_atomically(self._path(work), json.dumps(record).encode())
        except OSError as error:
            raise _unwritable(self.folder, error) from None
        with self._lock:
            self._own = dataclasses.replace(self._own, done=self._own.done + 1)

    def done(self) -> int:
        """Returns how much has been finished since this process began, by all of them."""
        return self._counted() - self._before

    def alone(self) -> bool:
        """Tells whether no other process is at work here."""
        return not any(
            self._lives(process, time) for id, process, time in self._processes() if id != self._id
        )

    def clear(self) -> bool:
        """Removes the folder if no other process is at work; tells whether it did.

        For whoever has seen that everything is finished, and takes nothing any more.
        """
        # Of two that end at once, one at least sees the other's end.
        self._own = dataclasses.replace(self._own, ended=True)
        self._beat()
        with self._lock:
            self._cleared = True
        if not self.alone():
            return False
        with self._lock:
            for path in [*self.folder.glob("*"), *self._members.glob("*")]:
                with contextlib.suppress(OSError):
                    path.unlink()
            # Not empty: another process has just entered, and will find all of it finished.
            with contextlib.suppress(OSError):
                self._members.rmdir()
                self.folder.rmdir()
        return True

    def _counted(self) -> int:
        others = (process.done for id, process, _ in self._processes() if id != self._id)
        return self._own.done + sum(others)

    def _path(self, work: str) -> Path:
        key = _key(work)
        return self.folder / f"{key}.{self._first.get(key, 0)}"

    def _valid(self, path: Path) -> Claim | None:
        """Returns what a file claims: None if there is none, `_VOID` if that counts no more."""
        try:
            with open(path) as file:
                time, text = os.fstat(file.fileno()).st_mtime, file.read()
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno == errno.ESTALE:  # of NFS: replaced in this moment; held, or finished
                return Claim("?")
            raise _unwritable(self.folder, error) from None
        try:
            record = json.loads(text)
            holder = str(record["process"])
        except (ValueError, KeyError, TypeError):  # created, and not yet written
            return Claim("?") if self._now() - time < self._silence else _VOID
        if record.get("finished"):
            if time < self._began:
                return _VOID
            return Claim(str(record.get("by")), True, record.get("failure"))
        if holder == self._id:
            return Claim(self._own.label)
        known = self._read(self._members / holder)
        return Claim(known[0].label) if known and self._lives(*known) else _VOID

    def _processes(self) -> Iterator[tuple[str, _Process, float]]:
        for path in self._members.glob("[!.]*"):
            if known := self._read(path):
                yield path.name, *known

    def _read(self, path: Path) -> tuple[_Process, float] | None:
        try:
            with open(path) as file:
                time = os.fstat(file.fileno()).st_mtime
                return _Process(**json.load(file)), time
        except (OSError, ValueError, TypeError):
            return None

    def _lives(self, process: _Process, time: float) -> bool:
        if process.ended:
            return False
        if process.machine == self._own.machine:
            return _born(process.pid) == process.born
        return self._now() - time < self._silence

    def _now(self) -> float:
        """Returns the file server's time."""
        path = self._members / self._id
        with contextlib.suppress(OSError):
            os.utime(path)
            return path.stat().st_mtime
        self._beat()
        return path.stat().st_mtime

    def _beat(self) -> None:
        content = json.dumps(dataclasses.asdict(self._own)).encode()
        try:
            with self._lock:
                if not self._cleared:
                    write_atomically(self._members / self._id, content)
        except OSError as error:
            raise _unwritable(self.folder, error) from None

    def _renew(self) -> None:
        while not self._ending.wait(min(_BEAT, self._silence / 8)):
            # A disk that is full for a while must not end the work; the others wait as told.
            with contextlib.suppress(UserError):
                self._beat()


def _key(work: str) -> str:
    return hashlib.sha256(work.encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _machine() -> str:
    """Returns what tells whether another process's number means something here."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def _born(pid: int) -> str:
    """Returns when a process of this machine began, by the system's count; "" if there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        if os.path.isdir("/proc/self"):
            return ""
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return ""
        except OSError:
            pass
        return "?"
    return "" if fields[0] in "ZX" else fields[19]


def _unwritable(folder: Path, error: OSError) -> UserError:
    return UserError(f"{shown(folder)}: cannot be written: {why(error)}")
