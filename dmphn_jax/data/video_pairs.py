"""Sharp videos into a folder of blurry/sharp pairs, the way GoPro was made.

Writes a folder source, `D/blurry/<video>/NNNNNN.png` and `D/sharp/<video>/NNNNNN.png`, and
`D/manifest.json`, which names the frames of every pair. See docs/synthetic_and_video.md.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dmphn_jax.data.psnr import psnr
from dmphn_jax.data.video_manifest import Manifest, PairEntry, PairOptions, VideoEntry
from dmphn_jax.errors import UserError
from dmphn_jax.files import write_file
from dmphn_jax.runtime import cores
from dmphn_jax.threads import map_ahead
from dmphn_jax.video.reading import Video
from dmphn_jax.video.windows import CutDetector, average, windows


class VideoPairs(NamedTuple):
    """What became of a video: its entry, remarks for a person, and whether it was done before."""

    entry: VideoEntry
    notes: list[str]
    done_before: bool = False


def make_video_pairs(
    path: Path,
    output: Path,
    manifest: Manifest,
    options: PairOptions,
    *,
    overwrite: bool = False,
    dry_run: bool = False,
) -> VideoPairs:
    """Makes the pairs of one video below `output` and enters them in the manifest.

    After an interrupt the pairs so far are whole and listed; after any other failure none is
    left. A dry run decodes, counts, and writes nothing.

    Raises:
      VideoError: the video cannot be read; others can.
      UserError: a pair cannot be written; frames too large for memory; PyAV is missing.
    """
    name = manifest.name(path)
    known = manifest.entry(name)
    if known and known.complete and not overwrite and not dry_run:
        return VideoPairs(known, [], done_before=True)
    entry = VideoEntry(name, str(path.resolve()))
    video = Video(path, options.max_height)
    if not dry_run:
        _forget(output, name)  # left by a killed run, or to be made anew
    manifest.put(entry, write=not dry_run)
    try:
        notes = _make(video, entry, options, None if dry_run else output)
    except KeyboardInterrupt:
        # The pairs on disk are whole; the last ones may not have come to be written.
        blurry = output / "blurry"
        entry.pairs = [pair for pair in entry.pairs if (blurry / f"{pair.name}.png").exists()]
        manifest.put(entry, write=not dry_run)
        raise
    except BaseException as error:
        if not dry_run:
            _forget(output, name)
        if isinstance(error, MemoryError):
            raise UserError(f"{path}: frames too large for memory; use --max-height") from None
        raise
    entry.complete = True
    manifest.put(entry, write=not dry_run)
    return VideoPairs(entry, notes)


class _Images(NamedTuple):
    pair: PairEntry
    blurry: np.ndarray
    sharp: np.ndarray


def _make(video: Video, entry: VideoEntry, options: PairOptions, output: Path | None) -> list[str]:
    """Makes a video's pairs, noting them in `entry`; returns remarks. No `output`: counts only."""
    from tqdm import tqdm

    report = video.report
    bar = tqdm(video, desc=entry.name, unit="frame", total=report.expected or None, disable=None)
    with video, contextlib.closing(bar):
        pairs = _pairs(bar, video, entry, options, averaged=output is not None)
        if output is None:
            for _ in pairs:
                pass
        else:
            threads = min(8, cores())
            written = map_ahead(
                lambda images: _write_pair(output, images),
                pairs,
                threads=threads,
                ahead=2 * threads,
            )
            with contextlib.closing(written):
                for _ in written:
                    pass
    for field in ("frames", "cuts", "jumps", "damaged", "missing"):
        setattr(entry, field, getattr(report, field))
    entry.rate = round(report.rate, 3)
    if report.jumps:
        report.notes.append(f"frames are missing in {report.jumps} places; none is bridged")
    return report.notes


def _pairs(
    frames, video: Video, entry: VideoEntry, options: PairOptions, averaged: bool
) -> Iterator[_Images | None]:
    """Yields a video's pairs, entering each; None instead of images unless `averaged`."""
    detector, counts = CutDetector(options.cut_threshold), options.counts(entry.name)
    for window in windows(frames, counts, detector, video.report, options.every):
        sharp = window.middle
        pair = PairEntry(
            name=f"{entry.name}/{len(entry.pairs) + 1:06d}",
            first=window.frames[0].index,
            middle=sharp.index,
            last=window.frames[-1].index,
            count=len(window.frames),
            seconds=round(sharp.time, 4),
        )
        entry.pairs.append(pair)
        if averaged:
            blurry = average([frame.image for frame in window.frames], options.gamma)
            value = psnr(blurry, sharp.image)
            pair.psnr = round(value, 2) if value < 1e9 else None  # no inf in JSON
            yield _Images(pair, blurry, sharp.image)
        else:
            yield None
        if len(entry.pairs) == options.max_pairs:
            return


def _write_pair(output: Path, images: _Images) -> None:
    import cv2

    # Sharp first: a blurry image on disk always has its sharp one.
    paths = [output / side / f"{images.pair.name}.png" for side in ("sharp", "blurry")]
    try:
        for path, image in zip(paths, (images.sharp, images.blurry)):
            bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
            encoded = cv2.imencode(".png", bgr, (cv2.IMWRITE_PNG_COMPRESSION, 3))[1]
            write_file(path, encoded.tobytes())
    except UserError:
        for path in paths:
            path.unlink(missing_ok=True)
        raise


def _forget(output: Path, name: str) -> None:
    for side in ("blurry", "sharp"):
        shutil.rmtree(output / side / name, ignore_errors=True)
