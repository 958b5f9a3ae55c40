"""The objects below an address, through Google's client; each error in one line."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from dmphn_jax.errors import UserError, one_line
from dmphn_jax.storage.address import Address

VARIABLE = "DMPHN_STORAGE_SECONDS"
SECONDS = 120.0  # for which a request is tried again, unless VARIABLE says otherwise
PAUSE = 1.0  # seconds before the second try, twice as many before each further one, up to a minute
_TIMEOUT = (10.0, 60.0)  # seconds to connect, and of silence


class StorageError(UserError):
    """A store that refuses, or does not answer; one line."""


class ChangedError(StorageError):
    """A write on condition, where someone else wrote before."""


class Item(NamedTuple):
    """An object of a listing; `name` is relative to the store, `crc32c` in base 64."""

    name: str
    size: int
    crc32c: str
    generation: int


class Content(NamedTuple):
    """What an object held, and its generation, which every write changes."""

    data: bytes
    generation: int


@dataclasses.dataclass(frozen=True)
class Store:
    """The objects below an address. Names are relative to it.

    Every request is tried again for `seconds` where it may help: no connection, a cut one, 408,
    429 and 5xx. Every method raises StorageError where the store refuses or stays silent.

    Attributes:
      address: a folder, or a bucket.
      seconds: None for what the environment says, else `SECONDS`.
    """

    address: Address
    seconds: float | None = None

    def list(self, prefix: str = "") -> list[Item]:
        """Returns the objects whose names begin with `prefix`, by name.

        One request per 1000 of them. Placeholders of folders (names that end in a slash) are left
        out. Raises StorageError for names that no folder can hold.
        """
        own = f"{self.address.key}/" if self.address.key else ""
        with self._explained(prefix):
            found = [
                Item(blob.name[len(own) :], blob.size, blob.crc32c or "", int(blob.generation))
                for blob in self._client.list_blobs(
                    self.address.bucket,
                    prefix=own + prefix,
                    fields="items(name,size,crc32c,generation),nextPageToken",
                    **self._patience,
                )
                if not blob.name.endswith("/")
            ]
        for item in found:
            if any(part in ("", ".", "..") for part in item.name.split("/")) or "\0" in item.name:
                raise StorageError(f"{self.address}: an object is called {item.name!r}")
        return found

    def holds_any(self) -> bool:
        """Tells whether there is any object, a console's placeholder of a folder not counted."""
        own = f"{self.address.key}/" if self.address.key else ""
        with self._explained(""):
            blobs = self._client.list_blobs(
                self.address.bucket, prefix=own, page_size=2, **self._patience
            )
            return any(not blob.name.endswith("/") for blob in blobs)

    def has(self, name: str) -> bool:
        """Tells whether there is an object of that name."""
        with self._explained(name):
            return bool(self._blob(name).exists(**self._patience))

    def read(self, name: str) -> Content | None:
        """Returns an object's content, None if there is none."""
        with self._explained(name):
            blob = self._blob(name)
            try:
                return Content(blob.download_as_bytes(**self._patience), int(blob.generation))
            except _errors().NotFound:
                return None

    def write(self, name: str, data: bytes, *, generation: int | None = None) -> int:
        """Writes an object and returns its generation.

        Args:
          name: of the object.
          data: its content.
          generation: of the object that is replaced, 0 for none; None replaces whatever is there.

        Raises ChangedError where the object has another generation.
        """
        with self._explained(name):
            blob = self._blob(name)
            try:
                blob.upload_from_string(
                    data,
                    "application/octet-stream",
                    if_generation_match=generation,
                    **self._patience,
                )
                return int(blob.generation)
            except _errors().PreconditionFailed:
                pass
        # A write whose answer was lost is tried again and meets itself.
        found = self.read(name)
        if found is None or found.data != data:
            raise ChangedError(f"{self.address / name}: was written by another")
        return found.generation

    def upload(self, name: str, file: Path) -> None:
        """Writes an object from a file, in place of one that is there; its checksum is compared.

        Raises OSError if the file cannot be read.
        """
        with self._explained(name):
            self._blob(name).upload_from_filename(
                str(file), "application/octet-stream", **self._patience
            )

    def download(self, item: Item, file: Path) -> None:
        """Writes an object to a file, whose size and CRC-32C are those of the listing.

        Raises OSError if the file cannot be written, StorageError also if another content came.
        """
        with self._explained(item.name):
            try:
                self._blob(item.name).download_to_filename(
                    str(file), raw_download=True, **self._patience
                )
            except _errors().NotFound:
                raise StorageError(f"{self.address / item.name}: is gone") from None
        if not is_copy(file, item):
            raise StorageError(f"{self.address / item.name}: arrived damaged, or has changed")

    def delete(self, name: str) -> None:
        """Removes an object; one that is gone is no error."""
        with self._explained(name), contextlib.suppress(_errors().NotFound):
            self._blob(name).delete(**self._patience)

    @property
    def _client(self) -> Any:
        return _client(os.getpid(), os.environ.get("STORAGE_EMULATOR_HOST"))

    def _blob(self, name: str) -> Any:
        return self._client.bucket(self.address.bucket).blob((self.address / name).key)

    @property
    def _patience(self) -> dict[str, Any]:
        from google.cloud.storage.retry import DEFAULT_RETRY

        retry = DEFAULT_RETRY.with_delay(initial=PAUSE, maximum=60.0)
        retry = retry.with_timeout(self.seconds or _seconds())
        return {"retry": retry, "timeout": _TIMEOUT}

    @contextlib.contextmanager
    def _explained(self, name: str) -> Iterator[None]:
        """Raises what goes wrong as a StorageError; NotFound, too, unless the body catches it."""
        where = str(self.address / name if name else self.address)
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            line = why(error)
            if line is None:
                raise
            bucket = "" if "no such bucket" not in line else f"gs://{self.address.bucket}: "
            raise StorageError(f"{bucket or f'{where}: '}{line}") from None


