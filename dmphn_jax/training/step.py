"""One step of training, compiled: crops, augmentation, network, loss, update, metrics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dmphn_jax.data.augment import augment
from dmphn_jax.data.base import Feed
from dmphn_jax.errors import UserError
from dmphn_jax.runtime import compiler_options
from dmphn_jax.training.losses import training_loss

_STEP_STREAM = 1  # folded into the seed; the initial weights take the seed itself


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


def check_batch(batch_size: int, mesh: Mesh) -> None:
    """Raises UserError if the devices cannot share a batch evenly."""
    if batch_size % mesh.size:
        fitting = -(-batch_size // mesh.size) * mesh.size
        raise UserError(
            f"config.batch_size = {batch_size} is not shared evenly by {mesh.size} devices: "
            f"take --config.batch_size={fitting}, or fewer devices"
        )


def make_state(params: Any, tx: optax.GradientTransformation, *, ema: bool) -> TrainState:
    """Returns the state before step 1; pure, and its arrays are copies of `params`."""
    copy = jax.tree.map(jnp.copy, params)
    average = jax.tree.map(jnp.copy, params) if ema else None
    return TrainState(jnp.int32(0), copy, average, tx.init(params))


def init_state(params: Any, tx: optax.GradientTransformation, mesh: Mesh, *, ema: bool):
    """Returns `make_state`'s, replicated over the mesh; a step that takes it leaves `params` be."""
    params = jax.device_get(params)  # a host copy: donation would reach through a device one
    replicated = NamedSharding(mesh, PartitionSpec())
    return jax.jit(lambda p: make_state(p, tx, ema=ema), out_shardings=replicated)(params)


def make_train_step(
    module: Any,
    tx: optax.GradientTransformation,
    schedule: Callable[[Any], Any],
    feed: Feed,
    mesh: Mesh,
    *,
    seed: int = 0,
    recipe: str = "none",
    loss: str = "mse",
    levels: bool = False,
    ema_decay: float = 0.0,
    accumulate_steps: int = 1,
) -> Callable[[TrainState, Any, Any], tuple[TrainState, dict[str, jax.Array]]]:
    """Returns `step(state, feed.resident, feed.next(n)) -> (state, metrics)`, n steps in one call.

    `state` is donated. Every metric is float32 (n,), a value per step: `loss` (Eq. 11), `psnr` of
    the final image and `psnr_blurry` of the input (dB, mean over the batch), `psnr_stage_<s>` of
    each stage of a stack, `gradient_norm` before clipping, `learning_rate`. What is random
    depends on (seed, step) only. Gradients and metrics meet in one all-reduce per step.

    Args:
      module: of `models.build`.
      tx, schedule: of `optimizer.make_optimizer`.
      feed: cuts crops inside the step.
      mesh: with the one axis `data`.
      seed: of augmentation.
      recipe: of `data.augment`.
      loss, levels: of `losses.training_loss`.
      ema_decay: of the moving average `state.ema`; see `ema_rate`.
      accumulate_steps: steps per update of the optimiser; the average follows updates.
    """
    batched = NamedSharding(mesh, PartitionSpec("data"))
    replicated = NamedSharding(mesh, PartitionSpec())

    def local(params: Any, blurry: jax.Array, sharp: jax.Array) -> tuple[Any, Any]:
        """Mean gradient and metrics over all devices, from each device's share of the batch."""

        def objective(params: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
            output = module.apply({"params": params}, blurry)
            value = training_loss(output, sharp, loss=loss, levels=levels)
            metrics = {"loss": value, "psnr": _psnr(output.image, sharp)}
            metrics["psnr_blurry"] = _psnr(blurry, sharp)
            if len(output.stages) > 1:
                for stage, image in enumerate(output.stages, 1):
                    metrics[f"psnr_stage_{stage}"] = _psnr(image, sharp)
            return value, metrics

        gradient, metrics = jax.grad(objective, has_aux=True)(params)
        return jax.lax.pmean((gradient, metrics), "data")

    data, same = PartitionSpec("data"), PartitionSpec()
    shared = jax.shard_map(
        local, mesh=mesh, in_specs=(same, data, data), out_specs=same, check_vma=False
    )

    def one(state: TrainState, resident: Any, batch: Any) -> tuple[TrainState, Any]:
        key = jax.random.fold_in(jax.random.key(seed), _STEP_STREAM)
        key = jax.random.fold_in(key, state.step)
        images = feed.crops(resident, batch)
        images = jax.lax.with_sharding_constraint(images, batched)
        blurry, sharp = augment(key, *images, recipe)
        images = (blurry - 0.5, sharp - 0.5)
        images = jax.lax.with_sharding_constraint(images, batched)
        gradient, metrics = shared(state.params, *images)
        updates, opt_state = tx.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        average = state.ema
        if average is not None:
            rate = ema_rate(ema_decay, state.step // accumulate_steps)
            rate = jnp.where((state.step + 1) % accumulate_steps == 0, rate, 1.0)
            average = jax.tree.map(lambda a, p: rate * a + (1 - rate) * p, average, params)
        metrics["gradient_norm"] = optax.tree.norm(gradient)
        metrics["learning_rate"] = jnp.float32(schedule(state.step))
        metrics = jax.tree.map(lambda x: x.astype(jnp.float32), metrics)
        return TrainState(state.step + 1, params, average, opt_state), metrics

    # XLA:CPU runs the convolutions of a loop's body ten times slower, a loop of one turn's too.
    platform = mesh.devices.flat[0].platform
    looped = platform != "cpu"

    def many(state: TrainState, resident: Any, batches: Any) -> tuple[TrainState, Any]:
        if looped:
            return jax.lax.scan(lambda s, batch: one(s, resident, batch), state, batches)
        metrics = []
        for i in range(jax.tree.leaves(batches)[0].shape[0]):
            state, values = one(state, resident, jax.tree.map(lambda x, i=i: x[i], batches))
            metrics.append(values)
        return state, jax.tree.map(lambda *values: jnp.stack(values), *metrics)

    return jax.jit(
        many,
        donate_argnums=0,
        out_shardings=(replicated, replicated),
        compiler_options=compiler_options(platform),
    )


def ema_rate(decay: float, update: Any) -> jax.Array:
    """Returns the share of the old average kept at an update, counted from 0.

    It rises as (1 + u) / (10 + u) to `decay`, so that a young average forgets the initial weights.
    """
    return jnp.minimum(decay, (1.0 + update) / (10.0 + update))


def _psnr(image: jax.Array, sharp: jax.Array) -> jax.Array:
    """Returns the mean PSNR (dB) of images (B, H, W, 3) in [-0.5, 0.5], clipped, not rounded."""
    difference = jnp.clip(image, -0.5, 0.5) - sharp
    # The floor is far below one grey level: equal images count 100 dB, not infinity.
    error = jnp.maximum(jnp.mean(difference * difference, axis=(1, 2, 3)), 1e-10)
    return jnp.mean(-10 * jnp.log10(error))
