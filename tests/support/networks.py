"""Weights and images for tests of networks."""

from __future__ import annotations

import jax
import numpy as np

from dmphn_jax.models import init_params


def random_params(config, seed=0):
    """The paper's initial weights with biases that are not zero."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda x: np.asarray(x) if x.ndim == 4 else rng.normal(0, 0.1, x.shape).astype("f4"),
        init_params(config, seed),
    )


def random_image(batch=2, seed=1):
    """An image every model takes, so that the tests share their compiled operations."""
    return np.random.default_rng(seed).uniform(-0.5, 0.5, (batch, 32, 16, 3)).astype("f4")
