"""The contenders that run an ONNX file on the CPU: ONNX Runtime and OpenVINO."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dmphn_jax.benchmarking.contender import Contender
from dmphn_jax.benchmarking.counts import cut
from dmphn_jax.benchmarking.peers import VARIANTS
from dmphn_jax.benchmarking.timing import Case
from dmphn_jax.benchmarking.torch_twin import Twin, stacked
from dmphn_jax.models import ModelConfig
from dmphn_jax.runtime import cores

_INPUT = "pixels"


class _Deblurring(nn.Module):
    """uint8 (B, 3, H, W) to uint8, or to the float image that is not yet rounded."""

    def __init__(self, net: Twin, *, rounded: bool) -> None:
        super().__init__()
        self._net, self._rounded = net, rounded

    def forward(self, pixels: Tensor) -> Tensor:
        image = self._net(pixels.float() / 255 - 0.5)[-1]
        if not self._rounded:
            return image
        return ((image + 0.5) * 255).round().clamp(0, 255).to(torch.uint8)


def inference(
    config: ModelConfig,
    params: dict[str, Any],
    images: np.ndarray,
    *,
    stages: int | None,
    variant: str,
) -> Contender:
    """Returns inference from uint8 to uint8, as the other contenders do it.

    Args:
      config, params, images, stages: as in `jax_cases.inference`.
      variant: a name of `VARIANTS`, of the peer "onnxruntime" or "openvino".
    """
    how = VARIANTS[variant]
    net = Twin(cut(config, stages), stacked).load(params).eval()
    pixels = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    load = {"onnxruntime": _onnxruntime, "openvino": _openvino}[how.peer]

    def program(*, rounded: bool) -> Callable[[], np.ndarray]:
        file = _onnx_file(_Deblurring(net, rounded=rounded).eval(), pixels)
        return load(file, pixels, how.precision)

    def check() -> dict[str, np.ndarray]:
        return {"image": program(rounded=False)().transpose(0, 2, 3, 1).astype(np.float32)}

    return Contender(
        library=how.library,
        variant=how.precision,
        precision=how.precision,
        case=Case(f"{how.library} {how.precision}", program(rounded=True), lambda _: None),
        check=check,
    )


def _onnx_file(module: nn.Module, pixels: np.ndarray) -> bytes:
    """Returns a module as ONNX, by PyTorch's older exporter: the newer needs onnxscript too."""
    file = io.BytesIO()
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, (torch.from_numpy(pixels),), file, dynamo=False, input_names=[_INPUT]
        )
    return file.getvalue()


def _onnxruntime(file: bytes, pixels: np.ndarray, precision: str) -> Callable[[], np.ndarray]:
    import onnxruntime

    del precision  # its convolutions on a CPU know float32 only
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cores()
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {_INPUT: pixels})[0]


def _openvino(file: bytes, pixels: np.ndarray, precision: str) -> Callable[[], np.ndarray]:
    import openvino

    options = {
        "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[precision],
        "INFERENCE_NUM_THREADS": cores(),
        "PERFORMANCE_HINT": "LATENCY",
    }
    core = openvino.Core()
    request = core.compile_model(core.read_model(file), "CPU", options).create_infer_request()
    return lambda: request.infer({_INPUT: pixels})[0]
