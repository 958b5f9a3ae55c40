"""`dmphn benchmark`: speed, memory and cost of inference and training, beside PyTorch's."""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import shlex
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from dmphn_jax import storage
from dmphn_jax.benchmarking import peers
from dmphn_jax.benchmarking.peers import PEERS, VARIANTS
from dmphn_jax.commands import arguments
from dmphn_jax.errors import UserError, nearest
from dmphn_jax.files import shown
from dmphn_jax.models import LAYOUT_CHOICES, PRECISIONS, ModelConfig, zoo
from dmphn_jax.training.settings import COMPUTE_DTYPES

DESCRIPTION = """\
Measure inference and training on this machine's first device, with random images and weights:
latency (p50, p90) and throughput, time to compile, device memory, floating-point operations, bytes,
and the share of the device's ceilings, which are measured too (a large matrix product per
precision, a large copy). Every call is synchronised and warmed up. Prints Markdown; with --out DIR
also writes benchmark.md and benchmark.json.

With --vs, our PyTorch twin of the same network and weights competes: every round runs each
competitor once, in turn. First it is checked that all give the same image. torch: as released
(NCHW, patch by patch, float32), and patches stacked in channels_last, in bfloat16 too where the
processor has it; on a GPU also in TF32, bfloat16 and float16. torch-compile: torch.compile in
float32 and bfloat16; on a GPU (not run on one so far) in TF32, bfloat16 and float16. onnxruntime:
float32. openvino: float32 and bfloat16. The last two are for inference on a CPU. Only one computes
at a time."""

_TORCH_VARIANTS = [name for name, how in VARIANTS.items() if how.library == "torch"]
_SIZES = {"inference": (720, 1280), "training": (256, 256)}
_BATCHES = {"inference": 1, "training": 6}  # one image, and the paper's batch


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dmphn benchmark",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="lists are given with commas: --models dmphn_1_2_4,stack4 --batches 1,4",
    )
    add = parser.add_argument
    add("--models", default="dmphn_1_2_4", metavar="NAMES", help="zoo names (%(default)s)")
    add(
        "--width", type=arguments.count, default=32, metavar="N", help="channels of the models (32)"
    )
    add(
        "--mode", choices=("inference", "training", "both"), default="inference", help="(inference)"
    )
    add(
        "--sizes",
        type=_list_of(arguments.size),
        metavar="HxW",
        help="of images, and of training crops (720x1280; 256x256)",
    )
    add(
        "--batches",
        type=_list_of(arguments.count),
        metavar="B",
        help="images per call (1; training 6)",
    )
    add(
        "--stages",
        type=_list_of(arguments.count),
        metavar="K",
        help="first stages of a stack to run (all)",
    )
    add(
        "--precisions",
        default="float32",
        metavar="NAMES",
        help=f"{', '.join(PRECISIONS)}; float16 for inference only (float32)",
    )
    add(
        "--layout",
        choices=LAYOUT_CHOICES,
        default="auto",
        help="of JAX's convolutions (auto: the platform's fastest)",
    )
    add(
        "--vs",
        metavar="PEERS",
        help=f"compare with those of {', '.join(PEERS)} that are installed; "
        "pip install 'dmphn_jax[compare]' brings all",
    )
    add(
        "--torch-variants",
        metavar="NAMES",
        help=f"of {', '.join(_TORCH_VARIANTS)} (what fits here)",
    )
    add(
        "--tolerance",
        type=float,
        default=1e-4,
        metavar="F",
        help="largest difference of float32 outputs, as a part of the output's scale (1e-4)",
    )
    add("--warmup", type=arguments.count, default=2, metavar="N", help="untimed calls of each (2)")
    add(
        "--rounds",
        type=arguments.count,
        default=20,
        metavar="N",
        help="timed calls of each, at most (20)",
    )
    add(
        "--seconds",
        type=float,
        default=60.0,
        metavar="S",
        help="no round begins after S seconds, but the first three (60)",
    )
    add(
        "--keep-memory",
        action="store_true",
        help="on a CPU, let the process keep freed memory, PyTorch's too (with --mode training "
        "or both it always does, as training itself)",
    )
    add("--no-ceilings", action="store_true", help="do not measure the device's ceilings")
    add(
        "--scaling",
        action="store_true",
        help="also time the first model's inference against pixels, batch, levels and stages, "
        "around the first of --sizes; with --out, draw scaling.png",
    )
    add("--seed", type=arguments.seed, default=0, help="of weights and images (0)")
    add("--out", metavar="DIR", help="write benchmark.md and benchmark.json there")
    return parser


