"""Object storage, `gs://bucket/...`: addresses, and what is kept at them as whole as on a disk.

A store has objects, not files: they appear whole, are replaced whole, and can be written on the
condition that nobody did before (a generation). There is no rename, no append and no lock. Hence:

- What is read or written is a folder of this machine (`scratch`), the store holds a copy.
- A folder is sent object by object, and is whole when its manifest, written last, is there with
  the size and SHA-256 of each (`folders`).
- A run owns its work folder by a lease, an object that it renews (`lease`).

Why not orbax on `gs://`: tried with 0.12.8 against an emulator, it saves and restores, through two
clients side by side (gcsfs for names, tensorstore for arrays), each with endpoint, credentials and
patience of its own. Its mark of success says that a save ended, not that every object is still
there and unchanged; neither client is asked for a write on condition, which the lease needs; and
logs and data need a local folder all the same. Written here first, a save is what it is on a disk.

`address` and `scratch` import nothing; Google's client is loaded at the first request.
"""

from __future__ import annotations

import importlib
from typing import Any

from dmphn_jax.storage.address import Address as Address
from dmphn_jax.storage.address import local_only as local_only
from dmphn_jax.storage.address import place as place

_HOMES = {
    "StorageError": "store",
    "Store": "store",
    "exists": "looking",
    "glob": "looking",
    "is_file": "looking",
    "local_checkpoint": "local",
    "outgoing": "local",
    "read_text": "looking",
    "staged": "local",
    "synced": "local",
}
__all__ = sorted([*_HOMES, "Address", "local_only", "place"])


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'dmphn_jax.storage' has no attribute {name!r}")
