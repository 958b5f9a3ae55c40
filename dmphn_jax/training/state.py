"""What training changes: parameters, their moving average, the optimiser's state."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh, NamedSharding, PartitionSpec


@struct.dataclass
class TrainState:
    """Everything an update changes; the same on every device.

    Attributes:
      step: steps taken, int32.
      params: float32 parameter tree.
      ema: moving average of `params`; None where the run keeps none.
      opt_state: of the optax transformation.
    """

    step: jax.Array
    params: Any
    ema: Any
    opt_state: Any

    @property
    def deployed(self) -> Any:
        """The parameters that are evaluated and used: the moving average where there is one."""
        return self.params if self.ema is None else self.ema


def local_copy(tree: Any) -> Any:
    """Returns copies on one device of this process: replicated arrays may then be given away."""
    return _copy(jax.tree.map(lambda x: x.addressable_data(0), tree))


@jax.jit
def _copy(tree: Any) -> Any:
    return jax.tree.map(jnp.copy, tree)


def make_state(params: Any, tx: optax.GradientTransformation, *, ema: bool) -> TrainState:
    """Returns the state before step 1; pure, and its arrays are copies of `params`."""
    copy = jax.tree.map(jnp.copy, params)
    average = jax.tree.map(jnp.copy, params) if ema else None
    return TrainState(jnp.int32(0), copy, average, tx.init(params))


def init_state(
    params: Any, tx: optax.GradientTransformation, mesh: Mesh, *, ema: bool
) -> TrainState:
    """Returns `make_state`'s, replicated over the mesh; a step that takes it leaves `params` be."""
    params = jax.device_get(params)  # a host copy: donation would reach through a device one
    replicated = NamedSharding(mesh, PartitionSpec())
    return jax.jit(lambda p: make_state(p, tx, ema=ema), out_shardings=replicated)(params)
