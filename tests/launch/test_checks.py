"""What common.sh looks at last, before anything is created: the config, its settings, buckets."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

from dmphn_jax.errors import UserError
from tests.launch.test_cloud_tpu import TRAIN
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
