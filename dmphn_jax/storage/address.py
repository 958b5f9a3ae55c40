"""Addresses in object storage, beside paths of a file system."""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path, PurePosixPath

from dmphn_jax.errors import UserError

SCHEME = "gs://"
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")


@dataclasses.dataclass(frozen=True, order=True)
class Address:
    """A place in a bucket; parts of it are joined as those of a `Path`.

    Attributes:
      bucket: its name.
      key: of an object, or of a folder, which is what object names have in common up to a slash;
        "" for the whole bucket.
    """

    bucket: str
    key: str = ""

    def __str__(self) -> str:
        """Returns `gs://bucket/key`."""
        return f"{SCHEME}{self.bucket}" + (f"/{self.key}" if self.key else "")

    def __truediv__(self, name: str) -> Address:
        """Returns the place of that name below this one."""
        return Address(self.bucket, f"{self.key}/{name}" if self.key else name)

    @property
    def name(self) -> str:
        """The last part of the key."""
        return PurePosixPath(self.key).name

    @property
    def parent(self) -> Address:
        """The folder around it."""
        return Address(self.bucket, self.key.rpartition("/")[0])


def place(text: str | os.PathLike[str] | Address) -> Path | Address:
    """Returns what a user named: an address where it begins with `gs://`, else a path.

    Raises UserError for another scheme, or an address that is none.
    """
    if isinstance(text, Address):
        return text
    name = os.fspath(text)
    scheme, colon, rest = name.partition("://")
    if not colon or not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", scheme):
        return Path(name)
    if scheme != "gs":
        raise UserError(f"{name}: {scheme}:// is not known; a path, or {SCHEME}BUCKET/FOLDER")
    bucket, _, key = rest.partition("/")
    parts = key.strip("/").split("/") if key.strip("/") else []
    if not _BUCKET.fullmatch(bucket) or any(part in ("", ".", "..") for part in parts):
        raise UserError(f"{name}: not an address; {SCHEME}BUCKET/FOLDER is one")
    return Address(bucket, "/".join(parts))


def local_only(what: str, text: str | os.PathLike[str]) -> Path:
    """Returns a path; raises UserError, naming the flag or field `what`, for an address."""
    found = place(text)
    if isinstance(found, Address):
        raise UserError(f"{what} {found}: a folder of this machine is needed here")
    return found
