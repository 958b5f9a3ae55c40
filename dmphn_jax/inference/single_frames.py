"""The single frames of a film in a folder: which are there, and whose they are."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path

from dmphn_jax.errors import UserError
from dmphn_jax.files import shown, write_atomically


class SingleFrames:
    """The frames of one kind of picture in a folder, each a file named by its number.

    A hidden file beside them tells what they were made of and with; it stays, so that any later
    run tells its own frames from others.

    Attributes:
      kept: the numbers of those that are there and are to stay.
    """

    kept: frozenset[int]

    def __init__(
        self, folder: str, extension: str, identity: dict[str, str], *, overwrite: bool
    ) -> None:
        """Looks at a folder, which need not be there.

        Raises UserError if there are frames of something else than `identity`, and they are not
        to be overwritten.
        """
        self._folder, self._extension, self._identity = Path(folder), extension, identity
        self._place = self._folder / f".frames{extension}.json"
        self._begun = False
        there = self._numbers()
        known = self._known()
        own = known == identity
        if there and not own and not overwrite:
            raise UserError(f"{shown(folder)}: {self._stranger(known)}; {_WAY_OUT}")
        self._foreign = set() if own else there
        self.kept = frozenset() if overwrite else frozenset(there)

    def path(self, number: int) -> str:
        """Returns where a frame is."""
        return os.path.join(self._folder, f"{number:06}{self._extension}")

    def missing(self, first: int) -> Iterator[int]:
        """Yields the numbers from `first` on, without end, of frames that are not kept."""
        return (number for number in itertools.count(first) if number not in self.kept)

    def begin(self) -> None:
        """Before the first frame is written: notes whose they are, or no longer are, in whole."""
        if not self._begun:
            self._begun = True
            self._note()

    def written(self, number: int) -> None:
        """Counts a frame that was written."""
        if number in self._foreign:
            self._foreign.remove(number)
            if not self._foreign:
                self._note()

    def _note(self) -> None:
        if self._foreign:  # a mixture, until the last of them is replaced
            self._place.unlink(missing_ok=True)
        else:
            write_atomically(self._place, json.dumps(self._identity).encode())

    def _numbers(self) -> set[int]:
        numbers = set()
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(self._folder):
                stem, extension = os.path.splitext(name)
                if extension == self._extension and stem.isascii() and stem.isdecimal():
                    numbers.add(int(stem))
        return {number for number in numbers if os.path.exists(self.path(number))}

    def _known(self) -> dict[str, str]:
        with contextlib.suppress(OSError, ValueError):
            return dict(json.loads(self._place.read_text()))
        return {}

    def _stranger(self, known: dict[str, str]) -> str:
        changed = [name for name in self._identity if known.get(name) != self._identity[name]]
        if known and changed:
            return f"holds frames of another run: {changed[0]} is another now"
        return "holds frames, and nothing tells what made them"


_WAY_OUT = "--overwrite replaces them, or give another --output"
