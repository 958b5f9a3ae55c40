"""`dmphn deblur INPUT... --checkpoint CKPT --output OUT`: deblur images, films and folders."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dmphn_jax import checkpoints, storage
from dmphn_jax.commands.deblur_flags import FORMATS, extensions, parser
from dmphn_jax.commands.film_flags import film_line, film_options, run_film_jobs
from dmphn_jax.commands.network import load_network
from dmphn_jax.commands.progress import bars
from dmphn_jax.errors import UserError
from dmphn_jax.files import shown
from dmphn_jax.processes.termination import TERMINATED, exits_on_sigterm

if TYPE_CHECKING:
    from dmphn_jax.inference.films import FilmOptions
    from dmphn_jax.inference.jobs import Job, Plan
    from dmphn_jax.inference.pipeline import Result
    from dmphn_jax.inference.shared_jobs import Run, SharedJobs
    from dmphn_jax.inference.tally import Tally
    from dmphn_jax.processes.places import Place


def main(argv: list[str]) -> int:
    """Runs the command; returns 0, or 1 if some files failed. Raises UserError for wrong use."""
    args = parser().parse_args(argv)
    if args.budget_ms and (args.ensemble or args.shift_ensemble):
        raise UserError("--budget-ms: measures single passes; leave the ensemble out")
    for what, given in (("--output", args.output), *(("INPUT", path) for path in args.inputs)):
        storage.local_only(what, given or "")
    # Slow to import, and not needed for --help.
    from dmphn_jax.inference.layout import plan
    from dmphn_jax.inference.pipeline import Result
    from dmphn_jax.inference.shared_jobs import clear_leftovers
    from dmphn_jax.inference.tally import Tally
    from dmphn_jax.processes import places

    warnings.filterwarnings("ignore", module=r"PIL\.")  # damaged metadata is dropped silently
    os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")
    place = places.find(args.process)
    if place and args.overwrite:
        raise UserError(
            "--overwrite: of several processes none can tell new outputs from old ones; remove "
            "the old ones, or name another --output"
        )
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
    films = film_options(args, laid_out.jobs)  # those that are made already too
    folder = _output_folder(laid_out.jobs, args.output)
    if args.dry_run:
        return _dry_run(laid_out.jobs, args.max_pixels, tally)
    if any(not job.problem for job in tally.todo):
        _make_output_folder(folder, args.output)
        if place:
            return _share(laid_out, tally, args, films, folder, place)
        _run(tally, args, films)
    else:  # nothing that needs a network
        for job in tally.todo:
            tally.add(Result(job, f"{shown(job.source)}: {job.problem}"))
    if not tally.failures:
        clear_leftovers(folder)
    _report(tally, args)
    return 1 if tally.failures else 0


def _share(
    laid_out: Plan,
    tally: Tally,
    args: argparse.Namespace,
    films: FilmOptions,
    folder: str,
    place: Place,
) -> int:
    """Does this process's share; returns 1 if something failed in any process, else 0."""
    from dmphn_jax.inference.shared_jobs import FOLDER, SharedJobs
    from dmphn_jax.processes import places
    from dmphn_jax.processes.claims import Claims

    places.keep_to_own_chips()
    with Claims(Path(folder) / FOLDER, str(place)) as claims:
        jobs = SharedJobs(claims, laid_out, folder, place)
        _run(tally, args, films, jobs, name=str(place))
        if jobs.shared.complete:
            claims.clear()
        _report(tally, args, elsewhere=jobs.told)
    return 1 if tally.failures or jobs.shared.failures else 0


def _run(
    tally: Tally,
    args: argparse.Namespace,
    films: FilmOptions,
    jobs: SharedJobs | None = None,
    name: str = "",
) -> None:
    """Deblurs; what was done by an interrupt is reported before it goes on its way."""
    new_bar = bars(args.quiet)
    pictures = [job for job in tally.todo if not job.film]
    if jobs:
        run = _deblurring(args, films, jobs.pictures, lambda: None)
        bar = new_bar(total=len(tally.todo), unit=" files", desc=name)
        results = jobs.results(run)
    else:
        run = _deblurring(args, films, pictures, lambda: bar.close())
        bar = new_bar(total=len(pictures), unit=" images")
        results = run(tally.todo, lambda job: True)
    ending = TERMINATED if jobs is None else os.EX_TEMPFAIL  # the rest is for another
    with exits_on_sigterm(ending, line=False):
        try:
            for result in results:
                tally.add(result)
                if jobs:
                    bar.update(jobs.shared.done - bar.n)
                elif not result.job.film:
                    bar.update()
            if jobs:
                bar.update(jobs.shared.done - bar.n)
        except (KeyboardInterrupt, SystemExit):
            results.close()
            bar.close()
            _report(tally, args, interrupted=True)
            raise
        finally:
            results.close()
            bar.close()


def _deblurring(
    args: argparse.Namespace,
    films: FilmOptions,
    pictures: Sequence[Job],
    before_films: Callable[[], object],
) -> Run:
    """Loads the network; returns what does jobs with it, pictures first.

    Args:
      args, films: what is asked for.
      pictures: those by whose sizes the programs are chosen.
      before_films: called between the two.
    """
    from dmphn_jax.inference.buckets import MOST
    from dmphn_jax.inference.computing import PER_DEVICE
    from dmphn_jax.inference.pipeline import read_sizes, run_jobs

    network = load_network(args)
    # Else not even a program for each size is too many.
    sizes = read_sizes(pictures, args.workers) if len(pictures) > MOST else []

    def run(jobs: Iterable[Job], take: Callable[[Job], bool]) -> Generator[Result, None, None]:
        moving: list[Job] = []

        def still() -> Iterator[Job]:
            for job in jobs:
                if job.film:
                    moving.append(job)
                else:
                    yield job

        if sizes:
            network.compile_for(sizes)
        yield from run_jobs(
            still(),
            network.submit,
            take=take,
            max_pixels=args.max_pixels,
            quality=args.quality,
            workers=args.workers,
            submitted=PER_DEVICE * network.at_once,
        )
        before_films()
        network.compile_for([])  # a film is worth a program for its own size
        yield from run_film_jobs(
            filter(take, moving),
            network.submit,
            films,
            model=network.model,
            devices=network.at_once,
            new_bar=bars(args.quiet),
        )

    return run


def _report(
    tally: Tally,
    args: argparse.Namespace,
    *,
    interrupted: bool = False,
    elsewhere: Sequence[str] = (),
) -> None:
    """Prints a line per failure on stderr, the summary and the timings on stdout."""
    from dmphn_jax.inference.clock import CLOCK

    sys.stdout.flush()
    for line in tally.failures:
        print(f"dmphn: failed: {line}", file=sys.stderr)
    summary = tally.summary(args.output, interrupted=interrupted, elsewhere=elsewhere)
    lines = [] if args.quiet else [*summary]
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


def _output_folder(jobs: list[Job], output: str) -> str:
    """Returns the folder of the outputs: `--output`, or where the file lies that it names."""
    single = len(jobs) == 1 and jobs[0].output == output
    return (os.path.dirname(output) or ".") if single else output


def _make_output_folder(folder: str, output: str) -> None:
    """Makes the output folder, so that a wrong one is told before the model is loaded."""
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output {shown(output)}: {error.strerror}") from None
    if not os.access(folder, os.W_OK):
        raise UserError(f"--output {shown(output)}: no permission to write there")
