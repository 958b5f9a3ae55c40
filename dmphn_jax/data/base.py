"""The two interfaces of the data room: a source of pairs, and a feed of batches."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np


class Pair(NamedTuple):
    """One blurry image and its sharp one, uint8 (H, W, 3) RGB, and the name `sequence/frame`."""

    blurry: np.ndarray
    sharp: np.ndarray
    name: str


@runtime_checkable
class PairSource(Protocol):
    """Random access to pairs; cheap to build, safe to read from several threads."""

    names: Sequence[str]

    def __len__(self) -> int:
        """Returns the number of pairs."""

    def __getitem__(self, index: int) -> Pair:
        """Returns pair `index`, whole; raises UserError naming the file if it cannot be read."""


class Feed(abc.ABC):
    """Batches for the training step: the part on the host, and the part inside the step.

    `next(n)` returns `n` consecutive batches, every leaf with a leading axis of `n`: the step
    scans over it. Inside the compiled step `crops(resident, batch)` turns one of them into
    uint8 crops. What a batch holds depends on (seed, step) only: neither on threads nor on how
    often the feed was restored.
    """

    batch_size: int  # pairs per batch over all processes
    crop_size: int
    steps_per_epoch: int
    resident: Any = None  # pytree of device arrays the step takes beside the batch; None if none

    @abc.abstractmethod
    def next(self, n: int = 1) -> Any:
        """Returns `n` batches as a pytree of global arrays (n, B, ...), B over the `data` axis."""

    @abc.abstractmethod
    def crops(self, resident: Any, batch: Any) -> tuple[Any, Any]:
        """Returns (blurry, sharp), uint8 (B, crop, crop, 3); pure, traced inside the step."""

    @abc.abstractmethod
    def state(self) -> dict[str, Any]:
        """Returns the position after the last batch handed out, as plain JSON values."""

    @abc.abstractmethod
    def restore(self, state: dict[str, Any]) -> None:
        """Goes to a position that `state` returned; the next batch is the one that followed it."""

    def close(self) -> None:  # noqa: B027 (most feeds hold nothing)
        """Frees threads and files."""
