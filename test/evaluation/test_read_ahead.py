"""Items come in order, errors where they happened, and the thread does not outlive the iterator."""

import threading
import time

import pytest

from anyseg_ros.evaluation.read_ahead import read_ahead


@pytest.fixture(autouse=True)
def no_thread_is_left():
    before = set(threading.enumerate())
    yield
    left = [t for t in set(threading.enumerate()) - before if t.name == "read-ahead"]
    assert not left


def test_all_items_in_order_and_no_thread_left():
    assert list(read_ahead(range(1000), 3)) == list(range(1000))
    assert list(read_ahead([None, None], 1)) == [None, None]


def test_an_error_comes_after_what_came_before_it():
    def broken():
        yield 1
        yield 2
        raise OSError("gone")

    got = []
    with pytest.raises(OSError, match="gone"):
        got.extend(read_ahead(broken(), 10))
    assert got == [1, 2]


def test_it_runs_ahead_but_no_further_than_asked_and_stops_when_left():
    taken = []

    def items():
        for item in range(100):
            taken.append(item)
            yield item

    ahead = read_ahead(items(), 5)
    assert next(ahead) == 0
    deadline = time.monotonic() + 10
    while len(taken) < 7 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.15)
    assert len(taken) == 7, "one given out, five wait, one is held by the thread"
    ahead.close()
