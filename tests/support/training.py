"""A small run for the training tests: a feed without files, a config, a source of test pairs."""

from __future__ import annotations

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from dmphn_jax.data.base import Feed, Pair
from dmphn_jax.training.experiments import start_from

# The smallest run of the command: synthetic scenes, one level of width 2, crops of 16.
TINY_FLAGS = [
    "--config=configs/dmphn.py:1",
    "--config.model.width=2",
    "--config.data.source=synthetic",
    "--config.data.size=32,40",
    "--config.data.count=6",
    "--config.crop_size=16",
    "--config.batch_size=4",
    "--config.num_steps=12",
    "--config.steps_per_dispatch=2",
    "--config.checkpoint_every=4",
    "--config.log_every=2",
    "--config.eval.every=0",
]


def tiny_config(**fields):
    """The shared config, shrunk: one level of width 2, crops of 8, batches of 4.

    `optimizer__name="adamw"` sets a field of a section.
    """
    config = start_from("configs/base.py:dmphn_1")
    config.model.width = 2
    config.crop_size = 8
    config.batch_size = 4
    config.num_steps = 8
    config.steps_per_dispatch = 2
    config.checkpoint_every = 4
    config.log_every = 2
    config.eval.every = 0
    config.optimizer.learning_rate = 3e-3
    config.ema_decay = 0.9
    for name, value in fields.items():
        config.update_from_flattened_dict({name.replace("__", "."): value})
    return config


def batch_of(step: int, config) -> np.ndarray:
    """Blurry and sharp crops of a step, uint8 (2, B, crop, crop, 3)."""
    size = (config.batch_size, config.crop_size, config.crop_size, 3)
    sharp = np.random.default_rng(step).integers(0, 256, size, np.uint8)
    return np.stack([sharp // 2 + 64, sharp])


class ArrayFeed(Feed):
    """Noise and its low-contrast copy, different at every step; NaN at step `poison`.

    Crops are float32 on 0..255.
    """

    steps_per_epoch = 5

    def __init__(self, config, mesh, *, poison: int | None = None, on_step=lambda step: None):
        self.batch_size, self.crop_size = config.batch_size, config.crop_size
        self._config, self._mesh = config, mesh
        self._poison, self._on_step, self._step = poison, on_step, 0

    def next(self, n: int = 1):
        pairs = []
        for step in range(self._step, self._step + n):
            self._on_step(step)
            pair = batch_of(step, self._config).astype(np.float32)  # uint8 knows no NaN
            pairs.append(pair * np.nan if step == self._poison else pair)
        self._step += n
        sharding = NamedSharding(self._mesh, PartitionSpec(None, "data"))
        whole = np.stack(pairs)
        return [
            jax.make_array_from_callback(a.shape, sharding, lambda i, a=a: a[i])
            for a in (whole[:, 0], whole[:, 1])
        ]

    def crops(self, resident, batch):
        return tuple(batch)

    def state(self):
        return {"step": self._step}

    def restore(self, state):
        self._step = state["step"]


class Pairs:
    """Test pairs in memory."""

    def __init__(self, count: int = 3, size: tuple[int, int] = (16, 20)):
        rng = np.random.default_rng(7)
        self._sharp = rng.integers(0, 256, (count, *size, 3), np.uint8)
        self.names = [f"scene/{i:03d}" for i in range(count)]

    def __len__(self):
        return len(self.names)

    def __getitem__(self, index):
        sharp = self._sharp[index]
        return Pair(sharp // 2 + 64, sharp, self.names[index])


def differing(a, b) -> list[str]:
    """Paths of the leaves of two trees that are not equal to the bit."""
    a, b = (dict(jax.tree_util.tree_flatten_with_path(jax.device_get(t))[0]) for t in (a, b))
    assert a.keys() == b.keys()
    return [jax.tree_util.keystr(path) for path in a if not np.array_equal(a[path], b[path])]
