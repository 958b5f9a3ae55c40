"""Checkpoints of a training run: the steps that orbax's manager keeps.

A step folder holds the items `params/` and `model/` of any checkpoint, so it loads as a model:
the moving average where the run keeps one, else the parameters. Beside them stand `state/`, the
rest of the training state, and `run/`, a JSON record with the step, the feed's position, the
configuration, the best score, a digest of `state/` and one of itself.

Only process 0 reads and writes; the others need not see the folder.
"""

from __future__ import annotations

import concurrent.futures
import functools
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from dmphn_jax import checkpoints
from dmphn_jax.checkpoints import items
from dmphn_jax.errors import UserError, one_line
from dmphn_jax.files import why
from dmphn_jax.models import ModelConfig, parameter_name
from dmphn_jax.storage import Address
from dmphn_jax.storage.names import MODEL, PARAMS, RUN, STATE
from dmphn_jax.training import run_record
from dmphn_jax.training.run_record import DamagedError
from dmphn_jax.training.state import TrainState, local_copy

_DELETED = ".deleted"


class Resumed(NamedTuple):
    """A training state read back: NumPy arrays, and what `save` was given with them."""

    state: TrainState
    run: dict[str, Any]


class RunCheckpoints:
    """The folder `<workdir>/checkpoints/<step>` of a run.

    Keeps the newest `keep` checkpoints and the one with the best score. A save is a device copy;
    fetching, hashing and writing happen in a thread while training goes on. A checkpoint appears
    whole or not at all, whenever the process dies.

    Why a thread, and not orbax's asynchronous saving (which, tried with 0.12.8, no longer waits
    for the other processes): the digests, and the check that the weights are finite, need the
    whole state on the host before orbax is called. Only the writing would go on beside the loop,
    which would wait for the device, the copy to the host and the hashing at every save.
    """

    def __init__(
        self,
        folder: str | Path,
        model: ModelConfig,
        *,
        keep: int = 3,
        warn: Callable[[str], None] = print,
    ) -> None:
        """Takes note of the folder; the first save makes it."""
        self.folder = Path(folder).absolute()
        self.model = model
        self.last_good: Path | Address | None = None
        self._keep = keep
        self._warn = warn
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "checkpoint")
        self._pending: concurrent.futures.Future[None] | None = None

    def run_of_latest(self) -> dict[str, Any] | None:
        """Returns the item `run` of the newest checkpoint whose description reads, else None."""
        for step in self.steps():
            try:
                return run_record.read(self._here(step))
            except DamagedError as error:
                self._set_aside(step, error)
        return None

    def latest(self, template: TrainState) -> Resumed | None:
        """Returns the newest undamaged state, None if there is none.

        Damaged checkpoints on the way to it are moved to `<workdir>/damaged/` with a warning.

        Args:
          template: a state of the run's structure; arrays or shapes.
        """
        for step in self.steps():
            try:
                resumed = self._read(self._here(step), template)
            except DamagedError as error:
                self._set_aside(step, error)
            else:
                self.last_good = self._place(step)
                return resumed
        return None

    def steps(self) -> list[int]:
        """Returns the steps that have a folder, newest first."""
        entries = self.folder.iterdir() if self.folder.is_dir() else ()
        return sorted((int(p.name) for p in entries if _is_step(p) and p.is_dir()), reverse=True)

    def save(self, state: TrainState, run: dict[str, Any], score: float | None = None) -> None:
        """Saves asynchronously; waits only for the save before it.

        Args:
          state: device arrays, copied at once: the caller may donate them to the next step.
          run: plain JSON values; `step` is the folder's name.
          score: what "best" goes by, higher is better; None: this one is not judged.

        Raises UserError if the save before this one failed.
        """
        self.wait()
        self._pending = self._thread.submit(self._write, local_copy(state), dict(run), score)

    def wait(self) -> None:
        """Waits for the save under way; raises UserError if it failed."""
        pending, self._pending = self._pending, None
        if pending is None:
            return
        try:
            pending.result()
        except (OSError, ValueError) as error:  # tensorstore reports a full disk as the latter
            raise UserError(
                f"{self.folder}: a checkpoint cannot be written: {why(error)}"
            ) from None

    def close(self) -> None:
        """Waits, then frees the thread."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()
            if "_manager" in self.__dict__:
                self._manager.close()

    def _place(self, step: int) -> Path | Address:
        """Returns where a checkpoint is, as a user calls it."""
        return self.folder / str(step)

    def _here(self, step: int) -> Path:
        """Returns a folder with the checkpoint of a step; raises DamagedError if it is damaged."""
        return self.folder / str(step)

    def _written(self, step: int, run: dict[str, Any]) -> None:
        """Is called when a checkpoint stands in its folder."""

    @functools.cached_property
    def _manager(self) -> ocp.CheckpointManager:
        return self._new_manager()

    def _new_manager(self) -> ocp.CheckpointManager:
        policies = checkpoint_managers.preservation_policy
        best = policies.BestN(
            get_metric_fn=_rank,
            n=1,
            keep_checkpoints_without_metrics=False,
        )
        self.folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(self.folder / _DELETED, ignore_errors=True)
        return ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                create=False,
                cleanup_tmp_directories=True,
                # Renamed first, removed after: a kill leaves no half-removed step.
                todelete_subdir=_DELETED,
                preservation_policy=policies.AnyPreservationPolicy(
                    [policies.LatestN(self._keep), best]
                ),
                enable_async_checkpointing=False,  # in this class's own thread
                **items.alone(),
            ),
        )

    def _write(self, state: TrainState, run: dict[str, Any], score: float | None) -> None:
        state = jax.device_get(state)
        if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params)):
            return  # the loop is about to stop at the step that did this
        step = int(run["step"])
        params, rest = state.deployed, _rest(state)
        info = {"step": step, "ema": state.ema is not None, "config": run.get("config")}
        if score is not None:
            info["score"] = score
        records = {
            MODEL: checkpoints.model_item(params, self.model, info),
            RUN: run_record.sealed(run, checkpoints.digest(rest)),
        }
        with items.quiet():
            saved = self._manager.save(
                step,
                args=items.composite({PARAMS: params, STATE: rest}, records),
                metrics=None if score is None else {"score": float(score)},
                force=True,
            )
        if not saved:
            raise OSError(None, f"step {step} was not saved")
        self._written(step, run)
        self.last_good = self._place(step)
        shutil.rmtree(self.folder / _DELETED, ignore_errors=True)

    def _read(self, path: Path, template: TrainState) -> Resumed:
        run = run_record.read(path)
        try:
            params = jax.device_get(checkpoints.load(path).params)
        except UserError as error:
            raise DamagedError(one_line(error)) from None
        try:
            rest = jax.device_get(items.read_arrays(path, STATE))
        except Exception as error:  # orbax and tensorstore raise many types for damaged files
            raise DamagedError(f"{path}: damaged: state/ cannot be read: {why(error)}") from None
        if checkpoints.digest(rest) != run.get("digest"):
            raise DamagedError(f"{path}: damaged: the training state does not match its digest")
        raw = params if template.ema is None else rest.get("params")
        average = None if template.ema is None else params
        found = {parameter_name(p): leaf for p, leaf in _flatten(rest.get("opt_state", {}))}
        leaves = []
        for key, leaf in _flatten(template.opt_state):
            value = found.get(parameter_name(key))
            if raw is None or value is None or value.shape != leaf.shape:
                raise UserError(f"{path}: not a state of this run: {parameter_name(key)} differs")
            leaves.append(value)
        opt_state = jax.tree.unflatten(jax.tree.structure(template.opt_state), leaves)
        return Resumed(TrainState(np.int32(run["step"]), raw, average, opt_state), run)

    def _set_aside(self, step: int, error: UserError) -> None:
        target = self.folder.parent / "damaged" / str(step)
        number = 1
        while target.exists():
            number += 1
            target = target.with_name(f"{step}-{number}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            (self.folder / str(step)).rename(target)
        except OSError as failure:
            raise UserError(f"{one_line(error)}; cannot be set aside: {why(failure)}") from None
        self._warn(f"warning: {one_line(error)}; moved to {target}")


def chosen_checkpoint(folder: str | Path) -> Path:
    """Returns a run's best checkpoint, or its newest where none has a score.

    Args:
      folder: `<workdir>/checkpoints`.

    Raises UserError if there is none.
    """
    folder = Path(folder)
    paths = [p for p in folder.iterdir() if _is_step(p)] if folder.is_dir() else []
    for path in sorted(paths, key=lambda p: int(p.name), reverse=True):
        try:
            best = run_record.read(path).get("best")
        except DamagedError:
            continue
        kept = folder / str(best["step"]) if best else path
        return kept if kept.is_dir() else path
    raise UserError(f"{folder}: no checkpoint; train first, or name the run's --workdir")


def _rank(metrics: dict[str, float]) -> float:
    """Returns what the best goes by; NaN, which older runs kept, would leave it to chance."""
    return -math.inf if math.isnan(metrics["score"]) else metrics["score"]


def _is_step(path: Path) -> bool:
    return path.name.isascii() and path.name.isdigit()


def _rest(state: TrainState) -> dict[str, Any]:
    """Returns what `params/` does not hold, as a plain nested dict."""
    opt_state: dict[str, Any] = {}
    for path, leaf in _flatten(state.opt_state):
        *parents, name = parameter_name(path).split("/")
        node = opt_state
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = np.asarray(leaf)
    return {"opt_state": opt_state} | ({} if state.ema is None else {"params": state.params})


def _flatten(tree: Any) -> list[tuple[Any, Any]]:
    return jax.tree_util.tree_flatten_with_path(tree)[0]
