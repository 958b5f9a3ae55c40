"""The formulations of the convolutions, and how a model gets one."""

from __future__ import annotations

import dataclasses
import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from dmphn_jax import cpu_kernels
from dmphn_jax.models import (
    ModelConfig,
    build,
    convolutions_for,
    convolutions_named,
    init_params,
    parameter_shapes,
    zoo,
)
from dmphn_jax.models.blocks import ResidualBlock
from dmphn_jax.models.convolutions import XLA, Convolution, ShapesOnly

EXACT = jax.lax.Precision.HIGHEST


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("f4")


def test_rematerialisation_and_bfloat16():
    block = ResidualBlock(4, jnp.bfloat16)
    x = jnp.asarray(draw(2, 8, 8, 4), jnp.bfloat16)
    params = block.init(jax.random.key(0), x)

    def loss(apply, params):
        return jnp.sum(apply(params, x).astype("f4") ** 2)

    plain = jax.jit(jax.grad(functools.partial(loss, block.apply)))(params)
    again = jax.jit(jax.grad(functools.partial(loss, jax.checkpoint(block.apply))))(params)
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(again), strict=True):
        assert a.dtype == np.float32
        np.testing.assert_allclose(a, b, rtol=2e-2, atol=2e-2 * np.abs(b).max())


def test_transposed_convolution_is_the_textbook_one():
    x, kernel = draw(1, 3, 5, 2), draw(4, 4, 2, 3, seed=1)
    expected = np.zeros((1, 8, 12, 3))  # with the border that is cut off
    for i, j in np.ndindex(3, 5):
        for r, s in np.ndindex(4, 4):
            expected[0, 2 * i + r, 2 * j + s] += x[0, i, j] @ kernel[3 - r, 3 - s]
    kind = Convolution(transposed=True, precision=EXACT)
    result = XLA.convolve(kind, x, kernel, np.zeros(3, "f4"))
    np.testing.assert_allclose(result, expected[:, 1:-1, 1:-1], atol=1e-5)


# Which one a model gets


def lowered(config, params, x, **options):
    return jax.jit(build(config, **options).apply).lower({"params": params}, x)


def test_both_formulations_in_one_process():
    if (kernels := cpu_kernels.load()) is None:
        pytest.skip("no CPU kernels")
    config = dataclasses.replace(zoo.get("dmphn_1_2"), width=kernels.lanes)
    params, x = init_params(config), draw(1, 16, 16, 3) / 4
    by_kernels = lowered(config, params, x, convolutions=convolutions_for("cpu"))
    by_xla = lowered(config, params, x)
    assert "dmphn_convolve" in by_kernels.as_text()
    assert "custom_call" not in by_xla.as_text()
    images = [p.compile()({"params": params}, x).image for p in (by_kernels, by_xla)]
    np.testing.assert_allclose(*images, atol=1e-5)


def test_a_platform_has_its_own():
    assert convolutions_for("tpu") == convolutions_named("folded")
    assert convolutions_for("gpu") == convolutions_for("cuda") == convolutions_named("cudnn")
    assert convolutions_for("rocm") is XLA


@pytest.mark.parametrize("chosen", [False, True])
def test_tracing_runs_no_compiler(tmp_path, chosen):
    """The compiler leaves a mark; only an entry point's choice may reach it."""
    compiler, mark = tmp_path / "compiler", tmp_path / "mark"
    compiler.write_text(f"#!/bin/sh\ntouch {mark}\nexit 1\n")
    compiler.chmod(0o755)
    code = f"""if True:
        import jax
        from dmphn_jax.models import build, convolutions_for, init_params, zoo
        if {chosen}:
            convolutions_for("cpu")
        config = zoo.get("dmphn_1")
        params, x = init_params(config), jax.ShapeDtypeStruct((1, 8, 8, 3), "float32")
        jax.jit(build(config).apply).lower({{"params": params}}, x)
    """
    environment = {**os.environ, "CXX": str(compiler), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=120)
    assert mark.exists() == chosen


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_products_with_images_are_float32(dtype):
    """The default precision of a float32 product is one pass in bfloat16 on a TPU."""
    config = dataclasses.replace(zoo.get("dmphn_1"), width=4)
    x = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
    module = build(config, dtype)
    traced = jax.make_jaxpr(module.apply)({"params": init_params(config)}, x)
    found = [e for e in _equations(traced.jaxpr) if e.primitive.name == "conv_general_dilated"]
    assert len(found) == 30
    for equation in found:
        products, precision = equation.invars[0].aval, equation.params["precision"]
        assert (products.dtype != "float32") == (precision is None)
        if 3 in (products.shape[3], equation.outvars[0].aval.shape[3]):
            assert products.dtype == "float32"


def _equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for inner in jaxprs_in_params(equation.params):
            yield from _equations(inner)


@pytest.mark.parametrize(
    "config",
    [
        ModelConfig("dmphn", "1-2-4", stages=2, width=2),
        ModelConfig("dmphn", "1-2", weight_sharing=True, width=2),
        ModelConfig("vmphn", "1-2", width=2),
        ModelConfig("dmsn", "3", width=2),
    ],
    ids=str,
)
def test_shapes_alone_are_the_networks(config):
    image = jax.ShapeDtypeStruct((1, *config.multiple, 3), jnp.float32)
    modules = [build(config), build(config, convolutions=ShapesOnly())]
    whole, shapes = (jax.eval_shape(m.init_with_output, jax.random.key(0), image) for m in modules)
    assert shapes == whole
    assert parameter_shapes(config) == whole[1]["params"]
