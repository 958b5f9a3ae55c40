"""Going on from a run's newest checkpoint, and refusing one of another run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dmphn_jax import distributed
from dmphn_jax.errors import UserError
from dmphn_jax.storage import Address
from dmphn_jax.training import settings
from dmphn_jax.training.checkpoints import Resumed, RunCheckpoints
from dmphn_jax.training.state import TrainState


def newest(
    store: RunCheckpoints | None, template: TrainState, mesh: Mesh
) -> tuple[TrainState | None, dict[str, Any]]:
    """Returns the newest undamaged state, replicated over the mesh, and its item `run`.

    None, and a `run` of step 0, where there is none. Process 0 reads and tells the others.

    Args:
      store: in process 0; None in the others.
      template: shapes and dtypes of the state.
      mesh: of all devices.
    """
    resumed: Resumed | None = None

    def read() -> dict[str, Any]:
        nonlocal resumed
        resumed = store.latest(template) if store else None
        return resumed.run if resumed else {"step": 0, "best": None}

    run = distributed.from_first(read)
    if not run["step"]:
        return None, run
    blank = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), template)
    host = distributed.broadcast_arrays(resumed.state if resumed else blank)
    replicated = NamedSharding(mesh, PartitionSpec())
    # Copies made on the device: nothing of the host's is donated to the first step.
    place = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree), out_shardings=replicated)
    return place(host), run


def refuse_other_config(saved: dict[str, Any] | None, config: Any, workdir: Path | Address) -> None:
    """Raises UserError naming the field if `workdir` holds a run that computes something else."""
    now = settings.flat(config)
    for name in settings.changed(saved["config"], now) if saved else ():
        if name == "num_steps":
            continue  # the config may leave it to num_epochs
        raise UserError(
            f"{workdir} holds a run with config.{name} = {saved['config'][name]!r}, now "
            f"{now[name]!r}: {_way_out(saved, workdir)}"
        )


def refuse_other_schedule(
    saved: dict[str, Any] | None, described: dict[str, Any], workdir: Path | Address
) -> None:
    """Raises UserError if the run in `workdir` has another feed, data size or schedule."""
    if saved is None:
        return
    before, now = saved["config"], described["config"]
    if "num_steps" in settings.changed(before, now):
        raise UserError(
            f"{workdir} holds a run of config.num_steps = {before['num_steps']}, now "
            f"{now['num_steps']}, and its {now['optimizer.schedule']} schedule depends on it: "
            f"{_way_out(saved, workdir)}"
        )
    for name, field in (("feed_kind", "data.feed"), ("steps_per_epoch", "data")):
        if saved[name] != described[name]:
            raise UserError(
                f"{workdir} holds a run with another config.{field} ({name} {saved[name]}, now "
                f"{described[name]}): {_way_out(saved, workdir)}"
            )


def _way_out(saved: dict[str, Any], workdir: Path | Address) -> str:
    return (
        "resume it with its own value, or name another --workdir, with --config.init_from="
        f"{workdir}/checkpoints/{saved['step']} to begin with its weights"
    )
