"""What common.sh looks at last, before anything is created: the config, its settings, buckets."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

from dmphn_jax.errors import UserError
from tests.support.cloud_tpu import TRAIN
from tests.support.stand_ins import ROOT, StandIns, last_line

PLAN = [flag for flag in TRAIN if flag != "--no-plan"]


@pytest.fixture
def cloud(tmp_path):
    if subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True).returncode:
        pytest.skip("no git checkout")
    return StandIns(tmp_path, "gcloud")


def test_a_config_that_is_not_committed_ends_it(cloud, tmp_path):
    mine = tmp_path / "mine.py"
    mine.touch()
    done = cloud.run("cloud_tpu.sh", *TRAIN, f"--config={mine}:a")
    assert done.returncode == 2
    assert f"--config {mine}:a: not in " in last_line(done)
    assert cloud.calls() == []


@pytest.mark.parametrize(
    "said",
    [
        "ERROR: (gcloud.storage.ls) gs://b not found: 404.",
        "ERROR: (gcloud.storage.ls) HTTPError 404: The specified bucket does not exist.",
    ],
)
def test_a_bucket_that_does_not_exist_ends_it(cloud, said):
    cloud.reply("storage ls gs://b$", 1, error=f"{said}\n")
    done = cloud.run("cloud_tpu.sh", *PLAN)
    assert done.returncode == 2
    assert "--data gs://b/gopro: no such bucket" in last_line(done)
    assert [call[1:] for call in cloud.calls()] == [["storage", "ls", "gs://b"]]


def test_each_bucket_is_looked_at_once_and_one_that_refuses_is_said(tmp_path):
    cloud = StandIns(tmp_path, "gcloud")
    cloud.reply("gs://b", 1, error="ERROR: HTTPError 403: no storage.objects.list\n")
    script = f"source {ROOT}/launch/common.sh; COMMAND=x DATA=gs://b/c/d WORKDIR=$1; plan"
    for workdir, buckets in (("gs://b", ["gs://b"]), ("gs://e/f", ["gs://b", "gs://e"])):
        before = len(cloud.calls())
        done = subprocess.run(
            ["bash", "-euc", script, "plan", workdir],
            env=cloud.env(),
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert [call[-1] for call in cloud.calls()[before:]] == buckets
        assert ("gs://b cannot be looked at from here" in done.stderr) == (before == 0)


@pytest.fixture(scope="module")
def check():
    spec = importlib.util.spec_from_file_location("check", ROOT / "launch" / "check.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.check


@pytest.mark.parametrize(
    ("devices", "slices", "flags", "line"),
    [
        ("v6e:4x4", "1", ["batch_sise=64"], "config.batch_sise: no such field"),
        ("v6e:4x4", "1", ["batch_size=24"], "24 is not shared evenly by 16 devices"),
        ("v6e:4x4", "2", ["batch_size=16"], "16 is not shared evenly by 32 devices"),
        ("h100:32", "1", ["batch_size=16"], "16 is not shared evenly by 32 devices"),
        ("", "1", ["data.source=gopr"], "config.data.source = 'gopr'"),
        ("", "1", ["optimizer.name=adm"], "config.optimizer.name"),
    ],
)
def test_a_mistake_in_the_settings_is_a_line(check, devices, slices, flags, line):
    flags = [f"--config.{flag}" for flag in flags]
    with pytest.raises(UserError) as raised:
        check([devices, slices, "configs/stack4.py", *flags])
    assert line in str(raised.value)


def test_what_only_the_hosts_can_know_is_no_mistake(check):
    places = ["--config.data.source=/there/pairs", "--config.eval.source=gs://there/pairs"]
    check(["", "1", "configs/stack4.py", "--config.batch_size=7", *places])


@pytest.fixture
def checkout(tmp_path):
    """A checkout in small, and what `plan` says in it of a config's batch."""
    (tmp_path / "launch").mkdir()
    for name in ("common.sh", "check.py"):
        (tmp_path / "launch" / name).symlink_to(ROOT / "launch" / name)
    programs = StandIns(tmp_path / "programs", "dmphn")

    def plan(*overrides: str) -> subprocess.CompletedProcess[str]:
        script = (
            f"source {tmp_path}/launch/common.sh; ACCELERATOR=h100-80gb-8 NODES=2; "
            f'CONFIG={ROOT}/configs/dmphn.py:1; overrides=("$@"); plan; echo created'
        )
        return subprocess.run(
            ["bash", "-euc", script, "launcher", *overrides],
            env=programs.env(),
            capture_output=True,
            text=True,
        )

    return plan


def test_settings_are_checked_where_the_project_is_installed(checkout, tmp_path):
    said = checkout("--config.batch_size=24")
    assert "the settings are not checked" in said.stderr
    assert said.stdout.strip() == "created"
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/bash\ncd {ROOT}; PYTHONPATH=. exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    said = checkout("--config.batch_size=24")
    assert said.returncode == 2
    assert last_line(said).startswith("launcher: config.batch_size = 24 is not shared evenly by 16")
    assert "created" not in said.stdout


GKE = ["image", "--accelerator=v6e-16", "--dry-run"]


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        ({"NAME": "DESKTOP-1"}, "--name DESKTOP-1 (from the variable NAME): lower-case"),
        ({"DMPHN_NAME": "X"}, "--name X (from the variable DMPHN_NAME): lower-case"),
        ({"RESTARTS": "many"}, "--restarts many (from the variable RESTARTS): a whole"),
        ({"COMMAND": "ls"}, "--command (from the variable COMMAND) goes with the action run"),
        ({"CONFIG": "no.py"}, "--config no.py (from the variable CONFIG): no such file"),
    ],
)
def test_a_wrong_value_names_the_variable_it_came_from(tmp_path, variables, line):
    flags = ["train", "--hosts=a"] + ["--config=configs/stack4.py"] * ("CONFIG" not in variables)
    done = StandIns(tmp_path, "ssh").run("hosts.sh", *flags, **variables)
    assert done.returncode == 2
    assert line in last_line(done)


def test_what_is_taken_from_bare_variables_is_said(tmp_path):
    programs = StandIns(tmp_path)
    done = programs.run("gke_xpk.sh", *GKE, IMAGE="other image", ZONE="z")
    assert done.returncode == 0
    assert done.stderr == "gke_xpk.sh: taken from the environment: ZONE=z 'IMAGE=other image'\n"
    done = programs.run("gke_xpk.sh", *GKE, IMAGE="other", DMPHN_IMAGE="mine")
    assert done.stderr == ""
    assert "docker push mine" in done.stdout
    assert "docker push own" in programs.run("gke_xpk.sh", *GKE, "--image=own", IMAGE="x").stdout


@pytest.mark.parametrize("value", ["0", "false", "False", "no", ""])
def test_a_switch_that_is_off_is_off(cloud, value):
    create = ["queued-resources", "create"]
    cloud.reply("describe", 1, error="NOT_FOUND\n")
    cloud.reply("create", 1, error="ERROR: asked\n")
    done = cloud.run("cloud_tpu.sh", *TRAIN, f"--reserved={value}", SPOT=value, DRY_RUN=value)
    assert "ERROR: asked" in last_line(done)
    (call,) = (call for call in cloud.calls() if call[3:5] == create)
    assert "--spot" not in call
    assert "--reserved" not in call


def test_a_switch_that_is_on_is_on(tmp_path):
    done = StandIns(tmp_path).run("cloud_tpu.sh", *TRAIN, DMPHN_DRY_RUN="1", SPOT="1")
    assert done.returncode == 0
    assert "--node-id job --spot" in done.stdout
