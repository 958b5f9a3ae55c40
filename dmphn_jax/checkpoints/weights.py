"""Checkpoints by path or by name: a name is a model that the authors released.

Whatever loads a checkpoint that a user names goes through `resolve`. A released model is brought
once: its files come from the authors' repository or a mirror, each checked by size and SHA-256,
are converted as `dmphn convert` does, and the checkpoint is kept in the user's cache. No jax at
the top: commands look names up before they start it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dmphn_jax import files, storage
from dmphn_jax.checkpoints.download import DownloadError, Patience, fetch
from dmphn_jax.checkpoints.torch import authors
from dmphn_jax.errors import UserError, nearest
from dmphn_jax.models import zoo
from dmphn_jax.runtime import cache_folder
from dmphn_jax.storage.names import MODEL

if TYPE_CHECKING:
    from dmphn_jax.checkpoints.model import Checkpoint

VARIABLE = "DMPHN_WEIGHTS"  # the environment's base address of the authors' files
PATIENCE = Patience()
_CACHE = "checkpoints"


def names() -> list[str]:
    """Returns the names of the released models, such as "stack4"."""
    return list(authors.release().folders)


def check(name: str) -> None:
    """Raises UserError, with the nearest name, if a name is no released model's."""
    if name not in names():
        raise UserError(f"{files.shown(name)}: {_unreleased(name)}")


def find(checkpoint: str | os.PathLike[str]) -> Path | None:
    """Returns the folder that is meant: the one of that path first, else that of a released model.

    Returns None for a released model that is not here yet, and for an address. Raises UserError,
    with the nearest name, for what is neither.
    """
    if isinstance(storage.place(checkpoint), storage.Address):
        return None
    path, name = Path(checkpoint), os.fspath(checkpoint)
    if not os.path.lexists(path):
        files.settle(path)
    if os.path.lexists(path):
        return path
    if name in names():
        return kept(name)
    raise UserError(f"{files.shown(path)}: no such checkpoint folder; {_unreleased(name)}")


def resolve(checkpoint: str | os.PathLike[str], *, quiet: bool = False) -> Path:
    """Returns the folder of a checkpoint, as `find`; brings what is not here.

    A released model, or the checkpoint at an address, of which this machine's copy is returned.

    Raises UserError in one line for what is neither, or cannot be brought.
    """
    where = storage.place(checkpoint)
    if isinstance(where, storage.Address):
        return storage.local_checkpoint(where, quiet=quiet)
    return find(checkpoint) or pull(os.fspath(checkpoint), quiet=quiet)


def load(checkpoint: str | os.PathLike[str]) -> Checkpoint:
    """Loads the model of a checkpoint folder or a released model: `model.load` by path or name."""
    from dmphn_jax.checkpoints import model

    path = resolve(checkpoint)
    with _mendable(path):
        return model.load(path)


