"""launch/cloud_tpu.sh against a stand-in for gcloud: order of calls, retries, resume, clean-up."""

from __future__ import annotations

import re
import subprocess

import pytest

from tests.support.stand_ins import ROOT, StandIns, last_line

WHERE = ["--name=job", "--project=p", "--zone=z"]
TRAIN = [
    "train",
    *WHERE,
    "--no-plan",
    "--accelerator=v6e-16",
    "--config=configs/stack4.py",
    "--data=gs://b/gopro",
    "--workdir=gs://b/runs/x",
]
STEPS = {
    "queued-resources describe": "look",
    "queued-resources create": "create",
    "queued-resources delete": "delete",
    "grep -qxF": "ready?",
    "on_host.sh idle": "idle?",
    "queued-resources scp": "copy",
    "on_host.sh install": "install",
    "on_host.sh start": "start",
    "on_host.sh follow": "follow",
    "on_host.sh stop": "stop",
    "on_host.sh wait": "wait",
}
PREPARE = ["ready?", "idle?", "copy", "install", "start", "follow"]


@pytest.fixture(autouse=True)
def _needs_git():
    if subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True).returncode:
        pytest.skip("no git checkout: what the hosts get is a commit")


@pytest.fixture
def cloud(tmp_path):
    return StandIns(tmp_path, "gcloud")


def states(cloud, *names):
    """What `describe` tells, one after another; the last one for ever."""
    for i, name in enumerate(names):
        times = 0 if i == len(names) - 1 else 1
        if name == "ABSENT":
            cloud.reply("describe", 1, error="ERROR: (gcloud) NOT_FOUND: no such", times=times)
        else:
            cloud.reply("describe", out=f"{name}\n", times=times)


def fresh(cloud, times=0):
    """A host that has nothing yet."""
    cloud.reply("grep -qxF", 1, times=times)


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
    start = " ".join(cloud.calls()[-2])
    assert "--node all --worker all" in start
    assert "--config.data.data_dir=data --workdir gs://b/runs/x --config.batch_size=64" in start
    assert "--node 0 --worker 0" in " ".join(cloud.calls()[-1])


def test_run_again_it_takes_up_where_it_was(cloud):
    states(cloud, "ACTIVE")
    assert cloud.run("cloud_tpu.sh", *TRAIN).returncode == 0
    # `start` on the hosts does nothing where the run is at work.
    assert cloud.steps(STEPS) == ["look", "ready?", "start", "follow"]


RUN = [
    *("run", *WHERE, "--no-plan", "--accelerator=v6e-16"),
    *("--data=gs://b/photos", "--workdir=filer:/out"),
    "--command=deblur data --checkpoint stack4 --output run/sharp",
]


@pytest.mark.parametrize(("ends", "status"), [(0, 0), (70, 1)])
def test_a_command_ends_when_every_host_has_ended(cloud, ends, status):
    states(cloud, "ACTIVE")
    cloud.reply("follow", ends)
    done = cloud.run("cloud_tpu.sh", *RUN)
    assert done.returncode == status, done.stderr
    assert cloud.steps(STEPS) == ["look", "ready?", "start", "follow", "wait"]
    start, _, wait = (" ".join(call) for call in cloud.calls()[-3:])
    assert "on_host.sh start deblur data --checkpoint stack4 --output run/sharp" in start
    assert "--node all --worker all" in wait


def test_a_command_whose_process_was_killed_is_started_again(cloud):
    states(cloud, "ACTIVE")
    cloud.reply("on_host.sh wait", 1)
    assert cloud.run("cloud_tpu.sh", *RUN).returncode == 0
    once = ["look", "ready?", "start", "follow", "wait"]
    assert cloud.steps(STEPS) == 2 * once


def test_several_slices_are_one_resource(cloud):
    states(cloud, "ABSENT", "ACTIVE")
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


@pytest.mark.parametrize("step", ["idle", "scp", "install", "start"])
def test_preempted_while_installing_it_begins_again(cloud, step):
    states(cloud, "ACTIVE", "SUSPENDED", "ABSENT", "ACTIVE")
    fresh(cloud)
    cloud.reply(step, 255)
    done = cloud.run("cloud_tpu.sh", *TRAIN)
    assert done.returncode == 0, done.stderr
    steps = cloud.steps(STEPS)
    at = steps.index("delete")
    assert steps[at:] == ["delete", "look", "create", "look", *PREPARE]
    assert "follow" not in steps[:at]


def test_preempted_while_training_it_goes_on_with_new_machines(cloud):
    states(cloud, "ACTIVE", "SUSPENDED", "SUSPENDED", "ABSENT", "ACTIVE")
    fresh(cloud)
    cloud.reply("follow", 255)
    done = cloud.run("cloud_tpu.sh", *TRAIN)
    assert done.returncode == 0, done.stderr
    assert cloud.steps(STEPS) == [
        *["look", *PREPARE],
        *["look", "look", "delete", "look", "create", "look", *PREPARE],
    ]


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
    cloud.reply("follow", status)
    done = cloud.run("cloud_tpu.sh", *TRAIN)
    assert done.returncode == 0
    assert cloud.steps(STEPS) == ["look", "ready?", "start", "follow"] * 2
    assert f"status {status}: starting again (19 times left)" in done.stderr


@pytest.mark.parametrize(("said", "status"), [(2, 2), (130, 130), (70, 1)])
def test_a_mistake_a_person_or_a_fault_is_not_started_again(cloud, said, status):
    states(cloud, "ACTIVE")
    cloud.reply("follow", said)
    done = cloud.run("cloud_tpu.sh", *TRAIN, "--delete-after")
    assert done.returncode == status
    assert cloud.steps(STEPS) == ["look", "ready?", "start", "follow"]
    assert f"ended with {status}" in last_line(done)


def test_a_worker_that_stays_out_of_reach_ends_it_in_a_line(cloud):
    states(cloud, "ACTIVE")
    cloud.reply("on_host.sh start", 255, times=0)
    done = cloud.run("cloud_tpu.sh", *TRAIN, "--restarts=2")
    assert done.returncode == 255
    assert cloud.steps(STEPS).count("start") == 3
    assert "after 2 restarts; the same command goes on" in last_line(done)


def test_created_but_never_active_is_said_and_stays_queued(cloud):
    states(cloud, "ABSENT", "WAITING_FOR_RESOURCES")
    done = cloud.run("cloud_tpu.sh", *TRAIN, "--wait=3")
    assert done.returncode == 2
    assert cloud.steps(STEPS) == ["look", "create", "look", "look"]
    assert "still WAITING_FOR_RESOURCES after 3 minutes; it stays queued" in last_line(done)


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


def test_it_cleans_up_after_itself_when_asked(cloud):
    states(cloud, "ACTIVE")
    assert cloud.run("cloud_tpu.sh", *TRAIN, "--delete-after").returncode == 0
    assert cloud.steps(STEPS)[-1] == "delete"
    assert "--force" in cloud.calls()[-1]


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
