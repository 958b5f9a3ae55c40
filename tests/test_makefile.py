"""The Makefile's environments; stand-ins say which Python they are, and nothing is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.skipif(not shutil.which("make"), reason="needs make")


def python(path: Path, version: str) -> str:
    """A stand-in for a Python of that version."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho {version}\n")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def checkout(tmp_path):
    """A checkout whose environment a Python 3.11 made, with everything installed."""
    for name in ("Makefile", "pyproject.toml", "setup.py"):
        shutil.copy(ROOT / name, tmp_path)
    python(tmp_path / ".venv/bin/python", "3.11")
    for stamp in (".core", ".test"):
        (tmp_path / ".venv" / stamp).touch()
    return tmp_path


def planned(checkout: Path, target: str, python: str) -> list[str]:
    """The commands that `make` would run."""
    environment = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL")}
    return subprocess.run(
        ["make", "-n", target, f"PYTHON={python}"],
        cwd=checkout,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()


def test_an_environment_of_the_python_asked_for_is_used_as_it_is(checkout, tmp_path):
    commands = planned(checkout, "lint", python(tmp_path / "python3.11", "3.11"))
    assert [line for line in commands if "venv " in line or " install " in line] == []


def test_an_environment_of_another_python_is_built_anew(checkout, tmp_path):
    other = python(tmp_path / "python3.13", "3.13")
    commands = planned(checkout, "lint", other)
    assert f"{other} -m venv --clear .venv" in commands
    installed = [line for line in commands if " install " in line]
    assert [line.endswith(("-e .", "-e '.[test]'")) for line in installed] == [True, True]
    assert commands.index(installed[0]) < commands.index(".venv/bin/ruff check .")


def test_a_python_that_is_not_there_is_no_reason_to_take_another(checkout, tmp_path):
    missing = str(tmp_path / "python3.14")
    assert f"{missing} -m venv --clear .venv" in planned(checkout, "demo", missing)


def test_a_fresh_clone_clears_nothing(checkout, tmp_path):
    shutil.rmtree(checkout / ".venv")
    assert f"{sys.executable} -m venv .venv" in planned(checkout, "demo", sys.executable)
