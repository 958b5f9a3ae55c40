"""`dmphn deblur INPUT... --checkpoint CKPT --output OUT`: deblur images, films and folders."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING

from dmphn_jax import checkpoints, storage
from dmphn_jax.commands.arguments import count, natural, percentage, pixels, positive
from dmphn_jax.commands.film_flags import add_film_flags, film_line, film_options, run_film_jobs
from dmphn_jax.commands.network import load_network
from dmphn_jax.commands.progress import bars
from dmphn_jax.errors import UserError, nearest
from dmphn_jax.files import shown
from dmphn_jax.models import PRECISIONS

if TYPE_CHECKING:
    from dmphn_jax.inference.films import FilmOptions
    from dmphn_jax.inference.jobs import Job
    from dmphn_jax.inference.tally import Tally

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

Films: mp4, mov, mkv, webm, avi, and what else FFmpeg reads. Sound, subtitles, frame times, colour
tags and chapters are kept; rotation is applied. A film becomes a film (--output out.mp4, or a
folder) or, with --format, a folder of frames; a folder of frames becomes a film with --output
out.mp4. An interrupted film goes on where it stopped.

A file that fails is told at the end, on one line, and the others are done; so is one whose output
is another's too (a.gif beside a.png) or a folder's name. Run again after an interrupt: finished
outputs are skipped. Exit status: 0 all done, 1 some files failed, 2 wrong use, 74 all done but the
summary could not be printed.
"""


