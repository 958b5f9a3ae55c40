"""`dmphn COMMAND ...`: one entry for every command; `python -m dmphn_jax COMMAND` does the same.

A command is a module of `commands` with `main(argv) -> int`. It is imported only when called, and
imports jax only inside functions, so that `--help` answers at once.
"""

from __future__ import annotations

import importlib
import sys

from dmphn_jax import __version__
from dmphn_jax.errors import UserError, nearest, run_command

# name -> what it does; printed in this order. `make-pairs` is `commands/make_pairs.py`, and so on.
COMMANDS: dict[str, str] = {
    "deblur": "deblur images and folders",
    "serve": "a web page and an HTTP interface that deblur pictures and films",
    "convert": "turn the authors' PyTorch weights into a checkpoint, and back",
    "pull": "download the authors' weights by name",
    "models": "print every model of the paper: size, cost, PSNR, SSIM",
    "evaluate": "PSNR, SSIM and runtime of checkpoints beside the paper's",
    "visualize": "draw every level's and every stage's output (Fig. 7, 8)",
    "plot": "draw PSNR against runtime from reports (Fig. 1)",
    "make-pairs": "make blurry/sharp pairs from sharp videos",
    "scenes": "draw synthetic scenes, and tell how blurred they are",
    "export": "write a checkpoint as StableHLO, ONNX or a SavedModel",
    "plan": "compile for a TPU or GPU that is not there: memory, cost, hours",
    "benchmark": "measure speed, memory and cost, beside PyTorch's",
    "benchmark-data": "measure crops per second of every data feed",
    "status": "tell where a training run stands: step, rate, last checkpoint, health",
    "demo": "train a small network on synthetic scenes and show what it learned",
}


def _usage() -> str:
    width = max((len(name) for name in COMMANDS), default=0)
    lines = [f"  {name:<{width}}  {text}" for name, text in COMMANDS.items()]
    return (
        "usage: dmphn COMMAND [options]     (dmphn COMMAND --help tells more)\n\n"
        + "\n".join(lines)
        + "\n\nTraining: python -m dmphn_jax.main --config configs/stack4.py\n"
    )


def main(argv: list[str]) -> int:
    """Runs the command named by `argv[0]` with the rest of `argv`; returns its exit status."""
    return run_command(_run, argv)


def _run(argv: list[str]) -> int | None:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_usage(), end="")
        return 0 if argv else 2
    if argv[0] == "--version":
        print(f"dmphn_jax {__version__}")
        return 0
    name, *rest = argv
    if name not in COMMANDS:
        raise UserError(f"no command {name!r}{nearest(name, COMMANDS)}; see dmphn --help")
    module = importlib.import_module(f"dmphn_jax.commands.{name.replace('-', '_')}")
    status: int | None = module.main(rest)
    return status


def entry_point() -> None:
    """The console script."""
    sys.exit(main(sys.argv[1:]))
