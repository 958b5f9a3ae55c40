"""StableHLO: one artefact for every size and platform, with nothing of this machine in it."""

import json
import re

import jax
import numpy as np
import pytest

from dmphn_jax import cpu_kernels
from dmphn_jax.export import stablehlo
from dmphn_jax.export.options import Options, card
from dmphn_jax.export.program import blurry as spec
from dmphn_jax.export.program import program
from dmphn_jax.models import init_params, zoo
from dmphn_jax.models.cpu_convolutions import CpuConvolutions
from tests.export.models import SIZES, as_floats, blurry, largest, network


def loaded(folder, name, **options):
    config, params = network(name)
    options = Options("stablehlo", **options)
    stablehlo.write(folder / "m.stablehlo", params, config, "a digest", options)
    return jax.export.deserialize(bytearray((folder / "m.stablehlo").read_bytes()))


@pytest.mark.parametrize("name", ["dmphn_1_2_4", "dmsn_2"])
def test_one_artefact_gives_the_checkpoints_pictures_at_every_size(name, tmp_path, expected):
    call = jax.jit(loaded(tmp_path, name).call)
    for size, sharp in zip(SIZES, expected(name), strict=True):
        assert largest(np.asarray(call(blurry(size))), sharp) <= 1


@pytest.mark.parametrize("name", ["stack2", "vmphn_1_2", "dmphn_1_2_ws"])
def test_it_is_for_every_platform_and_calls_no_kernel_of_ours(name, tmp_path):
    found = loaded(tmp_path, name)
    assert found.platforms == ("cpu", "cuda", "tpu")
    called = set(re.findall(r"custom_call @(\w+)", found.mlir_module()))
    assert called == {"shape_assertion"}  # that sizes are at least 1
    assert [str(size) for size in found.in_avals[0].shape] == ["batch", "height", "width", "3"]


def test_kernels_of_this_machine_are_refused():
    kernels = cpu_kernels.load()
    if kernels is None:
        pytest.skip("no C++ compiler")
    config = zoo.get("dmphn_1")  # of full width: the kernels take whole vectors of channels
    params = init_params(config)
    options = Options("stablehlo", size=(16, 16))
    run = program(config, options, CpuConvolutions(kernels))
    with pytest.raises(ValueError, match="custom call"):
        jax.export.export(jax.jit(lambda x: run(params, x)))(spec(options))


def test_a_size_can_be_fixed_and_pixels_be_floats(tmp_path, expected):
    batch, *size = SIZES[0]
    found = loaded(tmp_path, "dmphn_1_2_4", size=tuple(size), batch=batch, pixels="float")
    assert found.in_avals[0].shape == (*SIZES[0], 3)
    assert "custom_call" not in found.mlir_module()
    image = np.asarray(jax.jit(found.call)(as_floats(blurry(SIZES[0]))))
    assert largest(image, expected("dmphn_1_2_4", floats=True)[0]) < 1e-4


@pytest.mark.parametrize(("precision", "bound"), [("float16", 2), ("bfloat16", 16)])
def test_low_precision_stays_near(precision, bound, tmp_path, expected):
    found = loaded(tmp_path, "dmphn_1_2_4", precision=precision)
    image = np.asarray(jax.jit(found.call)(blurry(SIZES[0])))
    assert largest(image, expected("dmphn_1_2_4")[0]) <= bound


def test_it_tells_what_it_is(tmp_path):
    found = loaded(tmp_path, "stack2", stages=1)
    options = Options("stablehlo", stages=1)
    assert json.loads(found.fun_name) == card(network("stack2")[0], "a digest", options)
