"""A run's work folder: a folder of a file system, or one in a bucket with a copy on this host.

In both a run writes to `files_of`, a folder here. One in a bucket is taken by a lease beside the
copy's lock; each checkpoint is sent when it stands here, and is there when the save ends; logs,
TensorBoard and status are sent at intervals. What is in the bucket counts: at a start the copy is
made to agree with it. Only process 0 takes a folder.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from dmphn_jax import storage
from dmphn_jax.files import remove, write_atomically
from dmphn_jax.models import ModelConfig
from dmphn_jax.storage import Address
from dmphn_jax.storage.names import CHECKPOINTS
from dmphn_jax.training.checkpoints import RunCheckpoints, chosen_checkpoint
from dmphn_jax.training.lock import NAME as LOCK
from dmphn_jax.training.lock import Lock

EVALUATION, METRICS = "evaluation", "metrics.csv"
_TOKEN = ".lease"


def files_of(workdir: Path | Address) -> Path:
    """Returns the folder that a run in `workdir` writes its files to."""
    if isinstance(workdir, Path):
        return workdir
    from dmphn_jax.storage.scratch import scratch

    return scratch("runs", workdir)


def take(
    workdir: Path | Address, held: contextlib.ExitStack, model: ModelConfig, *, keep: int
) -> RunCheckpoints:
    """Takes a work folder for one run and returns its checkpoints; `held` gives it back.

    Raises UserError if another run has it, or it cannot be reached or written.
    """
    if isinstance(workdir, Address):
        return _take_stored(workdir, held, model, keep=keep)
    held.callback(Lock(workdir).release)
    store = RunCheckpoints(workdir / CHECKPOINTS, model, keep=keep)
    held.callback(store.close)
    return store


def _take_stored(
    address: Address, held: contextlib.ExitStack, model: ModelConfig, *, keep: int
) -> RunCheckpoints:
    from dmphn_jax.storage.folders import disk_errors
    from dmphn_jax.storage.lease import Lease
    from dmphn_jax.storage.mirror import Mirror
    from dmphn_jax.storage.steps import Steps
    from dmphn_jax.training.stored_checkpoints import StoredCheckpoints

    files = files_of(address)
    held.callback(Lock(files, name=str(address)).release)
    with disk_errors(address):
        lease = Lease(address, files / _TOKEN)
        held.callback(lease.release)
        steps = Steps(address / CHECKPOINTS, own=lease.confirm)
        steps.clear()
        _agree(files, address)
    mirror = Mirror(files, address, leave_out=(CHECKPOINTS, LOCK), own=lease.check)
    held.callback(mirror.close)
    store = StoredCheckpoints(
        files / CHECKPOINTS, model, keep=keep, steps=steps, after_send=mirror.flush
    )
    held.callback(store.close)
    print(f"{address}: the run's files are written to {files} on this host first", flush=True)
    return store


def _agree(files: Path, address: Address) -> None:
    """Makes the copy hold what goes on: the metrics; checkpoints come when they are read."""
    for path in files.iterdir():
        if path.name in (CHECKPOINTS, LOCK, _TOKEN):
            continue
        remove(path)
    metrics = storage.Store(address).read(METRICS)
    if metrics is not None:
        write_atomically(files / METRICS, metrics.data)


@contextlib.contextmanager
def evaluated(workdir: Path | Address) -> Iterator[tuple[str, Path]]:
    """Yields the checkpoint of a run that is to be scored, and the folder of its results.

    The run's best checkpoint, or its newest where none was judged. Raises UserError if there is
    none.
    """
    if isinstance(workdir, Path):
        yield str(chosen_checkpoint(workdir / CHECKPOINTS)), workdir / EVALUATION
        return
    checkpoint = storage.local_checkpoint(workdir)
    with storage.synced(workdir / EVALUATION) as folder:
        yield str(checkpoint), folder
