"""Decoding, computing and encoding at once, in bounded memory."""

from __future__ import annotations

import collections
import itertools
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, ThreadPoolExecutor, wait
from typing import Any, NamedTuple

import numpy as np

from dmphn_jax.errors import UserError, one_line, out_of_memory
from dmphn_jax.files import shown
from dmphn_jax.images import (
    DEFAULT_MAX_PIXELS,
    DEFAULT_QUALITY,
    Image,
    read_header,
    read_image,
    read_size,
)
from dmphn_jax.images import write_image as write
from dmphn_jax.inference.clock import CLOCK
from dmphn_jax.inference.computing import PER_DEVICE, Computing
from dmphn_jax.inference.jobs import Job
from dmphn_jax.runtime import cores

# Pixels held at once between decoding and the end of encoding, about 10 bytes each. A single image
# may be larger: it is then alone.
IN_FLIGHT = 64_000_000


class Result(NamedTuple):
    """What became of a job: done (with notes on what was lost) or failed (with the reason)."""

    job: Job
    failure: str | None = None
    notes: tuple[str, ...] = ()


def default_workers() -> int:
    """Threads that decode, and as many that encode: the usable cores, 8 at most."""
    return min(8, cores())


def read_sizes(jobs: Sequence[Job], workers: int | None = None) -> list[tuple[int, int]]:
    """Returns (height, width) of the jobs' images by their headers, those that can be read."""

    def size(job: Job) -> tuple[int, int] | None:
        try:
            return None if job.problem else read_size(job.source)
        except Exception:  # decoding it will tell
            return None

    with ThreadPoolExecutor(workers or default_workers(), "header") as pool:
        return [found for found in pool.map(size, jobs) if found]


def run_jobs(
    jobs: Iterable[Job],
    submit: Callable[[np.ndarray], Computing],
    *,
    take: Callable[[Job], bool] = lambda job: True,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    quality: int = DEFAULT_QUALITY,
    workers: int | None = None,
    in_flight: int = IN_FLIGHT,
    submitted: int = PER_DEVICE,
) -> Generator[Result, None, None]:
    """Deblurs every job's image and yields a Result for each, in order of completion.

    Threads decode what comes next and encode what came before, and the next image is submitted
    before the last one's result is taken, so that the device need not wait for its download. A
    file that fails becomes a Result and the others go on. Closing the generator early, or an
    interrupt, leaves finished outputs and no half ones.

    Args:
      jobs: what to do; read as they are begun.
      submit: `Deblurrer.submit`, or what does as it does with (1, H, W, 3) uint8 or uint16; it and
        the results' `result` are called in this thread.
      take: asked in this thread just before a job's image, decoded by then, is submitted, or found
        to have failed: False drops it without a Result.
      max_pixels: larger images are refused.
      quality: of JPEG and WebP.
      workers: threads that decode, and as many that encode; `default_workers()` if None.
      in_flight: pixels held at once.
      submitted: images submitted and not taken back at once; `PER_DEVICE` for each device.
    """
    workers = workers or default_workers()
    pipeline = _Pipeline(jobs, submit, take, max_pixels, quality, workers, in_flight, submitted)
    try:
        yield from pipeline.results()
    finally:
        pipeline.close()


class _Started(NamedTuple):
    """An image that was submitted."""

    job: Job
    image: Image
    cost: int
    computing: Computing


