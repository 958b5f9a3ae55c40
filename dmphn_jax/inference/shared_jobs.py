"""The jobs of a plan done by several processes, each by one of them."""

from __future__ import annotations

import collections
import os
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Protocol

from dmphn_jax.inference.jobs import Job, Plan
from dmphn_jax.inference.pipeline import Result
from dmphn_jax.processes.claims import Claims
from dmphn_jax.processes.places import Place
from dmphn_jax.processes.sharing import Shared

FOLDER = ".dmphn-shared"  # of the claims, in the output's folder


class Run(Protocol):
    """Does jobs; `take` is asked just before one is computed, and False leaves it out."""

    def __call__(
        self, jobs: Iterable[Job], take: Callable[[Job], bool]
    ) -> Generator[Result, None, None]:
        """Yields a Result for each."""


class SharedJobs:
    """What this process does of a plan's jobs.

    Attributes:
      shared: what has become of all of them.
      pictures: all of the plan's, those that are there already too.
    """

    def __init__(self, claims: Claims, plan: Plan, root: str, place: Place) -> None:
        """Begins; `root` is the folder of the outputs, whose place may differ between hosts."""
        seen: collections.Counter[str] = collections.Counter()
        self._jobs: dict[str, Job] = {}
        for job in plan.jobs:
            name = os.path.relpath(job.output, root)
            seen[name] += 1
            if not job.exists:  # jobs that cannot be done may share an output
                self._jobs[f"{name}\n{seen[name]}"] = job
        self.pictures = [job for job in plan.jobs if not job.film]
        self._names = {job: name for name, job in self._jobs.items()}
        self.shared = Shared(claims, list(self._jobs), place, there=self._there)

    def results(self, run: Run) -> Generator[Result, None, None]:
        """Yields the results of what falls to this process, until nothing is left to take."""
        for works in self.shared.rounds():
            with closing(run(self._jobs_of(works), self._take)) as results:
                for result in results:
                    self.shared.finish(self._names[result.job], result.failure)
                    yield result

    @property
    def told(self) -> list[str]:
        """What is to be said of the other processes."""
        failed = len(self.shared.failures)
        lines = {
            f"{self.shared.elsewhere - failed} by other processes": self.shared.elsewhere > failed,
            f"{failed} failed in other processes, which say why": failed,
            f"{self.shared.left}: still at work on it": not self.shared.complete,
        }
        return [line for line, true in lines.items() if true]

    def _jobs_of(self, works: Iterator[str]) -> Iterator[Job]:
        return (self._jobs[work] for work in works)

    def _take(self, job: Job) -> bool:
        return self.shared.take(self._names[job])

    def _there(self, work: str) -> bool:
        job = self._jobs[work]
        return not job.frames and not job.problem and os.path.lexists(job.output)


def clear_leftovers(root: str) -> None:
    """Removes what processes that were killed left in the folder of outputs, if none is there."""
    folder = Path(root, FOLDER)
    if folder.is_dir():
        with Claims(folder, "a lone process") as claims:
            claims.clear()
