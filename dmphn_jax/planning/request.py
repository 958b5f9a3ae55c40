"""What is asked of the planner, and what it answers: plain data that crosses to its process."""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Request:
    """A program and a machine.

    Attributes:
      machine: as `--devices` spells it.
      config: path of an experiment, as of `--config`; "" for inference.
      overrides: flags on its fields, such as "--config.crop_size=128".
      model: a name of the zoo, for inference; "" for training.
      size: (height, width) of the images, for inference.
      batch: pairs per step or images per call over all devices; 0: the config's, or one image a
        device; -1: as many as fit.
      precision: compute dtype; "": the config's, or float32 for inference as `dmphn deblur` has it.
      layout: formulation of the convolutions; "": the config's, or the platform's default.
      remat: recompute activations; None: the config's.
      split_rows: one image by rows over all devices, for inference.
      pairs: of the training set; 0: what the config's source is known to hold.
      explain: how many operations to list.
      text: whether to return the optimised program.
    """

    machine: str
    config: str = ""
    overrides: tuple[str, ...] = ()
    model: str = ""
    size: tuple[int, int] = (720, 1280)
    batch: int = 0
    precision: str = ""
    layout: str = ""
    remat: bool | None = None
    split_rows: bool = False
    pairs: int = 0
    explain: int = 0
    text: bool = False

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Request:
        """Inverse of `dataclasses.asdict` after a way through JSON."""
        return cls(
            **fields | {"overrides": tuple(fields["overrides"]), "size": tuple(fields["size"])}
        )


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on one chip.

    Attributes:
      parameters, optimiser, average: of the training state (`average`: the moving one).
      resident: the training set's share.
      other: batches and results, and what the device's tiles pad all arguments with.
      temporaries: what the program takes while it runs.
      program: its code.
      limit: what the chip holds.
    """

    parameters: int
    optimiser: int
    average: int
    resident: int
    other: int
    temporaries: int
    program: int
    limit: int

    @property
    def total(self) -> int:
        """Of all, without the limit."""
        return sum(dataclasses.astuple(self)) - self.limit


@dataclasses.dataclass(frozen=True)
class Exchange:
    """A collective of one step.

    Attributes:
      kind: such as "all-reduce".
      bytes: of its result on a device.
      group: devices that take part together.
      times: how often it runs.
    """

    kind: str
    bytes: int
    group: int
    times: int

    @property
    def turned(self) -> float:
        """Bytes that a device sends and takes in all, by the best algorithm: those of a ring."""
        others = (self.group - 1) / self.group
        factor = {"all-reduce": 4 * others, "reduce-scatter": 2 * (self.group - 1)}
        factor |= {"collective-permute": 2.0}
        return self.times * self.bytes * factor.get(self.kind, 2 * others)


@dataclasses.dataclass(frozen=True)
class Listed:
    """An operation worth a look: see `hlo.Operation`; cycles and bytes are of all its runs."""

    where: str
    opcode: str
    shape: str
    cycles: int | None
    bytes: int


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What the compiler told of one program, per step or call; memory per chip, else per device.

    Attributes:
      batch: over all chips.
      devices: of the compiler; a chip may hold two.
      memory: None where the program does not fit and the compiler gave up; `needed` is then what
        it says that the program takes, 0 where it does not say.
      exchanges: collectives.
      operations: as compiled, by XLA's own analysis; None where it gives none.
      bytes: read from and written to the device's memory: the sum of `hlo.Operation.traffic`.
      model_operations: of the network's convolutions, the layout's waste left out.
      cycles: estimated; None where the compiler has no estimate.
      moves, moves_cycles: operations on full-resolution features that only move or convert, their
        cycles; all_moves, all_moves_cycles: on tensors of any size, images and kernels included.
      convolution_bytes, other_bytes: written by the convolutions, and by everything else.
      seconds: that compiling took.
      precision, layout, remat: what they were, after defaults.
      dearest, moved: with `Request.explain`.
      text: with `Request.text`.
    """

    batch: int
    devices: int
    hosts: int
    memory: Memory | None
    needed: int
    exchanges: tuple[Exchange, ...]
    operations: float | None
    model_operations: float
    bytes: float
    cycles: int | None
    moves: int
    moves_cycles: int
    all_moves: int
    all_moves_cycles: int
    convolution_bytes: int
    other_bytes: int
    seconds: float
    precision: str
    layout: str
    remat: bool
    dearest: tuple[Listed, ...] = ()
    moved: tuple[Listed, ...] = ()
    text: str = ""

    @property
    def fits(self) -> bool:
        """Whether the chip holds it."""
        return self.memory is not None and self.memory.total <= self.memory.limit

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Compiled:
        """Inverse of `dataclasses.asdict` after a way through JSON."""
        fields = dict(fields)
        memory = fields["memory"]
        fields["memory"] = None if memory is None else Memory(**memory)
        fields["exchanges"] = tuple(Exchange(**item) for item in fields["exchanges"])
        for name in ("dearest", "moved"):
            fields[name] = tuple(Listed(**item) for item in fields[name])
        return cls(**fields)
