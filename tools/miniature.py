"""Trains and scores the rows of docs/miniature.md: the paper's tables at a laptop's size.

    python tools/miniature.py                        # all rows, where they were left
    python tools/miniature.py --rows dmphn_1_2_4 --seeds 1
    python tools/miniature_tables.py                 # tables and figures of what is there

A row is an ordinary run of `dmphn_jax.main` (configs/miniature.py) and two of `dmphn evaluate`, of
its last checkpoint: on 64 synthetic scenes that no run trains on, and on the real pairs of
$DMPHN_REFERENCE if they are there. A stopped run goes on from its last checkpoint. What is scored
is kept in docs/miniature.json; a run that is there is not made again.

A run is held to one core, and as many are made at once as there are cores: two at a time get more
done than one on two cores, and a run's bits then do not depend on the number of cores. The time of
an image is measured at the end, on all cores, with nothing else running.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import os
import shlex
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from miniature_tables import LONG, MODERN, REAL, RESULTS, ROOT, ROWS, Result, read_results

from dmphn_jax.evaluation import report
from dmphn_jax.files import write_atomically

# The rows whose order the paper argues about: three seeds.
ARGUED = {"dmphn_1", "dmphn_1_2", "dmphn_1_1_1", "dmphn_1_2_4", "dmphn_1_2_4_8", "dmphn_1_2_4_ws"}
ARGUED |= {"dmsn_3", "stack2", "vmphn", *MODERN}
SCENES = ["--data", "synthetic", "--synthetic-size", "256x256", "--synthetic-count", "64"]
# The flags of rows that are not a model at the table's number of steps.
_LONGER = ["--config.num_epochs=200", "--config.eval.every=2000"]
_RELEASED = "--config.init_from=dmphn_1_2_4"
FLAGS = {
    **{
        row: [*_LONGER, *([] if "modern" in row else ["--config.optimizer.decay_epochs=167"])]
        for row in LONG
    },
    "real_from_scratch": ["--config.optimizer.learning_rate=1e-3"],
    "real_from_released": [_RELEASED],
    "real_gently": [
        _RELEASED,
        "--config.crop_size=256",
        "--config.batch_size=2",
        "--config.num_epochs=50",
        "--config.eval.every=50",
        "--config.optimizer.learning_rate=1e-5",
    ],
}


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
        model = self.row.removeprefix("long_")
        config = "configs/real_blur.py" if model in REAL else f"configs/miniature.py:{model}"
        command = ["-m", "dmphn_jax.main", "--config", config, "--workdir", str(self.folder)]
        return [*command, f"--config.seed={self.seed}", *FLAGS.get(self.row, [])]

    def score(self, data: list[str], name: str) -> list[str]:
        """Returns what Python is to run to score its last checkpoint."""
        steps = [path for path in (self.folder / "checkpoints").iterdir() if path.name.isdigit()]
        last = max(steps, key=lambda path: int(path.name))
        before = ["dmphn_1_2_4"] if _RELEASED in FLAGS.get(self.row, []) else []
        command = ["-m", "dmphn_jax", "evaluate", *before, str(last), *data]
        return [*command, "--report", str(self.folder / name)]


def main() -> int:
    """Makes the runs that are missing; returns 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", nargs="+", metavar="ROW", choices=[*ROWS, *MODERN, *REAL, *LONG])
    parser.add_argument("--seeds", type=int, metavar="N", help="runs of a row (1; argued ones 3)")
    parser.add_argument("--runs", type=Path, default=Path("runs/miniature"), help="work folders")
    parser.add_argument("--minutes", type=float, help="begin no run after so many")
    args = parser.parse_args()
    runs = _runs(args)
    missing = [run for run in runs if run.key not in read_results()]
    if any(run.row in REAL for run in missing) and not _prepared():
        return 1
    made = _make_all(missing, args.minutes)
    timed = [_time(run) for run in runs if run.seed == 0 and run.row not in [*REAL, *LONG]]
    return 0 if all(made) and all(timed) else 1


def _make_all(runs: Sequence[Run], minutes: float | None) -> list[bool]:
    """Makes runs, one on each core; returns whether each was made, or was left for another time."""
    begun = time.monotonic()

    def make(run: Run) -> bool:
        late = minutes is not None and time.monotonic() - begun > 60 * minutes
        return late or _make(run)

    cores = sorted(os.sched_getaffinity(0))
    free = iter(cores)
    # What a thread starts runs on the thread's own core.
    pool = ThreadPoolExecutor(len(cores), initializer=lambda: _hold_to(next(free)))
    try:
        return list(pool.map(make, runs))
    finally:
        pool.shutdown(cancel_futures=True)


