"""`dmphn make-pairs`: blurry/sharp pairs from sharp videos, the way GoPro was made.

Writes a folder source, `D/blurry/<video>/NNNNNN.png` and `D/sharp/<video>/NNNNNN.png`, and
`D/manifest.json`, which names the frames of every pair. See docs/synthetic_and_video.md.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import sys
import zlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from dmphn_jax.data.psnr import psnr
from dmphn_jax.errors import UserError, one_line
from dmphn_jax.video.reading import CutDetector, Video, VideoError, average, windows

_SUFFIXES = {".mp4", ".mov", ".m4v", ".mkv", ".avi", ".webm", ".mts", ".m2ts", ".mpg", ".mpeg"}
_MANIFEST = "manifest.json"


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
    add("--output", "-o", type=Path, required=True, metavar="D", help="folder to write")
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


def _check(args: argparse.Namespace) -> None:
    low, high = args.frames
    if not 2 <= low <= high:
        raise UserError(f"--frames {low}-{high}: needs at least 2, and the lesser number first")
    if args.odd and low == high and low % 2 == 0:
        raise UserError(f"--odd: there is no odd number in --frames {low}")
    if not 0.2 <= args.gamma <= 5:
        raise UserError(f"--gamma {args.gamma:g}: must be between 0.2 and 5")
    if not 0 <= args.cut_threshold <= 1:
        raise UserError(f"--cut-threshold {args.cut_threshold:g}: must be between 0 and 1")
    for name in ("every", "max_pairs", "max_height"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise UserError(f"--{name.replace('_', '-')} {value}: must be at least 1")


def _find_videos(paths: list[Path]) -> list[Path]:
    found = []
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in _SUFFIXES)
            if not inside:
                raise UserError(f"{path}: holds no videos ({' '.join(sorted(_SUFFIXES))})")
            found += inside
        else:
            found.append(path)  # one that is missing is reported when it is its turn
    return list(dict.fromkeys(found))


class Manifest:
    """`manifest.json`: the settings, and for every video its pairs.

    A video is listed once it is begun; `complete` says whether all its pairs are on disk.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]):
        self._path, self._settings = folder / _MANIFEST, settings
        self.videos: list[dict[str, Any]] = []
        if not self._path.exists():
            if any((folder / side).exists() for side in ("blurry", "sharp")):
                raise UserError(
                    f"{folder}: holds pairs but no {_MANIFEST}; choose another --output"
                )
            return
        try:
            saved = json.loads(self._path.read_text())
            self.videos, made_with = saved["videos"], saved["settings"]
        except (OSError, ValueError, KeyError, TypeError):
            raise UserError(
                f"{self._path}: is no manifest of make-pairs; choose another --output"
            ) from None
        for name, value in settings.items():
            if made_with.get(name) != value:
                raise UserError(
                    f"{self._path}: was made with {name}={made_with.get(name)}, not {value}; "
                    "choose another --output"
                )

    def name(self, video: Path) -> str:
        """Returns the folder name of a video: its stem, numbered where another has it."""
        path = str(video.resolve())
        taken = {entry["name"]: entry["path"] for entry in self.videos}
        stem = video.stem.lstrip(".") or "video"
        numbered = (stem if n == 1 else f"{stem}-{n}" for n in itertools.count(1))
        return next(name for name in numbered if taken.get(name, path) == path)

    def entry(self, name: str) -> dict[str, Any] | None:
        """Returns what is known of the video of that folder name."""
        return next((entry for entry in self.videos if entry["name"] == name), None)

    def put(self, entry: dict[str, Any], write: bool = True) -> None:
        """Adds or replaces a video and writes the file."""
        others = [other for other in self.videos if other["name"] != entry["name"]]
        self.videos = [*others, entry]
        if not write:
            return
        content = {"version": 1, "settings": self._settings, "videos": self.videos}
        _write(self._path, (json.dumps(content, indent=1) + "\n").encode())


def _write(path: Path, data: bytes) -> None:
    """Writes a file under a temporary name and renames it; UserError if it cannot."""
    temporary = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from None


def _write_pair(output: Path, name: str, blurry, sharp) -> None:
    import cv2

    # Sharp first: a blurry image on disk always has its sharp one.
    paths = [output / side / f"{name}.png" for side in ("sharp", "blurry")]
    try:
        for path, image in zip(paths, (sharp, blurry)):
            bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
            encoded = cv2.imencode(".png", bgr, (cv2.IMWRITE_PNG_COMPRESSION, 3))[1]
            _write(path, encoded.tobytes())
    except UserError:
        for path in paths:
            path.unlink(missing_ok=True)
        raise


class _Writers:
    """Encodes and writes pairs on threads; a few at a time, so that memory stays bounded."""

    def __init__(self, output: Path):
        self._output, self._count = output, min(8, os.cpu_count() or 1)
        self._pool = ThreadPoolExecutor(self._count, "make-pairs")
        self._waiting: deque[Future] = deque()

    def put(self, name: str, blurry, sharp) -> None:
        self._waiting.append(self._pool.submit(_write_pair, self._output, name, blurry, sharp))
        if len(self._waiting) > 2 * self._count:
            self._waiting.popleft().result()

    def finish(self) -> None:
        while self._waiting:
            self._waiting.popleft().result()

    def close(self) -> None:
        self._pool.shutdown(wait=True)


