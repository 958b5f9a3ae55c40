"""The folded layout computes what the plain one computes."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from dmphn_jax.errors import UserError
from dmphn_jax.models import (
    LAYOUTS,
    build,
    convolutions_for,
    convolutions_named,
    init_params,
    parameter_shapes,
    zoo,
)
from dmphn_jax.models.folded import images, strips
from dmphn_jax.models.folded.planes import Blocks, taps
from dmphn_jax.models.patches import join_patches, split_patches
from dmphn_jax.runtime import data_mesh
from tests.support.networks import random_params

ROOT = Path(__file__).resolve().parents[2]
FOLDED = convolutions_named("folded")


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def test_outputs_and_gradients_are_those_of_the_plain_layout():
    """In float64, to 1e-12 of their scale: in float32 both layouts round."""
    script = ROOT / "tools" / "folded_equality.py"
    done = subprocess.run(
        [sys.executable, script, "--quick"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("\n") == 4


@pytest.mark.parametrize("name", ["dmphn_1_2", "dmsn_2"])
def test_parameters_and_float32_images(name):
    config = dataclasses.replace(zoo.get(name), width=8)
    image = draw(2, 32, 48, 3) / 4
    module = build(config, convolutions=FOLDED)
    shapes = jax.eval_shape(module.init, jax.random.key(0), image)["params"]
    assert shapes == parameter_shapes(config)
    params = random_params(config)
    plain = jax.jit(build(config).apply)({"params": params}, image)
    folded = jax.jit(module.apply)({"params": params}, image)
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(folded), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-6 * np.abs(a).max())


def test_bfloat16_stays_as_close_to_float32_as_the_plain_layout():
    config = dataclasses.replace(zoo.get("dmphn_1_2"), width=8)
    params, image = random_params(config), draw(1, 32, 48, 3) / 4

    def output(dtype, layout):
        module = build(config, dtype, convolutions=convolutions_named(layout))
        return np.asarray(jax.jit(module.apply)({"params": params}, image).image)

    exact = output("float32", "xla")
    errors = {layout: np.abs(output("bfloat16", layout) - exact).mean() for layout in LAYOUTS}
    assert 0 < errors["folded"] < 1.3 * errors["xla"]


def test_recomputation_changes_no_gradient():
    config = dataclasses.replace(zoo.get("dmphn_1"), width=4)
    params, image = init_params(config), draw(1, 16, 16, 3)

    def gradient(remat):
        module = build(config, remat=remat, convolutions=FOLDED)
        return jax.jit(jax.grad(lambda p: jnp.sum(module.apply({"params": p}, image).image)))(
            params
        )

    for a, b in zip(jax.tree.leaves(gradient(False)), jax.tree.leaves(gradient(True)), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-6 * np.abs(a).max())


def test_a_batch_shared_among_devices():
    config = dataclasses.replace(zoo.get("dmphn_1_2"), width=4)
    params, image = random_params(config), draw(4, 16, 32, 3)
    program = jax.jit(build(config, convolutions=FOLDED).apply)
    alone = program({"params": params}, image).image
    shared = jax.device_put(image, NamedSharding(data_mesh(jax.devices()), PartitionSpec("data")))
    np.testing.assert_allclose(program({"params": params}, shared).image, alone, atol=2e-6)


def test_images_fold_and_unfold_to_the_same_bits():
    for shape in ((1, 8, 64, 3), (2, 12, 20, 3), (3, 4, 132, 3)):
        image = draw(*shape)
        folded = images.fold_image(image)
        assert folded.shape == (shape[0], shape[1] // 4, shape[2] // 4, 48)
        np.testing.assert_array_equal(images.unfold_image(folded), image)
    # A block holds its pixels row by row.
    np.testing.assert_array_equal(images.fold_image(draw(1, 4, 4, 3))[0, 0, 0], draw(48))


@pytest.mark.parametrize("grid", [(1, 1), (2, 1), (2, 2), (4, 2)])
def test_patches_are_the_same_in_another_order(grid):
    x = draw(3, 8, 8, 2)
    ours, plain = images.split_patches(x, grid), split_patches(x, grid)
    count = grid[0] * grid[1]
    np.testing.assert_array_equal(
        jnp.reshape(jnp.moveaxis(jnp.reshape(ours, (count, 3, -1)), 0, 1), (3 * count, -1)),
        jnp.reshape(plain, (3 * count, -1)),
    )
    np.testing.assert_array_equal(images.join_patches(ours, grid), x)
    np.testing.assert_array_equal(join_patches(plain, grid), x)


def test_strips_fill_eight_rows_where_they_can():
    assert [strips.strip_count(batch, 320) for batch in (1, 2, 4, 6, 8, 16)] == [8, 4, 2, 4, 1, 1]
    assert strips.strip_count(1, 7) == 1  # no number of strips up to eight divides it
    for batch, width in ((1, 16), (2, 12), (3, 8)):
        count = strips.strip_count(batch, width)
        x = draw(batch, 3, width, 2)
        cut = strips.cut(x, count)
        assert cut.shape[0] == batch * count
        own = cut[:, :, 1:-1] if count > 1 else cut
        np.testing.assert_array_equal(strips.join(own, count), x)
        np.testing.assert_array_equal(strips.exchange(cut, count), cut)


def test_taps_of_blocks_of_one_pixel_are_the_convolutions_own():
    axis = Blocks(1, 0, 5)
    found = taps(axis, axis, "same")
    assert (found.stride, found.dilation, found.padding) == (1, 1, (1, 1))
    np.testing.assert_array_equal(found.place[:, 0, 0], np.eye(3))


def test_which_platform_takes_it():
    assert convolutions_for("tpu") == FOLDED
    assert convolutions_for("cpu") != FOLDED
    with pytest.raises(UserError, match="did you mean 'folded'"):
        convolutions_named("foldet")
