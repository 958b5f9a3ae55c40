"""What tests of the server share."""

from __future__ import annotations

import pytest

from dmphn_jax import checkpoints
from dmphn_jax.models import ModelConfig
from tests.support.networks import random_params


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A narrow network of random weights, saved."""
    config = ModelConfig(hierarchy="1", width=4)
    path = tmp_path_factory.mktemp("model") / "checkpoint"
    checkpoints.save(path, random_params(config), config)
    return str(path)
