"""Settings of the JAX runtime that commands share."""

from __future__ import annotations

import functools
import os
from pathlib import Path


def cache_compilations() -> None:
    """Keeps compiled programs on disk between runs, in `~/.cache/dmphn_jax` by default.

    `JAX_COMPILATION_CACHE_DIR` names another folder; an empty value turns the cache off.
    """
    import jax

    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return  # jax reads it itself
    folder = cache_folder("compiled")
    if folder is not None:  # a read-only home costs a compilation per run, nothing else
        jax.config.update("jax_compilation_cache_dir", str(folder))


def cache_folder(name: str) -> Path | None:
    """Returns a folder of the user's cache, made if need be; None where it cannot be written."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "dmphn_jax" / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK) else None


@functools.cache
def compiler_options(platform: str) -> dict[str, str] | None:
    """Returns `jax.jit`'s `compiler_options` for programs that run on a platform; None for none.

    On a CPU, XLA's convolutions of its own: the library it hands them to by default (YNNPACK)
    runs these networks' filter gradients several times slower, and their 32-channel layers too
    (docs/benchmarks.md). A jaxlib that does not know the option goes without.
    """
    import jax

    if platform != "cpu":
        return None
    options = {"xla_cpu_experimental_ynn_fusion_type": ""}
    try:
        jax.jit(lambda x: x, compiler_options=options).lower(0.0).compile()
    except jax.errors.JaxRuntimeError:
        return None
    return options


def keep_freed_memory() -> None:
    """Where JAX computes on the CPU, lets the process keep freed memory for its next use.

    For training, whose steps all take the same: a step takes and frees hundreds of megabytes, and
    given back to the system in between, each page is cleared and mapped anew, 7 % of its time.
    Images of many sizes would leave gaps: a process that deblurs 720p images held 2.4 GB, not 0.9.
    Call it before JAX starts. No effect where the C library is not glibc.
    """
    import ctypes

    if _accelerators():
        return
    M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8  # names and values of malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    # A thread's own heap gives every large block back, whatever the settings above.
    mallopt(M_ARENA_MAX, 1)


def _accelerators() -> bool:
    """Tells whether JAX may find other devices than the CPU, without starting it."""
    import importlib.metadata
    import importlib.util

    import jax

    if jax.config.jax_platforms:
        return jax.config.jax_platforms.split(",")[0] != "cpu"
    plugins = importlib.metadata.entry_points(group="jax_plugins")
    return bool(plugins) or importlib.util.find_spec("libtpu") is not None
