"""Operations and bytes of a case: by the model's formula, and as XLA counts them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from dmphn_jax.cpu_kernels import TARGETS
from dmphn_jax.models import ModelConfig


def xla_counts(traced: Any, lowered: Any, compiled: Any) -> dict[str, float | None]:
    """Returns what XLA's cost analysis says of a program; None where it does not know.

    Args:
      traced, lowered, compiled: of `jax.jit(f).trace(...)`, its `.lower()` and that's `.compile()`.

    Returns:
      `flops_lowered`: of the program before optimisation; where kernels of `cpu_kernels` hide work,
      of the same lowered for a GPU, which has none. It is the one to hold against the formula: the
      compiled program may call libraries whose work XLA does not count.
      `flops_compiled`: of the compiled program; None with such kernels.
      `bytes_accessed`: of the compiled program: what every operation left after fusion reads and
      writes, caches not considered; calls into libraries may be missing. None with such kernels.
    """
    if _calls_kernels(compiled):
        before, after = _analysis(lambda: traced.lower(lowering_platforms=("cuda",))), {}
    else:
        before, after = _analysis(lambda: lowered), _analysis(lambda: compiled)
    return {
        "flops_lowered": before.get("flops"),
        "flops_compiled": after.get("flops"),
        "bytes_accessed": after.get("bytes accessed"),
    }


def compiled_bytes(compiled: Any) -> int | None:
    """Returns the bytes a compiled program needs: arguments, outputs and temporaries together.

    Outputs that take an argument's place (the training state) count once. None where the backend
    does not say.
    """
    try:
        memory = compiled.memory_analysis()
        return int(
            memory.argument_size_in_bytes
            + memory.output_size_in_bytes
            + memory.temp_size_in_bytes
            - memory.alias_size_in_bytes
        )
    except Exception:  # a backend may not implement it, each in its own way
        return None


def cut(config: ModelConfig, stages: int | None) -> ModelConfig:
    """Returns the model that a stack's first `stages` stages are; None: all of them."""
    return dataclasses.replace(config, stages=stages or config.stages)


def _calls_kernels(compiled: Any) -> bool:
    try:
        text = compiled.as_text()
    except Exception:  # a backend may not implement it, each in its own way
        return False
    return any(f'"{target}_' in text for target in TARGETS)


def _analysis(program: Callable[[], Any]) -> dict[str, float]:
    try:
        found = program().cost_analysis()
    except Exception:  # a backend may not implement it, each in its own way
        return {}
    if isinstance(found, list | tuple):  # older JAX: one per program
        found = found[0] if found else None
    # Backends that do not know say -1.
    return {name: value for name, value in (found or {}).items() if value >= 0}
