"""What tests of `dmphn deblur` share."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from dmphn_jax import checkpoints, models
from dmphn_jax.inference import deblurrer as inference
from dmphn_jax.models import ModelConfig
from tests.support.deblur import deblurrer_of


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A narrow network of random weights, saved."""
    config = ModelConfig(hierarchy="1", width=4)
    random = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: random.normal(0, 0.1, leaf.shape).astype(np.float32),
        models.parameter_shapes(config),
    )
    path = tmp_path_factory.mktemp("model") / "checkpoint"
    checkpoints.save(path, params, config)
    return str(path)


@pytest.fixture
def inverter(monkeypatch):
    """Puts a negative in the network's place."""
    negative = deblurrer_of(lambda image: np.iinfo(image.dtype).max - image)
    monkeypatch.setattr(inference, "Deblurrer", negative)
