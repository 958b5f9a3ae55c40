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


def test_a_folder_of_the_cache_is_made_with_those_above_it(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    make = runtime.cache_folder.__wrapped__
    folder = make("storage/checkpoints")
    assert folder == tmp_path / "cache/dmphn_jax/storage/checkpoints"
    for made in (folder, folder.parent, folder.parent.parent):
        assert made.stat().st_mode & 0o777 == 0o700
    monkeypatch.delenv("XDG_CACHE_HOME")

    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    assert make("storage/checkpoints") is None


def test_nothing_else_counts_the_machines_cores():
    """A container's share, or Slurm's, is all that a process has; `runtime.cores` knows of it."""
    root = Path(runtime.__file__).parents[1]
    files = [
        f for room in ("dmphn_jax", "tfds_gopro", "tools") for f in (root / room).rglob("*.py")
    ]
    counting = [f.name for f in files if re.search(r"\bcpu_count\(", f.read_text())]
    assert counting == ["runtime.py"]


@pytest.fixture
def tree(monkeypatch):
    """Returns what has the files of the system replaced by those of a dict, by their paths."""

    def replaced(files):
        def read(path):
            if str(path) not in files:
                raise FileNotFoundError
            return files[str(path)]

        monkeypatch.setattr(Path, "read_text", read)

    return replaced


def test_quotas_are_read_of_the_group_and_those_around_it(tree):
    files = {
        "/proc/self/cgroup": "12:cpu:/x\n0::/outer/inner\n",
        "/sys/fs/cgroup/outer/inner/cpu.max": "max 100000\n",
        "/sys/fs/cgroup/outer/cpu.max": "300000 100000\n",
        "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
        "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
    }

    tree(files)
    assert runtime._cpu_quotas() == [(300_000, 100_000)]
    files["/sys/fs/cgroup/cpu/cpu.cfs_quota_us"] = "150000\n"
    assert runtime._cpu_quotas() == [(300_000, 100_000), (150_000, 100_000)]


def test_quotas_of_version_1_are_read_of_nested_groups(tree):
    files = {
        "/proc/self/cgroup": "4:cpu,cpuacct:/slurm/job_7\n",
        "/sys/fs/cgroup/cpu/slurm/job_7/cpu.cfs_quota_us": "200000\n",
        "/sys/fs/cgroup/cpu/slurm/job_7/cpu.cfs_period_us": "100000\n",
    }
    tree(files)
    assert runtime._cpu_quotas() == [(200_000, 100_000)]


MEMINFO = "MemTotal: 9000 kB\nMemFree: 100 kB\nMemAvailable: 4000 kB\n"
KB = 1024


def test_the_least_that_a_group_or_one_around_it_leaves_is_free(tree):
    files = {"/proc/meminfo": MEMINFO, "/proc/self/cgroup": "0::/job/step\n"}
    tree(files)
    assert runtime.host_free() == 4000 * KB
    limits = {"/job/step": ("max", 500), "/job": (2000 * KB, 500 * KB), "": (9000 * KB, 0)}
    for group, (most, used) in limits.items():
        files[f"/sys/fs/cgroup{group}/memory.max"] = f"{most}\n"
        files[f"/sys/fs/cgroup{group}/memory.current"] = f"{used}\n"
    assert runtime.host_free() == 1500 * KB
    files["/sys/fs/cgroup/job/step/memory.max"] = f"{600 * KB}\n"
    assert runtime.host_free() == 600 * KB - 500
    files["/sys/fs/cgroup/job/memory.current"] = f"{2001 * KB}\n"
    assert runtime.host_free() == 0
    files["/proc/self/cgroup"] = "0::/not/mounted/here\n"  # a container's own root
    assert runtime.host_free() == 4000 * KB


def test_files_kept_in_memory_are_free(tree):
    files = {
        "/proc/meminfo": MEMINFO,
        "/proc/self/cgroup": "0::/\n",
        "/sys/fs/cgroup/memory.max": f"{2000 * KB}\n",
        "/sys/fs/cgroup/memory.current": f"{1900 * KB}\n",
        "/sys/fs/cgroup/memory.stat": f"anon 5\nactive_file 7\ninactive_file {800 * KB}\n",
    }
    tree(files)
    assert runtime.host_free() == 900 * KB


def test_memory_of_version_1_is_that_of_nested_groups(tree):
    own = "/sys/fs/cgroup/memory/slurm/job_7"
    files = {
        "/proc/meminfo": MEMINFO,
        "/proc/self/cgroup": "5:memory:/slurm/job_7\n4:cpu:/\n0::/\n",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes": f"{3000 * KB}\n",
        f"{own}/memory.limit_in_bytes": f"{1000 * KB}\n",
        f"{own}/memory.usage_in_bytes": f"{900 * KB}\n",
        f"{own}/memory.stat": f"inactive_file 1\ntotal_inactive_file {200 * KB}\n",
    }
    tree(files)
    assert runtime.host_free() == 300 * KB


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
