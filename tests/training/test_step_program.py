"""What the compiled training step holds, and what it must not."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmphn_jax.models import ModelConfig, build, init_params
from dmphn_jax.runtime import data_mesh
from dmphn_jax.training import prepare
from dmphn_jax.training.loop import train
from dmphn_jax.training.optimizer import make_optimizer
from dmphn_jax.training.state import init_state
from dmphn_jax.training.step import StepOptions, make_train_step
from tests.support.training import ArrayFeed, tiny_config

# Operations by which a program on the device waits for its host.
HOST = re.compile(r"= \S.* (infeed|outfeed|send|recv)\(|custom_call_target=\"[^\"]*callback")


def step_of(config, model, **options):
    """(step, its arguments) of a model, compiled for the first device."""
    mesh = data_mesh(jax.devices()[:1])
    feed = ArrayFeed(config, mesh)
    tx, schedule = make_optimizer(config.optimizer, 5, config.num_steps)
    step = make_train_step(build(model), tx, schedule, feed.crops, mesh, StepOptions(**options))
    state = init_state(init_params(model), tx, mesh, ema=config.ema_decay > 0)
    return step, (state, feed.resident, feed.next(1))


@pytest.fixture(scope="module")
def program():
    """The optimised HLO of a step of DMPHN(1-2), augmented, averaged."""
    config = tiny_config(crop_size=16)
    step, arguments = step_of(
        config, ModelConfig(hierarchy="1-2", width=2), recipe="stack", ema_decay=0.9
    )
    return step.lower(*arguments).compile().as_text()


def test_the_step_never_waits_for_the_host(program):
    assert not HOST.search(program)


def test_the_step_holds_no_float64(program):
    assert "f32[" in program
    assert "f64[" not in program


def test_the_searches_find_what_they_look_for():
    def printing(x):
        jax.debug.print("{}", x)
        return x

    def text(function):
        return jax.jit(function).lower(np.float32(1)).compile().as_text()

    assert HOST.search(text(printing))
    with jax.enable_x64(True):
        assert "f64[" in text(lambda x: jnp.float64(x))


@pytest.mark.usefixtures("compiled_once")
def test_a_run_compiles_its_step_once(tmp_path, monkeypatch):
    steps = []

    def recorded(*args, **kwargs):
        steps.append(make_train_step(*args, **kwargs))
        return steps[-1]

    monkeypatch.setattr(prepare, "make_train_step", recorded)
    config = tiny_config(num_steps=9)  # checkpoints at 4, 8 and 9
    train(config, tmp_path, feed=ArrayFeed(config, data_mesh()))
    (step,) = steps
    assert step._cache_size() == 1
