"""Finding the processes of a job, and speaking with them; several run in test_multi_device."""

from __future__ import annotations

import contextlib
import subprocess
import sys

import jax
import pytest

from dmphn_jax import distributed
from dmphn_jax.errors import UserError

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
