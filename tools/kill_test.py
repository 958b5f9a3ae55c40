"""Kills a training run at random moments, resumes it each time, and compares its end to the bit.

    python tools/kill_test.py --kills 20

A run of a small network on synthetic scenes saves a checkpoint every few steps, so that many kills
land inside a save. Each SIGKILL comes at a random moment after the start; the same command is then
started again, with nothing done by hand. At the end the parameters, the optimiser's state and the
feed's position equal those of a run that was never killed. Exit status 0 if so.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from dmphn_jax.checkpoints import items

FLAGS = [
    "--config=configs/dmphn.py:1",
    "--config.model.width=2",
    "--config.ema_decay=0.9",
    "--config.augment=stack",
    "--config.data.source=synthetic",
    "--config.data.size=32,40",
    "--config.data.count=6",
    "--config.crop_size=16",
    "--config.batch_size=4",
    "--config.checkpoint_every=2",
    "--config.log_every=10",
    "--config.eval.every=0",
]


def command(workdir: Path, steps: int, feed: str) -> list[str]:
    """Returns the training command."""
    own = [f"--workdir={workdir}", f"--config.num_steps={steps}", f"--config.data.feed={feed}"]
    return [sys.executable, "-m", "dmphn_jax.main", *FLAGS, *own]


def fingerprint(workdir: Path, step: int) -> dict:
    """Returns digests of everything a checkpoint holds, and the feed's position."""
    folder = workdir / "checkpoints" / str(step)
    model, run = (items.read_record(folder, item) for item in ("model", "run"))
    return {"params": model["digest"], "state": run["digest"], "feed": run["feed"]}


def newest(workdir: Path) -> int:
    """Returns the step of the newest checkpoint, 0 if there is none."""
    folder = workdir / "checkpoints"
    names = [p.name for p in folder.iterdir()] if folder.is_dir() else []
    return max((int(name) for name in names if name.isdigit()), default=0)


def main() -> int:
    """Runs the test; returns 0 if nothing was lost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--feed", choices=("host", "resident"), default="host")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument(
        "--after",
        type=float,
        default=3.0,
        help="longest time, seconds, from the first new checkpoint of a start to its kill",
    )
    args = parser.parse_args()
    moments = random.Random(args.seed)
    saves_hit, lost = 0, []
    with tempfile.TemporaryDirectory() as folder:
        killed, whole = Path(folder) / "killed", Path(folder) / "whole"
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(folder) / "compiled"))
        log = (Path(folder) / "log").open("w+")
        for kill in range(1, args.kills + 1):
            before = newest(killed)
            process = subprocess.Popen(
                command(killed, 10**6, args.feed), stdout=log, stderr=subprocess.STDOUT
            )
            # Some kills come while the program still starts, most once it saves again.
            early = moments.random() < 0.15
            while not early and newest(killed) == before and process.poll() is None:
                time.sleep(0.005)
            time.sleep(moments.uniform(0, args.after))
            if process.poll() is not None:
                log.seek(0)
                print(log.read()[-2000:], "\nthe run ended by itself", file=sys.stderr)
                return 1
            process.kill()
            process.wait()
            saving = any("tmp" in path.name for path in (killed / "checkpoints").glob("*"))
            saves_hit += saving
            after = newest(killed)
            if after < before:
                lost.append(f"kill {kill}: step {before} became {after}")
            print(
                f"kill {kill:2}: step {before} -> {after}{' in a save' if saving else ''}",
                flush=True,
            )
        steps = newest(killed) + 2
        for workdir in (killed, whole):
            subprocess.run(
                command(workdir, steps, args.feed), stdout=log, stderr=subprocess.STDOUT, check=True
            )
        log.seek(0)
        text = log.read()
        resumed = [int(n.replace(",", "")) for n in re.findall(r"resumed at step ([\d,]+)", text)]
        warnings = [line for line in text.splitlines() if line.startswith("warning")]
        same = fingerprint(killed, steps) == fingerprint(whole, steps)
    print(
        f"{args.kills} kills, {saves_hit} of them in a save, {len(resumed)} resumes; "
        f"{len(lost)} checkpoints lost, {len(warnings)} set aside"
    )
    print(
        f"after {steps} steps the killed run and an uninterrupted one "
        f"{'are equal to the bit' if same else 'DIFFER'}"
    )
    return 0 if same and not lost and not warnings else 1


if __name__ == "__main__":
    sys.exit(main())
