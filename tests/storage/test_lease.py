"""A folder in a store belongs to one run at a time, whatever becomes of the run."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from dmphn_jax.errors import UserError
from dmphn_jax.storage import lease
from dmphn_jax.storage.lease import NAME, Lease, Rhythm
from dmphn_jax.storage.store import Store
from tests.support.object_store import wait_for

QUICK = Rhythm(beat=0.02, patience=0.3)


def killed(held: Lease) -> None:
    """Stops renewing a lease, as a kill does, and leaves it."""
    held._ended.set()
    held._thread.join()


def test_a_second_run_is_refused_while_the_first_renews(bucket, tmp_path):
    address = bucket.address / "run"
    first = Lease(address, tmp_path / "a", rhythm=QUICK)
    with pytest.raises(UserError, match=rf"{address}: another run is at work there \(process \d+"):
        Lease(address, tmp_path / "b", rhythm=QUICK)
    first.confirm()
    assert lease.silence(address) < 60
    first.release()
    assert lease.silence(address) is None
    Lease(address, tmp_path / "b", rhythm=QUICK).release()
    assert Store(address).list() == []


def test_of_two_that_begin_at_once_one_gets_it(bucket, tmp_path):
    address, got, refused = bucket.address / "run", [], []

    def begin(number):
        try:
            got.append(Lease(address, tmp_path / str(number), lambda line: None, QUICK))
        except UserError as error:
            refused.append(error)

    threads = [threading.Thread(target=begin, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(got), len(refused)) == (1, 3)
    got[0].confirm()
    got[0].release()


def test_a_killed_runs_lease_is_taken_over_with_a_line(bucket, tmp_path):
    said = []
    killed(Lease(bucket.address / "run", tmp_path / "a", rhythm=QUICK))
    second = Lease(bucket.address / "run", tmp_path / "b", said.append, QUICK)
    assert "had it; waiting" in said[0]
    assert said[-1].endswith("is gone; taken over")
    second.confirm()
    second.release()


def test_a_run_that_ended_on_this_machine_is_not_waited_for(bucket, tmp_path, monkeypatch):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    monkeypatch.setattr(lease.os, "getpid", lambda: ended.pid)
    address, said = bucket.address / "run", []
    killed(Lease(address, tmp_path / "a", rhythm=QUICK))
    monkeypatch.undo()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", bucket.proxy.url)
    killed(Lease(address, tmp_path / "a", rhythm=Rhythm(10, 1e9)))
    # One that is still there is watched, whatever the file says.
    Lease(address, tmp_path / "a", said.append, QUICK).release()
    assert "had it; waiting" in said[0]


@pytest.mark.parametrize("data", [b"", b"[]", b"\xff", b'{"owner": 1}'])
def test_what_is_no_lease_runs_out_like_one(bucket, data, tmp_path):
    Store(bucket.address / "run").write(NAME, data)
    Lease(bucket.address / "run", tmp_path / "a", lambda line: None, QUICK).release()
    assert Store(bucket.address / "run").list() == []


def test_a_run_that_comes_back_finds_it_taken_and_ends(bucket, tmp_path):
    address = bucket.address / "run"
    first = Lease(address, tmp_path / "a", rhythm=QUICK)
    killed(first)  # stopped, say, by SIGSTOP
    second = Lease(address, tmp_path / "b", lambda line: None, QUICK)
    with pytest.raises(UserError, match=r"another run has taken it over \(process \d+ on "):
        first.confirm()
    with pytest.raises(UserError, match="another run has taken it over"):
        first.check()
    first.release()  # leaves the other's
    second.confirm()
    second.release()


def test_a_store_that_fails_for_a_while_costs_no_lease(bucket, tmp_path):
    held = Lease(bucket.address / "run", tmp_path / "a", rhythm=QUICK)
    bucket.proxy.fail(503, times=20, name="lock")
    bucket.proxy.fail("lost", times=3, name="lock")
    wait_for(lambda: all(not fault.times for fault in bucket.proxy.faults))
    held.confirm()
    held.release()
    assert Store(bucket.address / "run").list() == []
