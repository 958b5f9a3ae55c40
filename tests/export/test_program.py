"""The function that is exported: sizes that are padded, float pixels."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmphn_jax.errors import UserError
from dmphn_jax.export import program
from dmphn_jax.export.options import Options, card
from dmphn_jax.models import ModelConfig
from dmphn_jax.models.convolutions import XLA
from tests.export.models import SIZES, as_floats, blurry, largest, network


@pytest.mark.parametrize("size", [1, 2, 3, 9, 15, 16, 17])
def test_padding_is_by_reflection_however_short_the_axis(size):
    image = jnp.arange(size)[None, :, None, None]
    wanted = np.pad(image, ((0, 0), (0, -size % 16), (0, 0), (0, 0)), mode="reflect")
    np.testing.assert_array_equal(program._reflected(image, 1, 16), wanted)


def test_floats_are_the_same_pictures_and_clipped(expected):
    config, params = network("dmphn_1_2_4")
    run = jax.jit(program.program(config, Options("onnx", pixels="float"), XLA))
    wanted = expected("dmphn_1_2_4", floats=True)
    for size, sharp in zip(SIZES, wanted, strict=True):
        assert largest(np.asarray(run(params, as_floats(blurry(size)))), sharp) < 1e-5
    bright = jax.tree.map(lambda x: x + 1.0, params)  # far beyond white
    image = run(bright, as_floats(blurry(SIZES[0])))
    assert float(image.max()) <= 1
    assert float(image.min()) >= 0


def test_sizes_are_fixed_or_symbolic():
    assert [str(n) for n in program.blurry(Options("onnx")).shape] == [
        *("batch", "height", "width", "3"),
    ]
    fixed = program.blurry(Options("onnx", size=(720, 1280), batch=2, pixels="float"))
    assert (fixed.shape, fixed.dtype) == ((2, 720, 1280, 3), np.float32)


def test_the_card_tells_model_checkpoint_and_what_the_file_takes():
    options = Options("onnx", stages=2, precision="float16", size=(720, 1280))
    found = card(ModelConfig(stages=4), "abc", options)
    assert found.pop("producer").startswith("dmphn_jax ")
    assert ModelConfig.from_dict(json.loads(found.pop("config"))).stages == 4
    assert found == {
        "model": "stack4",
        "stages": "2",
        "checkpoint": "abc",
        "precision": "float16",
        "pixels": "uint8",
        "shape": "batch, 720, 1280, 3",
        "multiple": "8x8",
    }


@pytest.mark.parametrize(
    ("options", "config", "said"),
    [
        (Options("onnx", stages=2), ModelConfig(), "--stages 2: the model has stages 1 to 1"),
        (Options("onnx", precision="bfloat16"), ModelConfig(), "float16"),
        (Options("stablehlo"), ModelConfig(width=1024), "2 GB"),
    ],
)
def test_what_cannot_be_is_told(options, config, said):
    with pytest.raises(UserError, match=said):
        options.check(config)
