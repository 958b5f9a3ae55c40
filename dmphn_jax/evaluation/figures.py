"""Fig. 1: PSNR against the time of one image, from reports of `dmphn evaluate`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from dmphn_jax.errors import UserError
from dmphn_jax.evaluation import report
from dmphn_jax.models import zoo

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text

_DPI = 150
_MARKER = 12.0  # pixels, with some air around it


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
    series: Mapping[str, Sequence[Point]],
    sizes: Sequence[str] = (),
    *,
    paper: bool = False,
    title: str | None = None,
) -> Figure:
    """Returns the figure of named series of points; `paper` adds those of the paper's Fig. 1.

    Names stand beside their points, none over another, and all within the frame.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogFormatter

    figure = Figure(figsize=(10, 7), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)  # measures the names
    axes = figure.add_subplot()
    names = []
    if paper:
        known = [
            Point(entry.runtime_ms, entry.psnr, entry.label)
            for entry in zoo.ZOO.values()
            if entry.runtime_ms and "1" in entry.tables.split(", ")  # Table 1 is what Fig. 1 shows
        ]
        name = "paper: P100, timed without waiting for the GPU"
        names += _scatter(axes, known, name, "0.5", "x")
    for i, (name, points) in enumerate(series.items()):
        names += _scatter(axes, points, name, f"C{i}", "o")
    axes.set_xscale("log")
    axes.margins(0.14, 0.1)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(LogFormatter())  # 20, not 2 x 10^1
    axes.grid(True, which="both", alpha=0.25)
    of = f" of {' and '.join(sizes)}" if sizes else ""
    axes.set_xlabel(f"ms per image{of}")
    axes.set_ylabel("PSNR (dB)")
    axes.set_title(title or "PSNR against runtime")
    figure.legend(loc="outside lower center")
    figure.draw_without_rendering()  # settles the layout, in which the names then find room
    _place(axes, names)
    return figure


def _scatter(
    axes: Axes, points: Sequence[Point], name: str, colour: str, marker: str
) -> list[Text]:
    """Draws a series, and returns the names of its points, which lie on them."""
    x, y = [point.ms for point in points], [point.psnr for point in points]
    axes.scatter(x, y, c=colour, marker=marker, label=name, s=25)
    return [axes.text(p.ms, p.psnr, p.label, fontsize=8, color=colour) for p in points]


def _place(axes: Axes, names: Sequence[Text]) -> None:
    """Moves names off each other and off the points; a line leads to those that stand apart."""
    from adjustText import adjust_text

    # What a name may not cover: the corners of every marker, each smaller than a name.
    middles = axes.transData.transform([name.get_position() for name in names])
    rim = np.array([(-1, -1), (-1, 1), (1, -1), (1, 1)])
    covered = (middles[:, None] + _MARKER / 2 * rim).reshape(-1, 2)
    x, y = axes.transData.inverted().transform(covered).T
    adjust_text(
        list(names),
        x,
        y,
        ax=axes,
        expand=(1.05, 1.15),
        force_static=(0.2, 0.4),
        force_text=(0.3, 0.6),
        iter_lim=300,  # by number, not by time: the same figure on every machine
        arrowprops={"arrowstyle": "-", "color": "0.6", "lw": 0.6},
    )
