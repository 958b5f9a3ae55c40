"""Reading a compiler's optimised program: operations, cycles, collectives, what only moves data.

The text is XLA's own (`compiled.as_text()`). A computation that a loop runs is counted as often as
the loop turns; those that a fusion is made of are the fusion's, and not counted again.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import re
from collections.abc import Iterator

_BITS = {
    "pred": 8, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "s16": 16, "u16": 16, "bf16": 16, "f16": 16,
    "s32": 32, "u32": 32, "f32": 32, "s64": 64, "u64": 64, "f64": 64,
}  # fmt: skip
_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_LINE = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_ARRAY = re.compile(r"\b(pred|[suf]\d+|bf16)\[([\d,]*)\](\{[^}]*\})?")
_SPACE = re.compile(r"S\(\d+\)")  # of memory, in a layout: 1 is a TPU's own
_OPCODE = re.compile(r"^([a-z][\w\-]*)\(")
_COLLECTIVES = (
    "all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute",
)  # fmt: skip
# What computes nothing: such operations change a layout, a shape or a type, or copy.
MOVES = (
    "copy", "copy-start", "transpose", "convert", "pad", "slice", "reshape", "reverse",
    "concatenate",
)  # fmt: skip

Shapes = tuple[tuple[str, tuple[int, ...]], ...]


@dataclasses.dataclass(frozen=True)
class Operation:
    """One operation that the program runs.

    Attributes:
      name: in the program's text.
      opcode: such as "fusion", "copy", "all-reduce"; of a custom call its target.
      shapes: (dtype, dimensions) of every array of its result; none of what ends an asynchronous
        operation, whose start has them.
      bytes: of its result, without the padding of the device's tiles; of an update in place those
        of the part.
      read: bytes of its operands, without the padding of the device's tiles.
      traffic: bytes that it reads from and writes to the device's memory; what lies in a TPU's own
        memory is left out. Of a slice, a gather or an update in place only the part counts; other
        arrays count whole.
      times: how often it runs in one call of the program.
      cycles: the compiler's estimate for once; None where it has none.
      where: the model's own name, such as "stage_1/level_3/encoder/block_1/conv_1", with
        "gradient of " before it in a backward pass; JAX's name where no model is in it.
      moves: whether it computes nothing: a copy, or a fusion of what only moves. A prefetch, which
        brings a tensor as it lies into a TPU's own memory while others compute, is none.
      convolution: whether it is a convolution, or a fusion around one.
      group: of a collective, the devices that take part together; None where all do.
    """

    name: str
    opcode: str
    shapes: Shapes
    bytes: int
    read: int
    traffic: int
    times: int
    cycles: int | None
    where: str
    moves: bool
    convolution: bool
    group: int | None = None

    @property
    def elements(self) -> int:
        """Of the largest array of its result."""
        return max((math.prod(shape) for _, shape in self.shapes), default=0)


@dataclasses.dataclass(frozen=True)
class _Raw:
    name: str
    rest: str
    opcode: str
    shapes: Shapes
    layouts: tuple[str, ...]

    @functools.cached_property
    def operands(self) -> list[str]:
        return re.findall(r"%([\w.\-]+)", self.rest.partition(")")[0])

    def is_parameter(self, index: int) -> bool:
        return self.rest.startswith(f"parameter({index})")


def _size(shapes: Shapes) -> int:
    return sum(_BITS.get(kind, 32) * math.prod(shape) // 8 for kind, shape in shapes)


def operations(text: str, turns: int = 1) -> list[Operation]:
    """Returns the operations of an optimised program in its order, with how often they run.

    Args:
      text: of the optimised program.
      turns: of a loop that does not tell how often it turns.
    """
    computations, entry = _computations(text)
    found: list[Operation] = []
    _collect(entry, 1, computations, turns, found)
    return found


def cycles(found: list[Operation]) -> int | None:
    """Returns the estimated cycles of one call; None where the compiler estimates none."""
    known = [op.cycles * op.times for op in found if op.cycles is not None]
    return sum(known) if known else None


def collectives(found: list[Operation]) -> list[Operation]:
    """Returns the operations by which chips exchange data; of asynchronous ones the start."""
    return [op for op in found if op.opcode.removesuffix("-start") in _COLLECTIVES]


def moving(found: list[Operation], elements: int) -> list[Operation]:
    """Returns those that only move or convert data, of results of so many elements and more.

    The dearest come first.
    """
    return dearest([op for op in found if op.moves and op.elements >= elements], len(found))


def dearest(found: list[Operation], count: int) -> list[Operation]:
    """Returns the operations with most estimated cycles; without estimates, with most bytes."""

    def cost(op: Operation) -> tuple[int, int]:
        return op.times * (op.cycles or 0), op.times * op.bytes

    return sorted(found, key=cost, reverse=True)[:count]


def _computations(text: str) -> tuple[dict[str, list[_Raw]], str]:
    computations: dict[str, list[_Raw]] = {}
    entry, current = "", None
    for line in text.splitlines():
        if head := _HEAD.match(line):
            current = computations.setdefault(head[2], [])
            if head[1]:
                entry = head[2]
        elif current is not None and (match := _LINE.match(line)):
            current.append(_parse(match[2], match[3]))
        elif line.startswith("}"):
            current = None
    return computations, entry


def _parse(name: str, rest: str) -> _Raw:
    if rest.startswith("("):  # a tuple: its end is the bracket that closes the first
        depths = itertools.accumulate((c == "(") - (c == ")") for c in rest)
        end = next(i for i, depth in enumerate(depths) if not depth) + 1
        kind, after = rest[:end], rest[end + 1 :]
    else:
        kind, _, after = rest.partition(" ")
    opcode = _OPCODE.match(after)
    arrays = _ARRAY.findall(kind)
    shapes = tuple(
        (dtype, tuple(int(n) for n in sizes.split(",") if n)) for dtype, sizes, _ in arrays
    )
    layouts = tuple(layout for *_, layout in arrays)
    return _Raw(name, after, opcode[1] if opcode else "", shapes, layouts)


def _collect(
    name: str, times: int, computations: dict[str, list[_Raw]], turns: int, found: list[Operation]
) -> None:
    lines = computations.get(name, [])
    by_name = {raw.name: raw for raw in lines}
    for raw in lines:
        for inner, factor in _called(raw, turns):
            _collect(inner, times * factor, computations, turns, found)
        if raw.opcode in _FREE:
            continue
        operands = [by_name.get(name) for name in raw.operands]
        found.append(_operation(raw, operands, times, computations))


def _results(raw: _Raw) -> Shapes:
    """Returns `Operation.shapes`; an asynchronous start's text has its operands as well."""
    if raw.opcode.endswith("-done"):
        return ()
    if raw.opcode not in _STARTS:
        return raw.shapes
    arrays = [shape for shape in raw.shapes if shape[1]]  # the others are the device's own
    half = len(arrays) // 2
    return tuple(arrays[:half] if raw.opcode == "copy-start" else arrays[half:])