def read_model_item(checkpoint: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns a checkpoint's item `model`: `model.read_model_item` by path or name."""
    from dmphn_jax.checkpoints import model

    path = resolve(checkpoint)
    with _mendable(path):
        return model.read_model_item(path)


def kept(name: str) -> Path | None:
    """Returns the folder of a released model in the user's cache; None if it is not there."""
    cache = cache_folder(_CACHE, writable=False)
    if cache is None:
        return None
    path = cache / name
    if not path.exists():
        with contextlib.suppress(OSError):
            files.settle(path)
    return path if path.is_dir() else None


def pull(name: str, base: str | None = None, *, quiet: bool = False) -> Path:
    """Brings a released model and keeps it in the user's cache; returns its folder.

    What is there and whole stays; what is damaged is brought anew. Broken off, it goes on where
    it was. Of several processes one works and the others wait for it.

    Args:
      name: one of `names()`.
      base: address of the repository's files, https, http or file, or a folder; else what the
        environment variable DMPHN_WEIGHTS says, else the authors' repository.
      quiet: show no progress.

    Raises UserError in one line that tells how to get there by hand.
    """
    check(name)
    folder, address = authors.release().folders[name], _base(base)
    cache = cache_folder(_CACHE, writable=False)
    if cache is None:
        raise UserError(
            f"{name}: there is no cache to keep it in (XDG_CACHE_HOME names one); "
            f"{_by_hand(folder)}"
        )
    target, source = cache / name, cache / f".{name}.download"

    def waiting() -> None:
        if not quiet:
            _say(f"{name}: another process brings it; waiting")

    try:
        with files.locked(cache / f".{name}.lock", waiting):
            if not _is_whole(target, name):
                _say_licence_once(cache)
                source.mkdir(exist_ok=True)
                _fetch_all(folder, address, source, quiet)
                _convert(folder, source, target)
                shutil.rmtree(source, ignore_errors=True)
    except (DownloadError, UserError) as error:
        raise UserError(f"{name}: {error}; {_by_hand(folder)}") from None
    except OSError as error:
        where = files.shown(error.filename or cache)
        raise UserError(f"{name}: {where}: {files.why(error)}; {_by_hand(folder)}") from None
    return target


def _fetch_all(folder: authors.Folder, address: str, source: Path, quiet: bool) -> None:
    """Brings a folder's files to `source`; raises DownloadError naming the first that failed."""
    import tqdm

    total = sum(file.size for file in folder.files)
    if not quiet:
        _say(f"{folder.model}: {1e-6 * total:.0f} MB from {address}/{folder.path}")
    # Only on a terminal: in a log the line above is enough.
    bar = tqdm.tqdm(
        total=total,
        desc=folder.model,
        file=sys.stderr,
        disable=quiet or not sys.stderr.isatty(),
        unit="B",
        unit_scale=True,
        dynamic_ncols=True,
    )
    with bar:
        before = 0
        for file in folder.files:
            url = f"{address}/{urllib.parse.quote(f'{folder.path}/{file.name}')}"

            def progress(count: int, before: int = before) -> None:
                bar.update(before + count - bar.n)

            try:
                fetch(url, file, source / file.name, patience=PATIENCE, progress=progress)
            except DownloadError as error:
                raise DownloadError(f"{url}: {error}") from None
            before += file.size


def _convert(folder: authors.Folder, source: Path, target: Path) -> None:
    """Makes the checkpoint `target` of the verified files in `source`."""
    from dmphn_jax.checkpoints import items, model
    from dmphn_jax.checkpoints.torch.reading import params_from_torch

    release = authors.release()
    params, config = params_from_torch(source, folder.model, _say)
    if target.exists() and not items.record_file(target, MODEL).is_file():
        shutil.rmtree(target)  # so damaged that `save` would not take it for a checkpoint
    origin = f"the authors' {folder.path}, {release.repository} at commit {release.commit}"
    model.save(target, params, config, {"origin": origin}, overwrite=True)


def _is_whole(path: Path, name: str) -> bool:
    """Whether a checkpoint of the model is there and undamaged."""
    files.settle(path)
    if not path.exists():
        return False
    from dmphn_jax.checkpoints import model

    try:
        return zoo.name_of(model.load(path).config) == name
    except UserError:
        return False


def _base(base: str | None) -> str:
    """Returns the address under which the repository's files lie."""
    given, where = base, "--from"
    if given is None:
        given, where = os.environ.get(VARIABLE) or None, VARIABLE
    if given is None:
        release = authors.release()
        repository = release.repository.removeprefix("github.com/")
        return f"https://raw.githubusercontent.com/{repository}/{release.commit}"
    if "://" not in given:
        return Path(given).expanduser().absolute().as_uri()
    try:
        parts = urllib.parse.urlsplit(given)
        known = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        known = known and not (parts.username or parts.query or parts.fragment)
    except ValueError:
        known = False
    if not (known or given.startswith("file:///")):
        raise UserError(
            f"{where} {files.shown(given)}: not an address (https://, http:// or file:///), "
            "nor a folder"
        )
    return given.rstrip("/")


def _unreleased(name: str) -> str:
    """Says that there are no weights of that name, and which there are."""
    known = names()
    with contextlib.suppress(ValueError):
        zoo.parse(name)
        return f"the authors released no weights of {name}, but of {', '.join(known)}"
    return f"released models are {', '.join(known)}{nearest(name, known)}"


def _by_hand(folder: authors.Folder) -> str:
    repository = authors.release().repository
    clone = f"{repository.rpartition('/')[2]}/{folder.path}"
    return f"or by hand: git clone https://{repository}, then dmphn convert {clone} {folder.model}"


@contextlib.contextmanager
def _mendable(path: Path) -> Iterator[None]:
    """Adds to what is wrong with a checkpoint of the cache how it is mended."""
    try:
        yield
    except UserError as error:
        if path.name in names() and path == kept(path.name):
            raise UserError(f"{error}; `dmphn pull {path.name}` brings it anew") from None
        raise


def _say_licence_once(cache: Path) -> None:
    """Says whose the weights are, at the first download into a cache; the text stays there."""
    text = (
        f"the released weights are their authors' ({authors.release().repository}), who published "
        "no licence file: the licence of dmphn_jax does not cover them"
    )
    with contextlib.suppress(FileExistsError), open(cache / "NOTICE", "x") as notice:
        notice.write(text + "\n")
        _say(text)


def _say(text: str) -> None:
    print(f"dmphn: note: {text}", file=sys.stderr)
