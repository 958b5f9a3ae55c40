"""Kills one of four processes of a run, goes on with two, and compares the end to the bit.

    python tools/lost_process.py

Four processes of two virtual CPU devices are started by launch/hosts.sh; a stand-in for ssh starts
them on this machine. One training process gets SIGKILL in the midst of the run: the others must
end within the heartbeat with a line and status 75. Started again on two processes of four devices
(and, from the same checkpoint, on two of two), the run must come to the end of one that was never
killed. At last SIGTERM goes to one process of four: all must save at one step. Exit status 0 if so.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from kill_test import fingerprint, newest

ROOT = Path(__file__).resolve().parents[1]
FLAGS = [
    "--config=configs/dmphn.py:1",
    "--config.model.width=2",
    "--config.ema_decay=0.9",
    "--config.augment=stack",
    "--config.data.source=synthetic",
    "--config.data.size=32,40",
    "--config.data.count=12",
    "--config.crop_size=16",
    "--config.batch_size=8",
    "--config.checkpoint_every=4",
    "--config.log_every=4",
    "--config.eval.every=0",
]
# Options up to the host's name are ssh's own; a host is a home folder with a checkout in it.
_SSH = """#!/usr/bin/env bash
while [[ $1 == -* ]]; do [[ $1 == -o ]] && shift; shift; done
export HOME={folder}/$1; mkdir -p "$HOME"; cd "$HOME"; shift
[[ -e dmphn_jax ]] || ln -s {folder}/checkout dmphn_jax
exec bash -c "$*"
"""


class Hosts:
    """Hosts of this machine, each a loopback address, and the run folders they share."""

    def __init__(self, folder: Path, feed: str, heartbeat: int) -> None:
        """Makes the checkout that all hosts share, and the stand-in for ssh."""
        self.folder, self._heartbeat = folder, heartbeat
        self._flags = [*FLAGS, f"--config.data.feed={feed}"]
        checkout = folder / "checkout"
        (checkout / ".venv" / "bin").mkdir(parents=True)
        for name in ("dmphn_jax", "configs", "launch"):
            (checkout / name).symlink_to(ROOT / name)
        # Run by its own name: a link would not find its packages. The heartbeat is no name of the
        # launcher's.
        _program(
            checkout / ".venv" / "bin" / "python",
            f'#!/bin/bash\nexec {sys.executable} "$@" --heartbeat={heartbeat}\n',
        )
        _program(folder / "bin" / "ssh", _SSH.format(folder=folder))

    def start(self, hosts: int, devices: int, workdir: Path, steps: int) -> subprocess.Popen[str]:
        """Starts a run by launch/hosts.sh; `devices` are those of each host."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.log = workdir.with_suffix(".log")
        names = " ".join(f"127.0.0.{i + 1}" for i in range(hosts))
        flags = [f"--hosts={names}", f"--port={port}", f"--workdir={workdir}", "--restarts=0"]
        env = {
            **os.environ,
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "XDG_CACHE_HOME": os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache")),
            "JAX_COMPILATION_CACHE_DIR": str(self.folder / "compiled"),
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        }
        length = f"--config.num_steps={steps}"
        with self.log.open("w") as log:
            return subprocess.Popen(
                ["bash", ROOT / "launch" / "hosts.sh", "train", *flags, *self._flags, length],
                env=env,
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
            )

    def finish(self, job: subprocess.Popen[str], status: int = 0) -> str:
        """Waits for a job that must end with `status`; returns what it said."""
        code = job.wait(timeout=400)
        said = self.log.read_text()
        if code != status:
            raise SystemExit(f"status {code}, not {status}:\n{said[-3000:]}")
        return said

    def pid(self, host: int) -> int:
        """Returns the process that launch/on_host.sh runs on a host: the parent that watches."""
        home = self.folder / f"127.0.0.{host + 1}"
        state = home / ".dmphn" / socket.gethostname() / "dmphn_jax"
        return int((state / "pid").read_text().split()[0])

    def training(self, host: int) -> int:
        """Returns the training process of a host, that parent's child."""
        parent = self.pid(host)
        return int(Path(f"/proc/{parent}/task/{parent}/children").read_text().split()[0])


