"""What tests of the server share."""

from __future__ import annotations

import contextlib

import pytest

from dmphn_jax import checkpoints
from dmphn_jax.models import ModelConfig
from tests.support.browser import Tab, browser
from tests.support.films import pictures
from tests.support.networks import random_params
from tests.support.pictures import saved


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A narrow network of random weights, saved."""
    config = ModelConfig(hierarchy="1", width=4)
    path = tmp_path_factory.mktemp("model") / "checkpoint"
    checkpoints.save(path, random_params(config), config)
    return str(path)


@pytest.fixture(scope="module")
def chromium():
    with browser() as started:
        yield started


@pytest.fixture
def opened(chromium):
    """Opens addresses in tabs, which are closed after the test."""
    with contextlib.ExitStack() as tabs:
        yield lambda address, **options: tabs.enter_context(
            contextlib.closing(Tab(chromium, address, **options))
        )


@pytest.fixture
def photo(tmp_path):
    return saved(tmp_path / "a photo.png", pictures(1, (90, 160))[0])
