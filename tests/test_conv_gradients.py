"""The CPU's formulations of gradients equal those that XLA derives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmphn_jax import runtime
from dmphn_jax.models import conv
from dmphn_jax.models.blocks import ResidualBlock

EXACT = jax.lax.Precision.HIGHEST


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("f4")


def gradients(function, g, *arguments):
    """The gradients of every argument, compiled, and the program."""

    def run(g, *arguments):
        return jax.vjp(function, *arguments)[1](g)

    program = jax.jit(run).lower(g, *arguments)
    return program.compile()(g, *arguments), program.as_text()


def assert_equal(ours, derived):
    for a, b in zip(ours, derived, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6 * np.abs(b).max(), rtol=0)


@pytest.mark.parametrize(
    ("stride", "channels", "features"), [(1, 4, 6), (1, 6, 3), (2, 4, 6), (2, 6, 3)]
)
def test_convolution(stride, channels, features):
    x, kernel = draw(2, 8, 12, channels), draw(3, 3, channels, features, seed=1)
    g = draw(2, 8 // stride, 12 // stride, features, seed=2)
    ours, program = gradients(
        lambda x, k: conv.convolve(x, k, stride=stride, precision=EXACT), g, x, kernel
    )
    derived, _ = gradients(functools.partial(conv._plain, stride, EXACT), g, x, kernel)
    assert_equal(ours, derived)
    # The program holds our formulation: the derived one has no written border.
    assert "stablehlo.pad" in program


def test_transposed_convolution():
    x, kernel, g = draw(2, 6, 4, 5), draw(4, 4, 5, 3, seed=1), draw(2, 12, 8, 3, seed=2)
    ours, program = gradients(
        lambda x, k: conv.convolve_transposed(x, k, precision=EXACT), g, x, kernel
    )
    derived, _ = gradients(functools.partial(conv._plain_transposed, EXACT), g, x, kernel)
    assert_equal(ours, derived)
    assert "2x7x5x12" in program, "the folded gradient is (B, H+1, W+1, 4D)"


def test_transposed_convolution_is_the_textbook_one():
    x, kernel = draw(1, 3, 5, 2), draw(4, 4, 2, 3, seed=1)
    expected = np.zeros((1, 8, 12, 3))  # with the border that is cut off
    for i, j in np.ndindex(3, 5):
        for r, s in np.ndindex(4, 4):
            expected[0, 2 * i + r, 2 * j + s] += x[0, i, j] @ kernel[3 - r, 3 - s]
    result = conv.convolve_transposed(x, kernel, precision=EXACT)
    np.testing.assert_allclose(result, expected[:, 1:-1, 1:-1], atol=1e-5)


def test_bias():
    x, bias, g = draw(2, 4, 6, 5), draw(5, seed=1), draw(2, 4, 6, 5, seed=2)
    ours, program = gradients(conv.add_bias, g, x, bias)
    assert_equal(ours, gradients(lambda x, b: x + b, g, x, bias)[0])
    assert "stablehlo.dot_general" in program


def test_gradients_survive_bfloat16_and_rematerialisation():
    block = ResidualBlock(jnp.bfloat16)
    x = jnp.asarray(draw(2, 8, 8, 4), jnp.bfloat16)
    params = block.init(jax.random.key(0), x)

    def loss(apply, params):
        return jnp.sum(apply(params, x).astype("f4") ** 2)

    plain = jax.jit(jax.grad(functools.partial(loss, block.apply)))(params)
    again = jax.jit(jax.grad(functools.partial(loss, jax.checkpoint(block.apply))))(params)
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(again), strict=True):
        assert a.dtype == np.float32
        np.testing.assert_allclose(a, b, rtol=2e-2, atol=2e-2 * np.abs(b).max())


def test_accelerators_keep_what_xla_derives():
    """Lowered for a GPU, the gradient has neither our borders nor our folding."""
    x, kernel, g = draw(2, 6, 4, 5), draw(3, 3, 5, 6, seed=1), draw(2, 6, 4, 6, seed=2)

    def run(function):
        step = jax.jit(lambda x, k, g: jax.vjp(function, x, k)[1](g))
        exported = jax.export.export(step, platforms=["cuda"])(x, kernel, g)
        text = exported.mlir_module()
        return text.count("stablehlo.convolution"), text.count("stablehlo.pad")

    assert run(lambda x, k: conv.convolve(x, k)) == run(functools.partial(conv._plain, 1, None))


def test_the_cpu_runs_xlas_own_convolutions():
    options = runtime.compiler_options("cpu")
    x, kernel = draw(1, 32, 32, 32), draw(3, 3, 32, 32)
    program = jax.jit(lambda x, k: conv.convolve(x, k), compiler_options=options)
    text = program.lower(x, kernel).compile().as_text()
    assert " convolution(" in text
    assert "ynn" not in text
    assert runtime.compiler_options("tpu") is None
