"""Starting JAX on several processes, and what they say to one another."""

from __future__ import annotations

import importlib.util
import json
import os
from typing import Any

from dmphn_jax.errors import UserError, one_line


def start(coordinator: str = "", num_processes: int = -1, process_id: int = -1) -> None:
    """Joins this process to the others of its job, before any computation.

    Cloud TPU (also under GKE), Slurm and Open MPI tell each process its place; elsewhere the
    three arguments do. A lone process needs nothing.

    Args:
      coordinator: `host:port` of process 0, reachable from all; "" where the platform tells.
      num_processes, process_id: how many there are, and which this one is; -1 likewise.

    Raises UserError if only some of the arguments are given, or the others cannot be reached.
    """
    given = (bool(coordinator), num_processes >= 0, process_id >= 0)
    if any(given) and not all(given):
        raise UserError("--coordinator, --num-processes and --process-id belong together")
    if all(given) and not process_id < num_processes:
        raise UserError(f"--process-id {process_id} must be below --num-processes {num_processes}")
    if all(given) and ":" not in coordinator:
        raise UserError(f"--coordinator {coordinator}: HOST:PORT needed")
    if not any(given) and not platform_tells():
        return
    import jax

    try:
        if all(given):
            jax.distributed.initialize(coordinator, num_processes, process_id)
        else:
            jax.distributed.initialize()
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"the processes of this job did not find one another: {one_line(error)[:200]}; name "
            "them by --coordinator HOST:PORT, --num-processes N and --process-id I"
        ) from None


def platform_tells() -> bool:
    """Returns whether the platform says what processes there are, and there may be several."""
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS") or os.environ.get("SLURM_NTASKS") or "1"
    slurm = "SLURM_PROCID" in os.environ and "SLURM_STEP_NODELIST" in os.environ and int(tasks) > 1
    mpi = int(os.environ.get("OMPI_COMM_WORLD_SIZE", "1")) > 1
    workers = os.environ.get("TPU_WORKER_HOSTNAMES", "")
    # A TPU virtual machine without these variables asks its metadata server.
    tpu = importlib.util.find_spec("libtpu") is not None and os.path.exists("/dev/accel0")
    tpu = tpu or (importlib.util.find_spec("libtpu") is not None and os.path.exists("/dev/vfio/0"))
    return slurm or mpi or "," in workers or tpu


def broadcast(value: Any) -> Any:
    """Returns process 0's `value`, plain JSON; the others' is ignored. No-op in a lone process."""
    import jax
    import numpy as np
    from jax.experimental import multihost_utils

    if jax.process_count() == 1:
        return value
    data = np.frombuffer(json.dumps(value).encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(data))))
    buffer = np.zeros(size, np.uint8)
    if jax.process_index() == 0:
        buffer[:] = data
    return json.loads(bytes(multihost_utils.broadcast_one_to_all(buffer)))


def broadcast_arrays(tree: Any) -> Any:
    """Returns process 0's tree of NumPy arrays; every process passes the same shapes."""
    import jax
    import numpy as np
    from jax.experimental import multihost_utils

    if jax.process_count() == 1:
        return tree
    return jax.tree.map(np.asarray, multihost_utils.broadcast_one_to_all(tree))
