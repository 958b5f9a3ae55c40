"""The networks and images that tests of exported files share."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from dmphn_jax.models import zoo
from tests.support.networks import random_params

# Batch, height, width: padded to one size, so that `Deblurrer` compiles once.
SIZES = ((3, 19, 31), (3, 24, 26))
NAMES = ("dmphn_1_2_4", "dmphn_1_4_16", "dmphn_1_2_ws", "stack2", "vmphn_1_2", "dmsn_2")


@functools.cache
def network(name):
    """A model of the zoo with two channels, and random weights; `+skip` for a global skip."""
    name, _, skip = name.partition("+")
    config = dataclasses.replace(zoo.get(name), width=2, global_skip=bool(skip))
    return config, random_params(config)


def blurry(size):
    """Random images (B, H, W, 3) uint8."""
    return np.random.default_rng(size[1]).integers(0, 256, (*size, 3), dtype=np.uint8)


def as_floats(images):
    """Images as files of `--pixels float` take them."""
    return images / np.float32(255)


def largest(made, wanted):
    """The largest difference, of arrays that must have one shape and dtype."""
    assert (made.shape, made.dtype) == (wanted.shape, wanted.dtype)
    return float(np.max(np.abs(made.astype(np.float32) - wanted.astype(np.float32))))
