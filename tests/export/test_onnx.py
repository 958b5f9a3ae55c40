"""ONNX files: the whole zoo, in the engines that run them, at sizes no one named beforehand."""

import collections
import json

import jax
import numpy as np
import onnx
import onnxruntime
import pytest
from jax import lax

from dmphn_jax.errors import UserError
from dmphn_jax.export import onnx_file
from dmphn_jax.export.onnx_graph import Graph
from dmphn_jax.export.onnx_rules import RULES, _groups
from dmphn_jax.export.options import Options, card
from dmphn_jax.export.walk import walk
from dmphn_jax.inference.deblurrer import Deblurrer
from dmphn_jax.models import ModelConfig
from tests.export.models import NAMES, SIZES, as_floats, blurry, largest, network


def made(name, **options):
    config, params = network(name)
    model = onnx_file.model(params, config, Options("onnx", **options))
    onnx.checker.check_model(model, full_check=True)
    return model


def session(model):
    providers = ["CPUExecutionProvider"]
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=providers)


def run(model, images):
    return session(model).run(["sharp"], {"blurry": images})[0]


@pytest.mark.parametrize("name", [*NAMES, "dmphn_1_2+skip"])
def test_one_file_gives_the_checkpoints_pictures_at_every_size(name, expected):
    engine = session(made(name))
    for size, sharp in zip(SIZES, expected(name), strict=True):
        image = engine.run(["sharp"], {"blurry": blurry(size)})[0]
        assert largest(image, sharp) <= 1  # where rounding decides
        assert np.mean(image != sharp) < 0.01


def test_images_smaller_than_their_padding():
    config, params = network("dmphn_1_2")
    engine, deblurrer = session(made("dmphn_1_2")), Deblurrer(params=params, config=config)
    for size in ((1, 1, 1), (1, 2, 3), (1, 5, 4)):
        image = blurry(size)
        assert largest(engine.run(None, {"blurry": image})[0], deblurrer.batch(image)) <= 1


@pytest.mark.parametrize("name", ["dmphn_1_2_4", "stack2"])
def test_half_precision_stays_near_and_halves_the_file(name, expected):
    half = made(name, precision="float16")
    engine = session(half)
    for size, sharp in zip(SIZES, expected(name), strict=True):
        assert largest(engine.run(["sharp"], {"blurry": blurry(size)})[0], sharp) <= 2
    kinds = collections.Counter(
        onnx.helper.tensor_dtype_to_np_dtype(weights.data_type).name
        for weights in half.graph.initializer
        if len(weights.dims) == 4
    )
    whole = sum(len(weights.dims) == 4 for weights in made(name).graph.initializer)
    # The convolutions that read and write images stay float32.
    assert kinds["float32"] == 2 * whole // 30
    assert kinds["float16"] == whole - kinds["float32"]


def test_floats_in_and_out(expected):
    engine = session(made("dmphn_1_2_4", pixels="float"))
    wanted = expected("dmphn_1_2_4", floats=True)
    for size, sharp in zip(SIZES, wanted, strict=True):
        image = engine.run(["sharp"], {"blurry": as_floats(blurry(size))})[0]
        assert largest(image, sharp) < 1e-4


def test_a_size_and_a_batch_can_be_fixed(expected):
    batch, *size = SIZES[0]
    model = made("dmphn_1_2_4", size=tuple(size), batch=batch)
    assert largest(run(model, blurry(SIZES[0])), expected("dmphn_1_2_4")[0]) <= 1
    shape = model.graph.input[0].type.tensor_type.shape
    assert [d.dim_value for d in shape.dim] == [*SIZES[0], 3]
    assert not [node for node in model.graph.node if node.op_type == "Shape"]


def test_stages_left_out_leave_their_weights_out(expected):
    first = made("stack2", stages=1)
    sharp = expected("stack2", stages=1)[0]
    assert largest(run(first, blurry(SIZES[0])), sharp) <= 1
    names = {weights.name.split("/")[0] for weights in first.graph.initializer}
    assert "stage_1" in names
    assert "stage_2" not in names


def test_the_graph_is_what_one_would_draw():
    model = made("dmphn_1_2_4")
    count = collections.Counter(node.op_type for node in model.graph.node)
    # Per level 28 convolutions and 2 transposed ones, all with their biases; the ReLU of a block,
    # and that of the clipping. Two transpositions for every change of the grid, and no more.
    assert (count["Conv"], count["ConvTranspose"]) == (84, 6)
    assert all(len(n.input) == 3 for n in model.graph.node if n.op_type.startswith("Conv"))
    assert count["Relu"] == 3 * 12 + 1
    assert count["Transpose"] <= 12
    used = {name for node in model.graph.node for name in node.input}
    assert {weights.name for weights in model.graph.initializer} <= used
    for side in (model.graph.input, model.graph.output):
        dims = side[0].type.tensor_type.shape.dim
        assert [d.dim_param or d.dim_value for d in dims] == ["batch", "height", "width", 3]


def test_shared_weights_are_stored_once():
    params = network("dmphn_1_2_ws")[1]
    parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
    stored = made("dmphn_1_2_ws").graph.initializer
    floats = [np.prod(w.dims, dtype=int) for w in stored if w.name.startswith("stage_1")]
    assert sum(floats) == parameters


def test_the_file_tells_what_it_is(tmp_path):
    config, params = network("stack2")
    options = Options("onnx", precision="float16")
    onnx_file.write(tmp_path / "x.onnx", params, config, "a digest", options)
    meta = onnxruntime.InferenceSession(tmp_path / "x.onnx").get_modelmeta()
    found = meta.custom_metadata_map
    assert found == card(config, "a digest", options)
    assert ModelConfig.from_dict(json.loads(found["config"])) == config
    assert onnx.load(tmp_path / "x.onnx").opset_import[0].version == onnx_file.OPSET


@pytest.mark.parametrize("name", ["dmphn_1_2_4", "dmsn_2"])
def test_openvino_gives_the_same(name, expected):
    # In a process of its own: OpenVINO forks when imported, and JAX's threads are here.
    from tests.export.openvino_process import run_in_openvino

    images = run_in_openvino(made(name), [blurry(size) for size in SIZES])
    for image, sharp in zip(images, expected(name), strict=True):
        assert largest(image, sharp) <= 1


def test_an_operation_without_a_rule_is_one_line():
    def translate(function):
        graph = Graph("x", (2, 3), np.dtype("float32"))
        rules = {
            name: lambda eqn, v, rule=rule: rule(graph, eqn, v) for name, rule in RULES.items()
        }
        traced = jax.make_jaxpr(function)(np.zeros((2, 3), np.float32))
        return walk(traced, [graph.input], rules, np.asarray, "onnx")

    with pytest.raises(UserError, match="onnx: JAX's operation cumsum has no rule"):
        translate(lambda x: lax.cumsum(x))
    with pytest.raises(UserError, match="rounding other than"):
        translate(lambda x: lax.round(x, lax.RoundingMethod.AWAY_FROM_ZERO))


def test_axes_that_a_reshape_merges_and_cuts():
    b, h = jax.export.symbolic_shape("b, h")
    assert _groups((b, 2, 2, 8 * h, 3), (4 * b, 8 * h, 3)) == [
        *(((0, 1, 2), (0,)), ((3,), (1,)), ((4,), (2,))),
    ]
    assert _groups((b, 8 * h, 3), (b, 2, 4 * h, 3)) == [((0,), (0,)), ((1,), (1, 2)), ((2,), (3,))]
    assert _groups((b,), (b, 1)) == [((0,), (0, 1))]
    assert _groups((b, h), (h, b)) is None  # symbols do not tell
