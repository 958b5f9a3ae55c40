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
from dmphn_jax.storage.store import Item, StorageError, Store, is_copy


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

    def unchanged(self, name: str, file: Path) -> bool:
        """Tells whether a file is as it was left, whatever its object is now."""
        try:
            status = file.stat()
        except OSError:
            return False
        return self._known.get(name, [])[1:] == [status.st_size, status.st_mtime_ns]

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

    What stands there stays until the new one is whole; a part that a kill left counts as nothing.

    Raises UserError if something stands at the address, unless `overwrite` replaces what was sent.
    """
    where = place(destination)
    if isinstance(where, Path):
        yield where
        return
    stands = folders.manifest(where) is not None
    free = not exists(where) or (not stands and Store(where).has(folders.UNFINISHED))
    if not free and not (overwrite and stands):
        way_out = "it was not sent by this package" if overwrite else "or replace it (--overwrite)"
        raise UserError(f"{where}: exists; name another folder, {way_out}")
    with tempfile.TemporaryDirectory(prefix="dmphn-") as scratch_folder:
        folder = Path(scratch_folder) / (where.name or where.bucket)
        yield folder
        with folders.disk_errors(where):
            if stands and where.key:
                _replace(folder, where)
            else:
                folders.send(folder, where, {})


def _replace(folder: Path, where: Address) -> None:
    """Sends a folder in place of one that stays until the new one is whole, beside it.

    Stores rename nothing, so that it is sent twice: what is at `where` is gone while it is sent.
    """
    beside = where.parent / f"{where.name}.sending"
    folders.send(folder, beside, {})
    try:
        folders.send(folder, where, {})
    except StorageError as error:
        raise StorageError(f"{error}; it is whole at {beside}") from None
    folders.remove(beside)


@contextlib.contextmanager
def synced(where: Path | Address) -> Iterator[Path]:
    """Yields a folder to read and write; of an address a copy, whose files are sent at the end.

    For results that grow file by file and go on where they stopped. They are sent whatever ends
    the body; what a kill or the network kept from that is sent by the next use. What has changed
    there takes the place of what has not been written here. Of several processes of a machine one
    has the copy and the others wait.

    Raises StorageError in one line where something cannot be brought or sent: it stays here.
    """
    if isinstance(where, Path):
        yield where
        return
    target, store = scratch("results", where), Store(where)
    with contextlib.ExitStack() as held:
        with folders.disk_errors(where):
            held.enter_context(files.locked(_beside(target, "lock"), _waiting(where)))
            record = _Record(_beside(target, "json"))
            _receive(store, target, record)
        try:
            yield target
        except BaseException:
            try:
                _send(store, target, record)
            except UserError as error:
                _say(f"{error}; {target} keeps the results, and the same command sends them")
            raise
        _send(store, target, record)


def _receive(store: Store, target: Path, record: _Record) -> None:
    """Makes a copy what its store holds, but for what was written here and has not been sent."""
    target.mkdir(parents=True, exist_ok=True)
    items = store.list()
    listed = {item.name for item in items}
    for name, file in _files_in(target):
        if name not in listed and record.unchanged(name, file):
            file.unlink()
    copies = []
    for item in items:
        file = target / item.name
        if file.exists() and not record.unchanged(item.name, file):
            continue
        if not record.knows(item, file):
            folders.fetch(store, item, file)
        copies.append(item)
    record.write(copies, target)


def _send(store: Store, target: Path, record: _Record) -> None:
    """Sends what was written since it was brought or sent."""
    with folders.disk_errors(store.address):
        for name, file in _files_in(target):
            if not record.unchanged(name, file):
                store.upload(name, file)
        record.write([item for item in store.list() if _is_there(target / item.name, item)], target)


def _is_there(file: Path, item: Item) -> bool:
    return file.is_file() and is_copy(file, item)


def _files_in(target: Path) -> list[tuple[str, Path]]:
    """Returns (name, file) of all whole files below a folder, in order."""
    found = [f for f in target.rglob("*") if f.is_file() and not f.name.endswith(folders.PART)]
    return sorted((str(file.relative_to(target)), file) for file in found)


def _beside(target: Path, ending: str) -> Path:
    """Returns the name of a file of bookkeeping beside a copy."""
    return target.with_name(f".{target.name}.{ending}")


def _waiting(address: Address) -> Any:
    return lambda: _say(f"{address}: another process has its copy on this machine; waiting")


def _size(count: int) -> str:
    for unit, digits in (("GB", 9), ("MB", 6)):
        if count >= 10**digits:
            return f"{count / 10**digits:.1f} {unit}"
    return f"{-(-count // 1000):,} kB"


def _say(text: str) -> None:
    print(f"dmphn: note: {text}", file=sys.stderr, flush=True)
