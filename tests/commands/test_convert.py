"""The command `dmphn convert`: what it prints, and what it leaves on disk."""

import subprocess
import sys

import pytest

from dmphn_jax import checkpoints
from dmphn_jax.commands import convert
from dmphn_jax.errors import run_command
from tests.checkpoints.torch.weights import assert_same_bits, make_files, narrow


def test_the_command_there_and_back(tmp_path, capsys):
    params, config = make_files(tmp_path / "w", "stack2_dmphn_1_2")

    def run(*arguments):
        status = run_command(convert.main, [str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return status, out, err

    status, out, _ = run(tmp_path / "w", tmp_path / "c")
    assert (status, out.count("\n")) == (0, 1)
    assert "stack2_dmphn_1_2, width 2" in out
    loaded = checkpoints.load(tmp_path / "c")
    assert loaded.config == config
    assert_same_bits(loaded.params, params)
    assert loaded.info["origin"] == "PyTorch weights in w"

    status, _, err = run(tmp_path / "w", tmp_path / "c")
    assert (status, err.count("\n")) == (2, 1)
    assert run(tmp_path / "w", tmp_path / "c", "--model", "dmphn_1_2", "--overwrite")[0] == 0
    assert checkpoints.load(tmp_path / "c").config == narrow("dmphn_1_2")

    assert run("--to-torch", tmp_path / "c", tmp_path / "back")[0] == 0
    assert sorted(path.name for path in (tmp_path / "back").iterdir()) == [
        *("decoder_lv1.pkl", "decoder_lv2.pkl", "dmphn_model.json"),
        *("encoder_lv1.pkl", "encoder_lv2.pkl"),
    ]
    status, _, err = run("--to-torch", tmp_path / "c", tmp_path / "back")
    assert status == 2
    assert "--overwrite" in err
    assert run("--to-torch", tmp_path / "c", tmp_path / "back", "--overwrite")[0] == 0
    # it never replaces a folder that holds anything else
    (tmp_path / "back" / "thesis.tex").write_text("years of work")
    status, _, err = run("--to-torch", tmp_path / "c", tmp_path / "back", "--overwrite")
    assert status == 2
    assert "thesis.tex" in err
    status, _, err = run("--to-torch", tmp_path / "w", tmp_path / "no")
    assert (status, err.count("\n")) == (2, 1)
    assert "not a checkpoint" in err
    status, _, err = run(tmp_path / "nowhere", tmp_path / "no")
    assert (status, err.count("\n")) == (2, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back", "c", "w"]


def test_help_and_reading_need_neither_jax_nor_torch():
    code = (
        "import sys; from dmphn_jax.commands import convert\n"
        "try: convert.main(['--help'])\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "assert not {'jax', 'torch', 'tensorflow', 'orbax'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--to-torch" in done.stdout


LIMITED = """
import resource, sys
from dmphn_jax.commands import convert
from dmphn_jax.errors import run_command
resource.setrlimit(resource.RLIMIT_FSIZE, (6_000, 6_000))
sys.exit(run_command(convert.main, sys.argv[1:]))
"""


@pytest.mark.parametrize("to_torch", [False, True])
def test_a_full_disk_is_one_line_and_the_old_stands(tmp_path, to_torch):
    make_files(tmp_path / "w", "dmphn_1")
    source = tmp_path / "w"
    if to_torch:
        source = tmp_path / "c"
        assert convert.main([str(tmp_path / "w"), str(source)]) == 0
    target = tmp_path / "target"
    arguments = [*(["--to-torch"] if to_torch else []), str(source), str(target), "--overwrite"]
    assert convert.main(arguments) == 0
    before = {path: path.read_bytes() for path in target.rglob("*") if path.is_file()}
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, *arguments], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == f"dmphn: error: {target}: cannot be written: File too large\n"
    assert {path: path.read_bytes() for path in target.rglob("*") if path.is_file()} == before
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_what_a_killed_overwrite_left_is_put_back(tmp_path, capsys):
    _, config = make_files(tmp_path / "w", "dmphn_1", sidecar=True)
    for folder in (tmp_path / "w", tmp_path / "c"):
        scratch = tmp_path / f".{folder.name}.abcdefgh.replacing"
        scratch.mkdir()
        (scratch / "lock").touch()
        if folder.exists():
            folder.rename(scratch / "old")
        assert convert.main([str(tmp_path / "w"), str(tmp_path / "c"), "--overwrite"]) == 0
        assert checkpoints.load(tmp_path / "c").config == config
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c", "w"]