def _counts(args: argparse.Namespace, name: str) -> Iterator[int]:
    """Yields the windows' lengths; they depend on the seed and the video's name only."""
    low, high = args.frames
    allowed = [n for n in range(low, high + 1) if n % 2 or not args.odd]
    rng = np.random.default_rng([args.seed % 2**64, zlib.crc32(name.encode())])
    while True:
        yield int(rng.choice(allowed))


def _one_video(
    video: Video, name: str, args: argparse.Namespace, entry: dict[str, Any]
) -> tuple[list[str], int]:
    """Makes one video's pairs, noting them in `entry`; returns notes and the damage found."""
    from tqdm import tqdm

    pairs: list[dict[str, Any]] = entry["pairs"]
    with video:
        report = video.report
        bar = tqdm(video, desc=name, unit="frame", total=report.expected or None, disable=None)
        writers = None if args.dry_run else _Writers(args.output)
        try:
            detector = CutDetector(args.cut_threshold)
            for window in windows(bar, _counts(args, name), detector, report, args.every):
                sharp, number = window.middle, f"{len(pairs) + 1:06d}"
                pair = {
                    "name": f"{name}/{number}",
                    "first": window.frames[0].index,
                    "middle": sharp.index,
                    "last": window.frames[-1].index,
                    "count": len(window.frames),
                    "seconds": round(sharp.time, 4),
                }
                pairs.append(pair)
                if writers:
                    blurry = average([frame.image for frame in window.frames], args.gamma)
                    value = psnr(blurry, sharp.image)
                    pair["psnr"] = round(value, 2) if value < 1e9 else None  # no inf in JSON
                    writers.put(pair["name"], blurry, sharp.image)
                if len(pairs) == args.max_pairs:
                    break
            if writers:
                writers.finish()
        finally:
            bar.close()
            if writers:
                writers.close()
        for what in ("frames", "cuts", "jumps", "damaged"):
            entry[what] = getattr(report, what)
        entry["rate"] = round(report.rate, 3)
        if report.jumps:
            report.notes.append(f"frames are missing in {report.jumps} places; none is bridged")
        return report.notes, report.damaged


def _forget(output: Path, name: str) -> None:
    for side in ("blurry", "sharp"):
        shutil.rmtree(output / side / name, ignore_errors=True)


def _run_video(path: Path, args: argparse.Namespace, manifest: Manifest) -> bool:
    """Makes one video's pairs and says how it went; returns whether all was well."""
    name = manifest.name(path)
    known = manifest.entry(name)
    if known and known["complete"] and not args.overwrite and not args.dry_run:
        print(f"{path}: already done, {len(known['pairs'])} pairs")
        return True
    entry = {"name": name, "path": str(path.resolve()), "complete": False, "pairs": []}
    video = Video(path, args.max_height)
    if not args.dry_run:
        _forget(args.output, name)  # left by a killed run, or to be made anew
    manifest.put(entry, write=not args.dry_run)
    try:
        notes, damaged = _one_video(video, name, args, entry)
    except KeyboardInterrupt:
        # The pairs so far are whole; the last one may not have come to be written.
        blurry = args.output / "blurry"
        entry["pairs"] = [p for p in entry["pairs"] if (blurry / f"{p['name']}.png").exists()]
        manifest.put(entry, write=not args.dry_run)
        raise
    except BaseException as error:
        if not args.dry_run:
            _forget(args.output, name)
        if isinstance(error, MemoryError):
            raise UserError(f"{path}: frames too large for memory; use --max-height") from None
        raise
    for note in notes:
        print(f"dmphn: note: {path}: {note}", file=sys.stderr)
    pairs = len(entry["pairs"])
    entry["complete"] = True
    manifest.put(entry, write=not args.dry_run)
    if not pairs:
        raise VideoError(
            f"{path}: no pair; its {entry['frames']} frames hold no shot of {args.frames[0]} frames"
        )
    cuts = f", {entry['cuts']} scene cuts" if entry["cuts"] else ""
    made = "would be made" if args.dry_run else "made"
    print(f"{path}: {pairs} pairs {made} of {entry['frames']} frames{cuts}")
    if damaged:
        raise VideoError(f"{path}: damaged in {damaged} places; pairs were made of the rest")
    return True


def main(argv: list[str]) -> int:
    """Runs the command; returns 1 if some video could not be used, else 0."""
    args = _parser().parse_args(argv)
    _check(args)
    videos = _find_videos(args.videos)
    names = ("frames", "odd", "gamma", "every", "max_pairs", "max_height", "cut_threshold", "seed")
    settings = {name: getattr(args, name) for name in names}
    settings["frames"] = list(args.frames)
    manifest = Manifest(args.output, settings)
    failed = 0
    for path in videos:
        try:
            _run_video(path, args, manifest)
        except VideoError as error:
            failed += 1
            print(f"dmphn: error: {one_line(error)}", file=sys.stderr)
    if failed:
        print(f"dmphn: {failed} of {len(videos)} videos failed", file=sys.stderr)
    return 1 if failed else 0
