"""The weights the authors released: which files make which model, by size and SHA-256. No jax."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Collection, Iterable
from pathlib import Path

from dmphn_jax.checkpoints.torch import names as torch_names
from dmphn_jax.models import zoo

_TABLE = Path(__file__).with_name("authors_files.tsv")
_FOLDERS = {
    "dmphn_1_2_4": "checkpoints/DMPHN_1_2_4",
    "dmphn_1_2_4_8": "checkpoints/DMPHN_1_2_4_8",
    "stack2": "checkpoints/SDNet2",
    "stack3": "checkpoints/SDNet3",
    "stack4": "checkpoints/SDNet4",
}


@dataclasses.dataclass(frozen=True)
class File:
    """A released file: its name in its folder, its size in bytes, the SHA-256 of its content."""

    name: str
    size: int
    sha256: str

    def is_at(self, path: Path) -> bool:
        """Whether the file at `path` is this one; raises OSError if it cannot be read."""
        if not path.is_file() or path.stat().st_size != self.size:
            return False
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == self.sha256


@dataclasses.dataclass(frozen=True)
class Folder:
    """A released folder and the model in it.

    Attributes:
      model: the model's name in the zoo.
      path: the folder in the repository.
      files: the model's files.
      untrained: files that lie beside them and were never trained: SDNet3 has a stage 4 of
        initial weights.
    """

    model: str
    path: str
    files: tuple[File, ...]
    untrained: tuple[File, ...] = ()


@dataclasses.dataclass(frozen=True)
class Release:
    """What the authors released: the repository, its commit, and model name -> folder."""

    repository: str
    commit: str
    folders: dict[str, Folder]


@functools.cache
def release() -> Release:
    """Returns the authors' release, as `authors_files.tsv` lists it."""
    rows = [line.split("\t") for line in _TABLE.read_text("utf-8").splitlines()]
    head = {row[0].removeprefix("# "): row[1] for row in rows if row[0].startswith("# ")}
    found: dict[str, list[File]] = {folder: [] for folder in _FOLDERS.values()}
    for path, size, sha256 in (row for row in rows if not row[0].startswith("#")):
        folder, _, name = path.rpartition("/")
        found[folder].append(File(name, int(size), sha256))
    folders = {}
    for model, path in _FOLDERS.items():
        wanted = torch_names.file_names(zoo.get(model))
        files = tuple(file for file in found[path] if file.name in wanted)
        untrained = tuple(file for file in found[path] if file.name not in wanted)
        folders[model] = Folder(model, path, files, untrained)
    return Release(head["repository"], head["commit"], folders)


def recognise(
    folder: Path, names: Collection[str], folders: Iterable[Folder] | None = None
) -> Folder | None:
    """Returns the released folder whose model's files are all in `folder`, None if none's are.

    Args:
      folder: a folder of weights.
      names: the names in it.
      folders: which to look for; the authors' by default.

    Raises OSError if a file cannot be read.
    """
    for known in release().folders.values() if folders is None else folders:
        if all(file.name in names for file in known.files) and all(
            file.is_at(folder / file.name) for file in known.files
        ):
            return known
    return None
