"""Run by test_multi_device in a process of 8 virtual devices: the same steps on 1, 4 and 8."""

from __future__ import annotations

import json
import re
import sys

import jax
import numpy as np

from dmphn_jax.models import build, init_params
from dmphn_jax.runtime import data_mesh
from dmphn_jax.training import settings
from dmphn_jax.training.optimizer import make_optimizer
from dmphn_jax.training.state import init_state
from dmphn_jax.training.step import StepOptions, make_train_step
from tests.support.training import ArrayFeed, tiny_config


def main(output: str) -> None:
    config = tiny_config(batch_size=8, ema_decay=0.5, augment="stack")
    model = settings.model_of(config)
    tx, schedule = make_optimizer(config.optimizer, 5, 8)
    result, hlo = {}, ""
    for count in (1, 8):
        mesh = data_mesh(jax.devices()[:count])
        feed = ArrayFeed(config, mesh)
        options = StepOptions(recipe="stack", ema_decay=0.5)
        step = make_train_step(build(model), tx, schedule, feed.crops, mesh, options)
        state = init_state(init_params(model), tx, mesh, ema=True)
        if count == 8:
            step = step.lower(state, None, feed.next(1)).compile()
            hlo = step.as_text()
            feed.restore({"step": 0})
        for _ in range(3):
            state, metrics = step(state, None, feed.next(1))
        leaves = jax.tree.leaves(state.params) + jax.tree.leaves(state.ema)
        result[str(count)] = np.concatenate([np.asarray(x).ravel() for x in leaves])
        result[f"{count} loss"] = np.asarray(metrics["loss"])
    np.savez(output, **result)
    communications = re.findall(r"= \S.* (all-\w+|collective-\w+|reduce-scatter)(?:-start)?\(", hlo)
    print(json.dumps(communications))


if __name__ == "__main__":
    main(sys.argv[1])
