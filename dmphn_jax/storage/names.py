"""What the parts of a run's folder and of a checkpoint are called, on a disk and in a bucket."""

from __future__ import annotations

CHECKPOINTS = "checkpoints"  # of a run: a folder for each step
PARAMS, MODEL = "params", "model"  # items of every checkpoint
STATE, RUN = "state", "run"  # items of a run's besides
