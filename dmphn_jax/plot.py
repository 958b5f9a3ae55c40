"""`dmphn plot`: PSNR against runtime (Fig. 1) from reports of `dmphn evaluate`."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dmphn_jax import report
from dmphn_jax.errors import UserError, run_command
from dmphn_jax.models import zoo

DESCRIPTION = """\
Draw PSNR against the time of one image, as the paper's Fig. 1, from reports that
`dmphn evaluate --report FOLDER` wrote. Times stand on a logarithmic axis; each report is one
series, named after its folder and its machine. With --paper the paper's own points are drawn
too, apart and grey: they were taken on a P100 without waiting for the GPU, so only their PSNR
(GoPro's test set) can be compared."""

FORMATS = ("png", "pdf", "svg", "jpg", "jpeg")


class Point(NamedTuple):
    """A model in the figure: milliseconds per image, PSNR in dB, its name."""

    ms: float
    psnr: float
    label: str


def main(argv: list[str]) -> int:
    """Draws the figure."""
    parser = argparse.ArgumentParser(
        prog="dmphn plot",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("reports", nargs="+", metavar="REPORT", help="folder of a report, or its report.json")
    add("--output", required=True, metavar="FILE", help=f"picture: .{', .'.join(FORMATS)}")
    add("--paper", action="store_true", help="draw the paper's points too")
    add("--title", help="above the figure")
    args = parser.parse_args(argv)
    kind = Path(args.output).suffix[1:].lower()
    if kind not in FORMATS:
        raise UserError(f"--output {args.output}: ends in none of .{', .'.join(FORMATS)}")

    series: dict[str, list[Point]] = {}
    sizes: set[str] = set()
    for path in args.reports:
        name, points, size = read_points(path)
        sizes |= size
        series.setdefault(name, []).extend(points)
    figure = draw(series, sorted(sizes), paper=args.paper, title=args.title)
    content = io.BytesIO()
    figure.savefig(content, format=kind, dpi=150, bbox_inches="tight")
    report.write_file(args.output, content.getvalue())
    print(f"{args.output}: {sum(map(len, series.values()))} points")
    return 0


def read_points(path: str) -> tuple[str, list[Point], set[str]]:
    """Returns the series' name, its points and the image sizes of one report.

    Raises UserError if the report holds no row with both PSNR and runtime.
    """
    made = report.read(path)
    points, sizes = [], set()
    for row in made["rows"]:
        runtime = row.get("runtime")
        if runtime and row.get("psnr") is not None:
            points.append(Point(runtime["ms"], row["psnr"], row["label"]))
            sizes.add(f"{runtime['width']}x{runtime['height']}")
    if not points:
        raise UserError(f"{path}: no row has a runtime; evaluate without --no-timing")
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    machine = made.get("environment", {}).get("devices", "")
    return f"{folder.resolve().name} ({machine})", points, sizes


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


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
