"""Where this machine keeps its copies of what lies in object storage."""

from __future__ import annotations

import hashlib
import os
import urllib.parse
from pathlib import Path

from dmphn_jax.errors import UserError
from dmphn_jax.runtime import cache_folder
from dmphn_jax.storage.address import Address

VARIABLE = "DMPHN_STAGING"


def scratch(kind: str, address: Address) -> Path:
    """Returns the folder of an address's copy; its parents are made.

    Below the folder that the environment variable DMPHN_STAGING names, else in the user's cache.

    Args:
      kind: what it is for: "runs", "data", "checkpoints" or "results", which do not share copies.
      address: of what is copied.

    Raises UserError if there is no such place.
    """
    base = os.environ.get(VARIABLE)
    try:
        own = Path(base).expanduser().absolute() if base else None
    except RuntimeError:  # of ~name
        raise UserError(f"{VARIABLE}={base}: no such home directory") from None
    root = own / kind if own else cache_folder(f"storage/{kind}")
    if root is None:
        raise UserError(f"{address}: no place for a copy here: {VARIABLE}=FOLDER names one")
    # One name, not the key's folders: what is cleared for a place is not to hold another's.
    name = urllib.parse.quote(address.key, safe="") or "all"
    if len(name) > 200:
        name = hashlib.sha256(name.encode()).hexdigest()
    folder = root / address.bucket / name
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(
            f"{address}: no place for a copy here: {folder.parent}: {reason}; "
            f"{VARIABLE}=FOLDER names another"
        ) from None
    return folder