def main(argv: list[str]) -> int:
    """Measures; returns 1 if two competitors do not compute the same, else 0."""
    args = _parser().parse_args(argv)
    models = _models(args)
    precisions = _names("--precisions", args.precisions, PRECISIONS)
    named = _names("--vs", args.vs, PEERS)
    asked = _names("--torch-variants", args.torch_variants, _TORCH_VARIANTS)
    _check_options(args, models, precisions, named)
    if named:
        # JAX would take three quarters of a GPU's memory before PyTorch gets any.
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    import jax

    from dmphn_jax.benchmarking import groups, tables
    from dmphn_jax.runtime import keep_freed_memory

    if _keeps_memory(args):
        keep_freed_memory()
    device = jax.local_devices()[0]
    torch_device, variants = None, []
    if named:
        used = peers.usable(
            named, on_cpu=device.platform == "cpu", training=args.mode == "training"
        )
        from dmphn_jax.benchmarking.torch_cases import competitors

        torch_device, variants = competitors(device, used, models, asked)
    settings = groups.Settings(
        device=device,
        precisions=tuple(precisions),
        layout=args.layout,
        torch_device=torch_device,
        variants=tuple(variants),
        warmup=args.warmup,
        rounds=args.rounds,
        seconds=args.seconds,
        tolerance=args.tolerance,
        seed=args.seed,
    )
    # Everything that can be wrong is found before the first minute of work.
    work, swept, base = _plan(args, models, small=device.platform == "cpu")
    made = _new_report(args, argv, settings, f"{base}, {precisions[0]}" if base else None)
    if not _measure(args, made, settings, work, swept):
        return 1
    print(tables.markdown(made), end="")
    return 0


def _models(args: argparse.Namespace) -> list[ModelConfig]:
    try:
        return [
            dataclasses.replace(zoo.get(name), width=args.width) for name in args.models.split(",")
        ]
    except ValueError as error:
        raise UserError(f"--{error}") from None  # that of --width


def _new_report(
    args: argparse.Namespace, argv: list[str], settings: Any, scaling_base: str | None
) -> dict[str, Any]:
    """Makes the folder of the report, if there is to be one, and returns the report's frame."""
    import jax

    from dmphn_jax.benchmarking import tables

    if args.out:
        try:
            os.makedirs(args.out, exist_ok=True)
        except OSError as error:
            raise UserError(f"--out {shown(args.out)}: {error.strerror}") from None
    return tables.report(
        command=shlex.join(["dmphn", "benchmark", *argv]),
        device=settings.device,
        torch_device=settings.torch_device,
        libraries=list(dict.fromkeys(VARIANTS[name].library for name in settings.variants)),
        settings={
            "warmup": args.warmup,
            "rounds": args.rounds,
            "seconds": args.seconds,
            "seed": args.seed,
            "tolerance": args.tolerance,
            "queue": settings.queue,
            "keep_memory": _keeps_memory(args),
            "compile_cache": bool(jax.config.jax_compilation_cache_dir),
            "scaling_base": scaling_base,
        },
    )


def _keeps_memory(args: argparse.Namespace) -> bool:
    """Tells whether the process keeps freed memory, as training always does."""
    return args.keep_memory or args.mode != "inference"


