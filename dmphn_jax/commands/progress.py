"""Progress bars on stderr: moving on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    import tqdm


def bars(quiet: bool) -> Callable[..., tqdm.tqdm[NoReturn]]:
    """Returns what starts a bar of `total` steps (None: unknown) called `unit`."""
    import tqdm

    terminal = sys.stderr.isatty()

    def start(*, total: int | None, unit: str, **more: Any) -> tqdm.tqdm[NoReturn]:
        return tqdm.tqdm(
            total=total,
            file=sys.stderr,
            disable=quiet or total == 0,
            unit=unit,
            smoothing=0.1,
            dynamic_ncols=True,
            # In a log, a line every half minute.
            mininterval=0.1 if terminal else 30,
            delay=0 if terminal else 30,
            bar_format="{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, "
            "{rate_noinv_fmt}]",
            **more,
        )

    return start
