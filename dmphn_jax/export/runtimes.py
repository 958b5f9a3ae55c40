"""Running artefacts, each in the libraries that its users would take."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np

from dmphn_jax.errors import UserError

Run = Callable[[np.ndarray], np.ndarray]
"""From blurry images (B, H, W, 3), uint8 or float32, to sharp ones."""


def prepare(format: str) -> None:
    """Readies what `load` needs; raises UserError where nothing is installed that runs a format.

    To be called before JAX is imported: OpenVINO forks when it is, which JAX's threads forbid.
    """
    if format != "onnx":
        return
    if importlib.util.find_spec("onnxruntime") is None:
        raise UserError(
            "--verify runs ONNX files in ONNX Runtime: pip install 'dmphn_jax[export]' "
            "(or pip install onnxruntime)"
        )
    with contextlib.suppress(ImportError):
        import openvino  # noqa: F401


def load(path: Path, format: str) -> dict[str, Run]:
    """Loads an artefact in every library that is installed for it: name and version -> `Run`."""
    if format == "stablehlo":
        return _jax(path)
    if format == "saved":
        return _tensorflow(path)
    return {**_onnxruntime(path), **_openvino(path)}


def _jax(path: Path) -> dict[str, Run]:
    import jax
    import jax.export

    call = jax.jit(jax.export.deserialize(bytearray(path.read_bytes())).call)
    platform = jax.devices()[0].platform
    return {f"JAX {jax.__version__} ({platform})": lambda images: np.asarray(call(images))}


def _onnxruntime(path: Path) -> dict[str, Run]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = f"ONNX Runtime {onnxruntime.__version__} (cpu)"
    return {name: lambda images: session.run(None, {"blurry": images})[0]}


def _openvino(path: Path) -> dict[str, Run]:
    if importlib.util.find_spec("openvino") is None:
        return {}
    import openvino

    # Left alone, it computes float32 models in bfloat16 where the processor can.
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    model = openvino.Core().compile_model(str(path), "CPU", options)
    version = openvino.__version__.split("-")[0]
    return {f"OpenVINO {version} (cpu)": lambda images: model(images)[0]}


def _tensorflow(path: Path) -> dict[str, Run]:
    import tensorflow as tf

    model = tf.saved_model.load(str(path))
    run = model.signatures["serving_default"]

    def call(images: np.ndarray, model: object = model) -> np.ndarray:  # which must stay alive
        return run(blurry=tf.constant(images))["sharp"].numpy()

    return {f"TensorFlow {tf.__version__}": call}
