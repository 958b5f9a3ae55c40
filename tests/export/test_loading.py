"""The lines of docs/export.md that load a file run where this package cannot be imported."""

import importlib.util
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from dmphn_jax.export import writing
from dmphn_jax.export.options import Options
from dmphn_jax.inference.deblurrer import Deblurrer
from tests.export.models import blurry, largest, network
from tests.support.pages import ROOT

BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "export.md").read_text(), re.DOTALL)
LIBRARIES = ("onnxruntime", "openvino", "jax", "tensorflow")
FILES = {"onnx": "model.onnx", "stablehlo": "model.stablehlo", "saved": "model_saved"}
WITHOUT = """
import sys
class Without:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("dmphn_jax", "flax"):
            raise ImportError(f"{name} is not here")
sys.meta_path.insert(0, Without())
"""


def test_there_are_few_lines_for_every_library():
    assert len(BLOCKS) == len(LIBRARIES)
    for block, library in zip(BLOCKS, LIBRARIES, strict=True):
        assert f"import {library}" in block
        assert len(block.splitlines()) <= 15


@pytest.mark.parametrize(("block", "library"), zip(BLOCKS, LIBRARIES, strict=False))
def test_a_file_loads_without_this_package(block, library, tmp_path):
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    config, params = network("dmphn_1_2")
    format = next(format for format, file in FILES.items() if f'"{file}"' in block)
    writing.write(tmp_path / FILES[format], params, config, "a digest", Options(format))
    image = blurry((1, 21, 30))[0]
    Image.fromarray(image).save(tmp_path / "blurry.png")
    done = subprocess.run(
        [sys.executable, "-I", "-c", WITHOUT + block],
        cwd=tmp_path, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    sharp = np.asarray(Image.open(tmp_path / "sharp.png"))
    assert largest(sharp, Deblurrer(params=params, config=config)(image)) <= 1


def test_the_block_on_imports_blocks():
    code = WITHOUT + "import dmphn_jax"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True)
    assert "dmphn_jax is not here" in done.stderr
