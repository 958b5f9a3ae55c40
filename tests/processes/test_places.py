"""Which process of several this one is, without JAX's distributed runtime."""

from __future__ import annotations

import glob
import os
import subprocess
import sys

import pytest

from dmphn_jax.errors import UserError
from dmphn_jax.processes import places

VARIABLES = (
    *("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    *("PMI_RANK", "PMI_SIZE", "RANK", "WORLD_SIZE", "JOB_COMPLETION_INDEX"),
    *("SLURM_STEP_NODELIST", "OMPI_MCA_orte_hnp_uri"),
)
STEP = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "node[1-3]",
    "SLURM_NTASKS": "3",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
}


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("variables", "given", "place"),
    [
        ({}, None, None),
        ({}, "1/3", places.Place(1, 3)),
        ({}, "0/1", None),
        (STEP, None, places.Place(2, 3)),
        (STEP, "0/2", places.Place(0, 2)),  # said by hand
        (STEP, "0/1", None),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "3", "SLURM_PROCID": "0"}, None, None),  # no srun
        ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"}, None, places.Place(1, 2)),
        ({"PMI_RANK": "3", "PMI_SIZE": "4"}, None, places.Place(3, 4)),
        ({"RANK": "0", "WORLD_SIZE": "8"}, None, places.Place(0, 8)),
        ({"RANK": "0", "WORLD_SIZE": "1"}, None, None),
    ],
)
def test_a_process_knows_its_place(variables, given, place, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert places.find(given) == place


@pytest.mark.parametrize(
    ("variables", "given", "line"),
    [
        ({}, "3/3", "--process 3/3: I/N needed"),
        ({}, "one/3", "--process one/3"),
        ({"WORLD_SIZE": "8"}, None, "WORLD_SIZE=8 tells of several processes: add --process I/N"),
        ({"JOB_COMPLETION_INDEX": "2"}, None, "pod 2 of an indexed Kubernetes job"),
    ],
)
def test_a_place_that_cannot_be_told_is_one_line(variables, given, line, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=line):
        places.find(given)


def test_asking_starts_nothing():
    code = (
        "from dmphn_jax.processes import places; print(places.find(None)); import jax;"
        "print(jax.distributed.is_initialized())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | STEP,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "process 2 of 3\nFalse\n"


@pytest.mark.parametrize(("chips", "bounds"), [(0, None), (4, "2,2,1"), (8, "2,4,1")])
def test_a_host_of_a_slice_keeps_to_its_own_chips(chips, bounds, monkeypatch):
    monkeypatch.setattr(os, "environ", {"MEGASCALE_NUM_SLICES": "2", "HOME": "/"})
    accelerators = [f"/dev/accel{i}" for i in range(chips)]
    monkeypatch.setattr(glob, "glob", lambda pattern: accelerators if "accel" in pattern else [])
    places.keep_to_own_chips()
    assert os.environ.get("TPU_CHIPS_PER_PROCESS_BOUNDS") == bounds
    assert os.environ.get("TPU_PROCESS_BOUNDS") == (bounds and "1,1,1")
    assert ("MEGASCALE_NUM_SLICES" in os.environ) == (bounds is None)
