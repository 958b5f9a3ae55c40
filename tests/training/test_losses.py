from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmphn_jax.errors import UserError
from dmphn_jax.training import losses


def images(n, size=(8, 12), seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return [rng.uniform(-0.5, 0.5, (2, *size, 3)).astype(dtype) for _ in range(n)]


def output(*stages):
    """An output whose level 1 is each stage's image."""
    return SimpleNamespace(
        image=stages[-1][0], stages=tuple(levels[0] for levels in stages), levels=stages
    )


def test_mse_is_the_authors_mean():
    a, b = images(2)
    assert float(losses.mse(a, b)) == pytest.approx(np.mean((a - b) ** 2), rel=1e-6)
    # Eq. 10 is a constant times it.
    eq10 = 0.5 * np.sum((a - b) ** 2)
    assert float(losses.mse(a, b)) * a.size / 2 == pytest.approx(eq10, rel=1e-6)


def test_charbonnier_and_l1():
    a, b = images(2)
    d = a - b
    assert float(losses.charbonnier(a, b)) == pytest.approx(
        np.mean(np.sqrt(d * d + 1e-6)), rel=1e-6
    )
    assert float(losses.l1(a, b)) == pytest.approx(np.mean(np.abs(d)), rel=1e-5)


@pytest.mark.parametrize("size", [(8, 12), (7, 9), (6, 2), (5, 1)])
def test_half_spectrum_equals_the_whole_one(size):
    a, b = images(2, size)
    d = np.fft.fft2(a, axes=(1, 2)) - np.fft.fft2(b, axes=(1, 2))
    whole = np.mean(np.stack([np.abs(d.real), np.abs(d.imag)]))
    assert float(losses.fft_l1(a, b)) == pytest.approx(whole, rel=1e-5)
    assert float(losses.l1_fft(a, b)) == pytest.approx(
        np.mean(np.abs(a - b)) + 0.1 * whole, rel=1e-5
    )


@pytest.mark.parametrize("name", losses.LOSSES)
def test_zero_at_the_target_and_finite_gradient_there(name):
    (a,) = images(1)
    value, gradient = jax.value_and_grad(losses.LOSSES[name])(jnp.asarray(a), a)
    assert float(value) == pytest.approx(1e-3 if name == "charbonnier" else 0, abs=1e-7)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("name", losses.LOSSES)
def test_bfloat16_images_lose_no_more_than_their_own_rounding(name):
    a, b = images(2, size=(64, 64))
    low = jnp.asarray(a, jnp.bfloat16)
    got = losses.LOSSES[name](low, b)
    assert got.dtype == jnp.float32
    got = float(got)
    assert got == pytest.approx(float(losses.LOSSES[name](low.astype(jnp.float32), b)), rel=1e-6)
    # The sum of 24,576 terms would stall in bfloat16.
    assert got == pytest.approx(float(losses.LOSSES[name](a, b)), rel=5e-3)


@pytest.mark.parametrize("name", losses.LOSSES)
def test_sum_over_stages(name):
    sharp, s1, s1l2, s2, s2l2 = images(5)
    out = output((s1, s1l2), (s2, s2l2))

    def each(image, sharp):
        return float(losses.LOSSES[name](image, sharp))

    assert float(losses.training_loss(out, sharp, loss=name)) == pytest.approx(
        each(s1, sharp) + each(s2, sharp), rel=1e-6
    )
    assert float(losses.training_loss(out, sharp, loss=name, levels=True)) == pytest.approx(
        each(s1, sharp) + each(s1l2, sharp) + each(s2, sharp) + each(s2l2, sharp), rel=1e-6
    )


@pytest.mark.parametrize("levels", [False, True])
def test_every_scale_of_a_multi_scale_model(levels):
    sharp, full = images(2, size=(8, 12))
    (half,) = images(1, size=(4, 6), seed=1)
    (quarter,) = images(1, size=(2, 3), seed=2)
    out = output((full, half, quarter))
    halved = sharp[:, ::2, ::2] + sharp[:, 1::2, ::2] + sharp[:, ::2, 1::2] + sharp[:, 1::2, 1::2]
    want = np.mean((full - sharp) ** 2) + np.mean((half - halved / 4) ** 2)
    want += np.mean((quarter - sharp.reshape(2, 2, 4, 3, 4, 3).mean((2, 4))) ** 2)
    assert float(losses.training_loss(out, sharp, levels=levels)) == pytest.approx(want, rel=1e-5)


def test_average_refuses_what_does_not_divide():
    (a,) = images(1, size=(8, 12))
    np.testing.assert_array_equal(losses.average_to(a, (8, 12)), a)
    for size in [(3, 4), (4, 4), (8, 6)]:
        with pytest.raises(ValueError, match=r"8 x 12 images"):
            losses.average_to(a, size)


def test_unknown_loss_is_one_line():
    (a,) = images(1)
    with pytest.raises(UserError, match="did you mean 'charbonnier'"):
        losses.training_loss(output((a,)), a, loss="charbonier")
