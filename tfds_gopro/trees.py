"""Pairs in a dataset's own layout, in a folder or inside its zip.

GOPRO_Large/{train,test}/<sequence>/{blur,blur_gamma,sharp}/<frame>.png
quantitative_datasets/<video>/{input,GT}/<frame>.jpg
"""

from __future__ import annotations

import io
import os
import zipfile
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from dmphn_jax.data import splits
from dmphn_jax.errors import UserError, one_line

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp"}


class Tree:
    """Read-only files below one root, in a folder or a zip; safe to read from several threads.

    Raises:
      UserError: the path does not exist, or is neither a folder nor a zip.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        self._zip = None
        if self.path.is_dir():
            self._files = [
                PurePosixPath(os.path.relpath(os.path.join(folder, name), self.path))
                for folder, _, names in os.walk(self.path, followlinks=True)
                for name in names
            ]
        elif not self.path.exists():
            raise UserError(f"--source {self.path}: no such folder or zip")
        else:
            try:
                self._zip = zipfile.ZipFile(self.path)
            except (zipfile.BadZipFile, OSError) as error:
                raise UserError(
                    f"--source {self.path}: neither a folder nor a whole zip ({one_line(error)})"
                ) from error
            self._files = [
                PurePosixPath(info.filename) for info in self._zip.infolist() if not info.is_dir()
            ]

    def images(self) -> list[PurePosixPath]:
        """Returns the paths of all images relative to the root, sorted, without hidden ones."""
        return sorted(
            path
            for path in self._files
            if path.suffix.lower() in SUFFIXES
            and not any(part.startswith((".", "__MACOSX")) for part in path.parts)
        )

    def read(self, path: PurePosixPath) -> bytes:
        """Returns a file's bytes; raises OSError or BadZipFile if it cannot be read."""
        return self._zip.read(str(path)) if self._zip else (self.path / path).read_bytes()

    def size(self, path: PurePosixPath) -> int:
        """Returns a file's size in bytes, unpacked."""
        if self._zip:
            return self._zip.getinfo(str(path)).file_size
        return (self.path / path).stat().st_size

    def open(self, path: PurePosixPath) -> io.BufferedIOBase:
        """Opens a file for reading bytes."""
        return self._zip.open(str(path)) if self._zip else (self.path / path).open("rb")

    def name(self, path: PurePosixPath) -> str:
        """Returns the name by which a message should call a file."""
        return f"{self.path}:{path}" if self._zip else str(self.path / path)


@dataclass(frozen=True)
class Files:
    """The two files of a pair in a `Tree`."""

    split: str
    sequence: str
    frame: str  # the file's stem, for example "000047"
    blurry: PurePosixPath
    sharp: PurePosixPath


@dataclass
class Found:
    """The pairs of a tree by split, in order, and the images that have no partner."""

    pairs: dict[str, list[Files]] = field(default_factory=lambda: {"train": [], "test": []})
    alone: list[str] = field(default_factory=list)

    def by_sequence(self) -> dict[str, dict[str, list[str]]]:
        """Returns split -> sequence -> frame names."""
        out: dict[str, dict[str, list[str]]] = {}
        for split, files in self.pairs.items():
            for pair in files:
                out.setdefault(split, {}).setdefault(pair.sequence, []).append(pair.frame)
        return out


# (split, sequence, frame) -> side -> file
_Sides = dict[tuple[str, str, str], dict[str, PurePosixPath]]


def find_gopro(tree: Tree, blur: str = "blur") -> Found:
    """Returns the pairs of a GOPRO_Large-shaped tree; `blur` is 'blur' or 'blur_gamma'."""
    sides: _Sides = {}
    for path in tree.images():
        if len(path.parts) < 3 or path.parts[-2] not in (blur, "sharp"):
            continue
        # The split is the folder above the sequence, or the root itself (`--source .../train`).
        above = [*tree.path.absolute().parts, *path.parts[:-3]]
        if not above or above[-1] not in ("train", "test"):
            continue
        key = (above[-1], path.parts[-3], path.stem)
        _put(tree, sides, key, "sharp" if path.parts[-2] == "sharp" else "blurry", path)
    return _paired(tree, sides)


def find_video_deblurring(tree: Tree) -> Found:
    """Returns the pairs of a tree of <video>/{input,GT}; the published test list splits it."""
    sides: _Sides = {}
    for path in tree.images():
        if len(path.parts) < 3 or path.parts[-2] not in ("input", "GT"):
            continue
        if "qualitative_datasets" in path.parts:
            continue  # real blur without a sharp side
        video = path.parts[-3]
        split = "test" if video in splits.VIDEO_DEBLURRING_TEST else "train"
        key = (split, video, path.stem)
        _put(tree, sides, key, "sharp" if path.parts[-2] == "GT" else "blurry", path)
    return _paired(tree, sides)


def _put(
    tree: Tree, sides: _Sides, key: tuple[str, str, str], side: str, path: PurePosixPath
) -> None:
    """Adds a file; raises UserError where another one has its place, which nothing can decide."""
    before = sides.setdefault(key, {}).setdefault(side, path)
    if before != path:
        raise UserError(
            f"{tree.name(path)} and {tree.name(before)}: which is the {side} side of "
            f"{key[1]}/{key[2]}? --source needs one copy of every frame"
        )


def _paired(tree: Tree, sides: _Sides) -> Found:
    found = Found()
    for (split, sequence, frame), side in sorted(sides.items()):
        if len(side) == 2:
            found.pairs[split].append(Files(split, sequence, frame, side["blurry"], side["sharp"]))
        else:
            found.alone.append(tree.name(next(iter(side.values()))))
    return found
