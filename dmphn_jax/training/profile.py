"""A profile of some steps of a run, for TensorBoard or Perfetto."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jax


class Profile:
    """Traces the steps after FIRST up to LAST, or what this start of the run takes of them."""

    def __init__(
        self, steps: tuple[int, int] | None, folder: Path, say: Callable[[str], None]
    ) -> None:
        """Does nothing where `steps` is None; `folder` gets the trace, `say` a line about it."""
        self._steps = steps
        self._folder = folder
        self._say = say
        self._begun: int | None = None

    @property
    def ends(self) -> tuple[int, ...]:
        """Steps at which a dispatch has to end."""
        return self._steps or ()

    def before(self, step: int, drain: Callable[[], None]) -> None:
        """Begins before the first dispatch at or after FIRST; `drain` waits for what runs."""
        if self._steps and self._begun is None and self._steps[0] <= step < self._steps[1]:
            drain()
            jax.profiler.start_trace(str(self._folder))
            self._begun = step

    def after(self, step: int, drain: Callable[[], None]) -> None:
        """Ends after the dispatch that reached LAST."""
        if self._begun is not None and self._steps and step >= self._steps[1]:
            drain()
            self._end(step)

    def close(self, step: int) -> None:
        """Ends with the run, at `step`; says so if there was nothing to trace."""
        if self._begun is not None:
            self._end(step)
        elif self._steps:
            first, last = self._steps
            self._say(f"no profile: the run took no step from {first} to {last}")
        self._steps = None

    def _end(self, step: int) -> None:
        jax.profiler.stop_trace()
        self._say(f"profile of steps {self._begun} to {step}: {self._folder}")
        self._begun = self._steps = None
