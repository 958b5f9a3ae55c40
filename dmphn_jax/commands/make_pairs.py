"""`dmphn make-pairs`: blurry/sharp pairs from sharp videos, the way GoPro was made."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from dmphn_jax import storage
from dmphn_jax.errors import UserError, one_line
from dmphn_jax.video.encoding import IN_FOLDERS

if TYPE_CHECKING:
    from dmphn_jax.data.video_pairs import VideoPairs


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dmphn make-pairs",
        description="Make blurry/sharp pairs from sharp videos, the way GoPro was made: the "
        "average of successive frames is the blurry image, the middle one the sharp.",
        epilog="Use videos of 120 frames/s and more. Train on the result with "
        "config.data.source='folder' (docs/synthetic_and_video.md).",
    )
    add = parser.add_argument
    add("videos", nargs="+", type=Path, metavar="VIDEO", help="video files, or folders of them")
    add("--output", "-o", required=True, metavar="D", help="folder to write")
    add(
        "--frames",
        type=_range,
        default=(7, 13),
        metavar="A-B",
        help="frames averaged, drawn anew for each pair; or one number (default: 7-13)",
    )
    add("--odd", action="store_true", help="only odd numbers of frames: exactly centred blur")
    response = parser.add_mutually_exclusive_group()
    response.add_argument(
        "--linear",
        dest="gamma",
        action="store_const",
        const=1.0,
        help="average the stored values: GoPro's `blur`, the paper's protocol (default)",
    )
    response.add_argument(
        "--gamma",
        type=float,
        metavar="G",
        help="average light under a camera response of gamma G; 2.2 is GoPro's `blur_gamma`",
    )
    parser.set_defaults(gamma=1.0)
    add("--every", type=int, metavar="N", help="a pair every N frames (default: windows touch)")
    add("--max-pairs", type=int, metavar="N", help="at most N pairs per video")
    add("--max-height", type=int, metavar="PX", help="shrink higher frames to this height")
    add(
        "--cut-threshold",
        type=float,
        default=0.08,
        metavar="T",
        help="change of the picture, 0 to 1, that may be a scene cut; 0: none (default: 0.08)",
    )
    add("--seed", type=int, default=0, help="draws the numbers of frames (default: 0)")
    add("--overwrite", action="store_true", help="make the pairs of these videos anew")
    add("--dry-run", action="store_true", help="read and count, write nothing")
    return parser


def _range(text: str) -> tuple[int, int]:
    low, _, high = text.partition("-")
    try:
        return int(low), int(high or low)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither A-B nor a number") from None


def _find_videos(paths: list[Path]) -> list[Path]:
    found = []
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if _is_video(p, path))
            if not inside:
                raise UserError(f"{path}: holds no videos ({' '.join(sorted(IN_FOLDERS))})")
            found += inside
        else:
            found.append(path)  # one that is missing is reported when it is its turn
    return list(dict.fromkeys(found))


def _is_video(path: Path, folder: Path) -> bool:
    """Tells whether a path below a folder is a film; hidden ones are unfinished, or no films."""
    hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    return path.suffix.lower() in IN_FOLDERS and not hidden and not path.is_dir()


def _report(path: Path, args: argparse.Namespace, pairs: VideoPairs) -> None:
    """Says how a video went; raises VideoError where not all of it could be used."""
    from dmphn_jax.video.reading import VideoError

    entry = pairs.entry
    if pairs.done_before:
        print(f"{path}: already done, {len(entry.pairs)} pairs")
    for note in pairs.notes:
        print(f"dmphn: note: {path}: {note}", file=sys.stderr)
    if entry.pairs and not pairs.done_before:
        cuts = f", {entry.cuts} scene cuts" if entry.cuts else ""
        done = "would be made" if args.dry_run else "made"
        print(f"{path}: {len(entry.pairs)} pairs {done} of {entry.frames} frames{cuts}")
    faults = []
    if entry.missing:
        whole = entry.frames + entry.missing
        faults.append(f"cut off: {entry.missing} of the {whole} frames it promises are missing")
    if entry.damaged:
        faults.append(f"damaged in {entry.damaged} places")
    if faults:
        rest = "; pairs were made of the rest" if entry.pairs else "; no pair"
        raise VideoError(f"{path}: {', '.join(faults)}{rest}")
    if not entry.pairs:
        raise VideoError(
            f"{path}: no pair; its {entry.frames} frames hold no shot of {args.frames[0]} frames"
        )


def main(argv: list[str]) -> int:
    """Runs the command; returns 1 if some video could not be used, else 0."""
    args = _parser().parse_args(argv)
    from dmphn_jax.data.video_manifest import Manifest, PairOptions
    from dmphn_jax.data.video_pairs import make_video_pairs
    from dmphn_jax.video.reading import VideoError

    args.output = storage.local_only("--output", args.output)
    names = [field.name for field in dataclasses.fields(PairOptions)]
    options = PairOptions(**{name: getattr(args, name) for name in names})
    videos = _find_videos(args.videos)
    manifest = Manifest(args.output, options)
    failed = 0
    for path in videos:
        try:
            pairs = make_video_pairs(
                path,
                args.output,
                manifest,
                options,
                overwrite=args.overwrite,
                dry_run=args.dry_run,
            )
            _report(path, args, pairs)
        except VideoError as error:
            failed += 1
            print(f"dmphn: error: {one_line(error)}", file=sys.stderr)
    if failed:
        print(f"dmphn: {failed} of {len(videos)} videos failed", file=sys.stderr)
    return 1 if failed else 0
