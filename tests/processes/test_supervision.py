"""The parent of a process of several: statuses, lines, signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from dmphn_jax.processes import supervision

SERVICE = "E1125 10:53:16.320160   28174 coordination_service_agent.cc:289] Polled an error"
FATAL = "F1125 10:53:16.320428   28174 client.h:80] Terminating process because"
SILENT = "UNAVAILABLE: The following tasks are unhealthy (stopped sending heartbeats):"
LEADER = "UNAVAILABLE: Failed to send RPC to coordination service. Either the leader task"
GLOO = "terminate called after throwing an instance of 'gloo::EnforceNotMet'"


def aborting(*lines: str, signal_number: int = signal.SIGABRT) -> list[str]:
    """A command that says something of its own, then `lines`, and is ended by a signal."""
    code = (
        "import os, sys; print('own words', file=sys.stderr)\n"
        f"print({chr(10).join(lines)!r}, file=sys.stderr, flush=True)\n"
        f"os.kill(os.getpid(), {signal_number})"
    )
    return [sys.executable, "-c", code]


@pytest.fixture(autouse=True)
def _signals():
    before = {number: signal.getsignal(number) for number in supervision._SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([SERVICE, FATAL, SILENT, "2", "The tasks have crashed."], "process 2 is gone"),
        ([FATAL, SILENT, "3,", "1", "The tasks"], "processes 1, 3 are gone"),
        ([SERVICE, FATAL, LEADER, "*** Check failure stack trace: ***"], "process 0 is gone"),
        ([GLOO, "  what():  [enforce fail at pair.cc]"], "another process is gone"),
        ([FATAL, "DEADLINE_EXCEEDED", "RPC: /x/RegisterTask"], "did not find one another"),
    ],
)
def test_a_loss_is_one_line_and_the_status_to_start_again(lines, said, capfd):
    assert supervision.run(aborting(*lines)) == 75
    own, line = capfd.readouterr().err.splitlines()
    assert own == "own words"
    assert line.startswith(f"dmphn: {'the processes of this job ' if 'find' in said else ''}{said}")


def test_an_abort_of_another_kind_keeps_its_text_and_status(capfd):
    assert supervision.run(aborting("Fatal Python error: Aborted")) == 134
    said = capfd.readouterr().err
    assert "Fatal Python error" in said
    assert "SIGABRT ended this process" in said


def test_a_killed_child_is_told(capfd):
    assert supervision.run(aborting("x", signal_number=signal.SIGKILL)) == 137
    assert "SIGKILL ended this process of the run (out of memory?)" in capfd.readouterr().err


@pytest.mark.parametrize("status", [0, 1, 2, 75, 130])
def test_a_status_is_passed_on(status):
    assert supervision.run([sys.executable, "-c", f"raise SystemExit({status})"]) == status


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_reaches_the_child_once_and_its_end_is_waited_for(number, tmp_path):
    ready = tmp_path / "ready"
    child = (
        "import pathlib, signal, sys\n"
        "got = []\n"
        f"signal.signal({int(number)}, lambda n, f: got.append(n))\n"
        f"pathlib.Path({str(ready)!r}).touch()\n"
        "while not got: signal.pause()\n"
        "sys.exit(70 + len(got))"
    )
    code = (
        "import sys; from dmphn_jax.processes import supervision\n"
        f"sys.exit(supervision.run([sys.executable, '-c', {child!r}]))"
    )
    parent = subprocess.Popen([sys.executable, "-c", code])
    while not ready.exists():
        assert parent.poll() is None
        time.sleep(0.01)
    os.kill(parent.pid, number)
    assert parent.wait(timeout=30) == 71


@pytest.mark.skipif(sys.platform != "linux", reason="the system tells only there")
def test_a_child_is_asked_to_stop_when_its_parent_is_killed(tmp_path):
    asked = tmp_path / "asked"
    ready = tmp_path / "ready"
    child = (
        "import pathlib, signal\n"
        "from dmphn_jax.processes import supervision\n"
        f"signal.signal(signal.SIGTERM, lambda n, f: pathlib.Path({str(asked)!r}).touch())\n"
        "assert supervision.supervised()\n"
        f"pathlib.Path({str(ready)!r}).touch()\n"
        "signal.pause()"
    )
    code = (
        "import sys; from dmphn_jax.processes import supervision\n"
        f"sys.exit(supervision.run([sys.executable, '-c', {child!r}]))"
    )
    parent = subprocess.Popen([sys.executable, "-c", code])
    while not ready.exists():
        assert parent.poll() is None
        time.sleep(0.01)
    parent.kill()
    parent.wait()
    limit = time.monotonic() + 30
    while not asked.exists():
        assert time.monotonic() < limit
        time.sleep(0.01)


def test_no_other_process_takes_itself_for_a_child(monkeypatch):
    assert not supervision.supervised()
    monkeypatch.setenv("DMPHN_SUPERVISED_BY", "1234567")
    assert not supervision.supervised()
    assert "DMPHN_SUPERVISED_BY" not in os.environ
