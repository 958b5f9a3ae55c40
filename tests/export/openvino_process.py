"""Runs an ONNX file in OpenVINO, in a process of its own."""

import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

_CODE = """
import sys, numpy, openvino
model = openvino.Core().compile_model(sys.argv[1], "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
images = numpy.load(sys.argv[2])
numpy.savez(sys.argv[3], **{name: model(images[name])[0] for name in images})
"""


def run_in_openvino(model, images):
    """What OpenVINO makes of images; skips where it is not installed."""
    if importlib.util.find_spec("openvino") is None:
        pytest.skip("OpenVINO is not installed")
    with tempfile.TemporaryDirectory() as folder:
        file, given, made = (Path(folder) / name for name in ("m.onnx", "given.npz", "made.npz"))
        file.write_bytes(model.SerializeToString())
        np.savez(given, **{str(i): image for i, image in enumerate(images)})
        command = [sys.executable, "-c", _CODE, *map(str, (file, given, made))]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        result = np.load(made)
        return [result[str(i)] for i in range(len(images))]
