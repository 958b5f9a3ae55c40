"""A model's parameters as PyTorch weights, named as the authors do."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from dmphn_jax import files
from dmphn_jax.checkpoints.torch import names as torch_names
from dmphn_jax.checkpoints.torch.names import MODEL_FILE
from dmphn_jax.checkpoints.torch.pickle import write_state_dict
from dmphn_jax.checkpoints.torch.reading import list_folder
from dmphn_jax.errors import UserError
from dmphn_jax.models import ModelConfig


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
    weights = torch_names.file_names(config)
    try:
        with files.new_folder(folder) as new:
            for name, part in weights.items():
                tree = params[f"stage_{part.stage}"][part.node][part.half]
                write_state_dict(new / name, tensors_of(tree, part.half))
            (new / MODEL_FILE).write_text(json.dumps(config.to_dict(), indent=1) + "\n", "utf-8")
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {files.why(error)}") from None
    return list(weights)


def check_free(folder: Path, overwrite: bool) -> None:
    """Raises UserError unless a folder may be made at `folder`, or replaced there."""
    files.settle(folder)
    if not folder.exists() and not folder.is_symlink():
        return
    if not folder.is_dir() or folder.is_symlink():
        raise UserError(f"{folder}: exists and is no plain folder; name another")
    names = list_folder(folder)
    others = [n for n in names if not torch_names.is_weight_file(n) and n != MODEL_FILE]
    if names and not overwrite:
        raise UserError(f"{folder}: exists; name another folder or add --overwrite")
    if others:
        raise UserError(
            f"{folder}: holds more than PyTorch weights ({others[0]}); name another folder"
        )
