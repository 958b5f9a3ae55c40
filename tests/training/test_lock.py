"""A work folder belongs to one run at a time."""

from __future__ import annotations

import errno
import fcntl
import subprocess
import sys
import threading

import pytest

from dmphn_jax.errors import UserError
from dmphn_jax.runtime import data_mesh
from dmphn_jax.training.lock import Lock
from dmphn_jax.training.loop import train
from tests.support.training import ArrayFeed, tiny_config


def holder(workdir) -> subprocess.Popen:
    """A process that has the folder, and says so by its first line."""
    code = (
        "import sys, pathlib; from dmphn_jax.training.lock import Lock;"
        "lock = Lock(pathlib.Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(workdir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    return process


@pytest.mark.usefixtures("compiled_once")
def test_a_second_run_is_refused_before_it_touches_anything(tmp_path):
    config = tiny_config(num_steps=2, checkpoint_every=2)
    process = holder(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    try:
        with pytest.raises(UserError, match=rf"process {process.pid} on .* another --workdir"):
            train(config, tmp_path, feed=ArrayFeed(config, data_mesh()))
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()
    # What the killed one left is in nobody's way.
    assert (tmp_path / "lock").exists()
    assert train(config, tmp_path, feed=ArrayFeed(config, data_mesh())).step == 2


def test_a_monitor_that_looks_for_a_moment_is_in_nobodys_way(tmp_path):
    (tmp_path / "lock").touch()
    with (tmp_path / "lock").open() as look:
        fcntl.flock(look, fcntl.LOCK_SH)
        threading.Timer(0.05, fcntl.flock, (look, fcntl.LOCK_UN)).start()
        Lock(tmp_path).release()


def test_a_folder_in_which_nothing_was_written_goes_with_its_lock(tmp_path):
    Lock(tmp_path / "run").release()
    assert not (tmp_path / "run").exists()
    lock = Lock(tmp_path / "run")
    (tmp_path / "run" / "metrics.csv").touch()
    lock.release()
    assert (tmp_path / "run" / "metrics.csv").exists()


def test_a_file_system_without_locks_is_said_and_not_in_the_way(tmp_path, monkeypatch, capsys):
    def flock(*_):
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", flock)
    Lock(tmp_path / "run").release()
    assert "no locks on this file system" in capsys.readouterr().out


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written: "):
        Lock(tmp_path / "file" / "run")
