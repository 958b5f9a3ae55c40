"""Writing files whole, and showing their names."""

from __future__ import annotations

import contextlib
import os
import secrets

from dmphn_jax.errors import UserError, one_line


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Writes `data` to `path` under a temporary name beside it, then renames.

    A reader sees the old file or the new one, never a part. Missing folders are made. Whatever
    stops the writing removes the temporary file; raises OSError as the system does.

    A device or a pipe (`/dev/stdout`) is written to as it stands: a rename would take its place.
    """
    if _is_device(path):
        with open(path, "ab") as file:
            file.write(data)
        return
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


def write_file(path: str | os.PathLike[str], content: str | bytes) -> None:
    """`write_atomically` for a file a user asked for: raises UserError where it cannot be written.

    Text is written as UTF-8.
    """
    try:
        write_atomically(path, content.encode() if isinstance(content, str) else content)
    except OSError as error:
        reason = error.strerror or one_line(error)
        raise UserError(f"{shown(path)}: cannot be written: {reason}") from None


def _is_device(path: str | os.PathLike[str]) -> bool:
    """Tells whether `path` names a device, a pipe or a socket, or stands among the devices."""
    # Also by its folder: /dev/stdout is a link to a plain file where output is redirected to one.
    folder = os.path.realpath(os.path.dirname(os.path.abspath(path)))
    if any(os.path.commonpath([folder, root]) == root for root in ("/dev", "/proc")):
        return not folder.startswith("/dev/shm")
    return os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)


def shown(path: str | os.PathLike[str]) -> str:
    """Returns a path as one printable line, whatever bytes its name holds."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
