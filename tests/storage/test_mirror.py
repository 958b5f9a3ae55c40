"""A run's logs on their way to a store: how often, how much."""

from __future__ import annotations

import os
import types

import pytest

from dmphn_jax.storage import Address, mirror


class Sent:
    """A store that only notes names and sizes of what it is sent."""

    def __init__(self, address, seconds):
        self.files = []

    def upload(self, name, file):
        self.files.append((name, file.stat().st_size))


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test turns, `clock.now`; looks are the test's own."""
    monkeypatch.setattr(mirror, "Store", Sent)
    monkeypatch.setattr(mirror, "INTERVAL", 1e6)
    found = types.SimpleNamespace(now=0.0)
    monkeypatch.setattr(mirror, "time", types.SimpleNamespace(monotonic=lambda: found.now))
    return found


@pytest.fixture
def mirrored(tmp_path, clock):
    found = mirror.Mirror(tmp_path, Address("b"), leave_out=(), own=lambda: None)
    yield found
    found.close()


def grow(file, size):
    with file.open("ab") as stream:
        stream.truncate(size)
    os.utime(file, (size, size))


def test_a_file_that_grows_for_ever_takes_its_pace_and_no_more(tmp_path, mirrored, clock):
    looks, step = 1000, 100_000
    for i in range(1, looks + 1):
        clock.now += 30.0
        grow(tmp_path / "events", i * step)
        mirrored.send()
    sizes = [size for _, size in mirrored._store.files]
    largest = looks * step
    # A whole file at every look would be 50 GB.
    assert largest / 2 < sum(sizes) <= mirror.PACE * clock.now + largest
    # What is left waits for the end only.
    mirrored.flush()
    assert mirrored._store.files[-1] == ("events", largest)


def test_a_small_file_goes_at_every_look_and_an_unchanged_one_once(tmp_path, mirrored, clock):
    grow(tmp_path / "ended", 900_000)
    for size in range(1000, 6000, 1000):
        clock.now += 30.0
        grow(tmp_path / "metrics.csv", size)
        mirrored.send()
    names = [name for name, _ in mirrored._store.files]
    assert names == ["ended", *["metrics.csv"] * 5]
