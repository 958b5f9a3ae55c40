"""An evaluation from the choice of pairs to the report, which goes on where one was stopped."""

from __future__ import annotations

import dataclasses
import datetime
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import jax
import numpy as np
from tqdm import tqdm

from dmphn_jax import __version__, checkpoints
from dmphn_jax.data.base import PairSource
from dmphn_jax.errors import UserError, one_line
from dmphn_jax.evaluation import markdown, report
from dmphn_jax.evaluation.contender import Contender
from dmphn_jax.evaluation.methods import Blurry, Method
from dmphn_jax.evaluation.paper import BLURRY, label_of
from dmphn_jax.evaluation.report import Report, Row
from dmphn_jax.evaluation.results import ResultsFile, key_of
from dmphn_jax.evaluation.scores import EvaluationResult, ImageScores, Runtime
from dmphn_jax.evaluation.scoring import measure_runtime, score_pairs
from dmphn_jax.evaluation.selection import PairSelection
from dmphn_jax.files import write_file
from dmphn_jax.images import Image, write_image
from dmphn_jax.inference.deblurrer import Deblurrer
from dmphn_jax.inference.ensembles import SelfEnsemble
from dmphn_jax.termination import exits_on_sigterm


@dataclasses.dataclass(frozen=True)
class EvaluationOptions:
    """What is scored on which pairs, how, and what is kept of it.

    Attributes:
      pairs: those to score.
      checkpoints: checkpoint folders or released names; the blurry input is always scored.
      stages: run the first so many stages of a stack only; None for all, "all" for each number
        of them in turn.
      ensemble: x8 self-ensemble.
      precision: of the networks, one of `models.PRECISIONS`.
      devices: number of local devices that share a batch; None for all.
      batch_size: images per batch; None for one per device.
      timing: measure the time of one image.
      folder: of `results.jsonl`, `report.md` and `report.json`; None keeps nothing.
      save_images: folder of the outputs; None does not save them.
      per_image: CSV file of every image's scores; None writes none.
      command: for the report.
    """

    pairs: PairSelection
    checkpoints: tuple[str, ...] = ()
    stages: int | Literal["all"] | None = None
    ensemble: bool = False
    precision: str = "float32"
    devices: int | None = None
    batch_size: int | None = None
    timing: bool = True
    folder: str | os.PathLike[str] | None = None
    save_images: str | os.PathLike[str] | None = None
    per_image: str | os.PathLike[str] | None = None
    command: str = ""


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
    check_checkpoints(options.checkpoints, options.stages)  # before any hour of work
    devices = jax.local_devices()
    if (options.devices or 0) > len(devices):
        raise UserError(f"--devices {options.devices}: this machine has {len(devices)}")
    before = _report_before(Path(options.folder), options.pairs) if options.folder else None
    if source is None:
        source = options.pairs.open()
    devices = devices[: options.devices]
    with exits_on_sigterm(), Evaluation(options, source, devices) as evaluation:
        evaluation.add(Contender(Blurry(), BLURRY))
        for path in options.checkpoints:
            depth = checkpoints.read_model_item(path)["model"].get("stages", 1)
            depths = range(1, depth + 1) if options.stages == "all" else (options.stages,)
            for stages in depths:
                evaluation.add_checkpoint(path, stages)
        if options.per_image:
            images = {label: list(of.images) for label, of in evaluation.results.items()}
            write_file(options.per_image, report.per_image_csv(images))
        made = evaluation.report()
    listed = {row.label for row in made.rows}
    if gone := [row.label for row in before.rows if row.label not in listed] if before else []:
        _say(
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


class Evaluation:
    """Scores one contender after the other on the same pairs; a context manager.

    Attributes:
      results: row label -> `EvaluationResult`.
    """

    def __init__(
        self, options: EvaluationOptions, source: PairSource, devices: list[jax.Device]
    ) -> None:
        """Opens `results.jsonl`, if there is a folder for it."""
        self.results: dict[str, EvaluationResult] = {}
        self._options, self._source, self._devices = options, source, devices
        self._names = [str(name) for name in source.names]
        self._indices = options.pairs.indices(self._names)
        self._identity = {**options.pairs.identity(), "names": key_of(names=self._names)}
        self._rows: list[Row] = []
        self._file: ResultsFile | None = None
        if options.folder:
            self._file = ResultsFile(Path(options.folder) / "results.jsonl")
            if self._file.damaged:
                _say(f"{self._file.path}: {self._file.damaged} unreadable lines, scored again")

    def __enter__(self) -> Evaluation:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._file:
            self._file.close()
            if kind is not None:
                _say(f"{self._file.path} keeps what was scored; the same command goes on")

    def add_checkpoint(self, path: str, stages: int | None = None) -> None:
        """Scores the checkpoint at `path`, or so many of its stages."""
        options = self._options
        deblurrer = Deblurrer(
            path, stages=stages, precision=options.precision, devices=self._devices
        )
        how = {"ensemble": options.ensemble, "precision": options.precision}
        self.add(
            Contender(
                SelfEnsemble(deblurrer) if options.ensemble else deblurrer,
                label_of(deblurrer.config, deblurrer.stages, **how),
                checkpoint=str(path),
                digest=deblurrer.digest,
                config=deblurrer.config,
                stages=deblurrer.stages,
                **how,
            )
        )

    def add(self, contender: Contender) -> None:
        """Scores a contender, and writes the reports so far."""
        label = contender.label
        if label in self.results:  # the same model twice: say which
            label = f"{label} ({contender.checkpoint or len(self.results)})"
        key = contender.key(self._identity)
        result = self._scored(key, label, contender.method)
        runtime = None
        if self._options.timing and contender.config is not None:
            runtime = self._runtime(key, contender.method, result)
        self.results[label] = result
        self._rows.append(contender.row(label, result, runtime))
        if self._options.folder:
            made, folder = self.report(), Path(self._options.folder)
            write_file(folder / "report.json", report.to_json(made))
            write_file(folder / "report.md", markdown.text(made))

    def report(self) -> Report:
        """Returns the rows so far with what they were measured on."""
        pairs, device = self._options.pairs, self._devices[0]
        cores = f", {os.cpu_count()} cores" if device.platform == "cpu" else ""
        return Report(
            source=pairs.name,
            split=pairs.split,
            images=len(self._indices),
            of=len(self._source),
            options=pairs.described(),
            rows=tuple(self._rows),
            date=datetime.date.today().isoformat(),
            command=self._options.command,
            devices=f"{len(self._devices)} x {device.device_kind}{cores}",
            version=__version__,
            jax=jax.__version__,
        )

    def _scored(self, key: str, label: str, method: Method) -> EvaluationResult:
        """Scores what the results file does not hold yet, and returns all of it."""
        known = self._file.images(key) if self._file else {}
        done: list[ImageScores] = []
        todo: list[int] = []
        for index in self._indices:
            image = known.get(self._names[index])
            if image is None or self._image_missing(label, self._names[index]):
                todo.append(index)
            else:
                done.append(image._replace(index=index))
        if done and todo:
            _say(f"{label}: {len(done)} of {len(self._indices)} pairs scored before, going on")
        bar = tqdm(total=len(self._indices), initial=len(done), desc=label, unit="pair")

        def save(image: ImageScores, output: np.ndarray) -> None:
            write_image(self._image_path(label, image.name), Image(output))

        def on_scores(image: ImageScores) -> None:
            if self._file:
                self._file.add_image(key, image._replace(name=self._names[image.index]))
            bar.set_postfix_str(f"{image.scores['psnr']:.2f} dB", refresh=False)
            bar.update()

        def on_failure(line: str) -> None:
            bar.write(f"dmphn: {one_line(UserError(line))}", file=sys.stderr)
            bar.update()

        with bar:
            result = score_pairs(
                method,
                self._source,
                indices=todo,
                batch_size=self._options.batch_size,
                devices=self._devices,
                on_image=save if self._options.save_images else None,
                on_scores=on_scores,
                on_failure=on_failure,
            )
        images = sorted([*done, *result.images], key=lambda image: image.index)
        return dataclasses.replace(result, images=images)

    def _runtime(self, key: str, method: Method, result: EvaluationResult) -> Runtime | None:
        size = result.commonest_size
        if size is None:
            return None
        device = self._devices[0].device_kind
        known = self._file.runtime(key) if self._file else None
        if known is None or (known.height, known.width, known.device) != (*size, device):
            known = Runtime(measure_runtime(method, size), *size, device)
            if self._file:
                self._file.add_runtime(key, known)
        return known

    def _image_path(self, label: str, name: str) -> Path:
        model = re.sub(r"[^\w.()-]+", "_", label).strip("_")
        parts = [part for part in Path(name).parts if part not in ("/", "..")]
        return Path(self._options.save_images, model, *parts[:-1], f"{parts[-1]}.png")

    def _image_missing(self, label: str, name: str) -> bool:
        return bool(self._options.save_images) and not self._image_path(label, name).exists()


def _say(line: str) -> None:
    print(f"dmphn: {line}", file=sys.stderr)
