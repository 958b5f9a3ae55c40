"""Fig. 1: PSNR, and SSIM, against the time of one image, from reports of `dmphn evaluate`."""

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
_PAPER = "paper: P100, timed without waiting for the GPU"
_SCORES = {"psnr": "PSNR (dB)", "ssim": "SSIM (MATLAB 3-D)"}


class Point(NamedTuple):
    """A model in the figure: milliseconds per image, PSNR in dB, its name, SSIM as MATLAB's."""

    ms: float
    psnr: float
    label: str
    ssim: float | None = None


def read_points(path: str) -> tuple[str, list[Point], set[str]]:
    """Returns the series' name, its points and the image sizes of one report.

    Raises UserError if the report holds no row with both PSNR and runtime.
    """
    made = report.read(path)
    points, sizes = [], set()
    for row in made.rows:
        psnr, ssim = row.mean["psnr"], row.mean.get("ssim_matlab", math.nan)
        if row.runtime and math.isfinite(psnr):
            known = ssim if math.isfinite(ssim) else None
            points.append(Point(row.runtime.ms, psnr, row.label, known))
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
    ssim: bool = False,
    title: str | None = None,
) -> Figure:
    """Returns the figure of named series of points; `paper` adds those of the paper's Fig. 1.

    With `ssim` a second panel shows that of the points which have one. Names stand beside their
    points, none over another, and all within the frame.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 12 if ssim else 7), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)  # measures the names
    panels = figure.subplots(2 if ssim else 1, sharex=True, squeeze=False)[:, 0]
    shown: list[tuple[str, Sequence[Point], str, str]] = []
    if paper:
        shown.append((_PAPER, _papers(), "0.5", "x"))
    shown += [(name, points, f"C{i}", "o") for i, (name, points) in enumerate(series.items())]
    names = []
    for axes, score in zip(panels, ("psnr", "ssim")):
        _format(axes)
        names.append([text for one in shown for text in _scatter(axes, score, *one)])
        axes.set_ylabel(_SCORES[score])
    of = f" of {' and '.join(sizes)}" if sizes else ""
    panels[-1].set_xlabel(f"ms per image{of}")
    panels[0].set_title(title or f"PSNR {'and SSIM ' if ssim else ''}against runtime")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center")
    figure.draw_without_rendering()  # settles the layout, in which the names then find room
    for axes, texts in zip(panels, names):
        _place(axes, texts)
    return figure


def _papers() -> list[Point]:
    """Returns the points of the paper's Fig. 1."""
    return [
        Point(entry.runtime_ms, entry.psnr, entry.label, entry.ssim)
        for entry in zoo.ZOO.values()
        if entry.runtime_ms and "1" in entry.tables.split(", ")  # Table 1 is what Fig. 1 shows
    ]


def _format(axes: Axes) -> None:
    from matplotlib.ticker import LogFormatter

    axes.set_xscale("log")
    axes.margins(0.14, 0.1)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(LogFormatter())  # 20, not 2 x 10^1
    axes.grid(True, which="both", alpha=0.25)


def _scatter(
    axes: Axes, score: str, name: str, points: Sequence[Point], colour: str, marker: str
) -> list[Text]:
    """Draws a series, and returns the names of its points, which lie on them."""
    found = [(p.ms, getattr(p, score), p.label) for p in points]
    found = [(x, y, label) for x, y, label in found if y is not None]
    x, y = [point[0] for point in found], [point[1] for point in found]
    axes.scatter(x, y, c=colour, marker=marker, label=name, s=25)
    return [axes.text(*point, fontsize=8, color=colour) for point in found]


def _place(axes: Axes, names: Sequence[Text]) -> None:
    """Moves names off each other and off the points; a line leads to those that stand apart."""
    from adjustText import adjust_text

    if not names:
        return

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
