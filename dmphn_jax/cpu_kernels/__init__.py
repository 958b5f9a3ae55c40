"""Convolutions for the CPU in C++, called by XLA: docs/benchmarks.md has their speed.

Convolutions in vectors of the processor: every loaded number serves a block of sums kept in
registers, and bias, residual and ReLU cost no pass over the image of their own. Those of 3x3 with a
stride of 1 take 16 multiplications in place of 36, by minimal filtering (Lavin and Gray, 2016). All
arrays are float32; results are the same for any number of threads. Gradients are in
`models.cpu_convolutions`.
"""

from __future__ import annotations

from dmphn_jax.cpu_kernels.kernels import TARGETS, Kernels
from dmphn_jax.cpu_kernels.library import load

__all__ = ["TARGETS", "Kernels", "load"]
