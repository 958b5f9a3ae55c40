import gc
import os
import re
from pathlib import Path

import pytest

from dmphn_jax import runtime


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no affinity on this system")
def test_cores_are_those_of_the_affinity(monkeypatch):
    monkeypatch.setattr(runtime, "_cpu_quotas", list)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5, 6})
    assert runtime.cores() == 3


def test_a_containers_quota_counts(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    for quotas, cores in (
        ([(250_000, 100_000)], 3),
        ([(800_000, 100_000), (400_000, 100_000)], 4),
        ([(10_000, 100_000)], 1),
        ([], 64),
    ):
        monkeypatch.setattr(runtime, "_cpu_quotas", lambda quotas=quotas: quotas)
        assert runtime.cores() == cores


def test_nothing_else_counts_the_machines_cores():
    """A container's share, or Slurm's, is all that a process has; `runtime.cores` knows of it."""
    root = Path(runtime.__file__).parents[1]
    files = [
        f for room in ("dmphn_jax", "tfds_gopro", "tools") for f in (root / room).rglob("*.py")
    ]
    counting = [f.name for f in files if re.search(r"\bcpu_count\(", f.read_text())]
    assert counting == ["runtime.py"]


def test_quotas_are_read_of_the_group_and_those_around_it(monkeypatch):
    files = {
        "/proc/self/cgroup": "12:cpu:/x\n0::/outer/inner\n",
        "/sys/fs/cgroup/outer/inner/cpu.max": "max 100000\n",
        "/sys/fs/cgroup/outer/cpu.max": "300000 100000\n",
        "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
        "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
    }

    def read(path):
        if str(path) not in files:
            raise FileNotFoundError
        return files[str(path)]

    monkeypatch.setattr(Path, "read_text", read)
    assert runtime._cpu_quotas() == [(300_000, 100_000)]
    files["/sys/fs/cgroup/cpu/cpu.cfs_quota_us"] = "150000\n"
    assert runtime._cpu_quotas() == [(300_000, 100_000), (150_000, 100_000)]


def test_garbage_is_collected_again_after_a_start():
    gc.enable()
    try:
        with runtime.without_collection():
            assert not gc.isenabled()
        assert gc.isenabled()
        gc.disable()
        with runtime.without_collection():
            pass
        assert not gc.isenabled()  # as it was
    finally:
        gc.enable()
        gc.unfreeze()
