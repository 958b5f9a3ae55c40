"""Metrics on their way from the device to a person, one dispatch behind the loop."""

from __future__ import annotations

import collections
from typing import Any

import jax
import numpy as np

from dmphn_jax.errors import UserError
from dmphn_jax.training import speed
from dmphn_jax.training.checkpoints import RunCheckpoints
from dmphn_jax.training.run_log import Meter, RunLog, duration
from dmphn_jax.training.status import RunStatus


class DivergedError(UserError):
    """The loss or the gradient is no longer a number."""


class MetricsReader:
    """Reads the metrics of a dispatch once the next one is under way, and reports them."""

    def __init__(
        self,
        config: Any,
        log: RunLog,
        store: RunCheckpoints | None,
        num_steps: int,
        steps_per_epoch: int,
        status: RunStatus,
        yardstick: speed.Yardstick | None = None,
    ) -> None:
        """Starts with nothing to read; `store` is asked for the last good checkpoint."""
        self._config = config
        self._log = log
        self._meter = Meter(config.batch_size)
        self._num_steps = num_steps
        self._steps_per_epoch = steps_per_epoch
        self._store = store
        self._queue: collections.deque[tuple[int, Any]] = collections.deque()
        self._status = status
        self._yardstick = yardstick
        self._estimated = False

    def push(self, step: int, metrics: Any) -> None:
        """Takes the metrics of a dispatch that ended at `step`; reads those of the one before."""
        self._queue.append((step, metrics))
        while len(self._queue) > 1:
            self._read()

    def drain(self) -> None:
        """Reads everything; waits for the device."""
        while self._queue:
            self._read()

    def pause(self) -> None:
        """Leaves the time until the next dispatch out of the speed."""
        self._meter.pause()

    def _read(self) -> None:
        end, metrics = self._queue.popleft()
        metrics = jax.device_get(metrics)
        first = end - len(metrics["loss"]) + 1
        self._meter.tick(len(metrics["loss"]))
        self._check(first, metrics)
        every = self._config.log_every
        # A dispatch may span several rows of the log, a row several dispatches.
        cuts = [s for s in range(first, end + 1) if s % every == 0 or s == self._num_steps]
        start = first
        for cut in cuts:
            self._meter.add({k: v[start - first : cut - first + 1] for k, v in metrics.items()})
            self._report(cut)
            start = cut + 1
        if start <= end:
            self._meter.add({k: v[start - first :] for k, v in metrics.items()})

    def _check(self, first: int, metrics: dict[str, np.ndarray]) -> None:
        good = np.isfinite(metrics["loss"]) & np.isfinite(metrics["gradient_norm"])
        if good.all():
            return
        step = first + int(np.argmin(good))
        text = f"the loss or its gradient is NaN or infinite at step {step:,}"
        if self._store:
            self._store.wait()
            kept = self._store.last_good
            text += f"; the last good checkpoint is {kept}" if kept else "; no checkpoint yet"
        raise DivergedError(
            text + "; lower config.optimizer.learning_rate or set config.optimizer.clip_norm"
        )

    def _report(self, step: int) -> None:
        values = self._meter.read()
        values["epoch"] = step / self._steps_per_epoch
        rate = values.get("images_per_second")
        by_chip = self._yardstick.measured(rate) if self._yardstick else {}
        self._log.scalars(step, values | by_chip)
        left = None
        text = f"step {step:,}/{self._num_steps:,}  loss {values['loss']:.5f}"
        text += f"  PSNR {values['psnr']:.2f} dB (blurry {values['psnr_blurry']:.2f})"
        if rate:
            left = (self._num_steps - step) * self._config.batch_size / rate
            if not self._estimated:
                self._estimated = True
                self._log.say(f"{rate:.1f} images/s: about {duration(left)} to the end")
            text += f"  {rate:.1f} images/s{speed.told(by_chip)}  {duration(left)} left"
        self._log.progress(text, final=step == self._num_steps)
        self._status.report(
            step=step,
            loss=values["loss"],
            psnr=values["psnr"],
            images_per_second=rate,
            **by_chip,
            seconds_left=left,
            checkpoint=self._store.last_good if self._store else None,
        )
