"""Patch grids: splitting and joining are inverse, and patches are what slicing gives."""

import jax.numpy as jnp
import numpy as np
import pytest

from dmphn_jax.models.patches import GRIDS, join_patches, split_patches


@pytest.mark.parametrize("grid", GRIDS.values())
@pytest.mark.parametrize("batch", [1, 2, 3, 5])
def test_join_inverts_split(grid, batch):
    rows, columns = grid
    x = np.random.default_rng(0).normal(size=(batch, 3 * rows, 5 * columns, 2))
    patches = split_patches(jnp.asarray(x), grid)
    assert patches.shape == (batch * rows * columns, 3, 5, 2)
    np.testing.assert_array_equal(join_patches(patches, grid), jnp.asarray(x))
    np.testing.assert_array_equal(split_patches(join_patches(patches, grid), grid), patches)


@pytest.mark.parametrize("grid", GRIDS.values())
def test_patches_are_slices_row_by_row(grid):
    rows, columns = grid
    x = jnp.arange(2 * 8 * 12 * 3).reshape(2, 8, 12, 3)
    h, w = 8 // rows, 12 // columns
    expected = [
        x[b, r * h : (r + 1) * h, c * w : (c + 1) * w]
        for b in range(2)
        for r in range(rows)
        for c in range(columns)
    ]
    np.testing.assert_array_equal(split_patches(x, grid), np.stack(expected))


def test_grids_of_the_paper():
    # Two patches are the top and the bottom half (Sec. 3.2).
    assert GRIDS == {1: (1, 1), 2: (2, 1), 4: (2, 2), 8: (4, 2), 16: (4, 4)}


def test_sizes_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="2x2 patch grid does not divide 5x4"):
        split_patches(jnp.zeros((1, 5, 4, 3)), (2, 2))
    with pytest.raises(ValueError, match="3 patches do not fill 2x1"):
        join_patches(jnp.zeros((3, 4, 4, 3)), (2, 1))
