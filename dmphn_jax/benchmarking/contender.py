"""A competitor of a group: what to time, and what to tell about it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from dmphn_jax.benchmarking.timing import Case


@dataclasses.dataclass(frozen=True)
class Contender:
    """One way to do a group's work.

    Attributes:
      library: "jax", or that of a peer: "torch", "onnxruntime" or "openvino".
      variant: how it is done, such as "float32" or "as-released".
      precision: of the products: "float32", "tf32", "bfloat16" or "float16".
      case: the work.
      check: returns what must agree between contenders, called once, before anything is timed:
        for inference the float `image` (B, H, W, 3) on [-0.5, 0.5], not clipped; for training
        the `loss` and the `gradient norm` of the first step.
      compile_s: seconds to trace and compile; None where that is not told apart.
      counts: of `counts.xla_counts`; empty for peers.
      memory: called after the timing; returns {"bytes", "source"}, or None where unknown.
    """

    library: str
    variant: str
    precision: str
    case: Case
    check: Callable[[], dict[str, np.ndarray]]
    compile_s: float | None = None
    counts: dict[str, Any] = dataclasses.field(default_factory=dict)
    memory: Callable[[], dict[str, Any] | None] = lambda: None

    @property
    def name(self) -> str:
        """`jax float32`."""
        return self.case.name
