"""launch/cloud_tpu.sh against a stand-in for gcloud: order of calls, retries, resume, clean-up."""

from __future__ import annotations

import os
import re
import shutil
import signal
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
    "(grep -qxF": "ready?",
    "on_host.sh idle": "idle?",
    "queued-resources scp": "copy",
    "on_host.sh install": "install",
    "on_host.sh start": "start",
    "on_host.sh follow": "follow",
    "on_host.sh stop": "stop",
    "on_host.sh wait": "wait",
    "on_host.sh last": "last",
    "cut -d": "whose?",
}
PREPARE = ["ready?", "idle?", "copy", "install", "start", "follow", "wait"]
AGAIN = ["look", "ready?", "start", "follow", "wait"]


@pytest.fixture(autouse=True)
def _needs_git():
    if subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True).returncode:
        pytest.skip("no git checkout: what the hosts get is a commit")


@pytest.fixture
def cloud(tmp_path):
    cloud = StandIns(tmp_path, "gcloud")
    answering(cloud, slices=1)
    return cloud


def ended(*statuses: int) -> str:
    """What hosts say when their commands have ended."""
    return "".join(f"cloud_tpu.sh: ended {status} on h{i}\n" for i, status in enumerate(statuses))


def to(nodes: int, hosts: int) -> str:
    """What gcloud says before it connects."""
    return (
        f"Using ssh batch size of 64. Attempting to SSH into {nodes} nodes with a total of {hosts}"
        " workers.\n"
    )


def answering(cloud, slices: int) -> None:
    """Slices of four hosts, on which all goes well."""
    cloud.usually("ssh job.*--worker all", ended(*[0] * 4 * slices), to(slices, 4 * slices))
    cloud.usually("ssh job", ended(0))


def first(cloud, pattern: str, status: int, **reply) -> None:
    """The first host's command ends with a status."""
    cloud.reply(pattern, out=ended(status), **reply)


def hosts(cloud, pattern: str, *statuses: int, **reply) -> None:
    """Each host's command ends with its status."""
    cloud.reply(pattern, out=ended(*statuses), error=to(1, len(statuses)), **reply)


NONE = f"WARNING: Could not prepare all 1 nodes, attempting to ssh into the rest.\n{to(0, 0)}"


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
    hosts(cloud, "[(]grep -qxF", 2, 2, 2, 2, times=times)


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


RUN = [
    *("run", *WHERE, "--accelerator=v6e-16", "--data=gs://b/photos", "--workdir=filer:/out"),
    "--command=deblur data --checkpoint stack4 --output run/sharp",
]


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
        f'case "$*" in *follow*) trap "exit 1" INT; echo "step 7"; sleep 60 & wait ;; esac\n'
        f'exec {recorder} "$@"\n'
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
