"""The formulation for GPUs computes what the plain one does; what cuDNN gets: tests/planning."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmphn_jax.models import build, convolutions_named, zoo
from dmphn_jax.models.convolutions import XLA, Convolution
from tests.support.networks import random_image, random_params

CUDNN = convolutions_named("cudnn")
BLOCKS = convolutions_named("cudnn-blocks")
EXACT = jax.lax.Precision.HIGHEST
KINDS = [
    Convolution(relu=True, precision=EXACT),
    Convolution(stride=2, precision=EXACT),
    Convolution(transposed=True, precision=EXACT),
]


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("f4")


def values_and_gradients(function, *arguments):
    y, backward = jax.vjp(function, *arguments)
    return y, *backward(jnp.asarray(draw(*y.shape, seed=9), y.dtype))


def assert_close(ours, theirs, share):
    """Within a share of the largest value."""
    assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
    ours, theirs = (np.asarray(x, np.float32) for x in (ours, theirs))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=share * np.abs(theirs).max())


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("kind", KINDS, ids=["plain", "strided", "transposed"])
def test_values_and_gradients_are_the_plain_ones(kind, residual):
    size = 4 if kind.transposed else 3
    arguments = [draw(2, 6, 10, 4), draw(size, size, 4, 8, seed=1), draw(8, seed=2)]
    if residual:
        shape = XLA.convolve(kind, *arguments).shape
        arguments.append(draw(*shape, seed=3))
    ours, theirs = (
        values_and_gradients(functools.partial(c.convolve, kind), *arguments) for c in (CUDNN, XLA)
    )
    for a, b in zip(ours, theirs, strict=True):
        assert_close(a, b, 1e-6)


def outcome(config, params, x, dtype, convolutions):
    """A model's images, and the gradients of its loss."""
    module = build(config, dtype, convolutions=convolutions)

    @jax.jit
    def run(params):
        def loss(params):
            stages = module.apply({"params": params}, x).stages
            return sum(jnp.mean(image**2) for image in stages), stages

        return jax.grad(loss, has_aux=True)(params)

    return run(params)


@pytest.mark.parametrize(
    ("name", "formulation"),
    [
        ("stack2_dmphn_1_2_ws", CUDNN),
        ("dmsn_2", CUDNN),
        ("dmphn_1_2", BLOCKS),
        ("dmsn_2", BLOCKS.in_tf32()),  # on a CPU that is float32
    ],
    ids=["stack", "dmsn", "blocks", "tf32"],
)
def test_float32_models_are_the_plain_ones(name, formulation):
    config = dataclasses.replace(zoo.get(name), width=4)
    params, x = random_params(config), random_image()
    ours, theirs = (outcome(config, params, x, "float32", c) for c in (formulation, XLA))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert_close(a, b, 5e-6)


# Low precision


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_nothing_of_an_image_is_lost(dtype):
    """Kernels that copy a channel show what the first convolution reads."""
    x = np.full((1, 4, 4, 3), 0.5, "f4") + np.arange(3) / 1024  # bfloat16 has 1/256 there
    kernel = np.zeros((3, 3, 3, 2), "f4")
    kernel[1, 1, 0] = -1
    kernel[1, 1, 1:] = np.eye(2)
    y = CUDNN.convolve(Convolution(output=jnp.dtype(dtype)), x, kernel, np.zeros(2, "f4"))
    assert y.dtype == dtype
    np.testing.assert_array_equal(y[0, 1, 1].astype("f4"), [1 / 1024, 2 / 1024])


@pytest.mark.parametrize(("dtype", "share"), [("bfloat16", 2**-8), ("float16", 2**-11)])
def test_convolutions_of_images_cost_one_rounding(dtype, share):
    to_features = Convolution(precision=EXACT, output=jnp.dtype(dtype))
    to_image = Convolution(precision=EXACT)
    features = jnp.asarray(draw(2, 8, 8, 16), dtype)
    low = functools.partial(jnp.asarray, dtype=dtype)
    for kind, x, kernel, bias in (
        (to_features, draw(2, 8, 8, 3), draw(3, 3, 3, 16), draw(16)),
        (to_image, features, draw(3, 3, 16, 3), draw(3)),
    ):
        kernel = np.asarray(low(kernel), "f4")  # what is rounded is known
        ours, theirs = (
            values_and_gradients(functools.partial(c.convolve, kind), x, kernel, bias)
            for c in (CUDNN, XLA)
        )
        for a, b in zip(ours, theirs, strict=True):
            assert_close(a, b, 2 * share)


@pytest.mark.parametrize(
    ("dtype", "formulation"),
    [("bfloat16", CUDNN), ("float16", CUDNN), ("float16", BLOCKS)],
    ids=["bfloat16", "float16", "blocks"],
)
def test_low_precision_is_as_close_as_the_plain_one(dtype, formulation):
    config = dataclasses.replace(zoo.get("dmphn_1"), width=8)
    params, x = random_params(config), random_image()
    exact = jax.tree.leaves(outcome(config, params, x, "float32", XLA))
    ours, theirs = (
        jax.tree.leaves(outcome(config, params, x, dtype, c)) for c in (formulation, XLA)
    )

    def error(leaves):
        shares = [np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in zip(leaves, exact)]
        return np.mean(shares)

    assert 0 < error(ours) < 1.1 * error(theirs)
