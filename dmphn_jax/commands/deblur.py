"""`dmphn deblur INPUT... --checkpoint CKPT --output OUT`: deblur images and folders."""

from __future__ import annotations

import argparse
import collections
import math
import os
import signal
import sys
import threading
import warnings
from typing import Any

from dmphn_jax.commands.arguments import count
from dmphn_jax.errors import UserError, nearest
from dmphn_jax.files import shown
from dmphn_jax.models import PRECISIONS

_FORMATS = {
    "png": "PNG",
    "jpg": "JPEG",
    "jpeg": "JPEG",
    "webp": "WEBP",
    "bmp": "BMP",
    "tif": "TIFF",
    "tiff": "TIFF",
}
_EPILOG = """\
Reads PNG, JPEG, WebP, BMP, TIFF and still GIF: gray, RGB, palette, 1-bit, CMYK, with and without
alpha, 8 and 16 bits; turned upright as EXIF says. Alpha is kept as it is, gray stays gray, 16 bits
stay 16 in PNG and TIFF; ICC profile, EXIF, XMP and resolution are carried over where the output's
format holds them. Animations and multi-page files are refused: split them into frames first.

A file that fails is told at the end, on one line, and the others are done. Run again after an
interrupt: finished outputs are skipped. Exit status: 0 all done, 1 some files failed, 2 wrong use.
"""


def _pixels(text: str) -> int:
    """Reads a count with an optional k, M or G."""
    scale = {"k": 10**3, "m": 10**6, "g": 10**9}.get(text[-1:].lower(), 1)
    return _within(int(float(text[:-1] if scale > 1 else text) * scale), math.inf)


def _quality(text: str) -> int:
    return _within(int(text), 100)


def _within(value: int, most: float) -> int:
    if not 1 <= value <= most:
        raise ValueError
    return value


# What argparse calls them: "argument --quality: invalid number from 1 to 100 value: '0'".
_pixels.__name__ = "count of pixels"
_quality.__name__ = "number from 1 to 100"


