"""`make demo`: trains a small network on synthetic scenes and shows what it learned.

Writes a checkpoint, a report, curves and a before/after picture under `demo/`, in place of those of
an earlier demo; a folder that holds anything else is refused. Exit status 1 if the trained network
gains less than 1.0 dB over the blurry input on scenes it has not seen.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dmphn_jax import storage
from dmphn_jax.commands import arguments
from dmphn_jax.errors import UserError
from dmphn_jax.files import remove, shown, write_file
from dmphn_jax.processes import termination
from dmphn_jax.training import settings
from dmphn_jax.training.experiments import start_from
from dmphn_jax.training.lock import NAME as LOCK
from dmphn_jax.training.lock import Lock

GAIN = 1.0  # dB, on the mean over the held-out scenes
_HELD_OUT = 40
_RUN, _REPORT, _WEIGHTS, _REAL = _OWN = ("run", "report", "dmphn_1_2_4", "real")
_MARKER = ".dmphn_demo"  # stands where the folders above may be removed


def main(argv: list[str]) -> int:
    """Trains, evaluates and draws; returns 0 if the gain was reached.

    130 after Ctrl-C, 75 if SIGTERM or SIGHUP stopped the training, as `dmphn_jax.main` does. Raises
    UserError if the folder is not the demo's or another demo is at work there.
    """
    parser = argparse.ArgumentParser(prog="dmphn demo", description=__doc__)
    parser.add_argument("--output", default="demo", metavar="D", help="folder to write (demo)")
    parser.add_argument(
        "--steps", type=arguments.count, metavar="N", help="train so many steps (the config's)"
    )
    args = parser.parse_args(argv)
    folder = storage.local_only("--output", args.output)
    config = start_from("configs/demo.py")
    if args.steps:
        config.num_steps = args.steps
    settings.check(config)  # before anything of an earlier demo is removed
    with _own(folder):
        return _demonstrate(folder, config)


@contextlib.contextmanager
def _own(folder: Path) -> Iterator[None]:
    """Holds the demo's folder, without what an earlier demo left there.

    A demonstration shows a whole run, not the end of an earlier one.
    """
    there = set(os.listdir(folder)) if folder.is_dir() else set()
    if _MARKER not in there and there - {LOCK}:
        raise UserError(
            f"{shown(folder)}: holds what `dmphn demo` did not write, and would lose it; "
            "name a new or an empty folder as --output"
        )
    with contextlib.ExitStack() as held:
        held.callback(Lock(folder, flag="--output").release)
        # Someone may train on in there.
        Lock(folder / _RUN, flag="--output").release()
        write_file(folder / _MARKER, f"dmphn demo replaces {', '.join(_OWN)} here\n")
        for name in _OWN:
            remove(folder / name)
        yield


def _demonstrate(folder: Path, config: Any) -> int:
    """Runs the demo in a folder of its own; returns the exit status."""
    from dmphn_jax import runtime
    from dmphn_jax.data import SourceOptions
    from dmphn_jax.evaluation.run import EvaluationOptions, evaluate
    from dmphn_jax.evaluation.selection import PairSelection
    from dmphn_jax.training.loop import train

    begun = time.perf_counter()
    _use_all_cores()
    runtime.cache_compilations()
    runtime.keep_freed_memory()
    result = train(config, folder / _RUN)
    if result.stopped:
        print("a demo is not gone on with: the same command begins anew")
        return termination.status(result.stopped)

    options = SourceOptions.of(config.data, count=_HELD_OUT, seed=config.seed)
    pairs = PairSelection("synthetic", options=options)
    source = pairs.open()
    made = evaluate(
        EvaluationOptions(
            pairs=pairs,
            checkpoints=(str(result.checkpoint),),
            folder=folder / _REPORT,
            command="dmphn demo",
        ),
        source,
    )
    blurry, trained = (row.mean["psnr"] for row in made.rows)
    _before_after(result.checkpoint, source, folder / "before_after.png")
    _curves(folder / _RUN / "metrics.csv", folder / "curves.png")
    real = _deblur_real(folder)

    _tell(folder, result.checkpoint, len(source), blurry, trained, real)
    print(
        f"{time.perf_counter() - begun:.0f} s\n"
        f"Deblur a picture of your own: dmphn deblur PICTURE --checkpoint {result.checkpoint} "
        "--output OUT"
    )
    return 0 if trained - blurry >= GAIN else 1


def _tell(
    folder: Path, checkpoint: Any, scenes: int, blurry: float, trained: float, real: Path | None
) -> None:
    """Prints the gain in dB, and where everything lies."""
    print(
        f"\n{gained(scenes, blurry, trained)}\n"
        f"checkpoint      {checkpoint}\n"
        f"report          {folder}/{_REPORT}/report.md\n"
        f"curves          {folder}/curves.png (metrics.csv and tensorboard/ in {folder}/{_RUN})\n"
        f"before, after   {folder}/before_after.png (blurry, deblurred, sharp)"
        + (f"\nreal photograph {real}" if real else "")
    )


def gained(count: int, blurry: float, trained: float) -> str:
    """Returns the line about so many scenes' mean PSNR in dB, of the input and of the output."""
    gain = trained - blurry
    return (
        f"{count} held-out scenes: blurry input {blurry:.2f} dB, deblurred {trained:.2f} dB: "
        f"{gain:+.2f} dB ({'at least' if gain >= GAIN else 'LESS than the expected'} {GAIN:.1f})"
    )


