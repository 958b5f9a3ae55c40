"""Many devices and processes compute what one does."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from dmphn_jax import checkpoints
from dmphn_jax.processes import termination
from tests.support.training import TINY_FLAGS

pytestmark = pytest.mark.usefixtures("compiled_once")


def start(devices: int, *argv: str) -> subprocess.Popen:
    flags = f"--xla_force_host_platform_device_count={devices}"
    return subprocess.Popen(
        [sys.executable, "-m", *argv],
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen, status: int = 0) -> str:
    said = process.communicate(timeout=500)[0]
    assert process.returncode == status, said
    return said


def start_two(workdir, *flags) -> list[subprocess.Popen]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = [f"--coordinator=127.0.0.1:{port}", "--num-processes=2"]
    common = ["dmphn_jax.main", *TINY_FLAGS, *flags, f"--workdir={workdir}", *place]
    return [start(2, *common, f"--process-id={i}") for i in range(2)]


def test_eight_devices_equal_one_and_meet_once_per_step(tmp_path):
    said = finish(start(8, "tests.support.device_worker", str(tmp_path / "out.npz")))
    assert json.loads(said.splitlines()[-1]) == ["all-reduce"]
    out = np.load(tmp_path / "out.npz")
    np.testing.assert_allclose(out["8 loss"], out["1 loss"], rtol=1e-6)
    error = np.linalg.norm(out["8"] - out["1"]) / np.linalg.norm(out["1"])
    assert error < 1e-6


def test_two_processes_stop_together_and_go_on_to_what_one_process_computes(tmp_path):
    two, one = tmp_path / "two", tmp_path / "one"
    processes = start_two(two, "--config.num_steps=100000")
    while not (two / "checkpoints" / "4").exists():
        assert all(process.poll() is None for process in processes)
        time.sleep(0.01)
    # One of them only. It goes to the others the way that SIGTERM takes.
    processes[1].send_signal(signal.SIGINT)
    first, second = (finish(process, termination.INTERRUPTED) for process in processes)
    stopped = re.search(r"SIGINT at step (\d+): saved", first)
    assert "step" not in second  # process 0 speaks for all
    steps = int(stopped[1]) + 2
    length = f"--config.num_steps={steps}"
    processes = start_two(two, length)
    alone = start(4, "dmphn_jax.main", *TINY_FLAGS, f"--workdir={one}", length)
    first, _, _ = (finish(process) for process in (*processes, alone))
    assert f"resumed at step {stopped[1]}" in first
    assert "of 2 processes" in first
    a, b = (checkpoints.load(folder / "checkpoints" / str(steps)).params for folder in (one, two))
    # Adam divides small gradients, of biases, by their own size: that shows how they were added up.
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-5 * np.abs(x).max())


def test_the_others_wait_for_an_evaluation_that_a_signal_to_one_of_them_ends(tmp_path):
    """Of so many pairs that it would take many minutes."""
    flags = ["--config.num_steps=4", "--config.eval.every=4", "--config.eval.count=200000"]
    processes = start_two(tmp_path, *flags)
    metrics = tmp_path / "metrics.csv"
    while not (metrics.exists() and "\n4," in metrics.read_text()):  # the evaluation is next
        assert all(process.poll() is None for process in processes)
        time.sleep(0.01)
    processes[1].send_signal(signal.SIGTERM)
    first, second = (finish(process, os.EX_TEMPFAIL) for process in processes)
    assert "evaluation at step 4: left out at SIGTERM" in first
    assert "SIGTERM at step 4: saved" in first
    assert "gone" not in second  # it has not lost the first one, but heard from it
