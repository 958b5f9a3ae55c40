"""Writing files and folders whole, and showing their names."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from dmphn_jax.errors import UserError, one_line

_SCRATCH = ".replacing"


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Writes `data` to `path` as `new_file` does.

    A device or a pipe (`/dev/stdout`) is written to as it stands: a rename would take its place.
    """
    if _is_device(path):
        with open(path, "ab") as file:
            file.write(data)
        return
    with new_file(path) as temporary:
        temporary.write_bytes(data)


@contextlib.contextmanager
def new_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary name beside `path`, which is renamed to `path` if the body succeeds.

    A reader sees the old file or the new one, never a part. Missing folders are made. The
    temporary name ends like `path`'s, for libraries that go by it. Whatever stops the body
    removes the temporary file; raises OSError as the system does.
    """
    path = Path(os.path.abspath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not tempfile: its files are private to the user, these get the permissions of any new file.
    # The name is short and hidden: long names still fit, and a folder's walk passes it over.
    suffix = path.suffix if len(path.suffix) <= 8 else ""
    temporary = path.with_name(f".dmphn-{secrets.token_hex(8)}.tmp{suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def write_file(path: str | os.PathLike[str], content: str | bytes) -> None:
    """`write_atomically` for a file a user asked for: raises UserError where it cannot be written.

    Text is written as UTF-8; bytes of file names that are none are spelled out.
    """
    if isinstance(content, str):
        content = content.encode(errors="backslashreplace")
    try:
        write_atomically(path, content)
    except OSError as error:
        raise UserError(f"{shown(path)}: cannot be written: {why(error)}") from None


def check_place(path: str | os.PathLike[str]) -> None:
    """Raises UserError where `write_file` could not write, before minutes go into what it would."""
    name, place = shown(path), Path(path).absolute()
    folder = next(parent for parent in place.parents if parent.exists())
    if not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise UserError(
            f"{name}: cannot be written: {shown(folder)} is no folder that can be written to"
        )
    if place.is_dir():
        raise UserError(f"{name}: cannot be written: it is a folder")


def remove(path: Path) -> None:
    """Removes a file, a link, or a folder with all that is in it; nothing where nothing is."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def new_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields an empty folder that becomes `path` if the body succeeds, in place of one there.

    What stands at `path` stays until the new folder is whole. A folder cannot be renamed onto
    another, so the old one steps aside in between: a failure puts it back at once, and what a
    kill at that moment leaves, `settle` puts back. Missing folders are made; raises OSError as
    the system does.
    """
    path = Path(os.path.abspath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    settle(path)
    scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=_SCRATCH, dir=path.parent))
    try:
        with open(scratch / "lock", "w") as lock:
            with contextlib.suppress(OSError):  # some network file systems have no locks
                fcntl.flock(lock, fcntl.LOCK_EX)
            new = scratch / "new"
            new.mkdir()
            yield new
            if os.path.lexists(path):
                path.rename(scratch / "old")
            new.rename(path)
    finally:
        _clear(scratch, path)


def settle(path: str | os.PathLike[str]) -> None:
    """Undoes what a killed `new_folder(path)` left: puts the old folder back, removes the rest.

    For whoever is about to read a folder and finds none. A replacement still at work is let be:
    its lock tells.
    """
    path = Path(os.path.abspath(path))
    # tempfile's names have eight characters; "*" would find those of `<path>.other` too.
    for scratch in path.parent.glob(f".{glob.escape(path.name)}.????????{_SCRATCH}"):
        with contextlib.suppress(OSError), open(scratch / "lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _clear(scratch, path)


@contextlib.contextmanager
def locked(path: str | os.PathLike[str], waiting: Callable[[], object]) -> Iterator[None]:
    """Holds the lock of the file `path`, made if need be, while the body runs.

    Where another process holds it, calls `waiting` and waits. A process that ends lets go of it,
    however it ends. The file stays: removed, it could be locked by two. Raises OSError as the
    system does.
    """
    with open(path, "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError:  # some network file systems have no locks
            pass
        yield


def _clear(scratch: Path, path: Path) -> None:
    """Removes the scratch folder of a replacement; the old folder in it goes back if none stands.

    Raises OSError, and removes nothing, if it cannot go back.
    """
    old = scratch / "old"
    if old.exists():
        # "removed": a removal that is killed half way must not leave a part that looks whole.
        old.rename(scratch / "removed" if os.path.lexists(path) else path)
    # The lock last: without it what a killed removal leaves would not be found again.
    for name in ("removed", "new"):
        shutil.rmtree(scratch / name, ignore_errors=True)
    shutil.rmtree(scratch, ignore_errors=True)


def why(error: Exception) -> str:
    """Returns in a few words why a file could not be read or written.

    Libraries report a full disk in exceptions and long texts of their own: what the system said
    is found in them.
    """
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = one_line(error)
    for code in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO):
        if os.strerror(code) in text:
            return os.strerror(code)
    return text if len(text) <= 160 else text[:157] + "..."


def _is_device(path: str | os.PathLike[str]) -> bool:
    """Tells whether `path` names a device, a pipe or a socket, or stands among the devices."""
    # Also by its folder: /dev/stdout is a link to a plain file where output is redirected to one.
    folder = os.path.realpath(os.path.dirname(os.path.abspath(path)))
    if any(os.path.commonpath([folder, root]) == root for root in ("/dev", "/proc")):
        return not folder.startswith("/dev/shm")
    return os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)


def shown(path: str | os.PathLike[str]) -> str:
    """Returns a path as one printable line, whatever bytes its name holds."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