def _use_all_cores() -> None:
    """Makes two devices of a CPU: small convolutions keep one core busy, not two."""
    import jax

    from dmphn_jax.runtime import cores

    if "XLA_FLAGS" not in os.environ and cores() > 1:
        jax.config.update("jax_num_cpu_devices", 2)


def _before_after(checkpoint: Path, source: Any, path: Path) -> None:
    """Draws blurry, deblurred and sharp of three scenes below one another."""
    import numpy as np
    from PIL import Image

    from dmphn_jax.inference.deblurrer import Deblurrer

    deblurrer = Deblurrer(checkpoint)
    rows = []
    for index in range(3):
        pair = source[index]
        rows.append(np.concatenate([pair.blurry, deblurrer(pair.blurry), pair.sharp], axis=1))
    image = Image.fromarray(np.concatenate(rows))
    image.resize((2 * image.width, 2 * image.height), Image.Resampling.NEAREST).save(path)


def _curves(table: Path, path: Path) -> None:
    """Draws loss and PSNR of metrics.csv."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with table.open() as file:
        rows = list(csv.DictReader(file))

    def column(name: str) -> tuple[list[int], list[float]]:
        found = [(int(row["step"]), float(row[name])) for row in rows if row[name]]
        return [step for step, _ in found], [value for _, value in found]

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    left.plot(*column("loss"))
    left.set(xlabel="step", ylabel="loss", yscale="log")
    for name, label in (
        ("psnr", "output, training crops"),
        ("psnr_blurry", "blurry, training crops"),
        ("eval_psnr", "output, held-out scenes"),
        ("eval_psnr_blurry", "blurry, held-out scenes"),
    ):
        right.plot(*column(name), label=label, marker="o" if name.startswith("eval") else None)
    right.set(xlabel="step", ylabel="PSNR (dB)")
    right.legend()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _deblur_real(folder: Path) -> Path | None:
    """Deblurs a part of a real photograph with the authors' weights, where DMPHN_REFERENCE is."""
    if not os.environ.get("DMPHN_REFERENCE"):
        return None
    reference = Path(os.environ["DMPHN_REFERENCE"])
    weights = reference / "checkpoints" / "DMPHN_1_2_4"
    frames = sorted((reference / "blurry").glob("*.png"))
    if not weights.is_dir() or not frames:
        return None
    from PIL import Image

    from dmphn_jax.commands import convert, deblur

    blurry, output, checkpoint = folder / "real_blurry.png", folder / _REAL, folder / _WEIGHTS
    with Image.open(frames[0]) as frame:
        frame.crop((400, 200, 656, 456)).save(blurry)
    status = convert.main([str(weights), str(checkpoint)])
    status = status or deblur.main(
        [str(blurry), "--checkpoint", str(checkpoint), "--output", str(output)]
    )
    return None if status else output
