"""The planner's process: takes a `Request` on stdin, writes what it found to stdout, a JSON a line.

It stands alone since a TPU's compiler must not meet a JAX that has begun to compute, and since it
may die of what it is given. `planning.run` starts it.
"""

from __future__ import annotations

import dataclasses
import importlib.resources
import json
import re
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh

from dmphn_jax.errors import UserError, one_line, out_of_memory
from dmphn_jax.planning import experiments, hlo, machines, programs
from dmphn_jax.planning.machines import Machine
from dmphn_jax.planning.request import Compiled, Exchange, Listed, Memory, Request
from dmphn_jax.runtime import cache_compilations

_MOST = 4096  # pairs or images per chip that `max` looks at


def main() -> None:
    """Answers one request: lines {"progress"}, then {"found": [...]} or {"error"}."""
    request = Request.from_dict(json.loads(sys.stdin.read()))
    try:
        found = answer(request, lambda text: _say(progress=text))
    except UserError as error:
        _say(error=one_line(error))
    else:
        _say(found=[dataclasses.asdict(item) for item in found])


def answer(request: Request, progress: Callable[[str], None]) -> list[Compiled]:
    """Returns the program of the request's batch; of the largest that fits, all that were tried.

    With batch -1 the last item is the largest that fits, unless none does.
    """
    machine = machines.parse(request.machine)
    mesh = mesh_of(machine)
    cache_compilations()

    def attempt(local: int) -> Compiled:
        progress(f"{local * mesh.size} {'pairs' if request.config else 'images'}, {local} a device")
        return compile_for(request, machine, mesh, local * mesh.size)

    if request.split_rows:
        progress(f"1 image over {mesh.size} devices")
        return [compile_for(request, machine, mesh, 1)]
    if request.batch >= 0:
        return [attempt(local_batch(request, mesh))]
    return largest(attempt)


def largest(attempt: Callable[[int], Compiled]) -> list[Compiled]:
    """Returns all attempts at ever better guesses, the largest batch that fits at the end.

    Memory grows nearly in line with the batch, so two programs that fit tell about where the end
    is: far fewer compilations than halving takes.
    """
    tried = {1: attempt(1)}
    if not tried[1].fits:
        return [tried[1]]
    good, bad = 1, _MOST + 1
    while bad - good > 1:
        guess = _guess([(n, item) for n, item in sorted(tried.items()) if item.fits], good, bad)
        tried[guess] = attempt(guess)
        good, bad = (guess, bad) if tried[guess].fits else (good, guess)
    return [*(item for n, item in tried.items() if n != good), tried[good]]


