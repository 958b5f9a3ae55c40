"""A file to make, and whether what is at its output's place, or another one's, forbids it."""

from __future__ import annotations

import collections
import os
import stat
from typing import NamedTuple

from dmphn_jax.errors import UserError
from dmphn_jax.files import shown


class Job(NamedTuple):
    """One file to make."""

    source: str
    output: str
    exists: bool = False  # the output is there and is to stay
    problem: str | None = None  # why it cannot be done, where the plan shows it already
    film: bool = False  # of a film, or (from a folder of pictures) into one
    frames: str | None = None  # extension of a film's frames, if `output` is a folder of these


class Plan(NamedTuple):
    """All of them, in the order of the inputs, each folder's by name."""

    jobs: list[Job]
    ignored: collections.Counter[str]  # extension -> files of input folders passed over


def checked(jobs: list[Job], overwrite: bool) -> list[Job]:
    """Drops jobs given twice and marks those whose output is another's, or an input.

    Raises UserError if that leaves nothing to do.
    """
    jobs = list(dict.fromkeys(jobs))
    reals = {job.source: os.path.realpath(job.source) for job in jobs}
    sources = {reals[job.source] for job in jobs if not job.problem}
    rivals: dict[str, dict[str, Job]] = {}  # output -> real source -> job
    kept: list[Job] = []
    for job in jobs:
        group = rivals.setdefault(os.path.normcase(os.path.abspath(job.output)), {})
        if job.problem:
            kept.append(job)
        elif reals[job.source] not in group:
            group[reals[job.source]] = job
            kept.append(job)
    wrong: list[Job] = []
    for index, job in enumerate(kept):
        if job.problem:
            continue
        group = rivals[os.path.normcase(os.path.abspath(job.output))]
        problem = _rivalry(job, list(group.values()))
        target = os.path.realpath(job.output)
        if not problem and target in sources and target != reals[job.source]:
            problem = f"would be written over another input, {shown(target)}; give another --output"
        elif not problem and target in sources and not overwrite:
            problem = "would be written over itself; give another --output, or --overwrite"
        if problem:
            kept[index] = job._replace(problem=problem)
            wrong.append(kept[index])
    if wrong and all(job.problem for job in kept):
        raise UserError(f"{shown(wrong[0].source)} {wrong[0].problem}")
    return kept


def _rivalry(job: Job, group: list[Job]) -> str | None:
    """Tells why a job of several with one output cannot be done; None if it can.

    The one that keeps its name has the better right to it.
    """

    def keeps_name(job: Job) -> bool:
        return os.path.basename(job.source) == os.path.basename(job.output)

    others = [other for other in group if other is not job]
    better = [other for other in others if keeps_name(other)]
    if not others or (keeps_name(job) and not better):
        return None
    return (
        f"would be written to {shown(job.output)}, which {shown((better or others)[0].source)} "
        "claims too; give them separate runs, or no --format"
    )


def occupied(job: Job, overwrite: bool) -> Job:
    """Tells by what is at the output's place whether a job is to be done, skipped, or cannot be."""
    if job.problem:
        return job
    name = shown(job.output)
    try:
        mode = os.stat(job.output).st_mode
    except OSError:  # nothing there, or writing will tell
        if os.path.islink(job.output) and not overwrite:
            return job._replace(
                problem=f"its output {name} is a link to nothing; --overwrite replaces it"
            )
        return job
    if job.frames:  # a folder of single frames, of which those that are missing will be made
        if stat.S_ISDIR(mode):
            return job
        return job._replace(problem=f"its output {name} is a file; give another --output")
    if stat.S_ISDIR(mode):
        return job._replace(problem=f"its output {name} is a folder; give another --output")
    if overwrite:
        return job
    if stat.S_ISREG(mode):
        return job._replace(exists=True)
    return job._replace(
        problem=f"its output {name} is there and no regular file; --overwrite writes into it"
    )