def parser() -> argparse.ArgumentParser:
    """Returns the command line of `dmphn deblur`."""
    result = argparse.ArgumentParser(
        prog="dmphn deblur",
        description="Deblur images and folders of images.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = result.add_argument
    add("inputs", nargs="+", metavar="INPUT", help="image, or folder (with all below it)")
    add("-c", "--checkpoint", required=True, metavar="CKPT", help="folder of the trained model")
    add(
        "-o",
        "--output",
        required=True,
        metavar="OUT",
        help="folder, which keeps the inputs' tree; or a file, for a single image",
    )
    add(
        "--precision",
        choices=PRECISIONS,
        default="float32",
        help="of the computation; float16 is faster on a GPU, bfloat16 on GPU and TPU, but less "
        "exact (default float32)",
    )
    add("--stages", type=count, metavar="N", help="run a stack's first N stages only: faster")
    add(
        "--format",
        choices=_FORMATS,
        metavar="F",
        help=f"of the outputs: {', '.join(_FORMATS)} (default: as the input's name)",
    )
    add(
        "--quality",
        type=_quality,
        default=95,
        metavar="Q",
        help="of JPEG and WebP, 1 to 100; 100 makes WebP lossless (default 95)",
    )
    add("--overwrite", action="store_true", help="replace outputs that exist (default: skip them)")
    add("-n", "--dry-run", action="store_true", help="say what would be done, and do nothing")
    add(
        "--max-pixels",
        type=_pixels,
        default=100_000_000,
        metavar="N",
        help="refuse larger images, by the size they declare (default 100M)",
    )
    add(
        "--extensions",
        metavar="LIST",
        help="take only these of a folder's files, as png,jpg (default: every kind that is read)",
    )
    add("--workers", type=count, metavar="N", help="threads to decode, and to encode, with")
    add("-q", "--quiet", action="store_true", help="no progress bar and no summary")
    return result


def main(argv: list[str]) -> int:
    """Runs the command; returns 0, or 1 if some files failed. Raises UserError for wrong use."""
    args = parser().parse_args(argv)
    # Slow to import, and not needed for --help.
    from dmphn_jax.inference.jobs import plan

    warnings.filterwarnings("ignore", module=r"PIL\.")  # damaged metadata is dropped silently
    os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")
    jobs, ignored = plan(
        args.inputs,
        args.output,
        format=_FORMATS.get(args.format),
        extensions=_extensions(args.extensions),
        overwrite=args.overwrite,
    )
    if not os.path.isdir(args.checkpoint):
        raise UserError(f"--checkpoint {shown(args.checkpoint)}: no such folder")
    todo = [job for job in jobs if not job.exists]
    tally = _Tally(len(todo), skipped=len(jobs) - len(todo), ignored=ignored, quiet=args.quiet)
    if args.dry_run:
        return _dry_run(jobs, args.max_pixels, tally)
    if todo:
        _make_output_folder(todo, args.output)
        _run(todo, args, tally)
    tally.report(args.output)
    return 1 if tally.failures else 0


def _run(todo: list, args: argparse.Namespace, tally: _Tally) -> None:
    """Deblurs; what was done by an interrupt is reported before it goes on its way."""
    import tqdm

    from dmphn_jax.inference.deblurrer import Deblurrer
    from dmphn_jax.inference.pipeline import run_jobs
    from dmphn_jax.runtime import cache_compilations

    cache_compilations()
    deblurrer = Deblurrer(args.checkpoint, stages=args.stages, precision=args.precision)
    results = run_jobs(
        todo, deblurrer, max_pixels=args.max_pixels, quality=args.quality, workers=args.workers
    )
    terminal = sys.stderr.isatty()
    order = {job: index for index, job in enumerate(todo)}
    bar = tqdm.tqdm(
        total=len(todo),
        file=sys.stderr,
        disable=args.quiet,
        unit=" images",
        smoothing=0.1,
        dynamic_ncols=True,
        # In a log, a line every half minute.
        mininterval=0.1 if terminal else 30,
        delay=0 if terminal else 30,
        bar_format="{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_noinv_fmt}]",
    )
    restore = _exit_on_sigterm()
    try:
        for result in results:
            tally.add(order[result.job], result)
            bar.update()
    except (KeyboardInterrupt, SystemExit):
        results.close()
        bar.close()
        tally.report(args.output, interrupted=True)
        raise
    finally:
        results.close()
        bar.close()
        restore()


def _dry_run(jobs: list, max_pixels: int, tally: _Tally) -> int:
    """Lists what would be done, from names and headers alone."""
    from dmphn_jax.errors import one_line
    from dmphn_jax.images import ImageError, read_header

    failed = 0
    for job in jobs:
        try:
            if job.exists:
                print(f"skip    {shown(job.source)}: {shown(job.output)} exists")
                continue
            if job.problem:
                raise ImageError(f"{shown(job.source)}: {job.problem}")
            header = read_header(job.source, max_pixels=max_pixels)
            size = f"{header.width}x{header.height} {header.format}"
            print(f"deblur  {shown(job.source)} ({size}) -> {shown(job.output)}")
        except ImageError as error:
            failed += 1
            print(f"fail    {one_line(error)}")
    print(
        f"would deblur {tally.total - failed}, skip {tally.skipped}, fail {failed}"
        f"{tally.ignored_text()}"
    )
    return 1 if failed else 0


class _Tally:
    """What was done so far, and how it is told."""

    def __init__(
        self, total: int, *, skipped: int, ignored: collections.Counter[str], quiet: bool
    ) -> None:
        self.total, self.skipped, self.ignored, self.quiet = total, skipped, ignored, quiet
        self.done = 0
        self.failures: list[tuple[int, str]] = []
        self.notes: collections.Counter[str] = collections.Counter()

    def add(self, index: int, result: Any) -> None:
        if result.failure:
            self.failures.append((index, result.failure))
        else:
            self.done += 1
            self.notes.update(result.notes)

    def ignored_text(self) -> str:
        if not self.ignored:
            return ""
        kinds = ", ".join(f"{count} {shown(kind)}" for kind, count in self.ignored.most_common(5))
        return f"; other files passed over: {kinds}"

    def report(self, output: str, *, interrupted: bool = False) -> None:
        """Prints a line per failure on stderr, the summary on stdout."""
        sys.stdout.flush()
        for _, line in sorted(self.failures):
            print(f"dmphn: failed: {line}", file=sys.stderr)
        if self.quiet:
            return
        for note, images in self.notes.items():
            print(f"note ({images} {'image' if images == 1 else 'images'}): {note}")
        # Files being written at an interrupt are finished, but not counted any more.
        least = "at least " if interrupted else ""
        parts = [f"deblurred {least}{self.done} of {self.total} into {shown(output)}"]
        if self.skipped:
            parts.append(f"{self.skipped} skipped, their outputs exist (--overwrite replaces them)")
        if self.failures:
            parts.append(f"{len(self.failures)} failed")
        print("; ".join(parts) + self.ignored_text(), flush=True)
        if interrupted:
            print("interrupted: run the same command again to do the rest", file=sys.stderr)


def _extensions(text: str | None) -> tuple[str, ...]:
    """Reads `--extensions`."""
    from dmphn_jax.images.core import EXTENSIONS

    if text is None:
        return tuple(EXTENSIONS)
    names = ["." + part.strip().lower().lstrip(".") for part in text.split(",") if part.strip(" .")]
    for name in names:
        if name not in EXTENSIONS:
            raise UserError(
                f"--extensions {name[1:]}: not read here{nearest(name, EXTENSIONS)}; "
                f"known: {', '.join(known[1:] for known in EXTENSIONS)}"
            )
    if not names:
        raise UserError("--extensions: no extension given, as png,jpg")
    return tuple(names)


def _make_output_folder(todo: list, output: str) -> None:
    """Makes the output folder, so that a wrong one is told before the model is loaded."""
    single = len(todo) == 1 and todo[0].output == output
    folder = (os.path.dirname(output) or ".") if single else output
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output {shown(output)}: {error.strerror}") from None
    if not os.access(folder, os.W_OK):
        raise UserError(f"--output {shown(output)}: no permission to write there")


def _exit_on_sigterm():
    """Makes SIGTERM (a job's time is up) end as an interrupt does; returns what undoes it."""
    if threading.current_thread() is not threading.main_thread():
        return lambda: None

    def leave(number: int, frame: Any) -> None:
        raise SystemExit(128 + number)

    previous = signal.signal(signal.SIGTERM, leave)
    return lambda: signal.signal(signal.SIGTERM, previous)
