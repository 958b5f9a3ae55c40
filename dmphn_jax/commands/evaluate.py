"""`dmphn evaluate`: PSNR, SSIM and runtime of checkpoints, beside the paper's figures."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Sequence
from typing import Any

from dmphn_jax.commands import arguments
from dmphn_jax.data.base import PairSource
from dmphn_jax.errors import UserError
from dmphn_jax.evaluation import report
from dmphn_jax.models import PRECISIONS

DESCRIPTION = """\
Score checkpoints on pairs of blurry and sharp images, and the blurry input itself: PSNR, and SSIM
in both conventions (MATLAB's 3-D on RGB, which the paper used, and scikit-image's per channel).
The table stands beside the paper's figures for each model.

With --report, results are kept per image in FOLDER/results.jsonl, and the same command goes on
where it was stopped; FOLDER/report.md and report.json hold the tables. Delete results.jsonl if
the images behind the same names have changed."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dmphn evaluate",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("checkpoints", nargs="*", metavar="CHECKPOINT", help="checkpoint folders; none: the input")
    add(
        "--data",
        required=True,
        help="gopro, video_deblurring (both prepared by tfds_gopro), synthetic, or a folder",
    )
    add("--split", default="test", help="test (default) or train")
    add("--data-dir", metavar="DIR", help="where the prepared datasets lie")
    add("--blur", choices=("blur", "blur_gamma"), help="GoPro's blurry side; the paper's is blur")
    add(
        "--su-frames",
        action="store_true",
        help="video_deblurring: the 30 frames per video that Su et al. score, not all",
    )
    add(
        "--limit",
        type=arguments.count,
        metavar="N",
        help="score N pairs only, spread evenly over the set",
    )
    add("--synthetic-size", type=arguments.size, metavar="HxW", help="size of synthetic scenes")
    add("--synthetic-count", type=arguments.count, metavar="N", help="number of synthetic scenes")
    add("--synthetic-motion", type=float, metavar="F", help="factor on their motion (1)")
    add(
        "--stages", type=arguments.count, metavar="K", help="run the first K stages of a stack only"
    )
    add(
        "--ensemble",
        action="store_true",
        help="x8 self-ensemble over flips and quarter turns; takes eight times as long",
    )
    add("--precision", default="float32", choices=PRECISIONS, help="of the network")
    add(
        "--devices",
        type=arguments.count,
        metavar="N",
        help="share batches among N local devices (all)",
    )
    add("--batch-size", type=arguments.count, metavar="B", help="images per batch (one per device)")
    add("--no-timing", action="store_true", help="do not measure the time of one image")
    add("--report", metavar="FOLDER", help="keep results there and write report.md, report.json")
    add("--per-image", metavar="FILE", help="write a CSV of every image's scores")
    add("--save-images", metavar="FOLDER", help="save outputs as FOLDER/<model>/<name>.png")
    return parser


def main(argv: list[str]) -> int:
    """Evaluates; returns 1 if a pair failed, else 0."""
    args = _parser().parse_args(argv)
    import jax

    from dmphn_jax.data import SourceOptions, open_source
    from dmphn_jax.runtime import cache_compilations

    check_checkpoints(args.checkpoints, args.stages)  # before any hour of work
    options = {
        "data_dir": args.data_dir,
        "blur": args.blur,
        "size": args.synthetic_size,
        "count": args.synthetic_count,
        "motion": args.synthetic_motion,
    }
    options = {name: value for name, value in options.items() if value is not None}
    for name in sorted({"size", "count", "motion"} & set(options)):
        if args.data != "synthetic":
            raise UserError(f"--synthetic-{name} needs --data synthetic")
    if args.su_frames and args.data != "video_deblurring":
        raise UserError("--su-frames needs --data video_deblurring")
    cache_compilations()
    devices = jax.local_devices()
    if (args.devices or 0) > len(devices):
        raise UserError(f"--devices {args.devices}: this machine has {len(devices)}")
    source = open_source(args.data, args.split, SourceOptions(**options))
    if not len(source):
        raise UserError(f"--data {args.data} --split {args.split}: there are no pairs")
    made = evaluate_checkpoints(
        args.checkpoints,
        source,
        data=args.data,
        split=args.split,
        options={k: v for k, v in options.items() if k != "data_dir"},
        su_frames=args.su_frames,
        limit=args.limit,
        stages=args.stages,
        ensemble=args.ensemble,
        precision=args.precision,
        devices=devices[: args.devices],
        batch_size=args.batch_size,
        timing=not args.no_timing,
        folder=args.report,
        save_images=args.save_images,
        per_image=args.per_image,
        command=shlex.join(["dmphn", "evaluate", *argv]),
    )
    print(report.markdown(made), end="")
    return 1 if any(row["failed"] for row in made["rows"]) else 0


def check_checkpoints(paths: Sequence[str], stages: int | None = None) -> None:
    """Raises UserError unless every path is a checkpoint, and one with so many stages."""
    from dmphn_jax import checkpoints

    for path in paths:
        has = checkpoints.read_model_item(path)["model"].get("stages", 1)
        if stages and stages > has:
            raise UserError(f"--stages {stages}: {path} has {has}")


def evaluate_checkpoints(
    paths: Sequence[str],
    source: PairSource,
    *,
    data: str,
    split: str = "test",
    options: dict[str, Any] | None = None,
    su_frames: bool = False,
    limit: int | None = None,
    stages: int | None = None,
    ensemble: bool = False,
    precision: str = "float32",
    devices: Sequence[Any] | None = None,
    batch_size: int | None = None,
    timing: bool = True,
    folder: str | os.PathLike[str] | None = None,
    save_images: str | os.PathLike[str] | None = None,
    per_image: str | os.PathLike[str] | None = None,
    command: str = "",
) -> dict[str, Any]:
    """Scores the blurry input and every checkpoint on a source; returns the report.

    Arguments are those of the command, which `--help` explains. `data`, `split` and `options` are
    what the source was opened with: the report tells them, and results that are kept in `folder`
    belong to them. Reports are written after every checkpoint.
    """
    import jax

    from dmphn_jax.evaluation.run import EvaluationRun
    from dmphn_jax.evaluation.scoring import Blurry
    from dmphn_jax.inference.deblurrer import Deblurrer

    devices = list(devices or jax.local_devices())
    run = EvaluationRun(
        source,
        data={"name": data, "split": split, **(options or {})},
        indices=su_frames_of(source.names) if su_frames else None,
        limit=limit,
        devices=devices,
        batch_size=batch_size,
        folder=folder,
        save_images=save_images,
        command=command,
    )
    with run:
        run.score(report.BLURRY, Blurry())
        for path in paths:
            deblurrer = Deblurrer(path, stages=stages, precision=precision, devices=devices)
            run.score_checkpoint(path, deblurrer, ensemble=ensemble, timing=timing)
        if per_image:
            report.write_file(per_image, report.per_image_csv(run.results))
    return run.report()


def su_frames_of(names: Sequence[str]) -> list[int]:
    """Returns the indices of the frames that Su et al. score, 30 of each video of 100."""
    from dmphn_jax.data.splits import video_deblurring_scored_frames

    videos: dict[str, list[int]] = {}
    for index, name in sorted(enumerate(names), key=lambda item: item[1]):
        videos.setdefault(name.rpartition("/")[0], []).append(index)
    return sorted(
        frames[position]
        for frames in videos.values()
        for position in video_deblurring_scored_frames(len(frames))
    )
