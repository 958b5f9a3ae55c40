"""Starting JAX on several processes, and what they say to one another."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable
from typing import Any

from dmphn_jax.errors import UserError, one_line

# Variables in which launchers tell a process how many it is one of.
_COUNTS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "WORLD_SIZE")
# What `initialize` says where it detects no cluster, and in a process that has computed already:
# there is no public way to ask either.
_ALONE = ("coordinator_address should be defined", "must be called before any JAX")
_WAY_OUT = "name them by --coordinator HOST:PORT, --num-processes N and --process-id I"


def start(coordinator: str = "", num_processes: int = -1, process_id: int = -1) -> None:
    """Joins this process to the others of its job, before any computation.

    JAX itself detects Cloud TPU (also under GKE), Slurm, Open MPI and, with its extra `k8s`,
    Kubernetes; elsewhere the three arguments tell. A lone process needs nothing.

    Args:
      coordinator: `host:port` of process 0, reachable from all; "" where the platform tells.
      num_processes, process_id: how many there are, and which this one is; -1 likewise.

    Raises UserError if only some of the arguments are given, the others cannot be reached, or
    JAX detects nothing though a launcher's variables tell of several processes: each would
    train alone and write the same folder.
    """
    given = (bool(coordinator), num_processes >= 0, process_id >= 0)
    if any(given) and not all(given):
        raise UserError("--coordinator, --num-processes and --process-id belong together")
    if all(given) and not process_id < num_processes:
        raise UserError(f"--process-id {process_id} must be below --num-processes {num_processes}")
    if all(given) and ":" not in coordinator:
        raise UserError(f"--coordinator {coordinator}: HOST:PORT needed")
    import jax

    try:
        if all(given):
            jax.distributed.initialize(coordinator, num_processes, process_id)
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Kubernetes, which also a lone pod may run in
            jax.distributed.initialize()
    except (RuntimeError, ValueError) as error:
        if not all(given) and any(text in str(error) for text in _ALONE):
            _refuse_several()
            return
        raise UserError(
            f"the processes of this job did not find one another: {one_line(error)[:200]}; "
            f"{_WAY_OUT}"
        ) from None


def _refuse_several() -> None:
    """Raises UserError if the environment tells of several processes that JAX did not detect."""
    for name in _COUNTS:
        count = os.environ.get(name, "")
        if count.isdigit() and int(count) > 1:
            raise UserError(
                f"{name}={count} tells of several processes, but JAX does not detect how to "
                f"reach them: {_WAY_OUT}"
            )
    # An indexed job does not tell its pods how many they are.
    index = os.environ.get("JOB_COMPLETION_INDEX")
    if index is not None:
        raise UserError(
            f"this is pod {index} of an indexed Kubernetes job, and JAX does not detect the "
            f"others: install jax[k8s] and let the pods read the job, or {_WAY_OUT} (of a job of "
            "one pod 127.0.0.1:12355, 1 and 0)"
        )


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


def from_first(function: Callable[[], Any]) -> Any:
    """Returns in every process what `function` returns in process 0, plain JSON.

    A UserError there is raised in all of them: none waits for one that has ended.
    """
    import jax

    value, wrong = None, None
    if jax.process_index() == 0:
        try:
            value = function()
        except UserError as error:
            wrong = error
    if jax.process_count() == 1:
        if wrong:
            raise wrong
        return value
    value, text = broadcast([value, str(wrong) if wrong else None])
    if text is not None:
        raise UserError(text) from wrong
    return value


def broadcast_arrays(tree: Any) -> Any:
    """Returns process 0's tree of NumPy arrays; every process passes the same shapes."""
    import jax
    import numpy as np
    from jax.experimental import multihost_utils

    if jax.process_count() == 1:
        return tree
    return jax.tree.map(np.asarray, multihost_utils.broadcast_one_to_all(tree))
