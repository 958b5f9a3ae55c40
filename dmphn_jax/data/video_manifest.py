"""What `dmphn make-pairs` was asked for, and the manifest of the pairs that it made."""

from __future__ import annotations

import dataclasses
import itertools
import json
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dmphn_jax.errors import UserError
from dmphn_jax.files import write_file

MANIFEST = "manifest.json"


@dataclasses.dataclass(frozen=True)
class PairOptions:
    """How pairs are made of a video.

    Attributes:
      frames: (least, most) successive frames averaged, drawn anew for each pair.
      odd: whether only odd numbers of frames are drawn: exactly centred blur.
      gamma: of the camera's response, 0.2 to 5; 1 averages the stored values.
      every: a pair every so many frames; None for windows that touch.
      max_pairs: at most so many pairs per video; None for all.
      max_height: higher frames are shrunk to this, in pixels; None for none.
      cut_threshold: change of the picture, 0 to 1, that may be a scene cut; 0 finds none.
      seed: draws the numbers of frames.

    Raises:
      UserError: a value out of its range; the line names the flag of `dmphn make-pairs`.
    """

    frames: tuple[int, int] = (7, 13)
    odd: bool = False
    gamma: float = 1.0
    every: int | None = None
    max_pairs: int | None = None
    max_height: int | None = None
    cut_threshold: float = 0.08
    seed: int = 0

    def __post_init__(self) -> None:
        low, high = self.frames
        if not 2 <= low <= high:
            raise UserError(f"--frames {low}-{high}: needs at least 2, and the lesser number first")
        if self.odd and low == high and low % 2 == 0:
            raise UserError(f"--odd: there is no odd number in --frames {low}")
        if not 0.2 <= self.gamma <= 5:
            raise UserError(f"--gamma {self.gamma:g}: must be between 0.2 and 5")
        if not 0 <= self.cut_threshold <= 1:
            raise UserError(f"--cut-threshold {self.cut_threshold:g}: must be between 0 and 1")
        for name in ("every", "max_pairs", "max_height"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"--{name.replace('_', '-')} {value}: must be at least 1")

    def counts(self, name: str) -> Iterator[int]:
        """Yields windows' lengths without end; they depend on the seed and the video's name."""
        low, high = self.frames
        allowed = [n for n in range(low, high + 1) if n % 2 or not self.odd]
        rng = np.random.default_rng(
            [self.seed % 2**64, zlib.crc32(name.encode(errors="surrogateescape"))]
        )
        while True:
            yield int(rng.choice(allowed))


@dataclasses.dataclass
class PairEntry:
    """One pair: its frames, numbered from 0 in decoding order, and how blurred it is."""

    name: str  # <video>/NNNNNN
    first: int
    middle: int  # the sharp one
    last: int
    count: int
    seconds: float  # the middle's time
    psnr: float | None = None  # dB; None where both sides are equal, and in a dry run


@dataclasses.dataclass
class VideoEntry:
    """One video: what reading it showed, and its pairs."""

    name: str
    path: str
    complete: bool = False  # whether all its pairs are on disk
    pairs: list[PairEntry] = dataclasses.field(default_factory=list)
    frames: int = 0
    cuts: int = 0
    jumps: int = 0
    damaged: int = 0
    missing: int = 0  # frames that the file's header promises beyond its end
    rate: float = 0.0  # frames per second

    @classmethod
    def read(cls, fields: dict) -> VideoEntry:
        """Returns an entry of a manifest; raises TypeError or KeyError if it is none."""
        return cls(**fields | {"pairs": [PairEntry(**pair) for pair in fields["pairs"]]})


class Manifest:
    """`manifest.json`: the options, and for every video its pairs.

    A video is listed once it is begun; `complete` says whether all its pairs are on disk.

    Raises:
      UserError: the folder holds other pairs, or pairs made with other options.
    """

    def __init__(self, folder: Path, options: PairOptions):
        self._path = folder / MANIFEST
        self._settings = dataclasses.asdict(options) | {"frames": list(options.frames)}
        self.videos: list[VideoEntry] = []
        if not self._path.exists():
            if any((folder / side).exists() for side in ("blurry", "sharp")):
                raise UserError(f"{folder}: holds pairs but no {MANIFEST}; choose another --output")
            return
        try:
            saved = json.loads(self._path.read_text())
            self.videos = [VideoEntry.read(fields) for fields in saved["videos"]]
            before = dict(saved["settings"])
        except (OSError, ValueError, KeyError, TypeError):
            raise UserError(
                f"{self._path}: is no manifest of make-pairs; choose another --output"
            ) from None
        for name, value in self._settings.items():
            if before.get(name) != value:
                raise UserError(
                    f"{self._path}: was made with {name}={before.get(name)}, not {value}; "
                    "choose another --output"
                )

    def name(self, video: Path) -> str:
        """Returns the folder name of a video: its stem, numbered where another has it."""
        path = str(video.resolve())
        taken = {entry.name: entry.path for entry in self.videos}
        stem = video.stem.lstrip(".") or "video"
        numbered = (stem if n == 1 else f"{stem}-{n}" for n in itertools.count(1))
        return next(name for name in numbered if taken.get(name, path) == path)

    def entry(self, name: str) -> VideoEntry | None:
        """Returns what is known of the video of that folder name."""
        return next((entry for entry in self.videos if entry.name == name), None)

    def put(self, entry: VideoEntry, write: bool = True) -> None:
        """Adds or replaces a video and writes the file."""
        self.videos = [*(other for other in self.videos if other.name != entry.name), entry]
        if not write:
            return
        videos = [dataclasses.asdict(video) for video in self.videos]
        content = {"version": 1, "settings": self._settings, "videos": videos}
        write_file(self._path, json.dumps(content, indent=1) + "\n")
