"""The pictures and films of a folder and all below it."""

from __future__ import annotations

import collections
import os
from collections.abc import Collection, Iterator

_NO_IMAGE = "a folder, not an image"
_KINDS = 1000  # extensions that are told apart


def extension_of(path: str) -> str:
    """Returns a name's extension, lower case, with the dot; empty if it has none."""
    return os.path.splitext(path)[1].lower()


class _Folder:
    """A folder on the way down: its entries not yet visited, and whether it held an image."""

    def __init__(
        self, path: str, extensions: Collection[str], ignored: collections.Counter[str]
    ) -> None:
        """Lists it; raises OSError if that cannot be done."""
        self.path, self.found = path, False
        entries: list[tuple[str, bool]] = []
        with os.scandir(path) as listing:  # of a million other files none is kept
            for entry in listing:
                extension = extension_of(entry.name)
                if entry.name.startswith("."):
                    continue
                if _is_folder(entry):
                    entries.append((entry.name, True))
                elif extension in extensions:
                    entries.append((entry.name, False))
                else:
                    kind = extension or "no extension"
                    ignored[kind if kind in ignored or len(ignored) < _KINDS else "others"] += 1
        self.entries = iter(sorted(entries))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself; reading it will tell
        return False


def walk(
    root: str, output: str, extensions: Collection[str], ignored: collections.Counter[str]
) -> Iterator[tuple[str, str | None]]:
    """Yields (path, problem) of the images below `root`, and of folders that cannot be read."""
    seen: set[str] = set()
    stack: list[_Folder] = []

    def enter(path: str) -> str | None:
        """Goes down into a folder; returns why that cannot be done."""
        real = os.path.realpath(path)
        if stack and real == output:  # results of an earlier run
            return None
        if real in seen:  # a link back up
            return _NO_IMAGE if extension_of(path) in extensions else None
        seen.add(real)
        try:
            stack.append(_Folder(path, extensions, ignored))
        except OSError as error:
            return f"folder cannot be read: {error.strerror}"
        return None

    problem = enter(root)
    if problem:
        yield root, problem
    while stack:
        folder = stack[-1]
        name, is_folder = next(folder.entries, (None, False))
        if name is None:
            stack.pop()
            if stack and not folder.found and extension_of(folder.path) in extensions:
                folder.found = True
                yield folder.path, _NO_IMAGE
            if stack:
                stack[-1].found |= folder.found
            continue
        path = os.path.join(folder.path, name)
        if is_folder:
            problem = enter(path)
            if problem:
                folder.found = True
                yield path, problem
        else:
            folder.found = True
            yield path, None
