"""Per-image results on disk, so that a long evaluation goes on where it was stopped."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import json
import os
import secrets
from pathlib import Path
from typing import Any, BinaryIO

from dmphn_jax.errors import UserError, one_line
from dmphn_jax.evaluation.metrics import METRICS_VERSION
from dmphn_jax.evaluation.scores import METRIC_NAMES, ImageScores, Runtime

_RUNTIME = "//runtime"  # the name of records that are not of an image; no image has such a one


class ResultsFile:
    """A JSON-lines file of results, each under the key of what produced it.

    A line is written and flushed per image. What a killed run left half written at the end is
    cut off when the file is opened again; lines that cannot be read are taken for missing, and
    so are scores of other versions of the metrics.

    Of several processes that share the work each writes a part of its own in a hidden folder beside
    the file, and reads the others'; the last one to end joins them to the file. So does whoever
    opens the file alone.

    Attributes:
      damaged: number of lines that could not be read.
    """

    def __init__(self, path: str | os.PathLike[str], *, shared: bool = False) -> None:
        """Reads `path` if it exists, and opens it for more; raises UserError if it cannot."""
        self.path = Path(path)
        self.damaged = 0
        self._images: dict[str, dict[str, ImageScores]] = {}
        self._runtimes: dict[str, Runtime] = {}
        self._parts = self.path.with_name(f".{self.path.stem}-parts")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self.path, "a+b")  # noqa: SIM115 (closed by close)
            self._lock(shared)
            self.refresh()  # before the file, which has what is in the parts once they are gone
            self._load(whole=not shared)
            self._out = self._new_part() if shared else self._file
            if not shared:
                self._join()
        except OSError as error:
            raise UserError(f"{path}: cannot be written: {one_line(error)}") from None

    def _lock(self, shared: bool) -> None:
        """Holds the file until it is closed, or the process ends, however it ends."""
        try:
            fcntl.flock(self._file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise UserError(
                f"{self.path}: another evaluation is writing it; wait for it or name another folder"
            ) from None
        except OSError as error:
            # A file system without locks is no reason not to score.
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                raise

    def _new_part(self) -> BinaryIO:
        self._parts.mkdir(exist_ok=True)
        return open(self._parts / f"{os.getpid()}-{secrets.token_hex(6)}.jsonl", "ab")

    def _load(self, *, whole: bool) -> None:
        """Reads the file; if it is to be `whole`, cuts off half a line at its end."""
        self._file.seek(0)
        content = self._file.read()
        end = content.rfind(b"\n") + 1
        if end < len(content) and whole:
            self.damaged += 1
            self._file.truncate(end)
        self.damaged += self._take_lines(content[:end])

    def _take_lines(self, content: bytes) -> int:
        """Takes the records of whole lines; returns how many could not be read."""
        damaged = 0
        for line in content.splitlines():
            try:
                self._take(json.loads(line))
            except (ValueError, KeyError, TypeError, RecursionError):
                damaged += 1
        return damaged

    def _take(self, record: dict[str, Any]) -> None:
        key, name = str(record["key"]), str(record["name"])
        size = int(record["height"]), int(record["width"])
        if name == _RUNTIME:
            self._runtimes[key] = Runtime(float(record["ms"]), *size, str(record["device"]))
        elif record.get("metrics", 1) == METRICS_VERSION:  # the first version did not say it
            scores = {metric: float(record[metric]) for metric in METRIC_NAMES}
            self._images.setdefault(key, {})[name] = ImageScores(-1, name, *size, scores)

    def refresh(self) -> None:
        """Reads what other processes have written since."""
        for part in sorted(self._parts.glob("*.jsonl")):
            with contextlib.suppress(FileNotFoundError):  # joined in this moment
                content = part.read_bytes()
                self._take_lines(content[: content.rfind(b"\n") + 1])

    def join(self) -> None:
        """Joins all parts to the file, unless other processes are at work on theirs."""
        try:
            with contextlib.suppress(OSError):  # where there are no locks
                fcntl.flock(self._file, fcntl.LOCK_UN)
            self._lock(shared=False)
        except UserError:
            return
        self._out.close()
        self._out = self._file
        self.refresh()
        self._join()

    def _join(self) -> None:
        """Writes what the parts have and the file has not; removes the parts."""
        parts = list(self._parts.glob("*.jsonl"))
        if not parts:
            return
        images, runtimes = self._images, self._runtimes
        self._images, self._runtimes, self.damaged = {}, {}, 0
        self._load(whole=True)
        for key, of in images.items():
            for image in of.values():
                if self._images.get(key, {}).get(image.name) != image:
                    self.add_image(key, image)
        for key, runtime in runtimes.items():
            if self._runtimes.get(key) != runtime:
                self.add_runtime(key, runtime)
        os.fsync(self._file.fileno())
        for part in parts:
            part.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._parts.rmdir()

    def images(self, key: str) -> dict[str, ImageScores]:
        """Returns the images scored under `key` by name; their indices mean nothing."""
        return dict(self._images.get(key, {}))

    def runtime(self, key: str) -> Runtime | None:
        """Returns the runtime measured under `key`; None if it was not."""
        return self._runtimes.get(key)

    def add_image(self, key: str, image: ImageScores) -> None:
        """Appends the scores of an image; later ones of its name replace earlier ones."""
        self._images.setdefault(key, {})[image.name] = image
        size = {"height": image.height, "width": image.width}
        self._write(key, image.name, {"metrics": METRICS_VERSION, **size, **image.scores})

    def add_runtime(self, key: str, runtime: Runtime) -> None:
        """Appends a runtime, which replaces an earlier one."""
        self._runtimes[key] = runtime
        self._write(key, _RUNTIME, dataclasses.asdict(runtime))

    def _write(self, key: str, name: str, fields: dict[str, Any]) -> None:
        try:
            self._out.write(json.dumps({"key": key, "name": name, **fields}).encode() + b"\n")
            self._out.flush()
            if self._out is not self._file:
                os.fsync(self._out.fileno())  # others look for it, maybe on other machines
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written: {one_line(error)}") from None

    def close(self) -> None:
        """Closes the file."""
        self._out.close()
        self._file.close()


def key_of(**what: Any) -> str:
    """Returns a short key for plain JSON values: 16 hexadecimal digits of their SHA-256."""
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]
