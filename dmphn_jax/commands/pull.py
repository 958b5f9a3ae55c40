"""`dmphn pull NAME... | all`: the authors' weights, downloaded, checked, converted and kept."""

from __future__ import annotations

import argparse
import sys

from dmphn_jax.checkpoints import weights
from dmphn_jax.errors import UserError
from dmphn_jax.files import shown


def main(argv: list[str]) -> int:
    """Runs the command; returns 0, or 1 if some of several models failed."""
    parser = argparse.ArgumentParser(
        prog="dmphn pull",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Downloads weights that the authors released, checks every file by size and\n"
        "SHA-256, converts them and keeps the checkpoint in the user's cache, where\n"
        "`--checkpoint NAME` and Deblurrer(NAME) find it. These do the same by themselves at a\n"
        "name's first use. Broken off, it goes on where it was; a damaged checkpoint is brought\n"
        f"anew.\n\nnames: {', '.join(weights.names())}",
        epilog="examples:\n"
        "  dmphn pull stack4\n"
        "  dmphn pull all --from file:///media/DMPHN-cvpr19-master",
    )
    parser.add_argument("names", nargs="+", metavar="NAME", help="a released model, or all")
    parser.add_argument(
        "--from",
        dest="base",
        metavar="URL",
        help="address of a copy of the authors' repository, whose folder `checkpoints` lies there: "
        f"https, http, file, or a folder (default: the variable {weights.VARIABLE}, else GitHub)",
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="show no progress")
    args = parser.parse_args(argv)
    for name in args.names:
        if name != "all":
            weights.check(name)
    wanted = weights.names() if "all" in args.names else list(dict.fromkeys(args.names))
    failed = 0
    for name in wanted:
        try:
            print(f"{name}: {shown(weights.pull(name, args.base, quiet=args.quiet))}")
        except UserError as error:
            if len(wanted) == 1:
                raise
            failed += 1
            print(f"dmphn: failed: {error}", file=sys.stderr)
    return 1 if failed else 0
