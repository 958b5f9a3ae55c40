"""The peak of `dmphn deblur`'s memory, of a large image and of films of growing length: tables.

    python tools/peak_memory.py image CHECKPOINT --size 8192x8192 --tile 2048
    python tools/peak_memory.py film --minutes 1,3,10 --size 64x48

Each is deblurred by a process of its own, whose peak resident memory the system tells: Python,
JAX and the compiler included. `beside` is that less the image's pixels. A film has 24 frames/s and
a tone; without a checkpoint a network of one level and 4 channels with random weights computes it.
A compiled program is kept as ever, so that a second run does not hold the compiler's memory.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from dmphn_jax import checkpoints

_MIB = 2**20
_RATE, _SOUND = 24, 48000  # per second


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    kinds = parser.add_subparsers(dest="kind", required=True)
    image = kinds.add_parser("image")
    image.add_argument("checkpoint", help="folder, or a released model's name")
    image.add_argument("--size", default="8192x8192", help="height x width")
    image.add_argument("--tile", default="2048")
    image.add_argument("--overlap", default="416")
    film = kinds.add_parser("film")
    film.add_argument("checkpoint", nargs="?", help="(a tiny network)")
    film.add_argument("--minutes", default="1,3,10")
    film.add_argument("--size", default="64x48", help="width x height")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if args.kind == "image":
            _image(args, Path(folder))
        else:
            _films(args, Path(folder))


def _image(args: argparse.Namespace, folder: Path) -> None:
    height, width = map(int, args.size.split("x"))
    source = folder / "large.png"
    random = np.random.default_rng(0)
    blocks = random.integers(0, 256, (-(-height // 64), -(-width // 64), 3), np.uint8)
    pixels = blocks.repeat(64, 0).repeat(64, 1)[:height, :width]
    PIL.Image.fromarray(pixels).save(source, compress_level=1)
    size = pixels.nbytes / _MIB
    del pixels
    flags = ["--tile", args.tile, "--overlap", args.overlap, "--max-pixels", str(height * width)]
    peak, seconds = _deblur(args.checkpoint, source, folder / "out.png", *flags)
    print("| image | tile | its pixels, MiB | peak, MiB | beside, MiB | s |\n" + "|--:" * 6 + "|")
    figures = f"{size:.0f} | {peak:.0f} | {peak - size:.0f} | {seconds:.0f}"
    print(f"| {args.size} | {args.tile} | {figures} |")


def _films(args: argparse.Namespace, folder: Path) -> None:
    width, height = map(int, args.size.split("x"))
    checkpoint = args.checkpoint or tiny(folder / "tiny")
    print("| minutes | frames | peak, MiB | s |\n|--:|--:|--:|--:|")
    for minutes in map(float, args.minutes.split(",")):
        frames = round(60 * _RATE * minutes)
        source = folder / f"{frames}.mp4"
        make_film(source, frames, height, width)
        peak, seconds = _deblur(checkpoint, source, folder / f"{frames}_out.mp4")
        print(f"| {minutes:g} | {frames} | {peak:.0f} | {seconds:.0f} |", flush=True)


def tiny(path: Path) -> Path:
    """Writes a checkpoint of one level and 4 channels with random weights; returns its path."""
    from dmphn_jax.models import ModelConfig, init_params

    config = ModelConfig(hierarchy="1", width=4)
    checkpoints.save(path, init_params(config), config)
    return path


def make_film(path: Path, frames: int, height: int, width: int, rate: int = _RATE) -> None:
    """Writes a film of a bar that moves over gray, with a tone; `rate` frames per second."""
    import av

    tone = (0.3 * np.sin(np.arange(_SOUND // rate) / 20)).astype(np.float32)[None]
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=rate, options={"preset": "veryfast"})
        video.height, video.width, video.pix_fmt = height, width, "yuv420p"
        audio = container.add_stream("aac", rate=_SOUND)
        for index in range(frames):
            image = np.full((height, width, 3), 100, np.uint8)
            image[:, index % width : index % width + 8] = 200, 60, index % 180
            container.mux(video.encode(av.VideoFrame.from_ndarray(image)))
            sound = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
            sound.rate, sound.pts = _SOUND, index * tone.size
            container.mux(audio.encode(sound))
        container.mux(video.encode())
        container.mux(audio.encode())


def _deblur(checkpoint: str | Path, source: Path, output: Path, *flags: str) -> tuple[float, float]:
    """Returns the peak resident memory of a process that deblurs a file, MiB, and its seconds."""
    began = time.perf_counter()
    used = deblur(checkpoint, source, output, *flags)
    unit = 1 if sys.platform == "darwin" else 1024  # bytes of ru_maxrss's unit
    return used.ru_maxrss * unit / _MIB, time.perf_counter() - began


def deblur(checkpoint: str | Path, source: Path, output: Path, *flags: str) -> Any:
    """Deblurs a file in a process of its own; returns what that used, as of `os.wait4`."""
    command = [sys.executable, "-m", "dmphn_jax", "deblur", str(source), "--output", str(output)]
    process = subprocess.Popen(
        [*command, "--checkpoint", str(checkpoint), *flags], stdout=subprocess.DEVNULL
    )
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"dmphn deblur ended with status {process.returncode}")
    return used


if __name__ == "__main__":
    main()
