"""Where the seconds of the first and the second `dmphn deblur` of one image go: a table.

    python tools/start_time.py CHECKPOINT IMAGE

Both run in processes of their own, the first with empty caches (of kernels and of compiled
programs). The clock is `dmphn deblur --timings`, which waits for the computation; what the process
takes behind its last line is added. On a machine that is busy, compare CPU seconds: those of an
image of 64x64 are nearly all its start's. Python's own files are in the system's cache here, which
they are not after a boot.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import PIL.Image
from folder_rate import cpu_of_children

from dmphn_jax import checkpoints, runtime

_PARTS = {  # of the clock's line
    "start": "Python, arguments, imports",
    "kernels": "CPU kernels: compiled, loaded",
    "checkpoint": "checkpoint: read, verified",
    "programs": "program: traced, compiled or taken from the cache",
    "decode": "decoding",
    "compute": "compute",
    "encode": "encoding",
}
_OUTSIDE = "outside decode, compute and encode"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", help="folder, or a released model's name")
    parser.add_argument("image")
    args = parser.parse_args()
    checkpoint = checkpoints.resolve(args.checkpoint)
    with tempfile.TemporaryDirectory() as folder:
        small = Path(folder) / "small.png"
        PIL.Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(small)
        runs = []
        for image in (args.image, args.image, small, small):
            runs.append(_run(checkpoint, image, Path(folder)))
            print(f"{image}: {runs[-1]['in all']:.2f} s", file=sys.stderr, flush=True)
    print(f"{args.checkpoint}, {args.image}; {runtime.cores()} cores\n")
    print("| seconds | first | second |\n|---|--:|--:|")
    rows = [*_PARTS.items(), ("end", "end of the process"), ("in all", "in all")]
    for key, text in (*rows, (_OUTSIDE, f"of these {_OUTSIDE}"), ("cpu", "CPU seconds")):
        print(f"| {text} | {runs[0][key]:.2f} | {runs[1][key]:.2f} |")
    print(f"| CPU seconds of a 64x64 image | {runs[2]['cpu']:.2f} | {runs[3]['cpu']:.2f} |")
    for key in ("compiled", "kept"):
        print(f"| programs {key} | {runs[0][key]:.0f} | {runs[1][key]:.0f} |")


def _run(checkpoint: Path, image: str | Path, folder: Path) -> dict[str, float]:
    """Deblurs an image in a process of its own; returns its timings."""
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    cache = folder / "cache"
    cache.mkdir(mode=0o700, exist_ok=True)
    command = [sys.executable, "-m", "dmphn_jax", "deblur", str(image), "--timings", "--overwrite"]
    cpu, began = cpu_of_children(), time.perf_counter()
    done = subprocess.run(
        [*command, "--checkpoint", str(checkpoint), "--output", str(folder / "out.png")],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env=environment | {"XDG_CACHE_HOME": str(cache)},
    )
    wall, cpu = time.perf_counter() - began, cpu_of_children() - cpu
    line = next(line for line in done.stdout.splitlines() if line.startswith("seconds: "))
    found = {
        name.strip(" ,"): float(seconds)
        for name, seconds in re.findall(r"([a-z][a-z, ]*) (\d+\.\d+)", line)
    }
    found |= {name: float(count) for name, count in re.findall(r"(compiled|kept) (\d+)", line)}
    end = wall - found["in all"]
    return found | {
        "end": end,
        "in all": wall,
        _OUTSIDE: found[_OUTSIDE] + end,
        "cpu": cpu,
    }


if __name__ == "__main__":
    main()
