"""A user's own pairs: two folders, a GOPRO_Large- or DVD-shaped tree, or a list of files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dmphn_jax.data.base import Pair
from dmphn_jax.errors import UserError, few
from dmphn_jax.images import EXTENSIONS, WRITABLE, read_rgb, read_size

# Not GIF: its 256 colours make no pair, and previews lie beside pictures.
_SUFFIXES = frozenset(end for end, format in EXTENSIONS.items() if format in WRITABLE)
# Names of the two sides, the preferred ones first; compared without case.
BLURRY_NAMES = ("blurry", "blur", "input", "lq")
SHARP_NAMES = ("sharp", "gt", "target", "groundtruth")


class FolderSource:
    """Pairs of image files, decoded on access.

    Args:
      pairs: (name, blurry file, sharp file).
      where: what messages call the source.
      workers: threads that read the headers.

    Raises:
      UserError: no pairs, or files that cannot be read or differ in size within a pair; one line
        counts all of them and shows the first.
    """

    def __init__(self, pairs: Iterable[tuple[str, Path, Path]], where: str, workers: int = 16):
        self._pairs = list(pairs)
        if not self._pairs:
            raise UserError(f"{where}: no pairs of images found")
        self.names: Sequence[str] = [name for name, _, _ in self._pairs]

        def check(pair: tuple[str, Path, Path]) -> tuple[tuple[int, int] | None, str]:
            try:
                blurry, sharp = read_size(pair[1]), read_size(pair[2])
            except UserError as error:
                return None, str(error)
            if blurry == sharp:
                return blurry, ""
            sizes = f"{blurry[1]}x{blurry[0]} but its sharp side {sharp[1]}x{sharp[0]}"
            return None, f"{pair[1]} is {sizes}"

        with ThreadPoolExecutor(workers) as pool:
            checked = list(pool.map(check, self._pairs))
        faults = [fault for _, fault in checked if fault]
        if faults:
            raise UserError(
                f"{where}: {len(faults)} of {len(checked)} pairs: {few(faults, separator='; ')}"
            )
        self._shapes = [shape for shape, _ in checked]

    def __len__(self) -> int:
        """Returns the number of pairs."""
        return len(self._pairs)

    def shape(self, index: int) -> tuple[int, int]:
        """Returns (height, width) of pair `index` without decoding it."""
        return self._shapes[index]

    def __getitem__(self, index: int) -> Pair:
        """Returns pair `index`; raises UserError naming a file that cannot be read."""
        name, blurry_file, sharp_file = self._pairs[index]
        blurry, sharp = read_rgb(blurry_file), read_rgb(sharp_file)
        if blurry.shape != sharp.shape:
            raise UserError(f"{blurry_file}: its size changed and now differs from its sharp side")
        return Pair(blurry, sharp, name)


def open_folder(
    path: str | os.PathLike[str], split: str = "train", blur: str = "blur"
) -> FolderSource:
    """Returns the pairs below a folder, or of a list file.

    Layouts, in the order they are looked for:
      * a text file with a blurry and a sharp path per line, in either order (RealBlur's lists),
        relative to the file's folder or the one above it;
      * PATH/<split>/... if PATH has folders `train` or `test` (GOPRO_Large);
      * PATH/blurry and PATH/sharp (also blur, input, lq; gt, target), paired by relative path,
        file suffixes may differ;
      * PATH/.../SEQUENCE/{blur or input}/FRAME with {sharp or GT}/FRAME (GOPRO_Large, DVD);
        VideoDeblurring's own folder `quantitative_datasets` is split by its published test list.

    Args:
      path: a folder or a list file.
      split: 'train' or 'test', for layouts that have both.
      blur: which of GoPro's two blurry sides, 'blur' or 'blur_gamma'.

    Raises:
      UserError: see `FolderSource`; also files without a partner, counted in one line.
    """
    root = Path(path)
    if root.is_file():
        return FolderSource(_listed(root), str(root))
    if not root.is_dir():
        raise UserError(f"{root}: no such folder or list of pairs")
    if (root / "quantitative_datasets").is_dir():
        root = root / "quantitative_datasets"
    sides = _two_folders(root, blur)
    other = "test" if split == "train" else "train"
    if not sides and (root / split).is_dir():
        root = root / split
        sides = _two_folders(root, blur)
    elif not sides and (root / other).is_dir():
        raise UserError(f"{root}: it has {other}/ but no {split}/")
    files = _by_folder(*sides) if sides else _by_sequence(root, blur)
    if root.name == "quantitative_datasets":
        files = _published_split(files, split)
    if not files:
        raise UserError(
            f"{root}: no pairs; expected blurry/ and sharp/ with files of the same names, "
            "or SEQUENCE/{blur,sharp}/FRAME, or SEQUENCE/{input,GT}/FRAME"
        )
    alone = [str(next(iter(side.values()))) for side in files.values() if len(side) < 2]
    if alone:
        raise UserError(f"{root}: {len(alone)} images have no partner of that name: {few(alone)}")
    pairs = [(name, sides["blurry"], sides["sharp"]) for name, sides in sorted(files.items())]
    return FolderSource(pairs, str(root))


def _images(root: Path) -> Iterable[Path]:
    for folder, folders, names in os.walk(root, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        for name in sorted(names):
            if Path(name).suffix.lower() in _SUFFIXES and not name.startswith("."):
                yield Path(folder, name)


def _two_folders(root: Path, blur: str) -> tuple[Path, Path] | None:
    """Returns (blurry side, sharp side) if they lie directly below `root`."""
    folders = {path.name.lower(): path for path in root.iterdir() if path.is_dir()}
    wanted = ("blur_gamma",) if blur == "blur_gamma" else BLURRY_NAMES
    blurry = next((folders[name] for name in wanted if name in folders), None)
    sharp = next((folders[name] for name in SHARP_NAMES if name in folders), None)
    return (blurry, sharp) if blurry and sharp else None


Files = dict[str, dict[str, Path]]  # pair's name -> side -> file


def _by_folder(blurry: Path, sharp: Path) -> Files:
    files: Files = {}
    for side, root in (("blurry", blurry), ("sharp", sharp)):
        for path in _images(root):
            _put(files, path.relative_to(root).with_suffix("").as_posix(), side, path)
    return files


def _by_sequence(root: Path, blur: str) -> Files:
    wanted = ("blur_gamma",) if blur == "blur_gamma" else BLURRY_NAMES
    files: Files = {}
    for path in _images(root):
        folder = path.parent.name.lower()
        side = "blurry" if folder in wanted else "sharp" if folder in SHARP_NAMES else None
        if side and path.parent != root:
            sequence = path.parent.parent.relative_to(root).as_posix()
            sequence = root.name if sequence == "." else sequence
            _put(files, f"{sequence}/{path.stem}", side, path)
    return files


def _put(files: Files, name: str, side: str, path: Path) -> None:
    before = files.setdefault(name, {}).setdefault(side, path)
    if before != path:
        raise UserError(f"{path}: the same name as {before.name}; which is the {side} one?")


def _published_split(files: Files, split: str) -> Files:
    from dmphn_jax.data.splits import VIDEO_DEBLURRING_TEST

    test = set(VIDEO_DEBLURRING_TEST)
    return {n: f for n, f in files.items() if (n.split("/")[0] in test) == (split == "test")}


def _listed(path: Path) -> list[tuple[str, Path, Path]]:
    """Reads a list of pairs; the side whose path says so is the sharp one, else the second."""
    pairs: dict[str, tuple[str, Path, Path]] = {}
    for number, line in enumerate(_lines(path), 1):
        mark = next((mark for mark in "\t," if mark in line), None)
        words = [word.strip() for word in line.split(mark) if word.strip()]
        if not words or words[0].startswith("#"):
            continue
        if len(words) < 2:
            raise UserError(f"{path}:{number}: expected a blurry and a sharp path")
        first, second = words[:2]
        if _is_sharp(first) and not _is_sharp(second):
            first, second = second, first
        bases = (path.parent, path.parent.parent)
        files = [
            next((base / word for base in bases if (base / word).exists()), path.parent / word)
            for word in (first, second)
        ]
        name = os.path.splitext(Path(first).as_posix())[0]
        if name in pairs:
            raise UserError(f"{path}:{number}: {name} comes twice; a pair's name is its own")
        pairs[name] = (name, *files)
    return list(pairs.values())


def _lines(path: Path) -> Iterator[str]:
    """Yields the lines of a text file; raises UserError if it is none, before it is read."""
    with path.open(errors="replace") as file:
        if "\0" in file.read(4096):
            raise UserError(f"{path}: neither a folder nor a list of pairs")
        file.seek(0)
        yield from file


def _is_sharp(path: str) -> bool:
    parts = [part.lower() for part in Path(path).parts[:-1]]
    name = Path(path).name.lower()
    return any(part in SHARP_NAMES for part in parts) or name.startswith(("gt_", "sharp"))
