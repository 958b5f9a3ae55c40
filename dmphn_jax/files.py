"""Writing files whole, and showing their names."""

from __future__ import annotations

import contextlib
import os
import secrets


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Writes `data` to `path` under a temporary name beside it, then renames.

    A reader sees the old file or the new one, never a part. Missing folders are made. Whatever
    stops the writing removes the temporary file; raises OSError as the system does.
    """
    folder = os.path.dirname(os.path.abspath(path))
    os.makedirs(folder, exist_ok=True)
    # Not tempfile: its files are private to the user, these get the permissions of any new file.
    # The name is short and hidden: long names still fit, and a folder's walk passes it over.
    temporary = os.path.join(folder, f".dmphn-{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def shown(path: str | os.PathLike[str]) -> str:
    """Returns a path as one printable line, whatever bytes its name holds."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
