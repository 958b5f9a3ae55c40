"""`dmphn scenes`: a contact sheet of synthetic scenes, and how their PSNR spreads."""

from __future__ import annotations

import argparse

import numpy as np

from dmphn_jax import storage
from dmphn_jax.data.psnr import psnr
from dmphn_jax.data.synthetic import SyntheticScenes, contact_sheet
from dmphn_jax.errors import UserError
from dmphn_jax.files import check_place, new_file, why
from dmphn_jax.images import WRITABLE, format_of

_MOST_PIXELS = 500_000_000


def main(argv: list[str]) -> int:
    """Draws a contact sheet and prints how the PSNR of the scenes spreads."""
    parser = argparse.ArgumentParser(
        prog="dmphn scenes",
        description="Draw synthetic scenes (blurry above sharp) and print their PSNR's spread.",
    )
    parser.add_argument("--contact-sheet", metavar="OUT", required=True, help="picture to write")
    parser.add_argument("--count", type=int, default=10, help="scenes (default: %(default)s)")
    parser.add_argument("--columns", type=int, default=5, help="per row (default: %(default)s)")
    parser.add_argument(
        "--size", type=int, nargs=2, default=(144, 144), metavar=("H", "W"), help="in pixels"
    )
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    parser.add_argument("--motion", type=float, default=1.0, help="factor on all motion")
    parser.add_argument("--noise", type=float, default=0.0, help="sensor noise in grey levels")
    args = parser.parse_args(argv)
    if args.columns < 1:
        raise UserError("--columns must be at least 1")

    out = storage.local_only("--contact-sheet", args.contact_sheet)
    if format_of(out) not in WRITABLE:
        raise UserError(f"--contact-sheet {out}: name it {', '.join(WRITABLE.values())}")
    check_place(out)
    if 2 * args.count * args.size[0] * args.size[1] > _MOST_PIXELS:
        raise UserError(f"--count {args.count}: a sheet has at most {_MOST_PIXELS:,} pixels")
    from PIL import Image

    scenes = SyntheticScenes(args.size, args.count, args.seed, motion=args.motion, noise=args.noise)
    pairs = list(scenes)
    try:
        with new_file(out) as temporary:
            Image.fromarray(contact_sheet(pairs, args.columns)).save(temporary, optimize=True)
    except (OSError, ValueError) as error:
        raise UserError(f"{out}: cannot be written ({why(error)})") from None
    values = [psnr(pair.blurry, pair.sharp) for pair in pairs]
    marks = np.quantile(values, [0, 0.25, 0.5, 0.75, 1])
    print(f"{out}: {len(pairs)} scenes, blurry against sharp PSNR in dB:")
    print("  least {:.1f}, quartiles {:.1f} {:.1f} {:.1f}, most {:.1f}".format(*marks))
    return 0
