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
    row = opened.execute(sql.SQL("EXPLAIN (FORMAT JSON) {}").format(asked)).fetchone()
    found = (row[0] if isinstance(row[0], list) else json.loads(row[0]))[0]["Plan"] if row else {}
    rows = int(found.get("Plan Rows", 0))
    return ReadEstimate(
        rows=rows,
        bytes=rows * int(found.get("Plan Width", 0)),
        statements=tuple(query.as_string(opened) for query in (read, *more)),
        detail="EXPLAIN",
    )
