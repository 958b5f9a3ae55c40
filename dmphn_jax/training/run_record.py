"""The item `run` of a step folder: where a run stood when it saved."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

from dmphn_jax.checkpoints import items
from dmphn_jax.errors import UserError
from dmphn_jax.files import why
from dmphn_jax.storage.names import RUN

FORMAT = 1


class DamagedError(UserError):
    """A checkpoint that cannot be used and is set aside."""


def sealed(run: dict[str, Any], digest: str) -> dict[str, Any]:
    """Returns the record of `run`, plain JSON values, with the training state's digest."""
    run = {**run, "format": FORMAT, "digest": digest}
    return run | {"record_digest": _digest(run)}


def read(path: Path) -> dict[str, Any]:
    """Returns the checked record of a step folder; raises DamagedError in one line.

    Older runs took an evaluation without a score for their best: that is none.
    """
    file = items.record_file(path, RUN)
    try:
        run = items.read_record(path, RUN)
        if not isinstance(run, dict) or run["step"] != int(path.name):
            raise ValueError("another step's")
        if run["format"] > FORMAT:
            raise UserError(f"{path}: a newer version wrote it; upgrade dmphn_jax")
        # The first runs have no digest of the record.
        if "record_digest" in run and run["record_digest"] != _digest(run):
            raise ValueError("does not match its own digest")
        best = run["best"]
        if best is not None and math.isnan(best["score"]):
            run["best"] = None
        if not (isinstance(run["config"], dict) and isinstance(run["feed"], dict)):
            raise ValueError("is not whole")
    except PermissionError as error:
        raise UserError(f"{file}: {error.strerror}") from None
    except (OSError, ValueError) as error:
        raise DamagedError(f"{path}: damaged: {file.relative_to(path)}: {why(error)}") from None
    except (KeyError, TypeError):
        raise DamagedError(f"{path}: damaged: {file.relative_to(path)} is not whole") from None
    return run


def _digest(run: dict[str, Any]) -> str:
    """Returns the SHA-256 of a record without its own digest, as JSON reads it back."""
    rest = {name: value for name, value in run.items() if name != "record_digest"}
    text = json.dumps(json.loads(json.dumps(rest)), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
