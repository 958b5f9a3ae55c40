"""Films: decoding, computing and encoding at once, in parts that outlast an interrupt."""

from __future__ import annotations

import collections
import functools
import itertools
import os
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from dmphn_jax.errors import UserError
from dmphn_jax.files import shown
from dmphn_jax.images import DEFAULT_MAX_PIXELS, DEFAULT_QUALITY, WRITABLE, Image, write_image
from dmphn_jax.inference.clock import CLOCK
from dmphn_jax.inference.computing import PER_DEVICE, Computing
from dmphn_jax.inference.frame_folder import FrameFolder
from dmphn_jax.inference.jobs import Job
from dmphn_jax.inference.pipeline import Result, default_workers, failure
from dmphn_jax.inference.single_frames import SingleFrames
from dmphn_jax.threads import map_ahead
from dmphn_jax.video.encoding import Encoding, Settled, settle
from dmphn_jax.video.film import FilmFrame, FilmInfo, FilmReader, Source, why_not
from dmphn_jax.video.parts import Part, Parts, PartWriter, part_length, written_size
from dmphn_jax.video.reading import VideoError

_AHEAD = 2  # batches decoded, and batches encoded, that may wait
_BATCH_PIXELS = 1_000_000  # of a device's share of a batch, where several frames fit into them
_MOST_FRAMES = 8


@dataclass(frozen=True)
class FilmOptions:
    """What is to be made of films.

    Attributes:
      encoding: codec, quality and depth.
      first, stop: the numbers of the first frame, and of the first one after; from 0, None: all.
      rate: frames per second of a film made from pictures.
      max_pixels: larger frames are refused.
      quality: of single frames in JPEG and WebP.
      overwrite: replace single frames that exist.
    """

    encoding: Encoding = field(default_factory=Encoding)
    first: int = 0
    stop: int | None = None
    rate: Fraction = Fraction(24)
    max_pixels: int = DEFAULT_MAX_PIXELS
    quality: int = DEFAULT_QUALITY
    overwrite: bool = False

    @property
    def cut(self) -> bool:
        """Whether some frames are not wanted."""
        return self.first > 0 or self.stop is not None

    def includes(self, number: int) -> bool:
        """Whether a frame is wanted."""
        return self.first <= number and (self.stop is None or number < self.stop)


class Progress(Protocol):
    """A bar; `tqdm` is one."""

    def update(self, frames: int) -> object:
        """Counts frames."""

    def close(self) -> object:
        """Ends the bar."""


class NewProgress(Protocol):
    """Starts a bar."""

    def __call__(self, name: str, done: int, total: int | None) -> Progress:
        """Starts the bar of a film of `total` frames, None if unknown, of which some are done."""


Submit = Callable[[np.ndarray], Computing]


class _Batch(NamedTuple):
    """Frames of one size, uint8 or uint16 (B, H, W, 3); the last one may stand for missing ones."""

    pixels: np.ndarray
    times: list[int]


def run_films(
    jobs: Iterable[Job],
    submit: Submit,
    options: FilmOptions,
    *,
    model: dict[str, str],
    devices: int,
    progress: NewProgress,
) -> Generator[Result, None, None]:
    """Makes one film after the other and yields a Result for each; a film that fails is one.

    An interrupt leaves the finished parts of the film at hand, and the same job goes on there.

    Args:
      jobs: source: a film, or a folder of pictures; output: a film, or a folder for single frames
        (`Job.frames` tells their extension).
      submit: `Deblurrer.submit`, or what does as it does; it and `result` are called in this
        thread.
      options: what is to be made.
      model: what the frames depend on beside the source, for telling whether parts are of use.
      devices: that share a batch.
      progress: starts a film's bar.
    """
    for job in jobs:
        try:
            notes = _Film(job, submit, options, model, devices, progress).make()
            yield Result(job, notes=tuple(f"{shown(job.source)}: {note}" for note in notes))
        except Exception as error:
            yield Result(job, failure(job, _as_user_error(job, error)))


