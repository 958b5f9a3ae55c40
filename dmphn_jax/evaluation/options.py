"""What an evaluation scores, on which pairs, how, and what is kept of it."""

from __future__ import annotations

import dataclasses
import os
from typing import Literal

from dmphn_jax.evaluation.selection import PairSelection


@dataclasses.dataclass(frozen=True)
class EvaluationOptions:
    """What is scored on which pairs, how, and what is kept of it.

    Attributes:
      pairs: those to score.
      checkpoints: checkpoint folders or released names; the blurry input is always scored.
      stages: run the first so many stages of a stack only; None for all, "all" for each number
        of them in turn.
      ensemble: x8 self-ensemble.
      precision: of the networks, one of `models.PRECISIONS`.
      devices: number of local devices that share a batch; None for all.
      batch_size: images per batch; None for one per device.
      timing: measure the time of one image.
      folder: of `results.jsonl`, `report.md` and `report.json`; None keeps nothing.
      save_images: folder of the outputs; None does not save them.
      per_image: CSV file of every image's scores; None writes none.
      command: for the report.
    """

    pairs: PairSelection
    checkpoints: tuple[str, ...] = ()
    stages: int | Literal["all"] | None = None
    ensemble: bool = False
    precision: str = "float32"
    devices: int | None = None
    batch_size: int | None = None
    timing: bool = True
    folder: str | os.PathLike[str] | None = None
    save_images: str | os.PathLike[str] | None = None
    per_image: str | os.PathLike[str] | None = None
    command: str = ""
