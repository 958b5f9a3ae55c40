import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from dmphn_jax.data import augment as A
from dmphn_jax.errors import UserError

augment = jax.jit(A.augment, static_argnames="recipe")


def images(seed, batch=8, size=6):
    return np.random.default_rng(seed).integers(0, 256, (batch, size, size, 3), np.uint8)


@pytest.mark.parametrize("k", range(-1, 6))
def test_quarter_turns_are_numpys(k):
    x = images(0)
    got = A.quarter_turns(jnp.asarray(x), jnp.full(len(x), k))
    np.testing.assert_array_equal(got, np.rot90(x, k, axes=(1, 2)))


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=8, max_size=8), st.integers(0, 99))
def test_quarter_turns_compose_to_the_identity(turns, seed):
    x, turns = jnp.asarray(images(seed)), jnp.asarray(turns)
    np.testing.assert_array_equal(A.quarter_turns(A.quarter_turns(x, turns), 4 - turns), x)
    y = x
    for _ in range(4):
        y = A.quarter_turns(y, jnp.ones(8, jnp.int32))
    np.testing.assert_array_equal(y, x)


def test_saturation_one_is_the_identity_and_zero_is_grey():
    x = images(1).astype(np.float32) / 255
    np.testing.assert_array_equal(A.saturation(jnp.asarray(x), jnp.ones(8)), x)
    grey = np.asarray(A.saturation(jnp.asarray(x), jnp.zeros(8)))
    np.testing.assert_allclose(grey, np.repeat(grey[..., :1], 3, -1), atol=1e-6)


@pytest.mark.parametrize("factor", [0.0, 0.8, 0.95, 1.0, 1.2])
def test_saturation_is_pils(factor):
    x = images(2, batch=3, size=16)
    got = 255 * A.saturation(jnp.asarray(x, jnp.float32) / 255, jnp.full(3, factor))
    expected = [ImageEnhance.Color(Image.fromarray(i)).enhance(factor) for i in x]
    np.testing.assert_allclose(got, np.stack(expected).astype(float), atol=1.5)


@settings(max_examples=10, deadline=None)
@given(st.sampled_from(sorted(A.RECIPES)), st.integers(0, 2**31 - 1))
def test_pairs_stay_aligned(recipe, seed):
    # The same picture on both sides must come out as the same picture, whatever was drawn.
    x = images(seed)
    blurry, sharp = augment(jax.random.key(seed), x, x, recipe=recipe)
    np.testing.assert_array_equal(blurry, sharp)
    assert blurry.dtype == jnp.float32
    assert blurry.shape == x.shape
    assert float(blurry.min()) >= 0
    assert float(blurry.max()) <= 1


def grey_marks(batch):
    # A grey picture without symmetry: saturation leaves it alone, so geometry shows by itself.
    grey = np.random.default_rng(3).permutation(25).reshape(1, 5, 5, 1).astype(np.uint8) * 10
    return np.broadcast_to(grey, (batch, 5, 5, 3)).copy()


def orientations(x):
    turned = [np.rot90(x, k) for k in range(4)]
    return turned + [t[:, ::-1] for t in turned]


@pytest.mark.parametrize(("recipe", "drawn"), [("none", {0}), ("stack", {1, 2, 3})])
def test_recipe_draws_its_orientations(recipe, drawn):
    assert seen_orientations(recipe) == drawn


def test_modern_draws_all_eight_symmetries():
    assert seen_orientations("modern") == set(range(8))


def seen_orientations(recipe):
    x = grey_marks(128)
    out = np.rint(255 * np.asarray(augment(jax.random.key(0), x, x, recipe=recipe)[0]))
    known = orientations(x[0])
    return {next(k for k, o in enumerate(known) if np.array_equal(o, image)) for image in out}


@pytest.mark.parametrize("recipe", ["stack", "modern"])
def test_saturation_factors_fill_their_range(recipe):
    # For a single colour the factor can be read off: (out - grey) / (in - grey).
    colour = np.array([120, 100, 90], np.uint8)
    x = np.broadcast_to(colour, (512, 2, 2, 3)).copy()
    out = 255 * np.asarray(augment(jax.random.key(5), x, x, recipe=recipe)[0])[:, 0, 0]
    grey = colour @ np.asarray(A.LUMA)
    factors = (out[:, 0] - grey) / (120 - grey)
    assert 0.8 - 1e-3 <= factors.min() < 0.81
    assert 1.19 < factors.max() <= 1.2 + 1e-3
    assert abs(factors.mean() - 1) < 0.02


def test_none_is_exact_and_keys_decide():
    x, y = images(6), images(7)
    blurry, sharp = augment(jax.random.key(0), x, y, recipe="none")
    np.testing.assert_array_equal(np.rint(np.asarray(blurry) * 255), x)
    np.testing.assert_array_equal(np.rint(np.asarray(sharp) * 255), y)
    one = augment(jax.random.key(1), x, y, recipe="modern")
    np.testing.assert_array_equal(one[0], augment(jax.random.key(1), x, y, recipe="modern")[0])
    assert not np.array_equal(one[0], augment(jax.random.key(2), x, y, recipe="modern")[0])


def test_mistakes_are_one_line():
    x = jnp.asarray(images(0))
    with pytest.raises(UserError, match="'modern'"):
        A.augment(jax.random.key(0), x, x, "moderne")
    with pytest.raises(UserError, match="square"):
        A.augment(jax.random.key(0), x[:, :4], x[:, :4], "stack")
    wide, _ = A.augment(jax.random.key(0), x[:, :4], x[:, :4], "none")
    assert wide.shape == (8, 4, 6, 3)
