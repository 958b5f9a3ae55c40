"""A film written in parts that outlast the process: what is done is never done again."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from dmphn_jax.errors import UserError
from dmphn_jax.files import shown, write_atomically
from dmphn_jax.video.colors import Colors, Converter
from dmphn_jax.video.encoding import CODECS, Settled
from dmphn_jax.video.film import FilmFrame, FilmInfo, why_not
from dmphn_jax.video.reading import VideoError

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.packet import Packet
    from av.video.stream import VideoStream

_PIXELS = 220_000_000  # of a part: 240 frames of 720p, 27 of 4K
_LEAST, _MOST = 24, 250  # frames of a part; the most is x264's distance of key frames


class Part(NamedTuple):
    """A finished part: its file, its frames' times in ticks, and frames that its codec reorders."""

    path: Path
    times: list[int]
    delay: int


def part_length(info: FilmInfo, multiple: int) -> int:
    """Returns the frames of a part: about as much work each, a multiple of the batch."""
    frames = min(_MOST, max(_LEAST, _PIXELS // (info.height * info.width)))
    return -(-frames // multiple) * multiple


class Parts:
    """The finished parts of one film, in a hidden folder beside it.

    A part is a video file and a small JSON file, which is written last: a part without one is
    not finished. `film.json` tells what they are parts of; parts of something else are removed.

    Attributes:
      changed: what differs from the run that left parts here, if they could not be used.
    """

    changed: list[str]

    def __init__(self, output: str | os.PathLike[str], identity: dict[str, str]) -> None:
        """Takes the folder for this process.

        Raises UserError if another process is at work in it, OSError if it cannot be made.
        """
        output = Path(os.path.abspath(output))
        self.folder = output.with_name(f".{output.name}.parts")
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = open(self.folder / "lock", "w")  # noqa: SIM115
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise UserError(f"{shown(output)}: another process is making it") from None
        except OSError:  # some network file systems have no locks
            pass
        self.changed = self._settle(identity)

    def finished(self) -> list[Part]:
        """Returns the finished parts, in order."""
        parts: list[Part] = []
        while True:
            note = self._note(len(parts))
            try:
                entry = json.loads(note.read_text())
                part = Part(note.with_suffix("." + entry["suffix"]), entry["times"], entry["delay"])
            except (OSError, ValueError, KeyError):
                return parts
            if not part.path.is_file():
                return parts
            parts.append(part)

    @property
    def complete(self) -> bool:
        """Whether the finished parts are all."""
        return (self.folder / "complete").exists()

    def set_complete(self) -> None:
        """Notes that no part is missing."""
        write_atomically(self.folder / "complete", b"")

    def new_path(self, number: int, suffix: str) -> Path:
        """Returns where to write a part."""
        return self._note(number).with_suffix("." + suffix)

    def add(self, number: int, part: Part) -> None:
        """Notes that a part is finished."""
        entry = {"suffix": part.path.suffix[1:], "times": part.times, "delay": part.delay}
        write_atomically(self._note(number), json.dumps(entry).encode())

    def remove(self) -> None:
        """Removes the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def close(self) -> None:
        """Lets other processes at it."""
        self._lock.close()

    def _note(self, number: int) -> Path:
        return self.folder / f"{number:06}.json"

    def _settle(self, identity: dict[str, str]) -> list[str]:
        """Removes the parts of another film; returns how that one differs."""
        place = self.folder / "film.json"
        known: dict[str, str] = {}
        with contextlib.suppress(OSError, ValueError):
            known = dict(json.loads(place.read_text()))
        if known == identity:
            return []
        for path in self.folder.iterdir():
            if path.name != "lock":
                path.unlink()
        write_atomically(place, json.dumps(identity).encode())
        return [name for name in identity if known and known.get(name) != identity[name]]


class PartWriter:
    """Encodes frames into parts of `length` frames, from the first one that is missing."""

    def __init__(
        self,
        parts: Parts,
        settled: Settled,
        info: FilmInfo,
        length: int,
        name: str,
    ) -> None:
        self._parts, self._settled, self._info, self._length = parts, settled, info, length
        self._name = name
        self._number = len(parts.finished())
        self._converter = Converter(written_colors(info, settled))
        self._open: tuple[Path, OutputContainer, VideoStream] | None = None
        self._times: list[int] = []
        self._order: list[int] = []  # the frames' times in the order of their packets
        self._last: int | None = None

    def write(self, frames: Iterable[FilmFrame]) -> int:
        """Encodes frames; returns how many. Raises VideoError, one line, if that cannot be."""
        import av

        count = 0
        try:
            for frame in frames:
                self._encode(frame)
                count += 1
                if len(self._times) == self._length:
                    self._finish_part()
        except av.error.FFmpegError as error:
            raise VideoError(
                f"{self._name}: cannot be encoded as {self._settled.codec} ({why_not(error)})"
            ) from None
        return count

    def finish(self) -> None:
        """Ends the last part and notes that the film is complete."""
        if self._times:
            self._finish_part()
        self._parts.set_complete()

    def close(self) -> None:
        """Drops a part that is not finished."""
        if self._open:
            path, container, _ = self._open
            self._open = None
            with contextlib.suppress(Exception):  # a full disk, say, which is told elsewhere
                container.close()
            path.unlink(missing_ok=True)

    def _encode(self, frame: FilmFrame) -> None:
        self._check_even_times(frame.time)
        if self._open is None:
            self._open = self._start_part()
        stream = self._open[2]
        pixels = frame.pixels
        missing = (stream.height - pixels.shape[0], stream.width - pixels.shape[1])
        if any(missing):
            pixels = np.pad(pixels, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")
        picture = self._converter.from_rgb(pixels, self._settled.pixel_format)
        self._times.append(frame.time)
        picture.pts, picture.time_base = frame.time - self._times[0], self._info.time_base
        self._mux(stream.encode(picture))

    def _mux(self, packets: list[Packet]) -> None:
        assert self._open is not None
        for packet in packets:
            self._order.append(packet.pts)
            self._open[1].mux_one(packet)

    def _start_part(self) -> tuple[Path, OutputContainer, VideoStream]:
        import av

        codec, info = CODECS[self._settled.codec], self._info
        path = self._parts.new_path(self._number, codec.segment)
        container = av.open(str(path), "w", format=codec.segment)
        stream = container.add_stream(codec.encoder, rate=info.rate, options=self._settled.options)
        stream.height, stream.width = written_size(info, self._settled)
        stream.pix_fmt = self._settled.pixel_format
        stream.time_base = info.time_base
        stream.codec_context.time_base = info.time_base
        stream.codec_context.sample_aspect_ratio = info.aspect
        if self._settled.container == "avi":
            stream.codec_context.max_b_frames = 0  # AVI stores no times: frames must be in order
        self._converter.tag(stream.codec_context)
        return path, container, stream

    def _finish_part(self) -> None:
        assert self._open is not None
        path, container, stream = self._open
        self._mux(stream.encode())
        container.close()
        self._open = None
        self._parts.add(self._number, Part(path, self._times, _delay(self._order)))
        self._number, self._times, self._order = self._number + 1, [], []

    def _check_even_times(self, time: int) -> None:
        last, self._last = self._last, time
        if self._settled.container == "avi" and last is not None:
            gap = (time - last) / self._info.step
            if not 0.5 < gap < 1.5:
                raise VideoError(
                    f"{self._name}: its frames come at varying times, which .avi cannot keep; "
                    "name the output .mkv or .mp4"
                )


def _delay(order: list[int]) -> int:
    """Returns by how many places a packet comes after that of a frame shown later, at most."""
    rank = {time: place for place, time in enumerate(sorted(order))}
    return max(place - rank[time] for place, time in enumerate(order))


def written_colors(info: FilmInfo, settled: Settled) -> Colors:
    """Returns what the numbers of the film as written mean."""
    return info.colors.as_rgb() if settled.rgb else info.colors


def written_size(info: FilmInfo, settled: Settled) -> tuple[int, int]:
    """Returns (height, width) of the film as written: even where codec and players need it."""
    if settled.codec in ("ffv1", "vp9") or "444" in settled.pixel_format:
        return info.height, info.width
    return info.height + info.height % 2, info.width + info.width % 2