def _guess(fitting: list[tuple[int, Compiled]], good: int, bad: int) -> int:
    if len(fitting) < 2:
        return min(2, bad - 1) if good == 1 else (good + bad) // 2
    (n0, first), (n1, last) = fitting[-2:]
    slope = (last.memory.total - first.memory.total) / (n1 - n0)
    if slope <= 0:
        return min(2 * good, (good + bad) // 2)
    estimate = n1 + int((last.memory.limit - last.memory.total) / slope)
    # Beyond the next power of two a line through small programs says little.
    return max(good + 1, min(estimate, bad - 1, 4 * good))


def mesh_of(machine: Machine) -> Mesh:
    """Returns the mesh of a machine's devices along `data`; raises UserError if there is none."""
    try:
        devices = _topology(machine).devices
    except UserError:
        raise
    except Exception as error:  # of libtpu or XLA, which have no type for it
        text = one_line(error)
        if machine.chip.platform == "tpu" and re.search("divisible|topology|external name", text):
            raise machines.unknown_topology(machine) from None
        raise UserError(f"--devices {machine.name}: the compiler says: {text[:300]}") from None
    return Mesh(np.asarray(devices), ("data",), axis_types=(AxisType.Auto,))


def _topology(machine: Machine) -> Any:
    if machine.chip.platform == "tpu":
        options = {"chips_per_host_bounds": (1, 1, 1)} if machine.topology == "1x1" else {}
        return topologies.get_topology_desc(topology_name=machine.name, platform="tpu", **options)
    target = importlib.resources.files("dmphn_jax.planning") / f"targets/{machine.chip.name}.txtpb"
    per_host = min(machine.chips, machine.chip.chips_per_host)
    return topologies.get_topology_desc(
        topology_name=machine.chip.name,
        platform="cuda",
        topology=f"1x{machine.hosts}x{per_host}",
        target_config=target.read_text(),
    )


def local_batch(request: Request, mesh: Mesh) -> int:
    """Returns the batch on a device; raises UserError if the devices cannot share it evenly."""
    asked = request.batch
    if not asked:
        if not request.config:
            return 1
        asked = experiments.config_of(request).batch_size
        return -(-asked // mesh.size)
    if asked % mesh.size:
        fitting = -(-asked // mesh.size) * mesh.size
        raise UserError(
            f"--batch {asked}: is not shared evenly by {mesh.size} devices; take {fitting}"
        )
    return asked // mesh.size


def compile_for(request: Request, machine: Machine, mesh: Mesh, batch: int) -> Compiled:
    """Compiles one program and reads what the compiler tells of it."""
    lower = programs.training if request.config else programs.inference
    program = lower(request, machine, mesh, batch)
    begun = time.perf_counter()
    try:
        compiled, needed = program.lowered.compile(), 0
    except jax.errors.JaxRuntimeError as error:
        if not out_of_memory(error):
            raise
        compiled, needed = None, _needed(str(error))
    seconds = time.perf_counter() - begun
    settings = {
        "batch": batch,
        "devices": mesh.size,
        "hosts": machine.hosts,
        "model_operations": program.model_operations,
        "seconds": seconds,
        "precision": program.precision,
        "layout": program.layout,
        "remat": program.remat,
    }
    if compiled is None:
        nothing = {"exchanges": (), "operations": None, "bytes": 0.0, "cycles": None, "moves": 0}
        nothing |= dict.fromkeys(
            ("moves_cycles", "all_moves", "all_moves_cycles", "convolution_bytes", "other_bytes"), 0
        )
        return Compiled(memory=None, needed=needed, **settings, **nothing)
    return Compiled(
        memory=_memory(compiled, program, machine, mesh.size), needed=0, **settings,
        **_read(compiled, program, request, mesh.size),
    )  # fmt: skip


def _memory(compiled: Any, program: programs.Lowered, machine: Machine, devices: int) -> Memory:
    told = compiled.memory_analysis()
    parts = (program.parameters, program.optimiser, program.average, program.resident)
    arguments = told.argument_size_in_bytes + told.output_size_in_bytes - told.alias_size_in_bytes
    sizes = [*parts, arguments - sum(parts), told.temp_size_in_bytes]
    sizes += [told.generated_code_size_in_bytes]
    on_chip = devices // machine.chips  # the compiler tells of a device; a chip may hold two
    return Memory(*(on_chip * size for size in sizes), machine.chip.memory)


def _needed(message: str) -> int:
    """Returns the bytes that a program takes which does not fit; 0 where the compiler is silent."""
    used = re.search(r"Used ([\d.]+)([KMGT])", message)
    return int(float(used[1]) * 1024 ** " KMGT".index(used[2])) if used else 0


def _read(
    compiled: Any, program: programs.Lowered, request: Request, devices: int
) -> dict[str, Any]:
    text = compiled.as_text()
    found = hlo.operations(text, program.turns)
    turns = program.turns
    cost = compiled.cost_analysis() or {}
    cycles = hlo.cycles(found)
    moves = hlo.moving(found, program.full_resolution)
    all_moves = hlo.moving(found, 0)
    convolutions = [op for op in found if op.convolution]
    written = sum(op.bytes * op.times for op in convolutions)
    return {
        "exchanges": tuple(
            Exchange(*kind, times) for kind, times in _exchanges(found, turns, devices).items()
        ),
        "operations": cost.get("flops"),
        "bytes": sum(op.traffic * op.times for op in found) / turns,
        "cycles": None if cycles is None else cycles // turns,
        "moves": sum(op.times for op in moves) // turns,
        "moves_cycles": sum((op.cycles or 0) * op.times for op in moves) // turns,
        "all_moves": sum(op.times for op in all_moves) // turns,
        "all_moves_cycles": sum((op.cycles or 0) * op.times for op in all_moves) // turns,
        "convolution_bytes": written // turns,
        "other_bytes": (sum(op.bytes * op.times for op in found) - written) // turns,
        "dearest": tuple(_listed(op, turns) for op in hlo.dearest(found, request.explain)),
        "moved": tuple(_listed(op, turns) for op in moves) if request.explain else (),
        "text": text if request.text else "",
    }


def _exchanges(
    found: list[hlo.Operation], turns: int, devices: int
) -> Counter[tuple[str, int, int]]:
    """Returns how often a step exchanges, by kind, bytes and devices that take part."""
    counted: Counter[tuple[str, int, int]] = Counter()
    for op in hlo.collectives(found):
        kind = op.opcode.removesuffix("-start")
        counted[kind, op.bytes, op.group or devices] += -(-op.times // turns)
    return counted


def _listed(op: hlo.Operation, turns: int) -> Listed:
    shape = " ".join(f"{kind}[{','.join(map(str, sizes))}]" for kind, sizes in op.shapes[:2])
    cycles = None if op.cycles is None else op.cycles * op.times // turns
    return Listed(op.where or op.name, op.opcode, shape, cycles, op.bytes * op.times // turns)


def _say(**fields: Any) -> None:
    print(json.dumps(fields), flush=True)
