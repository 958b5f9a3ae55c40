"""The authors' PyTorch weights as parameters of a model."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dmphn_jax import files
from dmphn_jax.checkpoints.torch import authors
from dmphn_jax.checkpoints.torch import names as torch_names
from dmphn_jax.checkpoints.torch.names import MODEL_FILE, Part
from dmphn_jax.checkpoints.torch.pickle import read_state_dict
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
    leaves), else by the files' digests where they are the authors' own (see `authors`), else by
    the file names (see `names`); its width by the shapes. Values are taken bit by bit; float16
    and float64 become float32. "module." before every name of a file, as `torch.nn.DataParallel`
    leaves it, is dropped.

    Args:
      folder: holds a file per encoder and decoder.
      model: a name of the zoo, such as "dmphn_1_1_1".
      note: called with one line for each thing its user may want to know: files left aside,
        values that were rounded or are not finite, stages that look untrained.

    Returns:
      Nested dict of float32 arrays, `stage_1/level_3/encoder/...`, and the model.

    Raises:
      UserError: one line naming the file that is missing, foreign, damaged or misshapen, or the
        model that is not there.
    """
    folder = Path(folder)
    if not folder.exists():
        files.settle(folder)
    names = list_folder(folder)
    config, chosen = _choose(folder, names, model, note)
    params: dict[str, Any] = {}
    untrained: dict[int, list[str]] = {}
    width, width_from = None, ""
    for name, part in chosen.items():
        tensors = _read(folder / name)
        if width is None:
            width, width_from = _width(folder / name, part, tensors), name
        _check(folder / name, part, tensors, width, width_from)
        _check_values(folder / name, tensors, note)
        tree = _tree(tensors, part.half)
        unit = params.setdefault(f"stage_{part.stage}", {})
        unit.setdefault(part.node, {})[part.half] = tree
        if _looks_untrained(tree, part.half):
            untrained.setdefault(part.stage, []).append(name)
    config = dataclasses.replace(config, width=width)
    _note_untrained(folder, config, untrained, note)
    return params, config


def list_folder(folder: Path) -> list[str]:
    """Returns the sorted names in a folder; raises UserError if it is none or cannot be read."""
    try:
        return sorted(entry.name for entry in folder.iterdir())
    except NotADirectoryError:
        raise UserError(f"{folder}: is a file; name the folder that holds the .pkl files") from None
    except OSError as error:
        raise UserError(f"{folder}: {(error.strerror or one_line(error)).lower()}") from None


def _choose(
    folder: Path, names: list[str], model: str | None, note: Callable[[str], None]
) -> tuple[ModelConfig, dict[str, Part]]:
    """Returns the model in a folder (its width is not known yet) and file name -> part."""
    known = None
    try:
        config = _told_model(folder, model)
        if config is None and (known := authors.recognise(folder, names)):
            config = zoo.get(known.model)
        if config is None:
            config, chosen = torch_names.infer(names)
        else:
            chosen = torch_names.files_of(config, names)
    except ValueError as error:
        raise UserError(f"{folder}: {error}{_hint(folder)}") from None
    except OSError as error:
        raise UserError(f"{folder}: cannot be read: {files.why(error)}") from None
    beside = {file.name for file in known.untrained} if known else set()
    if stray := sorted(beside.intersection(names)):
        note(
            f"{folder}: the authors' {known.path}, which is {known.model}: {stray[0]} and "
            f"{len(stray) - 1} more beside it were never trained and are left out"
        )
    if left := torch_names.leftovers(config, chosen, set(names) - beside):
        note(f"{folder}: {left}")
    return config, chosen


def _hint(folder: Path) -> str:
    """Points to a folder within that has weights, where there are none in `folder` itself."""
    if any(torch_names.is_weight_file(name) for name in list_folder(folder)):
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
        if path.exists() and not path.is_file():
            raise ValueError("it is not a plain file")  # opening a pipe would wait for ever
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
    """Returns the model's width: the output channels of an encoder's first convolution."""
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


def _check_values(path: Path, tensors: dict[str, np.ndarray], note: Callable[[str], None]) -> None:
    """Notes what is rounded or not finite; raises UserError for what float32 cannot hold."""
    largest = np.finfo(np.float32).max
    for name, value in tensors.items():
        if value.dtype == np.float64:
            beyond = np.abs(value[np.isfinite(value)]).max(initial=0)
            if beyond > largest:
                raise UserError(
                    f"{path}: {name} holds {beyond:.2g}, beyond float32's {largest:.2g}"
                )
    if any(value.dtype == np.float64 for value in tensors.values()):
        note(f"{path.name}: float64 values are rounded to float32")
    if not all(np.isfinite(value).all() for value in tensors.values()):
        note(f"{path.name}: holds NaN or infinite values")


def _looks_untrained(tree: dict[str, Any], half: str) -> bool:
    """Whether an encoder or decoder is still as `models.init_params` draws it.

    Every kernel (kh, kw, in, out) has the deviation sqrt(0.5 / (kh*kw*out)), every bias is 0, or
    they are as close to it as a few steps of training leave them.
    """
    for path in torch_names.LAYERS[half]:
        layer = tree
        for step in path:
            layer = layer[step]
        kernel, bias = layer["kernel"], layer["bias"]
        kh, kw, _, out = kernel.shape
        with np.errstate(invalid="ignore", over="ignore"):
            ratio = np.sqrt(np.mean(kernel**2) * kh * kw * out / 0.5)
        # Five standard errors of a deviation estimated from so few values, 5 % at least.
        margin = max(0.05, 5 / np.sqrt(2 * kernel.size))
        if not (abs(ratio - 1) < margin and np.abs(bias).max() < 1e-3):
            return False
    return True


def _note_untrained(
    folder: Path,
    config: ModelConfig,
    untrained: dict[int, list[str]],
    note: Callable[[str], None],
) -> None:
    """Notes every stage that looks untrained, or the files of it that do."""
    for stage, found in untrained.items():
        who, way_out = f"stage {stage} looks", ""
        if len(found) < len(torch_names.parts(config)) // config.stages:
            more = f" and {len(found) - 1} more" if len(found) > 1 else ""
            who = f"{found[0]}{more} {'look' if more else 'looks'}"
        elif stage > 1:
            before = zoo.name_of(dataclasses.replace(config, stages=stage - 1))
            way_out = f"; --model {before} leaves it out"
        note(f"{folder}: {who} untrained (initial kernels, biases of 0){way_out}")


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
        node["kernel"], node["bias"] = (
            np.array(value, np.float32, order="C") for value in (kernel, bias)
        )
    return tree
