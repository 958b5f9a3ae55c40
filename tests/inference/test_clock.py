"""The clock counts the time in which something was going on once, however many things were."""

import pytest

from dmphn_jax.inference import clock
from dmphn_jax.inference.clock import Clock, Span


@pytest.fixture
def at(monkeypatch):
    """Sets the time."""

    def set_time(seconds):
        monkeypatch.setattr(clock.time, "perf_counter", lambda: seconds)

    return set_time


def test_what_overlaps_counts_once(at):
    work = Span()
    decode, encode = Span(work), Span(work)
    for time, what in (
        (10, decode.begin),
        (11, decode.begin),
        (12, decode.end),
        (13, encode.begin),
        (15, decode.end),
        (16, encode.end),
        (20, encode.begin),
        (21, encode.end),
    ):
        at(time)
        what()
    assert (decode.seconds, encode.seconds, work.seconds) == (5, 4, 7)


def test_what_has_not_ended_counts_up_to_now(at):
    span = Span()
    at(1)
    span.begin()
    at(4)
    assert span.seconds == 3


def test_an_image_is_computed_from_its_submission_to_its_result(at):
    mine = Clock()

    class Computing:
        def result(self):
            at(9)
            return "result"

    def submit(images):
        at(3)
        return Computing()

    at(1)
    pending = mine.measured(submit)("images")
    at(5)
    assert pending.result() == "result"
    at(100)
    assert (mine.submit.seconds, mine.compute.seconds) == (2, 6)


def test_a_computation_that_fails_has_ended(at):
    mine = Clock()

    class Computing:
        def result(self):
            raise ValueError

    at(0)
    pending = mine.measured(lambda images: Computing())("images")
    at(2)
    with pytest.raises(ValueError):
        pending.result()
    at(100)
    assert mine.compute.seconds == 2
