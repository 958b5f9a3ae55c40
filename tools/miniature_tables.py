"""Writes the tables and figures of docs/miniature.md from docs/miniature.json.

    python tools/miniature_tables.py

In the page a table stands between `<!-- NAME -->` and `<!-- end -->`; what is between is replaced.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from dmphn_jax.evaluation.figures import Point, draw
from dmphn_jax.models import zoo

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "miniature.json"
PAGE = ROOT / "docs" / "miniature.md"
ROWS = [name for name in zoo.ZOO if name != "dmsn_1"]  # DMSN(1) is DMPHN(1)
_LONG, _MODERN = "long_", "modern_"
MODERN = ["modern_dmphn_1", "modern_dmphn_1_2_4", "modern_stack2"]
LONG = ["long_dmphn_1", "long_dmphn_1_1_1", "long_dmphn_1_2_4"]
LONG += ["long_modern_dmphn_1", "long_modern_dmphn_1_2_4"]
REAL = {
    "real_from_scratch": "random weights; crops of 64, rate 1e-3",
    "real_from_released": "the authors' weights; crops of 64, rate 1e-4",
    "real_gently": "the authors' weights; crops of 256, rate 1e-5",
}

# What the paper's tables say: the first of two is the better.
CLAIMS = [
    ("more levels help", ("dmphn_1_2", "dmphn_1")),
    ("more levels help", ("dmphn_1_2_4", "dmphn_1_2")),
    ("more levels help", ("dmphn_1_2_4_8", "dmphn_1_2_4")),
    ("until they do not", ("dmphn_1_2_4_8", "dmphn_1_2_4_8_16")),
    ("patches beat the same depth without", ("dmphn_1_2_4", "dmphn_1_1_1")),
    ("depth without patches is worse than none", ("dmphn_1", "dmphn_1_1_1")),
    ("a gentle hierarchy beats a steep one", ("dmphn_1_2_4", "dmphn_1_4_16")),
    ("patches beat scales", ("dmphn_1_2", "dmsn_2")),
    ("patches beat scales", ("dmphn_1_2_4", "dmsn_3")),
    ("more scales help", ("dmsn_3", "dmphn_1")),
    ("sharing weights costs a little", ("dmphn_1_2", "dmphn_1_2_ws")),
    ("sharing weights costs a little", ("dmphn_1_2_4", "dmphn_1_2_4_ws")),
    ("sharing weights costs a little", ("dmphn_1_2_4_8", "dmphn_1_2_4_8_ws")),
    ("stacking helps", ("stack2", "dmphn_1_2_4")),
    ("stacking helps", ("stack3", "stack2")),
    ("stacking helps", ("stack4", "stack3")),
    ("V beats I", ("vmphn", "stack2")),
    ("V beats I", ("stack2_vmphn", "stack4")),
    ("the modern recipe beats the paper's", ("modern_dmphn_1", "dmphn_1")),
    ("the modern recipe beats the paper's", ("modern_dmphn_1_2_4", "dmphn_1_2_4")),
    ("the modern recipe beats the paper's", ("modern_stack2", "stack2")),
    ("more levels help", ("long_dmphn_1_2_4", "long_dmphn_1")),
    ("more levels help", ("long_modern_dmphn_1_2_4", "long_modern_dmphn_1")),
    ("patches beat the same depth without", ("long_dmphn_1_2_4", "long_dmphn_1_1_1")),
    ("the modern recipe beats the paper's", ("long_modern_dmphn_1_2_4", "long_dmphn_1_2_4")),
]

# Decibels within which two models are equal; the paper argues about 0.04.
TIE = 0.02

Result = dict[str, Any]
_Runs = dict[str, dict[int, Result]]


def main() -> int:
    """Rewrites the page's tables and draws its figures; returns 0."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    results = read_results()
    PAGE.write_text(with_tables(PAGE.read_text(), results))
    for name, figure in figures(results).items():
        figure.savefig(PAGE.with_name(name))
    return 0


def read_results() -> dict[str, Result]:
    """Returns what is known of every "row/seed"."""
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def with_tables(page: str, results: dict[str, Result]) -> str:
    """Returns the page with its tables made of the results."""
    by_row = grouped(results)
    for name, make in TABLES.items():
        begin = f"<!-- {name} -->\n"
        table = "\n".join(make(by_row))
        page = re.sub(
            f"{re.escape(begin)}.*?(?=<!-- end -->)",
            lambda _, whole=f"{begin}{table}\n": whole,
            page,
            flags=re.DOTALL,
        )
    return page


