"""Settings of the JAX runtime that commands share."""

from __future__ import annotations

import os
from pathlib import Path


def cache_compilations() -> None:
    """Keeps compiled programs on disk between runs, in `~/.cache/dmphn_jax` by default.

    `JAX_COMPILATION_CACHE_DIR` names another folder; an empty value turns the cache off.
    """
    import jax

    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return  # jax reads it itself
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "dmphn_jax" / "compiled"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return  # a read-only home costs a compilation per run, nothing else
    jax.config.update("jax_compilation_cache_dir", str(folder))
