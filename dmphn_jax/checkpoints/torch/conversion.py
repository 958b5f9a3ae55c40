"""The authors' PyTorch weights as parameters of a model, and back."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dmphn_jax.checkpoints.torch import names as torch_names
from dmphn_jax.checkpoints.torch.names import MODEL_FILE, Part
from dmphn_jax.checkpoints.torch.pickle import read_state_dict, write_state_dict
from dmphn_jax.errors import UserError, one_line
from dmphn_jax.models import ModelConfig, zoo

_FLOATS = ("float16", "float32", "float64")


def _warn(text: str) -> None:
    print(f"dmphn: note: {text}", file=sys.stderr)


def params_from_torch(
    folder: str | os.PathLike[str],
    model: str | None = None,
    note: Callable[[str], None] = _warn,
) -> tuple[dict[str, Any], ModelConfig]:
    """Reads a folder of the authors' `.pkl` files as (parameters, model).

    The model is told by `model`, else by the folder's `dmphn_model.json` (which `write_torch`
    leaves), else by the file names (see `torch_names`); its width by the shapes. Values are taken
    bit by bit; float16 and float64 become float32. "module." before every name of a file, as
    `torch.nn.DataParallel` leaves it, is dropped.

    Args:
      folder: holds a file per encoder and decoder.
      model: a name of the zoo, such as "dmphn_1_1_1".
      note: called with one line for each thing its user may want to know: files left aside,
        values that were rounded or are not finite.

    Returns:
      Nested dict of float32 arrays, `stage_1/level_3/encoder/...`, and the model.

    Raises:
      UserError: one line naming the file that is missing, foreign, damaged or misshapen, or the
        model that is not there.
    """
    folder = Path(folder)
    names = _list(folder)
    try:
        config = _told_model(folder, model)
        if config is None:
            config, files = torch_names.infer(names)
        else:
            files = torch_names.files_of(config, names)
    except ValueError as error:
        raise UserError(f"{folder}: {error}{_hint(folder)}") from None
    if left := torch_names.leftovers(config, files, names):
        note(f"{folder}: {left}")

    params: dict[str, Any] = {}
    width, width_from = None, ""
    for name, part in files.items():
        tensors = _read(folder / name)
        if width is None:
            width, width_from = _width(folder / name, part, tensors), name
        _check(folder / name, part, tensors, width, width_from)
        _note_values(name, tensors, note)
        unit = params.setdefault(f"stage_{part.stage}", {})
        unit.setdefault(part.node, {})[part.half] = _tree(tensors, part.half)
    return params, dataclasses.replace(config, width=width)


def _list(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in folder.iterdir())
    except NotADirectoryError:
        raise UserError(f"{folder}: is a file; name the folder that holds the .pkl files") from None
    except OSError as error:
        raise UserError(f"{folder}: {(error.strerror or one_line(error)).lower()}") from None


def _hint(folder: Path) -> str:
    """Points to a folder within that has weights, where there are none in `folder` itself."""
    if any(torch_names.is_weight_file(name) for name in _list(folder)):
        return ""
    for inner in sorted(path for path in folder.iterdir() if path.is_dir()):
        try:
            if any(torch_names.is_weight_file(path.name) for path in inner.iterdir()):
                return f" (did you mean {inner}?)"
        except OSError:
            continue
    return ""


def _told_model(folder: Path, model: str | None) -> ModelConfig | None:
    """Returns the model its user or `dmphn_model.json` names; None where neither does."""
    if model is not None:
        return zoo.get(model)
    path = folder / MODEL_FILE
    try:
        return ModelConfig.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, RecursionError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or one_line(error)
        raise UserError(
            f"{path}: describes no model: {reason}; mend or remove it, or give --model"
        ) from None


def _read(path: Path) -> dict[str, np.ndarray]:
    tensors = read_state_dict(path)
    if all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): value for name, value in tensors.items()}
    # A view that repeats one stored value may declare any shape; weights are never such views.
    declared = sum(value.nbytes for value in tensors.values())
    if declared > 4 * path.stat().st_size:
        raise UserError(f"{path}: its tensors are larger than the file")
    return tensors


def _width(path: Path, part: Part, tensors: dict[str, np.ndarray]) -> int:
    """Returns the model's width: the input channels of an encoder's first convolution's output."""
    shape = getattr(tensors.get("layer1.weight"), "shape", None)
    if shape is None:
        return 32  # `_check` says what the file lacks
    if len(shape) != 4 or shape[0] < 1:
        raise UserError(
            f"{path}: layer1.weight has shape {shape}, an {part.half}'s is (width, 3, 3, 3)"
        )
    return shape[0]