def grouped(results: dict[str, Result]) -> _Runs:
    """Returns the runs of every row that has any, by seed; rows in the paper's order."""
    found: _Runs = {row: {} for row in [*ROWS, *MODERN, *LONG, *REAL]}
    for key, result in results.items():
        row, _, seed = key.partition("/")
        found[row][int(seed)] = result
    return {row: dict(sorted(runs.items())) for row, runs in found.items() if runs}


def label(row: str) -> str:
    """Returns the paper's name of a row."""
    name = _model(row)
    words = [zoo.ZOO[name].label]
    words += ["modern recipe"] if row.removesuffix(name).endswith(_MODERN) else []
    return ", ".join([*words, *(["20,000 steps"] if row.startswith(_LONG) else [])])


def _model(row: str) -> str:
    """Returns the name of the model that a row trains."""
    return row.removeprefix(_LONG).removeprefix(_MODERN)


def _ms(runs: dict[int, Result]) -> float | None:
    """Returns the milliseconds of an image; seeds do not change it, so one of them was timed."""
    return next((run["ms"] for run in runs.values() if "ms" in run), None)


def _spread(values: Sequence[float]) -> str:
    return f"± {stdev(values):.2f} ({len(values)})" if len(values) > 1 else "(1)"


def _table(head: str, rows: Iterable[Sequence[str]], words: int = 1) -> list[str]:
    """Returns the lines of a table whose first `words` columns are words, the others figures."""
    columns = head.count("|") + 1
    marks = ["---"] * words + ["--:"] * (columns - words)
    return [f"| {head} |", f"|{'|'.join(marks)}|", *(f"| {' | '.join(row)} |" for row in rows)]


def _rows(wanted: Callable[[str], bool]) -> Callable[[_Runs], list[str]]:
    """Returns what makes the table of the rows wanted."""

    def make(by_row: _Runs) -> list[str]:
        lines = []
        for row, runs in by_row.items():
            if row in {*REAL, *LONG} or not wanted(row):
                continue
            scores = {n: [run[n] for run in runs.values()] for n in ("psnr", "ssim_matlab")}
            real = [run["real"]["psnr"] for run in runs.values() if "real" in run]
            entry = zoo.ZOO.get(row)
            lines.append(
                [
                    label(row),
                    f"{entry.psnr:.2f}" if entry else "",
                    f"{mean(scores['psnr']):.2f} {_spread(scores['psnr'])}",
                    f"{entry.ssim:.3f}" if entry else "",
                    f"{mean(scores['ssim_matlab']):.3f}",
                    f"{mean(real):.2f}" if real else "",
                    f"{mean(run['minutes'] for run in runs.values()):.1f}",
                    f"{_ms(runs):.0f}" if _ms(runs) else "",
                ]
            )
        head = "model | paper, dB | here, dB (seeds) | paper, SSIM | here, SSIM | real pairs, dB"
        return _table(f"{head} | minutes | ms", lines)

    return make


def _claims(by_row: _Runs) -> list[str]:
    lines = []
    for claim, (better, worse) in CLAIMS:
        seeds = sorted(by_row.get(better, {}).keys() & by_row.get(worse, {}).keys())
        if not seeds:
            continue
        gains = [by_row[better][seed]["psnr"] - by_row[worse][seed]["psnr"] for seed in seeds]
        holds = all(gain > TIE for gain in gains)
        fails = all(gain < -TIE for gain in gains)
        verdict = "holds" if holds else "does not hold" if fails else "undecided"
        known = (
            []
            if _MODERN in better + worse
            else [zoo.ZOO[_model(row)].psnr for row in (better, worse)]
        )
        lines.append(
            [
                claim,
                f"{label(better)} over {label(worse)}",
                verdict if len(seeds) > 1 else f"{verdict} (one seed)",
                f"{known[0] - known[1]:+.2f}" if len(known) == 2 else "",
                f"{mean(gains):+.2f}",
                " ".join(f"{gain:+.2f}" for gain in gains),
            ]
        )
    return _table("claim | models | here | paper, dB | here, dB | by seed, dB", lines, words=3)


def _longer(by_row: _Runs) -> list[str]:
    lines = []
    for row in LONG:
        short = by_row.get(row.removeprefix(_LONG), {})
        for seed, run in by_row.get(row, {}).items():
            before = short.get(seed)
            lines.append(
                [
                    label(row.removeprefix(_LONG)),
                    f"{before['psnr']:.2f}" if before else "",
                    f"{run['psnr']:.2f}",
                    f"{run['ssim_matlab']:.3f}",
                    f"{run['real']['psnr']:.2f}" if "real" in run else "",
                    f"{run['minutes']:.0f}",
                ]
            )
    head = "model | 3,000 steps, dB | 20,000 steps, dB | SSIM | real pairs, dB | minutes"
    return _table(head, lines)


