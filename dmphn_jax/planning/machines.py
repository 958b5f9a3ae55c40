"""Machines by name: the slices and hosts that accelerators come in. No jax."""

from __future__ import annotations

import dataclasses
import math
import re

from dmphn_jax.chips import CHIPS, Chip
from dmphn_jax.errors import UserError, nearest

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


# Slices of eight chips on one machine, where larger ones have machines of four.
_ONE_HOST = {("v5e", "2x4"), ("v6e", "2x4")}


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
        if (self.chip.name, self.topology) in _ONE_HOST:
            return 1
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
    cubes = SLICES[family] is _CUBES
    topology = topology or ("2x2x1" if cubes else "2x2")
    shape = re.fullmatch(r"\d{1,3}(x\d{1,3}){1,2}", topology)
    sides = [int(side) for side in topology.split("x")] if shape else []
    if len(sides) != (3 if cubes else 2) or 0 in sides:
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
