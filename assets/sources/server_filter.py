"""The part of a row filter that a database server can apply for us without changing what passes.

The filter itself is applied to what was read, by the stored values (``assets.row_filter``): collations, zero dates and
floats compare otherwise at a server. So only conditions are sent that let every row pass which the filter lets pass.
A value that fits no column type is NULL for the filter; by three-valued logic a condition that is true with a NULL is
true with every value in its place, so it does no harm that the server sees the value.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from assets.row_filter import RowFilter

if TYPE_CHECKING:
    from sqlglot import exp

    from assets.sync import Column


class ServerWords(ABC):
    """How one kind of server writes conditions, and which of them it judges as the filter does."""

    @abstractmethod
    def name(self, column: Column) -> str:
        """The column as an identifier."""

    @abstractmethod
    def bound(self, node: exp.Expr, column: Column) -> str | None:
        """A literal as SQL, its value bound; None where the server may compare the column with it otherwise."""

    @abstractmethod
    def tells_null(self, column: Column) -> bool:
        """Whether NULL at the server and NULL in the stored table are the same."""

    def equality_only(self, column: Column) -> bool:
        """Whether the server may find more values equal than the filter does, as a collation does."""
        return False


def server_condition(text: str, columns: Sequence[Column], words: ServerWords) -> str | None:
    """SQL that passes at least the rows that the filter passes; None where there is nothing to send.

    Args:
        text: ``SourceTable.row_filter``.
    """
    sent, _ = _conditions(text, columns, words)
    return " AND ".join(sent) or None


def whole_condition(text: str, columns: Sequence[Column], words: ServerWords) -> str | None:
    """The same where all of the filter can be sent, else None."""
    sent, whole = _conditions(text, columns, words)
    return " AND ".join(sent) if whole else None


def _conditions(text: str, columns: Sequence[Column], words: ServerWords) -> tuple[list[str], bool]:
    kinds = {c.name: c for c in columns}
    parts = [_sent(part, kinds, words, False) for part in RowFilter.parse(text).parts()]
    return [part for part in parts if part], all(parts)


def _sent(node: exp.Expr, columns: dict[str, Column], words: ServerWords, negated: bool) -> str | None:
    """The condition in the server's words; None where the server may judge it otherwise."""
    from sqlglot import exp

    if isinstance(node, exp.And | exp.Or):
        sides = [_sent(side, columns, words, negated) for side in node.flatten()]
        if any(side is None for side in sides):
            return None
        return f"({(' AND ' if isinstance(node, exp.And) else ' OR ').join(filter(None, sides))})"
    if isinstance(node, exp.Paren | exp.Not):
        inner = _sent(node.this, columns, words, negated ^ isinstance(node, exp.Not))
        return inner and f"({'NOT ' if isinstance(node, exp.Not) else ''}{inner})"
    column = columns.get(node.this.name)
    if column is None:
        return None
    name = words.name(column)
    if isinstance(node, exp.Is):
        return f"({name} IS NULL)" if words.tells_null(column) else None
    if words.equality_only(column) and (negated or not isinstance(node, exp.EQ | exp.In)):
        return None
    operators = {exp.EQ: "=", exp.NEQ: "<>", exp.LT: "<", exp.LTE: "<=", exp.GT: ">", exp.GTE: ">="}
    if isinstance(node, exp.Between):
        bounds = [words.bound(node.args[end], column) for end in ("low", "high")]
        return f"({name} BETWEEN {bounds[0]} AND {bounds[1]})" if None not in bounds else None
    if isinstance(node, exp.In):
        items = [words.bound(item, column) for item in node.expressions]
        return f"({name} IN ({', '.join(map(str, items))}))" if None not in items else None
    operator = operators.get(type(node))
    value = words.bound(node.expression, column) if operator else None
    return f"({name} {operator} {value})" if value is not None else None


def number(value: object) -> int | Decimal | None:
    """A number, also one that stands in a text, as the bounds of a backfill do; None where it is none."""
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,38}", value):
        return int(value)
    return value if isinstance(value, int | Decimal) and not isinstance(value, bool) else None


def plain_moment(value: object) -> str | None:
    """A text of a date or time without a zone as ``2024-02-29 10:00:00.000000``; None where it is none."""
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return None
    return None if moment.tzinfo else moment.isoformat(sep=" ", timespec="microseconds")
