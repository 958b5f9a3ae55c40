"""The step folders of a run in a store: `<run>/checkpoints/<step>`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dmphn_jax.storage import folders
from dmphn_jax.storage.address import Address
from dmphn_jax.storage.store import Store


class Steps:
    """Step folders as the run that owns them sees them."""

    def __init__(self, address: Address, own: Callable[[], object]) -> None:
        """Takes note.

        Args:
          address: `<run>/checkpoints`.
          own: raises unless the run still has its lease; called before anything is changed.
        """
        self.address = address
        self._own = own

    def whole(self) -> list[int]:
        """Returns the steps that are whole as far as their names tell, newest first."""
        return _listed(self.address)[0]

    def clear(self) -> None:
        """Removes what killed saves and removals have left."""
        for step in _listed(self.address)[1]:
            self._own()
            folders.remove(self.address / str(step))

    def bring(self, step: int, folder: Path) -> None:
        """Makes `folder` the checkpoint of a step.

        Raises DamagedFolderError if it is not what was sent; StorageError, OSError.
        """
        address = self.address / str(step)
        sent = folders.manifest(address)
        if sent is None:
            folders.bring_copied(address, folder)
        else:
            folders.bring_sent(address, folder, sent)

    def send(self, step: int, folder: Path, best: int | None) -> None:
        """Sends a checkpoint; it is there when this returns, and not before.

        Args:
          step: its name there.
          folder: its files.
          best: the step of the best evaluation so far, None if there was none.
        """
        self._own()
        folders.send(folder, self.address / str(step), {"best": best}, before_last=self._own)

    def prune(self, keep: int, best: int | None) -> None:
        """Removes all but the newest `keep` and the best."""
        whole = self.whole()
        for step in whole[keep:]:
            if step != best:
                self._own()
                folders.remove(self.address / str(step))

    def set_aside(self, step: int) -> Address:
        """Moves a checkpoint to `<run>/damaged/`, and returns where it is there."""
        self._own()
        number, target = 1, self.address.parent / "damaged" / str(step)
        while Store(target).holds_any():
            number += 1
            target = self.address.parent / "damaged" / f"{step}-{number}"
        folders.move(self.address / str(step), target)
        return target


def chosen(address: Address) -> Address | None:
    """Returns the best of the steps at `<run>/checkpoints`, else the newest; None if none is whole.

    Raises StorageError.
    """
    whole = _listed(address)[0]
    for step in whole:
        try:
            sent = folders.manifest(address / str(step))
        except folders.DamagedFolderError:
            continue
        best = sent.info.get("best") if sent else None
        return address / str(best if best in whole else step)
    return None


def _listed(address: Address) -> tuple[list[int], list[int]]:
    """Returns the steps that are whole as far as names tell, newest first, and those in parts."""
    found: dict[int, set[str]] = {}
    for item in Store(address).list():
        step, _, rest = item.name.partition("/")
        if step.isascii() and step.isdigit() and str(int(step)) == step and rest:
            found.setdefault(int(step), set()).add(rest)
    parts = [
        step
        for step, names in found.items()
        if folders.UNFINISHED in names and folders.MANIFEST not in names
    ]
    return sorted(found.keys() - set(parts), reverse=True), parts
