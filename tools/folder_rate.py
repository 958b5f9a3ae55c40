"""How near `dmphn deblur` of a folder comes to the pure compute rate: a table.

    python tools/folder_rate.py CHECKPOINT IMAGE [--count 20] [--formats png,jpg]

The pure rate is `dmphn benchmark`'s: the compiled program alone, from uint8 to uint8 on the device,
warmed up and synchronised, here with the checkpoint's weights and the image. It is measured before
and after every folder, in one process each, so that what drifts on the machine meets both. A
folder holds so many copies of the image; its files are read, deblurred and written. `working` are
the seconds in which at least one image was decoded, computed or encoded (`--timings`); the rest is
the start and the end of the process. CPU seconds per image tell more on a machine that is busy;
those of a folder have the start in them.
"""

from __future__ import annotations

import argparse
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import jax

from dmphn_jax import checkpoints
from dmphn_jax.benchmarking import jax_cases
from dmphn_jax.images import read_image, write_image
from dmphn_jax.runtime import cache_compilations, cores


class Rate(NamedTuple):
    """Seconds of an image, and the CPU's."""

    seconds: float
    cpu: float


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", help="folder, or a released model's name")
    parser.add_argument("image")
    parser.add_argument("--count", type=int, default=20, help="images of a folder (20)")
    parser.add_argument("--formats", default="png,jpg", help="of the folder's files (png,jpg)")
    parser.add_argument("--rounds", type=int, default=5, help="of pure compute, each time (5)")
    args = parser.parse_args()
    cache_compilations()
    path = str(checkpoints.resolve(args.checkpoint))
    image = read_image(args.image)
    height, width = image.pixels.shape[:2]
    print(f"{args.checkpoint}, {args.count} images of {width}x{height}; {cores()} cores\n")
    print("| folder of | compute, s | working, s | of compute | in all, s | of compute | CPU s |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    compute = _Compute(path, image.pixels)
    before = compute.measure(args.rounds)
    print(f"| (compute alone) | {before.seconds:.3f} | | | | | {before.cpu:.3f} |", flush=True)
    for kind in args.formats.split(","):
        with tempfile.TemporaryDirectory() as folder:
            first = Path(folder) / "in" / f"000.{kind}"
            write_image(first, image)
            for index in range(1, args.count):
                shutil.copy(first, first.with_stem(f"{index:03}"))
            working, whole = _deblur(path, first.parent, Path(folder) / "out", args.count)
        after = compute.measure(args.rounds)
        pure = (before.seconds + after.seconds) / 2
        print(
            f"| {kind} | {pure:.3f} | {working.seconds:.3f} | {pure / working.seconds:.1%} "
            f"| {whole.seconds:.3f} | {pure / whole.seconds:.1%} | {whole.cpu:.3f} |",
            flush=True,
        )
        before = after


class _Compute:
    """The program alone."""

    def __init__(self, checkpoint: str, pixels) -> None:
        loaded = checkpoints.load(checkpoint)
        rows, columns = loaded.config.multiple
        height, width = (n // m * m for n, m in zip(pixels.shape, (rows, columns)))
        self._case = jax_cases.inference(
            loaded.config,
            loaded.params,
            pixels[None, :height, :width],
            stages=None,
            precision="float32",
            device=jax.local_devices()[0],
        ).case
        self._case.run()

    def measure(self, rounds: int) -> Rate:
        """Returns the medians of so many rounds, after one that does not count."""
        self._case.run()
        found = []
        for _ in range(rounds):
            cpu, began = time.process_time(), time.perf_counter()
            self._case.run()
            found.append((time.perf_counter() - began, time.process_time() - cpu))
        return Rate(*(statistics.median(values) for values in zip(*found)))


def _deblur(checkpoint: str, source: Path, output: Path, count: int) -> tuple[Rate, Rate]:
    """Deblurs a folder in a process of its own; returns what an image took, working and in all."""
    command = [sys.executable, "-m", "dmphn_jax", "deblur", str(source), "--timings"]
    cpu, began = cpu_of_children(), time.perf_counter()
    done = subprocess.run(
        [*command, "--checkpoint", checkpoint, "--output", str(output)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    wall, cpu = time.perf_counter() - began, cpu_of_children() - cpu
    found = re.search(r"in all ([\d.]+), outside decode, compute and encode ([\d.]+)", done.stdout)
    total, outside = map(float, found.groups())
    return Rate((total - outside) / count, cpu / count), Rate(wall / count, cpu / count)


def cpu_of_children() -> float:
    """Returns the processor seconds of this process's children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
