"""A model on disk: parameters, configuration and a digest of the parameters.

`model` holds the folder format and `items` its files (imported on first use: they take jax and
orbax); `torch` reads and writes the authors' files without either.
"""

from __future__ import annotations

from typing import Any

__all__ = ["Checkpoint", "alone", "digest", "load", "model_item", "read_model_item", "save"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from dmphn_jax.checkpoints import items, model

        return getattr(items if name == "alone" else model, name)
    raise AttributeError(f"module 'dmphn_jax.checkpoints' has no attribute {name!r}")
