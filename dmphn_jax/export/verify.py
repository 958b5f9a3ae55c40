"""An artefact against its checkpoint: the largest difference on frames, and both speeds."""

from __future__ import annotations

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from dmphn_jax.errors import UserError
from dmphn_jax.export import runtimes
from dmphn_jax.export.options import Options
from dmphn_jax.files import shown
from dmphn_jax.images import EXTENSIONS, read_rgb
from dmphn_jax.inference.deblurrer import Deblurrer

BOUNDS = {"float32": 1, "float16": 2, "bfloat16": 16}
"""Grey levels of 255 by which an artefact may differ from the checkpoint in float32."""
FRAMES = 4
_SCENES = ((256, 256), (251, 333))  # the second is padded
_ROUNDS = 3


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What came of one library.

    Attributes:
      library: its name and version.
      difference: the largest, over all frames, in grey levels of 255.
      bound: what it may be.
      frames: how many.
      seconds, checkpoint_seconds: for the first frame, the medians of runs in turn.
      size: (height, width) of the first frame.
    """

    library: str
    difference: float
    bound: int
    frames: int
    seconds: float
    checkpoint_seconds: float
    size: tuple[int, int]

    @property
    def agrees(self) -> bool:
        """Whether the difference, which may be no number, is within the bound."""
        return self.difference <= self.bound

    def __str__(self) -> str:
        height, width = self.size
        frames = f"{self.frames} frame{'' if self.frames == 1 else 's'}"
        verdict = "at most" if self.agrees else "more than"
        return (
            f"{self.library}: largest difference {self.difference:.3g} of 255 grey levels on "
            f"{frames}, {verdict} {self.bound}; {width}x{height}: {self.seconds:.3f} s, "
            f"the checkpoint {self.checkpoint_seconds:.3f} s "
            f"(ratio {self.seconds / self.checkpoint_seconds:.2f})"
        )


def frames(source: str, options: Options) -> list[np.ndarray]:
    """Returns blurry frames, uint8 (H, W, 3), that an artefact takes.

    Args:
      source: a picture, a folder with pictures, the first of which are taken, or "" for synthetic
        scenes.
      options: of the artefact; one of a fixed size gets the top left of larger frames.

    Raises UserError if there is none.
    """
    if not source:
        from dmphn_jax.data.synthetic import SyntheticScenes

        sizes = [options.size] if options.size else _SCENES
        least = [(max(height, 32), max(width, 32)) for height, width in sizes]
        found = [SyntheticScenes(size, count=1, split="test")[0].blurry for size in least]
        return [_cut(frame, options.size) for frame in found]
    path = Path(source)
    if not path.exists():
        raise UserError(f"--verify {shown(source)}: no such file or folder")
    names = sorted(path.rglob("*")) if path.is_dir() else [path]
    taken = []
    for name in names:
        if name.suffix.lower() in EXTENSIONS and name.is_file():
            frame = read_rgb(name)
            if not options.size or all(np.greater_equal(frame.shape[:2], options.size)):
                taken.append(_cut(frame, options.size))
        if len(taken) == FRAMES:
            break
    if not taken:
        size = "" if not options.size else f" of at least {options.size[0]}x{options.size[1]}"
        raise UserError(f"--verify {shown(source)}: no picture{size} in it")
    return taken


def verify(
    path: Path, options: Options, deblurrer: Deblurrer, blurry: Sequence[np.ndarray]
) -> Iterator[Comparison]:
    """Yields, for every library that runs the artefact, how it compares with the checkpoint.

    Args:
      path: the artefact.
      options: what it was made with.
      deblurrer: the checkpoint, in float32 and with the same stages.
      blurry: from `frames`.
    """
    expected = [_of_checkpoint(deblurrer, options, frame)() for frame in blurry]
    for library, run in runtimes.load(path, options.format).items():
        differences = []
        for frame, sharp in zip(blurry, expected, strict=True):
            made = run(_batch(frame, options))
            if made.shape[1:] != sharp.shape:
                raise UserError(f"{library}: gave {made.shape} for a frame of {sharp.shape}")
            differences.append(np.max(np.abs(made - np.float32(sharp))))
        levels = 1 if options.pixels == "uint8" else 255
        first = _batch(blurry[0], options)
        mine, theirs = _in_turn(
            functools.partial(run, first), _of_checkpoint(deblurrer, options, blurry[0])
        )
        yield Comparison(
            library,
            levels * float(np.max(differences)),
            BOUNDS[options.precision],
            len(blurry),
            mine / len(first),
            theirs,
            blurry[0].shape[:2],
        )


def _of_checkpoint(
    deblurrer: Deblurrer, options: Options, frame: np.ndarray
) -> Callable[[], np.ndarray]:
    if options.pixels == "uint8":
        return lambda: deblurrer(frame)
    return lambda: np.clip(np.asarray(deblurrer.output(frame).image), 0, 1)


def _batch(frame: np.ndarray, options: Options) -> np.ndarray:
    """Returns the frame as the artefact takes it."""
    if options.pixels == "float":
        frame = frame / np.float32(255)
    return np.repeat(frame[None], options.batch or 1, axis=0)


def _cut(frame: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    return frame if size is None else np.ascontiguousarray(frame[: size[0], : size[1]])


def _in_turn(*functions: Callable[[], object]) -> list[float]:
    """Returns the median seconds of each, run in turn so that both see the same machine."""
    taken: list[list[float]] = [[] for _ in functions]
    for _ in range(_ROUNDS):
        for function, seconds in zip(functions, taken, strict=True):
            start = time.perf_counter()
            function()
            seconds.append(time.perf_counter() - start)
    return [statistics.median(seconds) for seconds in taken]
