"""Video files to frames, upright and in order, and what is wrong with them."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from dmphn_jax.errors import UserError, one_line
from dmphn_jax.files import shown

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

_JUMP_RATIO = 1.7  # between one frame's time and two
_SLACK = 0.05  # of a length, by which headers are wrong without a fault; and two frames
# Containers, and bare streams, by FFmpeg's names. Its scripts (concat, dash, hls, sdp, ...) name
# other files and addresses, which whoever wrote one would have this process open: none is here.
_FORMATS = (
    *("mov", "matroska", "avi", "mpegts", "mpeg", "mxf", "asf", "flv", "ogg", "nut", "dv", "ivf"),
    *("yuv4mpegpipe", "h264", "hevc", "av1", "obu", "m4v", "mpegvideo", "mjpeg"),
    *("gif", "apng", "png_pipe", "jpeg_pipe", "webp_pipe"),
)
HD = 720  # from this height on, untagged YUV is BT.709, as players take it


class VideoError(UserError):
    """One video cannot be used; others can."""


def open_film(path: Path) -> InputContainer:
    """Opens a film for reading: this file and no other, of a container that holds its frames.

    Every film that comes from outside is opened here.

    Raises:
      VideoError: it cannot be opened, or is none.
      UserError: PyAV is missing.
    """
    try:
        import av
    except ImportError:
        raise UserError(
            "video needs PyAV: pip install 'dmphn_jax[video]' (or pip install av)"
        ) from None
    with contextlib.suppress(OSError):  # FFmpeg says what is wrong
        if stat.S_ISFIFO(os.stat(path).st_mode):  # it would wait for a writer
            raise VideoError(f"{shown(path)}: not a regular file")
    allowed = {"format_whitelist": ",".join(_FORMATS), "protocol_whitelist": "file"}
    try:
        # Without its protocol a name like 12:30.mp4 is an address to FFmpeg.
        return av.open(f"file:{os.fspath(path)}", container_options=allowed)
    except (OSError, ValueError) as error:  # FFmpegError is one of the two
        not_allowed = getattr(error, "errno", None) == errno.EINVAL
        reason = "no container that is read here" if not_allowed else _reason(error)
        raise VideoError(f"{shown(path)}: cannot be read as video ({reason})") from None


class Frame(NamedTuple):
    """A frame as it is to be seen: uint8 (H, W, 3) RGB, its number and its time in seconds."""

    image: np.ndarray
    index: int
    time: float
    after_gap: bool  # frames before it are missing or could not be decoded


@dataclass
class Report:
    """What reading a video showed."""

    frames: int = 0
    cuts: int = 0
    damaged: int = 0  # packets or frames that could not be decoded
    missing: int = 0  # frames that the header promises after the file's end
    jumps: int = 0  # places where the time between frames shows that some are missing
    rate: float = 0.0  # frames per second as the file says; 0 if it does not
    expected: int = 0  # frames by the file's header; 0 if unknown
    notes: list[str] = field(default_factory=list)


class Video:
    """Reads a video's frames in order; holds one frame at a time.

    Rotation from the file's metadata is applied, so that frames are upright. Deeper pixels than
    8 bits are reduced to 8. `max_height` shrinks frames that are higher, in proportion.

    Raises:
      VideoError: the file holds no video that can be opened.
      UserError: PyAV is missing.
    """

    def __init__(self, path: Path, max_height: int | None = None):
        self._container = open_film(path)
        import av

        self._av, self._max_height = av, max_height
        self.report = Report()
        pictures = av.stream.Disposition.attached_pic
        found = self._container.streams.video
        moving = [stream for stream in found if not stream.disposition & pictures]
        if not moving:
            self._container.close()
            kind = "a still picture only (cover art), no film" if found else "no video stream"
            raise VideoError(f"{path}: holds {kind}")
        self._stream = moving[0]
        if self._stream.codec_context is None:
            self._container.close()
            raise VideoError(f"{path}: its video is of a kind that is not decoded here")
        self._stream.thread_type = "AUTO"
        # AVI stores no times; the order of decoding stands in, which is not that of B-frames.
        avi = self._container.format.name == "avi"
        self._timed = not (avi and self._stream.codec_context.has_b_frames)
        self._describe()

    def _describe(self) -> None:
        rate = float(self._stream.average_rate or 0)
        self.report.rate = rate
        duration = self._container.duration  # microseconds
        estimate = int(rate * (duration or 0) / 1e6)
        counted = self._stream.frames
        if counted and estimate and self._container.format.name != "avi":
            # An edit list leaves frames out. Of an AVI the duration is that of the file's bytes.
            counted = min(counted, estimate)
        self.report.expected, self._certain = counted or estimate, bool(counted)
        if 0 < rate < 100:
            self.report.notes.append(
                f"{rate:g} frames/s; averages of so few show ghosts unless this is slow motion "
                "(GoPro's come from 240 frames/s)"
            )

    def __enter__(self) -> Video:
        return self

    def __exit__(self, *_: object) -> None:
        self._container.close()

    @property
    def container(self) -> InputContainer:
        """The open file."""
        return self._container

    @property
    def stream(self) -> VideoStream:
        """The stream whose frames come: the first one that is no cover picture."""
        return self._stream

    @property
    def timed(self) -> bool:
        """Whether the frames' times can be trusted."""
        return self._timed

    def __iter__(self) -> Iterator[Frame]:
        for frame, gap in self.decoded():
            image, time = self._upright(frame), float(frame.time or 0.0)
            yield Frame(image, self.report.frames - 1, time, gap)

    def decoded(self) -> Iterator[tuple[VideoFrame, bool]]:
        """Yields PyAV's frames in order, as they are stored, and whether one follows a gap."""
        gap, broken, jumped, seen = False, False, _Jumps(), 0
        for decoded in self._packets_decoded():
            if decoded is None:
                self.report.damaged += 1
                broken = True
                continue
            for frame in decoded:
                seen += 1
                if frame.is_corrupt:
                    self.report.damaged += 1
                    broken = True
                # Frames predicted from a damaged one are wrong too, and nothing marks them.
                if broken and (frame.is_corrupt or not frame.key_frame):
                    gap = True
                    continue
                if self.report.frames == 0:
                    self._look(frame)
                jump = self._timed and jumped(frame.time) and not broken
                self.report.jumps += jump
                gap = gap or jump or broken
                self.report.frames += 1
                yield frame, gap
                gap = broken = False
        self._check_length(seen)

    def _packets_decoded(self) -> Iterator[list | None]:
        """Yields the frames of each packet; None where one is damaged."""
        for packet in self._packets():
            try:
                if not packet.is_corrupt:
                    yield packet.decode()
                    continue
                # Cut short by the file's end, say. A decoder fills in what is missing, and does
                # not mark the frame: it must not see the packet. Those before it come out first.
                yield self._stream.codec_context.decode(None)
                self._stream.codec_context.flush_buffers()
            except self._av.error.FFmpegError:
                pass
            yield None

    def _check_length(self, seen: int) -> None:
        """Notes how many of the frames that the header promises have not come."""
        missing = self.report.expected - seen
        if missing <= max(2, _SLACK * self.report.expected):
            return
        if self._certain:
            self.report.missing = missing
        else:  # a duration, which another stream may have stretched
            self.report.notes.append(
                f"{seen} frames, where its length says {self.report.expected}; it may be cut off"
            )

    def _packets(self) -> Iterator:
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
            except self._av.error.FFmpegError:  # the file ends amid a packet
                self.report.damaged += 1
                return
            if packet is None:
                return
            yield packet

    def _look(self, frame: VideoFrame) -> None:
        if int(frame.color_trc or 0) in (16, 18):  # PQ and HLG
            self.report.notes.append("HDR; its values are used as they are stored")

    def _upright(self, frame: VideoFrame) -> np.ndarray:
        options = {}
        if not frame.format.is_rgb:
            # swscale takes untagged video for BT.601 of limited range.
            if int(frame.colorspace) == 2 and frame.height >= HD:
                options["src_colorspace"] = "itu709"
            if int(frame.color_range) in (1, 2):
                options["src_color_range"] = int(frame.color_range)
        image = frame.to_ndarray(format="rgb24", **options)
        image = np.rot90(image, round(frame.rotation / 90) % 4)
        if self._max_height and image.shape[0] > self._max_height:
            import cv2

            width = max(1, round(image.shape[1] * self._max_height / image.shape[0]))
            size = (width, self._max_height)
            image = cv2.resize(np.ascontiguousarray(image), size, interpolation=cv2.INTER_AREA)
        return np.ascontiguousarray(image)


class _Jumps:
    """Tells by the frames' times where some are missing: averages want even spacing."""

    def __init__(self):
        self._last: float | None = None
        self._lately: deque[float] = deque(maxlen=16)

    def __call__(self, time: float | None) -> bool:
        last, self._last = self._last, time
        if last is None or time is None:
            return False
        usual = float(np.median(self._lately)) if self._lately else 0.0
        self._lately.append(time - last)
        return bool(usual) and not 0 < time - last < _JUMP_RATIO * usual


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or one_line(error)
