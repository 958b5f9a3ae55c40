"""The optimiser of a run: Adam or AdamW, its learning rate over time, clipping, accumulation.

`OPTIMIZERS` and `SCHEDULES` are the registries: checks, messages and docs take the names from
them. jax and optax are imported when an optimiser is made.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from dmphn_jax.errors import UserError, nearest
from dmphn_jax.training import ranges

Schedule = Callable[[Any], Any]  # step -> learning rate


@dataclasses.dataclass(frozen=True)
class OptimizerOptions:
    """The fields of `config.optimizer`; the defaults are the paper's (Sec. 3.5).

    A step is one batch of the training loop, also while gradients accumulate. `ranges.RANGES`
    says what each number may be.

    Attributes:
      name: of `OPTIMIZERS`.
      learning_rate: at its highest.
      schedule: of `SCHEDULES`.
      decay_factor: step: what the learning rate is multiplied by ...
      decay_epochs: ... every so many epochs (PyTorch's StepLR).
      warmup_steps: steps over which it rises linearly, by equal parts that reach the highest
        at the first step after them, for every schedule.
      final_fraction: cosine: the learning rate at the last step, as a part of the highest.
      beta1, beta2, epsilon: of Adam.
      weight_decay: adamw only; of the kernels, not of the biases.
      clip_norm: largest global norm of the gradients; 0: no clipping.
      accumulate_steps: steps whose mean gradient makes one update.

    Raises:
      UserError: a value that makes no sense.
    """

    name: str = "adam"
    learning_rate: float = 1e-4
    schedule: str = "step"
    decay_factor: float = 0.1
    decay_epochs: int = 1000
    warmup_steps: int = 0
    final_fraction: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    clip_norm: float = 0.0
    accumulate_steps: int = 1

    def __post_init__(self) -> None:
        for field, known in (("name", OPTIMIZERS), ("schedule", SCHEDULES)):
            value = getattr(self, field)
            if value not in known:
                raise UserError(
                    f"config.optimizer.{field} = {value!r} is not known"
                    f"{nearest(str(value), known)}: one of {', '.join(known)}"
                )
        fields = dataclasses.asdict(self)
        ranges.check({f"optimizer.{name}": value for name, value in fields.items()}, "config.")
        if self.weight_decay and self.name != "adamw":
            raise UserError("config.optimizer.weight_decay needs config.optimizer.name = 'adamw'")

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> OptimizerOptions:
        """Returns the options of a config's section; raises UserError for an unknown field."""
        known = {field.name for field in dataclasses.fields(cls)}
        for name in fields:
            if name not in known:
                raise UserError(f"no field config.optimizer.{name}{nearest(name, known)}")
        return cls(**fields)

    def check_length(self, num_steps: int) -> None:
        """Raises UserError if the schedule cannot be laid out over so many steps."""
        if SCHEDULES[self.schedule].needs_length and num_steps <= self.warmup_steps:
            raise UserError(
                f"config.optimizer.warmup_steps = {self.warmup_steps} leaves nothing of "
                f"num_steps = {num_steps}"
            )

    def in_words(self, steps_per_epoch: int, num_steps: int) -> str:
        """Returns what the learning rate does in a run of so many steps, for people.

        A step schedule that is too long for the run is said to be: its rate never falls.
        """
        rise = f"after a warm-up of {self.warmup_steps:,} steps " if self.warmup_steps else ""
        then = SCHEDULES[self.schedule].in_words(self, steps_per_epoch, num_steps)
        return f"{rise}{self.learning_rate:g}{then}"


@dataclasses.dataclass(frozen=True)
class ScheduleKind:
    """What a name in `SCHEDULES` stands for.

    Attributes:
      curve: (options, steps per epoch, steps of the run or None) -> the learning rate by step.
      in_words: (options, steps per epoch, steps of the run) -> what follows the highest rate.
      needs_length: whether it is laid out over the steps of the run.
    """

    curve: Callable[[OptimizerOptions, int, int | None], Schedule]
    in_words: Callable[[OptimizerOptions, int, int], str]
    needs_length: bool = False


def make_optimizer(
    config: Mapping[str, Any], steps_per_epoch: int, num_steps: int | None = None
) -> tuple[Any, Schedule]:
    """Returns `(tx, schedule)` for a training loop that calls `tx.update` once per step.

    Args:
        config: fields of `OptimizerOptions`, whose defaults stand in for those not given.
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

    options = OptimizerOptions.of(config)
    schedule = make_schedule(config, steps_per_epoch, num_steps)
    every = options.accumulate_steps
    # Inside MultiSteps optax counts updates, each at the last step of its group.
    rate = schedule if every == 1 else lambda update: schedule((update + 1) * every - 1)
    tx = OPTIMIZERS[options.name](rate, options)
    if options.clip_norm > 0:
        tx = optax.chain(optax.clip_by_global_norm(options.clip_norm), tx)
    if every > 1:
        tx = optax.MultiSteps(tx, every).gradient_transformation()
    return tx, schedule


def make_schedule(
    config: Mapping[str, Any], steps_per_epoch: int, num_steps: int | None = None
) -> Schedule:
    """Returns the learning rate as a function of the step, counted from 0; see make_optimizer."""
    import jax.numpy as jnp

    options = OptimizerOptions.of(config)
    kind = SCHEDULES[options.schedule]
    if num_steps is not None:
        options.check_length(num_steps)
    elif kind.needs_length:
        raise UserError(
            f"config.optimizer.schedule = {options.schedule!r} needs the length of the run: "
            "num_steps"
        )
    rate = kind.curve(options, max(1, steps_per_epoch), num_steps)
    return lambda step: jnp.asarray(rate(jnp.asarray(step)), jnp.float32)


def _step(options: OptimizerOptions, steps_per_epoch: int, num_steps: int | None) -> Schedule:
    import optax

    period = float(steps_per_epoch * options.decay_epochs)  # a float: it may pass int32
    decay = optax.exponential_decay(
        options.learning_rate, period, options.decay_factor, staircase=True
    )
    if not options.warmup_steps:
        return decay
    rise = _warm_up(1.0, options.warmup_steps)
    return lambda step: rise(step) * decay(step)


def _step_in_words(options: OptimizerOptions, steps_per_epoch: int, num_steps: int) -> str:
    period = steps_per_epoch * options.decay_epochs
    decays = (num_steps - 1) // period
    if not decays:
        return f" throughout: the first decay would be after step {period:,}"
    word = f", times {options.decay_factor:g} after step {period:,}"
    return f"{word} and every {period:,} more" if decays > 1 else word


def _cosine(options: OptimizerOptions, steps_per_epoch: int, num_steps: int | None) -> Schedule:
    import optax

    assert num_steps is not None  # make_schedule saw to it
    peak, warmup = options.learning_rate, options.warmup_steps
    return optax.warmup_cosine_decay_schedule(
        peak / (warmup + 1),
        peak,
        warmup,
        # The last step of the run, num_steps - 1, is at the end of the half wave.
        max(num_steps - 1, warmup + 1),
        options.final_fraction * peak,
    )


def _cosine_in_words(options: OptimizerOptions, steps_per_epoch: int, num_steps: int) -> str:
    return f", a cosine to {options.final_fraction * options.learning_rate:g}"


def _constant(options: OptimizerOptions, steps_per_epoch: int, num_steps: int | None) -> Schedule:
    return _warm_up(options.learning_rate, options.warmup_steps)


def _warm_up(peak: float, steps: int) -> Schedule:
    """Returns a linear rise whose first step already learns: peak (step + 1) / (steps + 1)."""
    import optax

    return optax.linear_schedule(peak / (steps + 1), peak, steps)


def _adam(rate: Schedule, options: OptimizerOptions) -> Any:
    import optax

    return optax.adam(rate, b1=options.beta1, b2=options.beta2, eps=options.epsilon)


def _adamw(rate: Schedule, options: OptimizerOptions) -> Any:
    import jax
    import optax

    return optax.adamw(
        rate,
        b1=options.beta1,
        b2=options.beta2,
        eps=options.epsilon,
        weight_decay=options.weight_decay,
        mask=lambda params: jax.tree.map(lambda leaf: leaf.ndim > 1, params),  # the kernels
    )


OPTIMIZERS: dict[str, Callable[[Schedule, OptimizerOptions], Any]] = {
    "adam": _adam,
    "adamw": _adamw,  # decoupled weight decay
}
SCHEDULES: dict[str, ScheduleKind] = {
    "step": ScheduleKind(_step, _step_in_words),
    "cosine": ScheduleKind(_cosine, _cosine_in_words, needs_length=True),
    "constant": ScheduleKind(_constant, lambda *_: " throughout"),
}
