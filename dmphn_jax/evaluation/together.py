"""An evaluation's pairs scored by several processes, each by one of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tqdm import tqdm

from dmphn_jax.evaluation.evaluator import Entry, Evaluation
from dmphn_jax.evaluation.scores import EvaluationResult, ImageScores
from dmphn_jax.processes.claims import Claims
from dmphn_jax.processes.places import Place
from dmphn_jax.processes.sharing import Shared

FOLDER = ".dmphn-shared"  # of the claims, in the report's folder


class _Pair(NamedTuple):
    """A pair to be scored for a contender."""

    entry: Entry
    index: int


def score_together(
    evaluation: Evaluation, entries: Sequence[Entry], claims: Claims, place: Place
) -> str:
    """Scores what falls to this process, of every contender, until nothing is left to take.

    Then measures what falls to it of the contenders' times. Failures of all processes are noted in
    the evaluation.

    Returns what other processes are still at work on, for people; empty if everything is there.
    """
    left = _images(evaluation, entries, claims, place)
    return left or _runtimes(evaluation, entries, claims, place)


def _images(evaluation: Evaluation, entries: Sequence[Entry], claims: Claims, place: Place) -> str:
    pairs = {
        f"{entry.key}/{evaluation.names[index]}": _Pair(entry, index)
        for entry in entries
        for index in evaluation.missing(entry)
    }
    shared = Shared(claims, list(pairs), place)
    with tqdm(total=len(pairs), desc=str(place), unit="pair") as bar:
        for works in shared.rounds():
            todo = (pairs[work] for work in works)
            for entry, group in itertools.groupby(todo, key=lambda pair: pair.entry):
                _score(evaluation, shared, entry, group, bar)
        bar.update(shared.done - bar.n)
    evaluation.file.refresh()
    for work, line in shared.failures.items():
        evaluation.note_failure(pairs[work].entry.key, pairs[work].index, line)
    return shared.left


def _score(
    evaluation: Evaluation, shared: Shared, entry: Entry, group: Iterator[_Pair], bar: tqdm
) -> None:
    def work(index: int) -> str:
        return f"{entry.key}/{evaluation.names[index]}"

    def finished(index: int, line: str | None = None) -> None:
        shared.finish(work(index), line)
        bar.update(shared.done - bar.n)

    def scored(image: ImageScores) -> None:
        finished(image.index)

    evaluation.score(
        entry,
        (pair.index for pair in group),
        bar=bar,
        on_scores=scored,
        on_failure=finished,
        take=lambda index: shared.take(work(index)),
    )


def _runtimes(
    evaluation: Evaluation, entries: Sequence[Entry], claims: Claims, place: Place
) -> str:
    untimed = {f"{entry.key}//runtime": entry for entry in entries if evaluation.untimed(entry)}
    shared = Shared(claims, list(untimed), place)
    for works in shared.rounds():
        for work in filter(shared.take, works):
            entry = untimed[work]
            evaluation.time(entry, EvaluationResult(evaluation.known(entry)))
            shared.finish(work)
    evaluation.file.refresh()
    return shared.left
