"""Two neighbours of a stream at once, in order: the next item is fetched while one is used, or one is worked on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def fetched_ahead(items: Iterator[_Item]) -> Iterator[_Item]:
    """The same items. The iterator is asked on a thread of its own, once at a time; an item must not be None."""
    with ThreadPoolExecutor(1, thread_name_prefix="fetch-ahead") as pool:
        coming = pool.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = pool.submit(next, items, None)
            yield item


def worked_on_meanwhile(items: Iterator[_Item], work: Callable[[_Item], _Result]) -> Iterator[_Result]:
    """The result of ``work`` for each item, made on a thread of its own while the caller's thread gets the next item.

    For items that only the caller's thread may fetch, as it is the one that is interrupted. An error of ``work`` is
    raised once the next item is there.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="work-meanwhile") as pool:
        working: Future[_Result] | None = None
        for item in items:
            worked, working = working, pool.submit(work, item)
            if worked is not None:
                yield worked.result()
        if working is not None:
            yield working.result()
