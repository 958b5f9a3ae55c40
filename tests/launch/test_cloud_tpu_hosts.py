"""launch/cloud_tpu.sh and its hosts: those that do not answer, fail, or end in several ways."""

from __future__ import annotations

import pytest

from tests.support.cloud_tpu import (
    AGAIN,
    NONE,
    PREPARE,
    RUN,
    STEPS,
    TRAIN,
    ended,
    first,
    fresh,
    hosts,
    states,
    to,
)
from tests.support.stand_ins import last_line


@pytest.mark.parametrize("status", [0, 1])
def test_a_command_ends_when_every_host_has_ended(cloud, status):
    states(cloud, "ACTIVE")
    first(cloud, "follow", status)
    done = cloud.run("cloud_tpu.sh", *RUN)
    assert done.returncode == status, done.stderr
    assert cloud.steps(STEPS) == AGAIN
    start, _, wait = (" ".join(call) for call in cloud.calls()[-3:])
    assert "on_host.sh start deblur data --checkpoint stack4 --output run/sharp" in start
    assert "--node all --worker all" in wait


def test_a_command_whose_process_was_killed_is_started_again(cloud):
    states(cloud, "ACTIVE")
    hosts(cloud, "on_host.sh wait", 0, 137, 0, 0)
    assert cloud.run("cloud_tpu.sh", *RUN).returncode == 0
    assert cloud.steps(STEPS) == 2 * AGAIN


@pytest.mark.parametrize(("statuses", "status"), [((75, 75, 2, 75), 2), ((75, 1, 75, 137), 1)])
def test_a_mistake_of_another_process_is_not_started_again(cloud, statuses, status):
    states(cloud, "ACTIVE")
    first(cloud, "follow", 75)
    hosts(cloud, "on_host.sh wait", *statuses)
    done = cloud.run("cloud_tpu.sh", *TRAIN)
    assert done.returncode == status
    assert cloud.steps(STEPS) == AGAIN


STAGES = ["[(]grep -qxF", "idle", "scp", "install", "start", "follow"]


@pytest.mark.parametrize("step", STAGES)
@pytest.mark.parametrize("reply", [{"status": 255}, {"status": 0, "error": NONE}])
def test_preempted_on_the_way_it_begins_again(cloud, step, reply):
    """The connection breaks, or gcloud reaches no host, warns and ends with 0."""
    looks = 2 if step == "follow" else 1  # whether the run may be going on, and what to do
    states(cloud, "ACTIVE", *["SUSPENDED"] * looks, "ABSENT", "ACTIVE")
    if step == "scp" and not reply["status"]:
        cloud.reply("install", error=NONE)
    cloud.reply(step, **reply)
    fresh(cloud)
    done = cloud.run("cloud_tpu.sh", *TRAIN, "--delete-after")
    assert done.returncode == 0, done.stderr
    steps = cloud.steps(STEPS)
    at = steps.index("delete")
    assert steps[at:] == ["delete", "look", "create", "look", *PREPARE, "delete"]
    assert "wait" not in steps[:at]


def test_hosts_out_of_reach_when_the_run_has_ended_are_asked_again(cloud):
    states(cloud, "ACTIVE")
    cloud.reply("wait", error=NONE)
    assert cloud.run("cloud_tpu.sh", *TRAIN).returncode == 0
    assert cloud.steps(STEPS) == [*AGAIN, "look", "wait"]


@pytest.mark.parametrize(
    "reply",
    [
        {"out": ended(0, 0, 0), "error": to(1, 4)},  # one host said nothing
        {"out": ended(0, 0, 0, 0), "error": NONE.replace(to(0, 0), to(1, 4))},  # of one slice
        {"out": ended(0)},  # a gcloud that does not say how many there are
        {"out": ended(0, 0), "status": 1},
    ],
)
def test_all_hosts_of_all_slices_must_answer(cloud, reply):
    states(cloud, "ACTIVE")
    cloud.reply("on_host.sh start", **reply)
    cloud.reply("ssh job.*--worker all", out=ended(*[0] * 8), error=to(2, 8), times=0)
    done = cloud.run("cloud_tpu.sh", *TRAIN, "--slices=2")
    assert done.returncode == 0, done.stderr
    assert cloud.steps(STEPS).count("start") == 2