def _hold_to(core: int) -> None:
    os.sched_setaffinity(0, {core})


def _runs(args: argparse.Namespace) -> list[Run]:
    """Returns all runs, the first seed of every row before the second of any."""
    rows = args.rows or [*ROWS, *MODERN, *REAL, *LONG]
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
    result: Result = {"command": shlex.join(["python", *run.train()])}
    result |= _log(run.folder)
    if run.row not in REAL:
        score = run.score([*SCENES, "--no-timing"], "held_out")
        if not _call(score):
            return False
        result |= {"evaluation": shlex.join(["python", *score]), **_scores(run.folder / "held_out")}
    pairs = _pairs()
    if pairs.is_dir():
        # What a run on real pairs has trained on says nothing of it.
        unseen = [place for place in _PLACES if run.row not in REAL or "train" not in place]
        listed = run.folder / "real.txt"
        listed.write_text("".join(_listed(pairs / place) for place in unseen))
        if not _call(run.score(["--data", str(listed), "--no-timing"], "real")):
            return False
        result["real"] = _scores(run.folder / "real")
    _keep(run, result)
    return True


_keeping = threading.Lock()


def _keep(run: Run, result: Result) -> None:
    """Adds to what is known of a run."""
    with _keeping:
        results = read_results()
        results[run.key] = results.get(run.key, {}) | result
        write_atomically(RESULTS, (json.dumps(results, indent=1, sort_keys=True) + "\n").encode())


def _time(run: Run) -> bool:
    """Measures the time of an image where that is missing; returns whether it could be done."""
    kept = read_results().get(run.key)
    if kept is None or "ms" in kept or not run.folder.is_dir():
        return True
    if not _call(run.score([*SCENES, "--synthetic-count", "1"], "time")):
        return False
    made = report.read(run.folder / "time")
    row = made.rows[-1]
    if row.runtime:
        _keep(run, {"ms": round(row.runtime.ms, 1), "timed_on": made.devices})
    return row.runtime is not None


_PLACES = ("GOPRO_Large/train/GOPR0372_07_00", "GOPRO_Large/test/GOPR0384_11_00", "gopro_other")


def _listed(folder: Path) -> str:
    """Returns lines of the pairs in a folder, blurry and sharp."""
    sides = ("blurry" if (folder / "blurry").is_dir() else "blur", "sharp")
    names = sorted(path.name for path in (folder / sides[0]).iterdir())
    return "".join("\t".join(str(folder / side / name) for side in sides) + "\n" for name in names)


def _pairs() -> Path:
    """Returns where the real pairs are, if they are."""
    default = ROOT.parent / "shared" / "reference"
    return Path(os.environ.get("DMPHN_REFERENCE") or default).resolve() / "pairs"


def _prepared() -> bool:
    """Prepares the real pairs for training where they are not yet; returns whether they are."""
    if (ROOT / "data" / "miniature").is_dir():
        return True
    command = ["-m", "tfds_gopro.prepare", "gopro", "--source", str(_pairs() / "GOPRO_Large")]
    return _call([*command, "--allow-partial", "--data-dir", "data/miniature"])


def _call(command: list[str]) -> bool:
    return subprocess.run([sys.executable, *command], cwd=ROOT).returncode == 0


def _log(folder: Path) -> Result:
    """Returns minutes of training, without evaluations, and the curve: [step, PSNR in dB].

    The minutes are the steps at the median rate: neither what else the machine did meanwhile nor
    that a run was stopped counts.
    """
    batch = json.loads((folder / "config.json").read_text())["batch_size"]
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    rates = [float(row["images_per_second"]) for row in rows if row["images_per_second"]]
    seconds = batch * int(rows[-1]["step"]) / statistics.median(rates)
    curve = [
        [int(row["step"]), round(float(row["eval_psnr"]), 4)] for row in rows if row["eval_psnr"]
    ]
    return {"minutes": round(seconds / 60, 2), "curve": curve}


def _scores(folder: Path) -> Result:
    """Returns what a report says of the checkpoint, of the blurry input and of what it began as."""
    made = report.read(folder)
    blurry, *before, row = made.rows
    scores: dict[str, Any] = {
        name: round(row.mean[name], 4) for name in ("psnr", "ssim_matlab", "ssim_skimage")
    }
    about = {"pairs": row.images, "devices": made.devices, "digest": row.digest}
    began = {"before": round(before[0].mean["psnr"], 4)} if before else {}
    return {**scores, **about, **began, "blurry": round(blurry.mean["psnr"], 4)}


if __name__ == "__main__":
    sys.exit(main())
