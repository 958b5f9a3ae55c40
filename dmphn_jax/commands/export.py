"""`dmphn export CKPT OUT --format F`: a checkpoint as a file that other runtimes take."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from dmphn_jax import checkpoints, storage
from dmphn_jax.commands import arguments
from dmphn_jax.export import writing
from dmphn_jax.export.options import FORMATS, PIXELS, Options, card
from dmphn_jax.files import shown
from dmphn_jax.models import PRECISIONS, ModelConfig

if TYPE_CHECKING:
    import numpy as np

DESCRIPTION = """\
Write a checkpoint as a file that runs without this package: blurry images (B, H, W, 3) RGB in,
sharp ones out, normalised, rounded, padded and cropped inside.

  stablehlo  a file for `jax.export`, one for CPU, NVIDIA GPU and TPU
  onnx       a file of opset 17, for ONNX Runtime, OpenVINO, TensorRT and others
  saved      a folder, TensorFlow's SavedModel with the signature blurry -> sharp

Each takes any number of images of any size, unless --batch and --size fix them. The file's
metadata name model, checkpoint, version, and the multiple that height and width are padded to.
docs/export.md shows how each is loaded."""


def parser() -> argparse.ArgumentParser:
    """Returns the command's parser."""
    made = argparse.ArgumentParser(
        prog="dmphn export",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n"
        "  dmphn export stack4 stack4.onnx --format onnx --verify photos/\n"
        "  dmphn export runs/mine/checkpoints/1000 mine.stablehlo --format stablehlo --stages 2\n"
        "Exit status: 1 if --verify finds a larger difference than the stated bound.",
    )
    add = made.add_argument
    add("checkpoint", metavar="CKPT", help="folder of the model, or a released one's name")
    add("output", metavar="OUT", help="file to make; of --format saved, a folder")
    add("-f", "--format", required=True, choices=FORMATS, help="of the file")
    add("--stages", type=arguments.count, metavar="N", help="a stack's first N stages only")
    add(
        "--precision",
        choices=PRECISIONS,
        default="float32",
        help="of the computation and its weights; images in and out stay as --pixels says "
        "(default float32)",
    )
    add(
        "--pixels",
        choices=PIXELS,
        default="uint8",
        help="uint8, or float: float32 on [0, 1], clipped to it; in and out (default uint8)",
    )
    add("--size", type=arguments.size, metavar="HxW", help="of all images (default: any)")
    add("--batch", type=arguments.count, metavar="N", help="images at once (default: any)")
    add("--overwrite", action="store_true", help="replace OUT; it stays until the new one is whole")
    add(
        "--verify",
        nargs="?",
        const="",
        metavar="FRAMES",
        help="run the file beside the checkpoint on the first pictures of a folder (default: "
        "synthetic scenes): the largest difference, and both speeds",
    )
    return made


def main(argv: list[str]) -> int:
    """Runs `dmphn export`; returns 1 if the artefact verified differs too much, else 0."""
    args = parser().parse_args(argv)
    options = Options(args.format, args.stages, args.precision, args.pixels, args.size, args.batch)
    path = storage.local_only("OUT", args.output).absolute()
    if args.verify:
        storage.local_only("--verify", args.verify)
    writing.require(args.format)  # what can be told before the slow imports
    writing.check_free(path, args.format, args.overwrite)
    blurry = _frames(args.verify, options)

    checkpoint = checkpoints.load(args.checkpoint)
    config = checkpoint.config
    writing.write(path, checkpoint.params, config, checkpoint.digest, options)
    print(_summary(card(config, checkpoint.digest, options), config, options, args.output))
    if blurry is None:
        return 0
    from dmphn_jax.export.verify import verify
    from dmphn_jax.inference.deblurrer import Deblurrer

    deblurrer = Deblurrer(params=checkpoint.params, config=config, stages=args.stages)
    agrees = True
    for comparison in verify(path, options, deblurrer, blurry):
        print(comparison, flush=True)
        agrees = agrees and comparison.agrees
    if not agrees:
        print(f"dmphn: {shown(args.output)}: differs from the checkpoint", file=sys.stderr)
    return 0 if agrees else 1


def _frames(source: str | None, options: Options) -> list[np.ndarray] | None:
    """Returns the frames to verify with; None if nothing is to be verified."""
    if source is None:
        return None
    from dmphn_jax.export import runtimes

    runtimes.prepare(options.format)  # before what imports jax
    from dmphn_jax.export.verify import frames

    return frames(source, options)


def _summary(about: dict[str, str], config: ModelConfig, options: Options, output: str) -> str:
    stages = f", stages 1 to {options.stages}" if options.stages else ""
    return (
        f"{about['model']}{stages}: {options.parameters(config):,} parameters, "
        f"{about['precision']}, as {options.format} -> {shown(output)}\n"
        f"images ({about['shape']}) {about['pixels']}, in and out; padded inside to multiples of "
        f"{about['multiple']}"
    )
