"""Decoding, computing and encoding at once, in bounded memory."""

from __future__ import annotations

import collections
import concurrent.futures
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from dmphn_jax.errors import UserError, one_line
from dmphn_jax.files import shown
from dmphn_jax.images import DEFAULT_MAX_PIXELS, DEFAULT_QUALITY, read_header, read_image
from dmphn_jax.images import write_image as write
from dmphn_jax.inference.jobs import Job

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
    return min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 4)


def run_jobs(
    jobs: Sequence[Job],
    deblur: Callable[[np.ndarray], np.ndarray],
    *,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    quality: int = DEFAULT_QUALITY,
    workers: int | None = None,
    in_flight: int = IN_FLIGHT,
) -> Iterator[Result]:
    """Runs `deblur` over every job's image and yields a Result for each, in order of completion.

    `deblur` maps (H, W, 3) uint8 or uint16 to the same; it is called in this thread, one image at
    a time, while other threads decode what comes next and encode what came before. A file that
    fails becomes a Result and the others go on. Closing the iterator early, or an interrupt,
    leaves finished outputs and no half ones.
    """
    workers = workers or default_workers()
    budget = _Budget(in_flight)
    waiting = collections.deque(jobs)
    decoding: dict[concurrent.futures.Future, Job] = {}
    encoding: dict[concurrent.futures.Future, tuple[Job, tuple[str, ...]]] = {}

    def decode(job: Job):
        if job.problem:
            raise UserError(f"{shown(job.source)}: {job.problem}")
        header = read_header(job.source, max_pixels=max_pixels)
        cost = header.width * header.height
        budget.acquire(cost)
        try:
            return read_image(job.source, max_pixels=max_pixels), cost
        except BaseException:
            budget.release(cost)
            raise

    def encode(job: Job, image, cost: int) -> tuple[str, ...]:
        try:
            return write(job.output, image, quality=quality)
        finally:
            budget.release(cost)

    decoders = concurrent.futures.ThreadPoolExecutor(workers, "decode")
    encoders = concurrent.futures.ThreadPoolExecutor(workers, "encode")
    try:
        while waiting or decoding or encoding:
            while waiting and len(decoding) < 2 * workers:
                job = waiting.popleft()
                decoding[decoders.submit(decode, job)] = job
            # A full row of results to write holds back the next image.
            awaited = [*encoding] if len(encoding) >= 2 * workers else [*decoding, *encoding]
            done, _ = concurrent.futures.wait(
                awaited, return_when=concurrent.futures.FIRST_COMPLETED
            )
            for future in [f for f in encoding if f in done]:
                job, notes = encoding.pop(future)
                failure = _failure(job, future.exception())
                yield Result(job, failure, () if failure else notes + future.result())
            future = next((f for f in decoding if f in done), None)
            del done  # it would keep the pictures of its futures alive
            if future is None:
                continue
            job = decoding.pop(future)
            failure = _failure(job, future.exception())
            if failure:
                yield Result(job, failure)
                continue
            image, cost = future.result()
            del future
            try:
                image = image.with_pixels(deblur(image.pixels))
            except Exception as error:
                budget.release(cost)
                yield Result(job, _failure(job, error, image.pixels.shape))
                continue
            encoding[encoders.submit(encode, job, image, cost)] = job, image.notes
            del image
    finally:
        budget.close()
        for pool in (decoders, encoders):
            pool.shutdown(wait=True, cancel_futures=True)


def _failure(
    job: Job, error: BaseException | None, shape: tuple[int, ...] | None = None
) -> str | None:
    """Returns the one line that tells why a job failed, None for no error."""
    if error is None:
        return None
    text = one_line(error)
    if isinstance(error, UserError):
        return (
            text
            if shown(job.source) in text or shown(job.output) in text
            else (f"{shown(job.source)}: {text}")
        )
    if isinstance(error, MemoryError) or any(
        sign in text for sign in ("RESOURCE_EXHAUSTED", "ut of memory", "bad_alloc")
    ):
        size = f" ({shape[1]}x{shape[0]})" if shape else ""
        return f"{shown(job.source)}: too large for memory{size}; make it smaller or cut it up"
    if len(text) > 300:
        text = text[:300] + "..."
    return f"{shown(job.source)}: {type(error).__name__}: {text}"


class _Budget:
    """A count shared by threads; whoever finds it spent waits."""

    def __init__(self, limit: int) -> None:
        self._limit, self._used, self._closed = limit, 0, False
        self._changed = threading.Condition()

    def acquire(self, amount: int) -> None:
        with self._changed:
            self._changed.wait_for(
                lambda: self._closed or not self._used or self._used + amount <= self._limit
            )
            if self._closed:
                raise concurrent.futures.CancelledError
            self._used += amount

    def release(self, amount: int) -> None:
        with self._changed:
            self._used -= amount
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
