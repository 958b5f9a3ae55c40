"""launch/cloud_tpu.sh against a stand-in for gcloud: order of calls, waiting, arguments."""

from __future__ import annotations

import re
import subprocess

import pytest

from tests.support.cloud_tpu import (
    AGAIN,
    PREPARE,
    RUN,
    STEPS,
    TRAIN,
    WHERE,
    ended,
    fresh,
    states,
    to,
)
from tests.support.stand_ins import ROOT, StandIns, last_line


def test_a_fresh_run_creates_waits_installs_trains_and_leaves_the_machines(cloud):
    states(cloud, "ABSENT", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE")
    fresh(cloud)
    done = cloud.run("cloud_tpu.sh", *TRAIN, "--spot", "--config.batch_size=64")
    assert done.returncode == 0, done.stderr
    assert cloud.steps(STEPS) == ["look", "create", "look", "look", "look", *PREPARE]
    assert "still there and cost" in last_line(done)
    create = cloud.calls()[1]
    assert create[create.index("--node-id") + 1] == "job"
    assert "--spot" in create
    assert "v2-alpha-tpuv6e" in create
    start = " ".join(cloud.calls()[-3])
    assert "--node all --worker all" in start
    assert "--config.data.data_dir=data --workdir gs://b/runs/x --config.batch_size=64" in start
    assert "--node 0 --worker 0" in " ".join(cloud.calls()[-2])
    assert "ended" not in done.stdout


def test_run_again_it_takes_up_where_it_was(cloud):
    states(cloud, "ACTIVE")
    assert cloud.run("cloud_tpu.sh", *TRAIN).returncode == 0
    # `start` on the hosts does nothing where the run is at work.
    assert cloud.steps(STEPS) == AGAIN


def test_several_slices_are_one_resource(cloud):
    states(cloud, "ABSENT", "ACTIVE")
    cloud.reply("ssh job.*--worker all", out=ended(*[0] * 8), error=to(2, 8), times=0)
    assert cloud.run("cloud_tpu.sh", *TRAIN, "--slices=2", "--reserved").returncode == 0
    create = " ".join(cloud.calls()[1])
    assert "--node-count 2 --node-prefix job --reserved" in create
    assert "--node-id" not in create


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ("ERROR: (gcloud) Quota limit 'TPUV6E' has been exceeded", "ask for quota"),
        ("ERROR: (gcloud) PERMISSION_DENIED: tpu.nodes.create", "TPU Admin"),
        ("ERROR: (gcloud) the zone has no such type", "not created: .*no such type"),
    ],
)
def test_what_is_not_created_is_one_line_and_nothing_else_happens(cloud, said, line):
    states(cloud, "ABSENT")
    cloud.reply("create", 1, error=f"Request issued.\n{said}\n- more\n")
    done = cloud.run("cloud_tpu.sh", *TRAIN)
    assert done.returncode == 2
    assert re.search(line, last_line(done))
    assert cloud.steps(STEPS) == ["look", "create"]


def test_preempted_while_waiting_it_asks_again(cloud):
    states(cloud, "ABSENT", "PROVISIONING", "SUSPENDED", "ABSENT", "ACTIVE")
    assert cloud.run("cloud_tpu.sh", *TRAIN).returncode == 0
    assert cloud.steps(STEPS)[:7] == [
        *["look", "create", "look", "look", "delete", "look", "create"]
    ]


def test_a_delete_that_fails_after_preemption_is_tried_again(cloud):
    states(cloud, "SUSPENDED", "SUSPENDED", "ABSENT", "ACTIVE")
    cloud.reply("delete", 1, error="ERROR: another operation is at work\n")
    done = cloud.run("cloud_tpu.sh", *TRAIN)
    assert done.returncode == 0, done.stderr
    assert cloud.steps(STEPS)[:6] == ["look", "delete", "look", "delete", "look", "create"]


def test_a_delete_that_always_fails_ends_it_in_a_line(cloud):
    states(cloud, "SUSPENDED")
    cloud.reply("delete", 1, error="ERROR: denied\n", times=0)
    done = cloud.run("cloud_tpu.sh", *TRAIN)
    assert done.returncode == 2
    assert cloud.steps(STEPS) == ["look", "delete"] * 5
    assert "suspended and not deleted" in last_line(done)


def test_created_but_never_active_is_said_and_stays_queued(cloud):
    states(cloud, "ABSENT", "WAITING_FOR_RESOURCES")
    done = cloud.run("cloud_tpu.sh", *TRAIN, "--wait=3")
    assert done.returncode == 2
    assert cloud.steps(STEPS) == ["look", "create", "look", "look"]
    assert "still WAITING_FOR_RESOURCES after 3 minutes; it stays queued" in last_line(done)


