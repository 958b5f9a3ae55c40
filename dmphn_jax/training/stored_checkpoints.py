"""Checkpoints of a run in a bucket: orbax's manager writes them here, then they are sent."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dmphn_jax.errors import UserError, one_line
from dmphn_jax.models import ModelConfig
from dmphn_jax.storage.folders import DamagedFolderError, disk_errors
from dmphn_jax.storage.steps import Steps
from dmphn_jax.storage.store import StorageError
from dmphn_jax.training.checkpoints import RunCheckpoints
from dmphn_jax.training.run_record import DamagedError


class StoredCheckpoints(RunCheckpoints):
    """`<workdir>/checkpoints/<step>` in a bucket, with copies in a folder here.

    The bucket tells which steps there are. A save ends when its checkpoint is there whole; the
    newest `keep` and the best are kept in both.
    """

    def __init__(
        self,
        folder: Path,
        model: ModelConfig,
        *,
        keep: int,
        steps: Steps,
        after_send: Callable[[], object],
        warn: Callable[[str], None] = print,
    ) -> None:
        """Takes note.

        Args:
          folder: of the copies.
          model, keep, warn: as of `RunCheckpoints`.
          steps: those in the bucket.
          after_send: sends the rest of the run's files, for which a checkpoint does not wait: a
            machine that is taken away leaves half a minute.
        """
        super().__init__(folder, model, keep=keep, warn=warn)
        self._steps, self._after_send = steps, after_send

    def steps(self) -> list[int]:
        """Returns the steps in the bucket, newest first."""
        return self._steps.whole()

    def _place(self, step: int) -> Any:
        return self._steps.address / str(step)

    def _here(self, step: int) -> Path:
        path = self.folder / str(step)
        try:
            with disk_errors(self._place(step)):
                self._steps.bring(step, path)
        except DamagedFolderError as error:
            raise DamagedError(one_line(error)) from None
        return path

    def _set_aside(self, step: int, error: UserError) -> None:
        text = one_line(error).replace(str(self.folder), str(self._steps.address))
        try:
            target = self._steps.set_aside(step)
        except StorageError as failure:
            raise UserError(f"{text}; cannot be set aside: {one_line(failure)}") from None
        shutil.rmtree(self.folder / str(step), ignore_errors=True)
        self._warn(f"warning: {text}; moved to {target}")

    def _new_manager(self) -> Any:
        # A copy that the bucket has not, of a save that a kill broke off, would be in the way.
        kept = self.last_good.name if self.last_good else None
        for path in self.folder.iterdir() if self.folder.is_dir() else ():
            if path.name != kept and path.is_dir():
                shutil.rmtree(path)
        return super()._new_manager()

    def _written(self, step: int, run: dict[str, Any]) -> None:
        best = run.get("best")
        try:
            self._steps.send(step, self.folder / str(step), best["step"] if best else None)
            self._after_send()
            self._steps.prune(self._keep, best["step"] if best else None)
        except StorageError as error:
            raise UserError(
                f"{self._steps.address}: a checkpoint cannot be written: {one_line(error)}"
            ) from None
