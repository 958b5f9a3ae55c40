"""A film as a network takes it: upright RGB frames, each with its time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from dmphn_jax.errors import one_line
from dmphn_jax.files import shown
from dmphn_jax.video.colors import Colors, Converter
from dmphn_jax.video.reading import Video, VideoError

if TYPE_CHECKING:
    from av import VideoFrame

_USUAL_RATE = Fraction(25)  # where a file says none
_ENOUGH = 0.9  # of the frames a length says
NO_ALPHA = "its transparency is not kept"
_MOST = 1000  # frames per second that are believed: of a file that says none FFmpeg tells its clock


class FilmFrame(NamedTuple):
    """A frame as it is to be seen: (H, W, 3) RGB, uint8 or uint16, and its time in ticks."""

    pixels: np.ndarray
    time: int


@dataclass(frozen=True)
class FilmInfo:
    """What holds for every frame of a film.

    Attributes:
      height, width: of the frames, upright.
      bits: per channel, as stored.
      time_base: seconds per tick of the frames' times.
      rate: frames per second, the mean where it varies.
      frames: how many the file promises; 0 if it does not.
      colors: what the stored numbers mean.
      chroma: "420", "422" or "444": how the colour difference is stored; "rgb" where none is.
      aspect: width to height of a pixel, upright.
    """

    height: int
    width: int
    bits: int
    time_base: Fraction
    rate: Fraction
    frames: int
    colors: Colors = field(default_factory=Colors)
    chroma: str = "420"
    aspect: Fraction = Fraction(1)

    @property
    def deep(self) -> bool:
        """Whether frames are uint16 unless asked for otherwise: those of more than 8 bits."""
        return self.bits > 8

    @property
    def step(self) -> int:
        """Ticks from one frame to the next, at the mean rate."""
        return max(1, round(1 / (self.rate * self.time_base)))


class Source(Protocol):
    """Where the frames of a film come from."""

    info: FilmInfo

    def frames(self, skip: int, stop: int | None, *, deep: bool) -> Iterator[FilmFrame]:
        """Yields the frames from number `skip` on, before `stop`, once; uint16 if `deep`."""

    def notes(self) -> list[str]:
        """Tells, after the last frame, what a person should know."""

    def close(self) -> None:
        """Closes the file."""


class FilmReader:
    """Reads a film file.

    Rotation by quarter turns is applied. Times strictly increase: a frame that has no time, or
    not a later one, comes a tick or a frame's length after the one before it.

    Raises VideoError, one line: no film, no frame, or frames of more than `max_pixels`.
    """

    def __init__(self, path: Path, *, max_pixels: int) -> None:
        self._path = path
        self._video = Video(path)
        try:
            stream = self._video.stream
            self._check_size(stream.width, stream.height, max_pixels)
            # Frames may be larger than the file says, and FFmpeg takes memory for them before they
            # are seen here. It counts the blocks at the border whole.
            most = max_pixels + 64 * (stream.width + stream.height) + 4096
            stream.codec_context.options = {"max_pixels": str(most)}
            self._stream = self._video.decoded()
            self._first = self._decode()
            if self._first is None:
                raise VideoError(f"{shown(path)}: holds no frame that can be decoded")
            self._turns = round(self._first.rotation / 90) % 4
            self.info = self._describe(self._first)
            self._check_size(self.info.width, self.info.height, max_pixels)
        except BaseException:
            self.close()
            raise
        self._converter = Converter(self.info.colors)
        self._ended = False

    def close(self) -> None:
        """Closes the file."""
        self._video.container.close()

    def frames(
        self, skip: int = 0, stop: int | None = None, *, deep: bool | None = None
    ) -> Iterator[FilmFrame]:
        """Yields the frames from number `skip` on, before `stop`; those before are only decoded.

        Their depth is the film's if `deep` is None; an 8-bit film has finer colours than 8-bit RGB.
        """
        deep = self.info.deep if deep is None else deep
        frame, number, last = self._first, 0, None
        size = (frame.width, frame.height) if frame else None
        self._first = None
        while frame is not None and (stop is None or number < stop):
            last = self._time(frame, number, last)
            if (frame.width, frame.height) != size:
                raise VideoError(
                    f"{shown(self._path)}: its frames change size at frame {number}; "
                    "cut the film there"
                )
            if number >= skip:
                pixels = self._converter.to_rgb(frame, deep=deep)
                yield FilmFrame(np.rot90(pixels, self._turns), last)
            frame, number = self._decode(), number + 1
        self._ended = frame is None

    def notes(self) -> list[str]:
        """Tells, after the last frame, what a person should know."""
        report, notes = self._video.report, []
        if report.damaged:
            notes.append(f"damaged in {report.damaged} places; frames there are left out")
        if report.missing:
            notes.append(f"cut off: {report.missing} of {report.expected} frames are missing")
        elif self._ended and report.frames < _ENOUGH * self.info.frames - 2:
            notes.append(
                f"{report.frames} frames, where its length says {self.info.frames}; it may be cut "
                "off"
            )
        if self._alpha:
            notes.append(NO_ALPHA)
        if self._interlaced:
            notes.append("interlaced; take it apart (deinterlace) first for the best result")
        return notes

    def _check_size(self, width: int, height: int, most: int) -> None:
        if height * width > most:
            raise VideoError(
                f"{shown(self._path)}: {width}x{height} is more than {most} pixels; --max-pixels "
                "allows more"
            )

    def _decode(self) -> VideoFrame | None:
        frame, _ = next(self._stream, (None, False))
        return frame

    def _describe(self, frame: VideoFrame) -> FilmInfo:
        stream = self._video.stream
        rates = (stream.average_rate, stream.guessed_rate, stream.base_rate, _USUAL_RATE)
        rate = next(rate for rate in rates if rate and 0 < rate < _MOST)
        length = Fraction(self._video.container.duration or 0, 1_000_000)
        believed = rate == stream.average_rate
        time_base = stream.time_base if self._video.timed else None
        height, width = frame.height, frame.width
        aspect = stream.sample_aspect_ratio or Fraction(1)
        if self._turns % 2:
            height, width, aspect = width, height, 1 / aspect
        parts = frame.format.components
        chroma = "rgb" if frame.format.is_rgb else "420"
        if not frame.format.is_rgb and len(parts) >= 3:
            across, down = frame.width > parts[1].width, frame.height > parts[1].height
            chroma = "420" if down else "422" if across else "444"
        self._interlaced = frame.interlaced_frame
        # VP9's decoder passes the alpha over, the container tells of it.
        separate = stream.metadata.get("alpha_mode") == "1"
        self._alpha = separate or any(part.is_alpha for part in parts)
        return FilmInfo(
            height=height,
            width=width,
            bits=max(part.bits for part in parts),
            time_base=time_base or 1 / rate,
            rate=rate,
            frames=self._video.report.expected if believed else int(length * rate),
            colors=Colors.of(frame),
            chroma=chroma,
            aspect=aspect,
        )

    def _time(self, frame: VideoFrame, number: int, last: int | None) -> int:
        """Returns a frame's time in ticks."""
        time = frame.pts if self._video.timed else number
        if time is None:
            return 0 if last is None else last + self.info.step
        return time if last is None or time > last else last + 1


def why_not(error: Exception) -> str:
    """Returns FFmpeg's reason without its numbers."""
    return getattr(error, "strerror", None) or one_line(error)
