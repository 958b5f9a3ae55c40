"""`dmphn demo`: whose folder it writes to, and what it ends with; a stand-in trains."""

from __future__ import annotations

from pathlib import Path

import pytest

from dmphn_jax import runtime
from dmphn_jax.commands import demo
from dmphn_jax.errors import UserError, run_command
from dmphn_jax.training import loop
from dmphn_jax.training.lock import Lock


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    """Leaves this process's JAX and allocator as they are."""
    monkeypatch.setattr(demo, "_use_all_cores", lambda: None)
    monkeypatch.setattr(runtime, "cache_compilations", lambda: None)
    monkeypatch.setattr(runtime, "keep_freed_memory", lambda: None)


@pytest.fixture
def training(monkeypatch):
    """Has `train` do what a test puts into the list, on the work folder, and end by SIGTERM."""
    does = []

    def train(config, workdir):
        workdir.mkdir(parents=True)  # it must not be there any more
        for action in does:
            action(workdir)
        return loop.TrainResult(3, None, "SIGTERM", {})

    monkeypatch.setattr(loop, "train", train)
    return does


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_second_demo_is_refused_and_the_first_goes_on(training, tmp_path, capsys):
    def second(workdir):
        (workdir / "metrics.csv").write_text("step\n1\n")
        before = tree(tmp_path)
        assert run_command(demo.main, ["--output", str(tmp_path / "demo")]) == 2
        assert tree(tmp_path) == before

    training.append(second)
    demo.main(["--output", str(tmp_path / "demo")])
    assert (tmp_path / "demo/run/metrics.csv").exists()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "another run is at work there" in lines[0]
    assert "--output" in lines[0]


def test_folders_of_someone_else_are_kept(training, tmp_path):
    for name in ("run/checkpoint", "report/text.md", "lock"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")
    before = tree(tmp_path)
    with pytest.raises(UserError, match="did not write"):
        demo.main(["--output", str(tmp_path)])
    assert tree(tmp_path) == before


def test_a_run_that_someone_trains_on_in_the_demo_is_kept(training, tmp_path):
    demo.main(["--output", str(tmp_path)])
    lock = Lock(tmp_path / "run")
    (tmp_path / "run/metrics.csv").write_text("step\n")
    with pytest.raises(UserError, match="another run is at work there"):
        demo.main(["--output", str(tmp_path)])
    assert (tmp_path / "run/metrics.csv").exists()
    lock.release()


def test_a_demo_takes_the_place_of_the_last_one_and_of_nothing_beside_it(training, tmp_path):
    training.append(lambda workdir: (workdir / "of_this_demo").touch(exist_ok=False))
    demo.main(["--output", str(tmp_path)])
    (tmp_path / "report").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "file").touch()
    (tmp_path / "real").symlink_to(elsewhere)
    demo.main(["--output", str(tmp_path)])  # `train` makes `run` anew
    assert not (tmp_path / "report").exists()
    assert not (tmp_path / "real").is_symlink()
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert (elsewhere / "file").exists()


@pytest.mark.parametrize("steps", ["10", "0", "-5"])
def test_a_length_that_no_demo_has_leaves_the_last_one_alone(training, tmp_path, steps):
    demo.main(["--output", str(tmp_path)])
    before = tree(tmp_path)
    with pytest.raises((UserError, SystemExit)):
        demo.main(["--output", str(tmp_path), f"--steps={steps}"])
    assert tree(tmp_path) == before


@pytest.mark.parametrize(("by", "status"), [("SIGINT", 130), ("SIGTERM", 75), ("SIGHUP", 75)])
def test_a_demo_that_was_stopped_ends_as_a_training_run_does(monkeypatch, tmp_path, by, status):
    result = loop.TrainResult(3, None, by, {})
    monkeypatch.setattr(loop, "train", lambda config, workdir: result)
    assert demo.main(["--output", str(tmp_path)]) == status


def test_no_reference_data_are_looked_for_but_where_the_variable_says(monkeypatch, tmp_path):
    from PIL import Image

    near = tmp_path / "shared/reference"
    (near / "checkpoints/DMPHN_1_2_4").mkdir(parents=True)
    (near / "blurry").mkdir()
    Image.new("RGB", (8, 8)).save(near / "blurry/x.png")
    (tmp_path / "checkout").mkdir()
    monkeypatch.chdir(tmp_path / "checkout")
    monkeypatch.delenv("DMPHN_REFERENCE", raising=False)
    assert demo._deblur_real(tmp_path / "checkout") is None
    assert list((tmp_path / "checkout").iterdir()) == []
