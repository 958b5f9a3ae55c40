"""Reports of an evaluation: rows of figures beside the paper's, as JSON, Markdown and CSV."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dmphn_jax.errors import UserError, one_line
from dmphn_jax.files import shown, write_atomically
from dmphn_jax.models import ModelConfig, parameter_count, zoo

FORMAT = 1
BLURRY = "blurry input"

_DATA_FIELDS = ("name", "split", "images", "of")

# Table 3: PSNR (dB) on VideoDeblurring's test videos #1..#10 and the mean as printed, by models
# trained on GoPro. (The stacks' ten values average 0.08 less than the mean the paper prints.)
TABLE_3: dict[str, tuple[float, ...]] = {
    BLURRY: (24.14, 30.52, 28.38, 27.31, 22.60, 29.31, 27.74, 23.86, 30.59, 26.98, 27.14),
    "dmphn_1_2_4": (29.89, 33.35, 31.82, 31.32, 26.35, 32.49, 30.51, 27.11, 34.77, 30.02, 30.76),
    "stack2": (30.19, 33.98, 32.16, 31.82, 26.57, 32.94, 30.73, 27.45, 35.11, 30.41, 31.22),
    "stack3": (30.48, 34.31, 32.24, 32.09, 26.77, 33.08, 30.84, 27.51, 35.24, 30.57, 31.39),
    "stack4": (30.48, 34.41, 32.25, 32.10, 26.87, 33.12, 30.86, 27.55, 35.25, 30.60, 31.43),
}

NOTES = """\
PSNR and SSIM are taken between 8-bit RGB images, outputs clipped and rounded to nearest, borders
included, and averaged over images. *SSIM (MATLAB 3-D)* is what MATLAB's `ssim` returns for an RGB
array, the convention of the paper's tables; *SSIM (scikit-image)* is the per-channel Gaussian one.
"""
RUNTIME_NOTES = """\
*ms* is the median time of one image, from uint8 on the host to uint8 on the host, waiting for the
device, after a warm-up. The paper's ms are of a P100 at 1280x720, timed without waiting for the
GPU: do not compare them."""
RATE_NOTES = """\
*images/s* is the rate of the evaluation itself, reading and scoring included, compilation left
out."""


def row(
    label: str,
    result: Any,
    *,
    checkpoint: str | None = None,
    digest: str | None = None,
    config: ModelConfig | None = None,
    stages: int | None = None,
    options: dict[str, Any] | None = None,
    runtime: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Returns one row of a report as plain JSON values.

    Args:
      label: what was scored, for people.
      result: `evaluation.EvalResult`.
      checkpoint: its path as the user gave it.
      digest: of its parameters.
      config: the model of the checkpoint; the row holds the paper's figures for it.
      stages: those that ran, if not all.
      options: how it was run beyond the defaults, such as {"ensemble": True}.
      runtime: {"ms", "height", "width"} of one image.
    """
    values: dict[str, Any] = {
        "label": label,
        "checkpoint": checkpoint,
        "digest": digest,
        "options": options or {},
        "images": len(result),
        "failed": len(result.failures),
        **result.mean,
        "images_per_second": result.images_per_second,
        "runtime": runtime,
        "video_mean": result.video_mean,
        "videos": result.videos,
        "paper": None,
    }
    if label == BLURRY:
        values["paper"] = {"table_3": list(TABLE_3[BLURRY])}
    if config is not None:
        part = ModelConfig(**{**config.to_dict(), "stages": stages or config.stages})
        values["model"] = config.to_dict()
        values["parameters"] = parameter_count(part)
        entry = zoo.paper_entry(part)
        if entry:
            values["paper"] = {
                "label": entry.label,
                "psnr": entry.psnr,
                "ssim_matlab": entry.ssim,
                "runtime_ms": entry.runtime_ms,
                "tables": entry.tables,
                "trained_apart": part != config,
                "table_3": list(TABLE_3.get(entry.name, ())),
            }
    return values


