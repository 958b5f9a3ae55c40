"""The thread that computes."""

import threading

import jax
import numpy as np
import pytest

from dmphn_jax.inference.deblurrer import Deblurrer
from dmphn_jax.models import ModelConfig
from dmphn_jax.serving import engine
from dmphn_jax.serving.engine import Engine, How, Stopped
from tests.support.networks import random_params
from tests.support.pictures import noise
from tests.support.serving import WAIT, Negative

CONFIG = ModelConfig(hierarchy="1", width=4, stages=2)
GO_ON = threading.Event()


@pytest.fixture
def started():
    """Makes engines, which end with the test."""
    made = []

    def start(deblurrer):
        made.append(Engine(deblurrer))
        return made[-1]

    yield start
    for each in made:
        each.close()


def test_the_programs_of_so_many_sizes_are_held_and_no_more(started, monkeypatch):
    cleared = []
    monkeypatch.setattr(engine, "_PROGRAMS", 2)
    monkeypatch.setattr(engine.jax, "clear_caches", lambda: cleared.append(len(seen)))
    computing, seen = started(Negative()), []
    for size in (8, 12, 8, 12, 16, 16, 8, 12):
        seen.append(size)
        computing.start(noise(1, size, 8, 3), How(2), GO_ON).result(WAIT)
    assert cleared == [5, 8]


def test_what_is_computed_is_the_networks_after_programs_were_forgotten(started, monkeypatch):
    monkeypatch.setattr(engine, "_PROGRAMS", 1)
    params = random_params(CONFIG)
    network = Deblurrer(params=params, config=CONFIG)
    computing, image = started(network), noise(1, 16, 20, 3)
    expected = {stages: network.with_stages(stages).batch(image) for stages in (1, 2)}
    for stages in (1, 2, 1):
        result = computing.start(image, How(stages), GO_ON).result(WAIT)
        np.testing.assert_array_equal(result, expected[stages])


def test_a_size_that_was_warmed_compiles_nothing_more(started):
    one = {"stages": 1, "devices": jax.local_devices()[:1]}
    network = Deblurrer(params=random_params(CONFIG), config=CONFIG, **one)
    computing, program = started(network), network.programs.quantised
    before = program._cache_size()
    computing.warm_up([(24, 8)]).result(WAIT)
    assert computing.ready.is_set()
    assert program._cache_size() == before + 1
    computing.start(noise(1, 24, 8, 3), How(1), GO_ON).result(WAIT)
    assert program._cache_size() == before + 1


def test_tiles_stop_between_two_of_them(started, monkeypatch):
    network = Deblurrer(params=random_params(CONFIG), config=CONFIG, tile=64, overlap=0)
    stop, tiles = threading.Event(), []
    run_tile = network._run_tile

    def counted(*arguments):
        tiles.append(arguments)
        stop.set()
        return run_tile(*arguments)

    monkeypatch.setattr(network, "_run_tile", counted)
    with pytest.raises(Stopped):
        started(network).start(noise(1, 96, 80, 3), How(2), stop).result(WAIT)
    assert len(tiles) == 1


def test_what_comes_after_the_end_is_stopped(started):
    computing = started(Negative())
    computing.close()
    with pytest.raises(Stopped):
        computing.start(noise(1, 8, 8, 3), How(2), GO_ON)
