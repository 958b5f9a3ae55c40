"""Errors a user can mend: one line, no traceback, exit status 2; and what runs every command."""

from __future__ import annotations

import contextlib
import difflib
import errno
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator

from dmphn_jax.streams import Stream, standard_streams

UNPRINTED = 74  # exit status: all done, but the output could not be printed (EX_IOERR)

# States of the machine, no faults of this package, whoever meets them.
_SYSTEM = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.EMFILE, errno.ENFILE, errno.ENAMETOOLONG, errno.ELOOP, errno.EIO, errno.ESTALE),
}


class UserError(Exception):
    """A mistake its user can mend; the text is one line naming the file or flag and the way out."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns `" (did you mean 'x'?)"` for the known name closest to `name`, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


def few(items: Iterable[str], shown: int = 3, separator: str = ", ") -> str:
    """Returns the first few of `items` as a phrase: `a, b, c and 4 more`."""
    items = list(items)
    text = separator.join(items[:shown])
    return text + (f" and {len(items) - shown} more" if len(items) > shown else "")


def one_line(error: BaseException) -> str:
    """Returns an exception's message as one line; its type's name where it has no message."""
    text = " ".join(str(error).split())
    return text or type(error).__name__


def out_of_memory(error: BaseException) -> bool:
    """Tells whether an error says that the host or a device has no memory left.

    Or a compiler, that a program would not fit.
    """
    return isinstance(error, MemoryError) or any(
        sign in str(error) for sign in ("RESOURCE_EXHAUSTED", "ut of memory", "bad_alloc")
    )


def run_command(command: Callable[[list[str]], int | None], argv: list[str]) -> int:
    """Runs `command(argv)` and returns its exit status.

    `UserError` and what the machine refuses (no memory, no space, no permission) become one line
    on stderr and status 2, an interrupt 130, a closed pipe 141. A standard output that cannot be
    written (full, closed) does not stop the work: a line tells at the end, and the status of a
    command that did all it should is 74. Anything else is a fault of this package and keeps its
    traceback.
    """
    with standard_streams() as out:
        with _told(out) as ending:
            ending.status = command(argv) or 0
        return ending.status


class _Ending:
    """How a command ended."""

    status = 0


@contextlib.contextmanager
def _told(out: Stream) -> Iterator[_Ending]:
    """Turns what a command may end with into a line and a status."""
    ending = _Ending()
    try:
        try:
            yield ending
        finally:
            out.flush()
    except SystemExit as leaving:  # argparse has said why, or a signal's handler leaves
        if leaving.code or not out.failure:
            raise
    except KeyboardInterrupt:
        _say("interrupted")
        ending.status = 130
    except BrokenPipeError:
        # The reader (`| head`) went away; keep the interpreter from writing to it again at exit.
        out.discard()
        ending.status = 141
    except Exception as error:
        line = _line(error)
        if line is None:
            raise
        _say(f"error: {line}")
        ending.status = 2
    if out.failure:
        _say(f"error: the output could not be printed: {out.failure}")
        ending.status = ending.status or UNPRINTED


def _line(error: Exception) -> str | None:
    """Returns what a user is told of an error; None for a fault of this package."""
    if isinstance(error, UserError):
        return one_line(error)
    if out_of_memory(error):
        return f"not enough memory: {one_line(error)[:300]}"
    if isinstance(error, RecursionError):
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return f"a file or config is nested too deeply (in {os.path.basename(frame.filename)})"
    if isinstance(error, OSError):
        try:
            os.getcwd()
        except OSError:
            return "the working folder does not exist any more; cd to one that does"
        if error.errno in _SYSTEM:
            names = [str(name) for name in (error.filename, error.filename2) if name is not None]
            reason = error.strerror or type(error).__name__
            return " ".join(f"{' -> '.join(names)}: {reason}".split()) if names else reason
    return None


def _say(line: str) -> None:
    print(f"dmphn: {line}", file=sys.stderr)
