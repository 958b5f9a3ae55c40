"""As many stages of a stack as a budget of time allows: the paper's point about stacks."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import numpy as np

from dmphn_jax.inference.buckets import Size
from dmphn_jax.inference.deblurrer import Deblurrer
from dmphn_jax.inference.pending import Pending

Measure = Callable[[Deblurrer, np.ndarray], float]


class Choice(NamedTuple):
    """How deep images of a size are computed.

    Attributes:
      size: (height, width) of the arrays measured, of all images that share a program.
      stages: chosen; 1 even where that takes longer than the budget.
      of: stages of the model.
      times: milliseconds of an image with 1, 2, ... stages, as far as was measured.
    """

    size: Size
    stages: int
    of: int
    times: tuple[float, ...]

    def __str__(self) -> str:
        height, width = self.size
        text = f"{width}x{height}: {self.stages} of {self.of} stages"
        text += f", {self.times[self.stages - 1]:.4g} ms"
        if len(self.times) > self.stages:
            text += f" ({self.stages + 1} take {self.times[self.stages]:.4g} ms)"
        return text


class WithinBudget:
    """Deblurs with the deepest part of a stack that a budget allows, measured for each size.

    Images of a size are measured at the first of them, stage by stage, until one takes too long.
    """

    def __init__(
        self,
        deblurrer: Deblurrer,
        budget_ms: float,
        *,
        on_choice: Callable[[Choice], None] = lambda choice: None,
        measure: Measure | None = None,
    ) -> None:
        """Takes the whole stack.

        Args:
          deblurrer: of all stages that may run.
          budget_ms: milliseconds of an image, from the host to the host.
          on_choice: is told of every size's.
          measure: returns the milliseconds of an image (1, H, W, 3); `milliseconds` by default.
        """
        self._deepest, self._budget_ms = deblurrer, budget_ms
        self._on_choice, self._measure = on_choice, measure or milliseconds
        self._cut = {deblurrer.stages: deblurrer}
        self._sizes: list[Size] = []
        self._chosen: dict[tuple[Size, np.dtype], Deblurrer] = {}

    @property
    def devices(self) -> tuple[jax.Device, ...]:
        """Those that compute."""
        return self._deepest.devices

    def compile_for(self, sizes: Iterable[Size]) -> None:
        """See `Deblurrer.compile_for`."""
        self._sizes = list(sizes)
        for deblurrer in self._cut.values():
            deblurrer.compile_for(self._sizes)

    def submit(self, images: np.ndarray) -> Pending:
        """See `Deblurrer.submit`; the first images of a size wait for its measurements."""
        images = np.asarray(images)
        key = self._deepest.array_size(images.shape[1:3]), images.dtype
        if key not in self._chosen:
            self._chosen[key] = self._choose(images[:1])
        return self._chosen[key].submit(images)

    def _choose(self, image: np.ndarray) -> Deblurrer:
        times: list[float] = []
        while len(times) < self._deepest.stages:
            times.append(self._measure(self._with(len(times) + 1), image))
            if times[-1] > self._budget_ms:
                break
        fitting = [stages for stages, ms in enumerate(times, 1) if ms <= self._budget_ms]
        stages = max(fitting, default=1)
        size = self._deepest.array_size(image.shape[1:3])
        self._on_choice(Choice(size, stages, self._deepest.stages, tuple(times)))
        return self._with(stages)

    def _with(self, stages: int) -> Deblurrer:
        if stages not in self._cut:
            self._cut[stages] = self._deepest.with_stages(stages)
            self._cut[stages].compile_for(self._sizes)
        return self._cut[stages]


def milliseconds(deblurrer: Deblurrer, image: np.ndarray, runs: int = 3) -> float:
    """Returns the median time of an image (1, H, W, 3) from the host to the host.

    One run before it compiles and warms up.
    """
    times = []
    for _ in range(runs + 1):
        begun = time.perf_counter()
        deblurrer.batch(image)
        times.append(1000 * (time.perf_counter() - begun))
    return statistics.median(times[1:])
