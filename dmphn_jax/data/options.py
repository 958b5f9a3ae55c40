"""What a source, a feed and an augmentation can be asked for: names and options.

The registries below are the one truth for checks, help and docs. No jax, no NumPy: settings and
commands read them before anything is loaded.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from dmphn_jax.errors import UserError, nearest

# Name -> what it is. A source may also be the path of a folder, a list, or a prepared version.
SOURCES: dict[str, str] = {
    "gopro": "GOPRO_Large, prepared by tfds_gopro.prepare",
    "video_deblurring": "VideoDeblurring (DVD), prepared by tfds_gopro.prepare",
    "synthetic": "scenes rendered on the fly",
    "folder": "a folder or list of pairs, at data_dir",
}
PREPARED = ("gopro", "video_deblurring")
SPLITS = ("train", "test")
BLURS = ("blur", "blur_gamma")  # gopro's two blurry sides
FEEDS: dict[str, str] = {
    "auto": "resident if the set fits in device memory, else host",
    "host": "crops read on the host as training goes",
    "resident": "the whole set in device memory",
}
LARGEST_BATCH = 1_000_000  # pairs over all processes
MOST_THREADS = 1024  # readers of the host feed


@dataclasses.dataclass(frozen=True)
class Recipe:
    """An augmentation: what each pair draws for itself.

    Attributes:
      turns: (least, most) quarter turns, uniform.
      flip: whether half of the pairs are mirrored.
      saturation: uniform range of the factor on saturation.
    """

    turns: tuple[int, int]
    flip: bool
    saturation: tuple[float, float] = (0.8, 1.2)  # in the paper's code and here


RECIPES: dict[str, Recipe | None] = {
    "none": None,
    "stack": Recipe(turns=(1, 3), flip=False),
    "modern": Recipe(turns=(0, 3), flip=True),
}

SMALLEST_SCENE = 32  # pixels a side; below, a scene holds nothing to deblur
LARGEST_SCENE = 1 << 13
MOST_SCENES = 1_000_000
MOST_MOTION = 100.0


@dataclasses.dataclass(frozen=True)
class SourceOptions:
    """How to open a source; every source reads the options that concern it.

    Attributes:
      data_dir: where datasets were prepared; the folder of pairs of the source 'folder'.
      blur: gopro's blurry side: 'blur' as in the paper, or 'blur_gamma'.
      records: gopro, video_deblurring: the prepared config to read, for example 'frames'; by
        default what suits the reader: raw tiles for the host feed, where there are any, and whole
        frames for the resident feed and for testing.
      views: whether raw tiles are mapped into memory; False for file systems that cannot.
      size: synthetic: (height, width) of a scene in pixels, 32 to 8192.
      count: synthetic: number of scenes, at most a million.
      seed: synthetic: which scenes; any integer.
      motion: synthetic: factor on the length of all motion, 0 to 100.
      cache: synthetic: a folder that keeps rendered scenes; none by default.

    Raises:
      UserError: a value that no source takes.
    """

    data_dir: str | os.PathLike[str] = "data"
    blur: str = "blur"
    records: str = ""
    views: bool = True
    size: tuple[int, int] = (360, 640)
    count: int = 2000
    seed: int = 0
    motion: float = 1.0
    cache: str | os.PathLike[str] = ""

    def __post_init__(self) -> None:
        check_choice("blur", self.blur, BLURS)
        check_scenes(self.size, self.count, motion=self.motion)

    @classmethod
    def of(cls, fields: Mapping[str, Any], **changes: Any) -> SourceOptions:
        """Returns the options among a config's fields (`config.data`), some of them changed."""
        names = {field.name for field in dataclasses.fields(cls)} & set(fields)
        return cls(**{name: fields[name] for name in names} | changes)


def steps_per_epoch(pairs: int, batch_size: int) -> int:
    """Returns the whole batches in so many pairs, at least 1: what every feed calls an epoch."""
    return max(1, pairs // batch_size)


def check_choice(what: str, value: object, choices: Sequence[str] | Mapping[str, Any]) -> None:
    """Raises UserError in one line unless `value` is one of `choices`."""
    if value not in choices:
        hint = nearest(str(value), choices)
        raise UserError(f"{what} {value!r} is not known{hint}: one of {', '.join(choices)}")


def check_scenes(
    size: Sequence[int], count: int, *, motion: float = 1.0, noise: float = 0.0
) -> None:
    """Raises UserError for synthetic scenes that cannot be rendered; see `SyntheticScenes`."""
    if not isinstance(size, Sequence) or len(size) != 2:
        given = list(size) if isinstance(size, Sequence) else size
        raise UserError(f"size {given} of synthetic scenes: needs a height and a width")
    height, width = size
    if min(size) < SMALLEST_SCENE or max(size) > LARGEST_SCENE:
        small = "small" if min(size) < SMALLEST_SCENE else "large"
        raise UserError(
            f"synthetic scenes of {width}x{height} are too {small}; a side has {SMALLEST_SCENE} "
            f"to {LARGEST_SCENE} pixels"
        )
    if not 1 <= count <= MOST_SCENES:
        raise UserError(
            f"{count} synthetic scenes asked for; ask for at least 1 and at most {MOST_SCENES:,}"
        )
    if not 0 <= motion <= MOST_MOTION:  # not NaN either
        raise UserError(f"motion {motion:g} of synthetic scenes: 0 to {MOST_MOTION:g}")
    if not (math.isfinite(noise) and 0 <= noise <= 255):
        raise UserError(f"noise {noise:g} of synthetic scenes: 0 to 255 grey levels")