def test_what_the_run_says_is_shown_as_it_is(cloud):
    states(cloud, "ACTIVE")
    cloud.reply("follow", out=f"step 1\n  step 2 \\n\nno end{ended(0)}")
    done = cloud.run("cloud_tpu.sh", *TRAIN)
    assert done.stdout == "step 1\n  step 2 \\n\nno end\n"


@pytest.mark.parametrize(("step", "status"), [("install", 1), ("install", 69), ("start", 2)])
def test_what_lasts_is_not_tried_again(cloud, step, status):
    """No right to the data, no index of packages."""
    states(cloud, "ACTIVE")
    fresh(cloud)
    hosts(cloud, step, 0, 0, status, 0, times=0)
    done = cloud.run("cloud_tpu.sh", *TRAIN)
    assert done.returncode == status
    assert cloud.steps(STEPS)[-1] == "look"
    assert cloud.steps(STEPS).count(step) == 1
    assert f"could not be prepared: status {status} on h2" in last_line(done)


def test_a_commit_that_gcloud_did_not_copy_is_told_with_the_way_out(cloud):
    states(cloud, "ACTIVE")
    fresh(cloud)
    hosts(cloud, "install", 66, 66, 66, 66)
    done = cloud.run("cloud_tpu.sh", *TRAIN)
    assert done.returncode == 66
    assert "ssh-add ~/.ssh/google_compute_engine" in last_line(done)
    install = next(call[-1] for call in cloud.calls() if "install" in call[-1])
    assert install.startswith("(test -s job-")


def test_a_run_of_an_older_commit_is_followed(cloud):
    states(cloud, "ACTIVE")
    fresh(cloud)
    hosts(cloud, "idle", 69, 69, 69, 69)
    done = cloud.run("cloud_tpu.sh", *TRAIN)
    assert done.returncode == 0, done.stderr
    assert cloud.steps(STEPS) == ["look", "ready?", "idle?", "whose?", "follow", "wait"]
    assert "following it" in done.stderr


def test_a_run_of_other_data_is_left_alone(cloud):
    states(cloud, "ACTIVE")
    fresh(cloud)
    hosts(cloud, "idle", 69, 69, 69, 69)
    first(cloud, "cut -d", 1)
    done = cloud.run("cloud_tpu.sh", *TRAIN, "--delete-after")
    assert done.returncode == 2
    assert "launch/cloud_tpu.sh stop ends it" in last_line(done)
    assert cloud.steps(STEPS) == ["look", "ready?", "idle?", "whose?"]


def test_resource_gone_while_training_is_made_again(cloud):
    states(cloud, "ACTIVE", "ABSENT", "ABSENT", "ACTIVE")
    cloud.reply("follow", 1)
    assert cloud.run("cloud_tpu.sh", *TRAIN).returncode == 0
    assert cloud.steps(STEPS).count("create") == 1


def test_a_broken_connection_is_taken_up_and_the_run_is_not_started_twice(cloud):
    states(cloud, "ACTIVE")
    cloud.reply("follow", 255, times=2)
    done = cloud.run("cloud_tpu.sh", *TRAIN)
    assert done.returncode == 0
    assert cloud.steps(STEPS).count("start") == 1
    assert cloud.steps(STEPS).count("follow") == 3


@pytest.mark.parametrize("status", [75, 137])
def test_stopped_or_lost_on_machines_that_stay_it_starts_again(cloud, status):
    states(cloud, "ACTIVE")
    first(cloud, "follow", status)
    done = cloud.run("cloud_tpu.sh", *TRAIN)
    assert done.returncode == 0
    assert cloud.steps(STEPS) == 2 * AGAIN
    assert f"status {status}: starting again (19 times left)" in done.stderr


@pytest.mark.parametrize("status", [2, 130, 1])
def test_a_mistake_a_person_or_a_fault_is_not_started_again(cloud, status):
    states(cloud, "ACTIVE")
    first(cloud, "follow", status)
    done = cloud.run("cloud_tpu.sh", *TRAIN)
    assert done.returncode == status
    assert cloud.steps(STEPS) == AGAIN
    assert f"ended with {status}; the machines are still there and cost" in last_line(done)


def test_a_worker_that_stays_out_of_reach_ends_it_in_a_line(cloud):
    states(cloud, "ACTIVE")
    cloud.reply("on_host.sh start", error=NONE, times=0)
    done = cloud.run("cloud_tpu.sh", *TRAIN, "--restarts=2")
    assert done.returncode == 255
    assert cloud.steps(STEPS).count("start") == 3
    assert "after 2 restarts; the same command goes on" in last_line(done)
