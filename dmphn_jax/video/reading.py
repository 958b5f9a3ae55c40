"""Sharp video into blurry/sharp pairs the GoPro way: frames, scene cuts, windows, averages."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dmphn_jax.errors import UserError, one_line

_CUT_RATIO = 4.0  # a cut differs this much more than the frames before it: fast pans do not
_JUMP_RATIO = 1.7  # between one frame's time and two
_HD = 720  # from this height on, untagged YUV is BT.709, as players take it


class VideoError(UserError):
    """One video cannot be used; others can."""


class Frame(NamedTuple):
    """A frame as it is to be seen: uint8 (H, W, 3) RGB, its number and its time in seconds."""

    image: np.ndarray
    index: int
    time: float
    after_gap: bool  # frames before it are missing or could not be decoded


class Window(NamedTuple):
    """Successive frames of one shot; the sharp one is `frames[len(frames) // 2]`."""

    frames: list[Frame]

    @property
    def middle(self) -> Frame:
        """The frame that is the sharp image."""
        return self.frames[len(self.frames) // 2]


@dataclass
class Report:
    """What reading a video showed."""

    frames: int = 0
    cuts: int = 0
    damaged: int = 0  # packets or frames that could not be decoded
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
        try:
            import av
        except ImportError:
            raise UserError(
                "reading video needs PyAV: pip install 'dmphn_jax[video]' (or pip install av)"
            ) from None
        self._av, self._max_height = av, max_height
        self.path, self.report = path, Report()
        try:
            self._container = av.open(str(path))
        except (OSError, ValueError) as error:  # FFmpegError is one of the two
            raise VideoError(f"{path}: cannot be read as video ({_reason(error)})") from None
        if not self._container.streams.video:
            self._container.close()
            raise VideoError(f"{path}: holds no video stream")
        self._stream = self._container.streams.video[0]
        self._stream.thread_type = "AUTO"
        self._describe()

    def _describe(self) -> None:
        rate = float(self._stream.average_rate or 0)
        self.report.rate = rate
        duration = self._container.duration  # microseconds
        self.report.expected = self._stream.frames or int(rate * (duration or 0) / 1e6)
        if 0 < rate < 100:
            self.report.notes.append(
                f"{rate:g} frames/s; averages of so few show ghosts unless this is slow motion "
                "(GoPro's come from 240 frames/s)"
            )

    def __enter__(self) -> Video:
        return self

    def __exit__(self, *_: object) -> None:
        self._container.close()

    def __iter__(self) -> Iterator[Frame]:
        gap, broken, jumped = False, False, _Jumps()
        for packet in self._packets():
            try:
                decoded = packet.decode()
            except self._av.error.FFmpegError:
                self.report.damaged += 1
                broken = True
                continue
            for frame in decoded:
                if frame.is_corrupt:
                    self.report.damaged += 1
                    broken = True
                # Frames predicted from a damaged one are wrong too, and nothing marks them.
                if broken and (frame.is_corrupt or not frame.key_frame):
                    gap = True
                    continue
                if self.report.frames == 0:
                    self._look(frame)
                jump = jumped(frame.time) and not broken
                self.report.jumps += jump
                gap = gap or jump or broken
                image, index = self._upright(frame), self.report.frames
                self.report.frames += 1
                yield Frame(image, index, float(frame.time or 0.0), gap)
                gap = broken = False

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

    def _look(self, frame) -> None:
        if int(frame.color_trc or 0) in (16, 18):  # PQ and HLG
            self.report.notes.append("HDR; its values are used as they are stored")

    def _upright(self, frame) -> np.ndarray:
        options = {}
        if not frame.format.is_rgb:
            # swscale takes untagged video for BT.601 of limited range.
            if int(frame.colorspace) == 2 and frame.height >= _HD:
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


class CutDetector:
    """Tells where a new shot begins.

    A cut is where the mean difference of successive frames, shrunk to 32x18, exceeds
    `threshold` (a share of the full range; 0 finds none) and four times what it was lately:
    a fast pan differs much, but from frame to frame alike. Another frame size is a cut too.
    """

    def __init__(self, threshold: float):
        self._threshold = threshold
        self._last: np.ndarray | None = None
        self._size: tuple[int, ...] = ()
        self._lately: deque[float] = deque(maxlen=16)

    def __call__(self, image: np.ndarray) -> bool:
        """Returns whether `image`, uint8 (H, W, 3), begins a new shot."""
        import cv2

        small = cv2.resize(image, (32, 18), interpolation=cv2.INTER_AREA).astype(np.float32)
        last, self._last = self._last, small
        resized, self._size = image.shape != self._size, image.shape
        if last is None:
            return False
        if resized:
            self._lately.clear()
            return True
        difference = float(np.abs(small - last).mean()) / 255
        usual = float(np.median(self._lately)) if self._lately else 0.0
        self._lately.append(difference)
        return bool(self._threshold) and difference > max(self._threshold, _CUT_RATIO * usual)


def windows(
    frames: Iterable[Frame],
    counts: Iterator[int],
    detector: CutDetector,
    report: Report,
    every: int | None = None,
) -> Iterator[Window]:
    """Cuts a video into windows of successive frames; holds no more frames than a window.

    Args:
      frames: in order.
      counts: endless; the lengths of the windows.
      detector: no window reaches over a cut it finds, nor over a gap.
      report: counts the cuts.
      every: frames from one window's first to the next one's; None for windows that touch.
    """
    held: deque[Frame] = deque()
    skip, count = 0, next(counts)
    for frame in frames:
        cut = detector(frame.image)
        report.cuts += cut
        if cut or frame.after_gap:
            held.clear()
            skip = 0
        if skip:
            skip -= 1
            continue
        held.append(frame)
        while len(held) >= count:
            yield Window(list(itertools.islice(held, count)))
            step = every or count
            skip = max(0, step - len(held))
            for _ in range(min(step, len(held))):
                held.popleft()
            count = next(counts)


def average(images: list[np.ndarray], gamma: float = 1.0) -> np.ndarray:
    """Averages frames into a blurry image, rounded to nearest.

    Args:
      images: uint8 (H, W, 3), of one shape.
      gamma: of the camera's response. 1 averages the stored values: GoPro's `blur`, the paper's
        protocol. Otherwise stored = light^(1/gamma) is undone before the mean and applied after
        it; 2.2 is GoPro's `blur_gamma`, nearer to what a longer exposure records.
    """
    if gamma == 1:
        total = np.zeros(images[0].shape, np.uint32)
        for image in images:
            total += image
        return ((total + len(images) // 2) // len(images)).astype(np.uint8)
    light = ((np.arange(256) / 255) ** gamma).astype(np.float32)
    mean = np.zeros(images[0].shape, np.float32)
    for image in images:
        mean += light[image]
    mean /= len(images)
    return np.rint(255 * mean ** (1 / gamma)).clip(0, 255).astype(np.uint8)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or one_line(error)
