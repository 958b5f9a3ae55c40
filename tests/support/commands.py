"""What tests of commands share."""

from __future__ import annotations

import subprocess
import sys


def help_without(module: str, *packages: str) -> str:
    """What `--help` of a command prints, in a process that must not have imported the packages."""
    code = (
        f"import sys; from dmphn_jax.commands import {module}\n"
        f"try: {module}.main(['--help'])\n"
        "except SystemExit: pass\n"
        f"sys.exit(any(package in sys.modules for package in {packages}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout
