"""The training command: its flags, its one-line mistakes, its help."""

from __future__ import annotations

import subprocess
import sys

import jax
import pytest

from dmphn_jax import distributed, main
from dmphn_jax.data import SOURCES
from dmphn_jax.errors import UserError
from dmphn_jax.training import loop, settings

STACK4 = "--config=configs/stack4.py"


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["--config=configs/stak4.py"], "did you mean 'configs/stack4.py'"),
        ([STACK4, "--config.batch_sise=3"], "config.batch_sise: no such field .*'batch_size'"),
        ([STACK4, "--config.optimizer.nam=adam"], "no such field .*'optimizer.name'"),
        ([STACK4, "--config.optimizer.name=adm"], "'adm' is not known .*'adam'"),
        ([STACK4, "--config.model.name=stak4"], "no model is called 'stak4' .*'stack4'"),
        ([STACK4, "--config.batch_size=x"], "config.batch_size=x: invalid literal"),
        ([STACK4, "--config.batch_size=0"], "batch_size = 0 must be at least 1"),
        ([STACK4, "--config.crop_size=30"], "crop_size = 30 must be a multiple of 8"),
        ([STACK4, "--workdri=x"], "unknown argument --workdri=x .*'--workdir'"),
        ([STACK4, "--mode=evalute"], "invalid choice: 'evalute'"),
        ([STACK4, "--profile=9:3"], "FIRST:LAST needed"),
        ([STACK4, "extra"], "unknown argument extra"),
        (["--config=configs/stack4.py:7"], "configs/stack4.py:7: TypeError"),
        (["--config=configs/dmphn.py:1-3"], "no model is called 'dmphn_1_3'"),
        ([], "--config FILE is needed"),
        ([STACK4, "--num-processes=2"], "belong together"),
        ([STACK4, "--coordinator=h", "--num-processes=2", "--process-id=0"], "HOST:PORT"),
        ([STACK4, "--coordinator=h:", "--num-processes=2", "--process-id=0"], "HOST:PORT"),
        ([STACK4, "--coordinator=h:x", "--num-processes=1", "--process-id=0"], "HOST:PORT"),
        ([STACK4, "--coordinator=h:70000", "--num-processes=1", "--process-id=0"], "HOST:PORT"),
        ([STACK4, "--coordinator=h:1", "--num-processes=2", "--process-id=2"], "must be below"),
        ([STACK4, "--mode=evaluate"], "no checkpoint; train first"),
    ],
)
def test_a_mistake_is_one_line_with_the_way_out(argv, line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the package's own configs are found from anywhere
    with pytest.raises(UserError, match=line) as error:
        main.main(argv)
    assert "\n" not in str(error.value)


def test_gopro_that_is_not_prepared_says_how_to_prepare_it_or_do_without(tmp_path):
    with pytest.raises(UserError, match=r"tfds_gopro.prepare gopro .*source=synthetic"):
        main.main([STACK4, f"--workdir={tmp_path}/run", f"--config.data.data_dir={tmp_path}"])
    assert not (tmp_path / "run").exists()


def test_flags_reach_the_config():
    flags = ["--config.optimizer.learning_rate", "2e-4", "--config.remat", "--config.seed=7"]
    args, overrides = main._parse([STACK4, *flags, "--workdir", "D"])
    config = settings.read(args.config, overrides)
    assert (config.optimizer.learning_rate, config.remat, config.seed) == (2e-4, True, 7)
    assert (args.workdir, args.mode) == ("D", "train")


@pytest.mark.parametrize(
    ("path", "folder"),
    [
        ("configs/stack4.py", "runs/stack4"),
        ("configs/dmphn.py:1-2-4-8", "runs/dmphn-1-2-4-8"),
    ],
)
def test_the_default_workdir_is_named_after_the_config(path, folder):
    assert settings.workdir_of(path) == folder


def test_help_comes_without_jax():
    code = (
        "import sys; from dmphn_jax import main\n"
        "try: main.main(['--help'])\n"
        "except SystemExit: pass\n"
        "sys.exit('jax' in sys.modules or 'numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--config" in done.stdout
    # Every name that a field may take; the help is wrapped.
    said = " ".join(done.stdout.split())
    for field, known in settings.choices().items():
        assert f"{field}: {', '.join(known)}" in said
    assert f"data.source: {', '.join(SOURCES)}, or a path" in said


@pytest.mark.parametrize(
    ("stopped", "status"), [(None, 0), ("SIGTERM", 75), ("SIGHUP", 75), ("SIGINT", 130)]
)
def test_the_exit_status_tells_launchers_whether_to_start_again(stopped, status, monkeypatch):
    result = loop.TrainResult(8, None, stopped, {})
    monkeypatch.setattr(loop, "train", lambda *_, **__: result)
    assert main.main([STACK4]) == status


def test_other_processes_end_an_evaluation_with_the_firsts_status(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    monkeypatch.setattr(distributed, "broadcast", lambda value: [1, None])
    assert main._evaluate(None, tmp_path, []) == 1


def test_changed_fields_are_named_and_harmless_ones_are_not():
    config = settings.read("configs/dmphn.py", [])
    before = settings.flat(config)
    harmless = {"log_every": 1, "eval.every": 3, "num_steps": 9, "data.data_dir": "elsewhere"}
    assert settings.changed(before, before | harmless) == []
    other = before | {"model.width": 8, "optimizer.decay_epochs": 5, "seed": 1}
    assert settings.changed(before, other) == ["model.width", "optimizer.decay_epochs", "seed"]
    cosine = before | {"optimizer.schedule": "cosine"}
    assert settings.changed(cosine, cosine | {"num_steps": 9}) == ["num_steps"]
