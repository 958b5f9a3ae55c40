"""What the builders of GoPro and VideoDeblurring share: checking a tree, cutting, writing."""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from dmphn_jax.data import splits
from dmphn_jax.data.tiles import tile_starts
from dmphn_jax.errors import UserError, few, one_line
from dmphn_jax.files import settle
from dmphn_jax.images import read_rgb, read_size
from dmphn_jax.runtime import cores
from tfds_gopro import trees, writer

FRAMES_PER_SHARD = {"frames": 128, "crops": 32}  # a few hundred megabytes each


class PairBuilder(tfds.core.ShardBasedBuilder, skip_registration=True):
    """What the two datasets share.

    Args:
      source: the dataset's folder or zip; TFDS's `manual_dir` is used if it is not given.
      allow_partial: whether a set that lacks some of the published pairs may be prepared.
      workers: threads; all cores by default.
      progress: whether to draw a progress bar.
      **kwargs: TFDS's own `data_dir`, `config`, `version`, `file_format`.
    """

    VERSION = tfds.core.Version("1.0.0")
    FORMAT: str  # of the original files

    def __init__(
        self,
        *,
        source: str | os.PathLike[str] | None = None,
        allow_partial: bool = False,
        workers: int | None = None,
        progress: bool = True,
        file_format: str | None = "array_record",
        **kwargs,
    ):
        self._source, self._allow_partial = source, allow_partial
        self._workers = workers or cores()
        self._progress = progress
        self._sizes: dict[str, tuple[int, int]] = {}
        if (name := getattr(kwargs.get("config"), "name", None)) in self.builder_configs:
            kwargs["config"] = name  # TFDS wants its own configs by name
        super().__init__(file_format=file_format or "array_record", **kwargs)

    def _find(self, tree: trees.Tree) -> trees.Found:
        """Returns the pairs of a tree."""
        raise NotImplementedError

    def _missing(self, pairs: splits.Pairs) -> list[str]:
        """Returns what `pairs` lacks of the published set."""
        raise NotImplementedError

    def _features(self) -> tfds.features.FeaturesDict:
        text, number = tfds.features.Text(), np.int32
        names = {"sequence": text, "frame": text}
        if self.builder_config.size is None:
            image = tfds.features.Image(shape=(None, None, 3), encoding_format=self.FORMAT)
            return tfds.features.FeaturesDict({"blurry": image, "sharp": image, **names})
        tile = tfds.features.Tensor(shape=(None, None, 3), dtype=np.uint8, encoding="bytes")
        return tfds.features.FeaturesDict(
            {"blurry": tile, "sharp": tile, **names, "top": number, "left": number}
        )

    def download_and_prepare(
        self, *, download_dir=None, download_config=None, file_format=None, **_
    ) -> None:
        """Prepares the set from its folder or zip; nothing is downloaded.

        Raises:
          UserError: no source, a tree that is wrong or partial, unreadable images, a full disk.
        """
        del download_dir
        target = Path(self.data_dir)
        settle(target)
        overwrite = bool(download_config and download_config.download_mode.overwrite_dataset)
        if target.exists() and not overwrite:
            return
        if file_format not in (None, "array_record", tfds.core.FileFormat.ARRAY_RECORD):
            raise UserError(f"file_format={file_format}: these sets are written as array_record")
        source = self._source or (download_config and download_config.manual_dir)
        if not source:
            raise UserError(f"{self.name} is not downloaded by itself: name its folder or zip")
        tree = trees.Tree(source)
        found, faults = self._checked(tree)
        with writer.whole_or_nothing(target) as folder:
            infos = self._write(tree, found, folder)
            self.info.set_splits(tfds.core.SplitDict(infos))
            self._describe(found, faults)
            try:
                self.info.write_to_directory(folder)
            except OSError as error:
                raise writer.disk_error(target.parent, error) from error
        self.info.read_from_directory(target)

    def _checked(self, tree: trees.Tree) -> tuple[trees.Found, list[str]]:
        """Returns the pairs and what they lack; raises UserError unless they may be prepared."""
        found = self._find(tree)
        if not any(found.pairs.values()):
            raise UserError(f"--source {tree.path}: no pairs found; expected {self.LAYOUT}")
        if found.alone:
            raise UserError(f"{len(found.alone)} images lack their other side: {few(found.alone)}")
        faults = self._missing(found.by_sequence())
        if faults and not self._allow_partial:
            raise UserError(
                f"--source {tree.path} is not the whole {self.name}: {'; '.join(faults)}"
                " (--allow-partial prepares what is there)"
            )
        if self.builder_config.size is not None:
            if not found.pairs["train"]:
                raise UserError(f"--source {tree.path}: no training pairs to cut tiles from")
            found.pairs["test"] = []  # tiles serve training; evaluation reads whole frames
        self._check_sizes(tree, found)
        return found, faults

    def _check_sizes(self, tree: trees.Tree, found: trees.Found) -> None:
        """Reads every header; raises one UserError for all unreadable or unequal ones."""

        def sizes(pair: trees.Files) -> str | None:
            try:
                read = []
                for path in (pair.blurry, pair.sharp):
                    with tree.open(path) as file:
                        read.append(read_size(file, tree.name(path)))
            except UserError as error:
                return str(error)
            except Exception as error:  # the zip's own errors
                return f"{tree.name(pair.blurry)}: {one_line(error)}"
            self._sizes[f"{pair.sequence}/{pair.frame}"] = read[0]
            if read[0] == read[1]:
                return None
            (bh, bw), (sh, sw) = read
            return f"{tree.name(pair.blurry)} is {bw}x{bh} but its sharp side {sw}x{sh}"

        pairs = [pair for files in found.pairs.values() for pair in files]
        with ThreadPoolExecutor(self._workers) as pool:
            faults = [fault for fault in pool.map(sizes, pairs) if fault]
        if faults:
            raise UserError(f"{len(faults)} of {len(pairs)} pairs: {few(faults, separator='; ')}")

    def _estimate(self, tree: trees.Tree, found: trees.Found) -> int:
        """Returns the bytes that the prepared set will take."""
        pairs = [pair for files in found.pairs.values() for pair in files]
        config = self.builder_config
        if config.size is None:
            return sum(tree.size(path) for pair in pairs for path in (pair.blurry, pair.sharp))
        total = 0
        for pair in pairs:
            height, width = self._sizes[f"{pair.sequence}/{pair.frame}"]
            area = min(height, config.size[0]) * min(width, config.size[1])
            total += 2 * 3 * self._examples(pair) * area
        return total

    def _write(self, tree: trees.Tree, found: trees.Found, folder: Path) -> list:
        """Writes all shards below `folder`; returns the splits' infos."""
        where = Path(self.data_dir).parent
        need, free = self._estimate(tree, found), shutil.disk_usage(folder).free
        if need > free:
            raise UserError(
                f"--data-dir {where}: {self.name}/{self.builder_config.name} needs "
                f"{need / 1e9:.1f} GB and {free / 1e9:.1f} GB are free"
            )
        from tqdm import tqdm

        per_shard = FRAMES_PER_SHARD["frames" if self.builder_config.size is None else "crops"]
        shards, places = [], {}
        for split, files in found.pairs.items():
            if not files:
                continue
            template = tfds.core.ShardedFileTemplate(
                data_dir=folder, dataset_name=self.name, split=split, filetype_suffix="array_record"
            )
            count = -(-len(files) // per_shard)
            groups = [list(map(int, part)) for part in np.array_split(range(len(files)), count)]
            places[split] = (template, len(shards), count)
            for number, group in enumerate(groups):
                path = Path(template.sharded_filepath(shard_index=number, num_shards=count))
                records = functools.partial(self._records, tree, [files[i] for i in group])
                shards.append((path, records))
        label = f"{self.name}/{self.builder_config.name}"
        # Tiles are read through memory views, which needs them uncompressed.
        plain = ",uncompressed" if self.builder_config.size is not None else ""
        total = sum(self._examples(pair) for files in found.pairs.values() for pair in files)
        with tqdm(total=total, desc=label, unit="example", disable=not self._progress) as bar:
            written = writer.write_shards(
                shards,
                where=where,
                workers=self._workers,
                options=f"group_size:1{plain}",
                step=bar.update,
            )
        return [
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=[records for records, _ in written[first : first + count]],
                num_bytes=sum(size for _, size in written[first : first + count]),
                filename_template=template,
            )
            for split, (template, first, count) in places.items()
        ]

    def _examples(self, pair: trees.Files) -> int:
        """Returns how many records a pair gives: itself, or its tiles."""
        config = self.builder_config
        if config.size is None:
            return 1
        height, width = self._sizes[f"{pair.sequence}/{pair.frame}"]
        rows = tile_starts(height, config.size[0], config.stride)
        return len(rows) * len(tile_starts(width, config.size[1], config.stride))

    def _records(self, tree: trees.Tree, pairs: list[trees.Files]) -> Iterator[bytes]:
        """Yields the serialized examples of a shard, in order; tiles row by row."""
        for pair in pairs:
            names = {"sequence": pair.sequence, "frame": pair.frame}
            files = {"blurry": pair.blurry, "sharp": pair.sharp}
            encoded = {}
            for side, path in files.items():
                try:
                    encoded[side] = tree.read(path)
                except Exception as error:  # OSError, or the zip's own
                    raise UserError(f"{tree.name(path)}: {one_line(error)}") from error
            # Frames are decoded too, so that a damaged one is found now and not while training.
            images = {
                side: read_rgb(encoded[side], tree.name(path)) for side, path in files.items()
            }
            if self.builder_config.size is None:
                yield self._serialize({**encoded, **names})
                continue
            (rows, columns), stride = self.builder_config.size, self.builder_config.stride
            height, width = images["blurry"].shape[:2]
            for top in tile_starts(height, rows, stride):
                for left in tile_starts(width, columns, stride):
                    tile = {
                        side: image[top : top + rows, left : left + columns]
                        for side, image in images.items()
                    }
                    yield self._serialize({**tile, **names, "top": top, "left": left})

    @functools.cached_property
    def _serializer(self):
        from tensorflow_datasets.core import example_serializer

        return example_serializer.ExampleSerializer(self.info.features.get_serialized_info())

    def _serialize(self, example: dict) -> bytes:
        return self._serializer.serialize_example(self.info.features.encode_example(example))

    def _describe(self, found: trees.Found, faults: list[str]) -> None:
        """Fills `metadata.json`: a source needs the names and sizes without reading the records."""
        config = self.builder_config
        self.info.metadata.update(
            frames={
                split: [
                    [pair.sequence, pair.frame, *self._sizes[f"{pair.sequence}/{pair.frame}"]]
                    for pair in files
                ]
                for split, files in found.pairs.items()
            },
            size=list(config.size) if config.size else None,
            stride=config.stride,
            blur=config.blur,
            missing=faults,
        )

    def _shard_iterators_per_split(self, dl_manager) -> dict[str, list[Callable]]:
        raise NotImplementedError("shards are written by download_and_prepare")

    def _dataset_info(self, **texts: str) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            features=self._features(),
            supervised_keys=("blurry", "sharp"),
            disable_shuffling=True,  # in the order of sequence and frame; feeds shuffle
            metadata=tfds.core.MetadataDict(),
            **texts,
        )
