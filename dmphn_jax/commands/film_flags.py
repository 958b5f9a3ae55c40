"""The flags of `dmphn deblur` for films, and its run over them."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Generator, Iterable, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

from dmphn_jax.errors import UserError
from dmphn_jax.files import shown
from dmphn_jax.video.encoding import CODECS, Encoding, check

if TYPE_CHECKING:
    from dmphn_jax.inference.films import FilmOptions, Progress, Submit
    from dmphn_jax.inference.jobs import Job
    from dmphn_jax.inference.pipeline import Result


def add_film_flags(parser: argparse.ArgumentParser) -> None:
    """Adds them, in a group of their own."""
    add = parser.add_argument_group("films").add_argument
    add(
        "--codec",
        choices=CODECS,
        metavar="C",
        help=f"{', '.join(CODECS)} (default: h264, h265 for 10 bits, vp9 in .webm)",
    )
    add("--crf", type=int, metavar="Q", help="quality, 0 the best (default: 18 of h264, ...)")
    add(
        "--ten-bit",
        action=argparse.BooleanOptionalAction,
        help="compute and write 10 bits per channel, or write 8 (default: as the input has)",
    )
    add("--frames", type=_frames, metavar="A:B", help="only frames A to B-1, from 0; A: and :B too")
    add("--rate", type=_rate, metavar="R", help="frames/s of a folder of frames (default 24)")


def film_options(args: argparse.Namespace, jobs: Sequence[Job]) -> FilmOptions:
    """Reads them. Raises UserError where they do not go together, or the only job is no film."""
    from dmphn_jax.inference.films import FilmOptions

    encoding = Encoding(args.codec, args.crf, args.ten_bit)
    if jobs and not any(job.film for job in jobs):
        for flag in ("codec", "crf", "ten_bit", "frames", "rate"):
            if getattr(args, flag) is not None:
                raise UserError(f"--{flag.replace('_', '-')}: for films, and there is none")
    elif len(jobs) == 1 and not jobs[0].frames:
        check(jobs[0].output, encoding, deep=bool(args.ten_bit))
    first, stop = args.frames or (0, None)
    return FilmOptions(
        encoding=encoding,
        first=first,
        stop=stop,
        rate=args.rate or Fraction(24),
        max_pixels=args.max_pixels,
        quality=args.quality,
        overwrite=args.overwrite,
    )


def run_film_jobs(
    jobs: Iterable[Job],
    submit: Submit,
    options: FilmOptions,
    *,
    model: dict[str, str],
    devices: int,
    new_bar: Callable[..., Progress],
) -> Generator[Result, None, None]:
    """Makes the films as `run_films` does; `new_bar` is that of `commands.progress`."""
    from dmphn_jax.inference.films import run_films

    return run_films(
        jobs,
        submit,
        options,
        model=model,
        devices=devices,
        progress=lambda name, done, total: new_bar(
            total=total, initial=done, desc=shown(name), unit=" frames"
        ),
    )


def film_line(job: Job, max_pixels: int) -> str:
    """Returns what a dry run says of a film. Raises VideoError if it cannot be read."""
    import os
    from contextlib import closing
    from pathlib import Path

    if os.path.isdir(job.source):
        return f"{shown(job.source)} (a folder of frames) -> {shown(job.output)}"
    from dmphn_jax.video.film import FilmReader

    with closing(FilmReader(Path(job.source), max_pixels=max_pixels)) as reader:
        info = reader.info
    frames = f", {info.frames} frames" if info.frames else ""
    size = f"{info.width}x{info.height}, {float(info.rate):g} frames/s{frames}"
    return f"{shown(job.source)} ({size}) -> {shown(job.output)}"


def _frames(text: str) -> tuple[int, int | None]:
    first, colon, stop = text.partition(":")
    try:
        numbers = int(first or 0), int(stop) if stop else None
    except ValueError:
        numbers = -1, None
    if not colon or numbers[0] < 0 or (numbers[1] is not None and numbers[1] <= numbers[0]):
        raise argparse.ArgumentTypeError(f"{text!r} is not A:B with 0 <= A < B")
    return numbers


def _rate(text: str) -> Fraction:
    try:
        rate = Fraction(text).limit_denominator(1001)
    except (ValueError, ZeroDivisionError):
        rate = Fraction(0)
    if not 0 < rate <= 1000:
        raise argparse.ArgumentTypeError(f"{text!r} is no rate, as 24, 29.97 or 30000/1001")
    return rate
