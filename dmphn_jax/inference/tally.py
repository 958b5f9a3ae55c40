"""What became of a run's jobs, counted and put into words."""

from __future__ import annotations

import collections
from collections.abc import Iterator, Sequence

from dmphn_jax.files import shown
from dmphn_jax.inference.jobs import Job, Plan
from dmphn_jax.inference.pipeline import Result


class Tally:
    """Counts the results of a plan's jobs.

    Attributes:
      todo: the jobs whose outputs are not there already, in order.
      skipped: how many others there are.
      done: jobs done so far.
    """

    def __init__(self, plan: Plan) -> None:
        self.todo = [job for job in plan.jobs if not job.exists]
        self.skipped = len(plan.jobs) - len(self.todo)
        self.done = 0
        self._ignored = plan.ignored
        self._order: dict[Job, int] = {job: index for index, job in enumerate(self.todo)}
        self._failures: list[tuple[int, str]] = []
        self._notes: collections.Counter[tuple[str, str]] = collections.Counter()

    def add(self, result: Result) -> None:
        """Counts a result."""
        if result.failure:
            self._failures.append((self._order[result.job], result.failure))
        else:
            self.done += 1
            kind = "film" if result.job.film else "image"
            self._notes.update((kind, note) for note in result.notes)

    @property
    def failures(self) -> list[str]:
        """A line per job that failed, in the order of the jobs."""
        return [line for _, line in sorted(self._failures)]

    @property
    def ignored(self) -> str:
        """What of input folders was passed over: the end of a sentence, empty for nothing."""
        if not self._ignored:
            return ""
        kinds = ", ".join(f"{count} {shown(kind)}" for kind, count in self._ignored.most_common(5))
        return f"; other files passed over: {kinds}"

    def summary(
        self, output: str, *, interrupted: bool = False, elsewhere: Sequence[str] = ()
    ) -> Iterator[str]:
        """Yields the lines that end a run; `output` is where to, `elsewhere` of other processes."""
        for (kind, note), count in self._notes.items():
            yield f"note ({count} {kind}{'s' if count > 1 else ''}): {note}"
        # Files being written at an interrupt are finished, but not counted any more.
        least = "at least " if interrupted else ""
        parts = [f"deblurred {least}{self.done} of {len(self.todo)} into {shown(output)}"]
        if self.skipped:
            parts.append(f"{self.skipped} skipped, their outputs exist (--overwrite replaces them)")
        if self._failures:
            parts.append(f"{len(self._failures)} failed")
        yield "; ".join([*parts, *elsewhere]) + self.ignored
