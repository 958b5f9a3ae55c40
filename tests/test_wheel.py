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
from tests.support.training import TINY_FLAGS

ROOT = Path(__file__).resolve().parent.parent
SOURCES = (
    "dmphn_jax",
    "tfds_gopro",
    "configs",
    "setup.py",
    "pyproject.toml",
    "README.md",
    "LICENSE",
)
READ = """
import sys
from dmphn_jax.training import experiments, settings
for path in sys.argv[1:]:
    config = settings.read(path, [])
    settings.check(config)
    print(path, config.model.name, config.batch_size)
print(experiments.folder())
"""
# The file that docs/training.md shows, and one that leans on another of its own package.
MINE = """
from dmphn_jax.training.experiments import start_from


def get_config():
    config = start_from("configs/stack4.py")
    config.batch_size = 12
    return config
"""
THEIRS = "from configs import mine\n\n\ndef get_config():\n    return mine.get_config()\n"


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
    site = Path(
        run(python, "-c", "import site; print(site.getsitepackages()[0])", cwd=folder).strip()
    )
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


def test_a_wheel_brings_two_names_and_the_experiments_inside(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    top = {name.partition("/")[0] for name in names}
    assert top == {"dmphn_jax", "tfds_gopro", f"dmphn_jax-{__version__}.dist-info"}
    ours = {f"dmphn_jax/configs/{file.name}" for file in (ROOT / "configs").glob("*.py")}
    assert {name for name in names if name.startswith("dmphn_jax/configs/")} == ours


def test_a_wheel_carries_every_file_of_the_packages(wheel):
    """Data too, such as the kernels' C++: what is not declared as package data is left behind."""
    files = [file for name in ("dmphn_jax", "tfds_gopro") for file in (ROOT / name).rglob("*")]
    ours = {str(file.relative_to(ROOT)) for file in files if file.is_file()}
    ours = {name for name in ours if "__pycache__" not in name}
    assert sorted(ours - set(zipfile.ZipFile(wheel).namelist())) == []


def test_an_installed_wheel_trains_without_a_checkout(installed, tmp_path):
    flags = [flag for flag in TINY_FLAGS if "num_steps" not in flag]
    command = (installed, "-m", "dmphn_jax.main", *flags, "--config.num_steps=1")
    assert "done: step 1 of 1" in run(*command, cwd=tmp_path)
    assert (tmp_path / "runs" / "dmphn-1" / "checkpoints" / "1").is_dir()


@pytest.mark.parametrize("kind", ["wheel", "checkout", "editable"])
@pytest.mark.parametrize("package", [True, False], ids=["package", "folder"])
def test_a_users_own_configs_and_ours_stand_side_by_side(kind, package, request, tmp_path):
    """Ours from a wheel, a checkout on PYTHONPATH, and as the tests have it, in another folder."""
    environment = {"PYTHONPATH": str(ROOT)} if kind == "checkout" else {}
    fixture = {"wheel": "installed", "checkout": "bare"}.get(kind)
    python = request.getfixturevalue(fixture) if fixture else sys.executable
    own = tmp_path / "configs"
    own.mkdir()
    (own / "mine.py").write_text(MINE)
    (own / "theirs.py").write_text(THEIRS)
    (own / "stack2.py").write_text(MINE)  # a name of ours: the user's own is meant
    if package:
        (own / "__init__.py").write_text("")
    paths = ["configs/theirs.py", "configs/stack2.py", "configs/stack3.py", "stack4.py"]
    lines = run(python, "-c", READ, *paths, cwd=tmp_path, **environment).splitlines()
    assert lines[:-1] == [
        "configs/theirs.py stack4 12",
        "configs/stack2.py stack4 12",
        "configs/stack3.py stack3 6",
        "stack4.py stack4 6",
    ]
    inside = kind == "wheel"
    assert (Path(lines[-1]) == ROOT / "configs") is not inside
    assert (Path(lines[-1]).parent.name == "dmphn_jax") is inside


def test_a_users_file_is_the_one_that_the_docs_show():
    page = (ROOT / "docs" / "training.md").read_text()
    assert MINE.strip() in page
    assert len([line for line in MINE.splitlines() if line.strip()]) == 5
