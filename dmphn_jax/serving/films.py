"""Films as jobs: taken, waited for, asked about, fetched, dropped."""

from __future__ import annotations

import enum
import importlib.util
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dmphn_jax.errors import one_line
from dmphn_jax.files import shown
from dmphn_jax.serving.engine import Engine, How, Stopped, begin
from dmphn_jax.serving.limits import Limits
from dmphn_jax.serving.pictures import check_memory
from dmphn_jax.serving.refusal import Refusal

if TYPE_CHECKING:
    from dmphn_jax.inference.pipeline import Result

_BYTES = 128  # of a frame's pixel: about ten frames are on their way at once
_REPORTS = 64  # of films that failed, which hold no place
PYAV = importlib.util.find_spec("av") is not None


class State(enum.StrEnum):
    """Where a film stands."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


class Film:
    """One film: what it is, how far it is, and what came out.

    Attributes:
      id: hard to guess.
      name: of the result.
      folder: its files are in.
      state: see `State`.
      total: frames that its header promises; None if it does not.
      done: frames so far.
      detail: why it failed.
      notes: what the result could not keep.
      seconds: that it has run, or ran.
      fetched: its result has been handed to the system, whole and in one piece.
    """

    def __init__(self, folder: Path, name: str, how: How) -> None:
        self.id = secrets.token_urlsafe(12)
        self.folder, self.name, self.how = folder, name, how
        self.state = State.QUEUED
        self.total: int | None = None
        self.done = 0
        self.detail: str | None = None
        self.notes: tuple[str, ...] = ()
        self.fetched = False
        self.stop = threading.Event()
        self._begun = self._ended = 0.0

    @property
    def output(self) -> Path:
        """The result's file."""
        return self.folder / f"result{Path(self.name).suffix.lower()}"

    @property
    def seconds(self) -> float:
        """Seconds it has run."""
        return (self._ended or time.monotonic()) - self._begun if self._begun else 0.0

    def begin(self) -> None:
        """It runs."""
        self.state, self._begun = State.RUNNING, time.monotonic()

    def end(self, detail: str | None = None, notes: tuple[str, ...] = ()) -> None:
        """It is done, or has failed for a reason."""
        self._ended = time.monotonic()
        self.detail, self.notes = detail, notes
        self.state = State.FAILED if detail else State.DONE

    def report(self) -> dict[str, Any]:
        """Returns what a client is told."""
        rate = self.done / self.seconds if self.seconds and self.done else None
        left = (self.total - self.done) / rate if rate and self.total else None
        running = self.state is State.RUNNING
        return {
            "id": self.id,
            "name": self.name,
            "state": self.state,
            "frames_done": self.done,
            "frames_total": self.total,
            "seconds": round(self.seconds, 1),
            "frames_per_second": round(rate, 3) if rate else None,
            "seconds_left": round(left, 1) if left is not None and running else None,
            "detail": self.detail,
            "notes": list(self.notes),
            "result": f"v1/films/{self.id}/result" if self.state is State.DONE else None,
        }


