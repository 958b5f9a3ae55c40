"""launch/cloud_tpu.sh: what becomes of the machines at the end, and a look at them meanwhile."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess

import pytest

from tests.support.cloud_tpu import AGAIN, NONE, STEPS, TRAIN, WHERE, ended, first, states
from tests.support.stand_ins import ROOT, StandIns, last_line


@pytest.mark.parametrize("status", [0, 1, 2, 75])
def test_it_cleans_up_after_itself_when_asked(cloud, status):
    states(cloud, "ACTIVE")
    first(cloud, "follow", status)
    done = cloud.run("cloud_tpu.sh", *TRAIN, "--delete-after", "--restarts=0")
    assert done.returncode == status
    assert cloud.steps(STEPS) == [*AGAIN, "delete"]
    assert "--force" in cloud.calls()[-1]


def test_it_cleans_up_what_stays_out_of_reach(cloud):
    states(cloud, "ACTIVE")
    cloud.reply("ssh job", error=NONE, times=0)
    done = cloud.run("cloud_tpu.sh", *TRAIN, "--delete-after", "--restarts=1")
    assert done.returncode == 255
    assert cloud.steps(STEPS)[-1] == "delete"


@pytest.mark.parametrize(
    ("status", "flags", "line"),
    [
        (130, [], "still there and cost"),  # a person, who may go on
        (0, ["--workdir=runs/x"], "may lie on their own disk, so the machines are still there"),
        (1, ["--workdir=/runs/x"], "may lie on their own disk, so the machines are still there"),
    ],
)
def test_what_is_to_be_gone_on_with_or_could_be_lost_is_kept(cloud, status, flags, line):
    states(cloud, "ACTIVE")
    first(cloud, "follow", status)
    done = cloud.run("cloud_tpu.sh", *TRAIN, "--delete-after", *flags)
    assert done.returncode == status
    assert cloud.steps(STEPS) == AGAIN
    assert line in last_line(done)
    assert ("they will be kept" in done.stderr.splitlines()[0]) == bool(flags)


def test_an_interrupt_ends_the_script_alone(cloud, tmp_path):
    """Even if gcloud ends with a status of its own, as for a broken connection."""
    states(cloud, "ACTIVE")
    program = tmp_path / "bin" / "gcloud"
    recorder = program.rename(program.with_name("record"))
    program.write_text(
        "#!/bin/bash\n"
        f'[[ "$*" == *follow* ]] || exec {recorder} "$@"\n'
        'trap "exit 1" INT; echo "step 7"; while sleep 0.1; do :; done\n'
    )
    program.chmod(0o755)
    train = [*TRAIN, "--delete-after"]
    script = subprocess.Popen(
        # Where the tests run in the background, interrupts are ignored, and bash cannot trap them.
        ["env", "--default-signal=INT", "bash", ROOT / "launch/cloud_tpu.sh", *train],
        env=cloud.env(),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert script.stdout.readline() == "step 7\n"
    os.killpg(script.pid, signal.SIGINT)
    script.communicate(timeout=30)
    assert script.returncode == 130
    assert not any({"delete", "wait"} & set(" ".join(call).split()) for call in cloud.calls())


def test_machines_that_cannot_be_given_back_are_told(cloud):
    states(cloud, "ACTIVE")
    cloud.reply("delete", 1, times=0)
    done = cloud.run("cloud_tpu.sh", *TRAIN, "--delete-after")
    assert done.returncode == 1
    assert cloud.steps(STEPS).count("delete") == 5
    assert "not deleted and may cost" in last_line(done)


@pytest.mark.parametrize(("state", "steps"), [("ACTIVE", ["look", "last"]), ("CREATING", ["look"])])
def test_status_looks_at_the_log_where_there_can_be_one(cloud, state, steps):
    states(cloud, state)
    cloud.reply("on_host.sh last", out=f"step 7\n{ended(0)}")
    done = cloud.run("cloud_tpu.sh", "status", *WHERE)
    assert done.returncode == 0
    assert cloud.steps(STEPS) == steps
    assert done.stderr.splitlines()[0] == f"cloud_tpu.sh: job: {state}"
    assert done.stdout == ("step 7\n" if "last" in steps else "")


@pytest.mark.parametrize(
    ("flags", "where"),
    [
        ([], "--node 0 --worker 0"),
        (["--worker=3"], "--node 0 --worker 3"),
        (["--worker=1.2"], "--node 1 --worker 2"),
    ],
)
def test_the_log_of_any_host_is_followed(cloud, flags, where):
    cloud.reply("follow", out=f"step 7\n{ended(75)}")
    done = cloud.run("cloud_tpu.sh", "log", *WHERE, *flags)
    assert done.returncode == 75
    assert done.stdout == "step 7\n"
    assert where in " ".join(cloud.calls()[0])


def test_a_real_host_tells_how_its_run_ended(tmp_path):
    """What gcloud is given is run by a shell, with the real on_host.sh."""
    cloud = StandIns(tmp_path, "gcloud")
    (tmp_path / "bin" / "gcloud").write_text('#!/bin/bash\ncd && exec bash -c "${@: -1}"\n')
    shutil.copytree(ROOT / "launch", tmp_path / "job" / "launch")
    state = tmp_path / "state" / "job"
    state.mkdir(parents=True)
    (state / "log").write_text("SIGTERM at step 7: saved")
    (state / "status").write_text("75\n")
    done = cloud.run("cloud_tpu.sh", "log", *WHERE, STATE=str(state.parent))
    assert done.returncode == 75, done.stderr
    assert done.stdout == "SIGTERM at step 7: saved\n"
    (state / "log").unlink()
    done = cloud.run("cloud_tpu.sh", "log", *WHERE, STATE=str(state.parent))
    assert done.returncode == 69
    assert "no run was started" in last_line(done)


@pytest.mark.parametrize("action", ["log", "stop"])
def test_hosts_out_of_reach_are_told(cloud, action):
    cloud.reply("ssh job", error=NONE)
    done = cloud.run("cloud_tpu.sh", action, *WHERE)
    assert done.returncode == 255
    assert last_line(done) == "cloud_tpu.sh: job cannot be reached"