def is_copy(file: Path, item: Item) -> bool:
    """Tells whether a file has the size and CRC-32C of an object; raises OSError."""
    import base64

    import google_crc32c

    if file.stat().st_size != item.size:
        return False
    total = google_crc32c.Checksum()
    with open(file, "rb") as stream:
        while block := stream.read(1 << 20):
            total.update(block)
    # Objects put together from parts of other clients may have none.
    return not item.crc32c or base64.b64encode(total.digest()).decode() == item.crc32c


def why(error: BaseException) -> str | None:
    """Returns in a few words why a request failed; None for what is no failure of a store."""
    import google.auth.exceptions
    import requests
    import urllib3
    from google.api_core import exceptions
    from google.cloud.storage.exceptions import DataCorruption, InvalidResponse

    if isinstance(error, exceptions.RetryError):
        cause = why(error.cause) if error.cause else None
        return f"no answer in time: {(cause or one_line(error)).removeprefix('no answer: ')}"
    if isinstance(error, google.auth.exceptions.TransportError):
        return f"no answer: {_short(error)}"
    if isinstance(error, google.auth.exceptions.GoogleAuthError):
        return (
            f"no valid credentials ({_short(error)}): gcloud auth application-default login, or "
            "GOOGLE_APPLICATION_CREDENTIALS=KEY.json"
        )
    if isinstance(error, exceptions.NotFound):
        return "no such bucket"
    if isinstance(error, exceptions.Forbidden | exceptions.Unauthorized):
        return (
            f"permission denied ({int(error.code or 403)}): the account needs Storage Object User "
            "on the bucket, or Storage Object Viewer to read"
        )
    if isinstance(error, exceptions.GoogleAPICallError):
        return f"the store answers {int(error.code or 0)} {_short(error.message)}"
    if isinstance(error, InvalidResponse):
        return f"the store answers {error.response.status_code}"
    if isinstance(error, DataCorruption):
        return "arrived damaged"
    if isinstance(error, requests.RequestException | urllib3.exceptions.HTTPError):
        return f"no answer: {_short(error)}"
    if isinstance(error, ConnectionError):
        return f"no answer: {one_line(error)}"
    return None


def _short(error: object) -> str:
    """Returns what a client's long text ends in."""
    text = " ".join(str(error).split())
    # such as "HTTPConnectionPool(...): Max retries ... (Caused by ...: Connection refused'))"
    known = re.search(
        r"Connection refused|Name or service not known|Temporary failure in name resolution|"
        r"Network is unreachable|No route to host|Connection reset by peer|timed out|"
        r"Connection aborted|Connection broken|without response",
        text,
    )
    return known[0] if known else text.partition(". ")[0][:120]


def _seconds() -> float:
    """Returns for how long a request is tried again; raises UserError for what is no number."""
    text = os.environ.get(VARIABLE) or str(SECONDS)
    with contextlib.suppress(ValueError):
        if 0 < float(text) < float("inf"):
            return float(text)
    raise UserError(f"{VARIABLE}={text}: a number of seconds needed")


def _errors() -> Any:
    """Returns the module of the client's exceptions; raises UserError where it is not installed."""
    try:
        from google.api_core import exceptions
        from google.cloud import storage  # noqa: F401
    except ImportError:
        raise UserError(
            "gs:// needs Google's client of Cloud Storage: pip install 'dmphn_jax[gcs]'"
        ) from None
    return exceptions


@functools.lru_cache(maxsize=4)
def _client(process: int, emulator: str | None) -> Any:
    """Returns Google's client; of this process, for a forked one may not use its connections."""
    _errors()
    from google.cloud import storage

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a person's credentials have no quota project
        # The project counts where buckets are made or listed, which is not done here.
        return storage.Client(project=os.environ.get("GOOGLE_CLOUD_PROJECT") or "none")
