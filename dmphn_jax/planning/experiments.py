"""The experiment that a request plans: its config, its training set. No jax."""

from __future__ import annotations

from typing import Any

from dmphn_jax.errors import UserError
from dmphn_jax.planning.request import Request
from dmphn_jax.training import settings

GOPRO_PAIRS = 2103  # of the training set (Sec. 4.1)


def config_of(request: Request) -> Any:
    """Returns the config, checked, with what the request changes; raises UserError likewise."""
    config = settings.read(request.config, list(request.overrides))
    if request.precision:
        config.compute_dtype = request.precision
    if request.remat is not None:
        config.remat = request.remat
    settings.check(config)
    return config


def pairs_of(request: Request, config: Any) -> int:
    """Returns the number of training pairs; raises UserError where nothing tells it."""
    if request.pairs:
        return request.pairs
    if config.data.source == "gopro":
        return GOPRO_PAIRS
    if config.data.source == "synthetic":
        return config.data.count
    raise UserError(f"config.data.source = {config.data.source!r}: --pairs N tells its pairs")


def steps_of(config: Any, pairs: int, batch: int) -> tuple[int, int]:
    """Returns the steps of an epoch and of the whole run at a batch."""
    epoch = max(1, pairs // batch)
    return epoch, config.num_steps or config.num_epochs * epoch
