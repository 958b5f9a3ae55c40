"""`make demo`: trains a small network on synthetic scenes and shows what it learned.

Writes a checkpoint, a report, curves and a before/after picture under `demo/`. Exit status 1 if
the trained network gains less than 1.0 dB over the blurry input on scenes it has not seen.
"""

from __future__ import annotations

import argparse
import csv
import os
import shutil
import time
from pathlib import Path
from typing import Any

GAIN = 1.0  # dB, on the mean over the held-out scenes
_HELD_OUT = 40


def main(argv: list[str]) -> int:
    """Trains, evaluates and draws; returns 0 if the gain was reached."""
    parser = argparse.ArgumentParser(prog="dmphn demo", description=__doc__)
    parser.add_argument("--output", default="demo", metavar="D", help="folder to write (demo)")
    parser.add_argument("--steps", type=int, default=0, help="train so many steps (the config's)")
    args = parser.parse_args(argv)
    begun = time.perf_counter()

    from dmphn_jax import runtime
    from dmphn_jax.data import SourceOptions
    from dmphn_jax.evaluation.run import EvaluationOptions, evaluate
    from dmphn_jax.evaluation.selection import PairSelection
    from dmphn_jax.training.experiments import start_from
    from dmphn_jax.training.loop import train

    _use_all_cores()
    runtime.cache_compilations()
    runtime.keep_freed_memory()
    folder = Path(args.output)
    config = start_from("configs/demo.py")
    config.num_steps = args.steps or config.num_steps
    # A demonstration shows a whole run, not the end of an earlier one.
    shutil.rmtree(folder / "run", ignore_errors=True)
    shutil.rmtree(folder / "report", ignore_errors=True)
    result = train(config, folder / "run")
    if result.stopped:
        return 130

    options = SourceOptions.of(config.data, count=_HELD_OUT, seed=config.seed)
    pairs = PairSelection("synthetic", options=options)
    source = pairs.open()
    made = evaluate(
        EvaluationOptions(
            pairs=pairs,
            checkpoints=(str(result.checkpoint),),
            folder=folder / "report",
            command="dmphn demo",
        ),
        source,
    )
    blurry, trained = (row.mean["psnr"] for row in made.rows)
    _before_after(result.checkpoint, source, folder / "before_after.png")
    _curves(folder / "run" / "metrics.csv", folder / "curves.png")
    real = _deblur_real(folder)

    held = trained - blurry >= GAIN
    print(
        f"\n{len(source)} held-out scenes: blurry input {blurry:.2f} dB, deblurred "
        f"{trained:.2f} dB: {trained - blurry:+.2f} dB "
        f"({'at least' if held else 'LESS than the expected'} {GAIN:.1f})\n"
        f"checkpoint      {result.checkpoint}\n"
        f"report          {folder}/report/report.md\n"
        f"curves          {folder}/curves.png (metrics.csv and tensorboard/ in {folder}/run)\n"
        f"before, after   {folder}/before_after.png (blurry, deblurred, sharp)\n"
        + (f"real photograph {real}\n" if real else "")
        + f"{time.perf_counter() - begun:.0f} s\n"
        f"Deblur a picture of your own: dmphn deblur PICTURE --checkpoint {result.checkpoint} "
        "--output OUT"
    )
    return 0 if held else 1


def _use_all_cores() -> None:
    """Makes two devices of a CPU: small convolutions keep one core busy, not two."""
    import jax

    if "XLA_FLAGS" not in os.environ and (os.cpu_count() or 1) > 1:
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

    rows = list(csv.DictReader(table.open()))

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
    """Deblurs a part of a real photograph with the authors' weights, where they are at hand."""
    reference = Path(os.environ.get("DMPHN_REFERENCE") or Path("..") / "shared" / "reference")
    weights = reference / "checkpoints" / "DMPHN_1_2_4"
    frames = sorted((reference / "blurry").glob("*.png"))
    if not weights.is_dir() or not frames:
        return None
    from PIL import Image

    from dmphn_jax.commands import convert, deblur

    blurry, output = folder / "real_blurry.png", folder / "real"
    shutil.rmtree(folder / "dmphn_1_2_4", ignore_errors=True)
    shutil.rmtree(output, ignore_errors=True)
    with Image.open(frames[0]) as frame:
        frame.crop((400, 200, 656, 456)).save(blurry)
    status = convert.main([str(weights), str(folder / "dmphn_1_2_4")])
    status = status or deblur.main(
        [str(blurry), "--checkpoint", str(folder / "dmphn_1_2_4"), "--output", str(output)]
    )
    return None if status else output
