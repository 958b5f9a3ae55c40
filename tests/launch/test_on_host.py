"""launch/on_host.sh, run for what it is, in a checkout whose Python is a stand-in."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time

import pytest

from tests.support.stand_ins import ROOT

# A run that ends with status 75 when it is asked to, else with that in the file `status`.
PYTHON = """#!/usr/bin/env bash
[[ $1 != -ISc ]] || exec "${@:3}"
trap 'echo asked to stop; exit 75' INT TERM
echo "training with $*"
until [[ -s status ]]; do sleep 0.02; done
exit "$(cat status)"
"""


@pytest.fixture
def host(tmp_path):
    checkout = tmp_path / "job"
    (checkout / "launch").mkdir(parents=True)
    shutil.copy(ROOT / "launch" / "on_host.sh", checkout / "launch")
    (checkout / ".venv" / "bin").mkdir(parents=True)
    python = checkout / ".venv" / "bin" / "python"
    python.write_text(PYTHON)
    python.chmod(0o755)
    env = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "STATE": str(tmp_path / "state")}

    def run(*argv: str, status: int = 0) -> str:
        done = subprocess.run(
            ["bash", checkout / "launch" / "on_host.sh", *argv],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
        )
        assert done.returncode == status, done.stdout
        return done.stdout

    run.checkout, run.state, run.env = checkout, tmp_path / "state" / "job", env
    yield run
    (checkout / "status").write_text("0")  # whatever still runs


@pytest.mark.parametrize("ends", [0, 75, 2, 1])
def test_a_run_outlives_its_connection_and_its_end_is_told(host, ends):
    host("start", "--config", "a b")
    assert "already at work" in host("start", "--config", "a b")
    host("idle", status=69)
    (host.checkout / "status").write_text(str(ends))
    said = host("follow", status=ends)
    assert said.count("training with -m dmphn_jax.main --config a b") == 1
    host("idle")
    assert host("follow", status=ends) == said  # asked again
    assert host("last") == said


def test_a_run_is_asked_to_stop(host):
    host("start")
    while "training" not in (host.state / "log").read_text():
        time.sleep(0.02)
    assert "asked the run" in host("stop", "TERM")
    assert "asked to stop" in host("follow", status=75)
    assert "no run is at work" in host("stop")


# The project's command in small: a Python that has installed no handler of its own.
MODULE = """
import sys, time
try:
    print("at work", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.parametrize("action", ["start", "foreground"])
def test_stop_interrupts_a_python_that_handles_no_signal(host, action):
    """As cloud_tpu.sh and hosts.sh call it, from shells whose background jobs ignore SIGINT."""
    package = host.checkout / "dmphn_jax"
    package.mkdir()
    (package / "__main__.py").write_text(MODULE)
    python = host.checkout / ".venv" / "bin" / "python"
    python.write_text(f'#!/bin/bash\nexec {sys.executable} "$@"\n')
    log = host.checkout.parent / "out"
    script = host.checkout / "launch" / "on_host.sh"
    job = subprocess.Popen(
        ["bash", "-c", f"bash {script} {action} deblur >>{log} 2>&1 & wait $!"], env=host.env
    )
    log = host.state / "log" if action == "start" else log
    while not log.exists() or "at work" not in log.read_text():
        time.sleep(0.02)
    host("stop")
    if action == "start":
        host("follow", status=130)
    assert job.wait(timeout=30) == (0 if action == "start" else 130)


def test_a_host_that_restarted_under_the_run_counts_as_lost(host):
    host("start")
    (host.checkout / "status").write_text("0")
    host("follow")
    (host.state / "status").unlink()
    (host.state / "pid").write_text("4194304\n")  # no process has this number
    host("follow", status=137)


def test_another_process_of_the_same_number_is_not_taken_for_the_run(host):
    host("start")
    pid = host.state / "pid"
    number, began, boot = pid.read_text().split()
    for other in (f"{number} {int(began) - 1} {boot}\n", f"{number} {began} another-boot\n"):
        run = pid.read_text()
        pid.write_text(other)
        host("idle")
        assert "no run is at work" in host("stop")
        pid.write_text(run)
    host("idle", status=69)


def test_in_the_foreground_the_run_takes_the_place_of_the_script(host):
    host.state.mkdir(parents=True)
    job = subprocess.Popen(
        ["bash", host.checkout / "launch" / "on_host.sh", "foreground", "--x"],
        env={"PATH": "/usr/bin:/bin", "STATE": str(host.state.parent)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert job.stdout.readline() == "training with -m dmphn_jax.main --x\n"
    assert int((host.state / "pid").read_text().split()[0]) == job.pid
    # A second one would take `stop` away from it.
    assert "a run is at work" in host("foreground", "--y", status=69)
    host("stop")
    assert job.wait(timeout=30) == 75


def test_no_run_and_no_action_are_lines(host):
    assert "no run was started" in host("follow", status=69)
    assert "no action 'trian'" in host("trian", status=2)
    host("stop")


@pytest.mark.parametrize(
    ("data", "workdir", "calls"),
    [
        (
            "gs://b/gopro",
            "gs://c/runs/x",
            [
                "gcloud storage rsync --recursive --delete-unmatched-destination-objects "
                "gs://b/gopro data",
            ],
        ),
        ("/mnt/data", "gs://c", []),
        (
            "filer:/share",
            "/mnt/runs",
            ["mountpoint -q data", "sudo mount -t nfs filer:/share data", "mountpoint -q data"],
        ),
    ],
)
def test_data_are_copied_and_folders_mounted(tmp_path, data, workdir, calls):
    from tests.support.stand_ins import StandIns

    programs = StandIns(tmp_path / "x", "gcloud", "mountpoint", "sudo")
    programs.reply("mountpoint", 1)
    checkout = tmp_path / "job" / "launch"
    checkout.mkdir(parents=True)
    script = shutil.copy(ROOT / "launch" / "on_host.sh", checkout)
    subprocess.run(["bash", script, "reach", data, workdir], env=programs.env(), check=True)
    assert [" ".join(call) for call in programs.calls()] == calls


def test_another_run_s_folder_is_let_go_of_first(tmp_path):
    from tests.support.stand_ins import StandIns

    programs = StandIns(tmp_path / "x", "mountpoint", "sudo")
    checkout = tmp_path / "job" / "launch"
    checkout.mkdir(parents=True)
    script = shutil.copy(ROOT / "launch" / "on_host.sh", checkout)
    for share in ("/one", "/one", "/two"):
        subprocess.run(
            ["bash", script, "reach", "", f"filer:{share}"], env=programs.env(), check=True
        )
    calls = [" ".join(call) for call in programs.calls()]
    # Each time it looks, and once more; only the third finds another's mounted.
    assert calls == ["mountpoint -q run"] * 5 + ["sudo umount run"] + ["mountpoint -q run"] * 2


@pytest.mark.parametrize("action", ["start", "foreground"])
@pytest.mark.parametrize("mounts", [True, False])
def test_a_share_is_mounted_again_after_the_host_was_restarted(host, tmp_path, action, mounts):
    from tests.support.stand_ins import StandIns

    programs = StandIns(tmp_path / "x", "mountpoint", "sudo")
    host.env["PATH"] = programs.env()["PATH"]
    (host.checkout / "status").write_text("0")
    host("reach", "/mnt/data", "filer:/runs")
    before = len(programs.calls())
    programs.reply("mountpoint", 1, times=1 if mounts else 0)
    programs.reply("sudo", 0 if mounts else 32, error="" if mounts else "mount.nfs: timed out\n")
    said = host(action, "--x", status=0 if mounts else 69)
    calls = [" ".join(call) for call in programs.calls()[before:]]
    look, mount = "mountpoint -q run", "sudo mount -t nfs filer:/runs run"
    assert calls == [look, mount, look]
    assert ("filer:/runs cannot be mounted at" in said) != mounts
    assert (host.state / "pid").exists() == mounts


def test_its_own_python_is_installed_once_per_version(tmp_path):
    from tests.support.stand_ins import StandIns

    programs = StandIns(tmp_path / "x", "uv")
    checkout = tmp_path / "job"
    (checkout / "launch").mkdir(parents=True)
    script = shutil.copy(ROOT / "launch" / "on_host.sh", checkout / "launch")
    for version in ("1", "1", "2"):
        (checkout / ".version").write_text(version)
        subprocess.run(["bash", script, "install", "jax[tpu]"], env=programs.env(), check=True)
        python = checkout / ".venv" / "bin" / "python"
        python.parent.mkdir(parents=True, exist_ok=True)
        python.touch(mode=0o755)
    made, *installed = [" ".join(call) for call in programs.calls()]
    assert made == "uv venv --quiet --python 3.11 .venv"
    assert len(installed) == 2
    assert all("-c requirements/py311.txt -e .[gcs] jax[tpu]" in line for line in installed)


# A python3 whose pip refuses accounts, and whose environments have a pip that brings uv.
MANAGED = """#!/bin/bash
case "$*" in
  *"pip install --quiet --user"*) echo "error: externally-managed-environment" >&2; exit 1 ;;
  *"-m venv"*)
    [[ $VENV ]] || { echo "ensurepip is not available"; echo "apt install"; exit 1; }
    mkdir -p "$3/bin"; cp "$0" "$3/bin/python" ;;
  *"pip install --quiet uv"*)
    printf '#!/bin/bash\\necho "$@" >>"$HOME/uv.calls"\\n' >"${0%/*}/uv"; chmod +x "${0%/*}/uv" ;;
esac
"""


@pytest.mark.parametrize("venv", ["yes", ""])
def test_uv_comes_where_the_system_manages_its_python(host, tmp_path, venv):
    if shutil.which("uv", path="/usr/bin:/bin"):
        pytest.skip("the system has uv")
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin" / "python3"
    python.write_text(MANAGED)
    python.chmod(0o755)
    host.env |= {"PATH": f"{python.parent}:/usr/bin:/bin", "VENV": venv}
    (tmp_path / ".dmphn" / "uv").mkdir(parents=True)  # of an attempt that was broken off
    said = host("install", "jax[tpu]", status=0 if venv else 69)
    if not venv:
        assert said.count("\n") == 1
        assert "(ensurepip is not available): install uv there" in said
        return
    assert said == ""
    calls = (tmp_path / "uv.calls").read_text()
    assert "pip install --quiet --python .venv/bin/python" in calls
    host("install", "jax[cuda13]")  # another one: uv is found again
    assert "jax[cuda13]" in (tmp_path / "uv.calls").read_text()


def test_a_command_runs_in_training_s_place(host):
    (host.checkout / "status").write_text("0")
    host("start", "deblur", "my photos", "--output", "o")
    said = host("follow")
    assert "training with -m dmphn_jax deblur my photos --output o" in said
    assert "-m dmphn_jax evaluate a" in host("foreground", "evaluate", "a")


@pytest.mark.parametrize("ends", [0, 1, 2, 75, 137])
def test_a_host_waits_for_its_run_and_tells_how_it_ended(host, ends):
    host("start", "deblur")
    (host.checkout / "status").write_text(str(ends))
    said = host("wait", status=ends)
    line = f"ended with {ends}: training with -m dmphn_jax deblur\n"
    assert said.endswith(line) if ends else said == ""


def test_a_host_waits_no_longer_than_it_is_told(host):
    host("start")
    assert "still at work after 0.1 s" in host("wait", "0.1", status=75)
