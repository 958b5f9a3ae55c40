"""Opens a source of pairs by name or path, and chooses the feed that brings it to the devices."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dmphn_jax import storage
from dmphn_jax.data.base import Feed, PairSource
from dmphn_jax.data.options import (
    FEEDS,
    PREPARED,
    SOURCES,
    SPLITS,
    SourceOptions,
    check_choice,
    steps_per_epoch,
)
from dmphn_jax.errors import UserError, nearest
from dmphn_jax.storage import Address

if TYPE_CHECKING:
    from jax.sharding import Mesh


def open_source(
    name_or_path: str | os.PathLike[str],
    split: str = "train",
    options: SourceOptions = SourceOptions(),  # noqa: B008 (frozen)
    *,
    whole: bool = False,
) -> PairSource:
    """Returns random access to pairs of blurry and sharp images.

    Args:
      name_or_path: one of `options.SOURCES`, or the path of a folder of pairs, of a list of
        pairs, or of one prepared version (`D/gopro/frames/1.0.0`). See `folder.open_folder`.
      split: 'train' or 'test'.
      options: where and how.
      whole: whether the reader wants whole frames, not crops: then prepared frames come before
        raw tiles, which overlap.

    Raises:
      UserError: nothing of that name, not prepared, or pairs that do not match; one line each.
    """
    check_choice("split", split, SPLITS)
    name = os.fspath(name_or_path)
    if name == "synthetic":
        from dmphn_jax.data.synthetic import SyntheticScenes

        return SyntheticScenes(
            options.size,
            options.count,
            options.seed,
            split=split,
            motion=options.motion,
            cache=options.cache or None,
        )
    if name == "video_deblurring" and options.blur != "blur":
        raise UserError(f"blur {options.blur!r}: of gopro and folders; {name} has one blurry side")
    if name in PREPARED:
        return _open_prepared(name, split, options, tiles=split == "train" and not whole)
    path = _place(options.data_dir if name == "folder" else name)
    if not storage.exists(path):
        known = ", ".join(SOURCES)
        raise UserError(
            f"data source {name!r}: no such folder, nor one of {known}{nearest(name, SOURCES)}"
            if name != "folder"
            else f"data_dir={path}: no such folder of pairs"
        )
    if storage.is_file(path / "dataset_info.json"):
        return _open_records(path, split, options.views)
    from dmphn_jax.data.folder import open_folder

    return open_folder(storage.staged(path), split, options.blur)


def _place(where: str | os.PathLike[str]) -> Path | Address:
    found = storage.place(where)
    return found.expanduser() if isinstance(found, Path) else found


def _open_prepared(name: str, split: str, options: SourceOptions, tiles: bool) -> PairSource:
    """Opens the first prepared config of: the one asked for, or raw tiles and frames."""
    from dmphn_jax.data.tfds_source import dataset_folder

    data_dir = _place(options.data_dir)
    gamma = "" if options.blur == "blur" else "_gamma"
    frames = f"frames{gamma}"
    if options.records:
        configs = [options.records]
    elif split == "test":
        configs = [frames]
    else:
        own = [path.name for path in storage.glob(data_dir, f"{name}/crops_*")]
        crops = [f"crops{gamma}", *(c for c in own if c.endswith("_gamma") == bool(gamma))]
        configs = [*crops, frames] if tiles else [frames, *crops]
    for config in configs:
        if folder := dataset_folder(data_dir, name, config):
            return _open_records(folder, split, options.views)
    flags = " --blur blur_gamma" if gamma else ""
    raise UserError(
        f"{name} is not prepared in {data_dir} (no {options.records or frames}): "
        f"python -m tfds_gopro.prepare {name} --source FOLDER_OR_ZIP --data-dir {data_dir}{flags}; "
        "synthetic scenes need nothing: --config.data.source=synthetic, or --data synthetic"
    )


def _open_records(where: Path | Address, split: str, views: bool) -> PairSource:
    from dmphn_jax.data.tfds_source import CropsSource, FramesSource

    folder = storage.staged(where)
    # <dataset>/<config>/<version>, as TFDS lays them out
    if folder.parent.name.startswith("crops"):
        return CropsSource(folder, split, views=views)
    return FramesSource(folder, split)


class ChosenFeed(NamedTuple):
    """A feed that is not built yet: its pairs are open, its memory is not filled.

    Attributes:
      kind: the name of its class.
      steps_per_epoch: as the feed's own.
      make: builds it, which may fill the devices' memory; raises UserError as the feeds do.
    """

    kind: str
    steps_per_epoch: int
    make: Callable[[], Feed]


def choose_feed(
    config_data: Mapping[str, Any],
    *,
    mesh: Mesh,
    seed: int,
    batch_size: int,
    crop_size: int,
) -> ChosenFeed:
    """Returns the training feed of a config; every feed of a run and of its benchmark.

    Args:
      config_data: a mapping with `source` and `feed` (one of `options.FEEDS`), any of the fields
        of `SourceOptions`, and the host feed's `threads` and `prefetch` (pairs read ahead; 0 for
        its own choice of either).
      mesh: a mesh with a `data` axis.
      seed: order of the pairs and crops.
      batch_size: pairs per batch over all devices.
      crop_size: side of the square crops in pixels.

    Raises:
      UserError: an unknown feed; see `open_source`.
    """
    config = {key: config_data[key] for key in config_data}
    kind = config.get("feed", "auto")
    check_choice("config.data.feed", kind, FEEDS)
    options = SourceOptions.of(config, seed=seed)
    name = config.get("source", "gopro")
    common: dict[str, Any] = {"mesh": mesh, "seed": seed}
    common |= {"batch_size": batch_size, "crop_size": crop_size}
    source = None
    if kind != "host":
        from dmphn_jax.data.resident_feed import ResidentFeed

        # It holds whole frames: tiles that overlap would be read from disk more than twice over.
        source = open_source(name, "train", options, whole=True)
        if kind == "resident" or _fits_everywhere(
            ResidentFeed.fits(source, mesh=mesh, batch_size=batch_size)
        ):
            make: Callable[[], Feed] = functools.partial(ResidentFeed, source, **common)
            return ChosenFeed(ResidentFeed.__name__, steps_per_epoch(len(source), batch_size), make)
    from dmphn_jax.data.host_feed import HostFeed

    if source is None or name in PREPARED:  # of a prepared set it reads crops of raw tiles
        source = open_source(name, "train", options)
    more = {key: config[key] for key in ("threads", "prefetch") if config.get(key)}
    make = functools.partial(HostFeed, source, **common, **more)
    return ChosenFeed(HostFeed.__name__, steps_per_epoch(len(source), batch_size), make)


def make_feed(config_data: Mapping[str, Any], **how: Any) -> Feed:
    """Builds the feed that `choose_feed`, which takes the same, returns."""
    return choose_feed(config_data, **how).make()


def _fits_everywhere(fits: bool) -> bool:
    """Returns whether the set fits on every process: all must take the same feed."""
    import jax
    import numpy as np

    if jax.process_count() == 1:
        return fits
    from jax.experimental.multihost_utils import process_allgather

    return bool(np.all(process_allgather(np.array([fits]))))
