"""The command `dmphn export`: what it writes and refuses, what it prints."""

import json

import jax
import pytest

from dmphn_jax import checkpoints
from dmphn_jax.commands import export
from dmphn_jax.errors import run_command
from dmphn_jax.export import onnx_file, verify, writing
from tests.export.models import network
from tests.support.commands import help_without


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    config, params = network("stack2_dmphn_1_2")
    path = tmp_path_factory.mktemp("checkpoint") / "stack"
    checkpoints.save(path, params, config)
    return path


@pytest.fixture
def run(capsys):
    def call(*arguments):
        status = run_command(export.main, [str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return status, out, err

    return call


def test_a_file_is_written_verified_and_replaced_only_when_told(checkpoint, run, tmp_path):
    out = tmp_path / "new" / "m.stablehlo"
    command = (checkpoint, out, "--format", "stablehlo", "--size", "16x24")
    status, said, _ = run(*command, "--stages", 1, "--verify")
    assert status == 0
    found = checkpoints.load(checkpoint)
    half = sum(leaf.size for leaf in jax.tree.leaves(found.params["stage_1"]))
    assert f"stack2_dmphn_1_2, stages 1 to 1: {half:,} parameters" in said
    assert "(batch, 16, 24, 3) uint8" in said
    assert "largest difference" in said
    assert "ratio" in said
    digest = checkpoints.load(checkpoint).digest
    found = json.loads(jax.export.deserialize(bytearray(out.read_bytes())).fun_name)
    assert (found["stages"], found["checkpoint"]) == ("1", digest)

    before = out.read_bytes()
    status, _, err = run(*command)
    assert (status, err.count("\n")) == (2, 1)
    assert "--overwrite" in err
    assert out.read_bytes() == before
    assert run(*command, "--overwrite")[0] == 0
    assert out.read_bytes() != before
    assert [path.name for path in out.parent.iterdir()] == ["m.stablehlo"]


def test_a_file_that_differs_is_told_with_status_1(checkpoint, run, tmp_path, monkeypatch):
    found = verify.Comparison("JAX", 3, 1, 2, 1.0, 1.0, (16, 24))
    monkeypatch.setattr(verify, "verify", lambda *arguments: [found])
    monkeypatch.setattr(writing, "write", lambda path, *rest: path.write_bytes(b"a file"))
    status, said, err = run(checkpoint, tmp_path / "m", "--format", "stablehlo", "--verify")
    assert status == 1
    assert "more than 1" in said
    assert "m: differs from the checkpoint" in err


def test_a_failure_leaves_nothing(checkpoint, run, tmp_path, monkeypatch):
    def fail(path, *rest):
        path.write_bytes(b"a half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(onnx_file, "write", fail)
    status, _, err = run(checkpoint, tmp_path / "m.onnx", "--format", "onnx")
    assert (status, err.count("\n")) == (2, 1)
    assert "m.onnx: cannot be written: No space left" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("CKPT", "m", "--format", "onnx", "--stages", "3"), "--stages 3: the model has stages 1"),
        (("CKPT", "m", "--format", "onnx", "--precision", "bfloat16"), "ONNX has float16"),
        (("CKPT", "m", "--format", "stablehlo", "--verify", "nowhere"), "nowhere: no such file"),
        (("nothing", "m", "--format", "onnx"), "nothing: no such checkpoint"),
        (("CKPT", ".", "--format", "onnx"), "exists and is no file"),
        (("CKPT", "gs://bucket/m", "--format", "onnx"), "a folder of this machine is needed here"),
        (("CKPT", "kept", "--format", "saved"), "is no SavedModel"),
        (("CKPT", "/dev/null", "--format", "onnx", "--overwrite"), "exists and is no file"),
    ],
)
def test_mistakes_are_one_line(checkpoint, run, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(writing, "require", lambda format: None)
    (tmp_path / "kept").write_text("years of work")
    status, _, err = run(*(checkpoint if word == "CKPT" else word for word in arguments))
    assert (status, err.count("\n")) == (2, 1)
    assert said in err
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_a_missing_package_is_named(run, tmp_path, monkeypatch):
    monkeypatch.setattr(writing.importlib.util, "find_spec", lambda name: None)
    status, _, err = run("stack4", tmp_path / "m", "--format", "stablehlo")
    assert (status, err.count("\n")) == (2, 1)
    assert "needs flatbuffers: pip install 'dmphn_jax[export]'" in err


def test_help_needs_no_jax():
    assert "stablehlo" in help_without("export", "jax", "onnx", "numpy")
