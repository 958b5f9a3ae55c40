"""What is at a place, be it a path or an address."""

from __future__ import annotations

import fnmatch
import re
from pathlib import Path

from dmphn_jax.storage.address import Address
from dmphn_jax.storage.store import Store


def exists(where: Path | Address) -> bool:
    """Tells whether there is a file, an object or a folder."""
    if isinstance(where, Path):
        return where.exists()
    return is_file(where) or Store(where).holds_any()


def is_file(where: Path | Address) -> bool:
    """Tells whether there is a file or an object of this name."""
    if isinstance(where, Path):
        return where.is_file()
    return bool(where.key) and Store(where.parent).has(where.name)


def read_text(where: Path | Address) -> str:
    """Returns a file's or an object's text; raises FileNotFoundError if there is none."""
    if isinstance(where, Path):
        return where.read_text()
    found = Store(where.parent).read(where.name)
    if found is None:
        raise FileNotFoundError(f"{where}: no such object")
    return found.data.decode()


def glob(where: Path | Address, pattern: str) -> list[Path] | list[Address]:
    """Returns the files and folders below a folder whose parts match those of `pattern`, sorted.

    In a bucket it lists every object below the part of the pattern that has no wildcard.
    """
    if isinstance(where, Path):
        return sorted(where.glob(pattern))
    parts = pattern.split("/")
    fixed = next((i for i, part in enumerate(parts) if re.search(r"[*?\[]", part)), len(parts))
    found = set()
    for item in Store(where).list("".join(f"{part}/" for part in parts[:fixed])):
        names = item.name.split("/")[: len(parts)]
        if len(names) == len(parts) and all(map(fnmatch.fnmatchcase, names, parts)):
            found.add("/".join(names))
    return [where / name for name in sorted(found)]
