"""What a read of a PostgreSQL table would cost, by the planner: nothing is executed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from assets.sync import WindowPlan
from assets.sync_plan import ReadEstimate

if TYPE_CHECKING:
    import psycopg
    from psycopg import sql


def window_estimate(
    opened: psycopg.Connection[Any],
    plan: WindowPlan,
    read: sql.Composed,
    relation: sql.Composable,
    wanted: sql.Composable,
    more: Sequence[sql.Composed],
) -> ReadEstimate:
    """The planner's rows and width of the window.

    Where a cursor is compared, the condition on row versions is left out: the planner knows the cursor's values, and
    guesses at row versions. Rows of the bound's own value count as seen.

    Args:
        read: the query as it would run.
        wanted: the row filter.
        more: further queries that would run.
    """
    from psycopg import sql

    asked: sql.Composed = read
    incremental = plan.mode == "incremental" and plan.previous is not None
    if incremental and plan.previous and plan.previous.value is not None and plan.previous.cursor:
        cursor, low = sql.Identifier(plan.previous.cursor), sql.Literal(plan.previous.value)
        columns = sql.SQL(", ").join(sql.Identifier(c.name) for c in plan.table.columns)
        asked = sql.SQL("SELECT {} FROM {} WHERE {} AND {} > {}").format(columns, relation, wanted, cursor, low)
    found = _planned(opened, asked)
    return ReadEstimate(
        rows=int(found.get("Plan Rows", 0)),
        bytes=_bytes(found),
        statements=tuple(query.as_string(opened) for query in (read, *more)),
        detail="EXPLAIN",
    )


def indexed_bytes(opened: psycopg.Connection[Any], query: sql.Composed) -> int | None:
    """About the bytes of a query's rows where the planner finds them by an index; None where it reads a table whole."""
    found = _planned(opened, query)
    nodes = [found]
    for node in nodes:
        nodes += node.get("Plans", [])
    return None if any("Seq Scan" in str(node.get("Node Type")) for node in nodes) else _bytes(found)


def _planned(opened: psycopg.Connection[Any], query: sql.Composed) -> dict[str, Any]:
    from psycopg import sql

    row = opened.execute(sql.SQL("EXPLAIN (FORMAT JSON) {}").format(query)).fetchone()
    return (row[0] if isinstance(row[0], list) else json.loads(row[0]))[0]["Plan"] if row else {}


def _bytes(found: dict[str, Any]) -> int:
    return int(found.get("Plan Rows", 0)) * int(found.get("Plan Width", 0))
