"""The experiment that a request plans: its config, its training set. No jax."""

from __future__ import annotations

from typing import Any

from dmphn_jax.data import splits
from dmphn_jax.data.options import steps_per_epoch
from dmphn_jax.errors import UserError
from dmphn_jax.planning.request import Request
from dmphn_jax.training import settings

# Of the training sets.
_PAIRS = {
    "gopro": sum(last - first + 1 for first, last in splits.GOPRO["train"].values()),
    "video_deblurring": splits.VIDEO_DEBLURRING_PAIRS["train"],
}


def config_of(request: Request) -> Any:
    """Returns the config, checked, with what the request changes; raises UserError likewise."""
    config = settings.read(request.config, list(request.overrides))
    if request.precision:
        config.compute_dtype = request.precision
    if request.layout:
        config.layout = request.layout
    if request.remat is not None:
        config.remat = request.remat
    settings.check(config)
    return config


def pairs_of(request: Request, config: Any) -> int:
    """Returns the number of training pairs; raises UserError where nothing tells it."""
    if request.pairs:
        return request.pairs
    if config.data.source == "synthetic":
        return config.data.count
    if config.data.source in _PAIRS:
        return _PAIRS[config.data.source]
    raise UserError(f"config.data.source = {config.data.source!r}: --pairs N tells its pairs")


def steps_of(config: Any, pairs: int, batch: int) -> tuple[int, int]:
    """Returns the steps of an epoch and of the whole run at a batch."""
    epoch = steps_per_epoch(pairs, batch)
    return epoch, settings.steps_of(config, epoch)
