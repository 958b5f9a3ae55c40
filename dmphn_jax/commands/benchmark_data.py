"""`dmphn benchmark-data`: pairs of crops per second that each feed delivers, per core."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import platform
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dmphn_jax.errors import UserError
from dmphn_jax.files import write_file
from dmphn_jax.runtime import cores, keep_freed_memory
from dmphn_jax.tables import markdown_table

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from dmphn_jax.data.base import Feed

# Name -> what is printed, and the fields of config.data that it stands for.
CASES = {
    "png": ("PNG frames, host", {"feed": "host", "records": "frames"}),
    "raw": ("raw tiles, host", {"feed": "host", "records": "crops"}),
    "resident": ("resident", {"feed": "resident", "records": ""}),
}
_TOGETHER = 10  # steps per dispatch on an accelerator, as in training; a CPU takes 1


def parser() -> argparse.ArgumentParser:
    """Returns the command's parser."""
    p = argparse.ArgumentParser(
        prog="dmphn benchmark-data",
        description="Measures how many pairs of crops a second the feeds bring to the devices, "
        "as training runs them: PNG frames and raw tiles through the host feed, and the resident "
        "feed. Host figures are per second of processor time, and so per core; wall figures use "
        "--threads.",
    )
    add = p.add_argument
    add("--data-dir", help="prepared gopro; by default a small set is made on the fly")
    add("--feeds", nargs="+", choices=CASES, default=list(CASES), metavar="FEED")
    add("--crop-size", type=int, default=256)
    add(
        "--batch-size",
        type=int,
        nargs="+",
        default=[6, 32, 128],
        metavar="B",
        help="over all devices, rounded up to a multiple of them (default: 6 32 128)",
    )
    add("--devices", type=int, metavar="N", help="so many devices; on a CPU, virtual ones")
    add("--threads", type=int, default=0, help="readers (default: as in training)")
    add("--prefetch", type=int, default=0, help="pairs read ahead (default: as in training)")
    add("--seconds", type=float, default=5.0, help="per figure (default: %(default)s)")
    add("--frames", type=int, default=16, help="frames of the made set")
    add("--json", metavar="FILE", help="also write the figures as JSON")
    return p


@dataclasses.dataclass(frozen=True)
class Figure:
    """What one feed delivered.

    Attributes:
      feed: which, as printed.
      batch_size: pairs per batch over all devices.
      threads: readers; 0 for the resident feed.
      pairs: delivered in the time.
      pairs_per_second: by the wall clock.
      pairs_per_second_per_core: by processor time; None for the resident feed, whose work is the
        devices'.
    """

    feed: str
    batch_size: int
    threads: int
    pairs: int
    pairs_per_second: float
    pairs_per_second_per_core: float | None


def main(argv: list[str]) -> int:
    """Measures the asked feeds, prints a Markdown table; returns 0."""
    args = parser().parse_args(argv)
    _check(args)
    keep_freed_memory()  # as in training
    import jax

    if args.devices:
        jax.config.update("jax_num_cpu_devices", args.devices)
    from dmphn_jax.runtime import data_mesh

    devices = jax.devices()
    if (args.devices or 0) > len(devices):
        raise UserError(f"--devices {args.devices}: this machine has {len(devices)}")
    mesh = data_mesh(devices[: args.devices])
    with tempfile.TemporaryDirectory(prefix="dmphn-benchmark-") as folder:
        data_dir = args.data_dir or make_set(Path(folder), args.frames)
        figures = [
            measure(name, data_dir, mesh, batch_size, args)
            for name in args.feeds
            for batch_size in args.batch_size
        ]
    machine = f"{platform.machine()}, {cores()} cores"
    if devices[0].platform != "cpu" or mesh.size > 1:
        machine += f", {mesh.size} devices ({devices[0].device_kind})"
    pairs = args.data_dir or f"{args.frames} made frames of 1280x720, in the page cache"
    print(
        markdown(figures, f"Pairs of {args.crop_size}x{args.crop_size} crops, {machine}; {pairs}")
    )
    if args.json:
        report = {
            "machine": machine,
            "set": pairs,
            "crop_size": args.crop_size,
            "devices": mesh.size,
            "feeds": [dataclasses.asdict(figure) for figure in figures],
        }
        write_file(args.json, json.dumps(report, indent=2) + "\n")
    return 0


