"""The wheel: what it installs, and that its experiments serve away from any checkout.

`pip` builds it from a copy of the sources, and a virtual environment of its own takes it; the
packages it needs are this interpreter's.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from dmphn_jax import __version__

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("dmphn_jax", "tfds_gopro", "configs", "setup.py", "pyproject.toml", "README.md", "LICENSE")


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "COV"))}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=clean | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    sources, built = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("built")
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, sources / name)
    flags = ("--no-deps", "--no-build-isolation", "--no-index", "--quiet")
    run(sys.executable, "-m", "pip", "wheel", *flags, "-w", built, sources, cwd=built)
    (path,) = built.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def bare(tmp_path_factory) -> Path:
    """An environment's `bin/python` that sees this one's packages, but not its editable install."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    python = folder / "bin" / "python"
    site = Path(run(python, "-c", "import site; print(site.getsitepackages()[0])", cwd=folder).strip())
    (site / "shared.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


@pytest.fixture(scope="module")
def installed(wheel, bare) -> Path:
    """The environment with the wheel in it; what it finds is the wheel, not the checkout."""
    # With no look at the shared packages, where this checkout counts as installed.
    pip = (sys.executable, "-m", "pip", "--python", bare)
    flags = ("--no-deps", "--no-index", "--ignore-installed", "--quiet")
    run(*pip, "install", *flags, wheel, cwd=wheel.parent)
    found = run(bare, "-c", "import dmphn_jax; print(dmphn_jax.__file__)", cwd=wheel.parent)
    assert Path(found).is_relative_to(bare.parent.parent)
    return bare
