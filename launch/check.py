"""Checks a run's settings before machines are paid for; common.sh calls it.

    check.py DEVICES SLICES FILE[:ARG] [--config.FIELD=VALUE ...]

DEVICES are those of a slice, as `dmphn plan` names them, or "". Exit status 2 after a line for a
mistake, 3 where the project is not installed.
"""

import sys
from types import SimpleNamespace
from typing import Any

try:
    from dmphn_jax.errors import UserError, run_command
    from dmphn_jax.planning import machines
    from dmphn_jax.training import settings
    from dmphn_jax.training.step import check_batch
except ImportError:
    sys.exit(3)


def check(argv: list[str]) -> None:
    """Raises UserError for settings that no run can have, or a batch its chips cannot share."""
    devices, slices, path, *overrides = argv
    config = settings.read(path, overrides)
    for section in (config.data, config.eval):
        if "/" in section.source:  # a path of the hosts
            section.source = "."
    settings.check(config)
    try:
        chips = machines.parse(devices).chips * int(slices)
    except UserError:
        return
    mesh: Any = SimpleNamespace(size=chips)
    check_batch(config.batch_size, mesh)


if __name__ == "__main__":
    sys.exit(run_command(check, sys.argv[1:]))
