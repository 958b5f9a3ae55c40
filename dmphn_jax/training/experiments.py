"""The project's experiments, the files of `configs/`: where they are, and how to begin with one.

They are read by path and never imported, so that no package `configs` stands in the way of a
user's own.
"""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import TYPE_CHECKING

from dmphn_jax.errors import UserError, nearest

if TYPE_CHECKING:
    from ml_collections import ConfigDict


def folder() -> Path:
    """Returns the folder: in the package where a wheel installed it, beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def find(path: str) -> Path:
    """Returns the project's config file of the name `configs/FILE.py` or `FILE.py`.

    Raises UserError with the nearest name where there is none.
    """
    own = folder() / Path(path).name
    if Path(path).parent.name in ("", "configs") and own.is_file():
        return own
    names = sorted(file.name for file in folder().glob("*.py"))
    known = [f"configs/{name}" for name in names if name != "base.py"]
    raise UserError(f"{path}: no such config file{nearest(path, known)}; configs/ holds them")


def start_from(path: str) -> ConfigDict:
    """Returns the config of one of the project's experiments, for another one to change.

    Args:
      path: `configs/FILE.py` or `configs/FILE.py:ARGUMENT`, as of `--config`; always the project's
        file, whatever lies in the working folder.

    Raises UserError for a file that is not there, TypeError for an argument it does not take.
    """
    file, _, argument = path.partition(":")
    get_config = runpy.run_path(str(find(file)))["get_config"]
    return get_config(argument) if argument else get_config()
