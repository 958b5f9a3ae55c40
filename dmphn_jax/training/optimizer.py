"""The optimiser of a run: Adam or AdamW, its learning rate over time, clipping, accumulation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from dmphn_jax.errors import UserError, nearest

# Every field of `config.optimizer` and the paper's value (Sec. 3.5: Adam, 1e-4, times 0.1 every
# 1000 epochs). A "step" is one batch of the training loop, also while gradients accumulate.
DEFAULTS: dict[str, Any] = {
    "name": "adam",  # 'adam', or 'adamw' for decoupled weight decay
    "learning_rate": 1e-4,  # at its highest
    "schedule": "step",  # 'step', 'cosine' or 'constant'
    "decay_factor": 0.1,  # step: what the learning rate is multiplied by ...
    "decay_epochs": 1000,  # ... every so many epochs (PyTorch's StepLR)
    "warmup_steps": 0,  # steps over which it rises linearly from 0, for every schedule
    "final_fraction": 0.0,  # cosine: the learning rate at the last step, as a part of the highest
    "beta1": 0.9,
    "beta2": 0.999,
    "epsilon": 1e-8,
    "weight_decay": 0.0,  # adamw only; of the kernels, not of the biases
    "clip_norm": 0.0,  # largest global norm of the gradients; 0: no clipping
    "accumulate_steps": 1,  # steps whose mean gradient makes one update
}
_CHOICES = {"name": ("adam", "adamw"), "schedule": ("step", "cosine", "constant")}


def make_optimizer(
    config: Mapping[str, Any], steps_per_epoch: int, num_steps: int | None = None
) -> tuple[Any, Callable[[Any], Any]]:
    """Returns `(tx, schedule)` for a training loop that calls `tx.update` once per step.

    Args:
        config: fields of `DEFAULTS`, which stand in for those not given.
        steps_per_epoch: batches per pass over the training pairs.
        num_steps: length of the run in steps; only the cosine schedule needs it.

    Returns:
        tx: an optax transformation. With `accumulate_steps` > 1 it is `optax.MultiSteps`: its
            updates are zero on all but the last step of each group.
        schedule: step -> learning rate, for an int or a traced step; what `tx` itself applies.

    Raises:
        UserError: an unknown field or value, or a schedule that cannot be laid out.
    """
    import optax

    fields = _checked(config)
    schedule = make_schedule(fields, steps_per_epoch, num_steps)
    every = fields["accumulate_steps"]
    # Inside MultiSteps optax counts updates, each at the last step of its group.
    rate = schedule if every == 1 else lambda update: schedule((update + 1) * every - 1)
    adam = {"b1": fields["beta1"], "b2": fields["beta2"], "eps": fields["epsilon"]}
    if fields["name"] == "adam":
        tx = optax.adam(rate, **adam)
    else:
        tx = optax.adamw(rate, **adam, weight_decay=fields["weight_decay"], mask=_is_kernel)
    if fields["clip_norm"] > 0:
        tx = optax.chain(optax.clip_by_global_norm(fields["clip_norm"]), tx)
    if every > 1:
        tx = optax.MultiSteps(tx, every).gradient_transformation()
    return tx, schedule


def make_schedule(
    config: Mapping[str, Any], steps_per_epoch: int, num_steps: int | None = None
) -> Callable[[Any], Any]:
    """Returns the learning rate as a function of the step, counted from 0; see make_optimizer."""
    import jax.numpy as jnp

    fields = _checked(config)
    peak, warmup = fields["learning_rate"], fields["warmup_steps"]
    if fields["schedule"] == "step":
        period = max(1, steps_per_epoch) * fields["decay_epochs"]

        def decay(step: Any) -> Any:
            return jnp.float32(fields["decay_factor"]) ** (step // period)

    elif fields["schedule"] == "cosine":
        if num_steps is None:
            raise UserError("optimizer.schedule = 'cosine' needs the length of the run: num_steps")
        if num_steps <= warmup:
            raise UserError(
                f"optimizer.warmup_steps = {warmup} leaves nothing of num_steps = {num_steps}"
            )
        final = fields["final_fraction"]

        def decay(step: Any) -> Any:
            # The last step of the run, num_steps - 1, is at the end of the half wave.
            part = jnp.clip((step - warmup) / max(1, num_steps - 1 - warmup), 0.0, 1.0)
            return final + (1 - final) * 0.5 * (1 + jnp.cos(jnp.pi * part))

    else:

        def decay(step: Any) -> Any:
            return jnp.ones_like(step, jnp.float32)

    def schedule(step: Any) -> Any:
        step = jnp.asarray(step)
        # (step + 1): the first step of a warm-up already learns.
        rise = jnp.minimum(1.0, (step + 1) / (warmup + 1))
        return jnp.asarray(peak * rise * decay(step), jnp.float32)

    return schedule


def _is_kernel(params: Any) -> Any:
    import jax

    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def _checked(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `DEFAULTS` with `config` over it; raises UserError for what makes no sense."""
    given = dict(config)
    for field in given:
        if field not in DEFAULTS:
            raise UserError(f"no field optimizer.{field}{nearest(field, DEFAULTS)}")
    fields = {**DEFAULTS, **given}
    for field, choices in _CHOICES.items():
        value = fields[field]
        if value not in choices:
            raise UserError(
                f"optimizer.{field} = {value!r} is not known{nearest(str(value), choices)}: "
                f"one of {', '.join(choices)}"
            )
    lowest = {"learning_rate": 0, "warmup_steps": 0, "clip_norm": 0, "weight_decay": 0}
    lowest |= {"decay_epochs": 1, "accumulate_steps": 1}
    for field, least in lowest.items():
        if fields[field] < least:
            raise UserError(f"optimizer.{field} = {fields[field]} must be at least {least}")
    if fields["weight_decay"] and fields["name"] == "adam":
        raise UserError("optimizer.weight_decay needs optimizer.name = 'adamw'")
    return fields
