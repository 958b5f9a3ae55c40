"""The prepared records of `tfds_gopro` as sources of pairs, without TensorFlow."""

from __future__ import annotations

import json
import os
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from dmphn_jax import storage
from dmphn_jax.data import record_views
from dmphn_jax.data.base import Pair
from dmphn_jax.data.tiles import crop_starts, tile_of, tile_starts
from dmphn_jax.errors import UserError, one_line
from dmphn_jax.images import read_rgb
from dmphn_jax.storage import Address


def dataset_folder(data_dir: Path | Address, name: str, config: str) -> Path | Address | None:
    """Returns the newest prepared version of a config below `data_dir`, or None."""
    versions = [
        path
        for path in storage.glob(data_dir, f"{name}/{config}/*.*.*")
        if storage.is_file(path / "dataset_info.json") and path.name.replace(".", "").isdigit()
    ]
    return max(versions, key=lambda path: tuple(map(int, path.name.split("."))), default=None)


class _Prepared:
    """What both kinds of record share: the builder, the frames' names and sizes."""

    def __init__(self, folder: str | os.PathLike[str], split: str):
        import tensorflow_datasets as tfds

        self.folder, self.split = Path(folder), split
        try:
            self.metadata: dict[str, Any] = json.loads((self.folder / "metadata.json").read_text())
            self._frames = self.metadata["frames"].get(split, [])
            self._builder = tfds.builder_from_directory(self.folder)
            info = self._builder.info.splits.get(split)
            missing = [path for path in (info.filepaths if info else ()) if not path.exists()]
        except Exception as error:  # TFDS and protobuf raise many types for damaged files
            raise UserError(
                f"{self.folder}: not whole records of this package ({one_line(error)}); "
                "prepare them again"
            ) from error
        if not self._frames or info is None:
            raise UserError(f"{self.folder}: it has no {split!r} pairs")
        if missing:
            raise UserError(
                f"{self.folder}: {len(missing)} of its files are gone, the first {missing[0].name};"
                " prepare it again"
            )
        self.names: Sequence[str] = [f"{frame[0]}/{frame[1]}" for frame in self._frames]

    def __len__(self) -> int:
        """Returns the number of frames."""
        return len(self._frames)

    def shape(self, index: int) -> tuple[int, int]:
        """Returns (height, width) of frame `index` without reading it."""
        return self._frames[index][2], self._frames[index][3]


class FramesSource(_Prepared):
    """Whole frames, decoded on access.

    Args:
      folder: a prepared `frames` config with its version, for example `D/gopro/frames/1.0.0`.
      split: 'train' or 'test'.

    Raises:
      UserError: the folder is not whole, or has no such split.
    """

    def __init__(self, folder: str | os.PathLike[str], split: str):
        super().__init__(folder, split)
        import tensorflow_datasets as tfds

        # TFDS would decode with whichever library it finds; the encoded bytes come through as is.
        skip = tfds.decode.SkipDecoding()
        self._records = self._builder.as_data_source(
            split, decoders={"blurry": skip, "sharp": skip}
        )

    def __getitem__(self, index: int) -> Pair:
        """Returns frame `index`; raises UserError naming the record if it is damaged."""
        name = f"{self.folder}: {self.split} frame {self.names[index]}"
        try:
            record = self._records[index]
        except (RuntimeError, ValueError, OSError) as error:
            raise UserError(f"{name}: damaged record ({one_line(error)})") from error
        blurry, sharp = read_rgb(record["blurry"], name), read_rgb(record["sharp"], name)
        return Pair(blurry, sharp, self.names[index])


