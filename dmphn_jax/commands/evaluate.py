"""`dmphn evaluate`: PSNR, SSIM and runtime of checkpoints, beside the paper's figures."""

from __future__ import annotations

import argparse
import io
import shlex
from pathlib import Path
from typing import Any

from dmphn_jax import storage
from dmphn_jax.commands import arguments
from dmphn_jax.data.options import BLURS, SOURCES, SPLITS
from dmphn_jax.errors import UserError
from dmphn_jax.models import PRECISIONS

DESCRIPTION = """\
Score checkpoints on pairs of blurry and sharp images, and the blurry input itself: PSNR, and SSIM
in both conventions (MATLAB's 3-D on RGB, which the paper used, and scikit-image's per channel).
The table stands beside the paper's figures for each model.

With --report, results are kept per image in FOLDER/results.jsonl, and the same command goes on
where it was stopped; FOLDER/report.md and report.json hold the tables. Delete results.jsonl if
the images behind the same names have changed.

Several processes, on one machine or many, share the pairs where a launcher (srun, mpirun, a TPU
slice's) or --process tells them that they are several: --report names the folder they share. Those
that see everything scored write the one report. Exit status: 0 all scored, or others are still at
it; 1 some pairs failed; of several processes 75 after SIGTERM: the others, or the same command
again, do the rest."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dmphn evaluate",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "checkpoints",
        nargs="*",
        metavar="CHECKPOINT",
        help="checkpoint folders, or released names such as stack4; none: the input",
    )
    add(
        "--data",
        required=True,
        help="; ".join(f"{name}: {what}" for name, what in SOURCES.items())
        + "; or the path of a folder or list of pairs",
    )
    add("--split", choices=SPLITS, default="test", help="of the pairs (%(default)s)")
    add("--data-dir", metavar="DIR", help="where the prepared datasets lie")
    add("--blur", choices=BLURS, help="GoPro's blurry side; the paper's is blur")
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
    add("--synthetic-size", type=arguments.size, metavar="HEIGHTxWIDTH", help="of synthetic scenes")
    add("--synthetic-count", type=arguments.count, metavar="N", help="number of synthetic scenes")
    add("--synthetic-seed", type=int, metavar="N", help="which scenes: a run's config.seed (0)")
    add("--synthetic-motion", type=float, metavar="F", help="factor on their motion (1)")
    add(
        "--stages",
        type=arguments.count_or_all,
        metavar="K",
        help="run the first K stages of a stack only; all: 1, 2, ... of them, a row each, drawn "
        "against their time in FOLDER/stages.png of --report",
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
    add(
        "--process",
        metavar="I/N",
        help="this is process I (from 0) of N that share the pairs, by files in FOLDER of --report "
        "(default: as the launcher tells)",
    )
    add("--no-timing", action="store_true", help="do not measure the time of one image")
    add("--report", metavar="FOLDER", help="keep results there and write report.md, report.json")
    add("--per-image", metavar="FILE", help="write a CSV of every image's scores")
    add("--save-images", metavar="FOLDER", help="save outputs as FOLDER/<model>/<name>.png")
    return parser


def main(argv: list[str]) -> int:
    """Evaluates; returns 1 if a pair failed, else 0."""
    args = _parser().parse_args(argv)
    given = _given(args)

    from dmphn_jax.data import SourceOptions
    from dmphn_jax.evaluation import markdown
    from dmphn_jax.evaluation.run import EvaluationOptions, evaluate, evaluate_together
    from dmphn_jax.evaluation.selection import PairSelection
    from dmphn_jax.processes import places
    from dmphn_jax.runtime import cache_compilations

    cache_compilations()
    options = EvaluationOptions(
        pairs=PairSelection(
            args.data,
            args.split,
            SourceOptions(**given),
            su_frames=args.su_frames,
            limit=args.limit,
        ),
        checkpoints=tuple(args.checkpoints),
        stages=args.stages,
        ensemble=args.ensemble,
        precision=args.precision,
        devices=args.devices,
        batch_size=args.batch_size,
        timing=not args.no_timing,
        folder=args.report,
        save_images=args.save_images,
        per_image=args.per_image,
        command=shlex.join(["dmphn", "evaluate", *_without_place(argv)]),
    )
    place = places.find(args.process)
    if place:
        places.keep_to_own_chips()
        report, failed = evaluate_together(options, place)
        if report is None:
            return 1 if failed else 0
    else:
        report = evaluate(options)
    print(markdown.text(report), end="")
    if args.stages == "all" and args.report and not args.no_timing and args.checkpoints:
        _draw(Path(args.report))
    return 1 if report.failed else 0


def _given(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the fields of SourceOptions that were given; raises UserError for flags at odds."""
    given = {
        "data_dir": args.data_dir,
        "blur": args.blur,
        "size": args.synthetic_size,
        "count": args.synthetic_count,
        "seed": args.synthetic_seed,
        "motion": args.synthetic_motion,
    }
    given = {name: value for name, value in given.items() if value is not None}
    for name in ("size", "count", "seed", "motion"):
        if name in given and args.data != "synthetic":
            raise UserError(f"--synthetic-{name} needs --data synthetic")
    for flag in ("report", "save_images", "per_image"):
        if value := getattr(args, flag):
            storage.local_only(f"--{flag.replace('_', '-')}", value)
    if args.su_frames and args.data != "video_deblurring":
        raise UserError("--su-frames needs --data video_deblurring")
    return given


def _without_place(argv: list[str]) -> list[str]:
    """Returns arguments without `--process`: the report of several is one."""
    kept: list[str] = []
    rest = iter(argv)
    for arg in rest:
        flag, given, _ = arg.partition("=")
        if not (flag.startswith("--pro") and "--process".startswith(flag)):  # or shortened
            kept.append(arg)
        elif not given:
            next(rest, None)
    return kept


def _draw(folder: Path) -> None:
    """Draws the rows of a report in `stages.png` beside it."""
    from dmphn_jax.evaluation import figures
    from dmphn_jax.files import write_file

    name, points, sizes = figures.read_points(str(folder))
    content = io.BytesIO()
    figures.draw({name: points}, sorted(sizes), ssim=True).savefig(content, format="png")
    write_file(folder / "stages.png", content.getvalue())