class _Film:
    """One film on its way."""

    def __init__(
        self,
        job: Job,
        submit: Submit,
        options: FilmOptions,
        model: dict[str, str],
        devices: int,
        progress: NewProgress,
    ) -> None:
        self._job, self._submit, self._options, self._model = job, submit, options, model
        self._devices, self._progress = devices, progress

    def make(self) -> list[str]:
        """Makes the film or its frames; returns notes."""
        if self._job.problem:
            raise UserError(f"{shown(self._job.source)}: {self._job.problem}")
        source = _open(self._job, self._options)
        with closing(source):
            return self._frames(source) if self._job.frames else self._film(source)

    def _film(self, source: Source) -> list[str]:
        info, output = source.info, self._job.output
        settled = settle(output, self._options.encoding, deep=info.deep, chroma=info.chroma)
        parts = Parts(output, self._identity(settled))
        with closing(parts):
            notes = _beginning(parts, info, settled, self._options.encoding)
            try:
                if not parts.complete:
                    self._write_parts(source, parts, settled)
            finally:
                finished = parts.finished()
                if not finished:
                    parts.remove()
            if not finished:
                raise VideoError(f"{shown(self._job.source)}: no frame in {self._range}")
            notes += source.notes() + self._join(finished, settled, info)
            parts.remove()
        return notes

    def _write_parts(self, source: Source, parts: Parts, settled: Settled) -> None:
        info = source.info
        size = _batch_size(info, self._devices)
        length = part_length(info, size)
        done = sum(len(part.times) for part in parts.finished())
        writer = PartWriter(parts, settled, info, length, shown(self._job.source))
        with closing(writer), closing(self._start(info, done)) as bar:
            # Rounded once, to what is written.
            deep = info.deep or settled.bits > 8
            frames = source.frames(self._options.first + done, self._options.stop, deep=deep)
            computed = self._computed(frames, size)
            write = functools.partial(CLOCK.encode.of, writer.write)
            written = map_ahead(write, computed, threads=1, ahead=_AHEAD)
            with closing(computed), closing(written):
                for count in written:
                    bar.update(count)
            writer.finish()

    def _frames(self, source: Source) -> list[str]:
        """Writes single frames; those that are there already are computed only with `overwrite`."""
        options, extension = self._options, self._job.frames
        assert extension is not None
        single = SingleFrames(
            self._job.output,
            extension,
            self._frames_identity(extension),
            overwrite=options.overwrite,
        )
        ten_bit = options.encoding.ten_bit
        deep = source.info.deep if ten_bit is None else ten_bit
        numbers = single.missing(options.first)
        first = next(single.missing(options.first))
        wanted = (
            frame
            for number, frame in enumerate(source.frames(first, options.stop, deep=deep), first)
            if number not in single.kept
        )

        def write(item: tuple[int, FilmFrame]) -> tuple[int, tuple[str, ...]]:
            number, frame = item
            path, image = single.path(number), Image(frame.pixels)
            with CLOCK.encode:
                return number, write_image(path, image, quality=options.quality)

        def begun(frames: Iterable[FilmFrame]) -> Iterator[tuple[int, FilmFrame]]:
            for pair in zip(numbers, frames):
                single.begin()
                yield pair

        notes: dict[str, None] = {}
        workers = default_workers()
        done = sum(options.includes(number) for number in single.kept)
        with closing(self._start(source.info, done)) as bar:
            computed = self._computed(wanted, _batch_size(source.info, self._devices))
            frames = begun(itertools.chain.from_iterable(computed))
            written = map_ahead(write, frames, threads=workers, ahead=2 * workers)
            with closing(computed), closing(written):
                for number, lost in written:
                    single.written(number)
                    notes |= dict.fromkeys(lost)
                    bar.update(1)
                    done += 1
        if not done:
            raise VideoError(f"{shown(self._job.source)}: no frame in {self._range}")
        return [*notes, *source.notes()]

    def _computed(
        self, frames: Iterable[FilmFrame], size: int
    ) -> Generator[list[FilmFrame], None, None]:
        """Yields the network's frames in order, batch by batch."""
        batches = _batches(frames, size)
        endless = map_ahead(
            lambda _: CLOCK.decode.of(next, batches, None),
            itertools.repeat(None),
            threads=1,
            ahead=_AHEAD,
        )
        started: collections.deque[tuple[Computing, list[int]]] = collections.deque()

        def take() -> list[FilmFrame]:
            computing, times = started.popleft()
            return [FilmFrame(*pair) for pair in zip(computing.result(), times)]

        with closing(endless):
            for batch in endless:
                if batch is None:
                    break
                started.append((self._submit(batch.pixels), batch.times))
                if len(started) == PER_DEVICE:  # a batch is for all devices
                    yield take()
            while started:
                yield take()

    def _join(self, parts: list[Part], settled: Settled, info: FilmInfo) -> list[str]:
        from dmphn_jax.video.joining import join

        film = None if os.path.isdir(self._job.source) else Path(self._job.source)
        cut = self._options.cut
        return join(parts, self._job.output, settled, info, source=film, cut=cut)

    def _start(self, info: FilmInfo, done: int) -> Progress:
        ends = [end for end in (info.frames, self._options.stop) if end]
        total = max(0, min(ends) - self._options.first) if ends else None
        return self._progress(os.path.basename(self._job.source), done, total)

    @property
    def _range(self) -> str:
        stop = "" if self._options.stop is None else self._options.stop
        return f"--frames {self._options.first}:{stop}"

    def _identity(self, settled: Settled) -> dict[str, str]:
        """What the parts depend on, in words a person knows."""
        identity = {
            **self._origin(),
            "--frames": self._range,
            **{f"the {key}": str(value) for key, value in asdict(settled).items()},
        }
        if os.path.isdir(self._job.source):
            identity["--rate"] = str(self._options.rate)
        return identity

    def _frames_identity(self, extension: str) -> dict[str, str]:
        """What single frames depend on; not on which of them were asked for."""
        lossy = extension in (WRITABLE["JPEG"], WRITABLE["WEBP"])
        identity = {**self._origin(), "--ten-bit": str(self._options.encoding.ten_bit)}
        return identity | ({"--quality": str(self._options.quality)} if lossy else {})

    def _origin(self) -> dict[str, str]:
        status = os.stat(self._job.source)
        return {
            "the input": os.path.realpath(self._job.source),
            "the input's size": str(status.st_size),
            "the input's time of change": str(status.st_mtime_ns),
            **self._model,
        }


