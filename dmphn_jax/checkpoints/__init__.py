"""A model on disk: parameters, configuration and a digest of the parameters.

`weights` finds checkpoints by path or by name, `model` holds the folder format and `items` its
files (imported on first use: they take jax and orbax); `torch` reads and writes the authors'
files without either.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "Checkpoint": "model",
    "alone": "items",
    "digest": "model",
    "find": "weights",
    "load": "weights",
    "model_item": "model",
    "read_model_item": "weights",
    "resolve": "weights",
    "save": "model",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'dmphn_jax.checkpoints' has no attribute {name!r}")
