"""What a page is asked for in its address: anything may stand there, so what is not known counts as not asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

Choice = TypeVar("Choice", bound=str)
MOST_OFFSET = 1_000_000_000


def words(value: str | None, most: int) -> str | None:
    """Text without spaces around it; None for nothing. Longer text is cut, and NUL is left out."""
    text = (value or "").replace("\x00", "").strip()[:most]
    return text or None


def choice(value: str | None, known: Sequence[Choice]) -> Choice | None:
    return next((one for one in known if one == value), None)


def offset(value: str | None) -> int:
    return min(int(value), MOST_OFFSET) if value and value.isascii() and value.isdecimal() and len(value) < 12 else 0
