"""launch/gke_xpk.sh against stand-ins for xpk, kubectl and docker."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from tests.support.stand_ins import StandIns, last_line

WHERE = ["--name=job", "--project=p", "--zone=z", "--cluster=c"]
TRAIN = [
    "train",
    *WHERE,
    "--no-plan",
    "--accelerator=v6e-16",
    "--image=registry/dmphn",
    "--config=configs/stack4.py",
    "--data=/data/gopro",
    "--workdir=/data/runs/x",
]
STEPS = {
    "get jobset": "look",
    "get-contexts": "contexts",
    "get-credentials": "credentials",
    "workload list": "list",
    "xpk workload create": "create",
    "xpk workload delete": "delete",
    "logs --follow": "log",
}


@pytest.fixture
def cluster(tmp_path):
    cluster = StandIns(tmp_path, "xpk", "kubectl", "docker", "gcloud")
    cluster.usually("config get-contexts", "another\ngke_p_z_c\n")
    return cluster


def steps(cluster) -> list[str]:
    """The calls, but the look for the cluster's context."""
    return [step for step in cluster.steps(STEPS) if step != "contexts"]


def states(cluster, *names):
    for i, name in enumerate(names):
        times = 0 if i == len(names) - 1 else 1
        if name == "ABSENT":
            cluster.reply("get jobset", 1, error="Error (NotFound): jobsets\n", times=times)
        else:
            cluster.reply("get jobset", out="" if name == "Running" else name, times=times)


def created(cluster) -> list[str]:
    return next(call for call in cluster.calls() if call[:3] == ["xpk", "workload", "create"])


def value(call: list[str], flag: str) -> str:
    return call[call.index(flag) + 1]


def test_a_workload_is_created_and_followed_to_its_end(cluster):
    states(cluster, "ABSENT", "Running", "Completed")
    done = cluster.run("gke_xpk.sh", *TRAIN, "--slices=2", "--storage=v", "--spot")
    assert done.returncode == 0, done.stderr
    assert steps(cluster) == ["look", "create", "look", "log", "look"]
    call = created(cluster)
    # Kubernetes restarts xpk's workloads on 42 and 127 to 255 only, unless told.
    assert value(call, "--restart-on-exit-codes") == "75"
    assert value(call, "--max-restarts") == "20"
    assert value(call, "--tpu-type") == "v6e-16"
    assert value(call, "--num-slices") == "2"
    assert value(call, "--storage") == "v"
    # SIGTERM reaches the run only if it takes the shell's place.
    assert value(call, "--command").startswith("exec python -m dmphn_jax.main --supervise")


def test_gpu_nodes_are_told_where_the_first_one_is(cluster):
    states(cluster, "ABSENT", "Completed")
    flags = [flag for flag in TRAIN if "accelerator" not in flag]
    done = cluster.run("gke_xpk.sh", *flags, "--accelerator=h100-80gb-8", "--nodes=2")
    assert done.returncode == 0, done.stderr
    call = created(cluster)
    assert (value(call, "--device-type"), value(call, "--num-nodes")) == ("h100-80gb-8", "2")
    assert "--num-processes $NNODES --process-id $NODE_RANK" in value(call, "--command")


def test_a_lone_gpu_node_is_told_that_it_is_alone(cluster):
    """Its pod is one of an indexed job, which a process takes for one of several."""
    states(cluster, "ABSENT", "Completed")
    assert cluster.run("gke_xpk.sh", *TRAIN, "--accelerator=h100-80gb-8").returncode == 0
    line = value(created(cluster), "--command")
    assert line.endswith(" --coordinator 127.0.0.1:12355 --num-processes 1 --process-id 0")


RUN = ["run", *TRAIN[1:-3], "--command=evaluate stack4 --data /data/pairs --report /data/report"]


@pytest.mark.parametrize(
    ("flags", "place"),
    [
        ([], ""),  # TPU hosts find theirs in their variables
        (["--accelerator=h100-80gb-8", "--nodes=2"], " --process $NODE_RANK/$NNODES"),
        (["--accelerator=h100-80gb-8"], " --process 0/1"),
    ],
)
def test_a_command_runs_in_every_pod(cluster, flags, place):
    states(cluster, "ABSENT", "Completed")
    done = cluster.run("gke_xpk.sh", *RUN, *flags)
    assert done.returncode == 0, done.stderr
    assert value(created(cluster), "--command") == (
        "exec python -m dmphn_jax evaluate stack4 --data /data/pairs --report /data/report" + place
    )


