"""Folders in a store: brought here, and sent there so that they are whole or not there.

A folder that was sent has a manifest, written when all else is there: the size and SHA-256 of
every other object, remarks, and a digest of itself. While it is sent, or removed, it has a mark:
one with a mark and no manifest is a part, left by a kill. One with neither was copied there by
other means (gcloud), and what it holds must tell whether it is whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from dmphn_jax.errors import UserError
from dmphn_jax.files import why
from dmphn_jax.storage.address import Address
from dmphn_jax.storage.store import Item, StorageError, Store, is_copy
from dmphn_jax.threads import map_ahead

MANIFEST = "MANIFEST.json"
UNFINISHED = "UNFINISHED"  # the mark
FORMAT = 1
_THREADS = 6  # requests at a time; with a lease's and a log's they find room among ten connections
PART = ".part~"  # ends the name of a file that is still arriving


class DamagedFolderError(UserError):
    """A folder whose objects are not those that were sent."""


class Manifest(NamedTuple):
    """What a sent folder holds: file -> (bytes, SHA-256), and remarks, plain JSON values."""

    files: dict[str, tuple[int, str]]
    info: dict[str, Any]


def send(
    folder: Path,
    address: Address,
    info: Mapping[str, Any],
    *,
    before_last: Callable[[], object] = lambda: None,
) -> None:
    """Sends a folder's files; what was at `address`, a part left by a kill too, is gone before.

    Args:
      folder: sent with all below it, but for empty folders.
      address: where it is to be.
      info: remarks for the manifest, plain JSON values.
      before_last: called when all is there but the manifest; what it raises leaves it so.

    Raises StorageError, or OSError if a file cannot be read.
    """
    store = Store(address)
    if store.holds_any():
        remove(address)
    store.write(UNFINISHED, b"")
    names = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    names -= {MANIFEST, UNFINISHED}  # of a folder that once came from a store

    def send_one(name: str) -> tuple[str, tuple[int, str]]:
        file = folder / name
        described = (file.stat().st_size, _sha256(file))
        store.upload(name, file)
        return name, described

    files = dict(map_ahead(send_one, sorted(names), threads=_THREADS, ahead=2 * _THREADS))
    before_last()
    store.write(MANIFEST, _packed(Manifest(files, dict(info))), generation=0)
    store.delete(UNFINISHED)


def manifest(address: Address) -> Manifest | None:
    """Returns the manifest of a sent folder, None if it has none.

    Raises DamagedFolderError if it is not what was written.
    """
    found = Store(address).read(MANIFEST)
    if found is None:
        return None
    try:
        fields = json.loads(found.data)
        if fields.pop("digest") != _digest(fields):
            raise ValueError("does not match its own digest")
        if fields["format"] > FORMAT:
            raise UserError(f"{address}: a newer version wrote it; upgrade dmphn_jax")
        files = {name: (int(size), str(sha)) for name, (size, sha) in fields["files"].items()}
        return Manifest(files, fields["info"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise DamagedFolderError(f"{address}: damaged: {MANIFEST} is not what was sent") from None


def bring_folder(address: Address, target: Path, sent: Manifest | None) -> None:
    """Makes `target` what lies at an address: what was sent, or a copy without a manifest.

    Raises as `bring_sent` and `bring_copied` do.
    """
    if sent is None:
        bring_copied(address, target)
    else:
        bring_sent(address, target, sent)


def bring_sent(address: Address, target: Path, sent: Manifest) -> None:
    """Makes `target` what was sent to an address; what it holds of that already is not brought.

    Raises DamagedFolderError naming an object that is missing or not what was sent; StorageError,
    OSError.
    """
    store = Store(address)
    listed = {item.name: item for item in store.list()}
    for name, (size, _) in sent.files.items():
        if name not in listed:
            raise DamagedFolderError(f"{address}: damaged: {name} is missing")
        if listed[name].size != size:
            raise DamagedFolderError(
                f"{address}: damaged: {name} has {listed[name].size:,} of {size:,} bytes"
            )
    bring(store, [listed[name] for name in sent.files], target)
    for name, (_, sha) in sent.files.items():
        if _sha256(target / name) != sha:
            raise DamagedFolderError(f"{address}: damaged: {name} is not what was sent")


def bring_copied(address: Address, target: Path) -> None:
    """Makes `target` what lies at an address without a manifest; whether it is whole is not known.

    Raises DamagedFolderError for a part; StorageError, OSError.
    """
    store = Store(address)
    items = store.list()
    if any(item.name == UNFINISHED for item in items):
        raise DamagedFolderError(f"{address}: is not whole: being sent, or broken off in it")
    bring(store, items, target)


def bring(
    store: Store,
    items: list[Item],
    target: Path,
    *,
    known: Callable[[Item, Path], bool] = lambda item, file: False,
    done: Callable[[Item], object] = lambda item: None,
) -> None:
    """Makes `target` hold these objects and nothing else; each file appears whole.

    Args:
      store, items: what, of a listing of it.
      target: a folder, made if need be.
      known: tells without reading the file that it is the object's copy.
      done: called, on several threads, for each object whose copy is there.

    Raises StorageError; OSError where files cannot be written.
    """
    target.mkdir(parents=True, exist_ok=True)
    wanted = {item.name for item in items}
    for file in target.rglob("*"):
        if (file.is_file() or file.is_symlink()) and str(file.relative_to(target)) not in wanted:
            file.unlink()

    def bring_one(item: Item) -> None:
        file = target / item.name
        if not (file.is_file() and (known(item, file) or is_copy(file, item))):
            fetch(store, item, file)
        done(item)

    for _ in map_ahead(bring_one, items, threads=_THREADS, ahead=2 * _THREADS):
        pass


def fetch(store: Store, item: Item, file: Path) -> None:
    """Writes an object to a file, which appears whole; raises StorageError, OSError."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name[:200]}{PART}")
    try:
        store.download(item, part)
        os.replace(part, file)
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


