"""The part of a row filter that the server can apply for us without changing what passes.

The filter itself is applied to what was read, by the stored values (``assets.row_filter``): collations, zero dates and
floats compare otherwise at the server. So only conditions are sent that let every row pass which the filter lets pass:
of exact numbers, and of dates and times compared with dates and times. The values are bound by the driver.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from assets.row_filter import RowFilter
from assets.sources.mysql_connection import quoted

if TYPE_CHECKING:
    from sqlglot import exp

    from assets.sync import Column

_NUMBER = re.compile(r"(?:(?:tiny|small|medium|big)?int|decimal)\b", re.IGNORECASE)
_TIME = re.compile(r"(?:date|datetime|timestamp)\b", re.IGNORECASE)


def server_condition(text: str, columns: Sequence[Column], literal: Callable[[Any], str]) -> str:
    """SQL that passes at least the rows that the filter passes; ``true`` where there is nothing to send.

    Args:
        text: ``SourceTable.row_filter``.
        literal: the driver's binding of a value (``Connection.literal``).
    """
    kinds = {c.name: c for c in columns}
    sent = [sql for part in RowFilter.parse(text).parts() if (sql := _sent(part, kinds, literal))]
    return " AND ".join(sent) or "true"


def _sent(node: exp.Expr, columns: dict[str, Column], literal: Callable[[Any], str]) -> str | None:
    """The condition in MySQL's words; None where the server may judge it otherwise."""
    from sqlglot import exp

    if isinstance(node, exp.And | exp.Or):
        sides = [_sent(side, columns, literal) for side in node.flatten()]
        if any(side is None for side in sides):
            return None
        return f"({(' AND ' if isinstance(node, exp.And) else ' OR ').join(filter(None, sides))})"
    if isinstance(node, exp.Paren | exp.Not):
        inner = _sent(node.this, columns, literal)
        return inner and f"({'NOT ' if isinstance(node, exp.Not) else ''}{inner})"
    column = columns.get(node.this.name)
    if column is None or column.rule != "typed" or column.arrow_type == "string":
        return None
    name = quoted(column.name)
    if isinstance(node, exp.Is):
        return f"({name} IS NULL)" if _NUMBER.match(column.source_type) else None  # a zero date is NULL for the filter
    operators = {exp.EQ: "=", exp.NEQ: "<>", exp.LT: "<", exp.LTE: "<=", exp.GT: ">", exp.GTE: ">="}
    if isinstance(node, exp.Between):
        bounds = [_bound(node.args[end], column, literal) for end in ("low", "high")]
        return f"({name} BETWEEN {bounds[0]} AND {bounds[1]})" if None not in bounds else None
    if isinstance(node, exp.In):
        items = [_bound(item, column, literal) for item in node.expressions]
        return f"({name} IN ({', '.join(map(str, items))}))" if None not in items else None
    operator = operators.get(type(node))
    value = _bound(node.expression, column, literal) if operator else None
    return f"({name} {operator} {value})" if value is not None else None


def _bound(node: exp.Expr, column: Column, literal: Callable[[Any], str]) -> str | None:
    value = RowFilter.value_of(node)
    if isinstance(value, bool):
        return None
    if _NUMBER.match(column.source_type):
        return None if isinstance(value, str) else literal(value)
    if not _TIME.match(column.source_type) or not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return None
    if moment.tzinfo is not None:
        return None
    if column.arrow_type.startswith("date") and len(value) <= 10:
        return literal(value)
    return literal(f"{moment:%Y-%m-%d %H:%M:%S.%f}" if moment.year >= 1000 else value)
