"""Opens a source of pairs by name or path, and chooses the feed that brings it to the devices."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from dmphn_jax.data.base import Feed, PairSource
from dmphn_jax.errors import UserError, nearest

PREPARED = ("gopro", "video_deblurring")
NAMES = (*PREPARED, "synthetic", "folder")


def open_source(
    name_or_path: str | os.PathLike[str],
    split: str = "train",
    *,
    data_dir: str | os.PathLike[str] = "data",
    blur: str = "blur",
    records: str = "",
    views: bool = True,
    size: tuple[int, int] = (360, 640),
    count: int = 2000,
    seed: int = 0,
    motion: float = 1.0,
    cache: str | os.PathLike[str] = "",
) -> PairSource:
    """Returns random access to pairs of blurry and sharp images.

    Args:
      name_or_path: 'gopro' or 'video_deblurring' (prepared by `tfds_gopro.prepare`), 'synthetic',
        'folder' (the pairs below `data_dir`), or the path of a folder of pairs, of a list of
        pairs, or of one prepared version (`D/gopro/frames/1.0.0`). See `folder.open_folder`.
      split: 'train' or 'test'.
      data_dir: where the datasets were prepared.
      blur: gopro's blurry side: 'blur' as in the paper, or 'blur_gamma'.
      records: the prepared config to read, for example 'frames'; by default raw tiles for
        training, where there are any, and whole frames for testing.
      views: whether raw tiles are mapped into memory; False for file systems that cannot.
      size: synthetic: (height, width) of a scene.
      count: synthetic: number of scenes.
      seed: synthetic: which scenes.
      motion: synthetic: factor on the length of all motion.
      cache: synthetic: a folder that keeps rendered scenes; none by default.

    Raises:
      UserError: nothing of that name, not prepared, or pairs that do not match; one line each.
    """
    if split not in ("train", "test"):
        raise UserError(f"split {split!r}: 'train' or 'test'{nearest(split, ['train', 'test'])}")
    if blur not in ("blur", "blur_gamma"):
        raise UserError(f"blur {blur!r}: 'blur' or 'blur_gamma'")
    name = os.fspath(name_or_path)
    if name == "synthetic":
        from dmphn_jax.data.synthetic import SyntheticScenes

        return SyntheticScenes(
            size=tuple(size),
            count=count,
            seed=seed,
            motion=motion,
            split=split,
            cache=cache or None,
        )
    if name in PREPARED:
        return _open_prepared(name, split, Path(data_dir), blur, records, views)
    path = Path(data_dir if name == "folder" else name).expanduser()
    if not path.exists():
        known = ", ".join(NAMES)
        raise UserError(
            f"data source {name!r}: no such folder, nor one of {known}{nearest(name, NAMES)}"
            if name != "folder"
            else f"config.data.data_dir={path}: no such folder of pairs"
        )
    if (path / "dataset_info.json").is_file():
        return _open_records(path, split, views)
    from dmphn_jax.data.folder import open_folder

    return open_folder(path, split, blur)


def _open_prepared(
    name: str, split: str, data_dir: Path, blur: str, records: str, views: bool
) -> PairSource:
    from dmphn_jax.data.tfds_source import dataset_folder

    gamma = "" if blur == "blur" else "_gamma"
    if records:
        configs = [records]
    else:
        own = sorted(path.name for path in data_dir.expanduser().glob(f"{name}/crops_*"))
        tiles = [f"crops{gamma}", *(c for c in own if c.endswith("_gamma") == bool(gamma))]
        configs = [*(tiles if split == "train" else []), f"frames{gamma}"]
    for config in configs:
        if folder := dataset_folder(data_dir, name, config):
            return _open_records(folder, split, views)
    flags = " --blur blur_gamma" if gamma else ""
    raise UserError(
        f"{name} is not prepared in {data_dir} (no {configs[-1]}): python -m tfds_gopro.prepare "
        f"{name} --source FOLDER_OR_ZIP --data-dir {data_dir}{flags}; "
        "--config.data.source=synthetic runs without it"
    )


def _open_records(folder: Path, split: str, views: bool) -> PairSource:
    from dmphn_jax.data.tfds_source import CropsSource, FramesSource

    # <dataset>/<config>/<version>, as TFDS lays them out
    if folder.parent.name.startswith("crops"):
        return CropsSource(folder, split, views=views)
    return FramesSource(folder, split)


def make_feed(config_data: Any, *, mesh: Any, seed: int, batch_size: int, crop_size: int) -> Feed:
    """Returns the training feed of a config.

    Args:
      config_data: a mapping with `source` and `feed` ('host', 'resident' or 'auto'), and any of
        `open_source`'s options, `threads` and `prefetch` (pairs read ahead) of the host feed.
        'auto' keeps the set in device memory if it fits there, and else reads it as training
        goes.
      mesh: a mesh with a `data` axis.
      seed: order of the pairs and crops.
      batch_size: pairs per batch over all devices.
      crop_size: side of the square crops in pixels.

    Raises:
      UserError: an unknown feed; see `open_source` and the feeds.
    """
    config = {key: config_data[key] for key in config_data}
    kind = config.get("feed", "auto")
    kinds = ("auto", "host", "resident")
    if kind not in kinds:
        raise UserError(
            f"config.data.feed={kind!r}: one of {', '.join(kinds)}{nearest(kind, kinds)}"
        )
    options = {
        key: config[key]
        for key in ("data_dir", "blur", "records", "views", "size", "count", "motion", "cache")
        if key in config
    }
    source = open_source(config.get("source", "gopro"), "train", seed=seed, **options)
    common = {"mesh": mesh, "seed": seed, "batch_size": batch_size, "crop_size": crop_size}
    if kind != "host":
        from dmphn_jax.data.resident_feed import ResidentFeed

        if kind == "resident" or _fits_everywhere(
            ResidentFeed.fits(source, mesh=mesh, batch_size=batch_size)
        ):
            return ResidentFeed(source, **common)
    from dmphn_jax.data.host_feed import HostFeed

    more = {key: config[key] for key in ("threads", "prefetch") if config.get(key)}
    return HostFeed(source, **common, **more)


def _fits_everywhere(fits: bool) -> bool:
    """Returns whether the set fits on every process: all must take the same feed."""
    import jax
    import numpy as np

    if jax.process_count() == 1:
        return fits
    from jax.experimental.multihost_utils import process_allgather

    return bool(np.all(process_allgather(np.array([fits]))))
