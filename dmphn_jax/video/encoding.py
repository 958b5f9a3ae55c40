"""Codecs of films, and which containers hold them."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dmphn_jax.errors import UserError
from dmphn_jax.files import shown

if TYPE_CHECKING:
    from av import VideoFormat

# Extension -> FFmpeg's name of the container, and the codecs it holds; the first is its default.
_CONTAINERS: dict[str, tuple[str, tuple[str, ...]]] = {
    ".mp4": ("mp4", ("h264", "h265", "av1", "vp9")),
    ".m4v": ("mp4", ("h264", "h265")),
    ".mov": ("mov", ("h264", "h265", "prores")),
    ".mkv": ("matroska", ("h264", "h265", "av1", "vp9", "ffv1", "prores")),
    ".webm": ("webm", ("vp9", "av1")),
    ".avi": ("avi", ("h264", "ffv1")),
}
WRITABLE = tuple(_CONTAINERS)
# Films that are read, and come out in the container given here.
_READ_AS = {
    **{extension: extension for extension in WRITABLE},
    **dict.fromkeys((".mts", ".m2ts", ".m2t", ".ts", ".mpg", ".mpeg", ".vob", ".mxf"), ".mkv"),
    **dict.fromkeys((".wmv", ".asf", ".flv", ".ogv", ".y4m", ".dv", ".ivf", ".nut"), ".mkv"),
    **dict.fromkeys((".3gp", ".3g2", ".f4v"), ".mp4"),
}
EXTENSIONS = tuple(_READ_AS)
IN_FOLDERS = tuple(extension for extension in EXTENSIONS if extension != ".ts")  # TypeScript's too


@dataclass(frozen=True)
class Codec:
    """An encoder of FFmpeg and how it is set.

    Attributes:
      encoder: FFmpeg's name.
      crf: the default of its constant quality, 0 the best; None for a codec without.
      worst: the largest.
      options: others.
      segment: container of a film's parts: holds any time base exactly.
    """

    encoder: str
    crf: int | None = None
    worst: int = 0
    options: dict[str, str] = field(default_factory=dict)
    segment: str = "nut"


CODECS = {
    "h264": Codec("libx264", 18, 51),
    "h265": Codec("libx265", 20, 51, {"x265-params": "log-level=none"}),
    "av1": Codec("libsvtav1", 24, 63, {"preset": "8"}),
    "vp9": Codec("libvpx-vp9", 24, 63, {"b": "0", "cpu-used": "4", "row-mt": "1"}),
    "ffv1": Codec("ffv1", options={"level": "3", "slices": "4"}),
    "prores": Codec("prores_ks", options={"profile": "hq"}, segment="mov"),
}


@dataclass(frozen=True)
class Encoding:
    """How a film is to be written.

    Attributes:
      codec: a name of `CODECS`; the container's usual one if None.
      crf: constant quality, 0 the best; the codec's usual one if None.
      ten_bit: 10 bits per channel (16 of RGB in FFV1), or 8; as the input has if None.
    """

    codec: str | None = None
    crf: int | None = None
    ten_bit: bool | None = None


@dataclass(frozen=True)
class Settled:
    """An `Encoding` with nothing left open."""

    codec: str
    crf: int | None
    pixel_format: str
    container: str

    @property
    def bits(self) -> int:
        """Per channel."""
        return _format(self.pixel_format).components[0].bits

    @property
    def rgb(self) -> bool:
        """Whether RGB is stored, not YUV."""
        return _format(self.pixel_format).is_rgb

    @property
    def options(self) -> dict[str, str]:
        """The encoder's."""
        os.environ.setdefault("SVT_LOG", "1")  # SVT-AV1 greets on stderr otherwise
        options = dict(CODECS[self.codec].options)
        if self.crf is not None:
            options["crf"] = str(self.crf)
        return options


def is_film(path: str | os.PathLike[str]) -> bool:
    """Tells by its name whether a file is a film."""
    return _extension(path) in _READ_AS


def film_name(name: str) -> str:
    """Returns what a film is called once written: its name, or with a container's that is."""
    stem, extension = os.path.splitext(name)
    return name if extension.lower() in _CONTAINERS else stem + _READ_AS[extension.lower()]


def check(output: str | os.PathLike[str], encoding: Encoding, *, deep: bool = False) -> str:
    """Returns the codec of a film to be written.

    Raises UserError for a container, codec or quality that do not go together.
    """
    extension = _extension(output)
    if extension not in _CONTAINERS:
        raise UserError(
            f"{shown(output)}: {extension or 'no extension'} is not written; "
            f"one of {', '.join(WRITABLE)}"
        )
    held = _CONTAINERS[extension][1]
    # Players decode 10-bit H.265 in hardware, 10-bit H.264 hardly any.
    usual = "h265" if deep and "h265" in held else held[0]
    name = encoding.codec or usual
    if name not in held:
        raise UserError(f"--codec {name}: {extension} holds {', '.join(held)}; name it .mkv")
    codec = CODECS[name]
    if encoding.crf is not None:
        if codec.crf is None:
            raise UserError(f"--crf: {name} has none; leave it out, or take h264, h265, av1, vp9")
        if not 0 <= encoding.crf <= codec.worst:
            raise UserError(f"--crf {encoding.crf}: 0 to {codec.worst} for {name}")
    return name


def settle(
    output: str | os.PathLike[str], encoding: Encoding, *, deep: bool, chroma: str
) -> Settled:
    """Fills in what `encoding` leaves open, for a film of frames of that depth and chroma.

    Raises UserError where things do not go together, or PyAV lacks the encoder.
    """
    import av

    deep = deep if encoding.ten_bit is None else encoding.ten_bit
    name = check(output, encoding, deep=deep)
    try:
        encoder = av.Codec(CODECS[name].encoder, "w")
    except av.codec.codec.UnknownCodecError:
        raise UserError(
            f"--codec {name}: this PyAV has no {CODECS[name].encoder}; take another"
        ) from None
    formats = [known.name for known in encoder.video_formats or ()]
    depth = "10le" if deep else ""
    wanted = [f"yuv{chroma}p{depth}", f"yuv420p{depth}", "yuv422p10le"]
    if name == "ffv1" and chroma == "rgb":  # a lossless codec: no other numbers, none left out
        wanted = ["gbrp16le" if deep else "bgr0"]
    fitting = [pixel_format for pixel_format in wanted if pixel_format in formats]
    if not fitting or (deep and _format(fitting[0]).components[0].bits == 8):
        raise UserError(f"--ten-bit: {name} is written with 8 bits here; take h265, av1 or ffv1")
    crf = CODECS[name].crf if encoding.crf is None else encoding.crf
    return Settled(name, crf, fitting[0], _CONTAINERS[_extension(output)][0])


def _format(name: str) -> VideoFormat:
    import av

    return av.VideoFormat(name)


def _extension(path: str | os.PathLike[str]) -> str:
    return os.path.splitext(os.fspath(path))[1].lower()