class CropsSource(_Prepared):
    """Raw tiles; an index is a frame, and a crop reads only its own pixels.

    Args:
      folder: a prepared `crops` config with its version, for example `D/gopro/crops/1.0.0`.
      split: 'train'.
      views: whether to map the files into memory (see `record_views`); False reads whole tiles,
        which suits file systems that cannot map files.

    Raises:
      UserError: the folder is not whole, or has no such split.
    """

    def __init__(self, folder: str | os.PathLike[str], split: str = "train", *, views: bool = True):
        super().__init__(folder, split)
        self.size: tuple[int, int] = tuple(self.metadata["size"])
        self.stride: int = self.metadata["stride"]
        self._first = [0, *accumulate(len(self._tiles(i)) for i in range(len(self)))]
        info = self._builder.info.splits[split]
        self._shard_ends = list(accumulate(info.shard_lengths))
        if self._shard_ends[-1] != self._first[-1]:
            raise UserError(f"{self.folder}: it lacks tiles; prepare it again")
        self._paths = [os.fspath(path) for path in info.filepaths]
        self._lengths = info.shard_lengths
        self._views: list[record_views.RecordViews] | None = None
        self._records = None
        if views:
            self._map()
        if self._views is None:
            self._records = self._builder.as_data_source(split)

    def __getstate__(self) -> dict[str, Any]:
        """Leaves out the maps, which cannot be sent to another process."""
        return {**self.__dict__, "_views": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Maps the files again."""
        self.__dict__.update(state)
        if self._records is None:
            self._map()

    def _map(self) -> None:
        try:
            self._views = [
                record_views.RecordViews(path, length)
                for path, length in zip(self._paths, self._lengths, strict=True)
            ]
        except record_views.NotViewableError:
            self._views = None  # compressed by another writer: read through TFDS

    def _tiles(self, index: int) -> list[tuple[int, int]]:
        """Returns (top, left) of the tiles of frame `index`, in the order of the records."""
        height, width = self.shape(index)
        return [
            (top, left)
            for top in tile_starts(height, self.size[0], self.stride)
            for left in tile_starts(width, self.size[1], self.stride)
        ]

    def positions(self, index: int, crop: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the (tops, lefts) that a crop of `crop` pixels can have in frame `index`.

        With a stride of at most `size - crop + 1` these are all of the frame.

        Raises:
          UserError: the tiles are smaller than the crop.
        """
        axes = zip(self.shape(index), self.size, strict=True)
        tops, lefts = (crop_starts(length, size, self.stride, crop) for length, size in axes)
        if not (len(tops) and len(lefts)):
            raise UserError(
                f"{self.folder}: a crop of {crop} does not fit in its tiles of "
                f"{self.size[0]}x{self.size[1]}; prepare larger ones (--size) or crop less"
            )
        return tops, lefts

    def crop(
        self,
        index: int,
        top: int,
        left: int,
        crop: int,
        out: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Copies a crop of frame `index` and returns (blurry, sharp), uint8 (crop, crop, 3).

        `out` receives them, for example two rows of a batch; new arrays by default.
        """
        if out is None:
            out = (np.empty((crop, crop, 3), np.uint8), np.empty((crop, crop, 3), np.uint8))
        height, width = self.shape(index)
        row, y = tile_of(top, height, self.size[0], self.stride, crop)
        column, x = tile_of(left, width, self.size[1], self.stride, crop)
        columns = len(tile_starts(width, self.size[1], self.stride))
        self._window(self._first[index] + row * columns + column, y, x, *out)
        return out

    def _window(
        self, record: int, y: int, x: int, out_blurry: np.ndarray, out_sharp: np.ndarray
    ) -> None:
        """Copies a window of a tile into two arrays of its size."""
        try:
            if self._views is not None:
                shard = bisect_right(self._shard_ends, record)
                views = self._views[shard]
                blurry, sharp = views.pair(record - self._shard_ends[shard] + self._lengths[shard])
                views.window(blurry, y, x, out_blurry)
                views.window(sharp, y, x, out_sharp)
                return
            tile = self._records[record]
        except (RuntimeError, ValueError, OSError, record_views.NotViewableError) as error:
            raise UserError(
                f"{self.folder}: {self.split} tile {record} is damaged ({one_line(error)})"
            ) from error
        height, width = out_blurry.shape[:2]
        place = (slice(y, y + height), slice(x, x + width))
        out_blurry[...], out_sharp[...] = tile["blurry"][place], tile["sharp"][place]

    def __getitem__(self, index: int) -> Pair:
        """Returns frame `index`, put together from its tiles."""
        height, width = self.shape(index)
        blurry, sharp = (np.empty((height, width, 3), np.uint8) for _ in range(2))
        rows, columns = min(self.size[0], height), min(self.size[1], width)
        for number, (top, left) in enumerate(self._tiles(index)):
            place = (slice(top, top + rows), slice(left, left + columns))
            self._window(self._first[index] + number, 0, 0, blurry[place], sharp[place])
        return Pair(blurry, sharp, self.names[index])
