"""What a plan says: the compiler's figures beside the bounds, and what a run would take."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from dmphn_jax.chips import GPU_SHARE
from dmphn_jax.planning.machines import Machine
from dmphn_jax.planning.request import Compiled, Exchange, Listed, Memory

NOTHING_RAN = (
    "Nothing was executed: these are figures of the compiler, estimates and bounds, "
    "not measurements."
)


@dataclasses.dataclass(frozen=True)
class Run:
    """A training run: steps to the config's end, pairs of an epoch, and crops' side in pixels."""

    steps: int
    epochs: float
    crop_size: int


@dataclasses.dataclass(frozen=True)
class Plan:
    """A compiled program on a machine, and what follows from it.

    Attributes:
      what: the model's name here.
      machine, compiled: of what and where.
      size: (height, width) of a crop or an image.
      run: None for inference.
      price: of a chip for an hour; None where none was given.
      note: a line on what was planned in place of what was asked for; "" if nothing.
    """

    what: str
    machine: Machine
    compiled: Compiled
    size: tuple[int, int]
    run: Run | None
    price: float | None
    note: str = ""

    @property
    def estimate(self) -> float | None:
        """Seconds of a step or call by the compiler's cycles; None where it has none."""
        cycles, clock = self.compiled.cycles, self.machine.chip.clock
        return cycles / clock if cycles and clock else None

    @property
    def bounds(self) -> dict[str, float]:
        """Seconds that a step or call cannot fall below, by what would set them."""
        chip, compiled = self.machine.chip, self.compiled
        share = self.machine.chips / compiled.devices  # of a chip that holds two devices
        found = {
            "arithmetic": compiled.model_operations / share / chip.peak[compiled.precision],
            "memory": compiled.bytes / share / chip.bandwidth,
        }
        turned = sum(item.turned for item in compiled.exchanges)
        if self.machine.chips > 1 and turned:
            found["exchange"] = turned / chip.link
            if chip.network and self.machine.hosts > 1:
                # Summed within a host first, so a chip takes its share alone across hosts.
                found["network"] = turned / chip.chips_per_host / chip.network
        return found

    @property
    def seconds(self) -> float:
        """Of a step or call: the estimate where there is one, else the highest bound."""
        return self.estimate or max(self.bounds.values())

    @property
    def hours(self) -> float | None:
        """Of the whole run at `seconds`; None for inference."""
        return self.run and self.run.steps * self.seconds / 3600

    @property
    def cost(self) -> float | None:
        """Of the whole run at `price`; None where one of them is not known."""
        if self.hours is None or self.price is None:
            return None
        return self.hours * self.machine.chips * self.price

    def to_dict(self) -> dict[str, Any]:
        """Returns everything as plain JSON values; docs/plan.md tells the keys."""
        chip, compiled, run = self.machine.chip, self.compiled, self.run
        fields = dataclasses.asdict(compiled)
        del fields["text"]
        fields["compiler_devices"] = fields.pop("devices")
        memory = fields.pop("memory")
        if compiled.memory:
            memory["sum"] = compiled.memory.total
        return {
            "format": 1,
            "executed": False,
            "model": self.what,
            "program": "training step" if run else "inference",
            "devices": self.machine.name,
            "chip": chip.label,
            "chips": self.machine.chips,
            "size": list(self.size),
            "fits": compiled.fits,
            "memory_per_chip": memory,
            **fields,
            "clock_hz": chip.clock,
            "estimated_seconds": self.estimate,
            "bounds_seconds": self.bounds if compiled.memory else None,
            "peak": {
                "operations_per_second": chip.peak[compiled.precision],
                "bytes_per_second": chip.bandwidth,
                "link_bytes_per_second": chip.link,
                "source": chip.source,
            },
            "steps": run and run.steps,
            "hours": self.hours if compiled.memory else None,
            "price_per_chip_hour": self.price,
            "cost": self.cost if compiled.memory else None,
            "note": self.note,
        }


def by_kind(exchanges: Sequence[Exchange]) -> list[tuple[str, int, int]]:
    """Returns (kind, how often, bytes in all) of exchanges, in the order of their first ones."""
    found: dict[str, tuple[int, int]] = {}
    for item in exchanges:
        times, size = found.get(item.kind, (0, 0))
        found[item.kind] = times + item.times, size + item.times * item.bytes
    return [(kind, *sums) for kind, sums in found.items()]