def test_run_again_it_follows_what_runs(cluster):
    states(cluster, "Running", "Running", "Completed")
    assert cluster.run("gke_xpk.sh", *TRAIN).returncode == 0
    assert steps(cluster) == ["look", "look", "log", "look"]


def test_run_again_it_replaces_what_has_failed(cluster):
    states(cluster, "Failed", "Completed")
    assert cluster.run("gke_xpk.sh", *TRAIN).returncode == 0
    assert steps(cluster) == ["look", "delete", "create", "look"]


def test_a_workload_that_waits_for_machines_has_no_log_yet(cluster):
    states(cluster, "ABSENT", "Running", "Running", "Completed")
    cluster.reply("logs", 1)
    done = cluster.run("gke_xpk.sh", *TRAIN)
    assert done.returncode == 0
    assert "waits for machines" in done.stderr


@pytest.mark.parametrize(
    ("end", "line"), [("Failed", "job failed"), ("ABSENT", "gone; the same command")]
)
def test_a_failed_or_deleted_workload_is_said(cluster, end, line):
    states(cluster, "ABSENT", "Running", end)
    done = cluster.run("gke_xpk.sh", *TRAIN)
    assert done.returncode == 1
    assert line in last_line(done)


def test_xpk_that_refuses_ends_it(cluster):
    states(cluster, "ABSENT")
    cluster.reply("workload create", 1, error="[XPK] quota\n")
    done = cluster.run("gke_xpk.sh", *TRAIN)
    assert done.returncode == 2
    assert steps(cluster) == ["look", "create"]


def test_a_cluster_out_of_reach_is_one_line_with_the_way_out(cluster):
    cluster.reply("get jobset", 1, error="E1 retry\nUnable to connect to the server\n", times=0)
    done = cluster.run("gke_xpk.sh", *TRAIN)
    assert done.returncode == 2
    assert "kubectl: Unable to connect to the server" in done.stderr
    assert "does not answer for job (gcloud container clusters get-cred" in last_line(done)
    assert steps(cluster) == ["look"] * 5


def test_a_few_looks_may_fail(cluster):
    for reply in (
        {"status": 1, "error": "Error from server (NotFound): jobsets\n"},
        {"out": ""},
        {"out": "Completed"},
    ):
        cluster.reply("get jobset", 1, error="Unable to connect to the server\n", times=4)
        cluster.reply("get jobset", **reply)
    done = cluster.run("gke_xpk.sh", *TRAIN)
    assert done.returncode == 0, done.stderr
    assert steps(cluster) == [*["look"] * 5, "create", *["look"] * 5, "log", *["look"] * 5]


def test_what_kubectl_warns_of_is_no_state(cluster):
    warning = "W1125 warnings.go:70] jobset.x-k8s.io/v1alpha2 is deprecated\n"
    cluster.reply("get jobset", 1, error="Error from server (NotFound): jobsets\n")
    cluster.reply("get jobset", error=warning)
    cluster.reply("get jobset", out="Completed", error=warning)
    done = cluster.run("gke_xpk.sh", *TRAIN)
    assert done.returncode == 0, done.stderr
    assert steps(cluster) == ["look", "create", "look", "log", "look"]
    assert "warnings.go" not in done.stderr


def test_a_program_that_is_not_found_is_no_absent_workload(cluster):
    error = "exec: executable gke-gcloud-auth-plugin not found\n"
    cluster.reply("get jobset", 1, error=error, times=0)
    assert cluster.run("gke_xpk.sh", *TRAIN).returncode == 2
    assert "create" not in steps(cluster)


@pytest.mark.parametrize(
    ("known", "context", "calls"),
    [
        ("gke_p_us-east5_c\nother\n", "gke_p_us-east5_c", []),
        ("gke_p_us-east5-b_c\n", "gke_p_us-east5-b_c", []),
        ("gke_p_us-east5_c2\n", "gke_p_us-east5_c", ["us-east5"]),
    ],
)
def test_kubectl_looks_at_the_cluster_that_is_named(cluster, known, context, calls):
    cluster.reply("get-contexts", out=known, times=0)
    states(cluster, "Running", "Running", "Completed")
    done = cluster.run("gke_xpk.sh", *TRAIN, "--zone=us-east5-b")
    assert done.returncode == 0, done.stderr
    of = [call for call in cluster.calls() if call[0] == "kubectl"][1:]
    assert len(of) == 4
    assert all(call[1:3] == ["--context", context] for call in of)
    asked = [value(call, "--location") for call in cluster.calls() if call[0] == "gcloud"]
    assert asked == calls


