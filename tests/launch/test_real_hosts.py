"""launch/hosts.sh with its hosts' part, and real processes there; ssh alone is a stand-in."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.launch.test_hosts import TRAIN
from tests.support.evaluation import save_tiny
from tests.support.pictures import noise, saved
from tests.support.stand_ins import ROOT, last_line

# Options up to the host's name are ssh's own; a host is a home folder with the checkout in it.
SSH = """#!/usr/bin/env bash
while [[ $1 == -* ]]; do [[ $1 == -o ]] && shift; shift; done
export HOME={folder}/$1; mkdir -p "$HOME"; cd "$HOME"; shift
[[ -e dmphn_jax ]] || ln -s {folder}/checkout dmphn_jax
exec bash -c "$*"
"""


def checkout(folder: Path) -> None:
    """Makes the checkout of all hosts, with this Python."""
    python = folder / "checkout" / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    (folder / "checkout" / "launch").symlink_to(ROOT / "launch")
    python.write_text(f'#!/bin/bash\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)


def served(folder: Path, **programs: str) -> dict[str, str]:
    """The environment of a launcher whose ssh reaches the hosts of `folder`."""
    (folder / "bin").mkdir()
    for name, text in {"ssh": SSH.format(folder=folder), **programs}.items():
        (folder / "bin" / name).write_text(text)
        (folder / "bin" / name).chmod(0o755)
    return {"PATH": f"{folder / 'bin'}:/usr/bin:/bin", "HOME": str(folder), "POLL": "0"}


def hosts_sh(env: dict[str, str], *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", ROOT / "launch" / "hosts.sh", *flags],
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
    )


# Makes an environment that reads `installed` of its host, and tells what it was asked for.
UV = """#!/bin/bash
if [[ $1 == venv ]]; then mkdir -p .venv/bin; cp /bin/true .venv/bin/python; fi
echo "$@" >>"$HOME/uv"
"""


def test_install_brings_the_commit_to_every_host(tmp_path):
    """The hosts' part is the real one; ssh and uv are stand-ins."""
    head = subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, text=True)
    if head.returncode:
        pytest.skip("no git checkout")
    env = served(tmp_path, uv=UV)
    flags = ["install", "--hosts=h1 h2", "--folder=jobs/x", "--extra=jax[cuda13]"]
    done = hosts_sh(env, *flags)
    assert done.returncode == 0, done.stderr
    for host in ("h1", "h2"):
        checkout = tmp_path / host / "jobs" / "x"
        assert (checkout / ".version").read_text() == head.stdout
        assert (checkout / "configs" / "stack4.py").is_file()
        made, installed = (tmp_path / host / "uv").read_text().splitlines()
        assert made.startswith("venv ")
        assert installed.endswith("-e .[gcs] jax[cuda13]")
    assert hosts_sh(env, *flags).returncode == 0  # again: nothing is left to do
    assert len((tmp_path / "h1" / "uv").read_text().splitlines()) == 2
    ready = hosts_sh(env, "train", *flags[1:3], "--no-plan", "--config=configs/stack4.py")
    assert ready.returncode == 0, ready.stderr


def test_install_ends_at_a_host_that_refuses(tmp_path):
    if subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True).returncode:
        pytest.skip("no git checkout")
    env = served(tmp_path, uv="#!/bin/bash\n[[ $HOME != */h2 ]]\n")
    done = hosts_sh(env, "install", "--hosts=h1 h2 h3", "--folder=x")
    assert done.returncode == 2
    assert last_line(done) == "hosts.sh: h2: not installed"
    assert not (tmp_path / "h3").exists()


# Training in small: it installs no handler, as in its first minutes.
MAIN = """
import sys, time
try:
    print("at work", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    print("interrupted", flush=True)
    sys.exit(130)
"""


def test_stop_ends_the_run_from_another_terminal(tmp_path):
    checkout(tmp_path)
    (tmp_path / "checkout" / "dmphn_jax").mkdir()
    (tmp_path / "checkout" / "dmphn_jax" / "main.py").write_text(MAIN)
    config = tmp_path / "mine.py"
    config.touch()
    env = served(tmp_path)
    with (tmp_path / "said").open("w") as said:
        job = subprocess.Popen(
            ["bash", ROOT / "launch" / "hosts.sh", *TRAIN[:3], f"--config={config}"],
            env=env,
            stdout=said,
            stderr=subprocess.STDOUT,
        )
    while (tmp_path / "said").read_text().count("at work") < 2:
        assert job.poll() is None, (tmp_path / "said").read_text()
        time.sleep(0.02)
    second = hosts_sh(env, "train", "--no-plan", "--hosts=b", f"--config={config}")
    assert second.returncode == 2
    assert "b: a run is at work there" in last_line(second)
    under = hosts_sh(env, "install", "--hosts=b")  # the files of what runs stay as they are
    assert "a run is at work" in under.stderr
    assert not (tmp_path / "checkout" / ".version").exists()
    done = hosts_sh(env, "stop", "--hosts=a b")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("asked the run") == 2
    assert job.wait(timeout=30) == 130
    assert (tmp_path / "said").read_text().count("interrupted") == 2
    assert hosts_sh(env, "stop", "--hosts=a b").stdout.count("no run is at work") == 2


def test_two_hosts_deblur_a_folder(tmp_path):
    """Real processes of the real command; ssh alone is a stand-in."""
    checkout(tmp_path)
    (tmp_path / "checkout" / "dmphn_jax").symlink_to(ROOT / "dmphn_jax")
    served(tmp_path)
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    for i in range(6):
        saved(photos / f"{i}.png", noise(16, 20, 3, seed=i))
    command = f"deblur {photos} --checkpoint {save_tiny(tmp_path / 'tiny')} --output {out}"
    done = subprocess.run(
        ["bash", ROOT / "launch" / "hosts.sh", "run", "--hosts=h1 h2", f"--command={command}"],
        env={
            **os.environ,
            "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
            "POLL": "0",
            # Of compiled kernels: the hosts' homes are empty.
            "XDG_CACHE_HOME": os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache"),
        },
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert sorted(os.listdir(out)) == [f"{i}.png" for i in range(6)]
    made = [int(n) for n in re.findall(r"deblurred (\d+) of", done.stdout)]
    assert sum(made) == 6