def remove(address: Address) -> None:
    """Removes all objects below an address; killed half way, what is left is a part."""
    store = Store(address)
    names = [item.name for item in store.list() if item.name not in (MANIFEST, UNFINISHED)]
    store.write(UNFINISHED, b"")
    store.delete(MANIFEST)
    for _ in map_ahead(store.delete, names, threads=_THREADS, ahead=2 * _THREADS):
        pass
    store.delete(UNFINISHED)


def move(address: Address, target: Address) -> None:
    """Moves what is there of a folder to another address, in the way that stores have: by copies.

    The objects pass through this process, one at a time in memory. Killed half way, the folder is
    still there.
    """
    store, to = Store(address), Store(target)
    for item in store.list():
        content = store.read(item.name)
        if content is not None:
            to.write(item.name, content.data)
    remove(address)


def free_for(target: Path, needed: int, address: Address) -> None:
    """Raises StorageError if the disk of `target` has no room for so many bytes."""
    there = next(path for path in (target, *target.parents) if path.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise StorageError(
            f"{address}: {1e-9 * needed:.1f} GB do not fit on the disk of {there} "
            f"({1e-9 * free:.1f} GB free); DMPHN_STAGING=FOLDER names another"
        )


@contextlib.contextmanager
def disk_errors(address: Address) -> Iterator[None]:
    """Raises what the local disk refuses as a StorageError that names the address."""
    try:
        yield
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise StorageError(f"{address}: its copy here: {where}{why(error)}") from None


def _packed(content: Manifest) -> bytes:
    fields = {"format": FORMAT, "files": content.files, "info": content.info}
    return (json.dumps({**fields, "digest": _digest(fields)}, indent=1) + "\n").encode()


def _digest(fields: Mapping[str, Any]) -> str:
    text = json.dumps(json.loads(json.dumps(fields)), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _sha256(file: Path) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
