"""The next item of an iterator, fetched while one is used."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_Item = TypeVar("_Item")


def fetched_ahead(items: Iterator[_Item]) -> Iterator[_Item]:
    """The same items. The iterator is asked on a thread of its own, once at a time; an item must not be None."""
    with ThreadPoolExecutor(1, thread_name_prefix="fetch-ahead") as pool:
        coming = pool.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = pool.submit(next, items, None)
            yield item
