"""The report of an evaluation: what it holds, and its JSON file."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dmphn_jax.errors import UserError, one_line
from dmphn_jax.evaluation.paper import PaperFigures
from dmphn_jax.evaluation.scores import METRIC_NAMES, ImageScores, Runtime, Scores
from dmphn_jax.models import ModelConfig

FORMAT = 1

_Json = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Row:
    """What was scored, and its figures.

    Attributes:
      label: what was scored, for people.
      images: number of images scored.
      failed: number of pairs that could not be scored.
      mean: means over all images; nan where there is none.
      video_mean: means over the videos' means, as Table 3 averages.
      videos: means of every video.
      images_per_second: pairs read, deblurred and scored per second; None if not known.
      checkpoint: its path as the user gave it.
      digest: of its parameters.
      ensemble, precision: how it was run.
      model: the whole model of the checkpoint.
      parameters: number of those that ran.
      runtime: the time of one image; None if not measured.
      paper: the paper's figures; None if it has none.
    """

    label: str
    images: int = 0
    failed: int = 0
    mean: Scores = dataclasses.field(default_factory=dict)
    video_mean: Scores = dataclasses.field(default_factory=dict)
    videos: dict[str, Scores] = dataclasses.field(default_factory=dict)
    images_per_second: float | None = None
    checkpoint: str | None = None
    digest: str | None = None
    ensemble: bool = False
    precision: str = "float32"
    model: ModelConfig | None = None
    parameters: int | None = None
    runtime: Runtime | None = None
    paper: PaperFigures | None = None


@dataclasses.dataclass(frozen=True)
class Report:
    """A report.

    Attributes:
      source, split: of the pairs.
      options: those that the source was opened with.
      images, of: number of pairs to score, and of the whole set.
      rows: the blurry input's first.
      date: ISO 8601.
      command: that made it.
      devices: such as "1 x cpu, 2 cores".
      version, jax: of this package and of JAX.
    """

    source: str
    split: str
    images: int
    of: int
    rows: tuple[Row, ...]
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    date: str = ""
    command: str = ""
    devices: str = ""
    version: str = ""
    jax: str = ""

    @property
    def failed(self) -> bool:
        """Whether a pair could not be scored."""
        return any(row.failed for row in self.rows)


def to_json(report: Report) -> str:
    """Returns a report as JSON; numbers JSON cannot hold (inf, nan) become null."""
    values = {
        "format": FORMAT,
        "version": report.version,
        "date": report.date,
        "command": report.command,
        "environment": {"devices": report.devices, "jax": report.jax},
        "data": {
            "name": report.source,
            "split": report.split,
            **report.options,
            "images": report.images,
            "of": report.of,
        },
        "rows": [_row_to_json(row) for row in report.rows],
    }
    return json.dumps(_finite(values), indent=1, allow_nan=False) + "\n"


def _row_to_json(row: Row) -> _Json:
    values: _Json = {
        "label": row.label,
        "checkpoint": row.checkpoint,
        "digest": row.digest,
        "options": run_options(row.ensemble, row.precision),
        "images": row.images,
        "failed": row.failed,
        **row.mean,
        "images_per_second": row.images_per_second,
        "runtime": row.runtime and dataclasses.asdict(row.runtime),
        "video_mean": row.video_mean,
        "videos": row.videos,
        "paper": row.paper and _paper_to_json(row.paper),
    }
    if row.model is not None:
        values |= {"model": row.model.to_dict(), "parameters": row.parameters}
    return values


def run_options(ensemble: bool, precision: str) -> _Json:
    """Returns how a network was run, as plain JSON values: what is not the default."""
    options: _Json = {"ensemble": True} if ensemble else {}
    return options if precision == "float32" else {**options, "precision": precision}


def _paper_to_json(paper: PaperFigures) -> _Json:
    values = dataclasses.asdict(paper)
    return values if paper.label else {"table_3": values["table_3"]}


def read(path: str | os.PathLike[str]) -> Report:
    """Reads a report: its folder, or its `report.json`; raises UserError if it is none."""
    path = Path(path)
    file = path / "report.json" if path.is_dir() else path
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{file}: no such report; `dmphn evaluate --report` writes one") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file}: not a report: {one_line(error)}") from None
    if not isinstance(values, dict) or not isinstance(values.get("rows"), list):
        raise UserError(f"{file}: not a report of `dmphn evaluate --report`")
    try:
        if values.get("format", 0) > FORMAT:
            raise UserError(f"{file}: from a newer version of dmphn_jax; upgrade it")
        return _from_json(values)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{file}: not a report: {type(error).__name__}: {error}") from None


def _from_json(values: _Json) -> Report:
    data, machine = dict(values.get("data", {})), values.get("environment", {})
    return Report(
        source=data.pop("name", ""),
        split=data.pop("split", ""),
        images=data.pop("images", 0),
        of=data.pop("of", 0),
        options={n: tuple(v) if isinstance(v, list) else v for n, v in data.items()},
        rows=tuple(_row_from_json(row) for row in values["rows"]),
        date=values.get("date", ""),
        command=values.get("command", ""),
        devices=machine.get("devices", ""),
        version=values.get("version", ""),
        jax=machine.get("jax", ""),
    )


def _row_from_json(values: _Json) -> Row:
    options, model, runtime, paper = (
        values.get(name) for name in ("options", "model", "runtime", "paper")
    )
    options = options or {}
    return Row(
        label=values["label"],
        images=values.get("images", 0),
        failed=values.get("failed", 0),
        mean=_scores(values),
        video_mean=_scores(values.get("video_mean", {})),
        videos={name: _scores(of) for name, of in values.get("videos", {}).items()},
        images_per_second=values.get("images_per_second"),
        checkpoint=values.get("checkpoint"),
        digest=values.get("digest"),
        ensemble=options.get("ensemble", False),
        precision=options.get("precision", "float32"),
        model=ModelConfig.from_dict(model) if model else None,
        parameters=values.get("parameters"),
        runtime=Runtime(**_known(Runtime, runtime)) if runtime else None,
        paper=PaperFigures(**_known(PaperFigures, paper)) if paper else None,
    )


def _known(kind: type[Runtime] | type[PaperFigures], values: _Json) -> _Json:
    """Returns the fields of a dataclass among JSON values, lists as tuples."""
    names = [field.name for field in dataclasses.fields(kind) if field.name in values]
    return {n: tuple(values[n]) if isinstance(values[n], list) else values[n] for n in names}


def _scores(values: _Json) -> Scores:
    """Returns the metrics among JSON values; null, which stands for inf and nan, as nan."""
    return {
        name: math.nan if values.get(name) is None else float(values[name]) for name in METRIC_NAMES
    }


def _finite(value: Any) -> Any:
    """Returns plain values with those JSON cannot hold (inf, nan) as null."""
    if isinstance(value, Mapping):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def per_image_csv(images: Mapping[str, list[ImageScores]]) -> str:
    """Returns CSV: label of a row -> its images, as a line per row and image."""
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    out.writerow(["model", "image", "height", "width", *METRIC_NAMES])
    for label, scored in images.items():
        for image in scored:
            scores = (f"{image.scores[name]:.6f}" for name in METRIC_NAMES)
            out.writerow([label, image.name, image.height, image.width, *scores])
    return text.getvalue()
