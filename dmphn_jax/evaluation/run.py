"""An evaluation from the choice of pairs to the report, which goes on where one was stopped."""

from __future__ import annotations

import collections
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax

from dmphn_jax import checkpoints
from dmphn_jax.data.base import PairSource
from dmphn_jax.errors import UserError
from dmphn_jax.evaluation import report
from dmphn_jax.evaluation.contender import Contender
from dmphn_jax.evaluation.evaluator import Evaluation, say
from dmphn_jax.evaluation.methods import Blurry
from dmphn_jax.evaluation.options import EvaluationOptions
from dmphn_jax.evaluation.paper import BLURRY, label_of
from dmphn_jax.evaluation.report import Report
from dmphn_jax.evaluation.selection import PairSelection
from dmphn_jax.evaluation.together import FOLDER, score_together
from dmphn_jax.files import check_place, write_file
from dmphn_jax.inference.deblurrer import Deblurrer
from dmphn_jax.inference.ensembles import SelfEnsemble
from dmphn_jax.processes.claims import Claims
from dmphn_jax.processes.places import Place
from dmphn_jax.processes.termination import exits_on_sigterm


def evaluate(options: EvaluationOptions, source: PairSource | None = None) -> Report:
    """Scores the blurry input and every checkpoint, and returns the report.

    With a folder, results are kept per image in `<folder>/results.jsonl` under a key of all they
    depend on (the parameters' digest, how the network was run, the data's name and list of pairs,
    the version of the metrics), an evaluation goes on where it was stopped, and the reports are
    written after every checkpoint.

    Args:
      options: what to do.
      source: the pairs, if they are open already; by default `options.pairs.open()`.

    Raises UserError for a checkpoint that cannot be used, pairs that are not there, too few
    devices or memory, files that cannot be written, and a folder with a report on other pairs.
    SIGTERM ends it as an interrupt does, with SystemExit(143).
    """
    devices, before, source = _opened(options, source)
    with exits_on_sigterm(), Evaluation(options, source, devices) as evaluation:
        # All are read before the first is scored: one that is damaged costs no hours.
        entries = collections.deque(map(evaluation.enter, _contenders(options, devices)))
        while entries:
            evaluation.add(entries.popleft())
        return _reported(evaluation, options, before)


class Shared(NamedTuple):
    """What one of several processes knows at its end.

    Attributes:
      report: None if others were still at work when this one found nothing more to do.
      failed: whether a pair could not be scored, in any process.
    """

    report: Report | None
    failed: bool


def evaluate_together(
    options: EvaluationOptions, place: Place, source: PairSource | None = None
) -> Shared:
    """Is `evaluate` for one of several processes, which share the pairs by files in the folder.

    Every process that sees everything scored writes the same reports; one that does not says so.
    SIGTERM ends it with SystemExit(75): the others, or the same command, do the rest.
    """
    if not options.folder:
        raise UserError("--report FOLDER is needed: where several processes share their scores")
    devices, before, source = _opened(options, source)
    with (
        exits_on_sigterm(os.EX_TEMPFAIL),
        Claims(Path(options.folder) / FOLDER, str(place)) as claims,
        Evaluation(options, source, devices, shared=True) as evaluation,
    ):
        entries = [evaluation.enter(each) for each in _contenders(options, devices)]
        if left := score_together(evaluation, entries, claims, place):
            say(f"{place} has nothing left to do: {left}, and the last one writes the report")
            return Shared(None, evaluation.failed)
        for entry in entries:
            evaluation.add(entry)
        made = _reported(evaluation, options, before)
        if evaluation.file:
            evaluation.file.join()
        claims.clear()
    return Shared(made, made.failed)


def _opened(
    options: EvaluationOptions, source: PairSource | None
) -> tuple[list[jax.Device], Report | None, PairSource]:
    """Checks what can be before any hour of work; returns devices, the old report, the pairs."""
    check_checkpoints(options.checkpoints, options.stages)
    if options.per_image:
        check_place(options.per_image)
    devices = jax.local_devices()
    if (options.devices or 0) > len(devices):
        raise UserError(f"--devices {options.devices}: this machine has {len(devices)}")
    before = _report_before(Path(options.folder), options.pairs) if options.folder else None
    if source is None:
        source = options.pairs.open()
    return devices[: options.devices], before, source


def _contenders(options: EvaluationOptions, devices: list[jax.Device]) -> Iterator[Contender]:
    """Yields the blurry input, and the checkpoints or so many of their stages."""
    yield Contender(Blurry(), BLURRY)
    ensemble, precision = options.ensemble, options.precision
    for path in options.checkpoints:
        depth = checkpoints.read_model_item(path)["model"].get("stages", 1)
        for stages in range(1, depth + 1) if options.stages == "all" else (options.stages,):
            deblurrer = Deblurrer(path, stages=stages, precision=precision, devices=devices)
            config, runs = deblurrer.config, deblurrer.stages
            yield Contender(
                SelfEnsemble(deblurrer, len(devices)) if ensemble else deblurrer,
                label_of(config, runs, ensemble=ensemble, precision=precision),
                checkpoint=str(path),
                digest=deblurrer.digest,
                config=config,
                stages=runs,
                ensemble=ensemble,
                precision=precision,
            )


def _reported(evaluation: Evaluation, options: EvaluationOptions, before: Report | None) -> Report:
    """Returns the report; writes the scores of every image, and says what is listed no longer."""
    if options.per_image:
        images = {label: list(of.images) for label, of in evaluation.results.items()}
        write_file(options.per_image, report.per_image_csv(images))
    made = evaluation.report()
    listed = {row.label for row in made.rows}
    if gone := [row.label for row in before.rows if row.label not in listed] if before else []:
        say(
            f"{options.folder}/report.md no longer lists {'; '.join(gone)}: the scores are kept, "
            "and listed again when the checkpoints are named"
        )
    return made


def check_checkpoints(paths: Sequence[str], stages: int | str | None = None) -> None:
    """Raises UserError unless every path is a checkpoint, and one with so many stages."""
    for path in paths:
        has = checkpoints.read_model_item(path)["model"].get("stages", 1)
        if isinstance(stages, int) and stages > has:
            raise UserError(f"--stages {stages}: {path} has {has}")


def _report_before(folder: Path, pairs: PairSelection) -> Report | None:
    """Returns the report that stands in a folder, None if there is none.

    Raises UserError if it is one on other pairs, or none of ours: this one would wipe it out.
    """
    if not (folder / "report.json").exists():
        return None
    before = report.read(folder)
    if not pairs.are_those_of(before.source, before.split, before.options):
        of = "".join(f", {name} {value}" for name, value in before.options.items())
        raise UserError(
            f"{folder}: holds a report on other pairs ({before.source}, split {before.split}{of}); "
            "give these results a folder of their own"
        )
    return before
