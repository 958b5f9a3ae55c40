"""Writing an artefact: which format needs what, and a file that is whole or not there."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any

from dmphn_jax import files
from dmphn_jax.errors import UserError
from dmphn_jax.export.options import Options
from dmphn_jax.models import ModelConfig

# format -> its module here, the package it needs, the extra that brings it
_FORMATS = {
    "stablehlo": ("stablehlo", "flatbuffers", "export"),
    "onnx": ("onnx_file", "onnx", "export"),
    "saved": ("saved", "tensorflow", "export-saved"),
}


def require(format: str) -> None:
    """Raises UserError, with what to install, where a format's package is missing."""
    _, package, extra = _FORMATS[format]
    if importlib.util.find_spec(package) is None:
        raise UserError(
            f"--format {format} needs {package}: pip install 'dmphn_jax[{extra}]' "
            f"(or pip install {package})"
        )


def check_free(path: Path, format: str, overwrite: bool) -> None:
    """Raises UserError unless an artefact may be written to `path`, or in place of what is there.

    Only a file is replaced by a file, and a SavedModel by a SavedModel.
    """
    files.settle(path)
    if not path.exists() and not path.is_symlink():
        return
    if format == "saved":
        like = path.is_dir() and not path.is_symlink() and (path / "saved_model.pb").is_file()
        if not like and not (path.is_dir() and not any(path.iterdir())):
            raise UserError(
                f"{files.shown(path)}: exists and is no SavedModel; name another folder"
            )
    elif not path.is_file():
        raise UserError(f"{files.shown(path)}: exists and is no file; name another")
    if not overwrite:
        raise UserError(f"{files.shown(path)}: exists; name another or add --overwrite")


def write(
    path: Path, params: dict[str, Any], config: ModelConfig, digest: str, options: Options
) -> None:
    """Writes the artefact of a model; it appears whole or not at all.

    Args:
      path: the file to make, or the folder of a SavedModel.
      params, config: the model.
      digest: of its parameters, kept in the metadata.
      options: the format, and what it is to take and to give.

    Raises UserError if the format's package is missing, the options are not possible, or the
    file cannot be written.
    """
    options.check(config)
    require(options.format)
    module = importlib.import_module(f"dmphn_jax.export.{_FORMATS[options.format][0]}")
    new = files.new_folder if options.format == "saved" else files.new_file
    try:
        with new(path) as temporary:
            module.write(temporary, params, config, digest, options)
    except OSError as error:
        raise UserError(f"{files.shown(path)}: cannot be written: {files.why(error)}") from None
