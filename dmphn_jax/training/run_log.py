"""What a person sees of a run: lines on the terminal, `metrics.csv`, TensorBoard files.

clu has both, as `metric_writers` and `periodic_actions`; their modules import TensorFlow, which
this project does without (1.3 GB, 10 s at every start). tensorboardX writes the same event files.
"""

from __future__ import annotations

import contextlib
import csv
import io
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dmphn_jax.errors import UserError, one_line
from dmphn_jax.files import write_atomically
from dmphn_jax.training.speed import PER_CHIP, SHARE

# Columns of metrics.csv after `step`; each stage's PSNR follows for a stack.
COLUMNS = (
    "epoch",
    "loss",
    "psnr",
    "psnr_blurry",
    "learning_rate",
    "gradient_norm",
    "images_per_second",
    PER_CHIP,
    SHARE,
    "eval_psnr",
    "eval_psnr_blurry",
    "eval_ssim_matlab",
    "eval_ssim_skimage",
)
_GROUPS = {
    "learning_rate": "optimizer/learning_rate",
    "gradient_norm": "optimizer/gradient_norm",
    "images_per_second": "speed/images_per_second",
    PER_CHIP: f"speed/{PER_CHIP}",
    SHARE: f"speed/{SHARE}",
    "epoch": "train/epoch",
}


class RunLog:
    """Writes scalars and pictures of a run; of process 0 only, silent in the others.

    After a resume at step s nothing stands twice: rows and events after s are dropped.
    """

    def __init__(self, workdir: str | Path, *, resumed: int = 0, stages: int = 1, on: bool = True):
        """Opens the files; raises UserError if the folder cannot be written.

        Args:
          workdir: of the run.
          resumed: steps already taken.
          stages: of the model; a stack has a column for each.
          on: False in processes other than the first.
        """
        self.on = on
        self._live = on and sys.stderr.isatty()
        self._shown = 0
        if not on:
            return
        from dmphn_jax.training.events import EventFiles

        self._folder = folder = Path(workdir)
        per_stage = [f"psnr_stage_{s}" for s in range(1, stages + 1)] if stages > 1 else []
        self._columns = ["step", *COLUMNS, *per_stage]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._csv = _reopen_csv(folder / "metrics.csv", self._columns, resumed)
            self._events = EventFiles(folder / "tensorboard", resumed=resumed)
        except OSError as error:
            raise _unwritable(folder, error) from None

    def say(self, text: str) -> None:
        """Prints a line (several for several) to stdout, above the progress line."""
        if self.on:
            self._clear()
            print(text, flush=True)

    def progress(self, text: str, *, final: bool = False) -> None:
        """Shows the progress line: in place on a terminal, else as a line of its own."""
        if not self.on:
            return
        if self._live and not final:
            width = shutil.get_terminal_size().columns - 1
            text = text[:width]
            print("\r" + text.ljust(self._shown), end="", file=sys.stderr, flush=True)
            self._shown = len(text)
        else:
            self.say(text)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Writes the scalars of a step: a row of metrics.csv and TensorBoard events."""
        if not self.on:
            return
        row = {"step": step, **{name: f"{value:.8g}" for name, value in values.items()}}
        text = io.StringIO()
        csv.DictWriter(text, self._columns, lineterminator="\n").writerow(row)
        try:
            self._csv.write(text.getvalue())
            self._csv.flush()
            for name, value in values.items():
                group = "eval/" + name[5:] if name.startswith("eval_") else f"train/{name}"
                self._events.scalar(_GROUPS.get(name, group), value, step)
            self._events.flush()
        except OSError as error:
            raise _unwritable(self._folder, error) from None

    def triptych(self, step: int, name: str, images: Sequence[np.ndarray]) -> None:
        """Writes blurry, output and sharp, uint8 (H, W, 3) each, side by side to TensorBoard."""
        if self.on:
            gap = np.full((images[0].shape[0], 4, 3), 255, np.uint8)
            strip = [part for image in images for part in (image, gap)][:-1]
            try:
                self._events.image(f"blurry_output_sharp/{name}", np.concatenate(strip, 1), step)
            except OSError as error:
                raise _unwritable(self._folder, error) from None

    def file(self, name: str, text: str) -> None:
        """Writes a text file of the work folder."""
        if self.on:
            try:
                write_atomically(self._folder / name, text.encode())
            except OSError as error:
                raise _unwritable(self._folder / name, error) from None

    def close(self) -> None:
        """Ends the progress line and closes the files."""
        if self.on:
            self._clear()
            # What cannot be written any more has been said by the write before.
            with contextlib.suppress(OSError):
                self._csv.close()
            with contextlib.suppress(OSError):
                self._events.close()

    def _clear(self) -> None:
        if self._shown:
            print("\r" + " " * self._shown + "\r", end="", file=sys.stderr, flush=True)
            self._shown = 0


class Meter:
    """Means of a run's metrics since the last reading, and how fast images go by."""

    def __init__(self, batch_size: int):
        """Starts empty; `batch_size` is the images of a step."""
        self._batch_size = batch_size
        self._values: dict[str, list[np.ndarray]] = {}
        self._steps = 0
        self._since: float | None = None
        self.images_per_second = float("nan")

    def tick(self, steps: int) -> None:
        """Counts the steps of a dispatch at the moment its metrics arrive.

        The first dispatch compiles and is not timed.
        """
        now = time.perf_counter()
        if self._since is None:
            self._since = now
            return
        self._steps += steps
        if now > self._since:
            self.images_per_second = self._steps * self._batch_size / (now - self._since)

    def add(self, metrics: Mapping[str, np.ndarray]) -> None:
        """Adds metrics of consecutive steps, (n,) each."""
        for name, values in metrics.items():
            self._values.setdefault(name, []).append(values)

    def pause(self) -> None:
        """Leaves the time until the next `tick` out (an evaluation, say)."""
        self._since, self._steps = None, 0

    def read(self) -> dict[str, float]:
        """Returns the means and `images_per_second` where it is known, and begins anew."""
        result = {name: float(np.concatenate(v).mean()) for name, v in self._values.items()}
        if "learning_rate" in self._values:
            result["learning_rate"] = float(self._values["learning_rate"][-1][-1])
        if np.isfinite(self.images_per_second):
            result["images_per_second"] = self.images_per_second
        self._values.clear()
        self._steps = 0
        if self._since is not None:
            self._since = time.perf_counter()
        return result


def duration(seconds: float) -> str:
    """Returns a length of time as people say it: `3 d 4 h`, `2 h 05 min`, `12 min`, `40 s`."""
    if not np.isfinite(seconds):
        return "unknown"
    seconds = int(max(0, seconds))
    minutes, hours = seconds // 60, seconds // 3600
    if hours >= 48:
        return f"{hours // 24} d {hours % 24} h"
    if hours:
        return f"{hours} h {minutes % 60:02d} min"
    return f"{minutes} min" if minutes >= 5 else f"{seconds} s"


def _unwritable(path: Path, error: OSError) -> UserError:
    return UserError(f"{path}: cannot be written: {error.strerror or one_line(error)}")


def _reopen_csv(path: Path, columns: Sequence[str], resumed: int) -> Any:
    """Returns metrics.csv open for appending, without what stands in it after step `resumed`."""
    rows: list[dict[str, str]] = []
    if resumed and path.is_file():
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                # A kill may have left half a row.
                whole = (row.get("step") or "").isdigit() and None not in row.values()
                if whole and int(row["step"]) <= resumed:
                    rows.append({name: row.get(name, "") for name in columns})
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue().encode())
    return path.open("a", newline="")
