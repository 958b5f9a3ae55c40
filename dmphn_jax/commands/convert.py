"""`dmphn convert`: the authors' PyTorch weights to a checkpoint, and back."""

from __future__ import annotations

import argparse
from pathlib import Path

from dmphn_jax import storage
from dmphn_jax.checkpoints.torch import names
from dmphn_jax.checkpoints.torch.reading import params_from_torch
from dmphn_jax.checkpoints.torch.writing import check_free, write_torch
from dmphn_jax.models import ModelConfig, parameter_count, zoo


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dmphn convert",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Turns a folder of the authors' PyTorch weights (encoder_lv1.pkl,\n"
        "decoder_s2_lv3.pkl, ...) into a checkpoint; with --to-torch, a checkpoint into such\n"
        "a folder. Needs no PyTorch, and runs no code that a weight file may hold. The authors'\n"
        "own folders are known by their files' digests.",
        epilog="examples:\n"
        "  dmphn convert checkpoints/DMPHN_1_2_4 dmphn_1_2_4\n"
        "  dmphn convert --to-torch dmphn_1_2_4 torch_weights",
    )
    parser.add_argument(
        "source", metavar="SRC_DIR", help="folder of .pkl files, or a checkpoint (its name too)"
    )
    parser.add_argument("destination", metavar="DST_DIR", help="folder to make")
    parser.add_argument(
        "--to-torch", action="store_true", help="SRC_DIR is a checkpoint; write .pkl files"
    )
    parser.add_argument(
        "--model",
        metavar="NAME",
        help="the model in SRC_DIR, where its file names do not tell (dmphn_1_1_1, dmphn_1_4_16, "
        "dmphn_1_2_4_ws, ...) or hold more than wanted; `dmphn models` lists the names",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace DST_DIR; it stays until the new one is whole",
    )
    return parser


def main(argv: list[str]) -> int:
    """Runs `dmphn convert`; returns the exit status."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.to_torch and args.model:
        parser.error("--model goes without --to-torch: a checkpoint knows its model")
    if args.to_torch:
        destination = storage.local_only("DST_DIR", args.destination)
        check_free(destination.absolute(), args.overwrite)  # before the slow imports
        from dmphn_jax import checkpoints

        checkpoint = checkpoints.load(args.source)
        config = checkpoint.config
        count = len(write_torch(checkpoint.params, config, destination, args.overwrite))
        done = f"written as {count} .pkl files"
    else:
        params, config = params_from_torch(args.source, args.model)
        from dmphn_jax import checkpoints

        origin = {"origin": f"PyTorch weights in {Path(args.source).absolute().name}"}
        with storage.outgoing(args.destination, overwrite=args.overwrite) as folder:
            checkpoints.save(folder, params, config, origin, overwrite=args.overwrite)
        done = f"read from {len(names.parts(config))} .pkl files"
    width = "" if config.width == ModelConfig().width else f", width {config.width}"
    print(
        f"{zoo.name_of(config)}{width}: {parameter_count(config):,} parameters {done} "
        f"-> {args.destination}"
    )
    return 0
