"""`status.json` and `dmphn status`: a run's state for monitors."""

from __future__ import annotations

import fcntl
import json
import os
import re
import socket
import time
from pathlib import Path

import jax
import pytest

from dmphn_jax import chips
from dmphn_jax.commands import status as command
from dmphn_jax.errors import UserError
from dmphn_jax.models import ModelConfig
from dmphn_jax.models.config import multiply_adds
from dmphn_jax.runtime import data_mesh
from dmphn_jax.training import prepare, speed, status
from dmphn_jax.training.loop import train
from dmphn_jax.training.metrics_reader import DivergedError
from dmphn_jax.training.signals import StopRequest
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
    first, last = seen[0], seen[-1]
    # Until its first report it may still be compiling.
    assert (first["state"], first["step"], first["checkpoint"]) == ("starting", 0, None)
    assert (last["state"], last["num_steps"]) == ("training", 8)
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


def test_a_run_stopped_before_its_first_step_has_no_checkpoint(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(StopRequest, "reached", lambda self: "SIGTERM")
    config = tiny_config()
    train(config, tmp_path, feed=feed(config))
    fields = status.read(tmp_path)
    assert (fields["state"], fields["step"], fields["checkpoint"]) == ("stopped", 0, None)
    assert "None" not in capsys.readouterr().out


def test_a_run_tells_that_it_prepares_from_the_moment_it_has_its_folder(tmp_path, monkeypatch):
    """Copying a set of data may take an hour; what fails in it is told too."""
    seen = []

    def unreadable(*_, **__):
        seen.append(status.read(tmp_path))
        assert "starting: step 4\n" in command.text(seen[0])
        raise UserError("data/gopro: no such folder")

    config = tiny_config(num_steps=4)
    train(config, tmp_path, feed=feed(config))
    monkeypatch.setattr(prepare, "choose_feed", unreadable)
    with pytest.raises(UserError, match="no such folder"):
        train(tiny_config(), tmp_path)
    (fields,) = seen
    assert (fields["state"], fields["step"], fields["health"]) == ("starting", 4, "ok")
    failed = json.loads((tmp_path / "status.json").read_text())
    assert failed["health"] == "failed: data/gopro: no such folder"


def test_a_run_that_is_refused_leaves_the_word_of_the_one_before(tmp_path):
    config = tiny_config()
    train(config, tmp_path, feed=feed(config))
    before = (tmp_path / "status.json").read_text()
    with pytest.raises(UserError, match="now 3"):
        train(tiny_config(model__width=3), tmp_path, feed=feed(config))
    assert (tmp_path / "status.json").read_text() == before


def test_a_mistake_in_a_first_start_leaves_nothing_but_of_the_first_process_only(tmp_path):
    first, second = (
        status.RunStatus(tmp_path, on=on, fresh=True, step=0, num_steps=None)
        for on in (True, False)
    )
    for run, left in ((second, ["status.json"]), (first, [])):
        with pytest.raises(UserError), run.failing():
            raise UserError("no data")
        assert [path.name for path in tmp_path.iterdir()] == left


def test_the_file_alone_tells_a_monitor_its_health_and_when_silence_is_none(tmp_path, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(status.time, "time", lambda: now[0])

    def written():
        fields = json.loads((tmp_path / "status.json").read_text())
        return fields["health"], fields["stale_at"]

    run = status.RunStatus(tmp_path, step=0, num_steps=9)
    assert written() == ("ok", 1000 + 3600)
    for apart, patience in ((10, 600), (300, 1500)):  # five reports, ten minutes at least
        now[0] += apart
        run.report(step=1)
        assert written() == ("ok", now[0] + patience)
    with pytest.raises(OSError, match="full"), run.failing():
        raise OSError("disk full")
    assert written() == ("failed: disk full", None)
    run.update(state="finished", health="ok")
    assert written() == ("ok", None)


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
        ({"updated": -700, "stale_at": -100}, True, "no word for 1[12] minutes"),
        ({"updated": -700, "stale_at": 800}, True, "ok"),
        ({"state": "starting"}, True, "ok"),
        ({"state": "starting"}, False, "killed"),
        ({"state": "starting", "updated": -3700, "stale_at": -100}, True, "no word for 6[12] "),
        ({"state": "stopped", "updated": -1e9, "stale_at": None}, False, "ok"),
    ],
)
def test_health_is_the_lock_and_the_time_since_the_last_word(tmp_path, changes, locked, health):
    fields = {
        **{"state": "training", "host": socket.gethostname(), "health": "ok"},
        **{"process": 1, "step": 2, "num_steps": 8, "updated": 0, "stale_at": 600, **changes},
    }
    for name in ("updated", "stale_at"):
        fields[name] = None if fields[name] is None else fields[name] + time.time()
    (tmp_path / "status.json").write_text(json.dumps(fields))
    with (tmp_path / "lock").open("w") as lock:
        if locked:
            fcntl.flock(lock, fcntl.LOCK_EX)
        found = status.read(tmp_path)["health"]
    assert re.match(health, found)


@pytest.mark.parametrize(
    "content", ["{", "[]", "{}", '{"state": "finished", "health": "ok", "process": 1}']
)
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


def test_the_page_shows_what_the_command_prints(monkeypatch):
    """The numbers are made up, but they belong together: those of one H100."""
    page = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    shown = re.search(r"^```\n(training: step .*?)\n```", page, re.M | re.S)[1]
    step, num_steps, rate, batch = 12_000, 1_050_000, 41.2, 6
    operations = 6 * multiply_adds(ModelConfig(stages=4), 256, 256)
    by_chip = speed.Yardstick(1, operations, chips.CHIPS["h100"].peak["bfloat16"]).measured(rate)
    fields = {
        **{"state": "training", "step": step, "num_steps": num_steps, "loss": 0.00231},
        **{"psnr": 27.84, "images_per_second": rate, **by_chip, "updated": 1000.0},
        "seconds_left": (num_steps - step) * batch / rate,
        "checkpoint": "/home/me/dmphn_jax/runs/stack4/checkpoints/12000",
        **{"process": 4711, "host": "gpu1", "devices": "1 x gpu of 1 processes", "health": "ok"},
    }
    monkeypatch.setattr(command.time, "time", lambda: 1141.0)
    assert shown == command.text(fields)


def test_help_comes_without_jax():
    assert "WORKDIR" in help_without("status", "jax", "numpy")
