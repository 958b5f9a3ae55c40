"""What a process may use of its machine, and settings of the JAX runtime that commands share."""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import stat
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import jax


def cores() -> int:
    """Returns how many processor cores this process may keep busy, at least 1.

    Its CPU affinity (taskset, Slurm), or what its control group's quota (a container's limit) is
    worth, rounded up, whichever is less.
    """
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS has no affinity
        count = os.cpu_count() or 1
    return max(1, min([count, *(-(-quota // period) for quota, period in _cpu_quotas())]))


_GROUPS = Path("/sys/fs/cgroup")


def _own_groups(*controllers: str) -> Iterator[Path]:
    """Yields the folders of control groups this process is in, each followed by those around it.

    Of version 2, then of the controllers of version 1; within a container its own group may be
    mounted as the root, and its path not be there.
    """
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        lines = []
    named = [line.split(":", 2) for line in lines if line.count(":") >= 2]
    for root, controller in ((_GROUPS, ""), *((_GROUPS / name, name) for name in controllers)):
        own = next((path for _, of, path in named if controller in of.split(",")), "/")
        folder = root / own.lstrip("/")
        yield from (part for part in (folder, *folder.parents) if part.is_relative_to(root))


def _cpu_quotas() -> list[tuple[int, int]]:
    """Returns the (quota, period) in microseconds of the control groups this process is in."""
    found = []
    for folder in _own_groups("cpu"):
        for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
            try:
                quota, period = " ".join((folder / name).read_text() for name in names).split()
                found.append((int(quota), int(period)))
            except (OSError, ValueError):  # "max" means no quota and is no number
                continue
    return [(quota, period) for quota, period in found if quota > 0 and period > 0]


def host_free() -> int | None:
    """Returns the bytes this process may still take on the host; None where unknown.

    The machine's available memory or what its control groups (a container's limit, a job's) leave,
    whichever is less. Files that the system keeps in memory, and drops when it is asked for, count
    as free.
    """
    found = _groups_free()
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                found.append(int(line.split()[1]) * 1024)
    except OSError:
        with contextlib.suppress(ValueError, OSError, AttributeError):
            found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return max(0, min(found)) if found else None


def _groups_free() -> list[int]:
    """Returns the bytes that the limit of each control group leaves which this process is in."""
    found = []
    for folder in _own_groups("memory"):
        for limit, used, cached in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            try:
                # "max" means no limit and is no number.
                left = int((folder / limit).read_text()) - int((folder / used).read_text())
            except (OSError, ValueError):
                continue
            with contextlib.suppress(OSError, ValueError):
                words = (folder / "memory.stat").read_text().split()
                left += int(dict(zip(words[::2], words[1::2])).get(cached, 0))
            found.append(left)
    return found


def device_free(device: jax.Device) -> int | None:
    """Returns the bytes a JAX device has left; None where it does not say (as CPU devices)."""
    try:
        stats = device.memory_stats() or {}
    except Exception:  # some backends do not implement it and say so in their own way
        return None
    if "bytes_limit" not in stats:
        return None
    return max(0, int(stats["bytes_limit"]) - int(stats.get("bytes_in_use", 0)))


def cache_compilations() -> None:
    """Keeps compiled programs on disk between runs, in `~/.cache/dmphn_jax` by default.

    Not in a folder where others may write. `JAX_COMPILATION_CACHE_DIR` names another one, which is
    taken as it is, with a warning on stderr where others may write; an empty value turns the cache
    off.
    """
    import jax

    named = os.environ.get("JAX_COMPILATION_CACHE_DIR")  # which jax reads itself
    if named:
        _warn_if_open(named)
    elif named is None:
        folder = cache_folder("compiled")
        if folder is not None:  # a read-only home costs a compilation per run, nothing else
            jax.config.update("jax_compilation_cache_dir", str(folder))
    # By default only what took a second to compile: a second start would compile the rest anew.
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def _warn_if_open(folder: str) -> None:
    """Says in one line on stderr if others may write to a folder that code is taken from."""
    try:
        open_to_others = _open_to_others(Path(folder).resolve())
    except OSError:  # not there yet, or in a bucket
        return
    if open_to_others is not None:
        print(
            f"dmphn: warning: compiled programs, which are code that runs, come from {folder} "
            f"(JAX_COMPILATION_CACHE_DIR), and others than you may write to {open_to_others}; "
            "close it to them (chmod go-w)",
            file=sys.stderr,
        )


@contextlib.contextmanager
def without_collection() -> Iterator[None]:
    """Pauses Python's cyclic garbage collection in its body, for a process that imports and loads.

    Hundreds of thousands of objects are made there that stay to the end, and the collector would
    go through them again and again. Those that are there when the body ends are left out of later
    collections too, among them the one at the process's end.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()


@functools.cache
def cache_folder(name: str, *, writable: bool = True) -> Path | None:
    """Returns a folder of the user's cache, made if need be, with access for the user alone.

    None where it cannot be made or, if it is to be `writable`, not be written; and, saying so on
    stderr, where others may write: what lies in a cache is code that runs.
    """
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        base.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = base
        for part in ("dmphn_jax", *name.split("/")):  # `parents` would leave the mode to the umask
            folder /= part
            folder.mkdir(mode=0o700, exist_ok=True)
        open_to_others = _open_to_others(folder.resolve())
    except (OSError, RuntimeError):  # RuntimeError: a user without a home
        return None
    if open_to_others is not None:
        print(
            f"dmphn: {folder} is not used: others than you may write to {open_to_others}; "
            "close it to them (chmod go-w), or name another folder by XDG_CACHE_HOME",
            file=sys.stderr,
        )
        return None
    return folder if not writable or os.access(folder, os.W_OK) else None


def _open_to_others(folder: Path) -> Path | None:
    """Returns the first of a folder and its parents whose entries others may change, else None.

    Root may everything. In a folder with the sticky bit, as /tmp, others cannot replace what is
    not theirs, which is enough for parents.
    """
    if not hasattr(os, "getuid"):
        return None
    for path in (folder, *folder.parents):
        status = path.stat()
        sticky = path != folder and status.st_mode & stat.S_ISVTX
        if status.st_uid not in (0, os.getuid()) or (status.st_mode & 0o022 and not sticky):
            return path
    return None


def data_mesh(devices: Sequence[jax.Device] | None = None) -> jax.sharding.Mesh:
    """Returns the mesh of devices along the one axis `data`.

    By default of all devices of all processes, neighbours in the machine beside each other; others
    stay in their order.
    """
    import jax
    import numpy as np

    if devices is None:
        count = (jax.device_count(),)
        return jax.make_mesh(count, ("data",), (jax.sharding.AxisType.Auto,))
    return jax.sharding.Mesh(np.asarray(devices), ("data",))


@functools.cache
def compiler_options(platform: str) -> dict[str, str] | None:
    """Returns `jax.jit`'s `compiler_options` for programs that run on a platform; None for none.

    On a CPU, XLA's convolutions of its own: the library it hands them to by default (YNNPACK)
    runs these networks' filter gradients several times slower, and their 32-channel layers too
    (docs/benchmarks.md). A jaxlib that does not know the option goes without.
    """
    if platform != "cpu":
        return None
    options = {"xla_cpu_experimental_ynn_fusion_type": ""}
    return options if _known(options) else None


def exchange_options(devices: Iterable[jax.Device]) -> dict[str, str] | None:
    """Returns `compiler_options` for programs in which such devices meet in an all-reduce.

    A TPU's compiler joins 256 tensors, or about 100 MB, in one all-reduce; a stack's gradients are
    more. A libtpu that does not know the options goes without.
    """
    import jax

    devices = list(devices)
    if devices[0].platform != "tpu":
        return compiler_options(devices[0].platform)
    here = [device for device in devices if device.process_index == jax.process_index()]
    options = {
        "xla_jf_crs_combiner_threshold_count": "100000",
        "xla_jf_crs_combiner_threshold_in_bytes": str(2**30),
    }
    return options if _known(options, (here or devices)[0]) else None


def _known(options: dict[str, str], device: jax.Device | None = None) -> bool:
    """Tells whether the compiler of a device, or of JAX's first one, knows options."""
    import jax

    sharding = None if device is None else jax.sharding.SingleDeviceSharding(device)
    number = jax.ShapeDtypeStruct((), "float32", sharding=sharding)
    platforms = None if device is None else (device.platform,)
    try:
        traced = jax.jit(lambda x: x, compiler_options=options).trace(number)
        traced.lower(lowering_platforms=platforms).compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True


def keep_freed_memory() -> None:
    """Where JAX computes on the CPU, lets the process keep freed memory for its next use.

    For training, whose steps all take the same: a step takes and frees hundreds of megabytes, and
    given back to the system in between, each page is cleared and mapped anew, 7 % of its time.
    Images of many sizes would leave gaps: a process that deblurs 720p images held 2.4 GB, not 0.9.
    Call it before JAX starts. No effect where the C library is not glibc.
    """
    import ctypes

    if _accelerators():
        return
    M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8  # names and values of malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    # A thread's own heap gives every large block back, whatever the settings above.
    mallopt(M_ARENA_MAX, 1)


def _accelerators() -> bool:
    """Tells whether JAX may find other devices than the CPU, without starting it."""
    import importlib.metadata
    import importlib.util

    import jax

    if jax.config.jax_platforms:
        return jax.config.jax_platforms.split(",")[0] != "cpu"
    plugins = importlib.metadata.entry_points(group="jax_plugins")
    return bool(plugins) or importlib.util.find_spec("libtpu") is not None
