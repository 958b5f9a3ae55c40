"""A model as an ONNX file: what JAX traces of it, primitive by primitive."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import jax
import numpy as np
import onnx
from onnx import helper

from dmphn_jax.export.onnx_graph import Graph, constant
from dmphn_jax.export.onnx_rules import RULES
from dmphn_jax.export.options import Options, card
from dmphn_jax.export.program import blurry, program
from dmphn_jax.export.walk import walk
from dmphn_jax.models import ModelConfig, parameter_name
from dmphn_jax.models.convolutions import DilatedConvolutions

OPSET = 17
_IR_VERSION = 8  # of the opset's time: what reads the one reads the other
INPUT, OUTPUT = "blurry", "sharp"


def write(
    path: Path, params: dict[str, Any], config: ModelConfig, digest: str, options: Options
) -> None:
    """Writes a model to the file `path`, checked by ONNX's own checker."""
    file = model(params, config, options)
    helper.set_model_props(file, card(config, digest, options))
    onnx.save_model(file, path)
    onnx.checker.check_model(path, full_check=True)


def model(params: dict[str, Any], config: ModelConfig, options: Options) -> onnx.ModelProto:
    """Returns a model as ONNX, without metadata.

    Transposed convolutions are traced as such: ONNX has them.
    """
    spec = blurry(options)
    traced = jax.make_jaxpr(program(config, options, DilatedConvolutions()))(params, spec)
    graph = Graph(INPUT, spec.shape, spec.dtype)
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    weights = [constant(leaf, parameter_name(path)) for path, leaf in leaves]
    rules = {name: functools.partial(rule, graph) for name, rule in RULES.items()}
    (sharp,) = walk(traced, [*weights, graph.input], rules, constant, "onnx")
    nodes = graph.finish(sharp, OUTPUT)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(spec.dtype))
    sizes = [size if isinstance(size, int) else str(size) for size in spec.shape]
    made = helper.make_graph(
        nodes,
        "deblur",
        [helper.make_tensor_value_info(INPUT, kind, sizes)],
        [helper.make_tensor_value_info(OUTPUT, kind, sizes)],
        list(graph.initializers.values()),
    )
    return helper.make_model(
        made,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=_IR_VERSION,
        producer_name="dmphn_jax",
    )
