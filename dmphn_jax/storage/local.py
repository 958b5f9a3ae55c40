"""Copies on this machine of what lies in a store: data, checkpoints, folders of results."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dmphn_jax import files
from dmphn_jax.errors import UserError
from dmphn_jax.storage import folders, steps
from dmphn_jax.storage.address import Address, place
from dmphn_jax.storage.looking import exists
from dmphn_jax.storage.names import CHECKPOINTS, PARAMS
from dmphn_jax.storage.scratch import scratch
from dmphn_jax.storage.store import Item, StorageError, Store


def staged(where: Path | Address) -> Path:
    """Returns a folder of data on a local disk: itself, or this machine's copy of an address.

    Of an address, what is not here yet or has changed is brought; files carry size and CRC-32C of
    their objects when they come, and are trusted later if size and time of change are the same.
    Of several processes of a machine one works and the others wait. A line on stderr tells what
    is brought, how much, and where to.

    Raises StorageError in one line where that fails, or there is nothing.
    """
    if isinstance(where, Path):
        return where
    # Readers of prepared data go by the names <dataset>/<config>/<version>.
    folder = scratch("data", where)
    target = folder.joinpath(*where.key.split("/")[-3:], "" if where.key else "all")
    with folders.disk_errors(where), files.locked(_beside(folder, "lock"), _waiting(where)):
        store = Store(where)
        items = store.list()
        if not items:
            raise StorageError(f"{where}: no such folder of data")
        record = _Record(_beside(folder, "json"))
        missing = [item for item in items if not record.knows(item, target / item.name)]
        if missing:
            _check_tell(where, target, items, missing)
        brought: list[Item] = []
        try:
            folders.bring(store, items, target, known=record.knows, done=brought.append)
        finally:
            record.write(brought, target)
    return target


def _check_tell(where: Address, target: Path, items: list[Item], missing: list[Item]) -> None:
    needed = sum(item.size for item in missing if not (target / item.name).exists())
    folders.free_for(target, needed, where)
    total = sum(item.size for item in items)
    have = len(items) - len(missing)
    here = f", {have:,} of them here already" if have else ""
    _say(f"{where}: {len(items):,} files, {_size(total)}, are copied to {target}{here}")


class _Record:
    """What is known of a copy: file -> generation of its object, size and time of change."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, Any] = {}
        with contextlib.suppress(OSError, ValueError):
            self._known = dict(json.loads(path.read_text()))

    def knows(self, item: Item, file: Path) -> bool:
        """Tells whether a file is the copy of an object, as it was left."""
        try:
            status = file.stat()
        except OSError:
            return False
        now = [item.generation, status.st_size, status.st_mtime_ns]
        return status.st_size == item.size and self._known.get(item.name) == now

    def write(self, brought: list[Item], target: Path) -> None:
        """Notes the files that are copies now, and forgets all others."""
        self._known = {}
        for item in brought:
            status = (target / item.name).stat()
            self._known[item.name] = [item.generation, status.st_size, status.st_mtime_ns]
        files.write_atomically(self._path, json.dumps(self._known).encode())


def local_checkpoint(address: Address, *, quiet: bool = False) -> Path:
    """Returns this machine's copy of a checkpoint; of a run's folder, its best or else newest one.

    A checkpoint that a run or `dmphn convert` sent is verified; of one that was copied there by
    other means its own digests tell, when it is loaded.

    Raises UserError in one line for what is no checkpoint, damaged, or cannot be brought.
    """
    sent = folders.manifest(address)
    if sent is None:
        step = steps.chosen(address / CHECKPOINTS) or steps.chosen(address)
        if step is not None:
            return local_checkpoint(step, quiet=quiet)
    target = scratch("checkpoints", address)
    with folders.disk_errors(address), files.locked(_beside(target, "lock"), _waiting(address)):
        items = Store(address).list()
        if not any(item.name.startswith(f"{PARAMS}/") for item in items):
            raise UserError(f"{address}: no such checkpoint, nor a run's folder with one")
        if not quiet and not target.exists():
            _say(f"{address}: {_size(sum(item.size for item in items))} are copied to {target}")
        folders.bring_folder(address, target, sent)
    return target


@contextlib.contextmanager
def outgoing(destination: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[Path]:
    """Yields where to make a folder that a user wants at a path or an address.

    A path is yielded as it stands. What was made for an address is sent if the body succeeds.

    Raises UserError if something stands at the address, unless `overwrite` replaces what was sent.
    """
    where = place(destination)
    if isinstance(where, Path):
        yield where
        return
    if exists(where) and not (overwrite and folders.manifest(where)):
        way_out = "it was not sent by this package" if overwrite else "or replace it (--overwrite)"
        raise UserError(f"{where}: exists; name another folder, {way_out}")
    with tempfile.TemporaryDirectory(prefix="dmphn-") as scratch_folder:
        folder = Path(scratch_folder) / (where.name or where.bucket)
        yield folder
        with folders.disk_errors(where):
            folders.send(folder, where, {})


@contextlib.contextmanager
def synced(where: Path | Address) -> Iterator[Path]:
    """Yields a folder to read and write; of an address a copy, whose files are sent at the end.

    For results that grow file by file and go on where they stopped. They are sent whatever ends
    the body. Files that are there and not written to are sent again; none is removed.
    """
    if isinstance(where, Path):
        yield where
        return
    target = scratch("results", where)
    store = Store(where)
    with folders.disk_errors(where):
        folders.bring(store, store.list(), target)
    try:
        yield target
    finally:
        for file in sorted(target.rglob("*")):
            if file.is_file():
                store.upload(str(file.relative_to(target)), file)


def _beside(target: Path, ending: str) -> Path:
    """Returns the name of a file of bookkeeping beside a copy."""
    return target.with_name(f".{target.name}.{ending}")


def _waiting(address: Address) -> Any:
    return lambda: _say(f"{address}: another process copies it to this machine; waiting")


def _size(count: int) -> str:
    for unit, digits in (("GB", 9), ("MB", 6)):
        if count >= 10**digits:
            return f"{count / 10**digits:.1f} {unit}"
    return f"{-(-count // 1000):,} kB"


def _say(text: str) -> None:
    print(f"dmphn: note: {text}", file=sys.stderr, flush=True)
