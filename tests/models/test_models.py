"""The family of networks against an independent NumPy version, and its properties."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmphn_jax.errors import UserError
from dmphn_jax.models import (
    ModelConfig,
    build,
    init_params,
    multiply_adds,
    parameter_count,
    parameter_shapes,
    zoo,
)
from tests.support import independent
from tests.support.networks import random_image, random_params

NAMES = [
    "dmphn_1",
    "dmphn_1_1_1",
    "dmphn_1_2_4_8_16",
    "dmphn_1_4_16",
    "dmphn_1_2_4_ws",
    "stack3",
    "stack2_dmphn_1_2_4_8",
    "vmphn",
    "stack2_vmphn",
]


@pytest.mark.parametrize("name", NAMES)
def test_equals_the_patch_by_patch_equations(name):
    config = dataclasses.replace(zoo.get(name), width=4)
    params, x = random_params(config), random_image()
    unit = independent.vmphn if config.family == "vmphn" else independent.dmphn
    output = build(config).apply({"params": params}, x)
    for b in range(len(x)):
        expected = independent.stack(unit, x[b].astype("f8"), params, config.hierarchy)
        for stage, images in enumerate(expected):
            np.testing.assert_allclose(output.stages[stage][b], images[0], atol=1e-5, rtol=1e-5)
            assert len(images) == len(output.levels[stage])
            for level, image in enumerate(images):
                np.testing.assert_allclose(
                    output.levels[stage][level][b], image, atol=1e-5, rtol=1e-5
                )


def test_dmsn_equals_its_equations():
    config = ModelConfig("dmsn", "3", width=4)
    params, x = random_params(config)["stage_1"], random_image(batch=1)

    def halve(x):
        return (x[::2, ::2] + x[1::2, ::2] + x[::2, 1::2] + x[1::2, 1::2]) / 4

    def double(x):  # bilinear, pixel centres aligned, edges repeated
        for axis in (0, 1):
            before = np.concatenate(
                [x.take([0], axis), x.take(range(x.shape[axis] - 1), axis)], axis
            )
            after = np.concatenate(
                [x.take(range(1, x.shape[axis]), axis), x.take([-1], axis)], axis
            )
            x = np.stack([0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after], axis + 1)
            shape = list(x.shape)
            shape[axis : axis + 2] = [-1]
            x = x.reshape(shape)
        return x

    pyramid = [x[0].astype("f8")]
    pyramid += [halve(pyramid[0])]
    pyramid += [halve(pyramid[1])]
    output = build(config).apply({"params": build_tree(params)}, x)
    s = None
    for scale in (3, 2, 1):
        inputs = pyramid[scale - 1] + (0 if s is None else double(s))
        p = params[f"scale_{scale}"]
        s = independent.decode(independent.encode(inputs, p["encoder"]), p["decoder"])
        np.testing.assert_allclose(output.levels[0][scale - 1][0], s, atol=1e-5, rtol=1e-5)
    np.testing.assert_array_equal(output.image, output.levels[0][0])


def build_tree(stage):
    return {"stage_1": stage}


def test_dmsn_1_is_dmphn_1():
    one, other = (ModelConfig(family, "1", width=4) for family in ("dmphn", "dmsn"))
    params, x = random_params(one), random_image()
    renamed = {"stage_1": {"scale_1": params["stage_1"]["level_1"]}}
    np.testing.assert_array_equal(
        build(one).apply({"params": params}, x).image,
        build(other).apply({"params": renamed}, x).image,
    )


@pytest.mark.parametrize("name", ["dmphn_1_2", "stack2_vmphn_1_2", "dmsn_2"])
def test_global_skip_with_zero_weights_is_the_identity(name):
    config = dataclasses.replace(zoo.get(name), width=2, global_skip=True)
    params = jax.tree.map(jnp.zeros_like, init_params(config))
    x = random_image()
    np.testing.assert_array_equal(build(config).apply({"params": params}, x).image, x)


@pytest.mark.parametrize("name", ["stack4", "stack2_vmphn", "stack3_dmsn_2"])
def test_first_stages_are_a_model(name):
    config = dataclasses.replace(zoo.get(name), width=4)
    params, x = random_params(config), random_image()
    whole = build(config).apply({"params": params}, x)
    assert len(whole.stages) == config.stages
    for k in range(1, config.stages + 1):
        kept = {f"stage_{s}": params[f"stage_{s}"] for s in range(1, k + 1)}
        cut = build(config).apply({"params": kept}, x, stages=k)
        np.testing.assert_allclose(cut.image, whole.stages[k - 1], atol=1e-6)
        shallow = build(dataclasses.replace(config, stages=k)).apply({"params": kept}, x)
        np.testing.assert_array_equal(cut.image, shallow.image)
    with pytest.raises(ValueError, match="stages 1 to"):
        build(config).apply({"params": params}, x, stages=config.stages + 1)


@pytest.mark.parametrize("name", zoo.ZOO)
def test_gradients_reach_every_parameter(name):
    config = dataclasses.replace(zoo.get(name), width=4)
    params, x = random_params(config), random_image(batch=1)
    module = build(config)

    def loss(params):
        return jnp.mean(module.apply({"params": params}, x).image ** 2)

    for path, g in jax.tree_util.tree_flatten_with_path(jax.grad(loss)(params))[0]:
        assert np.all(np.isfinite(g)), path
        assert np.any(g), f"no gradient reaches {jax.tree_util.keystr(path)}"


def test_bfloat16_keeps_parameters_and_images_float32():
    config = dataclasses.replace(zoo.get("stack2"), width=4)
    params, x = random_params(config), random_image()
    output = build(config, "bfloat16").apply({"params": params}, x)
    assert {i.dtype for i in jax.tree.leaves((output.stages, output.levels))} == {
        jnp.dtype("float32")
    }
    assert {f.dtype for f in output.features} == {jnp.dtype("bfloat16")}
    exact = build(config).apply({"params": params}, x).image
    error = jnp.linalg.norm(output.image - exact) / jnp.linalg.norm(exact)
    assert 0 < error < 0.02


def test_rematerialisation_changes_no_gradient():
    config = dataclasses.replace(zoo.get("dmphn_1"), width=4)
    params, x = random_params(config), random_image(batch=1)

    def gradient(remat):
        module = build(config, remat=remat)
        return jax.grad(lambda p: jnp.sum(module.apply({"params": p}, x).image ** 2))(params)

    gradients = [gradient(False), gradient(True)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), *gradients)


def test_initial_weights_are_the_papers():
    params = init_params(zoo.get("dmphn_1"))["stage_1"]["level_1"]
    for p, size, out in (
        (params["encoder"]["block_5"]["conv_1"], 9, 128),
        (params["decoder"]["up_1"], 16, 64),
    ):
        assert np.std(p["kernel"]) == pytest.approx(np.sqrt(0.5 / (size * out)), rel=0.02)
        assert np.mean(p["kernel"]) == pytest.approx(0, abs=1e-3)
        assert not np.any(p["bias"])


@pytest.mark.parametrize("name", zoo.ZOO)
def test_sizes_are_the_papers(name):
    entry = zoo.ZOO[name]
    tree = parameter_shapes(entry.config)
    count = sum(leaf.size for leaf in jax.tree.leaves(tree))
    assert count == parameter_count(entry.config)
    assert count == 1_808_131 * entry.config.pairs
    if entry.size_mb is not None:  # the paper rounds one pair to 7.2, and four to 29.0
        assert 4e-6 * count == pytest.approx(entry.size_mb, abs=0.08)
    assert zoo.name_of(entry.config) == name
    assert zoo.paper_entry(entry.config) is entry
    assert ModelConfig.from_dict(entry.config.to_dict()) == entry.config


def test_weight_sharing_has_one_pair():
    params = parameter_shapes(zoo.get("dmphn_1_2_4_8_ws"))
    assert list(params["stage_1"]) == ["shared"]
    assert sorted(params["stage_1"]["shared"]) == ["decoder", "encoder"]


def test_cost_is_what_the_compiler_counts():
    config = dataclasses.replace(zoo.get("stack2"), width=8)
    x = jax.ShapeDtypeStruct((1, 128, 192, 3), jnp.float32)
    params = parameter_shapes(config)
    traced = jax.jit(build(config).apply).trace({"params": params}, x)
    analysis = traced.lower().cost_analysis()
    # The compiler leaves out products with the zeros of borders, and adds biases and ReLUs.
    assert 2 * multiply_adds(config, 128, 192) == pytest.approx(analysis["flops"], rel=0.1)


@pytest.mark.parametrize(
    ("name", "hint"),
    [("dmphn_1_2_3", "dmphn_1_2"), ("stak4", "stack4"), ("stack0", "stack"), ("", "")],
)
def test_unknown_names_are_one_line_with_the_nearest(name, hint):
    with pytest.raises(UserError, match="no model is called") as error:
        zoo.get(name)
    assert hint in str(error.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"family": "unet"},
        {"hierarchy": "1-3"},
        {"hierarchy": ""},
        {"stages": 0},
        {"width": 2.5},
        {"family": "vmphn", "weight_sharing": True},
        {"family": "dmsn", "hierarchy": "1-2"},
        {"depth": 3},
    ],
)
def test_impossible_models_are_refused(fields):
    with pytest.raises(ValueError):
        ModelConfig.from_dict(fields)
