"""A form as it was sent: bounded, text only, the last value of each field and all values of those that repeat."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from starlette.requests import Request

MAX_FIELDS = 20_000


class SentForm(Mapping[str, str]):
    """Field -> last value; `all` gives every value of a field."""

    def __init__(self, items: list[tuple[str, str]]) -> None:
        self._items = items
        self._last = dict(items)

    def __getitem__(self, name: str) -> str:
        return self._last[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._last)

    def __len__(self) -> int:
        return len(self._last)

    def all(self, name: str) -> list[str]:
        return list(dict.fromkeys(value for field, value in self._items if field == name))


async def sent_form(request: Request) -> SentForm:
    """Read the request's form.

    Raises:
        HTTPException: it has too many fields, or files (400).
    """
    async with request.form(max_fields=MAX_FIELDS, max_files=0) as form:
        return SentForm([(name, value) for name, value in form.multi_items() if isinstance(value, str)])
