import itertools
import threading

import pytest

from dmphn_jax.threads import map_ahead


def test_results_come_in_order_whichever_is_ready_first():
    second_is_done = threading.Event()

    def slow_first(i):
        if i == 0:
            assert second_is_done.wait(60)
        if i == 1:
            second_is_done.set()
        return -i

    assert list(map_ahead(slow_first, range(5), threads=2, ahead=3)) == [0, -1, -2, -3, -4]


def test_no_more_is_computed_ahead_than_asked_for():
    begun = []

    def count(i):
        begun.append(i)
        return i

    results = map_ahead(count, itertools.count(), threads=4, ahead=3)  # an endless source
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    results.close()
    assert sorted(begun) == list(range(len(begun)))
    assert len(begun) <= 5 + 3


def test_an_exception_comes_in_its_place_and_nothing_begins_after():
    begun = []

    def fail(i):
        begun.append(i)
        if i == 2:
            raise KeyError(i)
        return i

    results = map_ahead(fail, range(100), threads=1, ahead=1)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(KeyError):
        next(results)
    assert len(begun) <= 5
    assert not [t for t in threading.enumerate() if t.name.startswith("map-ahead")]
