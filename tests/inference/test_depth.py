"""A budget of time decides how many stages run."""

import jax
import numpy as np
import pytest

from dmphn_jax.inference.deblurrer import Deblurrer
from dmphn_jax.inference.depth import WithinBudget, milliseconds
from dmphn_jax.models import ModelConfig
from tests.support.networks import random_params

CONFIG = ModelConfig(hierarchy="1", stages=3, width=1)


@pytest.fixture(scope="module")
def whole():
    return Deblurrer(params=random_params(CONFIG), config=CONFIG)


def noise(*size):
    return np.random.default_rng(0).integers(0, 256, (1, *size, 3), np.uint8)


@pytest.mark.parametrize(("budget", "stages", "measured"), [(5, 1, 1), (25, 2, 3), (30, 3, 3)])
def test_the_deepest_that_fits(whole, budget, stages, measured):
    choices = []
    method = WithinBudget(
        whole, budget, on_choice=choices.append, measure=lambda cut, image: 10.0 * cut.stages
    )
    image = noise(12, 16)
    result = method.submit(image).result()
    alone = Deblurrer(params=whole.params, config=CONFIG, stages=stages)
    np.testing.assert_array_equal(result, alone.batch(image))
    method.submit(image).result()  # measured once
    (choice,) = choices
    assert (choice.size, choice.stages, choice.of) == ((12, 16), stages, 3)
    assert choice.times == tuple(10.0 * n for n in range(1, measured + 1))
    assert str(choice).startswith(f"16x12: {stages} of 3 stages, {10 * stages} ms")
    assert ("(3 take 30 ms)" in str(choice)) == (stages == 2)


def test_each_size_has_its_own_depth(whole):
    choices = []
    method = WithinBudget(
        whole,
        1000,
        on_choice=choices.append,
        measure=lambda cut, image: cut.stages * image.size,
    )
    for size in ((8, 8), (16, 20), (8, 7)):  # the last is padded to the first
        assert method.submit(noise(*size)).result().shape == (1, *size, 3)
    assert [(choice.size, choice.stages) for choice in choices] == [((8, 8), 3), ((16, 20), 1)]


def test_sizes_that_share_a_program_share_a_measurement(whole):
    choices = []
    method = WithinBudget(whole, 1, on_choice=choices.append, measure=lambda cut, image: 0.5)
    sizes = [(8 + 4 * n, 12) for n in range(9)]
    method.compile_for(sizes)
    for size in sizes[:3]:
        method.submit(noise(*size))
    assert len(choices) < 3


def test_measuring_waits_for_results(whole):
    assert milliseconds(whole, noise(8, 8), runs=1) > 0
    assert jax.device_count() == len(whole.devices)