def test_a_cluster_of_one_zone_is_found(cluster):
    cluster.reply("get-contexts", out="")
    cluster.reply("--location us-east5 ", 1, error="ERROR: (gcloud) not found\n")
    states(cluster, "Completed")
    cluster.run("gke_xpk.sh", "status", *WHERE, "--zone=us-east5-b")
    assert value(cluster.calls()[-1], "--context") == "gke_p_us-east5-b_c"


def test_a_cluster_that_gcloud_does_not_know_ends_it(cluster):
    cluster.reply("get-contexts", out="")
    cluster.reply("get-credentials", 1, error="Fetching.\nERROR: no cluster c\n", times=0)
    done = cluster.run("gke_xpk.sh", *TRAIN)
    assert done.returncode == 2
    assert "no credentials for c in z or z: ERROR: no cluster c" in last_line(done)


def test_status_tells_xpk_s_and_the_workload_s(cluster):
    states(cluster, "Running")
    cluster.reply("workload list", out="job  1/4 running\n")
    done = cluster.run("gke_xpk.sh", "status", *WHERE)
    assert done.returncode == 0
    assert steps(cluster) == ["list", "look"]
    assert done.stdout == "job  1/4 running\n"
    assert last_line(done) == "gke_xpk.sh: job: Running"


def test_the_log_of_the_first_pod_is_followed(cluster):
    cluster.reply("logs", out="step 7\n")
    done = cluster.run("gke_xpk.sh", "log", *WHERE)
    assert (done.returncode, done.stdout) == (0, "step 7\n")
    (call,) = [call for call in cluster.calls() if "logs" in call]
    selected = value(call, "--selector").split(",")
    assert "jobset.sigs.k8s.io/jobset-name=job" in selected
    assert "batch.kubernetes.io/job-completion-index=0" in selected


def test_the_image_is_that_of_the_accelerator(cluster):
    flags = ["--accelerator=h100-80gb-8", "--image=registry/dmphn"]
    assert cluster.run("gke_xpk.sh", "image", *flags).returncode == 0
    build, push = cluster.calls()
    assert value(build, "--file").endswith("launch/docker/gpu.Dockerfile")
    assert push == ["docker", "push", "registry/dmphn"]


def test_delete_removes_it(cluster):
    assert cluster.run("gke_xpk.sh", "delete", *WHERE).returncode == 0
    assert steps(cluster) == ["delete"]
    assert "--force" in cluster.calls()[0]


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["train"], "--accelerator (or ACCELERATOR=) is needed"),
        ([*TRAIN, '--config.data.source="x"'], "no quotes or backslashes"),
        ([*TRAIN, "--nodes=0"], "--nodes 0"),
        (["delete", "--project=p", "--zone=z"], "--cluster (or CLUSTER=) is needed"),
    ],
)
def test_arguments_are_checked_first(cluster, flags, line):
    states(cluster, "ABSENT")
    done = cluster.run("gke_xpk.sh", *flags)
    assert done.returncode == 2
    assert line in done.stderr
    assert "create" not in steps(cluster)


def test_a_missing_tool_is_one_line(tmp_path):
    done = StandIns(tmp_path).run("gke_xpk.sh", "delete", *WHERE)
    assert done.returncode == 2
    assert (
        done.stderr
        == "gke_xpk.sh: xpk is not installed: pip install xpk, in an environment of its own\n"
    )


@pytest.mark.parametrize("flags", [["--accelerator=v6e-16"], ["--accelerator=h100-80gb-8"]])
def test_xpk_itself_makes_of_it_what_is_meant(cluster, tmp_path, flags):
    """With the real xpk, where there is one (it needs an environment of its own)."""
    xpk = shutil.which("xpk")
    if xpk is None:
        pytest.skip("xpk is not installed")
    where = ["--zone=us-east5-b", "--nodes=2"]
    done = cluster.run("gke_xpk.sh", *TRAIN, *where, *flags, "--dry-run")
    line = next(line for line in done.stdout.splitlines() if line.startswith("xpk"))
    command = f"{xpk} {line.removeprefix('xpk ')} --dry-run --skip-validation"
    said = subprocess.run(
        ["bash", "-c", command], env=cluster.env(), capture_output=True, text=True
    )
    assert said.returncode == 0, said.stderr
    if flags == ["--accelerator=v6e-16"]:  # GPU jobs are started again whatever their status
        values = next(line for line in said.stdout.splitlines() if "values: [" in line)
        assert "75" in values.strip(" values:[]").split(",")
    assert "maxRestarts: 20" in said.stdout
    assert "terminationGracePeriodSeconds: 120" in said.stdout
    assert "(exec python -m dmphn_jax.main --supervise" in said.stdout