class Films:
    """The films of a server: one runs, frame by frame between the pictures; others wait."""

    def __init__(
        self, engine: Engine, limits: Limits, on_frames: Callable[[int], None] = lambda count: None
    ) -> None:
        """Takes the engine, the limits, and what is told of frames that are done."""
        self._engine, self._limits, self._on_frames = engine, limits, on_frames
        self._pool = ThreadPoolExecutor(1, "film")
        self._held: dict[str, Film] = {}
        self._coming = 0

    def __len__(self) -> int:
        return sum(film.state is not State.FAILED for film in self._held.values()) + self._coming

    @property
    def free(self) -> int:
        """How many films would be taken now."""
        return max(0, self._limits.films - len(self) + len(self._fetched())) if PYAV else 0

    @contextmanager
    def place(self) -> Iterator[None]:
        """Holds a place for a film that comes in; raises Refusal if none is taken now.

        Where all are taken, the oldest film whose result has been fetched makes way.
        """
        if not self._limits.films:
            raise Refusal(501, "this server takes no films")
        if not PYAV:
            raise Refusal(501, "films need PyAV on the server: pip install 'dmphn_jax[video]'")
        if not self.free:
            raise Refusal(503, "this server holds no more films now", retry_after=60)
        if len(self) >= self._limits.films:
            self.drop(self._fetched()[0])
        self._coming += 1
        try:
            yield
        finally:
            self._coming -= 1

    def check(self, path: Path) -> int | None:
        """Opens a film; returns how many frames it promises.

        Raises VideoError, one line, for what is no film or too large, MemoryError for frames that
        are too large for the memory there is. Slow: not for the event loop.
        """
        from dmphn_jax.video.film import FilmReader
        from dmphn_jax.video.reading import VideoError

        with closing(FilmReader(path, max_pixels=self._limits.pixels)) as reader:
            frames = reader.info.frames
            check_memory(_BYTES * reader.info.height * reader.info.width)
        if frames > self._limits.film_frames:
            raise VideoError(f"{frames} frames; this server takes {self._limits.film_frames}")
        return frames or None

    def add(self, source: Path, film: Film, total: int | None) -> Future[None]:
        """Has a film made; the future ends with it."""
        film.total = total
        making = begin(self._pool, self._make, source, film)
        self._held[film.id] = film
        failed = [each.id for each in self._held.values() if each.state is State.FAILED]
        for id in failed[:-_REPORTS]:
            del self._held[id]
        return making

    def get(self, id: str) -> Film:
        """Returns a film; raises Refusal, 404, for one that is not here."""
        if id not in self._held:
            raise Refusal(404, "no such film here (any more)")
        return self._held[id]

    def drop(self, film: Film) -> None:
        """Stops a film, and forgets it and its files."""
        self._held.pop(film.id, None)
        film.stop.set()
        if film.state is not State.RUNNING:
            shutil.rmtree(film.folder, ignore_errors=True)

    def stop(self) -> None:
        """Stops all films."""
        for film in list(self._held.values()):
            film.stop.set()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def close(self) -> None:
        """Stops all films, and waits for the one that runs."""
        self.stop()
        self._pool.shutdown(wait=True)

    def _fetched(self) -> list[Film]:
        """Returns the films that may make way, the oldest first: they are made in turn."""
        return [film for film in self._held.values() if film.state is State.DONE and film.fetched]

    def _make(self, source: Path, film: Film) -> None:
        from dmphn_jax.inference.films import FilmOptions, run_films
        from dmphn_jax.inference.jobs import Job

        if film.stop.is_set():
            return
        film.begin()
        limits = self._limits
        try:
            (result,) = run_films(
                [Job(str(source), str(film.output), film=True)],
                lambda images: self._submit(film, images),
                FilmOptions(max_pixels=limits.pixels),
                model={},
                devices=len(self._engine.deblurrer.devices),
                progress=lambda name, done, total: _Progress(film, limits, self._on_frames),
            )
            film.end(*_told(result, film, source))
        except BaseException as error:
            film.end(one_line(error))
            raise
        finally:
            source.unlink(missing_ok=True)
            if film.stop.is_set() or film.state is State.FAILED:
                shutil.rmtree(film.folder, ignore_errors=True)

    def _submit(self, film: Film, images: np.ndarray) -> Future[np.ndarray]:
        if film.seconds > self._limits.film_seconds:
            raise _TooLongError(f"took longer than {self._limits.film_seconds:g} s")
        if film.stop.is_set():
            raise Stopped
        return self._engine.start(images, film.how, film.stop)


class _TooLongError(Exception):
    """A film that takes too long, or holds too many frames."""


class _Progress:
    """Tells a film how far it is; `inference.films.Progress`."""

    def __init__(self, film: Film, limits: Limits, on_frames: Callable[[int], None]) -> None:
        self._film, self._most, self._on_frames = film, limits.film_frames, on_frames

    def update(self, frames: int) -> None:
        """Counts frames."""
        self._film.done += frames
        self._on_frames(frames)
        if self._film.done > self._most:  # its header said less, or nothing
            raise _TooLongError(f"more than the {self._most} frames this server takes")

    def close(self) -> None:
        """Nothing to end."""


def _told(result: Result, film: Film, source: Path) -> tuple[str | None, tuple[str, ...]]:
    """Returns why a film failed, and the notes on it, in words without this machine's paths."""
    if film.stop.is_set():
        return "stopped", ()

    def clean(text: str) -> str:
        text = text.removeprefix(f"{shown(source)}: ").removeprefix(f"{shown(film.output)}: ")
        text = text.removeprefix(f"{_TooLongError.__name__}: ")
        return text.replace(shown(source), "the film").replace(shown(film.output), film.name)

    failure = clean(result.failure) if result.failure else None
    return failure, tuple(clean(note) for note in result.notes)
