"""A model on disk: parameters, configuration and digests.

A checkpoint is a folder with two items (see `items`): `params/`, the parameters, and `model/`, a
JSON record with the format's version, the model's configuration, a digest of the parameters,
remarks, and a digest of the record itself. A step folder of a training run holds the same two
items beside its training state, so it loads as a model just as well.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from dmphn_jax import files
from dmphn_jax.checkpoints import items
from dmphn_jax.errors import UserError, one_line
from dmphn_jax.models import ModelConfig, parameter_name, parameter_shapes
from dmphn_jax.storage.names import MODEL, PARAMS

FORMAT = 1
_RECORD = items.record_file("", MODEL).as_posix()  # as messages call it

Params = dict[str, Any]


class Checkpoint(NamedTuple):
    """A loaded checkpoint: float32 parameters on one device, the model they belong to, remarks."""

    params: Params
    config: ModelConfig
    info: dict[str, Any]
    digest: str


def digest(tree: Any) -> str:
    """Returns the SHA-256 of a tree of arrays: of every leaf's path, dtype, shape and bytes."""
    total = hashlib.sha256()
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    for path, leaf in sorted((parameter_name(path), leaf) for path, leaf in leaves):
        array = np.ascontiguousarray(leaf)
        total.update(f"{path} {array.dtype} {array.shape};".encode())
        total.update(array.data if array.size else b"")
    return total.hexdigest()


def model_item(params: Params, config: ModelConfig, info: dict[str, Any] | None) -> dict[str, Any]:
    """Returns the JSON content of a checkpoint's item `model`."""
    item = {
        "format": FORMAT,
        "model": config.to_dict(),
        "digest": digest(params),
        "info": dict(info or {}),
    }
    return item | {"record_digest": _record_digest(item)}


def _record_digest(item: dict[str, Any]) -> str:
    """Returns the SHA-256 of a record without its own digest, however its JSON is written."""
    rest = {key: value for key, value in item.items() if key != "record_digest"}
    # There and back: a tuple or a numbered key is not what JSON keeps.
    text = json.dumps(json.loads(json.dumps(rest)), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def save(
    path: str | os.PathLike[str],
    params: Params,
    config: ModelConfig,
    info: dict[str, Any] | None = None,
    *,
    overwrite: bool = False,
) -> None:
    """Writes a model's parameters to the folder `path`; it appears whole or not at all.

    Args:
      path: the folder to make.
      params: nested dict of arrays, saved as float32.
      config: the model they belong to.
      info: remarks kept with them, plain JSON values.
      overwrite: replace a checkpoint that stands there.

    Raises UserError if `path` exists (unless `overwrite` replaces a checkpoint), if the
    parameters are not the model's, or if the folder cannot be written.
    """
    path = Path(path).absolute()
    files.settle(path)
    if path.exists() and not (overwrite and items.record_file(path, MODEL).is_file()):
        way_out = (
            "it holds something other than a checkpoint; name another folder"
            if overwrite
            else "name another folder, or replace it (--overwrite, in Python overwrite=True)"
        )
        raise UserError(f"{path}: exists; {way_out}")
    params = jax.tree.map(lambda x: np.asarray(x, np.float32), jax.device_get(params))
    _check_tree(params, parameter_shapes(config), str(path))
    record = model_item(params, config, info)
    try:
        with files.new_folder(path) as new:
            items.write(new, {PARAMS: params}, {MODEL: record})
    except (OSError, ValueError) as error:  # tensorstore reports a full disk as a ValueError
        raise UserError(f"{path}: cannot be written: {files.why(error)}") from None


def read_model_item(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns the checked JSON item `model` of a checkpoint; raises UserError in one line."""
    path = Path(path)
    if not path.exists():
        files.settle(path)
    if not path.exists():
        raise UserError(f"{path}: no such checkpoint")
    try:
        item = items.read_record(path, MODEL)
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{path}: not a checkpoint (a folder with model/ and params/, as `dmphn convert` and "
            "training write)"
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: damaged: {_RECORD}: {one_line(error)}") from None
    if not isinstance(item, dict) or not isinstance(item.get("format"), int):
        raise UserError(f"{path}: damaged: {_RECORD} does not describe a model")
    if item["format"] > FORMAT:
        raise UserError(
            f"{path}: has format {item['format']}, newer than this version reads ({FORMAT}); "
            "upgrade dmphn_jax"
        )
    if not isinstance(item.get("model"), dict) or not isinstance(item.get("digest"), str):
        raise UserError(f"{path}: damaged: {_RECORD} does not describe a model")
    # The first checkpoints have no digest of the record.
    if "record_digest" in item and item["record_digest"] != _record_digest(item):
        raise UserError(f"{path}: damaged: {_RECORD} does not match its own digest")
    try:
        ModelConfig.from_dict(item["model"])
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: its model is unknown here: {one_line(error)}") from None
    return item


def load(path: str | os.PathLike[str]) -> Checkpoint:
    """Loads the model of a checkpoint folder, saved on any number of devices, and verifies it.

    Raises UserError in one line if it is not a checkpoint, is damaged, holds another model than
    it says, or has a newer format.
    """
    path = Path(path).absolute()
    item = read_model_item(path)
    config = ModelConfig.from_dict(item["model"])
    if not (path / PARAMS).is_dir():
        raise UserError(f"{path}: damaged: params/ is missing")
    wanted = parameter_shapes(config)
    params = items.read_wanted(path, PARAMS, wanted)
    if params is not None and digest(params) == item["digest"]:
        params = jax.device_put(params, jax.local_devices()[0])
    else:
        params = _read_params(path, wanted)
        if digest(params) != item["digest"]:
            raise UserError(f"{path}: damaged: the parameters do not match their digest")
    return Checkpoint(params, config, item.get("info") or {}, item["digest"])


def _read_params(path: Path, wanted: Params) -> Params:
    """Reads the parameters of whatever shapes; raises UserError for what is wrong with them."""
    try:
        # First what the files declare: no memory is taken for arrays that are not the model's.
        _check_tree(items.read_shapes(path, PARAMS), wanted, str(path))
        return items.read_arrays(path, PARAMS)
    except UserError:
        raise
    except Exception as error:  # orbax and tensorstore raise many types for damaged files
        raise UserError(f"{path}: damaged: params/ cannot be read: {files.why(error)}") from None


def _check_tree(params: Any, wanted_tree: Any, where: str) -> None:
    """Raises UserError naming the first parameter that the model lacks, misses or shapes else."""
    wanted, found = (
        {
            parameter_name(path): leaf.shape
            for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
        }
        for tree in (wanted_tree, params)
    )
    for name, shape in wanted.items():
        if name not in found:
            raise UserError(f"{where}: not this model's parameters: {name} is missing")
        if tuple(found[name]) != tuple(shape):
            raise UserError(
                f"{where}: not this model's parameters: {name} has shape {tuple(found[name])}, "
                f"the model's has {tuple(shape)}"
            )
    for name in found:
        if name not in wanted:
            raise UserError(f"{where}: not this model's parameters: {name} is none of them")
