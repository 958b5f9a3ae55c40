"""`dmphn plan`: what a run needs on an accelerator, before it is paid for."""

from __future__ import annotations

import argparse
import json
import sys

from dmphn_jax import storage
from dmphn_jax.commands import arguments
from dmphn_jax.errors import UserError
from dmphn_jax.files import check_place, write_file
from dmphn_jax.models import LAYOUTS, PRECISIONS, zoo
from dmphn_jax.planning import experiments, machines, report, run
from dmphn_jax.planning.request import Compiled, Request
from dmphn_jax.training import settings

DESCRIPTION = """\
Compiles this project's own program, a training step or the network on images, for a TPU slice or
GPUs that need not be there, and tells what the compiler says of it: memory per chip and whether it
fits, collectives, operations, bytes, on TPUs estimated cycles, the bounds that the chip's peak
figures set, hours and cost to the config's end. Nothing is executed.

Needs the machine's compiler: libtpu for TPUs, JAX's CUDA plugin for GPUs (docs/plan.md)."""


def _batch(text: str) -> int:
    return -1 if text == "max" else arguments.count(text)


def parser() -> argparse.ArgumentParser:
    """Returns the command's parser."""
    made = argparse.ArgumentParser(
        prog="dmphn plan",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n"
        "  dmphn plan --config configs/stack4.py --devices v5e:4x4 --batch max\n"
        "  dmphn plan --model stack4 --size 720x1280 --devices v6e:2x2 --batch 4\n"
        "Fields of the config are set as --config.FIELD=VALUE.",
        allow_abbrev=False,
    )
    add = made.add_argument
    program = made.add_mutually_exclusive_group(required=True)
    program.add_argument("--config", metavar="FILE[:ARG]", help="plan the training of a config")
    program.add_argument("--model", metavar="NAME", help="plan inference with a model of the zoo")
    add(
        "--devices",
        required=True,
        metavar="NAME",
        help=f"v5e:4x4, h100:8, ...: of {', '.join(machines.CHIPS)}",
    )
    add(
        "--batch",
        type=_batch,
        default=0,
        metavar="N|max",
        help="pairs per step or images per call, over all chips; max: as many as fit "
        "(the config's batch, made even; one image a device, of which tpu7x has two a chip)",
    )
    add("--size", type=arguments.size, metavar="HxW", help="of the images (720x1280)")
    add("--precision", choices=PRECISIONS, help="compute dtype (the config's; float32)")
    add(
        "--layout",
        choices=LAYOUTS,
        help="of the convolutions (the config's; the platform's own)",
    )
    add(
        "--remat",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="recompute activations in the backward pass (the config's)",
    )
    add("--split-rows", action="store_true", help="one image, split by rows over all devices")
    add("--pairs", type=arguments.count, default=0, metavar="N", help="in the training set")
    add(
        "--price-per-chip-hour", type=arguments.positive, metavar="P", help="tells what a run costs"
    )
    add("--json", metavar="FILE", help="write the plan there; docs/plan.md tells the keys")
    add("--hlo", metavar="FILE", help="write the optimised program there")
    add(
        "--explain",
        type=arguments.count,
        nargs="?",
        const=20,
        default=0,
        metavar="N",
        help="list the N dearest operations (20), and all that only move full-resolution tensors",
    )
    return made


def main(argv: list[str]) -> int:
    """Runs `dmphn plan`; returns 1 if the program does not fit, else 0."""
    own, overrides = settings.divided(argv)
    args = parser().parse_args(own)
    machine = machines.parse(args.devices)
    request = _request(args, machine, overrides)
    for flag, path in (("--json", args.json), ("--hlo", args.hlo)):
        if path:
            check_place(storage.local_only(flag, path))
    found = run.ask(request, lambda said: print(f"compiling {said}", file=sys.stderr, flush=True))
    for tried in found[:-1]:
        print(f"batch {tried.batch}: {'fits' if tried.fits else 'does not fit'}")
    compiled = found[-1]
    plan = _plan(request, machine, compiled, args.price_per_chip_hour)
    print(report.text(plan), flush=True)
    if args.json:
        write_file(args.json, json.dumps(plan.to_dict(), indent=1) + "\n")
    if args.hlo and compiled.text:
        write_file(args.hlo, compiled.text)
    elif args.hlo:
        print(f"{args.hlo}: not written: of what does not fit there is no text", file=sys.stderr)
    return 0 if compiled.fits else 1


def _request(args: argparse.Namespace, machine: machines.Machine, overrides: list[str]) -> Request:
    """Returns the request, checked as far as it can be without a compiler."""
    _check_flags(args, overrides)
    if args.precision and args.precision not in machine.chip.peak:
        raise UserError(
            f"--precision {args.precision}: {machine.chip.label} is planned for "
            f"{' or '.join(machine.chip.peak)}"
        )
    request = Request(
        machine=args.devices,
        config=args.config or "",
        overrides=tuple(overrides),
        model=args.model or "",
        size=args.size or (720, 1280),
        batch=args.batch,
        precision=args.precision or ("float32" if args.model else ""),
        layout=args.layout or "",
        remat=args.remat,
        split_rows=args.split_rows,
        pairs=args.pairs,
        explain=args.explain,
        text=bool(args.hlo),
    )
    if request.config:
        experiments.pairs_of(request, experiments.config_of(request))
    return request


def _check_flags(args: argparse.Namespace, overrides: list[str]) -> None:
    """Raises UserError for flags that do not go together."""
    if args.model:
        zoo.get(args.model)
        given = {
            "--remat": args.remat is not None,
            "--pairs": args.pairs,
            "--price-per-chip-hour": args.price_per_chip_hour,
            **dict.fromkeys(overrides, True),
        }
        for flag, is_given in given.items():
            if is_given:
                raise UserError(f"{flag} goes with --config")
        if args.split_rows and args.batch:
            raise UserError("--split-rows is of one image: no --batch")
        if args.split_rows and args.layout not in (None, "xla"):
            raise UserError(
                "--split-rows is for --layout xla: XLA splits its own convolutions only"
            )
    else:
        if args.split_rows:
            raise UserError("--split-rows goes with --model")
        if args.size:
            raise UserError("--size goes with --model; a config's is --config.crop_size=N")
        if args.precision == "float16":
            raise UserError("--precision float16 goes with --model: its gradients vanish")


def _plan(
    request: Request, machine: machines.Machine, compiled: Compiled, price: float | None
) -> report.Plan:
    if request.model:
        return report.Plan(request.model, machine, compiled, request.size, None, price)
    config = experiments.config_of(request)
    pairs = experiments.pairs_of(request, config)
    epoch, steps = experiments.steps_of(config, pairs, compiled.batch)
    name, side = zoo.name_of(settings.model_of(config)), config.crop_size
    length = report.Run(steps, steps / epoch, side)
    note = ""
    if not request.batch and compiled.batch != config.batch_size:
        note = (
            f"batch           {compiled.batch}: {compiled.devices} devices do not share the "
            f"config's {config.batch_size} evenly; run it with --config.batch_size={compiled.batch}"
        )
    return report.Plan(name, machine, compiled, (side, side), length, price, note)
