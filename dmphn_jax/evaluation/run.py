"""A run over several methods on one source: what is kept on disk, and the rows of the report."""

from __future__ import annotations

import datetime
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from dmphn_jax import __version__
from dmphn_jax.data.base import PairSource
from dmphn_jax.errors import UserError, one_line
from dmphn_jax.evaluation import report
from dmphn_jax.evaluation.metrics import METRICS
from dmphn_jax.evaluation.results import ResultsFile, key_of
from dmphn_jax.evaluation.scoring import (
    EvalResult,
    ImageScores,
    Method,
    SelfEnsemble,
    evaluate_params,
    measure_runtime,
)
from dmphn_jax.images import Image, write_image
from dmphn_jax.inference.deblurrer import Deblurrer

_RUNTIME = "//runtime"  # records that are not of an image; no image has such a name


class EvaluationRun:
    """Scores methods one after the other; with a folder, goes on where an earlier run stopped.

    Results are kept per image in `<folder>/results.jsonl` under a key of all they depend on: the
    parameters' digest, how the network was run, and the data's name and list of pairs.

    Attributes:
      results: row label -> `EvalResult`.
    """

    def __init__(
        self,
        source: PairSource,
        *,
        data: dict[str, Any],
        indices: Sequence[int] | None = None,
        limit: int | None = None,
        devices: Sequence[jax.Device] | None = None,
        batch_size: int | None = None,
        folder: str | os.PathLike[str] | None = None,
        save_images: str | os.PathLike[str] | None = None,
        command: str = "",
    ) -> None:
        """Takes a source and how to go over it.

        Args:
          source: the pairs.
          data: {"name", "split"} and the options it was opened with, plain JSON values.
          indices: the pairs to score; all by default.
          limit: score so many of them only, spread evenly.
          devices: those that share a batch; all local ones by default.
          batch_size: images per batch; one per device by default.
          folder: of `results.jsonl` and of the reports; nothing is kept without it.
          save_images: folder of the outputs; they are not saved without it.
          command: for the report.
        """
        self.source = source
        indices = range(len(source)) if indices is None else indices
        self.indices = [indices[i] for i in subset(len(indices), limit)]
        self.devices = list(devices or jax.local_devices())
        self.batch_size = batch_size
        self.folder = Path(folder) if folder else None
        self.save_images = Path(save_images) if save_images else None
        self.results: dict[str, EvalResult] = {}
        self._rows: list[dict[str, Any]] = []
        self._data = data
        self._command = command
        self._names = [str(name) for name in source.names]
        where = Path(data["name"]).expanduser()  # a folder's name depends on where one stands
        self._identity = {**data, "names": key_of(names=self._names)}
        if where.exists():
            self._identity["name"] = str(where.resolve())
        self._file = ResultsFile(self.folder / "results.jsonl") if self.folder else None
        if self._file and self._file.damaged:
            self._say(f"{self._file.path}: {self._file.damaged} unreadable lines, scored again")

    def __enter__(self) -> EvaluationRun:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._file:
            self._file.close()
            if kind is not None:
                self._say(f"{self._file.path} keeps what was scored; the same command goes on")

    def score_checkpoint(
        self, path: str, deblurrer: Deblurrer, *, ensemble: bool = False, timing: bool = True
    ) -> None:
        """Adds a row for the checkpoint at `path`, loaded as `deblurrer`."""
        config, stages = deblurrer.config, deblurrer.stages
        options = {"ensemble": True} if ensemble else {}
        if deblurrer.precision != "float32":
            options["precision"] = deblurrer.precision
        self.score(
            report.label_of(config, stages, options),
            SelfEnsemble(deblurrer) if ensemble else deblurrer,
            timing=timing,
            checkpoint=str(path),
            digest=deblurrer.digest,
            config=config,
            stages=stages,
            options=options,
        )

    def score(self, label: str, method: Method, *, timing: bool = False, **about: Any) -> None:
        """Adds a row for a method; `about` are the further arguments of `report.row`."""
        if label in self.results:  # the same model twice: say which
            label = f"{label} ({about.get('checkpoint') or len(self.results)})"
        key = key_of(
            data=self._identity,
            digest=about.get("digest") or label,
            stages=about.get("stages"),
            options=about.get("options"),
        )
        result = self._go_on(key, label, method)
        runtime = self._runtime(key, method, result) if timing else None
        self.results[label] = result
        self._rows.append(report.row(label, result, runtime=runtime, **about))
        if self.folder:
            report.write(self.folder, self.report())

    def report(self) -> dict[str, Any]:
        """Returns the rows so far with what they were measured on, as plain JSON values."""
        kind = self.devices[0].device_kind
        cores = f", {os.cpu_count()} cores" if self.devices[0].platform == "cpu" else ""
        return {
            "format": report.FORMAT,
            "version": __version__,
            "date": datetime.date.today().isoformat(),
            "command": self._command,
            "environment": {
                "devices": f"{len(self.devices)} x {kind}{cores}",
                "jax": jax.__version__,
            },
            "data": {**self._data, "images": len(self.indices), "of": len(self.source)},
            "rows": self._rows,
        }

    def _go_on(self, key: str, label: str, method: Method) -> EvalResult:
        """Scores what the results file does not hold yet, and returns all of it."""
        known = self._file.of(key) if self._file else {}
        done: list[ImageScores] = []
        todo: list[int] = []
        for index in self.indices:
            record = known.get(self._names[index])
            if record is None or self._image_missing(label, self._names[index]):
                todo.append(index)
            else:
                done.append(_scores_of(index, record))
        if done and todo:
            self._say(f"{label}: {len(done)} of {len(self.indices)} pairs scored before, going on")
        bar = tqdm(total=len(self.indices), initial=len(done), desc=label, unit="pair")

        def on_image(image: ImageScores, output: np.ndarray) -> None:
            if self.save_images:
                write_image(self._image_path(label, image.name), Image(output))
            if self._file:
                size = {"height": image.height, "width": image.width}
                self._file.add(key, self._names[image.index], **size, **image.scores)
            bar.set_postfix_str(f"{image.scores['psnr']:.2f} dB", refresh=False)
            bar.update()

        def on_failure(line: str) -> None:
            bar.write(f"dmphn: {one_line(UserError(line))}", file=sys.stderr)
            bar.update()

        with bar:
            result = evaluate_params(
                method,
                self.source,
                indices=todo,
                batch_size=self.batch_size,
                devices=self.devices,
                on_image=on_image,
                on_failure=on_failure,
            )
        result.images = sorted([*done, *result.images], key=lambda image: image.index)
        return result

    def _runtime(self, key: str, method: Method, result: EvalResult) -> dict[str, Any] | None:
        size = result.commonest_size
        if size is None:
            return None
        device = self.devices[0].device_kind
        known = (self._file.of(key) if self._file else {}).get(_RUNTIME)
        if not known or (known["height"], known["width"], known["device"]) != (*size, device):
            known = {"ms": measure_runtime(method, size), "height": size[0], "width": size[1]}
            known["device"] = device
            if self._file:
                self._file.add(key, _RUNTIME, **known)
        return {name: known[name] for name in ("ms", "height", "width", "device")}

    def _image_path(self, label: str, name: str) -> Path:
        model = re.sub(r"[^\w.()-]+", "_", label).strip("_")
        parts = [part for part in Path(name).parts if part not in ("/", "..")]
        return Path(self.save_images, model, *parts[:-1], f"{parts[-1]}.png")

    def _image_missing(self, label: str, name: str) -> bool:
        return bool(self.save_images) and not self._image_path(label, name).exists()

    def _say(self, line: str) -> None:
        print(f"dmphn: {line}", file=sys.stderr)


def subset(count: int, limit: int | None) -> list[int]:
    """Returns `limit` indices spread evenly over range(count); all where there is no limit."""
    if limit is None or limit >= count:
        return list(range(count))
    return [i * count // limit for i in range(limit)]


def _scores_of(index: int, record: dict[str, Any]) -> ImageScores:
    scores = {name: float(record[name]) for name in METRICS}
    return ImageScores(index, record["name"], record["height"], record["width"], scores)
