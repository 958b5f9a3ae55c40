"""Per-image results on disk, so that a long evaluation goes on where it was stopped."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from dmphn_jax.errors import UserError, one_line


class ResultsFile:
    """A JSON-lines file of results, each under the key of what produced it.

    A line is written and flushed per image. What a killed run left half written at the end is
    cut off when the file is opened again; lines that cannot be read are taken for missing.

    Attributes:
      damaged: number of lines that could not be read.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Reads `path` if it exists, and opens it for more; raises UserError if it cannot."""
        self.path = Path(path)
        self.damaged = 0
        self._records: dict[str, dict[str, dict[str, Any]]] = {}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self.path, "a+b")  # noqa: SIM115 (closed by close)
            self._load()
        except OSError as error:
            raise UserError(f"{path}: cannot be written: {one_line(error)}") from None

    def _load(self) -> None:
        self._file.seek(0)
        content = self._file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            self.damaged += 1
            self._file.truncate(whole)
        for line in content[:whole].splitlines():
            try:
                record = json.loads(line)
                self._records.setdefault(record["key"], {})[record["name"]] = record
            except (ValueError, KeyError, TypeError):
                self.damaged += 1

    def of(self, key: str) -> dict[str, dict[str, Any]]:
        """Returns the records under `key`: name -> fields."""
        return dict(self._records.get(key, {}))

    def add(self, key: str, name: str, **fields: Any) -> None:
        """Appends a record; plain JSON values. A later record of a name replaces an earlier."""
        record = {"key": key, "name": name, **fields}
        self._records.setdefault(key, {})[name] = record
        try:
            self._file.write(json.dumps(record).encode() + b"\n")
            self._file.flush()
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written: {one_line(error)}") from None

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def key_of(**what: Any) -> str:
    """Returns a short key for plain JSON values: 16 hexadecimal digits of their SHA-256."""
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]
