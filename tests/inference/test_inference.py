"""Deblurrer: any size, both depths, batches, devices; its rounding and its padding."""

import subprocess
import sys

import jax
import numpy as np
import pytest

import dmphn_jax
from dmphn_jax import checkpoints
from dmphn_jax.errors import UserError
from dmphn_jax.models import LAYOUTS, ModelConfig, build, init_params, zoo

CONFIG = ModelConfig("dmphn", "1-2-4-8", stages=2, width=2)


def pixels(*shape, dtype=np.uint8, seed=0):
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, shape, dtype)


@pytest.fixture(scope="module")
def params():
    return init_params(CONFIG)


@pytest.fixture(scope="module")
def deblurrer(params):
    return dmphn_jax.Deblurrer(params=params, config=CONFIG)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_may_be_chosen_on_any_machine(deblurrer, params, layout):
    chosen = dmphn_jax.Deblurrer(params=params, config=CONFIG, layout=layout)
    image = pixels(32, 24, 3, dtype=np.uint16)
    assert np.ptp(np.int32(chosen(image)) - deblurrer(image)) <= 6  # of 65536
    # Its program is its own, also where fewer stages run.
    for one in (chosen, chosen.with_stages(1)):
        assert one.programs is not deblurrer.programs
        assert one.programs is not deblurrer.with_stages(1).programs


def test_an_unknown_layout_is_one_line(params):
    with pytest.raises(UserError, match="did you mean 'folded'"):
        dmphn_jax.Deblurrer(params=params, config=CONFIG, layout="foldet")


