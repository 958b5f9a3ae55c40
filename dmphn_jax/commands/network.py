"""The network that computes images: its flags, and what they put around it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from dmphn_jax import checkpoints
from dmphn_jax.commands.arguments import count, natural
from dmphn_jax.models import LAYOUT_CHOICES, PRECISIONS

if TYPE_CHECKING:
    import numpy as np

    from dmphn_jax.inference.computing import Computing
    from dmphn_jax.inference.depth import Choice


class Network(NamedTuple):
    """What computes images.

    Attributes:
      submit: starts a batch.
      compile_for: prepares for images of so many sizes, (height, width).
      at_once: images that are computed at the same time.
      model: what the results depend on, in a person's words.
    """

    submit: Callable[[np.ndarray], Computing]
    compile_for: Callable[[Sequence[tuple[int, int]]], None]
    at_once: int
    model: dict[str, str]


def add_network_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of which network computes, and how: `dmphn deblur`'s and `dmphn serve`'s."""
    add = parser.add_argument
    add(
        "-c",
        "--checkpoint",
        required=True,
        metavar="CKPT",
        help="folder of the trained model, or a released one's name, such as stack4, which is "
        "downloaded at its first use",
    )
    add(
        "--precision",
        choices=PRECISIONS,
        default="float32",
        help="of the computation: on a GPU tf32 and float16 are many times as fast, on a TPU "
        "bfloat16, and a little less exact (default float32)",
    )
    add(
        "--layout",
        choices=LAYOUT_CHOICES,
        default="auto",
        help="formulation of the convolutions (auto: the platform's fastest; docs/plan.md)",
    )
    add(
        "--tile",
        type=count,
        metavar="N",
        help="compute larger images in tiles of N pixels on a side (default: whole where they fit "
        "into memory, else in tiles that do)",
    )
    add(
        "--overlap",
        type=natural,
        metavar="M",
        help="pixels that neighbouring tiles share, up to half a tile (default: as many as give "
        "the whole image's result)",
    )


def load_network(args: argparse.Namespace) -> Network:
    """Loads the network and puts around it what the flags ask for."""
    from dmphn_jax.runtime import without_collection

    with without_collection():
        return _load_network(args)


def _load_network(args: argparse.Namespace) -> Network:
    import jax

    from dmphn_jax.inference.clock import CLOCK
    from dmphn_jax.inference.deblurrer import Deblurrer
    from dmphn_jax.inference.depth import WithinBudget
    from dmphn_jax.inference.ensembles import Ensemble, SelfEnsemble, ShiftEnsemble
    from dmphn_jax.models import convolutions_for
    from dmphn_jax.runtime import cache_compilations

    cache_compilations()
    CLOCK.count_programs()
    CLOCK.imported()
    platform = jax.local_devices()[0].platform  # this starts the devices
    with CLOCK.kernels:
        convolutions_for(platform, args.layout)
    with CLOCK.checkpoint:
        deblurrer = Deblurrer(
            checkpoints.resolve(args.checkpoint, quiet=args.quiet),
            stages=args.stages,
            precision=args.precision,
            tile=args.tile,
            overlap=args.overlap,
            split_rows=args.split_rows,
            layout=args.layout,
        )
    network: Deblurrer | WithinBudget = deblurrer
    at_once = 1 if args.split_rows else len(deblurrer.devices)
    ensemble: Ensemble | None = None
    if args.budget_ms:
        network = WithinBudget(deblurrer, args.budget_ms, on_choice=_say_choice)
    elif args.ensemble:
        ensemble = SelfEnsemble(deblurrer, at_once)
    elif args.shift_ensemble:
        ensemble = ShiftEnsemble(deblurrer, deblurrer.config, at_once)
    flags = ("stages", "budget_ms", "precision", "layout", "ensemble", "shift_ensemble")
    flags += ("tile", "overlap")
    return Network(
        submit=CLOCK.measured((ensemble or network).submit),
        compile_for=lambda sizes: network.compile_for(ensemble.sizes(sizes) if ensemble else sizes),
        at_once=at_once,
        model={
            "the checkpoint": str(deblurrer.digest),
            **{f"--{flag.replace('_', '-')}": str(getattr(args, flag)) for flag in flags},
        },
    )


def _say_choice(choice: Choice) -> None:
    import tqdm

    tqdm.tqdm.write(f"dmphn: {choice}", file=sys.stderr)
