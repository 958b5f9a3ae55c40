"""`dmphn benchmark-data`: pairs of crops per second that each feed delivers, per core."""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from dmphn_jax.errors import UserError

FEEDS = ("png", "raw", "resident")


def parser() -> argparse.ArgumentParser:
    """Returns the command's parser."""
    p = argparse.ArgumentParser(
        prog="dmphn benchmark-data",
        description="Measures how many pairs of crops a second the feeds deliver, batching "
        "included: PNG frames and raw tiles through the host feed, and the resident feed. Host "
        "figures are per second of processor time, and so per core; wall figures use --threads.",
    )
    p.add_argument("--data-dir", help="prepared gopro; by default a small set is made on the fly")
    p.add_argument("--feeds", nargs="+", choices=FEEDS, default=list(FEEDS), metavar="FEED")
    p.add_argument("--crop-size", type=int, default=256)
    p.add_argument("--batch-size", type=int, default=16)
    p.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    p.add_argument("--seconds", type=float, default=5.0, help="per feed (default: %(default)s)")
    p.add_argument("--frames", type=int, default=16, help="frames of the made set")
    p.add_argument("--json", metavar="FILE", help="also write the figures as JSON")
    return p


def main(argv: list[str]) -> int:
    """Measures the asked feeds, prints a Markdown table; returns 0."""
    args = parser().parse_args(argv)
    for flag in ("crop_size", "batch_size", "threads", "frames", "seconds"):
        if getattr(args, flag) <= 0:
            raise UserError(f"--{flag.replace('_', '-')} {getattr(args, flag)}: must be positive")
    with tempfile.TemporaryDirectory(prefix="dmphn-benchmark-") as folder:
        data_dir = args.data_dir or make_set(Path(folder), args.frames)
        rows = [measure(feed, data_dir, args) for feed in args.feeds]
    report = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "set": args.data_dir or f"{args.frames} made frames of 1280x720, in the page cache",
        "crop_size": args.crop_size,
        "batch_size": args.batch_size,
        "threads": args.threads,
        "feeds": rows,
    }
    print(markdown(report))
    if args.json:
        path = Path(args.json)
        temporary = path.with_name(f".{path.name}.new")
        try:
            temporary.write_text(json.dumps(report, indent=2) + "\n")
            temporary.replace(path)
        except OSError as error:
            raise UserError(f"--json {path}: {error.strerror}") from error
    return 0


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


def measure(feed: str, data_dir: str | Path, args: argparse.Namespace) -> dict[str, Any]:
    """Returns one feed's figures: pairs per second, per core and by the wall clock."""
    from dmphn_jax.data import SourceOptions, open_source

    records = "crops" if feed == "raw" else "frames"
    source = open_source("gopro", "train", SourceOptions(data_dir=data_dir, records=records))
    run = _resident if feed == "resident" else _host
    pairs, wall, cpu = run(source, args)
    names = {"png": "PNG frames, host", "raw": "raw tiles, host", "resident": "resident"}
    return {
        "feed": names[feed],
        "pairs_per_second_per_core": None if cpu is None else round(pairs / cpu, 1),
        "pairs_per_second": round(pairs / wall, 1),
        "pairs": pairs,
    }


def _host(source: Any, args: argparse.Namespace) -> tuple[int, float, float]:
    from dmphn_jax.data.host_feed import HostFeed

    ahead = args.batch_size * args.threads
    feed = HostFeed(
        source,
        batch_size=args.batch_size,
        crop_size=args.crop_size,
        threads=args.threads,
        prefetch=ahead,
    )
    # As much is being read ahead when the clock stops as when it starts.
    for _ in range(args.threads + 1):
        feed.next_local()
    pairs, wall, cpu = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - wall < args.seconds:
        feed.next_local()
        pairs += args.batch_size
    times = time.perf_counter() - wall, time.process_time() - cpu
    feed.close()
    return pairs, *times


def _resident(source: Any, args: argparse.Namespace) -> tuple[int, float, None]:
    """Cuts crops in a compiled step, ten batches per dispatch; only the wall clock tells here."""
    import jax

    from dmphn_jax.data.resident_feed import ResidentFeed

    devices = jax.devices()
    mesh = jax.make_mesh(
        (len(devices),), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=devices
    )
    batch_size = -(-args.batch_size // len(devices)) * len(devices)
    feed = ResidentFeed(
        source,
        mesh=mesh,
        seed=0,
        batch_size=batch_size,
        crop_size=args.crop_size,
        progress=False,
    )

    @jax.jit
    def step(resident, batches):
        # The sums make every crop be cut; the feed's cost is the cutting.
        def one(total, batch):
            blurry, sharp = feed.crops(resident, batch)
            return total + blurry.sum(dtype="uint32") + sharp.sum(dtype="uint32"), None

        return jax.lax.scan(one, jax.numpy.uint32(0), batches)[0]

    step(feed.resident, feed.next(10)).block_until_ready()
    pairs, start = 0, time.perf_counter()
    while time.perf_counter() - start < args.seconds:
        step(feed.resident, feed.next(10)).block_until_ready()
        pairs += 10 * batch_size
    wall = time.perf_counter() - start
    feed.close()
    return pairs, wall, None


def markdown(report: dict[str, Any]) -> str:
    """Returns the report as a Markdown table."""
    lines = [
        f"Pairs of {report['crop_size']}x{report['crop_size']} crops, batches of "
        f"{report['batch_size']}, {report['threads']} threads, {report['machine']}; "
        f"{report['set']}",
        "",
        "| feed | pairs/s per core | pairs/s |",
        "|---|---|---|",
    ]
    for row in report["feeds"]:
        core = row["pairs_per_second_per_core"]
        shown = "" if core is None else f"{core:,.0f}"
        lines.append(f"| {row['feed']} | {shown} | {row['pairs_per_second']:,.0f} |")
    return "\n".join(lines)
