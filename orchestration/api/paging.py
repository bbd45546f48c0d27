"""Pages of lists that are short enough to be read whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from assets.catalog.listing import Page

Item = TypeVar("Item")


def page_of(items: Sequence[Item], limit: int, offset: int) -> Page[Item]:
    return Page(items=tuple(items[offset : offset + limit]), total=len(items), limit=limit, offset=offset)