def _check(args: argparse.Namespace) -> None:
    flags = {"crop_size": 1, "frames": 1, "devices": 1, "threads": 0, "prefetch": 0}
    given = [(flag, getattr(args, flag), least) for flag, least in flags.items()]
    given += [("batch_size", size, 1) for size in args.batch_size]
    for flag, value, least in given:
        if value is not None and value < least:
            raise UserError(f"--{flag.replace('_', '-')} {value}: must be at least {least}")
    if not args.seconds > 0:
        raise UserError(f"--seconds {args.seconds:g}: must be positive")


def make_set(folder: Path, frames: int) -> Path:
    """Prepares a set of noisy 1280x720 frames; returns its folder."""
    from PIL import Image

    from tfds_gopro.builders import Gopro

    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (45, 80, 3), np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((1280, 720), Image.Resampling.BICUBIC))
    for number in range(frames):
        for side, noise in (("blur", 4), ("sharp", 12)):
            path = folder / f"GOPRO_Large/train/SEQUENCE/{side}/{number:06d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image = smooth + random.integers(0, noise, smooth.shape)
            Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).save(path, compress_level=1)
    for config in ("frames", "crops"):
        builder = Gopro(
            data_dir=folder / "data",
            config=config,
            source=folder / "GOPRO_Large",
            allow_partial=True,
            progress=False,
        )
        builder.download_and_prepare()
    return folder / "data"


def measure(
    name: str, data_dir: str | Path, mesh: Mesh, batch_size: int, args: argparse.Namespace
) -> Figure:
    """Returns what one feed of `CASES` delivers to the devices of `mesh`."""
    from dmphn_jax.data import make_feed
    from dmphn_jax.data.host_feed import HostFeed

    label, fields = CASES[name]
    # The constructor and the defaults of a training run.
    feed = make_feed(
        {
            "source": "gopro",
            "data_dir": data_dir,
            "threads": args.threads,
            "prefetch": args.prefetch,
            **fields,
        },
        mesh=mesh,
        seed=0,
        batch_size=-(-batch_size // mesh.size) * mesh.size,
        crop_size=args.crop_size,
    )
    host = isinstance(feed, HostFeed)
    with contextlib.closing(feed):
        # As much is being read ahead when the clock stops as when it starts.
        ahead = feed.prefetch // feed.batch_size if host else 0
        pairs, wall, cpu = _clocked(feed, mesh, ahead + 1, args.seconds)
    return Figure(
        feed=label,
        batch_size=feed.batch_size,
        threads=feed.threads if host else 0,
        pairs=pairs,
        pairs_per_second=round(pairs / wall, 1),
        pairs_per_second_per_core=round(pairs / cpu, 1) if host else None,
    )


def _clocked(feed: Feed, mesh: Mesh, unclocked: int, seconds: float) -> tuple[int, float, float]:
    """Returns (pairs delivered, seconds by the clock, seconds of processor time).

    Each dispatch cuts its crops in a compiled step, as training does; the host feed's are there
    already.
    """
    import jax

    @jax.jit
    def step(resident, batches):
        # The sums make every crop be cut; the feed's cost is the cutting.
        def one(total, batch):
            blurry, sharp = feed.crops(resident, batch)
            return total + blurry.sum(dtype="uint32") + sharp.sum(dtype="uint32"), None

        return jax.lax.scan(one, jax.numpy.uint32(0), batches)[0]

    together = 1 if mesh.devices.flat[0].platform == "cpu" else _TOGETHER

    def dispatch() -> None:
        batches = feed.next(together)
        jax.block_until_ready(batches if feed.resident is None else step(feed.resident, batches))

    for _ in range(unclocked):
        dispatch()
    pairs, wall, cpu = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - wall < seconds:
        dispatch()
        pairs += together * feed.batch_size
    return pairs, time.perf_counter() - wall, time.process_time() - cpu


def markdown(figures: list[Figure], title: str) -> str:
    """Returns the figures as a Markdown table."""
    rows = []
    for row in figures:
        core = row.pairs_per_second_per_core
        by_core = "" if core is None else f"{core:,.0f}"
        readers, rate = str(row.threads or ""), f"{row.pairs_per_second:,.0f}"
        rows.append([row.feed, str(row.batch_size), readers, by_core, rate])
    header = ["feed", "batch", "readers", "pairs/s per core", "pairs/s"]
    return f"{title}\n\n{markdown_table(header, rows)}"
