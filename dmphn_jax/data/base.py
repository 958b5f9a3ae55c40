"""The interfaces of the data room: sources of pairs, and feeds of batches."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np

from dmphn_jax.data.options import LARGEST_BATCH, steps_per_epoch
from dmphn_jax.errors import UserError

if TYPE_CHECKING:
    import jax
    from jaxtyping import Int64, UInt8


class Pair(NamedTuple):
    """One blurry image and its sharp one, RGB, and the name `sequence/frame`."""

    blurry: UInt8[np.ndarray, "H W 3"]
    sharp: UInt8[np.ndarray, "H W 3"]
    name: str


@runtime_checkable
class PairSource(Protocol):
    """Random access to pairs; cheap to build, safe to read from several threads."""

    @property
    def names(self) -> Sequence[str]:
        """What the pairs are called, `sequence/frame`; an attribute serves as well."""

    def __len__(self) -> int:
        """Returns the number of pairs."""

    def __getitem__(self, index: int) -> Pair:
        """Returns pair `index`, whole; raises UserError naming the file if it cannot be read."""


@runtime_checkable
class SizedSource(PairSource, Protocol):
    """A source that knows the size of its pairs without decoding them."""

    def shape(self, index: int) -> tuple[int, int]:
        """Returns (height, width) of pair `index` in pixels."""


@runtime_checkable
class CropSource(SizedSource, Protocol):
    """A source that reads crops without whole frames, at the positions that it can serve."""

    def positions(
        self, index: int, crop: int
    ) -> tuple[Int64[np.ndarray, " N"], Int64[np.ndarray, " N"]]:
        """Returns the (tops, lefts) that a crop of frame `index` can have.

        Raises UserError where there are none.
        """

    def crop(
        self, index: int, top: int, left: int, crop: int, out: tuple[np.ndarray, np.ndarray]
    ) -> object:
        """Copies a crop into `out`, (blurry, sharp), each uint8 (crop, crop, 3)."""


# Of the training step: what stays on the devices, and what `Feed.next` brings.
Resident: TypeAlias = "dict[str, jax.Array] | None"
Batch: TypeAlias = "jax.Array | dict[str, jax.Array]"
State: TypeAlias = dict[str, int | str]


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
    resident: Resident = None  # device arrays the step takes beside the batch; None if none

    @abc.abstractmethod
    def next(self, n: int = 1) -> Batch:
        """Returns `n` batches as a pytree of global arrays (n, B, ...), B over the `data` axis."""

    @abc.abstractmethod
    def crops(
        self, resident: Resident, batch: Batch
    ) -> tuple[UInt8[jax.Array, "B crop crop 3"], UInt8[jax.Array, "B crop crop 3"]]:
        """Returns (blurry, sharp); pure, traced inside the step."""

    @abc.abstractmethod
    def state(self) -> State:
        """Returns the position after the last batch handed out, as plain JSON values."""

    @abc.abstractmethod
    def restore(self, state: State) -> None:
        """Goes to a position that `state` returned; the next batch is the one that followed it."""

    def close(self) -> None:  # noqa: B027 (most feeds hold nothing)
        """Frees threads and files."""


class StepFeed(Feed):
    """A feed whose position is a step number: what both feeds of a config share.

    Args:
      pairs: number of pairs in the source.
      seed: any integer.
      batch_size: pairs per batch over all processes.
      crop_size: side of the square crops in pixels.

    Raises:
      UserError: no pairs, or a batch beyond all bounds.
    """

    kind: ClassVar[str]  # its name in `options.FEEDS`

    def __init__(self, pairs: int, *, seed: int, batch_size: int, crop_size: int):
        if pairs == 0:
            raise UserError("the training set holds no pairs")
        if not 1 <= batch_size <= LARGEST_BATCH:
            raise UserError(f"batch size {batch_size}: 1 to {LARGEST_BATCH:,} pairs")
        self.seed, self.batch_size, self.crop_size = int(seed), batch_size, crop_size
        self.steps_per_epoch = steps_per_epoch(pairs, batch_size)
        self._pairs, self._step = pairs, 0

    def state(self) -> State:
        """Returns the step after the last batch handed out, and what its batches depend on."""
        return {
            "feed": self.kind,
            "step": self._step,
            "seed": self.seed,
            "pairs": self._pairs,
            "batch_size": self.batch_size,
            "crop_size": self.crop_size,
        }

    def restore(self, state: State) -> None:
        """Goes to a position that `state` returned.

        Raises:
          UserError: the state is another feed's, or the set, seed, batch or crop has changed, so
            that the batches that followed it cannot be given.
        """
        if state.get("feed") != self.kind:
            raise UserError(
                f"the run was started with config.data.feed={state.get('feed')!r}, "
                f"not {self.kind!r}"
            )
        for name, now in self.state().items():
            if name != "step" and state.get(name) != now:
                raise UserError(
                    f"the run cannot go on where it was: {name} was {state.get(name)}, now {now}"
                )
        self._step = int(state["step"])


def check_divides(batch_size: int, parts: int) -> None:
    """Raises UserError unless a batch divides evenly over `parts` devices."""
    if batch_size % parts:
        raise UserError(
            f"batch size {batch_size} does not divide over {parts} devices; "
            f"use a multiple of {parts}"
        )
