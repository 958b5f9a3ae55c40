"""Accelerators by name: their published figures. No jax."""

from __future__ import annotations

import dataclasses

_GB, _GIB = 10**9, 2**30
GPU_SHARE = 0.75  # of a GPU's memory JAX takes so much unless told otherwise


@dataclasses.dataclass(frozen=True)
class Chip:
    """One accelerator.

    Attributes:
      name: as `dmphn plan --devices` spells it.
      label: for people.
      platform: "tpu" or "cuda".
      memory: bytes of device memory that a program may fill: of a TPU the compiler's own limit
        where it has been seen, else the published size; of a GPU the part of the published size
        that JAX takes unless `XLA_PYTHON_CLIENT_MEM_FRACTION` says otherwise.
      bandwidth: of that memory, bytes/s.
      peak: dense matrix operations per second by compute dtype.
      link: bytes/s that a chip sends to and takes from the others of its slice, a GPU from those of
        its host, both ways summed.
      network: the same between hosts, for each chip; None where slices have no hosts between.
      clock: Hz that the compiler's cycles are counted in; None where it is not known.
      chips_per_host: of a whole host.
      source: where the figures come from.
      kind: what JAX calls it, `jax.Device.device_kind`; of TPUs as libtpu 0.0.42 does.
    """

    name: str
    label: str
    platform: str
    memory: int
    bandwidth: float
    peak: dict[str, float]
    link: float
    clock: float | None
    chips_per_host: int
    source: str
    kind: str
    network: float | None = None


def _tpu(
    name: str, label: str, kind: str, memory: float, bandwidth: float, peak: float,
    link: float, clock: float | None,
) -> Chip:  # fmt: skip
    # A float32 product of full precision is six bfloat16 passes through the same units.
    return Chip(
        name=name,
        label=label,
        platform="tpu",
        memory=int(memory * _GIB),
        bandwidth=bandwidth * _GB,
        peak={"bfloat16": peak * 1e12, **dict.fromkeys(("float32", "tf32"), peak * 1e12 / 6)},
        link=link * _GB,
        clock=clock and clock * 1e9,
        chips_per_host=4,
        source="Cloud TPU documentation, system architecture; clock: peak operations over those "
        "of the chip's matrix units in a cycle",
        kind=kind,
    )


def _gpu(name: str, label: str, kind: str, memory: float, bandwidth: float) -> Chip:
    return Chip(
        name=name,
        label=label,
        platform="cuda",
        memory=int(GPU_SHARE * memory * _GB),
        bandwidth=bandwidth * _GB,
        peak={"bfloat16": 989e12, "float16": 989e12, "tf32": 494e12, "float32": 67e12},
        link=900 * _GB,
        clock=None,
        chips_per_host=8,
        source="NVIDIA's data sheet, dense operations; between hosts one link of 400 Gbit/s a GPU",
        kind=kind,
        network=100 * _GB,
    )


CHIPS: dict[str, Chip] = {
    chip.name: chip
    for chip in (
        _tpu("v4", "TPU v4", "TPU v4", 32, 1228, 275, 300, 1.05),
        _tpu("v5e", "TPU v5e", "TPU v5 lite", 15.75, 819, 197, 400, 1.5),
        _tpu("v5p", "TPU v5p", "TPU v5", 95, 2765, 459, 1200, 1.75),
        _tpu("v6e", "TPU v6e", "TPU v6 lite", 31.25, 1640, 918, 800, 1.75),
        _tpu("tpu7x", "TPU7x", "TPU7x", 192, 7380, 2307, 1200, None),
        _gpu("h100", "NVIDIA H100 SXM", "NVIDIA H100 80GB HBM3", 80, 3350),
        _gpu("h200", "NVIDIA H200", "NVIDIA H200", 141, 4800),
    )
}


def of_kind(device_kind: str) -> Chip | None:
    """Returns the chip that JAX calls so; None for one that is not known, and for CPUs."""
    return next((chip for chip in CHIPS.values() if device_kind == chip.kind), None)
