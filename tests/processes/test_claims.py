"""Claims among processes: one taker each, dead ones' work free again, nothing taken away."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading

import pytest

from dmphn_jax.errors import UserError
from dmphn_jax.processes import claims
from dmphn_jax.processes.claims import Claims

DYING = """
import os, sys, signal
from pathlib import Path
from dmphn_jax.processes.claims import Claims
held = Claims(Path(sys.argv[1]), "process 1 of 2")
assert held.take("a")
held.finish("a")
assert held.take("b")
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "shared"


def another(folder, monkeypatch, machine="elsewhere", **options):
    """A process of another machine."""
    with monkeypatch.context() as patch:
        patch.setattr(claims, "_machine", lambda: machine)
        return Claims(folder, f"process at {machine}", **options)


def aged(folder, process, seconds):
    """Lets a process have been silent for so long."""
    path = folder / "processes" / process._id
    then = path.stat().st_mtime - seconds
    os.utime(path, (then, then))


def test_of_many_that_want_it_one_takes_it(folder):
    processes = [Claims(folder, f"{i}") for i in range(4)]
    taken = [[] for _ in processes]
    start = threading.Barrier(4)

    def run(i):
        start.wait()
        for work in range(100):
            if processes[i].take(f"{work}"):
                taken[i].append(work)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(work for of in taken for work in of) == list(range(100))
    for process in processes:
        process.close()


def test_what_is_held_and_what_is_finished_is_told(folder):
    with Claims(folder, "first") as first, Claims(folder, "second") as second:
        assert second.look("a") is None
        assert first.take("a")
        assert second.look("a").holder.startswith("first (pid ")
        assert not second.take("a")
        first.finish("a")
        assert second.look("a").finished
        assert first.take("b")
        first.finish("b", "b.png: damaged")
        assert second.look("b").failure == "b.png: damaged"
        assert not second.take("b")
        assert first.done() == 2
        assert second.done() == 0  # it hears of it at the next beat
        first._beat()
        assert second.done() == 2


def test_what_a_process_leaves_when_it_ends_is_free(folder):
    with Claims(folder, "second") as second:
        with Claims(folder, "first") as first:
            first.take("a")
        assert second.take("a")
        assert second.look("a").holder.startswith("second")


def test_the_work_of_a_process_that_was_killed_is_free_at_once(folder):
    with Claims(folder, "second") as second:
        subprocess.run([sys.executable, "-c", DYING, folder], check=False)
        assert second.look("a").finished
        assert second.look("b") is None
        assert second.take("b")
        assert second.alone()


def test_a_silent_process_elsewhere_counts_as_dead_after_the_stated_time(folder, monkeypatch):
    far = another(folder, monkeypatch)
    with Claims(folder, "here") as here:
        far.take("a")
        aged(folder, far, claims.SILENCE - 10)
        assert here.look("a")
        assert not here.alone()
        aged(folder, far, 20)
        assert here.look("a") is None
        assert here.alone()
        assert here.take("a")
        far._beat()  # it was only slow, and goes on: nothing is taken from the one here
        assert here.look("a").holder.startswith("here")
    far.close()


def test_a_process_number_that_was_given_again_is_not_its_old_owner(folder):
    with Claims(folder, "second") as second:
        first = Claims(folder, "first")
        first.take("a")
        path = folder / "processes" / first._id
        path.write_text(json.dumps(json.loads(path.read_text()) | {"born": "1"}))
        assert second.look("a") is None
        first.close()


def test_what_an_earlier_run_finished_may_be_taken_again(folder):
    with Claims(folder, "earlier") as earlier:
        earlier.take("a")
        earlier.finish("a", "a.png: failed")
        path = next(folder.glob("*.0"))
        os.utime(path, (path.stat().st_mtime - 1,) * 2)
    with Claims(folder, "later") as later:
        assert later.done() == 0
        assert later.look("a") is None
        assert later.take("a")


def test_a_claim_that_was_not_written_whole_holds_for_the_stated_time(folder):
    with Claims(folder, "here") as here:
        here.take("a")
        path = next(folder.glob("*.0"))
        path.write_text("")
        assert not here.take("a")
        os.utime(path, (path.stat().st_mtime - claims.SILENCE - 1,) * 2)
        assert here.take("a")


def test_the_last_one_clears_the_folder_away(folder):
    first, second = Claims(folder, "first"), Claims(folder, "second")
    first.take("a")
    first.finish("a")
    assert not first.clear()
    first.close()
    assert second.clear()
    second.close()
    assert not folder.exists()


def test_of_two_that_end_at_once_one_clears(folder):
    first, second = Claims(folder, "process 0 of 2"), Claims(folder, "process 1 of 2")
    assert not first.clear()
    assert second.clear()
    for each in (first, second):
        each.close()
    assert not folder.exists()


def test_one_that_enters_while_another_clears_goes_on(folder):
    first = Claims(folder, "first")
    assert first.clear()
    with Claims(folder, "second") as second:
        first.close()
        assert second.take("a")
    with Claims(folder, "late") as late:
        shutil.rmtree(folder)  # as when another cleared at the very moment it entered
        assert late.take("a")
        assert not late.take("a")


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file/shared: cannot be written"):
        Claims(tmp_path / "file" / "shared", "first")
