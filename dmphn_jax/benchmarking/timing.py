"""Timing by the wall clock: warmed up, synchronised, the competitors of a group in turn."""

from __future__ import annotations

import dataclasses
import gc
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

LEAST_ROUNDS = 3  # taken however long they are: a quantile of fewer says little


@dataclasses.dataclass(frozen=True)
class Case:
    """Something to time.

    Attributes:
      name: for people.
      start: begins one piece of work; may return before it is done.
      wait: takes what `start` returned and returns once it, and all started before it, is done.
    """

    name: str
    start: Callable[[], Any]
    wait: Callable[[Any], Any]

    def run(self) -> None:
        """Does one piece of work and waits for it."""
        self.wait(self.start())


@dataclasses.dataclass(frozen=True)
class Times:
    """Milliseconds of one case.

    Attributes:
      single: of every synchronised piece of work, in order.
      queued: per piece, of every row of pieces started one after another and awaited together;
        empty where none was taken.
    """

    single: tuple[float, ...]
    queued: tuple[float, ...] = ()

    def quantile(self, q: float) -> float:
        """Returns the q-quantile of `single`, between two values by their distance."""
        return float(np.quantile(self.single, q))

    @property
    def throughput_ms(self) -> float:
        """Median milliseconds per piece when work is queued; of single pieces where it is not."""
        return float(np.median(self.queued or self.single))

    def to_dict(self) -> dict[str, Any]:
        """Returns the summary and the single times as plain JSON values."""
        return {
            "rounds": len(self.single),
            "p50_ms": self.quantile(0.5),
            "p90_ms": self.quantile(0.9),
            "mean_ms": float(np.mean(self.single)),
            "min_ms": min(self.single),
            "throughput_ms": self.throughput_ms,
            "times_ms": list(self.single),
        }


def queue_for(device: Any) -> int:
    """Returns how many pieces of work to queue on a JAX device to measure its throughput."""
    return 1 if device.platform == "cpu" else 5


def measure(
    cases: Sequence[Case],
    *,
    warmup: int = 2,
    rounds: int = 20,
    seconds: float = 60.0,
    queue: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Times]:
    """Times cases against each other.

    Each is run `warmup` times; then every round runs each of them once, in turn, so that what
    drifts on the machine (clock rate, heat, neighbours) meets all alike. Only one runs at a time.

    Args:
      cases: the competitors.
      warmup: untimed runs of each.
      rounds: timed runs of each, at most.
      seconds: for the whole group: no round begins after it, but the first `LEAST_ROUNDS`.
      queue: where above 1, each round also times so many pieces of each case, started without
        waiting in between: on an accelerator the host's share of the work hides behind the
        device's. A CPU has nothing to hide behind.
      clock: seconds.

    Returns:
      The times of each case, in the order of `cases`.
    """
    begun = clock()
    for case in cases:
        for _ in range(warmup):
            case.run()
    single: list[list[float]] = [[] for _ in cases]
    queued: list[list[float]] = [[] for _ in cases]
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()  # as timeit does: a collection would fall on whoever runs
    try:
        for done in range(rounds):
            if done >= LEAST_ROUNDS and clock() - begun >= seconds:
                break
            for i, case in enumerate(cases):
                single[i].append(_milliseconds(case, 1, clock))
                if queue > 1:
                    queued[i].append(_milliseconds(case, queue, clock) / queue)
    finally:
        if enabled:
            gc.enable()
    return [Times(tuple(a), tuple(b)) for a, b in zip(single, queued, strict=True)]


def _milliseconds(case: Case, count: int, clock: Callable[[], float]) -> float:
    begun = clock()
    for _ in range(count):
        pending = case.start()
    case.wait(pending)
    return 1000 * (clock() - begun)


class Stolen:
    """Counts what share of the processors' time a virtual machine's host gave to other guests.

    Where it is not small, times are longer than the machine's own, and ratios less certain.
    """

    def __init__(self) -> None:
        self._begun = _processor_time()

    def share(self) -> float | None:
        """Returns the share since the beginning, 0 to 1; None where the system does not tell."""
        now = _processor_time()
        if self._begun is None or now is None or now[1] <= self._begun[1]:
            return None
        return (now[0] - self._begun[0]) / (now[1] - self._begun[1])


def _processor_time() -> tuple[int, int] | None:
    """Returns (stolen, busy or stolen) clock ticks of all processors since the start (Linux)."""
    try:
        line = Path("/proc/stat").read_text().splitlines()[0]
        user, nice, system, _, _, irq, softirq, steal = map(int, line.split()[1:9])
    except (OSError, ValueError, IndexError):
        return None
    return steal, user + nice + system + irq + softirq + steal
