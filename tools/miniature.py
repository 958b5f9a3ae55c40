"""Trains and scores the rows of docs/miniature.md: the paper's tables at a laptop's size.

    python tools/miniature.py                        # all rows, where they were left
    python tools/miniature.py --rows dmphn_1_2_4 --seeds 1
    python tools/miniature.py --show                 # tables and figures of what is there

A row is an ordinary run of `dmphn_jax.main` (configs/miniature.py) and two of `dmphn evaluate`, of
its last checkpoint: on 64 synthetic scenes that no run trains on, and on the real pairs of
$DMPHN_REFERENCE if they are there. An interrupted row goes on from its last checkpoint. Results
are kept in docs/miniature.json; `--show` prints the tables and draws the figures from it.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from dmphn_jax.evaluation import report
from dmphn_jax.files import write_atomically
from dmphn_jax.models import zoo

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "miniature.json"
SCENES = ["--data", "synthetic", "--synthetic-size", "256x256", "--synthetic-count", "64"]
ROWS = [name for name in zoo.ZOO if name != "dmsn_1"]  # DMSN(1) is DMPHN(1)
MODERN = ["modern_dmphn_1", "modern_dmphn_1_2_4", "modern_stack2"]
# The rows whose order the paper argues about: three seeds.
ARGUED = {"dmphn_1", "dmphn_1_2", "dmphn_1_1_1", "dmphn_1_2_4", "dmphn_1_2_4_8", "dmphn_1_2_4_ws"}
ARGUED |= {"dmsn_3", "stack2", "vmphn", *MODERN}

_Result = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Run:
    """One row and seed, and the folder of its run."""

    row: str
    seed: int
    folder: Path

    @property
    def key(self) -> str:
        """Its name among the results."""
        return f"{self.row}/{self.seed}"

    def train(self) -> list[str]:
        """Returns what Python is to run to train it, or to go on with it."""
        config = f"configs/miniature.py:{self.row}"
        command = ["-m", "dmphn_jax.main", "--config", config, "--workdir", str(self.folder)]
        return [*command, f"--config.seed={self.seed}"]

    def score(self, data: list[str], name: str) -> list[str]:
        """Returns what Python is to run to score its last checkpoint."""
        steps = [path for path in (self.folder / "checkpoints").iterdir() if path.name.isdigit()]
        last = max(steps, key=lambda path: int(path.name))
        command = ["-m", "dmphn_jax", "evaluate", str(last), *data]
        return [*command, "--report", str(self.folder / name)]


def main() -> int:
    """Runs what is missing, then shows what is there; returns 1 if a row failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", nargs="+", metavar="ROW", choices=[*ROWS, *MODERN])
    parser.add_argument("--seeds", type=int, metavar="N", help="runs of a row (1; argued ones 3)")
    parser.add_argument("--runs", type=Path, default=Path("runs/miniature"), help="work folders")
    parser.add_argument("--minutes", type=float, help="begin no row after so many")
    parser.add_argument("--show", action="store_true", help="train nothing")
    args = parser.parse_args()
    failed, begun = 0, time.monotonic()
    for run in [] if args.show else _runs(args):
        if args.minutes and time.monotonic() - begun > 60 * args.minutes:
            break
        if run.key not in _results():
            failed += not _make(run)
    _show(_results())
    return 1 if failed else 0


def _runs(args: argparse.Namespace) -> list[Run]:
    """Returns all runs, the first seed of every row before the second of any."""
    rows = args.rows or [*ROWS, *MODERN]
    wanted = {row: args.seeds or (3 if row in ARGUED else 1) for row in rows}
    return [
        Run(row, seed, args.runs / f"{row}-{seed}")
        for seed in range(max(wanted.values()))
        for row in rows
        if seed < wanted[row]
    ]


def _make(run: Run) -> bool:
    """Trains and scores a run and keeps its result; returns whether it could be done."""
    print(f"== {run.key}", flush=True)
    if not _call(run.train()):
        return False
    held_out = run.score(SCENES, "held_out")
    if not _call(held_out):
        return False
    result: _Result = {
        "command": shlex.join(["python", *run.train()]),
        "evaluation": shlex.join(["python", *held_out]),
        **_log(run.folder / "metrics.csv"),
        **_scores(run.folder / "held_out"),
    }
    reference = Path(os.environ.get("DMPHN_REFERENCE", ROOT.parent / "shared" / "reference"))
    pairs = reference / "pairs" / "GOPRO_Large" / "test"
    if pairs.is_dir():
        if not _call(run.score(["--data", str(pairs), "--no-timing"], "real")):
            return False
        result["real"] = _scores(run.folder / "real")
    results = _results() | {run.key: result}
    write_atomically(RESULTS, (json.dumps(results, indent=1, sort_keys=True) + "\n").encode())
    return True


