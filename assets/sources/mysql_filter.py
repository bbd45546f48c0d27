"""Which conditions of a row filter go to a MySQL server: of exact numbers, and of dates and times. Values are bound."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from assets.row_filter import RowFilter
from assets.sources.mysql_connection import quoted
from assets.sources.server_filter import ServerWords, number, plain_moment

if TYPE_CHECKING:
    from sqlglot import exp

    from assets.sync import Column

_NUMBER = re.compile(r"(?:(?:tiny|small|medium|big)?int|decimal)\b", re.IGNORECASE)
_TIME = re.compile(r"(?:date|datetime|timestamp)\b", re.IGNORECASE)


class MysqlWords(ServerWords):
    """Args: literal: the driver's binding of a value (``Connection.literal``)."""

    def __init__(self, literal: Callable[[Any], str]) -> None:
        self._literal = literal

    def name(self, column: Column) -> str:
        return quoted(column.name)

    def tells_null(self, column: Column) -> bool:
        return _exact(column) and bool(_NUMBER.match(column.source_type))  # a zero date is NULL for the filter

    def bound(self, node: exp.Expr, column: Column) -> str | None:
        value = RowFilter.value_of(node)
        if not _exact(column):
            return None
        if _NUMBER.match(column.source_type):
            found = number(value)
            return None if found is None else self._literal(found)
        moment = plain_moment(value) if _TIME.match(column.source_type) else None
        if moment is None:
            return None
        day = column.arrow_type.startswith("date") and len(str(value)) <= 10
        return self._literal(str(value) if day else moment)


def _exact(column: Column) -> bool:
    return column.rule == "typed" and column.arrow_type != "string"