def _real(by_row: _Runs) -> list[str]:
    lines = []
    for row, begins in REAL.items():
        for run in by_row.get(row, {}).values():
            real = run["real"]
            lines.append(
                [
                    begins,
                    f"{real['blurry']:.2f}",
                    f"{real['before']:.2f}" if "before" in real else "",
                    f"{real['psnr']:.2f}",
                    ", ".join(f"{psnr:.2f} at {step}" for step, psnr in run["curve"]),
                    f"{run['minutes']:.1f}",
                ]
            )
    head = "begins from | blurry, dB | before, dB | after, dB"
    return _table(f"{head} | the test pair at steps, dB | minutes", lines)


# What stands in the page, by the marks around it.
TABLES: dict[str, Callable[[_Runs], list[str]]] = {
    "table 1": _rows(lambda row: row in zoo.ZOO and "1" in zoo.ZOO[row].tables),
    "table 2": _rows(lambda row: row == "dmphn_1" or row.startswith("dmsn")),
    "table 4": _rows(lambda row: row in zoo.ZOO and "4" in zoo.ZOO[row].tables),
    "modern": _rows(lambda row: row in MODERN or f"modern_{row}" in MODERN),
    "longer": _longer,
    "claims": _claims,
    "real": _real,
}


def figures(results: dict[str, Result]) -> dict[str, Any]:
    """Returns figures by file: PSNR against steps, and against an image's time as in Fig. 1."""
    by_row = grouped(results)
    points = [
        Point(ms, mean(run["psnr"] for run in runs.values()), label(row))
        for row, runs in by_row.items()
        if (ms := _ms(runs)) is not None
    ]
    devices = next(run["timed_on"] for run in results.values() if "ms" in run)
    drawn = {
        "miniature_steps.png": _curves(by_row),
        "miniature_time.png": draw({f"width 16, {devices}": points}, ["256x256"]),
    }
    return drawn | ({"miniature_longer.png": _long_curves(by_row)} if by_row.keys() & LONG else {})


def _curves(by_row: _Runs) -> Any:
    """Returns the curves of all rows in panels that share their axes."""
    from matplotlib.figure import Figure

    panels = {
        "patches": ["dmphn_1", "dmphn_1_2", "dmphn_1_2_4", "dmphn_1_2_4_8", "dmphn_1_2_4_8_16"],
        "other hierarchies": ["dmphn_1_2_4", "dmphn_1_1_1", "dmphn_1_4_16", "dmsn_2", "dmsn_3"],
        "shared weights": ["dmphn_1_2_4", "dmphn_1_2_ws", "dmphn_1_2_4_ws", "dmphn_1_2_4_8_ws"],
        "stacks": ["dmphn_1_2_4", "stack2", "stack3", "stack4", "vmphn", "stack2_vmphn"],
        "modern recipe (dashed)": ["dmphn_1", "dmphn_1_2_4", "stack2", *MODERN],
    }
    figure = Figure(figsize=(13, 8), dpi=110, layout="constrained")
    axes = figure.subplots(2, 3, sharex=True, sharey=True).flat
    for axis, (title, rows) in zip(axes, panels.items(), strict=False):
        _draw_curves(axis, by_row, rows)
        axis.set(title=title)
    figure.axes[-1].remove()
    figure.axes[2].tick_params(labelbottom=True)  # nothing is below it
    return figure


def _long_curves(by_row: _Runs) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), dpi=110, layout="constrained")
    _draw_curves(figure.subplots(), by_row, LONG)
    return figure


def _draw_curves(axis: Any, by_row: _Runs, rows: Sequence[str]) -> None:
    """Draws the mean of a row's seeds at every evaluation; the modern recipe is dashed."""
    colors: dict[str, str] = {}
    for row in rows:
        color = colors.setdefault(_model(row), f"C{len(colors)}")
        if row not in by_row:
            continue
        curves = [run["curve"] for run in by_row[row].values()]
        steps = [step for step, _ in curves[0]]
        heights = [mean(psnr for _, psnr in at) for at in zip(*curves, strict=True)]
        axis.plot(steps, heights, "--" if _MODERN in row else "-", color=color, label=label(row))
    axis.set(xlabel="steps", ylabel="PSNR of 32 scenes, dB")
    axis.legend(fontsize="small")
    axis.grid(alpha=0.3)


if __name__ == "__main__":
    sys.exit(main())
