"""The JAX contenders: the Deblurrer's compiled program, and the training loop's compiled step."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from dmphn_jax.benchmarking import counts
from dmphn_jax.benchmarking.contender import Contender
from dmphn_jax.benchmarking.timing import Case
from dmphn_jax.data.base import Pair
from dmphn_jax.data.resident_feed import ResidentFeed
from dmphn_jax.inference.deblurrer import Deblurrer
from dmphn_jax.models import ModelConfig, build, convolutions_for
from dmphn_jax.runtime import data_mesh
from dmphn_jax.training.optimizer import make_optimizer
from dmphn_jax.training.state import init_state
from dmphn_jax.training.step import StepOptions, make_train_step


def inference(
    config: ModelConfig,
    params: dict[str, Any],
    images: np.ndarray,
    *,
    stages: int | None,
    precision: str,
    device: jax.Device,
    layout: str = "auto",
) -> Contender:
    """Returns inference as `Deblurrer` does it, from uint8 to uint8, both on the device.

    Args:
      config, params: the model.
      images: uint8 (B, H, W, 3), of a size the patch grid divides.
      stages: run the first so many stages only; None: all.
      precision: one of `models.PRECISIONS`.
      device: that computes.
      layout: of the convolutions, as `Deblurrer` takes it.
    """
    deblurrer = Deblurrer(
        params=params,
        config=config,
        stages=stages,
        precision=precision,
        devices=[device],
        layout=layout,
    )
    arguments = deblurrer.place(images)
    program = _Program(deblurrer.programs.quantised, *arguments)
    memory = _Memory(device, program.compiled)
    start = memory.watching(lambda: program.compiled(*arguments))

    def check() -> dict[str, np.ndarray]:
        start()  # before the other program below, which takes more memory
        # A program of its own: the timed one ends in whole grey levels.
        return {"image": np.asarray(deblurrer.programs.raw(*arguments).image)}

    return _contender(precision, program, start, check, memory)


def training(
    config: ModelConfig,
    params: dict[str, Any],
    blurry: np.ndarray,
    sharp: np.ndarray,
    *,
    precision: str,
    device: jax.Device,
    layout: str = "auto",
    seed: int = 0,
) -> Contender:
    """Returns one step of training as `train` does it: the paper's recipe, the resident feed.

    Beside the forward pass, the backward pass and Adam's update it cuts the crops from uint8
    frames (here as large as a crop, so that every step sees the same batch), and computes the
    training metrics.

    Args:
      config, params: the model and its weights before the first step.
      blurry, sharp: uint8 (B, crop, crop, 3).
      precision: of the computation; parameters stay float32.
      device: that computes.
      layout: of the convolutions, as `Deblurrer` takes it.
      seed: of the feed.
    """
    mesh = data_mesh([device])
    feed = ResidentFeed(
        _Pairs(blurry, sharp),
        mesh=mesh,
        seed=seed,
        batch_size=len(blurry),
        crop_size=blurry.shape[1],
        progress=False,
    )
    tx, schedule = make_optimizer({"schedule": "constant"}, feed.steps_per_epoch)
    module = build(config, precision, convolutions=convolutions_for(device.platform, layout))
    step = make_train_step(module, tx, schedule, feed.crops, mesh, StepOptions(seed=seed))
    state = init_state(params, tx, mesh, ema=False)
    program = _Program(step, state, feed.resident, feed.next(1))
    memory = _Memory(device, program.compiled)

    @memory.watching
    def start() -> dict[str, jax.Array]:
        nonlocal state
        state, metrics = program.compiled(state, feed.resident, feed.next(1))
        return metrics

    def check() -> dict[str, np.ndarray]:
        metrics = jax.device_get(start())
        return {"loss": metrics["loss"], "gradient norm": metrics["gradient_norm"]}

    return _contender(precision, program, start, check, memory)


class _Program:
    """A jitted function compiled for its arguments, the seconds that took, and XLA's counts."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        begun = time.perf_counter()
        traced = function.trace(*arguments)
        lowered = traced.lower()
        self.compiled = lowered.compile()
        self.seconds = time.perf_counter() - begun
        self.counts = counts.xla_counts(traced, lowered, self.compiled)


def _contender(
    precision: str,
    program: _Program,
    start: Callable[[], Any],
    check: Callable[[], dict[str, np.ndarray]],
    memory: _Memory,
) -> Contender:
    return Contender(
        library="jax",
        variant=precision,
        precision=precision,
        case=Case(f"jax {precision}", start, jax.block_until_ready),
        check=check,
        compile_s=program.seconds,
        counts=program.counts,
        memory=memory,
    )


class _Memory:
    """The peak of a program's device memory: as the device saw it, else as XLA planned it.

    A device keeps one peak for the whole process. It is this program's only if the program's
    first run has raised it; then it includes what else the process held on the device.
    """

    def __init__(self, device: jax.Device, compiled: Any) -> None:
        self._device, self._compiled = device, compiled
        self._watched, self._peak = False, None

    def watching(self, start: Callable[[], Any]) -> Callable[[], Any]:
        """Returns `start` with an eye on the device's peak at its first call."""

        def watched() -> Any:
            if self._watched:
                return start()
            self._watched = True
            before = _peak_of(self._device)
            result = jax.block_until_ready(start())
            after = _peak_of(self._device)
            if after is not None and before is not None and after > before:
                self._peak = after
            return result

        return watched

    def __call__(self) -> dict[str, Any] | None:
        planned = counts.compiled_bytes(self._compiled)
        if self._peak is not None:
            return {"bytes": self._peak, "source": "device", "planned_bytes": planned}
        if planned is None:
            return None
        return {"bytes": planned, "source": "compiled", "planned_bytes": planned}


def _peak_of(device: jax.Device) -> int | None:
    try:
        stats = device.memory_stats() or {}
    except Exception:  # some backends do not implement it and say so in their own way
        return None
    return stats.get("peak_bytes_in_use")


class _Pairs:
    """A source of the pairs of one batch."""

    def __init__(self, blurry: np.ndarray, sharp: np.ndarray) -> None:
        self._blurry, self._sharp = blurry, sharp
        self.names = [f"random/{i}" for i in range(len(blurry))]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Pair:
        return Pair(self._blurry[index], self._sharp[index], self.names[index])

    def shape(self, index: int) -> tuple[int, int]:
        return self._blurry[index].shape[:2]