def label_of(config: ModelConfig, stages: int | None = None, options: dict | None = None) -> str:
    """Returns a model's name for people: the paper's where it has one, with what differs."""
    entry = zoo.paper_entry(config)
    parts = [entry.label if entry else zoo.name_of(config)]
    if config.width != 32:
        parts.append(f"width {config.width}")
    if config.global_skip:
        parts.append("global skip")
    if stages and stages != config.stages:
        parts.append(f"first {stages} of {config.stages} stages")
    options = options or {}
    if options.get("ensemble"):
        parts.append("x8 ensemble")
    if options.get("precision", "float32") != "float32":
        parts.append(options["precision"])
    return ", ".join(parts)


def video_number(video: str) -> int | None:
    """Returns which of Table 3's #1..#10 a test video of VideoDeblurring is; None if none.

    The order is the one the dataset's author published. The paper names no videos, but its row of
    input PSNRs follows that order, and so should the blurry input's row of a report.
    """
    from dmphn_jax.data.splits import VIDEO_DEBLURRING_TEST

    order = VIDEO_DEBLURRING_TEST
    return order.index(video) + 1 if video in order else None


def markdown(report: dict[str, Any]) -> str:
    """Returns a report as Markdown."""
    data = report["data"]
    videos = data["name"] == "video_deblurring"
    lines = [f"# Evaluation on {data['name']}", ""]
    total = data["images"]
    of = f" of {data['of']}" if data["of"] != total else ""
    options = "".join(f", {k} {data[k]}" for k in data if k not in _DATA_FIELDS)
    pairs = "pair" if total == 1 and not of else "pairs"
    lines += [f"{total}{of} {pairs} of the split `{data['split']}`{options}, {report['date']}.", ""]
    lines += [_main_table(report["rows"], videos), ""]
    if videos:
        lines += ["PSNR (dB) per video, the paper's (Table 3) in brackets:", ""]
        lines += [_video_table(report["rows"]), ""]
    lines += _remarks(report, videos)
    return "\n".join(lines) + "\n"


def _main_table(rows: Sequence[dict[str, Any]], videos: bool) -> str:
    where = "Table 3" if videos else "GoPro"
    header = ["model", "PSNR (dB)", f"paper's, {where}", "SSIM (MATLAB 3-D)"]
    if not videos:
        header.append("paper's, GoPro")
    header += ["SSIM (scikit-image)", "MB", "ms", "at", "paper's ms", "images/s"]
    cells = []
    for r in rows:
        paper, runtime = r["paper"] or {}, r["runtime"] or {}
        mean = r["video_mean"] if videos else r
        table_3 = paper.get("table_3")
        psnr = table_3[-1] if videos and table_3 else None
        if not videos:
            psnr = paper.get("psnr")
        star = "*" if paper.get("trained_apart") else ""
        line = [r["label"], _number(mean["psnr"], 2), _number(psnr, 2) + star * (psnr is not None)]
        line.append(_number(mean["ssim_matlab"], 4))
        if not videos:
            ssim = paper.get("ssim_matlab")
            line.append(_number(ssim, 4) + star * (ssim is not None))
        size = f"{runtime['width']}x{runtime['height']}" if runtime else ""
        line += [
            _number(mean["ssim_skimage"], 4),
            _number(4e-6 * r["parameters"], 1) if r.get("parameters") else "",
            _number(runtime.get("ms"), 0 if (runtime.get("ms") or 0) >= 100 else 1),
            size,
            _number(paper.get("runtime_ms"), 0) if runtime else "",
            _number(r["images_per_second"], 2),
        ]
        cells.append(line)
    used = [i for i in range(len(header)) if any(line[i] for line in cells)]
    return table([header[i] for i in used], [[line[i] for i in used] for line in cells])


