"""`dmphn plot`: PSNR against runtime (Fig. 1) from reports of `dmphn evaluate`."""

from __future__ import annotations

import argparse
import io
from pathlib import Path

from dmphn_jax import storage
from dmphn_jax.errors import UserError
from dmphn_jax.evaluation import figures
from dmphn_jax.files import write_file

DESCRIPTION = """\
Draw PSNR against the time of one image, as the paper's Fig. 1, from reports that
`dmphn evaluate --report FOLDER` wrote. Times stand on a logarithmic axis; each report is one
series, named after its folder and its machine. With --paper the paper's own points are drawn
too, apart and grey: they were taken on a P100 without waiting for the GPU, so only their PSNR
(GoPro's test set) can be compared."""

FORMATS = ("png", "pdf", "svg", "jpg", "jpeg")


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
    storage.local_only("--output", args.output)
    kind = Path(args.output).suffix[1:].lower()
    if kind not in FORMATS:
        raise UserError(f"--output {args.output}: ends in none of .{', .'.join(FORMATS)}")

    series: dict[str, list[figures.Point]] = {}
    sizes: set[str] = set()
    for path in args.reports:
        name, points, size = figures.read_points(path)
        sizes |= size
        series.setdefault(name if name not in series else path, []).extend(points)
    figure = figures.draw(series, sorted(sizes), paper=args.paper, title=args.title)
    content = io.BytesIO()
    figure.savefig(content, format=kind)
    write_file(args.output, content.getvalue())
    print(f"{args.output}: {sum(map(len, series.values()))} points")
    return 0
