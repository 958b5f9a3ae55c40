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

from dmphn_jax import checkpoints
from dmphn_jax.commands.deblur_flags import FORMATS, extensions, parser
from dmphn_jax.commands.film_flags import film_line, film_options, run_film_jobs
from dmphn_jax.commands.network import load_network
from dmphn_jax.commands.progress import bars
from dmphn_jax.errors import UserError
from dmphn_jax.files import shown

if TYPE_CHECKING:
    from dmphn_jax.inference.films import FilmOptions
    from dmphn_jax.inference.jobs import Job
    from dmphn_jax.inference.tally import Tally


def main(argv: list[str]) -> int:
    """Runs the command; returns 0, or 1 if some files failed. Raises UserError for wrong use."""
    args = parser().parse_args(argv)
    if args.budget_ms and (args.ensemble or args.shift_ensemble):
        raise UserError("--budget-ms: measures single passes; leave the ensemble out")
    # Slow to import, and not needed for --help.
    from dmphn_jax.inference.layout import plan
    from dmphn_jax.inference.pipeline import Result
    from dmphn_jax.inference.tally import Tally

    warnings.filterwarnings("ignore", module=r"PIL\.")  # damaged metadata is dropped silently
    os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")
    laid_out = plan(
        args.inputs,
        args.output,
        format=FORMATS.get(args.format),
        extensions=extensions(args.extensions),
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
    """Prints a line per failure on stderr, the summary and the timings on stdout."""
    from dmphn_jax.inference.clock import CLOCK

    sys.stdout.flush()
    for line in tally.failures:
        print(f"dmphn: failed: {line}", file=sys.stderr)
    lines = [] if args.quiet else [*tally.summary(args.output, interrupted=interrupted)]
    for line in lines + ([str(CLOCK)] if args.timings else []):
        print(line)
    sys.stdout.flush()
    if interrupted and not args.quiet:
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
