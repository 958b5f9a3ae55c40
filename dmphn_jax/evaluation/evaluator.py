"""Contenders scored on the same pairs, what was scored before left out."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from dmphn_jax import __version__
from dmphn_jax.data.base import PairSource
from dmphn_jax.errors import UserError, one_line
from dmphn_jax.evaluation import markdown, report
from dmphn_jax.evaluation.contender import Contender
from dmphn_jax.evaluation.options import EvaluationOptions
from dmphn_jax.evaluation.report import Report, Row
from dmphn_jax.evaluation.results import ResultsFile, key_of
from dmphn_jax.evaluation.scores import EvaluationResult, ImageScores, Runtime
from dmphn_jax.evaluation.scoring import measure_runtime, score_pairs
from dmphn_jax.files import why, write_file
from dmphn_jax.images import Image, write_image
from dmphn_jax.runtime import cores

_KEY = ".results-key"  # in a folder of images: of which results they are


class Entry(NamedTuple):
    """A contender, the key of its results, and the label of its row."""

    contender: Contender
    key: str
    label: str


class Evaluation:
    """Scores contenders on the same pairs; a context manager.

    Attributes:
      results: row label -> `EvaluationResult`.
      names: of the source's pairs.
      file: of the kept results; None if none are kept.
    """

    def __init__(
        self,
        options: EvaluationOptions,
        source: PairSource,
        devices: list[jax.Device],
        *,
        shared: bool = False,
    ) -> None:
        """Opens `results.jsonl`, if there is a folder for it; `shared` with other processes."""
        self.results: dict[str, EvaluationResult] = {}
        self.names = [str(name) for name in source.names]
        self.file: ResultsFile | None = None
        self._options, self._source, self._devices = options, source, devices
        self._shared = shared
        self._indices = options.pairs.indices(self.names)
        self._identity = {**options.pairs.identity(), "names": key_of(names=self.names)}
        self._labels: set[str] = set()
        self._folders: dict[str, Path] = {}  # key -> where the images go
        self._failed: dict[str, dict[int, str]] = collections.defaultdict(dict)
        self._rows: list[Row] = []
        if options.folder:
            self.file = ResultsFile(Path(options.folder) / "results.jsonl", shared=shared)
            if self.file.damaged:
                say(f"{self.file.path}: {self.file.damaged} unreadable lines, scored again")

    def __enter__(self) -> Evaluation:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.file:
            self.file.close()
            if kind is not None:
                say(f"{self.file.path} keeps what was scored; the same command goes on")

    def enter(self, contender: Contender) -> Entry:
        """Returns a contender with its key, and a label that no other one has."""
        label = contender.label
        if label in self._labels and contender.checkpoint:  # the same model twice: say which
            label = f"{label} ({contender.checkpoint})"
        name, number = label, 1
        while label in self._labels:
            number += 1
            label = f"{name} ({number})"
        self._labels.add(label)
        return Entry(contender, contender.key(self._identity), label)

    def add(self, entry: Entry) -> None:
        """Scores what of a contender is not scored yet, and writes the reports so far."""
        result = self._scored(entry)
        runtime = self.time(entry, result)
        self.results[entry.label] = result
        self._rows.append(entry.contender.row(entry.label, result, runtime))
        if self._options.folder:
            made, folder = self.report(), Path(self._options.folder)
            write_file(folder / "report.json", report.to_json(made))
            write_file(folder / "report.md", markdown.text(made))

    def report(self) -> Report:
        """Returns the rows so far with what they were measured on."""
        pairs, device = self._options.pairs, self._devices[0]
        counted = f", {cores()} cores" if device.platform == "cpu" else ""
        return Report(
            source=pairs.name,
            split=pairs.split,
            images=len(self._indices),
            of=len(self._source),
            options=pairs.described(),
            rows=tuple(self._rows),
            date=datetime.date.today().isoformat(),
            command=self._options.command,
            devices=f"{len(self._devices)} x {device.device_kind}{counted}",
            version=__version__,
            jax=jax.__version__,
        )

    def known(self, entry: Entry) -> list[ImageScores]:
        """Returns what has been scored of a contender, in the order of the pairs."""
        scored = self.file.images(entry.key) if self.file else {}
        return [
            dataclasses.replace(scored[self.names[index]], index=index)
            for index in self._indices
            if self.names[index] in scored and not self._image_missing(entry, self.names[index])
        ]

    def missing(self, entry: Entry) -> list[int]:
        """Returns the indices of the pairs that are still to be scored."""
        done = {image.index for image in self.known(entry)} | self._failed[entry.key].keys()
        return [index for index in self._indices if index not in done]

    def score(
        self,
        entry: Entry,
        indices: Iterable[int],
        *,
        bar: tqdm,
        on_scores: Callable[[ImageScores], None],
        on_failure: Callable[[int, str], None],
        take: Callable[[int], bool] = lambda index: True,
    ) -> EvaluationResult:
        """Scores pairs and keeps the results; see `score_pairs`."""

        def save(image: ImageScores, output: np.ndarray) -> None:
            write_image(self._image_path(entry, image.name), Image(output))

        def scored(image: ImageScores) -> None:
            if self.file:
                named = dataclasses.replace(image, name=self.names[image.index])
                self.file.add_image(entry.key, named)
            bar.set_postfix_str(f"{image.scores['psnr']:.2f} dB", refresh=False)
            on_scores(image)

        def failed(index: int, line: str) -> None:
            self.note_failure(entry.key, index, line)
            bar.write(f"dmphn: {one_line(UserError(line))}", file=sys.stderr)
            on_failure(index, line)

        return score_pairs(
            entry.contender.method,
            self._source,
            indices=indices,
            batch_size=self._options.batch_size,
            devices=self._devices,
            on_image=save if self._options.save_images else None,
            on_scores=scored,
            on_failure=failed,
            take=take,
        )

    def note_failure(self, key: str, index: int, line: str) -> None:
        """Remembers that a pair cannot be scored: it is not tried again."""
        self._failed[key][index] = line

    @property
    def failed(self) -> bool:
        """Whether a pair could not be scored."""
        return any(self._failed.values())

    def untimed(self, entry: Entry) -> bool:
        """Tells whether the time of one image of a contender is still to be measured."""
        if not self._options.timing or entry.contender.config is None:
            return False
        return self._known_runtime(entry, EvaluationResult(self.known(entry))) is None

    def time(self, entry: Entry, result: EvaluationResult) -> Runtime | None:
        """Returns the time of one image of the commonest size, measured if it is not known."""
        size = result.commonest_size
        if not self._options.timing or entry.contender.config is None or size is None:
            return None
        known = self._known_runtime(entry, result)
        if known is None:
            device = self._devices[0].device_kind
            known = Runtime(measure_runtime(entry.contender.method, size), *size, device)
            if self.file:
                self.file.add_runtime(entry.key, known)
        return known

    def _known_runtime(self, entry: Entry, result: EvaluationResult) -> Runtime | None:
        known = self.file.runtime(entry.key) if self.file else None
        if known is None or (known.height, known.width) != result.commonest_size:
            return None
        # Of several processes one has measured it, on its device.
        same = self._shared or known.device == self._devices[0].device_kind
        return known if same else None

    def _scored(self, entry: Entry) -> EvaluationResult:
        """Scores what the results file does not hold yet, and returns all of it."""
        done, todo = self.known(entry), self.missing(entry)
        if done and todo:
            say(f"{entry.label}: {len(done)} of {len(self._indices)} pairs scored before, going on")
        start = len(self._indices) - len(todo)
        with tqdm(total=len(self._indices), initial=start, desc=entry.label, unit="pair") as bar:
            result = self.score(
                entry,
                todo,
                bar=bar,
                on_scores=lambda image: bar.update(),
                on_failure=lambda index, line: bar.update(),
            )
        images = sorted([*done, *result.images], key=lambda image: image.index)
        failures = [line for _, line in sorted(self._failed[entry.key].items())]
        return dataclasses.replace(result, images=images, failures=failures)

    def _image_path(self, entry: Entry, name: str) -> Path:
        parts = [part for part in Path(name).parts if part not in ("/", "..")]
        return Path(self._folder_of(entry), *parts[:-1], f"{parts[-1]}.png")

    def _image_missing(self, entry: Entry, name: str) -> bool:
        return bool(self._options.save_images) and not self._image_path(entry, name).exists()

    def _folder_of(self, entry: Entry) -> Path:
        """Returns the folder of a contender's images, beside another's of the same label."""
        if entry.key not in self._folders:
            model = re.sub(r"[^\w.()-]+", "_", entry.label).strip("_")
            folder = Path(self._options.save_images, model)
            if not _claimed(folder, entry.key):
                folder = folder.with_name(f"{model}-{entry.key[:8]}")
                _claimed(folder, entry.key)
                of = "another checkpoint or other pairs"
                say(f"{entry.label}: images go to {folder}: those in {model} are of {of}")
            self._folders[entry.key] = folder
        return self._folders[entry.key]


def _claimed(folder: Path, key: str) -> bool:
    """Tells whether a folder of images is that of the results of a key; takes it if it is none's.

    Raises UserError if nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / _KEY, "x") as file:
            file.write(key)
    except FileExistsError:
        if not folder.is_dir():
            raise UserError(f"{folder}: is a file; name another --save-images") from None
        return (folder / _KEY).read_text() in ("", key)  # "": another process takes it just now
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {why(error)}") from None
    return True


def say(line: str) -> None:
    """Prints a line on stderr."""
    print(f"dmphn: {line}", file=sys.stderr, flush=True)