def test_result_is_the_networks_rounded_to_nearest(deblurrer, params):
    image = pixels(32, 24, 3)
    x = image[None].astype("f4") / 255 - 0.5
    y = build(CONFIG).apply({"params": params}, x).image[0]
    expected = np.clip((np.asarray(y, "f8") + 0.5) * 255, 0, 255)
    result = deblurrer(image)
    assert result.dtype == np.uint8
    assert np.abs(result - expected).max() <= 0.5 + 1e-3


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 3), (16, 8), (17, 9), (33, 50)])
def test_any_size_by_the_least_reflection(deblurrer, size):
    image = pixels(*size, 3)
    rows, columns = CONFIG.multiple
    assert (rows, columns) == (16, 8)
    padded = image
    for axis, multiple in ((0, rows), (1, columns)):
        n = padded.shape[axis]
        total = -(-n // multiple) * multiple
        # Reflection without repeating the edge: 0 1 2 3 2 1 0 1 ..
        period = max(2 * n - 2, 1)
        index = np.arange(total) % period
        padded = padded.take(np.where(index < n, index, period - index), axis)
    result = deblurrer(image)
    assert result.shape == image.shape
    np.testing.assert_array_equal(result, deblurrer(padded)[: size[0], : size[1]])


@pytest.mark.parametrize("size", [(1080, 1920), (333, 517)])
def test_large_and_odd_photographs_run(size):
    config = ModelConfig("dmphn", "1-2-4", width=1)
    result = dmphn_jax.Deblurrer(params=init_params(config), config=config)(pixels(*size, 3))
    assert result.shape == (*size, 3)
    assert result.std() > 0


def test_sixteen_bits_keep_their_depth(deblurrer):
    image = pixels(16, 16, 3)
    deep = deblurrer(image.astype(np.uint16) * 257)  # the same light
    assert deep.dtype == np.uint16
    assert np.abs(deep / 257 - deblurrer(image)).max() <= 0.51


def test_batch_equals_one_by_one(deblurrer):
    images = pixels(3, 20, 20, 3)
    one_by_one = np.stack([deblurrer(image) for image in images])
    difference = np.abs(deblurrer.batch(images).astype(int) - one_by_one)
    assert difference.max() <= 1  # another order of summation may round the other way


def test_batches_may_be_submitted_before_results_are_taken(deblurrer):
    batches = [pixels(count, 20, 20, 3, seed=count) for count in (1, 3)]
    pending = [deblurrer.submit(batch) for batch in batches]
    for one, batch in zip(pending, batches):
        on_device = one.images
        assert isinstance(on_device, jax.Array)
        assert (on_device.shape, on_device.dtype) == (batch.shape, batch.dtype)
        one.check()
        np.testing.assert_array_equal(on_device, deblurrer.batch(batch))
        np.testing.assert_array_equal(one.result(), on_device)


def test_stages_and_outputs(deblurrer, params):
    image = pixels(20, 20, 3)
    output = deblurrer.output(image)
    assert len(output.stages) == 2
    assert [len(levels) for levels in output.levels] == [4, 4]
    assert {x.shape for x in jax.tree.leaves((output.stages, output.levels))} == {(20, 20, 3)}
    first = dmphn_jax.Deblurrer(params=params, config=CONFIG, stages=1)
    np.testing.assert_array_equal(
        first(image), np.clip(np.round(output.stages[0] * 255), 0, 255).astype("u1")
    )
    with pytest.raises(UserError, match="stages 1 to 2"):
        dmphn_jax.Deblurrer(params=params, config=CONFIG, stages=3)


def test_outputs_of_scales_have_their_size():
    config = ModelConfig("dmsn", "3", width=2)
    output = dmphn_jax.Deblurrer(params=init_params(config), config=config).output(
        pixels(30, 21, 3)
    )
    assert [x.shape for x in output.levels[0]] == [(30, 21, 3), (15, 11, 3), (8, 6, 3)]


def test_several_devices_share_a_batch():
    script = """
import numpy as np, jax, dmphn_jax
from dmphn_jax.models import ModelConfig, init_params
config = ModelConfig("dmphn", "1-2", width=2)
params = jax.device_get(init_params(config))
images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), np.uint8)
shared = dmphn_jax.Deblurrer(params=params, config=config)
alone = dmphn_jax.Deblurrer(params=params, config=config, devices=jax.devices()[:1])
assert jax.device_count() == 4
holds_weights = lambda: {d for x in jax.live_arrays() if x.dtype == np.float32 for d in x.devices()}
assert shared(images[0]).shape == (8, 8, 3)
assert holds_weights() == {jax.devices()[0]}
pending = shared.submit(images)
assert pending.images.shape == (8, 8, 8, 3) and len(pending.images.devices()) == 4
np.testing.assert_array_equal(pending.result(), np.asarray(pending.images)[:5])
assert holds_weights() == set(jax.devices())
difference = shared.batch(images).astype(int) - alone.batch(images)
assert np.abs(difference).max() <= 1, difference
assert shared(images[0]).shape == (8, 8, 3)
"""
    subprocess.run(
        [sys.executable, "-c", script],
        check=True,
        env={"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "PYTHONPATH": "."},
    )


def test_new_parameters_compile_nothing(params, deblurrer):
    image = pixels(16, 8, 3)
    before = deblurrer(image)
    programs = deblurrer.programs
    other = dmphn_jax.Deblurrer(params=jax.tree.map(lambda x: 2 * x, params), config=CONFIG)
    compiled = programs.quantised._cache_size()
    assert np.any(other(image) != before)
    assert programs.quantised._cache_size() == compiled


@pytest.mark.parametrize(("precision", "most"), [("bfloat16", 2), ("float16", 0.1)])
def test_low_precision_is_close(params, deblurrer, precision, most):
    image = pixels(32, 32, 3)
    rough = dmphn_jax.Deblurrer(params=params, config=CONFIG, precision=precision)
    difference = rough(image).astype(int) - deblurrer(image)
    assert 0 < np.abs(difference).mean() < most


def test_outputs_that_are_not_finite_are_refused(params):
    image = pixels(16, 8, 3)
    far = jax.tree.map(np.array, params)
    far["stage_1"]["level_1"]["encoder"]["conv_1"]["bias"][:] = 1e5  # float16 ends at 65504
    deblurrers = [
        dmphn_jax.Deblurrer(params=far, config=CONFIG, precision=precision)
        for precision in ("float32", "float16")
    ]
    assert deblurrers[0](image).shape == image.shape
    with pytest.raises(UserError, match=r"not finite in float16: .* another precision"):
        deblurrers[1](image)
    broken = jax.tree.map(lambda x: x * np.nan, params)
    lost = dmphn_jax.Deblurrer(params=broken, config=CONFIG)
    for call in (lost, lost.output):
        with pytest.raises(UserError, match=r"not finite in float32: .* earlier checkpoint"):
            call(image)


def test_mistakes(params, tmp_path):
    checkpoints.save(tmp_path / "c", params, CONFIG)
    deblurrer = dmphn_jax.Deblurrer(tmp_path / "c")
    assert deblurrer.digest == checkpoints.digest(params)
    with pytest.raises(UserError, match="did you mean 'float32'"):
        dmphn_jax.Deblurrer(tmp_path / "c", precision="float23")
    with pytest.raises(TypeError):
        dmphn_jax.Deblurrer()
    with pytest.raises(TypeError, match="uint8 or uint16"):
        deblurrer(np.zeros((8, 8, 3), "f4"))
    with pytest.raises(ValueError, match="RGB"):
        deblurrer(np.zeros((8, 8, 4), "u1"))
    with pytest.raises(ValueError, match="RGB"):
        deblurrer(np.zeros((0, 8, 3), "u1"))


def test_zoo_names_build_a_deblurrer():
    config = zoo.get("stack2_vmphn_1_2")
    assert dmphn_jax.Deblurrer(params=init_params(config), config=config).stages == 2
