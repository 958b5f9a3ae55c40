"""Narrow models' weights as the authors' files."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from dmphn_jax import models
from dmphn_jax.checkpoints.torch import names as torch_names
from dmphn_jax.checkpoints.torch.reading import params_from_torch
from dmphn_jax.checkpoints.torch.writing import write_torch
from dmphn_jax.errors import UserError
from dmphn_jax.models import ModelConfig, zoo

WIDTH = 2
parameter_shapes = functools.cache(models.parameter_shapes)


def random_params(config: ModelConfig, seed: int = 0):
    """A tree as the model itself asks for it, of random bits' worth of float32."""
    rng = np.random.default_rng(seed)
    shapes = parameter_shapes(config)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)


def assert_same_bits(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
        x, y = np.asarray(x), np.asarray(y)
        assert x.dtype == y.dtype == np.float32
        assert x.tobytes() == y.tobytes()


def narrow(name: str) -> ModelConfig:
    return dataclasses.replace(zoo.get(name), width=WIDTH)


def make_files(folder, name: str, sidecar: bool = False):
    """Writes a model's files, as the authors do without a word on the model."""
    config = narrow(name)
    params = random_params(config)
    write_torch(params, config, folder)
    if not sidecar:
        (folder / torch_names.MODEL_FILE).unlink()
    return params, config


def fails(folder, model=None) -> str:
    with pytest.raises(UserError) as error:
        params_from_torch(folder, model, note=lambda text: None)
    assert "\n" not in str(error.value)
    return str(error.value)