def _check(
    path: Path, part: Part, tensors: dict[str, np.ndarray], width: int, width_from: str
) -> None:
    """Raises UserError naming the first tensor that is missing, foreign or misshapen."""
    wanted = torch_names.tensor_shapes(part.half, width)
    article = {"encoder": "an encoder", "decoder": "a decoder"}[part.half]
    for name, shape in wanted.items():
        if name not in tensors:
            raise UserError(f"{path}: not {article}'s weights: {name} is missing")
        found = tensors[name]
        if found.shape != shape:
            raise UserError(
                f"{path}: {name} has shape {found.shape}, {article}'s of width {width} "
                f"(as in {width_from}) has {shape}"
            )
        if found.dtype.name not in _FLOATS:
            raise UserError(f"{path}: {name} holds {found.dtype}, not floating-point numbers")
    for name in tensors:
        if name not in wanted:
            raise UserError(f"{path}: {name[:60]!r} is none of {article}'s tensors")


def _note_values(name: str, tensors: dict[str, np.ndarray], note: Callable[[str], None]) -> None:
    if any(value.dtype == np.float64 for value in tensors.values()):
        note(f"{name}: float64 values are rounded to float32")
    if not all(np.isfinite(value).all() for value in tensors.values()):
        note(f"{name}: holds NaN or infinite values")


def _tree(tensors: dict[str, np.ndarray], half: str) -> dict[str, Any]:
    """Returns one half's subtree: kernels as (kh, kw, in, out), biases as (out,)."""
    tree: dict[str, Any] = {}
    for path, layer in torch_names.LAYERS[half].items():
        kernel, bias = tensors[f"{layer}.weight"], tensors[f"{layer}.bias"]
        if path[0].startswith("up"):
            # torch scatters with a transposed convolution's kernel; ours gathers: turned around.
            kernel = kernel.transpose(2, 3, 0, 1)[::-1, ::-1]
        else:
            kernel = kernel.transpose(2, 3, 1, 0)
        node = tree
        for step in path:
            node = node.setdefault(step, {})
        with np.errstate(over="ignore"):  # reported as infinite where it matters
            node["kernel"], node["bias"] = (
                np.array(value, np.float32, order="C") for value in (kernel, bias)
            )
    return tree


def tensors_of(tree: dict[str, Any], half: str) -> dict[str, np.ndarray]:
    """Returns one half's parameters by the authors' names, in torch's order of axes.

    Args:
      tree: the parameters of an encoder or a decoder.
      half: "encoder" or "decoder".
    """
    tensors = {}
    for path, layer in torch_names.LAYERS[half].items():
        node = tree
        for step in path:
            node = node[step]
        kernel = np.asarray(node["kernel"], np.float32)
        if path[0].startswith("up"):
            kernel = kernel[::-1, ::-1].transpose(2, 3, 0, 1)
        else:
            kernel = kernel.transpose(3, 2, 0, 1)
        tensors[f"{layer}.weight"] = kernel
        tensors[f"{layer}.bias"] = np.asarray(node["bias"], np.float32)
    return tensors


def write_torch(
    params: dict[str, Any],
    config: ModelConfig,
    folder: str | os.PathLike[str],
    overwrite: bool = False,
) -> list[str]:
    """Writes a model as files that torch's `load_state_dict` takes, named as the authors do.

    `module.load_state_dict(torch.load(file, weights_only=True))` reads each; the layers carry the
    authors' names. `dmphn_model.json` beside them tells `params_from_torch` the model, and
    reading them back gives the same bits. The folder appears whole or not at all.

    Args:
      params: nested dict of arrays, `stage_1/level_3/encoder/...`.
      config: the model they belong to.
      folder: the folder to make; an empty one may stand there.
      overwrite: replace a folder that holds such files and nothing else.

    Returns:
      The names of the weight files.

    Raises:
      UserError: the folder exists, or cannot be written.
    """
    folder = Path(folder).absolute()
    check_free(folder, overwrite)
    temporary = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        new = temporary / "new"
        new.mkdir()
        files = torch_names.file_names(config)
        for name, part in files.items():
            tree = params[f"stage_{part.stage}"][part.node][part.half]
            write_state_dict(new / name, tensors_of(tree, part.half))
        (new / MODEL_FILE).write_text(json.dumps(config.to_dict(), indent=1) + "\n", "utf-8")
        if folder.exists():
            folder.rename(temporary / "old")
        new.rename(folder)
    except OSError as error:
        reason = error.strerror or one_line(error)
        raise UserError(f"{folder}: cannot be written: {reason}") from None
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
    return list(files)


def check_free(folder: Path, overwrite: bool) -> None:
    """Raises UserError unless a folder may be made at `folder`, or replaced there."""
    if not folder.exists() and not folder.is_symlink():
        return
    if not folder.is_dir() or folder.is_symlink():
        raise UserError(f"{folder}: exists and is no plain folder; name another")
    names = _list(folder)
    others = [n for n in names if not torch_names.is_weight_file(n) and n != MODEL_FILE]
    if names and not overwrite:
        raise UserError(f"{folder}: exists; name another folder or add --overwrite")
    if others:
        raise UserError(
            f"{folder}: holds more than PyTorch weights ({others[0]}); name another folder"
        )