def _plan(
    args: argparse.Namespace, models: list[ModelConfig], *, small: bool
) -> tuple[list[Any], dict[str, Any], Any]:
    """Returns the groups, the sweeps, and the work around which they sweep (None: no sweeps).

    Raises UserError for sizes and stages that a model does not take.
    """
    from dmphn_jax.benchmarking import scaling
    from dmphn_jax.benchmarking.groups import Group

    work = [
        Group(mode, model, size, batch, stages)
        for mode in (("inference", "training") if args.mode == "both" else (args.mode,))
        for model in models
        for stages in args.stages or [None]
        for size in args.sizes or [_SIZES[mode]]
        for batch in args.batches or [_BATCHES[mode]]
    ]
    for group in work:
        group.check()
    if not args.scaling:
        return work, {}, None
    size = args.sizes[0] if args.sizes else (256, 256) if small else _SIZES["inference"]
    return work, scaling.sweeps(models[0], size), Group("inference", models[0], size, 1)


def _measure(
    args: argparse.Namespace,
    made: dict[str, Any],
    settings: Any,
    work: list[Any],
    swept: dict[str, Any],
) -> bool:
    """Fills the report, writing it after every group; returns False if competitors disagree."""
    from dmphn_jax.benchmarking import groups, scaling, tables
    from dmphn_jax.benchmarking.agreement import DisagreementError
    from dmphn_jax.benchmarking.ceilings import ceilings
    from dmphn_jax.files import write_file

    if not args.no_ceilings:
        _say("ceilings")
        made["ceilings"] = ceilings(settings.device, torch_device=settings.torch_device)
    for group in work:
        _say(str(group))
        try:
            rows, compared = groups.run(group, settings, made["ceilings"])
        except DisagreementError as error:
            print(f"dmphn: error: {group}: {error}", file=sys.stderr)
            return False
        made["rows"] += rows
        made["agreement"] += compared
        made["ratios"] += tables.ratios(rows)
        if args.out:
            tables.write(args.out, made)
    for name, points in swept.items():
        _say(f"scaling: {name}")
        made["scaling"].append(scaling.run(name, points, settings))
        if args.out:
            tables.write(args.out, made)
    if swept and args.out:
        machine = f"{made['environment']['device']}, {made['date']}"
        title = f"{made['settings']['scaling_base']}, one thing varied\n{machine}"
        write_file(Path(args.out) / "scaling.png", scaling.plot(made["scaling"], title))
    return True


def _check_options(
    args: argparse.Namespace,
    models: list[ModelConfig],
    precisions: list[str],
    named: list[str],
) -> None:
    """Raises UserError for options that make no sense together."""
    for flag in ("seconds", "tolerance"):
        if not 0 <= getattr(args, flag) < math.inf:
            raise UserError(f"--{flag} {getattr(args, flag)}: must be a number from 0 up")
    storage.local_only("--out", args.out or "")
    if args.out and os.path.exists(args.out) and not os.path.isdir(args.out):
        raise UserError(f"--out {shown(args.out)}: is a file; name a folder")
    if args.mode != "inference" and not set(precisions) <= set(COMPUTE_DTYPES):
        raise UserError(f"--precisions float16: for --mode inference, not {args.mode}")
    if args.torch_variants and not {"torch", "torch-compile"} & set(named):
        raise UserError("--torch-variants needs --vs torch or torch-compile")
    if named and "float32" not in precisions:
        raise UserError("--vs compares images in float32 first: add it to --precisions")


def _say(text: str) -> None:
    print(f"dmphn: {text}", file=sys.stderr)


def _names(flag: str, text: str | None, known: Collection[str]) -> list[str]:
    """Returns the names of a list, each once; raises UserError for one that is not known."""
    names = list(dict.fromkeys(text.split(","))) if text is not None else []
    for name in names:
        if name not in known:
            raise UserError(f"{flag} {name}: one of {', '.join(known)}{nearest(name, known)}")
    return names


def _list_of(kind: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    return lambda text: [kind(part) for part in text.split(",")]
