"""Finding the processes of a job, and speaking with them; several run in test_multi_device."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import unittest.mock

import jax
import pytest

from dmphn_jax import distributed, main
from dmphn_jax.errors import UserError
from dmphn_jax.processes import supervision

LAUNCHERS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "WORLD_SIZE")


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        ({}, ""),
        ({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "4"}, ""),  # in a batch script, not under srun
        ({"SLURM_STEP_NUM_TASKS": "4"}, "SLURM_STEP_NUM_TASKS=4 tells of several processes"),
        ({"SLURM_STEP_NUM_TASKS": "1"}, ""),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "OMPI_COMM_WORLD_SIZE=2"),
        ({"WORLD_SIZE": "8"}, "WORLD_SIZE=8 .* --coordinator HOST:PORT"),
        ({"JOB_COMPLETION_INDEX": "0"}, "pod 0 of an indexed Kubernetes job"),
    ],
)
def test_lone_processes_of_a_job_that_jax_does_not_detect_are_refused(variables, line, monkeypatch):
    for name in (*LAUNCHERS, "JOB_COMPLETION_INDEX", "SLURM_STEP_NODELIST"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    with pytest.raises(UserError, match=line) if line else contextlib.nullcontext():
        distributed.start()
    assert not jax.distributed.is_initialized()


@pytest.mark.parametrize(
    ("variables", "several"),
    [
        ({}, False),
        ({"SLURM_STEP_NUM_TASKS": "1"}, False),
        ({"SLURM_STEP_NUM_TASKS": "4"}, True),
        ({"TPU_WORKER_HOSTNAMES": "t0,t1"}, True),
        ({"MEGASCALE_NUM_SLICES": "2"}, True),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, False),  # any pod, a notebook's too
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "0"}, True),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "3"}, True),
    ],
)
def test_one_of_several_runs_under_a_parent_that_tells_of_a_loss(variables, several, monkeypatch):
    names = (*LAUNCHERS, "TPU_WORKER_HOSTNAMES", "MEGASCALE_NUM_SLICES")
    for name in (*names, "KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    here, below = object(), object()
    monkeypatch.setattr(supervision, "run", lambda command: below)
    monkeypatch.setattr(main, "_work", lambda *_: here)
    assert main.main(["--config=configs/stack4.py"]) is (below if several else here)


def test_a_pod_is_what_jax_takes_for_one(monkeypatch):
    """What `one_of_several` goes by is what JAX's own detection looks at."""
    from jax._src.clusters import ClusterEnv, k8s_cluster

    pod = k8s_cluster.K8sCluster
    monkeypatch.setattr(ClusterEnv, "_cluster_types", [pod])
    monkeypatch.setitem(sys.modules, "kubernetes", unittest.mock.MagicMock())
    monkeypatch.setattr(pod, "get_coordinator_address", lambda **_: "job-0.pods:1")
    monkeypatch.setattr(pod, "get_process_count", lambda: 4)
    detected = lambda: ClusterEnv.auto_detect_unset_distributed_params(*[None] * 5, 1)[:3]  # noqa: E731
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "3")
    assert detected() == (None, None, None)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    assert detected() == ("job-0.pods:1", 4, 3)


def test_a_process_whose_partner_never_comes_ends_in_a_line_and_is_started_again(capfd):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = f"'127.0.0.1:{port}', 2, 0, within=1"
    code = f"from dmphn_jax import distributed as d; d.start({place}); print('met')"
    before = {number: signal.getsignal(number) for number in supervision._SIGNALS}
    status = supervision.run([sys.executable, "-c", code])
    for number, handler in before.items():
        signal.signal(number, handler)
    said, errors = capfd.readouterr()
    assert (status, said) == (75, "")
    (line,) = errors.splitlines()
    assert line.startswith("dmphn: the processes of this job did not find one another in time (")
    assert line.endswith("start the job again")


def test_jax_tells_where_it_detects_no_cluster():
    """In a fresh process: nothing has been computed, and `initialize` says what `start` expects."""
    code = (
        "from dmphn_jax import distributed as d; d.start(); import jax; print(jax.process_count())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"


def test_a_platform_that_jax_detects_is_asked_once(monkeypatch):
    asked = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *args, **_: asked.append(args))
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    distributed.start()
    assert asked == [()]


@pytest.mark.parametrize("index", [0, 1])
def test_a_mistake_that_only_the_first_process_sees_ends_all_of_them(index, monkeypatch):
    sent = []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "process_index", lambda: index)
    # The second hears what the first would say.
    heard = lambda value: sent.append(value) or (value if index == 0 else [None, "taken"])  # noqa: E731
    monkeypatch.setattr(distributed, "broadcast", heard)

    def first():
        assert index == 0
        raise UserError("taken")

    with pytest.raises(UserError, match="taken"):
        distributed.from_first(first)
    assert len(sent) == 1


def test_a_lone_process_asks_itself():
    assert distributed.from_first(lambda: {"step": 3}) == {"step": 3}
