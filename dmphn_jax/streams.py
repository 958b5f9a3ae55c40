"""Standard output and error that never stop a command's work."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast


class Stream:
    """A text stream that remembers its first failure in place of raising it.

    A reader that went away is another matter: BrokenPipeError is raised.

    Attributes:
      failure: what the system said when text was first lost; None while all is well.
    """

    failure: str | None = None

    def __init__(self, stream: TextIO | None) -> None:
        """Takes the stream to write to; None, as Python has for a closed one, loses all text."""
        self._stream = stream

    def write(self, text: str) -> int:
        """Writes, or counts the text as written."""
        if self._stream is None:
            self.failure = self.failure or os.strerror(9)  # EBADF
        elif self.failure is None:
            with self._remembered():
                self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Passes on what was written."""
        if self._stream is not None and self.failure is None:
            with self._remembered():
                self._stream.flush()

    def isatty(self) -> bool:
        """Tells whether a person looks on."""
        return self._stream is not None and self._stream.isatty()

    def discard(self) -> None:
        """Sends what is still held, and all that follows, nowhere."""
        if self._stream is not None:
            with contextlib.suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._stream.fileno())
                os.close(nowhere)

    @contextlib.contextmanager
    def _remembered(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            raise
        except OSError as error:
            self.failure = error.strerror or str(error)
            self.discard()  # or the interpreter would try again, and complain, at exit

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def standard_streams() -> Iterator[Stream]:
    """Puts `Stream`s in the place of sys.stdout and sys.stderr; yields stdout's.

    Characters that stdout's encoding does not have are escaped, as stderr does by itself.
    """
    # A descriptor that was closed would be given to the next file, and what a library prints
    # would end up in there. Programs that are started need theirs too.
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    out, err = Stream(sys.stdout), Stream(sys.stderr)
    with (
        contextlib.redirect_stdout(cast(TextIO, out)),
        contextlib.redirect_stderr(cast(TextIO, err)),
    ):
        yield out
