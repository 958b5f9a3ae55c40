"""The C++ kernels compute what XLA does, and are used where they serve."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmphn_jax import cpu_kernels
from dmphn_jax.models.convolutions import XLA, Convolution
from dmphn_jax.models.cpu_convolutions import CpuConvolutions

EXACT = jax.lax.Precision.HIGHEST


@pytest.fixture(scope="module")
def kernels():
    if (loaded := cpu_kernels.load()) is None:
        pytest.skip("no CPU kernels: no C++ compiler, or switched off")
    return loaded


@pytest.fixture(scope="module")
def lanes(kernels):
    return kernels.lanes


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("f4")


def results(function, arguments, g):
    """The output and the gradients of every argument, compiled, and the program."""

    def run(arguments, g):
        y, backward = jax.vjp(function, *arguments)
        return y, *backward(g)

    program = jax.jit(run).lower(arguments, g)
    return program.compile()(arguments, g), program.as_text()


def compare(shape, features, *, stride=1, transposed=False, relu=False, residual=False, atol=3e-6):
    """Holds `convolve` and its gradients against XLA's; returns the lowered program."""
    size = 4 if transposed else 3
    arguments = [
        draw(*shape),
        draw(size, size, shape[-1], features, seed=1),
        draw(features, seed=2),
    ]
    kind = Convolution(stride, transposed, relu, EXACT)
    ours = functools.partial(CpuConvolutions(cpu_kernels.load()).convolve, kind)
    xlas = functools.partial(XLA.convolve, kind)
    output = jax.eval_shape(xlas, *arguments)
    if residual:
        arguments.append(draw(*output.shape, seed=3))
    g = draw(*output.shape, seed=4)
    found, program = results(ours, arguments, g)
    expected, plain = results(xlas, arguments, g)
    assert calls(plain) == 0, "both formulations in one process"
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, atol=atol * np.abs(b).max(), rtol=0)
    return program


def calls(program):
    return len(re.findall(r"custom_call @dmphn_", program))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    ("batch", "height", "width", "channels", "features"),
    [
        (2, 8, 12, 2, 2),  # channels and features in vectors
        (1, 2, 2, 1, 2),  # nothing but borders
        (2, 10, 150, 2, 1),  # more than one segment of a row, and one vector of features
        (3, 40, 6, 3, 2),  # channels that fill no block, several rows together
    ],
)
def test_convolution(lanes, stride, batch, height, width, channels, features):
    program = compare((batch, height, width, channels * lanes), features * lanes, stride=stride)
    assert calls(program) == 3, "forward, input, and kernel with bias"


def test_many_channels(lanes):
    compare((1, 12, 26, 5 * lanes), 8 * lanes, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 5), (1, 2, 7), (3, 7, 2), (2, 5, 131)])
def test_odd_sizes(lanes, shape):
    """Minimal filtering computes tiles of 2x2 pixels, of which only a part may exist."""
    assert calls(compare((*shape, 2 * lanes), lanes)) == 3
    compare((*shape, lanes), 3 * lanes, relu=True, residual=True)


@pytest.mark.parametrize("shape", [(2, 6, 10), (1, 1, 1), (1, 130, 3)])
def test_transposed_convolution(lanes, shape):
    assert calls(compare((*shape, 2 * lanes), lanes, transposed=True)) == 3


def test_what_follows_a_convolution(lanes):
    compare((2, 6, 10, lanes), lanes, relu=True)
    compare((2, 6, 10, lanes), lanes, residual=True)
    compare((2, 6, 10, lanes), lanes, relu=True, residual=True)


def test_images_at_either_end(lanes):
    """Three channels: as features they are left to XLA, which then has kernels for gradients."""
    assert calls(compare((2, 6, 10, 3), 2 * lanes)) == 2  # not the gradient of the image
    compare((1, 5, 250, 3), 2 * lanes, relu=True)  # more than one segment of a row
    assert calls(compare((2, 6, 10, 2 * lanes), 3)) == 2  # not the forward pass


def test_narrow_networks_and_bfloat16_are_xlas(kernels):
    assert calls(compare((2, 6, 10, 6), 6)) == 0
    assert not kernels.serve(jnp.bfloat16, kernels.lanes)


def test_nan_goes_through_relu(kernels):
    lanes = kernels.lanes
    x = draw(1, 4, 4, lanes)
    x[0, 1, 1, 0] = np.nan
    y = CpuConvolutions(kernels).convolve(
        Convolution(relu=True), x, draw(3, 3, lanes, lanes), np.zeros(lanes, "f4")
    )
    assert np.isnan(y[0, 1, 1]).all()
    assert not np.isnan(y[0, 3, 3]).any()


@pytest.mark.usefixtures("kernels")
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="threads cannot be limited here")
def test_results_do_not_depend_on_the_threads(tmp_path):
    """Bit for bit: a resumed run may find another machine's number of cores."""
    code = """if True:
        import os, sys
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(sys.argv[1])])
        import numpy as np
        from dmphn_jax import cpu_kernels
        kernels = cpu_kernels.load()
        channels = 2 * kernels.lanes
        draw = lambda *shape: np.random.default_rng(0).standard_normal(shape).astype("f4")
        x, kernel = draw(2, 24, 20, channels), draw(3, 3, channels, channels)
        y = kernels.convolve(x, kernel)
        np.savez(sys.argv[2], y, *kernels.filter_gradient(x, y, 3))
    """
    found = []
    for threads in ("1", "2"):
        path = tmp_path / f"{threads}.npz"
        subprocess.run([sys.executable, "-c", code, threads, path], check=True, timeout=120)
        with np.load(path) as arrays:
            found.append([arrays[name] for name in sorted(arrays)])
    assert len(found[0]) == 3
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)


def test_accelerators_keep_what_xla_derives(kernels):
    lanes = kernels.lanes
    x, kernel, bias = draw(2, 6, 4, lanes), draw(3, 3, lanes, lanes, seed=1), draw(lanes)

    def gradients(*arguments):
        convolve = CpuConvolutions(kernels).convolve
        y, backward = jax.vjp(functools.partial(convolve, Convolution(relu=True)), *arguments)
        return backward(y)

    exported = jax.export.export(jax.jit(gradients), platforms=["cuda"])(x, kernel, bias)
    text = exported.mlir_module()
    assert calls(text) == 0
    assert text.count("stablehlo.convolution") == 3