def _open(job: Job, options: FilmOptions) -> Source:
    if not os.path.isdir(job.source):
        return FilmReader(Path(job.source), max_pixels=options.max_pixels)
    return FrameFolder(job.source, options.rate, max_pixels=options.max_pixels)


def _beginning(parts: Parts, info: FilmInfo, settled: Settled, wanted: Encoding) -> list[str]:
    """Returns notes on what shows before the first frame is computed."""
    notes = []
    if parts.changed:
        notes.append(
            f"started again, not where an earlier run stopped: {parts.changed[0]} is another now"
        )
    height, width = written_size(info, settled)
    if (height, width) != (info.height, info.width):
        notes.append(
            f"{info.width}x{info.height} is odd: written as {width}x{height}, its edge repeated; "
            "--codec vp9 or ffv1 keeps it"
        )
    if settled.bits < info.bits and wanted.ten_bit is not False:
        notes.append(f"{info.bits} bits per channel become {settled.bits}")
    if info.colors.hdr:
        notes.append("HDR; its values are used as they are stored")
    return notes


def _batch_size(info: FilmInfo, devices: int) -> int:
    """Returns how many frames are computed at once: small ones keep no device busy alone."""
    return devices * max(1, min(_MOST_FRAMES, _BATCH_PIXELS // (info.height * info.width)))


def _batches(frames: Iterable[FilmFrame], size: int) -> Iterator[_Batch]:
    """Yields batches of `size` frames; the last one is filled up: another size would compile."""
    iterator = iter(frames)
    while group := list(itertools.islice(iterator, size)):
        images = [frame.pixels for frame in group]
        images += images[-1:] * (size - len(images))
        yield _Batch(np.stack(images), [frame.time for frame in group])


def _as_user_error(job: Job, error: Exception) -> Exception:
    """Gives FFmpeg's and the system's errors the words of a person; others stay as they are."""
    if isinstance(error, OSError) and not isinstance(error, UserError):
        return UserError(f"{shown(job.output)}: cannot be written ({why_not(error)})")
    return error
