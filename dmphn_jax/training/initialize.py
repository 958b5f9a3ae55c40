"""Initial weights of a run: the paper's random ones, or those of a checkpoint."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax

from dmphn_jax import checkpoints
from dmphn_jax.errors import UserError
from dmphn_jax.models import ModelConfig, init_params, zoo


def initial_params(
    config: ModelConfig, *, seed: int = 0, init_from: str = "", missing: str = "last"
) -> tuple[Any, str]:
    """Returns parameters (nested dict of float32 arrays) and a line that says where from.

    A checkpoint of a shallower stack of the same unit gives its stages to the first stages of a
    deeper one (the authors' stacks take weeks; users grow them stage by stage). The remaining
    stages are copies of its last stage, or random. Copying suits stages 2 and up, which all do
    the same work on the previous stage's output. A deeper stack gives its first stages.

    Args:
      config: the model to train.
      seed: of random weights.
      init_from: a checkpoint folder, a training run's step folder included, or a released model's
        name; "" for none.
      missing: of `settings.MISSING`: what stages that the checkpoint lacks begin with.

    Raises UserError in one line if the checkpoint cannot be used or is of another unit.
    """
    if not init_from:
        return init_params(config, seed), f"random, seed {seed}"
    params, found, _, _ = checkpoints.load(init_from)
    _refuse_other_unit(config, found, init_from)
    result = {}
    fresh = init_params(config, seed) if found.stages < config.stages else {}
    for stage in range(1, config.stages + 1):
        name = f"stage_{stage}"
        if stage <= found.stages:
            result[name] = params[name]
        elif missing == "last":
            result[name] = _like(params[f"stage_{found.stages}"], fresh[name])
        else:
            result[name] = fresh[name]
    origin = f"{init_from} ({zoo.name_of(found)})"
    if found.stages < config.stages:
        what = f"copies of stage {found.stages}" if missing == "last" else "random"
        first = found.stages + 1
        last = f" to {config.stages}" if config.stages > first else ""
        origin += f"; stage {first}{last}: {what}"
    return result, origin


def check(config: ModelConfig, init_from: str) -> None:
    """Raises UserError if the checkpoint is none or of another unit; reads no weights."""
    found = ModelConfig.from_dict(checkpoints.read_model_item(init_from)["model"])
    _refuse_other_unit(config, found, init_from)


def _refuse_other_unit(config: ModelConfig, found: ModelConfig, init_from: str) -> None:
    for field in dataclasses.fields(ModelConfig):
        wanted, has = getattr(config, field.name), getattr(found, field.name)
        if wanted != has and field.name != "stages":
            raise UserError(
                f"config.init_from = {init_from}: its model {zoo.name_of(found)} has "
                f"{field.name} = {has!r}, config.model asks for {wanted!r}"
            )


def _like(params: Any, template: Any) -> Any:
    if jax.tree.structure(params) != jax.tree.structure(template):
        raise UserError("config.init_missing = 'last': stages differ in structure; take 'random'")
    return params