def _call(command: list[str]) -> bool:
    return subprocess.run([sys.executable, *command], cwd=ROOT).returncode == 0


def _results() -> dict[str, _Result]:
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def _log(path: Path) -> _Result:
    """Returns minutes of training, without evaluations, and the curve: [step, PSNR in dB]."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    seconds, before = 0.0, 0
    for row in rows:
        if row["images_per_second"]:
            seconds += 6 * (int(row["step"]) - before) / float(row["images_per_second"])
            before = int(row["step"])
    curve = [[int(row["step"]), float(row["eval_psnr"])] for row in rows if row["eval_psnr"]]
    return {"minutes": round(seconds / 60, 2), "curve": curve}


def _scores(folder: Path) -> _Result:
    made = report.read(folder)
    blurry, row = made.rows
    scores = {name: round(row.mean[name], 4) for name in ("psnr", "ssim_matlab", "ssim_skimage")}
    ms = {"ms": round(row.runtime.ms, 1)} if row.runtime else {}
    about = {"pairs": row.images, "devices": made.devices, "blurry": round(blurry.mean["psnr"], 4)}
    return {**scores, **ms, **about}


def _show(results: dict[str, _Result]) -> None:
    """Prints the table in the paper's order and draws the figures beside the results."""
    print("| model | paper, dB | here, dB | spread | seeds | real pairs, dB | minutes | ms |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|")
    for row, runs in _by_row(results).items():
        psnr = [run["psnr"] for run in runs]
        real = [run["real"]["psnr"] for run in runs if "real" in run]
        entry = zoo.ZOO.get(row)
        cells = [
            _label(row),
            f"{entry.psnr:.2f}" if entry else "",
            f"{mean(psnr):.2f}",
            f"{stdev(psnr):.2f}" if len(psnr) > 1 else "",
            str(len(psnr)),
            f"{mean(real):.2f}" if real else "",
            f"{mean(run['minutes'] for run in runs):.1f}",
            f"{mean(run['ms'] for run in runs):.0f}",
        ]
        print(f"| {' | '.join(cells)} |")
    if results:
        _draw(results)


def _by_row(results: dict[str, _Result]) -> dict[str, list[_Result]]:
    """Returns the runs of every row that has any, rows in the paper's order."""
    grouped = {row: [] for row in [*ROWS, *MODERN]}
    for key, result in sorted(results.items()):
        grouped[key.split("/")[0]].append(result)
    return {row: runs for row, runs in grouped.items() if runs}


def _label(row: str) -> str:
    label = zoo.ZOO[row.removeprefix("modern_")].label
    return f"{label}, modern recipe" if row.startswith("modern_") else label


def _draw(results: dict[str, _Result]) -> None:
    """Draws PSNR against steps, and against the time of an image as the paper's Fig. 1 does."""
    from matplotlib.figure import Figure

    from dmphn_jax.evaluation.figures import Point, draw

    figure = Figure(figsize=(10, 7), dpi=120, layout="constrained")
    axes = figure.add_subplot(xlabel="steps", ylabel="PSNR of 32 held-out scenes, dB")
    rows = _by_row(results)
    styles = ["-", "--", ":", "-."]
    for number, (row, runs) in enumerate(rows.items()):
        steps = [step for step, _ in runs[0]["curve"]]
        heights = [mean(at) for at in zip(*[[psnr for _, psnr in run["curve"]] for run in runs])]
        axes.plot(steps, heights, styles[number // 10], color=f"C{number % 10}", label=_label(row))
    axes.legend(fontsize="small", ncols=2)
    figure.savefig(RESULTS.with_name("miniature_steps.png"))
    points = [
        Point(mean(run["ms"] for run in runs), mean(run["psnr"] for run in runs), _label(row))
        for row, runs in rows.items()
    ]
    devices = next(iter(results.values()))["devices"]
    draw({f"width 16, {devices}": points}, ["256x256"]).savefig(
        RESULTS.with_name("miniature_time.png")
    )


if __name__ == "__main__":
    sys.exit(main())