def _program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def wait_for(job: subprocess.Popen[str], workdir: Path, step: int) -> None:
    """Waits until a job has saved at `step` or later."""
    while newest(workdir) < step:
        if job.poll() is not None:
            raise SystemExit(f"the job ended with {job.returncode} before step {step}")
        time.sleep(0.02)


def end(workdir: Path, step: int) -> tuple[dict, np.ndarray]:
    """Returns a checkpoint's digests with its feed's position, and its parameters in one row."""
    import jax

    from dmphn_jax import checkpoints

    leaves = jax.tree.leaves(checkpoints.load(workdir / "checkpoints" / str(step)).params)
    return fingerprint(workdir, step), np.concatenate([np.ravel(leaf) for leaf in leaves])


def main() -> int:
    """Runs the test; returns 0 if the run lost nothing but the steps since its last save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--feed", choices=("host", "resident"), default="host")
    parser.add_argument("--heartbeat", type=int, default=30, help="seconds")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        return _test(Hosts(Path(name), args.feed, args.heartbeat), args)


def _test(hosts: Hosts, args: argparse.Namespace) -> int:
    whole, killed, fewer, asked = (
        hosts.folder / run for run in ("whole", "killed", "fewer", "asked")
    )
    hosts.finish(hosts.start(4, 2, whole, args.steps))

    job = hosts.start(4, 2, killed, 10**6)
    wait_for(job, killed, 8)
    began = time.monotonic()
    os.kill(hosts.training(2), signal.SIGKILL)
    said = hosts.finish(job, 75)
    took = time.monotonic() - began
    lines = sorted(set(re.findall(r"dmphn: .*", said)))
    print(f"SIGKILL to process 2 of 4: the job ended after {took:.0f} s with status 75 and said")
    print("\n".join(f"  {line.strip()}" for line in lines))
    saved = newest(killed)
    args.steps = max(args.steps, saved + 4)
    if args.steps != newest(whole):
        hosts.finish(hosts.start(4, 2, whole, args.steps))
    shutil.copytree(killed, fewer)

    ends = {}
    for workdir, devices in ((killed, 4), (fewer, 2)):
        said = hosts.finish(hosts.start(2, devices, workdir, args.steps))
        if f"resumed at step {saved}" not in said:
            raise SystemExit(f"not resumed at step {saved}:\n{said[-3000:]}")
        ends[devices] = end(workdir, args.steps)
    reference, params = end(whole, args.steps)
    same = ends[4][0] == reference
    print(
        f"resumed at step {saved} on 2 processes of 4 devices: after {args.steps} steps "
        f"{'to the bit what' if same else 'NOT what'} a run that was never killed comes to"
    )
    feed = ends[2][0]["feed"] == reference["feed"]
    error = np.linalg.norm(ends[2][1] - params) / np.linalg.norm(params)
    print(
        f"on 2 processes of 2 devices: {'the same place' if feed else 'ANOTHER PLACE'} in the "
        f"data, parameters to {error:.0e}"
    )

    job = hosts.start(4, 2, asked, 10**6)
    wait_for(job, asked, 4)
    os.kill(hosts.pid(3), signal.SIGTERM)
    said = hosts.finish(job, 75)
    steps = set(re.findall(r"SIGTERM at step (\d+): saved", said))
    print(f"SIGTERM to process 3 of 4: all ended with status 75, saved at step {', '.join(steps)}")
    one = len(steps) == 1 and newest(asked) == int(*steps)
    return 0 if same and feed and error < 1e-5 and one else 1


if __name__ == "__main__":
    sys.exit(main())