def _video_table(rows: Sequence[dict[str, Any]]) -> str:
    numbers = {video: video_number(video) for r in rows for video in r["videos"]}
    names = sorted(numbers, key=lambda video: numbers[video] or len(TABLE_3[BLURRY]))
    header = ["video"] + [r["label"] for r in rows]
    cells = []
    for name in names:
        number = numbers[name]
        line = [f"{name} (#{number})" if number else name]
        for r in rows:
            text = _number(r["videos"].get(name, {}).get("psnr"), 2)
            table_3 = (r["paper"] or {}).get("table_3")
            line.append(f"{text} ({table_3[number - 1]:.2f})" if number and table_3 else text)
        cells.append(line)
    line = ["mean"]
    for r in rows:
        text = _number(r["video_mean"]["psnr"], 2)
        table_3 = (r["paper"] or {}).get("table_3")
        line.append(f"{text} ({table_3[-1]:.2f})" if table_3 else text)
    return table(header, [*cells, line])


def _remarks(report: dict[str, Any], videos: bool) -> list[str]:
    data, rows = report["data"], report["rows"]
    lines = [NOTES]
    if any(r["runtime"] for r in rows):
        lines += [RUNTIME_NOTES, ""]
    if any(r["images_per_second"] for r in rows):
        lines += [RATE_NOTES, ""]
    complete = (data["name"], data["split"], data["images"]) == ("gopro", "test", 1111)
    complete = complete and data.get("blur", "blur") == "blur"
    if videos:
        lines += ["Means are over the videos' means, as in Table 3.", ""]
        if data["of"] != data["images"]:
            lines += ["The paper's figures are of every frame.", ""]
    elif not complete:
        lines += ["The paper's figures are of GoPro's 1111 test pairs (`blur`): other images.", ""]
    if any((r["paper"] or {}).get("trained_apart") for r in rows):
        lines += ["\\* of a stack of that depth, trained by itself.", ""]
    for r in rows:
        if r["checkpoint"]:
            failed = f"; {r['failed']} pairs failed" if r["failed"] else ""
            lines.append(f"- {r['label']}: `{r['checkpoint']}`, digest {r['digest'][:12]}{failed}")
    machine = report["environment"]
    lines += ["", f"Machine: {machine['devices']}; jax {machine['jax']}.", ""]
    lines += ["Command:", "", f"    {report['command']}"]
    return lines


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns an aligned Markdown table; the first column to the left, the others to the right."""
    widths = [max(len(line[i]) for line in [header, *rows]) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        first, *rest = (
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return "| " + " | ".join([first, *rest]) + " |"

    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join([line(header), line(rule), *map(line, rows)])


def write(folder: str | os.PathLike[str], report: dict[str, Any]) -> None:
    """Writes `report.json` and `report.md` into a folder, each whole or not at all."""
    folder = Path(folder)
    text = json.dumps(_finite(report), indent=1, allow_nan=False)
    write_file(folder / "report.json", text + "\n")
    write_file(folder / "report.md", markdown(report))


def per_image_csv(results: dict[str, Any]) -> str:
    """Returns CSV: label -> `EvalResult` as a line per method and image."""
    from dmphn_jax.evaluation.metrics import METRICS

    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    out.writerow(["model", "image", "height", "width", *METRICS])
    for label, result in results.items():
        for image in result.images:
            scores = (f"{image.scores[name]:.6f}" for name in METRICS)
            out.writerow([label, image.name, image.height, image.width, *scores])
    return text.getvalue()


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads a report: its folder, or its `report.json`; raises UserError if it is none."""
    path = Path(path)
    file = path / "report.json" if path.is_dir() else path
    try:
        report = json.loads(file.read_text())
    except FileNotFoundError:
        raise UserError(f"{file}: no such report; `dmphn evaluate --report` writes one") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: not a report: {one_line(error)}") from None
    if not isinstance(report, dict) or not isinstance(report.get("rows"), list):
        raise UserError(f"{file}: not a report of `dmphn evaluate --report`")
    if report.get("format", 0) > FORMAT:
        raise UserError(f"{file}: from a newer version of dmphn_jax; upgrade it")
    return report


def write_file(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Writes a file whole or not at all; raises UserError if it cannot be written."""
    try:
        write_atomically(path, content.encode() if isinstance(content, str) else content)
    except OSError as error:
        reason = error.strerror or one_line(error)
        raise UserError(f"{shown(path)}: cannot be written: {reason}") from None


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _finite(value: Any) -> Any:
    """Returns plain values with those JSON cannot hold (inf, nan) as null."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
