"""The range of every numeric field of a config, in one table. No jax."""

from __future__ import annotations

import dataclasses
import numbers
from collections.abc import Mapping
from typing import Any

from dmphn_jax.data.options import LARGEST_BATCH, MOST_THREADS
from dmphn_jax.errors import UserError
from dmphn_jax.models.config import MOST_WIDTH

MOST = 2**31 - 1  # steps are counted in int32


@dataclasses.dataclass(frozen=True)
class Range:
    """What a number may be; whole numbers only where `low` is an int.

    Attributes:
      low, high: the ends.
      without: "low" or "high" where that end itself is not allowed.
    """

    low: float
    high: float
    without: str = ""

    def refusal(self, value: Any) -> str:
        """Returns what is wrong with `value`, "" for nothing."""
        whole = isinstance(self.low, int)
        kind = numbers.Integral if whole else numbers.Real
        if isinstance(value, bool) or not isinstance(value, kind) or value != value:  # NaN
            return f"must be a {'whole ' if whole else ''}number"
        if value < self.low or (value == self.low and self.without == "low"):
            return f"must be {'above' if self.without == 'low' else 'at least'} {self.low:,}"
        if value > self.high or (value == self.high and self.without == "high"):
            return f"must be {'below' if self.without == 'high' else 'at most'} {self.high:,}"
        return ""


# Those of synthetic scenes (`data.size`, `data.count`, `data.motion`) stand with the source.
# Ends are where a value stops making sense; what fits into memory is asked for when a run begins.
RANGES: dict[str, Range] = {
    "seed": Range(0, 2**63 - 1),
    "model.width": Range(1, MOST_WIDTH),
    "crop_size": Range(1, 16384),
    "batch_size": Range(1, LARGEST_BATCH),
    "ema_decay": Range(0.0, 1.0, without="high"),
    "num_epochs": Range(1, MOST),
    "num_steps": Range(0, MOST),
    "steps_per_dispatch": Range(1, 10_000),
    "checkpoint_every": Range(1, MOST),
    "keep_checkpoints": Range(1, 1_000_000),
    "log_every": Range(1, MOST),
    "eval.every": Range(0, MOST),
    "eval.count": Range(0, MOST),
    "eval.pictures": Range(0, 1000),
    "data.threads": Range(0, MOST_THREADS),
    "data.prefetch": Range(0, 1_000_000),
    "optimizer.learning_rate": Range(0.0, 1000.0),
    "optimizer.decay_factor": Range(0.0, 1.0, without="low"),
    "optimizer.decay_epochs": Range(1, MOST),
    "optimizer.warmup_steps": Range(0, MOST),
    "optimizer.final_fraction": Range(0.0, 1.0),
    "optimizer.beta1": Range(0.0, 1.0, without="high"),
    "optimizer.beta2": Range(0.0, 1.0, without="high"),
    "optimizer.epsilon": Range(0.0, 1.0, without="low"),
    "optimizer.weight_decay": Range(0.0, 1000.0),
    "optimizer.clip_norm": Range(0.0, 1e9),
    "optimizer.accumulate_steps": Range(1, 1_000_000),
}


def check(fields: Mapping[str, Any], prefix: str = "") -> None:
    """Raises UserError naming the first of `fields` that is out of its range.

    Args:
      fields: name in `RANGES` -> value; other names are passed over.
      prefix: put before the name in the message.
    """
    for name, value in fields.items():
        if name in RANGES and (wrong := RANGES[name].refusal(value)):
            raise UserError(f"{prefix}{name} = {value} {wrong}")