class _Pipeline:
    """Where every job of a run stands: waiting -> decoding -> computing -> encoding -> Result."""

    def __init__(
        self,
        jobs: Iterable[Job],
        submit: Callable[[np.ndarray], Computing],
        take: Callable[[Job], bool],
        max_pixels: int,
        quality: int,
        workers: int,
        in_flight: int,
        submitted: int,
    ) -> None:
        self._most_submitted = submitted
        self._submit, self._take_job = submit, take
        self._max_pixels, self._quality = max_pixels, quality
        self._row = 2 * workers  # jobs in decoding, and in encoding, at most
        self._budget = Budget(in_flight)
        self._decoders = ThreadPoolExecutor(workers, "decode")
        self._encoders = ThreadPoolExecutor(workers, "encode")
        self._waiting = iter(jobs)
        self._decoding: dict[Future[tuple[Image, int]], Job] = {}
        self._computing: collections.deque[_Started] = collections.deque()
        self._encoding: dict[Future[tuple[str, ...]], tuple[Job, tuple[str, ...]]] = {}

    def results(self) -> Generator[Result, None, None]:
        while True:
            for job in itertools.islice(self._waiting, self._row - len(self._decoding)):
                self._decoding[self._decoders.submit(self._decode, job)] = job
            if not (self._decoding or self._computing or self._encoding):
                return
            # A full row of results to write holds back the next image.
            full = len(self._encoding) >= self._row
            awaited: set[Future[Any]] = {*self._encoding, *([] if full else self._decoding)}
            # With an image on the device there is something to do: only look what is ready.
            look = 0 if self._computing and not full else None
            done, _ = wait(awaited, look, return_when=FIRST_COMPLETED)
            for written in [future for future in self._encoding if future in done]:
                yield self._finish(written)
            decoded = next((future for future in self._decoding if future in done), None)
            failed = None
            if decoded and not full and len(self._computing) < self._most_submitted:
                failed = self._start(decoded)
            elif self._computing and not full:
                failed = self._take()
            del awaited, done, decoded  # futures keep their pictures alive
            if failed:
                yield failed

    def close(self) -> None:
        """Waits for what is being written and drops the rest."""
        self._budget.close()
        for pool in (self._decoders, self._encoders):
            pool.shutdown(wait=True, cancel_futures=True)

    def _decode(self, job: Job) -> tuple[Image, int]:
        if job.problem:
            raise UserError(f"{shown(job.source)}: {job.problem}")
        header = read_header(job.source, max_pixels=self._max_pixels)
        cost = header.width * header.height
        self._budget.acquire(cost)
        try:
            with CLOCK.decode:
                return read_image(job.source, max_pixels=self._max_pixels), cost
        except BaseException:
            self._budget.release(cost)
            raise

    def _start(self, decoded: Future[tuple[Image, int]]) -> Result | None:
        """Submits a decoded image; returns a Result if that, or the decoding, has failed."""
        job = self._decoding.pop(decoded)
        error = decoded.exception()
        if not self._take_job(job):
            if not error:
                self._budget.release(decoded.result()[1])
            return None
        if error:
            return Result(job, failure(job, error))
        image, cost = decoded.result()
        try:
            computing = self._submit(image.pixels[None])
        except Exception as error:
            self._budget.release(cost)
            return Result(job, failure(job, error, image.pixels.shape))
        self._computing.append(_Started(job, image, cost, computing))
        return None

    def _take(self) -> Result | None:
        """Takes the oldest result back and has it written; returns a Result if it has failed."""
        job, image, cost, computing = self._computing.popleft()
        try:
            image = image.with_pixels(computing.result()[0])
        except Exception as error:
            self._budget.release(cost)
            return Result(job, failure(job, error, image.pixels.shape))
        self._encoding[self._encoders.submit(self._encode, job, image, cost)] = job, image.notes
        return None

    def _encode(self, job: Job, image: Image, cost: int) -> tuple[str, ...]:
        try:
            with CLOCK.encode:
                return write(job.output, image, quality=self._quality)
        finally:
            self._budget.release(cost)

    def _finish(self, written: Future[tuple[str, ...]]) -> Result:
        job, notes = self._encoding.pop(written)
        error = written.exception()
        if error:
            return Result(job, failure(job, error))
        return Result(job, notes=notes + written.result())


def failure(job: Job, error: BaseException, shape: tuple[int, ...] | None = None) -> str:
    """Returns the one line that tells why a job failed."""
    text = one_line(error)
    if isinstance(error, UserError):
        named = shown(job.source) in text or shown(job.output) in text
        return text if named else f"{shown(job.source)}: {text}"
    if out_of_memory(error):
        size = f" ({shape[1]}x{shape[0]})" if shape else ""
        return f"{shown(job.source)}: too large for memory{size}; make it smaller or cut it up"
    if len(text) > 300:
        text = text[:300] + "..."
    return f"{shown(job.source)}: {type(error).__name__}: {text}"


class Budget:
    """A count shared by threads; whoever finds it spent waits. One alone may take more than all."""

    def __init__(self, limit: int) -> None:
        self._limit, self._used, self._closed = limit, 0, False
        self._changed = threading.Condition()

    def acquire(self, amount: int) -> None:
        """Takes an amount once it is there; raises CancelledError after `close`."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._closed or not self._used or self._used + amount <= self._limit
            )
            if self._closed:
                raise CancelledError
            self._used += amount

    def release(self, amount: int) -> None:
        """Gives it back."""
        with self._changed:
            self._used -= amount
            self._changed.notify_all()

    def close(self) -> None:
        """Lets nobody wait any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
