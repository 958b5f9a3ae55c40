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
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "dmphn_jax" / "compiled"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return  # a read-only home costs a compilation per run, nothing else
    jax.config.update("jax_compilation_cache_dir", str(folder))


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

    A network takes and frees hundreds of megabytes per call. Given back to the system in between,
    each page is cleared and mapped anew: up to a tenth of a 720p image's time. No effect where
    the C library is not glibc.
    """
    import ctypes

    import jax

    if jax.default_backend() != "cpu":
        return
    M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # names and values of malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
