"""launch/slurm.sbatch against stand-ins for srun, scontrol and sbatch."""

from __future__ import annotations

import os
import shutil

import pytest

from tests.support.stand_ins import ROOT, StandIns

FLAGS = [
    "--no-plan",
    "--config=configs/stack4.py",
    "--data=/d",
    "--workdir=/w",
    "--config.batch_size=8",
]
JOB = {"SLURM_JOB_ID": "7", "SLURM_SUBMIT_DIR": str(ROOT), "SLURM_GPUS_ON_NODE": "4"}


@pytest.fixture
def slurm(tmp_path):
    return StandIns(tmp_path, "srun", "scontrol", "sbatch")


def requeued(slurm) -> bool:
    return ["scontrol", "requeue", "7"] in slurm.calls()


@pytest.mark.parametrize(
    ("status", "state", "count", "again"),
    [
        (0, "RUNNING", "0", False),
        (75, "RUNNING", "0", True),  # its time is up, or it was preempted: saved
        (75, "RUNNING", "19", True),
        (75, "RUNNING", "20", False),
        (75, "CANCELLED", "0", False),  # by a person
        (137, "RUNNING", "0", True),  # a process was killed
        (2, "RUNNING", "0", False),
        (130, "RUNNING", "0", False),
        (1, "RUNNING", "0", False),
    ],
)
def test_the_job_is_queued_again_when_it_can_go_on(slurm, status, state, count, again):
    slurm.reply("srun", status)
    slurm.reply("show job", out=f"JobId=7\n   JobState={state} Reason=None\n", times=0)
    done = slurm.run("slurm.sbatch", *FLAGS, **JOB, SLURM_RESTART_COUNT=count)
    assert done.returncode == status
    assert requeued(slurm) == again
    assert ("queued again" in done.stderr) == (status in (75, 137) and count != "20")


# Two tasks, as srun runs them: it returns the highest status.
SRUN = """#!/bin/bash
shift; highest=0
for SLURM_PROCID in 0 1; do
  export SLURM_PROCID; status=0; "$@" || status=$?
  [[ $status -le $highest ]] || highest=$status
done
exit "$highest"
"""


@pytest.mark.parametrize(
    ("first", "second", "status"),
    [(0, 0, 0), (75, 2, 2), (1, 75, 1), (137, 75, 75), (75, 130, 130), (0, 3, 3)],
)
def test_the_status_is_that_of_what_ended_the_job(slurm, tmp_path, first, second, status):
    """And not the highest: a mistake is not queued again."""
    checkout = tmp_path / "checkout"
    shutil.copytree(ROOT / "launch", checkout / "launch")
    (checkout / ".venv" / "bin").mkdir(parents=True)
    (checkout / "c.py").touch()
    for program, text in (
        (
            checkout / ".venv/bin/python",
            f"#!/bin/bash\nexit $((SLURM_PROCID ? {second} : {first}))",
        ),
        (tmp_path / "bin" / "srun", SRUN),
    ):
        program.write_text(text)
        program.chmod(0o755)
    slurm.reply("show job", out="JobState=RUNNING\n", times=0)
    job = JOB | {"SLURM_SUBMIT_DIR": str(checkout), "SLURM_JOB_NUM_NODES": "2"}
    done = slurm.run("slurm.sbatch", "--config=c.py", **job)
    assert done.returncode == status, done.stderr
    assert requeued(slurm) == (status == 75)
    who = 0 if status == first else 1
    assert (f"status {status} of process {who}\n" in done.stderr) == (status != 0)
    assert sorted(os.listdir(checkout)) == [".venv", "c.py", "launch"]


def test_each_node_runs_one_process_with_all_flags(slurm):
    assert slurm.run("slurm.sbatch", *FLAGS, **JOB).returncode == 0
    (call,) = slurm.calls()
    assert call[call.index("-m") :] == [
        *["-m", "dmphn_jax.main", "--config", "configs/stack4.py", "--config.data.data_dir=/d"],
        *["--workdir", "/w", "--config.batch_size=8"],
    ]


def test_outside_a_job_it_submits_itself(slurm):
    done = slurm.run("slurm.sbatch", *FLAGS, "--nodes=2", "--gpus=4", "--name=job")
    assert done.returncode == 0, done.stderr
    (call,) = slurm.calls()
    assert call[:7] == ["sbatch", "--job-name", "job", "--nodes", "2", "--gpus-per-node", "4"]
    assert call[7] == "launch/slurm.sbatch"


def test_a_job_submitted_from_elsewhere_is_told(slurm, tmp_path):
    done = slurm.run("slurm.sbatch", *FLAGS, **JOB | {"SLURM_SUBMIT_DIR": str(tmp_path)})
    assert done.returncode == 2
    assert "submit it from the checkout" in done.stderr
    assert slurm.calls() == []


COMMAND = "--command=deblur 'my photos' --checkpoint stack4 --output /w/sharp"


def test_a_command_runs_on_every_node(slurm):
    slurm.reply("srun", 137)  # one was killed: the others do its share, and look again
    slurm.reply("show job", out="JobState=RUNNING\n")
    assert slurm.run("slurm.sbatch", COMMAND, **JOB).returncode == 137
    call = slurm.calls()[0]
    assert call[call.index("-m") :] == [
        *["-m", "dmphn_jax", "deblur", "my photos", "--checkpoint", "stack4"],
        *["--output", "/w/sharp"],
    ]
    assert requeued(slurm)


def test_a_command_is_submitted_as_it_was_given(slurm):
    assert slurm.run("slurm.sbatch", COMMAND).returncode == 0
    (call,) = slurm.calls()
    assert call[call.index("--command") + 1] == COMMAND.removeprefix("--command=")
    assert "--config" not in call
