"""Accelerators by name: their published figures, and the slices they come in. No jax."""

from __future__ import annotations

import dataclasses
import math
import re

from dmphn_jax.errors import UserError, nearest

_GB, _GIB = 10**9, 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One accelerator.

    Attributes:
      name: as `--devices` spells it.
      label: for people.
      platform: "tpu" or "cuda".
      memory: bytes of device memory that a program may fill: of a TPU the compiler's own limit
        where it has been seen, else the published size; of a GPU the published size, of which JAX
        takes `default_share` unless told otherwise (`XLA_PYTHON_CLIENT_MEM_FRACTION`).
      default_share: see `memory`.
      bandwidth: of that memory, bytes/s.
      peak: dense matrix operations per second by compute dtype.
      link: bytes/s that a chip sends to and takes from the others of its slice, both ways summed.
      clock: Hz that the compiler's cycles are counted in; None where it is not known.
      chips_per_host: of a whole host.
      source: where the figures come from.
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
    default_share: float = 1.0


def _tpu(
    name: str, label: str, memory: float, bandwidth: float, peak: float, link: float,
    clock: float | None,
) -> Chip:  # fmt: skip
    # A float32 product of full precision is six bfloat16 passes through the same units.
    return Chip(
        name=name,
        label=label,
        platform="tpu",
        memory=int(memory * _GIB),
        bandwidth=bandwidth * _GB,
        peak={"bfloat16": peak * 1e12, "float32": peak * 1e12 / 6},
        link=link * _GB,
        clock=clock and clock * 1e9,
        chips_per_host=4,
        source="Cloud TPU documentation, system architecture; clock: peak operations over those "
        "of the chip's matrix units in a cycle",
    )


def _gpu(name: str, label: str, memory: float, bandwidth: float) -> Chip:
    # float32 here is full float32, as the programs ask for it: not TF32.
    return Chip(
        name=name,
        label=label,
        platform="cuda",
        memory=int(memory * _GB),
        bandwidth=bandwidth * _GB,
        peak={"bfloat16": 989e12, "float16": 989e12, "float32": 67e12},
        link=900 * _GB,
        clock=None,
        chips_per_host=8,
        source="NVIDIA's data sheet, dense operations",
        default_share=0.75,
    )


CHIPS: dict[str, Chip] = {
    chip.name: chip
    for chip in (
        _tpu("v4", "TPU v4", 32, 1228, 275, 300, 1.05),
        _tpu("v5e", "TPU v5e", 15.75, 819, 197, 400, 1.5),
        _tpu("v5p", "TPU v5p", 95, 2765, 459, 1200, 1.75),
        _tpu("v6e", "TPU v6e", 31.25, 1640, 918, 800, 1.75),
        _tpu("tpu7x", "TPU7x", 192, 7380, 2307, 1200, None),
        _gpu("h100", "NVIDIA H100 SXM", 80, 3350),
        _gpu("h200", "NVIDIA H200", 141, 4800),
    )
}

_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16")
# The slices each family comes in, by the documentation. Others may exist: the compiler judges.
SLICES: dict[str, tuple[str, ...]] = {
    "v4": _CUBES,
    "v5e": _FLAT,
    "v5p": _CUBES,
    "v6e": _FLAT,
    "tpu7x": _CUBES,
}


@dataclasses.dataclass(frozen=True)
class Machine:
    """Chips of one kind that train or deblur together.

    Attributes:
      chip: of what kind.
      topology: of a TPU its slice, such as "4x4"; of GPUs their number.
      chips: how many.
    """

    chip: Chip
    topology: str
    chips: int

    @property
    def name(self) -> str:
        """As `--devices` spells it."""
        return f"{self.chip.name}:{self.topology}"

    @property
    def hosts(self) -> int:
        """Machines with a process of their own."""
        return -(-self.chips // self.chip.chips_per_host)


def parse(text: str) -> Machine:
    """Returns the machine that `--devices` names: "v5e:4x4", "h100:8"; alone, one chip's or host's.

    Raises UserError with the nearest name for a chip, or a topology, that there is not.
    """
    family, _, topology = text.strip().lower().partition(":")
    if family not in CHIPS:
        raise UserError(
            f"--devices {text}: no chip is called {family!r}{nearest(family, CHIPS)}: one of "
            f"{', '.join(CHIPS)}"
        )
    chip = CHIPS[family]
    if chip.platform == "cuda":
        count = topology or "1"
        whole = count.isdecimal() and 0 < int(count) <= 4096
        if not whole or (int(count) > 8 and int(count) % 8):
            raise UserError(f"--devices {text}: a number of GPUs, 1 to 8 or whole hosts of 8")
        return Machine(chip, str(int(count)), int(count))
    topology = topology or ("2x2x1" if "x" in SLICES[family][0][3:] else "2x2")
    shape = re.fullmatch(r"\d{1,3}(x\d{1,3}){1,2}", topology)
    sides = [int(side) for side in topology.split("x")] if shape else []
    if len(sides) != SLICES[family][0].count("x") + 1 or 0 in sides:
        raise UserError(f"--devices {text}: no slice of {chip.label}{_like(family, sides)}")
    return Machine(chip, topology, math.prod(sides))


def unknown_topology(machine: Machine) -> UserError:
    """Returns the error for a slice that the compiler does not take."""
    sides = [int(side) for side in machine.topology.split("x")]
    return UserError(
        f"--devices {machine.name}: no slice of {machine.chip.label}"
        f"{_like(machine.chip.name, sides)}"
    )


def _like(family: str, sides: list[int]) -> str:
    """Returns the hint at the slice with the nearest number of chips."""
    known = SLICES[family]
    chips = {name: math.prod(int(side) for side in name.split("x")) for name in known}
    wanted = math.prod(sides) or 1
    close = min(known, key=lambda name: abs(math.log(chips[name] / wanted)))
    return f" (did you mean {family}:{close}?): {', '.join(known)}"
