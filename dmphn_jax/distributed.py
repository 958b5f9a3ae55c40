"""Starting JAX on several processes, and what they say to one another."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from dmphn_jax.errors import UserError, one_line

# Seconds for which a process may be silent before the others end: a thread of JAX's own speaks for
# it, so that compiling and saving are no silence. JAX's default is 100.
HEARTBEAT = 30
START_WITHIN = 300  # seconds for which a process waits for the others at the start
TRY_AGAIN = os.EX_TEMPFAIL  # 75, an exit status: start the job again

# Variables in which launchers tell a process its number, and how many it is one of.
LAUNCHERS = (
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMI_RANK", "PMI_SIZE"),
    ("RANK", "WORLD_SIZE"),
)
_COUNTS = tuple(count for _, count in LAUNCHERS)
# What `initialize` says where it detects no cluster, and in a process that has computed already:
# there is no public way to ask either.
_ALONE = ("coordinator_address should be defined", "must be called before any JAX")
_WAY_OUT = "name them by --coordinator HOST:PORT, --num-processes N and --process-id I"


def check(coordinator: str, num_processes: int, process_id: int) -> None:
    """Raises UserError for arguments of `start` that make no sense."""
    given = (bool(coordinator), num_processes >= 0, process_id >= 0)
    if any(given) and not all(given):
        raise UserError("--coordinator, --num-processes and --process-id belong together")
    if all(given) and not process_id < num_processes:
        raise UserError(f"--process-id {process_id} must be below --num-processes {num_processes}")
    host, _, port = coordinator.rpartition(":")
    if all(given) and not (host and port.isdecimal() and 0 < int(port) < 65536):
        raise UserError(f"--coordinator {coordinator}: HOST:PORT needed")


def one_of_several() -> bool:
    """Tells whether a launcher's variables say that this process has others beside it.

    On Cloud TPU outside Kubernetes no variable does. An indexed Kubernetes job gives its pods their
    number only: one alone counts as well.
    """
    if {"KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"} <= os.environ.keys():
        return True
    counts = [os.environ.get(name, "") for name in _COUNTS]
    hosts = os.environ.get("TPU_WORKER_HOSTNAMES", "")
    slices = os.environ.get("MEGASCALE_NUM_SLICES", "")
    return any(n.isdigit() and int(n) > 1 for n in (*counts, slices)) or "," in hosts


def start(
    coordinator: str = "",
    num_processes: int = -1,
    process_id: int = -1,
    heartbeat: int = HEARTBEAT,
    within: int = START_WITHIN,
) -> None:
    """Joins this process to the others of its job, before any computation.

    JAX itself detects Cloud TPU (also under GKE), Slurm, Open MPI and, with its extra `k8s`,
    Kubernetes; elsewhere the three arguments tell. A lone process needs nothing.

    Args:
      coordinator: `host:port` of process 0, reachable from all; "" where the platform tells.
      num_processes, process_id: how many there are, and which this one is; -1 likewise.
      heartbeat: seconds of silence after which a process counts as lost, and the others end.
      within: seconds after which JAX aborts a process that has not met all others;
        `processes.supervision` makes a line and a status of it.

    Raises UserError if only some of the arguments are given, the others cannot be reached, or
    JAX detects nothing though a launcher's variables tell of several processes: each would
    train alone and write the same folder.
    """
    check(coordinator, num_processes, process_id)
    import jax

    limits = {"heartbeat_timeout_seconds": heartbeat, "initialization_timeout": within}
    try:
        if coordinator:
            jax.distributed.initialize(coordinator, num_processes, process_id, **limits)
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Kubernetes, which also a lone pod may run in
            jax.distributed.initialize(**limits)
    except (RuntimeError, ValueError) as error:
        if not coordinator and any(text in str(error) for text in _ALONE):
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


_failed = False


@contextlib.contextmanager
def shared_fate() -> Iterator[None]:
    """Notes that this process failed among others, for `leave`.

    An error that says that another one was lost becomes a line and SystemExit with status 75.
    """
    global _failed
    try:
        yield
    except BaseException as error:
        import jax

        if not jax.distributed.is_initialized() or jax.process_count() == 1:
            raise
        _failed = True
        if isinstance(error, jax.errors.JaxRuntimeError) and _tells_of_loss(str(error)):
            print(
                f"dmphn: another process of the run is gone ({one_line(error)[:120]}); start the "
                "job again to go on from the last checkpoint",
                file=sys.stderr,
            )
            raise SystemExit(TRY_AGAIN) from None
        raise


def leave(command: Callable[[], int]) -> NoReturn:
    """Runs a command and ends the process with its status.

    A process that failed among others ends at once: JAX would wait five minutes for all of them to
    come to their end, and these wait for what the failed one was to compute.
    """
    try:
        status = command()
    except SystemExit as leaving:
        if not _failed:
            raise
        status = leaving.code if isinstance(leaving.code, int) else 1
    except BaseException:
        if not _failed:
            raise
        traceback.print_exc()
        status = 1
    if _failed:
        import jax

        if jax.process_index() == 0:
            time.sleep(2)  # it runs JAX's service: the others may be about to say the same
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def _tells_of_loss(text: str) -> bool:
    signs = ("gloo", "nccl", "coordination", "unavailable", "connection reset", "closed by peer")
    return any(sign in text.lower() for sign in signs)


def told_to_stop() -> bool:
    """Tells whether any process got SIGTERM or a preemption notice; asks none of the others.

    JAX's service keeps it under this name, and has no public way to ask. False where it cannot be
    asked: then the next `reached_preemption_sync_point` tells.
    """
    try:
        from jax._src.distributed import global_state

        global_state.client.key_value_try_get("RECEIVED_PREEMPTION_NOTICE")
    except Exception:  # also if there is no such key
        return False
    return True


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

    The others wait for it as long as it takes. A UserError there is raised in all of them: none
    waits for one that has ended.
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
