"""The next item is fetched on another thread while one is used; errors and an early end reach the iterator."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from assets.fetch_ahead import fetched_ahead, worked_on_meanwhile


def test_one_item_is_fetched_on_another_thread_while_one_is_used() -> None:
    fetched, threads = threading.Semaphore(0), set()

    def numbers() -> Iterator[int]:
        for number in range(4):
            threads.add(threading.get_ident())
            fetched.release()
            yield number

    items = fetched_ahead(numbers())
    assert next(items) == 0
    assert fetched.acquire(timeout=10) and fetched.acquire(timeout=10), "the second one comes without being asked for"
    assert not fetched.acquire(timeout=0.05), "and no third one"
    assert list(items) == [1, 2, 3]
    assert threading.get_ident() not in threads


def test_an_error_comes_where_the_item_would_have_come() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise OSError("no more")

    items = fetched_ahead(broken())
    assert next(items) == 1
    with pytest.raises(OSError, match="no more"):
        next(items)


def test_whoever_stops_early_waits_for_the_one_that_is_being_fetched() -> None:
    running: list[bool] = []

    def numbers() -> Iterator[int]:
        for number in range(100):
            running.append(True)
            yield number
            running.append(False)

    items = fetched_ahead(numbers())
    next(items)
    items.close()  # type: ignore[attr-defined]
    seen = list(running)
    assert len(seen) <= 4 and seen == running


def test_work_is_done_on_another_thread_while_the_next_item_is_fetched_and_in_order() -> None:
    fetched, second = threading.get_ident(), threading.Event()

    def items() -> Iterator[int]:
        for number in range(4):
            assert threading.get_ident() == fetched
            if number == 1:
                second.set()
            yield number

    def work(number: int) -> int:
        assert threading.get_ident() != fetched
        assert second.wait(20)  # the first one's work ends only once the second one was fetched
        return 10 * number

    assert list(worked_on_meanwhile(items(), work)) == [0, 10, 20, 30]
    assert list(worked_on_meanwhile(iter(()), work)) == []


def test_an_error_of_the_work_is_raised_and_ends_the_results() -> None:
    results = worked_on_meanwhile(iter([1, 0, 2]), lambda number: 2 // number)
    assert next(results) == 2
    with pytest.raises(ZeroDivisionError):
        next(results)