def test_what_was_waited_for_too_long_is_given_up_where_nobody_may_look(cloud):
    states(cloud, "ABSENT", "WAITING_FOR_RESOURCES")
    done = cloud.run("cloud_tpu.sh", *TRAIN, "--wait=3", "--delete-after")
    assert done.returncode == 2
    assert cloud.steps(STEPS) == ["look", "create", "look", "look", "delete"]
    assert "still WAITING_FOR_RESOURCES after 3 minutes: given up" in last_line(done)


def test_what_gcloud_has_to_say_besides_is_no_state(cloud):
    cloud.reply("describe", out="ACTIVE\n", error="Updates are available\n", times=0)
    assert cloud.run("cloud_tpu.sh", *TRAIN).returncode == 0


def test_a_failed_resource_tells_why(cloud):
    cloud.reply("describe.*failedData", out="no capacity of this kind\n")
    states(cloud, "FAILED")
    done = cloud.run("cloud_tpu.sh", *TRAIN)
    assert done.returncode == 2
    assert "job failed: no capacity of this kind" in last_line(done)


def test_gcloud_that_does_not_answer_is_asked_a_few_times(cloud):
    cloud.reply("describe", 1, error="ERROR: connection refused\n", times=3)
    states(cloud, "ACTIVE")
    assert cloud.run("cloud_tpu.sh", *TRAIN).returncode == 0


def test_gcloud_that_never_answers_ends_it(cloud):
    cloud.reply("describe", 1, error="ERROR: connection refused\n", times=0)
    done = cloud.run("cloud_tpu.sh", *TRAIN)
    assert done.returncode == 2
    assert cloud.steps(STEPS) == ["look"] * 5
    assert "gcloud does not answer" in last_line(done)


@pytest.mark.parametrize("action", ["stop", "delete"])
def test_stop_and_delete_need_a_name_and_a_place_only(cloud, action):
    assert cloud.run("cloud_tpu.sh", action, *WHERE).returncode == 0
    assert cloud.steps(STEPS) == [action]


def test_a_plan_that_does_not_fit_ends_it(tmp_path):
    planner = StandIns(tmp_path / "planner", "dmphn")
    planner.reply("plan", 1, out="20 GB of 15.75 GB\n")
    script = (
        f"source {ROOT}/launch/common.sh; root=/nowhere; CONFIG=c ACCELERATOR=v5litepod-16; "
        "overrides=(); plan"
    )
    done = subprocess.run(
        ["bash", "-c", script], env=planner.env(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "does not fit" in last_line(done)
    assert planner.calls() == [["dmphn", "plan", "--config", "c", "--devices", "v5e:4x4"]]


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["trian"], "no action 'trian'"),
        (["train", "--zone=z"], "--project (or PROJECT=) is needed"),
        (["train", "--project=p"], "--zone (or ZONE=) is needed"),
        ([*TRAIN, "--slices=none"], "--slices none"),
        ([*TRAIN, "--slize=2"], "unknown flag --slize"),
        ([*TRAIN, "--spot", "--reserved"], "exclude one another"),
        ([*TRAIN, "--config=configs/stak4.py"], "configs/stak4.py: no such file"),
        ([*TRAIN, "--accelerator=tpu-9"], "--runtime (or RUNTIME=) is needed"),
        ([*TRAIN, "--name=My Job"], "--name My Job"),
        ([*TRAIN, "--restarts=x"], "--restarts x"),
        (["log", *WHERE, "--worker=a"], "--worker a"),
        ([*TRAIN, "--zone"], "--zone needs a value"),
        ([*TRAIN, "extra"], "unexpected argument extra"),
        ([flag for flag in TRAIN if not flag.startswith("--data")], "--data (or DATA=) is needed"),
        ([*RUN, "--workdir=gs://b/out"], "hosts share files by a file system"),
        ([flag for flag in RUN if "workdir" not in flag], "--workdir (or WORKDIR=) is needed"),
    ],
)
def test_arguments_are_checked_before_anything_is_asked_or_created(cloud, flags, line):
    done = cloud.run("cloud_tpu.sh", *flags)
    assert done.returncode == 2
    assert line in done.stderr
    assert len([said for said in done.stderr.splitlines() if "not committed" not in said]) == 1
    assert cloud.calls() == []


def test_names_may_come_from_variables(cloud):
    states(cloud, "ACTIVE")
    names = {"NAME": "job", "PROJECT": "p", "ZONE": "z"}
    assert cloud.run("cloud_tpu.sh", "delete", **names).returncode == 0
    assert cloud.calls()[0][6:10] == ["--project", "p", "--zone", "z"]
