"""Synthetic scenes: the embedded training set, which needs no download.

    SyntheticScenes(size=(256, 256), count=2000, seed=0)[17]  # a Pair

`dmphn scenes --contact-sheet OUT.png` draws some of them.
"""

from __future__ import annotations

import hashlib
import operator
import os
import tokenize
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dmphn_jax.data.base import Pair
from dmphn_jax.data.options import SPLITS, check_choice, check_scenes
from dmphn_jax.data.psnr import psnr
from dmphn_jax.errors import UserError
from dmphn_jax.files import new_file, why

VERSION = 1  # goes up when the same (seed, index) gives other pictures


class SyntheticScenes(Sequence):
    """A `PairSource` of rendered scenes: pair i depends on (seed, split, i) and the settings only.

    A scene is a background painted with noise at several scales, gradients, facades, writing,
    gratings and polygons, and up to five objects. Camera and objects translate, turn and zoom
    along smooth random paths; 7 to 13 steps of the exposure are averaged in linear light (camera
    response gamma 2.2) and the middle step is the sharp image. Blurry against sharp PSNR spreads
    over about 20 to 34 dB, as in GoPro.

    Args:
      size: (H, W) in pixels, each 32 to 8192.
      count: number of pairs, at most a million.
      seed: any integer.
      split: `train` or `test`; the two never share a scene.
      motion: factor on the length of all motion, 0 to 100; 1 for GoPro's spread of PSNR.
      noise: standard deviation of the sensor noise of one step, 0 to 255 grey levels.
      cache: directory to keep rendered pairs in; None renders each time it is asked.

    Raises:
      UserError: a setting is out of its range.
    """

    def __init__(
        self,
        size: tuple[int, int] = (256, 256),
        count: int = 2000,
        seed: int = 0,
        *,
        split: str = "train",
        motion: float = 1.0,
        noise: float = 0.0,
        cache: str | os.PathLike | None = None,
    ):
        check_scenes(size, count, motion=motion, noise=noise)
        check_choice("split", split, SPLITS)
        self.size, self.seed, self.split = (int(size[0]), int(size[1])), int(seed), split
        self.motion, self.noise = float(motion), float(noise)
        self.names = [f"synthetic_{split}_{self.seed}/{i:06d}" for i in range(int(count))]
        self._cache = self._open_cache(Path(cache)) if cache else None

    def __len__(self) -> int:
        return len(self.names)

    def shape(self, index: int) -> tuple[int, int]:
        """Returns the (H, W) of pair `index` without rendering it."""
        del index
        return self.size

    def __getitem__(self, index: int) -> Pair:
        """Renders pair `index` (or reads it from the cache): uint8 (H, W, 3) twice."""
        index = operator.index(index)
        name = self.names[index]  # an IndexError beyond the end, as iteration expects
        index = range(len(self))[index]
        if self._cache is None:
            return Pair(*self._render(index), name)
        path = self._cache / f"{index:06d}.npy"
        pair = _load(path, (2, *self.size, 3))
        if pair is None:
            pair = np.stack(self._render(index))
            _save(path, pair)
        return Pair(pair[0], pair[1], name)

    def _render(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        from dmphn_jax.data.scenes.render import Scene  # cv2 takes a while to import

        seeds = np.random.SeedSequence([self.seed % 2**64, SPLITS.index(self.split), index])
        rng = np.random.Generator(np.random.Philox(seeds))
        return Scene(rng, *self.size, motion=self.motion).render(rng, noise=self.noise)

    def _open_cache(self, root: Path) -> Path:
        settings = (VERSION, self.size, self.seed, self.split, self.motion, self.noise)
        folder = root / hashlib.sha256(repr(settings).encode()).hexdigest()[:16]
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{root}: cannot keep scenes here ({error.strerror})") from None
        return folder


def _load(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """Returns a cached pair; None if there is none or it is damaged."""
    try:
        pair = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, MemoryError, SyntaxError, tokenize.TokenError):
        return None
    return pair if pair.shape == shape and pair.dtype == np.uint8 else None


def _save(path: Path, pair: np.ndarray) -> None:
    try:
        with new_file(path) as temporary:  # threads may race
            np.save(temporary, pair)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({why(error)})") from None


def _psnr(pair: Pair) -> float:
    return psnr(pair.blurry, pair.sharp)


def contact_sheet(pairs: Sequence[Pair], columns: int) -> np.ndarray:
    """Lays pairs of one size out from the most to the least blurred, blurry above sharp.

    There is at least one pair.

    Returns:
      uint8 (H, W, 3): rows of `columns` pairs; each pair is headed by its PSNR.
    """
    import cv2

    gap, head = 6, 18
    ranked = sorted(pairs, key=_psnr)
    height, width = pairs[0].blurry.shape[:2]
    rows = -(-len(pairs) // columns)
    cell = head + 2 * height + gap
    sheet = np.full((rows * cell, columns * (width + gap) - gap, 3), 255, np.uint8)
    for i, pair in enumerate(ranked):
        top, left = i // columns * cell, i % columns * (width + gap)
        text, font = f"{_psnr(pair):.1f} dB", cv2.FONT_HERSHEY_SIMPLEX
        cv2.putText(sheet, text, (left + 2, top + 13), font, 0.42, (40, 40, 40), 1, cv2.LINE_AA)
        both = np.concatenate([pair.blurry, pair.sharp])
        sheet[top + head : top + head + 2 * height, left : left + width] = both
    return sheet
