"""Writes a dataset's shards in parallel into a folder that appears only when it is whole."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path

from dmphn_jax.errors import UserError, one_line

PREFIX = "incomplete."
_LOCK = ".lock"


@contextlib.contextmanager
def whole_or_nothing(target: Path) -> Iterator[Path]:
    """Yields a temporary folder beside `target` and renames it to `target` if the body succeeds.

    If the body fails or is interrupted, the folder and every parent made for it are removed. What
    a killed run left behind is removed by the next one; a lock tells it from a run still at work.
    """
    folders = [folder for folder in (target.parent, *target.parent.parents) if not folder.exists()]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(target.parent)
        temporary = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{target.name}.", dir=target.parent))
        temporary.chmod(0o775)
    except OSError as error:
        _remove_empty(folders)
        raise UserError(
            f"--data-dir {target.parent}: cannot write there ({one_line(error)})"
        ) from error
    lock = (temporary / _LOCK).open("w")
    with contextlib.suppress(OSError):  # some network file systems have no locks
        fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        yield temporary
        (temporary / _LOCK).unlink()
        old = None
        if target.exists():
            old = target.with_name(f"{PREFIX}{target.name}.old")
            shutil.rmtree(old, ignore_errors=True)
            target.rename(old)
        temporary.rename(target)
        if old:
            shutil.rmtree(old, ignore_errors=True)
    finally:
        lock.close()
        if temporary.exists():
            shutil.rmtree(temporary, ignore_errors=True)
            _remove_empty(folders)


def _remove_abandoned(folder: Path) -> None:
    for path in folder.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError), (path / _LOCK).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path)


def _remove_empty(folders: Sequence[Path]) -> None:
    for folder in folders:  # innermost first
        with contextlib.suppress(OSError):
            folder.rmdir()


def write_shards(
    shards: Sequence[tuple[Path, Callable[[], Iterator[bytes]]]],
    *,
    workers: int,
    options: str,
    step: Callable[[], None] = lambda: None,
) -> list[tuple[int, int]]:
    """Writes ArrayRecord files in parallel; returns each one's (records, bytes).

    Args:
      shards: pairs of a file's path and a function that yields its records.
      workers: threads; decoding and compressing release the interpreter's lock.
      options: the ArrayRecord writer's options.
      step: called after each record, from any thread, under a lock.

    Raises:
      UserError: the disk is full or refuses a write. Errors of the generators pass through; the
        first one stops the others.
    """
    from array_record.python.array_record_module import ArrayRecordWriter

    stop, lock = threading.Event(), threading.Lock()

    def write(path: Path, records: Callable[[], Iterator[bytes]]) -> tuple[int, int]:
        count = size = 0
        try:
            writer = ArrayRecordWriter(os.fspath(path), options)
        except RuntimeError as error:
            raise disk_error(path, error) from error
        try:
            for record in records():
                if stop.is_set():
                    break
                try:
                    writer.write(record)
                except RuntimeError as error:  # an earlier record could not be written
                    raise disk_error(path, error) from error
                count, size = count + 1, size + len(record)
                with lock:
                    step()
        except BaseException:
            with contextlib.suppress(RuntimeError):
                writer.close()
            raise
        try:
            writer.close()  # most failed writes are reported only here
        except RuntimeError as error:
            raise disk_error(path, error) from error
        return count, size

    with ThreadPoolExecutor(max_workers=max(1, workers)) as pool:
        futures = [pool.submit(write, path, records) for path, records in shards]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
            for future in futures:
                if future.done() and (error := future.exception()):
                    raise error
            return [future.result() for future in futures]
        finally:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)


def disk_error(path: Path, error: Exception) -> UserError:
    """Returns the line for a write that the disk refused."""
    text = one_line(error)
    for known in ("No space left on device", "File too large", "Disk quota exceeded"):
        if known in text:
            text = known
    return UserError(
        f"--data-dir {path.parent.parent}: {text}; nothing was kept, make room or name another disk"
    )
