"""Made ahead: in order, that far and no further, errors where they are asked for, no thread left."""

import threading
import time

import pytest

from reasonir.core.prefetch import prefetch


def wait_for(condition):
    until = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.005)


@pytest.mark.parametrize("depth", [1, 3])
def test_in_order_and_exactly_so_far_ahead(depth):
    made = []

    def make(item):
        made.append(item)
        return item * item

    results = prefetch(make, range(9), depth)
    for item in range(9):
        assert next(results) == item * item
        last = min(item + depth, 8)
        wait_for(lambda last=last: made == list(range(last + 1)))
        time.sleep(0.02)
        assert made == list(range(last + 1))
    assert list(results) == []


def test_it_is_made_while_the_present_one_is_used():
    release = threading.Event()

    def make(item):
        if item == 1:
            assert release.wait(10)
        return item

    results = prefetch(make, range(3))
    assert next(results) == 0  # while 1 is being made
    release.set()
    assert list(results) == [1, 2]


def test_an_error_is_raised_where_its_result_is_asked_for():
    before = threading.active_count()
    results = prefetch(lambda item: 6 // (3 - item), range(9))
    assert [next(results) for _ in range(3)] == [2, 3, 6]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert threading.active_count() == before


def test_closing_ends_the_thread():
    before = threading.active_count()
    results = prefetch(str, range(1_000), depth=4)
    next(results)
    assert threading.active_count() == before + 1
    results.close()
    assert threading.active_count() == before


def test_what_was_given_is_made_where_the_items_fail():
    made = []

    def items():
        yield 1
        yield 2
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        for _ in prefetch(lambda item: made.append(time.sleep(0.02) or item), items()):
            pass
    assert made == [1, 2]