# (target, source, ...) of a copy, (sources, targets, ...) of the others.
_STARTS = {"copy-start", "slice-start", "collective-permute-start", "all-gather-start"}
# What reads only as much of its first operand as it writes.
_PARTIAL = {"slice", "dynamic-slice", "gather"}


def _traffic(raw: _Raw, operands: list[_Raw | None], computations: dict[str, list[_Raw]]) -> int:
    """Returns `Operation.traffic`."""
    if raw.opcode.endswith("-done"):
        return 0
    if raw.opcode in _STARTS:
        sides = sum("S(1)" not in layout for layout in raw.layouts[:2])
        return sides * _size(_results(raw))
    lines = _inside(raw, computations) or [raw]
    written = min(_outside(raw), _updated(raw, operands, computations))
    read = 0
    for index, operand in enumerate(operands):
        if operand is not None:
            parts = _parts_read(index, raw, lines)
            whole = _outside(operand)
            read += whole if parts is None else min(whole, parts)
    return written + read


def _updated(raw: _Raw, operands: list[_Raw | None], computations: dict[str, list[_Raw]]) -> int:
    """Returns the bytes that an update in place writes; those of the result for all else."""
    lines = _inside(raw, computations) or [raw]
    if lines[-1].opcode != "dynamic-update-slice":
        return _size(raw.shapes)
    by_name = {line.name: line for line in lines}
    update = by_name.get(lines[-1].operands[1]) or _at(operands, 1)
    return _size((update or raw).shapes)


def _at(operands: list[_Raw | None], index: int) -> _Raw | None:
    return operands[index] if index < len(operands) else None


def _parts_read(index: int, raw: _Raw, lines: list[_Raw]) -> int | None:
    """Returns the bytes that are read of an operand of which only parts are; None if it is whole.

    Args:
      index: of the operand.
      raw: the operation.
      lines: what it is made of; itself if it is no fusion.
    """
    if lines == [raw]:
        names = {raw.operands[index]}
    else:
        names = {line.name for line in lines if line.is_parameter(index)}
    read = 0
    for line in lines:  # in the order in which they are computed
        used = [place for place, name in enumerate(line.operands) if name in names]
        if not used:
            continue
        if line.opcode in ("bitcast", "reshape") and line is not lines[-1]:
            names = names | {line.name}
        elif line.opcode in _PARTIAL and used == [0]:
            read += _size(line.shapes)
        elif line.opcode == "dynamic-update-slice" and used == [0] and line is lines[-1]:
            pass  # in place
        else:
            return None
    return read


