"""Small networks of every family, and what they make of images."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from dmphn_jax.inference.deblurrer import Deblurrer
from tests.export.models import SIZES, blurry, network


@pytest.fixture(scope="session")
def expected():
    """What `Deblurrer` makes of `blurry` images: a function of name, stages, and whether floats."""

    @functools.cache
    def compute(name, stages=None, floats=False):
        config, params = network(name)
        deblurrer = Deblurrer(params=params, config=config, stages=stages)
        if not floats:
            return [deblurrer.batch(blurry(size)) for size in SIZES]
        images = [[deblurrer.output(image).image for image in blurry(size)] for size in SIZES]
        return [np.clip(np.stack(image), 0, 1) for image in images]

    return compute
