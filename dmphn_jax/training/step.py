"""One step of training, compiled: crops, augmentation, network, loss, update, metrics."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dmphn_jax.data.augment import augment
from dmphn_jax.errors import UserError
from dmphn_jax.runtime import exchange_options
from dmphn_jax.training.losses import training_loss
from dmphn_jax.training.state import TrainState

_STEP_STREAM = 1  # folded into the seed; the initial weights take the seed itself


def check_batch(batch_size: int, mesh: Mesh) -> None:
    """Raises UserError if the devices cannot share a batch evenly."""
    if batch_size % mesh.size:
        fitting = -(-batch_size // mesh.size) * mesh.size
        raise UserError(
            f"config.batch_size = {batch_size} is not shared evenly by {mesh.size} devices: "
            f"take --config.batch_size={fitting}, or fewer devices"
        )


@dataclasses.dataclass(frozen=True)
class StepOptions:
    """What a training step does beside the network and the optimiser.

    Attributes:
      seed: of augmentation.
      recipe: of `data.augment`.
      loss: of `losses.LOSSES`.
      levels: supervise every level's image; see `losses.training_loss`.
      ema_decay: of the moving average `state.ema`; see `ema_rate`.
      accumulate_steps: steps per update of the optimiser; the average follows updates.
    """

    seed: int = 0
    recipe: str = "none"
    loss: str = "mse"
    levels: bool = False
    ema_decay: float = 0.0
    accumulate_steps: int = 1

    @classmethod
    def of(cls, config: Any) -> StepOptions:
        """Returns the options of a run's config."""
        return cls(
            seed=config.seed,
            recipe=config.augment,
            loss=config.loss.name,
            levels=config.loss.levels,
            ema_decay=config.ema_decay,
            accumulate_steps=config.optimizer.accumulate_steps,
        )


def make_train_step(
    module: Any,
    tx: optax.GradientTransformation,
    schedule: Callable[[Any], Any],
    crops: Callable[[Any, Any], tuple[Any, Any]],
    mesh: Mesh,
    options: StepOptions = StepOptions(),
) -> Callable[[TrainState, Any, Any], tuple[TrainState, dict[str, jax.Array]]]:
    """Returns `step(state, feed.resident, feed.next(n)) -> (state, metrics)`, n steps in one call.

    `state` is donated. Every metric is float32 (n,), a value per step: `loss` (Eq. 11), `psnr` of
    the final image and `psnr_blurry` of the input (dB, mean over the batch), `psnr_stage_<s>` of
    each stage of a stack, `gradient_norm` before clipping, `learning_rate`. What is random
    depends on (seed, step) only. Gradients and metrics meet in one all-reduce per step.

    Args:
      module: of `models.build`.
      tx, schedule: of `optimizer.make_optimizer`.
      crops: the feed's, (resident, batch) -> (blurry, sharp); traced inside the step.
      mesh: with the one axis `data`.
      options: the rest.
    """
    batched = NamedSharding(mesh, PartitionSpec("data"))
    gradient_of = _gradient_function(module, mesh, options)

    def one(state: TrainState, resident: Any, batch: Any) -> tuple[TrainState, Any]:
        key = jax.random.fold_in(jax.random.key(options.seed), _STEP_STREAM)
        key = jax.random.fold_in(key, state.step)
        images = jax.lax.with_sharding_constraint(crops(resident, batch), batched)
        blurry, sharp = augment(key, *images, options.recipe)
        images = jax.lax.with_sharding_constraint((blurry - 0.5, sharp - 0.5), batched)
        gradient, metrics = gradient_of(state.params, *images)
        updates, opt_state = tx.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        average = _averaged(state, params, options)
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

    replicated = NamedSharding(mesh, PartitionSpec())
    return jax.jit(
        many,
        donate_argnums=0,
        out_shardings=(replicated, replicated),
        compiler_options=exchange_options(mesh.devices.flat),
    )


def ema_rate(decay: float, update: Any) -> jax.Array:
    """Returns the share of the old average kept at an update, counted from 0.

    It rises as (1 + u) / (10 + u) to `decay`, so that a young average forgets the initial weights.
    """
    return jnp.minimum(decay, (1.0 + update) / (10.0 + update))


def _gradient_function(module: Any, mesh: Mesh, options: StepOptions) -> Callable[..., Any]:
    """Returns (params, blurry, sharp) -> (gradient, metrics), means over the whole batch.

    Each device takes its share of the batch; images are in [-0.5, 0.5].
    """

    def local(params: Any, blurry: jax.Array, sharp: jax.Array) -> tuple[Any, Any]:
        def objective(params: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
            output = module.apply({"params": params}, blurry)
            value = training_loss(output, sharp, loss=options.loss, levels=options.levels)
            metrics = {"loss": value, "psnr": _psnr(output.image, sharp)}
            metrics["psnr_blurry"] = _psnr(blurry, sharp)
            if len(output.stages) > 1:
                for stage, image in enumerate(output.stages, 1):
                    metrics[f"psnr_stage_{stage}"] = _psnr(image, sharp)
            return value, metrics

        gradient, metrics = jax.grad(objective, has_aux=True)(params)
        return jax.lax.pmean((gradient, metrics), "data")

    data, same = PartitionSpec("data"), PartitionSpec()
    return jax.shard_map(
        local, mesh=mesh, in_specs=(same, data, data), out_specs=same, check_vma=False
    )


def _averaged(state: TrainState, params: Any, options: StepOptions) -> Any:
    """Returns the moving average after the step that made `params`; None where none is kept."""
    if state.ema is None:
        return None
    every = options.accumulate_steps
    share = 1 - ema_rate(options.ema_decay, state.step // every)
    # Between the updates of the optimiser the average waits.
    share = jnp.where((state.step + 1) % every == 0, share, 0.0)
    return optax.incremental_update(params, state.ema, share)


def _psnr(image: jax.Array, sharp: jax.Array) -> jax.Array:
    """Returns the mean PSNR (dB) of images (B, H, W, 3) in [-0.5, 0.5], clipped, not rounded."""
    difference = jnp.clip(image, -0.5, 0.5) - sharp
    # The floor is far below one grey level: equal images count 100 dB, not infinity.
    error = jnp.maximum(jnp.mean(difference * difference, axis=(1, 2, 3)), 1e-10)
    return jnp.mean(-10 * jnp.log10(error))