def _outside(raw: _Raw) -> int:
    """Returns the bytes of a result that lie in the device's memory, not in a TPU's own."""
    return sum(
        _size((shape,))
        for shape, layout in zip(raw.shapes, raw.layouts, strict=True)
        if "S(1)" not in layout
    )


# They take no time of their own: what a loop or a branch runs is counted where it stands.
_FREE = {
    "", "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional",
    "call", "after-all", "partition-id", "iota",
}  # fmt: skip


def _called(raw: _Raw, turns: int) -> Iterator[tuple[str, int]]:
    """Yields the computations an operation runs as programs of their own, and how often."""
    if raw.opcode == "while":
        told = re.search(r'known_trip_count":\{"n":"(\d+)"', raw.rest)
        for role in ("body", "condition"):
            if match := re.search(rf"\b{role}=%?([\w.\-]+)", raw.rest):
                yield match[1], int(told[1]) if told else turns
    elif raw.opcode in ("conditional", "call", "async-start"):
        pattern = r"\b(?:to_apply|calls|branch_computations)=\{?((?:%?[\w.\-]+(?:, )?)+)"
        if match := re.search(pattern, raw.rest):
            for inner in match[1].split(", "):
                yield inner.lstrip("%"), 1


def _operation(
    raw: _Raw, operands: list[_Raw | None], times: int, computations: dict[str, list[_Raw]]
) -> Operation:
    estimate = re.search(r'"estimated_cycles":"(\d+)"', raw.rest)
    target = re.search(r'custom_call_target="([^"]+)"', raw.rest)
    label = re.search(r'op_name="([^"]*)"', raw.rest)
    parts = _fused(raw, computations)
    return Operation(
        name=raw.name,
        opcode=target[1] if target else raw.opcode,
        shapes=_results(raw),
        bytes=min(_size(_results(raw)), _updated(raw, operands, computations)),
        read=sum(_size(part.shapes) for part in operands if part),
        traffic=_traffic(raw, operands, computations),
        times=times,
        cycles=int(estimate[1]) if estimate else None,
        where=model_name(label[1]) if label else "",
        moves=all(part.opcode in MOVES for part in parts) and not _prefetch(raw),
        convolution=any(
            part.opcode == "convolution" or '"__cudnn$conv' in part.rest for part in parts
        ),
        group=_group(raw),
    )


def _group(raw: _Raw) -> int | None:
    """Returns `Operation.group`: of "{{0,1},{2,3}}" and of "[2,2]<=[4]" two."""
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", raw.rest):
        return listed[1].count(",") + 1
    counted = re.search(r"replica_groups=\[\d+,(\d+)\]", raw.rest)
    return int(counted[1]) if counted else None


def _prefetch(raw: _Raw) -> bool:
    """Tells whether an asynchronous copy changes the space of memory alone, or nothing."""
    if raw.opcode != "copy-start":
        return False
    (one, other), (here, there) = raw.shapes[:2], raw.layouts[:2]
    return one == other and _SPACE.sub("", here) == _SPACE.sub("", there)


def _fused(raw: _Raw, computations: dict[str, list[_Raw]]) -> list[_Raw]:
    """Returns what a fusion is made of, fusions in it opened; anything else alone."""
    lines = _inside(raw, computations)
    if not lines:
        return [raw]
    parts = [part for part in lines if part.opcode not in _FREE]
    return [part for outer in parts for part in _fused(outer, computations)]


def _inside(raw: _Raw, computations: dict[str, list[_Raw]]) -> list[_Raw]:
    """Returns the lines of a fusion's computation, its result last; none of anything else."""
    inner = re.search(r"\bcalls=%?([\w.\-]+)", raw.rest)
    return computations.get(inner[1], []) if raw.opcode == "fusion" and inner else []


_MODULE = re.compile(
    r"(?:stage|(?:ascending_|descending_)?level|scale|block|conv|up)_\d+(?:\.(?:encode|decode))?"
    r"|encoder|decoder|conv|shared(?:\.(?:encode|decode))?"
)


def model_name(op_name: str) -> str:
    """Returns the model's name in one of JAX's: stage, level, encoder or decoder, block.

    "jit(many)/while/body/shard_map/transpose(jvp(Stack))/stage_1/level_2.encode/encoder/conv_2/..."
    is "gradient of stage_1/level_2/encoder/conv_2".
    """
    parts = op_name.split("/")
    starts = [i for i, part in enumerate(parts) if re.fullmatch(r"stage_\d+", part)]
    if not starts:
        return op_name
    start = starts[-1]  # what is computed again may name itself twice
    named = filter(_MODULE.fullmatch, parts[start:])  # "checkpoint" may lie between
    backward = any("transpose(" in part for part in parts[:start])
    return ("gradient of " if backward else "") + "/".join(n.partition(".")[0] for n in named)
