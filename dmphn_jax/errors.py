"""Errors a user can mend: one line, no traceback, exit status 2."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Callable, Iterable


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


def run_command(command: Callable[[list[str]], int | None], argv: list[str]) -> int:
    """Runs `command(argv)` and returns its exit status.

    `UserError` becomes one line on stderr and status 2, an interrupt 130, a closed pipe 141.
    Anything else is a fault of this package and keeps its traceback.
    """
    try:
        return command(argv) or 0
    except UserError as error:
        print(f"dmphn: error: {one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("dmphn: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader (`| head`) went away; keep the interpreter from writing to it again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
