"""Between YUV as films store it and RGB as networks take it, by the film's own matrix and range."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from dmphn_jax.video.reading import HD

if TYPE_CHECKING:
    from av import VideoFrame

# Numbers of ITU-T H.273, as FFmpeg and the containers use them.
_RGB, _BT709, _UNKNOWN, _SMPTE170M = 0, 1, 2, 6
_LIMITED, _FULL = 1, 2
_HDR_TRANSFERS = (16, 18)  # PQ and HLG


@dataclass(frozen=True)
class Colors:
    """How a film's numbers mean colours: ITU-T H.273 code points; 2 where the film does not say.

    Attributes:
      matrix: between RGB and YUV: 0 none, 1 BT.709, 5 and 6 BT.601, 9 BT.2020.
      full: whether 0 is black and the largest number white; else 16 and 235 are, of 8 bits.
      primaries: of the three lights.
      transfer: from light to number.
    """

    matrix: int = _BT709
    full: bool = False
    primaries: int = _BT709
    transfer: int = _BT709

    @property
    def hdr(self) -> bool:
        """Whether the transfer is PQ or HLG."""
        return self.transfer in _HDR_TRANSFERS

    def as_rgb(self) -> Colors:
        """Returns those of the same lights where RGB is stored."""
        return replace(self, matrix=_RGB, full=True)

    @classmethod
    def of(cls, frame: VideoFrame) -> Colors:
        """Reads a decoded frame's.

        An untagged matrix is taken as players take it, by the stored height; that of RGB is
        BT.709 of limited range once it becomes YUV.
        """
        matrix = int(frame.colorspace)
        is_rgb = frame.format.is_rgb
        if is_rgb or matrix == _RGB:
            matrix = _BT709
        elif matrix not in (1, 4, 5, 6, 7, 9):  # those that swscale knows
            matrix = _BT709 if frame.height >= HD else _SMPTE170M
        full = not is_rgb and (int(frame.color_range) == _FULL or "yuvj" in frame.format.name)
        return cls(matrix, full, int(frame.color_primaries), int(frame.color_trc))


class Converter:
    """Converts frames one way; one thread at a time. It keeps its tables from frame to frame."""

    def __init__(self, colors: Colors) -> None:
        from av.video.reformatter import Interpolation as Flag
        from av.video.reformatter import VideoReformatter

        self._colors = colors
        self._range = _FULL if colors.full else _LIMITED
        self._reformatter = VideoReformatter()
        # Accurate rounding and whole chroma: a flat colour comes back within one level of 8 bits.
        self._flags = Flag.BICUBIC | Flag.ACCURATE_RND | Flag.FULL_CHR_H_INT | Flag.FULL_CHR_H_INP

    def to_rgb(self, frame: VideoFrame, *, deep: bool) -> np.ndarray:
        """Returns a decoded frame as RGB (H, W, 3): uint16 if `deep`, else uint8; as stored."""
        stored_range = _FULL if frame.format.is_rgb else self._range
        if not frame.format.is_rgb:
            frame.colorspace = self._colors.matrix
        rgb = self._reformatter.reformat(
            frame,
            format="rgb48le" if deep else "rgb24",
            interpolation=self._flags,
            src_color_range=stored_range,
            dst_color_range=_FULL,
        )
        array: np.ndarray = rgb.to_ndarray()
        return array

    def from_rgb(self, pixels: np.ndarray, pixel_format: str) -> VideoFrame:
        """Returns RGB pixels, (H, W, 3) uint8 or uint16, as a tagged frame for an encoder."""
        from av import VideoFrame

        kind = "rgb48le" if pixels.dtype == np.uint16 else "rgb24"
        frame = VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format=kind)
        frame.colorspace = self._colors.matrix
        result = self._reformatter.reformat(
            frame,
            format=pixel_format,
            interpolation=self._flags,
            src_color_range=_FULL,
            dst_color_range=self._range,
        )
        result.colorspace, result.color_range = self._colors.matrix, self._range
        result.color_primaries, result.color_trc = self._colors.primaries, self._colors.transfer
        return result

    def tag(self, target: object) -> None:
        """Writes the colours' code points on an encoder or a stream."""
        for name, value in (
            ("colorspace", self._colors.matrix),
            ("color_range", self._range),
            ("color_primaries", self._colors.primaries),
            ("color_trc", self._colors.transfer),
        ):
            setattr(target, name, value)
