"""Fig. 1: PSNR against the time of one image, from reports of `dmphn evaluate`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dmphn_jax.errors import UserError
from dmphn_jax.evaluation import report
from dmphn_jax.models import zoo


class Point(NamedTuple):
    """A model in the figure: milliseconds per image, PSNR in dB, its name."""

    ms: float
    psnr: float
    label: str


def read_points(path: str) -> tuple[str, list[Point], set[str]]:
    """Returns the series' name, its points and the image sizes of one report.

    Raises UserError if the report holds no row with both PSNR and runtime.
    """
    made = report.read(path)
    points, sizes = [], set()
    for row in made.rows:
        psnr = row.mean["psnr"]
        if row.runtime and math.isfinite(psnr):
            points.append(Point(row.runtime.ms, psnr, row.label))
            sizes.add(f"{row.runtime.width}x{row.runtime.height}")
    if not points:
        raise UserError(f"{path}: no row has a runtime; evaluate without --no-timing")
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    return f"{folder.resolve().name} ({made.devices})", points, sizes


def draw(
    series: dict[str, Sequence[Point]],
    sizes: Sequence[str] = (),
    *,
    paper: bool = False,
    title: str | None = None,
) -> Any:
    """Returns the figure (matplotlib) of named series of points."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6))
    axes = figure.add_subplot()
    if paper:
        known = [
            Point(entry.runtime_ms, entry.psnr, entry.label)
            for entry in zoo.ZOO.values()
            if entry.runtime_ms and "1" in entry.tables.split(", ")  # Table 1 is what Fig. 1 shows
        ]
        _scatter(axes, known, "paper: P100, timed without waiting for the GPU", "0.6", "x", -11)
    for i, (name, points) in enumerate(series.items()):
        _scatter(axes, points, name, f"C{i}", "o", 4)
    axes.set_xscale("log")
    axes.grid(True, which="both", alpha=0.25)
    of = f" of {' and '.join(sizes)}" if sizes else ""
    axes.set_xlabel(f"ms per image{of}")
    axes.set_ylabel("PSNR (dB)")
    axes.set_title(title or "PSNR against runtime")
    axes.legend(loc="best")
    return figure


def _scatter(
    axes: Any, points: Sequence[Point], name: str, colour: str, marker: str, lift: int
) -> None:
    axes.scatter(
        [p.ms for p in points], [p.psnr for p in points], c=colour, marker=marker, label=name
    )
    for point in points:
        axes.annotate(
            point.label,
            (point.ms, point.psnr),
            xytext=(5, lift),
            fontsize=8,
            textcoords="offset points",
            color=colour,
        )
