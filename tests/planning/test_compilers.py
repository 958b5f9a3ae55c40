"""The planner with a real compiler; a tiny network for a slice that is not there."""

import collections
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dmphn_jax.planning.run import environment as planning_environment

ROOT = Path(__file__).resolve().parents[2]


def interpreter(folder: str, module: str) -> str:
    """A Python that has the compiler: this one, or that of `make plan`; skips without one."""
    if module == "libtpu" and library().is_file():
        return sys.executable
    if importlib.util.find_spec(module):
        return sys.executable
    other = ROOT / folder / "bin" / "python"
    if not (other.exists() and list(other.parent.parent.glob(f"lib/*/site-packages/{module}"))):
        pytest.skip(f"{module} is not installed here, nor {folder} made (see Makefile)")
    return str(other)


def library() -> Path:
    """libtpu where `make test` puts it, or where the environment says."""
    return Path(os.environ.get("TPU_LIBRARY_PATH") or ROOT / ".libtpu/libtpu/libtpu.so")


def run(python: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`dmphn plan` in a process; a library that is not there is as one that is not named."""
    named = {"TPU_LIBRARY_PATH": str(library())} if library().is_file() else {}
    return subprocess.run(
        [python, "-m", "dmphn_jax", "plan", *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | named,
        capture_output=True,
        text=True,
    )


def plan(python: str, tmp_path: Path, *arguments: str) -> dict:
    """The plan of a one-level network's training step, as JSON."""
    flags = ["--config", "configs/dmphn.py:1", "--config.model.width=8", "--config.crop_size=32"]
    flags += ["--config.data.feed=host", "--config.steps_per_dispatch=3", *arguments]
    path = tmp_path / "plan.json"
    done = run(python, *flags, "--json", str(path))
    assert done.returncode == 0, done.stderr
    assert "Nothing was executed" in done.stdout
    return json.loads(path.read_text())


KEYS = {
    "format", "executed", "model", "program", "devices", "chip", "chips", "hosts", "batch", "size",
    "precision", "layout", "remat", "compiler_devices", "fits", "memory_per_chip", "needed",
    "exchanges", "operations", "bytes", "model_operations", "cycles", "clock_hz",
    "estimated_seconds", "moves", "moves_cycles", "all_moves", "all_moves_cycles",
    "convolution_bytes", "other_bytes",
    "bounds_seconds", "peak", "steps", "hours", "price_per_chip_hour", "cost", "seconds", "dearest",
    "moved", "note",
}  # fmt: skip


def test_the_page_tells_every_key():
    page = (ROOT / "docs/plan.md").read_text()
    told = page.partition("| key | what |")[2].partition("\n\n")[0]
    assert sorted(KEYS) == sorted({*re.findall(r"`(\w+)`", told)} & KEYS)


def holds_together(made: dict, parameters: int) -> None:
    assert set(made) == KEYS
    memory = made["memory_per_chip"]
    parts = ("parameters", "optimiser", "average", "resident", "other", "temporaries", "program")
    assert memory["sum"] == sum(memory[part] for part in parts)
    assert made["fits"]
    assert memory["parameters"] == 4 * parameters
    assert made["executed"] is False
    assert made["model_operations"] > 0
    assert made["steps"] == 3000 * (2103 // made["batch"])


def test_a_training_step_for_a_tpu_slice(tmp_path):
    """It fits, exchanges once, and copies no features: 8 crops a chip, which fill a tile's rows.

    Of the training set on the chips, 2103 pairs of 1280x720, a step reads its own crops alone.
    """
    python = interpreter(".venv-plan", "libtpu")
    flags = ["--config.model.width=32", "--devices", "v5e:2x2", "--batch", "32"]
    flags += ["--config.data.feed=resident", "--price-per-chip-hour", "1.5", "--explain", "3"]
    made = plan(python, tmp_path, *flags, "--precision", "bfloat16")
    holds_together(made, 1_808_131)
    assert (made["chips"], made["devices"]) == (4, "v5e:2x2")
    assert made["layout"] == "folded"
    assert made["cycles"] > 0
    assert made["moves"] == 0 < made["all_moves"]
    assert made["memory_per_chip"]["resident"] == 2 * 526 * 720 * 1280 * 3
    assert 0 < made["bytes"] < made["memory_per_chip"]["resident"] / 2
    assert made["cost"] == pytest.approx(made["hours"] * 4 * 1.5)
    assert len(made["dearest"]) == 3
    # One exchange of the gradients, and the few numbers of the metrics with them.
    (exchange,) = made["exchanges"]
    assert (exchange["kind"], exchange["times"]) == ("all-reduce", 1)
    assert 0 <= exchange["bytes"] - made["memory_per_chip"]["parameters"] < 1000


MANY = """
import re
import jax, numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from dmphn_jax.runtime import exchange_options

devices = topologies.get_topology_desc(topology_name="v5e:2x2", platform="tpu").devices
mesh = Mesh(np.array(devices), ("data",))
one = jax.ShapeDtypeStruct(
    (3, 3, 128, 128), "float32", sharding=NamedSharding(mesh, PartitionSpec())
)
mean = jax.shard_map(
    lambda tree: jax.lax.pmean([2 * x for x in tree], "data"),
    mesh=mesh, in_specs=PartitionSpec(), out_specs=PartitionSpec(), check_vma=False,
)
program = jax.jit(mean, compiler_options=exchange_options(devices)).trace([one] * 260)
text = program.lower(lowering_platforms=("tpu",)).compile().as_text()
print("exchanges", len(re.findall(r" all-reduce(?:-start)?\\(", text)))
"""


def test_a_stacks_gradients_meet_in_one_exchange():
    """They are more tensors and more bytes than the compiler joins by itself."""
    python = interpreter(".venv-plan", "libtpu")
    named = {"TPU_LIBRARY_PATH": str(library())} if library().is_file() else {}
    done = subprocess.run(
        [python, "-c", MANY],
        cwd=ROOT,
        env=os.environ | planning_environment("tpu") | {"PYTHONPATH": str(ROOT)} | named,
        capture_output=True,
        text=True,
    )
    assert "exchanges 1\n" in done.stdout, done.stderr


def test_one_image_on_a_tpu_is_cut_into_strips_without_a_copy(tmp_path):
    python = interpreter(".venv-plan", "libtpu")
    path = tmp_path / "plan.json"
    flags = ["--model", "dmphn_1", "--size", "64x128", "--devices", "v5e:2x2", "--json", str(path)]
    done = run(python, *flags, "--precision", "bfloat16", "--hlo", str(tmp_path / "plan.txt"))
    assert done.returncode == 0, done.stderr
    made = json.loads(path.read_text())
    assert made["fits"]
    assert made["exchanges"] == []
    assert made["moves"] == 0
    assert (tmp_path / "plan.txt").read_text().startswith("HloModule")


def test_a_slice_that_there_is_not_is_one_line():
    python = interpreter(".venv-plan", "libtpu")
    done = run(python, "--model", "dmphn_1", "--devices", "v5e:3x5")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "did you mean v5e:4x4?" in done.stderr


def test_a_training_step_for_a_gpu(tmp_path):
    python = interpreter(".venv-plan-gpu", "jax_cuda13_plugin")
    made = plan(python, tmp_path, "--devices", "h100:2", "--batch", "4", "--precision", "bfloat16")
    holds_together(made, 113_731)
    assert made["cycles"] is None
    (exchange,) = made["exchanges"]
    assert exchange["kind"] == "all-reduce"
    assert made["convolution_bytes"] > 0


def test_a_gpu_runs_each_convolution_as_one_call_of_cudnn(tmp_path):
    """Bias, residual and ReLU are in it; features are nowhere float32, moved or converted."""
    python = interpreter(".venv-plan-gpu", "jax_cuda13_plugin")
    flags = ["--devices", "h100:1", "--precision", "bfloat16"]
    flags += ["--json", str(tmp_path / "plan.json"), "--hlo", str(tmp_path / "plan.txt")]
    done = run(python, "--model", "dmphn_1", "--size", "256x256", *flags)
    assert done.returncode == 0, done.stderr
    made = json.loads((tmp_path / "plan.json").read_text())
    text = (tmp_path / "plan.txt").read_text()
    assert collections.Counter(re.findall(r"__cudnn\$conv(\w+)", text)) == {
        "BiasActivationForward": 30,  # one of them the second of the two that give the image
        "Forward": 1,
    }
    assert made["layout"] == "cudnn-blocks"
    assert not re.search(r"f32\[1,\d+,\d+,(32|64|128)\]", text)
    assert made["moves"] == 0
    assert made["other_bytes"] < 0.1 * made["convolution_bytes"]
    # What lies outside of the image is set to zero in place, and kernels come as cuDNN reads them.
    assert made["all_moves"] <= 3


def test_a_gpus_training_step_writes_little_but_convolutions(tmp_path):
    python = interpreter(".venv-plan-gpu", "jax_cuda13_plugin")
    flags = ["--config.model.width=32", "--config.crop_size=128"]
    made = plan(
        python, tmp_path, *flags, "--devices", "h100:1", "--batch", "8", "--precision", "bfloat16"
    )
    assert made["moves"] == 1  # the transposed convolution's four phases, interleaved
    assert made["other_bytes"] < 0.5 * made["convolution_bytes"]  # with small images for Adam
