"""Which conditions of a row filter go to Snowflake: of exact numbers, booleans, dates and times, and equality of text.

Floats are left out: NaN is greater than all numbers there. So is the order of text, which follows a column's collation.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from assets.row_filter import RowFilter
from assets.sources.server_filter import ServerWords, number, plain_moment
from assets.sources.snowflake_names import exact, literal, quoted
from assets.sources.snowflake_snapshot import bound

if TYPE_CHECKING:
    from sqlglot import exp

    from assets.sync import Column


class SnowflakeWords(ServerWords):
    def name(self, column: Column) -> str:
        return quoted(exact(column.name))

    def tells_null(self, column: Column) -> bool:
        return column.source_type.startswith(("NUMBER", "VARCHAR", "BOOLEAN"))  # others may hold what fits no type

    def equality_only(self, column: Column) -> bool:
        return column.source_type.startswith("VARCHAR")

    def bound(self, node: exp.Expr, column: Column) -> str | None:
        value, kind = RowFilter.value_of(node), column.arrow_type
        if column.source_type.startswith("BOOLEAN"):
            return str(value).upper() if isinstance(value, bool) else None
        if isinstance(value, bool):
            return None
        if column.source_type.startswith("NUMBER"):
            found = number(value)
            return None if found is None else f"{found:f}" if isinstance(found, Decimal) else str(found)
        if column.source_type.startswith("VARCHAR"):
            return literal(str(value))  # a number compared with text is compared as text by the filter
        if not kind.startswith(("date", "timestamp")):
            return None
        moment = plain_moment(value)
        if moment is None:
            return None
        if kind.startswith("date"):
            return bound(kind, moment[:10]) if moment.endswith("00:00:00.000000") else None
        return bound(kind, moment)
