"""Writes a dataset's shards in parallel into a folder that appears only when it is whole."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path

from dmphn_jax import files
from dmphn_jax.errors import UserError


@contextlib.contextmanager
def whole_or_nothing(target: Path) -> Iterator[Path]:
    """Yields an empty folder that becomes `target` if the body succeeds; see `files.new_folder`.

    If the body fails or is interrupted, every parent that was made for it is removed too.

    Raises:
      UserError: nothing can be written there.
    """
    folders = [folder for folder in (target.parent, *target.parent.parents) if not folder.exists()]
    begun = False
    try:
        with files.new_folder(target) as folder:
            begun = True
            yield folder
    except BaseException as error:
        _remove_empty(folders)
        if begun or not isinstance(error, OSError):
            raise
        raise UserError(
            f"--data-dir {target.parent}: cannot write there ({files.why(error)})"
        ) from error


def _remove_empty(folders: Sequence[Path]) -> None:
    for folder in folders:  # innermost first
        with contextlib.suppress(OSError):
            folder.rmdir()


def write_shards(
    shards: Sequence[tuple[Path, Callable[[], Iterator[bytes]]]],
    *,
    where: Path,
    workers: int,
    options: str,
    step: Callable[[], None] = lambda: None,
) -> list[tuple[int, int]]:
    """Writes ArrayRecord files in parallel; returns each one's (records, bytes).

    Args:
      shards: pairs of a file's path and a function that yields its records.
      where: what messages call the place.
      workers: threads; decoding and compressing release the interpreter's lock.
      options: the ArrayRecord writer's options.
      step: called after each record, from any thread, under a lock.

    Raises:
      UserError: the disk is full or refuses a write. Errors of the generators pass through; the
        first one stops the others.
    """
    stop, lock = threading.Event(), threading.Lock()

    def go_on() -> bool:
        with lock:
            step()
        return not stop.is_set()

    def write(path: Path, records: Callable[[], Iterator[bytes]]) -> tuple[int, int]:
        return _write_shard(path, records, where=where, options=options, go_on=go_on)

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


def _write_shard(
    path: Path,
    records: Callable[[], Iterator[bytes]],
    *,
    where: Path,
    options: str,
    go_on: Callable[[], bool],
) -> tuple[int, int]:
    """Writes one file; returns its (records, bytes). `go_on` is asked after each record."""
    from array_record.python.array_record_module import ArrayRecordWriter

    count = size = 0
    try:
        writer = ArrayRecordWriter(os.fspath(path), options)
    except RuntimeError as error:
        raise disk_error(where, error) from error
    try:
        for record in records():
            try:
                writer.write(record)
            except RuntimeError as error:  # an earlier record could not be written
                raise disk_error(where, error) from error
            count, size = count + 1, size + len(record)
            if not go_on():
                break
    except BaseException:
        with contextlib.suppress(RuntimeError):
            writer.close()
        raise
    try:
        writer.close()  # most failed writes are reported only here
    except RuntimeError as error:
        raise disk_error(where, error) from error
    return count, size


def disk_error(path: Path, error: Exception) -> UserError:
    """Returns the line for a write below `path` that the disk refused."""
    return UserError(
        f"--data-dir {path}: {files.why(error)}; nothing was kept, make room or name another disk"
    )