def parser() -> argparse.ArgumentParser:
    """Returns the command line of `dmphn deblur`."""
    result = argparse.ArgumentParser(
        prog="dmphn deblur",
        description="Deblur images, films, and folders of them.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = result.add_argument
    add("inputs", nargs="+", metavar="INPUT", help="image, film, or folder (all below it)")
    add(
        "-c",
        "--checkpoint",
        required=True,
        metavar="CKPT",
        help="folder of the trained model, or a released one's name, such as stack4, which is "
        "downloaded at its first use",
    )
    add(
        "-o",
        "--output",
        required=True,
        metavar="OUT",
        help="folder, which keeps the inputs' tree; or a file, for a single image or film",
    )
    add(
        "--precision",
        choices=PRECISIONS,
        default="float32",
        help="of the computation; float16 is faster on a GPU, bfloat16 on GPU and TPU, but less "
        "exact (default float32)",
    )
    depth = result.add_mutually_exclusive_group()
    depth.add_argument(
        "--stages", type=count, metavar="N", help="run a stack's first N stages only: faster"
    )
    depth.add_argument(
        "--budget-ms",
        type=positive,
        metavar="T",
        help="run as many stages as take T milliseconds per image, measured here for every size",
    )
    ensemble = result.add_mutually_exclusive_group()
    ensemble.add_argument(
        "--ensemble",
        action="store_true",
        help="mean over the 8 flips and quarter turns: a little better, eight times the time",
    )
    ensemble.add_argument(
        "--shift-ensemble",
        action="store_true",
        help="mean over places of the patch grid: no seams at patch borders, two or four times "
        "the time",
    )
    add(
        "--format",
        choices=_FORMATS,
        metavar="F",
        help=f"of the outputs: {', '.join(_FORMATS)} (default: as the input's name); a film's "
        "frames come out one by one",
    )
    add(
        "--quality",
        type=percentage,
        default=95,
        metavar="Q",
        help="of JPEG and WebP, 1 to 100; 100 makes WebP lossless (default 95)",
    )
    add("--overwrite", action="store_true", help="replace outputs that exist (default: skip them)")
    add("-n", "--dry-run", action="store_true", help="say what would be done, and do nothing")
    add(
        "--max-pixels",
        type=pixels,
        default=100_000_000,
        metavar="N",
        help="refuse larger images, by the size they declare (default 100M)",
    )
    add(
        "--extensions",
        metavar="LIST",
        help="take only these of a folder's files, as png,jpg (default: every kind that is read)",
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
    add(
        "--split-rows",
        action="store_true",
        help="split every image by rows over all devices (default: each device its own images)",
    )
    add("--workers", type=count, metavar="N", help="threads to decode, and to encode, with")
    add("-q", "--quiet", action="store_true", help="no progress bar and no summary")
    add_film_flags(result)
    return result


def main(argv: list[str]) -> int:
    """Runs the command; returns 0, or 1 if some files failed. Raises UserError for wrong use."""
    args = parser().parse_args(argv)
    if args.budget_ms and (args.ensemble or args.shift_ensemble):
        raise UserError("--budget-ms: measures single passes; leave the ensemble out")
    for what, given in (("--output", args.output), *(("INPUT", path) for path in args.inputs)):
        storage.local_only(what, given or "")
    # Slow to import, and not needed for --help.
    from dmphn_jax.inference.jobs import plan
    from dmphn_jax.inference.pipeline import Result
    from dmphn_jax.inference.tally import Tally

    warnings.filterwarnings("ignore", module=r"PIL\.")  # damaged metadata is dropped silently
    os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")
    laid_out = plan(
        args.inputs,
        args.output,
        format=_FORMATS.get(args.format),
        extensions=_extensions(args.extensions),
        overwrite=args.overwrite,
    )
    found = checkpoints.find(args.checkpoint)  # a wrong one is told before any work
    if found is not None and not found.is_dir():
        raise UserError(f"--checkpoint {shown(args.checkpoint)}: not a folder")
    tally = Tally(laid_out)
    films = film_options(args, tally.todo)
    if args.dry_run:
        return _dry_run(laid_out.jobs, args.max_pixels, tally)
    if any(not job.problem for job in tally.todo):
        _make_output_folder(tally.todo, args.output)
        _run(tally, args, films)
    else:  # nothing that needs a network
        for job in tally.todo:
            tally.add(Result(job, f"{shown(job.source)}: {job.problem}"))
    _report(tally, args)
    return 1 if tally.failures else 0


def _run(tally: Tally, args: argparse.Namespace, films: FilmOptions) -> None:
    """Deblurs; what was done by an interrupt is reported before it goes on its way."""
    from dmphn_jax.inference.buckets import MOST
    from dmphn_jax.inference.pipeline import PER_DEVICE, read_sizes, run_jobs

    network = load_network(args)
    new_bar = bars(args.quiet)
    pictures = [job for job in tally.todo if not job.film]
    if len(pictures) > MOST:  # else not even a program for each size is too many
        network.compile_for(read_sizes(pictures, args.workers))
    results = run_jobs(
        pictures,
        network.submit,
        max_pixels=args.max_pixels,
        quality=args.quality,
        workers=args.workers,
        submitted=PER_DEVICE * network.at_once,
    )
    moving = [job for job in tally.todo if job.film]
    film_results = run_film_jobs(
        moving,
        network.submit,
        films,
        model=network.model,
        devices=network.at_once,
        new_bar=new_bar,
    )
    bar = new_bar(total=len(pictures), unit=" images")
    restore = _exit_on_sigterm()
    try:
        for result in results:
            tally.add(result)
            bar.update()
        bar.close()
        network.compile_for([])  # a film is worth a program for its own size
        for result in film_results:
            tally.add(result)
    except (KeyboardInterrupt, SystemExit):
        results.close()
        film_results.close()
        bar.close()
        _report(tally, args, interrupted=True)
        raise
    finally:
        results.close()
        film_results.close()
        bar.close()
        restore()


def _report(tally: Tally, args: argparse.Namespace, *, interrupted: bool = False) -> None:
    """Prints a line per failure on stderr, the summary on stdout."""
    sys.stdout.flush()
    for line in tally.failures:
        print(f"dmphn: failed: {line}", file=sys.stderr)
    if args.quiet:
        return
    for line in tally.summary(args.output, interrupted=interrupted):
        print(line)
    sys.stdout.flush()
    if interrupted:
        print("interrupted: run the same command again to do the rest", file=sys.stderr)


def _dry_run(jobs: list[Job], max_pixels: int, tally: Tally) -> int:
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
            if job.film:
                print(f"deblur  {film_line(job, max_pixels)}")
                continue
            header = read_header(job.source, max_pixels=max_pixels)
            size = f"{header.width}x{header.height} {header.format}"
            print(f"deblur  {shown(job.source)} ({size}) -> {shown(job.output)}")
        except UserError as error:
            failed += 1
            print(f"fail    {one_line(error)}")
    print(
        f"would deblur {len(tally.todo) - failed}, skip {tally.skipped}, fail {failed}"
        f"{tally.ignored}"
    )
    return 1 if failed else 0


def _extensions(text: str | None) -> tuple[str, ...]:
    """Reads `--extensions`."""
    from dmphn_jax.images.core import EXTENSIONS
    from dmphn_jax.video.encoding import EXTENSIONS as FILM_EXTENSIONS

    known = (*EXTENSIONS, *FILM_EXTENSIONS)
    if text is None:
        return tuple(extension for extension in known if extension != ".ts")  # TypeScript's too
    names = ["." + part.strip().lower().lstrip(".") for part in text.split(",") if part.strip(" .")]
    for name in names:
        if name not in known:
            raise UserError(
                f"--extensions {name[1:]}: not read here{nearest(name, known)}; "
                f"known: {', '.join(each[1:] for each in known)}"
            )
    if not names:
        raise UserError("--extensions: no extension given, as png,jpg")
    return tuple(names)


def _make_output_folder(todo: list[Job], output: str) -> None:
    """Makes the output folder, so that a wrong one is told before the model is loaded."""
    single = len(todo) == 1 and todo[0].output == output
    folder = (os.path.dirname(output) or ".") if single else output
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output {shown(output)}: {error.strerror}") from None
    if not os.access(folder, os.W_OK):
        raise UserError(f"--output {shown(output)}: no permission to write there")


def _exit_on_sigterm() -> Callable[[], object]:
    """Makes SIGTERM (a job's time is up) end as an interrupt does; returns what undoes it."""
    if threading.current_thread() is not threading.main_thread():
        return lambda: None

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    previous = signal.signal(signal.SIGTERM, leave)
    return lambda: signal.signal(signal.SIGTERM, previous)
