"""A report as Markdown: its rows beside the paper's figures."""

from __future__ import annotations

from collections.abc import Sequence

from dmphn_jax.evaluation.paper import BLURRY, TABLE_3, PaperFigures, video_number
from dmphn_jax.evaluation.report import Report, Row
from dmphn_jax.tables import markdown_table, without_empty_columns

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

_NOTHING = PaperFigures()


def text(report: Report) -> str:
    """Returns a report as Markdown."""
    videos = report.source == "video_deblurring"
    of = f" of {report.of}" if report.of != report.images else ""
    options = "".join(f", {name} {value}" for name, value in report.options.items())
    pairs = "pair" if report.images == 1 and not of else "pairs"
    lines = [
        f"# Evaluation on {report.source}",
        "",
        f"{report.images}{of} {pairs} of the split `{report.split}`{options}, {report.date}.",
        "",
        _main_table(report.rows, videos),
        "",
    ]
    if videos:
        lines += ["PSNR (dB) per video, the paper's (Table 3) in brackets:", ""]
        lines += [_video_table(report.rows), ""]
    lines += _remarks(report, videos)
    return "\n".join(lines) + "\n"


def _main_table(rows: Sequence[Row], videos: bool) -> str:
    where = "Table 3" if videos else "GoPro"
    header = ["model", "PSNR (dB)", f"paper's, {where}", "SSIM (MATLAB 3-D)"]
    if not videos:
        header.append("paper's, GoPro")
    header += ["SSIM (scikit-image)", "MB", "ms", "at", "paper's ms", "images/s"]
    cells = [_cells(row, videos) for row in rows]
    return markdown_table(*without_empty_columns(header, cells))


def _cells(row: Row, videos: bool) -> list[str]:
    paper, runtime = row.paper or _NOTHING, row.runtime
    mean = row.video_mean if videos else row.mean
    star = "*" if paper.trained_apart else ""
    psnr = (paper.table_3[-1] if paper.table_3 else None) if videos else paper.psnr
    line = [row.label, _number(mean["psnr"], 2), _number(psnr, 2, star)]
    line.append(_number(mean["ssim_matlab"], 4))
    if not videos:
        line.append(_number(paper.ssim_matlab, 4, star))
    line.append(_number(mean["ssim_skimage"], 4))
    line.append(_number(4e-6 * row.parameters, 1) if row.parameters else "")
    if runtime:
        line.append(_number(runtime.ms, 0 if runtime.ms >= 100 else 1))
        line += [f"{runtime.width}x{runtime.height}", _number(paper.runtime_ms, 0)]
    else:
        line += ["", "", ""]
    return [*line, _number(row.images_per_second, 2)]


def _video_table(rows: Sequence[Row]) -> str:
    numbers = {video: video_number(video) for row in rows for video in row.videos}
    names = sorted(numbers, key=lambda video: numbers[video] or len(TABLE_3[BLURRY]))

    def cell(row: Row, value: float | None, position: int | None) -> str:
        table_3 = row.paper.table_3 if row.paper else ()
        beside = f" ({table_3[position]:.2f})" if table_3 and position is not None else ""
        return _number(value, 2) + beside

    cells = []
    for name in names:
        number = numbers[name]
        position = number - 1 if number else None
        line = [f"{name} (#{number})" if number else name]
        line += [cell(row, row.videos.get(name, {}).get("psnr"), position) for row in rows]
        cells.append(line)
    cells.append(["mean", *(cell(row, row.video_mean["psnr"], -1) for row in rows)])
    return markdown_table(["video", *(row.label for row in rows)], cells)


def _remarks(report: Report, videos: bool) -> list[str]:
    rows = report.rows
    lines = [NOTES]
    if any(row.runtime for row in rows):
        lines += [RUNTIME_NOTES, ""]
    if any(row.images_per_second for row in rows):
        lines += [RATE_NOTES, ""]
    failed = max((row.failed for row in rows), default=0)
    if failed:
        some = "1 pair" if failed == 1 else f"{failed} pairs"
        lines += [f"{some} could not be scored: means are of the others.", ""]
    complete = (report.source, report.split, report.images) == ("gopro", "test", 1111)
    complete = complete and not failed and report.options.get("blur", "blur") == "blur"
    if videos:
        lines += ["Means are over the videos' means, as in Table 3.", ""]
        if report.of != report.images:
            lines += ["The paper's figures are of every frame.", ""]
    elif not complete:
        lines += ["The paper's figures are of GoPro's 1111 test pairs (`blur`): other images.", ""]
    if any(row.paper and row.paper.trained_apart for row in rows):
        lines += ["\\* of a stack of that depth, trained by itself.", ""]
    for row in rows:
        if row.checkpoint:
            without = f"; {row.failed} not scored" if row.failed else ""
            digest = (row.digest or "")[:12]
            lines.append(f"- {row.label}: `{row.checkpoint}`, digest {digest}{without}")
    lines += ["", f"Machine: {report.devices}; jax {report.jax}.", ""]
    lines += ["Command:", "", f"    {report.command}"]
    return lines


def _number(value: float | None, digits: int, mark: str = "") -> str:
    return "" if value is None else f"{value:.{digits}f}{mark}"
