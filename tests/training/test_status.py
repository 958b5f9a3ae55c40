"""`status.json` and `dmphn status`: a run's state for monitors."""

from __future__ import annotations

import fcntl
import json
import os
import re
import socket
import time

import jax
import pytest

from dmphn_jax.commands import status as command
from dmphn_jax.errors import UserError
from dmphn_jax.runtime import data_mesh
from dmphn_jax.training import status
from dmphn_jax.training.loop import train
from dmphn_jax.training.metrics_reader import DivergedError
from tests.support.commands import help_without
from tests.support.training import ArrayFeed, tiny_config

pytestmark = pytest.mark.usefixtures("compiled_once")


def feed(config, **options):
    return ArrayFeed(config, data_mesh(jax.devices()[:1]), **options)


def test_a_run_tells_where_it_stands_and_that_it_has_ended(tmp_path, capsys):
    config = tiny_config()
    seen = []
    look = lambda step: seen.append(status.read(tmp_path))  # noqa: E731
    train(config, tmp_path, feed=feed(config, on_step=look))
    assert (seen[0]["state"], seen[0]["step"], seen[0]["checkpoint"]) == ("training", 0, None)
    assert all(fields["health"] == "ok" for fields in seen)
    assert {fields["process"] for fields in seen} == {os.getpid()}
    fields = status.read(tmp_path)
    assert (fields["state"], fields["step"], fields["num_steps"]) == ("finished", 8, 8)
    assert fields["checkpoint"].endswith("checkpoints/8")
    capsys.readouterr()
    assert command.main([str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "finished: step 8 of 8 (100.0%)" in said
    assert said.endswith("health: ok\n")
    assert command.main([str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["health"] == "ok"


def test_a_run_that_fails_tells_why(tmp_path, capsys):
    config = tiny_config()
    with pytest.raises(DivergedError):
        train(config, tmp_path, feed=feed(config, poison=5))
    fields = status.read(tmp_path)
    assert fields["state"] == "failed"
    assert "NaN or infinite at step 6" in fields["health"]
    assert command.main([str(tmp_path)]) == 1


@pytest.mark.parametrize(
    ("changes", "locked", "health"),
    [
        ({}, True, "ok"),
        ({}, False, "killed"),
        ({"host": "elsewhere"}, False, "ok"),  # its lock may not be seen from here
        ({"updated": -700}, True, "no word for 1[12] minutes"),
        ({"updated": -700, "report_seconds": 300}, True, "ok"),
        ({"state": "stopped", "updated": -1e9}, False, "ok"),
    ],
)
def test_health_is_the_lock_and_the_time_since_the_last_word(tmp_path, changes, locked, health):
    fields = {
        **{"state": "training", "host": socket.gethostname(), "updated": 0},
        **{"report_seconds": None, **changes},
    }
    fields["updated"] += time.time()
    (tmp_path / "status.json").write_text(json.dumps(fields))
    with (tmp_path / "lock").open("w") as lock:
        if locked:
            fcntl.flock(lock, fcntl.LOCK_EX)
        found = status.read(tmp_path)["health"]
    assert re.match(health, found)


@pytest.mark.parametrize("content", ["{", "[]", "{}"])
def test_a_file_that_is_none_is_one_line(tmp_path, content):
    (tmp_path / "status.json").write_text(content)
    with pytest.raises(UserError, match=r"status.json: cannot be read"):
        status.read(tmp_path)


def test_no_run_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"status.json: no such file; is .* the folder of a run"):
        command.main([str(tmp_path)])


def test_a_disk_that_refuses_the_file_does_not_stop_the_run(tmp_path):
    (tmp_path / "status.json").mkdir()
    status.RunStatus(tmp_path, step=0).update(step=1)


def test_help_comes_without_jax():
    assert "WORKDIR" in help_without("status", "jax", "numpy")