def text(plan: Plan) -> str:
    """Returns the plan for people."""
    machine, compiled = plan.machine, plan.compiled
    height, width = plan.size
    each = compiled.batch / machine.chips
    if plan.run:
        what = f"training step of {compiled.batch} crops of {height}x{width} ({each:g} a chip)"
    else:
        what = f"inference, {compiled.batch} image{'s' * (compiled.batch > 1)} of {width}x{height}"
    lines = [
        f"{plan.what}: {what}, {compiled.precision}, layout {compiled.layout}"
        + (", activations recomputed" if compiled.remat else ""),
        f"machine         {machine.name}: {machine.chips} x {machine.chip.label}, "
        f"{compiled.hosts} host{'s' * (compiled.hosts > 1)}; compiled in {compiled.seconds:.0f} s",
    ]
    if plan.note:
        lines.insert(1, plan.note)
    if compiled.memory is None:
        needed = f"{compiled.needed / 1e9:.2f} GB" if compiled.needed else "more"
        lines.append(
            f"memory          does not fit: takes {needed} of "
            f"{machine.chip.memory / 1e9:.2f} GB; the compiler gave up"
        )
        return "\n".join([*lines, NOTHING_RAN])
    lines += [*_memory_lines(compiled.memory, machine), *_work_lines(plan), *_run_lines(plan)]
    lines += _listing("dearest operations", compiled.dearest)
    lines += _listing("copies, transposes, conversions at full resolution", compiled.moved)
    return "\n".join([*lines, f"peak figures    {machine.chip.source}", NOTHING_RAN])


def _memory_lines(memory: Memory, machine: Machine) -> list[str]:
    parts = [
        (name, getattr(memory, name))
        for name in ("parameters", "optimiser", "average", "resident", "other", "temporaries")
    ]
    said = ", ".join(f"{name} {_megabytes(size)}" for name, size in parts if size)
    verdict = "fits" if memory.total <= memory.limit else "DOES NOT FIT"
    share = memory.total / memory.limit
    taken = f"the {GPU_SHARE:.0%} of a GPU that JAX takes, " if machine.chip.network else ""
    return [
        f"memory, a chip  {said}, program {_megabytes(memory.program)}",
        f"                sum {memory.total / 1e9:.2f} GB of {memory.limit / 1e9:.2f} GB "
        f"({taken}{share:.0%}): {verdict}",
    ]


def _work_lines(plan: Plan) -> list[str]:
    compiled = plan.compiled
    unit = "step" if plan.run else "call"
    exchanges = ", ".join(
        f"{times} {kind} of {_megabytes(size)}{' in all' if times > 1 else ''}"
        for kind, times, size in by_kind(compiled.exchanges)
    )
    done = "" if compiled.operations is None else f"{compiled.operations / 1e12:.3g}e12 for "
    lines = [
        f"{unit}, a device  collectives: {exchanges or 'none'}",
        f"                operations {done}{compiled.model_operations / 1e12:.3g}e12 "
        "of the network's convolutions, "
        f"memory traffic {compiled.bytes / 1e9:.2f} GB",
        f"                {_moves(plan)}",
    ]
    if compiled.cycles is None:
        lines.append(
            f"                written by convolutions {_megabytes(compiled.convolution_bytes)}, by "
            f"all else {_megabytes(compiled.other_bytes)}"
        )
    else:
        at = ""
        if plan.estimate is not None:
            at = f" = {_milliseconds(plan.estimate)} at {plan.machine.chip.clock / 1e9:g} GHz"
        lines.append(f"estimated       {compiled.cycles / 1e6:.1f} Mcycles{at}")
    bounds = ", ".join(f"{name} {_milliseconds(value)}" for name, value in plan.bounds.items())
    return [*lines, f"bounds          {bounds}"]


def _moves(plan: Plan) -> str:
    compiled = plan.compiled

    def cost(cycles: int) -> str:
        return "" if compiled.cycles is None else f" ({cycles / 1e6:.1f} Mcycles)"

    return (
        f"operations that only move or convert: {compiled.moves} of full-resolution features"
        f"{cost(compiled.moves_cycles)}, {compiled.all_moves:,} in all"
        f"{cost(compiled.all_moves_cycles)}"
    )


def _run_lines(plan: Plan) -> list[str]:
    if plan.run is None:
        rate = plan.compiled.batch / plan.seconds
        kind = "" if plan.estimate else "at most "
        return [f"rate            {kind}{rate:,.1f} images/s"]
    kind = "" if plan.estimate else "at least "
    cost = "" if plan.cost is None else f", {plan.cost:,.2f} at {plan.price:g} a chip hour"
    return [
        f"the run         {plan.run.steps:,} steps ({plan.run.epochs:,.0f} epochs): "
        f"{kind}{plan.hours:,.1f} h, {plan.hours * plan.machine.chips:,.0f} chip hours{cost}; "
        "evaluations, checkpoints and the host not counted"
    ]


def _listing(title: str, listed: tuple[Listed, ...]) -> list[str]:
    if not listed:
        return []
    lines = [f"{title}:"]
    for item in listed:
        cost = f"{item.bytes / 1e6:9.2f} MB" if item.cycles is None else f"{item.cycles:11,} cycles"
        lines.append(f"  {cost}  {item.opcode:<12} {item.shape}  {item.where}")
    return lines


def _megabytes(size: float) -> str:
    return f"{size / 1e6:,.1f} MB"


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms" if seconds < 1 else f"{1e3 * seconds:,.0f} ms"
