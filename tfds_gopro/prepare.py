"""`python -m tfds_gopro.prepare gopro --source GOPRO_Large --data-dir D`: prepares the records."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from dmphn_jax.data.options import BLURS, PREPARED
from dmphn_jax.errors import UserError, run_command
from dmphn_jax.files import settle
from dmphn_jax.processes.termination import exits_on_sigterm
from dmphn_jax.storage import local_only
from tfds_gopro.sizes import FRAME, STRIDE, TILE

DEFAULT_DATA_DIR = "data"


def _size(text: str) -> tuple[int, int] | None:
    if text == "frame":
        return FRAME
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdigit() and int(part) > 0 for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not SIZE, HEIGHTxWIDTH or 'frame'")
    return int(parts[0]), int(parts[-1])


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return int(text)


def parser() -> argparse.ArgumentParser:
    """Returns the command's parser."""
    p = argparse.ArgumentParser(
        prog="python -m tfds_gopro.prepare",
        description="Writes GoPro or VideoDeblurring as TFDS records: whole frames for evaluation "
        "and raw tiles for training without decoding. Nothing is downloaded.",
        epilog="Disk for GoPro: frames as much as the PNGs of the two sides used, crops 26 GB "
        "(--size frame: 12 GB).",
    )
    p.add_argument("dataset", choices=PREPARED)
    p.add_argument("--source", required=True, help="the dataset's folder, or its zip as downloaded")
    p.add_argument(
        "--data-dir", default=DEFAULT_DATA_DIR, help="where records go (default: %(default)s)"
    )
    p.add_argument(
        "--config",
        choices=("frames", "crops", "all"),
        default="all",
        help="what to write (default: all)",
    )
    p.add_argument(
        "--blur",
        choices=BLURS,
        default="blur",
        help="GoPro's blurry side: averaged linearly, as in the paper, or with a camera's gamma",
    )
    p.add_argument(
        "--size",
        type=_size,
        default=TILE,
        metavar="S",
        help="tile size of crops: S, HxW, or 'frame' for one raw tile per frame "
        f"(default: {'x'.join(map(str, TILE))})",
    )
    p.add_argument(
        "--stride",
        type=_positive,
        default=STRIDE,
        metavar="PIXELS",
        help="distance of tiles; every crop up to SIZE - PIXELS fits in one (default: %(default)s)",
    )
    p.add_argument(
        "--allow-partial", action="store_true", help="prepare a set that lacks published pairs"
    )
    p.add_argument("--overwrite", action="store_true", help="replace what is prepared already")
    p.add_argument("--workers", type=_positive, help="threads (default: one per core)")
    p.add_argument("--quiet", action="store_true", help="no progress bar")
    return p


def main(argv: list[str]) -> int:
    """Prepares the asked configs; returns 0. SIGTERM leaves nothing half, and SystemExit(143).

    Raises:
      UserError: the source is wrong or partial, an image is damaged, or the disk is full.
    """
    args = parser().parse_args(argv)
    if args.dataset == "video_deblurring" and args.blur != "blur":
        raise UserError("--blur blur_gamma: only gopro has that side")
    local_only("--data-dir", args.data_dir)  # TFDS would begin, and fail half way
    if args.size != FRAME and args.stride > min(args.size):
        raise UserError(
            f"--stride {args.stride}: larger than the tile, frames would not be covered"
        )
    with exits_on_sigterm():
        _prepare(args)
    return 0


def _prepare(args: argparse.Namespace) -> None:
    import tensorflow_datasets as tfds
    from absl import logging

    from tfds_gopro.builders import BUILDERS, pair_config

    logging.set_verbosity(logging.ERROR)  # TFDS remarks on every config it does not know
    kinds = ("frames", "crops") if args.config == "all" else (args.config,)
    for kind in kinds:
        builder = BUILDERS[args.dataset](
            data_dir=args.data_dir,
            config=pair_config(kind, args.blur, args.size, args.stride),
            source=args.source,
            allow_partial=args.allow_partial,
            workers=args.workers,
            progress=not args.quiet,
        )
        where = Path(builder.data_dir)
        settle(where)  # an --overwrite may have been killed amid its renames
        if where.exists() and not args.overwrite:
            print(f"{where}: already prepared (--overwrite replaces it)")
            continue
        mode = tfds.download.GenerateMode.REUSE_CACHE_IF_EXISTS
        config = tfds.download.DownloadConfig(download_mode=mode) if args.overwrite else None
        builder.download_and_prepare(download_config=config)
        counts = ", ".join(
            f"{len(frames)} {split} pairs"
            for split, frames in builder.info.metadata["frames"].items()
            if frames
        )
        print(f"{where}: {counts}")
        for fault in builder.info.metadata["missing"]:
            print(f"  partial: {fault}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
